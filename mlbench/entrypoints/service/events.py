"""News: numbered, kept for a while, and sent to those who asked. Nobody is waited for."""

from __future__ import annotations

import collections
from dataclasses import dataclass
from typing import Any, Final, Protocol

from mlbench.backends.service_socket.frames import encode
from mlbench.core.ids import RunId
from mlbench.core.messages import Event, EventType

__all__ = ["Listener", "News", "Wish"]

KEPT: Final = 4096
KEPT_BYTES: Final = 32 << 20
"""What is kept for those who come back: so many pieces of news, and so many bytes, at most."""


@dataclass(slots=True, kw_only=True)
class Wish:
    """What a listener wants to hear.

    A kernel hears everything of its own executions. A subscriber hears of one notebook, or of all; what steps print
    only if it says so.
    """

    subscribed: bool = False
    messages: bool = False
    notebook: str | None = None
    kernel: str | None = None

    def fits(self, type_: EventType, notebook: str | None, kernel: str | None) -> bool:
        """Say whether a piece of news is wanted."""
        if kernel is not None and kernel == self.kernel:
            return True
        if not self.subscribed or (type_ == "messages" and not self.messages):
            return False
        return self.notebook is None or self.notebook == notebook or type_ in {"job", "service"}


class Listener(Protocol):
    """One end of a connection."""

    wish: Wish

    def send(self, frame: bytes, /) -> None:
        """Take a frame without waiting; one that cannot take more is dropped."""
        ...


@dataclass(frozen=True, slots=True)
class _Kept:
    seq: int
    type: EventType
    notebook: str | None
    kernel: str | None
    frame: bytes


class News:
    """All news of one life of the service.

    Parameters
    ----------
    life
        Names this life: numbers of another one say nothing here.
    """

    def __init__(self, life: str, *, kept: int = KEPT, kept_bytes: int = KEPT_BYTES) -> None:
        self.life = life
        self.seq = 0
        self._most = kept
        self._most_bytes = kept_bytes
        self._kept: collections.deque[_Kept] = collections.deque()
        self._bytes = 0
        self._listeners: list[Listener] = []

    def join(self, listener: Listener) -> None:
        """Let a listener hear what it wishes from now on."""
        if listener not in self._listeners:
            self._listeners.append(listener)

    def leave(self, listener: Listener) -> None:
        """Send a listener nothing more."""
        if listener in self._listeners:
            self._listeners.remove(listener)

    def publish(
        self,
        type_: EventType,
        body: dict[str, Any],
        *,
        run: RunId | None = None,
        notebook: str | None = None,
        kernel: str | None = None,
    ) -> None:
        """Give a piece of news its number, keep it and send it."""
        self.seq += 1
        event = Event(seq=self.seq, life=self.life, type=type_, run=run, notebook=notebook, body=body)
        kept = _Kept(self.seq, type_, notebook, kernel, encode({"event": event}))
        self._kept.append(kept)
        self._bytes += len(kept.frame)
        while len(self._kept) > 1 and (len(self._kept) > self._most or self._bytes > self._most_bytes):
            self._bytes -= len(self._kept.popleft().frame)
        for listener in list(self._listeners):
            if listener.wish.fits(type_, notebook, kernel):
                listener.send(kept.frame)

    def catch_up(self, listener: Listener, *, seq: int | None, life: str | None) -> bool:
        """Send a listener what it has missed since a number; False if that is not known any more."""
        if seq is None:
            return True
        if life != self.life or seq > self.seq:
            return False
        first = self._kept[0].seq if self._kept else self.seq + 1
        if seq + 1 < first:
            return False
        for kept in self._kept:
            if kept.seq > seq and listener.wish.fits(kept.type, kept.notebook, kept.kernel):
                listener.send(kept.frame)
        return True
