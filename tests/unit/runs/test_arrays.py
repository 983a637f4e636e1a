"""Structured arrays are data: they come back as they were, with one digest however they were made."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_dtypes, array_shapes, arrays, nested_dtypes

from mlbench.backends.memory import MemoryBlobs
from mlbench.core.errors import ArtifactCorrupt
from mlbench.runs import arrays as codec
from mlbench.runs.artifacts import Loader, save_names
from mlbench.runs.previews import preview
from mlbench.runs.values import Encoded, pack, seal, unpack

POINT = np.dtype([("x", "<f8"), ("y", "<i4", (2,)), ("name", "S5"), ("when", "M8[s]"), ("in", [("a", "?")])])


def again(value: Any) -> Any:
    packed = pack(value)
    return unpack(packed.codec, [bytes(part) for part in packed.parts])


STRUCTURES = st.one_of(array_dtypes(allow_subarrays=True), nested_dtypes(array_dtypes(), max_leaves=6))


@given(STRUCTURES.flatmap(lambda dtype: arrays(dtype, array_shapes(max_dims=2, max_side=4))))
def test_a_structured_array_comes_back_as_it_was(array: np.ndarray) -> None:
    if array.dtype.hasobject or pack(array).codec == "pickle":  # texts of no length, and titles
        return
    found = again(array)
    assert (found.dtype, found.shape, found.tobytes()) == (array.dtype, array.shape, array.tobytes())
    assert pack(found).digest == pack(array).digest
    found[...] = array  # it can be written to


@pytest.mark.parametrize("align", [False, True])
def test_what_lies_between_fields_is_not_stored_and_changes_no_digest(align: bool) -> None:
    dtype = np.dtype(
        {"names": ["a", "b"], "formats": ["u1", [("c", "<i4")]], "offsets": [0, 8], "itemsize": 16}, align=align
    )
    digests, seen = set(), []
    for filling in (0, 255):
        array = np.frombuffer(bytearray([filling]) * 16 * 5, dtype=dtype)
        array["a"], array["b"]["c"] = range(5), range(5)
        digests.add(pack(array).digest)
        seen.append(again(array))
    assert len(digests) == 1
    assert seen[0].dtype == dtype
    assert seen[0].dtype.isalignedstruct == align
    assert seen[1].tobytes().count(b"\xff") == 0
    assert seen[1]["a"].tolist() == list(range(5))


def test_a_large_structured_array_with_gaps_is_put_together_piece_by_piece() -> None:
    dtype = np.dtype({"names": ["a"], "formats": ["<i4"], "offsets": [2], "itemsize": 8})
    array = np.frombuffer(bytearray(b"\x07") * 8 * (1 << 20), dtype=dtype)
    array["a"] = np.arange(1 << 20)
    (_, [_, stream]) = codec.encode(array)
    assert not isinstance(stream, bytes | memoryview)
    small = codec.encode(array[:100])[1][1]
    assert stream.read(0, 800) == small
    assert bytes(stream.read(3, 10)) == bytes(small[3:13])
    np.testing.assert_array_equal(again(array)["a"], array["a"])


def test_arrays_of_records_and_single_ones_keep_their_class() -> None:
    records = np.rec.array([(1, 2.5), (3, 4.5)], dtype=[("a", "<i4"), ("b", "<f8")])
    found = again(records)
    assert type(found) is np.recarray
    assert found.b.tolist() == [2.5, 4.5]
    assert pack(records).codec == "ndarray"
    for one in (records[0], np.array(records)[1], np.zeros(3, POINT)[0]):
        assert pack(one).codec == "scalar"
        found = again(one)
        assert (type(found), found.dtype, repr(found)) == (type(one), one.dtype, repr(one))


def test_a_structured_array_is_loaded_whoever_has_stored_it() -> None:
    blobs = MemoryBlobs()
    (binding,) = save_names({"points": np.zeros(3, POINT)}, ["points"], blobs)
    assert binding.artifact is not None
    assert binding.artifact.codec == "ndarray"
    assert Loader(blobs, accepts=lambda _: False).load(binding).dtype == POINT


@pytest.mark.parametrize(
    "value",
    [
        np.array([(1, [])], dtype=[("a", "i4"), ("b", "O")]),
        np.zeros(2, dtype=[(("a title", "a"), "i4")]),
        np.zeros(2, dtype=np.dtype([("a", "i4")], metadata={"unit": "m"})),
        np.ma.masked_array([1, 2], mask=[True, False]),
    ],
)
def test_what_its_fields_do_not_say_is_pickled(value: Any) -> None:
    assert pack(value).codec == "pickle"
    assert again(value).dtype == value.dtype


def test_a_structured_array_that_was_pickled_before_is_loaded_as_it_was() -> None:
    from mlbench.runs import pickles

    array = np.zeros(3, POINT)
    old = seal(Encoded("pickle", "numpy.ndarray", tuple(pickles.dump(array))))
    assert unpack(old.codec, old.parts).dtype == POINT


@pytest.mark.parametrize("dtype", ["|O", {"names": ["a"], "formats": ["|O"], "offsets": [0], "size": 8}])
def test_an_array_of_data_never_holds_objects_whatever_its_header_says(dtype: Any) -> None:
    about = dtype if isinstance(dtype, str) else {**dtype, "aligned": False, "records": False}
    header = json.dumps({"dtype": about, "order": "C", "shape": [1]}).encode()
    packed = seal(Encoded("ndarray", "numpy.ndarray", (header, bytes(8))))
    with pytest.raises(ArtifactCorrupt, match="holds objects"):
        unpack(packed.codec, packed.parts)


def test_a_structured_array_is_shown_as_the_table_that_it_is() -> None:
    points = np.zeros(20, POINT)
    points["x"][3] = np.nan
    shown = preview(points)
    assert (shown["kind"], shown["shape"]) == ("frame", [20, 5])
    assert shown["columns"][0] == {"name": "x", "type": "float64", "missing": 1}
    assert len(shown["rows"]) == 10
    json.dumps(shown, allow_nan=False)
    assert preview(points.reshape(4, 5))["kind"] == "array"


@given(st.integers(0, 3))
def test_the_digest_of_a_structured_array_does_not_depend_on_how_it_lies(offset: int) -> None:
    whole = np.zeros((4, 6), POINT)
    whole["x"] = np.arange(24).reshape(4, 6)
    part = whole[:, offset : offset + 2]
    assert pack(part).digest == pack(part.copy()).digest
