"""How failures look in a cell: a step's error as the step saw it, and a cell that was not run."""

from __future__ import annotations

import traceback
from typing import Any

from IPython.core.error import InputRejected

from mlbench.core.records import Failure
from mlbench.runs.endings import failure_lines

__all__ = ["CellNotRun", "StepError", "shown_failure", "shown_syntax_error"]


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
    lines = tuple(failure_lines(failure, step, hint))
    kind = type(failure.ename, (StepError,), {"lines": lines, "__module__": "builtins"})
    return kind(failure.evalue)


def shown_syntax_error(error: SyntaxError, step: str) -> Any:
    r"""Return an exception that is shown as a syntax error is, its line counted in the cell as it is written.

    Examples
    --------
    >>> error = SyntaxError("expected ':'", ("cell", 2, 5, "if x"))
    >>> print("\n".join(shown_syntax_error(error, "load").lines[:2]))
      File "step load", line 3
        if x
    """
    placed = SyntaxError(error.msg, (f"step {step}", (error.lineno or 0) + 1, error.offset, error.text))
    lines = "".join(traceback.format_exception_only(placed)).splitlines()
    return type("SyntaxError", (StepError,), {"lines": tuple(lines), "__module__": "builtins"})(str(error.msg))
