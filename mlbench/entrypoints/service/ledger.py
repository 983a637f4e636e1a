"""The writing of one store's catalog: in order, on one thread, several records at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from mlbench.core.records import ENDED, Execution, Run

if TYPE_CHECKING:
    from mlbench.project import Project

__all__ = ["Ledger"]

logger = logging.getLogger(__name__)

AGAIN_AFTER: Final = 5.0
"""Seconds after which what could not be written (a full disk) is tried again."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """A record to write, and what to do when that is done. `recorded`: its object is in the store already."""

    record: Execution | Run | None
    recorded: bool = True
    then: Callable[[], None] | None = None


class Ledger:
    """Writes records in the order in which they are put; whoever is told of an end can read it.

    Records that wait are written together, the latest of each id: one transaction costs as much as one record. What
    cannot be written is told of all the same, for its end is in the store by then, and is tried again later.
    """

    def __init__(self, project: Project) -> None:
        self._project = project
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mlbench-catalog")
        self._waiting: list[_Entry] = []
        self._task: asyncio.Task[None] | None = None

    def put(self, record: Execution | Run, *, recorded: bool = True, then: Callable[[], None] | None = None) -> None:
        """Write a record, then call back in the loop."""
        self._enter(_Entry(record=record, recorded=recorded, then=then))

    def _enter(self, entry: _Entry) -> None:
        self._waiting.append(entry)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work(), name="mlbench-ledger")

    async def ask(self, question: Callable[[], T]) -> T:
        """Return what a function says, called on the thread after all that was put has been written."""
        await self.settled()
        return await asyncio.get_running_loop().run_in_executor(self._thread, question)

    async def settled(self) -> None:
        """Return when all that has been put so far is written, or could not be."""
        if self._task is None or self._task.done():
            return
        written = asyncio.Event()
        self._enter(_Entry(record=None, then=written.set))
        await written.wait()

    async def close(self) -> None:
        """Write what is left and end the thread."""
        await self.settled()
        await asyncio.to_thread(self._thread.shutdown)

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch, self._waiting = self._waiting, []
            left = await loop.run_in_executor(self._thread, self._write, batch)
            for entry in batch:
                if entry.then is not None:
                    try:
                        entry.then()
                    except Exception:
                        logger.exception("News of a written record could not be passed on")
            if left:
                loop.call_later(AGAIN_AFTER, self._put_again, left)

    def _put_again(self, left: list[_Entry]) -> None:
        for entry in left:
            self._enter(entry)

    def _write(self, batch: list[_Entry]) -> list[_Entry]:
        latest: dict[str, _Entry] = {}
        for entry in batch:
            if entry.record is not None:
                latest[entry.record.id] = entry
        left: list[_Entry] = []
        plain: list[Execution] = []
        for entry in sorted(latest.values(), key=lambda entry: not isinstance(entry.record, Run)):
            record = entry.record
            assert record is not None
            if isinstance(record, Execution) and (entry.recorded or record.state not in ENDED):
                plain.append(record)
                continue
            try:
                if isinstance(record, Run):
                    self._project.put_run(record, durable=record.state in ENDED)
                else:
                    self._project.put_execution(record, recorded=False)
            except Exception:
                logger.exception("The record of %s cannot be written", record.id)
                left.append(_Entry(record=record, recorded=entry.recorded))
        if plain:
            try:
                self._project.catalog.put_executions(plain)
            except Exception:
                logger.exception("The catalog cannot be written")
                left.extend(_Entry(record=record) for record in plain)
        return left
