"""How failures look in a cell: a step's error as the step saw it, and a cell that was not run."""

from __future__ import annotations

from typing import Any

from IPython.core.error import InputRejected

from mlbench.core.records import Failure

__all__ = ["CellNotRun", "StepError", "shown_failure"]


class CellNotRun(InputRejected):
    """A cell that was asked for before a step failed, and would have started after."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


class StepError(Exception):
    """A step's error, raised in its own cell; its class bears the name of the error that the step met."""

    lines: tuple[str, ...] = ()

    def _render_traceback_(self) -> list[str]:
        return list(self.lines) or [f"{type(self).__name__}: {self}"]


def shown_failure(failure: Failure, step: str, hint: str | None = None) -> Any:
    """Return an exception that is shown as the step's own error: its traceback, with the user's lines, and what next.

    Examples
    --------
    >>> type(shown_failure(Failure(ename="KeyError", evalue="'x'"), "load")).__name__
    'KeyError'
    """
    remedy = hint or failure.remedy or f"To look into it: %%step {step} --here, then %debug"
    lines = (*(failure.traceback or (f"{failure.ename}: {failure.evalue}",)), "", remedy)
    kind = type(failure.ename, (StepError,), {"lines": lines, "__module__": "builtins"})
    return kind(failure.evalue)
