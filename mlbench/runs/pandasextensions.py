"""What notebooks hang onto pandas' classes: accessors of other modules, and tqdm's `progress_apply`."""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
import types
from collections.abc import Mapping
from typing import Any, Final

from mlbench.runs.onimport import once_imported

__all__ = ["apply", "modules_in", "read"]

_CLASSES: Final = ("DataFrame", "Series", "Index")


def read(_: Any = None) -> dict[str, Any] | None:
    """Return the modules whose import gives pandas' classes an accessor, and how tqdm was told to know pandas."""
    pandas: Any = sys.modules["pandas"]
    kinds = [kind for name in _CLASSES if (kind := getattr(pandas, name, None)) is not None]
    held = {_module_of(kind, name) for kind in kinds for name in getattr(kind, "_accessors", ())}
    return {
        "accessors": sorted(name for name in held if name.partition(".")[0] not in ("", "__main__", "pandas")),
        "progress": _progress(kinds),
    }


def modules_in(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the modules that are imported for a step, whether it needs them or not."""
    return tuple(settings["accessors"])


def apply(settings: Mapping[str, Any], _: Any = None) -> None:
    """Have pandas know them, at once or when it is imported."""
    if any(settings.values()):
        once_imported("pandas extensions", {"pandas": functools.partial(_extend, settings)})


def _module_of(kind: type, name: str) -> str:
    accessor = getattr(inspect.getattr_static(kind, name, None), "_accessor", None)
    return getattr(accessor, "__module__", None) or ""


def _progress(kinds: list[Any]) -> tuple[str, str, dict[str, Any]] | None:
    """Return tqdm's class that has given pandas a `progress_apply`, and what it is called with."""
    function = next((found for kind in kinds if (found := getattr(kind, "progress_apply", None)) is not None), None)
    if not isinstance(function, types.FunctionType):
        return None
    free = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=False))
    if "cls" not in free:
        return None
    bar = free["cls"].cell_contents
    words = free["tqdm_kwargs"].cell_contents if "tqdm_kwargs" in free else {}
    plain = {name: one for name, one in words.items() if isinstance(one, str | int | float | bool)}
    return bar.__module__, bar.__qualname__, plain


def _extend(settings: Mapping[str, Any], _: types.ModuleType) -> None:
    try:
        for name in settings["accessors"]:
            importlib.import_module(name)
        if settings["progress"]:
            module, name, words = settings["progress"]
            getattr(importlib.import_module(module), name).pandas(**words)
    except ModuleNotFoundError:
        return  # as in an environment of the step's own: who needs it will say so
    except Exception as error:  # noqa: BLE001  a stranger's module must not fail the import of pandas
        sys.stderr.write(f"mlbench: pandas is not extended as in the kernel: {type(error).__name__}: {error}\n")
