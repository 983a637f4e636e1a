"""Packs: many small artifacts in one file.

::

    MLBPACK1                                           8 bytes
    <artifact> <artifact> …                            each as `mlbench.runs.values.join` lays it, at a multiple of 64
    <index>                                            48 bytes an artifact, ordered by digest: digest, offset, size
    <where the index begins> <how many> MLBPEND1       24 bytes

Packs of chunks, of plain bytes, are alike but for their first 8 bytes, and what they hold lies at multiples of 16 KiB.

Numbers are little-endian, of 8 bytes. A pack lies at `packs/<64 digits>`: the blake3 of its index, which therefore says
whether the index is whole, as each artifact's digest says it of the artifact. So a pack tells all about itself, may be
copied into another store, and the same artifacts packed again in the same order are the same pack.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Final, NamedTuple

from mlbench.backends.blobs_local.files import Buffer, Pieces, read_range
from mlbench.core.ids import Digest
from mlbench.runs import values
from mlbench.runs.chunks import ALIGNED

__all__ = [
    "CHUNKS",
    "Index",
    "Packs",
    "Place",
    "Shapes",
    "index_of",
    "lay_out",
    "lay_out_chunks",
    "open_plain",
    "packs_in",
]

_BEGIN: Final = b"MLBPACK1"
CHUNKS: Final = b"MLBCHNK1"
"""How a pack of chunks begins (`mlbench.backends.blobs_local.large`); it lies in a folder of its own."""
_END: Final = b"MLBPEND1"
_ENTRY = struct.Struct("<32sQQ")
_FOOT = struct.Struct("<QQ8s")
_STEP, _PAGE, _LARGE = 64, 4096, 1 << 16

_TOGETHER: Final = 1 << 20
"""Pieces are gathered up to this many bytes before they are written."""

_FEW: Final = 64
"""Up to this many digests are looked for one by one; for more, a whole index is made a dictionary."""

_RACY: Final = 0.1
"""Seconds within which a folder may change twice and show one time of change."""

_KEPT_INDEXES: Final = 1_000_000
_KEPT_TABLES: Final = 200_000
"""Entries of indexes, and of dictionaries of them, that are kept in memory."""


class Place(NamedTuple):
    """Where an artifact lies: in which pack, from which byte on, and how many."""

    pack: str
    offset: int
    size: int


class Index:
    """What a pack of so many bytes holds; `read` returns bytes of it from an offset on, fewer at its end.

    Raises
    ------
    ValueError
        If the file is no pack, or its index is not what its name says.
    """

    def __init__(self, name: str, size: int, read: Callable[[int, int], Buffer]) -> None:
        self.name = name
        foot = bytes(read(max(size - _FOOT.size, 0), _FOOT.size))
        if len(foot) != _FOOT.size:
            raise ValueError("a pack that is cut")
        begin, self.count, end = _FOOT.unpack(foot)
        if end != _END or begin + self.count * _ENTRY.size + _FOOT.size != size:
            raise ValueError("a file that does not end as a pack does")
        self._entries = bytes(read(begin, self.count * _ENTRY.size))
        if values.digest_of(self._entries) != name:
            raise ValueError("a pack whose index is damaged")
        self.table: dict[bytes, Place] | None = None
        self.file: tuple[int, int, int] | None = None

    def __iter__(self) -> Iterator[tuple[Digest, Place]]:
        for digest, offset, size in _ENTRY.iter_unpack(self._entries):
            yield Digest(f"blake3:{digest.hex()}"), Place(self.name, offset, size)

    def find(self, digest: bytes) -> Place | None:
        """Return where an artifact lies, if it lies here."""
        width, entries = _ENTRY.size, self._entries
        place = bisect_left(range(self.count), digest, key=lambda one: entries[one * width : one * width + 32])
        if place == self.count:
            return None
        found, offset, size = _ENTRY.unpack_from(entries, place * width)
        return Place(self.name, offset, size) if found == digest else None

    def as_table(self) -> dict[bytes, Place]:
        """Return all of it as a dictionary, which is kept in `table`."""
        if self.table is None:
            name = self.name
            self.table = {
                digest: Place(name, offset, size) for digest, offset, size in _ENTRY.iter_unpack(self._entries)
            }
        return self.table


class Packs:
    """The packs of a store: finds what lies in them. Their indexes are read once, and the folder when it has changed.

    Calls may come from several threads.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._lock = threading.RLock()
        self._indexes: dict[str, Index] = {}
        self._names: list[str] = []
        self._seen: int | None = None
        self._settled = False

    def path(self, name: str) -> str:
        """Return a pack's path."""
        return os.path.join(self.folder, name)

    def names(self) -> list[str]:
        """Return the names of all packs, the newest first."""
        with self._lock:
            try:
                changed = os.stat(self.folder).st_mtime_ns
            except FileNotFoundError:
                return []
            if changed != self._seen or not self._settled:
                # One that came within the same tick of the clock as the last change is seen the next time.
                self._settled = time.time_ns() - changed > _RACY * 1e9
                with os.scandir(self.folder) as entries:
                    found = [
                        (one.stat(follow_symlinks=False).st_mtime_ns, one.name) for one in entries if _is_name(one.name)
                    ]
                self._names = [name for _, name in sorted(found, reverse=True)]
                self._seen = changed
                there = set(self._names)
                self._indexes = {name: index for name, index in self._indexes.items() if name in there}
            return self._names

    def index(self, name: str) -> Index | None:
        """Return what a pack holds, `None` if it is gone.

        Raises
        ------
        ValueError
            If it is damaged.
        """
        path = self.path(name)
        try:
            with self._lock:
                known = self._indexes.get(name)
            if known is not None and known.file == _state(os.lstat(path)):
                return known
            file = open_plain(path)
        except FileNotFoundError:
            return None
        try:
            found = os.fstat(file)
            index = Index(name, found.st_size, partial(read_range, file))
        finally:
            os.close(file)
        index.file = _state(found)
        return self.remember(name, index)

    def remember(self, name: str, index: Index) -> Index:
        """Keep an index in memory, and forget the oldest if they are many; return it."""
        with self._lock:
            self._indexes[name] = index
            kept = sum(one.count for one in self._indexes.values())
            while kept > _KEPT_INDEXES and len(self._indexes) > 1:
                kept -= self._indexes.pop(next(iter(self._indexes))).count
        return index

    def find(
        self,
        digests: Iterable[Digest],
        *,
        first: Sequence[str] = (),
        newest: int | None = None,
        without: Collection[str] = (),
    ) -> tuple[dict[Digest, Place], list[str]]:
        """Return where artifacts lie, and the names of damaged packs that were met on the way.

        Parameters
        ----------
        digests
            What to look for; what lies in no pack is left out.
        first
            Packs to look into before all others.
        newest
            Look into no more than so many packs.
        without
            Packs not to look into.
        """
        left = {bytes.fromhex(digest[7:]): digest for digest in digests}
        found: dict[Digest, Place] = {}
        damaged: list[str] = []
        looked = 0
        for name in self._in_order(first):
            if not left or looked == newest:
                break
            if name in without:
                continue
            looked += 1
            try:
                index = self.index(name)
            except ValueError:
                damaged.append(name)
                continue
            if index is None:
                continue
            for digest, place in self._in(index, left):
                found[left.pop(digest)] = place
        return found, damaged

    def _in_order(self, first: Sequence[str]) -> Iterator[str]:
        yield from first
        asked = set(first)
        yield from (name for name in self.names() if name not in asked)

    def _in(self, index: Index, left: dict[bytes, Digest]) -> list[tuple[bytes, Place]]:
        if index.table is None and len(left) <= _FEW:
            return [(digest, place) for digest in left if (place := index.find(digest)) is not None]
        with self._lock:
            table = index.as_table()
            kept = [one for one in self._indexes.values() if one.table is not None]
            if sum(one.count for one in kept) > _KEPT_TABLES:
                for one in kept:
                    one.table = None
        return [(digest, table[digest]) for digest in table.keys() & left.keys()]


def _state(found: os.stat_result) -> tuple[int, int, int]:
    """Return what of a file changes when anybody writes to it."""
    return found.st_ino, found.st_size, found.st_mtime_ns


packs_in: Final = lru_cache(maxsize=4)(Packs)
"""Returns the packs in a folder, with what is known of them in this process: a store is opened for each chunk."""


def _is_name(name: str) -> bool:
    return len(name) == 64 and set(name) <= set("0123456789abcdef")


def open_plain(path: str) -> int:
    """Open a regular file to be read.

    Raises
    ------
    ValueError
        If it is another thing: a link, a pipe, a folder.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ValueError("a symbolic link") from error
        raise
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise ValueError("no regular file")
    return file


class Shapes:
    """What the files of artifacts have besides their parts: it depends on the sizes of these, which are few."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, ...], tuple[bytes, list[bytes], int]] = {}

    def of(self, parts: Sequence[Buffer]) -> tuple[bytes, list[bytes], int]:
        """Return the head of an artifact's file, what lies before each of its parts, and its size."""
        sizes = tuple([len(part) if type(part) is bytes else _size(part) for part in parts])
        known = self._known.get(sizes)
        if known is None:
            head, offsets, size = values.layout(parts)
            ends = [len(head), *map(sum, zip(offsets, sizes, strict=True))]
            gaps = [bytes(offset - end) for offset, end in zip(offsets, ends, strict=False)]
            known = self._known[sizes] = head, gaps, size
        return known

    def joined(self, parts: Sequence[Buffer]) -> bytes:
        """Return what `mlbench.runs.values.join` does, sooner."""
        head, gaps, _ = self.of(parts)
        pieces: list[Buffer] = [head]
        for gap, part in zip(gaps, parts, strict=True):
            pieces += (gap, part)
        return b"".join(pieces)


def lay_out(artifacts: Sequence[tuple[Digest, Sequence[Buffer]]]) -> tuple[str, int, Pieces]:
    """Return the name, the size and the pieces of the file that is a pack of artifacts, each named once."""
    pieces: list[tuple[int, Buffer]] = []
    entries: list[tuple[bytes, int, int]] = []
    shapes = Shapes()
    gathered, begin = bytearray(_BEGIN), 0
    for digest, parts in artifacts:
        head, gaps, size = shapes.of(parts)
        end = begin + len(gathered)
        step = _PAGE if size >= _LARGE else _STEP
        start = -(-end // step) * step
        entries.append((bytes.fromhex(digest[7:]), start, size))
        gathered += bytes(start - end)
        gathered += head
        for gap, part in zip(gaps, parts, strict=True):
            gathered += gap
            if size >= _TOGETHER and _size(part) >= _TOGETHER:
                behind = begin + len(gathered)
                pieces += [(begin, gathered), (behind, part)]
                gathered, begin = bytearray(), behind + _size(part)
            else:
                gathered += part
        if len(gathered) >= _TOGETHER:
            pieces.append((begin, gathered))
            gathered, begin = bytearray(), begin + len(gathered)
    name, index = index_of(entries, begin + len(gathered))
    gathered += index
    pieces.append((begin, gathered))
    return name, begin + len(gathered), pieces


def lay_out_chunks(chunks: Sequence[tuple[Digest, memoryview]]) -> tuple[str, int, Pieces]:
    """Return the name, the size and the pieces of the file that is a pack of chunks, each named once."""
    pieces: list[tuple[int, Buffer]] = [(0, CHUNKS)]
    entries: list[tuple[bytes, int, int]] = []
    end = ALIGNED
    for digest, data in chunks:
        pieces.append((end, data))
        entries.append((bytes.fromhex(digest[7:]), end, data.nbytes))
        end += -(-data.nbytes // ALIGNED) * ALIGNED
    name, index = index_of(entries, end)
    return name, end + len(index), [*pieces, (end, index)]


def index_of(entries: Iterable[tuple[bytes, int, int]], where: int) -> tuple[str, bytes]:
    """Return a pack's name, and what its file ends in from `where` on: digest, offset and size of what it holds."""
    listed = [_ENTRY.pack(*entry) for entry in sorted(entries)]
    index = b"".join(listed)
    return values.digest_of(index), index + _FOOT.pack(where, len(listed), _END)


def _size(part: Buffer) -> int:
    return part.nbytes if isinstance(part, memoryview) else len(part)
