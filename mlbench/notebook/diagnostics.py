"""What would fail, said before anything is run."""

from __future__ import annotations

from mlbench.core.errors import NotebookError
from mlbench.notebook import document, graph, rules
from mlbench.notebook.document import Notebook
from mlbench.notebook.graph import CellSource, Problem

__all__ = ["Problem", "check", "foresee", "refuse", "told"]


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
    problems = [*graph.build(cells).problems, *_parameters(cells)]
    return sorted(problems, key=lambda problem: (problem.cell, problem.line))


def foresee(nb: Notebook) -> list[Problem]:
    r"""Return what is wrong with a checked notebook, and what is likely to fail when it is run from top to bottom.

    Examples
    --------
    >>> cells = [{"cell_type": "code", "source": "%load_ext mlbench\nlog = open('a.txt')", "metadata": {}}]
    >>> cells += [{"cell_type": "code", "source": "%%step a\nprint(1, file=log)", "metadata": {}}]
    >>> foresee({"metadata": {}, "cells": cells})[0].sentence
    "Cell 2: step a reads log, an open file (cell 1), which can't be sent to a step. Open it inside the step."
    """
    if document.language(nb) not in (None, "python"):
        return []
    cells = document.cells(nb)
    built, followed = graph.follow(cells)
    problems = [*built.problems, *_parameters(cells)]
    for rule in (
        rules.steps_before_mlbench,
        rules.uncompilable_cells,
        rules.unbound_names,
        rules.unsendable_values,
    ):
        problems += rule(followed)
    problems += rules.unknown_outputs(built.steps)
    return sorted(problems, key=lambda problem: (problem.cell, problem.line))


def refuse(nb: Notebook, name: str) -> None:
    """Raise `NotebookError` for the first error that `check` finds; warnings pass.

    Examples
    --------
    >>> refuse({"metadata": {}, "cells": [{"cell_type": "code", "source": "%%step", "metadata": {}}]}, "a.ipynb")
    Traceback (most recent call last):
        ...
    mlbench.core.errors.NotebookError: a.ipynb: cell 1: A step needs a name: %%step NAME.
    """
    for problem in check(nb):
        if problem.severity == "error":
            raise NotebookError(told(problem, name))


def told(problem: Problem, name: str) -> str:
    """Return the sentence of a problem, which names its cell, after the notebook's name.

    Examples
    --------
    >>> told(Problem(3, 1, "error", "Cell 3: A step needs a name: %%step NAME.", "c3"), "a.ipynb")
    'a.ipynb: cell 3: A step needs a name: %%step NAME.'
    """
    return f"{name}: {problem.sentence[0].lower()}{problem.sentence[1:]}"


def _parameters(cells: list[CellSource]) -> list[Problem]:
    tagged = [cell for cell in cells if "parameters" in cell.tags]
    if len(tagged) < 2:
        return []
    one, two = tagged[:2]
    sentence = f"Cells {one.number} and {two.number} are both tagged parameters: take the tag off all but one."
    return [Problem(two.number, 0, "error", sentence, two.id)]
