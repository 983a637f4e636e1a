"""The notebook's id, written into its file with nothing else of it changed.

A notebook that is read as JSON and written again loses its layout, the spelling of its texts and numbers, and perhaps
the order of its keys: every line of it would differ for whoever keeps it in git. So the id is put into the text.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Final

from mlbench.core.errors import NotebookError

__all__ = ["insert_id"]

OURS: Final = "mlbench"
_SPACE: Final = re.compile(r"[ \t\r\n]*")
_DECODER: Final = json.JSONDecoder(strict=False)


@dataclass(frozen=True, slots=True)
class _Member:
    """A key of an object and the places in the text: where its key begins and ends, and where its value does."""

    key: str
    begin: int
    colon: int
    value: int
    end: int


def insert_id(text: str, identifier: str) -> str:
    r"""Return the text of a notebook with an id in its metadata, in the place of another if there is one.

    Raises
    ------
    NotebookError
        If the text is no notebook with metadata.

    Examples
    --------
    >>> print(insert_id('{\n "cells": [],\n "metadata": {\n  "kernelspec": {}\n }\n}', "a" * 26))
    {
     "cells": [],
     "metadata": {
      "kernelspec": {},
      "mlbench": {
       "id": "aaaaaaaaaaaaaaaaaaaaaaaaaa"
      }
     }
    }
    """
    try:
        outer = _members(text, 1 if text.startswith("\ufeff") else 0)
        metadata = _find(outer, "metadata")
        if metadata is None:
            raise ValueError("no metadata")
        inner = _members(text, metadata.value)
        own = _find(inner, OURS)
        value = json.dumps(identifier)
        if own is None:
            return _insert(text, metadata, inner, OURS, {"id": value}, unit=_unit(text, outer))
        if text[own.value] != "{":
            return text[: own.value] + f'{{"id": {value}}}' + text[own.end :]
        kept = _members(text, own.value)
        known = _find(kept, "id")
        if known is None:
            return _insert(text, own, kept, "id", value, unit=_unit(text, outer))
        return text[: known.value] + value + text[known.end :]
    except (ValueError, IndexError, RecursionError) as error:
        raise NotebookError("The notebook cannot take an id: it is no object with metadata.") from error


def _skip(text: str, place: int) -> int:
    found = _SPACE.match(text, place)
    return found.end() if found is not None else place


def _members(text: str, place: int) -> list[_Member]:
    """Return the members of the object that begins at a place, in order."""
    place = _skip(text, place)
    if text[place] != "{":
        raise ValueError("no object")
    found: list[_Member] = []
    place = _skip(text, place + 1)
    while text[place] != "}":
        key, colon = _DECODER.raw_decode(text, place)
        value = _skip(text, _skip(text, colon) + 1)
        _, end = _DECODER.raw_decode(text, value)
        found.append(_Member(key, place, colon, value, end))
        place = _skip(text, end)
        if text[place] == ",":
            place = _skip(text, place + 1)
    return found


def _find(members: list[_Member], key: str) -> _Member | None:
    """Return the member of a key: the last, as readers of JSON take it."""
    return next((member for member in reversed(members) if member.key == key), None)


def _before(text: str, place: int) -> str:
    """Return the white space before a place."""
    start = place
    while start and text[start - 1] in " \t\r\n":
        start -= 1
    return text[start:place]


def _unit(text: str, outer: list[_Member]) -> str | None:
    """Return what one level is indented by; None for a notebook on one line."""
    before = _before(text, outer[0].begin)
    return before.rpartition("\n")[2] if "\n" in before else None


def _insert(
    text: str, owner: _Member, members: list[_Member], key: str, value: str | dict[str, str], *, unit: str | None
) -> str:
    """Put a member into an object where its keys' order has it: at the end, unless they are sorted."""
    colon = text[owner.colon : owner.value]
    own = _before(text, owner.begin)
    lines = unit is not None and "\n" in own
    lead = f"{own}{unit}" if lines else _before(text, members[0].begin) if members else ""
    tail = own if lines else ""
    if isinstance(value, dict):
        pairs = ",".join(f'"{name}"{colon}{one}' for name, one in value.items())
        value = f"{{{lead}{unit}{pairs}{lead}}}" if lines else f"{{{pairs}}}"
    written = f'"{key}"{colon}{value}'
    if not members:
        return text[: owner.value] + f"{{{lead}{written}{tail}}}" + text[owner.end :]
    comma = text[members[0].end : members[1].begin] if len(members) > 1 else "," + (lead or colon[1:])
    keys = [member.key for member in members]
    after = next((member for member in members if member.key > key), None) if keys == sorted(keys) else None
    if after is not None:
        return text[: after.begin] + written + comma + text[after.begin :]
    return text[: members[-1].end] + comma + written + text[members[-1].end :]
