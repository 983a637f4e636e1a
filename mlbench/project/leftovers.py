"""Items of fan-outs that ended, and that a service which was killed has not told the catalog of.

A worker records the items of a chunk before it tells the service of them, and the service writes its rows a little
later: what it had not written when it died stands in the records alone. These are found by their names, which begin
with the step's execution, so that no more is read than they are.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Final

from mlbench.core.errors import NotFound, StoreError
from mlbench.core.ids import ExecutionId
from mlbench.core.records import ENDED, Execution, FanOut, Json
from mlbench.project.signing import is_own
from mlbench.runs.saying import InOrder

if TYPE_CHECKING:
    from mlbench.project import Project

__all__ = ["Leftovers"]

_LOG = logging.getLogger(__name__)

_MARGIN: Final = 3600 * 10**9
"""Nanoseconds by which the clock of a worker may be behind that of who handed it its items."""

_TOGETHER: Final = 1000


class Leftovers:
    """The items of executions whose service is gone, on their way from the records into the catalog."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._of: set[ExecutionId] = set()
        self._since = time.time_ns()
        self._read: set[str] = set()
        self._names: dict[ExecutionId, tuple[str, ...]] = {}
        self._took: dict[ExecutionId, dict[int, float]] = {}
        self._order = InOrder()

    def __bool__(self) -> bool:
        return bool(self._of)

    def take_of(self, executions: Sequence[Execution]) -> None:
        """Put the items of executions of steps into the catalog; of those that are no fan-outs there are none.

        This comes before the ends of the steps, since a step that is under way is looked at again by the next service.
        """
        self._of.update(one.id for one in executions)
        self._since = min([self._since, *(one.queued or one.started or 0 for one in executions)])
        self.take()

    def take(self) -> set[ExecutionId]:
        """Put the items whose records have come since the last time into the catalog; return whose they are.

        It may be done twice, and by several at once: what is there already is written again as it is.

        Raises
        ------
        StoreError
            If the catalog cannot be written.
        """
        from mlbench.runs.itemrecords import EndedItem

        found: set[ExecutionId] = set()
        new = self._new() if self._of else iter(())
        while items := list(islice(new, _TOGETHER)):
            self._project.catalog.put_items([EndedItem.of(one) for _, one in items])
            for whole, one in items:
                found.add(whole)
                self._note(whole, one)
        return found

    def take_late(self) -> list[Execution]:
        """Put items that have come since into the catalog; return the executions of their steps, counted anew.

        A worker that outlives its service for a moment may have recorded them when those had been said to be lost.
        """
        catalog, changed = self._project.catalog, []
        for whole in sorted(self.take()):
            execution = catalog.execution(whole)
            if execution.reason == "service-lost":
                changed.append(replace(execution, fanout=self.counted(execution)))
                self._project.put_execution(changed[-1])
        return changed

    def _note(self, whole: ExecutionId, item: Execution) -> None:
        self._names.setdefault(whole, tuple(item.label))
        took = self._took.setdefault(whole, {})
        if item.item is not None and item.started and item.ended and item.state != "reused":
            took[item.item] = (item.ended - item.started) / 1e9

    def _new(self) -> Iterator[tuple[ExecutionId, Execution]]:
        """Yield the items of the records that were not read yet, the oldest first, each with the step's execution."""
        blobs = self._project.blobs
        for piece in blobs.records_of("executions", self._of, max(0, self._since - _MARGIN)):
            if piece.name in self._read:
                continue
            self._read.add(piece.name)
            try:
                record = blobs.read_record(piece)
            except NotFound:
                continue
            except StoreError as error:  # a record that is damaged keeps no store from being opened
                _LOG.warning("What became of some items cannot be told: %s", error)
                continue
            yield from self._items(record)

    def _items(self, record: Json) -> Sequence[tuple[ExecutionId, Execution]]:
        from mlbench.runs.wire import msgspec

        whole = ExecutionId(str(record.get("id")).partition("-")[0])
        if whole not in self._of or not is_own(whole, "executions", record["id"], record):
            return ()
        try:
            told = [one for one in record.get("executions") or () if self._order.counts(one)]
            items = msgspec.convert(told, tuple[Execution, ...])
        except (msgspec.ValidationError, KeyError, TypeError, AttributeError) as error:
            _LOG.warning("The record %s cannot be used: %s", record["id"], error)
            return ()
        return [(whole, one) for one in items if one.part_of == whole and one.item is not None and one.state in ENDED]

    def counted(self, execution: Execution) -> FanOut | None:
        """Return what the execution of a fan-out says of its items, none of which is running any more."""
        fanout = execution.fanout
        if fanout is None:
            if execution.id not in self._names:
                return None
            fanout = FanOut(names=self._names[execution.id])
        count = Counter(self._project.catalog.count_items(execution.id))
        took = self._took.get(execution.id, {})
        slowest = max(took, key=took.__getitem__, default=None)
        return replace(
            fanout,
            running=0,
            succeeded=count["succeeded"],
            reused=count["reused"],
            failed=count["failed"],
            cancelled=count["cancelled"],
            skipped=count["skipped"],
            seconds=round(sum(took.values()), 6),
            slowest=slowest,
            slowest_seconds=round(took[slowest], 6) if slowest is not None else None,
        )
