"""The catalog on PostgreSQL when several begin at once, are killed, or its server is restarted, gone or silent."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, select, text

from mlbench.backends.catalog_sql import SqlCatalog, server
from mlbench.backends.catalog_sql import tables as t
from mlbench.core.errors import StoreError
from mlbench.core.ids import Digest, ExecutionId, JobId, RunId, new_id
from mlbench.core.records import Execution, Firing, Job, JobVersion, Metric, Run
from tests.contracts.test_sql_catalog_faults import OPENER, WRITER, outputs, processes
from tests.postgres import PASSWORD, Server

VERSION = JobVersion(number=1, snapshot=Digest(f"blake3:{'0' * 64}"))


@pytest.fixture
def own() -> Iterator[Server]:
    """Return a server that only this test uses, and may restart and stop."""
    server = Server()
    yield server
    server.close()


@pytest.fixture
def fresh(new_database: Callable[[], str]) -> Iterator[SqlCatalog]:
    catalog = SqlCatalog(new_database())
    yield catalog
    catalog.close()


def a_run(number: int = 0, **more: Any) -> Run:
    return Run(id=RunId(new_id()), kind="job", state="running", name=f"r{number}", started=number, **more)


# --- several at once --------------------------------------------------------------------------------------------------


def test_processes_that_make_the_tables_at_once_all_find_them_whole(postgres: Server) -> None:
    url = postgres.url(postgres.create())
    outputs(processes(OPENER, 3, url))
    catalog = SqlCatalog(url)
    assert sorted(run.name for run in catalog.runs()) == ["0", "1", "2"]
    catalog.close()


@pytest.mark.slow
def test_ten_processes_write_at_once(new_database: Callable[[], str]) -> None:
    url = new_database()
    assert outputs(processes(WRITER, 10, url)) == ["done\n"] * 10
    catalog = SqlCatalog(url)
    assert catalog.count_runs() == 60
    assert catalog.runs(under_way=True) == []
    assert len(catalog.metrics([run.id for run in catalog.runs(limit=200)])) == 60
    catalog.close()


KILLED = """
import os, signal, sys
from sqlalchemy import Engine, event
from mlbench.backends.catalog_sql import SqlCatalog
left = int(sys.argv[2])
@event.listens_for(Engine, "before_cursor_execute")
def before(*_):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
SqlCatalog(sys.argv[1]).close()
print(int(sys.argv[2]) - left)
"""


def test_a_migration_that_is_killed_at_a_statement_leaves_no_table_and_the_next_one_makes_all(
    postgres: Server,
) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    def begin(url: str, statement: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", KILLED, url, str(statement)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)

    whole = begin(postgres.url(postgres.create()), 0)
    total = int(whole.stdout)
    assert total > 50
    url = postgres.url(postgres.create())
    for statement in sorted({3, 7, total // 4, total // 2, 3 * total // 4, total - 8}):
        killed = begin(url, statement)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
        with engine.connect() as connection:
            assert MigrationContext.configure(connection).get_current_revision() is None
            assert not connection.dialect.has_table(connection, "runs")
        engine.dispose()
    catalog = SqlCatalog(url)
    assert catalog.is_new
    catalog.close()


def test_a_catalog_of_a_newer_version_is_refused_in_one_sentence_without_a_password(postgres: Server) -> None:
    url = postgres.url(postgres.create())
    catalog = SqlCatalog(url)
    with catalog._engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0999'"))
    catalog.close()
    with pytest.raises(StoreError, match=r"newer version of mlbench \(its revision is 0999") as caught:
        SqlCatalog(url)
    assert f"127.0.0.1:{postgres.port}/" in str(caught.value)
    assert PASSWORD not in str(caught.value)


# --- a server that is restarted ---------------------------------------------------------------------------------------


def test_a_server_that_is_restarted_while_it_is_written_to_loses_nothing_and_doubles_nothing(own: Server) -> None:
    catalog = SqlCatalog(own.url(own.create()))
    stop = threading.Event()
    written: dict[int, list[RunId]] = {number: [] for number in range(3)}
    claimed: list[tuple[JobId, int]] = []
    fired: list[int] = []
    problems: list[BaseException] = []
    job = Job(id=JobId(new_id()), name="nightly", notebook="/n.ipynb", version=VERSION, cron="* * * * *", next_due=60)
    catalog.put_job(job)

    def write(number: int) -> None:
        while not stop.is_set():
            run = a_run(number, parameters={"n": number}, metrics=(Metric(name="rmse", value=1.0),))
            catalog.put_run(run)
            step = Execution(id=ExecutionId(new_id()), run=run.id, step="s", state="succeeded")
            catalog.put_execution(replace(step, metrics=(Metric(name="loss", value=2.0),)))
            catalog.put_run(replace(run, state="succeeded"))
            written[number].append(run.id)

    def schedule() -> None:
        due = 60
        while not stop.is_set():
            firing = Firing(job=job.id, due=due, state="queued")
            assert catalog.fire(job.id, [firing], was_due=due, next_due=due + 60)
            fired.append(due)
            due += 60
            mine = catalog.claim_firing("me", 1)
            assert mine is not None
            claimed.append((mine.job, mine.due))
            assert catalog.attach_run(mine, RunId("r"))
            assert catalog.end_firing(replace(mine, state="succeeded"))

    def guarded(work: Callable[[], None]) -> Callable[[], None]:
        def do() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001  (told below)
                problems.append(error)
                stop.set()

        return do

    works: list[Callable[[], None]] = [*(lambda n=n: write(n) for n in written), schedule]  # type: ignore[misc]
    threads = [threading.Thread(target=guarded(work)) for work in works]
    for thread in threads:
        thread.start()
    for _ in range(3):
        counts = [len(them) for them in written.values()]
        while not stop.wait(0.05) and any(
            len(them) < count + 3 for them, count in zip(written.values(), counts, strict=True)
        ):
            pass
        own.restart()
    stop.wait(0.5)
    stop.set()
    for thread in threads:
        thread.join(60)
    assert not problems, problems
    runs = [one for them in written.values() for one in them]
    assert {catalog.run(one).state for one in runs} == {"succeeded"}
    metrics = catalog.metrics(runs)
    assert {tuple(sorted(one.name for one in metrics[run])) for run in runs} == {("loss", "rmse")}
    assert sorted(claimed) == [(job.id, due) for due in fired], "each firing was claimed once, and none was left"
    states = {firing.state for firing in catalog.firings(limit=10_000)}
    assert states == {"succeeded"}
    assert len(catalog.firings(limit=10_000)) == len(fired)
    catalog.close()


def losing(catalog: SqlCatalog, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Cut the connection right after the next commit was done, before anybody hears of it."""
    dialect, cut = catalog._engine.dialect, [True]
    commit = dialect.do_commit

    def do_commit(connection: Any) -> None:
        commit(connection)
        if cut:
            cut.clear()
            getattr(connection, "dbapi_connection", connection).close()
            import psycopg

            raise psycopg.OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(dialect, "do_commit", do_commit)
    return cut


def test_a_commit_of_unknown_fate_is_settled_by_its_key(fresh: SqlCatalog, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(id=JobId(new_id()), name="n", notebook="/n.ipynb", version=VERSION, next_due=60)
    fresh.put_job(job)
    first = Firing(job=job.id, due=60, state="queued")
    other = Firing(job=job.id, due=61, state="queued", manual=True)
    cut = losing(fresh, monkeypatch)
    assert fresh.fire(job.id, [first], was_due=60, next_due=120)
    assert not cut
    cut.append(True)
    assert fresh.add_firing(other)
    cut.append(True)
    claimed = fresh.claim_firing("me", 7)
    assert claimed is not None
    assert (claimed.due, claimed.token, claimed.owner) == (60, 1, "me"), "and not a second one"
    cut.append(True)
    assert fresh.attach_run(claimed, RunId("r"))
    cut.append(True)
    assert fresh.end_firing(replace(claimed, state="succeeded"))
    assert not fresh.end_firing(replace(claimed, state="failed")), "a stale holder is still told so"
    cut.append(True)
    run = a_run(metrics=(Metric(name="rmse", value=1.0),), parameters={"a": 1}, tags={"t": "x"})
    fresh.put_run(run)
    assert not cut
    assert len(fresh.metrics([run.id])[run.id]) == 1
    with fresh._engine.connect() as connection:
        assert len(connection.execute(select(t.params)).all()) == 1


def test_a_fate_that_cannot_be_looked_at_yet_is_looked_at_again(
    fresh: SqlCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sqlalchemy.exc import OperationalError

    job = Job(id=JobId(new_id()), name="n", notebook="/n.ipynb", version=VERSION, next_due=60)
    fresh.put_job(job)
    firings = [Firing(job=job.id, due=due, state="queued", manual=True) for due in (60, 61)]
    assert all(map(fresh.add_firing, firings))
    look, looks = fresh._settle_claim_firing, [1]

    def starting(*arguments: Any, **named: Any) -> Any:
        if looks:
            looks.clear()
            import psycopg

            raise OperationalError("", {}, psycopg.OperationalError("connection refused"), connection_invalidated=True)
        return look(*arguments, **named)

    monkeypatch.setattr(SqlCatalog, "_settle_claim_firing", lambda _, *one, **more: starting(*one, **more))
    losing(fresh, monkeypatch)
    claimed = fresh.claim_firing("me", 7)
    assert claimed is not None
    assert not looks
    assert [firing.state for firing in fresh.firings(limit=10)].count("running") == 1, "it was not claimed twice"


# --- a server that is gone, or silent ---------------------------------------------------------------------------------


def test_a_server_that_is_gone_is_waited_for_and_then_named_without_the_password(
    own: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    url = own.url(own.create())
    catalog = SqlCatalog(url)
    run = a_run()
    catalog.put_run(run)
    own.stop()
    monkeypatch.setattr(server.persist, "__kwdefaults__", {"patience": 1.0})
    began = time.monotonic()
    with caplog.at_level(logging.WARNING), pytest.raises(StoreError) as caught:
        catalog.put_run(replace(run, state="succeeded"))
    assert time.monotonic() - began < 15
    assert f"The catalog postgresql://127.0.0.1:{own.port}/" in str(caught.value)
    assert "cannot be reached" in str(caught.value)
    assert "See that the server runs" in str(caught.value)
    with pytest.raises(StoreError, match="cannot be reached") as new:
        SqlCatalog(url)
    own.start()
    catalog.put_run(replace(run, state="succeeded"))
    assert catalog.run(run.id).state == "succeeded"
    catalog.close()
    for said in (str(caught.value), str(new.value), caplog.text, repr(caught.value)):
        assert PASSWORD not in said


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda url: url.replace(PASSWORD, "wrong"), "refuses this user"),
        (lambda url: f"{url}x", "has no such database"),
        (lambda url: f"{url}?frobnicate=1", "cannot be used: .*frobnicate"),
    ],
)
def test_what_no_patience_helps_against_is_said_at_once(
    postgres: Server, change: Callable[[str], str], sentence: str
) -> None:
    began = time.monotonic()
    with pytest.raises(StoreError, match=sentence) as caught:
        SqlCatalog(change(postgres.url(postgres.create())))
    assert time.monotonic() - began < 10
    assert PASSWORD not in str(caught.value)


def test_a_server_that_does_not_answer_is_given_up_and_asked_anew(
    new_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server._connection_class(), "patience", 1.0)
    catalog = SqlCatalog(new_database())
    catalog.put_run(a_run())
    with catalog._engine.connect() as connection:
        backend = int(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())
    os.kill(backend, signal.SIGSTOP)
    try:
        assert catalog.count_runs() == 1, "by another connection"
    finally:
        os.kill(backend, signal.SIGCONT)
    catalog.close()


def test_what_listens_and_is_silent_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_CONNECT_SECONDS", 2)
    monkeypatch.setattr(server.persist, "__kwdefaults__", {"patience": 1.0})
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        began = time.monotonic()
        with pytest.raises(StoreError, match=f"postgresql://127.0.0.1:{port}/x cannot be reached: .*time"):
            SqlCatalog(f"postgresql://ada:{PASSWORD}@127.0.0.1:{port}/x")
        assert time.monotonic() - began < 15
