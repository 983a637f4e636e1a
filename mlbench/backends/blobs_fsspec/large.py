"""Large artifacts of a store under a URL: cut on this machine, and sent; fetched, and mapped side by side."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Final

from mlbench.backends.blobs_fsspec.cache import ReadCache
from mlbench.backends.blobs_fsspec.names import object_name, recipe_name
from mlbench.backends.blobs_fsspec.notes import Notes
from mlbench.backends.blobs_fsspec.packs import RemotePacks
from mlbench.backends.blobs_fsspec.remote import Entry, Remote
from mlbench.backends.blobs_local.files import read_range
from mlbench.backends.blobs_local.large import Large
from mlbench.backends.blobs_local.packs import Place, open_plain
from mlbench.core.ids import Digest
from mlbench.core.ports import Piece
from mlbench.runs.chunks import Recipe

__all__ = ["RemoteLarge"]

_TOGETHER: Final = 256
"""Recipes that are fetched at once."""


class RemoteLarge(Large):
    """The large artifacts of a store under a URL.

    What is new of one is written into the folder on this machine, where it stays to be read, and sent from there: its
    chunks first, then its recipe. What is read is fetched pack by pack, and checked.

    Parameters
    ----------
    remote, cache, notes
        The store's.
    bring
        Brings a file into the cache. Raises `FileNotFoundError` if it is gone, `ValueError` if it is damaged.
    """

    compared = 32

    def __init__(self, remote: Remote, cache: ReadCache, notes: Notes, bring: Callable[[Entry, Piece], None]) -> None:
        super().__init__(os.fspath(cache.folder), cache.path("tmp"), name=remote.url)
        self.remote_packs = RemotePacks(remote, cache, "chunks")
        self.packs = self.remote_packs
        self._remote = remote
        self._cache = cache
        self._notes = notes
        self._bring = bring

    def recipe(self, digest: Digest) -> Recipe | None:
        """Return what an artifact is made of; None if it is not kept in chunks. Raise `ValueError` if it is damaged."""
        name = recipe_name(digest)
        if self._cache.find(name) is not None:
            try:
                if (found := super().recipe(digest)) is not None:
                    return found
            except ValueError:
                self._cache.drop(name)
        try:
            text = self._remote.read(name)
        except FileNotFoundError:
            return None
        recipe = Recipe.from_bytes(text)
        self.check(digest, recipe)
        self._cache.keep(name, len(text), [(0, text)])
        return recipe

    def all(self) -> Iterator[tuple[Digest, tuple[Digest, ...]]]:
        """Yield the artifacts, each with its chunks; those whose recipe is damaged or gone are left out."""
        same: dict[Digest, Digest] = {}
        digests = [Digest(f"blake3:{one.name.rpartition('/')[2]}") for one in self._remote.entries("large")]
        for begin in range(0, len(digests), _TOGETHER):
            some = digests[begin : begin + _TOGETHER]
            for digest, recipe in zip(some, self._remote.each(self._readable, some), strict=True):
                if recipe is not None:
                    yield digest, tuple(same.setdefault(chunk, chunk) for chunk in recipe.chunks())

    def _readable(self, digest: Digest) -> Recipe | None:
        try:
            return self.recipe(digest)
        except ValueError:
            return None

    def place_pack(self, name: str) -> None:
        """Send a pack that was written here."""
        file = open_plain(self.packs.path(name))
        try:
            size = os.fstat(file).st_size
            data = read_range(file, 0, size)
        finally:
            os.close(file)
        there = self._remote.find(f"chunks/{name}")
        if there is None or there.size != size or not self._notes.meet(there.name, there):
            self._remote.replace(f"chunks/{name}", size, [(0, data)])
        self.remote_packs.look_again()
        self._cache.make_space(size)

    def place_recipe(self, digest: Digest, text: bytes, *, durable: bool) -> None:  # noqa: ARG002
        """Send a recipe, all of whose chunks are there."""
        self._remote.replace(recipe_name(digest), len(text), [(0, text)])
        self._cache.keep(recipe_name(digest), len(text), [(0, text)])

    def meet(self, digest: Digest, *, durable: bool) -> bool:  # noqa: ARG002
        """Note that an artifact is needed; return False if it is not there, or not whole."""
        if not self._notes.meet(recipe_name(digest)):
            return False
        recipe = self._readable(digest)
        if recipe is None:
            return False
        places, objects = self._places(recipe)
        if len(places) + len(objects) < len(recipe.chunks()):
            return False
        names = [f"chunks/{name}" for name in {place.pack for place in places.values()}]
        if all(self._remote.each(self._notes.meet, [*names, *map(object_name, objects)])):
            return True
        self.remote_packs.look_again()
        return False

    def meet_pack(self, name: str) -> bool:
        """Note that a pack is needed, which is not freed within a day then; return False if it is gone."""
        if self._notes.meet(f"chunks/{name}"):
            return True
        self.forget([name])
        self.remote_packs.forget(name)
        return False

    def doubted(self, name: str) -> None:
        """Return None: a power cut here does not tear what lies there."""

    def learn(self) -> None:
        """Look which chunks there are in the newest packs."""
        self._remote.each(self._look_into, self.packs.names()[: self.compared])
        super().learn()

    def _look_into(self, name: str) -> None:
        try:
            self.packs.index(name)
        except ValueError:
            return

    def _assemble(self, recipe: Recipe, places: dict[Digest, Place]) -> list[memoryview]:
        wanted = [("pack", f"blake3:{name}", f"chunks/{name}") for name in {place.pack for place in places.values()}]
        wanted += [("object", chunk, object_name(chunk)) for chunk in recipe.chunks() if chunk not in places]
        for kind, digest, name in wanted:
            if self._cache.find(name) is None:
                there = self._remote.find(name)
                if there is None:
                    self.remote_packs.forget(name.rpartition("/")[2])
                    raise FileNotFoundError(name)
                self._bring(there, Piece("pack" if kind == "pack" else "object", digest, there.size, 0))
        try:
            return super()._assemble(recipe, places)
        except ValueError as error:  # here, and perhaps not there: what comes anew is checked on its way
            for _, _, name in wanted:
                self._cache.drop(name)
            raise FileNotFoundError(str(error)) from error

    def _places(self, recipe: Recipe) -> tuple[dict[Digest, Place], set[Digest]]:
        chunks = recipe.chunks()
        places, _ = self.packs.find(chunks, first=[pack.hex() for pack in recipe.packs])
        missing = [one for one in chunks if one not in places]
        there = self._remote.each(lambda chunk: self._remote.find(object_name(chunk)), missing)
        return places, {chunk for chunk, found in zip(missing, there, strict=True) if found is not None}
