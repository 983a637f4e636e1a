"""What takes care of a store reads and removes: its files, one by one, whichever kind they are of."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Literal

from mlbench.backends.blobs_local.checks import check, checked, places_in, problems
from mlbench.backends.blobs_local.files import make_folders, read_range, sync_all, write_files
from mlbench.backends.blobs_local.large import Large
from mlbench.backends.blobs_local.packs import CHUNKS, Packs, Place, lay_out, lay_out_chunks, open_plain
from mlbench.backends.blobs_local.recording import RECORD, decode, is_of, is_record_name, is_torn, month_of
from mlbench.core.errors import ArtifactCorrupt, NotFound, StoreError
from mlbench.core.ids import Digest, is_digest
from mlbench.core.ports import Piece
from mlbench.core.records import Json
from mlbench.runs.chunks import is_recipe

__all__ = ["FULL", "Care", "gone", "read_record"]

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})

_HEX: Final = re.compile(r"[0-9a-f]{64}")
_FREED: Final = re.compile(r"freed-(object|pack)-([0-9a-f]{64})")
"""What is about to be removed lies under such a name in `tmp/` while its time is looked at once more."""


class Care:
    """The part of `LocalBlobs` that looks at files, not at values; `root` is the store's directory."""

    root: Path
    _objects: str
    _tmp: str
    _packs: Packs
    _large: Large
    _unsettled: set[str]
    _ready: bool

    def pieces(self, kind: Literal["object", "pack", "record"], /) -> Iterator[Piece]:
        """Yield the files of a kind, records the oldest first."""
        with self._clear_errors():
            if kind == "record":
                yield from self._records()
                return
            folders = [self._packs.folder, self._large.packs.folder]
            if kind == "object":
                folders = [one for one in sorted(_entries(self._objects)) if len(os.path.basename(one)) == 2]
                folders.append(self._large.folder)
            for folder in folders:
                for path in sorted(_entries(folder)):
                    name = os.path.basename(path)
                    if _HEX.fullmatch(name) and (found := _stat(path)) is not None:
                        yield Piece(kind, f"blake3:{name}", found.st_size, found.st_mtime_ns)

    def records_of(self, kind: str, owners: Collection[str], since: int, /) -> Iterator[Piece]:
        """Yield the records of a kind whose ids are one of these, a hyphen and more, the oldest first."""
        with self._clear_errors():
            yield from self._records(month_of(since), lambda name: is_of(name, kind, owners))

    def contents(self, pack: Digest, /) -> dict[Digest, int]:
        """Return the sizes of the artifacts in a pack."""
        if not is_digest(pack):
            raise NotFound(f"{pack!r} is not a digest.")
        places = self._index(pack, self._bytes(Piece("pack", pack, 0, 0)))
        return {digest: place.size for digest, place in places.items()}

    def damaged(self, piece: Piece, /) -> dict[str, str]:
        """Read all of a file and return what is wrong in it."""
        try:
            data = self._bytes(piece)
        except NotFound:
            return {}
        except ArtifactCorrupt as error:
            return {piece.name: error.message}
        found = self._problems(piece, data)
        if found:  # a disk may have changed it by itself: who once found it whole is to look again
            with suppress(OSError):
                os.utime(self._where(piece), follow_symlinks=False)
        return found

    def read_piece(self, piece: Piece, /) -> memoryview:
        """Return a file's bytes, which are what its name says."""
        data = self._bytes(piece)
        if piece.kind == "record" and is_torn(piece.name, bytes(data)):
            raise NotFound(f"A power cut has left nothing of the record {piece.name}.")
        for name, problem in self._problems(piece, data).items():
            raise ArtifactCorrupt(problem, f"Look what needs {name}: `mlbench store verify`.")
        return data

    def read_record(self, piece: Piece, /) -> Json:
        """Return the record in a file."""
        try:
            with self._clear_errors():
                return read_record(self._where(piece))
        except StoreError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise NotFound(f"The store {self.root} has no record {piece.name}.") from error
            raise

    def write_pieces(self, pieces: Sequence[tuple[Piece, bytes | memoryview]], /) -> None:
        """Keep files as another store had them, durably."""
        for piece, data in pieces:
            for name, problem in self._problems(piece, memoryview(data)).items():
                raise ArtifactCorrupt(problem, f"Look what needs {name}: `mlbench store verify`.")
        with self._clear_errors():
            paths = [self._goes(piece, data) for piece, data in pieces]
            for path in paths:
                make_folders(os.path.dirname(path), below=os.fspath(self.root))
            files = [(path, len(data), [(0, data)]) for path, (_, data) in zip(paths, pieces, strict=True)]
            write_files(self._tmp, files, durable=True)

    def repack(self, pack: Digest, keep: Collection[Digest], /) -> Digest | None:
        """Keep some artifacts of a pack in a pack of their own, durably; the pack itself stays."""
        data = self._bytes(Piece("pack", pack, 0, 0))
        places = self._index(pack, data)
        chosen = [(digest, places[digest]) for digest in places if digest in keep]
        if not chosen:
            return None
        chosen.sort(key=lambda one: one[1].offset)
        inside = [(digest, data[offset : offset + size]) for digest, (_, offset, size) in chosen]
        if of_chunks := bytes(data[: len(CHUNKS)]) == CHUNKS:
            for digest, one in inside:
                check(digest, one)
            name, size, laid = lay_out_chunks(inside)
        else:
            name, size, laid = lay_out([(digest, checked(digest, one, one.nbytes)) for digest, one in inside])
        packs = self._large.packs if of_chunks else self._packs
        with self._clear_errors():
            write_files(self._tmp, [(packs.path(name), size, laid)], durable=True)
        return Digest(f"blake3:{name}")

    def free(self, piece: Piece, /, *, before: int | None = None) -> bool:
        """Remove a file, unless its time is not before `before`."""
        path = self._where(piece)
        aside = os.path.join(self._tmp, f"freed-{piece.kind}-{piece.name.partition(':')[2]}")
        with self._clear_errors():
            try:
                if before is None or piece.kind == "record":
                    os.unlink(path)
                    self._unsettled.add(os.path.dirname(path))
                    return True
                if os.lstat(path).st_mtime_ns >= before:
                    return False
                os.rename(path, aside)
                if os.lstat(aside).st_mtime_ns >= before:  # somebody has met it since
                    _put_back(aside, path)
                    return False
                os.unlink(aside)
            except FileNotFoundError:
                return False
        return True

    def settle(self) -> None:
        """Have the files that were removed so far stay away."""
        with self._clear_errors():
            sync_all(list(self._unsettled))
        self._unsettled.clear()

    def sweep(self, before: int, /, *, dry_run: bool = False) -> int:
        """Remove what killed writers left half-written, and put back what was being removed by a killed process."""
        freed = 0
        with self._clear_errors():
            for path in _entries(self._tmp):
                if (taken := _FREED.fullmatch(os.path.basename(path))) is not None:
                    if not dry_run:
                        piece = Piece("object" if taken[1] == "object" else "pack", f"blake3:{taken[2]}", 0, 0)
                        with suppress(FileNotFoundError):
                            _put_back(path, self._goes(piece, _head(path)))
                    continue
                found = _stat(path)
                if found is not None and found.st_mtime_ns < before:
                    freed += found.st_size
                    if not dry_run:
                        with suppress(FileNotFoundError):
                            os.unlink(path)
        return freed

    # --- files --------------------------------------------------------------------------------------------------------

    def _records(self, first: str = "", wanted: Callable[[str], object] = RECORD.fullmatch) -> Iterator[Piece]:
        """Yield the records of a month and those after it whose files' names are wanted."""
        for year in sorted(_entries(os.path.join(self.root, "records"))):
            for month in sorted(_entries(year)):
                folder = f"{os.path.basename(year)}/{os.path.basename(month)}"
                for path in sorted(_entries(month)) if folder >= first else ():
                    file = os.path.basename(path)
                    if wanted(file) and (found := _stat(path)) is not None:
                        yield Piece("record", f"{folder}/{file.removesuffix('.json')}", found.st_size, int(file[:19]))

    def _where(self, piece: Piece) -> str:
        if piece.kind == "record":
            if not is_record_name(piece.name):
                raise ValueError(f"not a record's name: {piece.name!r}")
            return os.path.join(self.root, "records", *f"{piece.name}.json".split("/"))
        digest = Digest(piece.name)
        if not is_digest(digest):
            raise ValueError(f"not a digest: {piece.name!r}")
        first, second = self._places_of(piece)
        return second if not os.path.lexists(first) and os.path.lexists(second) else first

    def _places_of(self, piece: Piece) -> tuple[str, str]:
        """Return where an object or a pack lies, or, where that is a recipe or holds chunks."""
        digest = Digest(piece.name)
        if piece.kind == "object":
            return self._path(digest), self._large.path(digest)
        name = digest.partition(":")[2]
        return self._packs.path(name), self._large.packs.path(name)

    def _goes(self, piece: Piece, data: bytes | memoryview) -> str:
        """Return where a file with such bytes belongs."""
        if piece.kind == "record":
            return self._where(piece)
        self._where(piece)
        special = is_recipe(data) if piece.kind == "object" else bytes(data[: len(CHUNKS)]) == CHUNKS
        return self._places_of(piece)[special]

    def _bytes(self, piece: Piece) -> memoryview:
        path = self._where(piece)
        with self._clear_errors():
            try:
                file = open_plain(path)
            except FileNotFoundError as error:
                raise NotFound(f"The store {self.root} has no {piece.kind} {piece.name}.") from error
            except ValueError as error:
                raise ArtifactCorrupt.at(piece.name, str(error)) from error
            try:
                return read_range(file, 0, os.fstat(file).st_size)
            finally:
                os.close(file)

    def _problems(self, piece: Piece, data: memoryview) -> dict[str, str]:
        """Return what is wrong in the bytes of a file, by digest or name."""
        self._where(piece)
        return problems(piece, data)

    def _index(self, pack: Digest, data: memoryview) -> dict[Digest, Place]:
        return places_in(pack, data)

    def _path(self, digest: Digest) -> str:
        name = digest.partition(":")[2]
        return f"{self._objects}{os.sep}{name[:2]}{os.sep}{name}"

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        """Say what the system says about the disk as one sentence that names the store."""
        try:
            yield
        except OSError as error:
            if error.errno in FULL:
                raise StoreError(
                    f"There is no space left on {self.root}.", "Free some, or name another directory in MLBENCH_STORE."
                ) from error
            if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}:
                raise StoreError(
                    f"The store {self.root} cannot be written: {os.strerror(error.errno)}.",
                    "Make the directory writable, or name another in MLBENCH_STORE.",
                ) from error
            if self._ready and error.errno == errno.ENOENT and not os.path.isfile(os.path.join(self.root, "format")):
                raise gone(self.root) from error
            raise StoreError(
                f"The store {self.root} cannot be used: {error.strerror or error}.", "Look at the disk that it lies on."
            ) from error


def gone(root: str | Path) -> StoreError:
    """Return what is said of a store that was there and is not any more."""
    return StoreError(
        f"The store {root} is not there any more.",
        "Bring it back, or mount its disk. To begin a new one there, restart the kernel.",
    )


def _entries(folder: str) -> list[str]:
    try:
        return [os.path.join(folder, name) for name in os.listdir(folder)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _stat(path: str) -> os.stat_result | None:
    """Return what is known of a file, `None` if it is gone or a folder."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    return None if stat.S_ISDIR(found.st_mode) else found


def _head(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(16)


def _put_back(aside: str, path: str) -> None:
    with suppress(FileExistsError, FileNotFoundError):  # written anew meanwhile, or put back by another process
        os.link(aside, path)
    with suppress(FileNotFoundError):
        sync_all([os.path.dirname(path)])  # else a power cut might take the new name and not bring back the old one
    with suppress(FileNotFoundError):
        os.unlink(aside)


def read_record(path: str) -> Json:
    """Return the record in a file. Raise `StoreError` if it is none."""
    with open(path, "rb") as file:
        return decode(file.read(), path)
