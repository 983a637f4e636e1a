"""The packs of a store under a URL: their indexes are fetched once, each by two requests, and kept in memory."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Final

from mlbench.backends.blobs_fsspec.cache import ReadCache
from mlbench.backends.blobs_fsspec.remote import Remote
from mlbench.backends.blobs_local.packs import Index, Packs

__all__ = ["RemotePacks"]

_LISTED: Final = 1.0
"""Seconds for which a list of the packs is taken for true."""

_TAIL: Final = 64 << 10
"""So many bytes of a pack's end are asked for at once: the index of a thousand artifacts is among them."""


class RemotePacks(Packs):
    """Finds what lies in the packs of a store. Calls may come from several threads."""

    def __init__(self, remote: Remote, cache: ReadCache, name: str = "packs") -> None:
        super().__init__(cache.path(name))
        self._remote = remote
        self._cache = cache
        self._name = name
        self._sizes: dict[str, int] = {}
        self._listed = float("-inf")

    def names(self) -> list[str]:
        """Return the names of all packs, the newest first."""
        with self._lock:
            if time.monotonic() - self._listed > _LISTED:
                began = time.monotonic()
                found = [(one.time, one.name.rpartition("/")[2], one.size) for one in self._remote.entries(self._name)]
                self._names = [name for _, name, _ in sorted(found, reverse=True)]
                self._sizes = {name: size for _, name, size in found}
                self._indexes = {name: index for name, index in self._indexes.items() if name in self._sizes}
                self._listed = began
            return self._names

    def look_again(self) -> None:
        """Have the packs listed anew when they are asked for."""
        with self._lock:
            self._listed = float("-inf")

    def forget(self, name: str) -> None:
        """Know nothing of a pack any more."""
        with self._lock:
            self._indexes.pop(name, None)
            self._listed = float("-inf")

    def size(self, name: str) -> int | None:
        """Return a pack's size in bytes, `None` if it is gone."""
        with self._lock:
            size = self._sizes.get(name)
        if size is None and (found := self._remote.find(f"{self._name}/{name}")) is not None:
            size = found.size
        return size

    def index(self, name: str) -> Index | None:
        """Return what a pack holds, `None` if it is gone. Raise `ValueError` if it is damaged."""
        with self._lock:
            known = self._indexes.get(name)
        if known is not None:
            return known
        if self._cache.find(f"{self._name}/{name}") is not None:  # as it came, or was written here
            with suppress(ValueError):
                if (index := super().index(name)) is not None:
                    return index
        size = self.size(name)
        if size is None:
            return None
        try:
            begin = max(size - _TAIL, 0)
            tail = self._remote.read(f"{self._name}/{name}", begin, size)

            def read(offset: int, count: int) -> bytes:
                if offset >= begin:
                    return tail[offset - begin : offset - begin + count]
                return self._remote.read(f"{self._name}/{name}", offset, offset + count)

            index = Index(name, size, read)
        except FileNotFoundError:
            self.forget(name)
            return None
        return self.remember(name, index)
