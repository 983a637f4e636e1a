"""What a step's process and its supervisor say to each other over a socket, and in which order.

Frames are a length (4 bytes, big-endian) and MessagePack. The supervisor sends one task; the process sends messages,
the last of which is `done`. Text does not come this way but through pipes, so that what C libraries and subprocesses
print is caught and stays in order with Python's. Where text and messages meet, the process sends `sync` and waits for
one byte: by then the supervisor has read all that was in the pipes.

The processes of a fan-out's items are too fast to wait so often. They number their messages, and after each write its
number into both pipes (a mark), so that text and messages can be put in order however they are read.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

from mlbench.core.records import Json
from mlbench.runs.wire import msgspec

__all__ = [
    "ACK",
    "HELD",
    "Channel",
    "Frames",
    "MarkedChannel",
    "PipeEnd",
    "encodable",
    "frame",
    "mark_before",
    "widen",
]

ACK: Final = b"\x06"
HELD: Final = 1 << 20
"""Bytes that a pipe holds at most."""
_LENGTH: Final = struct.Struct(">I")
_T = TypeVar("_T")
_SYNCS_AT_ONCE: Final = 5_000
_SYNC_PAUSE: Final = 0.002


def frame(message: Any) -> bytes:
    r"""Return a message as bytes with its length before it.

    Examples
    --------
    >>> frame({"op": "sync"})[:4]
    b'\x00\x00\x00\t'
    """
    try:
        body = msgspec.msgpack.encode(message)
    except UnicodeEncodeError:  # half of a surrogate pair in what a step shows
        body = msgspec.msgpack.encode(encodable(message))
    return _LENGTH.pack(len(body)) + body


def encodable(value: Any) -> Any:
    r"""Return plain data with a question mark for each half of a surrogate pair, which UTF-8 has no bytes for.

    Examples
    --------
    >>> encodable({"text": ["a\ud800", 1, b"b"]})
    {'text': ['a?', 1, b'b']}
    """
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, dict):
        return {encodable(key): encodable(item) for key, item in value.items()}
    return [encodable(item) for item in value] if isinstance(value, (list, tuple)) else value


def widen(pipe: int) -> None:
    """Let a pipe hold more, so that whoever writes a lot waits less (Linux)."""
    import fcntl

    if hasattr(fcntl, "F_SETPIPE_SZ"):
        with contextlib.suppress(OSError):  # over the user's limit
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, HELD)


class PipeEnd:
    """A pipe to write to, as far as it has to be like a socket: it holds more small messages, each for less."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def sendall(self, data: bytes) -> None:
        """Write bytes."""
        written = os.write(self._descriptor, data)
        while written < len(data):
            written += os.write(self._descriptor, memoryview(data)[written:])

    def close(self) -> None:
        """Close it."""
        os.close(self._descriptor)


class Frames:
    """Messages out of bytes that come in pieces.

    Parameters
    ----------
    read
        Returns the message that a frame's bytes are.

    Examples
    --------
    >>> frames = Frames()
    >>> frames.feed(frame({"op": "sync"})[:6]), frames.feed(frame({"op": "sync"})[6:])
    ([], [{'op': 'sync'}])
    """

    def __init__(self, read: Callable[[memoryview], Any] | None = None) -> None:
        self._left = bytearray()
        self._read = read or _as_json

    def feed(self, data: bytes) -> list[Any]:
        """Take bytes and return the messages that are complete."""
        self._left += data
        read, head, size = self._read, _LENGTH.size, len(self._left)
        messages: list[Any] = []
        begin = 0
        with memoryview(self._left) as view:
            while size >= begin + head:
                end = begin + head + _LENGTH.unpack_from(view, begin)[0]
                if size < end:
                    break
                with view[begin + head : end] as body:
                    messages.append(read(body))
                begin = end
        del self._left[:begin]
        return messages


class Channel:
    """The process's end. Safe for its threads; processes that it forks have none (`open` is False there)."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection: socket.socket | PipeEnd | None = connection
        self._lock = threading.RLock()
        self._writing_to: int | None = None
        self._syncs = 0
        self._synced = 0.0
        os.register_at_fork(after_in_child=self._leave)

    @property
    def open(self) -> bool:
        """Whether there is somebody to speak to."""
        return self._connection is not None

    def receive(self, kind: type[_T]) -> _T:
        """Return the next message, of a type. Raise `ConnectionError` if the supervisor is gone."""
        return msgspec.msgpack.decode(self._read(_LENGTH.unpack(self._read(_LENGTH.size))[0]), type=kind)

    def send(self, message: Json) -> None:
        """Send a message after all the text that was written before it."""
        with self._lock:
            if self._connection is not None:
                self._sync()
                self._connection.sendall(frame(message))

    def detach(self) -> socket.socket:
        """Give the connection away; nothing more is said over this channel."""
        assert self._connection is not None
        connection, self._connection = self._connection, None
        return _answered(connection)

    def begin(self) -> None:
        """Say that the task has come: from now on the step has begun, and is not to begin again."""
        assert self._connection is not None
        self._connection.sendall(_BEGUN)

    def about_to_write(self, descriptor: int) -> None:
        """Keep stdout and stderr in order: called before Python writes to one of them."""
        if descriptor == self._writing_to or self._connection is None:
            return
        with self._lock:
            if self._writing_to is not None and (
                self._syncs < _SYNCS_AT_ONCE or time.monotonic() - self._synced > _SYNC_PAUSE
            ):
                self._sync()
            self._writing_to = descriptor

    def _sync(self) -> None:
        if self._connection is None:
            return
        self._syncs += 1
        try:
            self._connection.sendall(_SYNC)
            _answered(self._connection).recv(1)
        except OSError:
            self._connection = None
        self._synced = time.monotonic()

    def _read(self, size: int) -> bytes:
        assert self._connection is not None
        data = bytearray()
        while len(data) < size:
            piece = _answered(self._connection).recv(size - len(data))
            if not piece:
                raise ConnectionError("The supervisor of this step is gone.")
            data += piece
        return bytes(data)

    def _leave(self) -> None:
        """Run in a process that this one forks: acknowledgements are not for it, and a lock may be held for ever."""
        self._connection = None
        self._lock = threading.RLock()


def mark_before(execution: str) -> bytes:
    r"""Return what each mark of an execution's processes begins with: a number and a zero byte follow.

    Examples
    --------
    >>> mark_before("mq2a")
    b'\x00mlbench:mq2a:'
    """
    return b"\0mlbench:" + execution.encode() + b":"


def _answered(connection: socket.socket | PipeEnd) -> socket.socket:
    assert isinstance(connection, socket.socket), "nothing is said through a pipe's end that is written to"
    return connection


class MarkedChannel(Channel):
    """A channel of a process, and of those that it forks for items, whose order with text is kept by marks.

    Parameters
    ----------
    connection
        The process's own.
    execution
        What the marks are made of.
    """

    def __init__(self, connection: socket.socket, execution: str) -> None:
        super().__init__(connection)
        self._first = connection
        self._before = mark_before(execution)
        self._count = mmap.mmap(-1, _NUMBER.size)  # one for all processes that fork from this one
        self._pipes = (os.dup(1), os.dup(2))  # a user may put something else in the place of 1 and 2

    def move(self, connection: PipeEnd, message: Json, descriptors: tuple[int, ...]) -> None:
        """Speak over a connection of this process's own, which has just been forked, after a last word over the other.

        The process that it was forked from is silent until this one has ended: they count their messages together.
        """
        self._connection = self._first
        self.send(message, descriptors)
        self._first.close()
        self._connection = connection

    def send(self, message: Json, descriptors: tuple[int, ...] = ()) -> None:
        """Send a message, in order with the text before it and after it; descriptors may go along."""
        with self._lock:
            if self._connection is None:
                return
            number = self._next()
            whole = frame({**message, "n": number})
            if descriptors:
                sent = socket.send_fds(_answered(self._connection), [whole], descriptors)
                whole = whole[sent:]
            self._connection.sendall(whole)
            self._mark(number)

    def send_packed(self, pack: Callable[[int], bytes]) -> None:
        """Send a message that is packed with its own number, in order with the text before it and after it."""
        with self._lock:
            if self._connection is None:
                return
            number = self._next()
            body = pack(number)
            self._connection.sendall(_LENGTH.pack(len(body)) + body)
            self._mark(number)

    def tell(self, message: Json) -> None:
        """Send a message whose order with text does not matter."""
        with self._lock:
            if self._connection is not None:
                self._connection.sendall(frame({**message, "n": self._number()}))

    def await_turn(self) -> None:
        """Say that all is ready, and wait until items may be run. Raise `ConnectionError` if the supervisor is gone."""
        self.send({"op": "ready"})
        if not self._first.recv(1):
            raise ConnectionError("The supervisor of these items is gone.")

    def await_next(self, kind: type[_T]) -> _T:
        """Say that all is done, and return what is to be done next. Raise `ConnectionError` if nothing more is."""
        self.send({"op": "idle"})
        following = self.receive(kind)
        self.begin()
        return following

    def mark(self) -> None:
        """Let text that comes from now on be told from text that came before."""
        with self._lock:
            self._mark(self._next())

    def about_to_write(self, descriptor: int) -> None:
        """Keep stdout and stderr in order: called before Python writes to one of them."""
        if descriptor != self._writing_to and self._connection is not None:
            self.mark()
            self._writing_to = descriptor

    def _number(self) -> int:
        return int(_NUMBER.unpack_from(self._count)[0])

    def _next(self) -> int:
        number = self._number() + 1
        _NUMBER.pack_into(self._count, 0, number)
        return number

    def _mark(self, number: int) -> None:
        mark = b"%b%d\0" % (self._before, number)
        for pipe in self._pipes:
            with contextlib.suppress(OSError):  # nobody reads any more
                os.write(pipe, mark)


_as_json: Final = msgspec.msgpack.Decoder(Json).decode
_NUMBER: Final = struct.Struct("q")
_SYNC: Final = frame({"op": "sync"})
_BEGUN: Final = frame({"op": "begun"})
