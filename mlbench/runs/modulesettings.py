"""What a notebook sets in modules (`cfg.N = 10`), which a process that imports them anew would not have.

The cells' syntax says what may have been set (`note`); what it is now is read from the module, and set in the step's
process as soon as the module is imported there: not before, as it may be large and the step may not need it.
"""

from __future__ import annotations

import functools
import io
import pickle
import sys
import types
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final, TypeGuard

from mlbench.runs.onimport import once_imported

__all__ = ["Setting", "apply", "found", "note", "read", "unsent"]

Setting = tuple[str, tuple[str, ...]]
"""A module's name, and the attributes that lead to what was set: `("cfg", ("Model", "rate"))`."""

_noted: dict[Setting, None] = {}
_unsent: list[Setting] = []
_NOT_FOR_STEPS: Final = frozenset(
    {"IPython", "__main__", "builtins", "ipykernel", "logging", "matplotlib", "mlbench", "os", "sys", "warnings"}
)
"""Modules whose attributes are the process's own, such as `sys.stdout`, or have an entry among the surroundings."""
_LARGEST: Final = 1 << 20


def note(
    chains: Collection[tuple[str, ...]], namespace: Mapping[str, Any], taken: Mapping[str, tuple[str, str]]
) -> None:
    """Note what cells have set, as far as it is in modules."""
    _noted.update(dict.fromkeys(found(chains, namespace, taken)))


def found(
    chains: Collection[tuple[str, ...]], namespace: Mapping[str, Any], taken: Mapping[str, tuple[str, str]]
) -> Iterator[Setting]:
    """Yield what of that which cells set is in a module that a name stands for, or that a name was taken out of.

    Parameters
    ----------
    chains, taken
        See `mlbench.notebook.assigned`.
    """
    for chain in chains:
        holder, rest = namespace.get(chain[0]), chain[1:]
        module, name = taken.get(chain[0], ("", ""))
        origin = sys.modules.get(module)
        if _is_module(origin) and not _is_module(holder) and vars(origin).get(name, _NOTHING) is holder:
            holder, rest = origin, (name, *rest)
        while len(rest) > 1 and _is_module(holder) and _is_module(vars(holder).get(rest[0])):
            holder, rest = vars(holder)[rest[0]], rest[1:]
        if not rest or not _is_module(holder) or _is_module(vars(holder).get(rest[0])):
            continue
        name = holder.__name__
        if (name.partition(".")[0] in _NOT_FOR_STEPS or (name, rest[0]) == ("pandas", "options")) and (
            (name, rest) != ("sys", ("argv",))
        ):
            continue
        if sys.modules.get(name) is holder:
            yield name, rest


def read(_: Any = None) -> dict[str, dict[tuple[str, ...], bytes]]:
    """Return what is set now, by module, each value packed."""
    found: dict[str, dict[tuple[str, ...], bytes]] = {}
    _unsent.clear()
    for name, path in _noted:
        packed = _packed(name, path)
        if packed is not None:
            found.setdefault(name, {})[path] = packed
        elif _value(name, path) is not _NOTHING:
            _unsent.append((name, path))
    return found


def unsent() -> tuple[Setting, ...]:
    """Return what `read` found and left out: functions and objects of the notebook's classes, and what is large."""
    return tuple(_unsent)


def apply(settings: Mapping[str, Mapping[tuple[str, ...], bytes]], _: Any = None) -> None:
    """Set it in the modules that are here, and in the others once they are imported."""
    _noted.update({(name, path): None for name, values in settings.items() for path in values})
    once_imported("modules", {name: functools.partial(_set, values) for name, values in settings.items()})


def _set(values: Mapping[tuple[str, ...], bytes], module: types.ModuleType) -> None:
    for path, packed in values.items():
        try:
            _set_one(functools.reduce(getattr, path[:-1], module), path[-1], pickle.loads(packed))  # noqa: S301  own bytes
        except Exception as error:  # noqa: BLE001  another version of the module, or a class that is not there
            name = ".".join((module.__name__, *path))
            sys.stderr.write(f"mlbench: {name} is not as it is in the kernel: {type(error).__name__}: {error}\n")


def _set_one(holder: Any, name: str, value: Any) -> None:
    old: Any = getattr(holder, name, None)
    if type(old) is type(value) and isinstance(old, dict | set):  # others may have it by another name
        old.clear()
        old.update(value)
    elif type(old) is type(value) and isinstance(old, list):
        old[:] = value
    else:
        setattr(holder, name, value)


_NOTHING: Final = object()


def _value(name: str, path: tuple[str, ...]) -> Any:
    """Return what is set, or nothing: it was deleted, or is something that cells only seemed to change."""
    try:
        return functools.reduce(getattr, path, sys.modules[name])
    except Exception:  # noqa: BLE001  attributes may be anything's
        return _NOTHING


def _packed(name: str, path: tuple[str, ...]) -> bytes | None:
    value = _value(name, path)
    if value is _NOTHING:
        return None
    stream = _Bounded()
    try:
        pickle.Pickler(stream, protocol=5).dump(value)
    except Exception:  # noqa: BLE001  it is large, or whatever a value raises when it is pickled
        return None
    packed = stream.getvalue()
    return packed if b"__main__" not in packed else None


class _Bounded(io.BytesIO):
    """Takes no more than is sent along: what is large is not pickled to its end."""

    def write(self, data: Any, /) -> int:
        if self.tell() + memoryview(data).nbytes > _LARGEST:
            raise OverflowError
        return super().write(data)


def _is_module(value: Any) -> TypeGuard[types.ModuleType]:
    return isinstance(value, types.ModuleType)
