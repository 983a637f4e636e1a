"""Orders of steps that no name shows: run for effects, files written and named, `--after`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, Final

from mlbench.core.errors import UsageError
from mlbench.core.ids import ExecutionId
from mlbench.core.messages import StepOptions
from mlbench.core.records import Json
from mlbench.entrypoints.kernel.pending import is_placeholder
from mlbench.entrypoints.kernel.submission import Track
from mlbench.notebook.cell import CellNames

__all__ = ["Order"]

_FOR_EFFECTS: Final = (
    "the step is run for its effects, so it waits for the steps above it; `%%step {step} --after none` does not"
)


class Order:
    """The steps of one kernel in the order in which they were first run.

    Parameters
    ----------
    namespace
        The notebook's: names in paths are looked up in it.
    """

    def __init__(self, namespace: dict[str, Any]) -> None:
        self._namespace = namespace
        self._places: dict[str, int] = {}
        self._by_cell: dict[str, Track] = {}
        self._writers: dict[str, Track] = {}
        self._reasons: dict[str, dict[ExecutionId, str]] = {}
        self.steps: dict[str, Track] = {}

    def add(self, track: Track, reasons: Mapping[ExecutionId, str]) -> Track | None:
        """Take in a step's newest execution; return that of another cell whose name it takes.

        `reasons` says why it waits for each of its parents.
        """
        self._reasons[track.step] = dict(reasons)
        self._places.setdefault(track.step, self.place(track.step))
        former = self.steps.get(track.step)
        self.steps[track.step] = track
        if track.cell:
            self._by_cell[track.cell] = track
        for path in self._resolved(track.names.writes_paths):
            self._writers[path] = track
        return former if former is not None and former.cell and track.cell and former.cell != track.cell else None

    def reasons(self, step: str) -> Mapping[ExecutionId, str]:
        """Return the parents of a step's newest execution, each with why it waits for it."""
        return self._reasons.get(step, {})

    def place(self, step: str) -> int:
        """Return a step's place in the order in which steps were first run, from 0; the next one for a new step."""
        return self._places.get(step, max(self._places.values(), default=-1) + 1)

    def former(self, step: str, cell: str | None) -> Track | None:
        """Return the last execution of a cell, or of a step of this name."""
        if cell is not None and cell in self._by_cell:
            return self._by_cell[cell]
        return self.steps.get(step)

    def parents(self, step: str, names: CellNames, options: StepOptions) -> dict[ExecutionId, str]:
        """Return the executions that a step waits for though it reads none of their names, each with why.

        Raises
        ------
        UsageError
            If `--after` names a step that has not been run.
        """
        waits: dict[ExecutionId, str] = {}
        if options.after is not None:
            for after in options.after:
                found = self.steps.get(after)
                if found is None:
                    raise UsageError(
                        f"--after names {after}, and no step of that name has been run.",
                        f"Steps so far: {', '.join(self.steps) or 'none'}.",
                    )
                waits[found.execution] = "--after names it"
        elif names.for_effects:
            place = self.place(step)
            for one in self.steps.values():
                if self._places[one.step] < place:
                    waits[one.execution] = _FOR_EFFECTS.format(step=step)
        for path, writer in self.writers_of(names.names_paths):
            # One below has been waited for when it has ended, whatever became of it: of two steps that write one file
            # neither could run again after a failure, since each would be skipped for the other.
            over = writer.ended and self._places.get(writer.step, -1) > self.place(step)
            if writer.step != step and not over:
                waits.setdefault(writer.execution, f"it names {path}, which {writer.step} writes")
        return waits

    def vacate(self, cell: str | None, step: str, request: Json) -> None:
        """Forget the step that a cell was, if it is another one now: that takes its place in the order.

        A cell that makes several steps in one request is each of them.
        """
        held = self._by_cell.get(cell) if cell is not None else None
        if held is None or held.step == step or held.parent == request or self.steps.get(held.step) is not held:
            return
        del self.steps[held.step]
        del self._reasons[held.step]
        self._places.setdefault(step, self._places.pop(held.step))
        self._writers = {path: track for path, track in self._writers.items() if track is not held}

    def writes_under_way(self) -> bool:
        """Say whether a step that writes files is under way."""
        return any(not track.ended for track in self._writers.values())

    def writers_of(self, paths: Iterable[str]) -> list[tuple[str, Track]]:
        """Return the steps that write paths that a cell names, with the path."""
        from mlbench.notebook.evidence import paths_meet

        named = self._resolved(paths) if self._writers else set()
        return [
            (written, track)
            for written, track in self._writers.items()
            if any(paths_meet(written, one) for one in named)
        ]

    def _resolved(self, paths: Iterable[str]) -> set[str]:
        """Return paths with what the kernel knows filled in; those that stay unknown are left out."""
        from mlbench.notebook.evidence import resolve_text

        texts = (
            {
                name: os.fspath(value)
                for name, value in self._namespace.items()
                if not is_placeholder(value) and isinstance(value, (str, os.PathLike))
            }
            if any("{" in one for one in paths)
            else {}
        )
        resolved = (resolve_text(path, texts) for path in paths)
        return {path for path in resolved if path is not None}
