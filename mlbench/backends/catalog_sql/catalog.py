"""The catalog: the port `mlbench.core.ports.Catalog` on a database."""

from __future__ import annotations

import math
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, Final, TypeVar

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Table,
    and_,
    delete,
    func,
    not_,
    or_,
    select,
    text,
    update,
)

from mlbench.backends.catalog_sql import tables as t
from mlbench.backends.catalog_sql.opening import clear_errors, open_engine, sqlite_file
from mlbench.backends.catalog_sql.recording import Recorder, is_final
from mlbench.backends.catalog_sql.rows import (
    decode,
    encode,
    execution_row,
    firing_row,
    to_execution,
    to_firing,
    to_job,
    to_metric,
)
from mlbench.backends.catalog_sql.searching import condition_of, names_in_use, search
from mlbench.core.errors import NotFound
from mlbench.core.ids import Digest, ExecutionId, JobId, RunId, is_prefix
from mlbench.core.queries import Page, Place, Query, Sort, Space
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
from mlbench.runs import lineage

__all__ = ["SqlCatalog"]

T = TypeVar("T")

_ALL: Final = 500
"""How many ids or keys one query asks for."""

_FIRING = [getattr(t.firings.c, field.name) for field in fields(Firing)]


class SqlCatalog:
    """A catalog in the database of a URL.

    Parameters
    ----------
    url
        SQLAlchemy's, as `sqlite:////home/me/.local/share/mlbench/catalog.sqlite`. A missing SQLite file is made.
    migrate
        Whether an older catalog may be brought up to date.
    durable
        Whether what is acknowledged must survive a power cut; not so while a catalog is made that nobody uses yet.

    Attributes
    ----------
    is_new
        Whether it held nothing when it was opened, so that a store's records may have to be indexed.
    """

    def __init__(self, url: str, *, migrate: bool = True, durable: bool = True) -> None:
        self._file = sqlite_file(url)
        self._engine = open_engine(url, migrate=migrate)
        self._writer = self._engine.execution_options(mlbench_writes=True, preserve_rowcount=True)
        self._quick_writer = self._writer.execution_options(mlbench_syncs=False)
        if not durable:
            self._writer = self._quick_writer
        self._where = str(self._file or self._engine.url.render_as_string(hide_password=True))
        self._recorder = Recorder(self._engine.dialect)
        self._insert = self._recorder.insert
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
        row = {"digest": digest, "record": encode(snapshot)}
        with self._writing() as connection:
            connection.execute(self._insert(t.snapshots).values(row).on_conflict_do_nothing())

    def snapshot(self, digest: Digest, /) -> Snapshot:
        with self._reading() as connection:
            found = connection.execute(select(t.snapshots.c.record).where(t.snapshots.c.digest == digest)).scalar()
        if found is None:
            raise NotFound(f"The catalog has no snapshot {digest}.")
        return decode(found, Snapshot)

    # --- runs ---------------------------------------------------------------------------------------------------------

    def put_run(self, run: Run, /) -> None:
        self.put_runs([run])

    def put_runs(self, runs: Sequence[Run], /) -> None:
        them: dict[str, Run] = {}
        for run in runs:
            if not is_final(them.get(run.id), run):
                them[run.id] = run
        if not them:
            return
        with self._writing(durable=any(run.state in ENDED for run in them.values())) as connection:
            self._recorder.put_runs(connection, them.values())

    def run(self, prefix: str, /) -> Run:
        with self._reading() as connection:
            return decode(_find(connection, t.runs, prefix, "run")[0], Run)

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
                found += (decode(record, Run) for record in connection.execute(query.where(*condition)).scalars())
        return sorted(found, key=lambda run: (run.started, run.id), reverse=True)[:limit]

    def search(
        self,
        query: Query | None = None,
        /,
        *,
        sort: Sort | None = None,
        notebook: str | None = None,
        notebook_id: str | None = None,
        job: JobId | None = None,
        under_way: bool = False,
        limit: int = 50,
        after: Place | None = None,
    ) -> Page:
        more = [t.runs.c.job == job] if job is not None else []
        if under_way:
            more.append(_is_under_way(t.runs))
        scopes = [[*one, *more] for one in _of_notebook(notebook, notebook_id)]
        with self._reading() as connection:
            return search(connection, query, sort, scopes, limit=limit, after=after)

    def count_runs(
        self, query: Query | None = None, /, *, notebook: str | None = None, notebook_id: str | None = None
    ) -> int:
        counted = select(func.count()).select_from(t.runs)
        if query is not None:
            counted = counted.where(condition_of(query, self._engine.dialect.name, of_all=True))
        with self._reading() as connection:
            return sum(
                int(connection.execute(counted.where(*condition)).scalar_one())
                for condition in _of_notebook(notebook, notebook_id)
            )

    def names_in_use(self, space: Space, prefix: str = "", /, *, limit: int = 50) -> list[str]:
        with self._reading() as connection:
            return list(names_in_use(connection, space, prefix, limit))

    def notebooks(self, notebook_id: str, /) -> dict[str, int]:
        c = t.runs.c
        query = select(c.notebook, func.min(c.started)).where(c.notebook_id == notebook_id).group_by(c.notebook)
        with self._reading() as connection:
            found = [(path, moment) for path, moment in connection.execute(query) if path is not None]
            jobs = connection.execute(select(t.jobs.c.record).where(t.jobs.c.notebook_id == notebook_id)).scalars()
            found += [(job.notebook, job.created) for job in (decode(record, Job) for record in jobs)]
        first: dict[str, int] = {}
        for path, moment in found:
            first[path] = min(moment, first.get(path, moment))
        return first

    def metrics(self, runs: Sequence[RunId], /) -> dict[RunId, tuple[Metric, ...]]:
        c = t.metrics.c
        found: dict[RunId, list[Metric]] = {}
        with self._reading() as connection:
            for some in _batches(runs):
                query = select(t.metrics).where(c.run.in_(some), c.part_of.is_(None)).order_by(c.time, c.id)
                for row in connection.execute(query):
                    found.setdefault(RunId(row.run), []).append(to_metric(row))
        return {run: tuple(metrics) for run, metrics in found.items()}

    # --- executions ---------------------------------------------------------------------------------------------------

    def put_execution(self, execution: Execution, /) -> None:
        self.put_executions([execution])

    def put_executions(self, executions: Sequence[Execution], /) -> None:
        them: dict[str, tuple[Execution, Json]] = {}
        for execution in executions:
            row, before = execution_row(execution), them.get(execution.id)
            if before is not None:
                if before[0].state in ENDED and execution.state in UNDER_WAY:
                    continue
                row["messages"] = row["messages"] or before[1]["messages"]
            them[execution.id] = execution, row
        if not them:
            return
        with self._writing(durable=any(one.state in ENDED for one, _ in them.values())) as connection:
            self._recorder.put_executions(connection, them)

    def execution(self, prefix: str, /) -> Execution:
        with self._reading() as connection:
            found = _find(connection, t.executions, prefix, "execution", t.executions.c.messages)
        return to_execution(found)

    def executions(self, run: RunId, /) -> list[Execution]:
        c = t.executions.c
        order = (c.position.is_(None), c.position, c.moment, c.attempt, c.id)
        return self._executions(select(c.record).where(c.run == run, c.part_of.is_(None)).order_by(*order))

    def items(
        self, execution: ExecutionId, /, *, states: Sequence[str] = (), limit: int = 200, after: int = -1
    ) -> list[Execution]:
        c = t.executions.c
        query = select(c.record).where(c.part_of == execution, c.item > after)
        if states:
            query = query.where(c.state.in_(states))
        return self._executions(query.order_by(c.item).limit(limit))

    def count_items(self, execution: ExecutionId, /) -> dict[str, int]:
        c = t.executions.c
        query = select(c.state, func.count()).where(c.part_of == execution).group_by(c.state)
        with self._reading() as connection:
            return {state: int(count) for state, count in connection.execute(query)}

    def item_metrics(self, execution: ExecutionId, name: str, /) -> list[tuple[int, float]]:
        c = t.metrics.c
        query = select(c.item, c.value).where(c.part_of == execution, c.name == name).order_by(c.item, c.time, c.id)
        with self._reading() as connection:
            found = {item: math.nan if value is None else value for item, value in connection.execute(query)}
        return list(found.items())

    def item_metric_names(self, execution: ExecutionId, /) -> list[str]:
        c = t.metrics.c
        with self._reading() as connection:
            query = select(c.name).where(c.part_of == execution).group_by(c.name).order_by(func.min(c.id))
            return list(connection.execute(query).scalars())

    def by_keys(self, keys: Iterable[str], /) -> dict[str, Execution]:
        c = t.executions.c
        found: dict[str, str] = {}
        with self._reading() as connection:
            for some in _batches(list(dict.fromkeys(keys))):
                query = select(c.key, c.record).where(c.key.in_(some), c.state.in_(("succeeded", "reused")))
                found.update((row.key, row.record) for row in connection.execute(query.order_by(c.moment, c.id)))
        return {key: decode(record, Execution) for key, record in found.items()}

    def candidates(self, key: str, /, *, limit: int = 10) -> list[Execution]:
        c = t.executions.c
        query = select(c.record).where(c.key == key, c.state == "succeeded").order_by(c.moment.desc(), c.id)
        return self._executions(query.limit(limit))

    def delete_runs(self, runs: Sequence[RunId], /) -> None:
        for some in _batches(runs):
            with self._writing() as connection:
                ended = select(t.runs.c.id).where(t.runs.c.id.in_(some), not_(_is_under_way(t.runs)))
                gone = list(connection.execute(ended).scalars())
                if not gone:
                    continue
                theirs = select(t.executions.c.id).where(t.executions.c.run.in_(gone))
                for table in (t.artifacts_bound, t.artifacts_read):
                    connection.execute(delete(table).where(table.c.execution.in_(theirs)))
                for table in (t.metrics, t.run_metrics, t.params, t.tags, t.executions):
                    connection.execute(delete(table).where(table.c.run.in_(gone)))
                connection.execute(delete(t.runs).where(t.runs.c.id.in_(gone)))

    def delete_snapshots(self, digests: Sequence[Digest], /) -> None:
        for some in _batches(digests):
            with self._writing() as connection:
                connection.execute(delete(t.snapshots).where(t.snapshots.c.digest.in_(some)))

    def under_way(self) -> list[Execution]:
        """Return all executions that are queued or running, without their messages."""
        c = t.executions.c
        return self._executions(select(c.record).where(_is_under_way(t.executions)).order_by(c.moment.desc(), c.id))

    def executions_named(self, ids: Iterable[ExecutionId], /) -> dict[ExecutionId, Execution]:
        found: list[Execution] = []
        for some in _batches(list(dict.fromkeys(ids))):
            found += self._executions(select(t.executions.c.record).where(t.executions.c.id.in_(some)))
        return {one.id: one for one in found}

    def makers(self, digests: Iterable[Digest], /, *, limit: int = 1000) -> list[Execution]:
        return self._users(t.artifacts_bound, digests, lineage.binds, limit)

    def readers(self, digests: Iterable[Digest], /, *, limit: int = 1000) -> list[Execution]:
        return self._users(t.artifacts_read, digests, lineage.given, limit)

    def _users(
        self, table: Table, digests: Iterable[Digest], which: Callable[[Execution], set[Digest]], limit: int
    ) -> list[Execution]:
        """Return the executions that a table of artifacts names, if their records say so too."""
        c, wanted = t.executions.c, list(dict.fromkeys(digests))
        found: dict[ExecutionId, Execution] = {}
        for some in _batches(wanted):
            using = select(table.c.execution).where(table.c.digest.in_(some))
            query = select(c.record).where(c.id.in_(using)).order_by(c.moment, c.id).limit(limit)
            found |= {one.id: one for one in self._executions(query) if not which(one).isdisjoint(some)}
        return sorted(found.values(), key=lambda one: (lineage.moment(one), one.id))[:limit]

    def _executions(self, query: Select[Any]) -> list[Execution]:
        with self._reading() as connection:
            found = connection.execute(query).scalars().all()
        return [decode(record, Execution) for record in found]

    # --- jobs ---------------------------------------------------------------------------------------------------------

    def put_job(self, job: Job, /) -> None:
        names = ("id", "name", "notebook_id", "host", "paused", "deleted", "next_due", "last_due", "created")
        row = {name: getattr(job, name) for name in names} | {"record": encode(job)}
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
                return to_job(named[0])
            if len(named) > 1:
                raise NotFound(f"Several jobs are called {prefix!r}.", "Name one by its id: `mlbench jobs` shows them.")
            return to_job(_find(connection, t.jobs, prefix, "job", c.next_due, c.last_due))

    def jobs(self, *, deleted: bool = False) -> list[Job]:
        c = t.jobs.c
        query = select(c.record, c.next_due, c.last_due).order_by(c.created.desc(), c.id)
        if not deleted:
            query = query.where(c.deleted.is_(False))
        with self._reading() as connection:
            return [to_job(row) for row in connection.execute(query)]

    def put_job_version(self, job: JobId, version: JobVersion, /) -> None:
        row = {"job": job, "number": version.number, "record": encode(version)}
        with self._writing() as connection:
            connection.execute(self._insert(t.job_versions).values(row).on_conflict_do_nothing())

    def job_versions(self, job: JobId, /) -> list[JobVersion]:
        c = t.job_versions.c
        with self._reading() as connection:
            found = connection.execute(select(c.record).where(c.job == job).order_by(c.number.desc())).scalars().all()
        return [decode(record, JobVersion) for record in found]

    def due_jobs(self, now: int, /, *, host: str | None = None, limit: int = 100) -> list[Job]:
        c = t.jobs.c
        query = select(c.record, c.next_due, c.last_due).where(
            c.paused.is_(False), c.deleted.is_(False), c.next_due <= now
        )
        if host is not None:
            query = query.where(or_(c.host == host, c.host.is_(None)))
        with self._reading() as connection:
            return [to_job(row) for row in connection.execute(query.order_by(c.next_due, c.id).limit(limit))]

    # --- firings ------------------------------------------------------------------------------------------------------

    def fire(self, job: JobId, firings: Sequence[Firing], /, *, was_due: int, next_due: int | None) -> bool:
        c = t.jobs.c
        moved: Json = {"next_due": next_due}
        if firings:
            moved["last_due"] = max([was_due, *(firing.due for firing in firings)])
        rows = [firing_row(firing) for firing in firings]
        with self._writing() as connection:
            advanced = connection.execute(update(t.jobs).where(c.id == job, c.next_due == was_due).values(**moved))
            if not advanced.rowcount:
                return False
            for row in rows:
                connection.execute(self._insert(t.firings).values(row).on_conflict_do_nothing())
        return True

    def add_firing(self, firing: Firing, /) -> bool:
        row = firing_row(firing)
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
        return to_firing(claimed)

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
            return [to_firing(row) for row in connection.execute(query)]

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

    def _put(self, connection: Connection, table: Table, row: Json) -> None:
        key = table.primary_key.columns.keys()
        query = self._insert(table).values(row)
        changes: Json = {name: query.excluded[name] for name in row if name not in key}
        connection.execute(query.on_conflict_do_update(index_elements=key, set_=changes))


def _batches(them: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(them), _ALL):
        yield them[start : start + _ALL]


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
