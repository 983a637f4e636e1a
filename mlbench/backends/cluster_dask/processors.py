"""The share of processors that a step's process has for linear algebra and OpenMP.

A step server loads these libraries with one thread each, since a process with threads can't be forked; the process
that runs the step gives them their number back.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from typing import Any, Final

__all__ = ["SINGLE", "available", "find", "share"]

_VARIABLES: Final = {
    "openblas": ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"),
    "mkl": ("MKL_NUM_THREADS", "OMP_NUM_THREADS"),
    "blis": ("BLIS_NUM_THREADS", "OMP_NUM_THREADS"),
    "openmp": ("OMP_NUM_THREADS",),
}

SINGLE: Final[Mapping[str, str]] = dict.fromkeys(
    (
        "OPENBLAS_NUM_THREADS",
        "OMP_NUM_THREADS",
        "MKL_NUM_THREADS",
        "BLIS_NUM_THREADS",
        "VECLIB_MAXIMUM_THREADS",
        "NUMEXPR_NUM_THREADS",
        "GOTO_NUM_THREADS",
    ),
    "1",
)
"""Variables under which such libraries start no threads."""

_found: list[Any] = []


def available() -> int:
    """Return the number of processors that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count() or 1


def find() -> None:
    """Look for the libraries that are loaded by now, so that forked processes need not."""
    _found[:] = _controllers()


def share(threads: int | None, environment: MutableMapping[str, str]) -> None:
    """Give the libraries their threads: the number given, else all processors; the user's own variables win.

    Libraries that are loaded later read the variables, so these are set where a number was given.
    """
    number = threads or available()
    if threads:
        for names in _VARIABLES.values():
            for name in names:
                environment.setdefault(name, str(threads))
    for library in _found:
        names = _VARIABLES.get(library.internal_api, ())
        asked = next((environment[name] for name in names if name in environment), "")
        library.set_num_threads(int(asked) if asked.isdecimal() and int(asked) > 0 else number)


def _controllers() -> list[Any]:
    try:
        from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        return [
            one
            for name in (
                "scipy_openblas_set_num_threads64_",
                "scipy_openblas_set_num_threads",
                "openblas_set_num_threads64_",
                "openblas_set_num_threads",
            )
            if (one := _OpenBlas.find(name)) is not None
        ]
    return list(ThreadpoolController().lib_controllers)


class _OpenBlas:
    """OpenBLAS where threadpoolctl is not installed: NumPy brings it."""

    internal_api = "openblas"

    def __init__(self, function: Any) -> None:
        self.set_num_threads = function

    @classmethod
    def find(cls, name: str) -> _OpenBlas | None:
        """Return the library that has this function, if one is loaded."""
        import ctypes

        for path in _loaded("openblas"):
            function = getattr(ctypes.CDLL(path), name, None)
            if function is not None:
                return cls(function)
        return None


def _loaded(part: str) -> set[str]:
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as lines:
            paths = {line.split(None, 5)[5].strip() for line in lines if line.count("/") > 0}
    except (OSError, IndexError):
        return set()
    return {path for path in paths if part in os.path.basename(path)}
