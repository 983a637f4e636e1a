"""Previews show enough to recognise a value by, and never fail."""

from __future__ import annotations

import base64
import json
import tracemalloc
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlbench.core.ids import Digest
from mlbench.core.records import Artifact
from mlbench.runs import previews
from mlbench.runs.previews import preview, preview_list
from mlbench.runs.values import type_name


def test_a_frame_shows_its_shape_columns_types_what_is_missing_and_first_rows() -> None:
    frame = pd.DataFrame(
        {"delay": [1.5, np.nan] * 50, "carrier": ["AA", "B6"] * 50}, index=pd.Index(range(100), name="i")
    )
    found = preview(frame)
    assert found["kind"] == "frame"
    assert found["text"] == "DataFrame, 100 × 2"
    assert found["shape"] == [100, 2]
    assert found["columns"] == [
        {"name": "delay", "type": "float64", "missing": 50},
        {"name": "carrier", "type": "str", "missing": 0},
    ]
    assert len(found["rows"]) == 10
    assert found["rows"][0] == ["1.5", "AA"]


def test_a_series_shows_as_a_frame_of_one_column() -> None:
    found = preview(pd.Series([1, 2], name="n"))
    assert (found["kind"], found["shape"], found["text"]) == ("frame", [2], "Series, 2")


def test_an_array_shows_its_shape_type_and_range() -> None:
    found = preview(np.array([[1.0, np.nan], [-2.5, 4.0]], dtype="float32"))
    assert (found["shape"], found["type"], found["min"], found["max"], found["missing"]) == (
        [2, 2],
        "float32",
        -2.5,
        4.0,
        1,
    )
    assert preview(np.array([np.inf, 1.0]))["max"] == "inf"
    assert preview(np.array([np.nan]))["min"] is None
    assert "min" not in preview(np.array([], dtype=float))
    assert preview(np.array(["a"]))["type"] == "<U1"


def test_an_estimator_shows_its_class_and_parameters() -> None:
    from sklearn.linear_model import LinearRegression, Ridge

    found = preview(Ridge(alpha=0.5))
    assert found["kind"] == "estimator"
    assert found["class"].endswith(".Ridge")
    assert found["parameters"]["alpha"] == "0.5"
    assert found["fitted"] == []
    assert "coef_" in preview(LinearRegression().fit([[1.0], [2.0]], [1.0, 2.0]))["fitted"]


def test_a_figure_shows_as_a_small_picture_and_is_left_as_it_was() -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(20, 10), dpi=300)
    figure.subplots().plot([1, 2])
    canvas = figure.canvas
    found = preview(figure)
    picture = base64.b64decode(found["png"])
    assert picture.startswith(b"\x89PNG")
    assert int.from_bytes(picture[16:20]) <= 500
    assert (figure.dpi, figure.canvas) == (300, canvas)


def test_text_is_cut() -> None:
    assert len(preview("x" * 10_000)["text"]) == 2000
    assert len(preview(list(range(1_000_000)))["text"]) < 2000
    assert preview(list(range(1_000_000)))["length"] == 1_000_000
    assert len(preview({str(n): "y" * 1000 for n in range(1000)})["text"]) <= 2000


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_bytes_are_not_written_out_to_show_the_first_of_them(kind: Any) -> None:
    value = kind(20_000_000)
    tracemalloc.start()
    try:
        shown = preview([value])["text"], preview(value)["text"]
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    assert all(len(text) < 500 for text in shown)


def test_a_figure_whose_picture_is_large_is_drawn_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    monkeypatch.setattr(previews, "_FIGURE_BYTES", 30_000)
    figure = Figure(figsize=(6, 6))
    figure.subplots().imshow(np.random.default_rng(0).random((300, 300, 3)))
    picture = base64.b64decode(preview(figure)["png"])
    assert len(picture) <= 30_000
    assert 50 < int.from_bytes(picture[16:20]) < 480
    assert figure.dpi == 100


def test_times_show_their_range_without_those_that_are_none() -> None:
    found = preview(np.array(["2026-01-02", "NaT", "2026-03-04"], "M8[D]"))
    assert (found["min"], found["max"], found["missing"]) == ("2026-01-02", "2026-03-04", 1)
    assert preview(np.array(["NaT"], "m8[s]"))["min"] == "NaT"


class Odd:
    def __repr__(self) -> str:
        raise RuntimeError("no")

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


class Claims:
    """Has an estimator's methods, which do not work."""

    def fit(self) -> None: ...

    def get_params(self, *, deep: bool) -> Any:
        raise TypeError


WITHIN = [
    Odd(),
    Claims(),
    [Odd()],
    pd.DataFrame({"a": [Odd()]}),
    pd.DataFrame(),
    pd.DataFrame([[1, 2]], columns=["x", "x"]),
    pd.DataFrame({("a", 1): [1]}),
    np.array([{}], dtype=object),
    np.array(1),
    type(Odd()),
    len,
    json,
    "\ud800",
    b"\xff",
    float("nan"),
    None,
]


@pytest.mark.parametrize("value", WITHIN, ids=lambda value: type(value).__name__)
def test_whatever_the_value_there_is_a_preview_that_json_can_carry(value: Any) -> None:
    found = preview(value)
    assert found["kind"] in {"frame", "array", "estimator", "figure", "module", "text"}
    assert isinstance(found["text"], str)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def shown(*values: Any) -> dict[str, Any]:
    items = [
        None
        if value is None
        else Artifact(digest=Digest(""), size=1, type=type_name(value), codec="", preview=preview(value))
        for value in values
    ]
    found = preview_list(items)
    json.dumps(found, allow_nan=False)
    return found


def test_a_list_of_numbers_shows_how_many_their_type_range_and_how_many_are_missing() -> None:
    found = shown(*(number / 2 for number in range(20)), None)
    assert found["kind"] == "list"
    assert found["text"] == "list of 21: float, 0 to 9.5, 1 without a value"
    assert (found["length"], found["failed"], found["types"]) == (21, 1, [["float", 20]])
    assert (found["min"], found["max"]) == (0, 9.5)
    assert found["first"][:3] == ["0.0", "0.5", "1.0"]
    assert len(found["first"]) == 10


def test_a_list_of_numpys_numbers_shows_its_range_without_what_is_none() -> None:
    found = shown(np.float64(0.5), np.float64(-2), np.float64("nan"), np.float64("inf"))
    assert found["text"] == "list of 4: numpy.float64, -2 to 0.5"
    assert shown(7, 10**3000)["text"] == "list of 2: int, 7 to 7"


def test_a_list_of_other_things_shows_their_types() -> None:
    assert shown(True, "3", [1])["text"] == "list of 3: bool, str, list"
    assert shown(*({"n": 1} for _ in range(2000)), "x")["text"] == "list of 2,001: dict, str"
    assert shown()["text"] == "list of 0"
    assert shown(None, None)["text"] == "list of 2: 2 without a value"
    assert shown(1, 1.0, "a", b"")["text"] == "list of 4: int, float, str, …"
