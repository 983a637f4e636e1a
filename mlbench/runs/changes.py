"""Why a step was not reused: which part of what it depends on is not as it was the last time."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import PurePath
from typing import Final

from mlbench.core.records import Execution
from mlbench.runs.key import ASIDE, ASKED, CELL, FOLDER, UNKNOWN

__all__ = ["Change", "changes", "not_asked"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One reason: the `part` that it is about (`value trees`, `file data.csv`), and the sentence for people."""

    part: str
    text: str


_SHOWN: Final = ("package ", "python")
"""Parts whose values say something to people."""


def not_asked(record: Execution) -> Change | None:
    """Return that nobody asked for a step to be reused, if so.

    Examples
    --------
    >>> from mlbench.core.ids import ExecutionId, RunId
    >>> record = Execution(id=ExecutionId("a"), run=RunId("r"), step="load", state="succeeded")
    >>> not_asked(record).text
    '--cache was not asked for'
    """
    asked = record.key_parts.get(ASKED, "")
    if asked == "no":
        return Change(part=ASKED, text="--no-cache stands on its line")
    return None if asked else Change(part=ASKED, text="--cache was not asked for")


def changes(record: Execution, before: Execution, *, parameters: Collection[str] = ()) -> tuple[Change, ...]:
    """Return what was not the same for an execution as for an earlier one of its step, most telling first.

    Parameters
    ----------
    parameters
        The names of values that the run was given.
    """
    unknown = record.key_parts.get(UNKNOWN) or before.key_parts.get(UNKNOWN)
    if unknown is not None:
        return (Change(part=UNKNOWN, text=f"nobody can tell what it depends on: {unknown}"),)
    found = [*_parts(record, before, parameters), *_files(record, before)]
    if before.random_start != record.random_start:
        found.append(Change(part="random", text="the random numbers that it begins with changed"))
    if record.files and record.key_parts.get(FOLDER) != before.key_parts.get(FOLDER):
        found.append(Change(part=FOLDER, text="the folder that it ran in changed, and it looks at files"))
    if not found and before.network and record.key_parts.get(ASKED) == "setting":
        text = "it opened a network connection, so that only --cache on its own line has it reused"
        found.append(Change(part="network", text=text))
    return tuple(found)


def _parts(record: Execution, before: Execution, parameters: Collection[str]) -> list[Change]:
    now, then = record.key_parts, before.key_parts
    found = []
    for part in sorted({*now, *then} - ASIDE - {CELL}, key=lambda part: (part.split(" ")[0], part)):
        if now.get(part) == then.get(part):
            continue
        verb = "changed"
        if part not in then or part not in now:
            verb = "is new" if part in now else "is gone"
        elif part.startswith(_SHOWN):
            verb = f"changed from {then[part] or 'none'} to {now[part] or 'none'}"
        kind, _, name = part.partition(" ")
        said = f"parameter {name}" if kind == "value" and name in parameters else part
        found.append(Change(part=said, text=f"{said} {verb}"))
    return found


def _files(record: Execution, before: Execution) -> list[Change]:
    """Return the files that are not as an execution before left or found them, as far as both have seen them."""
    now = {use.path: use for use in record.files if use.mode != "w"}
    found = []
    for use in before.files:
        seen = now.get(use.path)
        if seen is None or (seen.size, seen.modified) == (use.size, use.modified) or seen.mode != use.mode:
            continue
        kind = "folder" if use.mode == "l" else "file"
        found.append(Change(part=f"{kind} {use.path}", text=f"{kind} {PurePath(use.path).name} changed"))
    return found
