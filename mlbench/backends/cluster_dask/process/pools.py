"""The end of what runs in processes for a step's cell: before the step's own process ends, not together with it."""

from __future__ import annotations

import contextlib
import sys
from typing import Final

__all__ = ["end_pools"]

_MODULES: Final = ("joblib.externals.loky.process_executor", "loky.process_executor")
_PATIENCE: Final = 5.0
"""Seconds for the tasks of a pool for which nobody has waited."""


def end_pools() -> None:
    """End the processes of loky, which joblib works with.

    As Python ends, it ends them before the semaphores that they share, but not where a process ends by `os._exit`: one
    that was still about to start, its tasks long done by others, would say as a traceback that it has lost them.
    """
    for name in _MODULES:
        module = sys.modules.get(name)
        with contextlib.suppress(AttributeError):  # its own names, which another version may have changed
            for thread, (_, wakeup) in list(module._threads_wakeups.items()) if module is not None else ():
                thread.executor_flags.flag_as_shutting_down(kill_workers=not thread.pending_work_items)
                wakeup.wakeup()
                thread.join(_PATIENCE)
