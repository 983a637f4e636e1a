"""Where a value of a store comes from, and what differs between two of its runs."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from mlbench.core.errors import NotFound, ResultError, StoreError, UsageError
from mlbench.core.ids import Digest, ExecutionId, is_digest, short
from mlbench.core.queries import Column, Comparison, Place, Query
from mlbench.core.records import Artifact, Binding, Execution, Run, Snapshot
from mlbench.project.history import with_items
from mlbench.runs import lineage as lineages
from mlbench.runs.artifacts import Loader
from mlbench.runs.diff import Difference, Side, compare
from mlbench.runs.diff_cells import as_run, notebook_cells
from mlbench.runs.diff_text import as_html, as_lines
from mlbench.runs.diff_values import CODECS, value_changes
from mlbench.runs.files import FOLDER
from mlbench.runs.lineage import Lineage

if TYPE_CHECKING:
    from mlbench.project import Project

__all__ = ["DifferenceView", "LineageView", "difference", "last_success", "lineage", "lineage_of", "run_before"]

LARGEST_LOADED: Final = 1 << 30
"""Bytes of a value that is loaded to see where it differs from another one."""
MOST_COMPARED: Final = 20_000
"""Items of a fan-out that are compared."""

_PAGE: Final = 5_000
_ITEM: Final = re.compile(r"(.+)\[([0-9]{1,9})\]")


# --- lineage ----------------------------------------------------------------------------------------------------------


def lineage(
    project: Project,
    of: str,
    step: str | None = None,
    name: str | None = None,
    *,
    execution: str | None = None,
    up: bool = True,
    down: bool = True,
) -> Lineage:
    """Follow a value up to what it was made of, and down to what was made of it.

    Parameters
    ----------
    of
        An artifact's digest, or with `step` and `name` a run's id or a beginning of it.
    step
        A step of the run, or an item of one: `fit[3]`.
    name
        A name that it bound.
    execution
        With a digest, an execution's id or a beginning of it: of equal values, what it made or was given comes first.

    Raises
    ------
    NotFound
        If there is no such value.
    UsageError
        If it is said in another way.
    """
    if step is None and name is None:
        if not is_digest(of):
            raise UsageError(
                f"{of[:80]!r} is no artifact's digest.", "Name a value by its run: mlbench lineage RUN STEP NAME"
            )
        asked = project.catalog.execution(execution) if execution is not None else None
        return lineages.trace(project.catalog, lineages.values_of(project.catalog, Digest(of), asked), up=up, down=down)
    if step is None or name is None or execution is not None:
        raise UsageError("A value of a run is named by its step and its name.", "mlbench lineage RUN STEP NAME")
    return lineage_of(project, _execution(project, of, step), name, up=up, down=down)


def lineage_of(
    project: Project,
    execution: Execution,
    name: str,
    *,
    digest: Digest | None = None,
    up: bool = True,
    down: bool = True,
) -> Lineage:
    """Follow what an execution bound to a name, or logged under it, as `lineage` does.

    Parameters
    ----------
    digest
        Which artifact is meant, where it bound one and logged another under the same name; without it, the first.
    """
    origin = lineages.origin_of(project.catalog, execution)
    bound = {one.name: one for one in (*origin.binds, *execution.binds)}
    logged = {one.name: one for one in (*origin.artifacts, *execution.artifacts)}
    there = [one for one in (bound.get(name), logged.get(name)) if one is not None and one.artifact is not None]
    if not there:
        stored = {one.name: None for one in (*bound.values(), *logged.values()) if one.artifact is not None}
        raise NotFound(
            f"Step {execution.step} has no stored value {name!r}.", f"It has: {', '.join(stored) or 'none'}."
        )
    found = next((one for one in there if one.artifact is not None and one.artifact.digest == digest), there[0])
    value = lineages.value_of(execution, found)
    # What is logged is given to no step, whatever else has its name.
    return lineages.trace(project.catalog, [value], up=up, down=down and found is bound.get(name))


def _execution(project: Project, prefix: str, step: str) -> Execution:
    run = project.catalog.run(prefix)
    known = {one.step: one for one in project.steps(run.id)}
    item = _ITEM.fullmatch(step)
    name = item[1] if item is not None and step not in known else step
    if name not in known:
        raise NotFound(f"Run {short(run.id)} has no step {name}.", f"It has: {', '.join(known) or 'none'}.")
    if name == step or item is None:
        return known[name]
    whole = with_items(project.catalog, known[name])
    number = int(item[2])
    found = project.catalog.items(whole.id, limit=1, after=number - 1)
    if not found or found[0].item != number:
        raise NotFound(f"Step {name} of run {short(run.id)} has no item {number}.")
    return found[0]


class LineageView:
    """A lineage as a notebook shows it; `record` has all of it."""

    def __init__(self, record: Lineage) -> None:
        self.record = record

    def __repr__(self) -> str:
        return "\n".join(lineages.lines(self.record))

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(repr(self))}</pre>"


# --- difference -------------------------------------------------------------------------------------------------------


def difference(project: Project, before: str | Run, after: str | Run, *, load: bool = False) -> Difference:
    """Say what differs between two runs.

    Parameters
    ----------
    before, after
        The runs, or their ids or beginnings of these.
    load
        Whether frames and arrays that differ are loaded to see where they first do. Nothing is unpickled.

    Raises
    ------
    NotFound
        If there is no such run, or several begin so.
    """
    runs = [one if isinstance(one, Run) else project.catalog.run(one) for one in (before, after)]
    sides = [_side(project, run) for run in runs]
    modules = [one.snapshot.modules if one.snapshot is not None else {} for one in sides]
    changed = {path for path in (*modules[0], *modules[1]) if modules[0].get(path) != modules[1].get(path)}
    sides = [
        replace(one, modules={path: _text(project, digest) for path, digest in files.items() if path in changed})
        if all(each.snapshot is not None for each in sides)
        else one
        for one, files in zip(sides, modules, strict=True)
    ]
    both = [{one.step: one for one in side.executions if one.fanout is not None} for side in sides]
    for step in both[0].keys() & both[1].keys():
        wholes = [with_items(project.catalog, each[step]) for each in both]
        if wholes[0].id != wholes[1].id:
            for place, whole in enumerate(wholes):
                items, cut = _items(project, whole.id)
                side = sides[place]
                cuts = side.cut | {step} if cut else side.cut
                sides[place] = replace(side, items={**side.items, step: items}, cut=cuts)
    return compare(sides[0], sides[1], load=_Differences(project) if load else None)


def last_success(project: Project, run: Run) -> Run:
    """Return the last run of a notebook before this one that succeeded.

    Raises
    ------
    NotFound
        If there is none.
    """
    found = _before(project, run, Comparison(Column("state"), "=", "succeeded"))
    if found is None:
        raise NotFound(
            f"No run of this notebook before run {short(run.id)} has succeeded.", "Name the run to compare it with."
        )
    return found


def run_before(project: Project, run: Run) -> Run:
    """Return the last run of a notebook before this one, whatever became of it.

    Raises
    ------
    NotFound
        If there is none.
    """
    found = _before(project, run)
    if found is None:
        raise NotFound(f"Run {short(run.id)} is the first of its notebook.", "Name the run to compare it with.")
    return found


def _before(project: Project, run: Run, query: Query | None = None) -> Run | None:
    if run.notebook is None and run.notebook_id is None:
        return None
    found = project.catalog.search(
        query,
        notebook=run.notebook,
        notebook_id=run.notebook_id,
        limit=1,
        after=Place(None, run.started, run.id),
    )
    return found.runs[0] if found.runs else None


class DifferenceView:
    """A difference as a notebook shows it; `record` has all of it."""

    def __init__(self, record: Difference) -> None:
        self.record = record

    def __bool__(self) -> bool:
        return bool(self.record)

    def __repr__(self) -> str:
        return "\n".join(line for _, line in as_lines(self.record))

    def _repr_html_(self) -> str:
        return as_html(self.record)


class _Differences:
    """Loads two values and says where they differ; what cannot be loaded is left to the previews."""

    def __init__(self, project: Project) -> None:
        self._blobs = project.blobs

    def __call__(self, before: Binding, after: Binding) -> tuple[str, ...]:
        for binding in (before, after):
            artifact = binding.artifact
            if artifact is None or artifact.codec not in CODECS:
                return ()
            if artifact.size > LARGEST_LOADED and artifact.codec != FOLDER:  # of a folder its list is read, no file
                return ()
        try:
            old, new = (Loader(self._blobs, accepts=_nothing).load(one) for one in (before, after))
        except (NotFound, ResultError, StoreError):  # freed, damaged, or its library is not here
            return ()
        try:
            return value_changes(old, new)
        except Exception as error:  # noqa: BLE001  how values compare is their libraries' affair
            return (f"can't be compared: {type(error).__name__}: {error}",)


def _nothing(_: Artifact) -> bool:
    """Accept nothing that could run code: data alone is compared."""
    return False


def _side(project: Project, run: Run) -> Side:
    snapshot: Snapshot | None = project.catalog.snapshot(run.snapshot) if run.snapshot is not None else None
    executions = tuple(_made(project, project.steps(run.id)))
    if snapshot is not None:
        from mlbench.runs.wire import msgspec

        cells = as_run(notebook_cells(msgspec.json.decode(project.blobs.get(snapshot.notebook))), executions)
    else:
        steps = ({"id": one.cell, "source": f"%%step {one.step}\n{one.source or ''}"} for one in executions)
        cells = notebook_cells({"cells": list(steps)})
    return Side(run=run, cells=cells, executions=executions, snapshot=snapshot)


def _made(project: Project, executions: Sequence[Execution]) -> list[Execution]:
    """Return executions with what they bound and logged, that of the one that ran where they were reused."""
    origins = project.catalog.executions_named(
        one.reused_from for one in executions if one.reused_from is not None and not one.binds
    )
    return [_as(one, origins.get(one.reused_from) if one.reused_from is not None else None) for one in executions]


def _as(one: Execution, origin: Execution | None) -> Execution:
    if origin is None:
        return one
    artifacts, metrics = one.artifacts or origin.artifacts, one.metrics or origin.metrics
    return replace(one, binds=origin.binds, artifacts=artifacts, metrics=metrics)


def _items(project: Project, whole: ExecutionId) -> tuple[list[Execution], bool]:
    found, after = list[Execution](), -1
    while len(found) < MOST_COMPARED and (page := project.catalog.items(whole, limit=_PAGE, after=after)):
        found += page
        after = max(after + 1, page[-1].item or 0)
    return found[:MOST_COMPARED], bool(project.catalog.items(whole, limit=1, after=after)) if found else False


def _text(project: Project, digest: Digest) -> str:
    try:
        return project.blobs.get(digest).decode("utf-8", "replace")
    except (NotFound, StoreError):
        return f"(its text, {digest}, is not in the store)"
