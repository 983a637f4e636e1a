"""Large artifacts cut into chunks, so that a later version of one costs what has changed in it.

Each large part of an artifact is cut at multiples of one size, which depends on nothing but the part's own: rows that
are changed in place leave all other chunks as they were, and those are not kept again. A chunk is known by its digest,
as plain bytes are. What an artifact then is in a store is its **recipe**: its small parts, the chunks of its large
ones, and where to look for these first::

    MLBLARG1
    <how many parts> <how many packs>
    for each part: <its size> <the size of its chunks, 0 if it is small>, its bytes or the digests of its chunks
    <packs>
    <blake3 of all of this>

Numbers are little-endian, of 8 bytes; digests have 32. An artifact's digest is that of its manifest, its first part,
and does not depend on how it is cut.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from blake3 import blake3

from mlbench.core.ids import Digest
from mlbench.runs.values import Buffer

__all__ = ["ALIGNED", "LARGE", "PART", "Part", "Recipe", "chunk_size", "is_recipe"]

LARGE: Final = 4 << 20
"""Artifacts of so many bytes are kept in chunks, smaller ones whole."""

PART: Final = 1 << 16
"""Parts of so many bytes are cut, smaller ones lie in the recipe."""

ALIGNED: Final = 1 << 14
"""Chunks lie at multiples of this in a file, so that they can be mapped wherever pages have 4 or 16 KiB."""

_GREATEST: Final = 1 << 20
_CHUNKS: Final = 128
"""A part is cut into so many chunks at least: a changed hundredth of it then touches three of them at most."""

_MAGIC: Final = b"MLBLARG1"
_PAIR = struct.Struct("<QQ")


def chunk_size(size: int) -> int:
    """Return the size of the chunks of a part.

    Examples
    --------
    >>> chunk_size(100_000), chunk_size(10 << 20), chunk_size(1 << 30)
    (16384, 65536, 1048576)
    """
    return min(max(1 << max(size // _CHUNKS, 1).bit_length() - 1, ALIGNED), _GREATEST)


@dataclass(frozen=True, slots=True)
class Part:
    """One part of an artifact: its bytes, or the digests of its chunks, each of `chunk` bytes but for the last."""

    size: int
    chunk: int = 0
    data: bytes | memoryview = b""
    digests: tuple[bytes, ...] = ()

    def sizes(self) -> Iterable[int]:
        """Yield the size of each chunk."""
        for start in range(0, self.size if self.chunk else 0, self.chunk or 1):
            yield min(self.chunk, self.size - start)


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a large artifact is made of; `packs` are a hint: chunks may have been packed anew since."""

    parts: tuple[Part, ...]
    packs: tuple[bytes, ...] = ()

    @property
    def size(self) -> int:
        """The bytes of all parts."""
        return sum(part.size for part in self.parts)

    def chunks(self) -> tuple[Digest, ...]:
        """Return the digests of all chunks, each once.

        Examples
        --------
        >>> Recipe((Part(9), Part(2 << 14, 1 << 14, digests=(b"0" * 32,) * 2))).chunks() == ("blake3:" + "30" * 32,)
        True
        """
        found = dict.fromkeys(digest for part in self.parts for digest in part.digests)
        return tuple(Digest(f"blake3:{digest.hex()}") for digest in found)

    def to_bytes(self) -> bytes:
        """Return it as it lies in a store.

        Examples
        --------
        >>> recipe = Recipe((Part(2, data=b"{}"), Part(2 << 14, 1 << 14, digests=(b"0" * 32, b"1" * 32))), (b"2" * 32,))
        >>> Recipe.from_bytes(recipe.to_bytes()) == recipe
        True
        """
        made = [_MAGIC, _PAIR.pack(len(self.parts), len(self.packs))]
        for part in self.parts:
            made += [_PAIR.pack(part.size, part.chunk), *(part.digests if part.chunk else (part.data,))]
        whole = b"".join((*made, *self.packs))
        return whole + blake3(whole).digest()

    @classmethod
    def from_bytes(cls, data: Buffer) -> Recipe:
        """Return the recipe that lies in bytes.

        Raises
        ------
        ValueError
            If they are none, or damaged.
        """
        whole = bytes(data)
        if not is_recipe(whole) or blake3(whole[:-32]).digest() != whole[-32:]:
            raise ValueError("a list of chunks that is damaged")
        count, packs = _PAIR.unpack_from(whole, len(_MAGIC))
        place = len(_MAGIC) + _PAIR.size
        parts: list[Part] = []
        for _ in range(count):
            size, chunk = _PAIR.unpack_from(whole, place)
            place += _PAIR.size
            if chunk:
                end = place + 32 * -(-size // chunk)
                parts.append(Part(size, chunk, digests=_digests(whole[place:end])))
            else:
                end = place + size
                parts.append(Part(size, data=whole[place:end]))
            place = end
        if place + 32 * packs + 32 != len(whole):
            raise ValueError("a list of chunks that is cut")
        return cls(tuple(parts), _digests(whole[place:-32]))


def _digests(text: bytes) -> tuple[bytes, ...]:
    return tuple(text[start : start + 32] for start in range(0, len(text), 32))


def is_recipe(data: Buffer) -> bool:
    """Say whether bytes begin as a recipe does."""
    return bytes(data[: len(_MAGIC)]) == _MAGIC
