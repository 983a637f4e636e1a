"""How runs are forgotten: all rows of theirs are found by their keys, whatever else the tables hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, TypeVar

from sqlalchemy import ColumnElement, Connection, and_, bindparam, delete, exists, or_, select

from mlbench.backends.catalog_sql import tables as t
from mlbench.backends.catalog_sql.rows import bound_rows, decode, read_rows
from mlbench.core.records import ENDED, Execution, Json

__all__ = ["batches", "forget_runs", "forget_uses", "left_behind"]

T = TypeVar("T")

_ALL: Final = 500
"""How many ids or keys one statement names."""

_USES: Final = (t.artifacts_bound, t.artifacts_read)


def batches(them: Sequence[T]) -> Iterator[Sequence[T]]:
    """Yield a few hundred at a time."""
    for start in range(0, len(them), _ALL):
        yield them[start : start + _ALL]


def forget_runs(connection: Connection, runs: Sequence[str], met_before: int | None) -> set[str]:
    """Forget runs that have ended, and were not met since, with all that they consist of; return those that stay."""
    c, e, m = t.runs.c, t.executions.c, t.metrics.c
    found = select(c.id, c.state, c.met).where(c.id.in_(runs)).order_by(c.id).with_for_update()
    there = {row.id: row for row in connection.execute(found)}
    gone = [
        one
        for one, row in there.items()
        if row.state in ENDED and (met_before is None or row.met is None or row.met < met_before)
    ]
    # The indexes by run leave items out, which are in those by what they are part of.
    steps = _executions(connection, and_(e.run.in_(gone), e.part_of.is_(None)))
    _forget_uses_of(connection, steps)
    for some in batches([step.id for step in steps]):
        _forget_uses_of(connection, _executions(connection, e.part_of.in_(some)))
        connection.execute(delete(t.metrics).where(m.part_of.in_(some)))
        connection.execute(delete(t.executions).where(or_(e.part_of.in_(some), e.id.in_(some))))
    connection.execute(delete(t.metrics).where(m.run.in_(gone), m.part_of.is_(None)))
    for table in (t.run_metrics, t.params, t.tags):
        connection.execute(delete(table).where(table.c.run.in_(gone)))
    connection.execute(delete(t.runs).where(c.id.in_(gone)))
    return set(there).difference(gone)


def left_behind(connection: Connection) -> dict[str, list[Json]]:
    """Return what is left of executions that are forgotten: artifacts that they did not name any more at their end."""
    found: dict[str, list[Json]] = {}
    for table in _USES:
        nobody = ~exists().where(t.executions.c.id == table.c.execution)
        found[table.name] = [dict(row._mapping) for row in connection.execute(select(table).where(nobody))]
    return found


def forget_uses(connection: Connection, table: str, rows: Sequence[Json]) -> None:
    """Delete uses of artifacts, by their keys: there is no other index of them, which each step would pay for."""
    if rows:
        c = t.metadata.tables[table].c
        which = (c[name] == bindparam(f"this_{name}") for name in ("digest", "execution", "name"))
        given = [{f"this_{name}": value for name, value in row.items()} for row in rows]
        connection.execute(delete(t.metadata.tables[table]).where(*which), given)


def _executions(connection: Connection, which: ColumnElement[bool]) -> list[Execution]:
    found = connection.execute(select(t.executions.c.record).where(which)).scalars()
    return [decode(record, Execution) for record in found]


def _forget_uses_of(connection: Connection, executions: Sequence[Execution]) -> None:
    forget_uses(connection, "artifacts_bound", bound_rows(executions))
    forget_uses(connection, "artifacts_read", read_rows(executions))
