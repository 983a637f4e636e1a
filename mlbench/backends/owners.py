"""Which process answers for a run: its host, boot, pid and start time as text.

A pid alone is used again, and means nothing after a reboot or on another host of a shared store.
"""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from pathlib import Path

_LINUX = os.path.exists("/proc/self/stat")

__all__ = ["is_alive", "owner_of", "owner_of_this_process"]


def owner_of_this_process() -> str:
    """Return the owner text of this process."""
    return owner_of(os.getpid())


def owner_of(pid: int) -> str:
    """Return the owner text of a process of this host."""
    return f"{platform.node()}/{_boot()}/{pid}/{_start(pid) or 0}"


def is_alive(owner: str | None, /) -> bool:
    """Say whether the process that an owner text names still lives.

    Of a process of another host nothing is known: it is taken to live, and its own host's service says otherwise.

    Examples
    --------
    >>> is_alive(owner_of_this_process()), is_alive(None)
    (True, False)
    """
    parts = (owner or "").rsplit("/", 3)
    if len(parts) != 4 or not parts[2].isdigit():
        return False
    host, boot, pid, start = parts
    if host != platform.node():
        return True
    return boot == _boot() and (_start(int(pid)) or "0") == start and start != "0"


@functools.cache
def _boot() -> str:
    if _LINUX:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    asked = subprocess.run(["sysctl", "-n", "kern.boottime"], capture_output=True, text=True, check=False, timeout=5)
    return "".join(character for character in asked.stdout.partition("}")[0] if character.isdigit()) or "unknown"


def _start(pid: int) -> str | None:
    """Return when a process started, in its system's own words, or None if there is none (or only its remains)."""
    if _LINUX:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        return None if fields[0] in {"Z", "X"} else fields[19]  # state; field 22 of proc(5), the start in clock ticks
    asked = subprocess.run(
        ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False, timeout=5
    )
    return asked.stdout.strip().replace("/", "-") or None
