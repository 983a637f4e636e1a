"""What a step shows, as it is kept: nbformat outputs in order, updated, cleared, and cut where there is too much.

A `Transcript` takes messages as they come and says which of them are worth sending on at once. Text is kept up to a
limit, half of it from the beginning and half from the end; the rest of it is only in the log, which the caller keeps.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from mlbench.core.records import Json

__all__ = ["KEPT_RICH", "KEPT_TEXT", "Transcript"]

KEPT_TEXT: Final = 1 << 20
"""Characters of text that are kept of one execution: half from the beginning, half from the end."""

KEPT_RICH: Final = 32 << 20
"""Characters of rich displays that are kept of one execution; later ones keep their plain text only."""

_LIVE_RATE: Final = 64 << 10
"""Characters of text a second that are sent on at once when more than `KEPT_TEXT` have been."""


class Transcript:
    """The outputs of one execution.

    Parameters
    ----------
    limit, rich
        Characters of text, and of rich displays, that are kept.
    log
        Whether the caller keeps the rest of the text, so that it can be said where it is.

    Examples
    --------
    >>> transcript = Transcript()
    >>> for text in ("a", "b"):
    ...     _ = transcript.add({"output_type": "stream", "name": "stdout", "text": text})
    >>> transcript.outputs()
    [{'output_type': 'stream', 'name': 'stdout', 'text': 'ab'}]
    """

    def __init__(
        self,
        *,
        limit: int = KEPT_TEXT,
        rich: int = KEPT_RICH,
        log: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rest = "; all of it is in the step's log" if log else ""
        self._half = limit // 2
        self._rich = rich
        self._clock = clock
        self._head: list[_Output] = []
        self._tail: list[_Output] = []
        self._head_text = 0
        self._tail_text = 0
        self._left_out = 0
        self._clear_next = False
        self._allowance = float(limit)
        self._most = float(limit)
        self._asked = clock()
        self._muted = 0

    @property
    def cut(self) -> bool:
        """Whether any text has been left out."""
        return self._left_out > 0

    def add(self, message: Json) -> list[Json]:
        """Take one message; return what to send on at once: it, or less of it, or nothing.

        `stream`, `display_data`, `execute_result` and `error` are kept; `update_display_data` and `clear_output`
        change what was kept.
        """
        kind = message["output_type"]
        if kind == "clear_output":
            if message.get("wait"):
                self._clear_next = True
            else:
                self._clear()
            return [message]
        if self._clear_next and kind != "update_display_data":
            self._clear()
        if kind == "stream":
            self._add_text(message["name"], message["text"])
            return self._live(message)
        if kind == "update_display_data":
            self._update(message)
            return [message]
        self._place(_Output(self._weighed(message)))
        return [message]

    def outputs(self) -> list[Json]:
        """Return the outputs as nbformat has them."""
        outputs = [one.as_output() for one in self._head]
        if not self._left_out and outputs and self._tail and self._tail[0].message is None:
            first = self._tail[0].as_output()
            if outputs[-1]["output_type"] == "stream" and outputs[-1]["name"] == first["name"]:
                outputs[-1]["text"] += first["text"]
                return [*outputs, *(one.as_output() for one in self._tail[1:])]
        if self._left_out:
            outputs.append(
                {
                    "output_type": "stream",
                    "name": "stderr",
                    "text": (f"\n[… {self._left_out:,} characters are left out here{self._rest} …]\n"),
                }
            )
        return [*outputs, *(one.as_output() for one in self._tail)]

    def last_words(self) -> list[Json]:
        """Return what to send on at the end: a note about text that was not."""
        if not self._muted:
            return []
        muted, self._muted = self._muted, 0
        return [_note(muted)]

    def _clear(self) -> None:
        self._clear_next = False
        self._head, self._tail = [], []
        self._head_text = self._tail_text = self._left_out = 0

    def _add_text(self, name: str, text: str) -> None:
        room = self._half - self._head_text
        if room > 0 and not self._tail:
            first, text = text[:room], text[room:]
            self._head_text += len(first)
            _append(self._head, name, first)
        if text:
            self._tail_text += len(text)
            _append(self._tail, name, text)
            self._trim()

    def _trim(self) -> None:
        """Take text off the beginning of the tail, a good piece at a time so that it costs little."""
        if self._tail_text <= self._half + (self._half >> 1):
            return
        for place, one in enumerate(self._tail):
            excess = self._tail_text - self._half
            if excess <= 0:
                break
            if one.message is not None:
                continue
            text = one.text()
            kept = text[excess:]
            if kept:  # begin with a whole line where there is one near
                line = kept.find("\n", 0, 1000) + 1
                kept = kept[line:]
            gone = len(text) - len(kept)
            self._tail_text -= gone
            self._left_out += gone
            self._tail[place] = _Output(None, one.name, kept)
        self._tail = [one for one in self._tail if one.message is not None or one.pieces]

    def _place(self, output: _Output) -> None:
        (self._tail if self._tail else self._head).append(output)

    def _weighed(self, message: Json) -> Json:
        """Return a display as it is kept: without its rich forms once there are too many of them."""
        data = message.get("data")
        if not data:
            return message
        weight = sum(len(part) for part in data.values() if isinstance(part, str))
        if weight <= self._rich or set(data) == {"text/plain"}:
            self._rich -= weight
            return message
        plain = str(data.get("text/plain", ""))[:2000]
        return {**message, "data": {"text/plain": f"{plain} [not kept: this step shows too much]"}}

    def _update(self, message: Json) -> None:
        identifier = message.get("transient", {}).get("display_id")
        if identifier is None:  # it names no display: those without an id are not meant
            return
        for one in (*self._head, *self._tail):
            if one.message is not None and one.message.get("transient", {}).get("display_id") == identifier:
                one.message = {**one.message, "data": message["data"], "metadata": message.get("metadata", {})}

    def _live(self, message: Json) -> list[Json]:
        """Let text through as fast as a page can show it, and say later how much was held back."""
        now = self._clock()
        self._allowance = min(self._most, self._allowance + (now - self._asked) * _LIVE_RATE)
        self._asked = now
        text = message["text"]
        if len(text) > self._allowance:
            self._muted += len(text)
            return []
        self._allowance -= len(text)
        if self._muted:
            muted, self._muted = self._muted, 0
            return [_note(muted), message]
        return [message]


class _Output:
    """One output that is kept: a message, or a stream in pieces."""

    __slots__ = ("message", "name", "pieces")

    def __init__(self, message: Json | None, name: str = "", text: str = "") -> None:
        self.message = message
        self.name = name
        self.pieces = [text] if text else []

    def text(self) -> str:
        if len(self.pieces) > 1:
            self.pieces = ["".join(self.pieces)]
        return self.pieces[0] if self.pieces else ""

    def as_output(self) -> Json:
        if self.message is None:
            return {"output_type": "stream", "name": self.name, "text": self.text()}
        return {name: value for name, value in self.message.items() if name != "transient"}


def _append(outputs: list[_Output], name: str, text: str) -> None:
    if outputs and outputs[-1].message is None and outputs[-1].name == name:
        outputs[-1].pieces.append(text)
    else:
        outputs.append(_Output(None, name, text))


def _note(characters: int) -> Json:
    return {
        "output_type": "stream",
        "name": "stderr",
        "text": (
            f"\n[… {characters:,} characters were printed too fast to be shown; all of it is in the step's log …]\n"
        ),
    }
