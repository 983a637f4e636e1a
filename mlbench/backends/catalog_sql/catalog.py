"""The catalog: the port `mlbench.core.ports.Catalog` on a database."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeVar

from sqlalchemy import (
    JSON,
    ColumnElement,
    Select,
    Table,
    and_,
    cast,
    delete,
    exists,
    func,
    not_,
    or_,
    select,
    text,
    update,
)

from mlbench.backends.catalog_sql import tables as t
from mlbench.backends.catalog_sql.connections import find_row, persistent
from mlbench.backends.catalog_sql.forgetting import Forgetting, batches
from mlbench.backends.catalog_sql.jobs import Jobs
from mlbench.backends.catalog_sql.opening import MADE_ANEW
from mlbench.backends.catalog_sql.recording import is_among, is_final
from mlbench.backends.catalog_sql.rows import (
    LOGGED,
    SIGNED,
    decode,
    encode,
    execution_row,
    signs_of,
    to_execution,
    to_metric,
)
from mlbench.backends.catalog_sql.searching import condition_of, names_in_use, search
from mlbench.core.errors import NotFound, StoreError
from mlbench.core.ids import Digest, ExecutionId, JobId, RunId
from mlbench.core.ports import WrittenItem
from mlbench.core.queries import Page, Place, Query, Signers, Sort, Space
from mlbench.core.records import (
    ENDED,
    UNDER_WAY,
    Execution,
    Job,
    Json,
    Metric,
    Run,
    Snapshot,
)
from mlbench.runs import lineage
from mlbench.runs.itemrecords import made_in

__all__ = ["SqlCatalog"]

R = TypeVar("R", Run, Execution)

_NOTED_AT_ONCE: Final = 5_000
_ITEMS: Final = "items"
"""Stands in a digest's place where it was noted what a fan-out's items bound."""

_MET_ANEW: Final = 3600 * 10**9
"""Nanoseconds for which the time at which a run was met stands for now (see `mlbench.runs.retention.GRACE`)."""


@persistent
class SqlCatalog(Jobs):
    """A catalog in the database of a URL: see `mlbench.backends.catalog_sql.connections.Connections`."""

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
            return decode(find_row(connection, t.runs, prefix, "run")[0], Run)

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

    def runs_by_id(self, *, after: str = "", limit: int = 1000) -> list[Run]:
        return self._by_id(t.runs, Run, after, limit)

    def executions_by_id(self, *, after: str = "", limit: int = 1000) -> list[Execution]:
        return self._by_id(t.executions, Execution, after, limit)

    def _by_id(self, table: Table, kind: type[R], after: str, limit: int) -> list[R]:
        query = select(table.c.id, table.c.record).where(table.c.id > after).order_by(table.c.id).limit(limit)
        with self._reading() as connection:
            rows = connection.execute(query).all()
        found: list[R] = []
        for row in rows:
            try:
                found.append(decode(row.record, kind))
            except ValueError as error:
                said = f"what it says of the {kind.__name__.lower()} {row.id} cannot be read"
                raise StoreError(f"The catalog {self._where} is damaged: {said}.", MADE_ANEW) from error
        return found

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
            for some in batches(runs):
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

    def put_items(self, items: Sequence[WrittenItem], /) -> None:
        them = {item.id: item for item in items}
        if not them:
            return
        with self._writing() as connection:
            self._recorder.put_items(connection, list(them.values()))

    def execution(self, prefix: str, /) -> Execution:
        with self._reading() as connection:
            found = find_row(connection, t.executions, prefix, "execution", t.executions.c.messages)
        return to_execution(found)

    def executions(self, run: RunId, /) -> list[Execution]:
        c = t.executions.c
        order = (c.position.is_(None), c.position, c.moment, c.attempt, c.id)
        return self._executions(select(c.record).where(c.run == run, c.part_of.is_(None)).order_by(*order))

    def items(
        self,
        execution: ExecutionId,
        /,
        *,
        states: Sequence[str] = (),
        logged: bool = False,
        limit: int = 200,
        after: int = -1,
    ) -> list[Execution]:
        c = t.executions.c
        query = select(c.record).where(c.part_of == execution, c.item > after)
        if states:
            query = query.where(c.state.in_(states))
        if logged:
            query = query.where(self._has(LOGGED))
        return self._executions(query.order_by(c.item).limit(limit))

    def count_items(self, execution: ExecutionId, /) -> dict[str, int]:
        c = t.executions.c
        query = select(c.state, func.count()).where(c.part_of == execution).group_by(c.state)
        with self._reading() as connection:
            return {state: int(count) for state, count in connection.execute(query)}

    def count_logged(self, execution: ExecutionId, /) -> int:
        c = t.executions.c
        if self._engine.dialect.name == "sqlite":
            length = func.json_array_length(c.record, "$.artifacts")
        else:
            length = func.json_array_length(cast(c.record, JSON)["artifacts"])
        query = select(func.sum(length)).where(c.part_of == execution, self._has(LOGGED))
        with self._reading() as connection:
            return int(connection.execute(query).scalar() or 0)

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

    def by_keys(
        self, keys: Iterable[str], /, *, signers: Signers | None = None, limit: int = 1
    ) -> dict[str, list[Execution]]:
        c = t.executions.c
        place = func.row_number().over(partition_by=c.key, order_by=(c.moment.desc(), c.id.desc())).label("place")
        usable = c.state.in_(("succeeded", "reused")), *self._signed_by(signers)
        of_each = select(c.key, c.record, place).where(self._is_among(c.key), *usable).subquery()
        query = select(of_each.c.key, of_each.c.record).where(of_each.c.place <= limit).order_by(of_each.c.place)
        found: dict[str, list[Execution]] = {}
        with self._reading() as connection:
            for key, record in connection.execute(query, self._recorder.among(dict.fromkeys(keys))):
                found.setdefault(key, []).append(decode(record, Execution))
        return found

    def candidates(self, key: str, /, *, signers: Signers | None = None, limit: int = 10) -> list[Execution]:
        c = t.executions.c
        query = select(c.record).where(c.key == key, c.state == "succeeded", *self._signed_by(signers))
        return self._executions(query.order_by(c.moment.desc(), c.id).limit(limit))

    def _is_among(self, column: ColumnElement[Any]) -> ColumnElement[bool]:
        return is_among(column, self._engine.dialect.name)

    def _signed_by(self, signers: Signers | None) -> list[ColumnElement[bool]]:
        """Return what leaves out the executions whose values others have signed."""
        if signers is None:
            return []
        c, r = t.executions.c, t.runs.c
        signed = [self._has(sign) for sign in signs_of(signers)]
        by_users = exists().where(r.id == c.run, r.user.in_(sorted(signers.users)))
        return [or_(~self._has(SIGNED), *signed, *([by_users] if signers.users else []))]

    def _has(self, words: str) -> ColumnElement[bool]:
        """Return whether an execution's record holds these words, without reading it."""
        find = func.instr if self._engine.dialect.name == "sqlite" else func.strpos
        return find(t.executions.c.record, words) > 0

    def meet_runs(self, runs: Iterable[RunId], now: int, /) -> set[RunId]:
        c, found = t.runs.c, set[RunId]()
        for some in batches(list(dict.fromkeys(runs))):
            with self._reading() as connection:
                met = {row.id: row.met for row in connection.execute(select(c.id, c.met).where(c.id.in_(some)))}
            old = [run for run, moment in met.items() if moment is None or moment < now - _MET_ANEW]
            if old:
                with self._writing(durable=False) as connection:
                    connection.execute(update(t.runs).where(c.id.in_(old)).values(met=now))
                    still = set(connection.execute(select(c.id).where(c.id.in_(old))).scalars())
                found |= still
            found |= met.keys() - old
        return found

    def met_since(self, moment: int, /) -> set[RunId]:
        c = t.runs.c
        with self._reading() as connection:
            return {RunId(run) for run in connection.execute(select(c.id).where(c.met >= moment)).scalars()}

    def delete_runs(self, runs: Sequence[RunId], /, *, met_before: int | None = None) -> set[RunId]:
        kept = Forgetting(self._reading, self._writing).forget(runs, met_before)
        return {RunId(run) for run in kept}

    def delete_snapshots(self, digests: Sequence[Digest], /) -> None:
        for some in batches(digests):
            with self._writing() as connection:
                connection.execute(delete(t.snapshots).where(t.snapshots.c.digest.in_(some)))

    def under_way(self) -> list[Execution]:
        """Return all executions that are queued or running, without their messages."""
        c = t.executions.c
        return self._executions(select(c.record).where(_is_under_way(t.executions)).order_by(c.moment.desc(), c.id))

    def executions_named(self, ids: Iterable[ExecutionId], /) -> dict[ExecutionId, Execution]:
        found: list[Execution] = []
        for some in batches(list(dict.fromkeys(ids))):
            found += self._executions(select(t.executions.c.record).where(t.executions.c.id.in_(some)))
        return {one.id: one for one in found}

    def makers(self, digests: Iterable[Digest], /, *, limit: int = 1000) -> list[Execution]:
        wanted = list(dict.fromkeys(digests))
        if wanted:
            self._note_items()
        return self._users(t.artifacts_bound, wanted, lineage.binds, limit)

    def _note_items(self) -> None:
        """Note what the items of fan-outs bound that have ended since somebody last asked.

        An index by digest costs an item more than all else that is written of it, and few are ever asked for.
        """
        version = self.version()
        if version == self._noted:
            return
        c, b = t.executions.c, t.artifacts_bound.c
        whole = t.executions.alias()
        parts = select(c.part_of).where(c.part_of.is_not(None)).distinct()
        noted = select(b.execution).where(b.digest == _ITEMS)
        todo = select(whole.c.id).where(whole.c.id.in_(parts), whole.c.id.not_in(noted), not_(_is_under_way(whole)))
        with self._reading() as connection:
            fanouts = list(connection.execute(todo).scalars())
        for fanout in fanouts:
            with self._reading() as connection:
                items = connection.execute(
                    select(c.id, c.record).where(c.part_of == fanout, c.state.in_(("succeeded", "reused")))
                )
                made = sorted((digest, item.id, name) for item in items for digest, name in made_in(item.record))
            for begin in range(0, len(made), _NOTED_AT_ONCE):  # others write in between
                with self._writing(durable=False) as connection:
                    self._recorder.note_bound(connection, made[begin : begin + _NOTED_AT_ONCE])
            with self._writing(durable=False) as connection:
                self._recorder.note_bound(connection, [(_ITEMS, fanout, "")])
        self._noted = version

    def readers(self, digests: Iterable[Digest], /, *, limit: int = 1000) -> list[Execution]:
        return self._users(t.artifacts_read, digests, lineage.given, limit)

    def _users(
        self, table: Table, digests: Iterable[Digest], which: Callable[[Execution], set[Digest]], limit: int
    ) -> list[Execution]:
        """Return the executions that a table of artifacts names, if their records say so too."""
        c, wanted = t.executions.c, list(dict.fromkeys(digests))
        found: dict[ExecutionId, Execution] = {}
        for some in batches(wanted):
            using = select(table.c.execution).where(table.c.digest.in_(some))
            query = select(c.record).where(c.id.in_(using)).order_by(c.moment, c.id).limit(limit)
            found |= {one.id: one for one in self._executions(query) if not which(one).isdisjoint(some)}
        return sorted(found.values(), key=lambda one: (lineage.moment(one), one.id))[:limit]

    def _executions(self, query: Select[Any]) -> list[Execution]:
        with self._reading() as connection:
            found = connection.execute(query).scalars().all()
        return [decode(record, Execution) for record in found]


def _is_under_way(table: Any) -> ColumnElement[bool]:
    # In these words, and not as parameters, so that SQLite sees that the partial index holds all that is asked for.
    return or_(table.c.state == text("'queued'"), table.c.state == text("'running'"))


def _of_notebook(notebook: str | None, notebook_id: str | None) -> list[list[ColumnElement[bool]]]:
    """Return the conditions that a notebook's runs meet, one or another."""
    c = t.runs.c
    if notebook is not None and notebook_id is not None:
        return [[c.notebook_id == notebook_id], [c.notebook == notebook, c.notebook_id.is_(None)]]
    given = {c.notebook: notebook, c.notebook_id: notebook_id}
    return [[column == value for column, value in given.items() if value is not None]]
