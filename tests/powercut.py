"""A disk that loses its power: what is done to a folder is recorded, then told again without what was not synced.

POSIX promises little. What was written to a file is there after a cut if the file was synced since; a name is, if its
folder was. Of all else anything may be there: some of it and not the rest, a later change without an earlier one, a
file of its right size and full of zeros. A rename is done or not, and a folder is gone with all in it if its own name
is. A disk that keeps more promises is one of these, told again.

SQLite calls the system by itself. Of its files what has changed is looked for before each call that is seen: their
bytes count as synced, for it sees to that, and their names do not; those of a catalog that is being made anew
(`*.new`), for which it is told not to sync, count as neither.
"""

from __future__ import annotations

import os
import random
import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

__all__ = ["Cut", "Disk"]

_open = os.open
_MOST: Final = 6
"""Names of which each is told alone, and each left out alone; of more, so many by chance."""


class _Write(NamedTuple):
    file: int
    offset: int
    data: bytes


class _Resize(NamedTuple):
    file: int
    size: int


class _Name(NamedTuple):
    """A name that came into a folder, and perhaps went from another; or, where `file` is none, that went."""

    folder: int
    name: str
    file: int | None
    before: tuple[int, str] | None = None


class _Sync(NamedTuple):
    node: int


class _Said(NamedTuple):
    what: Any


@dataclass
class Cut:
    """What a cut may leave: folders (`None`) and files by their path, and what had been said to be stored."""

    at: int
    how: str
    tree: dict[str, bytes | None]
    said: list[Any] = field(default_factory=list)

    def lay(self, folder: Path) -> None:
        """Have a folder be as this."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        for path, data in sorted(self.tree.items()):
            if data is None:
                (folder / path).mkdir(mode=0o700)
            else:
                (folder / path).write_bytes(data)


class Disk:
    """Records what is done to a folder, and says what a cut at any moment may leave of it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._ids: dict[tuple[int, int], int] = {}
        self._folders: dict[int, dict[str, int]] = {}
        self._files: dict[int, bytes] = {}
        self._now: dict[int, dict[str, int]] = {}
        self._held: dict[int, tuple[int, bytes]] = {}
        self._log: list[Any] = []
        self._lock = threading.RLock()
        self._top = self._take(root)
        self._now = {folder: dict(names) for folder, names in self._folders.items()}

    def say(self, what: Any) -> None:
        """Note that something has been reported as stored."""
        self._log.append(_Said(what))

    # --- recording ----------------------------------------------------------------------------------------------------

    def _take(self, path: Path) -> int:
        """Take what is there as synced."""
        found = path.lstat()
        node = self._ids[found.st_dev, found.st_ino] = len(self._ids)
        if stat.S_ISDIR(found.st_mode):
            self._folders[node] = {}
            for one in sorted(path.iterdir()):
                if not one.name.endswith("-shm"):
                    self._folders[node][one.name] = self._take(one)
        else:
            self._files[node] = path.read_bytes()
            if _is_sqlites(path.name):
                self._held[node] = _open(path, os.O_RDONLY), self._files[node]
        return node

    def _new(self, found: os.stat_result) -> int:
        node = self._ids[found.st_dev, found.st_ino] = max(self._ids.values()) + 1
        if stat.S_ISDIR(found.st_mode):
            self._now[node] = {}
        return node

    def _place(self, path: Any) -> tuple[int, str] | None:
        """Return the folder and the name of a path, None if it lies elsewhere."""
        head, name = os.path.split(os.path.abspath(os.fspath(path)))
        try:
            found = os.stat(head)
        except OSError:
            return None
        node = self._ids.get((found.st_dev, found.st_ino))
        return (node, name) if node in self._now else None  # type: ignore[return-value]

    def _node(self, file: int) -> int | None:
        found = os.fstat(file)
        return self._ids.get((found.st_dev, found.st_ino))

    def _name(self, folder: int, name: str, file: int | None, before: tuple[int, str] | None = None) -> None:
        self._log.append(_Name(folder, name, file, before))
        if before is not None:
            self._now[before[0]].pop(before[1], None)
        if file is None:
            self._now[folder].pop(name, None)
        else:
            self._now[folder][name] = file

    def _look(self) -> None:
        """Note what SQLite has done: it removes a log when all of it is in the database, and synced."""
        self._look_into()
        for folder, path in self._paths():
            there = {one.name: one for one in path.iterdir() if _is_sqlites(one.name)}
            for name in [name for name in self._now[folder] if _is_sqlites(name) and name not in there]:
                self._name(folder, name, None)
            for name, one in there.items():
                found = one.lstat()
                known = self._now[folder].get(name)
                node = self._ids.get((found.st_dev, found.st_ino))
                if node is None or node != known:
                    node = self._new(found)
                    self._name(folder, name, node)
                if node not in self._held:  # closed late: that would give SQLite's locks back
                    self._held[node] = _open(one, os.O_RDONLY), b""
        self._look_into()

    def _look_into(self) -> None:
        names = {node: name for folder in self._now.values() for name, node in folder.items()}
        for node, (file, before) in self._held.items():
            data = os.pread(file, os.fstat(file).st_size, 0)
            if data != before:
                self._held[node] = file, data
                self._log += [_Write(node, 0, data), _Resize(node, len(data))]
                if ".new" not in names.get(node, ""):
                    self._log.append(_Sync(node))

    def _paths(self) -> Iterator[tuple[int, Path]]:
        """Yield the folders in which SQLite is at work: those with its files, and the top's."""
        for folder, path in [(self._top, self.root), *((node, self.root / name) for name, node in self._at_top())]:
            if path.is_dir():
                yield folder, path

    def _at_top(self) -> list[tuple[str, int]]:
        return [(name, node) for name, node in self._now[self._top].items() if node in self._now]

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record what this process does meanwhile. Nothing is really synced, which would take long."""
        calls = {name: getattr(os, name) for name in _SEEN}
        with pytest.MonkeyPatch.context() as patch:
            for name, see in _SEEN.items():
                patch.setattr(os, name, self._seen(calls[name], see))
            yield
        with self._lock:
            self._look()

    def _seen(self, call: Callable[..., Any], see: Callable[..., Any]) -> Callable[..., Any]:
        def seen(*given: Any, **more: Any) -> Any:
            with self._lock:
                self._look()
                return see(self, call, *given, **more)

        return seen

    def _open(self, call: Any, path: Any, flags: int, *more: Any, **named: Any) -> int:
        place = self._place(path) if flags & os.O_CREAT else None
        new = place is not None and not os.path.lexists(path)
        file: int = call(path, flags, *more, **named)
        if place is not None and new:
            self._name(*place, self._new(os.fstat(file)))
        return file

    def _pwrite(self, call: Any, file: int, data: Any, offset: int) -> int:
        count: int = call(file, data, offset)
        if (node := self._node(file)) is not None:
            self._log.append(_Write(node, offset, bytes(memoryview(data).cast("B")[:count])))
        return count

    def _ftruncate(self, call: Any, file: int, size: int) -> None:
        call(file, size)
        if (node := self._node(file)) is not None:
            self._log.append(_Resize(node, size))

    def _fsync(self, call: Any, file: int) -> None:
        if (node := self._node(file)) is not None:
            self._log.append(_Sync(node))

    def _mkdir(self, call: Any, path: Any, *more: Any, **named: Any) -> None:
        call(path, *more, **named)
        if (place := self._place(path)) is not None:
            self._name(*place, self._new(os.lstat(path)))

    def _rename(self, call: Any, old: Any, new: Any, **named: Any) -> None:
        before, place = self._place(old), self._place(new)
        call(old, new, **named)
        if before is not None and place is not None and before != place and before[1] in self._now[before[0]]:
            self._name(*place, self._now[before[0]][before[1]], before)

    def _link(self, call: Any, old: Any, new: Any, **named: Any) -> None:
        before, place = self._place(old), self._place(new)
        call(old, new, **named)
        if before is not None and place is not None:
            self._name(*place, self._now[before[0]][before[1]])

    def _unlink(self, call: Any, path: Any, **named: Any) -> None:
        place = self._place(path)
        call(path, **named)
        if place is not None:
            self._name(*place, None)

    # --- what may be left ---------------------------------------------------------------------------------------------

    def cuts(self, *, seed: int = 1) -> list[Cut]:
        """Return what a cut may leave, at each moment: each state once, with all that was said before it."""
        found: dict[Any, Cut] = {}
        chance = random.Random(seed)
        for at in range(len(self._log) + 1):
            said = [one.what for one in self._log[:at] if isinstance(one, _Said)]
            for how, tree in self._left(at, chance):
                shown = {path: data for path, data in tree.items() if not _is_unfinished(path)}
                cut = found.setdefault(frozenset(shown.items()), Cut(at, how, tree))
                cut.at, cut.how, cut.said = at, how, said  # the later, the more
        return list(found.values())

    def _left(self, at: int, chance: random.Random) -> Iterator[tuple[str, dict[str, bytes | None]]]:
        synced: dict[int, int] = {}
        for place, one in enumerate(self._log[:at]):
            if isinstance(one, _Sync):
                synced[one.node] = place
        sure = [place for place, one in enumerate(self._log[:at]) if _is_synced(one, place, synced)]
        loose = [place for place, one in enumerate(self._log[:at]) if isinstance(one, _Name) and place not in set(sure)]
        some = sorted(chance.sample(loose, min(len(loose), _MOST)))
        sets: list[tuple[str, set[int]]] = [("no name", set()), ("all names", set(loose))]
        sets += [(f"name {one}", {one}) for one in some]
        sets += [(f"all names but {one}", set(loose) - {one}) for one in some]
        for data, files in self._bytes(at, synced, chance):
            for names, chosen in sets:
                yield f"{names}, {data}", self._tree({*sure, *chosen}, files)

    def _bytes(self, at: int, synced: dict[int, int], chance: random.Random) -> Iterator[tuple[str, dict[int, bytes]]]:
        """Yield what may be in files: what was not synced is lost or torn in all, or in one of them."""
        files = {node: bytearray(data) for node, data in self._files.items()}
        loose: dict[int, list[_Write | _Resize]] = {}
        for place, one in enumerate(self._log[:at]):
            if not isinstance(one, _Write | _Resize):
                continue
            if place < synced.get(one.file, -1):
                _change(files.setdefault(one.file, bytearray()), one)
            else:
                loose.setdefault(one.file, []).append(one)
        sure = {node: bytes(data) for node, data in files.items()}
        whole = {node: _torn(sure.get(node, b""), changes, "all") for node, changes in loose.items()}
        yield "all bytes", sure | whole
        alone = chance.sample(sorted(loose), min(len(loose), 3)) if len(loose) > 1 else []
        for how in ("none", "zeros", "half", "late") if loose else ():
            torn = {node: _torn(sure.get(node, b""), changes, how) for node, changes in loose.items()}
            yield f"{how} of the bytes", sure | torn
            for node in alone:
                yield f"{how} of the bytes of file {node}", sure | whole | {node: torn[node]}

    def _tree(self, chosen: set[int], files: dict[int, bytes]) -> dict[str, bytes | None]:
        folders = {node: dict(names) for node, names in self._folders.items()}
        for place in sorted(chosen):
            one = self._log[place]
            if not isinstance(one, _Name):
                continue
            if one.before is not None and folders.get(one.before[0], {}).get(one.before[1]) == one.file:
                del folders[one.before[0]][one.before[1]]
            names = folders.setdefault(one.folder, {})
            if one.file is None:
                names.pop(one.name, None)
            else:
                names[one.name] = one.file
        tree: dict[str, bytes | None] = {}

        def walk(folder: int, path: str) -> None:
            for name, node in folders.get(folder, {}).items():
                tree[path + name] = None if node in self._now else files.get(node, b"")
                if node in self._now:
                    walk(node, f"{path}{name}/")

        walk(self._top, "")
        return tree

    def close(self) -> None:
        """Close what was looked at."""
        for file, _ in self._held.values():
            os.close(file)


_SEEN: Final[dict[str, Callable[..., Any]]] = {
    "open": Disk._open,
    "pwrite": Disk._pwrite,
    "ftruncate": Disk._ftruncate,
    "fsync": Disk._fsync,
    "mkdir": Disk._mkdir,
    "rename": Disk._rename,
    "replace": Disk._rename,
    "link": Disk._link,
    "unlink": Disk._unlink,
    "remove": Disk._unlink,
}


def _is_sqlites(name: str) -> bool:
    return ".sqlite" in name and not name.endswith(("-shm", ".lock"))


def _is_unfinished(path: str) -> bool:
    """Say whether this is what is being written: that nobody looks for."""
    folder, _, name = path.rpartition("/")
    return folder.endswith("tmp") and not name.startswith("freed-")


def _is_synced(one: Any, place: int, synced: dict[int, int]) -> bool:
    if not isinstance(one, _Name):
        return False
    folders = [one.folder] + ([one.before[0]] if one.before is not None else [])
    return any(place < synced.get(folder, -1) for folder in folders)


def _torn(before: bytes, changes: list[_Write | _Resize], how: str) -> bytes:
    """Return what a file may be after changes of which all are there, none, the first or the last half, or the size."""
    file = bytearray(before)
    middle = (len(changes) + 1) // 2
    for place, one in enumerate(changes if how != "none" else ()):
        if isinstance(one, _Resize) or how == "all" or (how == "late" and place >= middle):
            _change(file, one)
        elif how == "half" and place < middle:
            _change(file, one._replace(data=one.data[: (len(one.data) + 1) // 2]))
        elif how != "half":
            _change(file, _Resize(one.file, max(len(file), one.offset + len(one.data))))
    return bytes(file)


def _change(file: bytearray, one: _Write | _Resize) -> None:
    if isinstance(one, _Write):
        file.extend(bytes(max(one.offset + len(one.data) - len(file), 0)))
        file[one.offset : one.offset + len(one.data)] = one.data
    else:
        file.extend(bytes(max(one.size - len(file), 0)))
        del file[one.size :]
