"""Follow the names that a piece of code reaches in a live namespace, through what those names hold.

`usex()` reads `x` though the statement that calls it does not say so: the function does, or a function that it calls,
a method of its class, what it closes over, what a container or a partial application holds. The kernel waits for what
a statement reaches, and captures it.
"""

from __future__ import annotations

import dis
import functools
import sys
import types
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, Final

__all__ = ["is_of_notebook", "names_of_code", "reach", "submodules"]

_DEPTH: Final = 12
_OBJECTS: Final = 20_000
_ITEMS: Final = 1_000

_GLOBAL_OPS: Final = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"})
_known: weakref.WeakKeyDictionary[types.CodeType, frozenset[str]] = weakref.WeakKeyDictionary()


def names_of_code(code: types.CodeType) -> frozenset[str]:
    """Return the global names that a code object reads, those of the functions inside it included.

    Examples
    --------
    >>> sorted(names_of_code((lambda: [left(v) for v in right.x]).__code__))
    ['left', 'right']
    """
    names = _known.get(code)
    if names is None:
        found = {str(one.argval) for one in dis.get_instructions(code) if one.opname in _GLOBAL_OPS}
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                found |= names_of_code(constant)
        names = _known[code] = frozenset(found)
    return names


def is_of_notebook(value: Any, namespace: Mapping[str, Any]) -> bool:
    """Say whether a function or class was defined in the notebook rather than imported."""
    if isinstance(value, types.FunctionType):
        return value.__globals__ is namespace or value.__module__ == "__main__"
    return isinstance(value, type) and type.__getattribute__(value, "__module__") == "__main__"


def reach(
    names: Collection[str],
    namespace: Mapping[str, Any],
    *,
    inert: Callable[[Any], bool] | None = None,
) -> frozenset[str]:
    r"""Return the names, and all that they reach in the namespace.

    Only the notebook's own functions, classes and instances, and small containers, are looked into: nothing that was
    imported, and nothing for which `inert` holds. No attribute of a value is computed, so no code of a user runs.

    Examples
    --------
    >>> space = {"__name__": "__main__", "x": [1]}
    >>> exec("def use(): return len(x)\ntable = {'first': [use]}", space)
    >>> sorted(reach({"table"}, space))
    ['len', 'table', 'x']
    """
    seen: set[str] = set()
    objects: dict[int, Any] = {}
    todo: list[tuple[Any, int]] = []
    names_left = list(names)
    while names_left or todo:
        while todo:
            value, depth = todo.pop()
            if depth > _DEPTH or len(objects) > _OBJECTS or id(value) in objects or (inert and inert(value)):
                continue
            if isinstance(value, types.FunctionType) and is_of_notebook(value, namespace):
                names_left.extend(names_of_code(value.__code__) - seen)
            children = _children(value, namespace)
            if children is not None:
                objects[id(value)] = value
                todo.extend((child, depth + 1) for child in children)
        if names_left:
            name = names_left.pop()
            if name not in seen:
                seen.add(name)
                if name in namespace:
                    todo.append((namespace[name], 0))
    return frozenset(seen)


def submodules(modules: Iterable[str], attributes: Collection[str]) -> set[str]:
    """Return the modules loaded below some others that code means which reads attributes of these names.

    After `import a.b` a name holds `a` alone: that `a.b` is loaded too shows where code reads `a.b`. Other modules
    than those of packages' files are left out, since nothing could import them elsewhere.

    Examples
    --------
    >>> import xml.etree.ElementTree
    >>> sorted(submodules({"xml", "json"}, {"etree", "ElementTree", "fromstring"}))
    ['xml.etree', 'xml.etree.ElementTree']
    """
    found: set[str] = set()
    todo = [name for name in modules if "__path__" in _names_of_module(name)]
    while todo:
        above = todo.pop()
        for attribute in attributes:
            name = f"{above}.{attribute}"
            if name not in found and (held := _names_of_module(name)).get("__spec__") is not None:
                found.add(name)
                if "__path__" in held:
                    todo.append(name)
    return found


def _names_of_module(name: str) -> Mapping[str, Any]:
    """Return a loaded module's own names, without asking one for them that loads itself when it is asked."""
    module = sys.modules.get(name)
    return object.__getattribute__(module, "__dict__") if isinstance(module, types.ModuleType) else {}


def _children(value: Any, namespace: Mapping[str, Any]) -> list[Any] | None:
    """Return what a value holds that code of the notebook could be in, or None for a value not looked into."""
    kind = type(value)
    if kind is types.FunctionType:
        if not is_of_notebook(value, namespace):
            return None
        return [
            *_closed_over(value),
            *(value.__defaults__ or ()),
            *(value.__kwdefaults__ or {}).values(),
            *value.__dict__.values(),
        ]
    if kind in (list, tuple, set, frozenset):
        return list(value) if len(value) < _ITEMS else None
    if kind is dict:
        return list(value.values()) if len(value) < _ITEMS else None
    if kind is types.MethodType:
        return [value.__func__, value.__self__]
    if kind in (staticmethod, classmethod):
        return [value.__func__]
    if kind is property:
        return [one for one in (value.fget, value.fset, value.fdel) if one is not None]
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if kind is types.ModuleType or issubclass(kind, types.ModuleType):
        return None
    if issubclass(kind, type):
        if not is_of_notebook(value, namespace):
            return None
        return [*type.__getattribute__(value, "__mro__")[1:], *type.__getattribute__(value, "__dict__").values(), kind]
    if is_of_notebook(kind, namespace):
        return [kind, *_instance(value)]
    own = _instance(value)
    wrapped = own.mapping.get("__wrapped__") if isinstance(own, _Own) else None
    return [wrapped, *own] if wrapped is not None else None


class _Own(list[Any]):
    """The values of an instance's own dictionary, and the dictionary."""

    def __init__(self, mapping: Mapping[str, Any]) -> None:
        super().__init__(mapping.values())
        self.mapping = mapping


def _instance(value: Any) -> list[Any]:
    try:
        mapping = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return []
    return _Own(mapping) if isinstance(mapping, dict) else []


def _closed_over(function: types.FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # a name that is not bound yet
            continue
