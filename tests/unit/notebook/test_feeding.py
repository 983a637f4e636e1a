"""Which plain cells feed a step, and which cells are no longer what ran."""

from __future__ import annotations

import pytest

from mlbench.notebook.feeding import feeding_cells, is_edited
from mlbench.notebook.graph import CellSource, build


def feeds(**cells: str) -> dict[str, tuple[str, ...]]:
    given = [CellSource(name, source) for name, source in cells.items()]
    return feeding_cells(given, build(given))


def test_a_step_is_fed_by_the_cells_that_bind_what_it_takes() -> None:
    assert feeds(a="rate = 2", b="other = 3", c="%%step s\nx = rate") == {"c": ("a",)}


def test_a_step_is_fed_by_what_its_functions_read_later() -> None:
    assert feeds(a="def f():\n    return rate", b="rate = 2", c="%%step s\nx = f()") == {"c": ("a", "b")}


def test_a_cell_that_only_changes_a_name_feeds_too_and_one_that_is_overwritten_does_not() -> None:
    assert feeds(a="rows = [9]", b="rows = []", c="rows.append(1)", d="%%step s\nx = rows") == {"d": ("b", "c")}


def test_what_a_step_binds_comes_from_no_plain_cell() -> None:
    found = feeds(a="rows = []", b="%%step one\nrows = [1]", c="%%step two\nx = rows")
    assert found == {"b": (), "c": ()}


def test_cells_that_are_no_python_feed_nothing() -> None:
    assert feeds(a="rate = (", b="%%step s\nx = 1", c="%%step\nrate = 1", d="%%step t\ny = rate") == {"b": (), "d": ()}


@pytest.mark.parametrize(
    ("source", "ran", "edited"),
    [
        ("x = 1", "x=1  # one", False),
        ("x = 1", "x = 2", True),
        ("x = (", "x = (", False),
        ("x = (", "x = 1", True),
        ("%%step s --retries 2 --cpu 1\nx = 1", "%%step s\nx = 1", False),
        ("%%step s --foreach a in b\nx = a", "%%step s --foreach a in c\nx = a", True),
        ("%%step t\nx = 1", "%%step s\nx = 1", True),
        ("%%step s\nx = 1", "x = 1", False),
        ("%%step s\nx = 1", "x = 2", True),
        ("x = 1", "%%step s\nx = 1", True),
        ("%%step s --nonsense\nx = 1", "%%step s\nx = 1", True),
    ],
)
def test_comments_layout_and_resources_are_no_edit(source: str, ran: str, edited: bool) -> None:
    assert is_edited(source, ran) is edited


def test_a_cell_that_is_nested_too_deeply_for_python_is_compared_as_it_stands() -> None:
    deep = f"{'-' * 50_000}1"
    assert not is_edited(f"%%step a\n{deep}", f"%%step a\n{deep}")
    assert is_edited(deep, f"{deep}0")
