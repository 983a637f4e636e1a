"""Do something as soon as a module is imported: at once where it is here, and without importing it where it is not."""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["once_imported"]

Do = Callable[[types.ModuleType], None]

_awaited: dict[str, dict[str, Do]] = {}


def once_imported(owner: str, does: Mapping[str, Do]) -> None:
    """Have something done with modules when they are imported, in place of what this owner has asked for before.

    Parameters
    ----------
    does
        By the module's name; it must not raise, since that would fail the import.
    """
    for asked in _awaited.values():
        asked.pop(owner, None)
    for name, do in does.items():
        module = sys.modules.get(name)
        if module is not None:
            do(module)
        else:
            _awaited.setdefault(name, {})[owner] = do
    if any(_awaited.values()) and not any(isinstance(one, _Finder) for one in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(importlib.abc.MetaPathFinder):
    """Finds what others find, and has it done when that is executed."""

    _looks = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if self._looks or not _awaited.get(fullname):
            return None
        self._looks = True
        try:
            found = (one.find_spec(fullname, path, target) for one in sys.meta_path if one is not self)
            spec = next((one for one in found if one is not None), None)
        finally:
            self._looks = False
        loader: Any = spec.loader if spec is not None else None
        if loader is not None and not isinstance(loader, type):
            loader.exec_module = functools.partial(_executed, loader.exec_module)
        return spec


def _executed(execute: Any, module: types.ModuleType) -> None:
    execute(module)
    for do in _awaited.pop(module.__name__, {}).values():
        do(module)
