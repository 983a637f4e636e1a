"""What is done next: events in, instructions out."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from typing import Any

import pytest

from mlbench.core.ids import RunId
from mlbench.core.messages import Environment, StepOptions, Submission
from mlbench.core.records import Artifact, Binding, Execution
from mlbench.runs import plan as plans
from mlbench.runs.plan import Plan, advance

ENVIRONMENT = Environment(interpreter="/usr/bin/python", variables={}, stamp="1")


@dataclass
class Desk:
    """Hands events to a plan and keeps what it said."""

    plan: Plan = field(default_factory=lambda: Plan(make_id=map("new{}".format, itertools.count(1)).__next__))
    clock: int = 0
    submissions: dict[str, Submission] = field(default_factory=dict)

    def tell(self, event: Any) -> tuple[plans.Instruction, ...]:
        self.said = advance(self.plan, event)
        return self.said

    def submit(self, name: str, *parents: str, kernel: str = "k", draws: bool | None = None, **more: Any) -> Any:
        self.clock += 1
        edges = {parent.split(":")[0]: parent.split(":")[-1] for parent in parents}
        step = more.pop("step", name)
        notebook = more.pop("notebook", "nb")
        submission = Submission(
            execution=name, step=step, source=f"{name} = 1", edges=edges, defs=more.pop("defs", (step,)), **more
        )
        return self.tell(
            plans.Submitted(
                at=self.clock,
                submission=submission,
                kernel=kernel,
                run="r",
                store="/store",
                environment=ENVIRONMENT,
                notebook=notebook,
                draws=draws,
            )
        )

    def start(self, *names: str) -> None:
        for name in names:
            self.clock += 1
            self.tell(plans.Started(at=self.clock, execution=name, worker="w"))

    def end(self, name: str, state: str = "succeeded", *, binds: Iterable[str] = (), **more: Any) -> Any:
        self.clock += 1
        node = self.plan.nodes[name]
        assert node.asked is not None
        names = [*node.asked.submission.defs, *binds]
        bound = tuple(Binding(name=one, artifact=_artifact(f"{name}.{one}")) for one in names)
        record = replace(
            node.record, state=state, ended=self.clock, binds=bound if state == "succeeded" else (), **more
        )
        return self.tell(plans.Ended(at=self.clock, record=record))

    def state(self, name: str) -> str:
        return self.plan.nodes[name].record.state

    @property
    def started(self) -> list[str]:
        return [one.task.execution for one in self.said if isinstance(one, plans.Start)]

    @property
    def cancelled(self) -> list[str]:
        return [one.execution for one in self.said if isinstance(one, plans.Cancel)]

    @property
    def reported(self) -> dict[str, str]:
        return {one.record.id: one.record.state for one in self.said if isinstance(one, plans.Report)}


def _artifact(name: str) -> Artifact:
    return Artifact(digest=f"blake3:{name}", size=1, type="int", codec="scalar")


def matches(found: Any, **wanted: Any) -> bool:
    """Compare some of the fields of an instruction."""
    known = {one.name for one in fields(found)}
    assert known.issuperset(wanted)
    return all(getattr(found, name) == value for name, value in wanted.items())


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_a_step_without_parents_starts_at_once(desk: Desk) -> None:
    desk.submit("load")
    report, start = desk.said
    assert matches(report, own=False)
    assert report.record.state == "queued"
    assert matches(start.task, execution="load", run="r", step="load", store="/store", attempt=1)


def test_a_step_waits_for_its_parents_and_is_given_what_they_bound(desk: Desk) -> None:
    desk.submit("load")
    desk.submit("clean")
    desk.submit("train", "load", "clean")
    assert desk.started == []
    desk.start("load", "clean")
    desk.end("load")
    assert desk.started == []
    desk.end("clean")
    (start,) = [one for one in desk.said if isinstance(one, plans.Start)]
    assert start.task.execution == "train"
    assert start.task.inputs["load"]["artifact"]["digest"] == "blake3:load.load"
    assert {read["name"]: read["step"] for read in start.task.base["reads"]} == {"load": "load", "clean": "clean"}


def test_a_skipped_step_says_why_it_waited_where_no_name_shows_it(desk: Desk) -> None:
    desk.submit("load")
    desk.submit("publish", waits_for={"load": "--after names it"})
    desk.end("load", "failed", reason="error")
    assert desk.plan.nodes["publish"].record.note == "Step load failed. Step publish waits for it: --after names it."


def test_a_step_whose_parents_have_ended_long_ago_starts_at_once(desk: Desk) -> None:
    record = Execution(id="old", run="r0", step="load", state="succeeded", binds=(Binding(name="load"),))
    desk.tell(plans.Recalled(at=1, record=record, kernel="k"))
    desk.submit("train", "load:old")
    assert desk.started == ["train"]


def test_children_of_a_failed_step_are_skipped_and_other_branches_go_on(desk: Desk) -> None:
    desk.submit("load")
    desk.submit("other")
    desk.submit("train", "load")
    desk.submit("report", "train")
    desk.end("load", "failed", reason="error")
    assert desk.reported == {"load": "failed", "train": "skipped", "report": "skipped"}
    assert desk.plan.nodes["train"].record.note == "Step load failed."
    assert desk.state("other") == "queued"


def test_a_step_that_is_skipped_was_ended_by_the_plan_itself(desk: Desk) -> None:
    desk.submit("load")
    desk.submit("train", "load")
    desk.end("load", "failed", reason="error")
    owns = {one.record.id: one.own for one in desk.said if isinstance(one, plans.Report)}
    assert owns == {"load": False, "train": True}


def test_a_step_for_its_effects_waits_for_the_steps_above(desk: Desk) -> None:
    desk.submit("validate")
    desk.submit("publish", waits_for={"validate": "publish binds no name"}, defs=())
    assert desk.started == []
    desk.end("validate")
    assert desk.started == ["publish"]


def test_a_step_for_its_effects_does_not_run_when_one_above_failed(desk: Desk) -> None:
    desk.submit("validate")
    desk.submit("publish", waits_for={"validate": "publish binds no name"}, defs=())
    desk.end("validate", "failed", reason="error")
    assert desk.reported == {"validate": "failed", "publish": "skipped"}


def test_a_running_step_says_on_which_worker(desk: Desk) -> None:
    desk.submit("load")
    desk.start("load")
    record = desk.plan.nodes["load"].record
    assert (record.state, record.worker, record.started) == ("running", "w", 2)


def test_news_of_a_step_that_is_not_known_changes_nothing(desk: Desk) -> None:
    assert desk.tell(plans.Started(at=1, execution="nobody")) == ()
    record = Execution(id="nobody", run="r", step="x", state="succeeded")
    assert desk.tell(plans.Ended(at=1, record=record)) == ()


def test_a_second_end_is_not_taken(desk: Desk) -> None:
    desk.submit("load")
    desk.end("load")
    assert desk.tell(plans.Ended(at=9, record=replace(desk.plan.nodes["load"].record, state="failed"))) == ()
    assert desk.state("load") == "succeeded"


def test_a_lost_worker_fails_the_step_and_is_not_tried_again(desk: Desk) -> None:
    desk.submit("load")
    desk.start("load")
    desk.end("load", "failed", reason="worker-lost")
    assert desk.started == []
    assert desk.plan.nodes["load"].record.reason == "worker-lost"


def test_the_timeout_of_a_step_is_the_executors_affair(desk: Desk) -> None:
    desk.submit("load", options=StepOptions(timeout=5))
    (start,) = [one for one in desk.said if isinstance(one, plans.Start)]
    assert start.task.timeout == 5


# --- superseding -----------------------------------------------------------------------------------------------------


def test_an_edited_cell_run_again_cancels_its_former_execution(desk: Desk) -> None:
    desk.submit("a1", step="a")
    desk.start("a1")
    desk.submit("a2", step="a")
    assert desk.cancelled == ["a1"]
    assert desk.started == []
    assert desk.plan.current("a1") == "a2"


def test_the_new_execution_starts_when_the_old_one_is_gone(desk: Desk) -> None:
    desk.submit("a1", step="a")
    desk.start("a1")
    desk.submit("a2", step="a")
    desk.end("a1", "cancelled", reason="user")
    assert desk.started == ["a2"]
    assert desk.plan.nodes["a1"].record.reason == "superseded"


def test_children_that_have_not_started_take_the_new_execution(desk: Desk) -> None:
    desk.submit("a1", step="a")
    desk.submit("b", "a:a1")
    desk.submit("a2", step="a")
    desk.end("a1", "cancelled", reason="user")
    assert desk.state("b") == "queued"
    desk.end("a2")
    (start,) = [one for one in desk.said if isinstance(one, plans.Start)]
    assert start.task.inputs["a"]["artifact"]["digest"] == "blake3:a2.a"


def test_a_waiting_execution_that_is_superseded_ends_at_once(desk: Desk) -> None:
    desk.submit("load")
    desk.submit("b1", "load", step="b")
    desk.submit("b2", "load", step="b")
    assert desk.reported == {"b2": "queued", "b1": "cancelled"}


def test_an_execution_that_the_new_one_needs_is_not_superseded(desk: Desk) -> None:
    desk.submit("a1", step="a")
    desk.submit("b", "a:a1")
    desk.submit("a2", "b", step="a")
    assert desk.cancelled == []
    desk.end("a1")
    desk.end("b")
    assert desk.started == ["a2"]


def test_a_superseded_execution_that_succeeded_in_time_keeps_its_record(desk: Desk) -> None:
    desk.submit("a1", step="a")
    desk.submit("a2", step="a")
    desk.end("a1")
    assert desk.state("a1") == "succeeded"
    assert desk.started == ["a2"]


def test_another_kernels_step_of_the_same_name_is_left_alone(desk: Desk) -> None:
    desk.submit("a1", step="a")
    desk.submit("a2", step="a", kernel="other")
    assert desk.cancelled == []
    assert desk.started == ["a2"]


def test_what_another_kernel_has_under_way_of_a_step_in_one_run_is_held_until_it_ends_or_is_gone(desk: Desk) -> None:
    desk.submit("a1", step="a", key="K", notebook="r")
    assert desk.plan.held("a", "other", RunId("r")) is desk.plan.nodes["a1"]
    assert desk.plan.held("a", "k", RunId("r")) is None, "a kernel's own step is not another's"
    assert desk.plan.held("b", "other", RunId("r")) is desk.plan.held("a", "other", RunId("s")) is None
    desk.tell(plans.Detached(at=5, kernel="k"))
    assert desk.plan.held("a", "other", RunId("r")) is None, "it is there to be taken over"


def test_the_result_of_another_kernel_of_one_run_is_handed_out_and_stays_that_kernels(desk: Desk) -> None:
    desk.submit("a1", step="a", key="K", notebook="r")
    desk.end("a1")
    (attach,) = desk.submit("a2", step="a", key="K", kernel="other", notebook="r")
    assert matches(attach, submitted="a2", record=desk.plan.nodes["a1"].record)
    assert desk.plan.nodes["a1"].kernel == "k"
    desk.submit("a3", step="a", key="K", notebook="r")
    assert desk.started == ["a3"], "the kernel whose result it is means to have another one"


def test_what_a_kernel_of_the_same_notebook_left_behind_is_superseded_by_the_next_ones_edit(desk: Desk) -> None:
    desk.submit("a1", step="a", key="K1")
    desk.start("a1")
    desk.tell(plans.Detached(at=5, kernel="k"))
    desk.submit("a2", step="a", key="K2", kernel="k2")
    assert desk.cancelled == ["a1"]
    assert desk.started == []
    desk.end("a1", "cancelled", reason="user")
    assert desk.started == ["a2"]
    assert desk.plan.nodes["a1"].record.reason == "superseded"


def test_what_another_notebooks_kernel_left_behind_goes_on(desk: Desk) -> None:
    for notebook in ("one", None):
        desk.submit(f"a-{notebook}", step="a", kernel=f"k-{notebook}", notebook=notebook)
        desk.tell(plans.Detached(at=5, kernel=f"k-{notebook}"))
    desk.submit("b", step="a", kernel="k2", notebook="two")
    desk.submit("c", step="a", kernel="k3", notebook=None)
    assert desk.cancelled == []
    assert desk.started == ["c"]


def test_what_was_left_behind_and_taken_over_by_another_kernel_is_not_superseded_by_a_third(desk: Desk) -> None:
    desk.submit("a1", step="a", key="K1")
    desk.tell(plans.Detached(at=5, kernel="k"))
    desk.submit("a2", step="a", key="K1", kernel="k2")
    desk.submit("a3", step="a", key="K3", kernel="k3")
    assert desk.cancelled == []
    assert desk.started == ["a3"]


# --- attaching -------------------------------------------------------------------------------------------------------


def test_the_same_key_under_way_is_attached_to(desk: Desk) -> None:
    desk.submit("a1", step="a", key="K")
    (attach,) = desk.submit("a2", step="a", key="K")
    assert matches(attach, submitted="a2")
    assert attach.record.id == "a1"
    assert "a2" not in desk.plan.nodes


def test_a_result_that_came_while_no_kernel_was_there_is_attached_to_once(desk: Desk) -> None:
    desk.submit("a1", step="a", key="K")
    desk.tell(plans.Detached(at=5, kernel="k"))
    desk.end("a1")
    _, attach = desk.submit("a2", step="a", key="K", kernel="k2")
    assert attach.record.state == "succeeded"
    desk.submit("a3", step="a", key="K", kernel="k2")
    assert desk.started == ["a3"]


def test_a_result_that_its_kernel_saw_is_not_attached_to(desk: Desk) -> None:
    desk.submit("a1", step="a", key="K")
    desk.end("a1")
    desk.submit("a2", step="a", key="K")
    assert desk.started == ["a2"]


def test_a_failure_while_no_kernel_was_there_is_run_again(desk: Desk) -> None:
    desk.submit("a1", step="a", key="K")
    desk.tell(plans.Detached(at=5, kernel="k"))
    desk.end("a1", "failed", reason="error")
    desk.submit("a2", step="a", key="K")
    assert desk.started == ["a2"]


def test_another_notebooks_step_with_the_same_key_is_not_attached_to(desk: Desk) -> None:
    desk.submit("a1", step="a", key="K", notebook="one")
    desk.tell(plans.Detached(at=5, kernel="k"))
    desk.submit("a2", step="a", key="K", kernel="k2", notebook="two")
    assert desk.started == ["a2"]


def test_a_result_that_is_owed_is_forgotten_when_its_cell_is_edited_and_run(desk: Desk) -> None:
    desk.submit("train", key="1")
    desk.tell(plans.Detached(at=5, kernel="k"))
    desk.end("train")
    desk.submit("edited", step="train", key="2", kernel="next")
    assert [one.execution for one in desk.said if isinstance(one, plans.Seen)] == ["train"]
    desk.end("edited")
    desk.submit("back", step="train", key="1", kernel="next")
    assert desk.started == ["back"]


def _restarted(desk: Desk) -> None:
    """Let a step's kernel be restarted while it runs, and its cells be run again from the top."""
    desk.submit("load", key="1")
    desk.end("load")
    desk.submit("train", "load", key="2")
    desk.start("train")
    desk.tell(plans.Detached(at=5, kernel="k"))
    desk.submit("load2", step="load", key="1", defs=("load",))
    assert desk.started == ["load2"]
    desk.submit("train2", "load:load2", step="train", key="2", defs=("train",))
    (attach, *_) = desk.said
    assert attach.record.id == "train"


def test_a_step_found_after_a_restart_is_kept_when_the_one_above_makes_the_same_again(desk: Desk) -> None:
    _restarted(desk)
    node = desk.plan.nodes["load2"]
    same = desk.plan.nodes["load"].record.binds
    desk.tell(plans.Ended(at=9, record=replace(node.record, state="succeeded", ended=9, binds=same)))
    assert desk.cancelled == []
    desk.end("train")
    assert desk.state("train") == "succeeded"
    assert desk.plan.nodes["train"].replaced_by is None


def test_a_step_found_after_a_restart_is_kept_when_the_one_above_gives_it_a_module(desk: Desk) -> None:
    module = (Binding(name="load", module="numpy"),)
    desk.submit("load", key="1")
    desk.tell(plans.Ended(at=2, record=replace(desk.plan.nodes["load"].record, state="succeeded", binds=module)))
    desk.submit("train", "load", key="2")
    desk.start("train")
    desk.tell(plans.Detached(at=5, kernel="k"))
    desk.submit("load2", step="load", key="1", defs=("load",))
    desk.submit("train2", "load:load2", step="train", key="2", defs=("train",))
    desk.tell(plans.Ended(at=9, record=replace(desk.plan.nodes["load2"].record, state="succeeded", binds=module)))
    assert desk.cancelled == []


def test_a_step_found_after_a_restart_runs_again_when_the_one_above_makes_something_else(desk: Desk) -> None:
    _restarted(desk)
    desk.end("load2")
    assert desk.cancelled == ["train"]
    desk.end("train", "cancelled")
    (again,) = [one for one in desk.said if isinstance(one, plans.Start)]
    assert again.task.inputs["load"]["artifact"]["digest"] == "blake3:load2.load"
    assert again.task.base["replaces"] == "train"


def test_a_step_found_after_a_restart_that_ended_first_runs_again_all_the_same(desk: Desk) -> None:
    _restarted(desk)
    desk.end("train")
    assert desk.started == []
    desk.end("load2")
    assert [one.task.step for one in desk.said if isinstance(one, plans.Start)] == ["train"]


def test_a_step_found_after_a_restart_is_skipped_when_the_one_above_fails_this_time(desk: Desk) -> None:
    _restarted(desk)
    desk.end("load2", "failed")
    assert desk.cancelled == ["train"]
    assert desk.state(desk.plan.current("train")) == "skipped"


def test_a_step_found_waiting_after_a_restart_waits_for_the_one_that_is_run_again(desk: Desk) -> None:
    desk.submit("load", key="1")
    desk.submit("other", key="3")
    desk.start("load", "other")
    desk.end("load")
    desk.submit("train", "load", "other", key="2")
    desk.tell(plans.Detached(at=5, kernel="k"))
    desk.submit("load2", step="load", key="1", defs=("load",))
    desk.submit("train2", "load:load2", "other", step="train", key="2", defs=("train",))
    desk.end("other")
    assert desk.started == []
    desk.end("load2")
    (start,) = [one for one in desk.said if isinstance(one, plans.Start)]
    assert (start.task.execution, start.task.inputs["load"]["artifact"]["digest"]) == ("train", "blake3:load2.load")


def test_a_kernel_that_had_only_lost_its_connection_is_taken_to_know_its_steps(desk: Desk) -> None:
    desk.submit("a1", step="a", key="K")
    desk.tell(plans.Detached(at=5, kernel="k"))
    desk.end("a1")
    desk.tell(plans.Returned(at=6, kernel="k"))
    assert desk.plan.of_kernel("k") == []


def test_an_end_that_no_kernel_hears_of_is_marked_until_one_does(desk: Desk) -> None:
    desk.submit("a1", step="a", key="K")
    desk.submit("b1", step="b", key="L")
    desk.tell(plans.Detached(at=5, kernel="k"))
    (report,) = desk.end("a1")
    assert report.record.unseen
    desk.end("b1", "failed", reason="error")
    assert not desk.plan.nodes["b1"].record.unseen
    seen, attach = desk.submit("a2", step="a", key="K", kernel="k2")
    assert seen == plans.Seen(execution="a1")
    assert not attach.record.unseen


def test_a_kernel_that_is_back_has_seen_what_it_is_told(desk: Desk) -> None:
    desk.submit("a1", step="a", key="K")
    desk.tell(plans.Detached(at=5, kernel="k"))
    desk.end("a1")
    assert desk.tell(plans.Returned(at=6, kernel="k")) == (plans.Seen(execution="a1"),)


def test_an_end_that_an_earlier_plan_knew_of_is_attached_to_if_it_is_owed(desk: Desk) -> None:
    one = Execution(id="a0", run="r", step="a", state="succeeded", key="K", unseen=True)
    desk.tell(plans.Recalled(at=1, record=one, kernel="k", notebook="nb", owed=True))
    desk.tell(plans.Recalled(at=1, record=replace(one, id="b0", key="L"), kernel="k", notebook="nb"))
    assert [one.id for one in desk.plan.of_kernel("k")] == ["a0"]
    desk.submit("b1", step="b", key="L")
    assert desk.started == ["b1"]
    desk.submit("elsewhere", step="a", key="K", kernel="k2", notebook="other")
    assert desk.started == ["elsewhere"]
    seen, attach = desk.submit("a1", step="a", key="K", kernel="k3")
    assert (seen, attach.record.id) == (plans.Seen(execution="a0"), "a0")
    desk.submit("a2", step="a", key="K", kernel="k3")
    assert desk.started == ["a2"]


def test_a_kernel_that_attaches_hears_of_what_goes_on_and_of_what_ended_without_it(desk: Desk) -> None:
    desk.submit("seen")
    desk.end("seen")
    desk.submit("ended")
    desk.submit("running")
    desk.tell(plans.Detached(at=5, kernel="k"))
    desk.end("ended")
    assert [one.id for one in desk.plan.of_kernel("k")] == ["ended", "running"]


# --- cancelling and interrupting -------------------------------------------------------------------------------------


def test_a_cancelled_step_ends_and_its_children_are_skipped(desk: Desk) -> None:
    desk.submit("a")
    desk.submit("b", "a")
    desk.tell(plans.CancelAsked(at=5, executions=("a",)))
    assert desk.cancelled == ["a"]
    desk.end("a", "cancelled", reason="user")
    assert desk.reported == {"a": "cancelled", "b": "skipped"}
    assert desk.plan.nodes["b"].record.note == "Step a was cancelled."


def test_an_interrupt_pauses_at_once_and_cancels_after_a_while(desk: Desk) -> None:
    desk.submit("a")
    desk.start("a")
    pause, later = desk.tell(plans.Interrupted(at=10, kernel="k", executions=("a",)))
    assert matches(pause, execution="a")
    assert later.seconds == plans.GRACE
    desk.tell(later.event)
    assert desk.cancelled == ["a"]


def test_an_interrupt_takes_those_parents_along_that_nothing_else_needs(desk: Desk) -> None:
    desk.submit("shared")
    desk.submit("only")
    desk.submit("other", "shared")
    desk.submit("b", "shared", "only")
    desk.tell(plans.Interrupted(at=10, kernel="k", executions=("b",)))
    (later,) = [one for one in desk.said if isinstance(one, plans.Later)]
    assert set(later.event.executions) == {"b", "only"}


def test_an_interrupt_that_is_taken_back_lets_the_step_go_on(desk: Desk) -> None:
    desk.submit("a")
    desk.start("a")
    _, later = desk.tell(plans.Interrupted(at=10, kernel="k", executions=("a",)))
    (resume,) = desk.tell(plans.Kept(at=11, executions=("a",)))
    assert matches(resume, execution="a")
    assert desk.tell(later.event) == ()


def test_an_interrupt_after_one_that_was_taken_back_has_its_whole_while(desk: Desk) -> None:
    desk.submit("a")
    desk.start("a")
    _, first = desk.tell(plans.Interrupted(at=10, kernel="k", executions=("a",)))
    desk.tell(plans.Kept(at=11, executions=("a",)))
    _, second = desk.tell(plans.Interrupted(at=2 * 10**9, kernel="k", executions=("a",)))
    assert desk.tell(first.event) == ()
    desk.tell(second.event)
    assert desk.cancelled == ["a"]


def test_what_is_taken_back_before_the_interrupt_comes_is_not_stopped_once(desk: Desk) -> None:
    desk.submit("a")
    desk.start("a")
    desk.tell(plans.Kept(at=9, executions=("a",)))
    assert desk.tell(plans.Interrupted(at=10, kernel="k", executions=("a",))) == ()
    assert len(desk.tell(plans.Interrupted(at=11, kernel="k", executions=("a",)))) == 2


def test_what_was_taken_back_long_ago_is_stopped(desk: Desk) -> None:
    desk.submit("a")
    desk.start("a")
    desk.tell(plans.Kept(at=0, executions=("a",)))
    assert desk.tell(plans.Interrupted(at=20 * 10**9, kernel="k", executions=("a",)))


def test_parents_that_an_interrupt_took_along_go_on_with_their_child(desk: Desk) -> None:
    desk.submit("a")
    desk.submit("b", "a")
    desk.start("a")
    desk.tell(plans.Interrupted(at=10, kernel="k", executions=("b",)))
    desk.tell(plans.Kept(at=11, executions=("b",)))
    assert [one for one in desk.said if isinstance(one, plans.Resume)] == [plans.Resume(execution="a")]


def test_a_kernel_that_restarts_after_its_interrupt_loses_no_step(desk: Desk) -> None:
    desk.submit("a")
    desk.start("a")
    _, later = desk.tell(plans.Interrupted(at=10, kernel="k", executions=("a",)))
    (resume,) = desk.tell(plans.Detached(at=11, kernel="k"))
    assert matches(resume, execution="a")
    assert desk.tell(later.event) == ()


def test_an_interrupted_step_does_not_start_meanwhile(desk: Desk) -> None:
    desk.submit("a")
    desk.submit("keep", "a")
    desk.submit("b", "a")
    desk.tell(plans.Interrupted(at=10, kernel="k", executions=("b",)))
    desk.end("a")
    assert desk.started == ["keep"]
    desk.tell(plans.Kept(at=11, executions=("b",)))
    assert desk.started == ["b"]


def test_a_step_that_starts_just_after_its_interrupt_is_paused_again(desk: Desk) -> None:
    desk.submit("a")
    desk.tell(plans.Interrupted(at=10, kernel="k", executions=("a",)))
    desk.start("a")
    assert [one for one in desk.said if isinstance(one, plans.Pause)] == [plans.Pause(execution="a")]


def test_a_service_that_ends_leaves_nothing_under_way(desk: Desk) -> None:
    desk.submit("a")
    desk.submit("b", "a")
    desk.tell(plans.Closing(at=5))
    assert desk.cancelled == ["a"]
    assert desk.reported == {"b": "failed"}
    desk.end("a", "cancelled", reason="user")
    record = desk.plan.nodes["a"].record
    assert (record.state, record.reason) == ("failed", "service-lost")
    assert desk.plan.under_way() == []


# --- hidden changes --------------------------------------------------------------------------------------------------


def test_a_step_given_a_version_that_was_changed_in_place_runs_again_with_the_new_one(desk: Desk) -> None:
    desk.submit("rows")
    desk.end("rows")
    desk.submit("change", "rows")
    desk.submit("count", "rows")
    desk.end("count")
    desk.end("change", binds=["rows"])
    (start,) = [one for one in desk.said if isinstance(one, plans.Start)]
    assert start.task.inputs["rows"]["artifact"]["digest"] == "blake3:change.rows"
    record = desk.plan.nodes["new1"].record
    assert record.replaces == "count"
    assert record.note == "Step change changed rows in place after it was given."


def test_a_step_that_waits_just_takes_the_changed_version(desk: Desk) -> None:
    desk.submit("rows")
    desk.end("rows")
    desk.submit("change", "rows")
    desk.submit("slow")
    desk.submit("count", "rows", "slow")
    desk.end("change", binds=["rows"])
    desk.end("slow")
    (start,) = [one for one in desk.said if isinstance(one, plans.Start)]
    assert start.task.execution == "count"
    assert start.task.inputs["rows"]["artifact"]["digest"] == "blake3:change.rows"


def test_a_step_captured_before_its_kernel_could_hear_of_a_change_is_given_the_changed_value(desk: Desk) -> None:
    captured = ({"name": "rows", "version": "1"},)
    desk.submit("change", captured=captured)
    desk.end("change", binds=["rows"])
    desk.submit("count", captured=captured)  # on its way when the end of `change` was told
    (start,) = [one for one in desk.said if isinstance(one, plans.Start)]
    assert start.task.inputs["rows"]["artifact"]["digest"] == "blake3:change.rows"


def test_a_change_of_a_value_that_is_another_one_by_now_says_nothing(desk: Desk) -> None:
    desk.submit("change", captured=({"name": "rows", "version": "1"},))
    desk.end("change", binds=["rows"])
    desk.submit("count", captured=({"name": "rows", "version": "2"},))
    desk.submit("elsewhere", captured=({"name": "rows", "version": "1"},), kernel="other")
    assert all(desk.plan.nodes[one].edges == {} for one in ("count", "elsewhere"))


def test_a_change_of_large_data_says_nothing_of_the_same_data_made_anew(desk: Desk) -> None:
    desk.submit("change", captured=({"name": "rows", "version": "1", "digest": "blake3:1"},))
    desk.end("change", binds=["rows"])
    desk.submit("count", captured=({"name": "rows", "version": "2", "digest": "blake3:1"},))
    assert desk.plan.nodes["count"].edges == {}


def test_what_runs_again_was_queued_then_whatever_the_clock_of_a_worker_says(desk: Desk) -> None:
    desk.submit("rows")
    desk.end("rows")
    desk.submit("change", "rows")
    desk.submit("count", "rows")
    node = desk.plan.nodes["change"]
    binds = tuple(Binding(name=name, artifact=_artifact(f"change.{name}")) for name in ("change", "rows"))
    record = replace(node.record, state="succeeded", ended=1, binds=binds)
    desk.tell(plans.Ended(at=100, record=record))
    assert desk.plan.nodes["new1"].record.queued == 100


def test_a_cell_that_is_run_again_starts_from_what_it_saw_and_not_from_its_own_change(desk: Desk) -> None:
    captured = ({"name": "rows", "version": "1"},)
    desk.submit("change", captured=captured)
    desk.end("change", binds=["rows"])
    desk.submit("again", captured=captured, step="change")
    assert desk.plan.nodes["again"].edges == {}


def test_a_step_above_the_change_is_left_alone(desk: Desk) -> None:
    desk.submit("rows")
    desk.end("rows")
    desk.submit("count", "rows")
    desk.submit("change", "rows")
    desk.end("change", binds=["rows"])
    assert desk.cancelled == []
    assert desk.state("count") == "queued"


def test_what_used_the_results_of_a_step_that_runs_again_runs_again_too(desk: Desk) -> None:
    desk.submit("rows")
    desk.end("rows")
    desk.submit("change", "rows")
    desk.submit("count", "rows")
    desk.submit("show", "count")
    desk.end("count")
    desk.start("show")
    desk.end("change", binds=["rows"])
    assert desk.cancelled == ["show"]
    assert desk.started == ["new1"]
    desk.end("show", "cancelled", reason="user")
    desk.end("new1")
    (start,) = [one for one in desk.said if isinstance(one, plans.Start)]
    assert matches(start.task, execution="new2", step="show")
    assert start.task.inputs["count"]["artifact"]["digest"] == "blake3:new1.count"


def test_a_step_handed_over_after_the_change_gets_the_changed_version(desk: Desk) -> None:
    desk.submit("rows")
    desk.end("rows")
    desk.submit("change", "rows")
    desk.end("change", binds=["rows"])
    desk.submit("count", "rows")
    (start,) = [one for one in desk.said if isinstance(one, plans.Start)]
    assert start.task.inputs["rows"]["artifact"]["digest"] == "blake3:change.rows"


def test_a_cell_run_again_starts_from_what_it_saw_before_its_own_change(desk: Desk) -> None:
    desk.submit("rows")
    desk.end("rows")
    desk.submit("c1", "rows", step="change")
    desk.end("c1", binds=["rows"])
    desk.submit("c2", "rows", step="change")
    (start,) = [one for one in desk.said if isinstance(one, plans.Start)]
    assert start.task.inputs["rows"]["artifact"]["digest"] == "blake3:rows.rows"


def test_a_captured_value_that_was_changed_reaches_the_steps_below(desk: Desk) -> None:
    captured = ({"name": "rows", "digest": "blake3:1", "type": "list", "size": 3},)
    desk.submit("change", captured=captured)
    desk.submit("count", captured=captured)
    desk.end("count")
    desk.end("change", binds=["rows"])
    (start,) = [one for one in desk.said if isinstance(one, plans.Start)]
    assert start.task.inputs["rows"]["artifact"]["digest"] == "blake3:change.rows"


# --- randomness ------------------------------------------------------------------------------------------------------


def random_of(desk: Desk) -> dict[str, str | None]:
    return {one.task.execution: one.random_of for one in desk.said if isinstance(one, plans.Start)}


def test_a_step_known_to_draw_starts_where_the_one_above_ended(desk: Desk) -> None:
    desk.submit("a", seeded=True, draws=True)
    desk.submit("b", seeded=True, draws=True, random_from="a")
    assert desk.started == []
    desk.end("a", draws=("numpy",))
    assert random_of(desk) == {"b": "a"}


def test_a_step_known_not_to_draw_is_free_of_the_order(desk: Desk) -> None:
    desk.submit("a", seeded=True, draws=True)
    desk.submit("b", seeded=True, draws=False, random_from="a")
    assert random_of(desk) == {"b": None}
    desk.submit("c", seeded=True, draws=True, random_from="b")
    assert desk.started == []
    desk.end("a", draws=("numpy",))
    assert random_of(desk) == {"c": "a"}


def test_a_step_that_turned_out_to_draw_runs_again_with_the_right_state(desk: Desk) -> None:
    desk.submit("a", seeded=True)
    desk.submit("b", seeded=True, random_from="a")
    desk.end("b", draws=("numpy",))
    assert desk.started == []
    desk.end("a", draws=("numpy",))
    assert random_of(desk) == {"new1": "a"}
    assert desk.plan.nodes["new1"].record.replaces == "b"


def test_a_step_that_drew_keeps_its_result_when_none_above_drew(desk: Desk) -> None:
    desk.submit("a", seeded=True)
    desk.submit("b", seeded=True, random_from="a")
    desk.end("b", draws=("numpy",))
    desk.end("a")
    assert desk.started == []
    assert desk.plan.nodes["b"].replaced_by is None


def test_a_step_that_did_not_draw_keeps_its_result(desk: Desk) -> None:
    desk.submit("a", seeded=True)
    desk.submit("b", seeded=True, random_from="a")
    desk.end("b")
    desk.end("a", draws=("numpy",))
    assert desk.started == []


def test_three_unknown_steps_that_draw_end_up_in_a_chain(desk: Desk) -> None:
    desk.submit("a", seeded=True)
    desk.submit("b", seeded=True, random_from="a")
    desk.submit("c", seeded=True, random_from="b")
    for name in "cba":
        desk.end(name, draws=("random",))
    # c was given the same state as b: both are wrong; b runs again at once, c when b is known
    assert random_of(desk) == {"new1": "a"}
    desk.end("new1", draws=("random",))
    assert random_of(desk) == {"new2": "new1"}
    desk.end("new2", draws=("random",))
    assert desk.started == []


def test_a_notebook_without_a_seed_has_no_order(desk: Desk) -> None:
    desk.submit("a", draws=True)
    desk.submit("b", draws=True)
    assert desk.started == ["b"]


# --- what is kept ----------------------------------------------------------------------------------------------------


def test_a_capture_is_kept_until_nothing_above_can_change_what_was_given(desk: Desk) -> None:
    desk.submit("a", capture=b"aaa")
    desk.submit("b", capture=b"bbb")
    desk.end("b")
    assert desk.plan.nodes["b"].asked.submission.capture == b"bbb"
    desk.end("a")
    assert desk.plan.nodes["b"].asked.submission.capture == b""


def test_a_capture_is_kept_while_what_stands_in_for_one_above_is_under_way(desk: Desk) -> None:
    desk.submit("a", seeded=True)
    desk.submit("b", seeded=True, random_from="a", capture=b"bbb")
    desk.end("b", draws=("numpy",))
    desk.submit("a2", step="a", seeded=True, supersedes="a")
    desk.end("a", "cancelled", reason="user")
    desk.end("a2", draws=("numpy",))
    (start,) = [one for one in desk.said if isinstance(one, plans.Start)]
    assert matches(start.task, step="b", capture=b"bbb")


def test_a_kernel_that_is_forgotten_leaves_what_is_under_way(desk: Desk) -> None:
    desk.submit("a")
    desk.submit("b")
    desk.end("a")
    desk.plan.forget("k")
    assert list(desk.plan.nodes) == ["b"]
