"""`%%step`, `%steps` and `%cancel`: what a notebook's user types."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from IPython.core.magic import Magics, cell_magic, line_magic, magics_class, no_var_expand

from mlbench.core.errors import UsageError
from mlbench.entrypoints.kernel.session import Session
from mlbench.notebook.step import not_first, usage

if TYPE_CHECKING:
    from mlbench.entrypoints.kernel.overview import Overview

__all__ = ["StepMagics"]


@magics_class
class StepMagics(Magics):
    """The magics of one session."""

    def __init__(self, shell: Any, session: Session) -> None:
        super().__init__(shell)
        self.session = session
        type(self).step.__doc__ = usage()  # what `%%step?` shows

    @no_var_expand  # `{x}` and `$x` of its expressions are Python's, as where the line is read without a kernel
    @cell_magic
    def step(self, line: str, cell: str) -> None:
        """Run the cell as a step: `%%step NAME [options]`."""
        self.session.submit(line, cell)

    @line_magic("%step")  # type: ignore[arg-type]  # IPython's annotation knows no name
    def step_below(self, line: str) -> None:
        """Refuse a `%%step` that is not its cell's first line, which IPython takes for a line magic."""
        raise not_first(line)

    @line_magic
    def steps(self, line: str) -> Overview:
        """Show the steps of this notebook so far: states, items, times, whom each waits for and why."""
        if line.strip():
            raise UsageError("%steps takes nothing: it shows all steps.")
        return self.session.steps()

    @line_magic
    def cancel(self, line: str) -> None:
        """Cancel a step, or all that are under way: `%cancel [STEP]`."""
        words = line.split()
        if len(words) > 1:
            raise UsageError("%cancel takes one step's name, or nothing.")
        self.session.cancel(words[0] if words else None)
