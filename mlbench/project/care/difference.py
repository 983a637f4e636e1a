"""What the catalog says otherwise than the records do, in a sentence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mlbench.core.errors import NotFound
from mlbench.core.ids import ExecutionId, RunId
from mlbench.runs.saying import Saying, differences, said_by

if TYPE_CHECKING:
    from mlbench.project import Project
    from mlbench.project.care.reading import Reading

__all__ = ["Other", "what_differs"]

_RUNS: Final = 5
_STEPS: Final = 5
"""How many runs, and how many steps of each, are named before the rest is counted."""

_ITEMS: Final = 200
"""Items of a fan-out that are looked at for what it is that differs."""


@dataclass(frozen=True, slots=True)
class Other:
    """A run, or an execution in it, of which the catalog says something else than its record.

    `step` is None for the run itself, `part_of` the execution of an item's fan-out. `says` is a number each for what
    the record says and what the catalog does (see `mlbench.runs.reachable.Survey`).
    """

    run: RunId
    step: str | None
    part_of: ExecutionId | None
    says: tuple[int, int]


def what_differs(
    project: Project, reading: Reading, others: Mapping[str, Other], name: Callable[[RunId], str]
) -> str | None:
    """Return what the catalog says otherwise than the records; None if that is nothing.

    Parameters
    ----------
    project, reading
        The store, and its records.
    others
        What differs, by the ids of runs and executions.
    name
        Returns what a run is called among people.
    """
    by_run: dict[RunId, dict[str, Other]] = {}
    for one, other in others.items():
        by_run.setdefault(other.run, {})[one] = other
    if not by_run:
        return None
    said = [f"of {name(run)} {_in_run(project, reading, run, by_run[run])}" for run in sorted(by_run)[:_RUNS]]
    more = len(by_run) - len(said)
    rest = f"; and something of {more:,} more {'run' if more == 1 else 'runs'}" if more else ""
    return f"It says otherwise than the records: {'; '.join(said)}{rest}."


def _in_run(project: Project, reading: Reading, run: RunId, others: Mapping[str, Other]) -> str:
    """Return what differs in one run: of itself, and of its steps and the items of these."""
    recorded, catalog = reading.saying_of(run), project.catalog
    groups: dict[tuple[str, ExecutionId | None], list[ExecutionId]] = {}
    said = []
    for one, other in others.items():
        if other.step is None:
            with suppress(NotFound):
                said.append(_fields(recorded, {one: said_by(catalog.run(run))}))
        else:
            groups.setdefault((other.step, other.part_of), []).append(ExecutionId(one))
    for (step, whole), them in sorted(groups.items(), key=str)[:_STEPS]:
        found = catalog.executions_named(them[:_ITEMS])
        what = _fields(recorded, {one: said_by(found[one]) for one in them if one in found})
        items = f"{len(them):,} {'item' if len(them) == 1 else 'items'} of " if whole is not None else ""
        said.append(f"of {items}step {step} {what}")
    more = len(groups) - _STEPS
    return ", ".join([*said, *([f"and something of {more:,} more steps"] if more > 0 else [])])


def _fields(recorded: Mapping[str, Saying], known: Mapping[str, Saying]) -> str:
    """Return in words in what the catalog and the records differ, of one or of several that are told of together."""
    found = [differences(recorded[one], says) for one, says in known.items() if one in recorded]
    words = list(dict.fromkeys(word for one in found for word in one)) or ["something"]
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))
