"""The parameters cell as a typed form, and values given to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Parameter", "convert", "read"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One parameter.

    `type` is `int`, `float`, `bool`, `str`, `list`, `dict` or `any`; `item` the type of a list's items (or a
    dictionary's values). `optional` allows None. `default` is JSON; where the cell computes it, it is None and
    `default_source` is the expression. `required` means that the cell gives no value.
    """

    name: str
    type: str = "any"
    default: Any = None
    help: str | None = None
    required: bool = False
    optional: bool = False
    item: str | None = None
    choices: tuple[Any, ...] = ()
    default_source: str | None = None
    line: int = 0


def read(source: str) -> tuple[Parameter, ...]:
    """Return the parameters that a cell tagged `parameters` declares. Raise `ParameterError`."""
    raise NotImplementedError(source)


def convert(parameters: Sequence[Parameter], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values given, checked and converted; texts are read as their parameter's type.

    Only given ones are returned. Raise `ParameterError`.
    """
    raise NotImplementedError(parameters, given)
