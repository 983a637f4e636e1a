"""What a step shows, as it is kept: nbformat outputs in order, updated, cleared, and cut where there is too much.

A `Transcript` takes messages as they come and says which of them are worth sending on at once. Text is kept up to a
limit, half of it from the beginning and half from the end; the rest of it is only in the log, which the caller keeps.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from mlbench.core.records import Json

__all__ = ["KEPT_RICH", "KEPT_TEXT", "Transcript", "fitting", "shortened", "text_of"]

KEPT_TEXT: Final = 1 << 20
"""Characters of text that are kept of one execution: half from the beginning, half from the end."""

KEPT_RICH: Final = 32 << 20
"""Characters of displays that are kept of one execution; later ones keep the beginning of their plain text only."""

_NOTES: Final = 1_000
"""Characters by which a text may be too long: it may have been cut before, and say so."""

_KEPT_THEN: Final = 2_000
"""Characters of plain text of such a later display."""

_LIVE_RATE: Final = 64 << 10
"""Characters of text a second that are sent on at once when more than `KEPT_TEXT` have been."""


def shortened(text: str, limit: int = KEPT_TEXT) -> str:
    r"""Return the beginning and the end of a text that is too long to be kept, and between them how much is left out.

    Examples
    --------
    >>> shortened("a" * 5 + "b" * 10 + "c" * 5, limit=10)
    'aaaaa\n[… 10 characters of this are left out here …]\nccccc'
    """
    if len(text) <= limit:
        return text
    half = limit // 2
    left_out = len(text) - 2 * half
    return f"{text[:half]}\n[… {left_out:,} characters of this are left out here …]\n{text[len(text) - half :]}"


def text_of(error: BaseException) -> str:
    """Return an error's text, cut if it is without measure, also of one whose `__str__` fails."""
    try:
        return shortened(str(error))
    except Exception:  # noqa: BLE001  a stranger's class
        return f"<{type(error).__name__} that can't be shown>"


def fitting(data: Mapping[str, Any], *, limit: int = KEPT_TEXT, rich: int = KEPT_RICH) -> dict[str, Any]:
    r"""Return a display's forms without those that are too large, which its plain text then names.

    Parameters
    ----------
    limit, rich
        Characters of the plain text, and characters or bytes of each other form.

    Examples
    --------
    >>> fitting({"text/plain": "x", "text/html": "<b>x</b>"}, rich=5)
    {'text/plain': 'x\n[… text/html of 8 characters is not kept: it is too large …]'}
    """
    kept: dict[str, Any] = {}
    notes: list[str] = []
    for kind, value in data.items():
        if kind == "text/plain":
            kept[kind] = shortened(value, limit) if isinstance(value, str) else value
        elif (size := _size(value)) > rich:
            unit = "bytes" if isinstance(value, bytes) else "characters"
            notes.append(f"[… {kind} of {size:,} {unit} is not kept: it is too large …]")
        else:
            kept[kind] = value
    if notes:
        plain = str(kept.get("text/plain", ""))
        kept["text/plain"] = "\n".join([*([plain] if plain else []), *notes])
    return kept


class Transcript:
    """The outputs of one execution.

    Parameters
    ----------
    limit, rich
        Characters of text, also of each display's, and of all displays together, that are kept.
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
        self._limit = limit
        self._rich = rich
        self._largest = rich
        self._plain = limit
        self._not_shown = 0
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
        if "data" in message:
            data = fitting(message["data"], limit=self._limit + _NOTES, rich=self._largest)
            message = {**message, "data": data}
        if kind == "update_display_data":
            self._update(message)
            return [message]
        weighed = self._weighed(message)
        if weighed is None:
            self._not_shown += 1
        else:
            self._place(_Output(weighed))
        return [message]

    def outputs(self) -> list[Json]:
        """Return the outputs as nbformat has them."""
        outputs = [one.as_output() for one in self._head]
        if not self._left_out and outputs and self._tail and self._tail[0].message is None:
            first = self._tail[0].as_output()
            if outputs[-1]["output_type"] == "stream" and outputs[-1]["name"] == first["name"]:
                outputs[-1]["text"] += first["text"]
                return [*outputs, *(one.as_output() for one in self._tail[1:]), *self._about_displays()]
        if self._left_out:
            outputs.append(
                {
                    "output_type": "stream",
                    "name": "stderr",
                    "text": (f"\n[… {self._left_out:,} characters are left out here{self._rest} …]\n"),
                }
            )
        return [*outputs, *(one.as_output() for one in self._tail), *self._about_displays()]

    def _about_displays(self) -> list[Json]:
        if not self._not_shown:
            return []
        note = f"\n[… {self._not_shown:,} more displays are not kept: there are too many …]\n"
        return [{"output_type": "stream", "name": "stderr", "text": note}]

    def last_words(self) -> list[Json]:
        """Return what to send on at the end: a note about text that was not."""
        if not self._muted:
            return []
        muted, self._muted = self._muted, 0
        return [_note(muted)]

    def _clear(self) -> None:
        self._clear_next = False
        self._head, self._tail = [], []
        self._head_text = self._tail_text = self._left_out = self._not_shown = 0

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

    def _weighed(self, message: Json) -> Json | None:
        """Return a display as it is kept: the beginning of its plain text once there is too much, then nothing."""
        data = message.get("data")
        if not data:
            return message
        weight = _weight(data)
        if weight <= self._rich:
            self._rich -= weight
            return message
        plain = str(data.get("text/plain", ""))[:_KEPT_THEN]
        said = f"{plain} [the rest is not kept: this step shows too much]"
        if len(said) > self._plain:
            return None
        self._plain -= len(said)
        return {**message, "data": {"text/plain": said}}

    def _update(self, message: Json) -> None:
        identifier = message.get("transient", {}).get("display_id")
        if identifier is None:  # it names no display: those without an id are not meant
            return
        for one in (*self._head, *self._tail):
            if one.message is not None and one.message.get("transient", {}).get("display_id") == identifier:
                self._rich += _weight(one.message["data"])  # what it showed before is not kept any more
                weighed = self._weighed(message)
                data = {"text/plain": "[not kept: this step shows too much]"} if weighed is None else weighed["data"]
                one.message = {**one.message, "data": data, "metadata": message.get("metadata", {})}

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


def _weight(data: Mapping[str, Any]) -> int:
    """Return how many characters a display's forms have, about."""
    return sum(map(_size, data.values()))


def _size(value: Any) -> int:
    return len(value) if isinstance(value, str | bytes) else len(json.dumps(value, default=str))


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
