"""The catalog: the port `mlbench.core.ports.Catalog` on a database."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, TypeVar

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Table,
    and_,
    bindparam,
    delete,
    func,
    insert,
    not_,
    or_,
    select,
    text,
    update,
)

from mlbench.backends.catalog_sql import tables as t
from mlbench.backends.catalog_sql.connections import find_row, persistent
from mlbench.backends.catalog_sql.jobs import Jobs
from mlbench.backends.catalog_sql.rows import (
    bound_rows,
    decode,
    encode,
    execution_row,
    item_row,
    metric_rows,
    param_row,
    read_rows,
    run_row,
    tag_row,
    to_execution,
    to_metric,
    use_rows,
)
from mlbench.backends.catalog_sql.searching import condition_of, names_in_use, search
from mlbench.core.errors import NotFound
from mlbench.core.ids import Digest, ExecutionId, JobId, RunId
from mlbench.core.ports import WrittenItem
from mlbench.core.queries import Page, Place, Query, Sort, Space
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

T = TypeVar("T")

_ALL: Final = 500
"""How many ids or keys one query asks for."""

_NO_END_IS_LOST: Final = "excluded.state NOT IN ('queued', 'running') OR executions.state IN ('queued', 'running')"

_NO_RUNS_END_IS_LOST: Final = (
    "excluded.state NOT IN ('queued', 'running') OR runs.state IN ('queued', 'running') OR runs.kind = 'interactive'"
)
_ITEMS: Final = "items"
"""Stands in a digest's place where it was noted what a fan-out's items bound."""


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
            if not _is_final(them.get(run.id), run):
                them[run.id] = run
        with self._writing(durable=any(run.state in ENDED for run in them.values())) as connection:
            known: dict[str, Run] = {}
            for some in _batches(list(them)):
                found = connection.execute(_KNOWN_RUNS, {"them": some}).scalars()
                known.update((run.id, run) for run in (decode(record, Run) for record in found))
            new = [run for run in them.values() if not _is_final(known.get(run.id), run)]
            self._insert_all(connection, "runs", [run_row(run) for run in new])
            self._put_parts(connection, [(run, known.get(run.id)) for run in new])

    def _put_parts(self, connection: Connection, runs: Sequence[tuple[Run, Run | None]]) -> None:
        """Write the rows that runs consist of besides their own, as far as they are other than before."""
        for kind, make in (("parameters", param_row), ("tags", tag_row)):
            table = t.params if kind == "parameters" else t.tags
            changed = [(run, one) for run, one in runs if getattr(run, kind) != (getattr(one, kind) if one else {})]
            for some in _batches([run.id for run, one in changed if one is not None]):
                connection.execute(delete(table).where(table.c.run.in_(some)))
            rows = [make(run.id, *part) for run, _ in changed for part in getattr(run, kind).items()]
            self._insert_all(connection, table.name, rows)
        logged = [(run, one) for run, one in runs if run.metrics != (one.metrics if one is not None else ())]
        c = t.metrics.c
        for some in _batches([run.id for run, one in logged if one is not None and one.metrics]):
            connection.execute(delete(t.metrics).where(c.run.in_(some), c.execution.is_(None), c.part_of.is_(None)))
        self._insert_all(connection, "metrics", [row for run, _ in logged for row in metric_rows(run.id, run.metrics)])
        moved = [run.id for run, one in runs if one is None or one.started != run.started]
        changed_runs = {run.id for run, _ in logged}
        self._keep_last_metrics(connection, sorted(changed_runs))
        for some in _batches([run for run in moved if run not in changed_runs]):
            connection.execute(_KEEP_STARTED, {"them": some})

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
            known: dict[str, str] = {}
            for some in _batches(list(them)):
                found = select(t.executions.c.id, t.executions.c.state).where(t.executions.c.id.in_(some))
                known.update((row.id, row.state) for row in connection.execute(found.with_for_update()))
            for identifier, state in known.items():
                if state in ENDED and them[identifier][0].state in UNDER_WAY:
                    del them[identifier]
            self._insert_all(connection, "executions", [row for _, row in them.values()])
            again = [them[identifier][0] for identifier in known if identifier in them]
            changed = self._forget_metrics(connection, again)
            changed |= {one.run for one, _ in them.values() if one.metrics and one.part_of is None}
            metrics = [row for one, _ in them.values() for row in metric_rows(one.run, one.metrics, one)]
            written = [one for one, _ in them.values()]
            self._insert_all(connection, "artifacts_bound", bound_rows(written))
            self._insert_all(connection, "artifacts_read", read_rows(written))
            self._insert_all(connection, "metrics", metrics)
            self._keep_last_metrics(connection, sorted(changed))

    def put_items(self, items: Sequence[WrittenItem], /) -> None:
        them = {item.id: item for item in items}
        if not them:
            return
        rows = [item_row(item) for item in them.values()]
        c = t.metrics.c
        with self._writing() as connection:
            self._insert_all(connection, "executions", rows)
            for whole in {item.part_of for item in them.values()}:
                if connection.execute(select(c.id).where(c.part_of == whole).limit(1)).first() is not None:
                    self._forget_metrics(connection, [item for item in them.values() if item.part_of == whole])
            metrics = [row for item in them.values() for row in metric_rows(item.run, item.metrics, item)]
            self._insert_all(connection, "metrics", metrics)

    def execution(self, prefix: str, /) -> Execution:
        with self._reading() as connection:
            found = find_row(connection, t.executions, prefix, "execution", t.executions.c.messages)
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
            with self._writing() as connection:
                items = connection.execute(select(c.id, c.record).where(c.part_of == fanout, c.state == "succeeded"))
                made = [(digest, item.id, name) for item in items for digest, name in made_in(item.record)]
                self._insert_all(connection, "artifacts_bound", use_rows([*made, (_ITEMS, fanout, "")]))
        self._noted = version

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

    # --- rows ---------------------------------------------------------------------------------------------------------

    def _insert_all(self, connection: Connection, table: str, rows: Sequence[Json]) -> None:
        """Insert rows, or replace them. The driver gets them as they are: for thousands, looking at each costs most."""
        if not rows:
            return
        if table not in self._inserts:
            query = self._insert_query(table).compile(dialect=self._engine.dialect, column_keys=list(rows[0]))
            self._inserts[table] = str(query), query.positiontup
        written, order = self._inserts[table]
        given = rows if order is None else [tuple(map(row.__getitem__, order)) for row in rows]
        connection.exec_driver_sql(written, given)

    def _insert_query(self, name: str) -> Any:
        table = t.metadata.tables[name]
        query = self._insert(table)
        if name == "metrics":
            return query
        if name in {"params", "tags", "artifacts_bound", "artifacts_read"}:
            return query.on_conflict_do_nothing()
        changes: Json = {one.name: query.excluded[one.name] for one in table.c if one.name != "id"}
        if name == "executions":  # whoever writes an execution without messages did not have them
            changes["messages"] = func.coalesce(query.excluded.messages, table.c.messages)
        lost = _NO_RUNS_END_IS_LOST if name == "runs" else _NO_END_IS_LOST
        return query.on_conflict_do_update(index_elements=["id"], set_=changes, where=text(lost))

    def _forget_metrics(self, connection: Connection, executions: Sequence[Execution | WrittenItem]) -> set[str]:
        """Delete the metrics of executions; return the runs that lost some, of items aside."""
        c = t.metrics.c
        whose: dict[tuple[str, str | None], list[str]] = {}
        for one in executions:
            whose.setdefault((one.run, one.part_of), []).append(one.id)
        changed: set[str] = set()
        for (run, part_of), them in whose.items():
            which = (c.run == run, c.part_of.is_(None)) if part_of is None else (c.part_of == part_of,)
            for some in _batches(them):
                gone = connection.execute(delete(t.metrics).where(*which, c.execution.in_(some)))
                if gone.rowcount and part_of is None:
                    changed.add(run)
        return changed

    def _keep_last_metrics(self, connection: Connection, runs: Sequence[str]) -> None:
        """Write the last value of each metric of runs anew, from what their metrics are now."""
        for some in _batches(runs):
            if self._engine.dialect.name == "postgresql":
                for run in some:  # until the end of the transaction, since what another one adds cannot be seen yet
                    connection.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(run, 3))))
            connection.execute(_FORGET_LAST, {"them": some})
            connection.execute(_KEEP_LAST, {"them": some})


def _is_final(before: Run | None, run: Run) -> bool:
    """Say whether a run's end is known, so that it is under way no more.

    An interactive run goes on when its kernel runs a further step; every other end is final.
    """
    return before is not None and before.state in ENDED and before.kind != "interactive" and run.state in UNDER_WAY


def _keeping_last() -> Any:
    """Return the statement that writes the last value of each metric of some runs."""
    c = t.metrics.c
    place = func.row_number().over(partition_by=(c.run, c.name), order_by=(c.time.desc(), c.id.desc()))
    numbered = select(c.run, c.name, c.value, place.label("place")).where(c.run.in_(_THEM), c.part_of.is_(None))
    found = numbered.subquery()
    started = func.coalesce(select(t.runs.c.started).where(t.runs.c.id == found.c.run).scalar_subquery(), 0)
    last = select(found.c.run, found.c.name, found.c.value, started).where(found.c.place == 1)
    return insert(t.run_metrics).from_select(["run", "name", "value", "started"], last)


# Statements that each run's record needs are put together once: that costs more than to execute them.
_THEM: Final[Any] = bindparam("them", expanding=True)
_KNOWN_RUNS: Final = select(t.runs.c.record).where(t.runs.c.id.in_(_THEM)).with_for_update()
_FORGET_LAST: Final = delete(t.run_metrics).where(t.run_metrics.c.run.in_(_THEM))
_KEEP_LAST: Final = _keeping_last()
_KEEP_STARTED: Final = (
    update(t.run_metrics)
    .where(t.run_metrics.c.run.in_(_THEM))
    .values(started=select(t.runs.c.started).where(t.runs.c.id == t.run_metrics.c.run).scalar_subquery())
)


def _batches(them: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(them), _ALL):
        yield them[start : start + _ALL]


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
