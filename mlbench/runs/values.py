"""Values as bytes and back: codecs, canonical digests, the layout of a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlbench.core.ids import Digest

Reduce = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Packed:
    """A value as bytes: `parts[0]` is the canonical manifest, whose blake3 is `digest`."""

    codec: str
    type: str
    parts: tuple[bytes | memoryview, ...]
    digest: Digest
    size: int


def pack(value: Any, *, reduce: Reduce | None = None) -> Packed:
    """Return a value as bytes. Raise whatever pickle raises."""
    raise NotImplementedError


def unpack(codec: str | None, parts: Sequence[bytes | memoryview], *, namespace: Mapping[str, Any] | None = None) -> Any:
    """Return the value that `pack` was given."""
    raise NotImplementedError


def join(parts: Sequence[bytes | memoryview]) -> bytes:
    """Return parts as one run of bytes, for a socket."""
    raise NotImplementedError


def split(data: bytes | memoryview) -> list[memoryview]:
    """Return the parts that `join` was given, without copying."""
    raise NotImplementedError
