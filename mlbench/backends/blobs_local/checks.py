"""Whether bytes are what their digest promises."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mlbench.backends.blobs_local.packs import Index, Place
from mlbench.backends.blobs_local.recording import problems_of_record
from mlbench.core.errors import ArtifactCorrupt
from mlbench.core.ids import Digest, digest_shown
from mlbench.core.ports import Piece
from mlbench.runs import values
from mlbench.runs.chunks import Recipe, is_recipe

__all__ = ["check", "check_parts", "checked", "nowhere_but_in", "places_in", "problems"]


def check(digest: Digest, data: memoryview) -> None:
    """Raise `ArtifactCorrupt` if bytes are not those of a digest, nor of an artifact that has it, nor its recipe."""
    if f"blake3:{values.digest_of(data)}" == digest:
        return
    if not is_recipe(data):
        checked(digest, data, data.nbytes)
        return
    try:
        recipe = Recipe.from_bytes(data)
    except ValueError as error:
        raise ArtifactCorrupt.at(digest, str(error)) from error
    if not recipe.parts or f"blake3:{values.digest_of(recipe.parts[0].data)}" != digest:
        raise ArtifactCorrupt.at(digest, "the list of another artifact's chunks")


def checked(digest: Digest, data: memoryview, size: int, *, hashed: bool = True) -> list[memoryview]:
    """Return the parts of an artifact's file if they are what its digest promises."""
    try:
        parts = values.split(data)
        parts[0]
    except (ArtifactCorrupt, IndexError) as error:
        raise ArtifactCorrupt.at(digest, f"{size:,} bytes that are no artifact") from error
    check_parts(digest, parts, hashed=hashed)
    if not hashed and values.layout(parts)[2] != size:
        raise ArtifactCorrupt.at(digest, f"{size:,} bytes of other parts than its manifest names")
    return parts


def check_parts(digest: Digest, parts: Sequence[memoryview], *, hashed: bool = True) -> None:
    """Raise `ArtifactCorrupt` if the parts of an artifact, manifest first, are not what its digest promises."""
    if hashed and values.are_whole(digest, parts):
        return
    manifest = parts[0]
    if (found := f"blake3:{values.digest_of(manifest)}") != digest:
        raise ArtifactCorrupt.at(digest, digest_shown(found))
    codec, promised = values.read_manifest(manifest)
    named = parts[1 : len(promised) + 1]
    more = len(parts) - 1 - len(named)
    if [part.nbytes for part in named] != [length for _, length in promised] or more > (codec in values.NOTED):
        size = sum(part.nbytes for part in parts)
        raise ArtifactCorrupt.at(digest, f"{size:,} bytes of other parts than its manifest names")
    if hashed:
        for part, (expected, _) in zip(named, promised, strict=True):
            if (found := values.digest_of(part)) != expected:
                raise ArtifactCorrupt.at(digest, _other(found, expected))


def _other(found: str, expected: str) -> str:
    return f"a part {digest_shown(f'blake3:{found}')} in the place of {digest_shown(f'blake3:{expected}')}"


def nowhere_but_in(damaged: Iterable[str], digest: Digest) -> ArtifactCorrupt:
    """Return the error of what is nowhere whole, where packs are damaged that may hold it."""
    packs = ", ".join(dict.fromkeys(digest_shown(f"blake3:{pack}") for pack in damaged))
    return ArtifactCorrupt.at(digest, f"nothing but damaged packs, one of which may hold it: {packs}")


def places_in(pack: Digest, data: memoryview) -> dict[Digest, Place]:
    """Return where everything lies in the bytes of a pack. Raise `ArtifactCorrupt` if its index is damaged."""
    try:
        name = pack.partition(":")[2]
        return dict(Index(name, data.nbytes, lambda offset, size: data[offset : offset + size]))
    except ValueError as error:
        raise ArtifactCorrupt.at(pack, str(error)) from error


def problems(piece: Piece, data: memoryview) -> dict[str, str]:
    """Return what is wrong in the bytes of a store's file, by digest or name."""
    if piece.kind == "record":
        return problems_of_record(piece.name, bytes(data))
    digest = Digest(piece.name)
    try:
        if piece.kind == "object":
            check(digest, data)
            return {}
        places = places_in(digest, data)
    except ArtifactCorrupt as error:
        return {digest: error.message}
    found: dict[str, str] = {}
    for inside, (_, offset, size) in places.items():
        try:
            check(inside, data[offset : offset + size])
        except ArtifactCorrupt as error:
            found[inside] = error.message
    return found
