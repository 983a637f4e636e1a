"""Make functions and classes that come back from a step the kernel's own: they read the notebook's globals."""

from __future__ import annotations

import types
from typing import Any, Final

__all__ = ["adopt"]

_ITEMS: Final = 1_000


def adopt(value: Any, namespace: dict[str, Any]) -> Any:
    """Return a value whose functions of the notebook have the namespace as their globals, as if defined here.

    Classes are changed where they are, so that their instances follow; globals that the namespace lacks are added.
    """
    return _adopt(value, namespace, set())


def _adopt(value: Any, namespace: dict[str, Any], seen: set[int]) -> Any:
    kind = type(value)
    if id(value) in seen:
        return value
    if kind is types.FunctionType:
        if value.__module__ != "__main__" or value.__globals__ is namespace:
            return value
        return _function(value, namespace, seen)
    seen.add(id(value))
    if isinstance(value, type):
        if value.__module__ == "__main__":
            for name, item in list(vars(value).items()):
                adopted = _member(item, namespace, seen)
                if adopted is not item:
                    setattr(value, name, adopted)
    elif kind is dict and len(value) < _ITEMS:
        for key, item in value.items():
            value[key] = _adopt(item, namespace, seen)
    elif kind is list and len(value) < _ITEMS:
        value[:] = [_adopt(item, namespace, seen) for item in value]
    elif kind.__module__ == "__main__":
        _adopt(kind, namespace, seen)
    return value


def _member(item: Any, namespace: dict[str, Any], seen: set[int]) -> Any:
    if isinstance(item, (staticmethod, classmethod)):
        function = _adopt(item.__func__, namespace, seen)
        return item if function is item.__func__ else type(item)(function)
    if type(item) is property:
        read, write, delete = (
            None if part is None else _adopt(part, namespace, seen) for part in (item.fget, item.fset, item.fdel)
        )
        same = read is item.fget and write is item.fset and delete is item.fdel
        return item if same else property(read, write, delete, item.__doc__)
    return _adopt(item, namespace, seen) if isinstance(item, types.FunctionType) else item


def _function(value: types.FunctionType, namespace: dict[str, Any], seen: set[int]) -> types.FunctionType:
    for name, item in value.__globals__.items():
        if not (name.startswith("__") and name.endswith("__")):
            namespace.setdefault(name, item)
    own = types.FunctionType(value.__code__, namespace, value.__name__, value.__defaults__, value.__closure__)
    own.__kwdefaults__ = value.__kwdefaults__
    own.__annotations__ = value.__annotations__
    own.__qualname__, own.__doc__, own.__module__ = value.__qualname__, value.__doc__, value.__module__
    own.__dict__.update(value.__dict__)
    seen.add(id(own))
    for cell in own.__closure__ or ():
        try:
            inner = cell.cell_contents
        except ValueError:  # not bound yet
            continue
        if inner is value:
            cell.cell_contents = own
        elif isinstance(inner, types.FunctionType) and inner is not own:
            cell.cell_contents = _adopt(inner, namespace, seen)
    return own
