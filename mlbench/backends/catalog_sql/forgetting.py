"""How runs are forgotten: all rows of theirs are found by their keys, whatever else the tables hold."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Final, TypeVar

from sqlalchemy import ColumnElement, Connection, and_, bindparam, delete, exists, select

from mlbench.backends.catalog_sql import tables as t
from mlbench.backends.catalog_sql.rows import bound_rows, decode, read_rows
from mlbench.core.records import ENDED, Execution, Json

__all__ = ["Forgetting", "batches"]

T = TypeVar("T")

_ALL: Final = 500
"""How many ids or keys one statement names, and about how many rows one transaction deletes."""

_RUNS: Final = 50
"""How many runs' parameters, tags and last metrics go at once."""

_LEAST_PAUSE: Final = 0.01
"""Seconds that others have for writing, at least, after each transaction: who waits asks again only now and then."""

_Begin = Callable[[], AbstractContextManager[Connection]]

_USES: Final = (t.artifacts_bound, t.artifacts_read)


def batches(them: Sequence[T], size: int = _ALL) -> Iterator[Sequence[T]]:
    """Yield a few hundred at a time."""
    for start in range(0, len(them), size):
        yield them[start : start + size]


class Forgetting:
    """Forgets runs in many transactions, each of a few hundred rows, so that others write in between.

    What a run is reused by goes first: its own row. From then on nobody finds it, and who is about to reuse a step of
    it is told that it is gone (`Catalog.meet_runs`). Then goes what it consisted of, the executions that others are
    found by last: whoever is killed in between is followed by one who is given the same runs, since their records are
    there until all of this is done.

    Parameters
    ----------
    reading, writing
        Begin a transaction; those that write are synced, one after the other.
    """

    def __init__(self, reading: _Begin, writing: _Begin) -> None:
        self._reading = reading
        self._writing = writing

    def forget(self, runs: Sequence[str], met_before: int | None) -> set[str]:
        """Forget runs that have ended, and were not met since, or are half forgotten; return those that stay."""
        kept: set[str] = set()
        for some in batches(runs):
            kept |= self._take(some, met_before)
        for some in batches([run for run in runs if run not in kept]):
            self._forget_all_of(some)
        if runs:
            self._forget_left_behind()
        return kept

    def _take(self, runs: Sequence[str], met_before: int | None) -> set[str]:
        c = t.runs.c
        with self._write() as connection:
            found = select(c.id, c.state, c.met).where(c.id.in_(runs)).order_by(c.id).with_for_update()
            there = {row.id: row for row in connection.execute(found)}
            gone = [
                one
                for one, row in there.items()
                if row.state in ENDED and (met_before is None or row.met is None or row.met < met_before)
            ]
            connection.execute(delete(t.runs).where(c.id.in_(gone)))
        return set(there).difference(gone)

    def _forget_all_of(self, runs: Sequence[str]) -> None:
        e, m = t.executions.c, t.metrics.c
        # The indexes by run leave items out, which are in those by what they are part of.
        of_runs = and_(e.run.in_(runs), e.part_of.is_(None))
        with self._reading() as connection:
            steps = list(connection.execute(select(e.id).where(of_runs)).scalars())
        for some in batches(steps):
            self._forget_metrics(m.part_of.in_(some))
            self._forget_executions(e.part_of.in_(some))
        self._forget_metrics(and_(m.run.in_(runs), m.part_of.is_(None)))
        for few in batches(runs, _RUNS):
            for table in (t.run_metrics, t.params, t.tags):
                with self._write() as connection:
                    connection.execute(delete(table).where(table.c.run.in_(few)))
        self._forget_executions(of_runs)

    def _forget_metrics(self, which: ColumnElement[bool]) -> None:
        some = select(t.metrics.c.id).where(which).limit(_ALL)
        while True:
            with self._write() as connection:
                count = connection.execute(delete(t.metrics).where(t.metrics.c.id.in_(some))).rowcount
            if count < _ALL:
                return

    def _forget_executions(self, which: ColumnElement[bool]) -> None:
        c = t.executions.c
        while True:
            with self._reading() as connection:
                found = connection.execute(select(c.record).where(which).limit(_ALL)).scalars().all()
            if not found:
                return
            them = [decode(record, Execution) for record in found]
            uses = {"artifacts_bound": bound_rows(them), "artifacts_read": read_rows(them)}
            for table, rows in uses.items():
                self._forget_uses(table, rows)
            with self._write() as connection:
                connection.execute(delete(t.executions).where(c.id.in_([one.id for one in them])))

    def _forget_left_behind(self) -> None:
        """Forget what is left of executions that are gone: artifacts that they did not name any more at their end."""
        with self._reading() as connection:
            left = _left_behind(connection)
        for table, rows in left.items():
            self._forget_uses(table, rows)

    def _forget_uses(self, table: str, rows: Sequence[Json]) -> None:
        """Delete uses of artifacts, by their keys: there is no other index of them, which each step would pay for."""
        c = t.metadata.tables[table].c
        which = (c[name] == bindparam(f"this_{name}") for name in ("digest", "execution", "name"))
        query = delete(t.metadata.tables[table]).where(*which)
        for some in batches(rows):
            with self._write() as connection:
                connection.execute(query, [{f"this_{name}": value for name, value in row.items()} for row in some])

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        """Write, and let others write for as long: SQLite's lock goes to who asks for it first, not to who waits."""
        with self._writing() as connection:
            began, alone = time.monotonic(), connection.dialect.name == "sqlite"
            yield connection
        if alone:
            time.sleep(max(_LEAST_PAUSE, time.monotonic() - began))


def _left_behind(connection: Connection) -> dict[str, list[Json]]:
    found: dict[str, list[Json]] = {}
    for table in _USES:
        nobody = ~exists().where(t.executions.c.id == table.c.execution)
        found[table.name] = [dict(row._mapping) for row in connection.execute(select(table).where(nobody))]
    return found
