"""The catalog and the records of a store tell the same: what one lacks is named, and written again."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlbench.backends.memory import MemoryCatalog
from mlbench.core.errors import StoreError
from mlbench.core.ids import new_id
from mlbench.core.records import Execution, FanOut, Metric, Run
from mlbench.project import Project, care, find_store
from mlbench.project.care import agreement
from mlbench.project.copying import copy
from mlbench.project.indexing import fill_catalog
from mlbench.runs.artifacts import save_names
from mlbench.runs.retention import DAY, Rule
from mlbench.runs.wire import msgspec

NOTEBOOK: dict[str, Any] = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": []}
SAID = ({"output_type": "stream", "name": "stdout", "text": "hello"},)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "PAUSE", 0.0)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(find_store(store=str(tmp_path / "store")), catalog=MemoryCatalog())


@pytest.fixture
def run(project: Project) -> Run:
    """Record a run with a step that has bound, logged and said something, and with a fan-out of five items."""
    begun = project.begin_run(kind="papermill", notebook="/n/flights.ipynb", parameters={"origin": "JFK"})
    binds = tuple(save_names({"model": "m" * 5000}, ["model"], project.blobs))
    metrics = (Metric(name="rmse", value=11.5, time=3), Metric(name="loss", value=float("inf"), time=4))
    project.put_execution(a_step(begun, "train", binds=binds, metrics=metrics, messages=SAID))
    whole = a_step(begun, "score", fanout=FanOut(names=("i",), shape=(5,), total=5, succeeded=5))
    project.put_execution(whole)
    items = [a_step(begun, "score", part_of=whole.id, item=number, messages=SAID) for number in range(5)]
    for begin, end in ((0, 3), (3, 5)):
        told = {"executions": [msgspec.to_builtins(one) for one in items[begin:end]]}
        project.blobs.append("executions", f"{whole.id}-{begin}", told)
    project.catalog.put_executions(items)
    return project.end_run(begun, "succeeded", snapshot=project.snapshot(NOTEBOOK, parameters={"origin": "JFK"}))


def a_step(run: Run, step: str, **more: Any) -> Execution:
    given: dict[str, Any] = {
        "id": new_id(),
        "run": run.id,
        "step": step,
        "state": "succeeded",
        "started": 1,
        "ended": 2,
    }
    return Execution(**(given | more))


def the_records(project: Project, kind: str) -> list[Path]:
    return sorted((project.location.path / "records").rglob(f"*-{kind}-*"))


def damage_in(project: Project, **more: Any) -> list[tuple[str, bool, str, str | None]]:
    return [(one.kind, one.missing, one.problem, one.remedy) for one in care.verify(project, **more).damage]


def known_without_catalog(project: Project) -> dict[str, Any]:
    """Return all that a catalog knows that is made anew from the records."""
    anew = MemoryCatalog()
    assert fill_catalog(anew, project.blobs) == {}
    runs = {run.id: run for run in anew.runs_by_id()}
    return runs | {one.id: anew.execution(one.id) for one in anew.executions_by_id()}


def test_what_agrees_is_whole_and_is_looked_at_once(
    project: Project, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agreement, "_PAGE", 2)
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("nothing differs, and it waits"))
    assert care.verify(project).whole


@pytest.mark.parametrize(
    ("kind", "last", "problem"),
    [
        ("run", True, "how run {} (flights) ended"),
        ("execution", False, "how step train of run {} (flights) ended"),
        ("executions", False, "how 3 items of step score of run {} (flights) ended"),
        ("executions", True, "how 2 items of step score of run {} (flights) ended"),
        ("snapshot", False, "what run {} (flights) was run from"),
    ],
)
@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:40])])
def test_a_record_that_is_gone_or_damaged_is_named_and_written_again_from_the_catalog(
    project: Project, run: Run, kind: str, last: bool, problem: str, spoil: Callable[[Path], Any]
) -> None:
    before = known_without_catalog(project)
    spoil(the_records(project, kind)[-1 if last else 0])
    ((told, missing, sentence, remedy),) = damage_in(project)
    assert told == "record"
    if missing:
        assert problem.format(run.id[:4]) in sentence
    assert remedy is not None
    assert "`mlbench store verify --repair`" in remedy
    repaired = care.verify(project, repair=True)
    assert [one.repaired for one in repaired.damage] == [True]
    assert care.verify(project).damage == []
    assert known_without_catalog(project) == before


@pytest.mark.parametrize("kind", ["execution", "executions", "snapshot"])
def test_nothing_is_freed_while_a_record_is_missing_since_what_it_needs_would_be(
    project: Project, run: Run, kind: str
) -> None:
    the_records(project, kind)[0].unlink()
    with pytest.raises(StoreError, match="Nothing is freed while a record is missing") as refused:
        care.plan(project, [], alive=lambda _: False, now=time.time_ns() + 5 * DAY)
    assert f"of run {run.id[:4]}" in str(refused.value) or f"what run {run.id[:4]}" in str(refused.value)
    assert refused.value.remedy == "Write it again with `mlbench store verify --repair`."
    assert care.verify(project, repair=True).whole
    care.free(project, care.plan(project, [], alive=lambda _: False, now=time.time_ns() + 5 * DAY))
    assert care.verify(project).whole


def test_a_snapshot_of_which_nothing_is_left_is_named_and_holds_back_nothing(project: Project, run: Run) -> None:
    assert run.snapshot is not None
    the_records(project, "snapshot")[0].unlink()
    (project.location.path / "objects" / run.snapshot[7:9] / run.snapshot[7:]).unlink()
    project.catalog.delete_snapshots([run.snapshot])
    found = care.verify(project, repair=True)
    assert [(one.kind, one.missing, one.remedy) for one in found.damage if one.kind == "record"] == [
        ("record", True, None)
    ]
    assert not found.whole
    assert care.plan(project, [], alive=lambda _: False).runs == []


def test_all_records_may_be_gone(project: Project, run: Run) -> None:
    before = known_without_catalog(project)
    for record in the_records(project, "*"):
        record.unlink()
    assert len(damage_in(project)) == 4  # the run, two steps, the items of one
    assert care.verify(project, repair=True).whole
    assert len(damage_in(project)) == 1  # what it was run from is known now
    assert care.verify(project, repair=True).whole
    assert care.verify(project).damage == []
    assert known_without_catalog(project) == before


def test_a_damaged_record_of_a_begin_is_removed_since_the_end_says_more(project: Project, run: Run) -> None:
    the_records(project, "run")[0].write_bytes(b'{"\n')
    assert care.verify(project, repair=True).whole
    assert care.verify(project).damage == []
    assert len(the_records(project, "run")) == 1


def test_what_the_catalog_cannot_stand_for_is_left(project: Project, run: Run) -> None:
    project.catalog.delete_runs([run.id])
    the_records(project, "execution")[0].write_bytes(b"{")
    the_records(project, "executions")[0].write_bytes(b"{")
    found = care.verify(project, repair=True)
    assert [one.kind for one in found.damage if not one.repaired] == ["record", "record", "catalog"]
    assert len(the_records(project, "execution")) == 2


def test_a_record_is_fetched_from_another_store_that_has_it(project: Project, run: Run, tmp_path: Path) -> None:
    other = Project(find_store(store=str(tmp_path / "other")), catalog=MemoryCatalog())
    copy(project, other)
    for kind in ("run", "execution", "executions", "snapshot"):
        gone = the_records(project, kind)[0]
        gone.unlink()
    before = {path.name: path.read_bytes() for path in the_records(other, "*")}
    assert care.verify(project, repair_from=other).whole
    assert care.verify(project).damage == []
    for path in the_records(project, "*"):
        assert path.read_bytes() == before[path.name]


def test_half_of_the_items_in_another_store_are_not_taken_for_all(project: Project, run: Run, tmp_path: Path) -> None:
    other = Project(find_store(store=str(tmp_path / "other")), catalog=MemoryCatalog())
    copy(project, other)
    the_records(other, "executions")[0].unlink()
    for record in the_records(project, "executions"):
        record.unlink()
    assert not care.verify(project, repair_from=other).whole
    assert care.verify(project, repair_from=other, repair=True).whole


def test_what_records_tell_and_the_catalog_lacks_is_named(project: Project, run: Run) -> None:
    known, lacking = project.catalog, MemoryCatalog()
    lacking.put_run(known.run(run.id))
    project._catalog = lacking
    ((kind, _, sentence, remedy),) = damage_in(project)
    assert (kind, sentence) == (
        "catalog",
        f"It lacks what records tell: 7 steps and items of run {run.id[:4]} (flights).",
    )
    assert remedy == "`mlbench store reindex` makes it anew from the records."
    project._catalog = MemoryCatalog()
    assert f"It lacks what records tell: 1 run (run {run.id[:4]} (flights))." in str(damage_in(project))
    fill_catalog(project._catalog, project.blobs)
    assert care.verify(project).damage == []


def test_records_are_repaired_before_the_catalog_is_made_anew(project: Project, run: Run) -> None:
    the_records(project, "execution")[0].unlink()
    project.record(a_step(run, "late"))
    *_, (kind, _, _, remedy) = damage_in(project)
    assert kind == "catalog"
    assert remedy == "Once the records are repaired, `mlbench store reindex` makes it anew from the records."


def test_what_is_under_way_is_not_compared(project: Project) -> None:
    run = project.begin_run(kind="interactive", notebook="/n/flights.ipynb")
    project.catalog.put_execution(a_step(run, "train", state="running", ended=None))
    project.record(a_step(run, "load"))  # its service is about to tell the catalog, or the next one does
    assert care.verify(project).damage == []


def test_what_ends_meanwhile_is_no_damage(project: Project, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    late = a_step(run, "late")
    looked = project.catalog.runs_by_id

    def ends_first(**given: Any) -> list[Run]:
        monkeypatch.undo()
        monkeypatch.setattr(agreement.time, "sleep", lambda _: project.put_execution(early, recorded=True))
        project.put_execution(late)  # after the records were read
        return looked(**given)

    early = a_step(run, "early")
    project.record(early)  # its record is there already, the catalog knows of it in a moment
    monkeypatch.setattr(project.catalog, "runs_by_id", ends_first)
    assert care.verify(project).damage == []


def test_what_is_freed_meanwhile_is_no_damage(project: Project, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def freed(_: float) -> None:
        for kind in ("run", "execution", "executions"):
            for record in the_records(project, kind):
                record.unlink()

    project.catalog.delete_runs([run.id])  # first, as `gc` does
    monkeypatch.setattr(agreement.time, "sleep", freed)
    assert [one for one in damage_in(project) if one[0] != "object"] == []


def test_what_others_have_freed_stays_in_a_catalog_of_ones_own_and_is_said(tmp_path: Path) -> None:
    location = find_store(store=str(tmp_path / "store"))
    apart = replace(location, catalog_url=f"sqlite:///{tmp_path}/apart/catalog.sqlite")
    project = Project(apart, catalog=MemoryCatalog())
    assert project.catalog_is_apart
    assert not Project(location, catalog=MemoryCatalog()).catalog_is_apart
    old = project.begin_run(kind="papermill", notebook="/n/old.ipynb", started=1)
    project.put_execution(a_step(old, "train"))
    project.end_run(old, "succeeded", ended=2)
    others = Project(location, catalog=MemoryCatalog())
    fill_catalog(others.catalog, others.blobs)
    care.free(others, care.plan(others, [Rule(age=1)], alive=lambda _: False, now=time.time_ns() + 5 * DAY))
    found = care.verify(project, repair=True)
    assert found.damage == []
    (note,) = found.notes
    assert "still has 1 run of which the store has no record any more: `mlbench store reindex`" in note


def test_a_damaged_catalog_costs_nothing_but_the_comparison(tmp_path: Path) -> None:
    def opened() -> Project:
        return Project(find_store(store=str(tmp_path / "store")))

    project = opened()
    assert care.verify(project).damage == []  # there is nothing yet
    run = project.begin_run(kind="papermill", notebook="/n/flights.ipynb")
    project.end_run(run, "succeeded", snapshot=project.snapshot(NOTEBOOK))
    project.close()
    catalog = tmp_path / "store" / "catalog.sqlite"
    whole = catalog.read_bytes()
    snapshot = the_records(project, "snapshot")[0]
    snapshot.unlink()
    for content, said in (
        (b"?" * len(whole), "is no catalog"),
        (whole[:5000], "is damaged"),
        (whole[:4096] + b"\xff" * 4096 + whole[8192:], "is damaged"),
        (b"", "is gone"),
        (None, "is gone"),
    ):
        catalog.unlink(missing_ok=True)
        if content is not None:
            catalog.write_bytes(content)
        found = care.verify(opened(), repair=True)
        (one,) = (one for one in found.damage if one.kind == "catalog")
        assert said in one.problem
        assert one.name == str(catalog)
        assert one.remedy == "`mlbench store reindex` makes it anew from the records."
        assert (catalog.read_bytes() if catalog.exists() else None) == content, "it is looked at, not made"
    assert the_records(project, "snapshot"), "what needs no catalog is repaired"
