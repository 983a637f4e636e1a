"""Large artifacts: their chunks in packs, and recipes that say of which chunks each is made.

::

    large/<64 digits>     the recipe of the artifact with this digest: see `mlbench.runs.chunks`
    chunks/<64 digits>    what was new of one artifact: a pack of chunks, in their order

An artifact is hashed, compared with the chunks that are there, and written in one go, by two threads. Its pack is
complete, in its place and synced before its recipe is: whoever finds a recipe finds the chunks. Read, the chunks are
mapped side by side into one range of memory, which may be written to without any effect on the store, and hashed: once
by a user on a machine, as long as nobody writes to their file (`whole`).
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final, NamedTuple

from blake3 import blake3

from mlbench.backends.blobs_local.checks import check_parts
from mlbench.backends.blobs_local.files import (
    Buffer,
    Map,
    begin_writeback,
    make_folders,
    read_range,
    sync_kept,
    touch,
    write_all,
    write_files,
)
from mlbench.backends.blobs_local.packs import CHUNKS, Index, Packs, Place, index_of, open_plain
from mlbench.backends.blobs_local.whole import is_noted, note, note_of
from mlbench.core.errors import ArtifactCorrupt
from mlbench.core.ids import Digest, digest_shown
from mlbench.core.ports import Stream
from mlbench.runs import values
from mlbench.runs.chunks import ALIGNED, PART, Part, Recipe, chunk_size

__all__ = ["Large"]

_KNOWN: Final = 200_000
"""The chunks, in the newest packs, that a new artifact is compared with."""

_TOGETHER: Final = 8 << 20
_WAITING: Final = 4
"""Bytes that are written in one call, at most, and calls that may wait for the disk while hashing goes on."""

_FLUSHED: Final = 1 << 20
"""Stretches of so many bytes are on their way to the disk while the next ones are hashed."""

_RUNS: Final = 1024
"""Maps that one artifact is put together of, at most; a part that would need more is copied."""

_LOOKS: Final = 3

_HASHED: Final = 4 << 20
_THREADS: Final = 4
"""Bytes that a thread hashes at a stretch, and threads, at most, that hash what is read."""


class Large:
    """The large artifacts of a store.

    Parameters
    ----------
    root
        The store's directory.
    folder
        Where files lie until they are complete.
    name
        What the store is called where something is missing from it.
    """

    compared = 512
    """The packs, counted from the newest, with whose chunks a new artifact is compared."""

    def __init__(self, root: str, folder: str, *, name: str) -> None:
        self.folder = os.path.join(root, "large")
        self.packs = Packs(os.path.join(root, "chunks"))
        self._objects = os.path.join(root, "objects")
        self._tmp = folder
        self._name = name
        self._lock = threading.Lock()
        self._known: dict[bytes, str] = {}
        self._learnt: set[str] = set()

    def path(self, digest: Digest) -> str:
        """Return the path of an artifact's recipe."""
        return os.path.join(self.folder, digest.partition(":")[2])

    def recipe(self, digest: Digest) -> Recipe | None:
        """Return what an artifact is made of; None if it is not here.

        Raises
        ------
        ValueError
            If the recipe is damaged, or another thing.
        """
        try:
            file = open_plain(self.path(digest))
        except FileNotFoundError:
            return None
        try:
            recipe = Recipe.from_bytes(read_range(file, 0, os.fstat(file).st_size))
        finally:
            os.close(file)
        self.check(digest, recipe)
        return recipe

    def check(self, digest: Digest, recipe: Recipe) -> None:
        """Raise `ValueError` if a recipe is not that of an artifact with this digest."""
        if not recipe.parts or f"blake3:{values.digest_of(recipe.parts[0].data)}" != digest:
            raise ValueError("the list of another artifact's chunks")

    def all(self) -> Iterator[tuple[Digest, tuple[Digest, ...]]]:
        """Yield the artifacts, each with its chunks; those whose recipe is damaged or gone are left out."""
        same: dict[Digest, Digest] = {}  # versions of one artifact have most chunks in common
        with suppress(FileNotFoundError):
            for name in sorted(os.listdir(self.folder)):
                digest = Digest(f"blake3:{name}")
                with suppress(ValueError):
                    if (recipe := self.recipe(digest)) is not None:
                        yield digest, tuple(same.setdefault(chunk, chunk) for chunk in recipe.chunks())

    # --- writing ------------------------------------------------------------------------------------------------------

    def put(
        self, parts: Sequence[Buffer | Stream], *, codec: str | None = None, digest: Digest | None = None, durable: bool
    ) -> Digest:
        """Keep an artifact: of a `codec`, its manifest yet to be made, or with its manifest and `digest`."""
        if digest is not None and self.meet(digest, durable=durable):
            return digest
        writing = _Writing(self, os.path.join(self._tmp, os.urandom(16).hex()), durable=durable)
        try:
            hashed = [writing.add(part, wholly=codec is not None) for part in parts]
            made = [part for part, _ in hashed]
            if codec is not None:
                manifest = values.manifest_of(codec, [(whole, part.size) for part, whole in hashed])
                digest = Digest(f"blake3:{values.digest_of(manifest)}")
                made.insert(0, Part(len(manifest), data=manifest))
                if self.meet(digest, durable=durable):
                    return digest
            assert digest is not None
            packs = writing.finish()
            if writing.made is not None:
                self.place_pack(writing.made)
            text = Recipe(tuple(made), tuple(map(bytes.fromhex, packs))).to_bytes()
            self.place_recipe(digest, text, durable=durable)
        finally:
            writing.abandon()
        return digest

    def place_pack(self, name: str) -> None:
        """Have a pack that was written here be where others look for it: it is; and note that it was."""
        file = open_plain(self.packs.path(name))
        try:
            note([_note_of_writing(file)])
        finally:
            os.close(file)

    def place_recipe(self, digest: Digest, text: bytes, *, durable: bool) -> None:
        """Write a recipe, all of whose chunks are in place."""
        make_folders(self.folder, below=os.path.dirname(self.folder))
        write_files(self._tmp, [(self.path(digest), len(text), [(0, text)])], durable=durable)

    def meet(self, digest: Digest, *, durable: bool) -> bool:
        """Note that an artifact is needed, and sync it if asked to; return False if it is not here, or not whole."""
        try:
            recipe = self.recipe(digest)
        except ValueError:
            return False
        if recipe is None or not touch(self.path(digest)):
            return False
        places, objects = self._places(recipe)
        if len(places) + len(objects) < len(recipe.chunks()):
            return False
        paths = [self.packs.path(name) for name in {place.pack for place in places.values()}]
        paths += [self._object(chunk) for chunk in objects]
        if not all(map(touch, paths)) or not self._is_whole(recipe, places):
            return False
        if durable:  # whoever wrote these may not have synced them
            try:
                self.sync(self.folder, *{os.path.dirname(path) for path in paths}, files=[self.path(digest), *paths])
            except FileNotFoundError:  # somebody was about to free one of them
                return False
        return True

    def sync(self, *folders: str, files: Collection[str] = ()) -> None:
        """Sync folders of the store, and files in them."""
        sync_kept(os.path.dirname(self.folder), folders, files)

    def known(self, key: bytes) -> str | None:
        """Return the pack that a chunk is said to lie in."""
        return self._known.get(key)

    def meet_pack(self, name: str) -> bool:
        """Note that a pack is needed, which is not freed within a day then; return False if it is gone."""
        if touch(self.packs.path(name)):
            return True
        self.forget([name])
        return False

    def doubted(self, name: str) -> _Doubted | None:
        """Return a pack, opened, that a power cut may have torn; None if it was written since the machine started."""
        index = self.packs.index(name)
        file = open_plain(self.packs.path(name))
        if index is None or is_noted(_note_of_writing(file)):
            os.close(file)
            return None
        return _Doubted(file, index)

    def learn(self) -> None:
        """Look which chunks there are, as far as that has changed."""
        names = self.packs.names()[: self.compared]
        with self._lock:
            for name in reversed([name for name in names if name not in self._learnt]):  # the newest wins
                if len(self._known) >= _KNOWN:
                    self._known.clear()
                    self._learnt.clear()
                with suppress(ValueError):
                    if (index := self.packs.index(name)) is not None:
                        self._learnt.add(name)
                        self._known |= dict.fromkeys((bytes.fromhex(digest[7:]) for digest, _ in index), name)

    def forget(self, packs: Collection[str]) -> None:
        """Have nothing refer to packs any more that are about to be made anew."""
        with self._lock:
            self._known = {key: name for key, name in self._known.items() if name not in packs}
            self._learnt -= set(packs)

    # --- reading ------------------------------------------------------------------------------------------------------

    def read(self, digest: Digest, recipe: Recipe) -> list[memoryview]:
        """Return the parts of an artifact, which are what its digest says; those that were cut are private maps.

        Raises
        ------
        ArtifactCorrupt
            If a chunk is not here, or the file of one is none of ours, or damaged.
        """
        missing = recipe.chunks()[0]
        for _ in range(_LOOKS):  # a pack may be made anew, with less in it, between two calls
            places, objects = self._places(recipe)
            without = [chunk for chunk in recipe.chunks() if chunk not in places and chunk not in objects]
            if without:
                missing = without[0]
                break
            with suppress(FileNotFoundError):
                try:
                    parts = self._assemble(recipe, places)
                except ValueError as error:
                    raise ArtifactCorrupt.at(digest, str(error)) from error
                check_parts(digest, parts, hashed=False)  # its chunks have been
                return parts
        raise ArtifactCorrupt.at(digest, f"all but its chunk {digest_shown(missing)}")

    def _assemble(self, recipe: Recipe, places: dict[Digest, Place]) -> list[memoryview]:
        files: dict[str, int] = {}
        left = _RUNS
        found: list[memoryview] = []
        mapped: list[_Mapped] = []
        try:
            for part in recipe.parts:
                if not part.chunk:
                    found.append(memoryview(bytearray(part.data)))
                    continue
                runs = list(self._runs(part, places))
                whole = Map(part.size)
                for start, path, offset, size, digests in runs:
                    if path not in files:
                        files[path] = open_plain(path)
                    if os.fstat(files[path]).st_size < offset + size:
                        raise ValueError("a file of chunks that is cut")
                    begins = range(0, size, part.chunk)
                    if len(runs) <= left and whole.lay(start, files[path], offset, size):
                        for begin, digest in zip(begins, digests, strict=True):
                            mapped.append(_Mapped(files[path], offset + begin, min(part.chunk, size - begin), digest))
                        continue
                    whole.fill(start, files[path], offset, size)
                    view = whole.view[start : start + size]
                    for begin, digest in zip(begins, digests, strict=True):
                        if blake3(view[begin : begin + part.chunk]).digest() != digest:
                            raise _damaged(digest)
                left -= len(runs) if len(runs) <= left else 0
                found.append(whole.view)
            _check(mapped)
        finally:
            for file in files.values():
                os.close(file)
        return found

    def _is_whole(self, recipe: Recipe, places: dict[Digest, Place]) -> bool:
        """Say whether chunks are what their digests say: a power cut may have torn what nobody had synced."""
        files: dict[str, int] = {}
        chunks: dict[bytes, _Mapped] = {}
        try:
            for part in recipe.parts:
                for key, size in zip(part.digests, part.sizes(), strict=True) if part.chunk else ():
                    digest = Digest(f"blake3:{key.hex()}")
                    place = places.get(digest)
                    path = self.packs.path(place.pack) if place is not None else self._object(digest)
                    if path not in files:
                        files[path] = open_plain(path)
                    chunks[key] = _Mapped(files[path], place.offset if place is not None else 0, size, key)
            written = {file for file in files.values() if is_noted(_note_of_writing(file))}
            _check([chunk for chunk in chunks.values() if chunk.file not in written])
        except (FileNotFoundError, ValueError):
            return False
        finally:
            for file in files.values():
                os.close(file)
        return True

    def _runs(self, part: Part, places: dict[Digest, Place]) -> Iterator[tuple[int, str, int, int, list[bytes]]]:
        """Yield what lies in one file at a stretch: where it belongs, the file, the offset there, the size, digests."""
        start = begin = size = 0
        path = ""
        digests: list[bytes] = []
        for key, length in zip(part.digests, part.sizes(), strict=True):
            digest = Digest(f"blake3:{key.hex()}")
            place = places.get(digest)
            file = self.packs.path(place.pack) if place is not None else self._object(digest)
            offset = place.offset if place is not None else 0
            if place is not None and place.size != length:
                raise ValueError(f"its chunk {digest_shown(digest)} with {place.size:,} bytes, not {length:,}")
            if file != path or offset != begin + size:
                if size:
                    yield start, path, begin, size, digests
                start, path, begin, size, digests = start + size, file, offset, 0, []
            size += length
            digests.append(key)
        if size:
            yield start, path, begin, size, digests

    def _places(self, recipe: Recipe) -> tuple[dict[Digest, Place], set[Digest]]:
        """Return where chunks lie in packs, and those that are objects of their own: repaired ones."""
        chunks = recipe.chunks()
        places, _ = self.packs.find(chunks, first=[pack.hex() for pack in recipe.packs])
        if len(places) == len(chunks):
            return places, set()
        return places, {one for one in chunks if one not in places and os.path.lexists(self._object(one))}

    def _object(self, digest: Digest) -> str:
        name = digest.partition(":")[2]
        return os.path.join(self._objects, name[:2], name)


class _Doubted(NamedTuple):
    """A pack whose chunks are hashed before an artifact is said to be made of them."""

    file: int
    entries: Index

    def holds(self, key: bytes) -> bool:
        place = self.entries.find(key)
        if place is None:
            return False
        try:
            _hash([_Mapped(self.file, place.offset, place.size, key)])
        except ValueError:
            return False
        return True


def _note_of_writing(file: int) -> bytes:
    """Return the note that a file, as it is now, was written by this user since the machine started."""
    return note_of(file, [b"written"])


class _Mapped(NamedTuple):
    """A chunk that was mapped."""

    file: int
    offset: int
    size: int
    digest: bytes


def _check(chunks: Sequence[_Mapped]) -> None:
    """Hash chunks that were not found whole before, or whose file has changed. Raise `ValueError` for a damaged one.

    They are read beside the map: what nobody uses of it takes no memory.
    """
    files: dict[int, list[_Mapped]] = {}
    for chunk in chunks:
        files.setdefault(chunk.file, []).append(chunk)
    notes = {file: note_of(file, (one.digest for one in inside)) for file, inside in files.items()}
    left = {file: one for file, one in notes.items() if not is_noted(one)}
    batches: list[list[_Mapped]] = []
    room = 0
    for chunk in (chunk for file in left for chunk in files[file]):
        if chunk.size > room:
            batches.append([])
            room = max(_HASHED, chunk.size)
        batches[-1].append(chunk)
        room -= chunk.size
    threads = min(_THREADS, len(batches), _processors())
    if threads > 1:
        with ThreadPoolExecutor(threads, thread_name_prefix="mlbench-hash") as pool:
            list(pool.map(_hash, batches))
    else:
        for batch in batches:
            _hash(batch)
    if left:
        note(left.values())


def _hash(chunks: Sequence[_Mapped]) -> None:
    room = memoryview(bytearray(max(chunk.size for chunk in chunks)))
    for chunk in chunks:
        view, done = room[: chunk.size], 0
        while done < chunk.size and (count := os.preadv(chunk.file, [view[done:]], chunk.offset + done)):
            done += count
        if done < chunk.size or blake3(view).digest() != chunk.digest:
            raise _damaged(chunk.digest)


def _damaged(digest: bytes) -> ValueError:
    return ValueError(f"its chunk {digest_shown(f'blake3:{digest.hex()}')} damaged")


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Writing:
    """One artifact that is being hashed and written: chunks that are new go into a file, by a thread of its own."""

    def __init__(self, large: Large, path: str, *, durable: bool) -> None:
        self.made: str | None = None
        self._large = large
        self._durable = durable
        self._path = path
        self._file: int | None = None
        self._end = ALIGNED
        self._entries: dict[bytes, tuple[int, int]] = {}
        self._used: dict[str, _Doubted | None] = {}
        self._pieces: queue.Queue[tuple[Buffer, int] | None] = queue.Queue(_WAITING)
        self._thread: threading.Thread | None = None
        self._failed: BaseException | None = None
        large.learn()

    def add(self, part: Buffer | Stream, *, wholly: bool) -> tuple[Part, str]:
        """Hash a part, write what is new of it, and return what is kept of it, with its digest if that is asked for."""
        if not isinstance(part, bytes | bytearray | memoryview):
            if part.nbytes >= PART:
                return self._cut(part, part.nbytes, wholly=wholly)
            part = values.whole(part)
        view = memoryview(part).cast("B")
        if view.nbytes < PART:
            return Part(view.nbytes, data=bytes(view)), values.digest_of(view) if wholly else ""
        return self._cut(view, view.nbytes, wholly=wholly)

    def _cut(self, source: memoryview | Stream, size: int, *, wholly: bool) -> tuple[Part, str]:
        step, whole, digests = chunk_size(size), blake3(), list[bytes]()
        here = isinstance(source, memoryview)
        block = size if here else max(_TOGETHER // 2 // step, 1) * step
        for begin in range(0, size, block or 1):
            count = min(block, size - begin)
            view = source if isinstance(source, memoryview) else memoryview(source.read(begin, count))
            if view.nbytes != count:
                raise OSError("fewer bytes came than there should be")
            new = -1  # where a stretch of new chunks begins that is not handed over yet
            for start in range(0, view.nbytes, step):
                piece = view[start : start + step]
                key = blake3(piece).digest()
                if wholly:
                    whole.update(piece)
                digests.append(key)
                if self._is_known(key):
                    if new >= 0:
                        self._hand_over(view[new:start])
                    new = -1
                    continue
                new = start if new < 0 else new
                self._entries[key] = (self._end + start - new, piece.nbytes)
                if start + step - new >= _TOGETHER or start + step >= view.nbytes:
                    self._hand_over(view[new : start + step])
                    new = -1
        return Part(size, step, digests=tuple(digests)), whole.hexdigest() if wholly else ""

    def _is_known(self, key: bytes) -> bool:
        if key in self._entries:
            return True
        name = self._large.known(key)
        if name is None:
            return False
        if name not in self._used:
            if not self._large.meet_pack(name):
                return False
            try:
                self._used[name] = self._large.doubted(name)
            except (FileNotFoundError, ValueError):  # gone since, or damaged
                self._large.forget([name])
                return False
        doubted = self._used[name]
        return doubted is None or doubted.holds(key)

    def _hand_over(self, piece: memoryview) -> None:
        if self._failed is not None:
            raise self._failed
        if self._thread is None:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._file = os.open(self._path, flags, 0o600)
            self._thread = threading.Thread(target=self._write, name="mlbench-write", daemon=True)
            self._thread.start()
        self._pieces.put((piece, self._end))
        self._end += -(-piece.nbytes // ALIGNED) * ALIGNED

    def _write(self) -> None:
        while (one := self._pieces.get()) is not None:
            if self._failed is None:
                try:
                    assert self._file is not None
                    piece = memoryview(one[0])
                    write_all(self._file, piece, one[1])
                    if self._durable and piece.nbytes >= _FLUSHED:
                        begin_writeback(self._file, one[1], piece.nbytes)
                except BaseException as error:  # noqa: BLE001  (it is raised by whoever hands over next)
                    self._failed = error

    def _join(self) -> None:
        if self._thread is not None:
            self._pieces.put(None)
            self._thread.join()
            self._thread = None

    def finish(self) -> list[str]:
        """Have all chunks in place; return the packs that they lie in, their own first."""
        self._join()
        if self._failed is not None:
            raise self._failed
        packs = self._large.packs
        if self._durable and self._used:
            self._large.sync(packs.folder, files=[packs.path(name) for name in self._used])
        if self._file is None:
            return list(self._used)
        entries = [(key, offset, size) for key, (offset, size) in self._entries.items()]
        name, index = index_of(entries, self._end)
        write_all(self._file, memoryview(CHUNKS), 0)
        write_all(self._file, memoryview(index), self._end)
        make_folders(packs.folder, below=os.path.dirname(packs.folder))
        if self._durable:
            os.fsync(self._file)
        os.rename(self._path, packs.path(name))
        os.close(self._file)
        self._file = None
        self.made = name
        if self._durable:
            self._large.sync(packs.folder)
        return [name, *self._used]

    def abandon(self) -> None:
        """Leave nothing behind of what did not come to an end."""
        self._join()
        for doubted in filter(None, self._used.values()):
            os.close(doubted.file)
        self._used.clear()
        if self._file is not None:
            os.close(self._file)
            self._file = None
            with suppress(FileNotFoundError):
                os.unlink(self._path)
