"""Files that are complete or absent, and maps of them that may be written to."""

from __future__ import annotations

import errno
import mmap
import os
import stat
import sys
import threading
import time
import weakref
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from mlbench.backends.blobs_local.whole import is_noted, note, note_of_name

__all__ = [
    "Buffer",
    "Map",
    "Pieces",
    "begin_writeback",
    "is_shared",
    "make_folders",
    "read_range",
    "sync_all",
    "sync_kept",
    "touch",
    "write_all",
    "write_files",
]

Buffer = bytes | bytearray | memoryview
Pieces = Sequence[tuple[int, Buffer]]
"""What a file holds: bytes and the offset at which they lie."""

FRESH = 3600.0
"""Seconds for which a file's time stands for now (see `mlbench.runs.retention.GRACE`)."""

_SYNCERS = 16
_SHARED: Final = stat.S_ISGID | stat.S_IWGRP
_WRITE: Final = 1 << 30
_MAPPED: Final = 1 << 16
"""From this size on, what is read is mapped."""


def write_files(folder: str, files: Sequence[tuple[str, int, Pieces]], *, durable: bool) -> None:
    """Make files of pieces at offsets, each complete or not at all.

    All are written before the first is synced, and all renamed before the first folder is, so that the disk is waited
    for twice, not twice for each.

    Parameters
    ----------
    folder
        Where they lie until they are complete: directly under the store's own.
    files
        For each its path, its size and its pieces.
    durable
        Whether they must be there after a power cut.
    """
    staged: list[tuple[str, str]] = []
    shared = bool(files) and is_shared(folder)
    try:
        for path, size, pieces in files:
            temporary = os.path.join(folder, os.urandom(16).hex())
            staged.append((temporary, path))
            _stage(temporary, size, pieces, shared=shared)
        if durable:
            sync_all([temporary for temporary, _ in staged])
        for place in range(len(staged) - 1, -1, -1):
            os.rename(*staged[place])
            del staged[place]
    except BaseException:
        for temporary, _ in staged:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
        raise
    if durable:
        sync_kept(os.path.dirname(folder), [os.path.dirname(path) for path, _, _ in files])


def is_shared(folder: str | Path) -> bool:
    """Say whether a folder is a group's: what is made in it is to be the group's too, whatever the umask says.

    Its owner has said so by its mode: the group may write to it, and what is made in it belongs to its group (setgid).
    """
    return os.stat(folder).st_mode & _SHARED == _SHARED


def _stage(temporary: str, size: int, pieces: Pieces, *, shared: bool) -> None:
    file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        if shared:
            os.fchmod(file, 0o660)
        for offset, piece in pieces:
            write_all(file, memoryview(piece), offset)
        os.ftruncate(file, size)
    finally:
        os.close(file)


def write_all(file: int, data: memoryview, offset: int) -> None:
    """Write bytes to a file from an offset on."""
    view = data.cast("B")
    done = 0
    while done < view.nbytes:
        done += os.pwrite(file, view[done : done + _WRITE], offset + done)


def begin_writeback(file: int, offset: int, size: int) -> None:
    """Have the disk begin with what was written, where the system can: the sync at the end then waits for less."""
    if sys.platform == "linux":
        _, libc = _libc()
        libc.sync_file_range(file, offset, size, _SYNC_FILE_RANGE_WRITE)  # a hint: the sync tells what goes wrong


_SYNC_FILE_RANGE_WRITE: Final = 2


def make_folders(folder: str, *, below: str | None = None) -> None:
    """Make a folder and those above it, as far as they are not there.

    Parameters
    ----------
    below
        A folder above it that is not made: without it nothing is. A store that was deleted or moved, or whose disk is
        away, is not begun again where it was by whoever still has it open.

    Raises
    ------
    FileNotFoundError
        If that folder is not there.
    """
    if os.path.isdir(folder):
        return
    if folder == below:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), folder)
    parent = os.path.dirname(folder)
    make_folders(parent, below=below)
    with suppress(FileExistsError):
        os.mkdir(folder, 0o700)
        if is_shared(parent):
            os.chmod(folder, 0o2770)  # noqa: S103  (as the owner of the store has made its own folder)


def touch(path: str) -> bool:
    """Have a file's time be no older than `FRESH`, so that nobody frees it; return False if it is not there.

    A time that is refreshed each time would have to be synced each time, since whoever keeps something syncs it.
    """
    try:
        if time.time() - os.lstat(path).st_mtime >= FRESH:
            os.utime(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    except PermissionError:  # another user's: whoever may not say that it is needed cannot rely on it
        return False
    return True


def sync_kept(root: str, folders: Collection[str], files: Collection[str] = ()) -> None:
    """Sync folders of a store, and files in them; the folders above too, unless somebody has noted that this is done.

    Whoever has made a folder may not have synced its name, and will not if it was killed, or in no need of that.

    Parameters
    ----------
    root
        The store's own directory, whose name was synced when it was made.
    folders, files
        What to sync.
    """
    above: dict[str, bytes] = {}
    for folder in folders:
        while len(folder) > len(root) and folder not in above:
            one = note_of_name(folder)
            if is_noted(one):
                break
            above[folder] = one
            folder = os.path.dirname(folder)  # noqa: PLW2901
    sync_all([*files, *folders, *map(os.path.dirname, above)])
    if above:
        note(above.values())


def sync_all(paths: Sequence[str]) -> None:
    """Sync files and folders at the same time: the disk then flushes once for several of them."""
    todo = list(dict.fromkeys(paths))
    if len(todo) < 2:
        for path in todo:
            _sync(path)
        return
    failed: list[OSError] = []

    def work() -> None:
        while todo:
            try:
                _sync(todo.pop())
            except IndexError:
                return
            except OSError as error:
                failed.append(error)

    threads = [threading.Thread(target=work, name="mlbench-sync") for _ in range(min(len(todo), _SYNCERS))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


def _sync(path: str) -> None:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


# --- reading ----------------------------------------------------------------------------------------------------------


def read_range(file: int, offset: int, size: int) -> memoryview:
    """Return bytes of a file that may be written to without any effect on it: a private map if they are many.

    The file may be closed then. What lies behind its end is missing from what is returned.
    """
    there = max(min(size, os.fstat(file).st_size - offset), 0)
    if there >= _MAPPED:
        begin = offset - offset % mmap.ALLOCATIONGRANULARITY
        try:
            return _map(file, begin, offset - begin + there)[offset - begin :]
        except OSError as error:
            if error.errno != errno.ENOMEM:  # a process may have so many maps and no more
                raise
    view = memoryview(bytearray(there))
    return view[: _read_into(view, file, offset)]


def _read_into(view: memoryview, file: int, offset: int) -> int:
    """Fill a view from a file; return how many bytes there were."""
    done = 0
    while done < view.nbytes:
        count = os.preadv(file, [view[done : done + _WRITE]], offset + done)
        if not count:
            break
        done += count
    return done


class Map:
    """Memory of a size, made of stretches of files one beside the other; what is written to it is not seen in them."""

    def __init__(self, size: int) -> None:
        ctypes, libc = _libc()
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
        self._address = _mapped(ctypes, libc, None, size, flags, -1, 0)
        held = (ctypes.c_ubyte * size).from_address(self._address)
        weakref.finalize(held, libc.munmap, self._address, size).atexit = False
        self.view = memoryview(held).cast("B")

    def lay(self, start: int, file: int, offset: int, size: int) -> bool:
        """Map a stretch of a file at a place in it; return False if it cannot be mapped there."""
        if start % mmap.ALLOCATIONGRANULARITY or offset % mmap.ALLOCATIONGRANULARITY:
            return False
        try:
            _mapped(*_libc(), self._address + start, size, mmap.MAP_PRIVATE | _MAP_FIXED, file, offset)
        except OSError as error:
            if error.errno != errno.ENOMEM:  # a process may have so many maps and no more
                raise
            return False
        return True

    def fill(self, start: int, file: int, offset: int, size: int) -> None:
        """Copy a stretch of a file to a place in it. Raise `ValueError` if the file is shorter."""
        if _read_into(self.view[start : start + size], file, offset) < size:
            raise ValueError("it is cut")


_MAP_FIXED: Final = 0x10
"""On Linux and macOS alike; Python has no name for it."""


def _map(file: int, offset: int, size: int) -> memoryview:
    """Map a file privately. Unlike `mmap.mmap` until Python 3.13, this keeps no descriptor: a list maps thousands."""
    if sys.version_info >= (3, 13):
        return memoryview(mmap.mmap(file, size, access=mmap.ACCESS_COPY, offset=offset, trackfd=False))
    ctypes, libc = _libc()
    address = _mapped(ctypes, libc, None, size, mmap.MAP_PRIVATE, file, offset)
    held = (ctypes.c_ubyte * size).from_address(address)
    weakref.finalize(held, libc.munmap, address, size).atexit = False
    return memoryview(held).cast("B")


def _mapped(ctypes: Any, libc: Any, address: int | None, size: int, flags: int, file: int, offset: int) -> int:
    found: int = libc.mmap(address, size, mmap.PROT_READ | mmap.PROT_WRITE, flags, file, offset)
    if found == ctypes.c_void_p(-1).value:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return found


_FOUND: list[Any] = []


def _libc() -> tuple[Any, Any]:
    if not _FOUND:
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_longlong]
        if sys.platform == "linux":
            libc.sync_file_range.argtypes = [ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong, ctypes.c_uint]
        libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        _FOUND.extend((ctypes, libc))
    return _FOUND[0], _FOUND[1]
