"""The cluster of this machine: one worker process whose threads each supervise one step's process.

It speaks TLS with certificates that are made for it and never written down, so that no other user of the machine can
reach it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable
from typing import Any, Final

from mlbench.backends.cluster_dask.client.connection import Connection, close_quietly
from mlbench.core.messages import ClusterChoice

__all__ = ["SETTINGS", "import_distributed", "kill_worker", "open_local"]

SETTINGS: Final[dict[str, Any]] = {
    "distributed.scheduler.allowed-failures": 0,  # a lost step is not started twice: that is for its retries to say
    "distributed.scheduler.work-stealing": False,
    "distributed.scheduler.active-memory-manager.start": False,
    "distributed.scheduler.worker-ttl": None,  # wall time: it would end steps after a laptop's sleep
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
    "distributed.admin.system-monitor.interval": "5 s",
    "distributed.admin.system-monitor.disk": False,
    "distributed.admin.tick.interval": "1 s",  # it would wake idle processes fifty times a second
    "distributed.admin.tick.limit": "60 s",
    "distributed.comm.timeouts.connect": "30 s",
    "distributed.logging": {"distributed": "error"},
}

_log = logging.getLogger(__name__)


async def open_local(choice: ClusterChoice, threads: int, hear: Callable[[tuple[float, Any]], None]) -> Connection:
    """Start this machine's cluster.

    Parameters
    ----------
    threads
        How many steps may run at once.
    hear
        Takes the workers' news.
    """
    distributed = await import_distributed()
    from mlbench.backends.cluster_dask import resources
    from mlbench.backends.cluster_dask.worker import plugin as worker

    security = await asyncio.to_thread(distributed.Security.temporary)
    cluster = client = None
    try:
        cluster = await distributed.LocalCluster(
            n_workers=1,
            threads_per_worker=threads,
            processes=True,
            asynchronous=True,
            host="127.0.0.1",
            protocol="tls://",
            security=security,
            memory_limit=None,
            resources=await asyncio.to_thread(resources.machine),
            dashboard_address=None,
            worker_dashboard_address=None,
            silence_logs=logging.ERROR,
            scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
        )
        cluster.scheduler.http_server.stop()  # Dask starts it also without a dashboard
        client = await distributed.Client(
            cluster,
            asynchronous=True,
            set_as_default=False,
            direct_to_workers=True,  # what they answer does not go through the scheduler, which is in this process too
        )
        await client.wait_for_workers(1, timeout=60)
        await client.register_plugin(worker.StepWorker())
        client.subscribe_topic(worker.TOPIC, hear)
    except BaseException:
        await close_quietly(client, cluster)
        raise
    return Connection(choice, client, cluster)


def kill_worker(cluster: Any, address: str | None) -> None:
    """End a worker process that hangs; its nanny starts another, and its steps end as `worker-lost`."""
    for nanny in cluster.workers.values():
        process = nanny.pid
        if process and nanny.worker_address == address:
            _log.error("The worker (process %s) does not answer and is ended", process)
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


async def import_distributed() -> Any:
    """Return Dask's `distributed` with our settings; importing takes most of a second: not in the event loop."""
    distributed = await asyncio.to_thread(_import)
    import dask.config

    dask.config.set(SETTINGS)
    logging.getLogger("distributed").setLevel(logging.ERROR)
    return distributed


def _import() -> Any:
    import distributed

    return distributed
