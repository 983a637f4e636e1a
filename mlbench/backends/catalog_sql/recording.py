"""How runs and executions are written: the part of a catalog that each run and each step pays for.

A statement is put together once, and the driver then gets it with its values as they are: to have SQLAlchemy look at
both each time costs more than to execute it. Of what is written again only what has changed is, since each page of the
database that is touched is copied to its log, and later from there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from importlib import import_module
from itertools import chain
from typing import Any, Final

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Connection,
    Dialect,
    Text,
    any_,
    bindparam,
    delete,
    exists,
    func,
    or_,
    select,
    text,
    update,
)

from mlbench.backends.catalog_sql import tables as t
from mlbench.backends.catalog_sql.rows import (
    bound_rows,
    decode,
    item_row,
    metric_rows,
    param_row,
    read_rows,
    run_row,
    tag_row,
    use_rows,
)
from mlbench.core.ports import WrittenItem
from mlbench.core.records import ENDED, UNDER_WAY, Execution, Json, Run
from mlbench.runs.wire import msgspec

__all__ = ["Recorder", "is_among", "is_final"]

_NO_END_IS_LOST: Final = "excluded.state NOT IN ('queued', 'running') OR executions.state IN ('queued', 'running')"

_NO_RUNS_END_IS_LOST: Final = (
    "excluded.state NOT IN ('queued', 'running') OR runs.state IN ('queued', 'running') OR runs.kind = 'interactive'"
)

_OF_AN_END: Final = ("state", "ended", "reason", "failed_step", "record")
"""The columns of a run that its end changes; most indexes are of the others, and are left alone then."""

_OF_A_BEGIN: Final = tuple(one.name for one in t.runs.c if one.name not in (*_OF_AN_END, "met"))

_MOST_VALUES: Final = 999
"""So many values any SQLite takes in one statement."""

_NEVER_REPLACED: Final = {"params", "tags", "artifacts_bound", "artifacts_read"}


class Recorder:
    """Writes runs and executions to a database of a dialect, in a transaction that is given each time."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        # each dialect has one of its own, and PostgreSQL's is slow to import
        self.insert: Any = import_module(f"sqlalchemy.dialects.{dialect.name}").insert
        self._compiled: dict[tuple[Any, ...], tuple[str, Sequence[str] | None]] = {}

    # --- runs ---------------------------------------------------------------------------------------------------------

    def put_runs(self, connection: Connection, runs: Iterable[Run]) -> None:
        """Write runs with all that they consist of; each is named once."""
        them = {run.id: run for run in sorted(runs, key=lambda run: run.id)}  # in one order, whoever writes them
        found = self._do(connection, _known_runs, self.among(them)).fetchall()
        known = {run.id: run for run in (decode(record, Run) for (record,) in found)}
        new = [(run, one) for run in them.values() if not is_final(one := known.get(run.id), run)]
        ended = [run_row(run) for run, one in new if one is not None and _only_ends(one, run)]
        whole = [run_row(run) for run, one in new if one is None or not _only_ends(one, run)]
        if ended:
            self._do(
                connection, _end_run, [{name: row[name] for name in _OF_AN_END} | {"which": row["id"]} for row in ended]
            )
        self._insert(connection, "runs", whole)
        self._put_parts(connection, new)

    def _put_parts(self, connection: Connection, runs: Sequence[tuple[Run, Run | None]]) -> None:
        """Write the rows that runs consist of besides their own, as far as they are other than before."""
        for kind, make in (("parameters", param_row), ("tags", tag_row)):
            table = "params" if kind == "parameters" else "tags"
            changed = [(run, one) for run, one in runs if getattr(run, kind) != (getattr(one, kind) if one else {})]
            self._delete(connection, table, [run.id for run, one in changed if one is not None])
            rows = [make(run.id, *part) for run, _ in changed for part in getattr(run, kind).items()]
            self._insert(connection, table, rows)
        logged = [(run, one) for run, one in runs if run.metrics != (one.metrics if one is not None else ())]
        lost = [run.id for run, one in logged if one is not None and one.metrics]
        if lost:
            self._do(connection, _forget_metrics_of_runs, self.among(lost))
        self._insert(connection, "metrics", [row for run, _ in logged for row in metric_rows(run.id, run.metrics)])
        changed_runs = {run.id for run, _ in logged}
        self._keep_last_metrics(connection, changed_runs, lost)
        moved = [run.id for run, one in runs if one is None or one.started != run.started]
        if left := [run for run in moved if run not in changed_runs]:
            self._do(connection, _keep_started, self.among(left))

    # --- executions ---------------------------------------------------------------------------------------------------

    def put_executions(self, connection: Connection, them: dict[str, tuple[Execution, Json]]) -> None:
        """Write executions, given by their ids with their rows; one that has ended is not under way again."""
        known: dict[str, str] = dict(self._do(connection, _known_executions, self.among(sorted(them))).fetchall())
        written = [one for one, _ in them.values() if known.get(one.id) not in ENDED or one.state not in UNDER_WAY]
        self._insert(connection, "executions", [them[one][1] for one in sorted(one.id for one in written)])
        lost = self._forget_metrics(connection, [one for one in written if one.id in known])
        self._insert(connection, "artifacts_bound", bound_rows(written))
        self._insert(connection, "artifacts_read", read_rows(written))
        self._insert(connection, "metrics", [row for one in written for row in metric_rows(one.run, one.metrics, one)])
        logged = {one.run for one in written if one.metrics and one.part_of is None}
        self._keep_last_metrics(connection, lost | logged, lost)

    def put_items(self, connection: Connection, items: Sequence[WrittenItem]) -> None:
        """Write items of fan-outs that have ended; each is named once."""
        self._insert(connection, "executions", [item_row(item) for item in items])
        for whole in {item.part_of for item in items}:
            if self._do(connection, _some_metric_of_items, {"part_of": whole}).fetchone()[0]:
                theirs = self.among(item.id for item in items if item.part_of == whole)
                self._do(connection, _forget_metrics_of_items, theirs | {"part_of": whole})
        self._insert(
            connection, "metrics", [row for item in items for row in metric_rows(item.run, item.metrics, item)]
        )

    def note_bound(self, connection: Connection, found: Iterable[tuple[str, str, str]]) -> None:
        """Note which artifacts were bound, by which executions and to which names."""
        self._insert(connection, "artifacts_bound", use_rows(found))

    def _forget_metrics(self, connection: Connection, executions: Sequence[Execution]) -> set[str]:
        """Delete the metrics of executions; return the runs that lost some, of items aside."""
        whose: dict[tuple[str, str | None], list[str]] = {}
        for one in executions:
            whose.setdefault((one.run, one.part_of), []).append(one.id)
        changed: set[str] = set()
        for (run, part_of), them in whose.items():
            if part_of is not None:
                self._do(connection, _forget_metrics_of_items, self.among(them) | {"part_of": part_of})
            elif self._do(connection, _forget_metrics_of_steps, self.among(them) | {"run": run}).rowcount:
                changed.add(run)
        return changed

    def _keep_last_metrics(self, connection: Connection, runs: Collection[str], lost: Iterable[str]) -> None:
        """Write the last value of each metric of runs anew, from what their metrics are now.

        Runs that have lost some are among them; of the others no row has to go.
        """
        if not runs:
            return
        them = self.among(sorted(runs))
        if self._dialect.name == "postgresql":
            # until the end of the transaction, since what another one adds cannot be seen yet
            self._do(connection, _lock_runs, them).fetchall()
        self._delete(connection, "run_metrics", sorted(lost))
        self._do(connection, self._keeping_last, them)

    # --- statements ---------------------------------------------------------------------------------------------------

    def among(self, them: Iterable[str]) -> Json:
        """Return the value of a statement's list (see `is_among`)."""
        listed = list(them)
        return {"them": msgspec.json.encode(listed).decode() if self._dialect.name == "sqlite" else listed}

    def _delete(self, connection: Connection, table: str, runs: Sequence[str]) -> None:
        """Delete the rows of runs."""
        if runs:
            self._do(connection, _delete, self.among(runs), table)

    def _insert(self, connection: Connection, table: str, rows: Sequence[Json]) -> None:
        """Insert rows, or replace them."""
        if rows:
            self._do(connection, self._insertion, rows, table)

    def _do(self, connection: Connection, build: Callable[..., Any], values: Json | Sequence[Json], *of: str) -> Any:
        """Execute what a function builds for a dialect (and a table), with one value for each parameter or with many.

        All that is given to a statement has the same names in the same order. What is returned has the methods of a
        cursor.
        """
        if (build, *of) not in self._compiled:
            names = list(values if isinstance(values, dict) else values[0])
            compiled = build(self._dialect.name, *of).compile(dialect=self._dialect, column_keys=names)
            self._compiled[build, *of] = str(compiled), compiled.positiontup
        written, order = self._compiled[build, *of]
        if order is None:
            return connection.exec_driver_sql(written, values)
        driver: Any = connection.connection.driver_connection  # SQLite's: the way to it is longer than what it does
        if isinstance(values, dict):
            return driver.execute(written, tuple(map(values.__getitem__, order)))
        return _execute_many(driver, written, [tuple(map(row.__getitem__, order)) for row in values])

    def _insertion(self, _dialect: str, name: str) -> Any:
        table = t.metadata.tables[name]
        query = self.insert(table)
        if name == "metrics":
            return query
        if name in _NEVER_REPLACED:
            return query.on_conflict_do_nothing()
        changes: Json = {one.name: query.excluded[one.name] for one in table.c if one.name not in {"id", "met"}}
        if name == "executions":  # whoever writes an execution without messages did not have them
            changes["messages"] = func.coalesce(query.excluded.messages, table.c.messages)
        lost = _NO_RUNS_END_IS_LOST if name == "runs" else _NO_END_IS_LOST
        return query.on_conflict_do_update(index_elements=["id"], set_=changes, where=text(lost))

    def _keeping_last(self, dialect: str) -> Any:
        c, kept = t.metrics.c, t.run_metrics.c
        numbers = func.row_number().over(partition_by=(c.run, c.name), order_by=(c.time.desc(), c.id.desc()))
        place = numbers.label("place")
        numbered = select(c.run, c.name, c.value, place).where(is_among(c.run, dialect), c.part_of.is_(None))
        found = numbered.subquery()
        started = func.coalesce(select(t.runs.c.started).where(t.runs.c.id == found.c.run).scalar_subquery(), text("0"))
        last = select(found.c.run, found.c.name, found.c.value, started).where(found.c.place == text("1"))
        query = self.insert(t.run_metrics).from_select(["run", "name", "value", "started"], last)
        new = query.excluded
        return query.on_conflict_do_update(
            index_elements=["run", "name"],
            set_={"value": new.value, "started": new.started},
            where=or_(kept.value.is_distinct_from(new.value), kept.started != new.started),
        )


def _execute_many(driver: Any, written: str, rows: Sequence[tuple[Any, ...]]) -> Any:
    """Execute a statement of SQLite for each row, an insertion for many at once.

    For each execution the driver lets other threads run, and then waits for one that is busy to let go of the
    interpreter: up to 5 ms for every row.
    """
    row = f"({', '.join('?' * len(rows[0]))})"
    count = _MOST_VALUES // len(rows[0])
    whole = len(rows) - len(rows) % count if row in written else 0
    if whole:
        together = written.replace(row, ", ".join([row] * count), 1)
        for start in range(0, whole, count):
            driver.execute(together, list(chain.from_iterable(rows[start : start + count])))
    return driver.executemany(written, rows[whole:])


def is_final(before: Run | None, run: Run) -> bool:
    """Say whether a run's end is known, so that it is under way no more.

    An interactive run goes on when its kernel runs a further step; every other end is final.
    """
    return before is not None and before.state in ENDED and before.kind != "interactive" and run.state in UNDER_WAY


def _only_ends(before: Run, run: Run) -> bool:
    """Say whether of a run's columns no others than those of an end are to be changed."""
    return all(getattr(before, name) == getattr(run, name) for name in _OF_A_BEGIN)


def is_among(column: ColumnElement[Any], dialect: str) -> ColumnElement[bool]:
    """Return that a column is in the list `them`, which is one parameter however long it is: see `Recorder.among`."""
    them: Any = bindparam("them", type_=Text() if dialect == "sqlite" else ARRAY(Text()))
    if dialect == "sqlite":
        return column.in_(select(func.json_each(them).table_valued("value").c.value))
    return column == any_(them)


def _known_runs(dialect: str) -> Any:
    c = t.runs.c
    return select(c.record).where(is_among(c.id, dialect)).order_by(c.id).with_for_update()


def _end_run(_dialect: str) -> Any:
    return update(t.runs).where(t.runs.c.id == bindparam("which"))


def _keep_started(dialect: str) -> Any:
    c = t.run_metrics.c
    began = select(t.runs.c.started).where(t.runs.c.id == c.run).scalar_subquery()
    return update(t.run_metrics).where(is_among(c.run, dialect)).values(started=began)


def _known_executions(dialect: str) -> Any:
    c = t.executions.c
    return select(c.id, c.state).where(is_among(c.id, dialect)).order_by(c.id).with_for_update()


def _forget_metrics_of_runs(dialect: str) -> Any:
    c = t.metrics.c
    return delete(t.metrics).where(is_among(c.run, dialect), c.execution.is_(None), c.part_of.is_(None))


def _forget_metrics_of_steps(dialect: str) -> Any:
    c = t.metrics.c
    return delete(t.metrics).where(c.run == bindparam("run"), c.part_of.is_(None), is_among(c.execution, dialect))


def _forget_metrics_of_items(dialect: str) -> Any:
    c = t.metrics.c
    return delete(t.metrics).where(c.part_of == bindparam("part_of"), is_among(c.execution, dialect))


def _some_metric_of_items(_dialect: str) -> Any:
    return select(exists().where(t.metrics.c.part_of == bindparam("part_of")))


def _delete(dialect: str, name: str) -> Any:
    table = t.metadata.tables[name]
    return delete(table).where(is_among(table.c.run, dialect))


def _lock_runs(_dialect: str) -> Any:
    run = func.unnest(bindparam("them", type_=ARRAY(Text()))).column_valued("run")
    return select(func.pg_advisory_xact_lock(func.hashtextextended(run, text("3"))))
