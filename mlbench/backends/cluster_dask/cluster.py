"""The client's side: hand steps to a local Dask cluster from within the service's event loop.

The cluster is one worker process whose threads each supervise one step's process. It speaks TLS with certificates
that are made for it and never written down, so that no other user of the machine can reach it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from mlbench.backends.blobs_local import LocalBlobs
from mlbench.core.errors import MlbenchError
from mlbench.core.ids import ExecutionId
from mlbench.core.messages import Environment, StepTask
from mlbench.core.records import ENDED, Execution, Failure, Json, Reason
from mlbench.runs.wire import msgspec

__all__ = ["DaskCluster", "OnEvent"]

OnEvent = Callable[[Json], None]
"""Takes one piece of news of an execution, in order, in the event loop.

`{"type": "started", "started": ns, "worker": text}`, `{"type": "messages", "messages": [...]}` (nbformat's outputs,
with `update_display_data`, `clear_output` and `transient`), `{"type": "metrics", "metrics": [Metric as JSON]}`,
`{"type": "tags", "tags": {...}}`, `{"type": "progress", "done": number, "total": number or None}`.
"""

_CONTROL_SECONDS: Final = 10.0
_LOOK_SECONDS: Final = 10.0
_MOST_SILENCES: Final = 2
"""So many unanswered calls, one after the other, are a worker that hangs: it is lost after some 30 s."""

_SETTINGS: Final[dict[str, Any]] = {
    "distributed.scheduler.allowed-failures": 0,  # a lost step is not started twice: that is for its retries to say
    "distributed.scheduler.work-stealing": False,
    "distributed.scheduler.active-memory-manager.start": False,
    "distributed.scheduler.worker-ttl": None,  # wall time: it would end steps after a laptop's sleep; see `_watch`
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    # Dask leaves these in the service's own variables, and jobs inherit them: one thread for OpenBLAS, a fixed hash.
    "distributed.nanny.pre-spawn-environ": {"PYTHONHASHSEED": "random"},
    "distributed.worker.profile.enabled": False,
    "distributed.worker.daemon": True,
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
    "distributed.admin.low-level-log-length": 8,  # the scheduler keeps this much of each topic for ever
    "distributed.admin.tick.interval": "1 s",  # it would wake idle processes fifty times a second
    "distributed.admin.tick.limit": "60 s",
    "distributed.comm.timeouts.connect": "30 s",
    "distributed.logging": {"distributed": "error"},
}

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Submitted:
    """An execution that was handed to the cluster and has not ended."""

    task: StepTask
    on_event: OnEvent
    future: Any = None
    cancelled: Reason | None = None
    started: int | None = None


class DaskCluster:
    """A local Dask cluster that starts with the first step and ends after a while without any.

    All methods are called in one event loop.

    Parameters
    ----------
    idle_after
        Seconds without a step after which the worker is ended; the next step starts another.
    threads
        How many steps may run at once.
    """

    def __init__(self, *, idle_after: float = 900.0, threads: int | None = None) -> None:
        self._idle_after = idle_after
        self._threads = threads or max(4, 2 * (os.cpu_count() or 1))
        self._lock = asyncio.Lock()
        self._cluster: Any = None
        self._client: Any = None
        self._under_way: dict[ExecutionId, _Submitted] = {}
        self._last_end = time.monotonic()
        self._watching: asyncio.Task[None] | None = None

    @property
    def idle_since(self) -> float | None:
        """`time.monotonic()` of the last end, None while a step is under way."""
        return None if self._under_way else self._last_end

    @property
    def running(self) -> bool:
        """Whether the worker process is there."""
        return self._client is not None

    async def start(self) -> None:
        """Start the cluster if it is not running; several callers get one."""
        async with self._lock:
            if self._client is not None:
                return
            # Importing takes most of a second: not in the event loop.
            distributed = await asyncio.to_thread(_import_distributed)
            import dask.config

            from mlbench.backends.cluster_dask import worker

            dask.config.set(_SETTINGS)
            logging.getLogger("distributed").setLevel(logging.ERROR)
            security = await asyncio.to_thread(distributed.Security.temporary)
            cluster = client = None
            try:
                cluster = await distributed.LocalCluster(
                    n_workers=1,
                    threads_per_worker=self._threads,
                    processes=True,
                    asynchronous=True,
                    host="127.0.0.1",
                    protocol="tls://",
                    security=security,
                    memory_limit=None,
                    dashboard_address=None,
                    worker_dashboard_address=None,
                    silence_logs=logging.ERROR,
                    scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
                )
                cluster.scheduler.http_server.stop()  # Dask starts it also without a dashboard
                client = await distributed.Client(cluster, asynchronous=True, set_as_default=False)
                await client.wait_for_workers(1, timeout=60)
                await client.register_plugin(worker.StepWorker())
                client.subscribe_topic(worker.TOPIC, self._hear)
            except BaseException:
                await _close_quietly(client, cluster)
                raise
            self._cluster, self._client = cluster, client
            self._last_end = time.monotonic()
            self._watching = asyncio.create_task(self._watch(), name="mlbench-cluster-watch")

    async def prepare(self, environment: Environment) -> None:
        """Start the warm process of an environment ahead of its first step."""
        from mlbench.backends.cluster_dask import supervisor

        await self.start()
        await self._tell(supervisor.prepare, supervisor.Sealed(msgspec.msgpack.encode(environment)))

    async def submit(self, task: StepTask, on_event: OnEvent) -> Execution:
        """Run a step and return the record of its end, which is in the folder of records by then.

        Whatever becomes of a step is a record, not an exception: a failure, a cancel, a lost worker.
        """
        submitted = self._under_way[task.execution] = _Submitted(task, on_event)
        try:
            return await self._run(submitted)
        finally:
            if submitted.future is not None:
                submitted.future.release()
            self._under_way.pop(task.execution, None)
            self._last_end = time.monotonic()

    async def cancel(self, execution: ExecutionId, reason: Reason = "user") -> bool:
        """End an execution's process now; say whether there was something to end."""
        from mlbench.backends.cluster_dask import supervisor

        submitted = self._under_way.get(execution)
        if submitted is None:
            return False
        submitted.cancelled = submitted.cancelled or reason
        if submitted.future is None:
            return True  # not handed over yet: `_run` looks before it does
        there = await self._tell(supervisor.cancel, execution, reason)
        if not there and submitted.future is not None and not submitted.future.done():
            # It waits for a thread. The worker has noted the cancel too, in case that it begins meanwhile.
            await submitted.future.cancel(force=True)
        return True

    async def pause(self, execution: ExecutionId) -> bool:
        """Stop an execution's process where it is (SIGSTOP); its timeout waits with it."""
        from mlbench.backends.cluster_dask import supervisor

        return execution in self._under_way and bool(await self._tell(supervisor.pause, execution))

    async def resume(self, execution: ExecutionId) -> bool:
        """Let a paused execution go on."""
        from mlbench.backends.cluster_dask import supervisor

        return execution in self._under_way and bool(await self._tell(supervisor.resume, execution))

    async def close(self) -> None:
        """End the cluster and all that runs on it; executions under way end as `service-lost`."""
        async with self._lock:
            client, cluster = self._client, self._cluster
            self._client = self._cluster = None
            watching, self._watching = self._watching, None
            if client is not None:
                from mlbench.backends.cluster_dask import supervisor

                with contextlib.suppress(Exception):  # a worker that hangs is killed with the cluster
                    await asyncio.wait_for(client.run(supervisor.close), 5)
                await _close_quietly(client, cluster)
        if watching is not None and watching is not asyncio.current_task():
            watching.cancel()

    async def _run(self, submitted: _Submitted) -> Execution:
        task = submitted.task
        try:
            await self.start()
        except Exception as error:  # noqa: BLE001  whatever keeps a cluster from starting is the step's end
            _log.exception("The cluster could not be started")
            return await self._end(
                submitted,
                Failure(
                    ename=type(error).__name__,
                    evalue=f"The local cluster could not be started: {error}",
                    remedy="See `mlbench service status`, then run the cell again.",
                ),
            )
        if submitted.cancelled is not None:
            return await self._end(submitted)
        from mlbench.backends.cluster_dask import supervisor, worker

        submitted.future = self._client.submit(
            worker.run_step,
            supervisor.Sealed(msgspec.msgpack.encode(task)),
            pure=False,
            retries=0,
            key=f"step-{task.execution}-{task.attempt}",
        )
        try:
            return msgspec.json.decode(await submitted.future, type=Execution)
        except asyncio.CancelledError:  # Dask's FutureCancelledError is one
            current = asyncio.current_task()
            if current is not None and current.cancelling():
                raise
            return await self._end(submitted)
        except Exception as error:  # noqa: BLE001  KilledWorker and its like: the step's end may be recorded all the same
            _log.warning("Execution %s lost its worker: %s", task.execution, type(error).__name__)
            return await self._end(submitted)

    async def _end(self, submitted: _Submitted, failure: Failure | None = None) -> Execution:
        """Return the record of an execution that no worker has returned, writing one where there is none."""
        return await asyncio.to_thread(_find_or_write, submitted, failure)

    def _hear(self, event: tuple[float, Any]) -> None:
        """Pass on news from the worker."""
        body = event[1]
        submitted = self._under_way.get(body["execution"])
        if submitted is None:
            return
        for news in body["news"]:
            if news["type"] == "started":
                submitted.started = news["started"]
            submitted.on_event(dict(news))

    async def _tell(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function in the worker's event loop; return None if the worker is gone."""
        if self._client is None:
            return None
        try:
            answers = await asyncio.wait_for(self._client.run(function, *arguments), _CONTROL_SECONDS)
        except Exception as error:  # noqa: BLE001  the worker is being replaced: its steps have ended with it
            _log.warning("The worker did not answer: %s", type(error).__name__)
            return None
        return next(iter(answers.values()), None)

    async def _watch(self) -> None:
        """End the cluster when it has been idle for long, and a worker that hangs while steps are under way."""
        silences, looked = 0, time.monotonic()
        while self._client is not None:
            since = self.idle_since
            left = self._idle_after if since is None else since + self._idle_after - time.monotonic()
            if left <= 0:
                await self.close()
                return
            await asyncio.sleep(max(0.05, min(left, _LOOK_SECONDS)))
            if not self._under_way:
                silences = 0
            elif time.monotonic() - looked >= _LOOK_SECONDS:
                silences = 0 if await self._tell(os.getpid) is not None else silences + 1
                looked = time.monotonic()
                if silences >= _MOST_SILENCES:
                    silences = 0
                    self._kill_worker()

    def _kill_worker(self) -> None:
        """End the worker process; its nanny starts another, and its steps end as `worker-lost`."""
        for nanny in (self._cluster.workers if self._cluster is not None else {}).values():
            process = nanny.pid
            if process:
                _log.error("The worker (process %s) does not answer and is ended", process)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)


def _find_or_write(submitted: _Submitted, failure: Failure | None) -> Execution:
    from mlbench.backends.cluster_dask.supervisor import ended_record

    task = submitted.task
    try:
        blobs = LocalBlobs(task.store)
        found = blobs.find_record("execution", task.execution)
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
            blobs.append("execution", record.id, msgspec.to_builtins(record), durable=True)
        except MlbenchError:
            _log.exception("The end of execution %s could not be recorded", record.id)
    return record


def _import_distributed() -> Any:
    import distributed

    return distributed


async def _close_quietly(client: Any, cluster: Any) -> None:
    for one in (client, cluster):
        if one is not None:
            try:
                await asyncio.wait_for(one.close(), 10)
            except Exception:  # noqa: BLE001  what will not close is ended with this process
                _log.warning("The cluster did not close in time", exc_info=True)
