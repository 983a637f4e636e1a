"""A store's directory: objects under their digest, and the folder of records.

::

    format                                         {"format": 1}
    objects/<2 digits>/<64 digits>                 bytes, or an artifact's parts as `mlbench.runs.values.join` lays them
    large/<64 digits>, chunks/<64 digits>          artifacts in chunks: see `mlbench.backends.blobs_local.large`
    packs/<64 digits>                              many small artifacts: see `mlbench.backends.blobs_local.packs`
    records/<year>/<month>/<time>-<kind>-<id>.json  what need not be durable: `<id>.unsynced.json`
    tmp/                                           what is being written
    reserve                                        1 MiB to give back when the disk is full, so that it can be said

A file is written under `tmp/`, synced, renamed into its place and its folder synced, so that it is complete or absent.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, TypeVar

from mlbench.backends.blobs_local.care import FULL, Care, read_record
from mlbench.backends.blobs_local.checks import check, check_parts, checked, nowhere_but_in
from mlbench.backends.blobs_local.files import (
    Buffer,
    Pieces,
    is_shared,
    make_folders,
    read_range,
    sync_all,
    sync_kept,
    touch,
    write_files,
)
from mlbench.backends.blobs_local.large import Large
from mlbench.backends.blobs_local.packs import Place, Shapes, lay_out, open_plain, packs_in
from mlbench.backends.blobs_local.recording import (
    RECORD,
    UNSYNCED,
    claimed_name,
    encode,
    identifier_in_names,
    record_name,
)
from mlbench.core.errors import ArtifactCorrupt, NotFound, StoreError
from mlbench.core.ids import Digest, digest_shown, is_digest
from mlbench.core.ports import Piece, Stream
from mlbench.core.records import Json
from mlbench.runs import values
from mlbench.runs.chunks import LARGE, Recipe

__all__ = ["STORE_FORMAT", "LocalBlobs"]

STORE_FORMAT: Final = 1

_SMALL = 1 << 16
"""Artifacts below this size are copied, not mapped, where one is asked for several times at once."""

_COMPARED = 16
"""The packs, counted from the newest, in which it is looked for what is to be packed."""

_ALONE = 64
"""Up to so many artifacts that are to be packed are looked for among the objects. Of thousands hardly one is there, and
to ask the system about each costs, among threads, three times what packing it does."""

_LATELY = 64
"""The packs, counted from the newest, in which it is looked first for what has just been kept."""

_RESERVE = 1 << 20

_OURS = (
    *("objects", "packs", "large", "chunks", "records", "tmp", "format", "reserve", "catalog", "key"),
    *("lost+found", "."),
)
"""How the names begin that a store's directory may have before it is one: another process may be making it."""

_LOOKS = 3

T = TypeVar("T")


class LocalBlobs(Care):
    """The objects and records of one store on this machine's disk (the port `mlbench.core.ports.BlobStore`).

    Parameters
    ----------
    root
        The store's directory; made, open to its owner only, if it is not there. One that its owner has given to a
        group (mode 2770) is that group's, with all that is in it.

    Raises
    ------
    StoreError
        If it cannot be made or written, or was written by a later version.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self._objects = os.path.join(self.root, "objects")
        self._tmp = os.path.join(self.root, "tmp")
        self._packs = packs_in(os.path.join(self.root, "packs"))
        self._unsettled = set()
        self._large = Large(os.fspath(self.root), self._tmp, name=os.fspath(self.root))
        self._ready = False
        with self._clear_errors():
            self._prepare()
        self._ready = True

    def __repr__(self) -> str:
        return f"LocalBlobs({str(self.root)!r})"

    # --- objects ------------------------------------------------------------------------------------------------------

    def put(self, data: Buffer, /, *, durable: bool = True) -> Digest:
        """Keep bytes and return their digest; keeping them again costs nothing."""
        digest = Digest(f"blake3:{values.digest_of(data)}")
        size = data.nbytes if isinstance(data, memoryview) else len(data)
        self._keep([(digest, size, [(0, data)])], durable=durable)
        return digest

    def put_parts(self, digest: Digest, parts: Sequence[Buffer], /, *, durable: bool = True) -> None:
        """Keep the parts of an artifact, each page-aligned if large, under the digest of its manifest (`parts[0]`)."""
        self.put_all([(digest, parts)], durable=durable)

    def put_all(self, artifacts: Sequence[tuple[Digest, Sequence[Buffer]]], /, *, durable: bool = True) -> None:
        """Keep several artifacts, for about what syncing one of them costs; large ones in chunks, each by itself."""
        objects = []
        for digest, parts in artifacts:
            if not is_digest(digest):
                raise ValueError(f"not a digest: {digest!r}")
            if values.total(parts) >= LARGE:
                with self._clear_errors():
                    self._large.put(parts, digest=digest, durable=durable)
                continue
            head, offsets, size = values.layout(parts)
            objects.append((digest, size, [(0, head), *zip(offsets, parts, strict=True)]))
        self._keep(objects, durable=durable)

    def put_value(self, codec: str, parts: Sequence[Buffer | Stream], /, *, durable: bool = True) -> Digest:
        """Keep an artifact that has no manifest yet, hashed while it is written, and return its digest."""
        if values.total(parts) >= LARGE:
            with self._clear_errors():
                return self._large.put(parts, codec=codec, durable=durable)
        with self._clear_errors():
            packed = values.seal(values.Encoded(codec, "", tuple(map(values.whole, parts))))
        self.put_all([(packed.digest, packed.parts)], durable=durable)
        return packed.digest

    def put_pack(
        self, artifacts: Sequence[tuple[Digest, Sequence[Buffer]]], /, *, durable: bool = True
    ) -> Digest | None:
        """Keep several small artifacts in one file and return its digest, `None` if none of them was new."""
        new: dict[Digest, Sequence[Buffer]] = {}
        for digest, parts in artifacts:
            if not is_digest(digest):
                raise ValueError(f"not a digest: {digest!r}")
            new.setdefault(digest, parts)
        with self._clear_errors():
            alone = new if len(new) <= _ALONE else ()
            paths = {
                digest: path
                for digest in alone
                if self._is_whole(path := self._path(digest), digest, values.layout(new[digest])[2])
            }
            there = set(paths.values())
            torn = [path for path in map(self._path, alone) if path not in there and os.path.lexists(path)]
            new = {digest: parts for digest, parts in new.items() if digest not in paths}
            places, _ = self._packs.find(new, newest=_COMPARED)
            whole = self._packed_whole(places, new)  # a damaged one is kept again
            packs = {pack: self._packs.path(pack) for pack in {places[digest].pack for digest in whole}}
            met = {pack for pack, path in packs.items() if touch(path)}
            there.update(map(packs.__getitem__, met))
            for digest in whole:
                if places[digest].pack in met:
                    del new[digest]
            name = None
            if new:
                name, size, pieces = lay_out(list(new.items()))
                make_folders(self._packs.folder, below=os.fspath(self.root))
                write_files(self._tmp, [(self._packs.path(name), size, pieces)], durable=durable)
            self._set_aside(torn)
            if durable:  # whoever wrote these may not have synced them
                try:
                    sync_kept(os.fspath(self.root), set(map(os.path.dirname, there)), there)
                except FileNotFoundError:  # somebody was about to free one of them
                    return self.put_pack(artifacts, durable=True)
        return None if name is None else Digest(f"blake3:{name}")

    def packs_of(self, digests: Iterable[Digest], /) -> tuple[Digest, ...]:
        """Return the packs that artifacts lie in."""
        with self._clear_errors():
            wanted = dict.fromkeys(filter(is_digest, digests))
            places, _ = self._packs.find(wanted, newest=_LATELY)  # who asks has often just put them
            left = [one for one in wanted if one not in places and not self._is_object(one)]
            places |= self._packs.find(left)[0]
        return tuple(Digest(f"blake3:{name}") for name in dict.fromkeys(place.pack for place in places.values()))

    def get(self, digest: Digest, /) -> bytes:
        """Return the bytes whose digest this is; of an artifact that is its manifest."""
        if (recipe := self._recipe(digest)) is not None:
            return bytes(recipe.parts[0].data)

        def plain(data: memoryview) -> bytes:
            found = values.digest_of(data)
            if f"blake3:{found}" == digest:
                return bytes(data)
            if not values.is_joined(data):
                raise ArtifactCorrupt.at(digest, digest_shown(f"blake3:{found}"))
            return bytes(checked(digest, data, data.nbytes)[0])

        return self._read(digest, plain)

    def get_parts(self, digest: Digest, /) -> list[memoryview]:
        """Return the parts of an artifact.

        All of them are writable without any effect on the store; those of 64 KiB and more are private memory maps.
        They are hashed; those of large artifacts once by a user on a machine, as long as nobody writes to their file.
        """
        if (recipe := self._recipe(digest)) is not None:
            return self._assembled(digest, recipe)
        return self._read(digest, lambda data: checked(digest, data, data.nbytes))

    def get_many(self, digests: Sequence[Digest], /, *, packs: Sequence[Digest] = ()) -> list[list[memoryview]]:
        """Return the parts of many artifacts, each as `get_parts` does; every pack is opened and mapped once."""
        found: dict[Digest, list[memoryview]] = {}
        wanted = dict.fromkeys(digests)
        with self._clear_errors():
            first = [pack.partition(":")[2] for pack in packs if is_digest(pack)]
            if first:
                self._read_places(self._packs.find(wanted, first=first, newest=len(first))[0], found)
            if left := [digest for digest in wanted if digest not in found and not self._is_object(digest)]:
                self._read_places(self._packs.find(filter(is_digest, left))[0], found)
        for digest in wanted:
            if digest not in found:  # an object of its own, a damaged one, or none
                found[digest] = self.get_parts(digest)
        answer = []
        for digest in digests:
            answer.append(found[digest])
            if digest in wanted:
                del wanted[digest]
            else:  # asked for before: what is changed there must not be seen here
                answer[-1] = self._once_more(digest, answer[-1])
        return answer

    def has(self, digest: Digest, /) -> bool:
        """Say whether something is kept under a digest."""
        if not is_digest(digest):
            return False
        with self._clear_errors():
            return self._is_object(digest) or bool(self._packs.find([digest])[0])

    def touch(self, digests: Iterable[Digest], /) -> bool:
        """Note that these are needed from now on; return False if one is not kept."""
        with self._clear_errors():
            packed = [
                one
                for one in dict.fromkeys(digests)
                if not is_digest(one) or not (touch(self._path(one)) or self._large.meet(one, durable=False))
            ]
            places, _ = self._packs.find(filter(is_digest, packed))
            met = [touch(self._packs.path(name)) for name in dict.fromkeys(place.pack for place in places.values())]
        return all(met) and len(places) == len(packed)

    def verify(self, digest: Digest, /) -> None:
        """Read everything kept under a digest. Raise `ArtifactCorrupt` if a bit of it is not what it should be."""
        if (recipe := self._recipe(digest)) is not None:
            check_parts(digest, self._assembled(digest, recipe))
            return
        self._read(digest, lambda data: check(digest, data))

    def set_aside(self, digest: Digest, /) -> None:
        """Take a damaged object out of the way, so that whoever makes it again can keep it."""
        with self._clear_errors():
            recipe = None
            with suppress(ValueError):
                recipe = self._large.recipe(digest)
            if recipe is not None:
                self._set_aside_chunks(recipe)
            self._set_aside([self._path(digest), self._large.path(digest)])

    def _set_aside(self, paths: Iterable[str]) -> None:
        for path in paths:
            with suppress(FileNotFoundError):
                os.rename(path, os.path.join(self._tmp, f"damaged-{os.urandom(8).hex()}"))

    def chunked(self) -> Iterator[tuple[Digest, tuple[Digest, ...]]]:
        """Yield the artifacts that are kept in chunks, each with the digests of these."""
        with self._clear_errors():
            yield from self._large.all()

    def claim(self, name: str, /) -> bool:
        """Take a name that nobody has; return False if somebody has it."""
        with self._clear_errors():
            try:
                os.close(os.open(self._claimed(name), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            except FileExistsError:
                return False
        return True

    def let_go(self, name: str, /) -> None:
        """Give a name back, whoever has it."""
        with self._clear_errors(), suppress(FileNotFoundError):
            os.unlink(self._claimed(name))

    def _claimed(self, name: str) -> str:
        return os.path.join(self._tmp, claimed_name(name))

    # --- records ------------------------------------------------------------------------------------------------------

    def append(self, kind: str, identifier: str, record: Json | bytes, /, *, durable: bool = True) -> None:
        """Add one immutable record to `records/<year>/<month>/`.

        `schema`, `record` (its kind), `id` and `time` are added, where it has no field of that name. One that is JSON
        already has none of these, and at least one other.
        """
        now = time.time_ns()
        path = os.path.join(self.root, "records", f"{record_name(kind, identifier, now, durable=durable)}.json")
        data = encode(kind, identifier, record, now)
        with self._clear_errors():
            make_folders(os.path.dirname(path), below=os.fspath(self.root))
            try:
                write_files(self._tmp, [(path, len(data), [(0, data)])], durable=durable)
            except OSError as error:
                if error.errno not in FULL or not self._give_back_reserve():
                    raise
                write_files(self._tmp, [(path, len(data), [(0, data)])], durable=durable)

    def records(self, kind: str | None = None, /) -> Iterator[Json]:
        """Yield the records, oldest first. A file that is no record is passed over."""
        for folder in self._months():
            for _, found, name in sorted(_listed(folder)):
                if (kind is None or found == kind) and (record := _read_unless_torn(folder, name)) is not None:
                    yield record

    def find_record(self, kind: str, identifier: str, /) -> Json | None:
        """Return the latest record of a kind and id written in this month or the one before, if there is one."""
        name = identifier_in_names(identifier)
        for folder in reversed(self._months()[-2:]):
            ends = f"-{name}.json", f"-{name}{UNSYNCED}.json"
            fitting = [file for _, found, file in _listed(folder) if found == kind and file.endswith(ends)]
            for file in sorted(fitting, reverse=True):
                if (record := _read_unless_torn(folder, file)) is not None:
                    return record
        return None

    # --- files --------------------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        marker = os.path.join(self.root, "format")
        try:
            with open(marker, "rb") as file:
                self._check_format(file.read())
        except FileNotFoundError:
            self._create(marker)
        mode = os.stat(self.root).st_mode
        if mode & stat.S_IWOTH or (mode & stat.S_IWGRP and not mode & stat.S_ISGID):
            raise StoreError(
                f"Others may write to the store {self.root}, and so take away or spoil what you keep.",
                f"Close it to them: `chmod 700 {self.root}`; or make it a group's: `chmod 2770 {self.root}`.",
            )
        self._make_folders()  # a copy that leaves out empty ones, or a power cut, may have taken them away
        if not os.access(self.root, os.W_OK | os.X_OK) or not os.access(self._tmp, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "not writable", os.fspath(self.root))

    def _check_format(self, text: bytes) -> None:
        try:
            found = json.loads(text)["format"]
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"{self.root} does not look like a store of mlbench: its file `format` cannot be read.",
                "Name another directory in MLBENCH_STORE.",
            ) from error
        if found != STORE_FORMAT:
            raise StoreError(
                f"The store {self.root} has format {found}, and this version of mlbench knows {STORE_FORMAT}.",
                "Update mlbench in this environment, or name another directory in MLBENCH_STORE.",
            )

    def _create(self, marker: str) -> None:
        above = [os.fspath(self.root.absolute().parent)]
        while not os.path.isdir(above[-1]):
            above.append(os.path.dirname(above[-1]))
        os.makedirs(self.root, mode=0o700, exist_ok=True)
        there = os.listdir(self.root)
        if strangers := [name for name in there if not name.startswith(_OURS)]:
            raise StoreError(
                f"{self.root} is no store of mlbench, and not empty: it has {strangers[0]!r}.",
                "Name an empty or a new directory in MLBENCH_STORE.",
            )
        shared = is_shared(self.root)
        if not there and not shared:
            os.chmod(self.root, 0o700)
        self._make_folders()
        with suppress(PermissionError):  # a folder that one may pass and not read is older than the store
            sync_all(above)
        data = json.dumps({"format": STORE_FORMAT}).encode()
        write_files(self._tmp, [(marker, len(data), [(0, data)])], durable=True)
        try:
            reserve = os.path.join(self.root, "reserve")
            write_files(self._tmp, [(reserve, _RESERVE, [(0, bytes(_RESERVE))])], durable=False)
        except OSError as error:
            if error.errno not in FULL:
                raise

    def _make_folders(self) -> None:
        for name in ("objects", "records", "tmp"):
            make_folders(os.path.join(self.root, name))

    def _give_back_reserve(self) -> bool:
        try:
            os.unlink(os.path.join(self.root, "reserve"))
        except FileNotFoundError:
            return False
        return True

    def _keep(self, objects: Sequence[tuple[Digest, int, Pieces]], *, durable: bool) -> None:
        """Keep objects that are not there yet, or not whole; those that are may have to be synced."""
        new: list[tuple[str, int, Pieces]] = []
        there: list[tuple[str, int, Pieces]] = []
        with self._clear_errors():
            for digest, size, pieces in objects:
                if not is_digest(digest):
                    raise ValueError(f"not a digest: {digest!r}")
                path = self._path(digest)
                if self._is_whole(path, digest, size):
                    there.append((path, size, pieces))
                else:
                    make_folders(os.path.dirname(path), below=os.fspath(self.root))
                    new.append((path, size, pieces))
            write_files(self._tmp, new, durable=durable)
            if durable and there:  # whoever wrote these may not have synced them; if so, this is what it costs
                paths = [path for path, _, _ in there]
                try:
                    sync_kept(os.fspath(self.root), set(map(os.path.dirname, paths)), paths)
                except FileNotFoundError:  # somebody was about to free one of them
                    write_files(self._tmp, there, durable=True)

    def _is_object(self, digest: Digest) -> bool:
        return is_digest(digest) and (os.path.lexists(self._path(digest)) or os.path.lexists(self._large.path(digest)))

    def _recipe(self, digest: Digest) -> Recipe | None:
        """Return what an artifact is made of if it is kept in chunks, and not also as one object."""
        if not is_digest(digest) or os.path.lexists(self._path(digest)):
            return None
        try:
            with self._clear_errors():
                return self._large.recipe(digest)
        except ValueError as error:
            raise ArtifactCorrupt.at(digest, str(error)) from error

    def _assembled(self, digest: Digest, recipe: Recipe) -> list[memoryview]:
        with self._clear_errors():
            return self._large.read(digest, recipe)

    def _set_aside_chunks(self, recipe: Recipe) -> None:
        """Make the packs anew that damaged chunks of an artifact lie in, without these."""
        chunks = set(recipe.chunks())
        packs = {place.pack for place in self._large.packs.find(chunks)[0].values()}
        for name in packs:
            piece = Piece("pack", f"blake3:{name}", 0, 0)
            if not (damaged := self.damaged(piece)):
                continue
            self._large.forget([name])
            with suppress(ArtifactCorrupt):  # its index is: then nothing in it can be told apart
                self.repack(Digest(piece.name), set(self.contents(Digest(piece.name))) - damaged.keys())
            self.free(piece)

    def _is_whole(self, path: str, digest: Digest, size: int) -> bool:
        """Note that an object is needed; return False if it is not there, or not whole, as after a power cut."""
        try:
            found = os.lstat(path)
            if not stat.S_ISREG(found.st_mode) or found.st_size != size:
                return False
            file = open_plain(path)
        except (FileNotFoundError, ValueError):
            return False
        try:
            check(digest, read_range(file, 0, size))
        except ArtifactCorrupt:
            return False
        finally:
            os.close(file)
        return touch(path)

    def _packed_whole(
        self, places: Mapping[Digest, Place], artifacts: Mapping[Digest, Sequence[Buffer]]
    ) -> list[Digest]:
        """Return which artifacts lie in packs as they are here."""
        shapes = Shapes()
        whole: list[Digest] = []
        for start, data, inside in self._in_packs(places):
            whole += [
                digest
                for digest, (_, offset, size) in inside
                if data[offset - start : offset - start + size].tobytes() == shapes.joined(artifacts[digest])
            ]
        return whole

    def _in_packs(self, places: Mapping[Digest, Place]) -> Iterator[tuple[int, memoryview, list[tuple[Digest, Place]]]]:
        """Yield, for each pack that is there, bytes of it, where they begin, and what of the places lies there."""
        by_pack: dict[str, list[tuple[Digest, Place]]] = {}
        for digest, place in places.items():
            by_pack.setdefault(place.pack, []).append((digest, place))
        for name, inside in by_pack.items():
            try:
                file = open_plain(self._packs.path(name))
            except (FileNotFoundError, ValueError):
                continue
            try:
                start = min(place.offset for _, place in inside)
                data = read_range(file, start, max(place.offset + place.size for _, place in inside) - start)
            finally:
                os.close(file)
            yield start, data, inside

    def _read_places(self, places: Mapping[Digest, Place], found: dict[Digest, list[memoryview]]) -> None:
        """Add the parts of what lies in packs to what was found; leave out what is damaged, and packs that are gone."""
        for start, data, inside in self._in_packs(places):
            for digest, (_, offset, size) in inside:
                part = data[offset - start : offset - start + size]
                try:
                    found[digest] = checked(digest, part, size)
                except ArtifactCorrupt:
                    continue

    def _once_more(self, digest: Digest, parts: list[memoryview]) -> list[memoryview]:
        if sum(part.nbytes for part in parts) >= _SMALL:
            return self.get_parts(digest)
        return [memoryview(bytearray(part)) for part in parts]

    def _read(self, digest: Digest, checked_as: Callable[[memoryview], T]) -> T:
        """Return what the bytes of an object are; if they are damaged, those of the same one in a pack."""
        damaged: list[str] = []
        while True:
            with self._clear_errors(), self._opened(digest, damaged) as (file, offset, size, pack):
                data = read_range(file, offset, size)
                try:
                    return checked_as(data)
                except ArtifactCorrupt:
                    damaged.append(pack)
                    if not self._packs.find([digest], without=damaged)[0]:
                        raise  # it was not packed a second time

    @contextmanager
    def _opened(self, digest: Digest, without: Collection[str] = ()) -> Iterator[tuple[int, int, int, str]]:
        """Open the file that something lies in; with it the offset, the size and the pack ("" if it is an object)."""
        if not is_digest(digest):
            raise NotFound(f"{digest!r} is not a digest.")
        try:
            file, offset, size, pack = self._open(digest, without)
        except ValueError as error:
            raise ArtifactCorrupt.at(digest, str(error)) from error
        try:
            yield file, offset, size, pack
        finally:
            os.close(file)

    def _open(self, digest: Digest, without: Collection[str]) -> tuple[int, int, int, str]:
        if "" not in without:
            with suppress(FileNotFoundError):
                file = open_plain(self._path(digest))
                return file, 0, os.fstat(file).st_size, ""
        damaged: list[str] = []
        for _ in range(_LOOKS):  # a pack may be made anew, with less in it, between two calls
            places, damaged = self._packs.find([digest], without=without)
            for place in places.values():
                try:
                    return open_plain(self._packs.path(place.pack)), place.offset, place.size, place.pack
                except FileNotFoundError:
                    continue
        for place in self._large.packs.find([digest])[0].values():
            with suppress(FileNotFoundError):
                return open_plain(self._large.packs.path(place.pack)), place.offset, place.size, place.pack
        if damaged:
            raise nowhere_but_in(damaged, digest)
        raise NotFound(f"The store {self.root} has no object {digest}.")

    def _months(self) -> list[str]:
        top = os.path.join(self.root, "records")
        years = [year for year in os.listdir(top) if year.isdigit()]
        return sorted(
            os.path.join(top, year, month)
            for year in years
            for month in os.listdir(os.path.join(top, year))
            if month.isdigit()
        )


def _read_unless_torn(folder: str, name: str) -> Json | None:
    """Return the record in a file; None if a power cut has left nothing of it."""
    try:
        return read_record(os.path.join(folder, name))
    except NotFound:
        return None


def _listed(folder: str) -> Iterator[tuple[str, str, str]]:
    for name in os.listdir(folder):
        if found := RECORD.fullmatch(name):
            yield found[1], found[2], name
