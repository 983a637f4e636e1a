"""A catalog and a store's records are compared, whatever keeps them, and beside whoever writes both."""

from __future__ import annotations

import math
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from mlbench.backends.catalog_sql import SqlCatalog, problem_of
from mlbench.core.errors import StoreError
from mlbench.core.ids import ExecutionId, RunId, new_id
from mlbench.core.ports import Catalog
from mlbench.core.records import Binding, Execution, FanOut, Metric, Run, RunKind
from mlbench.project import Project, care, find_store
from mlbench.project.care import agreement
from mlbench.project.care.reading import Reading
from mlbench.project.indexing import fill_catalog, reindex
from mlbench.runs.wire import msgspec


@pytest.fixture(autouse=True)
def short_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "PAUSE", 0.2)


def a_run(project: Project) -> Run:
    run = project.begin_run(kind="papermill", notebook="/n/flights.ipynb", parameters={"origin": "JFK"})
    for step in ("load", "train"):
        project.put_execution(a_step(run, step, metrics=(Metric(name="rmse", value=0.5, time=3),)))
    return project.end_run(run, "succeeded")


def a_step(run: Run, step: str, **more: Any) -> Execution:
    said = ({"output_type": "stream", "name": "stdout", "text": f"{step}\0"},)
    given: dict[str, Any] = {"run": run.id, "step": step, "state": "succeeded", "started": 1, "messages": said}
    return Execution(id=ExecutionId(new_id()), **(given | more))


def damage_in(project: Project, **more: Any) -> list[str]:
    return [f"{one.kind}: {one.problem}" for one in care.verify(project, **more).damage]


def free_one(project: Project, kind: str) -> None:
    piece = next(piece for piece in project.blobs.pieces("record") if f"-{kind}-" in piece.name)
    assert project.blobs.free(piece)


# --- the pages --------------------------------------------------------------------------------------------------------


def test_all_runs_and_executions_come_in_pages_by_their_ids(catalog: Catalog) -> None:
    runs = [Run(id=RunId(new_id()), kind="papermill", state="succeeded", name="n", started=9 - n) for n in range(5)]
    catalog.put_runs(runs)
    steps = [a_step(run, "train", part_of=part) for run in runs for part in (None, ExecutionId(new_id()))]
    catalog.put_executions(steps)
    found, after = [], ""
    while page := catalog.runs_by_id(after=after, limit=2):
        assert len(page) <= 2
        found += page
        after = page[-1].id
    assert found == sorted(runs, key=lambda run: run.id)
    seen = catalog.executions_by_id(limit=3)
    seen += catalog.executions_by_id(after=seen[-1].id)
    assert seen == [replace(one, messages=()) for one in sorted(steps, key=lambda one: one.id)]
    assert catalog.runs_by_id(after="~") == catalog.executions_by_id(after="~") == []


# --- the comparison ---------------------------------------------------------------------------------------------------


def test_what_one_knows_and_the_other_does_not_is_named_with_every_catalog(with_catalog: Project) -> None:
    knows_both_ways(with_catalog)


def test_what_one_knows_and_the_other_does_not_is_named_in_every_store(with_blobs: Project) -> None:
    knows_both_ways(with_blobs)


def knows_both_ways(project: Project) -> None:
    run = a_run(project)
    before = {one.id: project.catalog.execution(one.id) for one in project.catalog.executions(run.id)}
    assert damage_in(project) == []
    free_one(project, "execution")
    (sentence,) = damage_in(project)
    assert f"of run {run.id[:4]} (flights) ended, which the catalog knows" in sentence
    assert care.verify(project, repair=True).whole
    assert damage_in(project) == []
    project.record(a_step(run, "late"))
    assert damage_in(project) == [f"catalog: It lacks what records tell: 1 step or item of run {run.id[:4]} (flights)."]
    project.catalog.delete_runs([run.id])
    fill_catalog(project.catalog, project.blobs)
    assert damage_in(project) == []
    for one, record in before.items():
        assert project.catalog.execution(one) == record


def test_what_both_have_and_say_otherwise_is_named_with_every_catalog(with_catalog: Project) -> None:
    says_otherwise(with_catalog)


def test_what_both_have_and_say_otherwise_is_named_in_every_store(with_blobs: Project) -> None:
    says_otherwise(with_blobs)


def says_otherwise(project: Project) -> None:
    run, other = a_run(project), a_run(project)
    whole = a_step(run, "score", fanout=FanOut(names=("x",), total=3, succeeded=3))
    items = [a_step(run, "score", part_of=whole.id, item=number) for number in range(3)]
    project.blobs.append("executions", f"{whole.id}-1", {"executions": [msgspec.to_builtins(one) for one in items]})
    project.record(whole)
    project.catalog.put_executions([whole, *items])
    assert damage_in(project) == []
    catalog = project.catalog
    before = [catalog.run(run.id), *(catalog.execution(one.id) for one in (*catalog.executions(run.id), *items))]
    steps = {one.step: one for one in catalog.executions(run.id)}
    load, train = steps["load"], steps["train"]
    changed = {"parameters": {"origin": "LGA"}, "tags": {"team": "ops"}, "metrics": (Metric(name="rmse", value=2.0),)}
    catalog.put_run(replace(run, **changed))
    bound = (Binding(name="model", problem="It is none."),)
    catalog.put_executions([replace(load, state="failed", ended=7), replace(train, metrics=(), binds=bound)])
    catalog.put_executions([replace(one, artifacts=bound) for one in items[:2]])
    catalog.put_run(replace(other, state="failed"))
    (sentence,) = damage_in(project)
    for said in (
        f"of run {run.id[:4]} (flights) the parameters, the metrics and the tags",
        "of step load the state (failed instead of succeeded) and when it ended",
        "of step train the metrics and what was bound",
        "of 2 items of step score what was logged",
        f"of run {other.id[:4]} (flights) the state (failed instead of succeeded)",
    ):
        assert said in sentence, sentence
    assert sentence.startswith("catalog: It says otherwise than the records: ")
    (damage,) = care.verify(project, repair=True).damage
    assert damage.remedy == "`mlbench store reindex` makes it anew from the records."
    fill_catalog(catalog, project.blobs)
    assert damage_in(project) == []
    assert [catalog.run(run.id), *(catalog.execution(one.id) for one in before[1:])] == before


def test_what_a_catalog_may_say_otherwise_is_no_damage(with_catalog: Project) -> None:
    project = with_catalog
    run = a_run(project)
    numbers = (Metric(name="loss", value=math.nan), Metric(name="loss", value=math.inf), Metric(name="n", value=3))
    logged = {"metrics": numbers, "tags": {"b": "1", "a": "2"}}
    project.put_execution(a_step(run, "odd", **logged))
    project.end_run(run, "succeeded", parameters={"b": [1, 2.5, None], "a": {"x": "\0"}}, **logged)
    assert damage_in(project) == []
    project.catalog.put_executions(
        [replace(one, unseen=True, note="seen", position=4) for one in project.catalog.executions(run.id)]
    )
    assert damage_in(project) == []
    project.blobs.append("run", run.id, msgspec.to_builtins(replace(run, state="running")))
    assert damage_in(project) == [], "whoever wrote that had not heard of its end"


def test_what_is_under_way_may_be_behind_its_records(with_catalog: Project) -> None:
    project = with_catalog
    run = project.begin_run(kind="interactive")
    project.put_execution(a_step(run, "load"))
    whole = a_step(run, "score", state="running", fanout=FanOut(names=("x",), total=3))
    item = a_step(run, "score", part_of=whole.id, item=0, state="failed")
    project.catalog.put_executions([whole, item])
    project.record(item)
    project.record(replace(item, state="succeeded", attempt=2))
    project.blobs.append("run", run.id, msgspec.to_builtins(replace(run, tags={"team": "ops"})))
    assert damage_in(project) == []
    project.end_run(run, "failed")
    assert "1 item of step score the state (failed instead of succeeded)" in " ".join(damage_in(project))


@pytest.mark.parametrize("kind", ["papermill", "interactive"])
def test_a_run_that_ends_while_the_records_are_read_has_its_record(with_catalog: Project, kind: RunKind) -> None:
    project = with_catalog
    run = project.begin_run(kind=kind)
    ended = replace(run, state="succeeded", ended=5)
    project.record(ended)
    reading = Reading(project.blobs, project.catalog)  # the record is read, then the catalog, which is behind it
    project.catalog.put_run(ended)
    assert agreement.compare(project, reading).untold == []


def test_of_several_attempts_the_last_counts_whatever_the_clocks_said(with_catalog: Project) -> None:
    project = with_catalog
    run = a_run(project)
    again = a_step(run, "again", attempt=2)
    project.put_execution(again)
    project.record(replace(again, attempt=1, state="failed"))  # by another machine, whose clock is ahead
    assert damage_in(project) == []
    project.catalog.put_execution(replace(again, state="failed"))
    assert "of step again the state (failed instead of succeeded)" in " ".join(damage_in(project))
    fill_catalog(project.catalog, project.blobs)
    assert damage_in(project) == []
    assert project.catalog.execution(again.id) == again


def test_of_many_that_differ_some_are_named_and_the_rest_is_counted(with_catalog: Project) -> None:
    project = with_catalog
    runs = [a_run(project) for _ in range(8)]
    with_catalog.catalog.put_runs([replace(run, tags={"team": "ops"}) for run in runs])
    (sentence,) = damage_in(project)
    assert sentence.count("(flights) the tags") == 5
    assert sentence.endswith("; and something of 3 more runs.")


def test_writers_beside_it_are_no_damage(with_catalog: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "_PAGE", 3)
    ending = threading.Event()

    def write() -> None:
        while not ending.is_set():
            a_run(with_catalog)

    writers = [threading.Thread(target=write) for _ in range(2)]
    for one in writers:
        one.start()
    try:
        found = [damage_in(with_catalog) for _ in range(3)]
    finally:
        ending.set()
        for one in writers:
            one.join(30)
    assert found == [[], [], []]
    assert damage_in(with_catalog) == []


# --- catalogs that are damaged ----------------------------------------------------------------------------------------


def test_of_a_catalog_on_a_server_it_is_seen_whether_its_tables_are_there(
    new_database: Callable[[], str], tmp_path: Path
) -> None:
    url = new_database()
    project = Project(replace(find_store(store=str(tmp_path / "store")), catalog_url=url))
    run = a_run(project)
    assert damage_in(project) == []
    project.catalog.close()
    for dropped, said in (("runs", "has no table runs"), (None, "is gone")):
        with closing(SqlCatalog(url)) as catalog, catalog._engine.begin() as connection:
            gone = f"TABLE {dropped}" if dropped else "SCHEMA public"
            connection.execute(text(f"DROP {gone} CASCADE"))
            if dropped is None:
                connection.execute(text("CREATE SCHEMA public"))
        (one,) = care.verify(project).damage
        assert said in one.problem
        assert "mlbench@" not in one.name + one.problem
        assert one.remedy == "`mlbench store reindex` makes it anew from the records."
        reindex(project)
        assert damage_in(project) == []
        assert [one.id for one in project.catalog.runs()] == [run.id]
        project.close()


def test_a_server_that_is_away_is_said_to_be_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("psycopg")
    monkeypatch.setattr("mlbench.backends.catalog_sql.server.persist.__kwdefaults__", {"patience": 0.0})
    here = find_store(store=str(tmp_path / "store"))
    project = Project(replace(here, catalog_url=f"postgresql://ada:s3cret@/none?host={tmp_path}"))
    record = project.blobs.append("keep", "x", {"run": "x", "keep": True})
    assert record is None
    found = care.verify(project)
    (one,) = found.damage
    assert "cannot be reached" in one.problem
    assert "s3cret" not in str(one)
    assert "See that the server runs" in (one.remedy or "")
    assert found.records == 1


def test_what_is_wrong_in_a_file_of_sqlite_is_found_wherever_it_is(tmp_path: Path) -> None:
    file = tmp_path / "catalog.sqlite"
    url = f"sqlite:///{file}"
    assert problem_of(url, expected=False) is None
    assert problem_of(url, expected=True) == f"The catalog {file} is gone."
    assert not file.exists()
    with closing(SqlCatalog(url)) as catalog:
        run = Run(id=RunId(new_id()), kind="papermill", state="succeeded", name="flights")
        catalog.put_run(run)
        assert problem_of(url, expected=True) is None, "it is looked at while others have it open"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    whole = file.read_bytes()
    for place in (whole.index(b"SQLite format"), whole.index(b"CREATE TABLE runs"), 4096, 8192, len(whole) - 4096):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 8]) + whole[place + 1 :])
        assert problem_of(url, expected=True) is not None, place
    at = whole.index(b'"kind":"papermill"')
    file.write_bytes(whole[:at] + b"\xff" + whole[at + 1 :])
    assert problem_of(url, expected=True) is None, "its pages are whole"
    with closing(SqlCatalog(url)) as catalog, pytest.raises(StoreError, match=r"is damaged.*store reindex"):
        catalog.runs_by_id()


def test_a_catalog_that_is_locked_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlbench.backends.catalog_sql.checking._PATIENCE", 0.1)
    file = tmp_path / "catalog.sqlite"
    with closing(SqlCatalog(f"sqlite:///{file}")):
        pass
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        connection.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreError, match="Another process has held the catalog"):
            problem_of(f"sqlite:///{file}", expected=True)
