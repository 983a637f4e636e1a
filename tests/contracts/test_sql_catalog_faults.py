"""The SQLite catalog when several processes begin at once, write at once, die, or meet a strange file."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection, create_engine, event, select, text

from mlbench.backends.catalog_sql import SqlCatalog, forgetting, opening, replace_catalog, searching
from mlbench.backends.catalog_sql.tables import metadata
from mlbench.core.errors import StoreError
from mlbench.core.ids import Digest, ExecutionId, JobId, RunId, new_id
from mlbench.core.queries import Place
from mlbench.core.records import Artifact, Binding, Execution, Firing, Job, JobVersion, Metric, Read, Run
from mlbench.runs.itemrecords import EndedItem
from mlbench.runs.search import parse, parse_sort


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "store" / "catalog.sqlite"


def url(file: Path) -> str:
    return f"sqlite:///{file}"


def processes(source: str, count: int, *arguments: str) -> list[subprocess.Popen[str]]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return [
        subprocess.Popen(
            [sys.executable, "-c", source, *arguments, str(number)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for number in range(count)
    ]


def outputs(them: Sequence[subprocess.Popen[str]]) -> list[str]:
    found = [one.communicate(timeout=120) for one in them]
    assert [one.returncode for one in them] == [0] * len(them), found
    return [out for out, _ in found]


OPENER = """
import sys
from mlbench.backends.catalog_sql import SqlCatalog
from mlbench.core.ids import new_id
from mlbench.core.records import Run
catalog = SqlCatalog(sys.argv[1])
catalog.put_run(Run(id=new_id(), kind="job", state="running", name=sys.argv[2]))
print(catalog.count_runs())
"""


def test_a_catalog_that_is_opened_again_in_its_process_goes_on_seeing_what_others_write(file: Path) -> None:
    first = SqlCatalog(url(file))
    assert first.count_runs() == 0
    second = SqlCatalog(url(file))
    assert second.count_runs() == 0
    for number in range(1, 4):
        outputs(processes(OPENER, 1, url(file)))  # nobody else has it open: it would take the log away with it
        assert (first.count_runs(), second.count_runs()) == (number, number)


def test_thousands_of_items_are_a_few_statements_since_each_waits_for_threads_that_are_busy(file: Path) -> None:
    catalog, seen = SqlCatalog(url(file)), []
    with catalog._writing() as connection:
        driver: Any = connection.connection.driver_connection
        driver.set_trace_callback(seen.append)
    whole, run = ExecutionId(new_id()), RunId(new_id())
    given = {"run": run, "step": "train", "state": "succeeded", "part_of": whole}
    items = [
        Execution(id=ExecutionId(new_id()), item=number, metrics=(Metric(name="rmse", value=float(number)),), **given)
        for number in range(1_777)
    ]
    for _ in range(2):  # what is there is replaced
        seen.clear()
        catalog.put_items([EndedItem.of(one) for one in items])
        assert len([one for one in seen if one.startswith("INSERT INTO executions")]) in range(1, 150)
        assert len([one for one in seen if one.startswith("INSERT INTO metrics")]) in range(1, 150)
    assert catalog.items(whole, limit=2_000) == items
    assert catalog.item_metrics(whole, "rmse") == [(number, float(number)) for number in range(1_777)]
    catalog.close()


def test_processes_that_make_a_catalog_at_once_all_find_it_whole(file: Path) -> None:
    outputs(processes(OPENER, 3, url(file)))
    catalog = SqlCatalog(url(file))
    assert sorted(run.name for run in catalog.runs()) == ["0", "1", "2"]
    catalog.close()


WRITER = """
import sys
from dataclasses import replace
from mlbench.backends.catalog_sql import SqlCatalog
from mlbench.core.ids import new_id
from mlbench.core.records import Execution, Metric, Run
catalog = SqlCatalog(sys.argv[1])
for number in range(6):
    run = Run(id=new_id(), kind="job", state="running", name=sys.argv[2], started=number, parameters={"n": number})
    catalog.put_run(run)
    execution = Execution(id=new_id(), run=run.id, step="s", state="succeeded", metrics=(Metric(name="m", value=1),))
    catalog.put_execution(execution)
    catalog.put_run(replace(run, state="succeeded", ended=number + 1))
    assert catalog.run(run.id).state == "succeeded"
    catalog.runs(limit=5)
print("done")
"""


@pytest.mark.slow
def test_ten_processes_write_at_once(file: Path) -> None:
    SqlCatalog(url(file)).close()
    assert outputs(processes(WRITER, 10, url(file))) == ["done\n"] * 10
    catalog = SqlCatalog(url(file))
    assert catalog.count_runs() == 60
    assert catalog.runs(under_way=True) == []
    assert len(catalog.metrics([run.id for run in catalog.runs(limit=200)])) == 60
    catalog.close()


def test_a_writer_that_is_killed_leaves_whole_runs_and_all_that_was_acknowledged(file: Path) -> None:
    SqlCatalog(url(file)).close()
    source = OPENER.replace("print(catalog.count_runs())", "") + (
        "while True:\n"
        "    run = Run(id=new_id(), kind='job', state='running', name='x', parameters={'a': 1, 'b': 2})\n"
        "    catalog.put_run(run)\n"
        "    print(run.id, flush=True)\n"
    )
    acknowledged: list[str] = []
    for _ in range(2):
        (writer,) = processes(source, 1, url(file))
        assert writer.stdout is not None
        lines = [writer.stdout.readline() for _ in range(10)]
        writer.kill()
        rest, _ = writer.communicate(timeout=30)
        acknowledged += [line.strip() for line in (*lines, *rest.splitlines(keepends=True)) if line.endswith("\n")]
    catalog = SqlCatalog(url(file))
    assert {catalog.run(RunId(one)).parameters["b"] for one in acknowledged} == {2}
    with sqlite3.connect(file) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        broken = "SELECT run FROM params GROUP BY run HAVING count(*) <> 2"
        assert connection.execute(broken).fetchall() == []
    connection.close()
    catalog.close()


def test_the_file_is_open_to_its_owner_only_and_written_durably(file: Path) -> None:
    catalog = SqlCatalog(url(file))
    catalog.put_run(Run(id=RunId(new_id()), kind="job", state="succeeded", name="x"))
    assert {path.stat().st_mode & 0o777 for path in file.parent.iterdir()} == {0o600}
    with catalog._engine.connect() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 10_000}
    catalog.close()


def test_all_is_synced_but_what_says_no_end(file: Path) -> None:
    catalog = SqlCatalog(url(file))
    run, step, job = RunId(new_id()), ExecutionId(new_id()), JobId(new_id())

    def synced() -> bool:
        with catalog._engine.connect() as connection:  # the one that has just written
            return connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2

    catalog.put_run(Run(id=run, kind="job", state="running", name="x"))
    assert not synced()
    version = JobVersion(number=1, snapshot=Digest(f"blake3:{'0' * 64}"))
    catalog.put_job(Job(id=job, name="nightly", notebook="/n.ipynb", version=version))
    assert catalog.add_firing(Firing(job=job, due=1, state="queued"))
    assert synced()
    catalog.put_execution(Execution(id=step, run=run, step="a", state="queued"))
    assert not synced()
    catalog.put_executions(
        [
            Execution(id=step, run=run, step="a", state="succeeded"),
            Execution(id=ExecutionId(new_id()), run=run, step="b", state="running"),
        ]
    )
    assert synced()
    catalog.close()


def test_the_end_of_a_run_writes_only_what_it_changes(file: Path) -> None:
    catalog = SqlCatalog(url(file))
    run = Run(id=RunId(new_id()), kind="papermill", state="running", name="x", notebook="/n.ipynb", parameters={"a": 1})
    catalog.put_run(run)
    log = file.with_name("catalog.sqlite-wal")
    before = log.stat().st_size
    catalog.put_run(replace(run, state="succeeded", ended=5))
    pages = (log.stat().st_size - before) // 4096
    assert pages <= 3, "its row, and the two indexes that its state is in"
    assert (catalog.run(run.id).state, catalog.runs(under_way=True)) == ("succeeded", [])
    assert [one.id for one in catalog.search(parse("params.a = 1 and state = 'succeeded'")).runs] == [run.id]
    catalog.close()


def test_what_has_no_metric_any_more_is_not_found_by_it(file: Path) -> None:
    catalog = SqlCatalog(url(file))
    run = Run(id=RunId(new_id()), kind="job", state="succeeded", name="x", metrics=(Metric(name="rmse", value=1.0),))
    catalog.put_run(run)
    step = Execution(id=ExecutionId(new_id()), run=run.id, step="a", state="succeeded")
    catalog.put_executions(
        [replace(step, metrics=(Metric(name="auc", value=0.5), Metric(name="rmse", value=3.0, time=9)))]
    )
    assert catalog.names_in_use("metrics") == ["auc", "rmse"]
    assert catalog.count_runs(parse("metrics.rmse = 3")) == 1
    catalog.put_executions([step])
    assert catalog.names_in_use("metrics") == ["rmse"]
    assert catalog.count_runs(parse("metrics.rmse = 1")) == 1
    catalog.put_run(replace(run, metrics=(), started=7))
    assert catalog.names_in_use("metrics") == []
    catalog.close()


def test_postgresql_is_not_loaded_for_a_catalog_in_sqlite(file: Path) -> None:
    SqlCatalog(url(file)).close()  # to make one Alembic is needed, which loads all
    source = (
        "import sys\n"
        "from mlbench.backends.catalog_sql import SqlCatalog\n"
        "from mlbench.core.records import Execution, Metric, Run\n"
        "from mlbench.runs.search import parse, parse_sort\n"
        "catalog = SqlCatalog(sys.argv[1])\n"
        "metrics = (Metric(name='m', value=1.0),)\n"
        "catalog.put_run(Run(id='a' * 26, kind='job', state='succeeded', name='x', metrics=metrics))\n"
        "catalog.put_executions([Execution(id='b' * 26, run='a' * 26, step='s', state='succeeded')])\n"
        "catalog.search(parse('params.x = 1'), sort=parse_sort('-metrics.m'))\n"
        "not_needed = ('sqlalchemy.dialects.postgresql', 'alembic', 'psycopg')\n"
        "print([name for name in sys.modules if name.startswith(not_needed)])\n"
    )
    assert outputs(processes(source, 1, url(file))) == ["[]\n"]


def differences(connection: Connection) -> list[Any]:
    """Return where a database has other tables than the code says. Alembic cannot compare an index that falls."""
    falls = {"include_object": lambda _thing, name, *_: name != "ix_run_metrics_rising"}
    return list(compare_metadata(MigrationContext.configure(connection, opts=falls), metadata))


def test_the_migrations_make_the_tables_that_the_code_uses(file: Path) -> None:
    catalog = SqlCatalog(url(file))
    with catalog._engine.connect() as connection:
        assert differences(connection) == []
    catalog.close()


@pytest.mark.parametrize("table", ["runs", "users"])
def test_a_database_of_something_else_is_refused_and_stays_as_it_is(file: Path, table: str) -> None:
    """It got our tables beside its own, and was thrown away when the catalog was made anew."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(file)) as other, other:
        other.execute(f"CREATE TABLE {table} (x)")
        other.execute(f"INSERT INTO {table} VALUES (7)")
    for use in (lambda: SqlCatalog(url(file)), lambda: replace_catalog(url(file), lambda _: None)):
        with pytest.raises(StoreError, match=f"is no catalog of mlbench: it has the table {table}"):
            use()
    with closing(sqlite3.connect(file)) as other:
        tables = other.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        assert (tables, other.execute(f"SELECT x FROM {table}").fetchall()) == ([(table,)], [(7,)])


def test_a_catalog_of_a_newer_version_is_refused_in_one_sentence(file: Path) -> None:
    SqlCatalog(url(file)).close()
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0999'")
    connection.close()
    with pytest.raises(StoreError, match=r"newer version of mlbench \(its revision is 0999, this version knows"):
        SqlCatalog(url(file))


def test_what_is_forgotten_leaves_no_row_behind(file: Path) -> None:
    catalog = SqlCatalog(url(file))
    run = Run(id=RunId(new_id()), kind="job", state="succeeded", name="x", parameters={"a": 1}, tags={"team": "ops"})
    artifact = Artifact(digest=Digest(f"blake3:{'0' * 64}"), size=1, type="int", codec="scalar")
    step = Execution(
        id=ExecutionId(new_id()),
        run=run.id,
        step="train",
        state="succeeded",
        binds=(Binding(name="model", artifact=artifact),),
        reads=(Read(name="flights", digest=artifact.digest),),
        metrics=(Metric(name="rmse", value=0.5),),
    )
    catalog.put_run(run)
    once = Digest(f"blake3:{'1' * 64}")
    catalog.put_execution(replace(step, state="running", reads=(Read(name="flights", digest=once),)))
    catalog.put_executions([step, replace(step, id=ExecutionId(new_id()), part_of=step.id, item=0)])

    def filled() -> set[str]:
        with catalog._engine.connect() as connection:
            return {one.name for one in metadata.sorted_tables if connection.execute(select(one)).first() is not None}

    of_runs = {"runs", "params", "tags", "metrics", "run_metrics", "executions", "artifacts_bound", "artifacts_read"}
    assert filled() == of_runs
    catalog.delete_runs([run.id])
    assert filled() == set()
    catalog.close()


def test_runs_are_forgotten_by_their_keys_and_no_table_is_gone_through(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = SqlCatalog(url(file))
    run = Run(id=RunId(new_id()), kind="job", state="succeeded", name="x")
    artifact = Artifact(digest=Digest(f"blake3:{'0' * 64}"), size=1, type="int", codec="scalar")
    binds, reads = (Binding(name="model", artifact=artifact),), (Read(name="flights", digest=artifact.digest),)
    step = Execution(id=ExecutionId(new_id()), run=run.id, step="s", state="succeeded", binds=binds, reads=reads)
    catalog.put_run(run)
    catalog.put_executions([step])
    made: list[tuple[str, Any]] = []

    @event.listens_for(catalog._engine, "before_cursor_execute")
    def before(_connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, many: bool) -> None:
        made.append((statement, parameters[0] if many else parameters))

    with monkeypatch.context() as patched:
        patched.setattr(forgetting, "_left_behind", lambda _: {})  # which looks at all, and only reads
        assert catalog.delete_runs([run.id]) == set()
    event.remove(catalog._engine, "before_cursor_execute", before)
    with catalog._engine.connect() as connection:
        plans = [
            (one, row[3])
            for one, given in made
            for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {one}", given)
        ]
    assert len(made) > 10
    assert [plan for plan in plans if plan[1].startswith("SCAN")] == []
    catalog.close()


def a_run_of_many(count: int) -> tuple[Run, Execution, list[Execution]]:
    run = Run(id=RunId(new_id()), kind="job", state="succeeded", name="x", parameters={"a": 1})
    artifact = Artifact(digest=Digest(f"blake3:{'0' * 64}"), size=1, type="int", codec="scalar")
    given: Any = {"run": run.id, "step": "s", "state": "succeeded", "binds": (Binding(name="y", artifact=artifact),)}
    step = Execution(id=ExecutionId(new_id()), reads=(Read(name="f", digest=artifact.digest),), **given)
    metrics = (Metric(name="rmse", value=0.5), Metric(name="loss", value=0.5))
    items = [
        Execution(id=ExecutionId(new_id()), part_of=step.id, item=n, key=f"{n:064}", metrics=metrics, **given)
        for n in range(count)
    ]
    return run, step, items


def test_others_write_while_a_large_run_is_forgotten(file: Path) -> None:
    catalog, other = SqlCatalog(url(file)), SqlCatalog(url(file))
    run, step, items = a_run_of_many(1_500)
    catalog.put_run(run)
    catalog.put_executions([step])
    catalog.put_executions(items)
    catalog.makers([Digest(f"blake3:{'0' * 64}")])  # from here on it is noted what each item bound
    rows: list[int] = []

    @event.listens_for(catalog._engine, "begin")
    def begun(connection: Any) -> None:
        rows.append(-connection.connection.driver_connection.total_changes)

    @event.listens_for(catalog._engine, "commit")
    def committed(connection: Any) -> None:
        rows[-1] += connection.connection.driver_connection.total_changes

    waits: list[float] = []
    ended = threading.Event()

    def write() -> None:
        while not ended.is_set():
            began = time.monotonic()
            other.put_run(Run(id=RunId(new_id()), kind="job", state="succeeded", name="new"))
            waits.append(time.monotonic() - began)

    writing = threading.Thread(target=write)
    writing.start()
    catalog.delete_runs([run.id])
    ended.set()
    writing.join()
    assert 0 < max(rows) <= 500
    assert len(waits) > 10
    assert max(waits) < 5, "nobody waits for all of it, even where a sync takes long"
    assert other.count_runs() == len(waits)
    assert catalog.count_items(step.id) == {}
    for one in (catalog, other):
        one.close()


def test_who_is_killed_while_a_run_is_forgotten_leaves_nothing_to_reuse_and_the_next_one_goes_on(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forgetting, "_ALL", 2)
    run, step, items = a_run_of_many(3)
    begin = forgetting.Forgetting._write
    left, total, killed = 0, 0, True

    @contextmanager
    def write(self: Any) -> Iterator[Any]:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        with begin(self) as connection:
            yield connection

    monkeypatch.setattr(forgetting.Forgetting, "_write", write)
    while killed:
        catalog = SqlCatalog(url(file.with_name(f"{total}.sqlite")))
        catalog.put_run(run)
        catalog.put_executions([step, *items])
        catalog.makers([Digest(f"blake3:{'0' * 64}")])
        left, killed = total, False
        try:
            catalog.delete_runs([run.id])
        except KeyboardInterrupt:
            killed, left = True, 10**9
            there = catalog.meet_runs([run.id], 10**18)
            assert there == ({run.id} if total == 0 else set())
            if there:  # it was met, and nothing of it has gone
                assert catalog.count_items(step.id) == {"succeeded": 3}
                assert catalog.delete_runs([run.id], met_before=1) == there
            assert catalog.delete_runs([run.id]) == set()
        of_runs = {"runs", "params", "metrics", "run_metrics", "executions", "artifacts_bound", "artifacts_read"}
        with catalog._engine.connect() as connection:
            assert [name for name in of_runs if connection.execute(select(metadata.tables[name])).first()] == []
        catalog.close()
        total += 1
    assert total > 10


def test_firings_are_taken_over_from_an_older_catalog_too(file: Path) -> None:
    an_older_catalog(file)
    with sqlite3.connect(file) as connection:
        connection.execute("INSERT INTO jobs VALUES ('j', 'n', NULL, NULL, 0, 0, 9, 8, 1, '{}')")
        connection.execute("INSERT INTO firings (job, due, manual, state, created) VALUES ('j', 8, 0, 'queued', 1)")
    connection.close()
    version = JobVersion(number=1, snapshot=Digest(f"blake3:{'0' * 64}"))
    job = Job(id=JobId("j"), name="n", notebook="/n.ipynb", version=version)
    assert replace_catalog(url(file), lambda new: new.put_job(job))
    catalog = SqlCatalog(url(file))
    assert [(firing.due, firing.state) for firing in catalog.firings()] == [(8, "queued")]
    catalog.close()


def test_a_catalog_is_put_into_the_place_of_one_that_nobody_has_open(file: Path) -> None:
    old = SqlCatalog(url(file))
    job = JobId(new_id())
    version = JobVersion(number=1, snapshot=Digest(f"blake3:{'0' * 64}"))
    old.put_job(Job(id=job, name="nightly", notebook="/n.ipynb", version=version, next_due=7))
    old.add_firing(Firing(job=job, due=5, state="queued"))
    old.add_firing(Firing(job=JobId(job), due=6, state="queued", manual=True))
    run = Run(id=RunId(new_id()), kind="job", state="succeeded", name="new")

    def fill(new: SqlCatalog) -> None:
        new.put_job(Job(id=job, name="nightly", notebook="/n.ipynb", version=version, next_due=1))
        new.put_run(run)

    with pytest.raises(StoreError, match="is in use"):
        replace_catalog(url(file), fill)
    opened = SqlCatalog(url(file))
    old.close()
    assert opened.count_runs() == 0
    opened.close()
    late = sqlite3.connect(file)  # opened before, and used after
    assert replace_catalog(url(file), fill)
    assert late.execute("SELECT version_num FROM alembic_version").fetchone() == ("replaced",)
    late.close()
    new = SqlCatalog(url(file))
    assert [one.name for one in new.runs()] == ["new"]
    assert new.job(job).next_due == 7
    assert sorted(firing.due for firing in new.firings()) == [5, 6]
    with new._engine.connect() as connection:
        assert differences(connection) == []
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
    new.close()
    assert sorted(path.name for path in file.parent.iterdir()) == ["catalog.sqlite", "catalog.sqlite.lock"]


def test_a_file_that_was_replaced_is_refused_and_a_log_that_was_left_is_used_again(file: Path) -> None:
    SqlCatalog(url(file)).close()
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'replaced'")
    with pytest.raises(StoreError, match="made anew just now"):
        SqlCatalog(url(file))
    with connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (opening.REVISIONS[-1],))
    connection.execute("PRAGMA journal_mode=DELETE")
    connection.close()
    catalog = SqlCatalog(url(file))
    with catalog._engine.connect() as engine:
        assert engine.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
    catalog.close()


def test_what_cannot_be_filled_leaves_the_old_catalog_as_it_was(file: Path) -> None:
    catalog = SqlCatalog(url(file))
    catalog.put_run(Run(id=RunId(new_id()), kind="job", state="succeeded", name="old"))
    catalog.close()

    def fill(_: SqlCatalog) -> None:
        raise StoreError("There is no space left.")

    with pytest.raises(StoreError, match="no space"):
        replace_catalog(url(file), fill)
    catalog = SqlCatalog(url(file))
    assert [one.name for one in catalog.runs()] == ["old"]
    catalog.close()
    assert not list(file.parent.glob("*.new*"))


def an_older_catalog(file: Path) -> None:
    """Make a catalog as the first version had it, with a run, one of its steps, and a metric."""
    file.parent.mkdir()
    config = Config()
    config.set_main_option("script_location", str(Path(opening.__file__).parent / "migrations"))
    engine = create_engine(url(file))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        run = {"record": '{"id":"aaaa","kind":"job","state":"succeeded","name":"old"}'}
        record = {
            "id": "bbbb",
            "run": "aaaa",
            "step": "train",
            "state": "succeeded",
            "binds": [
                {"name": "model", "artifact": {"digest": "blake3:aa", "size": 1, "type": "int", "codec": "scalar"}},
                {"name": "np", "module": "numpy"},
            ],
            "reads": [{"name": "flights", "digest": "blake3:bb"}, {"name": "trees"}],
        }
        execution = {"record": json.dumps(record)}
        values = "VALUES ('aaaa', 'job', 'succeeded', 1, :record)"
        connection.execute(text(f"INSERT INTO runs (id, kind, state, started, record) {values}"), run)
        columns = "id, run, step, state, attempt, key, moment, record"
        values = "VALUES ('bbbb', 'aaaa', 'train', 'succeeded', 1, 'k', 2, :record)"
        connection.execute(text(f"INSERT INTO executions ({columns}) {values}"), execution)
        values = "VALUES ('aaaa', 'bbbb', 'rmse', 0.5, 3)"
        connection.execute(text(f"INSERT INTO metrics (run, execution, name, value, time) {values}"))
    engine.dispose()


def test_an_older_catalog_is_migrated_after_a_backup_and_only_by_who_may(file: Path) -> None:
    an_older_catalog(file)
    with pytest.raises(StoreError, match="older version of mlbench"):
        SqlCatalog(url(file), migrate=False)
    catalog = SqlCatalog(url(file))
    assert [run.name for run in catalog.runs()] == ["old"]
    assert [one.step for one in catalog.executions(RunId("aaaa"))] == ["train"]
    assert [one.id for one in catalog.candidates("k")] == ["bbbb"]
    assert [one.id for one in catalog.makers([Digest("blake3:aa")])] == ["bbbb"]
    assert [one.id for one in catalog.readers([Digest("blake3:bb")])] == ["bbbb"]
    assert [metric.value for metric in catalog.metrics([RunId("aaaa")])[RunId("aaaa")]] == [0.5]
    with catalog._engine.connect() as connection:
        assert differences(connection) == []
    catalog.close()
    (backup,) = file.parent.glob("*.backup")
    assert backup.stat().st_mode & 0o777 == 0o600
    with sqlite3.connect(backup) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == ("0001",)
        assert connection.execute("SELECT count(*) FROM metrics").fetchone() == (1,)
    connection.close()


def test_a_migration_that_is_killed_leaves_the_older_catalog_whole(file: Path) -> None:
    an_older_catalog(file)
    source = (
        "import os, signal, sys, sqlite3\n"
        "from mlbench.backends.catalog_sql import SqlCatalog\n"
        "from sqlalchemy import event, Engine\n"
        "left = [int(sys.argv[2]) * 4 + 1]\n"
        "@event.listens_for(Engine, 'before_cursor_execute')\n"
        "def before(connection, cursor, statement, *_):\n"
        "    if not statement.startswith(('SELECT', 'PRAGMA')):\n"
        "        left[0] -= 1\n"
        "        if not left[0]:\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "SqlCatalog(sys.argv[1])\n"
    )
    for one in processes(source, 12, url(file)):
        one.communicate(timeout=60)
    catalog = SqlCatalog(url(file))
    assert [run.name for run in catalog.runs()] == ["old"]
    with catalog._engine.connect() as connection:
        assert differences(connection) == []
    catalog.close()


def test_a_migrated_catalog_is_searched_by_what_it_held_before(file: Path) -> None:
    file.parent.mkdir()
    config = Config()
    config.set_main_option("script_location", str(Path(opening.__file__).parent / "migrations"))
    engine = create_engine(url(file))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0002")
        for number in range(2_500):
            run = Run(id=RunId(f"{number:026}".translate(DIGITS)), kind="job", state="succeeded", name=f"n{number}")
            more = {"user": "me", "job_version": number, "tags": {"t\0": "v"}, "started": number}
            record = msgspec.json.encode(msgspec.to_builtins(run) | more).decode()
            values = f"VALUES ('{run.id}', 'job', 'succeeded', {number}, :record)"
            connection.execute(
                text(f"INSERT INTO runs (id, kind, state, started, record) {values}"), {"record": record}
            )
            for name, value, number_of in (("text", '"é"', None), ("on", "true", 1.0), ("n", str(number), number)):
                given = {"run": run.id, "name": name, "value": value, "number": number_of}
                connection.execute(text("INSERT INTO params VALUES (:run, :name, :value, :number)"), given)
            for time, part_of, metric in ((1, None, -1.0), (2, None, float(number)), (3, "f", 9e9)):
                given = {"run": run.id, "value": metric, "time": time, "part_of": part_of}
                columns = "run, part_of, name, value, time"
                values = "VALUES (:run, :part_of, 'rmse', :value, :time)"
                connection.execute(text(f"INSERT INTO metrics ({columns}) {values}"), given)
    engine.dispose()
    catalog = SqlCatalog(url(file))
    query = parse("params.text = 'é' and params.on = true and params.n < 2499 and user = 'me' and job_version > 3")
    page = catalog.search(query, sort=parse_sort("-metrics.rmse"), limit=2)
    assert [run.name for run in page.runs] == ["n2498", "n2497"]
    assert catalog.count_runs(parse("params.on = 1 or metrics.rmse > 1e6")) == 0
    assert catalog.count_runs(parse("name like 'n1_' and kind = 'job'")) == 10
    assert catalog.names_in_use("tags") == ["t\N{REPLACEMENT CHARACTER}"]
    catalog.close()


DIGITS = str.maketrans("0123456789", "abcdefghij")


def test_a_file_that_is_no_catalog_and_a_folder_that_is_none_are_refused_in_one_sentence(tmp_path: Path) -> None:
    strange = tmp_path / "catalog.sqlite"
    strange.write_bytes(b"something else " * 100)
    with pytest.raises(StoreError, match="is no catalog"):
        SqlCatalog(url(strange))
    with pytest.raises(StoreError, match="cannot be opened"):
        SqlCatalog(url(strange / "below" / "catalog.sqlite"))
    assert strange.read_bytes().startswith(b"something else")


def test_a_page_of_runs_is_read_from_an_index(file: Path) -> None:
    catalog = SqlCatalog(url(file))
    catalog.close()
    queries = {
        "SELECT record FROM runs ORDER BY started DESC, id DESC LIMIT 50": "ix_runs_started_id",
        "SELECT record FROM runs WHERE notebook = 'n' ORDER BY started DESC, id DESC": "ix_runs_notebook_started_id",
        "SELECT record FROM executions WHERE key = 'k' ORDER BY moment DESC LIMIT 1": "ix_executions_key_moment",
        "SELECT record FROM executions WHERE run = 'r' AND part_of IS NULL": "ix_executions_run_position",
        "SELECT record FROM executions WHERE part_of = 'e' AND item > 3 ORDER BY item": "ix_executions_part_of_item",
        "SELECT state, count(*) FROM executions WHERE part_of = 'e' GROUP BY state": "COVERING INDEX ix_exec",
        "SELECT item, value FROM metrics WHERE part_of = 'e' AND name = 'm' ORDER BY item": "ix_metrics_part_of_name",
        "SELECT value FROM metrics WHERE run IN ('r', 's') AND part_of IS NULL": "ix_metrics_run_execution",
        "SELECT record FROM executions WHERE state = 'queued' OR state = 'running'": "ix_executions_under_way",
        "SELECT due FROM firings WHERE state = 'queued' ORDER BY due, job LIMIT 1": "ix_firings_queued",
    }
    with sqlite3.connect(file) as connection:
        for query, index in queries.items():
            plan = " ".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {query}"))
            assert index in plan, plan
    connection.close()


def statements(catalog: SqlCatalog, search: Callable[[], object]) -> list[tuple[str, list[str]]]:
    """Return the statements that a search consists of, each with SQLite's plan for it."""
    made: list[tuple[str, Any]] = []

    @event.listens_for(catalog._engine, "before_cursor_execute")
    def before(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        made.append((statement, parameters))

    search()
    event.remove(catalog._engine, "before_cursor_execute", before)
    found = [one for one in made if one[0].startswith("SELECT")]
    with catalog._engine.connect() as connection:
        return [
            (one, [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {one}", given)])
            for one, given in found
        ]


SEARCHES = [
    ("", "-metrics.rmse", None, "ix_run_metrics_falling"),
    ("", "metrics.rmse", None, "ix_run_metrics_rising"),
    ("", "-metrics.rmse", Place(0.5, 3, RunId("a" * 26)), "ix_run_metrics_falling (name=? AND value>? AND value<?)"),
    ("", "metrics.rmse", Place(0.5, 3, RunId("a" * 26)), "ix_run_metrics_rising (name=? AND value>?)"),
    ("metrics.auc > 0.5 and params.x = 'a'", "-metrics.rmse", None, "ix_run_metrics_falling"),
    ("metrics.rmse < 9 and state = 'failed'", "-metrics.rmse", None, "falling (name=? AND value>? AND value<?)"),
    ("user = 'me' and name like 'a%'", "metrics.rmse", None, "ix_run_metrics_rising"),
    ("params.x = 'JFK' or tags.t = 'b'", None, None, "ix_runs_started_id"),
    ("params.x = 'JFK'", "-started", Place(5, 5, RunId("a" * 26)), "ix_runs_started_id (started<?)"),
    ("state = 'failed'", None, None, "ix_runs_state_started_id (state=?)"),
]


@pytest.mark.parametrize(("query", "sort", "after", "index"), SEARCHES)
def test_a_page_of_a_search_is_read_from_the_end_of_an_index_and_nothing_is_sorted(
    file: Path, query: str, sort: str | None, after: Place | None, index: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searching, "_FEW", -1)  # as if many runs fitted, though there are none
    catalog = SqlCatalog(url(file))
    order = parse_sort(sort) if sort is not None else None
    found = statements(catalog, lambda: catalog.search(parse(query), sort=order, after=after))
    assert not [plan for _, steps in found for plan in steps if "TEMP B-TREE" in plan], found
    first = next(plan for statement, plan in found if "ORDER BY" in statement)
    assert index in first[0], found
    catalog.close()


def test_names_are_completed_by_steps_through_an_index(file: Path) -> None:
    catalog = SqlCatalog(url(file))
    for space in ("params", "metrics", "tags"):
        ((_, plan),) = statements(catalog, partial(catalog.names_in_use, space, "a"))
        assert len(plan) == 1
        assert "SEARCH" in plan[0]
        assert "COVERING INDEX" in plan[0]
    catalog.close()


def test_where_few_runs_fit_these_are_gone_through_and_not_all_runs(file: Path) -> None:
    catalog = SqlCatalog(url(file))
    for query, index in (("metrics.rmse < 0.5", "ix_run_metrics"), ("params.x = 3", "ix_params_name_number")):
        found = statements(catalog, partial(catalog.search, parse(f"state != 'failed' and {query}")))
        plan = " ".join(next(plan for statement, plan in found if "ORDER BY" in statement))
        assert "SEARCH runs USING INDEX sqlite_autoindex_runs_1 (id=?)" in plan
        assert index in plan
    catalog.close()


def test_a_catalog_that_was_deleted_is_missed_and_another_in_its_place_is_used(file: Path) -> None:
    """SQLite itself goes on with the deleted file: what it acknowledges nobody would ever see."""
    catalog = SqlCatalog(url(file))
    catalog.put_run(a_run := Run(id=RunId(new_id()), kind="job", state="succeeded", name="n", started=1))
    before = catalog.version()
    for path in file.parent.iterdir():
        path.unlink()
    with pytest.raises(StoreError, match="is not there any more"):
        catalog.put_run(replace(a_run, name="m"))
    with pytest.raises(StoreError, match="is not there any more"):
        catalog.runs()
    other = SqlCatalog(url(file))
    assert catalog.runs() == []
    catalog.put_run(a_run)
    assert [one.id for one in other.runs()] == [a_run.id]
    noted = catalog.version()
    other.put_run(replace(a_run, name="m"))
    assert catalog.version() != noted, before
    other.close()
    catalog.close()
