"""The worker's part in `mlbench.client()`: a step that waits for tasks of its own does not hold their place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

__all__ = ["leave_slot"]

_LEFT: Final = "mlbench_left"


def leave_slot() -> None:
    """Let the worker run something else while this thread's step waits for tasks of its own.

    Called in the thread of a Dask task; elsewhere it does nothing.
    """
    import distributed
    from distributed.worker import thread_state  # type: ignore[attr-defined]

    leave: Callable[[], None] = distributed.secede

    key = getattr(thread_state, "key", None)
    if key is not None and getattr(thread_state, _LEFT, None) != key:
        setattr(thread_state, _LEFT, key)
        leave()
