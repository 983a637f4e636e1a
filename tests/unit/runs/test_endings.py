from __future__ import annotations

import pytest

from mlbench.core.ids import ExecutionId, RunId
from mlbench.core.records import Execution, Failure, State
from mlbench.runs.endings import end_output


def ended(state: State, **facts: object) -> Execution:
    return Execution(id=ExecutionId("e"), run=RunId("r"), step="train", state=state, **facts)  # type: ignore[arg-type]


def test_a_failure_is_shown_with_what_to_do_next() -> None:
    failure = Failure(ename="KeyError", evalue="'x'", traceback=("line 1", "KeyError: 'x'"), remedy="Name another key.")
    (shown,) = end_output(ended("failed", failure=failure))
    assert shown["traceback"] == ["line 1", "KeyError: 'x'", "", "Name another key."]
    (shown,) = end_output(ended("failed", failure=failure), "The kernel has x.")
    assert shown["traceback"][-1] == "The kernel has x."


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("skipped", "Step train was not run: Step load failed."),
        ("cancelled", "Step train was cancelled: Step load failed."),
    ],
)
def test_what_did_not_run_to_its_end_says_why(state: State, said: str) -> None:
    (shown,) = end_output(ended(state, note="Step load failed."))
    assert shown == {"output_type": "stream", "name": "stderr", "text": f"{said}\n"}


def test_nothing_is_added_to_a_success_or_to_what_was_run_again() -> None:
    assert end_output(ended("succeeded")) == []
    assert end_output(ended("cancelled", reason="superseded")) == []
