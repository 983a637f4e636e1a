"""How fast the items of a fan-out end, once that can be said."""

from __future__ import annotations

import collections
from typing import Final

__all__ = ["Pace"]

SECONDS: Final = 10.0
"""What the rate is measured over, at least where so much is known."""

ITEMS: Final = 20
"""The same as a number of items: long ones that end together are one burst after long silence."""

LEAST: Final = 2.0
"""Seconds from the first end on in which no rate is told: processes start then, and chunks only find out costs."""


class Pace:
    """The rate of one fan-out.

    Examples
    --------
    >>> pace = Pace()
    >>> [pace.rate(now, done) for now, done in ((0.0, 0), (1.0, 2), (1.5, 4), (3.5, 5002))]
    [None, None, None, 2000.0]
    """

    def __init__(self) -> None:
        self._before: int | None = None
        self._ends: collections.deque[tuple[float, int]] = collections.deque()

    def rate(self, now: float, done: int) -> float | None:
        """Return how many items end in a second, of late; None as long as nobody can know.

        Parameters
        ----------
        now
            Seconds of a clock that only goes forward.
        done
            How many have ended, those included that were there already.
        """
        if self._before is None:
            self._before = done
        if done == self._before:
            return None
        ends = self._ends
        ends.append((now, done))
        while len(ends) > 2 and now - ends[1][0] >= SECONDS and done - ends[1][1] >= ITEMS:
            ends.popleft()
        (since, before), (_, last) = ends[0], ends[-1]
        return (last - before) / (now - since) if last > before and now - since >= LEAST else None
