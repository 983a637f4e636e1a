"""The picture of a fan-out under its cell: one line of numbers, a bar, and a heat map of a metric.

It is a display of three forms: `MIME`, which the JupyterLab extension draws; HTML without scripts, whose map is made
of characters, so that it says the same where colours are taken out of it (GitHub, mail, a printed page); and text.

`MIME` is JSON: `schema` (1), `execution`, `step`, `names`, `shape`, `total` (null until the items are known), `counts`
(by state), `rate` (items a second), `left` (seconds), `slowest` (`item`, `label`, `seconds`), `metric`, `grid` (rows
and columns of the map), `per_cell` (items in one of its cells), `states` (a letter for each cell: q r s u f c),
`values` (a number or null for each cell), `labels` (those of each name's values, while they are few) and `failed`
(item, label, error; the first of them). Cells are single items up to `MOST_CELLS`; above that each stands for several
that lie side by side: its value is their mean, its letter that of what most wants to be seen.
"""

from __future__ import annotations

import html
from array import array
from collections.abc import Sequence
from typing import Final

from mlbench.core.ids import ExecutionId
from mlbench.core.messages import Spread
from mlbench.core.records import FanOut, Json

__all__ = ["MIME", "MOST_CELLS", "Grid", "display_id", "picture"]

MIME: Final = "application/vnd.mlbench.fanout+json"

MOST_CELLS: Final = 4_096

MOST_LABELS: Final = 200
"""Values of one name whose labels are part of the picture."""

_LABEL: Final = 60
_ERROR: Final = 300
"""Characters of an item's values, and of its error, that are shown in the picture; its record has more."""

_ORDER: Final = b"frqcsu"
"""Of the states in one cell the first of these is shown."""

_LARGEST: Final = 1e290
"""Numbers from which on sums of them may be no numbers any more: a cell that has one is left empty."""

_ROWS: Final = 24
_COLUMNS: Final = 80
_BAR: Final = 40
"""Of the map and the bar that are made of characters."""

_LEVELS: Final = "▁▂▃▄▅▆▇█"
_COLOURS: Final = {"s": "#388e3c", "u": "#66a869", "f": "#d32f2f", "r": "#1976d2", "c": "#f57c00", "q": "#9e9e9e"}
_SIGNS: Final = {"f": "✗", "r": "▸", "c": "■", "q": "·"}
_WORDS: Final = (
    ("running", "running"),
    ("reused", "reused"),
    ("failed", "failed"),
    ("cancelled", "cancelled"),
)


class Grid:
    """The states and values of items as cells of a map: what an item changes costs the same however many there are.

    The rows are those of the outermost name, the columns those of all others; one name alone makes one row.

    Examples
    --------
    >>> grid = Grid((2, 3))
    >>> grid.move(4, ord("q"), ord("s"))
    >>> grid.states()
    'qqqqsq'
    """

    def __init__(self, shape: Sequence[int], most: int = MOST_CELLS) -> None:
        rows = shape[0] if len(shape) > 1 else 1
        total = 1 if shape else 0
        for size in shape:
            total *= size
        columns = total // rows if rows else 0
        self.per_cell = self._columns_per_cell = 1
        self._items_per_row = columns
        if rows > most:  # whole rows together
            self.per_cell = -(-rows // most) * max(1, columns)
            self.rows, self.columns = -(-total // self.per_cell) if total else 0, 1
            self._items_per_row = 0
        else:
            if rows * columns > most:
                self.per_cell = -(-columns // (most // rows))
            self.rows, self.columns = rows, -(-columns // self.per_cell)
        cells = self.rows * self.columns
        self._states = {code: array("I", bytes(4 * cells)) for code in _ORDER}
        for number in range(cells):
            self._states[ord("q")][number] = self._items(number, total)
        self._sums = array("d", bytes(8 * cells))
        self._valued = array("I", bytes(4 * cells))
        self._own: dict[int, float] = {}

    def move(self, number: int, before: int, after: int) -> None:
        """Note that an item's state is another now: letters, as codes."""
        cell = self.cell(number)
        self._states[before][cell] -= 1
        self._states[after][cell] += 1

    def set_value(self, number: int, value: float) -> None:
        """Note an item's metric; what is no number, or too large for a picture, leaves its cell empty."""
        if not abs(value) < _LARGEST:
            return
        cell = self.cell(number)
        before = self._own.get(number)
        self._own[number] = value
        if before is None:
            self._valued[cell] += 1
        self._sums[cell] += value - (before or 0.0)

    def cell(self, number: int) -> int:
        """Return the cell that an item is in."""
        if self.per_cell == 1:
            return number
        if not self._items_per_row:
            return number // self.per_cell
        row, column = divmod(number, self._items_per_row)
        return row * self.columns + column // self.per_cell

    def states(self) -> str:
        """Return the letter of each cell."""
        return "".join(
            "f" if f else "r" if r else "q" if q else "c" if c else "s" if s else "u"
            for f, r, q, c, s, _ in zip(*(self._states[code] for code in _ORDER), strict=True)
        )

    def values(self) -> list[float | None]:
        """Return the value of each cell, the mean of its items'."""
        return [
            float(f"{total / count:.6g}") if count else None
            for total, count in zip(self._sums, self._valued, strict=True)
        ]

    def _items(self, cell: int, total: int) -> int:
        if not self._items_per_row:
            return min(self.per_cell, total - cell * self.per_cell)
        column = cell % self.columns
        return min(self.per_cell, self._items_per_row - column * self.per_cell)


def display_id(execution: ExecutionId) -> str:
    """Return the id under which the picture of a step is shown and updated."""
    return f"mlbench-{execution}"


def picture(
    *,
    execution: ExecutionId,
    step: str,
    fanout: FanOut,
    grid: Grid,
    spread: Spread | None,
    slowest: str = "",
    failed: Sequence[tuple[int, str, str]] = (),
    rate: float | None = None,
    again: bool = False,
) -> Json:
    """Return the message that shows how far a fan-out is.

    Parameters
    ----------
    slowest
        The label of the slowest item.
    failed
        Number, label and error of the first items that failed.
    rate
        Items a second; None while nobody can know, and once all have ended.
    again
        Whether it has been shown before and is to be shown anew.
    """
    total = fanout.total
    counts = {name: getattr(fanout, name) for name in ("running", "succeeded", "reused", "failed", "cancelled")}
    done = sum(counts.values()) - fanout.running
    left = (total - done) / rate if rate and total is not None and total > done else None
    facts: Json = {
        "schema": 1,
        "execution": execution,
        "step": step,
        "names": list(fanout.names),
        "shape": list(fanout.shape),
        "total": total,
        "counts": counts,
        "rate": float(f"{rate:.4g}") if rate else None,
        "left": round(left, 1) if left is not None else None,
        "slowest": None
        if fanout.slowest is None
        else {"item": fanout.slowest, "label": _cut(slowest, _LABEL), "seconds": fanout.slowest_seconds},
        "metric": fanout.metric,
        "grid": [grid.rows, grid.columns],
        "per_cell": grid.per_cell,
        "states": grid.states(),
        "values": grid.values() if fanout.metric is not None else [],
        "labels": [list(texts) if len(texts) <= MOST_LABELS else [] for texts in (spread.labels if spread else ())],
        "failed": [[item, _cut(label, _LABEL), _cut(error, _ERROR)] for item, label, error in failed],
    }
    return {
        "output_type": "update_display_data" if again else "display_data",
        "data": {MIME: facts, "text/html": _html(facts), "text/plain": _text(facts)},
        "metadata": {},
        "transient": {"display_id": display_id(execution)},
    }


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


# --- for people ------------------------------------------------------------------------------------------------------


def _line(facts: Json) -> str:
    """Return the line of numbers."""
    total, counts = facts["total"], facts["counts"]
    if total is None:
        return "its items are being found"
    done = _done(facts)
    parts = [f"{done:,} of {total:,}" if done < total else f"{total:,} item{'' if total == 1 else 's'}"]
    parts += [f"{counts[name]:,} {word}" for name, word in _WORDS if counts[name]]
    if facts["rate"] is not None:
        parts.append(f"{_short(facts['rate'])} a second")
    if facts["left"] is not None:
        parts.append(f"about {_seconds(facts['left'])} left")
    if (slowest := facts["slowest"]) is not None:
        label = f" {slowest['label']}" if slowest["label"] else f" item {slowest['item']}"
        parts.append(f"slowest{label} {_seconds(slowest['seconds'])}")
    return " · ".join(parts)


def _text(facts: Json) -> str:
    lines = [f"{facts['step']}: {_line(facts)}"]
    if facts["total"]:
        lines.append("".join(sign * length for _, sign, length in _bar(facts)))
    lines += [f"✗ {label or f'item {item}'}: {error}" for item, label, error in facts["failed"]]
    return "\n".join(lines)


def _html(facts: Json) -> str:
    line = html.escape(_line(facts))
    parts = [f"<div><b>{html.escape(facts['step'])}</b> {line}</div>"]
    if facts["total"]:
        bar = "".join(_coloured(letter, sign * length) for letter, sign, length in _bar(facts) if length)
        parts.append(f'<pre style="line-height:1.2;margin:2px 0">{bar}</pre>')
    if facts["metric"] is not None and facts["total"]:
        parts.append(_map(facts))
    if facts["failed"]:
        rows = "".join(
            f"<li>{html.escape(str(label or f'item {item}'))}: {html.escape(error)}</li>"
            for item, label, error in facts["failed"]
        )
        more = facts["counts"]["failed"] - len(facts["failed"])
        rows += f"<li>and {more:,} more</li>" if more > 0 else ""
        parts.append(f"<details><summary>{facts['counts']['failed']:,} failed</summary><ul>{rows}</ul></details>")
    return "".join(parts)


def _bar(facts: Json) -> list[tuple[str, str, int]]:
    """Return the parts of the bar: letter, sign and length."""
    total, counts = facts["total"], facts["counts"]
    shares = [
        ("s", "█", counts["succeeded"]),
        ("u", "▓", counts["reused"]),
        ("f", "✗", counts["failed"]),
        ("c", "■", counts["cancelled"]),
        ("r", "▒", counts["running"]),
    ]
    bar: list[tuple[str, str, int]] = []
    left = _BAR
    for letter, sign, count in shares:
        length = min(left, max(1, count * _BAR // total)) if count else 0
        bar.append((letter, sign, length))
        left -= length
    if _done(facts) == total:  # rounding is no reason to look unfinished
        longest = max(range(len(bar)), key=lambda place: bar[place][2])
        letter, sign, length = bar[longest]
        bar[longest] = (letter, sign, length + left)
        left = 0
    return [*bar, ("q", "░", left)]


def _map(facts: Json) -> str:
    """Return the heat map, made of characters that are the higher the greater the number is."""
    rows, columns = facts["grid"]
    values, states = facts["values"], facts["states"]
    tall, wide = -(-rows // _ROWS), -(-columns // _COLUMNS)
    known = [value for value in values if value is not None]
    if not known:
        return ""
    low, high = min(known), max(known)
    lines = []
    for top in range(0, rows, tall):
        line = []
        for left in range(0, columns, wide):
            cells = [
                row * columns + column
                for row in range(top, min(rows, top + tall))
                for column in range(left, min(columns, left + wide))
            ]
            line.append(_glyph(cells, values, states, low, high))
        lines.append("".join(line))
    what = f"{facts['metric']} from {_short(low)} (▁) to {_short(high)} (█)"
    names = facts["names"]
    if len(names) > 1:
        what += f": {names[0]} down, {' × '.join(names[1:])} across"
    together = tall * wide * facts["per_cell"]
    if together > 1:
        what += f"; each mark is the mean of up to {together:,} items"
    drawn = "\n".join(lines)
    return f'<pre style="line-height:1.1;margin:2px 0">{drawn}</pre><div>{html.escape(what)}</div>'


def _glyph(cells: Sequence[int], values: Sequence[float | None], states: str, low: float, high: float) -> str:
    shown = next((letter for letter in "fr" if any(states[cell] == letter for cell in cells)), None)
    if shown is not None:
        return _coloured(shown, _SIGNS[shown])
    here = [value for cell in cells if (value := values[cell]) is not None]
    if not here:
        letter = states[cells[0]]
        return _coloured(letter, _SIGNS.get(letter, " "))
    share = (sum(here) / len(here) - low) / (high - low) if high > low else 0.5
    return _LEVELS[min(len(_LEVELS) - 1, int(share * len(_LEVELS)))]


def _coloured(letter: str, text: str) -> str:
    return f'<span style="color:{_COLOURS[letter]}">{text}</span>'


def _done(facts: Json) -> int:
    counts = facts["counts"]
    return int(counts["succeeded"] + counts["reused"] + counts["failed"] + counts["cancelled"])


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _seconds(seconds: float) -> str:
    """Return a time as people say it.

    Examples
    --------
    >>> _seconds(0.0123), _seconds(2.61), _seconds(72), _seconds(7300)
    ('12 ms', '2.6 s', '1 min 12 s', '2 h 1 min')
    """
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
