"""How what was recorded is said in a line."""

from __future__ import annotations

import doctest

import pytest

from mlbench.core.records import ENDED, UNDER_WAY, FanOut
from mlbench.runs import wording


def test_the_examples_hold() -> None:
    found = doctest.testmod(wording)
    assert found.attempted
    assert not found.failed


def test_each_state_has_a_mark_of_its_own() -> None:
    assert set(wording.MARKS) == ENDED | UNDER_WAY
    assert len(set(wording.MARKS.values())) == len(wording.MARKS)


@pytest.mark.parametrize(
    ("fanout", "said"),
    [
        (FanOut(names=("a",), shape=(0,), total=0), "×0 · 0 done"),
        (FanOut(names=("a", "b"), shape=(200, 100), total=20_000, succeeded=12_345), "×20,000 · 12,345 done"),
        (FanOut(names=("a",), total=3, cancelled=1, skipped=2), "×3 · 0 done · 1 cancelled · 2 skipped"),
        (FanOut(names=("a", "b")), "for each a and b"),
    ],
)
def test_a_fan_out_says_how_many_items_are_done_and_what_became_of_the_others(fanout: FanOut, said: str) -> None:
    assert wording.fanned(fanout) == said
