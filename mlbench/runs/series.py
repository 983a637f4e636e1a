"""The interactive runs of one kernel: which run a step belongs to, and in which state each run is.

An interactive run holds at most one execution of each step. A step that has ended in it and is run again, the
parameters cell, or a kernel that has restarted opens the next run; what was not run again in that one is taken over
from the run before as `reused`, once nothing is under way in it, so that a notebook run from top to bottom leaves no
traces of the run before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from mlbench.core.ids import ExecutionId, RunId
from mlbench.core.records import ENDED, Execution, Run, State

__all__ = ["Series", "last_of_each_step", "state_of"]


def state_of(executions: list[Execution]) -> State:
    """Return the state of a run with these executions; replaced ones must not be among them.

    Examples
    --------
    >>> def one(state):
    ...     return Execution(id=ExecutionId("a"), run=RunId("r"), step="load", state=state)
    >>> state_of([one("succeeded"), one("running")]), state_of([one("failed"), one("skipped")]), state_of([])
    ('running', 'failed', 'succeeded')
    >>> state_of([one("cancelled"), one("succeeded")])
    'cancelled'
    """
    states = {execution.state for execution in executions}
    if states - ENDED:
        return "running"
    if "failed" in states:
        return "failed"
    return "cancelled" if "cancelled" in states else "succeeded"


def last_of_each_step(executions: Sequence[Execution]) -> list[Execution]:
    """Return what counts of a run's executions: the last one of each step (of each item, in a fan-out).

    Others are kept in the catalog too: a cell was edited and run again, what it was given had changed, or a step took
    the place of one that the run had taken over. The order is that of the steps' first executions.

    Examples
    --------
    >>> def one(id, step, queued):
    ...     return Execution(id=ExecutionId(id), run=RunId("r"), step=step, state="succeeded", queued=queued)
    >>> [one.id for one in last_of_each_step([one("a", "load", 3), one("b", "load", 1), one("c", "train", 2)])]
    ['a', 'c']
    """
    last: dict[tuple[str, int | None], Execution] = {}
    replaced = {one.replaces for one in executions}
    for execution in executions:
        had = last.get((execution.step, execution.item))
        if execution.id not in replaced and (had is None or _order(execution) >= _order(had)):
            last[execution.step, execution.item] = execution
    return list(last.values())


def _order(execution: Execution) -> tuple[int, int, int]:
    began = execution.started or 0
    return execution.queued or began or execution.ended or 0, began, execution.attempt


@dataclass(slots=True)
class _Member:
    """A run with the executions that count in it, by step; `taken` are those that it has from the run before."""

    run: Run
    steps: dict[str, Execution] = field(default_factory=dict)
    taken: set[ExecutionId] = field(default_factory=set)

    def taken_over(self, step: str) -> ExecutionId | None:
        """Return the execution of a step that was taken over, None if there is none or it was run here."""
        had = self.steps.get(step)
        return had.id if had is not None and had.id in self.taken else None


@dataclass(slots=True)
class Series:
    """The runs of one kernel, in order; the last one is current.

    Parameters
    ----------
    kernel
        Whose runs these are.
    make_run
        Returns a new run: `(started)`.
    make_id
        Returns the id of an execution that is taken over.
    """

    kernel: str
    make_run: Callable[[int], Run]
    make_id: Callable[[], str]
    fresh: bool = True
    _runs: dict[RunId, _Member] = field(default_factory=dict)
    _current: RunId | None = None
    _before: dict[str, Execution] = field(default_factory=dict)

    @property
    def current(self) -> Run | None:
        """The run that steps go to now."""
        return None if self._current is None else self._runs[self._current].run

    def holds(self, run: RunId) -> bool:
        """Say whether a run is one of these, and may still change."""
        return run in self._runs

    def restart(self) -> None:
        """Let the next step open the next run."""
        self.fresh = True

    def place(self, step: str, at: int, *, new_run: bool = False) -> tuple[Run, bool]:
        """Return the run that a step about to be submitted belongs to, and whether it has just been opened."""
        member = None if self._current is None else self._runs[self._current]
        had = member.steps.get(step) if member is not None else None
        again = member is not None and had is not None and had.state in ENDED and member.taken_over(step) is None
        if member is not None and not (self.fresh or new_run or again):
            return member.run, False
        if member is not None:
            self._before = {**self._before, **member.steps}
            ended = [one for one, old in self._runs.items() if old is not member and old.run.state != "running"]
            for one in ended:  # of the last one the snapshot may still be being made
                del self._runs[one]
        run = self.make_run(at)
        self._runs[run.id] = _Member(run)
        self._current, self.fresh = run.id, False
        return run, True

    def resume(self, executions: list[Execution]) -> None:
        """Say what ended in runs that are not of this series: the kernel's last one, in another life of the service."""
        for execution in executions:
            self._pass_on(execution)

    def taken_over(self, step: str) -> ExecutionId | None:
        """Return the `reused` execution of a step in the current run, which the next one of that step replaces."""
        member = None if self._current is None else self._runs[self._current]
        return member.taken_over(step) if member is not None else None

    def note(self, execution: Execution) -> tuple[list[Run], list[Execution]]:
        """Take an execution's news; return the runs that have changed, and what the current run takes over now."""
        member = self._runs.get(execution.run)
        if member is None or self._current is None:
            return [], []
        had = member.steps.get(execution.step)
        if had is None or had.id == execution.id or (had.queued or 0) <= (execution.queued or 0):
            member.steps[execution.step] = execution
        current = self._runs[self._current]
        if member is not current and execution.state in ENDED:
            self._pass_on(execution)
        reused = self._take_over(current)
        judged = [self._judge(one) for one in ([member] if member is current else [member, current])]
        if member is not current and member.run.state != "running":
            del self._runs[member.run.id]
        return [run for run in judged if run is not None], reused

    def _pass_on(self, execution: Execution) -> None:
        """Keep what a run before the current one ended with, unless a later one of the step is known."""
        had = self._before.get(execution.step)
        if had is None or had.id == execution.id or (had.queued or 0) <= (execution.queued or 0):
            self._before[execution.step] = execution

    def _take_over(self, member: _Member) -> list[Execution]:
        counted = list(member.steps.values())
        if not counted or state_of(counted) == "running":
            return []
        at = max(one.ended or 0 for one in counted)
        cells = {one.cell for one in counted if one.cell is not None}
        reused = []
        for step, before in self._before.items():
            renamed = before.cell in cells
            if step in member.steps or renamed or before.state not in {"succeeded", "reused"}:
                continue
            one = replace(
                before,
                id=ExecutionId(self.make_id()),
                run=member.run.id,
                state="reused",
                reused_from=before.reused_from or before.id,
                replaces=None,
                unseen=False,
                note=None,
                messages=(),
                queued=at,
                started=at,
                ended=at,
                cpu=None,
            )
            member.steps[step] = one
            member.taken.add(one.id)
            reused.append(one)
        return reused

    def _judge(self, member: _Member) -> Run | None:
        executions = list(member.steps.values())
        if not executions:
            return None
        state = state_of(executions)
        failed = next((one for one in executions if one.state == "failed"), None)
        run = replace(
            member.run,
            state=state,
            ended=None if state == "running" else max(one.ended or 0 for one in executions),
            reason=next((one.reason for one in executions if one.state == state and one.reason is not None), None),
            failed_step=failed.step if failed is not None else None,
            failure=failed.failure if failed is not None else None,
        )
        if run == member.run:
            return None
        member.run = run
        return run

    def edit(self, run: RunId, **changes: object) -> Run | None:
        """Change fields of a run (its metrics, its tags) and return it; None if it is not of this series any more."""
        member = self._runs.get(run)
        if member is None:
            return None
        member.run = replace(member.run, **changes)  # type: ignore[arg-type]
        return member.run
