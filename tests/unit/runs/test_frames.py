"""pandas' objects come back as they were, with one digest however they were made."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from pandas.testing import assert_frame_equal, assert_index_equal, assert_series_equal

from mlbench.runs.values import join, pack, split, unpack


def again(value: Any) -> Any:
    packed = pack(value)
    return unpack(packed.codec, split(join(packed.parts)))


EVERYTHING = pd.DataFrame(
    {
        "int": np.array([1, 2, 3], "int8"),
        "float": [1.5, np.nan, -0.0],
        "complex": [1j, 2, 3],
        "bool": [True, False, True],
        "str": ["a", None, "é"],
        "string": pd.array(["a", pd.NA, "b"], dtype="string"),
        "python": pd.array(["a", None, ""], dtype=pd.StringDtype("python", na_value=np.nan)),
        "object": pd.Series(["o", None, "p"], dtype=object),
        "object nan": pd.Series(["o", np.nan, "p"], dtype=object),
        "Int64": pd.array([1, None, 3], dtype="Int64"),
        "Float32": pd.array([1.5, None, 3], dtype="Float32"),
        "boolean": pd.array([True, None, False], dtype="boolean"),
        "category": pd.Categorical(["u", None, "v"], categories=["v", "u", "w"], ordered=True),
        "numbers": pd.Categorical([3, 1, 3]),
        "date": pd.to_datetime(["2024-03-31", None, "2024-10-27"]),
        "zone": pd.to_datetime(["2024-03-31", None, "2024-10-27"]).tz_localize("Europe/Berlin"),
        "utc": pd.to_datetime(["2024-03-31", None, "2024-10-27"], utc=True).as_unit("ns"),
        "span": pd.to_timedelta(["1s", None, "3 days"]),
    }
)


def test_every_simple_column_comes_back_with_its_type() -> None:
    back = again(EVERYTHING)
    assert pack(EVERYTHING).codec == "frame"
    assert_frame_equal(back, EVERYTHING)
    assert list(back.dtypes) == list(EVERYTHING.dtypes)
    assert back["object"][1] is None
    assert np.isnan(back["object nan"][1])


@pytest.mark.parametrize("column", EVERYTHING.columns)
def test_a_column_has_one_digest_however_it_was_made(column: str) -> None:
    series = EVERYTHING[column]
    backwards = series.iloc[::-1].iloc[::-1]
    longer = pd.concat([series, series]).iloc[3:]
    longer.index = series.index
    parts = pd.concat([series.iloc[:1], series.iloc[1:]])
    assert {pack(one).digest for one in (series, series.copy(), backwards, longer, parts, again(series))} == {
        pack(series).digest
    }


def test_what_lies_under_a_missing_value_does_not_show() -> None:
    one = pd.arrays.IntegerArray(np.array([1, 77]), np.array([False, True]))
    other = pd.arrays.IntegerArray(np.array([1, 99]), np.array([False, True]))
    assert pack(pd.Series(one)).digest == pack(pd.Series(other)).digest


def test_how_columns_are_grouped_in_memory_does_not_show() -> None:
    together = pd.DataFrame(np.arange(6.0).reshape(3, 2), columns=["a", "b"])
    apart = pd.DataFrame({"a": together["a"].copy()})
    apart["b"] = together["b"].copy()
    assert pack(together).digest == pack(apart).digest


def test_a_changed_value_name_or_order_is_another_digest() -> None:
    frame = EVERYTHING[["int", "str"]]
    changed = frame.assign(int=[1, 2, 4])
    others = [
        changed,
        frame.rename(columns={"int": "n"}),
        frame[["str", "int"]],
        frame.iloc[::-1],
        frame.astype({"int": "int16"}),
    ]
    assert len({pack(one).digest for one in (frame, *others)}) == 6


INDEXES = [
    pd.RangeIndex(2, 20, 3, name="n"),
    pd.Index([3, 1, 2]),
    pd.Index(["a", "b", None], name=("two", 1)),
    pd.Index(["a", "b"], dtype=object),
    pd.Index([1.5, np.nan]),
    pd.Index([], dtype="int64"),
    pd.date_range("2024-03-30", periods=3, freq="D", tz="Europe/Berlin"),
    pd.date_range("2024-01-31", periods=3, freq="ME"),
    pd.timedelta_range("1h", periods=3, freq="30min"),
    pd.CategoricalIndex(["x", "y", "x"]),
    pd.MultiIndex.from_product([["a", "b"], [1, 2]], names=["letter", None]),
]


@pytest.mark.parametrize("index", INDEXES, ids=lambda index: type(index).__name__)
def test_indexes_come_back_alone_and_as_part_of_a_frame(index: pd.Index) -> None:
    assert pack(index).codec == "frame"
    assert_index_equal(again(index), index, exact=True)
    assert getattr(again(index), "freq", None) == getattr(index, "freq", None)
    frame = pd.DataFrame({"x": np.arange(len(index))}, index=index)
    assert_frame_equal(again(frame), frame, check_freq=True)
    assert_frame_equal(again(frame.T), frame.T)


def test_columns_of_one_name_an_empty_frame_and_many_columns_come_back() -> None:
    twice = pd.DataFrame([[1, "a"]], columns=["x", "x"])
    assert_frame_equal(again(twice), twice)
    for empty in (pd.DataFrame(), pd.DataFrame(index=[1, 2]), pd.DataFrame(columns=["a"])):
        assert_frame_equal(again(empty), empty)
    wide = pd.DataFrame(np.arange(1200.0).reshape(2, 600))
    assert_frame_equal(again(wide), wide)


def test_a_loaded_frame_can_be_changed() -> None:
    back = again(EVERYTHING)
    back.loc[0, "float"] = 9.0
    back["new"] = back["int"] + 1
    back["str"] = back["str"].str.upper()
    assert back.loc[0, "float"] == 9.0


@pytest.mark.parametrize(
    "odd",
    [
        pd.DataFrame({"mixed": [1, "a", {}]}),
        pd.Series(["a", None, np.nan], dtype=object),
        pd.Series(pd.arrays.IntervalArray.from_breaks([0, 1, 2])),
        pd.Series(pd.arrays.SparseArray([0, 0, 1])),
        pd.Series(pd.period_range("2024", periods=2, freq="M")),
        pd.Series(["lone \ud800"], dtype=object),
        pd.DataFrame({1.5: [1]}, columns=pd.Index([1.5], name=1.5)),
    ],
    ids=["objects", "two kinds of missing", "intervals", "sparse", "periods", "surrogate", "odd name"],
)
def test_what_the_codec_does_not_know_is_pickled(odd: Any) -> None:
    assert pack(odd).codec == "pickle"
    same = assert_frame_equal if isinstance(odd, pd.DataFrame) else assert_series_equal
    same(again(odd), odd)


def test_attributes_flags_and_subclasses_are_kept() -> None:
    frame = pd.DataFrame({"a": [1]})
    frame.attrs["unit"] = "m"
    assert again(frame).attrs == {"unit": "m"}
    assert not again(frame.set_flags(allows_duplicate_labels=False)).flags.allows_duplicate_labels


columns = st.one_of(
    st_numpy.arrays(st.sampled_from(["int64", "float32", "bool", "M8[us]", "m8[ns]", "complex128"]), 5),
    st.lists(st.none() | st.text(st.characters(codec="utf-8"), max_size=6), min_size=5, max_size=5).map(
        lambda texts: pd.Series(texts, dtype="str")
    ),
    st.lists(st.none() | st.integers(-100, 100), min_size=5, max_size=5).map(
        lambda them: pd.array(them, dtype="Int64")
    ),
)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text(max_size=4), columns, max_size=4))
def test_frames_come_back_equal_and_under_the_same_digest(data: dict[str, Any]) -> None:
    frame = pd.DataFrame(data, index=pd.RangeIndex(5))
    back = again(frame)
    assert_frame_equal(back, frame)
    assert pack(back).digest == pack(frame).digest
