"""The writing of one store's catalog: in order, on one thread, several records at a time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from mlbench.core.errors import StoreError
from mlbench.core.records import ENDED, Execution, Run
from mlbench.runs.itemrecords import EndedItem

if TYPE_CHECKING:
    from mlbench.project import Project

__all__ = ["Ledger"]

logger = logging.getLogger(__name__)

FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 30.0
"""Seconds after which what could not be written (a full disk, a locked catalog) is tried again: twice as many each
time, up to the longest."""

T = TypeVar("T")


@dataclass(slots=True, kw_only=True, eq=False)
class _Items:
    """Items of a fan-out that have ended together; `id` is that of the first."""

    id: str
    items: Sequence[EndedItem]


@dataclass(slots=True, kw_only=True, eq=False)
class _Entry:
    """What is to be written of one record, or of many items, and whom to tell.

    `recorded` says that the store has its object, from which the catalog can be made again; `written` that the
    catalog has it too.
    """

    record: Execution | Run | _Items
    recorded: bool
    then: list[Callable[[], None]]
    written: bool = False


class Ledger:
    """Writes records in the order in which they are put; whoever is told of an end can read it.

    Records that wait are written together, the latest of each id: one transaction costs as much as one record. What
    cannot be written waits and is tried again, ever more slowly. Of an end nobody is told before its object is in the
    store, so that none is lost that somebody knows of.

    Parameters
    ----------
    on_problem
        Called in the loop with a sentence when the store turns out not to take what is written, and with None when it
        does again.
    """

    def __init__(self, project: Project, on_problem: Callable[[str | None], None] = lambda _: None) -> None:
        self.problem: str | None = None
        self._project = project
        self._on_problem = on_problem
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mlbench-catalog")
        self._waiting: dict[str, _Entry] = {}
        self._busy: dict[str, _Entry] = {}
        self._round = 0  # writings begun: what was put before one begins is written when it ends
        self._rounds = asyncio.Condition()
        self._again = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def put(self, record: Execution | Run, *, recorded: bool = True, then: Callable[[], None] | None = None) -> None:
        """Write a record, then call back in the loop.

        Parameters
        ----------
        recorded
            Whether the store has the object of an execution that has ended; that of a run is always written here.
        """
        needs_object = isinstance(record, Run) or (record.state in ENDED and not recorded)
        self._add(_Entry(record=record, recorded=not needs_object, then=[then] if then is not None else []))

    def put_items(self, items: Sequence[EndedItem], *, then: Callable[[], None] | None = None) -> None:
        """Write items of a fan-out, whose objects the store has, then call back in the loop."""
        record = _Items(id=items[0].id, items=items)
        self._add(_Entry(record=record, recorded=True, then=[then] if then is not None else []))

    def _add(self, entry: _Entry) -> None:
        record = entry.record
        former = self._waiting.pop(record.id, None)
        if former is not None:
            entry.recorded = entry.recorded and former.recorded
            entry.then[:0] = former.then
        self._waiting[record.id] = entry
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work(), name="mlbench-ledger")

    def unwritten(self, identifier: str) -> Execution | Run | None:
        """Return a record that the catalog does not have yet."""
        for entry in (*self._waiting.values(), *self._busy.values()):
            record = entry.record
            if entry.written:
                continue
            if isinstance(record, _Items):
                for item in record.items:
                    if item.id == identifier:
                        return item.record()
            elif record.id == identifier:
                return record
        return None

    async def ask(self, question: Callable[[], T]) -> T:
        """Return what a function says, called on the thread after all that was put has been written."""
        await self.settled()
        return await asyncio.get_running_loop().run_in_executor(self._thread, question)

    async def settled(self) -> None:
        """Return when all that has been put so far is written, or cannot be for the time being."""
        if not self._waiting and not self._busy:
            return
        wanted = self._round + bool(self._waiting)
        async with self._rounds:
            await self._rounds.wait_for(
                lambda: self.problem is not None or (self._round >= wanted and not self._busy) or self._round > wanted
            )

    async def close(self, *, patience: float = 5.0, write: bool = True) -> None:
        """Write what is left, unless nothing is to be written any more, and end the thread.

        What cannot be written within some seconds is given up.
        """
        if self._task is not None:
            if write:
                self._again.set()
                await asyncio.wait([self._task], timeout=patience)
            self._task.cancel()
        for entry in (*self._busy.values(), *self._waiting.values()):
            said = f"{len(entry.record.items)} items" if isinstance(entry.record, _Items) else entry.record
            logger.error("What became of %s could not be written to the catalog: %s", entry.record.id, said)
        await asyncio.to_thread(self._thread.shutdown)

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        pause = FIRST_PAUSE
        while self._waiting:
            self._round += 1
            self._busy, self._waiting = self._waiting, {}
            problem = await loop.run_in_executor(self._thread, self._write, list(self._busy.values()))
            busy, self._busy = self._busy, {}
            for entry in busy.values():
                if entry.recorded:
                    self._call(entry)
                if not entry.written:
                    self._wait_again(entry)
            self._note(problem)
            async with self._rounds:
                self._rounds.notify_all()
            if problem is None:
                pause = FIRST_PAUSE
                continue
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._again.wait(), pause)
            self._again.clear()
            pause = min(2 * pause, LONGEST_PAUSE)

    def _wait_again(self, entry: _Entry) -> None:
        """Put an entry back, unless a later record of the same id waits: that one takes over what is owed."""
        later = self._waiting.get(entry.record.id)
        if later is None:
            self._waiting[entry.record.id] = entry
        else:
            later.recorded = later.recorded and entry.recorded
            later.then[:0] = entry.then

    def _call(self, entry: _Entry) -> None:
        called, entry.then = entry.then, []
        for then in called:
            try:
                then()
            except Exception:
                logger.exception("News of a written record could not be passed on")

    def _note(self, problem: str | None) -> None:
        if problem != self.problem:
            if problem is not None:
                logger.error("%s It is tried again.", problem)
            else:
                logger.info("What could not be written has been written now")
            self.problem = problem
            self._on_problem(problem)

    # --- on the thread -----------------------------------------------------------------------------------------------

    def _write(self, entries: Sequence[_Entry]) -> str | None:
        """Write what can be written; return why the rest cannot. The catalog is not tried again after its first no."""
        problems: list[str] = []
        for entry in entries:
            if not entry.recorded and not isinstance(entry.record, _Items):
                entry.recorded = self._try(partial(self._project.record, entry.record), [entry.record.id], problems)
        ready = [entry for entry in entries if entry.recorded]
        for entry in ready:
            if isinstance(entry.record, Run) and not problems:
                put = partial(self._project.catalog.put_run, entry.record)
                entry.written = self._try(put, [entry.record.id], problems)
        items = [entry for entry in ready if isinstance(entry.record, _Items)]
        if items and not problems:  # before the fan-outs: of one that has ended all items are known
            self._put_items(items, problems)
        executions = [entry for entry in ready if isinstance(entry.record, Execution)]
        if executions and not problems:
            self._put_executions(executions, problems)
        return problems[0] if problems else None

    def _put_executions(self, entries: Sequence[_Entry], problems: list[str]) -> None:
        records = [entry.record for entry in entries if isinstance(entry.record, Execution)]
        try:
            names = [record.id for record in records]
            written = self._try(partial(self._project.catalog.put_executions, records), names, problems)
        except _Unwritable:
            for entry in entries:  # one of them is to blame
                self._put_executions([entry], problems)
        else:
            for entry in entries:
                entry.written = written

    def _put_items(self, entries: Sequence[_Entry], problems: list[str]) -> None:
        items = [item for entry in entries if isinstance(entry.record, _Items) for item in entry.record.items]
        put = self._project.catalog.put_items
        try:
            written = self._try(partial(put, items), [item.id for item in items], problems)
        except _Unwritable:  # one of them is to blame
            written = all(self._try(partial(put, [item]), [item.id], problems) for item in items)
        for entry in entries:
            entry.written = written

    def _try(self, write: Callable[[], object], names: Sequence[str], problems: list[str]) -> bool:
        """Say whether it was written. A record that no store can take, by a mistake of ours, is logged and let go."""
        try:
            write()
        except (StoreError, OSError) as error:
            problems.append(str(error))
            return False
        except Exception as error:
            if len(names) > 1:
                raise _Unwritable from error
            logger.exception("The record of %s cannot be written", names[0])
        return True


class _Unwritable(Exception):
    """One of several records cannot be written, whatever the store does."""
