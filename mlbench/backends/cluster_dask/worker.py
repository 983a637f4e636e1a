"""What Dask calls on a worker: the plugin that makes it ours, and the function that runs a step."""

from __future__ import annotations

import os
import threading
from typing import Any, Final

from distributed import WorkerPlugin, get_worker

from mlbench.backends.cluster_dask import supervisor
from mlbench.core.ids import ExecutionId
from mlbench.core.messages import StepTask
from mlbench.core.records import Json
from mlbench.runs.wire import msgspec

__all__ = ["TOPIC", "StepWorker", "run_step"]

TOPIC: Final = "mlbench-news"


class StepWorker(WorkerPlugin):
    """Make a worker ours: no HTTP server, and no life after its service's."""

    name = "mlbench"

    def setup(self, worker: Any) -> None:
        worker.http_server.stop()  # Dask starts it also without a dashboard
        threading.Thread(target=_end_with, args=(os.getppid(),), name="mlbench-parent", daemon=True).start()

    def teardown(self, worker: Any) -> None:  # noqa: ARG002  Dask's signature
        supervisor.close()


def run_step(sealed: supervisor.Sealed) -> bytes:
    """Run a step; return the record of its end. Never raises."""
    worker = get_worker()

    def publish(execution: ExecutionId, news: list[Json]) -> None:
        worker.log_event(TOPIC, {"execution": execution, "news": news, "address": worker.address})

    return msgspec.json.encode(supervisor.supervise(msgspec.msgpack.decode(sealed.data, type=StepTask), publish))


def _end_with(parent: int) -> None:
    """End this process when its parent has; its step servers and their processes end with it."""
    waiting = threading.Event()
    while not waiting.wait(1.0):
        if os.getppid() != parent:
            supervisor.close()
            os._exit(0)
