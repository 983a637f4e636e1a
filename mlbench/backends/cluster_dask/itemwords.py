"""What the process of a fan-out's items says of each to its supervisor: packed tightly, since there are so many."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

from mlbench.backends.blobs import local_folder
from mlbench.core.ids import Digest
from mlbench.core.messages import StepTask
from mlbench.core.records import Failure, FileUse, Json
from mlbench.runs.wire import look_at, msgspec

__all__ = ["ItemEnd", "Mark", "read_word"]


class ItemEnd(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """An item that ran to its end: the message with the number `n`. Other messages are maps.

    `binds` are its bindings as JSON, which goes into its record as it is. `following` is the item that is begun next in
    the same process, if one is. `parts` are those of small artifacts, which the supervisor is to keep; larger ones are
    in the store by now. Times are UTC nanoseconds, `cpu` in seconds.
    """

    n: int
    number: int
    started: int
    ended: int
    cpu: float
    following: int | None
    binds: bytes
    parts: list[tuple[Digest, list[bytes]]]
    failure: Failure | None
    draws: tuple[str, ...]
    files: tuple[FileUse, ...]
    network: bool


class Mark:
    """Says which item of a chunk was begun last, to whoever asks when neither its process nor its worker is left.

    It is a file beside what is being written in the store; of a store under a URL, on this machine. Nothing depends on
    it while all goes well: where it cannot be written, less is known after a loss. Whoever takes it away has given the
    chunk up, and its process, which may well live, begins nothing more.
    """

    def __init__(self, task: StepTask) -> None:
        assert task.chunk is not None
        self._path = Path(local_folder(task.store), "tmp", f"begun-{task.execution}-{task.chunk.place}")
        self._file: int | None = None
        self._made = False

    def make(self) -> None:
        """Make it, before the first process of the chunk begins."""
        with contextlib.suppress(OSError):
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
            self._made = True

    @property
    def lost(self) -> bool:
        """Whether it was made here, and somebody has taken it away since."""
        return self._made and not self._path.exists()

    def open(self) -> None:
        """Make it ready to be written, also by forks of this process."""
        with contextlib.suppress(OSError):
            self._file = os.open(self._path, os.O_RDWR)

    def close(self) -> None:
        """Let go of what is open here."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def begin(self, number: int) -> bool:
        """Note that an item is begun; return False if it is not to begin, because the chunk has been given up."""
        if self._file is not None:
            try:
                os.pwrite(self._file, (number + 1).to_bytes(8, "little"), 0)
            except OSError:
                self._file = None
        return not self.gone

    @property
    def gone(self) -> bool:
        """Whether somebody has taken away what is open here."""
        return self._file is not None and os.fstat(self._file).st_nlink == 0

    def take(self) -> int | None:
        """Take it away; return the item that was begun last, None if none was, or nobody noted it.

        An item that is noted later does not begin.
        """
        with contextlib.suppress(OSError), self._path.open("rb") as file:
            self.remove()
            data = file.read(8)
            return int.from_bytes(data, "little") - 1 if len(data) == 8 else None
        return None

    def remove(self) -> None:
        """Forget it."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)


look_at(ItemEnd)


def read_word(data: memoryview) -> Json | ItemEnd:
    """Return a message of a process that runs items."""
    return _as_end(data) if data[0] & 0xF0 == _ARRAY else _as_json(data)


_ARRAY: Final = 0x90
"""What a short array begins with in MessagePack, in the upper half of its first byte."""
_as_end: Final = msgspec.msgpack.Decoder(ItemEnd).decode
_as_json: Final = msgspec.msgpack.Decoder(Json).decode
