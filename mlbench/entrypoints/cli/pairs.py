"""Arguments of the form NAME=VALUE."""

from __future__ import annotations

import click

from mlbench.core.errors import ParameterError

__all__ = ["parameters_option", "read_pairs"]


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


parameters_option = click.option(
    "-p",
    "--parameter",
    "given",
    multiple=True,
    metavar="NAME=VALUE",
    callback=lambda _context, _option, pairs: read_pairs(pairs),
    help="A parameter of the notebook.",
)
"""Gives a command the parameters as a dictionary, and whoever writes `-p NAME VALUE`, as papermill has it, its error
before that of an argument too many."""
