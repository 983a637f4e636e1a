"""The kernel's random generators go on where its steps end."""

from __future__ import annotations

import pickle
import random

import pytest

from mlbench.core.ids import ExecutionId, RunId
from mlbench.core.records import Execution
from mlbench.entrypoints.kernel.generators import Generators
from mlbench.runs.randomness import read_states

A, B, C = (ExecutionId(letter * 26) for letter in "abc")


def record(step: str) -> Execution:
    return Execution(id=A, run=RunId("r" * 26), step=step, state="succeeded", draws=("random",))


@pytest.mark.parametrize(
    ("source", "seeds"),
    [
        ("import random\nrandom.seed(1)", True),
        ("import numpy as np\nnp.random.seed(1)", True),
        ("set_seed(1)", True),
        ("seed = 1", False),
        ("x = 1", False),
        ("text = 'the seed", False),
    ],
)
def test_a_cell_that_seeds_is_noticed(source: str, *, seeds: bool) -> None:
    generators = Generators()
    generators.note_source(source)
    assert generators.seeded is seeds


def test_a_notebook_that_was_never_seeded_has_no_order() -> None:
    assert Generators().start(A, None, former_is_last=False) is None


def test_a_step_starts_after_the_one_before_unless_the_kernel_drew_itself() -> None:
    generators = Generators()
    generators.seeded = True
    random.seed(1)
    first = generators.start(A, None, former_is_last=False)
    second = generators.start(B, None, former_is_last=False)
    assert first is not None
    assert second is not None
    assert (first.after, second.after) == (None, A)
    random.random()
    third = generators.start(A, None, former_is_last=False)
    assert third is not None
    assert third.after is None
    assert third.states["random"] != first.states["random"]


def test_the_kernel_goes_on_from_the_last_step_that_drew() -> None:
    generators = Generators()
    generators.seeded = True
    random.seed(1)
    first = generators.start(A, None, former_is_last=False)
    second = generators.start(B, None, former_is_last=False)
    assert first is not None
    assert second is not None
    ends = []
    for seed in (2, 3):
        random.seed(seed)
        ends.append(read_states())
    random.seed(1)
    assert generators.go_on(second, ends[1], record("second")) is None
    assert read_states()["random"] == ends[1]["random"]
    assert generators.go_on(first, ends[0], record("first")) is None
    assert read_states()["random"] == ends[1]["random"]


def test_a_kernel_that_drew_meanwhile_keeps_its_own_and_says_so() -> None:
    generators = Generators()
    generators.seeded = True
    random.seed(1)
    first = generators.start(A, None, former_is_last=False)
    assert first is not None
    random.random()
    own = read_states()
    warning = generators.go_on(first, read_states(), record("first"))
    assert warning is not None
    assert "first" in warning
    assert read_states() == own


def test_a_cell_that_is_run_again_draws_the_same() -> None:
    generators = Generators()
    generators.seeded = True
    random.seed(1)
    first = generators.start(A, None, former_is_last=False)
    assert first is not None
    generators.go_on(first, {**read_states()}, record("first"))
    again = generators.start(B, first, former_is_last=True)
    assert again == first


def test_a_kernel_that_seeded_anew_before_the_next_step_does_not_go_back_to_the_step_above() -> None:
    generators = Generators()
    generators.seeded = True
    random.seed(1)
    first = generators.start(A, None, former_is_last=False)
    random.seed(5)
    own = read_states()
    second = generators.start(B, None, former_is_last=False)
    assert first is not None
    assert second is not None
    random.seed(2)
    end = read_states()
    random.setstate(pickle.loads(own["random"]))
    assert generators.go_on(first, end, record("first")) is None
    assert read_states()["random"] == own["random"]
    assert generators.go_on(second, end, record("second")) is None
    assert read_states()["random"] == end["random"]


def test_a_step_that_was_not_handed_over_is_none_that_the_next_one_follows() -> None:
    generators = Generators()
    generators.seeded = True
    random.seed(1)
    generators.start(A, None, former_is_last=False)
    generators.start(B, None, former_is_last=False)
    generators.take_back()
    third = generators.start(C, None, former_is_last=False)
    assert third is not None
    assert third.after == A
    random.seed(5)
    generators.start(B, None, former_is_last=False)
    generators.take_back()
    third = generators.start(C, None, former_is_last=False)
    assert third is not None
    assert third.after is None
