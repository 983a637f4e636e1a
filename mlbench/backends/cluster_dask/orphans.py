"""What steps have started and nobody ends any more, because their step server was killed.

Usually a step server ends what its steps leave behind. Every process that a step starts inherits the variable
`MLBENCH_STEP_PROCESS`, the id of the step's own process: where that has been gone for a while, so is the step.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from typing import Final

__all__ = ["end_orphans"]

_MARK: Final = b"MLBENCH_STEP_PROCESS="
_LINGER: Final = 1.0
"""Seconds that what a step has started may go on after it: a step server that lives ends it sooner."""

_log = logging.getLogger(__name__)


def end_orphans(linger: float = _LINGER) -> list[int]:
    """End the processes of this user that were started by steps which are gone; return them (Linux).

    Parameters
    ----------
    linger
        Seconds to wait before, and again before what was found is ended.
    """
    waiting = threading.Event()
    waiting.wait(linger)
    if not (found := _orphans()):
        return []
    waiting.wait(linger)
    ended = sorted(found & _orphans())
    for process in ended:
        _log.warning("Process %s is left over from a step whose step server was killed, and is ended", process)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    return ended


def _orphans() -> set[int]:
    found: set[int] = set()
    try:
        entries = os.listdir("/proc")
    except OSError:
        return found
    own = os.getuid()
    for entry in entries:
        if not entry.isdigit():
            continue
        try:
            if os.stat(f"/proc/{entry}").st_uid != own:
                continue
            with open(f"/proc/{entry}/environ", "rb") as file:
                variables = file.read()
        except OSError:
            continue
        for one in variables.split(b"\0"):
            if one.startswith(_MARK) and one[len(_MARK) :].isdigit():
                step = int(one[len(_MARK) :])
                if step != int(entry) and not _lives(step):
                    found.add(int(entry))
    return found


def _lives(process: int) -> bool:
    """Say whether a process is there and has not ended."""
    try:
        with open(f"/proc/{process}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] not in ("Z", "X")
    except (OSError, IndexError):
        return False
