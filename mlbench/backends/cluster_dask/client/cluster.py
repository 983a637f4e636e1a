"""The client's side: hand steps to Dask clusters from within the service's event loop.

A task says which cluster it is for; each is opened with its first step and closed after a while without any.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final

from mlbench.backends.blobs import open_blobs
from mlbench.backends.cluster_dask import resources
from mlbench.backends.cluster_dask.client.chunks import DaskChunks
from mlbench.backends.cluster_dask.client.companion import Companions
from mlbench.backends.cluster_dask.client.connection import Connection
from mlbench.backends.cluster_dask.client.fanout import FanOutDrive, Known
from mlbench.backends.cluster_dask.client.localcluster import kill_worker
from mlbench.backends.cluster_dask.client.opening import open_cluster
from mlbench.backends.cluster_dask.client.remote import scale
from mlbench.backends.cluster_dask.ends import find_written, record_end
from mlbench.core.errors import MlbenchError, ServiceError
from mlbench.core.ids import ExecutionId
from mlbench.core.messages import ClusterChoice, Environment, StepTask
from mlbench.core.records import ENDED, Execution, Failure, Json, Reason
from mlbench.runs.wire import msgspec

__all__ = ["DaskCluster", "OnEvent"]

OnEvent = Callable[[Json], None]
"""Takes one piece of news of an execution, in order, in the event loop.

`{"type": "started", "started": ns, "worker": text}`, `{"type": "messages", "messages": [...]}` (nbformat's outputs,
with `update_display_data`, `clear_output` and `transient`), `{"type": "metrics", "metrics": [Metric as JSON]}`,
`{"type": "tags", "tags": {...}}`, `{"type": "artifacts", "artifacts": [Binding as JSON]}`,
`{"type": "progress", "done": number, "total": number or None}`, and of a fan-out
`{"type": "items", "executions": [ItemRecord, ...], "fanout": FanOut}`: items that have ended, and how far all are.
"""

_LOOK_SECONDS: Final = 10.0
_ANSWER_SECONDS: Final = 5.0
_MOST_SILENCES: Final = 2
"""So many unanswered calls, one after the other, are a worker that hangs: it is lost after at most 30 s."""

_RECORD_SECONDS: Final = 5.0
"""Seconds that a worker which was ending a step when it was lost has to write its record."""

_LOCAL: Final = ClusterChoice()

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Submitted:
    """An execution that was handed to a cluster and has not ended. `address` is its worker's, once it has begun."""

    task: StepTask
    on_event: OnEvent
    place: _Place
    known: Known | None = None
    drive: FanOutDrive | None = None
    future: Any = None
    cancelled: Reason | None = None
    started: int | None = None
    address: str | None = None


class _Place:
    """One cluster by its choice: open or not, and whose steps are under way there."""

    def __init__(self, choice: ClusterChoice) -> None:
        self.choice = choice
        self.lock = asyncio.Lock()
        self.connection: Connection | None = None
        self.under_way: dict[ExecutionId, _Submitted] = {}
        self.last_end = time.monotonic()
        self.watching: asyncio.Task[None] | None = None


class DaskCluster:
    """The clusters that steps run on: each starts with its first step and ends after a while without any.

    All methods are called in one event loop.

    Parameters
    ----------
    idle_after
        Seconds without a step after which a cluster's workers are ended; the next step starts others.
    threads
        How many steps may run at once on this machine.
    """

    def __init__(self, *, idle_after: float = 900.0, threads: int | None = None) -> None:
        self._idle_after = idle_after
        self._threads = threads or max(4, 2 * (os.cpu_count() or 1))
        self._places: dict[str, _Place] = {}
        self._companions = Companions()
        self._under_way: dict[ExecutionId, _Submitted] = {}

    @property
    def idle_since(self) -> float | None:
        """`time.monotonic()` of the last end, None while a step is under way."""
        return None if self._under_way else max((place.last_end for place in self._places.values()), default=_BEGUN)

    @property
    def running(self) -> bool:
        """Whether workers are there."""
        return any(place.connection is not None for place in self._places.values())

    @property
    def _client(self) -> Any:
        """The client of this machine's cluster, None while it does not run."""
        connection = self._place(_LOCAL).connection
        return connection.client if connection is not None else None

    async def start(self, choice: ClusterChoice | None = None) -> Connection:
        """Open a cluster, this machine's by default, if it is not open; several callers get one.

        Raises
        ------
        ServiceError
            If it cannot be reached or made, or must not be used; the sentence says why.
        """
        return await self._open(self._place(choice or _LOCAL), choice or _LOCAL)

    async def use(self, choice: ClusterChoice) -> tuple[str, ...]:
        """Connect to a cluster for a kernel; return what the kernel's user should know, line by line.

        Raises
        ------
        ServiceError
            If it cannot be reached or made, or its workers cannot run steps of that kernel.
        """
        connection = await self.start(choice)
        return await connection.meet(choice, again=True) if connection.foreign else ()

    async def dashboards(self) -> dict[str, str]:
        """Return the addresses of the dashboards of the clusters that are open, by name; this machine's has none."""
        found: dict[str, str] = {}
        for place in list(self._places.values()):
            connection = place.connection
            if connection is None or not connection.alive or not connection.foreign:
                continue
            with suppress(TimeoutError, OSError):
                link = (await connection.describe())["dashboard"]
                if link:
                    found[place.choice.name] = link
        return found

    async def describe(self, choice: ClusterChoice | None = None) -> Json:
        """Return what a cluster is and has: its kind, address, dashboard, workers and what is under way there.

        One that is not open is not opened.
        """
        place = self._place(choice or _LOCAL)
        connection = place.connection if place.connection is not None and place.connection.alive else None
        facts: Json = {"name": place.choice.name, "kind": place.choice.kind, "running": connection is not None}
        facts |= {"address": place.choice.address, "factory": place.choice.factory, "dashboard": None, "workers": []}
        if connection is not None:
            facts |= await connection.describe()
        facts["under_way"] = [one.task.step for one in place.under_way.values()]
        steps: dict[str | None, list[str]] = {}
        for one in place.under_way.values():
            steps.setdefault(one.address, []).append(one.task.step)
        for worker in facts["workers"]:
            worker["steps"] = steps.get(worker["address"], [])
        return facts

    async def scale(self, choice: ClusterChoice | None, workers: int) -> None:
        """Ask for a number of workers; on this machine, for the number of steps that may run at once.

        Raises
        ------
        ServiceError
            If it is not this service that has made the cluster.
        """
        connection = await self.start(choice)
        if choice is None or choice.kind == "local":
            raise ServiceError(
                f"The local cluster is one worker with room for {self._threads} steps.",
                "Choose a configured cluster to have more, or see `--max-parallel` and `--cpu` to have fewer at once.",
            )
        if connection.cluster is None:
            raise ServiceError(
                f"The cluster at {choice.address} is run by somebody else, who alone can scale it.",
                "Start or stop workers there: steps find them.",
            )
        await scale(connection.cluster, workers)
        connection.asked = workers

    async def stop(self, choice: ClusterChoice | None = None) -> list[str]:
        """Close a cluster; return the steps that this has ended. One that somebody else runs is only left."""
        place = self._place(choice or _LOCAL)
        ended = [one.task.step for one in place.under_way.values()]
        await self._close(place)
        return ended

    async def client(
        self,
        environment: Environment,
        folder: str,
        path: Sequence[str],
        state: Mapping[str, tuple[int, int]],
        choice: ClusterChoice | None = None,
    ) -> Json:
        """Return how a Dask client reaches a cluster, for `mlbench.client()`: `address`, `ca`, `cert` and `key`.

        On this machine that is a cluster of its own, with workers like the process that asks: those that supervise
        steps load no code of a user.

        Raises
        ------
        ServiceError
            If there is none and none can be started.
        """
        if choice is None or choice.kind == "local":
            return await self._companions.get(environment, folder, path, state)
        return (await self.start(choice)).reach()

    async def prepare(self, environment: Environment) -> None:
        """Start the warm process of an environment on this machine ahead of its first step."""
        from mlbench.backends.cluster_dask.worker import supervisor

        connection = await self.start()
        await connection.ask(supervisor.prepare, supervisor.Sealed(msgspec.msgpack.encode(environment)))

    async def submit(self, task: StepTask, on_event: OnEvent, known: Known | None = None) -> Execution:
        """Run a step and return the record of its end, which is in the folder of records by then.

        Whatever becomes of a step is a record, not an exception: a failure, a cancel, a lost worker. The items of a
        fan-out that are `known` are not run.
        """
        place = self._place(task.cluster or _LOCAL)
        submitted = self._under_way[task.execution] = _Submitted(task, on_event, place, known)
        place.under_way[task.execution] = submitted
        try:
            return await self._run(submitted)
        finally:
            if submitted.future is not None:
                submitted.future.release()
            self._under_way.pop(task.execution, None)
            place.under_way.pop(task.execution, None)
            place.last_end = time.monotonic()

    async def cancel(self, execution: ExecutionId, reason: Reason = "user") -> bool:
        """End an execution's process now; say whether there was something to end."""
        from mlbench.backends.cluster_dask.worker import supervisor

        submitted = self._under_way.get(execution)
        if submitted is None:
            return False
        submitted.cancelled = submitted.cancelled or reason
        if submitted.drive is not None:
            await submitted.drive.stop(submitted.cancelled)
            return True
        if submitted.future is None:
            return True  # not handed over yet: `_run` looks before it does
        there = await self._tell(submitted, supervisor.cancel, execution, reason)
        if not there and submitted.future is not None and not submitted.future.done():
            # It waits for a thread. The worker has noted the cancel too, in case that it begins meanwhile.
            await submitted.future.cancel(force=True)
        return True

    async def pause(self, execution: ExecutionId) -> bool:
        """Stop an execution's process where it is (SIGSTOP); its timeout waits with it."""
        from mlbench.backends.cluster_dask.worker import supervisor

        submitted = self._under_way.get(execution)
        if submitted is not None and submitted.drive is not None:
            return await submitted.drive.pause()
        return submitted is not None and await self._tell(submitted, supervisor.pause, execution)

    async def resume(self, execution: ExecutionId) -> bool:
        """Let a paused execution go on."""
        from mlbench.backends.cluster_dask.worker import supervisor

        submitted = self._under_way.get(execution)
        if submitted is not None and submitted.drive is not None:
            return await submitted.drive.resume()
        return submitted is not None and await self._tell(submitted, supervisor.resume, execution)

    async def close(self) -> None:
        """End what this service has started and leave the rest; executions under way end as `service-lost`."""
        await asyncio.gather(self._companions.close(), *(self._close(place) for place in list(self._places.values())))

    # --- opening and closing -----------------------------------------------------------------------------------------

    def _place(self, choice: ClusterChoice) -> _Place:
        same = replace(choice, source=None, versions={})
        key = msgspec.json.encode(same, order="sorted").decode() if choice.kind != "local" else ""
        return self._places.setdefault(key, _Place(choice))

    async def _open(self, place: _Place, choice: ClusterChoice) -> Connection:
        async with place.lock:
            if place.connection is not None and not place.connection.alive:
                lost, place.connection = place.connection, None  # its steps have ended with it
                await lost.close()
            if place.connection is None:
                place.connection = await open_cluster(choice, self._threads, self._hear)
                place.last_end = time.monotonic()
                if place.watching is None or place.watching.done():
                    place.watching = asyncio.create_task(self._watch(place), name="mlbench-cluster-watch")
            return place.connection

    async def _close(self, place: _Place) -> None:
        async with place.lock:
            connection, place.connection = place.connection, None
            watching, place.watching = place.watching, None
            if connection is not None:
                await self._end_steps(place, connection)
                await connection.close()
        if watching is not None and watching is not asyncio.current_task():
            watching.cancel()

    async def _end_steps(self, place: _Place, connection: Connection) -> None:
        """End the processes of this service's steps, also on workers that go on without it."""
        from mlbench.backends.cluster_dask.worker import supervisor

        if not connection.foreign:
            await connection.ask(supervisor.close, patience=5)  # a worker that hangs is killed with the cluster
        elif place.under_way:
            await connection.ask(supervisor.give_up, list(place.under_way), patience=5)

    # --- steps -------------------------------------------------------------------------------------------------------

    async def _run(self, submitted: _Submitted) -> Execution:
        from mlbench.backends.cluster_dask.worker import visiting

        task = submitted.task
        try:
            connection = await self._open(submitted.place, task.cluster or _LOCAL)
            if task.cluster is not None and connection.foreign:
                for line in await connection.meet(task.cluster):
                    said = {"output_type": "stream", "name": "stderr", "text": f"mlbench: {line}\n"}
                    submitted.on_event({"type": "messages", "messages": [said]})
            call = await connection.call("run_step", task)
        except MlbenchError as error:
            return await self._end(
                submitted, Failure(ename=type(error).__name__, evalue=error.message, remedy=error.remedy)
            )
        except Exception as error:  # noqa: BLE001  whatever keeps a cluster from starting is the step's end
            _log.exception("The cluster could not be started")
            return await self._end(
                submitted,
                Failure(
                    ename=type(error).__name__,
                    evalue=f"The {submitted.place.choice.name} cluster could not be started: {error}",
                    remedy="See `mlbench service status`, then run the cell again.",
                ),
            )
        if task.resources and submitted.cancelled is None:
            refused = resources.refusal(task.step, task.resources, await connection.resources())
            if refused is not None:
                return await self._end(submitted, refused)
        if submitted.cancelled is not None:
            return await self._end(submitted)
        if task.foreach:
            chunks = DaskChunks(connection, task)
            submitted.drive = FanOutDrive(task, chunks, submitted.on_event, submitted.known)
            return await submitted.drive.run()
        submitted.future = connection.client.submit(
            *call,
            pure=False,
            retries=0,
            resources=task.resources or None,
            workers=await connection.answering(),
            key=f"step-{task.execution}-{task.attempt}",
        )
        try:
            record = msgspec.json.decode(await submitted.future, type=Execution)
        except asyncio.CancelledError:  # Dask's FutureCancelledError is one
            current = asyncio.current_task()
            if current is not None and current.cancelling():
                raise
            return await self._end(submitted)
        except Exception as error:  # noqa: BLE001  KilledWorker and its like: the step's end may be recorded all the same
            _log.warning("Execution %s lost its worker: %s: %s", task.execution, type(error).__name__, error)
            return await self._end(submitted, _failure_of(error, task))
        if connection.foreign:
            await asyncio.to_thread(visiting.let_go, task)
        return record

    async def _end(self, submitted: _Submitted, failure: Failure | None = None) -> Execution:
        """Return the record of an execution that no worker has returned, writing one where there is none."""
        return await asyncio.to_thread(_find_or_write, submitted, failure)

    def _hear(self, event: tuple[float, Any]) -> None:
        """Pass on news from a worker."""
        body = event[1]
        submitted = self._under_way.get(body["execution"])
        if submitted is None:
            return
        submitted.address = body.get("address", submitted.address)
        for news in msgspec.msgpack.decode(body["news"]):
            if submitted.drive is not None:
                submitted.drive.hear(news)
                continue
            if news["type"] == "started":
                submitted.started = news["started"]
            submitted.on_event(dict(news))

    async def _tell(self, submitted: _Submitted, function: Callable[..., Any], *arguments: Any) -> bool:
        """Call a function in the worker of an execution, in all of them if it is not known; say what it says."""
        connection = submitted.place.connection
        if connection is None:
            return False
        workers = [submitted.address] if submitted.address is not None else None
        return any((await connection.ask(function, *arguments, workers=workers)).values())

    async def _watch(self, place: _Place) -> None:
        """Close a cluster when it has been idle for long, and end a worker that hangs while it has steps under way."""
        silences: dict[str | None, int] = {}
        looked = time.monotonic()
        while place.connection is not None:
            left = self._idle_after + (0 if place.under_way else place.last_end - time.monotonic())
            if left <= 0:
                await self._close(place)
                return
            await asyncio.sleep(max(0.05, min(left, _LOOK_SECONDS)))
            if not place.under_way:
                silences.clear()
            elif time.monotonic() - looked >= _LOOK_SECONDS and place.connection is not None:
                if place.connection.foreign and place.connection.alive:
                    if not await place.connection.answers(_ANSWER_SECONDS):
                        if self._count(silences, None):
                            place.connection.drop()
                        looked = time.monotonic()
                        continue
                    silences.pop(None, None)
                addresses = {one.address for one in place.under_way.values() if one.drive is None}
                for drive in [one.drive for one in place.under_way.values() if one.drive is not None]:
                    addresses |= await drive.chunks.workers()
                addresses |= place.connection.silent
                addresses.discard(None)
                if not place.connection.foreign:  # a step may wait for a thread of one that hangs
                    addresses = set(place.connection.cluster.scheduler.workers)
                for address in addresses:
                    if await place.connection.ask(os.getpid, workers=[str(address)], patience=_ANSWER_SECONDS):
                        silences.pop(address, None)
                        place.connection.silent.discard(str(address))
                    elif self._count(silences, address):
                        try:
                            await self._give_up(place, address)
                        except Exception:  # noqa: BLE001  the scheduler is silent too: it is looked at again
                            _log.warning("The worker %s could not be given up", address, exc_info=True)
                looked = time.monotonic()

    @staticmethod
    def _count(silences: dict[str | None, int], address: str | None) -> bool:
        """Count that somebody has not answered (None: a scheduler); say whether that was once too often."""
        silences[address] = silences.get(address, 0) + 1
        if silences[address] < _MOST_SILENCES:
            return False
        del silences[address]
        return True

    async def _give_up(self, place: _Place, address: str | None) -> None:
        """End a worker that hangs, or, where that is not ours to do, wait for its steps no longer."""
        if place.connection is not None and not place.connection.foreign:
            kill_worker(place.connection.cluster, address)
            return
        if place.connection is not None and address is not None:
            place.connection.silent.add(address)
        for submitted in list(place.under_way.values()):
            if submitted.drive is not None and address is not None:
                await submitted.drive.chunks.give_up(address)
            elif submitted.address == address and submitted.future is not None:
                _log.error("The worker %s does not answer: execution %s is lost", address, submitted.task.execution)
                await submitted.future.cancel(force=True)


_BEGUN: Final = time.monotonic()


_LOSSES: Final = frozenset({"KilledWorker", "WorkerLost", "CommClosedError", "FutureCancelledError", "TimeoutError"})


def _failure_of(error: BaseException, task: StepTask) -> Failure | None:
    """Say why a cluster could not run a step; None if a worker was lost."""
    name = task.cluster.name if task.cluster is not None else "local"
    if isinstance(error, ModuleNotFoundError) and "mlbench" in str(error):  # it came after the others had been asked
        return Failure(
            ename="ServiceError",
            evalue=f"A worker of cluster {name} has no mlbench.",
            remedy="Install it there: pip install mlbench.",
        )
    if isinstance(error, MlbenchError):
        return Failure(ename=type(error).__name__, evalue=error.message, remedy=error.remedy)
    if type(error).__name__ in _LOSSES or isinstance(error, OSError):
        return None
    return Failure(
        ename=type(error).__name__,
        evalue=f"Cluster {name} could not run the step: {error}",
        remedy="See that its scheduler and workers have versions of dask and distributed that go together.",
    )


def _find_or_write(submitted: _Submitted, failure: Failure | None) -> Execution:
    from mlbench.backends.cluster_dask.worker import visiting
    from mlbench.backends.cluster_dask.worker.supervisor import ended_record

    task = submitted.task
    try:
        blobs = open_blobs(task.store, make=False)
        if visiting.visits(task):  # its worker may well live, and is neither to begin it nor to end it any more
            visiting.claim(task)
            until = time.monotonic() + _RECORD_SECONDS
            while not visiting.conclude(task) and time.monotonic() < until:
                if find_written(blobs, task, "execution", task.execution) is not None:
                    break
                time.sleep(0.1)
        found = find_written(blobs, task, "execution", task.execution)
        if found is not None and found.get("state") in ENDED and found.get("attempt", 1) == task.attempt:
            return msgspec.convert(found, Execution)
    except (MlbenchError, msgspec.ValidationError):
        _log.exception("The records of %s can't be read", task.store)
        blobs = None
    if submitted.cancelled is not None:
        record = ended_record(task, state="cancelled", reason=submitted.cancelled, started=submitted.started)
    else:
        record = ended_record(
            task,
            state="failed",
            reason="error" if failure is not None else "worker-lost",
            started=submitted.started,
            failure=failure
            or Failure(
                ename="WorkerLost",
                evalue=f"The worker that ran step {task.step} is gone.",
                remedy="Run the cell again.",
            ),
        )
    if blobs is not None:
        try:
            record_end(blobs, task, record)
        except MlbenchError:
            _log.exception("The end of execution %s could not be recorded", record.id)
    return record
