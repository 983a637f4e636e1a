"""The interactive runs of a kernel."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from mlbench.core.ids import ExecutionId, RunId
from mlbench.core.records import Execution, Run
from mlbench.runs.series import Series, last_of_each_step


class Kernel:
    """Runs steps, one after the other, and tells the series."""

    def __init__(self) -> None:
        numbers = itertools.count(1)
        self.series = Series("k", self.make_run, (f"reused{n}" for n in itertools.count(1)).__next__)
        self.numbers = numbers
        self.clock = 0
        self.runs: dict[str, Run] = {}
        self.reused: list[Execution] = []

    def make_run(self, at: int) -> Run:
        return Run(id=RunId(f"r{next(self.numbers)}"), kind="interactive", state="running", name="nb", started=at)

    def submit(self, name: str, step: str | None = None, *, new_run: bool = False) -> Execution:
        self.clock += 1
        step = step or name
        run, _ = self.series.place(step, self.clock, new_run=new_run)
        replaces = self.series.taken_over(step)
        one = Execution(
            id=ExecutionId(name), run=run.id, step=step, state="queued", queued=self.clock, replaces=replaces, cell=step
        )
        return self.note(one)

    def end(self, one: Execution, state: str = "succeeded") -> Execution:
        self.clock += 1
        return self.note(replace(one, state=state, ended=self.clock))  # type: ignore[arg-type]

    def run(self, name: str, step: str | None = None, **more: bool) -> Execution:
        return self.end(self.submit(name, step, **more))

    def note(self, one: Execution) -> Execution:
        runs, reused = self.series.note(one)
        self.runs.update({run.id: run for run in runs})
        self.reused += reused
        return one


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


def test_different_steps_go_to_one_run(kernel: Kernel) -> None:
    assert {kernel.run(name).run for name in "abc"} == {"r1"}


def test_a_step_that_has_ended_and_is_run_again_opens_the_next_run(kernel: Kernel) -> None:
    kernel.run("a1", "a")
    assert kernel.run("a2", "a").run == "r2"


def test_a_step_under_way_that_is_run_again_stays_in_its_run(kernel: Kernel) -> None:
    kernel.submit("a1", "a")
    assert kernel.submit("a2", "a").run == "r1"


def test_the_parameters_cell_opens_the_next_run(kernel: Kernel) -> None:
    kernel.run("a")
    assert kernel.run("b", new_run=True).run == "r2"


def test_a_restarted_kernel_opens_the_next_run(kernel: Kernel) -> None:
    kernel.run("a")
    kernel.series.restart()
    assert kernel.run("b").run == "r2"


def test_the_next_run_takes_over_what_was_not_run_again(kernel: Kernel) -> None:
    kernel.run("a")
    kernel.run("b")
    kernel.run("b2", "b")
    (reused,) = kernel.reused
    assert (reused.run, reused.step, reused.state, reused.reused_from) == ("r2", "a", "reused", "a")


def test_what_is_taken_over_twice_names_the_execution_that_made_it(kernel: Kernel) -> None:
    kernel.run("a")
    for name in ("b1", "b2", "b3"):
        kernel.run(name, "b")
    assert [one.reused_from for one in kernel.reused] == ["a", "a"]


def test_a_notebook_run_from_top_to_bottom_takes_nothing_over(kernel: Kernel) -> None:
    for turn in "12":
        kernel.series.restart()
        steps = [kernel.submit(f"{name}{turn}", name) for name in "abc"]
        for step in steps:
            kernel.end(step)
    assert kernel.reused == []


def test_a_step_taken_over_and_run_later_replaces_the_row_in_its_run(kernel: Kernel) -> None:
    kernel.run("a")
    kernel.run("b1", "b")
    kernel.run("b2", "b")
    again = kernel.submit("a2", "a")
    assert (again.run, again.replaces) == ("r2", "reused1")


def test_a_failed_step_is_not_taken_over(kernel: Kernel) -> None:
    kernel.end(kernel.submit("a"), "failed")
    kernel.run("b1", "b")
    kernel.run("b2", "b")
    assert kernel.reused == []


def test_a_renamed_step_is_not_taken_over_under_its_old_name(kernel: Kernel) -> None:
    kernel.run("old")
    run, _ = kernel.series.place("new", 9, new_run=True)
    kernel.note(Execution(id=ExecutionId("n"), run=run.id, step="new", state="succeeded", cell="old", ended=10))
    assert kernel.reused == []


def test_a_run_is_running_while_one_of_its_steps_is(kernel: Kernel) -> None:
    a = kernel.submit("a")
    kernel.run("b")
    assert "r1" not in kernel.runs
    kernel.end(a)
    assert (kernel.runs["r1"].state, kernel.runs["r1"].ended) == ("succeeded", 4)


def test_a_run_goes_on_with_its_next_step(kernel: Kernel) -> None:
    kernel.run("a")
    b = kernel.submit("b")
    assert (kernel.runs["r1"].state, kernel.runs["r1"].ended) == ("running", None)
    kernel.end(b, "failed")
    assert (kernel.runs["r1"].state, kernel.runs["r1"].failed_step) == ("failed", "b")


def test_an_execution_that_was_replaced_does_not_count(kernel: Kernel) -> None:
    a1 = kernel.submit("a1", "a")
    a2 = kernel.submit("x", "x")
    new = kernel.note(replace(a1, id=ExecutionId("a2"), replaces=a1.id, queued=9))
    kernel.end(a1, "cancelled")
    kernel.end(a2)
    kernel.end(new)
    assert kernel.runs["r1"].state == "succeeded"


def test_a_step_that_ends_after_the_next_run_has_opened_is_taken_over_then(kernel: Kernel) -> None:
    slow = kernel.submit("slow")
    kernel.run("b1", "b")
    kernel.run("b2", "b")
    assert kernel.reused == []
    kernel.end(slow)
    assert [(one.step, one.run) for one in kernel.reused] == [("slow", "r2")]
    assert kernel.runs["r1"].state == "succeeded"


def test_of_runs_that_have_ended_only_the_last_one_is_kept_and_of_others_those_under_way(kernel: Kernel) -> None:
    slow = kernel.submit("slow")
    for number in range(5):
        kernel.run(f"a{number}", "a")
    runs = [f"r{number}" for number in range(1, 6)]
    assert [run for run in runs if kernel.series.holds(RunId(run))] == ["r1", "r4", "r5"]
    kernel.end(slow)
    kernel.run("a5", "a")
    assert [run for run in runs if kernel.series.holds(RunId(run))] == ["r5"]
    assert kernel.runs["r1"].state == "succeeded"


def test_what_the_run_before_a_service_was_lost_ended_with_is_taken_over(kernel: Kernel) -> None:
    kernel.series.resume([Execution(id=ExecutionId("a"), run=RunId("r0"), step="a", state="succeeded")])
    kernel.run("b")
    assert [(one.step, one.reused_from) for one in kernel.reused] == [("a", "a")]


# --- what counts -----------------------------------------------------------------------------------------------------


def _one(name: str, step: str, queued: int, **more: object) -> Execution:
    return Execution(id=ExecutionId(name), run=RunId("r"), step=step, state="succeeded", queued=queued, **more)  # type: ignore[arg-type]


def test_of_each_step_the_last_execution_counts_in_the_order_of_the_cells() -> None:
    listed = [_one("load2", "load", 3), _one("load1", "load", 1), _one("train", "train", 2)]
    assert [one.id for one in last_of_each_step(listed)] == ["load2", "train"]


def test_an_execution_that_was_replaced_does_not_count_whatever_the_clocks_say() -> None:
    listed = [_one("new", "load", 1, replaces=ExecutionId("old")), _one("old", "load", 2)]
    assert [one.id for one in last_of_each_step(listed)] == ["new"]


def test_the_items_of_a_fan_out_all_count() -> None:
    listed = [_one("a", "fit", 1, item=0), _one("b", "fit", 2, item=1), _one("c", "fit", 3, item=1)]
    assert [one.id for one in last_of_each_step(listed)] == ["a", "c"]
