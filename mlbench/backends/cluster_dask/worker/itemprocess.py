"""A process that runs items of a chunk, as its worker knows it: what it has said, and what may have to run again."""

from __future__ import annotations

import contextlib
import os
import select

from mlbench.backends.cluster_dask.channel import Frames
from mlbench.backends.cluster_dask.itemwords import ItemEnd, read_word
from mlbench.backends.cluster_dask.worker.pipes import read_now
from mlbench.core.records import Json

__all__ = ["ItemProcess", "unregister"]


class ItemProcess:
    """The process that was forked for items, or (`process` is None) the one that loaded all and runs them itself.

    Attributes
    ----------
    number
        That of the last message heard over its own connection: all messages up to it have been heard.
    ended_saying
        Whether nothing more will come over that.
    over_at
        When it said that it is done, 0 before.
    ended
        The items that have ended in it.
    unsure
        Those since it last looked that may have seen what another has changed: all but the first.
    """

    def __init__(self, process: int | None, connection: int | None) -> None:
        self.process = process
        self.number = 0
        self.over_at = 0.0
        self.ended: list[int] = []
        self.unsure: list[int] = []
        self._clean = True
        self.ended_saying = False
        self._connection = connection
        self._frames = Frames(read_word)

    def end(self, number: int) -> None:
        """Note that an item has ended in it."""
        self.ended.append(number)
        if not self._clean:
            self.unsure.append(number)
        self._clean = False

    def look(self) -> None:
        """Note that it has looked, or will not go on: whatever is to run again has been named."""
        self._clean = True
        self.unsure.clear()

    def read(self) -> list[Json | ItemEnd] | None:
        """Return what it says next, complete messages alone; None if it says nothing now, or nothing any more."""
        data = read_now(self._connection) if self._connection is not None else None
        if not data:
            self.ended_saying = data == b""
            return None
        messages: list[Json | ItemEnd] = self._frames.feed(data)
        if messages:
            last = messages[-1]
            self.number = last.n if isinstance(last, ItemEnd) else last["n"]
        return messages

    def close(self, poll: select.poll) -> None:
        """Let go of its connection."""
        if self._connection is not None:
            unregister(poll, self._connection)
            os.close(self._connection)
            self._connection = None


def unregister(poll: select.poll, descriptor: int) -> None:
    """Wait no more for what may not have been waited for."""
    with contextlib.suppress(KeyError):
        poll.unregister(descriptor)
