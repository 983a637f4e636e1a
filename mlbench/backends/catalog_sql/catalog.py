"""The catalog: the port `mlbench.core.ports.Catalog` on a database."""

from __future__ import annotations

import math
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any, TypeVar

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Table,
    and_,
    delete,
    func,
    insert,
    not_,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from mlbench.backends.catalog_sql import tables as t
from mlbench.backends.catalog_sql.opening import clear_errors, open_engine, sqlite_file
from mlbench.core.errors import NotFound
from mlbench.core.ids import Digest, JobId, RunId, is_prefix
from mlbench.core.records import (
    ENDED,
    UNDER_WAY,
    Execution,
    Firing,
    Job,
    JobVersion,
    Json,
    Metric,
    Run,
    Snapshot,
)
from mlbench.runs.wire import msgspec

__all__ = ["SqlCatalog"]

R = TypeVar("R", Run, Execution, Job, JobVersion, Snapshot)

_FIRING = [getattr(t.firings.c, field.name) for field in fields(Firing)]


class SqlCatalog:
    """A catalog in the database of a URL.

    Parameters
    ----------
    url
        SQLAlchemy's, as `sqlite:////home/me/.local/share/mlbench/catalog.sqlite`. A missing SQLite file is made.
    migrate
        Whether an older catalog may be brought up to date.

    Attributes
    ----------
    is_new
        Whether it held nothing when it was opened, so that a store's records may have to be indexed.
    """

    def __init__(self, url: str, *, migrate: bool = True) -> None:
        self._file = sqlite_file(url)
        self._engine = open_engine(url, migrate=migrate)
        self._writer = self._engine.execution_options(mlbench_writes=True)
        self._quick_writer = self._writer.execution_options(mlbench_syncs=False)
        self._where = str(self._file or self._engine.url.render_as_string(hide_password=True))
        self._insert: Any = postgresql.insert if self._engine.dialect.name == "postgresql" else sqlite.insert
        self._watch: sqlite3.Connection | None = None
        self._watching = threading.Lock()
        with self._reading() as connection:
            self.is_new = not any(
                connection.execute(select(table.c[0]).limit(1)).first() for table in (t.runs, t.jobs, t.snapshots)
            )

    def close(self) -> None:
        """Close all connections."""
        with self._watching:
            if self._watch is not None:
                self._watch.close()
                self._watch = None
        self._engine.dispose()

    def version(self) -> int:
        """Return a number that changes whenever any process has written; it means nothing to another catalog object."""
        if self._file is None:
            with self._reading() as connection:
                found = connection.execute(
                    text("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint")
                ).scalar()
                return int(found or 0)
        # SQLite counts the commits of all other connections for each, so one is needed that never writes.
        with self._watching, clear_errors(self._where):
            if self._watch is None:
                self._watch = sqlite3.connect(self._file, timeout=10, check_same_thread=False)
            return int(self._watch.execute("PRAGMA data_version").fetchone()[0])

    # --- snapshots ----------------------------------------------------------------------------------------------------

    def put_snapshot(self, digest: Digest, snapshot: Snapshot, /) -> None:
        row = {"digest": digest, "record": _encode(snapshot)}
        with self._writing() as connection:
            connection.execute(self._insert(t.snapshots).values(row).on_conflict_do_nothing())

    def snapshot(self, digest: Digest, /) -> Snapshot:
        with self._reading() as connection:
            found = connection.execute(select(t.snapshots.c.record).where(t.snapshots.c.digest == digest)).scalar()
        if found is None:
            raise NotFound(f"The catalog has no snapshot {digest}.")
        return _decode(found, Snapshot)

    # --- runs ---------------------------------------------------------------------------------------------------------

    def put_run(self, run: Run, /) -> None:
        row = {
            "id": run.id,
            "kind": run.kind,
            "state": run.state,
            "notebook": run.notebook,
            "notebook_id": run.notebook_id,
            "job": run.job,
            "kernel": run.kernel,
            "owner": run.owner,
            "started": run.started,
            "ended": run.ended,
            "record": _encode(run),
        }
        # An interactive run goes on when its kernel runs a further step; every other end is final.
        final = and_(t.runs.c.state.in_(ENDED), t.runs.c.kind != "interactive")
        with self._writing(durable=run.state in ENDED) as connection:
            if self._put(connection, t.runs, row, final=final):
                self._put_metrics(connection, run.id, None, run.metrics)
                connection.execute(delete(t.params).where(t.params.c.run == run.id))
                if run.parameters:
                    connection.execute(insert(t.params), [_param(run.id, *one) for one in run.parameters.items()])

    def run(self, prefix: str, /) -> Run:
        with self._reading() as connection:
            return _decode(_find(connection, t.runs, prefix, "run")[0], Run)

    def runs(
        self,
        *,
        notebook: str | None = None,
        notebook_id: str | None = None,
        job: JobId | None = None,
        kernel: str | None = None,
        under_way: bool = False,
        limit: int = 50,
        before: tuple[int, str] | None = None,
    ) -> list[Run]:
        c = t.runs.c
        given = {c.job: job, c.kernel: kernel}
        query = select(c.record).where(*(column == value for column, value in given.items() if value is not None))
        if under_way:
            query = query.where(_is_under_way(t.runs))
        if before is not None:
            started, last = before
            query = query.where(or_(c.started < started, and_(c.started == started, c.id < last)))
        query = query.order_by(c.started.desc(), c.id.desc()).limit(limit)
        # One query for each way to find a notebook's runs, so that each is read from the end of its index.
        found: list[Run] = []
        with self._reading() as connection:
            for condition in _of_notebook(notebook, notebook_id):
                found += (_decode(record, Run) for record in connection.execute(query.where(*condition)).scalars())
        return sorted(found, key=lambda run: (run.started, run.id), reverse=True)[:limit]

    def count_runs(self, *, notebook: str | None = None, notebook_id: str | None = None) -> int:
        query = select(func.count()).select_from(t.runs)
        with self._reading() as connection:
            return sum(
                int(connection.execute(query.where(*condition)).scalar_one())
                for condition in _of_notebook(notebook, notebook_id)
            )

    def notebooks(self, notebook_id: str, /) -> dict[str, int]:
        c = t.runs.c
        query = select(c.notebook, func.min(c.started)).where(c.notebook_id == notebook_id).group_by(c.notebook)
        with self._reading() as connection:
            found = [(path, moment) for path, moment in connection.execute(query) if path is not None]
            jobs = connection.execute(select(t.jobs.c.record).where(t.jobs.c.notebook_id == notebook_id)).scalars()
            found += [(job.notebook, job.created) for job in (_decode(record, Job) for record in jobs)]
        first: dict[str, int] = {}
        for path, moment in found:
            first[path] = min(moment, first.get(path, moment))
        return first

    def metrics(self, runs: Sequence[RunId], /) -> dict[RunId, tuple[Metric, ...]]:
        c = t.metrics.c
        found: dict[RunId, list[Metric]] = {}
        with self._reading() as connection:
            for some in (runs[start : start + 500] for start in range(0, len(runs), 500)):
                for row in connection.execute(select(t.metrics).where(c.run.in_(some)).order_by(c.time, c.id)):
                    value = math.nan if row.value is None else row.value
                    metric = Metric(name=row.name, value=value, step=row.step, time=row.time)
                    found.setdefault(RunId(row.run), []).append(metric)
        return {run: tuple(metrics) for run, metrics in found.items()}

    # --- executions ---------------------------------------------------------------------------------------------------

    def put_execution(self, execution: Execution, /) -> None:
        self.put_executions([execution])

    def put_executions(self, executions: Sequence[Execution], /) -> None:
        rows = [_execution_row(execution) for execution in executions]
        with self._writing(durable=any(one.state in ENDED for one in executions)) as connection:
            for execution, row in zip(executions, rows, strict=True):
                if self._put(connection, t.executions, row, final=t.executions.c.state.in_(ENDED)):
                    self._put_metrics(connection, execution.run, execution.id, execution.metrics)

    def execution(self, prefix: str, /) -> Execution:
        with self._reading() as connection:
            found = _find(connection, t.executions, prefix, "execution", t.executions.c.messages)
        return _whole(found)

    def executions(self, run: RunId, /) -> list[Execution]:
        c = t.executions.c
        order = (c.position.is_(None), c.position, c.item, c.moment, c.attempt, c.id)
        return self._executions(select(c.record).where(c.run == run).order_by(*order))

    def under_way(self) -> list[Execution]:
        """Return all executions that are queued or running, without their messages."""
        c = t.executions.c
        return self._executions(select(c.record).where(_is_under_way(t.executions)).order_by(c.moment.desc(), c.id))

    def last_execution(
        self, *, key: str | None = None, notebook_id: str | None = None, step: str | None = None, since: int = 0
    ) -> Execution | None:
        c = t.executions.c
        query = select(c.record, c.messages).where(c.moment >= since)
        if key is not None:
            query = query.where(c.key == key)
        if step is not None:
            query = query.where(c.step == step)
        if notebook_id is not None:
            query = query.join(t.runs, t.runs.c.id == c.run).where(t.runs.c.notebook_id == notebook_id)
        with self._reading() as connection:
            found = connection.execute(query.order_by(c.moment.desc(), c.id).limit(1)).first()
        return None if found is None else _whole(found)

    def _executions(self, query: Select[Any]) -> list[Execution]:
        with self._reading() as connection:
            found = connection.execute(query).scalars().all()
        return [_decode(record, Execution) for record in found]

    # --- jobs ---------------------------------------------------------------------------------------------------------

    def put_job(self, job: Job, /) -> None:
        names = ("id", "name", "notebook_id", "host", "paused", "deleted", "next_due", "last_due", "created")
        row = {name: getattr(job, name) for name in names} | {"record": _encode(job)}
        with self._writing() as connection:
            self._put(connection, t.jobs, row)

    def job(self, prefix: str, /) -> Job:
        """Return the job with this id, unique prefix or name; of those with one name a deleted one comes last."""
        c = t.jobs.c
        with self._reading() as connection:
            named = connection.execute(
                select(c.record, c.next_due, c.last_due).where(c.name == prefix, c.deleted.is_(False)).limit(2)
            ).all()
            if len(named) == 1:
                return _job(named[0])
            if len(named) > 1:
                raise NotFound(f"Several jobs are called {prefix!r}.", "Name one by its id: `mlbench jobs` shows them.")
            return _job(_find(connection, t.jobs, prefix, "job", c.next_due, c.last_due))

    def jobs(self, *, deleted: bool = False) -> list[Job]:
        c = t.jobs.c
        query = select(c.record, c.next_due, c.last_due).order_by(c.created.desc(), c.id)
        if not deleted:
            query = query.where(c.deleted.is_(False))
        with self._reading() as connection:
            return [_job(row) for row in connection.execute(query)]

    def put_job_version(self, job: JobId, version: JobVersion, /) -> None:
        row = {"job": job, "number": version.number, "record": _encode(version)}
        with self._writing() as connection:
            connection.execute(self._insert(t.job_versions).values(row).on_conflict_do_nothing())

    def job_versions(self, job: JobId, /) -> list[JobVersion]:
        c = t.job_versions.c
        with self._reading() as connection:
            found = connection.execute(select(c.record).where(c.job == job).order_by(c.number.desc())).scalars().all()
        return [_decode(record, JobVersion) for record in found]

    def due_jobs(self, now: int, /, *, host: str | None = None, limit: int = 100) -> list[Job]:
        c = t.jobs.c
        query = select(c.record, c.next_due, c.last_due).where(
            c.paused.is_(False), c.deleted.is_(False), c.next_due <= now
        )
        if host is not None:
            query = query.where(or_(c.host == host, c.host.is_(None)))
        with self._reading() as connection:
            return [_job(row) for row in connection.execute(query.order_by(c.next_due, c.id).limit(limit))]

    # --- firings ------------------------------------------------------------------------------------------------------

    def fire(self, job: JobId, firings: Sequence[Firing], /, *, was_due: int, next_due: int | None) -> bool:
        c = t.jobs.c
        moved: Json = {"next_due": next_due}
        if firings:
            moved["last_due"] = max([was_due, *(firing.due for firing in firings)])
        rows = [_firing_row(firing) for firing in firings]
        with self._writing() as connection:
            advanced = connection.execute(update(t.jobs).where(c.id == job, c.next_due == was_due).values(**moved))
            if not advanced.rowcount:
                return False
            for row in rows:
                connection.execute(self._insert(t.firings).values(row).on_conflict_do_nothing())
        return True

    def add_firing(self, firing: Firing, /) -> bool:
        row = _firing_row(firing)
        with self._writing() as connection:
            return bool(connection.execute(self._insert(t.firings).values(row).on_conflict_do_nothing()).rowcount)

    def claim_firing(self, owner: str, now: int, /) -> Firing | None:
        c = t.firings.c
        # In this word, so that SQLite sees that the partial index holds all that is asked for.
        queued = c.state == text("'queued'")
        first = select(c.job, c.due, c.manual).where(queued).order_by(c.due, c.job).limit(1)
        with self._writing() as connection:
            found = connection.execute(first.with_for_update(skip_locked=True)).first()
            if found is None:
                return None
            claimed = connection.execute(
                update(t.firings)
                .where(c.job == found.job, c.due == found.due, c.manual == found.manual, c.state == "queued")
                .values(state="running", token=c.token + 1, owner=owner, claimed=now)
                .returning(*_FIRING)
            ).one()
        return _firing(claimed)

    def end_firing(self, firing: Firing, /) -> bool:
        return self._change_firing(firing, state=firing.state, reason=firing.reason, run=firing.run)

    def attach_run(self, firing: Firing, run: RunId, /) -> bool:
        return self._change_firing(firing, run=run)

    def firings(self, job: JobId | None = None, /, *, states: Sequence[str] = (), limit: int = 50) -> list[Firing]:
        query = select(*_FIRING).order_by(t.firings.c.due.desc(), t.firings.c.job, t.firings.c.manual).limit(limit)
        if job is not None:
            query = query.where(t.firings.c.job == job)
        if states:
            query = query.where(t.firings.c.state.in_(states))
        with self._reading() as connection:
            return [_firing(row) for row in connection.execute(query)]

    def _change_firing(self, firing: Firing, **changes: Any) -> bool:
        c = t.firings.c
        which = (c.job == firing.job, c.due == firing.due, c.manual == firing.manual, c.token == firing.token)
        with self._writing() as connection:
            changed = connection.execute(update(t.firings).where(*which, c.state.in_(UNDER_WAY)).values(**changes))
            return bool(changed.rowcount)

    # --- connections --------------------------------------------------------------------------------------------------

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with clear_errors(self._where), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def _writing(self, *, durable: bool = True) -> Iterator[Connection]:
        writer = self._writer if durable else self._quick_writer
        with clear_errors(self._where), writer.begin() as connection:
            yield connection

    def _put(
        self, connection: Connection, table: Table, row: Json, *, final: ColumnElement[bool] | None = None
    ) -> bool:
        """Insert or replace a row; return False if it was left alone, since it says an end and the new one does not."""
        key = table.primary_key.columns.keys()
        query = self._insert(table).values(row)
        changes: Json = {name: query.excluded[name] for name in row if name not in key}
        if "messages" in changes:  # whoever writes an execution without them did not have them
            changes["messages"] = func.coalesce(query.excluded.messages, table.c.messages)
        where = not_(final) if final is not None and row["state"] in UNDER_WAY else None
        query = query.on_conflict_do_update(index_elements=key, set_=changes, where=where)
        return bool(connection.execute(query).rowcount)

    def _put_metrics(self, connection: Connection, run: str, execution: str | None, metrics: Sequence[Metric]) -> None:
        c = t.metrics.c
        connection.execute(delete(t.metrics).where(c.run == run, c.execution == execution))
        if metrics:
            rows = [
                {
                    "run": run,
                    "execution": execution,
                    "name": metric.name,
                    "step": metric.step,
                    "value": None if math.isnan(metric.value) else metric.value,
                    "time": metric.time,
                }
                for metric in metrics
            ]
            connection.execute(insert(t.metrics), rows)


def _is_under_way(table: Table) -> ColumnElement[bool]:
    # In these words, and not as parameters, so that SQLite sees that the partial index holds all that is asked for.
    return or_(table.c.state == text("'queued'"), table.c.state == text("'running'"))


def _of_notebook(notebook: str | None, notebook_id: str | None) -> list[list[ColumnElement[bool]]]:
    """Return the conditions that a notebook's runs meet, one or another."""
    c = t.runs.c
    if notebook is not None and notebook_id is not None:
        return [[c.notebook_id == notebook_id], [c.notebook == notebook, c.notebook_id.is_(None)]]
    given = {c.notebook: notebook, c.notebook_id: notebook_id}
    return [[column == value for column, value in given.items() if value is not None]]


def _cut(text: str) -> str:
    """Return the beginning of a text that was given in an id's place, to be shown."""
    return text if len(text) <= 60 else f"{text[:56]} ..."


def _find(connection: Connection, table: Table, prefix: str, word: str, *columns: Any) -> Any:
    c = table.c
    if not is_prefix(prefix):
        raise NotFound(
            f"{_cut(prefix)!r} is no {word}'s id.", f"An id, or four or more letters that begin one, names a {word}."
        )
    # "{" comes after all characters of an id.
    query = select(c.record, *columns, c.id).where(c.id >= prefix, c.id < f"{prefix}{{").order_by(c.id).limit(4)
    found: Sequence[Any] = connection.execute(query).all()
    if not found:
        raise NotFound(f"There is no {word} {prefix}.", f"`mlbench {_LISTS[word]}` shows what there is.")
    if len(found) > 1:
        fitting = ", ".join(row.id[: len(prefix) + 4] for row in found[:3]) + (", …" if len(found) > 3 else "")
        raise NotFound(f"Several {word}s begin with {prefix}: {fitting}.", "Write more letters of its id.")
    return found[0]


_LISTS = {"run": "runs", "execution": "show RUN", "job": "jobs"}


# --- records ----------------------------------------------------------------------------------------------------------


def _encode(record: Any) -> str:
    metrics: tuple[Metric, ...] = getattr(record, "metrics", ())
    if any(not math.isfinite(metric.value) for metric in metrics):
        plain = msgspec.to_builtins(record)
        for metric in plain["metrics"]:
            if not math.isfinite(metric["value"]):
                metric["value"] = str(metric["value"])  # JSON has no number for it
        record = plain
    return msgspec.json.encode(record).decode()


def _decode(record: str, kind: type[R]) -> R:
    try:
        return msgspec.json.decode(record, type=kind)
    except msgspec.ValidationError:
        return msgspec.json.decode(record, type=kind, strict=False)  # numbers as texts: see _encode


def _whole(row: Any) -> Execution:
    execution = _decode(row.record, Execution)
    return replace(execution, messages=tuple(msgspec.json.decode(row.messages))) if row.messages else execution


def _execution_row(execution: Execution) -> Json:
    moments = (execution.started, execution.queued, execution.ended)
    return {
        "id": execution.id,
        "run": execution.run,
        "step": execution.step,
        "state": execution.state,
        "position": execution.position,
        "item": execution.item,
        "attempt": execution.attempt,
        "key": execution.key,
        "moment": next((moment for moment in moments if moment is not None), 0),
        "record": _encode(replace(execution, messages=())),
        "messages": msgspec.json.encode(execution.messages).decode() if execution.messages else None,
    }


def _param(run: str, name: str, value: Any) -> Json:
    number = float(value) if isinstance(value, int | float) and abs(value) < 1e308 else None
    return {"run": run, "name": name, "value": msgspec.json.encode(value).decode(), "number": number}


def _job(row: Any) -> Job:
    return replace(_decode(row.record, Job), next_due=row.next_due, last_due=row.last_due)


def _firing_row(firing: Firing) -> Json:
    row = {field.name: getattr(firing, field.name) for field in fields(firing)}
    return row | {"created": time.time_ns(), "cancel_requested": False}


def _firing(row: Any) -> Firing:
    return Firing(**row._mapping)
