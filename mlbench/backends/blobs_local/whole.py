"""Notes of what was found whole or has been synced: a user does it once on a machine, not in each of many processes.

A note is 32 bytes: the blake3 of which start of the machine it is, of what changes of a file when anybody writes to it,
and of the chunks that were hashed in it; or, for a folder whose name was synced, of which folder it is. The notes of a
user lie one after the other in a file of the cache folder. One that is missing costs time and nothing else; one of
another file, machine or user fits nothing here.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Collection, Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Final

from blake3 import blake3

__all__ = ["cache_top", "is_noted", "note", "note_of", "note_of_name"]

_SIZE: Final = 32
_MOST: Final = 1 << 20
"""Bytes of notes that are kept: of some thirty thousand values."""

_lock = threading.Lock()
_known: Final[set[bytes]] = set()


def cache_top() -> Path:
    """Return the folder of this user, on this machine, for what can be had again."""
    if named := os.environ.get("MLBENCH_CACHE"):
        return Path(os.path.abspath(Path(named).expanduser()))
    import platformdirs

    return Path(platformdirs.user_cache_dir("mlbench", appauthor=False))


def note_of(file: int, chunks: Iterable[bytes]) -> bytes:
    """Return the note that chunks, by their digests, were found whole in an open file, as it is now."""
    found = os.fstat(file)
    state = (_boot(), found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    return blake3(repr(state).encode() + b"".join(sorted(set(chunks)))).digest()


def note_of_name(folder: str) -> bytes:
    """Return the note that a folder's name was synced, with those of the folders above it."""
    found = os.stat(folder)
    return blake3(repr((_boot(), found.st_dev, found.st_ino, folder)).encode()).digest()


def is_noted(one: bytes) -> bool:
    """Say whether something has been noted, by this process or another one of this user."""
    with _lock:
        if one not in _known:
            _known.update(_read())
        return one in _known


def note(new: Collection[bytes]) -> None:
    """Note something for all processes of this user; what cannot be written is known to this one alone."""
    with _lock:
        if len(_known) > _MOST // _SIZE:
            _known.clear()
        _known.update(new)
        with suppress(OSError):
            _path().parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            file = _open(os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            try:
                size = os.fstat(file).st_size
                if size % _SIZE or size > _MOST:  # torn, or full: all is hashed once more
                    os.ftruncate(file, 0)
                os.write(file, b"".join(new))
            finally:
                os.close(file)


def _read() -> Iterable[bytes]:
    with suppress(OSError):
        file = _open(os.O_RDONLY)
        try:
            data = os.read(file, 2 * _MOST)
        finally:
            os.close(file)
        return [data[start : start + _SIZE] for start in range(0, len(data), _SIZE)]
    return ()


def _open(flags: int) -> int:
    file = os.open(_path(), flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    found = os.fstat(file)
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        os.close(file)
        raise PermissionError("others may write to these notes")
    return file


def _path() -> Path:
    return cache_top() / "whole"


@cache
def _boot() -> str:
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return ""
