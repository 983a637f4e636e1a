"""How much memory a step's process and all that it has started use, looked at while they run.

A look is cheap: the resident pages of each process, without those of files, are read from `/proc`. Pages that several
processes share after a fork are then counted in each, so a sum above the limit is looked at again more closely: each
page is shared out among those that have it. That takes the longer the more memory there is, and is done at most for a
tenth of the time. What the step server had loaded before the step began is therefore hardly counted as the step's.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import Final

__all__ = ["LOOK_SECONDS", "MemoryWatch", "kills_by_system"]

LOOK_SECONDS: Final = 0.05
_IDLE_LOOK_SECONDS: Final = 1.0
_CLOSE_SHARE: Final = 10.0
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


class MemoryWatch:
    """The memory of one step's processes, against a limit if there is one.

    Parameters
    ----------
    process
        The step's own process, which leads its group and session.
    limit
        In bytes.
    """

    def __init__(self, process: int, limit: int | None) -> None:
        self.peak = 0
        self.limit = limit
        self._process = process
        self._next = 0.0
        self._close_next = 0.0

    @property
    def seconds(self) -> float:
        """Seconds from one look to the next."""
        return LOOK_SECONDS if self.limit is not None else _IDLE_LOOK_SECONDS

    def look(self, now: float) -> bool:
        """Look, if it is time to; say whether more is used than the limit allows.

        Parameters
        ----------
        now
            `time.monotonic()`.
        """
        if now < self._next:
            return False
        self._next = now + self.seconds
        processes = family(self._process)
        used = sum(_resident(one) for one in processes)
        if used <= self.peak and (self.limit is None or used <= self.limit):
            return False
        if len(processes) > 1 or (self.limit is not None and used > self.limit):
            if now < self._close_next:
                return False
            used = sum(_share(one) for one in processes)
            self._close_next = now + _CLOSE_SHARE * (time.monotonic() - now)
        self.peak = max(self.peak, used)
        return self.limit is not None and used > self.limit


def family(process: int) -> list[int]:
    """Return a step's process and all that were started in it and live, also those that have lost their parent."""
    if not sys.platform.startswith("linux"):
        return _family_by_psutil(process)
    found, todo = [process], [process]
    while todo:
        for child in _children(todo.pop()):
            if child not in found:
                found.append(child)
                todo.append(child)
    with contextlib.suppress(OSError, ValueError, IndexError):
        with open(f"/proc/{process}/stat", encoding="ascii", errors="replace") as file:
            server = int(file.read().rpartition(")")[2].split()[1])
        # The step server takes in what has lost its parent: that is the step's if it is of its session.
        for orphan in _children(server):
            if orphan not in found and _session(orphan) == process:
                found.append(orphan)
    return found


def kills_by_system() -> int:
    """Return how many processes this machine's system has ended for want of memory since it was started (Linux)."""
    count = 0
    for path in ("/proc/vmstat", "/sys/fs/cgroup/memory.events"):
        with contextlib.suppress(OSError, ValueError), open(path, encoding="ascii") as file:
            for line in file:
                name, _, number = line.partition(" ")
                if name == "oom_kill":
                    count += int(number)
    return count


def _children(process: int) -> list[int]:
    try:
        threads = os.listdir(f"/proc/{process}/task")
    except OSError:
        return []
    found: list[int] = []
    for thread in threads:
        with (
            contextlib.suppress(OSError, ValueError),
            open(f"/proc/{process}/task/{thread}/children", encoding="ascii") as file,
        ):
            found += [int(one) for one in file.read().split()]
    return found


def _session(process: int) -> int:
    try:
        return os.getsid(process)
    except OSError:
        return 0


def _resident(process: int) -> int:
    """Return the bytes of a process's own pages: neither files that it has mapped nor what it shares on purpose."""
    if not sys.platform.startswith("linux"):
        return _resident_by_psutil(process)
    try:
        with open(f"/proc/{process}/statm", encoding="ascii") as file:
            words = file.read().split()
        return (int(words[1]) - int(words[2])) * _PAGE
    except (OSError, ValueError, IndexError):
        return 0


def _share(process: int) -> int:
    """Return the same with each page that several processes have shared out among them."""
    try:
        with open(f"/proc/{process}/smaps_rollup", encoding="ascii") as file:
            for line in file:
                if line.startswith("Pss_Anon:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        return 0 if not os.path.exists(f"/proc/{process}") else _resident(process)
    return _resident(process)


def _family_by_psutil(process: int) -> list[int]:
    import psutil  # type: ignore[import-untyped, unused-ignore]

    try:
        return [process, *(one.pid for one in psutil.Process(process).children(recursive=True))]
    except psutil.Error:
        return [process]


def _resident_by_psutil(process: int) -> int:
    import psutil

    try:
        return int(psutil.Process(process).memory_info().rss)
    except psutil.Error:
        return 0
