"""Steps that are reused since nothing changed that they depend on, and that run since something did.

Each case changes one thing and sees the step run; what changes nothing that matters sees it reused.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlbench.project import Project

_steps = itertools.count(1)


@pytest.fixture
def step() -> str:
    """Return the name of a step that no other test has."""
    return f"s{next(_steps)}"


class Reuse:
    """Runs one step again and again, and says what became of it each time."""

    def __init__(self, page: Any, place: Any, step: str) -> None:
        self.page = page
        self.step = step
        self.project = Project.open(store=str(place.store))

    def run(self, body: str, options: str = "--cache", *, until: str | None = None) -> str:
        """Run the step; return its state."""
        request = f"{self.step}-{next(_steps)}"
        answer = self.page.run(f"%%step {self.step} {options} --wait\n{body}", self.step)
        assert answer.status == "ok", answer.error
        self.text = answer.text
        if until is not None:
            assert until in answer.text, (request, answer.text)
        return self.record().state

    def record(self) -> Any:
        """Return the step's last execution, with its messages."""
        for run in self.project.catalog.runs(limit=20):
            for one in self.project.catalog.executions(run.id):
                if one.step == self.step and one.note is None:
                    return self.project.catalog.execution(one.id)
        raise AssertionError("the step has never run")


@pytest.fixture
def again(page: Any, place: Any, step: str) -> Reuse:
    return Reuse(page, place, step)


def test_an_unchanged_step_is_reused_and_shows_its_old_output(again: Reuse) -> None:
    assert again.run("rows = [1, 2, 3]\nprint('made')\nmlbench.log(rmse=0.5)") == "succeeded"
    first = again.record()
    assert again.run("rows = [1, 2, 3]\nprint('made')\nmlbench.log(rmse=0.5)", until="made") == "reused"
    assert "mlbench: reused from " in again.text
    record = again.record()
    assert record.reused_from == first.id
    assert record.binds == first.binds
    assert record.metrics == first.metrics
    assert record.messages == first.messages
    assert again.page.value("rows") == "[1, 2, 3]"


def test_comments_and_layout_change_nothing(again: Reuse) -> None:
    assert again.run("x = 1 + 2") == "succeeded"
    assert again.run("# a comment\nx = (1 +\n     2)") == "reused"
    assert again.run("x = 1 + 3") == "succeeded"


def test_it_runs_without_the_option_and_where_the_line_says_so(again: Reuse) -> None:
    assert again.run("x = 1") == "succeeded"
    assert again.run("x = 1", "") == "succeeded"
    assert again.run("x = 1", "--no-cache") == "succeeded"
    assert again.run("x = 1") == "reused"
