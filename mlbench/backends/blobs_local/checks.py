"""Whether bytes are what their digest promises."""

from __future__ import annotations

from mlbench.core.errors import ArtifactCorrupt
from mlbench.core.ids import Digest
from mlbench.runs import values

__all__ = ["check", "checked", "corrupt"]


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
