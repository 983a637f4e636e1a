"""A store under a URL: the layout of one in a directory, with what an object store has instead of a disk.

::

    format, objects/, packs/, large/, chunks/, records/   as in `mlbench.backends.blobs_local`
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
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from mlbench.backends.blobs_fsspec.cache import ReadCache
from mlbench.backends.blobs_fsspec.care import RemoteCare
from mlbench.backends.blobs_fsspec.large import RemoteLarge
from mlbench.backends.blobs_fsspec.names import object_name, recipe_name
from mlbench.backends.blobs_fsspec.notes import Notes
from mlbench.backends.blobs_fsspec.packs import RemotePacks
from mlbench.backends.blobs_fsspec.reader import Reader
from mlbench.backends.blobs_fsspec.recordings import Recordings
from mlbench.backends.blobs_fsspec.remote import Remote
from mlbench.backends.blobs_local import STORE_FORMAT
from mlbench.backends.blobs_local.checks import check, check_parts, checked
from mlbench.backends.blobs_local.files import Buffer, Pieces
from mlbench.backends.blobs_local.packs import lay_out
from mlbench.backends.blobs_local.recording import claimed_name, is_of
from mlbench.core.errors import ArtifactCorrupt, NotFound, StoreError
from mlbench.core.ids import Digest, digest_shown, is_digest
from mlbench.core.ports import Piece, Stream
from mlbench.core.records import Json
from mlbench.runs import values
from mlbench.runs.chunks import LARGE, Recipe

__all__ = ["FsspecBlobs"]

_COMPARED: Final = 16
"""The packs, counted from the newest, in which it is looked for what is to be packed."""

_ASKED_FOR: Final = 32
"""Up to so many artifacts that are to be packed, it is asked for each whether it is an object of its own."""

_SMALL: Final = 1 << 20
"""Up to this size, what is to be kept is sent at once; of what is larger it is asked first whether it is there."""

_LOOKS: Final = 3

_OURS: Final = ("objects", "packs", "large", "chunks", "records", "tmp", "format", "reserve", "catalog", ".")


class FsspecBlobs(RemoteCare):
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
        self._notes = Notes(self._remote)
        self._packs = RemotePacks(self._remote, self._cache)
        self._reader = Reader(self._remote, self._cache, self._packs)
        self._large = RemoteLarge(self._remote, self._cache, self._notes, self._reader.bring)
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
        self._keep(object_name(digest), values.total([data]), [(0, data)])
        return digest

    def put_parts(self, digest: Digest, parts: Sequence[Buffer], /, *, durable: bool = True) -> None:
        """Keep the parts of an artifact under the digest of its manifest (`parts[0]`)."""
        self.put_all([(digest, parts)], durable=durable)

    def put_all(self, artifacts: Sequence[tuple[Digest, Sequence[Buffer]]], /, *, durable: bool = True) -> None:  # noqa: ARG002
        """Keep several artifacts, small ones at the same time."""
        small: list[tuple[Digest, Sequence[Buffer]]] = []
        for digest, parts in artifacts:
            if not is_digest(digest):
                raise ValueError(f"not a digest: {digest!r}")
            if values.total(parts) < LARGE:
                small.append((digest, parts))
            else:
                self._put_large(parts, digest=digest)

        def keep(artifact: tuple[Digest, Sequence[Buffer]]) -> None:
            digest, parts = artifact
            head, offsets, size = values.layout(parts)
            self._keep(object_name(digest), size, [(0, head), *zip(offsets, parts, strict=True)])

        self._remote.each(keep, small)

    def put_value(self, codec: str, parts: Sequence[Buffer | Stream], /, *, durable: bool = True) -> Digest:
        """Keep an artifact that has no manifest yet, hashed while it is written, and return its digest."""
        if values.total(parts) >= LARGE:
            return self._put_large(parts, codec=codec)
        packed = values.seal(values.Encoded(codec, "", tuple(map(values.whole, parts))))
        self.put_all([(packed.digest, packed.parts)], durable=durable)
        return packed.digest

    def _put_large(
        self, parts: Sequence[Buffer | Stream], *, codec: str | None = None, digest: Digest | None = None
    ) -> Digest:
        try:
            return self._large.put(parts, codec=codec, digest=digest, durable=False)
        except OSError as error:
            raise StoreError(
                f"{self.folder}, where a large value lies until it is sent to {self.url}, cannot be written: "
                f"{error.strerror or error}.",
                "Free some space, or name another folder in MLBENCH_CACHE.",
            ) from error

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
            met = {name: self._notes.meet(f"packs/{name}") for name in {place.pack for place in places.values()}}
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
        data = self._reader.object(digest)
        if data is None:
            if (recipe := self._recipe(digest)) is not None:
                return bytes(recipe.parts[0].data)
            try:
                return bytes(self._reader.from_packs(digest)[0])
            except NotFound:
                return self._chunk(digest)
        if f"blake3:{values.digest_of(data)}" == digest:
            return bytes(data)
        return bytes(checked(digest, data, data.nbytes)[0])

    def get_parts(self, digest: Digest, /) -> list[memoryview]:
        """Return the parts of an artifact; large ones are private maps of a file on this machine."""
        if not is_digest(digest):
            raise NotFound(f"{digest!r} is not a digest.")
        try:
            data = self._reader.object(digest)
        except ArtifactCorrupt:
            with suppress(NotFound):  # it may have been packed as well
                return self._reader.from_packs(digest)
            raise
        if data is None:
            recipe = self._recipe(digest)
            return self._reader.from_packs(digest) if recipe is None else self._large.read(digest, recipe)
        return checked(digest, data, data.nbytes, hashed=False)

    def get_many(self, digests: Sequence[Digest], /, *, packs: Sequence[Digest] = ()) -> list[list[memoryview]]:
        """Return the parts of many artifacts; of packs no more is fetched than is needed, objects several at once."""
        found: dict[Digest, list[memoryview]] = {}
        wanted = [one for one in dict.fromkeys(digests) if is_digest(one)]
        first = [pack.partition(":")[2] for pack in packs if is_digest(pack)]
        if first:
            self._reader.read_places(self._packs.find(wanted, first=first, newest=len(first))[0], found)
        left = [one for one in wanted if one not in found and self._cache.find(object_name(one)) is None]
        if left:
            self._reader.read_places(self._packs.find(left)[0], found)
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
        names = (object_name(digest), recipe_name(digest))
        return any(self._remote.find(name) is not None for name in names) or bool(self._packs.find([digest])[0])

    def touch(self, digests: Iterable[Digest], /) -> bool:
        """Note that these are needed from now on; return False if one is not kept."""
        asked = list(dict.fromkeys(digests))
        wanted = [one for one in asked if is_digest(one)]
        for _ in range(_LOOKS):  # a pack may be made anew, with less in it, between two calls
            places, _damaged = self._packs.find(wanted)
            alone = [one for one in wanted if one not in places]
            packs = list({place.pack for place in places.values()})
            met = self._remote.each(lambda name: self._notes.meet(f"packs/{name}"), packs)
            gone = [name for name, there in zip(packs, met, strict=True) if not there]
            for name in gone:
                self._packs.forget(name)
            if not all(self._remote.each(self._meet_alone, alone)):
                return False
            if not gone:
                return len(wanted) == len(asked)
        return False

    def _meet_alone(self, digest: Digest) -> bool:
        return self._notes.meet(object_name(digest)) or self._large.meet(digest, durable=False)

    def verify(self, digest: Digest, /) -> None:
        """Read everything kept under a digest. Raise `ArtifactCorrupt` if a bit of it is not what it should be."""
        if not is_digest(digest):
            raise NotFound(f"{digest!r} is not a digest.")
        data = self._reader.object(digest)
        if data is not None:
            check(digest, data)
        elif (recipe := self._recipe(digest)) is not None:
            check_parts(digest, self._large.read(digest, recipe))
        else:
            self._reader.from_packs(digest)

    def set_aside(self, digest: Digest, /) -> None:
        """Take a damaged object out of the way, so that whoever makes it again can keep it."""
        if not is_digest(digest):
            return
        with suppress(ValueError):
            if (recipe := self._large.recipe(digest)) is not None:
                self._set_aside_chunks(recipe)
        self._remove(object_name(digest))
        self._remove(recipe_name(digest))

    def chunked(self) -> Iterator[tuple[Digest, tuple[Digest, ...]]]:
        """Yield the artifacts that are kept in chunks, each with the digests of these."""
        yield from self._large.all()

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

    def records_of(self, kind: str, owners: Collection[str], since: int, /) -> Iterator[Piece]:
        """Yield the records of a kind whose ids are one of these, a hyphen and more, the oldest first."""
        return self._records.pieces(since, lambda name: is_of(name, kind, owners))

    def find_record(self, kind: str, identifier: str, /) -> Json | None:
        """Return the latest record of a kind and id written in this month or the one before, if there is one."""
        return self._records.find(kind, identifier)

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
        if there is None or there.size != size or not self._notes.meet(name, there):
            self._remote.replace(name, size, pieces)
            self._cache.keep(name, size, pieces)

    def _is_whole(self, digest: Digest, parts: Sequence[Buffer]) -> bool:
        there = self._remote.find(object_name(digest))
        return there is not None and there.size == values.layout(parts)[2] and self._notes.meet(there.name, there)

    def _recipe(self, digest: Digest) -> Recipe | None:
        try:
            return self._large.recipe(digest)
        except ValueError as error:
            raise ArtifactCorrupt.at(digest, str(error)) from error

    def _chunk(self, digest: Digest) -> bytes:
        """Return the bytes of a chunk of something."""
        for place in self._large.packs.find([digest])[0].values():
            with suppress(FileNotFoundError):
                data = self._remote.read(f"chunks/{place.pack}", place.offset, place.offset + place.size)
                if f"blake3:{values.digest_of(data)}" != digest:
                    raise ArtifactCorrupt.at(digest, digest_shown(f"blake3:{values.digest_of(data)}"))
                return data
        raise NotFound(f"The store {self.url} has no object {digest}.")

    def _set_aside_chunks(self, recipe: Recipe) -> None:
        """Make the packs anew that damaged chunks of an artifact lie in, without these."""
        packs = {place.pack for place in self._large.packs.find(recipe.chunks())[0].values()}
        for name in packs:
            piece = Piece("pack", f"blake3:{name}", 0, 0)
            if not (damaged := self.damaged(piece)):
                continue
            with suppress(ArtifactCorrupt):  # its index is: then nothing in it can be told apart
                self.repack(Digest(piece.name), set(self.contents(Digest(piece.name))) - damaged.keys())
            self.free(piece)
