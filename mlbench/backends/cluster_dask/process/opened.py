"""Files that a step opens and network connections that it makes, which no name of it shows."""

from __future__ import annotations

import functools
import glob
import hashlib
import itertools
import os
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Collection
from typing import Any, Final

from mlbench.backends.blobs import THREAD
from mlbench.backends.cluster_dask import PACKAGE
from mlbench.core.records import FileUse

__all__ = ["MOST_FILES", "Opened", "has_changed"]

MOST_FILES: Final = 5_000
"""So many files of one step are noted; of a step that opened more, nobody knows on what it depends."""
_MOST_IN_FOLDER: Final = 1_000
_WRITES: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_EVENTS: Final = frozenset({"open", "socket.connect", "os.listdir", "os.scandir", "sqlite3.connect"})


def _is_store() -> bool:
    """Say whether this is a thread that reads and writes the store, under a URL, for the step."""
    return threading.current_thread().name.startswith(THREAD)


class Opened:
    """Files and connections of this process, seen by Python's audit hook.

    Python's own files, those of installed packages, of the system and of the store are left out. What C libraries and
    subprocesses open is not seen, unless the code names it (`name`). Of a folder that was listed the names count.
    """

    def __init__(self, *, without: Collection[str] = ()) -> None:
        self.network = False
        self._files: dict[tuple[str, str], tuple[int | None, int | None]] = {}
        self._named: set[tuple[str, str]] = set()
        own = {os.path.realpath(folder) for folder in without}
        self._without = tuple(f"{folder}{os.sep}" for folder in _system_folders() | own)
        self._on = False

    def name(self, paths: Collection[str]) -> None:
        """Note files, folders and patterns that the code names, as they are now.

        What has changed by the end is taken for something that the step has written.
        """
        for text in paths:
            path = os.path.expanduser(text)
            if glob.has_magic(path) and not os.path.exists(path):
                folder = os.path.dirname(path) or "."
                if not glob.has_magic(folder):
                    self._listed(folder)
                for found in sorted(itertools.islice(glob.iglob(path, recursive=True), _MOST_IN_FOLDER)):
                    self._opened(found, "r", 0)
            elif os.path.isdir(path):
                self._folder(path)
            else:
                self._opened(path, "r", 0)
        self._named = set(self._files)

    def start(self) -> None:
        """Begin to look. An audit hook can't be taken away again; `stop` makes it look no more."""
        self._on = True
        sys.addaudithook(self._hook)

    def stop(self) -> tuple[FileUse, ...]:
        """Stop looking and return the files; those written have the size and time that they have now."""
        self._on = False
        return self._uses()

    def take(self) -> tuple[tuple[FileUse, ...], bool]:
        """Return the files and whether there was a connection, and forget them: what follows is another item."""
        if not self._files and not self.network:
            return (), False
        self._on = False
        taken = self._uses(), self.network
        self._files.clear()
        self.network, self._on = False, True
        return taken

    def _uses(self) -> tuple[FileUse, ...]:
        uses = []
        for (path, mode), seen in self._files.items():
            size, modified = seen
            if mode == "w":
                size, modified = _state(path)
            elif (path, mode) in self._named and (now := _seen(path, mode)) != seen:
                if (path, "w") in self._files:
                    continue
                size, modified = now
                mode = "l" if mode == "l" else "w"  # noqa: PLW2901
            uses.append(FileUse(path=path, mode=mode, size=size, modified=modified))
        return tuple(uses)

    def _hook(self, event: str, details: tuple[Any, ...]) -> None:
        if event not in _EVENTS or not self._on or _is_store():
            return
        if event == "open":
            self._opened(*details)
        elif event == "sqlite3.connect":
            self._opened(details[0], "r", 0)
        elif event in ("os.listdir", "os.scandir"):
            if not sys._getframe(1).f_code.co_filename.endswith(_IMPORTING):
                self._listed(details[0])
        elif isinstance(details[1], tuple):  # an internet address; others are local
            self.network = True

    def _opened(self, path: Any, mode: str | None, flags: int) -> None:
        where = self._place(path)
        if where is None or where.endswith(".pyc"):
            return
        writes = bool(flags & _WRITES) if mode is None else any(sign in mode for sign in "wax+")
        key = (where, "w" if writes else "r")
        own = not writes and (where, "w") in self._files  # it reads what it has written
        if key in self._files or own:
            if not own:
                self._named.discard(key)
            return
        seen = (None, None) if writes else _state(where)
        if not os.path.isdir(where):
            self._files[key] = seen

    def _listed(self, path: Any) -> None:
        where = self._place(path if path is not None else ".")
        if where is not None and (where, "l") not in self._files:
            self._on, on = False, self._on  # what is looked at here is no use of the step's
            try:
                self._files[where, "l"] = _names(where)
            finally:
                self._on = on

    def _folder(self, path: str) -> None:
        """Note a folder that is named with all that is in it: it may be a data set of several files."""
        count = 0
        for folder, folders, files in os.walk(path):
            folders[:] = sorted(one for one in folders if not _is_passed_over(one))
            self._listed(folder)
            for file in sorted(files):
                if not _is_passed_over(file):
                    self._opened(os.path.join(folder, file), "r", 0)
                    count += 1
            if count > _MOST_IN_FOLDER:
                return

    def _place(self, path: Any) -> str | None:
        """Return the absolute path of what is looked at, None for what does not count."""
        if isinstance(path, bytes):
            path = os.fsdecode(path)
        if isinstance(path, os.PathLike):
            path = os.fspath(path)
        if not isinstance(path, str) or not path or path == ":memory:" or len(self._files) >= MOST_FILES:
            return None
        if path.startswith("<") and path.endswith(">"):  # code's name for itself, which a traceback looks for
            return None
        where = os.path.abspath(path)
        if f"{where}{os.sep}".startswith(self._without) or os.path.realpath(where).startswith(self._without):
            return None
        return where


def has_changed(use: FileUse) -> bool:
    """Say whether a file is not as it was when a step read, wrote or listed it."""
    return (use.size, use.modified) != _seen(use.path, use.mode)


def _seen(path: str, mode: str) -> tuple[int | None, int | None]:
    return _names(path) if mode == "l" else _state(path)


_IMPORTING: Final = (
    "<frozen importlib._bootstrap_external>",
    os.path.join(os.sep, "importlib", "metadata", "__init__.py"),
    os.path.join(os.sep, "importlib_metadata", "__init__.py"),
    os.path.join(os.sep, "pkg_resources", "__init__.py"),
)
"""What looks into each folder of `sys.path`, for modules or for the versions of packages."""


def _state(path: str) -> tuple[int | None, int | None]:
    try:
        status = os.stat(path)
    except OSError:
        return None, None
    return status.st_size, status.st_mtime_ns


def _names(folder: str) -> tuple[int | None, int | None]:
    """Return how many entries a folder has and a number made of their names; of notebooks and hidden files none."""
    try:
        names = sorted(one for one in os.listdir(folder) if not _is_passed_over(one))
    except OSError:
        return None, None
    digest = hashlib.blake2b("\0".join(names).encode("utf-8", "surrogateescape"), digest_size=7).digest()
    return len(names), int.from_bytes(digest, "big")


def _is_passed_over(name: str) -> bool:
    return name.startswith((".", "__pycache__")) or name.endswith(".ipynb")


@functools.cache
def _system_folders() -> frozenset[str]:
    paths = sysconfig.get_paths()
    home = os.path.expanduser("~")
    folders = {
        *(paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib") if name in paths),
        *(os.path.join(sys.prefix, part) for part in ("bin", "etc", "lib", "share")),
        os.path.dirname(os.__file__),
        # Always on `sys.path`, and looked for with each package whose version is asked for.
        os.path.join(os.path.dirname(paths["stdlib"]), f"python{sys.version_info.major}{sys.version_info.minor}.zip"),
        os.fspath(PACKAGE),
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
