"""What notebooks set in Python itself, and in its decimal numbers; `PYTHON` and `DECIMAL` are how these come."""

from __future__ import annotations

import importlib
import locale
import sys
from typing import Any, Final

__all__ = ["DECIMAL", "PYTHON", "apply", "apply_decimal", "read", "read_decimal"]

PYTHON: Final[dict[str, Any]] = {
    "recursion limit": 1000,
    "digits of integers": 4300,
    "timeout of sockets": None,
    "locale": dict.fromkeys(("LC_COLLATE", "LC_MONETARY", "LC_NUMERIC", "LC_TIME"), "C"),
}
DECIMAL: Final[dict[str, Any]] = {
    "prec": 28,
    "rounding": "ROUND_HALF_EVEN",
    "Emin": -999999,
    "Emax": 999999,
    "capitals": 1,
    "clamp": 0,
    "traps": ["DivisionByZero", "InvalidOperation", "Overflow"],
}


def read(_: Any = None) -> dict[str, Any]:
    """Return what holds of the interpreter."""
    socket = sys.modules.get("socket")
    return {
        "recursion limit": sys.getrecursionlimit(),
        "digits of integers": sys.get_int_max_str_digits(),
        "timeout of sockets": None if socket is None else socket.getdefaulttimeout(),
        "locale": {name: locale.setlocale(getattr(locale, name)) for name in PYTHON["locale"]},
    }


def apply(settings: dict[str, Any], _: Any = None) -> None:
    """Make it hold."""
    sys.setrecursionlimit(settings["recursion limit"])
    sys.set_int_max_str_digits(settings["digits of integers"])
    if settings["timeout of sockets"] is not None or "socket" in sys.modules:
        importlib.import_module("socket").setdefaulttimeout(settings["timeout of sockets"])
    for name, wanted in settings["locale"].items():
        if locale.setlocale(getattr(locale, name)) != wanted:
            locale.setlocale(getattr(locale, name), wanted)


def read_decimal(_: Any = None) -> dict[str, Any]:
    """Return the context of decimal numbers."""
    holds = sys.modules["decimal"].getcontext()
    said = {name: getattr(holds, name) for name in ("prec", "rounding", "Emin", "Emax", "capitals", "clamp")}
    return said | {"traps": sorted(signal.__name__ for signal, raises in holds.traps.items() if raises)}


def apply_decimal(settings: dict[str, Any], _: Any = None) -> None:
    """Make the context hold."""
    import decimal

    if settings != read_decimal():
        traps = [getattr(decimal, name) for name in settings["traps"]]
        decimal.setcontext(decimal.Context(**{**settings, "traps": traps}))
