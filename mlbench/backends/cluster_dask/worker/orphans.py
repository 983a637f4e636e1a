"""What steps have started and nobody ends any more, because their step server was killed.

Usually a step server ends what its steps leave behind. What a step starts as another program inherits the variable
`MLBENCH_STEP_PROCESS`, the id of the step's own process: where that has been gone for a while, so is the step. What it
forks has, as the system shows it, the variables with which the step server was started: `MLBENCH_STEP_SERVER` names the
worker, whose child the server is while it lives.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import threading
from typing import Final

__all__ = ["SERVER_MARK", "end_orphans", "server_mark"]

SERVER_MARK: Final = "MLBENCH_STEP_SERVER"
_STEP: Final = b"MLBENCH_STEP_PROCESS="
_SERVER: Final = SERVER_MARK.encode() + b"="
_LINGER: Final = 1.0
"""Seconds that what a step has started may go on after it: a step server that lives ends it sooner."""

_log = logging.getLogger(__name__)


def server_mark() -> str:
    """Return what a step server of this worker is known by."""
    return f"{os.getpid()}-{secrets.token_hex(6)}"


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
    servers: dict[bytes, list[int]] = {}
    for process in _own_processes():
        step, server = _marks(process)
        if step is not None and step != process and not _state(step):
            found.add(process)
        if server is not None:
            servers.setdefault(server, []).append(process)
    for mark, processes in servers.items():
        worker = int(mark.partition(b"-")[0])
        if not any(_parent(one) == worker for one in processes):
            found.update(processes)
    return found


def _own_processes() -> list[int]:
    try:
        numbers = [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]
    except OSError:
        return []
    own, space, found = os.getuid(), _space("self"), []
    for process in numbers:
        with contextlib.suppress(OSError):
            if os.stat(f"/proc/{process}").st_uid == own and _state(process) and _space(process) == space:
                found.append(process)
    return found


def _space(process: int | str) -> str | None:
    """Return in which numbering a process lives: the marks of a container's processes have numbers of its own."""
    try:
        return os.readlink(f"/proc/{process}/ns/pid")
    except OSError:
        return None


def _marks(process: int) -> tuple[int | None, bytes | None]:
    """Return the step's process and the step server that a process is of, as far as its variables say so."""
    step = server = None
    try:
        with open(f"/proc/{process}/environ", "rb") as file:
            variables = file.read().split(b"\0")
    except OSError:
        return None, None
    for one in variables:
        if one.startswith(_STEP) and one[len(_STEP) :].isdigit():
            step = int(one[len(_STEP) :])
        elif one.startswith(_SERVER) and one[len(_SERVER) :].partition(b"-")[0].isdigit():
            server = one[len(_SERVER) :]
    return step, server


def _parent(process: int) -> int:
    return int((_state(process) or ("", "0"))[1])


def _state(process: int) -> tuple[str, str] | None:
    """Return a process's state and its parent, None if it has ended."""
    try:
        with open(f"/proc/{process}/stat", encoding="ascii", errors="replace") as file:
            state, parent = file.read().rpartition(")")[2].split()[:2]
    except (OSError, ValueError):
        return None
    return None if state in ("Z", "X") else (state, parent)
