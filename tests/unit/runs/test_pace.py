"""When it can be said how fast a fan-out is."""

from __future__ import annotations

import pytest

from mlbench.runs.pace import Pace


def test_nothing_is_said_while_processes_start() -> None:
    pace = Pace()
    assert [pace.rate(0.25 * turn, done) for turn, done in enumerate((0, 0, 0, 1, 2, 2, 3, 4))] == [None] * 8
    assert pace.rate(4.0, 5_000) == pytest.approx(4_999 / 3.25)


def test_items_that_were_there_already_are_no_work() -> None:
    pace = Pace()
    assert pace.rate(0.0, 90_000) is None
    assert pace.rate(5.0, 90_000) is None
    assert pace.rate(6.0, 90_001) is None
    assert pace.rate(9.0, 90_301) == 100


def test_it_follows_what_has_become_of_it_lately() -> None:
    pace = Pace()
    for second in range(60):
        pace.rate(float(second), 100 * second)
    assert [pace.rate(60.0 + second, 6_000 + second) for second in range(60)][-1] == pytest.approx(1)


def test_long_items_that_end_together_are_one_burst_after_a_silence() -> None:
    pace = Pace()
    told = [pace.rate(60.0 * turn + part, 2 * turn + part) for turn in range(8) for part in (0, 1)]
    assert told[-1] == pytest.approx(2 / 60, rel=0.1)
