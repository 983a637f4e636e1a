"""Open a cluster: this machine's, one at an address, or one that a class makes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, assert_never

from mlbench.backends.cluster_dask.client import remote
from mlbench.backends.cluster_dask.client.connection import Connection
from mlbench.backends.cluster_dask.client.localcluster import open_local
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

    Raises
    ------
    ServiceError
        If it cannot be reached or made, or must not be used; the sentence says why.
    """
    match choice.kind:
        case "local":
            return await open_local(choice, threads, hear)
        case "address":
            return await remote.connect(choice, hear)
        case "factory":
            return await remote.make(choice, hear)
        case _:
            assert_never(choice.kind)
