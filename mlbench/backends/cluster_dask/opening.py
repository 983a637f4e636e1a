"""Open a cluster: this machine's, one at an address, or one that a class makes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mlbench.backends.cluster_dask.connection import Connection
from mlbench.backends.cluster_dask.localcluster import open_local
from mlbench.core.messages import ClusterChoice

__all__ = ["open_cluster"]


async def open_cluster(choice: ClusterChoice, threads: int, hear: Callable[[tuple[float, Any]], None]) -> Connection:
    """Open a cluster, with our plugin on its workers.

    Parameters
    ----------
    threads
        How many steps may run at once, where that is for us to say.
    hear
        Takes the workers' news.
    """
    return await open_local(choice, threads, hear)
