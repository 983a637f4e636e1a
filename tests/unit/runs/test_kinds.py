"""Values of every kind that notebooks hold come back as they were, and have a preview that is worth looking at."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from mlbench.backends.memory import MemoryBlobs
from mlbench.core.records import Artifact
from mlbench.runs import previews
from mlbench.runs.artifacts import Loader, save_names
from mlbench.runs.previews import preview
from mlbench.runs.values import encode, pack, seal, unpack


def kept(value: Any) -> tuple[Artifact, Any]:
    blobs = MemoryBlobs()
    (binding,) = save_names({"value": value}, ["value"], blobs)
    assert binding.artifact is not None, binding.problem
    json.dumps(binding.artifact.preview, allow_nan=False)
    return binding.artifact, Loader(blobs).load(binding)


def test_an_array_of_times_shows_its_range() -> None:
    artifact, again = kept(np.array(["2026-01-01", "2026-03-01"], dtype="M8[D]"))
    assert (artifact.preview["min"], artifact.preview["max"]) == ("2026-01-01", "2026-03-01")
    assert again.dtype == "M8[D]"


def test_of_very_many_cells_it_is_said_that_nobody_has_counted_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    import pandas as pd

    monkeypatch.setattr(previews, "_COUNTED", 50)
    assert "not counted" not in preview(np.zeros(50))
    shown = preview(np.zeros(51))
    assert "min" not in shown
    assert shown["not counted"] == "range and missing values, since it has more than 50 values"
    assert "not counted" not in preview(np.zeros(51, "S2"))
    shown = preview(pd.DataFrame(np.zeros((26, 2))))
    assert [one["missing"] for one in shown["columns"]] == [None, None]
    assert shown["not counted"] == "missing values, since it has more than 50 cells"
    assert preview(np.zeros(51, [("a", "f8")]))["not counted"] == "missing values, since it has more than 50 rows"


def test_a_frame_of_polars_has_one_digest_however_it_was_made_and_shows_what_is_missing() -> None:
    pl = pytest.importorskip("polars")
    frame = pl.DataFrame({"delay": [1.5, None, 3.0], "carrier": ["AA", "B6", None], "when": [1, 2, 3]})
    artifact, again = kept(frame)
    assert again.equals(frame)
    assert again.schema == frame.schema
    assert artifact.codec == "arrow"
    assert pack(pl.concat([frame[:1], frame[1:]], rechunk=False)).digest == artifact.digest
    shown = artifact.preview
    assert (shown["kind"], shown["shape"], shown["text"]) == ("frame", [3, 3], "DataFrame, 3 × 3")
    assert [column["missing"] for column in shown["columns"]] == [1, 1, 0]
    assert shown["rows"][0] == ["1.5", "AA", "1"]
    assert preview(frame["delay"])["shape"] == [3, 1]


def test_a_series_of_polars_is_data_with_one_digest_however_it_was_made() -> None:
    pl = pytest.importorskip("polars")
    whole = pl.Series("x", ["a", None, "c"])
    artifact, again = kept(whole)
    assert artifact.codec == "arrow"
    assert again.equals(whole, check_names=True, check_dtypes=True)
    cut = pl.concat([pl.Series("x", ["a", None]), pl.Series("x", ["c"])], rechunk=False)
    assert kept(cut)[0].digest == artifact.digest
    assert kept(whole.to_frame())[0].digest != artifact.digest


def test_a_frame_of_polars_with_objects_is_kept_all_the_same() -> None:
    pl = pytest.importorskip("polars")
    frame = pl.DataFrame({"a": [1, 2]}).lazy()
    _, again = kept(frame)
    assert again.collect().equals(frame.collect())
    series = pl.Series("n", [1, 2, 3])
    assert kept(series)[1].equals(series)


def test_a_table_of_arrow_shows_what_is_missing_and_its_first_rows() -> None:
    pa = pytest.importorskip("pyarrow")
    table = pa.table({"a": [1, None, 3], "b": [["x"], [], None]})
    artifact, again = kept(table)
    assert again.equals(table)
    assert [column["missing"] for column in artifact.preview["columns"]] == [1, 1]
    assert artifact.preview["rows"][0] == ["1", "['x']"]
    batch = table.to_batches()[0]
    assert kept(batch)[1].equals(batch)
    assert preview(batch)["shape"] == [3, 2]
    twice = pa.table([pa.array([1]), pa.array([2])], names=["a", "a"])
    assert preview(twice)["rows"] == [["1", "2"]]


def test_a_large_table_of_arrow_is_not_copied_and_has_the_digest_of_an_equal_one() -> None:
    pa = pytest.importorskip("pyarrow")
    numbers = pa.array(np.arange(1_000_000.0), mask=np.arange(1_000_000) % 7 == 0)
    table = pa.table({"n": numbers, "s": pa.array(["x", None] * 500_000), "b": pa.array([True, None] * 500_000)})
    encoded = encode(table)
    assert not isinstance(encoded.parts[1], bytes | memoryview)
    packed = seal(encoded)
    assert unpack(None, packed.parts).equals(table)
    assert pack(pa.concat_tables([table[:300], table[300:]])).digest == packed.digest


@pytest.mark.parametrize("kind", ["csr_matrix", "csc_array", "coo_array", "dia_array", "lil_matrix", "dok_array"])
def test_a_sparse_matrix_shows_how_full_it_is(kind: str) -> None:
    sparse = pytest.importorskip("scipy.sparse")
    dense = np.zeros((100, 200))
    dense[3, 4], dense[50, 60] = 2.5, -1.0
    value = getattr(sparse, kind)(dense)
    artifact, again = kept(value)
    assert type(again) is type(value)
    np.testing.assert_array_equal(again.toarray(), dense)
    shown = artifact.preview
    assert (shown["kind"], shown["shape"], shown["type"]) == ("array", [100, 200], "float64")
    assert shown["stored"] == 2 or kind == "dia_array"  # it keeps whole diagonals
    if kind in {"csr_matrix", "csc_array", "coo_array"}:
        assert (shown["min"], shown["max"]) == (-1.0, 2.5)


def test_a_large_sparse_matrix_has_its_numbers_out_of_band() -> None:
    sparse = pytest.importorskip("scipy.sparse")
    value = sparse.random(5000, 5000, 0.01, format="csr", random_state=0)
    sizes = [part.nbytes if isinstance(part, memoryview) else len(part) for part in pack(value).parts]
    assert sizes[1] < 2000
    assert sum(sizes) < 1.01 * (value.data.nbytes + value.indices.nbytes + value.indptr.nbytes) + 3000


def test_fitted_estimators_show_what_they_have_learned() -> None:
    pytest.importorskip("sklearn")
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.tree import DecisionTreeClassifier

    rng = np.random.default_rng(0)
    x = rng.random((200, 3))
    y = 2 * x[:, 0] - x[:, 1]
    artifact, again = kept(Ridge(alpha=0.1).fit(x, y))
    np.testing.assert_array_equal(again.predict(x), Ridge(alpha=0.1).fit(x, y).predict(x))
    assert artifact.preview["parameters"]["alpha"] == "0.1"
    assert artifact.preview["learned"]["coef_"].startswith("array([")
    assert artifact.preview["learned"]["n_features_in_"] == "3"
    tree = DecisionTreeClassifier(max_depth=2).fit(x, y > 0.5)
    assert kept(tree)[0].preview["learned"]["depth"] == "2"
    assert "classes_" in preview(LogisticRegression().fit(x, y > 0.5))["learned"]
    forest = RandomForestRegressor(7, random_state=0).fit(x, y)
    learned = kept(forest)[0].preview["learned"]
    assert learned["estimators"] == "7"
    assert learned["importances"].startswith("0 0.")
    assert preview(RandomForestRegressor())["learned"] == {}
    pipeline = make_pipeline(StandardScaler(), Ridge())
    assert "steps" in preview(pipeline)["parameters"]
    assert preview(pipeline)["learned"] == {}
    assert preview(make_pipeline(StandardScaler(), "passthrough").fit(x))["learned"] == {}
    shown = preview(make_pipeline(StandardScaler(), make_pipeline(Ridge())).fit(x, y))
    assert shown["learned"]["last step"] == "ridge, Ridge"
    assert shown["learned"]["coef_"].startswith("array([")
    assert "coef_" in shown["fitted"]


def test_boosted_trees_of_xgboost() -> None:
    xgboost = pytest.importorskip("xgboost")
    rng = np.random.default_rng(0)
    x = rng.random((100, 3))
    model = xgboost.XGBRegressor(n_estimators=5, max_depth=2).fit(x, x[:, 0])
    artifact, again = kept(model)
    np.testing.assert_array_equal(again.predict(x), model.predict(x))
    assert artifact.preview["kind"] == "estimator"
    assert artifact.preview["parameters"]["n_estimators"] == "5"
    booster = model.get_booster()
    shown, again = kept(booster)
    np.testing.assert_array_equal(again.inplace_predict(x), booster.inplace_predict(x))
    assert shown.preview["text"] == "Booster, 5 rounds, 3 features"
    assert shown.preview["parameters"]["objective"] == "'reg:squarederror'"
    assert (shown.preview["parameters"]["max_depth"], shown.preview["parameters"]["eta"]) == ("2", "0.3")
    for kind in ("dart", "gblinear"):
        one = xgboost.train({"booster": kind, "eta": 0.125}, xgboost.DMatrix(x, x[:, 0]), 2)
        assert "eta" in preview(one)["parameters"], kind


def test_boosted_trees_of_lightgbm() -> None:
    lightgbm = pytest.importorskip("lightgbm")
    rng = np.random.default_rng(0)
    x = rng.random((100, 3))
    model = lightgbm.LGBMRegressor(n_estimators=5, verbose=-1).fit(x, x[:, 0])
    artifact, again = kept(model)
    np.testing.assert_array_equal(again.predict(x), model.predict(x))
    assert artifact.preview["parameters"]["n_estimators"] == "5"
    shown, again = kept(model.booster_)
    np.testing.assert_array_equal(again.predict(x), model.booster_.predict(x))
    assert shown.preview["text"] == "Booster, 5 rounds, 3 features"


def test_a_tensor_of_pytorch() -> None:
    torch = pytest.importorskip("torch")
    artifact, again = kept(torch.arange(6.0).reshape(2, 3))
    assert torch.equal(again, torch.arange(6.0).reshape(2, 3))
    shown = artifact.preview
    assert (shown["kind"], shown["shape"], shown["type"], shown["min"], shown["max"]) == (
        "array",
        [2, 3],
        "float32",
        0.0,
        5.0,
    )


def test_a_module_of_pytorch() -> None:
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 1))
    artifact, again = kept(model)
    inputs = torch.ones(2, 3)
    assert torch.equal(again(inputs), model(inputs))
    assert artifact.preview["text"] == "Sequential, 21 parameters, 3 layers"


def test_the_picture_of_a_figure_is_an_object_of_its_own() -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    figure = Figure()
    figure.subplots().plot([1, 2])
    blobs = MemoryBlobs()
    (binding,) = save_names({"figure": figure}, ["figure"], blobs)
    assert binding.artifact is not None
    assert "png" not in binding.artifact.preview
    assert blobs.get(binding.artifact.preview["picture"]).startswith(b"\x89PNG")
    assert len(json.dumps(binding.artifact.preview)) < 300


class Notebook:
    """As a class of a notebook is: known by what it is made of."""

    def __init__(self, rows: list[int]) -> None:
        self.rows = rows


Notebook.__module__ = "__main__"


def test_an_instance_of_a_class_of_the_notebook() -> None:
    _, again = kept(Notebook([1, 2]))
    assert again.rows == [1, 2]


@pytest.mark.parametrize("order", ["C", "F"])
def test_an_array_that_is_scattered_has_the_digest_of_the_same_array_put_together(order: Any) -> None:
    whole = np.arange(3_000_000, dtype="f8").reshape(1000, 3000, order=order)
    scattered = whole[::2, 1::2]
    encoded = encode(scattered)
    assert not isinstance(encoded.parts[1], bytes | memoryview)
    packed = seal(encoded)
    assert packed.digest == pack(np.ascontiguousarray(scattered)).digest
    np.testing.assert_array_equal(unpack(None, packed.parts), scattered)


def test_two_figures_drawn_alike_have_one_digest_and_pickling_leaves_them_as_they_are() -> None:
    figures = pytest.importorskip("matplotlib.figure")

    def drawn() -> tuple[Any, Any]:
        figure = figures.Figure()
        axes = figure.subplots()
        axes.plot([1, 2, 3], [3, 1, 2], label="delay")
        axes.legend()
        figure.canvas.draw()
        return figure, axes

    (figure, axes), others = drawn(), [drawn() for _ in range(3)]
    before = repr(figure._canvas_callbacks._cid_gen)
    assert {pack(figure).digest, pack(figure).digest, *(pack(one).digest for one, _ in others)} == {pack(figure).digest}
    assert {pack(axes).digest, *(pack(one).digest for _, one in others)} == {pack(axes).digest}
    assert repr(figure._canvas_callbacks._cid_gen) == before
    axes.set_title("delays")
    assert pack(figure).digest != pack(others[0][0]).digest
    packed = pack(figure)
    again = unpack(packed.codec, packed.parts)
    again.axes[0].set_xlim(0, 10)  # the transforms below it have to hear of this
    assert again.axes[0].transData.transform((10, 0))[0] == pytest.approx(axes.bbox.x1)
