from __future__ import annotations

import random

import numpy as np

from mlbench.runs import randomness


def test_a_state_that_is_restored_draws_the_same() -> None:
    before = randomness.read_states()
    drawn = random.random(), np.random.rand(), random.gauss(0, 1), np.random.normal()
    after = randomness.read_states()
    assert set(randomness.drew(before, after)) == {"random", "numpy"}
    randomness.restore(randomness.from_bytes(randomness.to_bytes(before)))
    assert (random.random(), np.random.rand(), random.gauss(0, 1), np.random.normal()) == drawn
    assert randomness.read_states() == after


def test_reading_a_state_changes_nothing() -> None:
    assert randomness.drew(randomness.read_states(), randomness.read_states()) == ()


def test_a_fresh_state_is_another_each_time() -> None:
    states = []
    for _ in range(3):
        randomness.refresh()
        states.append(randomness.digest(randomness.read_states()))
    assert len(set(states)) == 3


def test_the_same_seed_is_the_same_state_in_bytes() -> None:
    states = []
    for _ in range(2):
        random.seed(3)
        np.random.seed(3)
        states.append(randomness.to_bytes(randomness.read_states()))
    assert states[0] == states[1]


def test_a_generator_imported_in_between_has_not_drawn() -> None:
    assert randomness.drew({"random": b"1"}, {"random": b"1", "torch": b"2"}) == ()
