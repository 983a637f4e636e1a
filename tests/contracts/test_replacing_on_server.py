"""A catalog on PostgreSQL is made anew while others use it, and whoever is killed meanwhile costs nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from mlbench.backends.catalog_sql import SqlCatalog, replace_catalog
from mlbench.backends.catalog_sql import tables as t
from mlbench.core.errors import StoreError
from mlbench.core.ids import Digest, ExecutionId, JobId, RunId, new_id
from mlbench.core.records import Execution, Firing, Job, JobVersion, Metric, Run
from mlbench.project import Project, find_store
from mlbench.project.indexing import reindex

VERSION = JobVersion(number=1, snapshot=Digest(f"blake3:{'0' * 64}"))


@pytest.fixture
def url(new_database: Callable[[], str]) -> str:
    return new_database()


@pytest.fixture
def project(tmp_path: Path, url: str) -> Iterator[Project]:
    made = Project(replace(find_store(store=str(tmp_path / "store")), catalog_url=url))
    yield made
    made.close()


def a_recorded_run(project: Project, name: str) -> Run:
    run = project.begin_run(kind="job", name=name, parameters={"origin": "JFK"})
    project.put_execution(Execution(id=ExecutionId(new_id()), run=run.id, step="train", state="succeeded", started=1))
    return project.end_run(run, "succeeded", metrics=[Metric(name="rmse", value=0.5)])


def in_database(url: str, statement: str) -> list[Any]:
    catalog = SqlCatalog(url)
    with catalog._engine.begin() as connection:
        found = connection.execute(text(statement))
        rows = list(found) if found.returns_rows else []
    catalog.close()
    return rows


def schemas(url: str) -> set[str]:
    return {name for (name,) in in_database(url, "SELECT nspname FROM pg_namespace") if not name.startswith("pg_")}


def test_it_has_what_the_records_say_and_what_the_old_one_alone_knew(project: Project, url: str) -> None:
    run = a_recorded_run(project, "flights")
    catalog = project.catalog
    job = Job(id=JobId(new_id()), name="nightly", notebook="/n.ipynb", version=VERSION, next_due=5)
    project.blobs.append("job", job.id, job)  # type: ignore[arg-type]
    catalog.put_job(job)
    assert catalog.fire(job.id, [Firing(job=job.id, due=5, state="queued")], was_due=5, next_due=9)
    waits = Run(id=RunId(new_id()), kind="interactive", state="running", name="under way", started=3)
    step = Execution(id=ExecutionId(new_id()), run=waits.id, step="train", state="queued", queued=4)
    catalog.put_run(waits)
    catalog.put_execution(step)
    catalog.put_run(Run(id=RunId(new_id()), kind="job", state="succeeded", name="of no record"))
    assert catalog.meet_runs([run.id], 7 * 10**18) == {run.id}
    with catalog._engine.begin() as connection:  # type: ignore[attr-defined]
        connection.execute(text("DELETE FROM params"))
        connection.execute(text("DROP ROLE IF EXISTS reader"))
        connection.execute(text("CREATE ROLE reader"))
        connection.execute(text("GRANT SELECT ON runs TO reader"))
        connection.execute(text("GRANT USAGE ON SEQUENCE metrics_id_seq TO reader"))
    other = SqlCatalog(url)  # of somebody who goes on
    assert other.count_runs() == 3
    assert reindex(project) == ({}, True)
    assert {one.name for one in other.runs()} == {"flights", "under way"}
    assert [one.id for one in other.under_way()] == [step.id]
    assert other.job("nightly").next_due == 9
    assert [(one.due, one.state) for one in other.firings()] == [(5, "queued")]
    assert other.run(run.id).parameters == {"origin": "JFK"}
    assert other.names_in_use("params") == ["origin"]
    assert other.delete_runs([run.id], met_before=6 * 10**18) == {run.id}
    other.put_run(replace(waits, state="succeeded", metrics=(Metric(name="auc", value=1.0),)))
    assert other.names_in_use("metrics") == ["auc", "rmse"]
    with other._engine.begin() as connection:
        for what in (
            "has_table_privilege('reader', 'runs', 'SELECT')",
            "has_sequence_privilege('reader', 'metrics_id_seq', 'USAGE')",
        ):
            assert connection.execute(text(f"SELECT {what}")).scalar() is True
        assert connection.execute(text("SELECT has_table_privilege('reader', 'runs', 'DELETE')")).scalar() is False
        connection.execute(text("DROP OWNED BY reader"))
        connection.execute(text("DROP ROLE reader"))
    other.close()
    assert schemas(url) == {"public", "information_schema"}


def test_what_others_write_meanwhile_is_in_it(project: Project, url: str) -> None:
    a_recorded_run(project, "before")
    written: list[str] = []
    begun, enough = threading.Barrier(4), threading.Event()

    def write() -> None:
        writer = Project(project.location)
        written.append(a_recorded_run(writer, "meanwhile").id)
        begun.wait(30)
        while not enough.is_set():
            run = a_recorded_run(writer, "meanwhile")
            written.append(run.id)
            writer.search("metrics.rmse < 1 and params.origin = 'JFK'", sort="-metrics.rmse")
        writer.close()

    threads = [threading.Thread(target=write) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        begun.wait(30)
        for _ in range(3):
            assert reindex(project) == ({}, True)
    finally:
        enough.set()
        for thread in threads:
            thread.join(60)
    found = {run.id for run in project.catalog.runs(limit=10_000)}
    assert found.issuperset(written)
    assert len(found) == len(written) + 1
    assert project.catalog.count_runs() == len(found)
    assert all(project.catalog.executions(RunId(run)) for run in written)


def test_one_of_which_tables_are_missing_is_made_whole(project: Project, url: str) -> None:
    run = a_recorded_run(project, "flights")
    in_database(url, "DROP TABLE params, firings")
    assert reindex(project) == ({}, False)
    assert project.catalog.run(run.id).parameters == {"origin": "JFK"}
    assert project.catalog.firings() == []
    in_database(url, "DROP TABLE runs")
    project.close()
    assert reindex(project) == ({}, False)
    assert [one.name for one in project.catalog.runs()] == ["flights"]


def test_what_cannot_be_filled_leaves_the_old_one_and_nothing_beside_it(url: str) -> None:
    old = SqlCatalog(url)
    old.put_run(Run(id=RunId(new_id()), kind="job", state="succeeded", name="old"))

    def fill(new: SqlCatalog) -> None:
        new.put_run(Run(id=RunId(new_id()), kind="job", state="succeeded", name="new"))
        raise StoreError("A record cannot be read.", "Restore it.")

    with pytest.raises(StoreError, match="cannot be read"):
        replace_catalog(url, fill)
    assert [run.name for run in old.runs()] == ["old"]
    assert schemas(url) == {"public", "information_schema"}
    old.close()


def test_a_newer_one_is_left_alone(url: str) -> None:
    in_database(url, "UPDATE alembic_version SET version_num = '0999'")
    with pytest.raises(StoreError, match="newer version of mlbench"):
        replace_catalog(url, lambda new: None)


KILLED = """
import os, signal, sys
from dataclasses import replace
from sqlalchemy import Engine, event
from mlbench.project import Project, find_store
from mlbench.project.indexing import reindex
left = int(sys.argv[3])
@event.listens_for(Engine, "before_cursor_execute")
def before(*_):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
print(reindex(Project(replace(find_store(store=sys.argv[1]), catalog_url=sys.argv[2]))))
print(int(sys.argv[3]) - left)
"""


@pytest.mark.slow
def test_whoever_is_killed_at_a_statement_leaves_the_old_one_or_the_new_one(project: Project, url: str) -> None:
    run = a_recorded_run(project, "flights")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    def begin(statement: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", KILLED, str(project.location.path), url, str(statement)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)

    whole = begin(0)
    assert whole.stdout.startswith("({}, True)"), whole.stderr
    total = int(whole.stdout.split()[-1])
    for statement in {*range(total - 24, total + 1, 3), total // 4, total // 2, total}:
        killed = begin(statement)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert [one.id for one in project.catalog.runs()] == [run.id]
        assert len(project.catalog.executions(run.id)) == 1
    assert reindex(project) == ({}, True)
    assert [one.id for one in project.catalog.runs()] == [run.id]
    assert schemas(url) == {"public", "information_schema"}
    there = {name for (name,) in in_database(url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")}
    assert there == {*t.metadata.tables, "alembic_version"}


def test_it_is_not_made_by_two_at_once(url: str) -> None:
    inside, go_on = threading.Event(), threading.Event()
    names: list[str] = []

    def slow(new: SqlCatalog) -> None:
        names.append("first")
        inside.set()
        assert go_on.wait(30)

    first = threading.Thread(target=replace_catalog, args=(url, slow))
    first.start()
    assert inside.wait(30)
    second = threading.Thread(target=replace_catalog, args=(url, lambda new: names.append("second")))
    second.start()
    second.join(1.0)
    assert second.is_alive()
    go_on.set()
    first.join(30)
    second.join(30)
    assert names == ["first"] * 3 + ["second"] * 3
