"""The graph: the steps of a notebook, and who waits for whom and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mlbench.core.messages import StepOptions
from mlbench.notebook.cell import CellNames

__all__ = ["CellSource", "Edge", "Problem", "Step", "StepGraph", "build"]


@dataclass(frozen=True, slots=True)
class CellSource:
    """A code cell: `number` is its place among all cells of the notebook, from 1."""

    id: str
    source: str
    tags: tuple[str, ...] = ()
    number: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """`child` waits for `parent`; `why` is a sentence's end for people (`"it reads flights"`).

    `kind` is `name` (it reads `names`), `cell` (through a plain cell that read them), `effects` (it is run for its
    effects), `path` (it names a file that the parent writes) or `after` (`--after`).
    """

    parent: str
    child: str
    kind: Literal["name", "cell", "effects", "path", "after"]
    why: str
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Problem:
    """What would fail, and where: `line` counts from 1 in the cell, 0 for the cell as a whole."""

    cell: int
    line: int
    severity: Literal["error", "warning"]
    sentence: str
    cell_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A step of the graph: `captured` are the names that it takes from the kernel."""

    name: str
    cell: str
    number: int
    position: int
    options: StepOptions
    names: CellNames
    captured: tuple[str, ...] = ()
    line: str = ""
    body: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepGraph:
    """Steps in the order of their cells, edges, and what is wrong."""

    steps: tuple[Step, ...] = ()
    edges: tuple[Edge, ...] = ()
    problems: tuple[Problem, ...] = ()

    def parents(self, step: str) -> tuple[str, ...]:
        """Return the steps that a step waits for itself, in the order of their cells."""
        raise NotImplementedError(step)

    def children(self, step: str) -> tuple[str, ...]:
        """Return the steps that wait for a step itself, in the order of their cells."""
        raise NotImplementedError(step)


def build(cells: Sequence[CellSource]) -> StepGraph:
    """Return the graph of a notebook's code cells, given in order. Never raises: what is wrong is a problem."""
    raise NotImplementedError(cells)
