"""A store under a URL: the layout of one in a directory, with what an object store has instead of a disk.

::

    format, objects/, packs/, records/             as in `mlbench.backends.blobs_local`
    tmp/met-<64 digits>-<time>                     an object or pack was needed again at that time
    tmp/freeing-<64 digits>-<random>               somebody is about to remove it
    tmp/claim-<name>                               somebody has taken a name

What is written is there in all its bytes or not at all, since one request puts it there, under a condition where the
other side has one; nothing is renamed and nothing is locked. A time can't be set there: so what is needed again gets a
note, and whoever removes something old says so first and then looks for notes once more, while whoever needs it leaves
a note first and then looks whether somebody says so. Of the two, one sees the other.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

from mlbench.backends.blobs_fsspec.cache import ReadCache
from mlbench.backends.blobs_fsspec.packs import RemotePacks
from mlbench.backends.blobs_fsspec.recordings import Recordings
from mlbench.backends.blobs_fsspec.remote import Entry, Remote
from mlbench.backends.blobs_local import STORE_FORMAT, files
from mlbench.backends.blobs_local.checks import check, checked, corrupt, index_of, problems
from mlbench.backends.blobs_local.files import Buffer, Pieces, read_range
from mlbench.backends.blobs_local.packs import Place, lay_out, open_plain
from mlbench.backends.blobs_local.recording import claimed_name, is_record_name
from mlbench.core.errors import ArtifactCorrupt, NotFound, StoreError
from mlbench.core.ids import Digest, is_digest
from mlbench.core.ports import Piece
from mlbench.core.records import Json
from mlbench.runs import values

__all__ = ["FsspecBlobs"]

_COMPARED: Final = 16
"""The packs, counted from the newest, in which it is looked for what is to be packed."""

_ASKED_FOR: Final = 32
"""Up to so many artifacts that are to be packed, it is asked for each whether it is an object of its own."""

_VERIFIED: Final = 4 << 20
"""As in a directory, larger objects are not hashed when they are read here; they were when they came."""

_SMALL: Final = 1 << 20
"""Up to this size, what is to be kept is sent at once; of what is larger it is asked first whether it is there."""

_WHOLE: Final = 8 << 20
"""A pack up to this size is fetched whole, a larger one if an eighth of it is needed."""

_COARSE: Final = 1_000_000_000
"""An object store's times are whole seconds, rounded down: nanoseconds to add where that is the safe side."""

_REMOVING: Final = 20.0
_AWAITED: Final = 60.0
"""Seconds within which what is about to be removed is removed or left, and those that somebody who needs it waits."""

_LOOKS: Final = 3

_OURS: Final = ("objects", "packs", "records", "tmp", "format", "reserve", "catalog", ".")


class FsspecBlobs:
    """The objects and records of a store under a URL (the port `mlbench.core.ports.BlobStore`).

    Whatever is acknowledged is durable there: `durable` makes no difference.

    Parameters
    ----------
    url
        Such as `s3://bucket/folder`.
    make
        Whether it is made if there is none.

    Raises
    ------
    StoreError
        If it cannot be reached or made, or was written by a later version; without `make`, if it is not there.
    """

    def __init__(self, url: str, *, make: bool = True) -> None:
        self.url = url.rstrip("/")
        self._remote = Remote(self.url)
        self._cache = ReadCache(self.url)
        self._packs = RemotePacks(self._remote, self._cache)
        self._records = Recordings(self._remote)
        try:
            self._prepare(make=make)
        except BaseException:
            self.rest()
            raise

    def __repr__(self) -> str:
        return f"FsspecBlobs({self.url!r})"

    @property
    def folder(self) -> Path:
        """The folder on this machine in which what was read lies."""
        return self._cache.folder

    def rest(self) -> None:
        """End the threads that the connections have, so that this process can be forked; they come again."""
        self._remote.rest()

    # --- objects ------------------------------------------------------------------------------------------------------

    def put(self, data: Buffer, /, *, durable: bool = True) -> Digest:  # noqa: ARG002
        """Keep bytes and return their digest."""
        digest = Digest(f"blake3:{values.digest_of(data)}")
        self._keep(_object(digest), _length(data), [(0, data)])
        return digest

    def put_parts(self, digest: Digest, parts: Sequence[Buffer], /, *, durable: bool = True) -> None:
        """Keep the parts of an artifact under the digest of its manifest (`parts[0]`)."""
        self.put_all([(digest, parts)], durable=durable)

    def put_all(self, artifacts: Sequence[tuple[Digest, Sequence[Buffer]]], /, *, durable: bool = True) -> None:  # noqa: ARG002
        """Keep several artifacts, small ones at the same time."""
        for digest, _ in artifacts:
            if not is_digest(digest):
                raise ValueError(f"not a digest: {digest!r}")

        def keep(artifact: tuple[Digest, Sequence[Buffer]]) -> None:
            digest, parts = artifact
            head, offsets, size = values.layout(parts)
            self._keep(_object(digest), size, [(0, head), *zip(offsets, parts, strict=True)])

        small = [one for one in artifacts if sum(map(_length, one[1])) <= _WHOLE]
        self._remote.each(keep, small)
        for artifact in artifacts:
            if sum(map(_length, artifact[1])) > _WHOLE:
                keep(artifact)

    def put_pack(
        self,
        artifacts: Sequence[tuple[Digest, Sequence[Buffer]]],
        /,
        *,
        durable: bool = True,  # noqa: ARG002
    ) -> Digest | None:
        """Keep several small artifacts in one file and return its digest, `None` if none of them was new."""
        new: dict[Digest, Sequence[Buffer]] = {}
        for digest, parts in artifacts:
            if not is_digest(digest):
                raise ValueError(f"not a digest: {digest!r}")
            new.setdefault(digest, parts)
        if new:
            places, _ = self._packs.find(new, newest=_COMPARED)
            met = {name: self._meet(f"packs/{name}") for name in {place.pack for place in places.values()}}
            new = {one: parts for one, parts in new.items() if one not in places or not met[places[one].pack]}
        if 0 < len(new) <= _ASKED_FOR:
            kept = self._remote.each(lambda one: self._is_whole(one, new[one]), list(new))
            new = {digest: parts for (digest, parts), there in zip(new.items(), kept, strict=True) if not there}
        if not new:
            return None
        name, size, pieces = lay_out(list(new.items()))
        self._keep(f"packs/{name}", size, pieces)
        self._packs.look_again()
        return Digest(f"blake3:{name}")

    def packs_of(self, digests: Iterable[Digest], /) -> tuple[Digest, ...]:
        """Return the packs that artifacts lie in."""
        places, _ = self._packs.find(one for one in dict.fromkeys(digests) if is_digest(one))
        return tuple(Digest(f"blake3:{name}") for name in dict.fromkeys(place.pack for place in places.values()))

    def get(self, digest: Digest, /) -> bytes:
        """Return the bytes whose digest this is; of an artifact that is its manifest."""
        if not is_digest(digest):
            raise NotFound(f"{digest!r} is not a digest.")
        data = self._object_bytes(digest)
        if data is None:
            return bytes(self._from_packs(digest)[0])
        if f"blake3:{values.digest_of(data)}" == digest:
            return bytes(data)
        return bytes(checked(digest, data, data.nbytes)[0])

    def get_parts(self, digest: Digest, /) -> list[memoryview]:
        """Return the parts of an artifact; large ones are private maps of a file on this machine."""
        if not is_digest(digest):
            raise NotFound(f"{digest!r} is not a digest.")
        try:
            data = self._object_bytes(digest)
        except ArtifactCorrupt:
            with suppress(NotFound):  # it may have been packed as well
                return self._from_packs(digest)
            raise
        if data is None:
            return self._from_packs(digest)
        return checked(digest, data, data.nbytes, hashed=False)

    def get_many(self, digests: Sequence[Digest], /, *, packs: Sequence[Digest] = ()) -> list[list[memoryview]]:
        """Return the parts of many artifacts; of packs no more is fetched than is needed, objects several at once."""
        found: dict[Digest, list[memoryview]] = {}
        wanted = [one for one in dict.fromkeys(digests) if is_digest(one)]
        first = [pack.partition(":")[2] for pack in packs if is_digest(pack)]
        if first:
            self._read_places(self._packs.find(wanted, first=first, newest=len(first))[0], found)
        left = [one for one in wanted if one not in found and self._cache.find(_object(one)) is None]
        if left:
            self._read_places(self._packs.find(left)[0], found)
        alone = [one for one in dict.fromkeys(digests) if one not in found]
        found |= zip(alone, self._remote.each(self.get_parts, alone), strict=True)
        answer, given = [], set()
        for digest in digests:
            parts = found[digest]
            if digest in given:  # asked for before: what is changed there must not be seen here
                parts = [memoryview(bytearray(part)) for part in self.get_parts(digest)]
            given.add(digest)
            answer.append(parts)
        return answer

    def has(self, digest: Digest, /) -> bool:
        """Say whether something is kept under a digest."""
        if not is_digest(digest):
            return False
        return self._remote.find(_object(digest)) is not None or bool(self._packs.find([digest])[0])

    def touch(self, digests: Iterable[Digest], /) -> bool:
        """Note that these are needed from now on; return False if one is not kept."""
        asked = list(dict.fromkeys(digests))
        wanted = [one for one in asked if is_digest(one)]
        for _ in range(_LOOKS):  # a pack may be made anew, with less in it, between two calls
            places, _damaged = self._packs.find(wanted)
            names = list(dict.fromkeys(_pack_of(places[one]) if one in places else _object(one) for one in wanted))
            missing = [name for name, met in zip(names, self._remote.each(self._meet, names), strict=True) if not met]
            packs = [name.rpartition("/")[2] for name in missing if name.startswith("packs/")]
            for name in packs:
                self._packs.forget(name)
            if not packs:
                return not missing and len(wanted) == len(asked)
        return False

    def verify(self, digest: Digest, /) -> None:
        """Read everything kept under a digest. Raise `ArtifactCorrupt` if a bit of it is not what it should be."""
        if not is_digest(digest):
            raise NotFound(f"{digest!r} is not a digest.")
        data = self._object_bytes(digest)
        if data is not None:
            check(digest, data)
        else:
            self._from_packs(digest)

    def set_aside(self, digest: Digest, /) -> None:
        """Take a damaged object out of the way, so that whoever makes it again can keep it."""
        if is_digest(digest):
            self._remove(_object(digest))

    # --- files --------------------------------------------------------------------------------------------------------

    def pieces(self, kind: Literal["object", "pack", "record"], /) -> Iterator[Piece]:
        """Yield the files of a kind, records the oldest first."""
        if kind == "record":
            yield from self._records.pieces()
            return
        notes = self._notes()
        for entry in self._remote.entries(f"{kind}s"):
            digest = Digest(f"blake3:{entry.name.rpartition('/')[2]}")
            if is_digest(digest) and entry.name in {_object(digest), _pack(digest)}:
                yield Piece(kind, digest, entry.size, max(entry.time, notes.get(digest[7:], 0)))

    def contents(self, pack: Digest, /) -> dict[Digest, int]:
        """Return the sizes of the artifacts in a pack."""
        if not is_digest(pack):
            raise NotFound(f"{pack!r} is not a digest.")
        try:
            index = self._packs.index(pack[7:]) if self._remote.find(_pack(pack)) is not None else None
        except ValueError as error:
            raise corrupt(pack, f"a pack that is damaged: {error}") from error
        if index is None:
            raise NotFound(f"The store {self.url} has no pack {pack}.")
        return {digest: place.size for digest, place in index}

    def damaged(self, piece: Piece, /) -> dict[str, str]:
        """Read all of a file, from there and not from here, and return what is wrong in it."""
        try:
            data = self._bytes(piece)
        except NotFound:
            return {}
        return problems(piece, data)

    def read_piece(self, piece: Piece, /) -> memoryview:
        """Return a file's bytes, which are what its name says."""
        data = self._bytes(piece)
        for name, problem in problems(piece, data).items():
            raise ArtifactCorrupt(problem, f"Look what needs {name}: `mlbench store verify`.")
        return data

    def write_pieces(self, pieces: Sequence[tuple[Piece, bytes | memoryview]], /) -> None:
        """Keep files as another store had them."""
        for piece, data in pieces:
            _name(piece)
            for name, problem in problems(piece, memoryview(data)).items():
                raise ArtifactCorrupt(problem, f"Look what needs {name}: `mlbench store verify`.")

        def write(one: tuple[Piece, bytes | memoryview]) -> None:
            piece, data = one
            self._remote.replace(_name(piece), _length(data), [(0, data)])
            self._records.forget(_name(piece))
            self._cache.drop(_name(piece))

        self._remote.each(write, list(pieces))
        self._packs.look_again()

    def repack(self, pack: Digest, keep: Collection[Digest], /) -> Digest | None:
        """Keep some artifacts of a pack in a pack of their own; the pack itself stays."""
        data = self._bytes(Piece("pack", pack, 0, 0))
        places = sorted(index_of(pack, data).items(), key=lambda one: one[1].offset)
        chosen = [
            (digest, checked(digest, data[offset : offset + size], size))
            for digest, (_, offset, size) in places
            if digest in keep
        ]
        if not chosen:
            return None
        name, size, laid = lay_out(chosen)
        self._keep(f"packs/{name}", size, laid)
        self._packs.look_again()
        return Digest(f"blake3:{name}")

    def free(self, piece: Piece, /, *, before: int | None = None) -> bool:
        """Remove a file, unless its time is not before `before`."""
        name = _name(piece)
        there = self._remote.find(name)
        if there is None:
            return False
        if before is None or piece.kind == "record":
            self._remove(name)
            return True
        digits = piece.name[7:]
        if self._last_met(there, digits) >= before:
            return False
        intent = f"tmp/freeing-{digits}-{os.urandom(8).hex()}"
        began = time.monotonic()
        self._remote.replace(intent, 0, [])
        try:
            found = self._remote.find(name)
            if found is None or self._last_met(found, digits) >= before:  # somebody has met it since
                return False
            if time.monotonic() - began > _REMOVING:  # who needs it does not wait for ever
                return False
            self._remove(name)
        finally:
            self._remote.remove(intent)
        return True

    def sweep(self, before: int, /, *, dry_run: bool = False) -> int:
        """Remove what killed writers left, and notes that no longer matter."""
        freed = 0
        for entry in list(self._remote.entries("tmp")):
            if max(entry.time + _COARSE, _note(entry.name)[1]) < before:
                freed += entry.size
                if not dry_run:
                    self._remote.remove(entry.name)
        return freed + self._remote.abort_uploads(before - _COARSE, dry_run=dry_run)

    # --- names and records --------------------------------------------------------------------------------------------

    def claim(self, name: str, /) -> bool:
        """Take a name that nobody has; return False if somebody has it."""
        return self._remote.create(f"tmp/{claimed_name(name)}", 1, [(0, b"\n")])

    def let_go(self, name: str, /) -> None:
        """Give a name back, whoever has it."""
        self._remote.remove(f"tmp/{claimed_name(name)}")

    def append(self, kind: str, identifier: str, record: Json | bytes, /, *, durable: bool = True) -> None:  # noqa: ARG002
        """Add one immutable record."""
        self._records.append(kind, identifier, record)

    def records(self, kind: str | None = None, /) -> Iterator[Json]:
        """Yield the records, oldest first. What is no record is passed over."""
        return self._records.records(kind)

    def records_since(self, since: int, /) -> Iterator[Piece]:
        """Yield the records written since a time (UTC nanoseconds), and perhaps some that are older, oldest first."""
        return self._records.pieces(since)

    def find_record(self, kind: str, identifier: str, /) -> Json | None:
        """Return the latest record of a kind and id written in this month or the one before, if there is one."""
        return self._records.find(kind, identifier)

    def read_record(self, piece: Piece, /) -> Json:
        """Return the record in a file."""
        return self._records.read(_name(piece))

    # --- inside -------------------------------------------------------------------------------------------------------

    def _prepare(self, *, make: bool) -> None:
        try:
            text = self._remote.read("format")
        except FileNotFoundError as error:
            if not make:
                raise StoreError(f"There is no store under {self.url}.", "Name another one.") from error
            if strangers := [name for name in self._remote.top() if not name.startswith(_OURS)]:
                raise StoreError(
                    f"{self.url} is no store of mlbench, and not empty: it has {strangers[0]!r}.",
                    "Name an empty or a new place in it, such as " + f"{self.url}/mlbench.",
                ) from None
            data = json.dumps({"format": STORE_FORMAT}).encode()
            self._remote.create("format", len(data), [(0, data)])
            return
        try:
            found = json.loads(text)["format"]
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"{self.url} does not look like a store of mlbench: its object `format` cannot be read.",
                "Name another place.",
            ) from error
        if found != STORE_FORMAT:
            raise StoreError(
                f"The store {self.url} has format {found}, and this version of mlbench knows {STORE_FORMAT}.",
                "Update mlbench in this environment, or name another store.",
            )

    def _keep(self, name: str, size: int, pieces: Pieces) -> None:
        """Write what is not there yet in its whole size, and keep it here too: who made it mostly reads it."""
        if size <= _SMALL and self._cache.find(name) is None and self._remote.create(name, size, pieces):
            self._cache.keep(name, size, pieces)  # to write it cost no more than to ask
            return
        there = self._remote.find(name)
        if there is None:
            if self._remote.create(name, size, pieces):
                self._cache.keep(name, size, pieces)
                return
            there = self._remote.find(name)
        if there is None or there.size != size or not self._meet(name, there):
            self._remote.replace(name, size, pieces)
            self._cache.keep(name, size, pieces)

    def _is_whole(self, digest: Digest, parts: Sequence[Buffer]) -> bool:
        there = self._remote.find(_object(digest))
        return there is not None and there.size == values.layout(parts)[2] and self._meet(_object(digest), there)

    def _meet(self, name: str, there: Entry | None = None) -> bool:
        """Have what is kept be no older than an hour, so that nobody frees it; return False if it is not there."""
        there = there or self._remote.find(name)
        if there is None:
            return False
        digits = name.rpartition("/")[2]
        fresh = time.time_ns() - int(files.FRESH * 1e9)
        if there.time > fresh or any(
            _note(one.name)[1] > fresh for one in self._remote.entries("tmp", f"met-{digits}-")
        ):
            return True
        self._remote.replace(f"tmp/met-{digits}-{time.time_ns():019}", 0, [])
        until = time.monotonic() + _AWAITED
        while any(True for _ in self._remote.entries("tmp", f"freeing-{digits}-")):
            if time.monotonic() > until:  # it was killed there: nobody can tell any more, so it is written anew
                return False
            threading.Event().wait(0.2)
        return self._remote.find(name) is not None

    def _last_met(self, there: Entry, digits: str) -> int:
        met = [max(_note(one.name)[1], one.time + _COARSE) for one in self._remote.entries("tmp", f"met-{digits}-")]
        return max([there.time + _COARSE, *met])

    def _notes(self) -> dict[str, int]:
        """Return when objects and packs were met last, by their digits."""
        found: dict[str, int] = {}
        for entry in self._remote.entries("tmp", "met-"):
            digits, met = _note(entry.name)
            found[digits] = max(met, found.get(digits, 0))
        return found

    def _remove(self, name: str) -> None:
        self._remote.remove(name)
        self._cache.drop(name)
        if name.startswith("packs/"):
            self._packs.forget(name.rpartition("/")[2])
        elif name.startswith("records/"):
            self._records.forget(name)

    def _bytes(self, piece: Piece) -> memoryview:
        """Return a file's bytes as they are there now; large ones as a map of a file that nothing else has."""
        name = _name(piece)
        if piece.kind == "record":
            try:
                return memoryview(self._records.bytes(name))
            except FileNotFoundError as error:
                raise NotFound(f"The store {self.url} has no record {piece.name}.") from error
        there = self._remote.find(name)
        if there is None:
            raise NotFound(f"The store {self.url} has no {piece.kind} {piece.name}.")
        aside = f"tmp/{os.urandom(16).hex()}"
        try:
            return self._fetch(there, aside, lambda _: None)
        except FileNotFoundError as error:
            raise NotFound(f"The store {self.url} no longer has {piece.kind} {piece.name}.") from error
        finally:
            self._cache.drop(aside)  # its map lasts

    def _object_bytes(self, digest: Digest) -> memoryview | None:
        """Return an object's bytes, checked when they came; `None` if it is no object of its own."""
        name = _object(digest)
        if (path := self._cache.find(name)) is not None:
            with suppress(FileNotFoundError, ArtifactCorrupt, ValueError):  # it is fetched again then
                data = _mapped(path)
                if data.nbytes <= _VERIFIED:
                    check(digest, data)
                return data
            self._cache.drop(name)
        there = self._remote.find(name)
        if there is None:
            return None
        try:
            return self._fetch(there, name, lambda data: check(digest, data))
        except FileNotFoundError:
            return None

    def _from_packs(self, digest: Digest) -> list[memoryview]:
        """Return the parts of an artifact that lies in a pack, or in several of which one has it whole."""
        without: list[str] = []
        damaged: list[str] = []
        while True:
            places, bad = self._packs.find([digest], without=without)
            damaged += bad
            found: dict[Digest, list[memoryview]] = {}
            problem = self._read_places(places, found)
            if found:
                return found[digest]
            if not places:
                break
            without += [place.pack for place in places.values()]
            damaged += problem
        if damaged:
            raise ArtifactCorrupt(
                f"The store {self.url} has no whole object {digest}, and damaged packs, one of which holds it or may: "
                f"{', '.join(dict.fromkeys(damaged))}.",
                "Run what made it again, or restore the store from a backup.",
            )
        raise NotFound(f"The store {self.url} has no object {digest}.")

    def _read_places(self, places: Mapping[Digest, Place], found: dict[Digest, list[memoryview]]) -> list[str]:
        """Add the parts of what lies in packs to what was found; return the packs that something is damaged in."""
        by_pack: dict[str, dict[Digest, Place]] = {}
        for digest, place in places.items():
            by_pack.setdefault(place.pack, {})[digest] = place
        damaged = []
        for name, inside in by_pack.items():
            try:
                taken = self._taken(name, inside)
            except FileNotFoundError:  # it was removed, or made anew with less in it
                self._packs.forget(name)
                continue
            for digest, data in taken.items():
                try:
                    found[digest] = checked(digest, data, inside[digest].size)
                except ArtifactCorrupt:
                    damaged.append(name)
                    self._cache.drop(f"packs/{name}")
        return damaged

    def _taken(self, name: str, inside: Mapping[Digest, Place]) -> dict[Digest, memoryview]:
        """Return the bytes of some artifacts of a pack. Raise `FileNotFoundError`."""
        path = self._cache.find(f"packs/{name}")
        whole = None
        if path is not None:
            with suppress(FileNotFoundError, ValueError):
                whole = _mapped(path)
        if whole is None:
            size = self._packs.size(name)
            if size is None:
                raise FileNotFoundError(name)
            if size <= _WHOLE or 8 * sum(place.size for place in inside.values()) >= size:
                whole = self._fetch(Entry(f"packs/{name}", size, 0), f"packs/{name}", lambda _: None)
        if whole is not None:
            return {digest: whole[offset : offset + size] for digest, (_, offset, size) in inside.items()}

        def read(place: Place) -> memoryview:
            return memoryview(bytearray(self._remote.read(f"packs/{name}", place.offset, place.offset + place.size)))

        return dict(zip(inside, self._remote.each(read, list(inside.values())), strict=True))

    def _fetch(self, there: Entry, name: str, verify: Callable[[memoryview], None]) -> memoryview:
        """Return bytes from there, as the map of a file that is kept here if they are many; they may be written to.

        Raise `FileNotFoundError`, or what `verify` raises.
        """
        if there.size > _WHOLE:
            gone: list[FileNotFoundError] = []

            def fill(file: int) -> None:
                try:
                    self._remote.fetch(there.name, there.size, lambda offset, block: _write(file, block, offset))
                except FileNotFoundError as error:
                    gone.append(error)
                    raise
                verify(read_range(file, 0, there.size))

            path = self._cache.take_in(name, there.size, fill)
            if gone:
                raise gone[0]
            if path is not None:
                with suppress(FileNotFoundError):  # others needed the space at once
                    return _mapped(path)
        data = memoryview(bytearray(there.size))

        def put(offset: int, block: bytes) -> None:
            data[offset : offset + len(block)] = block

        self._remote.fetch(there.name, there.size, put)
        verify(data)
        if there.size <= _WHOLE and not name.startswith("tmp/"):
            self._cache.keep(name, there.size, [(0, data)])
        return data


def _object(digest: Digest) -> str:
    return f"objects/{digest[7:9]}/{digest[7:]}"


def _pack(digest: Digest) -> str:
    return f"packs/{digest[7:]}"


def _pack_of(place: Place) -> str:
    return f"packs/{place.pack}"


def _name(piece: Piece) -> str:
    """Return where a file lies. Raise `ValueError` if its name is none, and could lead elsewhere."""
    if piece.kind == "record":
        if not is_record_name(piece.name):
            raise ValueError(f"not a record's name: {piece.name!r}")
        return f"records/{piece.name}.json"
    digest = Digest(piece.name)
    if not is_digest(digest):
        raise ValueError(f"not a digest: {piece.name!r}")
    return _object(digest) if piece.kind == "object" else _pack(digest)


def _note(name: str) -> tuple[str, int]:
    """Return what a note is about, by its digits, and the time that it says; nothing, and 0, if it is no note."""
    found = _NOTE.fullmatch(name)
    return (found[1], int(found[2])) if found is not None else ("", 0)


_NOTE: Final = re.compile(r"tmp/met-([0-9a-f]{64})-([0-9]{19})")


def _mapped(path: str) -> memoryview:
    file = open_plain(path)
    try:
        return read_range(file, 0, os.fstat(file).st_size)
    finally:
        os.close(file)


def _write(file: int, block: bytes, offset: int) -> None:
    done = 0
    while done < len(block):
        done += os.pwrite(file, block[done:], offset + done)


def _length(data: Buffer) -> int:
    return data.nbytes if isinstance(data, memoryview) else len(data)
