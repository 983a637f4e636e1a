"""Which names hold objects in common, so that they have to be kept together.

What libraries hold themselves is left out: two forests share the description of a tree's nodes, two tensors the type of
their numbers, and nobody means one by the other.
"""

from __future__ import annotations

import gc
import sys
import types
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Final

__all__ = ["sharing"]

_WALKED: Final = 10_000
"""Objects that are looked at behind those of libraries; what is further away counts as the user's."""

_ROUTES: Final = (types.ModuleType, type, types.FunctionType, types.BuiltinFunctionType, types.FrameType)


def sharing(seen: Mapping[str, Mapping[int, Any]]) -> list[list[str]]:
    """Return names in groups: those of one hold objects in common, directly or through a third.

    Parameters
    ----------
    seen
        The objects inside each name's value, by `id`.

    Examples
    --------
    >>> rows: list[int] = []
    >>> sharing({"a": {id(rows): rows}, "b": {}, "c": {id(rows): rows}})
    [['a', 'c'], ['b']]
    """
    once: set[int] = set()
    shared: dict[int, Any] = {}
    for inside in seen.values():
        shared |= {key: inside[key] for key in once & inside.keys()}
        once |= inside.keys()
    for key in _of_libraries(shared) if shared else ():
        del shared[key]
    leader = {name: name for name in seen}

    def lead(name: str) -> str:
        while leader[name] != name:
            name = leader[name]
        return name

    first: dict[int, str] = {}
    for name, inside in seen.items():
        for key in shared.keys() & inside.keys():
            if (other := first.setdefault(key, name)) != name:
                leader[lead(name)] = lead(other)
    groups: dict[str, list[str]] = {}
    for name in seen:
        groups.setdefault(lead(name), []).append(name)
    return list(groups.values())


def _of_libraries(shared: Mapping[int, Any]) -> set[int]:
    """Return which of some objects stand in modules of libraries, or hang on what does and on nothing of the user's."""
    theirs = [value for module in _library_modules() for value in vars(module).values() if id(value) in shared]
    found = {id(value) for value in theirs}
    left, known = list(theirs), set(found)
    while left and len(known) < _WALKED:
        one = left.pop()
        own = [vars(one)] if type(one).__dictoffset__ else []  # the collector does not always tell of the dictionary
        for value in (*gc.get_referents(one), *own):
            if id(value) in known or isinstance(value, _ROUTES):
                continue
            known.add(id(value))
            if id(value) in shared:
                found.add(id(value))
            left.append(value)
    return found


def _library_modules() -> Iterable[types.ModuleType]:
    loaded: list[tuple[str, Any]] = list(sys.modules.items())  # anything can stand there
    return [
        module
        for name, module in loaded
        if isinstance(module, types.ModuleType)
        and name not in {"__main__", "__mp_main__"}
        and _is_library(getattr(module, "__file__", None))
    ]


def _is_library(path: Any) -> bool:
    return path is None or str(path).startswith(_folders())


@cache
def _folders() -> tuple[str, ...]:
    import sysconfig

    paths = sysconfig.get_paths()
    return tuple({paths[name] for name in ("purelib", "platlib", "stdlib", "platstdlib")})
