"""What the process of a fan-out's items says of each to its supervisor: packed tightly, since there are so many."""

from __future__ import annotations

from typing import Final

from mlbench.core.ids import Digest
from mlbench.core.records import Binding, Failure, FileUse
from mlbench.runs.wire import look_at, msgspec

__all__ = ["ItemEnd", "read_end"]


class ItemEnd(msgspec.Struct, array_like=True, frozen=True):
    """An item that ran to its end.

    `following` is the item that is begun next in the same process, if one is. `parts` are those of small artifacts,
    which the supervisor is to keep; larger ones are in the store by now. Times are UTC nanoseconds, `cpu` is in seconds.
    """

    number: int
    started: int
    ended: int
    cpu: float
    following: int | None
    binds: list[Binding]
    parts: list[tuple[Digest, list[bytes]]]
    failure: Failure | None
    draws: tuple[str, ...]
    files: tuple[FileUse, ...]
    network: bool


look_at(ItemEnd)
read_end: Final = msgspec.msgpack.Decoder(ItemEnd).decode
