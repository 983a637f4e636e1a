"""What takes care of a store under a URL reads and removes: its files, one by one, as they are there."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from typing import Literal

from mlbench.backends.blobs_fsspec.cache import ReadCache
from mlbench.backends.blobs_fsspec.large import RemoteLarge
from mlbench.backends.blobs_fsspec.names import goes, names_of
from mlbench.backends.blobs_fsspec.notes import COARSE, Notes, read_note
from mlbench.backends.blobs_fsspec.packs import RemotePacks
from mlbench.backends.blobs_fsspec.reader import Reader
from mlbench.backends.blobs_fsspec.recordings import Recordings
from mlbench.backends.blobs_fsspec.remote import Entry, Remote
from mlbench.backends.blobs_local.checks import check, checked, places_in, problems
from mlbench.backends.blobs_local.packs import CHUNKS, lay_out, lay_out_chunks
from mlbench.core.errors import ArtifactCorrupt, NotFound
from mlbench.core.ids import Digest, is_digest
from mlbench.core.ports import Piece
from mlbench.core.records import Json

__all__ = ["RemoteCare"]


class RemoteCare:
    """The part of `FsspecBlobs` that looks at files, not at values."""

    url: str
    _remote: Remote
    _cache: ReadCache
    _notes: Notes
    _packs: RemotePacks
    _large: RemoteLarge
    _reader: Reader
    _records: Recordings

    def pieces(self, kind: Literal["object", "pack", "record"], /) -> Iterator[Piece]:
        """Yield the files of a kind, records the oldest first."""
        if kind == "record":
            yield from self._records.pieces()
            return
        met = self._notes.times()
        for folder in ("objects", "large") if kind == "object" else ("packs", "chunks"):
            for entry in self._remote.entries(folder):
                digest = Digest(f"blake3:{entry.name.rpartition('/')[2]}")
                if is_digest(digest) and entry.name in names_of(Piece(kind, digest, 0, 0)):
                    yield Piece(kind, digest, entry.size, max(entry.time, met.get(digest[7:], 0)))

    def contents(self, pack: Digest, /) -> dict[Digest, int]:
        """Return the sizes of what lies in a pack."""
        if not is_digest(pack):
            raise NotFound(f"{pack!r} is not a digest.")
        there = self._find(Piece("pack", pack, 0, 0))
        packs = self._large.packs if there.name.startswith("chunks/") else self._packs
        try:
            index = packs.index(pack[7:])
        except ValueError as error:
            raise ArtifactCorrupt.at(pack, str(error)) from error
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
            names_of(piece)
            for name, problem in problems(piece, memoryview(data)).items():
                raise ArtifactCorrupt(problem, f"Look what needs {name}: `mlbench store verify`.")

        def write(one: tuple[Piece, bytes | memoryview]) -> None:
            name = goes(*one)
            self._remote.replace(name, len(one[1]), [(0, one[1])])
            self._records.forget(name)
            self._cache.drop(name)

        self._remote.each(write, list(pieces))
        self._look_again()

    def repack(self, pack: Digest, keep: Collection[Digest], /) -> Digest | None:
        """Keep some of a pack in a pack of their own; the pack itself stays."""
        data = self._bytes(Piece("pack", pack, 0, 0))
        places = sorted(places_in(pack, data).items(), key=lambda one: one[1].offset)
        chosen = [(digest, data[offset : offset + size]) for digest, (_, offset, size) in places if digest in keep]
        if not chosen:
            return None
        if bytes(data[: len(CHUNKS)]) == CHUNKS:
            for digest, one in chosen:
                check(digest, one)
            folder, (name, size, laid) = "chunks", lay_out_chunks(chosen)
        else:
            whole = [(digest, checked(digest, one, one.nbytes)) for digest, one in chosen]
            folder, (name, size, laid) = "packs", lay_out(whole)
        there = self._remote.find(f"{folder}/{name}")
        if there is None or there.size != size or not self._notes.meet(there.name, there):
            self._remote.replace(f"{folder}/{name}", size, laid)
        self._look_again()
        return Digest(f"blake3:{name}")

    def free(self, piece: Piece, /, *, before: int | None = None) -> bool:
        """Remove a file, unless its time is not before `before`."""
        try:
            there = self._find(piece)
        except NotFound:
            return False
        if before is not None and piece.kind != "record" and not self._notes.remove_old(there, before):
            return False
        self._remove(there.name)
        return True

    def settle(self) -> None:
        """Do nothing: what was removed there does not come back."""

    def sweep(self, before: int, /, *, dry_run: bool = False) -> int:
        """Remove what killed writers left, and notes that no longer matter."""
        freed = 0
        for entry in list(self._remote.entries("tmp")):
            if max(entry.time + COARSE, read_note(entry.name)[1]) < before:
                freed += entry.size
                if not dry_run:
                    self._remote.remove(entry.name)
        return freed + self._remote.abort_uploads(before - COARSE, dry_run=dry_run)

    def read_record(self, piece: Piece, /) -> Json:
        """Return the record in a file."""
        return self._records.read(names_of(piece)[0])

    # --- files --------------------------------------------------------------------------------------------------------

    def _find(self, piece: Piece) -> Entry:
        """Return what is known of a file. Raise `NotFound`."""
        for name in names_of(piece):
            if (there := self._remote.find(name)) is not None:
                return there
        raise NotFound(f"The store {self.url} has no {piece.kind} {piece.name}.")

    def _bytes(self, piece: Piece) -> memoryview:
        """Return a file's bytes as they are there now; large ones as a map of a file that nothing else has."""
        if piece.kind == "record":
            try:
                return memoryview(self._records.bytes(names_of(piece)[0]))
            except FileNotFoundError as error:
                raise NotFound(f"The store {self.url} has no record {piece.name}.") from error
        there = self._find(piece)
        aside = f"tmp/{os.urandom(16).hex()}"
        try:
            return self._reader.fetch(there, aside, lambda _: None)
        except FileNotFoundError as error:
            raise NotFound(f"The store {self.url} no longer has {piece.kind} {piece.name}.") from error
        finally:
            self._cache.drop(aside)  # its map lasts

    def _remove(self, name: str) -> None:
        self._remote.remove(name)
        self._cache.drop(name)
        digits = name.rpartition("/")[2]
        if name.startswith("packs/"):
            self._packs.forget(digits)
        elif name.startswith("chunks/"):
            self._large.forget([digits])
            self._large.remote_packs.forget(digits)
        elif name.startswith("records/"):
            self._records.forget(name)

    def _look_again(self) -> None:
        self._packs.look_again()
        self._large.remote_packs.look_again()
