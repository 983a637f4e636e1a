"""Where things lie under a store's URL."""

from __future__ import annotations

from mlbench.backends.blobs_local.packs import CHUNKS
from mlbench.backends.blobs_local.recording import is_record_name
from mlbench.core.ids import Digest, is_digest
from mlbench.core.ports import Piece
from mlbench.runs.chunks import is_recipe

__all__ = ["goes", "names_of", "object_name", "recipe_name"]


def object_name(digest: Digest) -> str:
    """Return where an object lies."""
    return f"objects/{digest[7:9]}/{digest[7:]}"


def recipe_name(digest: Digest) -> str:
    """Return where the recipe of an artifact that is kept in chunks lies."""
    return f"large/{digest[7:]}"


def names_of(piece: Piece) -> tuple[str, ...]:
    """Return where a file may lie. Raise `ValueError` if its name is none, and could lead elsewhere."""
    if piece.kind == "record":
        if not is_record_name(piece.name):
            raise ValueError(f"not a record's name: {piece.name!r}")
        return (f"records/{piece.name}.json",)
    digest = Digest(piece.name)
    if not is_digest(digest):
        raise ValueError(f"not a digest: {piece.name!r}")
    if piece.kind == "object":
        return object_name(digest), recipe_name(digest)
    return f"packs/{digest[7:]}", f"chunks/{digest[7:]}"


def goes(piece: Piece, data: bytes | memoryview) -> str:
    """Return where a file with such bytes belongs."""
    names = names_of(piece)
    if piece.kind == "record":
        return names[0]
    return names[is_recipe(data) if piece.kind == "object" else bytes(data[: len(CHUNKS)]) == CHUNKS]
