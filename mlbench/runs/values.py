"""Values as bytes and back.

A value is packed into parts: `parts[0]` is the **manifest**, canonical JSON that names the format, the codec and the
digest and size of every other part; `parts[1]` is the codec's header or pickle stream; the rest are its large buffers.
The manifest's blake3 is the value's digest, so it says nothing about how or where the buffers are kept. ::

    {"codec":"ndarray","format":1,"parts":[["<blake3 of parts[1]>",52],["<blake3 of parts[2]>",8000000]]}

Arrays, sparse matrices, frames, Arrow data and plain scalars have codecs of their own, with the same digest in every
process and however they were made. The results of a fan-out are a list of other artifacts, by digest (the codec
`items`). Everything else is pickled: equal values may then have two digests, which costs a cache hit and no more.

Nothing heavy is imported here: a codec's library is in `sys.modules` already if a value of its kind exists.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from blake3 import blake3

from mlbench.core.errors import ArtifactCorrupt
from mlbench.core.ids import Digest
from mlbench.core.ports import Stream
from mlbench.runs.signing import needs_signature

__all__ = [
    "FORMAT",
    "NAMING",
    "NOTED",
    "Encoded",
    "Odd",
    "Packed",
    "Reduce",
    "are_whole",
    "codec_of",
    "digest_of",
    "dumps",
    "encode",
    "join",
    "manifest_of",
    "named_by",
    "pack",
    "pack_items",
    "read_items",
    "read_manifest",
    "seal",
    "sealed",
    "split",
    "total",
    "type_name",
    "unpack",
    "whole",
    "writable",
]

FORMAT: Final = 1

NAMING: Final = frozenset({"items", "folder"})
"""Codecs whose artifacts name others, which must be kept with them: see `named_by`."""

NOTED: Final = frozenset({"items"})
"""Codecs whose artifacts may end in a part that the manifest does not name, and their digest does not depend on."""

Buffer = bytes | bytearray | memoryview
Reduce = Callable[[Any], Any]
"""Given an object while it is pickled, returns what `__reduce__` would, or `NotImplemented`."""


class Odd(Exception):
    """A value that a canonical codec does not know; it is pickled instead."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A value as bytes that have not been looked at yet: all parts but the manifest. They may be views of the value."""

    codec: str
    type: str
    parts: tuple[bytes | memoryview | Stream, ...]

    @property
    def size(self) -> int:
        """The bytes of all parts, the manifest's included."""
        sizes = [_size(part) for part in self.parts]
        return sum(sizes) + len(manifest_of(self.codec, [("0" * 64, size) for size in sizes]))


@dataclass(frozen=True, slots=True)
class Packed:
    """A value as bytes: `parts[0]` is the manifest; `size` counts all parts. The parts may be views of the value."""

    codec: str
    type: str
    parts: tuple[bytes | memoryview, ...]
    digest: Digest
    size: int


def pack(value: Any, *, reduce: Reduce | None = None, seen: dict[int, Any] | None = None) -> Packed:
    """Return a value as bytes, its large buffers not copied.

    Parameters
    ----------
    value
        Anything that pickle, with cloudpickle's additions, can carry.
    reduce
        Asked first for each object that is pickled. The value itself is then pickled whatever it is.
    seen
        Filled with the objects inside the value whose identity can be observed (containers and instances, not atoms,
        functions, classes and modules), by `id`.

    Raises
    ------
    Exception
        Whatever pickling the value raises: `mlbench.runs.artifacts.remedy` says it to people.

    Examples
    --------
    >>> packed = pack(7)
    >>> packed.codec, unpack(packed.codec, packed.parts)
    ('scalar', 7)
    >>> pack(7).digest == packed.digest != pack(7.0).digest
    True
    """
    if reduce is None and type(value) in _PLAIN:
        return _packed_plain(value)
    return seal(encode(value, reduce=reduce, seen=seen))


def encode(value: Any, *, reduce: Reduce | None = None, seen: dict[int, Any] | None = None) -> Encoded:
    """Return a value as bytes that are yet to be hashed: what `pack` does first."""
    codec, parts = "", list[bytes | memoryview | Stream]()
    if reduce is None:
        try:
            codec, parts = _canonical(value)
        except Odd:
            codec = ""
        if codec and codec != "scalar" and seen is not None:
            seen[id(value)] = value
            if codec == "sparse":
                from mlbench.runs import sparse

                seen.update((id(array), array) for array in sparse.arrays_of(value))
    if not codec:
        from mlbench.runs import pickles

        codec, parts = "pickle", [*pickles.dump(value, reduce=reduce, seen=seen)]
    return Encoded(codec, type_name(value), tuple(parts))


def seal(encoded: Encoded) -> Packed:
    """Return a value as bytes with their digest. What is scattered is put together: large ones are better streamed."""
    return _sealed(encoded.codec, encoded.type, [whole(part) for part in encoded.parts])


def whole(part: Buffer | Stream) -> bytes | memoryview:
    """Return all of a part at once."""
    if isinstance(part, bytearray):
        return memoryview(part)
    return part if isinstance(part, bytes | memoryview) else part.read(0, part.nbytes)


def unpack(codec: str | None, parts: Sequence[Buffer], *, namespace: Mapping[str, Any] | None = None) -> Any:
    """Return the value that `pack` was given.

    Parameters
    ----------
    codec
        What `Packed.codec` said; `None` to believe the manifest.
    parts
        All parts, manifest first. Buffers of the value are views of them where they are writable.
    namespace
        A live notebook's names: an instance of a class that is defined there alike becomes one of that class.
    """
    whole = _MANIFEST.fullmatch(parts[0])
    found = whole[1].decode() if whole is not None else read_manifest(parts[0])[0]
    if codec is not None and codec != found:
        raise ArtifactCorrupt(f"A value was stored by the codec {found!r}, and its record says {codec!r}.")
    header, buffers = parts[1], parts[2:]
    if found == "scalar":
        number = _NUMBER.fullmatch(header)
        return _load_scalar(_loads(header), buffers) if number is None else _load_number(number[1], number[2].decode())
    if found == "pickle":
        from mlbench.runs import pickles

        return pickles.load(header, buffers, namespace=namespace)
    if found == "ndarray":
        from mlbench.runs import arrays

        return arrays.decode(_loads(header), buffers)
    if found == "sparse":
        from mlbench.runs import sparse

        return sparse.decode(_loads(header), buffers)
    if found == "frame":
        from mlbench.runs import frames

        return frames.decode(header, buffers)
    if found == "arrow":
        from mlbench.runs import arrow

        return arrow.decode(header, buffers)
    if found == "items" or found in {"file", "folder"}:
        raise TypeError("what names artifacts, or has a name, is loaded by mlbench.runs.artifacts.Loader")
    raise ArtifactCorrupt(
        f"A value was stored by the codec {found!r}, which this version of mlbench does not know.",
        "Update mlbench in this environment.",
    )


def sealed(digest: Digest, parts: Sequence[Buffer]) -> list[Buffer]:
    """Return the parts of an artifact with those that can run code checked against its digest, in memory of their own.

    Whoever reads a large object is spared the hashing of all its buffers; what is about to be executed is hashed in
    any case, in a copy that nobody who can write the file can change any more.

    Raises
    ------
    ArtifactCorrupt
        If they are not what the digest says.
    """
    manifest = bytes(parts[0])
    found, listed = read_manifest(manifest)
    if not needs_signature(found):
        return list(parts)
    stream = bytes(parts[1])
    if f"blake3:{digest_of(manifest)}" != digest or digest_of(stream) != listed[0][0]:
        raise ArtifactCorrupt.at(digest, "other bytes")
    return [manifest, stream, *parts[2:]]


def codec_of(parts: Sequence[Buffer]) -> str:
    """Return the codec that an artifact was kept by."""
    whole = _MANIFEST.fullmatch(parts[0])
    return whole[1].decode() if whole is not None else read_manifest(parts[0])[0]


def type_name(value: Any) -> str:
    """Return a type's name as people write it.

    Examples
    --------
    >>> type_name([]), type_name(struct.Struct("i"))
    ('list', '_struct.Struct')
    """
    kind = type(value)
    module = kind.__module__
    return kind.__qualname__ if module in {"builtins", "__main__"} else f"{module}.{kind.__qualname__}"


# --- lists of artifacts -----------------------------------------------------------------------------------------------


def pack_items(items: Sequence[Any], packs: Iterable[Digest] = ()) -> Packed:
    """Return the results of a fan-out as an artifact that names those of its items.

    Parameters
    ----------
    items
        For each item, in order, plain JSON that says where its value is: see `mlbench.runs.artifacts.save_lists`.
    packs
        The packs that the items lie in, for whoever reads them to look there first. They may be made anew later, so
        this is a hint, which the digest does not depend on.

    Examples
    --------
    >>> digest = Digest("blake3:" + "0" * 64)
    >>> packed = pack_items([digest, digest])
    >>> read_items(packed.parts) == ([digest, digest], ())
    True
    >>> pack_items([digest, digest], [digest]).digest == packed.digest
    True
    """
    packed = _sealed("items", "list", [dumps({"items": list(items)})])
    hint = b"".join(bytes.fromhex(pack.partition(":")[2]) for pack in packs)
    if not hint:
        return packed
    return Packed(packed.codec, packed.type, (*packed.parts, hint), packed.digest, packed.size + len(hint))


def read_items(parts: Sequence[Buffer]) -> tuple[list[Any], tuple[Digest, ...]]:
    """Return what `pack_items` was given."""
    items: list[Any] = _loads(parts[1])["items"]
    hint = bytes(parts[2]).hex() if len(parts) > 2 else ""
    return items, tuple(Digest(f"blake3:{hint[start : start + 64]}") for start in range(0, len(hint) // 64 * 64, 64))


def named_by(parts: Sequence[Buffer]) -> tuple[tuple[Digest, ...], tuple[Digest, ...]]:
    """Return the artifacts that a list or a folder names, and the packs to look for them in.

    Examples
    --------
    >>> digest = Digest("blake3:" + "0" * 64)
    >>> named_by(pack_items([digest, [digest, "member"], {"error": 1}]).parts) == ((digest, digest), ())
    True
    """
    if read_manifest(parts[0])[0] == "folder":
        return tuple(Digest(digest) for digest, _ in _loads(parts[1])["files"].values()), ()
    entries, packs = read_items(parts)
    named = (entry[0] if isinstance(entry, list) else entry for entry in entries)
    return tuple(Digest(one) for one in named if isinstance(one, str)), packs


# --- manifests and layout ---------------------------------------------------------------------------------------------

_THREADED = 1 << 20
"""From this size on, hashing with several threads is worth starting them."""

_MAGIC: Final = b"MLB1"
_HEAD = struct.Struct("<4sI")
_ENTRY = struct.Struct("<QQ")
_HEAD_OF_TWO = struct.Struct("<4sIQQQQ")
_PAGE = 4096
_LARGE = 1 << 16


def digest_of(data: Buffer) -> str:
    """Return the blake3 of bytes as 64 hexadecimal digits."""
    size = data.nbytes if isinstance(data, memoryview) else len(data)
    return blake3(data, max_threads=blake3.AUTO if size > _THREADED else 1).hexdigest()


def _size(part: Buffer | Stream) -> int:
    return len(part) if isinstance(part, bytes | bytearray) else part.nbytes


def total(parts: Iterable[Buffer | Stream]) -> int:
    """Return how many bytes parts have together."""
    return sum(map(_size, parts))


def dumps(document: Any) -> bytes:
    """Return JSON in its one canonical form."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def _loads(document: Buffer) -> Any:
    return json.loads(str(document, "utf-8"))


def _sealed(codec: str, kind: str, parts: Sequence[bytes | memoryview]) -> Packed:
    manifest = manifest_of(codec, [(digest_of(part), _size(part)) for part in parts])
    whole = (manifest, *parts)
    return Packed(codec, kind, whole, Digest(f"blake3:{digest_of(manifest)}"), sum(map(_size, whole)))


def manifest_of(codec: str, parts: Sequence[tuple[str, int]]) -> bytes:
    """Return the manifest that names a codec and, of each part, its digest (hexadecimal) and size."""
    return dumps({"codec": codec, "format": FORMAT, "parts": [[digest, size] for digest, size in parts]})


_MANIFEST = re.compile(
    rb'\{"codec":"([a-z]+)","format":%d,"parts":\[((?:\["[0-9a-f]{64}",[0-9]{1,18}\],?)*)(?<!,)\]\}' % FORMAT
)
_PART = re.compile(rb'\["([0-9a-f]{64})",([0-9]+)\]')
_OF_ONE_PART = re.compile(rb'\{"codec":"[a-z]+","format":%d,"parts":\[\["([0-9a-f]{64})",([0-9]{1,18})\]\]\}' % FORMAT)


def are_whole(digest: Digest, parts: Sequence[Buffer]) -> bool:
    """Say whether a manifest and one further part are what a digest promises; of others it is not known here.

    Examples
    --------
    >>> packed = pack(7)
    >>> are_whole(packed.digest, packed.parts), are_whole(packed.digest, [packed.parts[0], b"8"])
    (True, False)
    """
    if len(parts) != 2 or (one := _OF_ONE_PART.fullmatch(parts[0])) is None:
        return False
    return (
        blake3(parts[0]).hexdigest() == digest[7:]
        and _size(parts[1]) == int(one[2])
        and digest_of(parts[1]) == one[1].decode()
    )


def number_of(parts: Sequence[Buffer]) -> int | float | None:
    """Return the number that the parts of an artifact are; None if they are anything else.

    Examples
    --------
    >>> number_of(pack(7).parts), number_of(pack("7").parts)
    (7, None)
    """
    if len(parts) != 2 or parts[0][: len(_SCALAR)] != _SCALAR:
        return None
    number = _NUMBER.fullmatch(parts[1])
    return _load_number(number[1], number[2].decode()) if number is not None else None


_SCALAR = b'{"codec":"scalar","format":%d,' % FORMAT


def read_manifest(manifest: Buffer) -> tuple[str, list[tuple[str, int]]]:
    """Return the codec, and the digest (hexadecimal) and size of each further part.

    Raises
    ------
    ArtifactCorrupt
        If this is no manifest, or one of a later format.
    """
    if (whole := _MANIFEST.fullmatch(manifest)) is not None:  # as we write them: much faster, and many are read at once
        return whole[1].decode(), [(digest.decode(), int(size)) for digest, size in _PART.findall(whole[2])]
    try:
        document = _loads(manifest)
        version, codec = document["format"], document["codec"]
        parts = [(str(digest), int(size)) for digest, size in document["parts"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactCorrupt("An object's manifest cannot be read.") from error
    if version != FORMAT or not isinstance(codec, str):
        raise ArtifactCorrupt(
            f"A value was stored in format {version}, and this version of mlbench reads {FORMAT}.",
            "Update mlbench in this environment.",
        )
    return codec, parts


def layout(parts: Sequence[Buffer]) -> tuple[bytes, list[int], int]:
    """Return the head of a file that holds parts one after the other, the offset of each part, and the file's size.

    Parts of 64 KiB and more start on a page, so that they can be mapped; small ones at a multiple of 64 bytes.
    """
    end = _HEAD.size + _ENTRY.size * len(parts)
    offsets: list[int] = []
    table: list[int] = []
    for part in parts:
        size = part.nbytes if isinstance(part, memoryview) else len(part)
        end += -end % (_PAGE if size >= _LARGE else 64)
        offsets.append(end)
        table += (end, size)
        end += size
    return _HEAD.pack(_MAGIC, len(parts)) + struct.pack(f"<{len(table)}Q", *table), offsets, end


def is_joined(data: Buffer) -> bool:
    """Say whether bytes begin as those that `join` makes do."""
    return bytes(data[:4]) == _MAGIC


def join(parts: Sequence[Buffer]) -> bytes:
    """Return parts as one run of bytes, for a socket; a stored object's file is the same."""
    head, offsets, size = layout(parts)
    whole = bytearray(size)
    whole[: len(head)] = head
    for offset, part in zip(offsets, parts, strict=True):
        whole[offset : offset + _size(part)] = part
    return bytes(whole)


def split(data: Buffer) -> list[memoryview]:
    """Return the parts that `join` was given, as views.

    Raises
    ------
    ArtifactCorrupt
        If the bytes are not what `join` makes, or fewer.

    Examples
    --------
    >>> [bytes(part) for part in split(join([b"one", b"", b"three"]))]
    [b'one', b'', b'three']
    """
    view = memoryview(data)
    if view.nbytes >= _HEAD_OF_TWO.size:  # as it mostly is, and thousands are read at once
        magic, count, first, size, second, length = _HEAD_OF_TWO.unpack_from(view)
        if magic == _MAGIC and count == 2 and first + size <= second and second + length == view.nbytes:
            return [view[first : first + size], view[second:]]
    try:
        magic, count = _HEAD.unpack_from(view)
        if magic != _MAGIC:
            raise ArtifactCorrupt("An object does not begin as an artifact does.")
        if _HEAD.size + _ENTRY.size * count > view.nbytes:
            raise ArtifactCorrupt("An object is shorter than its head says.")
        table = list(_ENTRY.iter_unpack(view[_HEAD.size : _HEAD.size + _ENTRY.size * count]))
    except struct.error as error:
        raise ArtifactCorrupt("An object is shorter than its head says.") from error
    end = max([offset + size for offset, size in table], default=_HEAD.size)
    if end != view.nbytes:
        raise ArtifactCorrupt(f"An object is cut or lengthened: expected {end} bytes, got {view.nbytes}.")
    return [view[offset : offset + size] for offset, size in table]


def writable(buffer: Buffer) -> memoryview:
    """Return a buffer as a view that may be written to: itself if it may, a copy otherwise."""
    view = memoryview(buffer)
    return memoryview(bytearray(view)) if view.readonly else view


# --- canonical codecs -------------------------------------------------------------------------------------------------


def _canonical(value: Any) -> tuple[str, list[bytes | memoryview | Stream]]:
    kind = type(value)
    if kind in _SCALARS:
        return "scalar", [*_dump_scalar(value)]
    root = kind.__module__.partition(".")[0]
    if root == "numpy":
        from mlbench.runs import arrays

        return arrays.encode(value)
    if root == "scipy":
        from mlbench.runs import sparse

        return "sparse", sparse.encode(value)
    if root == "pandas":
        from mlbench.runs import frames

        return "frame", [*frames.encode(value)]
    if root in {"pyarrow", "polars"}:
        from mlbench.runs import arrow

        return "arrow", [*arrow.encode(value)]
    raise Odd


_SCALARS: Final = frozenset({int, float, complex, bool, str, bytes, type(None)})


def _dump_scalar(value: Any) -> list[bytes | memoryview]:
    kind = type(value).__name__
    if isinstance(value, str):
        return [dumps({"kind": kind}), value.encode("utf-8", "surrogatepass")]
    if isinstance(value, bytes):
        return [dumps({"kind": kind}), value]
    if isinstance(value, bool) or value is None:
        return [dumps({"kind": kind, "value": value})]
    if isinstance(value, int):
        return [dumps({"kind": kind, "value": hex(value)})]  # decimal texts end at 4,300 digits
    if isinstance(value, float):
        return [dumps({"kind": kind, "value": struct.pack("<d", value).hex()})]
    return [dumps({"kind": kind, "value": struct.pack("<dd", value.real, value.imag).hex()})]


_PLAIN: Final = frozenset({int, float, bool, str, type(None)})


def _packed_plain(value: Any) -> Packed:
    """Return what `_sealed` makes of a plain scalar, for the thousands of them that a fan-out's items bind."""
    kind = type(value)
    rest: tuple[bytes, ...] = ()
    if kind is str:
        head, rest = b'{"kind":"str"}', (value.encode("utf-8", "surrogatepass"),)
    elif kind is float:
        head = b'{"kind":"float","value":"%b"}' % struct.pack("<d", value).hex().encode()
    elif kind is bool:
        head = b'{"kind":"bool","value":true}' if value else b'{"kind":"bool","value":false}'
    elif kind is int:
        head = b'{"kind":"int","value":"%b"}' % hex(value).encode()
    else:
        head = b'{"kind":"NoneType","value":null}'
    parts = (head, *rest)
    listed = ",".join([f'["{digest_of(part)}",{len(part)}]' for part in parts])
    manifest = f'{{"codec":"scalar","format":1,"parts":[{listed}]}}'.encode()
    size = len(manifest) + len(head) + (len(rest[0]) if rest else 0)
    return Packed("scalar", kind.__qualname__, (manifest, *parts), Digest(f"blake3:{digest_of(manifest)}"), size)


_NUMBER = re.compile(rb'\{"kind":"(int|float)","value":"([-0-9a-fx]+)"\}')


def _load_number(kind: bytes, value: str) -> int | float:
    if kind == b"int":
        return int(value, 16)
    number: float = struct.unpack("<d", bytes.fromhex(value))[0]
    return number


def _load_scalar(header: dict[str, Any], buffers: Sequence[Buffer]) -> Any:
    kind = header["kind"]
    if kind == "str":
        return bytes(buffers[0]).decode("utf-8", "surrogatepass")
    if kind == "bytes":
        return bytes(buffers[0])
    if kind in {"int", "float"}:
        return _load_number(kind.encode(), header["value"])
    if kind == "complex":
        return complex(*struct.unpack("<dd", bytes.fromhex(header["value"])))
    if kind == "numpy":
        from mlbench.runs import arrays

        return arrays.decode_scalar(header, buffers)
    return header["value"]
