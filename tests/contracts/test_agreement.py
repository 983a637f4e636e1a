"""A catalog and a store's records are compared, whatever keeps them, and beside whoever writes both."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from mlbench.backends.catalog_sql import SqlCatalog, problem_of
from mlbench.core.errors import StoreError
from mlbench.core.ids import ExecutionId, RunId, new_id
from mlbench.core.ports import BlobStore, Catalog
from mlbench.core.records import Execution, Metric, Run
from mlbench.project import Project, care, find_store
from mlbench.project.care import agreement
from mlbench.project.indexing import fill_catalog, reindex


@pytest.fixture(autouse=True)
def short_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "PAUSE", 0.2)


@pytest.fixture
def with_catalog(catalog: Catalog, tmp_path: Path) -> Project:
    return Project(find_store(store=str(tmp_path / "here")), catalog=catalog)


@pytest.fixture
def with_blobs(blobs: BlobStore, tmp_path: Path) -> Iterator[Project]:
    made = Project(find_store(store=str(tmp_path / "there")))
    made.blobs = blobs
    yield made
    made.close()


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
