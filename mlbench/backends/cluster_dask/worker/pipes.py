"""The pipes and sockets between a supervisor and a step's process, and text out of them."""

from __future__ import annotations

import codecs
import os
import re
import socket
from typing import Final

from mlbench.backends.cluster_dask.channel import HELD, mark_before, widen

__all__ = ["HELD", "PIECE", "MarkedReader", "Pipes", "Reader", "read_now", "received"]

PIECE: Final = 1 << 18


class Pipes:
    """A step's stdout, stderr, channel and status: our ends, and those that the process and its server get."""

    def __init__(self) -> None:
        self.output, output = os.pipe()
        self.errors, errors = os.pipe()
        self.channel, channel = socket.socketpair()
        self.status, status = socket.socketpair()
        for descriptor in (self.output, self.errors):
            os.set_blocking(descriptor, False)
            widen(descriptor)
        self.theirs = (output, errors, channel.detach(), status.detach())

    def close_theirs(self) -> None:
        """Close the ends that have been handed over."""
        for descriptor in self.theirs:
            os.close(descriptor)

    def close(self) -> None:
        """Close our ends."""
        os.close(self.output)
        os.close(self.errors)
        self.channel.close()
        self.status.close()


def received(connection: socket.socket) -> bytes | None:
    """Return what has come, b"" if the other end is gone, None if nothing has."""
    try:
        return connection.recv(PIECE)
    except BlockingIOError:
        return None
    except OSError:
        return b""


def read_now(descriptor: int) -> bytes | None:
    """Return what has come through a pipe, b"" if the other end is gone, None if nothing has."""
    try:
        return os.read(descriptor, PIECE)
    except BlockingIOError:
        return None
    except OSError:
        return b""


class Reader:
    """Text out of a pipe's bytes."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.ended = False
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def read(self, descriptor: int) -> str:
        """Return what is there now, which may be nothing."""
        while not self.ended:
            try:
                data = os.read(descriptor, PIECE)
            except (BlockingIOError, InterruptedError):
                return ""
            if not data:
                self.ended = True
            elif text := self._decoder.decode(data):
                return text
        return ""

    def last(self) -> str:
        """Return what is left of a character that was cut."""
        return self._decoder.decode(b"", final=True)


class MarkedReader(Reader):
    """Text out of a pipe that has marks in it (see `mlbench.backends.cluster_dask.channel`).

    `number` is that of the last mark read: all text of the marks before it has been returned.
    """

    def __init__(self, name: str, execution: str) -> None:
        super().__init__(name)
        self.number = 0
        self._before = mark_before(execution)
        self._mark = re.compile(re.escape(self._before) + rb"(\d+)\0")
        self._left = b""

    def read_marked(self, descriptor: int) -> list[tuple[int, str]]:
        """Return what is there now: pieces of text, each with the number of the mark before it."""
        pieces: list[tuple[int, str]] = []
        for _ in range(_MOST_PIECES):
            try:
                data = os.read(descriptor, PIECE)
            except (BlockingIOError, InterruptedError):
                break
            if not data:
                self.ended = True
                self._add(pieces, self._left, final=True)
                self._left = b""
                break
            self._take(pieces, self._left + data)
        return pieces

    def _take(self, pieces: list[tuple[int, str]], data: bytes) -> None:
        text, *marked = self._mark.split(data)
        for place in range(0, len(marked), 2):
            if text:
                self._add(pieces, text)
            self.number = int(marked[place])
            text = marked[place + 1]
        self._left = b""
        begin = text.rfind(b"\0")
        if begin >= 0 and _may_become_mark(text[begin:], self._before):
            text, self._left = text[:begin], text[begin:]
        if text:
            self._add(pieces, text)

    def _add(self, pieces: list[tuple[int, str]], data: bytes, *, final: bool = False) -> None:
        if text := self._decoder.decode(data, final=final):
            pieces.append((self.number, text))


_MOST_PIECES: Final = 16
"""How often a pipe is read at once that never becomes empty."""


def _may_become_mark(data: bytes, before: bytes) -> bool:
    """Say whether bytes may be the beginning of a mark, cut by the end of what has been read."""
    if len(data) <= len(before):
        return before.startswith(data)
    return data.startswith(before) and data[len(before) :].isdigit()
