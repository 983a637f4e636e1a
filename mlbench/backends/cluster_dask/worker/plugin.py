"""What Dask calls on a worker: the plugin that makes it ours, and the function that runs a step."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import io
import os
import platform
import threading
from collections.abc import Callable
from typing import Any, Final

from distributed import Status, WorkerPlugin, get_worker

from mlbench.backends.cluster_dask import resources
from mlbench.backends.cluster_dask.worker import chunks, modules, supervisor, visiting
from mlbench.backends.cluster_dask.worker.orphans import end_orphans
from mlbench.core.errors import MlbenchError, StoreError
from mlbench.core.ids import Digest, ExecutionId
from mlbench.core.messages import ChunkEnd, StepTask
from mlbench.core.records import Failure, Json
from mlbench.runs.wire import msgspec

__all__ = ["TOPIC", "Held", "StepWorker", "WorkerLost", "held_name", "publisher", "run_chunk", "run_step", "unsealed"]

TOPIC: Final = "mlbench-news"


class StepWorker(WorkerPlugin):
    """Make a worker ours: no HTTP server, no life after its service's, and what it has said in Dask's resources.

    A worker that somebody else has started (`own` is False) keeps its life and its server. The plugin may be
    registered again at any time, by any service, and also reaches workers without mlbench, which it leaves alone.
    """

    name = "mlbench"

    def __init__(self, *, own: bool = True) -> None:
        self.own = own

    def __reduce__(self) -> Any:
        return (eval, (_PICKLED.format(made=f"StepWorker(own={self.own})"),))

    async def setup(self, worker: Any) -> None:
        if self.own:
            gc.set_threshold(20_000, 20, 20)  # items of a fan-out come by thousands, and are no garbage
            worker.http_server.stop()  # Dask starts it also without a dashboard
            threading.Thread(target=_end_with, args=(os.getppid(),), name="mlbench-parent", daemon=True).start()
            # The worker before this one may have been killed together with its step servers.
            threading.Thread(target=end_orphans, name="mlbench-orphans", daemon=True).start()
        await _declare(worker)

    def transition(self, key: Any, start: str, finish: str, **_: Any) -> None:
        """End what nobody waits for any more: its service is gone, or has given this worker up."""
        if not self.own and start in ("executing", "long-running") and finish == "released":
            supervisor.abandon(str(key))

    def teardown(self, worker: Any) -> None:
        if worker.status in _ENDING:  # registered again, it is taken away before; the steps go on
            supervisor.close(lost=not self.own)
            modules.forget()


class Held(WorkerPlugin):
    """Hold what waits of a paused execution on workers that come later: they are given it before anybody could tell."""

    def __init__(self, execution: ExecutionId) -> None:
        self.execution = execution
        self.name = held_name(execution)

    def __reduce__(self) -> Any:
        return (eval, (_PICKLED.format(made=f"Held({self.execution!r})"),))

    def setup(self, worker: Any) -> None:  # noqa: ARG002
        supervisor.pause(self.execution)


def held_name(execution: ExecutionId) -> str:
    """Return the name under which Dask knows that an execution is held."""
    return f"mlbench-held-{execution}"


_ENDING: Final = (Status.closing, Status.closing_gracefully, Status.closed, Status.failed)

_PICKLED: Final = """
__import__("mlbench.backends.cluster_dask.worker.plugin", fromlist=["_"]).{made}
if __import__("importlib.util", fromlist=["_"]).find_spec("mlbench")
else __import__("distributed").WorkerPlugin()
""".replace("\n", " ").strip()
"""A worker that cannot read a plugin does not start, and a cluster may have workers that are not for us."""


def run_step(sealed: supervisor.Sealed | io.BytesIO) -> bytes:
    """Run a step; return the record of its end.

    Raises
    ------
    WorkerLost
        If another worker had begun it, of which the scheduler knows no more.
    """
    task, refusal = unsealed(sealed)
    if refusal is not None:
        return msgspec.json.encode(supervisor.refused(task, refusal))
    try:
        return msgspec.json.encode(supervisor.supervise(task, publisher()))
    except supervisor.GivenUp as error:
        raise WorkerLost(*error.args) from error


def run_chunk(sealed: supervisor.Sealed | io.BytesIO) -> bytes:
    """Run the items of a chunk; return what became of them, a `ChunkEnd` as JSON.

    Raises
    ------
    WorkerLost
        If another worker had begun it, of which the scheduler knows no more.
    """
    task, refusal = unsealed(sealed)
    if refusal is not None:
        failure = Failure(ename=type(refusal).__name__, evalue=refusal.message, remedy=refusal.remedy)
        left = task.chunk.numbers if task.chunk is not None else ()
        return msgspec.json.encode(ChunkEnd(failure=failure, reason="error", left=left))
    try:
        return chunks.run_chunk(task, publisher())
    except supervisor.GivenUp as error:
        raise WorkerLost(*error.args) from error


def unsealed(sealed: supervisor.Sealed | io.BytesIO) -> tuple[StepTask, MlbenchError | None]:
    """Return a task, made to fit this worker if it is not on its kernel's machine, or why it cannot run here.

    Raises
    ------
    WorkerLost
        If another worker had begun it, of which the scheduler knows no more.
    """
    if isinstance(sealed, io.BytesIO):
        data, proof = msgspec.msgpack.decode(sealed.getvalue(), type=tuple[bytes, Digest])
    else:
        data, proof = sealed.data, None
    task = msgspec.msgpack.decode(data, type=StepTask)
    if not visiting.visits(task):
        return dataclasses.replace(task, client={"service": os.environ.get("MLBENCH_RUNTIME")}), None
    try:
        task = visiting.adapted(task, proof, _client_of(get_worker()))
        first = visiting.claim(task)
    except MlbenchError as error:
        return task, error
    except OSError as error:
        return task, StoreError(f"The step could not be prepared on {platform.node()}: {error}.", "Run the cell again.")
    if not first:
        raise WorkerLost(f"Another worker had begun step {task.step}.")
    return task, None


class WorkerLost(Exception):
    """What was begun on a worker that the scheduler has lost."""


def publisher() -> Callable[[ExecutionId, list[Json]], None]:
    """Return what sends news from this worker to the service; several threads may call it."""
    worker = get_worker()

    def publish(execution: ExecutionId, news: list[Json]) -> None:
        packed = msgspec.msgpack.encode(news)  # the scheduler passes it on as it is
        worker.log_event(TOPIC, {"execution": execution, "news": packed, "address": worker.address})

    return publish


def _client_of(worker: Any) -> Json:
    """Say how a step's process reaches this worker's scheduler: by the worker's own certificate, if it has one."""
    security = worker.security
    return {
        "address": worker.scheduler.address,
        "ca": security.tls_ca_file,
        "cert": security.tls_worker_cert or security.tls_client_cert,
        "key": security.tls_worker_key or security.tls_client_key,
    }


async def _declare(worker: Any) -> None:
    """Tell the scheduler what this worker has, as far as whoever started it has not said so."""
    own = await asyncio.to_thread(resources.machine)
    own["cpu"] = min(own["cpu"], worker.state.nthreads)
    own["memory"] = min(own["memory"], worker.memory_manager.memory_limit or own["memory"])
    unsaid = {name: amount for name, amount in own.items() if name not in worker.state.total_resources}
    if unsaid:
        await worker.set_resources(**unsaid)


def _end_with(parent: int) -> None:
    """End this process when its parent has; its step servers and their processes end with it."""
    waiting = threading.Event()
    while not waiting.wait(1.0):
        if os.getppid() != parent:
            supervisor.close()
            os._exit(0)
