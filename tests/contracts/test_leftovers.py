"""Items that a dead service has not told the catalog of are taken from the records, whatever keeps both."""

from __future__ import annotations

import platform
import time
from dataclasses import replace
from typing import Any

import pytest

from mlbench.backends.owners import is_alive, owner_of
from mlbench.core.errors import StoreError
from mlbench.core.ids import ExecutionId, new_id
from mlbench.core.ports import Piece
from mlbench.core.records import Execution, FanOut, Json, Metric, Run
from mlbench.project import Project
from mlbench.project.leftovers import Leftovers
from mlbench.project.signing import signer
from mlbench.runs.signing import proven
from mlbench.runs.wire import compact, msgspec

DEAD = owner_of(2**22 + 1)


def a_fan_out(project: Project, *, owner: str = DEAD, total: int = 6) -> Execution:
    """Record a step with `--foreach` that is under way."""
    run = project.begin_run(kind="interactive", owner=owner)
    fanout = FanOut(names=("x",), shape=(total,), total=total, running=2, succeeded=1)
    made = an_execution(run, state="running", fanout=fanout)
    project.put_execution(made)
    return made


def an_execution(run: Run, **more: Any) -> Execution:
    given: Json = {"run": run.id, "step": "train", "queued": time.time_ns(), "started": time.time_ns()}
    return Execution(id=ExecutionId(new_id()), **(given | more))


def an_item(whole: Execution, number: int, **more: Any) -> Execution:
    given: Json = {
        "id": new_id(),
        "run": whole.run,
        "step": whole.step,
        "part_of": whole.id,
        "item": number,
        "label": {"x": str(number)},
        "state": "succeeded",
        "key": f"key-{whole.id}-{number}",
        "started": 10**9,
        "ended": (number + 2) * 10**9,
        "metrics": (Metric(name="rmse", value=number / 2, time=3),),
        "messages": ({"output_type": "stream", "name": "stdout", "text": f"{number}\n"},),
    }
    return Execution(**(given | more))


def keep(project: Project, whole: Execution, place: str, *items: Execution, proof: bool = True) -> None:
    """Record items of a chunk, as a worker does."""
    identifier = f"{whole.id}-{place}"
    said = msgspec.to_builtins({"executions": [compact(one) for one in items]})
    record = proven(signer(whole.id) if proof else None, "executions", identifier, said)
    project.blobs.append("executions", identifier, record)


def test_items_of_a_dead_service_are_taken_with_every_catalog(with_catalog: Project) -> None:
    takes_what_is_recorded(with_catalog)


def test_items_of_a_dead_service_are_taken_from_every_store(with_blobs: Project) -> None:
    takes_what_is_recorded(with_blobs)


def takes_what_is_recorded(project: Project) -> None:
    whole, other = a_fan_out(project), a_fan_out(project)
    items = [an_item(whole, number) for number in range(4)]
    failed = replace(items[3], state="failed", reason="error", ended=10**9 + 5)
    keep(project, whole, "1", *items[:2])
    keep(project, whole, "2", failed)
    keep(project, whole, "3", items[2], items[3])  # tried again, and recorded later
    left = Leftovers(project)
    assert len(project.reconcile(is_alive, left)) == 2
    catalog = project.catalog
    assert catalog.items(whole.id) == [replace(one, messages=()) for one in items]
    assert catalog.execution(items[0].id) == items[0]
    assert dict(catalog.item_metrics(whole.id, "rmse")) == {0: 0.0, 1: 0.5, 2: 1.0, 3: 1.5}
    assert catalog.by_keys([f"key-{whole.id}-3"])[f"key-{whole.id}-3"][0].id == items[3].id
    ended = catalog.execution(whole.id)
    assert (ended.state, ended.reason) == ("failed", "service-lost")
    fanout = ended.fanout
    assert fanout is not None
    assert (fanout.total, fanout.running, fanout.succeeded, fanout.failed) == (6, 0, 4, 0)
    assert (fanout.seconds, fanout.slowest, fanout.slowest_seconds) == (10.0, 3, 4.0)
    assert catalog.items(other.id) == []
    assert left.take_late() == []

    late = an_item(whole, 5, state="cancelled", reason="service-lost")
    keep(project, whole, "4", late)  # by a worker that has outlived its service for a moment
    (counted,) = left.take_late()
    assert counted.fanout is not None
    assert (counted.fanout.succeeded, counted.fanout.cancelled) == (4, 1)
    assert catalog.execution(whole.id) == counted
    assert [one.item for one in catalog.items(whole.id)] == [0, 1, 2, 3, 5]
    assert project.reconcile(is_alive) == []


def test_the_end_of_the_step_itself_stays_what_its_record_says(with_catalog: Project) -> None:
    project = with_catalog
    whole = a_fan_out(project, total=1)
    keep(project, whole, "1", an_item(whole, 0))
    fanout = FanOut(names=("x",), shape=(1,), total=1, succeeded=1, seconds=0.25)
    end = replace(whole, state="succeeded", ended=time.time_ns(), fanout=fanout)
    project.record(end)
    project.reconcile(is_alive)
    assert project.catalog.execution(whole.id) == replace(end, unseen=True)
    assert project.catalog.count_items(whole.id) == {"succeeded": 1}


def test_what_a_service_elsewhere_has_under_way_is_left_alone(with_catalog: Project) -> None:
    project = with_catalog
    host, _, rest = DEAD.partition("/")
    assert host == platform.node()
    theirs = a_fan_out(project, owner=f"{host}-2/{rest}")
    keep(project, theirs, "1", an_item(theirs, 0))
    assert project.reconcile(is_alive) == []
    assert project.catalog.execution(theirs.id) == theirs
    assert project.catalog.items(theirs.id) == []


def test_no_record_is_read_but_those_of_what_was_under_way(
    with_catalog: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = with_catalog
    before = a_fan_out(project)
    keep(project, before, "1", an_item(before, 0))
    project.reconcile(is_alive)
    whole = a_fan_out(project)
    keep(project, whole, "1", an_item(whole, 0))
    read: list[str] = []
    read_record = project.blobs.read_record

    def noted(piece: Piece, /) -> Json:
        read.append(piece.name)
        return read_record(piece)

    monkeypatch.setattr(project.blobs, "read_record", noted)
    left = Leftovers(project)
    project.reconcile(is_alive, left)
    left.take_late()
    assert [name.partition("-executions-")[2] for name in read] == [f"{whole.id}.1"]


def test_records_that_are_damaged_or_somebody_elses_are_passed_over(
    with_catalog: Project, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    project = with_catalog
    whole, other = a_fan_out(project), a_fan_out(project)
    for place in range(2):
        keep(project, whole, str(place), an_item(whole, place))
    keep(project, whole, "2", an_item(whole, 2), proof=False)
    keep(project, whole, "3", an_item(other, 3), an_item(whole, 4))
    read_record = project.blobs.read_record

    def damaged(piece: Piece, /) -> Json:
        if piece.name.endswith(f"{whole.id}.0"):
            raise StoreError("It is damaged.")
        return read_record(piece)

    monkeypatch.setattr(project.blobs, "read_record", damaged)
    project.reconcile(is_alive)
    assert [one.item for one in project.catalog.items(whole.id)] == [1, 4]
    assert project.catalog.items(other.id) == []
    assert "is not from here" in caplog.text
    assert "It is damaged" in caplog.text
