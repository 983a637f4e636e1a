"""The pipes and sockets between a supervisor and a step's process, and text out of them."""

from __future__ import annotations

import codecs
import contextlib
import os
import socket
from typing import Final

__all__ = ["Pipes", "Reader", "received"]

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
            _widen(descriptor)
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


def _widen(pipe: int) -> None:
    """Let a pipe hold more, so that a step that prints a lot waits less (Linux)."""
    import fcntl

    if hasattr(fcntl, "F_SETPIPE_SZ"):
        with contextlib.suppress(OSError):  # over the user's limit
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 1 << 20)


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
