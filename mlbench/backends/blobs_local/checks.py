"""Whether bytes are what their digest promises."""

from __future__ import annotations

from mlbench.backends.blobs_local.packs import Index, Place
from mlbench.backends.blobs_local.recording import problems_of_record
from mlbench.core.errors import ArtifactCorrupt
from mlbench.core.ids import Digest
from mlbench.core.ports import Piece
from mlbench.runs import values

__all__ = ["check", "checked", "corrupt", "index_of", "problems"]


def check(digest: Digest, data: memoryview) -> None:
    """Raise `ArtifactCorrupt` if bytes are neither those of a digest, nor those of an artifact that has it."""
    if f"blake3:{values.digest_of(data)}" != digest:
        checked(digest, data, data.nbytes)


def corrupt(digest: str, got: str) -> ArtifactCorrupt:
    """Return the error that says what was found in the place of a digest."""
    return ArtifactCorrupt(
        f"The stored object is damaged: expected {digest}, got {got}.",
        "Run what made it again, or restore the store from a backup.",
    )


def checked(digest: Digest, data: memoryview, size: int, *, hashed: bool = True) -> list[memoryview]:
    """Return the parts of an artifact's file if they are what its digest promises."""
    try:
        parts = values.split(data)
        manifest = parts[0]
    except (ArtifactCorrupt, IndexError) as error:
        raise corrupt(digest, f"{size} bytes that are no artifact") from error
    if (found := f"blake3:{values.digest_of(manifest)}") != digest:
        raise corrupt(digest, found)
    codec, promised = values.read_manifest(manifest)
    named = parts[1 : len(promised) + 1]
    more = len(parts) - 1 - len(named)
    if (
        [part.nbytes for part in named] != [length for _, length in promised]
        or more > (codec in values.NOTED)
        or (not hashed and values.layout(parts)[2] != size)
    ):
        raise corrupt(digest, f"{size} bytes of other parts than its manifest names")
    if hashed:
        for part, (expected, _) in zip(named, promised, strict=True):
            if (found := values.digest_of(part)) != expected:
                raise corrupt(f"blake3:{expected} in {digest}", f"blake3:{found}")
    return parts


def index_of(pack: Digest, data: memoryview) -> dict[Digest, Place]:
    """Return where everything lies in the bytes of a pack. Raise `ArtifactCorrupt` if its index is damaged."""
    try:
        name = pack.partition(":")[2]
        return dict(Index(name, data.nbytes, lambda offset, size: data[offset : offset + size]))
    except ValueError as error:
        raise corrupt(pack, f"a pack that is damaged: {error}") from error


def problems(piece: Piece, data: memoryview) -> dict[str, str]:
    """Return what is wrong in the bytes of a store's file, by digest or name."""
    if piece.kind == "record":
        return problems_of_record(piece.name, bytes(data))
    digest = Digest(piece.name)
    try:
        if piece.kind == "object":
            check(digest, data)
            return {}
        places = index_of(digest, data)
    except ArtifactCorrupt as error:
        return {digest: error.message}
    found: dict[str, str] = {}
    for inside, (_, offset, size) in places.items():
        try:
            checked(inside, data[offset : offset + size], size)
        except ArtifactCorrupt as error:
            found[inside] = error.message
    return found
