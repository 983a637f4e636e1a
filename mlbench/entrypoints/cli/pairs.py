"""Arguments of the form NAME=VALUE."""

from __future__ import annotations

from typing import Any

from mlbench.core.errors import ParameterError

__all__ = ["checked", "read_pairs"]


def checked(_: Any, __: Any, pairs: tuple[str, ...]) -> tuple[str, ...]:
    """Return an option's pairs, once it is sure that they are pairs.

    Who writes `-p NAME VALUE`, as papermill has it, is told how it goes here, and not that VALUE is one too many.
    """
    read_pairs(pairs)
    return pairs


def read_pairs(pairs: tuple[str, ...], what: str = "parameter") -> dict[str, str]:
    """Return `NAME=VALUE` arguments as a dictionary.

    Raises
    ------
    ParameterError
        If one has no `=` or no name, or is given twice.

    Examples
    --------
    >>> read_pairs(("origin=LGA", "query=a=b"))
    {'origin': 'LGA', 'query': 'a=b'}
    """
    given: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        name = name.strip()
        if not equals or not name:
            raise ParameterError(f"The {what} {pair[:60]!r} has no value.", f"Write: {name[:40] or 'NAME'}=VALUE")
        if name in given:
            raise ParameterError(f"The {what} {name[:60]} is given twice.", "Give it once.")
        given[name] = value
    return given
