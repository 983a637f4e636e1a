"""What would fail, said before anything is run."""

from __future__ import annotations

from mlbench.notebook.document import Notebook
from mlbench.notebook.graph import Problem

__all__ = ["Problem", "check"]


def check(nb: Notebook) -> list[Problem]:
    """Return what is wrong with a notebook's steps, in the order of its cells; `error`s stop `run` and `schedule`."""
    raise NotImplementedError(nb)
