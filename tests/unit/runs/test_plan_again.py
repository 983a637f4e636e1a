"""Steps that need not run, and steps that are tried again: what the plan asks, and what it does with the answers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mlbench.core.messages import StepOptions
from mlbench.core.records import Artifact, Binding, Execution, Failure, Metric
from mlbench.runs import plan as plans
from mlbench.runs.key import ASKED, CELL
from tests.unit.runs.test_plan import Desk

PARTS = {"code": "1", "folder": "/home"}
CACHED = {"key_parts": PARTS, "key": "cell", "options": StepOptions(cache=True)}


@pytest.fixture
def desk() -> Desk:
    return Desk()


def asked(desk: Desk) -> plans.Look:
    (look,) = [one for one in desk.said if isinstance(one, plans.Look)]
    return look


def answer(desk: Desk, look: plans.Look, record: Execution | None = None, said: str = "") -> Any:
    desk.clock += 1
    return desk.tell(plans.Found(at=desk.clock, execution=look.execution, look=look.look, record=record, said=said))


def earlier(step: str, **more: Any) -> Execution:
    return Execution(id="old", run="r0", step=step, state="succeeded", **more)


def test_a_step_is_looked_for_before_it_starts_and_ends_as_reused(desk: Desk) -> None:
    desk.submit("load", **CACHED)
    look = asked(desk)
    assert desk.started == []
    assert (look.record.key, look.named, look.others) == (desk.plan.nodes["load"].record.key, True, True)
    found = earlier("load", metrics=(Metric(name="rmse", value=1.0),), messages=({"output_type": "stream"},))
    said = answer(desk, look, found, "reused from r0")
    say, report = said
    assert (say.text, say.messages) == ("reused from r0", found.messages)
    assert report.own
    assert (report.record.state, report.record.reused_from) == ("reused", "old")
    assert report.record.metrics == found.metrics
    assert desk.started == []


def test_a_step_that_is_not_found_starts(desk: Desk) -> None:
    desk.submit("load", **CACHED)
    answer(desk, asked(desk))
    assert desk.started == ["load"]
    parts = desk.plan.nodes["load"].record.key_parts
    assert (parts[ASKED], parts[CELL], parts["code"]) == ("line", "cell", "1")


@pytest.mark.parametrize(
    ("options", "default", "resume", "looks"),
    [(None, False, None, False), (None, True, None, True), (False, True, "r0", False), (None, False, "r0", True)],
)
def test_who_asks_for_reuse(options: Any, default: bool, resume: Any, looks: bool, desk: Desk) -> None:
    desk.submit("one", key_parts=PARTS, options=StepOptions(cache=options), cache_default=default)
    event = desk.plan.nodes["one"].asked
    assert event is not None
    submission = replace(event.submission, execution="two", step="two", key=None)
    said = desk.tell(replace(event, submission=submission, resume=resume))
    assert [one.resume for one in said if isinstance(one, plans.Look)] == ([resume] if looks else [])


def test_a_step_of_which_nobody_knows_what_it_depends_on_just_starts(desk: Desk) -> None:
    desk.submit("load", key_parts={"unknown": "it uses eval"}, options=StepOptions(cache=True))
    assert desk.started == ["load"]
    assert desk.plan.nodes["load"].record.key is None


def test_what_a_parent_made_is_part_of_the_key_and_not_how(desk: Desk) -> None:
    keys = []
    for name in ("first", "second"):
        desk.submit(name, step="load", kernel=name, notebook=name)
        desk.start(name)
        desk.submit(f"{name}c", f"load:{name}", step="train", kernel=name, notebook=name, **CACHED)
        desk.end(name)
        keys.append(asked(desk).record.key_parts["input load"])
    assert keys == ["blake3:first.load", "blake3:second.load"]


def test_a_module_that_a_parent_imported_is_known_by_what_is_in_it(desk: Desk) -> None:
    keys = []
    for name, version in (("first", "1"), ("second", "1"), ("third", "2")):
        parts = {**PARTS, "module helpers": version}
        desk.submit(name, step="load", kernel=name, notebook=name, key_parts=parts)
        record = desk.plan.nodes[name].record
        desk.submit(f"{name}c", f"helpers:{name}", step="train", kernel=name, notebook=name, **CACHED)
        ended = replace(record, state="succeeded", ended=1, binds=(Binding(name="helpers", module="helpers"),))
        desk.tell(plans.Ended(at=1, record=ended))
        keys.append(asked(desk).record.key)
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.parametrize(("codec", "same"), [("pickle", False), ("items", False), ("ndarray", True)])
def test_a_step_is_not_reused_when_the_class_of_an_object_that_it_is_given_was_edited(
    desk: Desk, codec: str, same: bool
) -> None:
    keys = []
    made = Binding(name="model", artifact=Artifact(digest="blake3:same", size=1, type="Model", codec=codec))
    for name, version in (("first", "1"), ("second", "2")):
        desk.submit(name, step="fit", kernel=name, notebook=name, key_parts={**PARTS, "module models": version})
        record = desk.plan.nodes[name].record
        desk.submit(f"{name}p", f"model:{name}", step="pass", kernel=name, notebook=name, key_parts=PARTS)
        desk.tell(plans.Ended(at=1, record=replace(record, state="succeeded", ended=1, binds=(made,))))
        record = desk.plan.nodes[f"{name}p"].record
        desk.submit(f"{name}c", f"model:{name}p", step="predict", kernel=name, notebook=name, **CACHED)
        desk.tell(plans.Ended(at=1, record=replace(record, state="succeeded", ended=1, binds=(made,))))
        keys.append(asked(desk).record.key)
    assert (keys[0] == keys[1]) is same


def test_a_step_given_a_module_of_which_nobody_knows_the_version_just_starts(desk: Desk) -> None:
    record = earlier("load", binds=(Binding(name="helpers", module="helpers"),))
    desk.tell(plans.Recalled(at=1, record=record, kernel="k"))
    desk.submit("train", "helpers:old", **CACHED)
    assert desk.started == ["train"]


def test_a_reused_parent_lets_its_children_go_on(desk: Desk) -> None:
    desk.submit("load", **CACHED)
    look = asked(desk)
    desk.submit("train", "load")
    answer(desk, look, earlier("load"))
    assert desk.started == ["train"]
    assert desk.state("load") == "reused"


def test_a_step_that_is_cancelled_while_it_is_looked_for_stays_cancelled(desk: Desk) -> None:
    desk.submit("load", **CACHED)
    look = asked(desk)
    desk.tell(plans.CancelAsked(at=9, executions=("load",)))
    assert desk.state("load") == "cancelled"
    assert answer(desk, look, earlier("load")) == ()


def test_an_answer_to_an_older_question_does_not_count(desk: Desk) -> None:
    """What a step is given changes while it is looked for: `add` turns out to have changed it."""
    desk.submit("load")
    desk.start("load")
    desk.end("load")
    desk.submit("add", "load")
    desk.start("add")
    desk.submit("train", "load", **CACHED)
    first = asked(desk)
    desk.end("add", binds=("load",))
    second = asked(desk)
    assert first.record.key != second.record.key
    assert answer(desk, first, earlier("train")) == ()
    answer(desk, second, earlier("train"))
    assert desk.state("train") == "reused"


def test_a_hidden_change_of_a_reused_step_is_a_new_version_for_those_after_it(desk: Desk) -> None:
    desk.submit("load")
    desk.start("load")
    desk.end("load")
    desk.submit("add", "load", **CACHED)
    look = asked(desk)
    desk.submit("after", "load")
    assert desk.started == ["after"]
    desk.start("after")
    parent = desk.plan.nodes["load"].record.binds[0]
    answer(desk, look, earlier("add", binds=(parent,)))
    assert desk.plan.current("after") != "after"
    assert desk.plan.nodes[desk.plan.current("after")].edges["load"] == "add"


def test_where_a_seeded_step_would_start_goes_along_with_the_question(desk: Desk) -> None:
    desk.submit("a", draws=True, seeded=True, random={"random": b"1"})
    desk.start("a")
    desk.submit("b", draws=True, seeded=True, random={"random": b"1"}, random_from="a", **CACHED)
    assert not [one for one in desk.said if isinstance(one, plans.Look)]
    desk.end("a", draws=("random",))
    look = asked(desk)
    assert (look.random_of, look.random) == ("a", {"random": b"1"})
    answer(desk, look, earlier("b", draws=("random",), random_start="s"))
    assert desk.state("b") == "reused"


# --- retries ---------------------------------------------------------------------------------------------------------


def fail(desk: Desk, name: str, reason: str = "error") -> Any:
    return desk.end(name, "failed", reason=reason, failure=Failure(ename="ValueError", evalue="no data"))


@pytest.mark.parametrize("reason", ["error", "timeout", "memory", "worker-lost"])
def test_a_step_that_failed_is_tried_again(reason: str, desk: Desk) -> None:
    desk.submit("load", options=StepOptions(retries=1))
    desk.start("load")
    desk.submit("train", "load")
    fail(desk, "load", reason)
    assert desk.started == ["load"]
    record = desk.plan.nodes["load"].record
    assert (record.state, record.attempt, [one.reason for one in record.attempts]) == ("queued", 2, [reason])
    (start,) = [one for one in desk.said if isinstance(one, plans.Start)]
    assert start.task.attempt == 2
    assert desk.state("train") == "queued"
    desk.start("load")
    fail(desk, "load", reason)
    assert desk.state("load") == "failed"
    assert desk.state("train") == "skipped"


def test_without_retries_no_body_starts_twice(desk: Desk) -> None:
    desk.submit("load")
    desk.start("load")
    fail(desk, "load")
    assert desk.started == []
    assert desk.state("load") == "failed"


def test_the_delay_is_waited_for_and_the_cell_says_so(desk: Desk) -> None:
    desk.submit("load", options=StepOptions(retries=2, retry_delay=30.0))
    desk.start("load")
    fail(desk, "load")
    say, later = (one for one in desk.said if isinstance(one, (plans.Say, plans.Later)))
    assert say.text == "attempt 2 of 3 in 30 s: ValueError: no data"
    assert later.seconds == 30.0
    assert desk.started == []
    desk.tell(later.event)
    assert desk.started == ["load"]


def test_a_step_that_waits_for_its_next_attempt_can_be_cancelled(desk: Desk) -> None:
    desk.submit("load", options=StepOptions(retries=2, retry_delay=30.0))
    desk.start("load")
    fail(desk, "load")
    (later,) = [one for one in desk.said if isinstance(one, plans.Later)]
    desk.tell(plans.CancelAsked(at=99, executions=("load",)))
    assert desk.state("load") == "cancelled"
    assert len(desk.plan.nodes["load"].record.attempts) == 1
    assert desk.tell(later.event) == ()


@pytest.mark.parametrize("reason", ["user", "superseded"])
def test_a_step_that_was_cancelled_is_not_tried_again(reason: Any, desk: Desk) -> None:
    desk.submit("load", options=StepOptions(retries=2))
    desk.start("load")
    desk.tell(plans.CancelAsked(at=9, executions=("load",), reason=reason))
    fail(desk, "load", "worker-lost")
    assert desk.started == []
    assert desk.state("load") == "cancelled"
