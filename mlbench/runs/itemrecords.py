"""The records of items that have ended, read no further than a fan-out needs.

A worker has written them whole, as JSON. There are so many that making an `Execution` of each and JSON of that again
would cost more than all else that is done about them: what is asked of an item is read, the rest stays as it came.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from mlbench.core.ids import Digest, ExecutionId, RunId
from mlbench.core.messages import Spread
from mlbench.core.records import Attempt, Binding, Execution, Failure, FileUse, Json, Metric, Reason, State
from mlbench.runs.wire import compact, encoded, look_at, msgspec

__all__ = [
    "Bound",
    "EndedChunk",
    "EndedItem",
    "FailedItem",
    "ItemRecord",
    "bindings",
    "bound",
    "label_of",
    "read_chunk",
    "whole",
]

_T = TypeVar("_T")

_NOTHING: Final = msgspec.Raw()


class EndedItem(msgspec.Struct, kw_only=True, gc=False):
    """An item that has ended (see `mlbench.core.records.Execution`); `whole` is its record, as JSON."""

    id: ExecutionId
    run: RunId
    step: str
    state: State
    part_of: ExecutionId
    item: int
    position: int | None = None
    label: dict[str, str] = msgspec.field(default_factory=dict)
    attempt: int = 1
    attempts: tuple[Attempt, ...] = ()
    reason: Reason | None = None
    queued: int | None = None
    started: int | None = None
    ended: int | None = None
    worker: str | None = None
    key: str | None = None
    binds: msgspec.Raw = _NOTHING
    metrics: tuple[Metric, ...] = ()
    failure: Failure | None = None
    files: tuple[FileUse, ...] = ()
    network: bool = False
    draws: tuple[str, ...] = ()
    cpu: float | None = None
    peak_memory: int | None = None
    messages: msgspec.Raw = _NOTHING
    whole: bytes = b""

    @classmethod
    def of(cls, record: Execution) -> EndedItem:
        """Return the item that a record is of."""
        return _read(encoded(compact(record)))

    def record(self) -> Execution:
        """Return all of the record."""
        return _loosely(_execution, self.whole)

    def texts(self) -> tuple[str, str | None]:
        """Return the record as JSON without its messages, and these as JSON, if there are any."""
        if not bytes(self.messages):
            return self.whole.decode(), None
        fields = msgspec.json.decode(self.whole, type=dict[str, msgspec.Raw])
        messages = bytes(fields.pop("messages")).decode()
        return msgspec.json.encode(fields).decode(), messages if messages != "[]" else None


class _Kept(msgspec.Struct, gc=False):
    digest: Digest


class _Named(msgspec.Struct, gc=False):
    name: str
    artifact: _Kept | None = None


class _Made(msgspec.Struct, gc=False):
    binds: tuple[_Named, ...] = ()


ItemRecord = Execution | EndedItem
"""The record of an item, whole or as far as it was read."""


def whole(record: ItemRecord) -> Execution:
    """Return all of an item's record."""
    return record if isinstance(record, Execution) else record.record()


Bound = bytes | tuple[Binding, ...]
"""What an item bound, as JSON or read: until all have ended it need not be read."""


def bound(record: ItemRecord) -> Bound:
    """Return what an item bound."""
    return record.binds if isinstance(record, Execution) else bytes(record.binds)


def bindings(of: Bound) -> tuple[Binding, ...]:
    """Read what an item bound."""
    if isinstance(of, bytes):
        return _bindings(of) if of else ()
    return of


def made_in(record: str) -> Iterator[tuple[Digest, str]]:
    """Yield the digest and the name of each stored value that the JSON of a record says was bound.

    Examples
    --------
    >>> list(made_in('{"id": "a", "binds": [{"name": "x", "artifact": {"digest": "blake3:1"}}, {"name": "y"}]}'))
    [('blake3:1', 'x')]
    """
    for named in _made(record).binds:
        if named.artifact is not None:
            yield named.artifact.digest, named.name


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedItem:
    """What a fan-out keeps of an item that failed."""

    label: dict[str, str]
    reason: Reason | None
    failure: Failure | None


def label_of(names: Sequence[str], spread: Spread | None, number: int) -> dict[str, str]:
    """Return an item's values, each as a short text; nothing where it is not known what they are.

    Examples
    --------
    >>> label_of(("a", "b"), Spread(shape=(2, 3), labels=(("x", "y"), ("1", "2", "3"))), 4)
    {'a': 'y', 'b': '2'}
    """
    if spread is None or not spread.labels:
        return {}
    if len(names) == 1:
        return {names[0]: spread.labels[0][number]}
    label: dict[str, str] = {}
    for name, size, texts in reversed(list(zip(names, spread.shape, spread.labels, strict=True))):
        number, place = divmod(number, size)
        label[name] = texts[place]
    return {name: label[name] for name in names}


class EndedChunk(msgspec.Struct, kw_only=True):
    """What became of a chunk (see `mlbench.core.messages.ChunkEnd`)."""

    executions: tuple[EndedItem, ...] = ()
    left: tuple[int, ...] = ()
    spread: Spread | None = None
    failure: Failure | None = None
    reason: Reason | None = None
    changed: tuple[str, ...] = ()
    messages: tuple[Json, ...] = ()
    peak_memory: int | None = None


class _Answer(EndedChunk, kw_only=True):
    executions: list[msgspec.Raw] = msgspec.field(default_factory=list)  # type: ignore[assignment]


def read_chunk(answer: bytes) -> EndedChunk:
    """Read a `ChunkEnd`.

    Examples
    --------
    >>> item = {"id": "a", "run": "r", "step": "s", "part_of": "e", "item": 0, "state": "succeeded", "cell": "c"}
    >>> [ended] = read_chunk(msgspec.json.encode({"executions": [item]})).executions
    >>> ended.state, ended.record().cell
    ('succeeded', 'c')
    """
    said = _answer(answer)
    return EndedChunk(
        executions=tuple(map(_read, said.executions)),
        left=said.left,
        spread=said.spread,
        failure=said.failure,
        reason=said.reason,
        changed=said.changed,
        messages=said.messages,
        peak_memory=said.peak_memory,
    )


def _read(whole: bytes | msgspec.Raw) -> EndedItem:
    item = _loosely(_item, whole)
    item.whole = bytes(whole)
    return item


def _loosely(decoder: msgspec.json.Decoder[_T], data: bytes | msgspec.Raw) -> _T:
    """Decode what may have numbers as texts: see `mlbench.runs.wire.encoded`."""
    try:
        return decoder.decode(data)
    except msgspec.ValidationError:
        return msgspec.json.decode(data, type=decoder.type, strict=False)


_answer: Final = msgspec.json.Decoder(_Answer).decode
_item: Final = msgspec.json.Decoder(EndedItem)
_bindings: Final = msgspec.json.Decoder(tuple[Binding, ...]).decode
_made: Final = msgspec.json.Decoder(_Made).decode
_execution: Final = msgspec.json.Decoder(Execution)
look_at(EndedChunk)
