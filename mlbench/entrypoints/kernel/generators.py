"""The kernel's global random generators, as the steps of a seeded notebook continue them.

In a seeded notebook the steps and the plain cells draw as if each had run where it stands: a step starts where the
step handed over before it ends, and the kernel goes on from the last step that drew. A notebook that was never seeded
has no such order.
"""

from __future__ import annotations

from dataclasses import dataclass

from mlbench.core.ids import ExecutionId
from mlbench.core.messages import RandomState
from mlbench.core.records import Execution

__all__ = ["Generators", "Start"]


@dataclass(frozen=True, slots=True)
class Start:
    """Where a step's generators start: `number` orders the steps of this kernel."""

    states: RandomState
    after: ExecutionId | None
    number: int


class Generators:
    """The generators of one kernel. Read and set on the kernel's own thread only."""

    def __init__(self) -> None:
        self.seeded = False
        self._known: RandomState = {}
        self._last: ExecutionId | None = None
        self._number = 0
        self._continued = -1
        self._before: tuple[RandomState, ExecutionId | None, int] = ({}, None, -1)

    def note_source(self, source: str) -> None:
        """Notice that a cell seeds: by what it calls, or by a helper whose name says so."""
        if self.seeded or "seed" not in source.lower():
            return
        from mlbench.notebook.cell import analyse

        try:
            names = analyse(source)
        except SyntaxError:  # the cell itself will say so
            return
        self.seeded = names.seeds or any("seed" in name.lower() for name in names.reads if name.islower())

    def start(self, execution: ExecutionId, former: Start | None, former_is_last: bool) -> Start | None:  # noqa: FBT001
        """Return where a step starts that is handed over now; None in a notebook that was never seeded.

        A cell that is run again starts where it did before, if nothing has drawn since but itself.
        """
        if not self.seeded:
            return None
        from mlbench.runs.randomness import read_states

        states = read_states()
        own = bool(self._known) and self.moved(states)
        self._before = self._known, self._last, self._continued
        if former is not None and former_is_last and not own:
            begin = Start(former.states, former.after, former.number)
        else:
            begin = Start(states, None if own else self._last, self._number)
            if own:  # what the steps before this one drew is not gone on from any more
                self._continued = self._number
            self._number += 1
        self._known, self._last = states, execution
        return begin

    def take_back(self) -> None:
        """Be as before the last `start`: its step was not handed over."""
        self._known, self._last, self._continued = self._before

    def is_last(self, execution: ExecutionId) -> bool:
        """Say whether no seeded step was handed over after this one."""
        return self._last == execution

    def rename(self, before: ExecutionId, now: ExecutionId) -> None:
        """Follow an execution that took another's place."""
        if self._last == before:
            self._last = now

    def moved(self, states: RandomState | None = None) -> bool:
        """Say whether the kernel itself has drawn or seeded since the last step was handed over or continued."""
        from mlbench.runs.randomness import drew, read_states

        return bool(drew(self._known, states if states is not None else read_states()))

    def go_on(self, start: Start, states: RandomState, record: Execution) -> str | None:
        """Go on from where a step ended; return a sentence if the kernel has drawn meanwhile, and does not."""
        from mlbench.runs.randomness import read_states, restore

        if start.number < self._continued:
            return None
        if self.moved():
            return (
                f"Step {record.step} drew random numbers, and a plain cell below it had drawn some before it "
                "ended: they are not those that the notebook gives from top to bottom. Run that cell again."
            )
        restore(states)
        self._known, self._continued = read_states(), start.number
        return None
