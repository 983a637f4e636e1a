"""Why a step was not reused is named by the part that changed."""

from __future__ import annotations

from typing import Any

import pytest

from mlbench.core.records import Execution, FileUse
from mlbench.runs.changes import changes, not_asked

PARTS = {"code": "1", "value trees": "a", "module helpers": "m", "package numpy": "1.0", "folder": "/a", "cell": "x"}


def execution(parts: dict[str, str] | None = None, **more: Any) -> Execution:
    return Execution(id="e", run="r", step="train", state="succeeded", key_parts={**PARTS, **(parts or {})}, **more)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"value trees": "b"}, "value trees changed"),
        ({"module helpers": "n"}, "module helpers changed"),
        ({"package numpy": "2.0"}, "package numpy changed from 1.0 to 2.0"),
        ({"input rows": "d"}, "input rows is new"),
        ({"cell": "y", "folder": "/b", "asked": "line"}, None),
        ({"unknown": "it uses eval"}, "nobody can tell what it depends on: it uses eval"),
    ],
)
def test_parts_are_named(parts: dict[str, str], said: str | None) -> None:
    assert [one.text for one in changes(execution(parts), execution())] == ([said] if said else [])


def test_a_value_that_the_run_was_given_is_a_parameter() -> None:
    (change,) = changes(execution({"value trees": "b"}), execution(), parameters={"trees": 5})
    assert (change.part, change.text) == ("parameter trees", "parameter trees changed")


def test_files_folders_random_numbers_and_the_network_are_named() -> None:
    before = execution(
        files=(
            FileUse(path="/d/a.csv", mode="r", size=1, modified=1),
            FileUse(path="/d", mode="l", size=1, modified=1),
            FileUse(path="/d/same.csv", mode="r", size=1, modified=1),
        ),
        random_start="s",
        network=True,
    )
    now = execution(
        {"asked": "setting"},
        files=(
            FileUse(path="/d/a.csv", mode="r", size=2, modified=2),
            FileUse(path="/d", mode="l", size=2, modified=5),
            FileUse(path="/d/same.csv", mode="r", size=1, modified=1),
        ),
        random_start="t",
    )
    assert [one.text for one in changes(now, before)] == [
        "file a.csv changed",
        "folder d changed",
        "the random numbers that it begins with changed",
    ]
    assert [one.part for one in changes(execution({"asked": "setting"}), execution(network=True))] == ["network"]


@pytest.mark.parametrize(
    ("asked", "said"), [("", "--cache was not asked for"), ("no", "--no-cache stands on its line"), ("line", None)]
)
def test_it_says_that_nobody_asked(asked: str, said: str | None) -> None:
    found = not_asked(execution({"asked": asked}))
    assert (found.text if found else None) == said
