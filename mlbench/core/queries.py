"""What runs are looked for by: the tree of a query, what a list is sorted by, and the place where a page ended.

And whose executions are looked for, where what they stored is to be loaded.

`mlbench.runs.search` reads these from text and decides in memory; a catalog turns them into its own language.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from mlbench.core.ids import RunId
from mlbench.core.records import Run

__all__ = [
    "COLUMNS",
    "And",
    "Column",
    "Comparison",
    "Kind",
    "Name",
    "Not",
    "Or",
    "Page",
    "Place",
    "Query",
    "Signers",
    "Sort",
    "Space",
]

Kind = Literal["text", "number", "time", "duration"]
Space = Literal["params", "metrics", "tags"]
Operator = Literal["=", "!=", "<", "<=", ">", ">=", "like", "ilike", "in"]
Value = str | float | bool | None

COLUMNS: Final[Mapping[str, Kind]] = {
    "id": "text",
    "kind": "text",
    "state": "text",
    "reason": "text",
    "name": "text",
    "notebook": "text",
    "job": "text",
    "job_version": "number",
    "user": "text",
    "host": "text",
    "failed_step": "text",
    "started": "time",
    "ended": "time",
    "duration": "duration",
}
"""What a run has besides its parameters, metrics and tags, and how it is compared."""


@dataclass(frozen=True, slots=True)
class Column:
    """One of `COLUMNS`."""

    name: str


@dataclass(frozen=True, slots=True)
class Name:
    """A parameter, metric or tag."""

    space: Space
    name: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """What one field must be; for `in` the value is a tuple.

    Times are UTC nanoseconds, durations seconds. What a run does not have compares as false, with `!=` too; only
    `= none` and `!= none` ask whether it is there. A text is never less or greater than a number, nor equal to one. In
    the pattern of `like`, `%` stands for any text, `_` for any character, and a backslash takes their meaning away;
    `ilike` ignores the case of letters.
    """

    field: Column | Name
    operator: Operator
    value: Value | tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class And:
    """All of these."""

    parts: tuple[Query, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """One of these at least."""

    parts: tuple[Query, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """Not this."""

    part: Query


Query = Comparison | And | Or | Not


@dataclass(frozen=True, slots=True)
class Sort:
    """What a list is sorted by: numbers, then texts; what a run does not have comes last, either way."""

    field: Column | Name
    descending: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page of runs ended: what its last run is sorted by (None: it does not have that), start and id."""

    value: str | float | None
    started: int
    id: RunId


@dataclass(frozen=True, slots=True)
class Page:
    """Some runs of a list; `next` is where it ended, None if nothing comes after."""

    runs: tuple[Run, ...]
    next: Place | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Signers:
    """Who may have signed what somebody loads: `keys` by their names, and `users` who are trusted by theirs.

    See `mlbench.runs.signing`; what needs no signature, or has none, is not kept back by them.
    """

    keys: frozenset[str] = frozenset()
    users: frozenset[str] = frozenset()
