"""What the service answers is what somebody asks."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import mlbench
from mlbench.entrypoints.service.server import Service

ASKING = {"request", "ask", "_request", "_ask"}


def _asked() -> Iterator[str]:
    for path in Path(mlbench.__path__[0]).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ASKING:
                yield from (one.value for one in node.args[:1] if isinstance(one, ast.Constant))


def test_each_operation_is_asked_for_by_one_of_our_own_doors_and_each_question_has_an_answer() -> None:
    answered = {name.removeprefix("op_") for name in dir(Service) if name.startswith("op_")}
    assert {"retire", *_asked()} == answered  # an older service is told to retire before there is a client
