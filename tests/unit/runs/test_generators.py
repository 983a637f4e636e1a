"""Each item's generators are its own, and the same wherever it runs."""

from __future__ import annotations

import collections
import dataclasses
import functools
import random
import types
from typing import Any, NamedTuple

import numpy as np
import pytest

from mlbench.runs.generators import AFTER, Generators, find, is_generator
from mlbench.runs.randomness import read_states, restore


@pytest.fixture(autouse=True)
def _as_before() -> Any:
    before = read_states()
    yield
    restore(before)


def states(seed: int = 0) -> Any:
    random.seed(seed)
    np.random.seed(seed)
    return read_states()


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), random.gauss(0, 1)


def drawn(generators: Generators, *places: int) -> list[Any]:
    found = []
    for place in places:
        generators.set_to(place)
        found.append(draw())
    return found


def test_an_item_draws_the_same_whatever_was_drawn_before_it() -> None:
    one, two = drawn(Generators(states()), 0, 1, 2, 1, AFTER), drawn(Generators(states()), 1)
    assert one[1] == one[3] == two[0]
    assert len(set(one)) == 4
    assert drawn(Generators(states(1)), 1) != two


def test_what_was_drawn_from_is_known_even_if_all_of_a_block_was() -> None:
    generators = Generators(states())
    for body, expected in (
        (lambda: None, ()),
        (random.random, ("random",)),
        (lambda: np.random.rand(312), ("numpy",)),
        (lambda: np.random.rand(312 * 3), ("numpy",)),
        (np.random.randn, ("numpy",)),
        (draw, ("random", "numpy")),
    ):
        generators.set_to(5)
        body()
        assert generators.drew() == expected


def test_a_notebook_that_was_never_seeded_keeps_its_global_generators() -> None:
    random.seed(3)
    generators = Generators(None)
    before = random.getstate()
    generators.set_to(1)
    assert random.getstate() == before
    assert generators.drew() == ()


@pytest.mark.parametrize(
    "make",
    [
        lambda: random.Random(1),
        lambda: np.random.default_rng(1),
        lambda: np.random.RandomState(1),
        lambda: np.random.Generator(np.random.MT19937(1)),
        lambda: np.random.RandomState(np.random.PCG64(1)),
    ],
)
def test_an_object_draws_by_its_own_state_and_the_items_number(make: Any) -> None:
    def numbers(own: Any, *places: int) -> list[float]:
        generators = Generators(None, [own])
        found = []
        for place in places:
            generators.set_to(place)
            found.append(float(own.random() if hasattr(own, "random") else own.random_sample()))
        return found

    one = numbers(make(), 0, 1, 0)
    assert one[0] == one[2] != one[1]
    assert numbers(make(), 1) == [one[1]]
    moved = make()
    moved.random() if hasattr(moved, "random") else moved.random_sample()
    assert numbers(moved, 1) != [one[1]]


def test_a_legacy_object_forgets_its_second_normal_number() -> None:
    own = np.random.RandomState(1)
    generators = Generators(None, [own])
    generators.set_to(0)
    first = own.normal()
    generators.set_to(0)
    assert own.normal() == first


def test_settled_objects_are_the_same_whatever_was_drawn() -> None:
    own = random.Random(0)
    generators = Generators(None, [own])
    generators.settle()
    before = own.getstate()
    own.random()
    generators.settle()
    assert own.getstate() == before


def test_objects_are_found_through_what_code_of_the_user_reaches() -> None:
    space: dict[str, Any] = {"__name__": "__main__", "np": np, "rng": np.random.default_rng(0)}
    exec(
        "def use(): return rng.normal()\n"
        "def outer(own):\n    def inner(): return own\n    return inner\n"
        "class Sampler:\n"
        "    shared = [1]\n"
        "    def __init__(self, own): self.own = own\n"
        "    def draw(self): return rng\n",
        space,
    )
    own = random.Random(0)
    sampler = space["Sampler"](own)
    for value, expected in (
        (space["use"], space["rng"]),
        (space["outer"](own), own),
        ({"a": [(own,)]}, own),
        (functools.partial(print, own), own),
        (sampler, own),
        (sampler.draw, space["rng"]),
        (space["Sampler"], space["rng"]),
    ):
        assert any(one is expected for one in find([value])), value


def test_nothing_is_found_in_installed_modules() -> None:
    assert find([np, random, types, print, np.mean]) == []
    assert not is_generator(random.SystemRandom())
    endless: list[Any] = []
    endless.append(endless)
    assert find([endless]) == []


@dataclasses.dataclass(slots=True)
class _Slotted:
    rng: Any
    rest: int = 0


class _Derived(_Slotted):
    pass


class _Named(NamedTuple):
    data: int
    rng: Any


class _Listed(list[Any]):
    pass


@pytest.mark.parametrize(
    "hold",
    [
        _Slotted,
        _Derived,
        lambda rng: _Named(1, rng),
        lambda rng: _Listed([rng]),
        lambda rng: collections.OrderedDict(a=rng),
        lambda rng: collections.deque([rng]),
        lambda rng: collections.defaultdict(list, a=[rng]),
    ],
)
def test_a_generator_is_found_in_slots_and_in_kinds_of_containers(hold: Any) -> None:
    rng = random.Random(1)
    assert find([hold(rng)]) == [rng]
    assert find([object.__new__(_Slotted)]) == []
