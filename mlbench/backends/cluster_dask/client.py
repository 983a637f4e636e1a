"""`mlbench.client()`: a Dask client in a step, or in a plain cell, of the cluster that steps run on."""

from __future__ import annotations

import contextlib

__all__ = ["leave_slot"]


def leave_slot() -> None:
    """Let the worker run something else while this thread's step waits for tasks of its own.

    Called in the thread of a Dask task; elsewhere it does nothing.
    """
    from distributed import secede
    from distributed.worker import thread_state

    if getattr(thread_state, "key", None) is not None:
        with contextlib.suppress(KeyError, ValueError):  # it has left already
            secede()
