"""What takes care of a store: names what is damaged, frees what nobody needs and nothing else, copies, measures."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlbench.backends.memory import MemoryCatalog
from mlbench.core.errors import NotFound, StoreError
from mlbench.core.ids import Digest, ExecutionId, JobId, RunId, new_id
from mlbench.core.records import Execution, Job, JobVersion, Metric, Run
from mlbench.project import Project, care, find_store
from mlbench.project.comparison import lineage
from mlbench.project.copying import copy
from mlbench.project.indexing import fill_catalog, reindex
from mlbench.runs.artifacts import Loader, save_lists, save_names
from mlbench.runs.retention import DAY, Rule
from mlbench.runs.values import pack

NOTEBOOK: dict[str, Any] = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": []}
OLD = time.time_ns() - 10 * DAY
SHORT = [Rule(age=3 * 86_400)]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(find_store(store=str(tmp_path / "store")), catalog=MemoryCatalog())


@pytest.fixture
def other(tmp_path: Path) -> Project:
    return Project(find_store(store=str(tmp_path / "other")), catalog=MemoryCatalog())


def a_run(project: Project, ended: int = OLD, *, tags: dict[str, str] | None = None, **namespace: Any) -> Run:
    """Record a run with one step that has bound a namespace, and that ended at a time."""
    run = project.begin_run(kind="papermill", notebook="/n/flights.ipynb", started=ended - 1, tags=tags or {})
    binds = tuple(save_names(namespace, namespace, project.blobs))
    execution = Execution(
        id=new_id(),  # type: ignore[arg-type]
        run=run.id,
        step="train",
        state="succeeded",
        started=ended - 1,
        binds=binds,
    )
    project.put_execution(execution)
    return project.end_run(run, "succeeded", snapshot=snapshot_of(project, run.id), ended=ended)


def snapshot_of(project: Project, name: str) -> Digest:
    return project.snapshot({**NOTEBOOK, "metadata": {"name": name}})


def digest_of(project: Project, run: Run, name: str) -> Digest:
    (execution,) = project.catalog.executions(run.id)
    (digest,) = [bind.artifact.digest for bind in execution.binds if bind.name == name and bind.artifact is not None]
    return digest


def files(project: Project, kind: str = "*") -> Iterator[Path]:
    for folder in ("objects/*", "packs"):
        yield from project.location.path.glob(f"{folder}/{kind}")


def age(project: Project, days: float = 5) -> None:
    """Have everything been stored so many days ago."""
    moment = time.time() - days * 86_400
    for path in (*files(project), *(project.location.path / "tmp").iterdir()):
        os.utime(path, (moment, moment))


def file_of(project: Project, digest: Digest) -> Path:
    (path,) = files(project, digest[7:])
    return path


def dead(_: str | None) -> bool:
    return False


def value_of(project: Project, run: Run, name: str) -> Any:
    (execution,) = project.catalog.executions(run.id)
    return Loader(project.blobs).load(next(bind for bind in execution.binds if bind.name == name))


def gc(project: Project, rules: Any = SHORT, **more: Any) -> tuple[care.Plan, int]:
    decided = care.plan(project, rules, alive=more.pop("alive", dead), **more)
    return decided, care.free(project, decided)


# --- gc ---------------------------------------------------------------------------------------------------------------


def test_without_rules_only_what_no_run_needs_is_freed(project: Project) -> None:
    run = a_run(project, model=np.arange(5000))
    project.blobs.put(b"nobody needs this")
    age(project)
    decided, freed = gc(project, [])
    assert (len(decided.runs), len(decided.objects), freed) == (0, 1, len(b"nobody needs this"))
    assert value_of(project, run, "model").sum() == 5000 * 4999 // 2
    assert care.verify(project).whole


def test_a_run_past_its_age_goes_with_what_it_alone_needs(project: Project) -> None:
    old = a_run(project, mine=np.arange(5000), both="shared" * 50)
    new = a_run(project, time.time_ns(), both="shared" * 50)
    mine = digest_of(project, old, "mine")
    age(project)
    decided = care.plan(project, SHORT, alive=dead)
    assert [run.id for run in decided.runs] == [old.id]
    assert project.blobs.has(mine), "a plan changes nothing"
    before = sum(path.stat().st_size for path in project.location.path.rglob("*") if path.is_file())
    freed = care.free(project, decided)
    after = sum(path.stat().st_size for path in project.location.path.rglob("*") if path.is_file())
    assert freed == decided.bytes == before - after
    assert not project.blobs.has(mine)
    with pytest.raises(NotFound):
        project.catalog.run(old.id)
    assert [record["id"] for record in project.blobs.records("run")] == [new.id] * 2
    assert value_of(project, new, "both") == "shared" * 50
    assert care.verify(project).whole


def test_what_was_stored_or_met_within_a_day_stays(project: Project) -> None:
    a_run(project, model="x" * 100)
    loose, met = project.blobs.put(b"loose"), project.blobs.put(b"met")
    age(project)
    young = project.blobs.put(b"young")
    decided = care.plan(project, [], alive=dead)
    project.blobs.put(b"met")  # between the plan and the deed
    care.free(project, decided)
    assert [project.blobs.has(one) for one in (loose, met, young)] == [False, True, True]


def test_what_is_touched_or_recorded_between_the_passes_stays(project: Project) -> None:
    old = a_run(project, model="m" * 100, other="o" * 100)
    model, other = digest_of(project, old, "model"), digest_of(project, old, "other")
    binds = project.catalog.executions(old.id)[0].binds
    age(project)
    decided = care.plan(project, SHORT, alive=dead)
    assert project.blobs.touch([other])
    new = project.begin_run(kind="papermill", notebook="/n/again.ipynb")
    project.put_execution(
        Execution(id=new_id(), run=new.id, step="train", state="reused", binds=binds[:1])  # type: ignore[arg-type]
    )
    care.free(project, decided)
    assert project.blobs.has(model)
    assert project.blobs.has(other)


def test_a_run_of_which_a_kept_one_has_reused_a_step_stays_and_its_lineage_is_whole(project: Project) -> None:
    old, other = a_run(project, model="m" * 100), a_run(project, model="o" * 100)
    (made,) = project.catalog.executions(old.id)
    new = project.begin_run(kind="papermill", notebook="/n/again.ipynb")
    project.put_execution(replace(made, id=ExecutionId(new_id()), run=new.id, state="reused", reused_from=made.id))
    project.end_run(new, "succeeded")
    age(project)
    decided, _ = gc(project)
    assert [run.id for run in decided.runs] == [other.id]
    assert [run.id for run in decided.reused] == [old.id]
    assert [one.id for one in lineage(project, new.id, made.step, "model").executions] == [made.id]
    with pytest.raises(NotFound):
        lineage(project, other.id, made.step, "model")


def test_a_run_that_is_met_after_the_last_look_stays_with_all_that_it_needs(project: Project) -> None:
    old, other = a_run(project, model="m" * 100), a_run(project, model="o" * 100)
    (made,) = project.catalog.executions(old.id)
    kept = [digest_of(project, old, "model"), old.snapshot]
    age(project)
    new = project.begin_run(kind="papermill", notebook="/n/again.ipynb")
    decided = care.plan(project, SHORT, alive=dead)
    assert {run.id for run in decided.runs} == {old.id, other.id}
    forget = project.catalog.delete_runs

    def met_just_now(runs: Any, **more: Any) -> set[RunId]:
        assert project.catalog.meet_runs([old.id], time.time_ns()) == {old.id}
        return forget(runs, **more)

    project.catalog.delete_runs = met_just_now  # type: ignore[method-assign]
    care.free(project, decided)
    project.put_execution(replace(made, id=ExecutionId(new_id()), run=new.id, state="reused", reused_from=made.id))
    project.end_run(new, "succeeded")
    assert {run.id for run in project.catalog.runs()} == {old.id, new.id}
    assert [one.id for one in lineage(project, new.id, made.step, "model").executions] == [made.id]
    assert all(digest is not None and project.blobs.has(digest) for digest in kept)
    assert care.verify(project).whole
    assert project.catalog.meet_runs([other.id], time.time_ns()) == set(), "whoever comes too late runs the step"


def test_a_run_that_somebody_has_met_is_said_to_stay_with_what_it_has_reused(project: Project) -> None:
    old, met, gone = (a_run(project, model=letter * 100) for letter in "mno")
    (made,) = project.catalog.executions(old.id)
    project.put_execution(replace(made, id=ExecutionId(new_id()), run=met.id, state="reused", reused_from=made.id))
    age(project)
    project.catalog.meet_runs([met.id], time.time_ns() - DAY // 2)
    decided, _ = gc(project)
    assert [[run.id for run in them] for them in (decided.runs, decided.held, decided.reused)] == [
        [gone.id],
        [met.id],
        [old.id],
    ]
    assert [one["id"] for one in decided.as_json()["held"]] == [met.id]
    assert care.verify(project).whole
    assert project.blobs.has(digest_of(project, old, "model"))


def test_a_run_that_is_kept_stays_until_it_is_no_longer(project: Project) -> None:
    run = a_run(project, model="x" * 100)
    age(project)
    care.keep(project, run.id[:6])
    assert gc(project)[0].runs == []
    care.keep(project, run.id, kept=False)
    assert [one.id for one in gc(project)[0].runs] == [run.id]


def test_a_run_under_way_stays_and_holds_back_what_was_stored_since(project: Project) -> None:
    begun = project.begin_run(kind="interactive", notebook="/n/open.ipynb", started=time.time_ns() - 6 * DAY)
    captured = project.blobs.put(b"captured, and in no record yet")
    age(project)
    decided, _ = gc(project, alive=lambda _: True)
    assert [run.id for run in decided.under_way] == [begun.id]
    assert decided.young > 0
    assert project.blobs.has(captured)
    assert gc(project, alive=dead)[0].runs == []
    assert not project.blobs.has(captured)
    assert project.catalog.run(begun.id).state == "running"


def test_a_step_that_waits_in_the_queue_needs_what_it_was_given(project: Project) -> None:
    old = a_run(project, model="x" * 100)
    model = digest_of(project, old, "model")
    begun = project.begin_run(kind="papermill", notebook="/n/new.ipynb")
    (binding,) = project.catalog.executions(old.id)[0].binds
    queued = Execution(id=new_id(), run=begun.id, step="score", state="queued", binds=(binding,))  # type: ignore[arg-type]
    project.catalog.put_execution(queued)
    age(project)
    gc(project)
    assert project.blobs.has(model)


def test_a_job_needs_the_snapshots_of_all_its_versions(project: Project) -> None:
    first, second = snapshot_of(project, "first"), snapshot_of(project, "second")
    loose = snapshot_of(project, "loose")
    for number, digest in enumerate((first, second), 1):
        project.blobs.append("job-version", f"abcd-{number}", {"job": "abcd", "number": number, "snapshot": digest})
    age(project)
    decided, _ = gc(project, now=time.time_ns() + 2 * DAY)
    assert decided.snapshots == [loose]
    for digest in (first, second):
        assert project.blobs.has(project.catalog.snapshot(digest).notebook)
    assert not project.blobs.has(loose)
    assert care.verify(project).whole


def test_a_snapshot_that_was_met_again_keeps_what_it_is_made_of(project: Project) -> None:
    run = a_run(project)
    assert run.snapshot is not None
    notebook = project.catalog.snapshot(run.snapshot).notebook
    age(project)
    project.blobs.touch([run.snapshot])  # as by a kernel that goes on, and has said no more yet
    gc(project)
    project.put_run(run)
    assert care.verify(project).whole
    assert project.catalog.snapshot(run.snapshot).notebook == notebook


def a_fan_out(project: Project, ended: int, values: list[Any]) -> Run:
    run = project.begin_run(kind="papermill", notebook="/n/fan.ipynb", started=ended - 1)
    packed = [pack(value) for value in values]
    project.blobs.put_pack([(one.digest, one.parts) for one in packed])
    items = [save_names({"loss": value}, ["loss"], _Forgetful())[0] for value in values]  # type: ignore[arg-type]
    (binding,) = save_lists({"loss": items}, project.blobs)
    step = Execution(id=new_id(), run=run.id, step="train", state="succeeded", binds=(binding,))  # type: ignore[arg-type]
    project.put_execution(step)
    return project.end_run(run, "succeeded", ended=ended)


class _Forgetful:
    def put_all(self, *_: Any, **__: Any) -> None:
        """Keep nothing."""


def packs(project: Project) -> list[Path]:
    return list((project.location.path / "packs").iterdir())


def test_a_pack_of_which_less_than_half_is_needed_is_made_anew(project: Project) -> None:
    texts = [f"{number:03}" * 100 for number in range(20)]
    a_fan_out(project, OLD, texts)
    kept = a_fan_out(project, time.time_ns(), texts[:4])
    (before,) = packs(project)
    size = before.stat().st_size
    age(project)
    decided, freed = gc(project)
    assert len(decided.repacked) == 1
    assert freed > size // 2
    (after,) = packs(project)
    assert after != before
    assert after.stat().st_size < size // 3
    assert value_of(project, kept, "loss") == texts[:4]
    assert care.verify(project).whole


def test_a_list_keeps_its_items_and_a_pack_that_nobody_needs_goes(project: Project) -> None:
    run = a_fan_out(project, time.time_ns(), [f"{number:03}" * 100 for number in range(5)])
    project.blobs.put_pack([(one.digest, one.parts) for one in (pack("other" * 9), pack("another" * 9))])
    age(project)
    decided, _ = gc(project)
    assert (len(decided.packs), len(decided.repacked)) == (1, 0)
    assert len(packs(project)) == 1
    assert value_of(project, run, "loss")[4] == "004" * 100


def test_nothing_is_freed_while_a_record_or_a_list_cannot_be_read(project: Project) -> None:
    run = a_fan_out(project, time.time_ns(), ["a" * 100, "b" * 100])
    loose = project.blobs.put(b"loose")
    age(project)
    path = file_of(project, digest_of(project, run, "loss"))
    whole = path.read_bytes()
    flip(path, whole.index(b'"items"'))
    with pytest.raises(StoreError, match="list of artifacts is damaged"):
        gc(project)
    path.unlink()
    with pytest.raises(StoreError, match="list of artifacts is damaged or gone"):
        gc(project)
    path.write_bytes(whole)
    record = max((project.location.path / "records").rglob("*-run-*"))
    text = record.read_bytes()
    record.write_bytes(text[:40])
    with pytest.raises(StoreError, match="a record cannot be read"):
        gc(project)
    assert project.blobs.has(loose)
    record.write_bytes(text)
    age(project)
    gc(project)
    assert not project.blobs.has(loose)


def test_what_killed_writers_left_is_swept_after_a_day_and_what_a_killed_gc_took_is_put_back(project: Project) -> None:
    digest = project.blobs.put(b"needed")
    project.blobs.append("job-version", "abcd-1", {"job": "abcd", "number": 1, "snapshot": digest})
    temporary = project.location.path / "tmp"
    (temporary / "half").write_bytes(b"x" * 1000)
    age(project)
    (temporary / "young").write_bytes(b"x")
    file_of(project, digest).rename(temporary / f"freed-object-{digest[7:]}")
    decided, freed = gc(project)
    assert decided.leftovers == freed == 1000
    assert [path.name for path in temporary.iterdir()] == ["young"]
    assert project.blobs.get(digest) == b"needed"


# --- verify -----------------------------------------------------------------------------------------------------------


def flip(path: Path, place: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 255
    path.write_bytes(data)


def test_damage_is_named_with_the_runs_steps_and_names_that_need_it(project: Project) -> None:
    run = a_run(project, model="m" * 100, data="d" * 100)
    assert care.verify(project).damage == []
    flip(file_of(project, digest_of(project, run, "model")))
    file_of(project, digest_of(project, run, "data")).unlink()
    found = care.verify(project)
    assert not found.whole
    assert [(one.kind, [str(use) for use in one.needed_by]) for one in found.damage] == [
        ("object", [f"run {run.id[:8]} step train model"]),
        ("object", [f"run {run.id[:8]} step train data"]),
    ]
    assert "not in the store" in found.damage[1].problem


def test_who_needs_something_damaged_is_named_once_though_it_is_bound_and_logged(project: Project) -> None:
    run = project.begin_run(kind="papermill", notebook="/n/flights.ipynb")
    (bound,) = save_names({"model": "m" * 5000}, ["model"], project.blobs)
    assert bound.artifact is not None
    logged = replace(bound, artifact=replace(bound.artifact, preview={"kind": "file"}))
    step = Execution(
        id=ExecutionId(new_id()), run=run.id, step="train", state="succeeded", binds=(bound,), artifacts=(logged,)
    )
    project.put_execution(step)
    project.end_run(run, "succeeded")
    file_of(project, bound.artifact.digest).unlink()
    (damage,) = care.verify(project).damage
    assert [str(use) for use in damage.needed_by] == [f"run {run.id[:8]} step train model"]


def test_a_damaged_record_and_a_missing_notebook_are_named(project: Project) -> None:
    run = a_run(project)
    assert run.snapshot is not None
    file_of(project, project.catalog.snapshot(run.snapshot).notebook).unlink()
    record = next((project.location.path / "records").rglob("*-execution-*"))
    record.write_bytes(record.read_bytes()[:30])
    found = care.verify(project)
    assert [one.kind for one in found.damage] == ["record", "object"]
    assert str(found.damage[1].needed_by[0]) == f"run {run.id[:8]} notebook"


def spoiled(project: Project, kind: str, old: bytes, new: bytes) -> str:
    """Write a record of a kind with something else in it, as it was before records had digests; return its name."""
    record = max((project.location.path / "records").rglob(f"*-{kind}-*"))
    text = record.read_bytes().partition(b"\n")[0]
    assert old in text
    record.write_bytes(text.replace(old, new))
    return record.relative_to(project.location.path / "records").as_posix().removesuffix(".json")


@pytest.mark.parametrize(
    ("kind", "old", "new"),
    [
        ("execution", b'"train"', b'"tr\xe1in"'),
        ("execution", b'"state"', b'"st\xe1te"'),
        ("execution", b'"train"', b"5"),
        ("execution", b'"run":', b'"ran":'),
        ("execution", b'"metrics":[', b'"metrics":[{"name":"a","value":"x"}'),
        ("execution", b'"attempt":1', b'"attempt":99999999999999999999'),
        ("execution", b'"metrics":[', b'"metrics":[{"name":"a","value":1.0,"step":9223372036854775808}'),
        ("run", b'"papermill"', b'"papermull"'),
        ("run", b'"record":"run"', b'"record":["run"]'),
        ("run", b'"parameters":{', b'"parameters":{"deep":' + b"[" * 100_000 + b"]" * 100_000 + b"}{"),
    ],
)
def test_a_record_with_anything_wrong_in_it_costs_itself_alone_and_every_care_goes_on(
    project: Project, other: Project, kind: str, old: bytes, new: bytes
) -> None:
    a_run(project, model="m")
    name = spoiled(project, kind, old, new)
    whole = a_run(project, model="n")
    fresh = MemoryCatalog()
    assert list(fill_catalog(fresh, project.blobs)) == [name]
    assert whole.id in {run.id for run in fresh.runs()}
    assert [one.name for one in care.verify(project).damage if one.kind == "record"] == [name]
    assert list(copy(project, other).damaged) == [name]
    assert whole.id in {run.id for run in other.catalog.runs()}
    assert care.use(project)[0].total > 0
    with suppress(StoreError):  # nothing is freed where it is not known what is needed
        care.plan(project, SHORT, alive=dead)


def test_a_record_of_which_a_number_was_changed_is_damaged_and_fetched_from_another_store(
    project: Project, other: Project
) -> None:
    run = project.begin_run(kind="papermill", notebook="/n/n.ipynb")
    project.end_run(run, "succeeded", metrics=[Metric(name="rmse", value=11.5)])
    copy(project, other)
    record = max((project.location.path / "records").rglob("*-run-*"))
    record.write_bytes(record.read_bytes().replace(b"11.5", b"19.5"))
    (damage,) = care.verify(project).damage
    assert damage.kind == "record"
    assert "its content is not what its digest says" in damage.problem
    fresh = MemoryCatalog()
    assert len(fill_catalog(fresh, project.blobs)) == 1
    assert care.verify(project, repair_from=other).whole
    fill_catalog(fresh, project.blobs)
    assert fresh.run(run.id).metrics[0].value == 11.5


def test_what_another_store_has_whole_is_fetched_from_it(project: Project, tmp_path: Path) -> None:
    run = a_run(project, model="m" * 100, data="d" * 100, lost="l" * 100)
    fan = a_fan_out(project, OLD, ["a" * 100, "b" * 100, "c" * 100])
    shutil.copytree(project.location.path, tmp_path / "backup")
    backup = Project(find_store(store=str(tmp_path / "backup")), catalog=MemoryCatalog())
    for name in ("model", "data", "lost"):
        path = file_of(project, digest_of(project, run, name))
        path.unlink() if name == "data" else flip(path)
    file_of(backup, digest_of(project, run, "lost")).unlink()
    (pack_file,) = packs(project)
    flip(pack_file, pack_file.read_bytes().index(b"bbbb"))
    record = max((project.location.path / "records").rglob("*-run-*"))
    record.write_bytes(b"{")
    found = care.verify(project, repair_from=backup)
    assert not found.whole
    assert [str(use) for one in found.damage if not one.repaired for use in one.needed_by] == [
        f"run {run.id[:8]} step train lost"
    ]
    again = care.verify(project)
    assert len(again.damage) == 1
    assert value_of(project, fan, "loss") == ["a" * 100, "b" * 100, "c" * 100]
    assert value_of(project, run, "model") == "m" * 100


@pytest.mark.parametrize("has_pack", [True, False])
def test_a_pack_without_an_index_is_repaired_from_a_pack_or_from_objects(
    project: Project, other: Project, has_pack: bool
) -> None:
    texts = ["a" * 100, "b" * 100]
    fan = a_fan_out(project, OLD, texts)
    if has_pack:
        copy(project, other)
    else:
        other.blobs.put_all([(one.digest, one.parts) for one in map(pack, texts)])
    (pack_file,) = packs(project)
    flip(pack_file)
    assert {one.kind for one in care.verify(project).damage} == {"pack", "object"}
    assert care.verify(project, repair_from=other).whole
    assert care.verify(project).damage == []
    assert value_of(project, fan, "loss") == texts


# --- copy -------------------------------------------------------------------------------------------------------------


def test_a_copy_holds_everything_and_a_second_one_copies_nothing(project: Project, other: Project) -> None:
    run, fan = a_run(project, model=np.arange(50_000)), a_fan_out(project, OLD, ["a" * 100, "b" * 100])
    mine = a_run(other, own="o")
    done = copy(project, other)
    assert done.damaged == {}
    assert (done.objects, done.packs) == (len(list(files(project))) - 1, 1)
    again = copy(project, other)
    assert (again.objects, again.packs, again.records, again.bytes) == (0, 0, 0, 0)
    assert care.verify(other).whole
    assert value_of(other, run, "model")[-1] == 49_999
    assert value_of(other, fan, "loss") == ["a" * 100, "b" * 100]
    assert {one.id for one in other.catalog.runs()} == {run.id, fan.id, mine.id}
    fresh = MemoryCatalog()
    assert fill_catalog(fresh, other.blobs) == {}
    assert [one.id for one in fresh.runs()] == [one.id for one in other.catalog.runs()]


def test_a_copy_names_what_is_damaged_and_replaces_what_is_cut(project: Project, other: Project) -> None:
    run = a_run(project, model="m" * 100, data="d" * 100)
    copy(project, other)
    flip(file_of(project, digest_of(project, run, "model")))
    file_of(other, digest_of(project, run, "model")).unlink()
    os.truncate(file_of(other, digest_of(project, run, "data")), 10)
    done = copy(project, other)
    assert list(done.damaged) == [digest_of(project, run, "model")]
    assert value_of(other, run, "data") == "d" * 100


def a_job(**more: Any) -> Job:
    version = JobVersion(number=1, snapshot=Digest("blake3:" + "a" * 64))
    given: dict[str, Any] = {"id": new_id(), "name": "nightly", "notebook": "/n.ipynb", "version": version}
    return Job(**(given | {"cron": "0 6 * * *", "timezone": "UTC", "next_due": 21_600} | more))


def record_job(project: Project, job: Job) -> None:
    from dataclasses import asdict

    version = {"job": job.id, **asdict(job.version)}
    project.blobs.append("job-version", f"{job.id}-{job.version.number}", version)
    project.blobs.append("job", job.id, asdict(job))
    project.catalog.put_job(job)


def test_a_scheduled_job_comes_paused_and_one_that_is_there_stays_as_it_is(project: Project, other: Project) -> None:
    new, known = a_job(), a_job(name="known")
    for job in (new, known):
        record_job(project, job)
    record_job(other, known)
    assert copy(project, other).paused == ["nightly"]
    assert other.catalog.job(new.id).paused
    assert other.catalog.job(new.id).name == "nightly"
    assert [version.number for version in other.catalog.job_versions(new.id)] == [1]
    assert not other.catalog.job(known.id).paused
    fresh = MemoryCatalog()
    fill_catalog(fresh, other.blobs)
    assert fresh.job(new.id).paused


# --- the catalog ------------------------------------------------------------------------------------------------------


def test_a_job_of_a_catalog_made_anew_is_due_after_the_last_time_that_it_ran_for(project: Project) -> None:
    job = a_job()
    record_job(project, job)
    run = project.begin_run(kind="job", notebook="/n.ipynb", job=JobId(job.id), due=3 * 86_400 + 21_600)
    project.end_run(run, "succeeded")
    fresh = MemoryCatalog()
    fill_catalog(fresh, project.blobs)
    found = fresh.job(job.id)
    assert (found.last_due, found.next_due) == (3 * 86_400 + 21_600, 4 * 86_400 + 21_600)


def test_a_record_that_cannot_be_read_costs_itself_alone(project: Project) -> None:
    run, lost = a_run(project), a_run(project)
    for path in (project.location.path / "records").rglob(f"*-run-{lost.id}*.json"):
        path.write_bytes(b'"?"\n')
    fresh = MemoryCatalog()
    assert len(fill_catalog(fresh, project.blobs)) == 2
    assert [one.id for one in fresh.runs()] == [run.id]


def test_a_lost_catalog_is_made_anew_and_one_that_is_in_use_is_not_replaced(tmp_path: Path) -> None:
    project = Project(find_store(store=str(tmp_path / "store")))
    run = a_run(project, model="m")
    job = a_job()
    record_job(project, job)
    from mlbench.core.records import Firing

    project.catalog.add_firing(Firing(job=JobId(job.id), due=5, state="queued"))
    second = Project(project.location)
    assert second.catalog.count_runs() == 1
    with pytest.raises(StoreError, match="is in use"):
        reindex(project)
    second.close()
    assert reindex(project) == ({}, True)
    assert project.catalog.run(RunId(run.id)).state == "succeeded"
    assert [firing.due for firing in project.catalog.firings()] == [5]
    project.close()
    (tmp_path / "store" / "catalog.sqlite").write_bytes(b"no catalog" * 1000)
    assert reindex(project) == ({}, False)
    assert project.catalog.count_runs() == 1
    assert value_of(project, run, "model") == "m"
    project.close()


def test_a_catalog_of_a_later_version_is_not_made_anew_by_this_one(tmp_path: Path) -> None:
    project = Project(find_store(store=str(tmp_path / "store")))
    a_run(project)
    project.close()
    file = tmp_path / "store" / "catalog.sqlite"
    with closing(sqlite3.connect(file)) as raw, raw:
        raw.execute("UPDATE alembic_version SET version_num = '0099'")
    with pytest.raises(StoreError, match=r"newer version of mlbench \(its revision is 0099.*Update mlbench"):
        reindex(project)
    with closing(sqlite3.connect(file)) as raw:
        assert raw.execute("SELECT version_num FROM alembic_version").fetchone() == ("0099",)
        assert raw.execute("SELECT count(*) FROM runs").fetchone() == (1,)
    assert [path.name for path in file.parent.glob("catalog*.backup*")] == []


# --- du ---------------------------------------------------------------------------------------------------------------


def test_what_several_use_counts_once_and_what_nobody_uses_is_said(project: Project) -> None:
    first = a_run(project, mine="1" * 10_000, both="b" * 20_000)
    second = a_run(project, both="b" * 20_000)
    project.blobs.put(b"x" * 777)
    found, records = care.use(project, "name")
    shares = {share.group: share for share in found.shares}
    assert shares["train.mine"].own > 10_000
    assert shares["train.both"].own > 20_000
    assert found.unused == 777
    assert found.total == sum(path.stat().st_size for path in files(project))
    assert records > 0
    by_run, _ = care.use(project, "run")
    shares = {share.group[:4]: share for share in by_run.shares}
    assert shares[first.id[:4]].shared == shares[second.id[:4]].shared > 20_000
    assert shares[first.id[:4]].own > 10_000
    assert by_run.total == found.total == sum(share.own for share in by_run.shares) + by_run.shared + by_run.unused
    for by in ("job", "step", "kind"):
        assert care.use(project, by)[0].total == found.total


def test_what_a_pack_has_beside_its_artifacts_counts_for_who_uses_these(project: Project) -> None:
    a_fan_out(project, OLD, [f"{number:03}" * 50 for number in range(7)])
    found, _ = care.use(project)
    (share,) = found.shares
    assert found.shared == share.shared == 0
    assert share.own == found.total == sum(path.stat().st_size for path in files(project))
