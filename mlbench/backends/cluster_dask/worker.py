"""What Dask calls on a worker: the plugin that makes it ours, and the function that runs a step."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any, Final

from distributed import WorkerPlugin, get_worker

from mlbench.backends.cluster_dask import resources, supervisor
from mlbench.core.ids import ExecutionId
from mlbench.core.messages import StepTask
from mlbench.core.records import Json
from mlbench.runs.wire import msgspec

__all__ = ["TOPIC", "StepWorker", "run_step"]

TOPIC: Final = "mlbench-news"


class StepWorker(WorkerPlugin):
    """Make a worker ours: no HTTP server, no life after its service's, and what it has said in Dask's resources."""

    name = "mlbench"

    async def setup(self, worker: Any) -> None:
        worker.http_server.stop()  # Dask starts it also without a dashboard
        threading.Thread(target=_end_with, args=(os.getppid(),), name="mlbench-parent", daemon=True).start()
        await _declare(worker)

    def teardown(self, worker: Any) -> None:  # noqa: ARG002  Dask's signature
        supervisor.close()


def run_step(sealed: supervisor.Sealed) -> bytes:
    """Run a step; return the record of its end. Never raises."""
    worker = get_worker()

    def publish(execution: ExecutionId, news: list[Json]) -> None:
        worker.log_event(TOPIC, {"execution": execution, "news": news, "address": worker.address})

    return msgspec.json.encode(supervisor.supervise(msgspec.msgpack.decode(sealed.data, type=StepTask), publish))


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
