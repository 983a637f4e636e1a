"""Objects and records in memory."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Literal

from mlbench.core.errors import ArtifactCorrupt, NotFound
from mlbench.core.ids import Digest, is_digest
from mlbench.core.ports import Piece, Stream
from mlbench.core.records import (
    SCHEMA,
    Json,
)
from mlbench.runs import values

__all__ = ["MemoryBlobs"]


class MemoryBlobs:
    """Objects and records in dictionaries."""

    def __init__(self) -> None:
        self._objects: dict[Digest, bytes] = {}
        self._packs: dict[Digest, Digest] = {}
        self._contents: dict[Digest, dict[Digest, bytes]] = {}
        self._records: dict[str, Json] = {}
        self._times: dict[str, int] = {}
        self._claimed: dict[str, object] = {}

    def put(self, data: bytes | memoryview, /, *, durable: bool = True) -> Digest:  # noqa: ARG002  (nothing lasts here)
        digest = Digest(f"blake3:{values.digest_of(data)}")
        self._objects.setdefault(digest, bytes(data))
        self._times[digest] = time.time_ns()
        return digest

    def put_parts(
        self,
        digest: Digest,
        parts: Sequence[bytes | memoryview],
        /,
        *,
        durable: bool = True,  # noqa: ARG002
    ) -> None:
        if not is_digest(digest):
            raise ValueError(f"not a digest: {digest!r}")
        self._objects.setdefault(digest, values.join(parts))
        self._times[digest] = time.time_ns()

    def put_all(
        self, artifacts: Sequence[tuple[Digest, Sequence[bytes | memoryview]]], /, *, durable: bool = True
    ) -> None:
        for digest, parts in artifacts:
            self.put_parts(digest, parts, durable=durable)

    def put_value(self, codec: str, parts: Sequence[bytes | memoryview | Stream], /, *, durable: bool = True) -> Digest:
        packed = values.seal(values.Encoded(codec, "", tuple(parts)))
        self.put_parts(packed.digest, packed.parts, durable=durable)
        return packed.digest

    def put_pack(
        self,
        artifacts: Sequence[tuple[Digest, Sequence[bytes | memoryview]]],
        /,
        *,
        durable: bool = True,  # noqa: ARG002
    ) -> Digest | None:
        for digest, _ in artifacts:
            if not is_digest(digest):
                raise ValueError(f"not a digest: {digest!r}")
        self.touch(digest for digest, _ in artifacts)
        new = {digest: values.join(parts) for digest, parts in artifacts if not self.has(digest)}
        return self._keep_pack(new) if new else None

    def _keep_pack(self, contents: dict[Digest, bytes]) -> Digest:
        pack = Digest(f"blake3:{values.digest_of(''.join(sorted(contents)).encode())}")
        self._contents[pack] = contents
        self._packs |= dict.fromkeys(contents, pack)
        self._times[pack] = time.time_ns()
        return pack

    def packs_of(self, digests: Iterable[Digest], /) -> tuple[Digest, ...]:
        return tuple(dict.fromkeys(self._packs[digest] for digest in digests if digest in self._packs))

    def get(self, digest: Digest, /) -> bytes:
        data = self._object(digest)
        if f"blake3:{values.digest_of(data)}" == digest:
            return data
        return bytes(values.split(data)[0])

    def get_parts(self, digest: Digest, /) -> list[memoryview]:
        data = self._object(digest)
        if not values.is_joined(data):
            raise ArtifactCorrupt.at(digest, f"{len(data):,} bytes that are no artifact")
        return values.split(bytearray(data))

    def get_many(self, digests: Sequence[Digest], /, *, packs: Sequence[Digest] = ()) -> list[list[memoryview]]:  # noqa: ARG002  (all lies in one place)
        return [self.get_parts(digest) for digest in digests]

    def has(self, digest: Digest, /) -> bool:
        return digest in self._objects or digest in self._packs

    def chunked(self) -> Iterator[tuple[Digest, tuple[Digest, ...]]]:
        yield from ()  # all is whole here

    def touch(self, digests: Iterable[Digest], /) -> bool:
        wanted = list(digests)
        found = [one if one in self._objects else self._packs[one] for one in wanted if self.has(one)]
        self._times |= dict.fromkeys(found, time.time_ns())
        return len(found) == len(wanted)

    def verify(self, digest: Digest, /) -> None:
        data = self._object(digest)
        if digest not in {f"blake3:{values.digest_of(one)}" for one in (memoryview(data), *_manifest(data))}:
            raise ArtifactCorrupt.at(digest, "other bytes")

    def set_aside(self, digest: Digest, /) -> None:
        self._objects.pop(digest, None)
        self._times.pop(digest, None)

    def claim(self, name: str, /) -> bool:
        return self._claimed.setdefault(name, token := object()) is token

    def let_go(self, name: str, /) -> None:
        self._claimed.pop(name, None)

    def append(self, kind: str, identifier: str, record: Json | bytes, /, *, durable: bool = True) -> None:  # noqa: ARG002
        import msgspec

        if isinstance(record, bytes):
            plain = msgspec.json.decode(record.partition(b"\n")[0])  # its digest may stand in a line of its own below
        else:
            plain = msgspec.to_builtins(record)
        now = time.time_ns()
        head = {"schema": SCHEMA, "record": kind, "id": identifier, "time": now}
        moment = time.gmtime(now // 10**9)
        file = f"{now:019}-{kind}-{identifier.replace(':', '.').replace('-', '.')}"
        name = f"{moment.tm_year:04}/{moment.tm_mon:02}/{file}"
        self._records[name] = head | plain
        self._times[name] = now

    def records(self, kind: str | None = None, /) -> Iterator[Json]:
        yield from (record for _, record in sorted(self._records.items()) if kind is None or record["record"] == kind)

    def find_record(self, kind: str, identifier: str, /) -> Json | None:
        found = [one for one in self.records(kind) if one["id"] == identifier]
        return found[-1] if found else None

    def records_of(self, kind: str, owners: Collection[str], since: int, /) -> Iterator[Piece]:
        for piece in self.pieces("record"):
            found = self._records[piece.name]
            owner, _, rest = found["id"].partition("-")
            if piece.time >= since and found["record"] == kind and owner in owners and rest:
                yield piece

    def pieces(self, kind: Literal["object", "pack", "record"], /) -> Iterator[Piece]:
        if kind == "object":
            sizes = {name: len(data) for name, data in self._objects.items()}
        elif kind == "pack":
            sizes = {name: len(self._as_bytes(name)) for name in self._contents}
        else:
            for name, one in sorted(self._records.items()):
                yield Piece(kind, name, len(_json(one)), self._times[name])
            return
        yield from (Piece(kind, name, size, self._times[name]) for name, size in sorted(sizes.items()))

    def contents(self, pack: Digest, /) -> dict[Digest, int]:
        if pack not in self._contents:
            raise NotFound(f"There is no pack {pack}.")
        return {digest: len(data) for digest, data in self._contents[pack].items()}

    def damaged(self, piece: Piece, /) -> dict[str, str]:  # noqa: ARG002  (memory does not decay)
        return {}

    def read_piece(self, piece: Piece, /) -> memoryview:
        if piece.kind == "record":
            return memoryview(_json(self.read_record(piece)))
        if piece.kind == "object":
            return memoryview(self._object(Digest(piece.name)))
        self.contents(Digest(piece.name))
        return memoryview(self._as_bytes(Digest(piece.name)))

    def _as_bytes(self, pack: Digest) -> bytes:
        return _json({digest: data.hex() for digest, data in self._contents[pack].items()})

    def read_record(self, piece: Piece, /) -> Json:
        if piece.name not in self._records:
            raise NotFound(f"There is no record {piece.name}.")
        return self._records[piece.name]

    def write_pieces(self, pieces: Sequence[tuple[Piece, bytes | memoryview]], /) -> None:
        import msgspec

        for piece, data in pieces:
            digest = Digest(piece.name)
            if piece.kind == "record":
                self._records[piece.name] = msgspec.json.decode(bytes(data).partition(b"\n")[0])
            elif piece.kind == "pack":
                inside = msgspec.json.decode(data, type=dict[str, str])
                self._contents[digest] = {Digest(one): bytes.fromhex(text) for one, text in inside.items()}
                self._packs |= dict.fromkeys(self._contents[digest], digest)
            else:
                if digest not in {f"blake3:{values.digest_of(one)}" for one in (data, *_manifest(data))}:
                    raise ArtifactCorrupt.at(digest, "other bytes")
                self._objects[digest] = bytes(data)
            self._times[piece.name] = time.time_ns() if piece.kind != "record" else piece.time

    def repack(self, pack: Digest, keep: Collection[Digest], /) -> Digest | None:
        inside = {one: self._contents[pack][one] for one in self.contents(pack) if one in keep}
        return self._keep_pack(inside) if inside else None

    def free(self, piece: Piece, /, *, before: int | None = None) -> bool:
        if piece.name not in self._times or (before is not None and self._times[piece.name] >= before):
            return False
        del self._times[piece.name]
        digest = Digest(piece.name)
        if piece.kind == "record":
            del self._records[piece.name]
        elif piece.kind == "object":
            del self._objects[digest]
        else:
            for one in self._contents.pop(digest):
                left = next((name for name, inside in self._contents.items() if one in inside), None)
                if left is None:
                    self._packs.pop(one, None)
                else:
                    self._packs[one] = left
        return True

    def settle(self) -> None:
        pass  # nothing comes back here

    def sweep(self, before: int, /, *, dry_run: bool = False) -> int:  # noqa: ARG002  (nothing is ever half-written)
        return 0

    def _object(self, digest: Digest) -> bytes:
        if digest in self._objects:
            return self._objects[digest]
        if digest not in self._packs:
            raise NotFound(f"There is no object {digest}.")
        return self._contents[self._packs[digest]][digest]


def _json(document: Json) -> bytes:
    import msgspec

    return msgspec.json.encode(document)


def _manifest(data: bytes | memoryview) -> list[memoryview]:
    return values.split(bytearray(data))[:1] if values.is_joined(data) else []
