"""Generators of random numbers for the items of a fan-out: each item has its own, wherever and with whom it runs.

An item's global generators are seeded from where its step starts and the item's number. A generator object that the
step reaches (`random.Random`, NumPy's `Generator` and `RandomState`, torch's `Generator`), also through functions,
instances and local modules, gets a state made of its own and the item's number: 1,000 items that draw from a captured
`default_rng(0)` are 1,000 samples, and the same ones on every run.
"""

from __future__ import annotations

import ctypes
import functools
import random
import struct
import sys
import sysconfig
import types
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final

from mlbench.core.messages import RandomState
from mlbench.runs.randomness import drew, read_states, to_bytes
from mlbench.runs.reach import names_of_code

__all__ = ["AFTER", "Generators", "find"]

AFTER: Final = -1
"""The place of what comes after the items."""

_START: Final = -2
_MOST_OBJECTS: Final = 20_000
_MOST_ITEMS: Final = 1_000
_CONTAINERS: Final[tuple[Any, ...]] = (dict, list, tuple, set, frozenset, deque)
_ATOMS: Final = frozenset({type(None), bool, int, float, complex, str, bytes, bytearray, range})


class Generators:
    """The generators of a process that runs items.

    Parameters
    ----------
    states
        Where the step's global generators start; None in a notebook that was never seeded.
    objects
        The generator objects that the step reaches.
    """

    def __init__(self, states: RandomState | None, objects: Iterable[Any] = ()) -> None:
        self._base = _digest(to_bytes(states)) if states else None
        self._objects = [(set_to, _digest(state)) for one in objects for state, set_to in [_handle(one)]]
        self._python = 0
        self._words: tuple[int, int] | None = None
        self._before: RandomState = {}

    def set_to(self, place: int) -> None:
        """Give the item with this number its states."""
        for set_to, own in self._objects:
            set_to(_digest(own + _PLACE.pack(place)))
        if self._base is not None:
            self._set_globals(_digest(self._base + _PLACE.pack(place)))

    def settle(self) -> None:
        """Give the objects that are reached one certain state, so that what holds them is no different for a draw."""
        for set_to, own in self._objects:
            set_to(_digest(own + _PLACE.pack(_START)))

    def drew(self) -> tuple[str, ...]:
        """Return the global generators that were drawn from since `set_to`; their states are lost by it.

        Of a notebook that was never seeded nothing is said here.
        """
        if self._base is None:
            return ()
        found = []
        then = random.getrandbits(32)
        random.seed(self._python)
        if random.getrandbits(32) != then:
            found.append("random")
        if self._words is not None and _look_at_numpy() != self._words:
            found.append("numpy")
        if "torch" in self._before and drew(self._before, {"torch": read_states()["torch"]}):
            found.append("torch")
        return tuple(found)

    def _set_globals(self, seed: bytes) -> None:
        self._python = int.from_bytes(seed, "little")
        random.seed(self._python)
        numpy = sys.modules.get("numpy")
        if numpy is not None and hasattr(numpy, "random"):
            numpy.random.seed(numpy.frombuffer(seed, "<u4"))
            self._words = _look_at_numpy()
        torch = sys.modules.get("torch")
        if torch is not None and hasattr(torch, "manual_seed"):
            torch.manual_seed(int.from_bytes(seed[:7], "little"))
            self._before = {"torch": read_states()["torch"]}


_PLACE: Final = struct.Struct("<q")


def _digest(data: bytes) -> bytes:
    from blake3 import blake3

    return blake3(data).digest()


def _look_at_numpy() -> tuple[int, int]:
    """Return a word and the place in NumPy's global state, which a draw changes: reading all of it takes 40 us."""
    word, place = _numpy_words()
    return word.value, place.value


@functools.cache
def _numpy_words() -> tuple[Any, Any]:
    numpy = sys.modules["numpy"]
    inner = numpy.random.mtrand._rand._bit_generator
    if type(inner).__name__ != "MT19937":  # the user has put another in its place: each item is taken to draw
        return _Changing(), _Changing()
    address = int(inner.ctypes.state_address)
    return ctypes.c_uint32.from_address(address), ctypes.c_int.from_address(address + 624 * 4)


class _Changing:
    """A number that is never the same."""

    def __init__(self) -> None:
        self._value = 0

    @property
    def value(self) -> int:
        self._value += 1
        return self._value


# --- generator objects ------------------------------------------------------------------------------------------------


def find(values: Iterable[Any]) -> list[Any]:
    """Return the generator objects that values reach; no code of theirs is run.

    Examples
    --------
    >>> own = random.Random(0)
    >>> find([{"rng": [own]}, own]) == [own]
    True
    """
    found: list[Any] = []
    seen: dict[int, Any] = {}
    todo = list(values)
    while todo and len(seen) < _MOST_OBJECTS:
        value = todo.pop()
        if type(value) in _ATOMS or id(value) in seen:
            continue
        seen[id(value)] = value
        if is_generator(value):
            found.append(value)
        else:
            todo += _held_by(value)
    return found


def is_generator(value: Any) -> bool:
    """Say whether a value is a generator object whose state can be set."""
    kind = type(value)
    root = kind.__module__.partition(".")[0]
    if root == "numpy":
        return kind.__name__ in ("Generator", "RandomState")
    if root == "torch":
        return kind.__name__ == "Generator"
    return isinstance(value, random.Random) and not isinstance(value, random.SystemRandom)


def _held_by(value: Any) -> list[Any]:
    kind = type(value)
    for base in _CONTAINERS:
        if issubclass(kind, base):
            items: list[Any] = []
            if base.__len__(value) <= _MOST_ITEMS:
                items = list(base.values(value)) if base is dict else list(base.__iter__(value))
            return items if kind is base else [*items, *_held_by_instance(value)]
    if kind is types.FunctionType:
        return _held_by_function(value)
    if kind is types.MethodType:
        return [value.__func__, value.__self__]
    if kind is functools.partial:
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, types.ModuleType):
        return list(vars(value).values()) if _is_local(value.__name__) else []
    if isinstance(value, type):
        return list(vars(value).values()) if value.__module__ == "__main__" or _is_local(value.__module__) else []
    if kind in (staticmethod, classmethod):
        return [value.__func__]
    return _held_by_instance(value)


def _held_by_instance(value: Any) -> list[Any]:
    kind = type(value)
    held: list[Any] = []
    for slot in _slots(kind):
        try:
            held.append(slot.__get__(value, kind))
        except AttributeError:  # not set
            continue
    try:
        own = object.__getattribute__(value, "__dict__")
    except (AttributeError, TypeError):
        return [kind, *held] if held else []
    return [kind, *held, *own.values()] if isinstance(own, dict) and len(own) <= _MOST_ITEMS else held


def _slots(kind: type) -> list[Any]:
    """Return what reads the `__slots__` of a class."""
    return [
        one
        for base in kind.__mro__
        if "__slots__" in vars(base)
        for one in vars(base).values()
        if type(one) is types.MemberDescriptorType
    ]


def _held_by_function(function: types.FunctionType) -> list[Any]:
    held: list[Any] = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    for cell in function.__closure__ or ():
        try:
            held.append(cell.cell_contents)
        except ValueError:  # not bound yet
            continue
    if function.__module__ == "__main__" or _is_local(function.__module__):
        space = function.__globals__
        held += [space[name] for name in names_of_code(function.__code__) if name in space]
    return held


@functools.cache
def _is_local(module: str | None) -> bool:
    """Say whether a module is the user's own: neither Python's nor installed."""
    root = (module or "").partition(".")[0]
    if not root or root in sys.stdlib_module_names or root == "mlbench":
        return False
    path = getattr(sys.modules.get(root), "__file__", None)
    paths = sysconfig.get_paths()
    return path is not None and not path.startswith((paths["purelib"], paths["platlib"], paths["stdlib"]))


def _handle(generator: Any) -> tuple[bytes, Callable[[bytes], None]]:
    """Return a generator's state as bytes, and a function that sets it from a seed of 32 bytes."""
    import pickle

    if isinstance(generator, random.Random):
        return pickle.dumps(generator.getstate(), 4), lambda seed: generator.seed(int.from_bytes(seed, "little"))
    if type(generator).__module__.startswith("torch"):
        return bytes(generator.get_state().numpy().tobytes()), lambda seed: _set_torch(generator, seed)
    numpy = sys.modules["numpy"]
    inner = generator.bit_generator if hasattr(generator, "bit_generator") else generator._bit_generator
    kind = type(inner)

    legacy = isinstance(generator, numpy.random.RandomState) and kind.__name__ == "MT19937"

    def set_numpy(seed: bytes) -> None:
        state = kind(numpy.random.SeedSequence(numpy.frombuffer(seed, "<u4").tolist())).state
        if legacy:
            generator.set_state({**state, "has_gauss": 0, "gauss": 0.0})
        else:
            inner.state = state

    return pickle.dumps(inner.state, 4), set_numpy


def _set_torch(generator: Any, seed: bytes) -> None:
    generator.manual_seed(int.from_bytes(seed[:7], "little"))
