"""Values come back as they were, under a digest that says nothing but what they are."""

from __future__ import annotations

import functools
import gc
import os
import subprocess
import sys
import textwrap
import threading
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from mlbench.core.errors import ArtifactCorrupt
from mlbench.runs.values import join, pack, read_manifest, split, unpack


def again(value: Any, **more: Any) -> Any:
    packed = pack(value)
    return unpack(packed.codec, split(join(packed.parts)), **more)


def notebook(source: str) -> dict[str, Any]:
    """Run source as a notebook's cell does; return its names."""
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(textwrap.dedent(source), "cell", "exec", dont_inherit=True), names)
    return names


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.complex_numbers() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=20,
)
dtypes = st.one_of(
    st_numpy.boolean_dtypes(),
    st_numpy.integer_dtypes(endianness="?"),
    st_numpy.floating_dtypes(endianness="?"),
    st_numpy.complex_number_dtypes(),
    st_numpy.datetime64_dtypes(),
    st_numpy.timedelta64_dtypes(),
    st_numpy.unicode_string_dtypes(),
    st_numpy.byte_string_dtypes(),
)
arrays = st_numpy.arrays(dtypes, st_numpy.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6))


@settings(max_examples=60, deadline=None)
@given(plain)
def test_plain_values_come_back_equal_and_of_their_type(value: Any) -> None:
    back = again(value)
    assert type(back) is type(value)
    assert repr(back) == repr(value)  # nan and -0.0 too


@settings(max_examples=80, deadline=None)
@given(arrays)
def test_arrays_come_back_as_they_were_and_can_be_written_to(array: np.ndarray) -> None:
    back = again(array)
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()
    assert back.flags.writeable
    assert pack(back).digest == pack(array).digest


@settings(max_examples=40, deadline=None)
@given(st_numpy.arrays(np.float64, (6, 5)), st.booleans())
def test_a_slice_has_the_digest_of_its_copy(array: np.ndarray, reverse: bool) -> None:
    part = array[:, ::-2] if reverse else array[1::2, 1:4]
    assert pack(part).digest == pack(part.copy(order="C")).digest


def test_an_array_in_column_order_stays_so() -> None:
    array = np.asfortranarray(np.arange(12.0).reshape(3, 4))
    back = again(array)
    assert back.flags.f_contiguous
    np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize(
    "value",
    [
        0,
        -(10**5000),
        1.5,
        float("inf"),
        -0.0,
        True,
        None,
        "",
        "\ud800 lone",
        "é",
        b"\0",
        2 - 3j,
        np.float32(1.5),
        np.int8(-3),
    ],
    ids=lambda value: type(value).__name__,
)
def test_scalars_have_a_codec_and_a_digest_of_their_own(value: Any) -> None:
    packed = pack(value)
    assert packed.codec == "scalar"
    back = again(value)
    assert type(back) is type(value)
    assert back == value
    assert packed.digest == pack(back).digest


def test_equal_values_of_two_types_have_two_digests() -> None:
    assert len({pack(value).digest for value in (1, 1.0, True, "1", b"1", 1 + 0j, np.int64(1), np.float64(1))}) == 8


ELSEWHERE = """
import sys, numpy as np, pandas as pd
from mlbench.runs.values import pack
frame = pd.DataFrame({"a": [1.5, None], "b": ["x", None], "c": pd.to_datetime(["2024-03-31", None], utc=True)})
for value in (7, "seven", 7.5, np.arange(6).reshape(2, 3).T, frame, frame["b"], frame.index, frame.set_index("b")):
    print(pack(value).digest)
"""


def test_the_digest_is_the_same_in_every_process() -> None:
    found = {
        subprocess.run(
            [sys.executable, "-c", ELSEWHERE],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1
    assert found.pop().count("blake3:") == 8


def test_digests_are_final() -> None:
    """What is stored today must be found by every later version: change the format's number instead of these."""
    assert pack(7).digest == "blake3:fd82542224027022835a19aa53721bd3a8da05920a93b92d2f0f316801cea07d"
    assert (
        pack(np.arange(3, dtype="<i8")).digest
        == "blake3:c554af6d3b7b37b53831f51bb4d40e063baf7eb30a2a8bc788e3ccc626e24ce9"
    )
    frame = pd.DataFrame({"n": np.array([1, 2], "<i8"), "s": pd.array(["x", None], dtype=pd.StringDtype("python"))})
    assert pack(frame).digest == "blake3:5fce4ac0a35290a7794a4dd0f790ac9f20b28999accd0c3b8e6cdfa99b67b2ee"


def test_an_arrow_table_has_one_digest_however_it_is_chunked() -> None:
    table = pa.table({"n": [1, None, 3], "s": ["a", "b", None]})
    chunked = pa.concat_tables([table.slice(0, 1), table.slice(1)])
    assert pack(table).codec == "arrow"
    assert pack(table).digest == pack(chunked).digest
    assert again(chunked).equals(table)
    assert again(table.to_batches()[0]).equals(table.to_batches()[0])


def test_large_buffers_inside_a_value_are_parts_of_their_own_and_not_copied() -> None:
    array = np.zeros(1_000_000)
    packed = pack({"x": array, "frame": pd.DataFrame({"y": array})})
    assert packed.codec == "pickle"
    assert len(packed.parts[1]) < 2_000
    assert any(np.shares_memory(np.frombuffer(part, "u1"), array) for part in packed.parts[2:])


def test_a_slice_of_a_text_column_does_not_carry_the_whole_column() -> None:
    column = pd.Series([f"value {place}" for place in range(20_000)])
    assert pack({"few": column.iloc[:5]}).size < 5_000


def test_a_value_from_read_only_bytes_can_be_written_to() -> None:
    packed = pack({"x": np.zeros(10_000)})
    back = unpack("pickle", split(bytes(join(packed.parts))))
    back["x"][0] = 1.0
    assert back["x"][0] == 1.0


def test_loading_leaves_the_garbage_collector_as_it_was() -> None:
    packed = pack([[1], [2]])
    for switch in (gc.disable, gc.enable):
        switch()
        unpack("pickle", packed.parts)
        assert gc.isenabled() == (switch is gc.enable)


class LooksAtItsCaller:
    def __setstate__(self, state: object) -> None:
        self.frame = sys._getframe(12).f_lineno

    def __getstate__(self) -> object:
        return 1


def test_an_object_that_looks_at_its_callers_is_loaded_from_a_short_stack() -> None:
    packed, loaded = pack(LooksAtItsCaller()), list[Any]()
    thread = threading.Thread(target=lambda: loaded.append(unpack("pickle", packed.parts)))
    thread.start()
    thread.join(30)
    assert loaded[0].frame


def test_an_unknown_codec_or_format_is_said_to_need_a_newer_version() -> None:
    with pytest.raises(ArtifactCorrupt, match="format 2, and this version of mlbench reads 1"):
        read_manifest(b'{"codec":"pickle","format":2,"parts":[]}')
    with pytest.raises(ArtifactCorrupt, match="codec 'later'"):
        unpack(None, [b'{"codec":"later","format":1,"parts":[]}', b""])


@pytest.mark.parametrize("data", [b"", b"MLB1", b"MLB1\xff\xff\xff\x7f", b"nothing of ours", join([b"abc" * 50])[:-1]])
def test_bytes_that_are_no_artifact_are_refused(data: bytes) -> None:
    with pytest.raises(ArtifactCorrupt):
        split(data)


# --- what cloudpickle leaves out --------------------------------------------------------------------------------------


def test_a_cached_function_of_the_notebook_is_sent_by_value() -> None:
    names = notebook(
        """
        import functools
        @functools.lru_cache(maxsize=7)
        def double(x): return 2 * x
        half = functools.cache(lambda x: x / 2)
        @functools.cache
        def fibonacci(n): return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)
        fixed = functools.partial(double, 4)
        """
    )
    double, half, fixed = again([names["double"], names["half"], names["fixed"]])
    assert again(names["fibonacci"])(30) == 832040  # it calls itself, cache and all
    assert (double(4), half(4), fixed()) == (8, 2, 8)
    assert double.cache_parameters() == {"maxsize": 7, "typed": False}
    assert double.__wrapped__.__name__ == double.__name__ == "double"


def test_a_cached_function_of_a_module_is_sent_by_name() -> None:
    assert again(functools.singledispatch) is functools.singledispatch
    import fnmatch

    assert again(fnmatch._compile_pattern) is fnmatch._compile_pattern


def test_a_curried_function_of_the_notebook_is_sent_by_value() -> None:
    names = notebook(
        """
        import toolz
        @toolz.curry
        def add(x, y): return x + y
        add_one = add(1)
        """
    )
    add, add_one = again([names["add"], names["add_one"]])
    assert (add(2)(3), add_one(4)) == (5, 5)


def test_a_function_of_many_types_and_a_cached_property_of_the_notebook_are_sent_by_value() -> None:
    names = notebook(
        """
        import functools
        @functools.singledispatch
        def show(x): return "any"
        @show.register
        def _(x: int): return "int"
        @show.register
        def _(x: list): return [show(one) for one in x]
        class Model:
            calls = 0
            @functools.cached_property
            def size(self):
                self.calls += 1
                return 3
        model = Model()
        """
    )
    show, model = again([names["show"], names["model"]])
    assert (show("a"), show(1), show([1])) == ("any", "int", ["int"])
    assert (model.size, model.size, model.calls) == (3, 3, 1)


def test_a_decorators_object_around_a_function_is_wrapped_again() -> None:
    names = notebook(
        """
        import functools
        class Counted:
            def __init__(self, function):
                functools.update_wrapper(self, function)
                self.calls = 0
            def __call__(self, *given):
                self.calls += 1
                return self.__wrapped__(*given)
            def __reduce__(self):
                return self.__qualname__  # a name that does not exist where it arrives
        @Counted
        def triple(x): return 3 * x
        triple(1)
        """
    )
    triple = again(names["triple"])
    assert triple(3) == 9
    assert triple.calls == 2


def test_an_open_file_is_refused_instead_of_read() -> None:
    with (
        open(__file__, encoding="utf-8") as file,
        pytest.raises(Exception, match=r"cannot pickle '_io\.TextIOWrapper'"),
    ):
        pack({"file": file})


def test_a_reducer_that_is_given_is_asked_first() -> None:
    pending = threading.Lock()
    packed = pack({"x": pending}, reduce=lambda obj: (str, ("pending",)) if obj is pending else NotImplemented)
    assert unpack("pickle", packed.parts) == {"x": "pending"}


POINT = """
import dataclasses
@dataclasses.dataclass
class Point:
    x: int
    def twice(self): return 2 * self.x
point = Point(3)
"""


def in_another_process(source: str) -> list[memoryview]:
    """Return the parts of `value`, as source run as a notebook of another process binds it."""
    send = "import sys; from mlbench.runs.values import join, pack; sys.stdout.buffer.write(join(pack(value).parts))"
    script = f"{source}\n{send}"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        check=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    return split(done.stdout)


def test_an_instance_from_elsewhere_becomes_one_of_the_live_class_defined_alike() -> None:
    parts = in_another_process(f"{POINT}\nvalue = [point, Point]")
    live = notebook(POINT)
    point, cls = unpack("pickle", parts, namespace=live)
    assert cls is live["Point"]
    assert isinstance(point, live["Point"])
    assert point == live["point"]


def test_an_instance_from_elsewhere_keeps_its_own_class_if_the_live_one_says_something_else() -> None:
    parts = in_another_process(f"{POINT}\nvalue = point")
    live = notebook(POINT.replace("2 * self.x", "3 * self.x"))
    point = unpack("pickle", parts, namespace=live)
    assert not isinstance(point, live["Point"])
    assert point.twice() == 6
    assert live["point"].twice() == 9


def test_loading_does_not_write_into_a_class_that_is_there_already() -> None:
    names = notebook(POINT)
    packed = pack(names["point"])
    names["Point"].twice = lambda self: "changed since"
    back = unpack("pickle", packed.parts, namespace=names)
    assert type(back) is names["Point"]
    assert back.twice() == "changed since"
