"""Files that a step opens and network connections that it makes, which no name of it shows."""

from __future__ import annotations

import functools
import os
import sys
import sysconfig
import tempfile
from collections.abc import Collection
from typing import Any, Final

from mlbench.core.records import FileUse

__all__ = ["Opened"]

_MOST_FILES: Final = 5_000
_WRITES: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_EVENTS: Final = frozenset({"open", "socket.connect"})


class Opened:
    """Files and connections of this process, seen by Python's audit hook.

    Python's own files, those of installed packages, of the system and of the store are left out. What C libraries and
    subprocesses open is not seen.
    """

    def __init__(self, *, without: Collection[str] = ()) -> None:
        self.network = False
        self._files: dict[tuple[str, str], tuple[int | None, int | None]] = {}
        own = {os.path.realpath(folder) for folder in without}
        self._without = tuple(f"{folder}{os.sep}" for folder in _system_folders() | own)
        self._on = False

    def start(self) -> None:
        """Begin to look. An audit hook can't be taken away again; `stop` makes it look no more."""
        self._on = True
        sys.addaudithook(self._hook)

    def stop(self) -> tuple[FileUse, ...]:
        """Stop looking and return the files; those written have the size and time that they have now."""
        self._on = False
        uses = []
        for (path, mode), seen in self._files.items():
            size, modified = seen if mode == "r" else _state(path)
            uses.append(FileUse(path=path, mode=mode, size=size, modified=modified))
        return tuple(uses)

    def _hook(self, event: str, details: tuple[Any, ...]) -> None:
        if event not in _EVENTS or not self._on:
            return
        if event == "open":
            self._opened(*details)
        elif isinstance(details[1], tuple):  # an internet address; others are local
            self.network = True

    def _opened(self, path: Any, mode: str | None, flags: int) -> None:
        if isinstance(path, bytes):
            path = os.fsdecode(path)
        if not isinstance(path, str) or len(self._files) >= _MOST_FILES:
            return
        writes = bool(flags & _WRITES) if mode is None else any(sign in mode for sign in "wax+")
        where = os.path.abspath(path)
        key = (where, "w" if writes else "r")
        if key in self._files or where.endswith(".pyc") or where.startswith(self._without):
            return
        if os.path.realpath(where).startswith(self._without):
            return
        seen = (None, None) if writes else _state(where)
        if writes or seen[0] is not None:  # a file that is not there, or a folder, was not read
            self._files[key] = seen


def _state(path: str) -> tuple[int | None, int | None]:
    try:
        status = os.stat(path)
    except OSError:
        return None, None
    return status.st_size, status.st_mtime_ns


@functools.cache
def _system_folders() -> frozenset[str]:
    paths = sysconfig.get_paths()
    home = os.path.expanduser("~")
    own = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    folders = {
        *(paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib") if name in paths),
        *(os.path.join(sys.prefix, part) for part in ("bin", "etc", "lib", "share")),
        os.path.dirname(os.__file__),
        os.path.join(own, "mlbench"),
        "/proc",
        "/dev",
        "/sys",
        "/usr/share",
        "/usr/lib",
        "/etc/ssl",
        "/etc/fonts",
        "/etc/localtime",
        *(
            os.path.join(home, part)
            for part in (".cache/matplotlib", ".config/matplotlib", ".matplotlib", ".ipython", ".cache/fontconfig")
        ),
        os.path.join(tempfile.gettempdir(), f"mlbench-{os.getuid()}"),
    }
    return frozenset(os.path.realpath(folder) for folder in folders)
