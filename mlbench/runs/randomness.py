"""The states of the global random generators: read, set again, compared.

Three generators are known: Python's `random`, NumPy's global one and torch's, the latter two where they are imported.
A state is bytes that are the same for the same state, in every process.
"""

from __future__ import annotations

import pickle
import random
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Final

from mlbench.core.messages import RandomState

__all__ = ["digest", "drew", "from_bytes", "read_states", "refresh", "restore", "start_of", "to_bytes"]


@dataclass(frozen=True, slots=True)
class _Generator:
    """One global generator: `module` must be imported for `read` to mean anything."""

    name: str
    module: str
    read: Callable[[Any], bytes]
    restore: Callable[[Any, bytes], None]
    refresh: Callable[[Any], None]


def _read_python(_: Any) -> bytes:
    version, words, gauss = random.getstate()
    return pickle.dumps((version, tuple(words), gauss), protocol=4)


def _read_numpy(numpy: Any) -> bytes:
    name, words, position, has_gauss, gauss = numpy.random.get_state()
    return pickle.dumps((name, words.tobytes(), int(position), int(has_gauss), float(gauss)), protocol=4)


def _restore_numpy(numpy: Any, state: bytes) -> None:
    name, words, position, has_gauss, gauss = pickle.loads(state)  # noqa: S301  our own bytes
    numpy.random.set_state((name, numpy.frombuffer(words, dtype=numpy.uint32), position, has_gauss, gauss))


def _read_torch(torch: Any) -> bytes:
    return bytes(torch.get_rng_state().numpy().tobytes())


def _restore_torch(torch: Any, state: bytes) -> None:
    torch.set_rng_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))


def _refresh_torch(torch: Any) -> None:
    torch.manual_seed(random.SystemRandom().getrandbits(63))


_GENERATORS: Final = (
    _Generator(
        "random",
        "random",
        _read_python,
        lambda _, state: random.setstate(pickle.loads(state)),  # noqa: S301
        lambda _: random.seed(),
    ),
    _Generator("numpy", "numpy", _read_numpy, _restore_numpy, lambda numpy: numpy.random.seed()),
    _Generator("torch", "torch", _read_torch, _restore_torch, _refresh_torch),
)


def read_states() -> RandomState:
    """Return the state of each global generator whose library is imported.

    Examples
    --------
    >>> before = read_states()
    >>> _ = random.random()
    >>> drew(before, read_states())
    ('random',)
    """
    return {one.name: one.read(library) for one in _GENERATORS if (library := _imported(one)) is not None}


def restore(states: RandomState) -> None:
    """Set generators to the states given, importing their library where it is not there yet."""
    import importlib

    for one in _GENERATORS:
        if one.name in states:
            one.restore(importlib.import_module(one.module), states[one.name])


def refresh() -> None:
    """Seed each generator anew from the system: a forked process must not draw what its siblings draw."""
    for one in _GENERATORS:
        library = _imported(one)
        if library is not None:
            one.refresh(library)


def drew(before: RandomState, after: RandomState) -> tuple[str, ...]:
    """Return the generators whose states differ; one that was imported in between has not been seen to draw.

    Examples
    --------
    >>> drew({"random": b"1", "numpy": b"2"}, {"random": b"1", "numpy": b"3", "torch": b"4"})
    ('numpy',)
    """
    return tuple(name for name, state in after.items() if name in before and before[name] != state)


def digest(states: RandomState) -> str:
    """Return a digest of states, for a cache key.

    Examples
    --------
    >>> digest({"random": b"1", "numpy": b"2"}) == digest({"numpy": b"2", "random": b"1"})
    True
    """
    from blake3 import blake3

    return f"blake3:{blake3(to_bytes(states)).hexdigest()}"


def start_of(states: RandomState, draws: Collection[str], *, item: int | None = None) -> str:
    """Return a digest of where the generators start that a step draws from: another start gives other numbers.

    With `item`, it is that of an item of a fan-out, whose generators are derived from the step's and its number.

    Examples
    --------
    >>> states = {"random": b"1", "numpy": b"2"}
    >>> start_of(states, ("numpy",)) == start_of({"numpy": b"2"}, ("numpy",))
    True
    >>> start_of(states, ("numpy",)) == start_of(states, ("random",))
    False
    """
    start = digest({name: states[name] for name in draws if name in states})
    return start if item is None else f"{start} {item}"


def to_bytes(states: RandomState) -> bytes:
    """Return states as one run of bytes, the same for the same states.

    Examples
    --------
    >>> from_bytes(to_bytes({"random": b"1"}))
    {'random': b'1'}
    """
    import msgspec

    return msgspec.msgpack.encode(dict(sorted(states.items())))


def from_bytes(data: bytes) -> RandomState:
    """Return the states that `to_bytes` was given."""
    import msgspec

    return msgspec.msgpack.decode(data, type=dict[str, bytes])


def _imported(generator: _Generator) -> Any:
    library = sys.modules.get(generator.module)
    return library if generator.module != "torch" or hasattr(library, "get_rng_state") else None
