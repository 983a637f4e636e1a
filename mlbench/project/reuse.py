"""Why a step ran although it had run before, and how a run that failed is gone on from."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mlbench.backends import commands
from mlbench.core.errors import NotFound, ServiceError, UsageError
from mlbench.core.ids import short
from mlbench.core.records import UNDER_WAY, Execution, Run
from mlbench.runs.changes import Change, changes, not_asked
from mlbench.runs.series import last_of_each_step

if TYPE_CHECKING:
    from mlbench.project import Project

__all__ = ["Why", "notebook_of", "resume_apart", "why", "why_execution"]

RUNS_BACK: Final = 500
"""Earlier runs of a notebook that are searched for the step."""

_PATIENCE: Final = 60
"""Seconds in which a run that is resumed begins."""
_LOOKS: Final = 5
"""Looks for it a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Why:
    """Why an execution ran, or from which other it was reused: `before` is the last one of its step until then."""

    execution: Execution
    run: Run
    before: Execution | None = None
    before_run: Run | None = None
    reasons: tuple[Change, ...] = ()


def why(project: Project, run: str, step: str) -> Why:
    """Say why a step of a run was not reused.

    Raises
    ------
    NotFound
        If there is no such run, or it has no such step.
    """
    found = project.catalog.run(run)
    executions = project.steps(found.id)
    execution = next((one for one in executions if one.step == step), None)
    if execution is None:
        names = ", ".join(dict.fromkeys(one.step for one in executions))
        raise NotFound(f"Run {short(found.id)} has no step {step}.", f"It has: {names or 'none'}.")
    return why_execution(project, execution)


def why_execution(project: Project, execution: Execution) -> Why:
    """Say why an execution was not reused, or from where it was."""
    run = project.catalog.run(execution.run)
    if execution.state == "reused" and execution.reused_from is not None:
        origin = project.catalog.execution(execution.reused_from)
        return Why(execution=execution, run=run, before=origin, before_run=project.catalog.run(origin.run))
    before = _before(project, run, execution)
    reasons: list[Change] = []
    if (nobody := not_asked(execution)) is not None:
        reasons.append(nobody)
    if before is None:
        reasons.append(Change(part="history", text=_never(project, run, execution)))
        return Why(execution=execution, run=run, reasons=tuple(reasons))
    reasons += changes(execution, before, parameters=run.parameters)
    lost = [one.name for one in before.binds if one.artifact and not project.blobs.has(one.artifact.digest)]
    reasons += [Change(part=f"artifact {name}", text=f"artifact {name} was gone from the store") for name in lost]
    if not reasons:
        text = "nothing is known to have changed: what it had made was damaged, or a file was changed meanwhile"
        reasons.append(Change(part="nothing", text=text))
    before_run = project.catalog.run(before.run)
    return Why(execution=execution, run=run, before=before, before_run=before_run, reasons=tuple(reasons))


def resume_apart(project: Project, run: Run) -> Run:
    """Resume a run in a process of its own, which outlives this one; return the run that has begun.

    Raises
    ------
    UsageError
        If there is nothing to resume, or its notebook cannot be found.
    ServiceError
        If no run has begun: it says why.
    """
    path = notebook_of(project, run)
    if run.state == "succeeded":
        raise UsageError(f"Run {short(run.id)} succeeded: there is nothing to resume.")
    since = time.time_ns()
    command = commands.start("resume", run.id, variables=project.location.variables())
    for _ in range(_PATIENCE * _LOOKS):
        ended = command.has_ended(1 / _LOOKS)
        for begun in project.catalog.runs(notebook=path, limit=20):
            if begun.resumed_from == run.id and begun.started >= since:
                return begun
        if ended:
            raise ServiceError(
                f"Run {short(run.id)} could not be resumed: {command.last_line() or 'its process ended.'}",
                f"Try it in a terminal: mlbench resume {short(run.id)}",
            )
    raise ServiceError(
        f"Run {short(run.id)} is being resumed, and has not begun after {_PATIENCE} s.", "Look for it among the runs."
    )


def notebook_of(project: Project, run: Run) -> str:
    """Return the path of a run's notebook as it is now, which may have been renamed since.

    Raises
    ------
    UsageError
        If the run is still under way, or the notebook is nowhere to be found.
    """
    if run.state in UNDER_WAY:
        raise UsageError(f"Run {short(run.id)} is still under way.", "Wait for its end, or cancel it.")
    if run.notebook is None:
        raise UsageError(f"Run {short(run.id)} does not say which notebook it was of.", "Run the notebook itself.")
    if os.path.isfile(run.notebook):
        return run.notebook
    paths = project.catalog.notebooks(run.notebook_id) if run.notebook_id is not None else {}
    for path in sorted(paths, key=lambda path: paths[path], reverse=True):
        if os.path.isfile(path):
            return path
    raise UsageError(
        f"The notebook of run {short(run.id)} is not at {run.notebook} any more.",
        f"Name it: mlbench run NOTEBOOK --resume {short(run.id)}",
    )


def _before(project: Project, run: Run, execution: Execution) -> Execution | None:
    """Return the last execution of a step in earlier runs of the notebook that can be reused by its kind."""
    return next((one for one in _earlier(project, run, execution) if one.state in ("succeeded", "reused")), None)


def _never(project: Project, run: Run, execution: Execution) -> str:
    """Say what is known of a step of which no earlier execution could be reused."""
    if next(_earlier(project, run, execution), None) is not None:
        return "it has never succeeded before"
    if run.notebook is None and run.notebook_id is None:
        return "no earlier run of this kernel has it, and the run does not say which notebook it was of"
    return "never run before"


def _earlier(project: Project, run: Run, execution: Execution) -> Iterator[Execution]:
    """Yield a step's executions in earlier runs of the notebook, newest first; of the kernel where that is unknown."""
    known = run.notebook is not None or run.notebook_id is not None
    if not known and run.kernel is None:
        return
    kernel = None if known else run.kernel
    before, left = (run.started, str(run.id)), RUNS_BACK
    while left > 0:
        page = project.catalog.runs(
            notebook=run.notebook, notebook_id=run.notebook_id, kernel=kernel, limit=min(50, left), before=before
        )
        for one in page:
            for found in last_of_each_step(project.catalog.executions(one.id)):
                if found.step == execution.step:
                    yield found
        if not page:
            return
        left -= len(page)
        before = (page[-1].started, str(page[-1].id))
