"""Objects and records in a directory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from mlbench.core.ids import Digest
from mlbench.core.records import Json


class LocalBlobs:
    """A store's directory: `objects/`, `records/`, `tmp/`, `format`. Made (0700) if it is not there."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def put(self, data: bytes | memoryview, /, *, durable: bool = True) -> Digest:
        raise NotImplementedError

    def put_parts(self, digest: Digest, parts: Sequence[bytes | memoryview], /, *, durable: bool = True) -> None:
        raise NotImplementedError

    def get(self, digest: Digest, /) -> bytes:
        raise NotImplementedError

    def get_parts(self, digest: Digest, /) -> list[memoryview]:
        raise NotImplementedError

    def has(self, digest: Digest, /) -> bool:
        raise NotImplementedError

    def append(self, kind: str, identifier: str, record: Json, /, *, durable: bool = True) -> None:
        raise NotImplementedError

    def records(self, kind: str | None = None, /) -> Iterator[Json]:
        raise NotImplementedError

    def find_record(self, kind: str, identifier: str, /) -> Json | None:
        raise NotImplementedError
