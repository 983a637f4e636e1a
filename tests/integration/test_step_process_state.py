"""What goes with a step from its kernel, and what it changes without its names showing it."""

from __future__ import annotations

import logging
import random
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlbench.backends.blobs_local import LocalBlobs
from mlbench.backends.cluster_dask.worker import supervisor
from mlbench.core.records import Execution
from mlbench.runs import artifacts, randomness, surroundings
from tests.integration.steps import environment, run, task, text_of

pytestmark = pytest.mark.timeout(120)

DATA = ("numpy", "pandas", "matplotlib", "matplotlib.pyplot", "sklearn", "sklearn.linear_model")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module", autouse=True)
def _servers() -> Iterator[None]:
    yield
    supervisor.close()


def succeed(store: Path, source: str, **others: Any) -> Execution:
    others.setdefault("environment", environment(*DATA))
    record = run(task(store, textwrap.dedent(source).strip("\n"), **others))
    assert record.state == "succeeded", (record.failure, record.messages)
    return record


def values(store: Path, record: Execution) -> dict[str, Any]:
    loader = artifacts.Loader(LocalBlobs(store))
    return {binding.name: loader.load(binding) for binding in record.binds}


def bindings(record: Execution) -> dict[str, Any]:
    import msgspec

    return {binding.name: msgspec.to_builtins(binding) for binding in record.binds}


# --- in-place changes ------------------------------------------------------------------------------------------------


def test_a_hidden_change_of_an_input_is_bound_and_one_that_was_only_read_is_not(store: Path) -> None:
    made = succeed(
        store,
        """
        import pandas as pd
        from sklearn.linear_model import LinearRegression
        rows, other = [1], {"a": {1, 2}}
        frame = pd.DataFrame({"a": [1.0, 2.0, 3.0]})
        model = LinearRegression().fit(frame, [1, 2, 3])
    """,
        defs=("rows", "other", "frame", "model"),
    )
    space: dict[str, Any] = {"__name__": "__main__", "cache": {}, "calls": 0}
    exec(
        textwrap.dedent("""
        def add(rows):
            rows.append(2)
        def remember(n):
            global calls
            calls += 1
            cache[n] = n
        def counter():
            count = 0
            def up():
                nonlocal count
                count += 1
                return count
            return up
    """),
        space,
    )
    exec("up = counter()", space)
    record = succeed(
        store,
        "add(rows)\nremember(3)\nup()\nlen(other), frame.describe(), model.predict(frame)",
        captured=space,
        inputs=bindings(made),
        defs=(),
    )
    assert {binding.name for binding in record.binds} == {"rows", "cache", "calls", "up"}
    found = values(store, record)
    assert (found["rows"], found["cache"], found["calls"]) == ([1, 2], {3: 3}, 1)
    assert found["up"]() == 2


def test_a_frame_that_is_only_read_is_no_hidden_change_and_one_with_a_cell_that_is_set_is(store: Path) -> None:
    frame = {"day": pd.date_range("2020", periods=9, tz="UTC"), "a": range(9), "b": [0.5] * 9, "c": list("xyxyxyxyx")}
    space: dict[str, Any] = {"__name__": "__main__", "read": pd.DataFrame(frame), "told": pd.DataFrame(frame)}
    exec("def tell(frame): frame.loc[3, 'b'] = 2.0", space)
    source = """
        late = read[read["day"] > read["day"].iloc[3]].groupby(read["day"].dt.month)["b"].mean()
        table = read.values, read.describe(), read.sort_values("c"), repr(read)
        tell(told)
    """
    record = succeed(store, source, captured=space, defs=("late",))
    assert {binding.name for binding in record.binds} == {"late", "told"}


def test_what_the_cell_itself_binds_is_no_hidden_change(store: Path) -> None:
    record = succeed(store, "base = 2\nfor item in []: pass\nimport os as base", captured={"base": 1}, defs=())
    assert record.binds == ()


def test_a_large_mapped_input_is_watched_by_its_pages(store: Path) -> None:
    made = succeed(
        store,
        """
        import numpy as np, pandas as pd
        array = np.zeros(9_000_000)
        frame = pd.DataFrame({"a": np.arange(9_000_000.0)})
    """,
        defs=("array", "frame"),
    )
    read = succeed(store, "x = array.sum() + frame.a.mean()", inputs=bindings(made), defs=("x",))
    assert {binding.name for binding in read.binds} == {"x"}
    wrote = succeed(store, "def poke(a): a[5] = 1\npoke(array)", inputs=bindings(made), defs=("poke",))
    assert {binding.name for binding in wrote.binds} == {"poke", "array"}


def test_a_generator_object_reached_through_a_function_is_changed_in_place(store: Path) -> None:
    space: dict[str, Any] = {
        "__name__": "__main__",
        "rng": np.random.default_rng(0),
        "old": np.random.RandomState(0),
        "mine": random.Random(0),
        "unused": np.random.default_rng(1),
    }
    exec("def draw():\n    return rng.random(), old.rand(), mine.random()", space)
    record = succeed(store, "x = draw()", captured=space, defs=("x",))
    assert {binding.name for binding in record.binds} == {"x", "rng", "old", "mine"}
    space.update({name: value for name, value in values(store, record).items() if name != "x"})
    again = succeed(store, "x = draw()", captured=space, defs=("x",))
    assert values(store, again)["x"] != values(store, record)["x"]


# --- randomness ------------------------------------------------------------------------------------------------------


def test_no_two_steps_of_an_unseeded_notebook_draw_the_same(store: Path) -> None:
    source = "import random, numpy as np\nx = random.random(), np.random.rand()"
    drawn = [succeed(store, source, defs=("x",)) for _ in range(3)]
    assert len({values(store, one)["x"] for one in drawn}) == 3
    assert all(one.random is None for one in drawn)


def test_a_seeded_notebook_draws_as_it_would_without_steps(store: Path) -> None:
    random.seed(42)
    np.random.seed(42)
    state = randomness.read_states()
    expected = random.random(), float(np.random.rand())
    record = succeed(
        store,
        "import random, numpy as np\nx = random.random(), float(np.random.rand())",
        random=state,
        seeded=True,
        defs=("x",),
    )
    assert values(store, record)["x"] == expected
    assert set(record.draws) == {"random", "numpy"}
    assert record.random is not None
    assert randomness.from_bytes(LocalBlobs(store).get(record.random)) == randomness.read_states()
    quiet = succeed(store, "x = 1", random=state, seeded=True, defs=("x",))
    assert quiet.draws == ()
    assert quiet.random is None


# --- surroundings ----------------------------------------------------------------------------------------------------


def test_what_the_first_cells_set_holds_in_a_step(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib as mpl

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "beside.py").write_text("answer = 42\n")
    root = logging.getLogger()
    level = root.level
    with (
        warnings.catch_warnings(),
        mpl.rc_context({"figure.dpi": 55.0, "axes.facecolor": "red"}),
        pd.option_context("display.max_rows", 7, "display.float_format", "{:.1f}".format),
        np.printoptions(precision=2),
        np.errstate(divide="ignore"),
    ):
        warnings.simplefilter("default")
        warnings.filterwarnings("ignore", message="quiet")
        logging.getLogger("own").setLevel(logging.DEBUG)
        try:
            around = surroundings.read()
        finally:
            root.setLevel(level)
            logging.getLogger("own").setLevel(logging.NOTSET)
    record = succeed(
        store,
        """
        import os, logging, warnings
        import beside, matplotlib.pyplot as plt, numpy as np, pandas as pd
        warnings.warn("quiet please")
        warnings.warn("loud")
        print(np.array([1.23456]), np.array([1.0]) / 0)
        x = [os.getcwd(), beside.answer, plt.rcParams["figure.dpi"], plt.rcParams["axes.facecolor"],
             pd.get_option("display.max_rows"), repr(pd.Series([1.25])).split()[1], logging.getLogger("own").level]
    """,
        surroundings=around,
        defs=("x",),
    )
    assert values(store, record)["x"] == [str(tmp_path), 42, 55.0, "red", 7, "1.2", logging.DEBUG]
    text = text_of(record.messages)
    assert "quiet" not in text
    assert "loud" in text
    assert "[1.23] [inf]" in text
    assert "divide by zero" not in text


# --- speed -----------------------------------------------------------------------------------------------------------


def test_a_step_with_preloaded_libraries_adds_little(store: Path) -> None:
    source = """
        import matplotlib.pyplot as plt, pandas as pd
        from sklearn.linear_model import LinearRegression
        frame = pd.DataFrame({"a": [1.0, 2.0, 3.0]})
        model = LinearRegression().fit(frame, [1, 2, 3])
        frame.plot();
    """
    succeed(store, source, defs=("frame", "model"))
    record = succeed(store, source, defs=("frame", "model"))
    assert record.cpu is not None
    assert record.cpu < 1.0  # of which the cell itself takes a good part


def test_a_matrix_product_has_all_processors(store: Path) -> None:
    record = succeed(
        store,
        """
        from threadpoolctl import threadpool_info
        import numpy as np
        a = np.random.rand(200, 200)
        a @ a
        x = [one["num_threads"] for one in threadpool_info() if one["internal_api"] == "openblas"]
    """,
        defs=("x",),
    )
    from mlbench.backends.cluster_dask.processors import available

    found = values(store, record)["x"]
    assert found
    assert set(found) == {available()}
    record = succeed(
        store,
        "from threadpoolctl import threadpool_info\n"
        "x = [one['num_threads'] for one in threadpool_info() if one['internal_api'] == 'openblas']",
        defs=("x",),
        threads=1,
    )
    assert set(values(store, record)["x"]) == {1}
