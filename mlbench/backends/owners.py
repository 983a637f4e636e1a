"""Which process answers for a run or a scratch folder, and what is left of one that has died.

It is known by its host, boot, pid and start time: a pid alone is used again, and means nothing after a reboot or on
another host of a shared store.
"""

from __future__ import annotations

import contextlib
import functools
import getpass
import hashlib
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_LINUX = os.path.exists("/proc/self/stat")

__all__ = ["end_processes_of", "is_alive", "owner_of", "owner_of_this_process", "scratch_folder", "sweep", "user_name"]

_SCRATCH: Final = re.compile(r"mlb-[a-z]+-(?P<pid>\d{1,10})-(?P<host>[0-9a-f]{6})(?P<life>[0-9a-f]{6})-\w+")
_PASSES: Final = 3


def owner_of_this_process() -> str:
    """Return the owner text of this process."""
    return _own(os.getpid())


def user_name() -> str | None:
    """Return the name of this process's user; None for one without an entry in the system's list."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return None


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
    if boot != _boot() or start == "0":
        return False
    return (_start(int(pid)) or "0") == start or _is_hidden(int(pid))


def _is_hidden(pid: int) -> bool:
    """Say whether there is a process of somebody else that this one may not look at (`hidepid` of proc(5))."""
    if not _LINUX or os.path.exists(f"/proc/{pid}"):
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return False


@functools.cache
def _own(pid: int) -> str:
    return owner_of(pid)


os.register_at_fork(after_in_child=_own.cache_clear)  # a pid is used again


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


# --- what a process leaves behind ------------------------------------------------------------------------------------


@contextlib.contextmanager
def scratch_folder(use: str) -> Iterator[Path]:
    """Make a folder of this process under the temporary directory, and remove it afterwards.

    Its name says whose it is, so that `sweep` can remove it if this process is killed; it is short, since the paths
    of sockets are.
    """
    host, life = _marks(os.getpid())
    with tempfile.TemporaryDirectory(prefix=f"mlb-{use}-{os.getpid()}-{host}{life}-", ignore_cleanup_errors=True) as it:
        yield Path(it)


def sweep() -> list[Path]:
    """Remove the scratch folders of dead processes of this user and host, and return them."""
    removed = []
    with os.scandir(tempfile.gettempdir()) as found:
        for entry in found:
            match = _SCRATCH.fullmatch(entry.name)
            if match is None or not entry.is_dir(follow_symlinks=False):
                continue
            host, life = _marks(int(match["pid"]))
            try:
                ours = entry.stat(follow_symlinks=False).st_uid == os.geteuid()
            except FileNotFoundError:
                continue
            if ours and match["host"] == host and match["life"] != life:
                shutil.rmtree(entry.path, ignore_errors=True)
                removed.append(Path(entry.path))
    return removed


def end_processes_of(run: str) -> list[int]:
    """End the processes that a run's kernel started and left behind, and the kernel; return which.

    They are known by the variable that the engine gives the kernel, whatever group or session they are in. This is
    done where the system shows a process's variables, on Linux; elsewhere nothing is.
    """
    if sys.platform != "linux":
        return []
    mark = f"MLBENCH_RUN={run}".encode()
    ended: list[int] = []
    for _ in range(_PASSES):  # one that is being ended may start another
        found = [pid for pid in _processes() if _ends(pid, mark)]  # one that is still dying is found again
        ended += [pid for pid in found if pid not in ended]
        if not found:
            break
    return ended


def _processes() -> Iterator[int]:
    own = os.getpid()
    return (int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != own)


def _ends(pid: int, mark: bytes) -> bool:
    """End a process if it has a variable."""
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if mark not in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            return False
        signal.pidfd_send_signal(handle, signal.SIGKILL)
    except OSError:  # it has ended, or is another user's
        return False
    finally:
        os.close(handle)
    return True


def _marks(pid: int) -> tuple[str, str]:
    """Return short hashes: of this host, and of this boot and the start of a process."""

    def mark(text: str) -> str:
        return hashlib.sha256(text.encode()).hexdigest()[:6]

    return mark(platform.node()), mark(f"{_boot()}/{_start(pid) or 'none'}")
