"""How what was recorded is said in a line: states, times, and how far the items of a fan-out are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mlbench.core.records import FanOut

__all__ = ["MARKS", "fanned", "shortened", "sized", "took"]

MARKS: Final[Mapping[str, str]] = {
    "succeeded": "✓",
    "failed": "✗",
    "running": "●",
    "queued": "◌",
    "cancelled": "■",
    "reused": "○",
    "skipped": "–",
}
"""Each state has a shape of its own: colour alone says nothing."""


def took(seconds: float) -> str:
    """Return how long something took, short.

    Examples
    --------
    >>> took(2.6), took(72), took(7500)
    ('2.6 s', '1 min 12 s', '2 h 5 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} min"


def sized(count: int) -> str:
    """Return a number of bytes, short.

    Examples
    --------
    >>> sized(512), sized(2_600), sized(1_234_567), sized(99_000_000_000)
    ('512 B', '2.6 kB', '1.2 MB', '99 GB')
    """
    if count < 1000:
        return f"{count} B"
    units = ["kB", "MB", "GB", "TB"]
    amount, unit = count / 1000, units.pop(0)
    while amount >= 999.5 and units:
        amount, unit = amount / 1000, units.pop(0)
    return f"{amount:.1f} {unit}" if amount < 9.95 else f"{amount:,.0f} {unit}"


def shortened(text: str, most: int) -> str:
    r"""Return a text as one line of so many characters at most.

    Examples
    --------
    >>> shortened("a long\n  story", 20), shortened("a long\n  story", 8)
    ('a long story', 'a long …')
    """
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def fanned(fanout: FanOut) -> str:
    """Return how many items a fan-out has, and what became of them.

    Examples
    --------
    >>> fanned(FanOut(names=("carrier",), shape=(16,), total=16, running=2, succeeded=10, reused=1, failed=3))
    '×16 · 11 done (1 reused) · 3 failed'
    >>> fanned(FanOut(names=("carrier",)))
    'for each carrier'
    """
    if fanout.total is None:
        return f"for each {' and '.join(fanout.names)}"
    reused = f" ({fanout.reused:,} reused)" if fanout.reused else ""
    counts = [f"×{fanout.total:,}", f"{fanout.succeeded + fanout.reused:,} done{reused}"]
    others = (("failed", fanout.failed), ("cancelled", fanout.cancelled), ("skipped", fanout.skipped))
    return " · ".join([*counts, *(f"{count:,} {state}" for state, count in others if count)])
