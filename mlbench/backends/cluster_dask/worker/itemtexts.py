"""What the processes of a fan-out's items print and show, put in order and given to the item that it is of.

Text comes through two pipes and messages through sockets, each with a number (see `mlbench.backends.cluster_dask.
channel`): what has the same number is in order if the message goes first. What comes before an item's end is its own.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any, Final

from mlbench.backends.cluster_dask.worker.pipes import MarkedReader, Pipes
from mlbench.core.records import Json
from mlbench.runs.transcript import Transcript

__all__ = ["Streams", "Texts"]

_KEPT: Final = 64 << 10
_KEPT_IN_ALL: Final = 16 << 20
_KEPT_THEN: Final = 4 << 10
"""Characters kept of an item's text, and of each further one's once there are many in the chunk."""

Close = Callable[[Sequence[Json]], None]


class Texts:
    """What was said and is not given to anybody yet."""

    def __init__(self) -> None:
        self._said: list[tuple[int, int, Any]] = []
        self._ends: list[tuple[int, Close]] = []  # in order: one process speaks at a time
        self._kept = 0
        self._quiet = True
        self._transcript = Transcript(limit=_KEPT, log=False)

    def add_text(self, number: int, name: str, text: str) -> None:
        """Take text of a stream, which came after the mark with a number."""
        self._said.append((number, 1, (name, text)))

    def add_message(self, number: int, message: Json) -> None:
        """Take an output."""
        self._said.append((number, 0, message))

    def add_end(self, number: int, close: Close) -> None:
        """Take the end of an item, or of what is nobody's: `close` is given the outputs before it, if there are any."""
        self._ends.append((number, close))

    def settle(self, known: float) -> None:
        """Put in order what is known, which is all up to a number."""
        ends = self._ends
        count = len(ends) if known == float("inf") else bisect_right(ends, known, key=_number)
        if self._said or not self._quiet:
            self._close(known, ends[:count])
        del ends[:count]

    def _close(self, known: float, ends: Sequence[tuple[int, Close]]) -> None:
        said = self._said
        said.sort(key=_order)
        count = len(said) if known == float("inf") else bisect_right(said, known, key=_number)
        place = 0
        for number, close in ends:
            while place < count and said[place][0] < number:
                self._take_up(said[place][2])
                place += 1
            if not self._quiet:
                close(self.take())
        for _, _, what in said[place:count]:
            self._take_up(what)
        del said[:count]

    def _take_up(self, what: Any) -> None:
        if type(what) is tuple:
            self.say(*what)
        else:
            self._quiet = False
            self._transcript.add(what)

    def say(self, name: str, text: str) -> None:
        """Take text that is in order."""
        self._quiet = False
        self._transcript.add({"output_type": "stream", "name": name, "text": text})

    def take(self) -> Sequence[Json]:
        """Return the outputs since the last end."""
        if self._quiet:
            return ()
        self._quiet = True
        messages = self._transcript.outputs()
        self._kept += sum(len(one.get("text", "")) for one in messages)
        self._transcript = Transcript(limit=_KEPT if self._kept < _KEPT_IN_ALL else _KEPT_THEN, log=False)
        return messages


class Streams:
    """The pipes through which processes print: what comes out of them is put among the texts."""

    def __init__(self, texts: Texts, pipes: Pipes, execution: str) -> None:
        self._texts = texts
        self._readers = {
            pipes.output: MarkedReader("stdout", execution),
            pipes.errors: MarkedReader("stderr", execution),
        }

    def read(self) -> float:
        """Take what is there; return the number up to which all text is known."""
        for descriptor, reader in self._readers.items():
            for number, text in reader.read_marked(descriptor):
                self._texts.add_text(number, reader.name, text)
        return min((reader.number for reader in self._readers.values() if not reader.ended), default=float("inf"))

    def ended(self) -> list[int]:
        """Return the pipes out of which nothing more will come."""
        return [descriptor for descriptor, reader in self._readers.items() if reader.ended]

    def end(self) -> None:
        """Take what has come only in part: nothing more will."""
        for reader in self._readers.values():
            if text := reader.last():
                self._texts.add_text(reader.number, reader.name, text)


def _order(pending: tuple[int, int, Any]) -> tuple[int, int]:
    return pending[0], pending[1]


def _number(pending: tuple[Any, ...]) -> int:
    number: int = pending[0]
    return number
