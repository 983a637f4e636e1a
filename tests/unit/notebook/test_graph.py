"""The graph of a notebook's steps."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from mlbench.notebook.graph import CellSource, StepGraph, build


def graph(*sources: str) -> StepGraph:
    return build([CellSource(f"c{place}", source) for place, source in enumerate(sources, start=1)])


@dataclass(frozen=True)
class Case:
    """Cells, and the edges expected: `"load > train"`."""

    title: str
    cells: tuple[str, ...]
    edges: set[str] = field(default_factory=set)


LOAD = "%%step load\nrows = read()"
CASES = [
    Case("a step reads what a step binds", (LOAD, "%%step fit\nm = train(rows)"), {"load > fit: reads rows"}),
    Case(
        "two names of one step are one edge", ("%%step a\nx = y = 1", "%%step b\nz = x + y"), {"a > b: reads x and y"}
    ),
    Case("independent steps", (LOAD, "%%step other\nx = 1")),
    Case("a step does not wait for those below", ("%%step b\nm = rows", LOAD)),
    Case("a plain cell between binds the name anew", (LOAD, "rows = []", "%%step fit\nm = rows")),
    Case(
        "a plain cell between passes on what it read",
        (LOAD, "head = rows[:5]", "%%step fit\nm = head"),
        {"load > fit: reads head, which comes from it through a plain cell"},
    ),
    Case(
        "a plain cell between changes the value",
        (LOAD, "rows.append(1)", "%%step fit\nm = rows"),
        {"load > fit: reads rows"},
    ),
    Case(
        "a plain cell that binds perhaps",
        (LOAD, "if t:\n    rows = 1", "%%step fit\nm = rows"),
        {"load > fit: reads rows"},
    ),
    Case("a plain cell deletes the name", (LOAD, "del rows", "%%step fit\nm = rows")),
    Case(
        "a change in place is a new version",
        (LOAD, "%%step clean\nrows['x'] = 1", "%%step fit\nm = rows"),
        {"load > clean: reads rows", "clean > fit: reads rows"},
    ),
    Case(
        "readers of the older version do not wait for the change",
        (LOAD, "%%step a\nx = rows", "%%step b\nrows.sort()", "%%step c\ny = x"),
        {"load > a: reads rows", "load > b: reads rows", "a > c: reads x"},
    ),
    Case(
        "a step that binds perhaps leaves the former one in play",
        (LOAD, "%%step maybe\nif t:\n    rows = 1", "%%step fit\nm = rows"),
        {"load > fit: reads rows", "maybe > fit: reads rows"},
    ),
    Case("a step deletes a name", (LOAD, "%%step drop\ndel rows", "%%step fit\nm = rows"), {"load > drop: reads rows"}),
    Case(
        "a plain function that reads a step's name",
        ("def fit(x):\n    return x * scale", "%%step s\nscale = 2", "%%step fit1\nm = fit(1)"),
        {"s > fit1: reads scale"},
    ),
    Case(
        "a function of a function",
        (
            "def inner():\n    return scale",
            "def outer():\n    return inner()",
            "%%step s\nscale = 2",
            "%%step a\nm = outer()",
        ),
        {"s > a: reads scale"},
    ),
    Case(
        "a function that is called before the cell binds its global",
        ("def fit():\n    return scale", "%%step s\nscale = 2", "%%step a\nm = fit()\nscale = 3"),
        {"s > a: reads scale"},
    ),
    Case(
        "a function bound anew no longer counts",
        ("def f():\n    return x", "%%step s\nx = 1", "f = 3", "%%step a\nm = f"),
    ),
    Case(
        "a function of a step",
        ("%%step make\ndef f():\n    return x", "%%step s\nx = 1", "%%step a\nm = f()"),
        {"make > a: reads f", "s > a: reads x"},
    ),
    Case(
        "a method of a plain class",
        ("class M:\n    def go(self):\n        return x", "%%step s\nx = 1", "%%step a\nm = M().go()"),
        {"s > a: reads x"},
    ),
    Case("a builtin's name that a step binds", ("%%step a\nmax = 3", "%%step b\nm = max"), {"a > b: reads max"}),
    Case(
        "a step for its effects waits for all above",
        (LOAD, "%%step check\nassert rows", "%%step other\nx = 1", "%%step publish\nsend()"),
        {
            "load > check: reads rows",
            "check > publish: is run for its effects, after the steps above it",
            "other > publish: is run for its effects, after the steps above it",
        },
    ),
    Case(
        "loop variables are no results",
        (LOAD, "%%step send\nfor i in range(3):\n    send(i)"),
        {"load > send: is run for its effects, after the steps above it"},
    ),
    Case("effects with --after none", (LOAD, "%%step publish --after none\nsend()")),
    Case(
        "effects with --after NAME",
        (LOAD, "%%step other\nx = 1", "%%step publish --after load\nsend()"),
        {"load > publish: is to run after load"},
    ),
    Case("--after beside a name", (LOAD, "%%step b --after load\ny = rows"), {"load > b: reads rows"}),
    Case(
        "a file written and named later",
        ("%%step w\ndf = 1\nx.to_parquet('clean.parquet')", "%%step r\ny = pd.read_parquet('./clean.parquet')"),
        {"w > r: names ./clean.parquet, which w writes"},
    ),
    Case(
        "a file whose path is a name of a plain cell",
        ("OUT = 'clean.parquet'", "%%step w\ny = df.to_parquet(OUT)", "%%step r\nz = pd.read_parquet(OUT)"),
        {"w > r: names clean.parquet, which w writes"},
    ),
    Case(
        "a file written by a function",
        ("def save(df):\n    df.to_csv('o.csv')", "%%step w\ny = 1\nsave(y)", "%%step r\nz = pd.read_csv('o.csv')"),
        {"w > r: names o.csv, which w writes"},
    ),
    Case("another file", ("%%step w\ny = 1\ndf.to_csv('a.csv')", "%%step r\nz = pd.read_csv('b.csv')")),
    Case(
        "a file that a plain cell reads in between",
        ("%%step w\ny = 1\ndf.to_csv('a.csv')", "back = pd.read_csv('a.csv')", "%%step r\nz = back"),
        {"w > r: reads back, which comes from it through a plain cell"},
    ),
    Case("a module is not changed", ("import conf", "%%step a\nconf.x = 1\ny = 1", "%%step b\nz = conf.x")),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_the_edges_where(case: Case) -> None:
    found = graph(*case.cells)
    assert {f"{edge.parent} > {edge.child}: {edge.why}" for edge in found.edges} == case.edges
    assert found.problems == ()


def test_a_step_knows_its_cell_and_what_it_takes_from_the_kernel() -> None:
    found = graph("trees = 5\nimport pandas as pd", LOAD, "%%step fit --timeout 5s\nm = pd.f(rows, trees, len(trees))")
    fit = found.steps[1]
    assert (fit.name, fit.cell, fit.number, fit.position) == ("fit", "c3", 3, 1)
    assert fit.captured == ("pd", "trees")
    assert fit.options.timeout == 5
    assert fit.body.startswith("m = ")
    assert found.parents("fit") == ("load",)
    assert found.children("load") == ("fit",)


def test_numbers_of_cells_are_kept() -> None:
    found = build([CellSource("a", "%%step x\ny = 1", (), 7)])
    assert found.steps[0].number == 7


@pytest.mark.parametrize(
    ("cells", "where", "says"),
    [
        (("%%step a\nx = 1", "%%step a\ny = 1"), (2, 1), "Cells 1 and 2 are both step a: give one another name."),
        (
            ("%%step Train\nx = 1", "%%step train\ny = 1"),
            (2, 1),
            "The steps Train (cell 1) and train (cell 2) differ only in case or Unicode form: give one another name.",
        ),
        (("x = 1", "%%step a\ny = 1\nz = ("), (2, 3), "Cell 2, line 3: '(' was never closed."),
        (("x = )",), (1, 1), "Cell 1, line 1: unmatched ')'."),
        (("%%step",), (1, 1), "Cell 1: A step needs a name: %%step NAME."),
        (("%%step a --timout 1m",), (1, 1), "Cell 1: Unknown option --timout: did you mean --timeout?"),
        (
            ("%%step load\nx = 1", "%%step b --after laod\ny = 1"),
            (2, 1),
            "Cell 2: --after laod: there is no such step above step b: did you mean load?",
        ),
        (
            ("%%step b --after zzz\ny = 1", "%%step zzz\nx = 1"),
            (1, 1),
            "Cell 1: --after zzz: there is no such step above step b: name a step of a cell above it.",
        ),
        (
            ("%%step a\nfrom math import *",),
            (1, 0),
            (
                "Cell 1: step a imports * from math, so what it binds cannot be known. "
                "Name what it needs, or import * in a plain cell."
            ),
        ),
    ],
)
def test_problems_name_cell_and_line(cells: tuple[str, ...], where: tuple[int, int], says: str) -> None:
    (problem,) = graph(*cells).problems
    assert (problem.cell, problem.line) == where
    assert problem.sentence == says
    assert problem.severity == "error"
    assert problem.cell_id == f"c{where[0]}"


def test_names_that_differ_in_unicode_form_only_are_one() -> None:
    (problem,) = graph("%%step \u00e9t\u00e9\nx = 1", "%%step e\u0301te\u0301\ny = 1").problems
    assert "both step" in problem.sentence


def test_a_syntax_error_that_is_expected_is_no_problem() -> None:
    assert build([CellSource("a", "x = (", ("raises-exception",))]).problems == ()


@pytest.mark.parametrize("source", ["# a note\n%%step a\nx = 1", "%%time\n%%step a\nx = 1"])
def test_a_step_below_the_first_line_is_refused(source: str) -> None:
    (problem,) = graph(source).problems
    assert problem.sentence == "Cell 1: %%step must be its first line."


def test_a_star_import_in_a_plain_cell_is_fine() -> None:
    assert graph("from math import *", "%%step a\nx = pi").problems == ()


def test_a_hundred_steps_take_well_under_a_second() -> None:
    cells = [f"%%step s{i}\nx{i} = f(x{i - 1})" if i % 2 else f"%%step s{i}\nsend(x{i - 1})" for i in range(100)]
    assert len(graph(*cells).steps) == 100
