"""What would fail, said before anything is run."""

from __future__ import annotations

from mlbench.core.errors import NotebookError, ParameterError
from mlbench.notebook import document, graph, parameters
from mlbench.notebook.document import Notebook
from mlbench.notebook.graph import CellSource, Problem

__all__ = ["Problem", "check", "refuse"]


def check(nb: Notebook) -> list[Problem]:
    r"""Return what is wrong with a checked notebook's steps and parameters, in the order of its cells.

    A notebook of another language than Python has nothing that could be checked. Whoever runs a notebook without
    steps leaves this out, so that it fails where it always did.

    Examples
    --------
    >>> cells = [{"cell_type": "code", "source": f"%%step a\nx = {n}", "metadata": {}} for n in range(2)]
    >>> check({"metadata": {}, "cells": cells})[0].sentence
    'Cells 1 and 2 are both step a: give one another name.'
    """
    if document.language(nb) not in (None, "python"):
        return []
    cells = document.cells(nb)
    problems = [*graph.build(cells).problems, *_parameters(nb, cells)]
    return sorted(problems, key=lambda problem: (problem.cell, problem.line))


def refuse(nb: Notebook, name: str) -> None:
    """Raise `NotebookError` for the first error that `check` finds; warnings pass.

    Examples
    --------
    >>> refuse({"metadata": {}, "cells": [{"cell_type": "code", "source": "%%step", "metadata": {}}]}, "a.ipynb")
    Traceback (most recent call last):
        ...
    mlbench.core.errors.NotebookError: a.ipynb: Cell 1: A step needs a name: %%step NAME.
    """
    for problem in check(nb):
        if problem.severity == "error":
            raise NotebookError(f"{name}: {problem.sentence}")


def _parameters(nb: Notebook, cells: list[CellSource]) -> list[Problem]:
    tagged = [cell for cell in cells if "parameters" in cell.tags]
    try:
        cell = document.parameters_cell(nb)
        if cell is not None:
            parameters.read(cell.source)
    except NotebookError as error:
        return [Problem(tagged[1].number, 0, "error", str(error), tagged[1].id)]
    except ParameterError:
        return []  # its syntax error is among the graph's problems already
    return []
