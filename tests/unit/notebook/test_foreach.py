"""What a fan-out reads and binds."""

from __future__ import annotations

import pytest

from mlbench.notebook.cell import CellNames
from mlbench.notebook.foreach import names_of
from mlbench.notebook.graph import CellSource, build
from mlbench.notebook.step import parse


def names(source: str) -> CellNames:
    step = parse(f"%%step {source}")
    assert step is not None
    return names_of(step.body, step.options)


def test_the_expression_is_read_and_the_item_is_bound_inside_only() -> None:
    found = names("train --foreach c in sorted(carriers)[:limit]\nmodel = fit(flights[c], c)")
    assert found.reads == {"carriers", "limit", "fit", "flights"}
    assert found.builtins == {"sorted"}
    assert found.binds == {"model"}
    assert found.items == {"c"}


def test_a_step_without_foreach_has_the_names_of_its_cell() -> None:
    found = names("load\nrows = read(path)")
    assert (found.reads, found.binds, found.items) == ({"read", "path"}, {"rows"}, frozenset())


def test_each_expression_is_evaluated_among_the_names_of_the_notebook() -> None:
    found = names("train --foreach x in xs --foreach y in range(x)\nz = x + y")
    assert found.reads == {"xs", "x"}, "the second expression's x is not the first one's item"
    assert names("twice --foreach x in x\ny = 2 * x").reads == {"x"}


def test_an_item_that_is_changed_or_deleted_is_none_of_the_notebooks_names() -> None:
    found = names("fill --foreach row in rows\nrow['x'] = 1\ntable.append(row)\ndel row")
    assert found.changes == {"table"}
    assert not found.deletes
    assert not found.binds


def test_an_item_that_the_body_binds_anew_is_a_list_outside() -> None:
    assert names("fit --foreach model in models\nmodel = fit(model)").binds == {"model"}
    perhaps = names("fit --foreach model in models\nif late:\n    model = fit(model)")
    assert (perhaps.binds, perhaps.maybe) == ({"model"}, frozenset()), "it is bound on the other path too"


def test_modules_that_items_import_are_not_bound_outside() -> None:
    found = names("fit --foreach n in range(3)\nimport numpy as np\nx = np.zeros(n)")
    assert found.binds == {"x"}
    assert found.imports == {"np": "numpy"}, "they are part of the key all the same"


def test_a_function_that_reads_an_item_later_does_not_read_it_from_the_notebook() -> None:
    found = names("fit --foreach n in range(3)\ndef use(): return n * factor\nx = use()")
    assert found.late == {"factor"}
    assert found.reads == {"factor"}


def test_what_an_expression_draws_and_names_is_the_steps() -> None:
    found = names("read --foreach p in random.sample(glob('out/*.csv'), 3)\nrows = load(p)")
    assert found.draws == {"random"}
    assert "out/*.csv" in found.names_paths


def test_a_fan_out_that_binds_nothing_is_run_for_its_effects() -> None:
    assert names("send --foreach row in rows\npost(row)").for_effects
    assert not names("send --foreach row in rows\nanswer = post(row)").for_effects


def edges(*sources: str) -> list[tuple[str, str, str]]:
    graph = build([CellSource(f"c{place}", source) for place, source in enumerate(sources, start=1)])
    assert not graph.problems
    return [(edge.parent, edge.child, edge.why) for edge in graph.edges]


def test_a_fan_out_waits_for_the_step_that_makes_its_items() -> None:
    assert edges("%%step load\ncarriers = read()", "%%step train --foreach c in carriers\nmodel = fit(c)") == [
        ("load", "train", "reads carriers")
    ]


def test_a_fan_out_does_not_wait_for_a_step_that_binds_its_items_name() -> None:
    cells = "%%step a\nc = 1", "def show(): return c", "%%step b --foreach c in [1, 2]\nx = show() + c"
    assert edges(*cells) == []


@pytest.mark.parametrize(
    ("written", "read", "meets"),
    [
        ("out/{c}/rows.csv", "'out/rows.csv'", True),
        ("out/{c}.csv", "'out/a.csv'", False),
        ("out/rows.csv", "'out/rows.csv'", True),
    ],
)
def test_a_path_with_an_item_in_it_is_not_that_of_a_name_of_the_notebook(written: str, read: str, meets: bool) -> None:
    cells = (
        "c = 'a'",
        f"%%step write --foreach c in [1, 2]\nframe(c).to_csv(f'{written}')",
        f"%%step read\nrows = load({read})",
    )
    assert bool(edges(*cells)) is meets
