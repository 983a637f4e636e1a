"""What is fetched from a store under a URL: checked, kept on this machine, and mapped."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

from mlbench.backends.blobs_fsspec.cache import ReadCache
from mlbench.backends.blobs_fsspec.names import object_name
from mlbench.backends.blobs_fsspec.packs import RemotePacks
from mlbench.backends.blobs_fsspec.remote import Entry, Remote
from mlbench.backends.blobs_local.checks import check, checked, nowhere_but_in, problems
from mlbench.backends.blobs_local.files import read_range, write_all
from mlbench.backends.blobs_local.packs import Place, open_plain
from mlbench.core.errors import ArtifactCorrupt, NotFound, StoreError
from mlbench.core.ids import Digest
from mlbench.core.ports import Piece

__all__ = ["WHOLE", "Reader"]

WHOLE: Final = 8 << 20
"""What is no larger is fetched into memory, and a pack whole; of a larger pack, if an eighth of it is needed."""


class Reader:
    """Reads the objects and packs under a URL. Calls may come from several threads."""

    def __init__(self, remote: Remote, cache: ReadCache, packs: RemotePacks) -> None:
        self._remote = remote
        self._cache = cache
        self._packs = packs

    def object(self, digest: Digest) -> memoryview | None:
        """Return an object's bytes, checked when they came; `None` if it is no object of its own."""
        name = object_name(digest)
        if (path := self._cache.find(name)) is not None:
            with suppress(FileNotFoundError, ArtifactCorrupt, ValueError):  # it is fetched again then
                data = _mapped(path)
                check(digest, data)
                return data
            self._cache.drop(name)
        there = self._remote.find(name)
        if there is None:
            return None
        try:
            return self.fetch(there, name, lambda data: check(digest, data))
        except FileNotFoundError:
            return None

    def from_packs(self, digest: Digest) -> list[memoryview]:
        """Return the parts of an artifact that lies in a pack, or in several of which one has it whole."""
        without: list[str] = []
        damaged: list[str] = []
        while True:
            places, bad = self._packs.find([digest], without=without)
            damaged += bad
            found: dict[Digest, list[memoryview]] = {}
            problem = self.read_places(places, found)
            if found:
                return found[digest]
            if not places:
                break
            without += [place.pack for place in places.values()]
            damaged += problem
        if damaged:
            raise nowhere_but_in(damaged, digest)
        raise NotFound(f"The store {self._remote.url} has no object {digest}.")

    def read_places(self, places: Mapping[Digest, Place], found: dict[Digest, list[memoryview]]) -> list[str]:
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
            if size <= WHOLE or 8 * sum(place.size for place in inside.values()) >= size:
                whole = self.fetch(Entry(f"packs/{name}", size, 0), f"packs/{name}", lambda _: None)
        if whole is not None:
            return {digest: whole[offset : offset + size] for digest, (_, offset, size) in inside.items()}

        def read(place: Place) -> memoryview:
            return memoryview(bytearray(self._remote.read(f"packs/{name}", place.offset, place.offset + place.size)))

        return dict(zip(inside, self._remote.each(read, list(inside.values())), strict=True))

    def bring(self, there: Entry, piece: Piece) -> None:
        """Have a whole file on this machine. Raise `FileNotFoundError` if it is gone, `ValueError` if damaged."""

        def verify(data: memoryview) -> None:
            for problem in problems(piece, data).values():
                raise ValueError(problem)

        gone: list[FileNotFoundError] = []
        if self._cache.take_in(there.name, there.size, self._filling(there, verify, gone), needed=True) is None:
            if gone:
                raise gone[0]
            raise StoreError(
                f"There is no space left in {self._cache.folder}, where what is read of {self._remote.url} lies.",
                "Free some, or name another folder in MLBENCH_CACHE.",
            )

    def fetch(self, there: Entry, name: str, verify: Callable[[memoryview], None]) -> memoryview:
        """Return bytes from there, as the map of a file that is kept here if they are many; they may be written to.

        Raise `FileNotFoundError`, or what `verify` raises.
        """
        if there.size > WHOLE:
            gone: list[FileNotFoundError] = []

            path = self._cache.take_in(name, there.size, self._filling(there, verify, gone))
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
        if there.size <= WHOLE and not name.startswith("tmp/"):
            self._cache.keep(name, there.size, [(0, data)])
        return data

    def _filling(
        self, there: Entry, verify: Callable[[memoryview], None], gone: list[FileNotFoundError]
    ) -> Callable[[int], None]:
        """Return what fills a file with bytes from there; that they are gone is an error of its own."""

        def fill(file: int) -> None:
            try:
                self._remote.fetch(
                    there.name, there.size, lambda offset, block: write_all(file, memoryview(block), offset)
                )
            except FileNotFoundError as error:
                gone.append(error)
                raise
            verify(read_range(file, 0, there.size))

        return fill


def _mapped(path: str) -> memoryview:
    file = open_plain(path)
    try:
        return read_range(file, 0, os.fstat(file).st_size)
    finally:
        os.close(file)
