"""What was read from a store under a URL, on this machine: checked when it comes, mapped when it is used, bounded.

::

    <cache>/stores/<hash of the URL>/objects/<2 digits>/<64 digits>     as in the store
    <cache>/stores/<hash of the URL>/packs/<64 digits>                  and so `large` and `chunks`
    <cache>/stores/<hash of the URL>/tmp/                                what is coming, and notes of this machine's own

It may be removed at any time; what was longest unused goes first. What is mapped stays while it is.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from mlbench.backends.blobs_local.files import Pieces, make_folders, write_files
from mlbench.backends.blobs_local.whole import cache_top
from mlbench.core.errors import StoreError, UsageError
from mlbench.runs.wording import sized

__all__ = ["ReadCache", "cache_folder"]

_MOST: Final = 20 << 30
_OF_DISK: Final = 0.25
"""What the cache may take: so many bytes, and no more than this share of what it has and the disk has left."""

_DOWN_TO: Final = 0.9
_LOOK: Final = 256 << 20
"""After so many new bytes it is looked again how many there are."""

_IN_USE: Final = 60.0
_UNUSED: Final = 600.0
"""Seconds for which a file that was used may be in use, and for which its time stands for its last use."""

_UNITS: Final = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def cache_folder(url: str) -> Path:
    """Return the folder of this machine that belongs to a store under a URL; it need not be there."""
    name = hashlib.blake2b(url.rstrip("/").encode(), digest_size=8).hexdigest()
    return cache_top() / "stores" / name


class ReadCache:
    """The files of one store that were read, or written, on this machine.

    Calls may come from several threads and processes at once.

    Raises
    ------
    StoreError
        If its folder cannot be made, or is not the user's alone.
    """

    def __init__(self, url: str) -> None:
        self.folder = cache_folder(url)
        self._tmp = os.path.join(self.folder, "tmp")
        self._most = _most()
        self._lock = threading.Lock()
        self._new: int | None = None
        try:
            self.folder.parent.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            make_folders(self._tmp)
            found = self.folder.stat()
        except OSError as error:
            raise StoreError(
                f"The folder {self.folder}, in which what is read of {url} is kept, cannot be made: {error.strerror}.",
                "Name another one in MLBENCH_CACHE.",
            ) from error
        if found.st_uid != os.getuid() or found.st_mode & 0o022:
            raise StoreError(
                f"Others may write to {self.folder}, in which what is read of {url} is kept.",
                f"Close it to them: `chmod 700 {self.folder}`.",
            )

    def path(self, name: str) -> str:
        """Return where something is kept, which need not be there."""
        return os.path.join(self.folder, name)

    def find(self, name: str) -> str | None:
        """Return the path of what is kept here under a name, `None` if it is not."""
        path = self.path(name)
        try:
            unused = time.time() - os.lstat(path).st_mtime
        except FileNotFoundError:
            return None
        if unused > _UNUSED:
            with suppress(OSError):
                os.utime(path)
        return path

    def keep(self, name: str, size: int, pieces: Pieces) -> None:
        """Keep what is known to be whole, if there is space."""
        if size > self._most // 4:
            return
        path = self.path(name)
        with suppress(OSError):  # it is read from the store then
            make_folders(os.path.dirname(path))
            write_files(self._tmp, [(path, size, pieces)], durable=False)
            self.make_space(size)

    def take_in(self, name: str, size: int, fill: Callable[[int], None], *, needed: bool = False) -> str | None:
        """Have a file filled, and keep it; return its path, `None` if there is no space for it.

        `fill` is given its descriptor. What it raises goes on, unless the disk is full. One that is `needed` may be
        larger than what is kept.
        """
        if size > self._most // 2 and not needed:
            return None
        path, coming = self.path(name), os.path.join(self._tmp, os.urandom(16).hex())
        try:
            make_folders(os.path.dirname(path))
            file = os.open(coming, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(file, 0, max(size, 1)) if hasattr(os, "posix_fallocate") else None
                os.ftruncate(file, size)
                fill(file)
            finally:
                os.close(file)
            os.rename(coming, path)
        except OSError:
            with suppress(OSError):
                os.unlink(coming)
            return None
        except BaseException:
            with suppress(OSError):
                os.unlink(coming)
            raise
        self.make_space(size)
        return path

    def drop(self, name: str) -> None:
        """Keep something no longer."""
        with suppress(OSError):
            os.unlink(self.path(name))

    def make_space(self, size: int) -> None:
        """Count so many new bytes, and give up what was longest unused if there are too many.

        What is younger than a minute stays: somebody is about to use it.
        """
        with self._lock:
            if self._new is not None and self._new + size < min(_LOOK, self._most // 16):
                self._new += size
                return
            self._new = 0
        files = []
        for folder, _, names in os.walk(self.folder.parent):
            aside = os.path.basename(folder) == "tmp"
            for name in names:
                with suppress(OSError):
                    path = os.path.join(folder, name)
                    found = os.lstat(path)
                    if not aside or time.time() - found.st_mtime > 86_400:  # else it is coming, or a note
                        files.append((found.st_mtime, found.st_blocks * 512, path))
        there = sum(size for _, size, _ in files)
        disk = os.statvfs(self.folder)
        most = min(self._most, int((there + disk.f_bavail * disk.f_frsize) * _OF_DISK))
        if there <= most:
            return
        now = time.time()
        for used, size_there, path in sorted(files):
            if now - used < _IN_USE:
                return
            with suppress(OSError):
                os.unlink(path)
                there -= size_there
            if there <= most * _DOWN_TO:
                return


def _most() -> int:
    """Return how many bytes the cache may have."""
    named = os.environ.get("MLBENCH_CACHE_SIZE")
    if not named:
        return _MOST
    number = named.strip().upper().rstrip("KMGTB")
    unit = named.strip().upper()[len(number) :]
    try:
        most = int(float(number) * _UNITS[unit])
    except (ValueError, KeyError, OverflowError):
        most = -1
    if most < 0:
        raise UsageError(f"MLBENCH_CACHE_SIZE is {named!r}.", f'Write a number of bytes, such as "{sized(_MOST)}".')
    return most
