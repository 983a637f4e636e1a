"""The chunks of a fan-out, each run somewhere: what runs them, and a Dask cluster that does."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final, Protocol

from mlbench.backends.cluster_dask.client.connection import CONTROL_SECONDS, Connection
from mlbench.core.messages import ChunkEnd, StepTask
from mlbench.core.records import Json, Reason
from mlbench.runs.itemrecords import EndedChunk, read_chunk

__all__ = ["ChunkLost", "Chunks", "ClusterLost", "DaskChunks"]

_LARGE: Final = 1 << 16
"""Bytes of an answer that are not read in the event loop."""

_log = logging.getLogger(__name__)


class ChunkLost(Exception):
    """The worker that had a chunk is gone."""


class ClusterLost(ChunkLost):
    """The scheduler is gone, and with it all that it had: a sentence that says so."""


class Chunks(Protocol):
    """Runs chunks: a Dask cluster, or something in memory for tests.

    `in_turn` says whether one that is begun lets no item run before `at_once` of its chunk allows it.
    """

    in_turn: bool

    async def slots(self) -> int:
        """Return how many chunks can run at once."""
        ...

    async def run(self, task: StepTask) -> ChunkEnd | EndedChunk:
        """Run a task's chunk. Raise `ChunkLost` if nobody can say what became of it."""
        ...

    async def cancel(self, reason: Reason) -> None:
        """End the processes of chunks that run, and let none begin that waits."""
        ...

    async def workers(self) -> set[str]:
        """Return the addresses of the workers that have chunks."""
        ...

    async def give_up(self, address: str) -> None:
        """Take the chunks of a worker that does not answer for lost."""
        ...

    async def pause(self) -> bool:
        """Stop the processes where they are; say whether there were any."""
        ...

    async def resume(self) -> bool:
        """Let them go on."""
        ...


class DaskChunks:
    """The chunks of one fan-out on a Dask cluster."""

    def __init__(self, connection: Connection, task: StepTask) -> None:
        self._connection = connection
        self._execution = task.execution
        self._asked = dict(task.resources)
        # One worker has all chunks there; what one asks for it is not to hold while it waits.
        self.in_turn = (task.cluster is None or task.cluster.kind == "local") and not self._asked
        self._futures: dict[str, Any] = {}
        self._holds = False

    async def slots(self) -> int:
        """Return for how many chunks workers have threads, and what they ask for."""
        try:
            known = await asyncio.wait_for(self._connection.client.scheduler.identity(), CONTROL_SECONDS)
        except Exception as error:  # noqa: BLE001  whatever is wrong there, chunks will say so
            _log.warning("The scheduler did not say what workers it has: %s", type(error).__name__)
            return 1
        there = known["workers"].items()
        return sum(_fitting(one, self._asked) for address, one in there if address not in self._connection.silent)

    async def run(self, task: StepTask) -> EndedChunk:
        """Run a chunk where there is room."""
        from mlbench.backends.cluster_dask.worker import visiting

        assert task.chunk is not None
        place = task.chunk.place
        call = await self._connection.call("run_chunk", task)
        workers = await self._connection.answering()
        if self._connection.closed:
            raise ClusterLost(self._connection.loss)
        future = self._futures[f"chunk-{self._execution}-{place}"] = self._connection.client.submit(
            *call,
            pure=False,
            retries=0,
            resources=self._asked or None,
            workers=workers,
            key=f"chunk-{self._execution}-{place}",
        )
        try:
            answer: bytes = await future
        except asyncio.CancelledError:  # Dask's FutureCancelledError is one
            current = asyncio.current_task()
            if current is not None and current.cancelling():
                raise
            raise self._loss(place) from None
        except Exception as error:  # KilledWorker and its like
            raise self._loss(place) from error
        finally:
            future.release()
            self._futures.pop(future.key, None)
        if visiting.visits(task):
            await asyncio.to_thread(visiting.let_go, task)
        if len(answer) > _LARGE:
            return await asyncio.to_thread(read_chunk, answer)
        return read_chunk(answer)

    def _loss(self, place: int) -> ChunkLost:
        return ClusterLost(self._connection.loss) if self._connection.closed else ChunkLost(place)

    async def cancel(self, reason: Reason) -> None:
        """End the processes of chunks that run; those that wait for a thread find out when they have it."""
        from mlbench.backends.cluster_dask.worker import supervisor

        await self._connection.ask(supervisor.cancel, self._execution, reason)
        await self._hold(held=False)

    async def workers(self) -> set[str]:
        """Return the addresses of the workers that have chunks."""
        try:
            has = await asyncio.wait_for(self._connection.client.scheduler.processing(workers=None), CONTROL_SECONDS)
        except Exception as error:  # noqa: BLE001  whatever is wrong there, chunks will say so
            _log.warning("The scheduler did not say who has chunks: %s", type(error).__name__)
            return set()
        return {address for address, keys in has.items() if any(str(key) in self._futures for key in keys)}

    async def give_up(self, address: str) -> None:
        """Wait no longer for the chunks that a worker has: they are lost."""
        has = await asyncio.wait_for(self._connection.client.scheduler.processing(workers=[address]), CONTROL_SECONDS)
        for key in has.get(address, ()):
            if (future := self._futures.get(str(key))) is not None:
                await future.cancel(force=True)

    async def pause(self) -> bool:
        """Stop the processes on all workers."""
        from mlbench.backends.cluster_dask.worker import supervisor

        stopped = await self._connection.ask(supervisor.pause, self._execution)
        await self._hold(held=True)
        return any(stopped.values())

    async def resume(self) -> bool:
        """Let them go on."""
        from mlbench.backends.cluster_dask.worker import supervisor

        await self._hold(held=False)
        return any((await self._connection.ask(supervisor.resume, self._execution)).values())

    async def _hold(self, *, held: bool) -> None:
        if held != self._holds:
            self._holds = held
            await self._connection.hold(self._execution, held=held)


def _fitting(worker: Json, asked: Json) -> int:
    """Return how many chunks a worker can run at once."""
    has = worker.get("resources") or {}
    rooms = [int(has.get(name, 0) / amount) for name, amount in asked.items() if amount > 0]
    return int(min([worker["nthreads"], *rooms]))
