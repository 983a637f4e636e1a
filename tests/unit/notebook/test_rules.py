"""What is likely to fail, told before anything is run."""

from __future__ import annotations

import pytest

from mlbench.notebook.diagnostics import foresee
from mlbench.notebook.graph import Problem

LOAD = "%load_ext mlbench"


def problems(*sources: str, tags: dict[int, list[str]] | None = None) -> list[Problem]:
    """Return what is foreseen for a notebook whose first cell loads mlbench."""
    cells = [
        {"cell_type": "code", "source": source, "metadata": {"tags": (tags or {}).get(number, [])}}
        for number, source in enumerate((LOAD, *sources), 1)
    ]
    return foresee({"metadata": {}, "cells": cells})


def said(*sources: str) -> list[str]:
    return [problem.sentence for problem in problems(*sources)]


@pytest.mark.parametrize(
    ("cells", "sentence"),
    [
        (
            ("%%step fit\nm = train(rows)",),
            "Cell 2: step fit reads rows, which no cell above binds: bind it in a cell above, or correct the name.",
        ),
        (
            ("def train(r): ...\nrows = 1", "x = train(row)"),
            "Cell 3: it reads row, which no cell above binds: did you mean rows?",
        ),
        (
            ("%%step fit\nm = len(rows)", "rows = [1]"),
            "Cell 2: step fit reads rows, which no cell above binds, only cell 3 below: move that one up.",
        ),
        (
            ("%%step fit\nn = n + 1",),
            (
                "Cell 2: step fit reads n, before it binds it, and no cell above does: "
                "give it a first value in a cell above."
            ),
        ),
        (
            ("scale = 1\ndef use(): return rate", "%%step fit\nx = use()"),
            "Cell 3: step fit reads rate, which no cell above binds: bind it in a cell above, or correct the name.",
        ),
        (
            ("%%step a --foreach n in [1]\nimport math\ny = math.sqrt(n)", "math.pi"),
            "Cell 3: it reads math, which only the items of cell 2 import: import it in a plain cell.",
        ),
        (
            ("x = 1\ndel x", "print(x)"),
            "Cell 3: it reads x, which no cell above binds: bind it in a cell above, or correct the name.",
        ),
    ],
)
def test_a_name_that_nobody_binds_is_told_once_with_its_cell(cells: tuple[str, ...], sentence: str) -> None:
    assert sentence in said(*cells)
    names = [
        one
        for one in said(*cells)
        if one.split(" reads ")[1].split(",")[0] == sentence.split(" reads ")[1].split(",", maxsplit=1)[0]
    ]
    assert len(names) == 1


@pytest.mark.parametrize(
    "cells",
    [
        ("rows = [1]", "%%step fit --foreach r in rows\nm = r", "print(m)"),
        ("from helpers import *", "print(rows)"),
        ("%run setup.py", "print(rows)"),
        ("exec(text)", "print(rows)"),
        ("%%sql result << select 1", "print(result)"),
        ("files = !ls", "print(files, _, In)"),
        ("mlbench.log(x=1)", "display(get_ipython())"),
        ("def late(): return later", "later = 1", "late()"),
        ("if ready := True:\n    rows = 1\nprint(rows)",),
        ("try:\n    import fast as impl\nexcept ImportError:\n    impl = None", "print(impl)"),
    ],
)
def test_names_that_may_be_bound_are_not_doubted(cells: tuple[str, ...]) -> None:
    assert not said("text = 'x = 1'", *cells)


def test_the_cell_of_a_problem_and_its_line_are_told() -> None:
    (problem,) = problems("x = 1\ny = 2\nprint(zz)")
    assert (problem.cell, problem.line, problem.severity, problem.cell_id) == (2, 3, "error", "cell-2")


def test_a_name_that_the_cell_itself_binds_later_is_only_a_warning() -> None:
    assert [problem.severity for problem in problems("n = n + 1", "print(m)")] == ["warning", "error"]


def test_parameters_without_a_value_are_bound_by_the_run() -> None:
    assert not problems("day: str\nn: int = 3", "print(day, n)", tags={2: ["parameters"]})


@pytest.mark.parametrize(
    ("made", "what"),
    [
        ("log = open('a.txt')", "an open file (cell 2), which can't be sent to a step. Open it inside the step."),
        ("import threading as t\nlog = t.Lock()", "a lock (cell 2), which can't be sent to a step."),
        ("from threading import RLock\nlog = RLock()", "a lock (cell 2)"),
        ("import sqlite3\nlog = sqlite3.connect('a.db')", "a connection (cell 2)"),
        ("log = (n for n in [1])", "a generator (cell 2), which can't be sent to a step. Make a list of it first"),
        ("def many():\n    yield 1\nlog = many()", "a generator (cell 2)"),
        ("import subprocess\nlog: object = subprocess.Popen(['ls'])", "a process (cell 2)"),
    ],
)
def test_a_value_that_cannot_be_sent_is_told_where_a_step_reads_it(made: str, what: str) -> None:
    (sentence,) = said(made, "%%step a\nx = list(log)")
    assert sentence.startswith(f"Cell 3: step a reads log, {what}")


def test_a_value_that_a_helper_of_a_step_reads_is_told_too() -> None:
    (sentence,) = said("import threading\nlock = threading.Lock()\ndef use(): return lock", "%%step a\nx = use()")
    assert sentence.startswith("Cell 3: step a reads lock, a lock (cell 2)")


def test_a_value_that_a_step_makes_and_cannot_be_stored_is_told_where_it_is_read() -> None:
    (sentence,) = said("%%step a\nrows = (n for n in [1])", "print(rows)")
    assert sentence == (
        "Cell 3: it reads rows, a generator of step a, which can't be stored. Make it where it is used."
    )


@pytest.mark.parametrize(
    "cells",
    [
        ("log = open('a.txt')", "print(log)"),
        ("log = open('a.txt')", "log = log.read()", "%%step a\nx = log"),
        ("def open(path): return path\nlog = open('a')", "%%step a\nx = log"),
        ("%%step a\nlog = open('a.txt')\nx = log.read()",),
        ("import contextlib\n@contextlib.contextmanager\ndef many():\n    yield\nlog = many()", "%%step a\nx = 1"),
        ("rows = sorted(n for n in [1])", "%%step a\nx = rows"),
    ],
)
def test_values_that_travel_or_stay_are_not_doubted(cells: tuple[str, ...]) -> None:
    assert not said(*cells)


def test_a_step_above_the_line_that_loads_mlbench_is_told() -> None:
    cells = [{"cell_type": "code", "source": source, "metadata": {}} for source in ("%%step a\nx = 1", LOAD)]
    (problem,) = foresee({"metadata": {}, "cells": cells})
    assert problem.sentence.startswith("Cell 1: step a stands before `%load_ext mlbench`")


def test_steps_that_would_wait_for_each_other_are_told_as_a_loop() -> None:
    (sentence,) = said("%%step a --after c\nx = 1", "%%step b\ny = x", "%%step c\nz = y")
    assert sentence == "Cell 2: --after c: steps would wait for each other, a -> c -> b -> a: leave that out."


def test_what_is_wrong_for_sure_is_told_too_in_the_order_of_the_cells() -> None:
    found = problems("print(nothing)", "%%step a --timout 3m\nx = 1", "%%step b\nx = 1", "%%step b\nx = 1")
    assert [problem.cell for problem in found] == [2, 3, 5]


def test_a_notebook_of_another_language_has_nothing_to_foresee() -> None:
    cell = {"cell_type": "code", "source": "x <- y", "metadata": {}}
    assert foresee({"metadata": {"kernelspec": {"language": "R"}}, "cells": [cell]}) == []
