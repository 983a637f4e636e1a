"""What counts as a change of a value: its cells, types and labels, not what libraries keep in it for themselves."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.sparse as sp
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.neighbors import KNeighborsClassifier

from mlbench.backends.cluster_dask.process.fingerprints import Values

ROWS = 60


def frame() -> pd.DataFrame:
    """Return a frame of many types, whose columns lie together only in part."""
    made = pd.DataFrame(
        {
            "n": np.arange(ROWS),
            "x": np.arange(ROWS) * 0.5,
            "text": ["a", "b"] * (ROWS // 2),
            "object": pd.Series([("a", 1), None] * (ROWS // 2), dtype=object),
            "day": pd.date_range("2020", periods=ROWS),
            "zone": pd.date_range("2020", periods=ROWS, tz="UTC"),
            "kind": pd.Categorical(["u", "v"] * (ROWS // 2)),
            "maybe": pd.array([1, None] * (ROWS // 2), dtype="Int64"),
            "month": pd.period_range("2020", periods=ROWS),
            "span": pd.interval_range(0, ROWS),
        }
    )
    made["more"] = 1
    made["later"] = pd.date_range("2021", periods=ROWS)
    return made


def stored() -> pd.DataFrame:
    loaded: pd.DataFrame = pickle.loads(pickle.dumps(frame(), protocol=5))
    return loaded


def indexed() -> pd.Series[Any]:
    return pd.Series(np.arange(ROWS), index=pd.MultiIndex.from_product([range(ROWS // 2), ["a", "b"]]), name="s")


def sparse() -> Any:
    """Return a matrix whose indices are not in order, one of them twice."""
    return sp.csr_matrix((np.array([1.0, 2.0, 3.0, 4.0]), np.array([2, 1, 1, 1]), np.array([0, 2, 3, 4])))


def learnt(kind: Any) -> Any:
    features = np.random.default_rng(0).normal(size=(ROWS, 2))
    return kind.fit(features, features[:, 0] > 0)


def arrow() -> Any:
    return pa.chunked_array([pa.array([1, 2, None, 4]).slice(1), pa.array([None, 1])])


def figure() -> Any:
    from matplotlib.figure import Figure

    made = Figure()
    made.subplots().plot([1, 2])
    made.savefig(io.BytesIO())
    return made


class Study:
    def __init__(self) -> None:
        self.rows = [1, 2]

    @cached_property
    def total(self) -> list[int]:
        return [sum(self.rows)]


class Holder:
    rows = 1

    @cached_property
    def stream(self) -> Any:
        return io.StringIO().getvalue

    @cached_property
    def texts(self) -> list[str]:
        return [f"{n:0100}" for n in range(60_000)]


READINGS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "filter by a time": (frame, lambda df: df[df["zone"] > df["zone"].iloc[3]]),
    "parts of a time": (frame, lambda df: (df["day"].dt.year, df["zone"].dt.hour, df["later"].dt.month)),
    "filter": (stored, lambda df: df[df["n"] > 3]),
    "values": (frame, lambda df: df.values),
    "put together": (frame, lambda df: df._consolidate_inplace()),
    "put together again": (stored, lambda df: df._consolidate_inplace()),
    "describe": (frame, lambda df: df.describe()),
    "group": (frame, lambda df: df.groupby(["text", "kind"], observed=True)["x"].mean()),
    "merge": (frame, lambda df: df.merge(df, on="text")),
    "rows": (frame, lambda df: [*df.iterrows()]),
    "page": (frame, lambda df: (repr(df), df._repr_html_(), df.T, df.isna(), df.nunique())),
    "reindex": (frame, lambda df: (df.reindex([1, 2]), df.sort_values("x"), df.set_index("day").loc["2020-01-05"])),
    "accessors": (frame, lambda df: (df.plot, df["text"].str.upper(), df["kind"].cat.codes, df["span"].array.mid)),
    "arrow": (frame, lambda df: pa.Table.from_pandas(df.drop(columns=["span", "object"]))),
    "series": (indexed, lambda s: (s.loc[(1, "a")], s.unstack(), s.index.is_unique, s.sort_index(), s.index.levels)),
    "times": (
        lambda: pd.date_range("2020", periods=5, tz="UTC"),
        lambda index: (index.year, index.get_loc(index[2]), index.get_indexer(index[:2]), index.inferred_freq),
    ),
    "sparse": (sparse, lambda m: (m.has_sorted_indices, m.has_canonical_format)),
    "sparse, put in order": (sparse, lambda m: (m.max(), m.sum_duplicates(), m.sort_indices())),
    "entries": (lambda: sparse().tocoo(), lambda m: (m.max(), m.sum(), m.tocsr(), m.sum_duplicates())),
    "model": (lambda: learnt(HistGradientBoostingClassifier()), lambda m: (m.predict([[0, 1]]), m._repr_html_())),
    "neighbours": (lambda: learnt(KNeighborsClassifier()), lambda m: m.predict([[0, 1], [2, 1]])),
    "arrow's array": (arrow, lambda a: (a.null_count, a.chunk(0).null_count, a.to_pandas())),
    "figure": (figure, lambda figure: (repr(figure), figure.savefig(io.BytesIO()))),
    "cached property": (Study, lambda study: study.total),
    "array": (lambda: np.arange(9).reshape(3, 3), lambda a: (a.T.copy(), a.sum(), a[1:].base)),
}


@pytest.mark.parametrize("case", READINGS)
def test_reading_changes_nothing(case: str, tmp_path: Path) -> None:
    make, use = READINGS[case]
    value = make()
    before = Values({"value": value, "held": {"deep": [value]}}, store=str(tmp_path))
    use(value)
    assert before.changed() == ()


def _cell(df: pd.DataFrame) -> None:
    df.loc[3, "x"] = -1.0


def _column(df: pd.DataFrame) -> None:
    df["new"] = 1


def _retype(df: pd.DataFrame) -> None:
    df["n"] = df["n"].astype("int32")


def _category(df: pd.DataFrame) -> None:
    df["kind"] = df["kind"].cat.rename_categories({"u": "w"})


def _order(study: Study) -> None:
    study.rows.append(1)


def _large(df: pd.DataFrame) -> None:
    df["large"] = [bytes(2 << 20) + bytes([n]) for n in range(ROWS)]


CHANGES: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "a cell": (frame, _cell),
    "a cell of what was stored": (stored, _cell),
    "an object": (frame, lambda df: df.__setitem__("object", [*df["object"][:-1], "b"])),
    "a time": (frame, lambda df: df.__setitem__("zone", df["zone"] + pd.Timedelta("1us"))),
    "the zone": (frame, lambda df: df.__setitem__("zone", df["zone"].dt.tz_convert("CET"))),
    "a column": (frame, _column),
    "a column that is too large": (frame, _large),
    "the place of columns": (frame, lambda df: df.insert(0, "x", df.pop("x"))),
    "a column less": (frame, lambda df: df.drop(columns="n", inplace=True)),
    "the type of a column": (frame, _retype),
    "a category": (frame, _category),
    "a value that is missing": (frame, lambda df: df.__setitem__("maybe", df["maybe"].fillna(0))),
    "the order of rows": (frame, lambda df: df.sort_values("x", ascending=False, inplace=True)),
    "rows, with no sign in the index": (
        frame,
        lambda df: df.sort_values("x", ascending=False, inplace=True, ignore_index=True),
    ),
    "the name of a column": (frame, lambda df: df.rename(columns={"x": "y"}, inplace=True)),
    "the name of the index": (frame, lambda df: setattr(df.index, "name", "row")),
    "the index": (frame, lambda df: setattr(df, "index", df.index + 1)),
    "attributes": (frame, lambda df: df.attrs.update(source="here")),
    "an item of a series": (indexed, lambda s: s.__setitem__((1, "a"), -1)),
    "the name of a series": (indexed, lambda s: setattr(s, "name", "t")),
    "an item": (lambda: np.zeros(3), lambda a: a.__setitem__(0, 1)),
    "the shape": (lambda: np.zeros((2, 3)), lambda a: a.resize((3, 2))),
    "an entry": (sparse, lambda m: m.data.__setitem__(0, 9.0)),
    "a place": (sparse, lambda m: m.indices.__setitem__(0, 0)),
    "a model": (
        lambda: learnt(HistGradientBoostingClassifier()),
        lambda m: m.fit([[0, 1], [1, 0], [3, 1]], [True, False, True]),
    ),
    "neighbours": (lambda: learnt(KNeighborsClassifier()), lambda m: m.fit([[0, 1]] * 9, [True] * 9)),
    "a setting of a model": (lambda: learnt(KNeighborsClassifier()), lambda m: m.set_params(n_neighbors=2)),
    "a title": (figure, lambda figure: figure.axes[0].set_title("t")),
    "what a property is made from": (Study, _order),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_change_of_a_value_is_seen(case: str, tmp_path: Path) -> None:
    make, change = CHANGES[case]
    value = make()
    before = Values({"value": value, "held": {"deep": [value]}}, store=str(tmp_path))
    change(value)
    assert before.changed() == ("value", "held")


def test_a_change_of_what_an_object_had_cached_is_seen_and_forgetting_it_is_none(tmp_path: Path) -> None:
    study = Study()
    study.total.append(0)
    before = Values({"study": study, "list": [study, study]}, store=str(tmp_path))
    study.total.append(1)
    assert before.changed() == ("study", "list")
    del study.total
    assert before.changed() == ()


def test_an_objects_own_value_before_a_method_is_its_own(tmp_path: Path) -> None:
    study = Study()
    before = Values({"study": study}, store=str(tmp_path))
    study.__dict__["_order"] = 1
    assert before.changed() == ("study",)


def test_what_is_cached_may_be_too_large_or_have_no_pickle(tmp_path: Path) -> None:
    holder = Holder()
    assert holder.stream
    assert holder.texts
    before = Values({"holder": holder}, store=str(tmp_path))
    assert before.changed() == ()
    holder.rows = 2
    assert before.changed() == ("holder",)
