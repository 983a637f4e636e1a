"""The picture of a fan-out: cells, numbers, and what is read without colours."""

from __future__ import annotations

import json
import time
from typing import Any

import nbformat
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlbench.core.ids import ExecutionId
from mlbench.core.messages import Spread
from mlbench.core.records import FanOut, Json
from mlbench.runs.picture import MIME, MOST_CELLS, Grid, display_id, picture
from mlbench.runs.transcript import Transcript

EXECUTION = ExecutionId("e" * 26)


def draw(shape: tuple[int, ...] = (4,), states: str = "", values: tuple[float, ...] = (), **more: Any) -> Json:
    grid = Grid(shape)
    for number, letter in enumerate(states):
        grid.move(number, ord("q"), ord(letter))
    for number, value in enumerate(values):
        grid.set_value(number, value)
    total = 1
    for size in shape:
        total *= size
    words = {"r": "running", "s": "succeeded", "u": "reused", "f": "failed", "c": "cancelled"}
    counts = {word: states.count(letter) for letter, word in words.items()}
    names = more.pop("names", ("carrier", "alpha")[: len(shape)])
    labels = tuple(tuple(f"{name}{place}" for place in range(size)) for name, size in zip(names, shape, strict=True))
    fanout = FanOut(
        names=names,
        shape=shape,
        total=total,
        metric="rmse" if values else None,
        slowest=more.pop("slow", None),
        slowest_seconds=0.412 if "slowest" in more else None,
        **counts,
    )
    spread = Spread(shape=shape, labels=labels)
    return picture(execution=EXECUTION, step="train", fanout=fanout, grid=grid, spread=spread, **more)


def facts(message: Json) -> Json:
    found: Json = message["data"][MIME]
    return found


def test_it_says_how_far_a_fan_out_is() -> None:
    message = draw((4,), "sfrq", slow=1, slowest="UA", rate=2.0, failed=[(1, "UA", "ValueError: no rows")])
    found = facts(message)
    assert found["counts"] == {"running": 1, "succeeded": 1, "reused": 0, "failed": 1, "cancelled": 0}
    assert (found["total"], found["rate"], found["left"], found["states"]) == (4, 2.0, 1.0, "sfrq")
    assert found["slowest"] == {"item": 1, "label": "UA", "seconds": 0.412}
    assert found["failed"] == [[1, "UA", "ValueError: no rows"]]
    text = message["data"]["text/plain"]
    assert text.startswith("train: 2 of 4 · 1 running · 1 failed · 2 a second · about 1.0 s left · slowest UA 412 ms\n")
    assert "✗ UA: ValueError: no rows" in text


def test_it_is_one_display_that_is_updated_and_the_saved_notebook_has_the_last() -> None:
    transcript = Transcript()
    transcript.add(draw((2,), "sq"))
    transcript.add(draw((2,), "ss", again=True))
    (output,) = transcript.outputs()
    assert output["data"][MIME]["states"] == "ss"
    assert draw()["transient"] == {"display_id": display_id(EXECUTION)} == {"display_id": f"mlbench-{EXECUTION}"}
    kept = {name: part for name, part in output.items() if name != "transient"}
    cell = {"cell_type": "code", "id": "a", "metadata": {}, "execution_count": 1, "source": "", "outputs": [kept]}
    nbformat.validate({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [cell]})


def test_everything_in_it_is_json() -> None:
    assert json.loads(json.dumps(draw((2, 3), "sfurcq", (1.0, float("nan"), float("inf"), 2.0)), allow_nan=False))


def test_names_and_errors_are_never_live_html() -> None:
    evil = "<script>alert(1)</script>"
    message = draw((2,), "fs", (1.0,), slow=0, slowest=evil, names=(evil,), failed=[(0, evil, f"{evil}: {evil}")])
    assert "<script" not in message["data"]["text/html"]


def test_long_values_and_errors_are_cut() -> None:
    long = "x" * 5_000
    message = draw((2,), "fs", slow=0, slowest=long, failed=[(0, long, f"ValueError: {long}")])
    assert len(facts(message)["slowest"]["label"]) == 60
    assert [len(text) for text in facts(message)["failed"][0][1:]] == [60, 300]
    assert long not in message["data"]["text/plain"] + message["data"]["text/html"]


def test_html_says_the_same_without_colours_and_has_no_script_or_picture() -> None:
    html = draw((2, 3), "sssfqq", (1.0, 2.0, 3.0), failed=[(3, "b, 0", "ValueError: x")])["data"]["text/html"]
    assert "3 × 2" not in html
    assert "▁▄█" in html.replace("▅", "▄")
    assert "✗" in html
    assert "rmse from 1 (▁) to 3 (█): carrier down, alpha across" in html
    for tag in ("<script", "<img", "<svg", "<style", "onclick"):
        assert tag not in html


def test_a_finished_bar_is_full_and_an_unfinished_one_is_not() -> None:
    def bar(message: Json) -> str:
        return str(message["data"]["text/plain"].splitlines()[1])

    assert "░" not in bar(draw((3,), "sfs"))
    assert len(bar(draw((3,), "sfs"))) == 40
    assert "░" in bar(draw((7,), "ssssssq"))
    assert len(bar(draw((7,), "sfucrsq"))) == 40


def test_before_the_items_are_known_it_says_so() -> None:
    message = picture(execution=EXECUTION, step="train", fanout=FanOut(names=("x",)), grid=Grid(()), spread=None)
    assert facts(message)["total"] is None
    assert message["data"]["text/plain"] == "train: its items are being found"


def test_no_items_are_a_picture_too() -> None:
    message = draw((0,))
    assert facts(message)["states"] == ""
    assert message["data"]["text/plain"] == "train: 0 items"


# --- cells -----------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(shape=st.lists(st.integers(1, 17), min_size=1, max_size=3), most=st.integers(1, 90))
def test_each_item_is_in_one_cell_and_cells_are_few_and_of_one_row(shape: list[int], most: int) -> None:
    grid = Grid(shape, most)
    total = 1
    for size in shape:
        total *= size
    cells = [grid.cell(number) for number in range(total)]
    assert cells == sorted(cells)
    assert set(cells) == set(range(grid.rows * grid.columns))
    assert grid.rows * grid.columns <= most
    assert all(cells.count(cell) <= grid.per_cell for cell in list(dict.fromkeys(cells))[:20])
    if len(shape) > 1 and shape[0] <= most:
        width = total // shape[0]
        assert all(cells[row * width] % grid.columns == 0 for row in range(shape[0]))
    if total <= most:
        assert cells == list(range(total))


def test_a_cell_of_several_items_shows_the_mean_and_what_most_wants_to_be_seen() -> None:
    grid = Grid((10,), most=5)
    assert (grid.rows, grid.columns, grid.per_cell) == (1, 5, 2)
    for number, letter in enumerate("sssfsr"):
        grid.move(number, ord("q"), ord(letter))
    grid.set_value(0, 1.0)
    grid.set_value(1, 2.0)
    grid.set_value(2, 5.0)
    assert grid.states() == "sfrqq"
    assert grid.values() == [1.5, 5.0, None, None, None]
    grid.set_value(1, 4.0)
    assert grid.values()[0] == 2.5


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1.7e308, -1.7e308])
def test_a_metric_beyond_all_measure_leaves_its_cell_empty_and_the_picture_is_drawn(value: float) -> None:
    message = draw((4,), "ssss", (1.0, value, 1.7e308, -1.7e308))
    assert facts(message)["values"] == [1.0, None, None, None]
    assert "rmse from 1 (▁) to 1 (█)" in message["data"]["text/html"]
    assert facts(draw((1, 8192), values=(1e308,) * 4))["values"][0] is None


def test_rows_and_columns_are_those_of_the_names() -> None:
    grid = Grid((200, 100))
    assert (grid.rows, grid.columns, grid.per_cell) == (200, 20, 5)
    assert grid.rows * grid.columns <= MOST_CELLS


@pytest.mark.parametrize("shape", [(100_000,), (1_000, 100)])
def test_a_picture_of_very_many_items_is_small_and_quickly_drawn(shape: tuple[int, ...]) -> None:
    grid = Grid(shape)
    for number in range(100_000):
        grid.move(number, ord("q"), ord("s"))
        grid.set_value(number, number / 7)
    fanout = FanOut(names=("a", "b")[: len(shape)], shape=shape, total=100_000, succeeded=100_000, metric="rmse")
    spread = Spread(shape=shape, labels=tuple(tuple(str(n) for n in range(size)) for size in shape))
    times = []
    for _ in range(5):
        begun = time.process_time()
        message = picture(execution=EXECUTION, step="train", fanout=fanout, grid=grid, spread=spread)
        times.append(time.process_time() - begun)
    assert min(times) < 0.1
    assert len(json.dumps(message)) < 100_000
