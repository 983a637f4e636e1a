"""How what was recorded is said in a line: states, times, and how far the items of a fan-out are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mlbench.core.records import FanOut

__all__ = ["MARKS", "fanned", "took"]

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
