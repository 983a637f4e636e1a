"""The items of a fan-out in real processes: grouped, and apart all the same."""

from __future__ import annotations

import os
import random
import re
import sys
import textwrap
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlbench.backends.blobs_local import LocalBlobs
from mlbench.backends.cluster_dask.worker import supervisor, turns
from mlbench.backends.cluster_dask.worker.itemends import ItemEnds
from mlbench.backends.cluster_dask.worker.servers import StepServer
from mlbench.core.messages import Chunk
from mlbench.core.records import Execution, Json
from mlbench.runs import artifacts, randomness
from mlbench.runs.signing import is_proven, signer_of
from tests.integration.items import Ended, begin_all, chunk_of, evaluated, run_all, run_chunk, spread_task
from tests.integration.steps import PATIENCE, Clock, Shown, alive, await_true, environment, stopped

pytestmark = pytest.mark.timeout(120)


WARM = environment("numpy", "pandas", "matplotlib.pyplot")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module", autouse=True)
def _servers() -> Iterator[None]:
    yield
    supervisor.close()


def fan_out(store: Path, source: str, *, groups: int = 1, **others: Any) -> Ended:
    foreach = others.pop("foreach", {"x": "range(5)"})
    others.setdefault("environment", WARM)
    chunk = {name: others.pop(name) for name in ("apart", "seconds", "rest") if name in others}
    given = spread_task(store, textwrap.dedent(source).strip("\n"), foreach, **others)
    return run_all(given, groups=groups, **chunk)


def succeed(store: Path, source: str, **others: Any) -> Ended:
    ended = fan_out(store, source, **others)
    assert set(ended.states) <= {"succeeded"}, [(one.failure, one.messages) for one in ended.records.values()]
    assert ended.end.failure is None
    return ended


def bound(store: Path, **names: Any) -> dict[str, Json]:
    """Store values as a step does that binds them, and return them as another step's inputs."""
    from mlbench.runs.wire import msgspec

    return {one.name: msgspec.to_builtins(one) for one in artifacts.save_names(names, names, LocalBlobs(store))}


def bodies(path: Path) -> list[str]:
    """Return what bodies have written, one line each time that one began."""
    return sorted(path.read_text().split()) if path.exists() else []


# --- which items there are --------------------------------------------------------------------------------------------


def test_items_come_from_a_captured_value_an_artifact_a_range_and_an_expression(store: Path) -> None:
    captured = {"names": ["a", "b"], "double": lambda values: [one * 2 for one in values]}
    frame = pd.DataFrame({"carrier": ["AA", "B6", "AA"]})
    for expression, expected in {
        "names": ["a", "b"],
        "double(names)": ["aa", "bb"],
        "range(3)": [0, 1, 2],
        "sorted(frame.carrier.unique())": ["AA", "B6"],
        "(one for one in names)": ["a", "b"],
        "{'k': 1}": ["k"],
    }.items():
        given = bound(store, frame=frame)
        ended = succeed(store, "y = x", foreach={"x": expression}, captured=captured, inputs=given, defs=("y",))
        assert ended.values("y") == expected, expression


def test_a_product_has_the_last_name_fastest_and_says_its_labels_and_digests(store: Path) -> None:
    ended = succeed(store, "z = (a, b)", foreach={"a": "[1, 2]", "b": "'xyz'"}, defs=("z",))
    assert ended.values("z") == [(1, "x"), (1, "y"), (1, "z"), (2, "x"), (2, "y"), (2, "z")]
    assert ended.records[4].label == {"a": "2", "b": "y"}
    assert [ended.records[number].item for number in range(6)] == list(range(6))
    assert all(one.part_of == ended.task.execution for one in ended.records.values())
    assert ended.spread is not None
    assert ended.spread.shape == (2, 3)
    assert ended.spread.labels == (("1", "2"), ("x", "y", "z"))
    assert len(set(ended.spread.digests[0])) == 2


def test_labels_are_made_in_the_process_where_they_do_not_travel(store: Path) -> None:
    given = spread_task(store, "import os\nif a == 2: os._exit(3)", {"a": "[1, 2]", "b": "'xy'"})
    spread = evaluated(given).spread
    assert spread is not None
    light = type(spread)(shape=spread.shape, items=spread.items)
    ended = run_chunk(given, chunk_of(light, range(1, 4)))
    assert [ended.records[number].label for number in (1, 2, 3)] == [
        {"a": "1", "b": "y"},
        {"a": "2", "b": "x"},
        {"a": "2", "b": "y"},
    ]


def test_large_values_have_short_labels_and_digests(store: Path) -> None:
    given = {"x": "['a' * 10**7, b'a' * 10**7, 10**5000, -10**5000, (1,) * 10**5, 'b\\nc' * 99]"}
    spread = evaluated(spread_task(store, "y = 1", given)).spread
    assert spread is not None
    assert all(0 < len(label) <= 80 for label in spread.labels[0]), spread.labels
    assert len(set(spread.labels[0])) == len(set(spread.digests[0])) == 6
    assert all(len(digest) < 80 for digest in spread.digests[0])


def test_no_items_and_one_item(store: Path) -> None:
    none = fan_out(store, "y = x", foreach={"x": "[]"}, defs=("y",))
    assert none.spread is not None
    assert (none.spread.shape, none.records) == ((0,), {})
    assert succeed(store, "y = x", foreach={"x": "[7]"}, defs=("y",)).values("y") == [7]


@pytest.mark.parametrize(
    "expression",
    ["iter(int, 1)", "range(10**15)", "__import__('itertools').count()", "list(range(101))"],
)
def test_too_many_items_are_refused_by_the_name_of_the_setting(store: Path, expression: str) -> None:
    given = spread_task(store, "y = x", {"x": expression}, defs=("y",))
    end = evaluated(given, most_items=100).end
    assert end.spread is None
    assert end.failure is not None
    assert "max_items" in f"{end.failure.evalue} {end.failure.remedy}"
    assert "100" in end.failure.evalue


def test_a_product_of_too_many_items_is_refused(store: Path) -> None:
    given = spread_task(store, "y = x", {"x": "range(20)", "z": "range(20)"})
    end = evaluated(given, most_items=100).end
    assert end.failure is not None
    assert "max_items" in f"{end.failure.evalue} {end.failure.remedy}"


def test_a_generator_without_end_of_large_items_is_refused_before_memory_is_gone(store: Path) -> None:
    expression = "(bytearray(b'x' * (32 << 20)) for _ in iter(int, 1))"
    end = evaluated(spread_task(store, "y = x", {"x": expression})).end
    assert end.failure is not None
    assert "max_items" in f"{end.failure.evalue} {end.failure.remedy}"
    assert end.peak_memory is not None
    assert end.peak_memory < 4 << 30


def test_what_an_expression_raises_is_the_steps_failure(store: Path) -> None:
    end = evaluated(spread_task(store, "y = x", {"x": "nothing + 1"})).end
    assert end.failure is not None
    assert (end.failure.ename, end.reason) == ("NameError", "error")
    end = evaluated(spread_task(store, "y = x", {"x": "5"})).end
    assert end.failure is not None
    assert "int can't be iterated" in end.failure.evalue
    for expression in ("{'a', 'b'} - {'c'}", "frozenset('ab') | {'c'}"):  # whose order the kernel does not share
        end = evaluated(spread_task(store, "y = x", {"x": expression})).end
        assert end.failure is not None
        assert "a set has another order in each process" in end.failure.evalue
        assert f"`sorted({expression})`" in f"{end.failure.evalue} {end.failure.remedy}"
    end = evaluated(spread_task(store, "y = x", {"x": "exit(3)"})).end
    assert end.failure is not None
    assert end.failure.ename == "SystemExit"
    end = evaluated(spread_task(store, "y = x", {"x": "[open('/dev/null')]"})).end
    assert end.failure is not None
    assert "open file" in end.failure.evalue


@pytest.mark.parametrize(
    ("expressions", "shown", "remedy"),
    [
        ({"x": "1/0"}, "--foreach x, line 1\n----> 1 1/0", "Correct what stands behind `in`"),
        ({"x": "rows()"}, "yield 1 / 0", "Correct what stands behind `in`"),
        ({"x": "nothing + 1"}, "----> 1 nothing + 1", "The notebook has no nothing: bind it in a cell above"),
        ({"a": "[1, 2]", "b": "range(a)"}, "----> 1 range(a)", "before there is any item, so it can't read a"),
    ],
)
def test_an_error_of_an_expression_shows_the_users_own_line_and_what_to_do(
    store: Path, tmp_path: Path, expressions: dict[str, str], shown: str, remedy: str
) -> None:
    (tmp_path / "cell.py").write_text("def rows():\n    yield 1 / 0\n")
    captured: dict[str, Any] = {"__name__": "__main__"}
    exec(compile((tmp_path / "cell.py").read_text(), tmp_path / "cell.py", "exec"), captured)
    end = evaluated(spread_task(store, "y = 1", expressions, captured=captured)).end
    assert end.failure is not None
    text = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(end.failure.traceback))
    assert "Could not get source" not in text
    assert "foreach.py" not in text
    assert shown in text
    assert remedy in str(end.failure.remedy)


def test_an_item_that_cannot_be_stored_says_what_to_do_with_items(store: Path) -> None:
    given = "[type('Odd', (), {'__reduce__': lambda self: 1 / 0})()]"
    failure = evaluated(spread_task(store, "y = x", {"x": given})).end.failure
    assert failure is not None
    assert "an item (Odd) can't be stored: ZeroDivisionError" in failure.evalue
    assert "--no-store" not in f"{failure.evalue} {failure.remedy}"
    assert "make it in the step" in str(failure.remedy)


def test_what_to_do_about_an_item_that_failed_is_not_refused(store: Path) -> None:
    ended = fan_out(store, "y = 1 / 0")
    remedies = [str(one.failure.remedy) for one in ended.records.values() if one.failure is not None]
    assert remedies
    assert not [one for one in remedies if "--here" in one]


def test_a_syntax_error_is_said_once_for_all_items_with_its_line(store: Path) -> None:
    ended = fan_out(store, "y = 1\nz = = 2")
    assert ended.records == {}
    assert ended.end.failure is not None
    assert (ended.end.failure.ename, ended.end.failure.line) == ("SyntaxError", 3)
    assert [one["output_type"] for one in ended.end.messages] == ["error"]


def test_the_first_chunk_may_begin_items_by_itself(store: Path) -> None:
    given = spread_task(store, "y = x + 1", {"x": "range(4)"}, defs=("y",))
    ended = run_chunk(given, Chunk(seconds=30.0))
    assert ended.values("y") == [1, 2, 3, 4]
    assert len({one.id for one in ended.records.values()}) == 4


def test_no_item_is_begun_once_the_time_is_over(store: Path) -> None:
    given = spread_task(store, "import time\ntime.sleep(0.05)\ny = x", {"x": "range(50)"}, defs=("y",))
    spread = evaluated(given).spread
    assert spread is not None
    ended = run_chunk(given, chunk_of(spread, range(50), seconds=0.3))
    assert 1 <= len(ended.records) < 30
    assert sorted([*ended.records, *ended.end.left]) == list(range(50))


@pytest.mark.parametrize(("rest", "all_done"), [(0.0, False), (0.1, False), (30.0, True)])
def test_what_is_little_is_done_although_the_time_is_over(store: Path, rest: float, all_done: bool) -> None:
    given = spread_task(store, "import time\ntime.sleep(0.05)\ny = x", {"x": "range(20)"}, defs=("y",))
    spread = evaluated(given).spread
    assert spread is not None
    ended = run_chunk(given, chunk_of(spread, range(20), seconds=0.2, rest=rest))
    assert (len(ended.records) == 20) is all_done
    assert sorted([*ended.records, *ended.end.left]) == list(range(20))


def test_no_more_chunks_have_items_under_way_than_may_and_the_next_has_loaded_everything(
    store: Path, tmp_path: Path
) -> None:
    first, go, second = (tmp_path / name for name in ("first", "go", "second"))
    source = f"""
import pathlib, time
if x == 0:
    pathlib.Path({str(first)!r}).touch()
    while not pathlib.Path({str(go)!r}).exists(): time.sleep(0.01)
else:
    pathlib.Path({str(second)!r}).touch()
y = time.time_ns()
"""
    given = spread_task(store, source, {"x": "range(4)"}, defs=("y",), timeout=20.0)
    spread = evaluated(given).spread
    assert spread is not None
    ended: dict[int, Ended] = {}
    asked: list[Any] = []

    def run(numbers: range, place: int) -> threading.Thread:
        chunk = chunk_of(spread, numbers, place=place, at_once=1, seconds=30.0)
        thread = threading.Thread(target=lambda: ended.update({place: run_chunk(given, chunk)}))
        thread.start()
        return thread

    whole = turns.ask
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(turns, "ask", lambda *of: (asked.append(of[2]), whole(*of)))
        threads = [run(range(2), 1)]
        await_true(first.exists)
        threads.append(run(range(2, 4), 2))
        await_true(lambda: len(set(asked)) == 2)  # it is ready
        assert not second.exists()
        go.touch()
        for thread in threads:
            thread.join(30)
    one, other = ended[1], ended[2]
    assert (one.states, other.states) == (["succeeded"] * 2,) * 2
    assert max(record.ended or 0 for record in one.records.values()) <= min(
        record.started or 0 for record in other.records.values()
    )


def test_a_chunk_that_is_cancelled_while_it_waits_for_its_turn_ends(store: Path, tmp_path: Path) -> None:
    path = tmp_path / "go"
    source = f"import time\nopen({str(path)!r}, 'w').close()\nwhile True: time.sleep(0.01)"
    given = spread_task(store, source, {"x": "range(2)"}, timeout=60.0)
    spread = evaluated(given).spread
    assert spread is not None
    ended: list[Ended] = []
    asked: list[Any] = []
    whole = turns.ask
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(turns, "ask", lambda *of: (asked.append(of[2]), whole(*of)))
        threads = []
        for number in range(2):
            chunk = chunk_of(spread, [number], place=number + 1, at_once=1)
            threads.append(threading.Thread(target=lambda chunk=chunk: ended.append(run_chunk(given, chunk))))
            threads[-1].start()
            await_true(lambda number=number: len(set(asked)) == number + 1)
        await_true(path.exists)
        assert supervisor.cancel(given.execution)
        for thread in threads:
            thread.join(30)
    assert sorted(len(one.records) for one in ended) == [0, 1]
    assert sorted(one.end.left for one in ended) == [(), (1,)]


# --- names ------------------------------------------------------------------------------------------------------------


def helpers() -> dict[str, Any]:
    space: dict[str, Any] = {"__name__": "__main__"}
    exec(
        textwrap.dedent(
            """
            import functools
            base = 10
            def add(): return base + x
            def maker(n):
                def inner(): return n + base + x
                return inner
            closed = maker(100)
            @functools.lru_cache
            def cached(n): return n + 1
            class Point:
                def __init__(self, n): self.n = n
                def shift(self): return self.n + x
            """
        ),
        space,
    )
    return space


def test_helpers_closures_and_methods_see_the_items_names(store: Path) -> None:
    source = "y = (add(), closed(), Point(5).shift(), cached(x), [x + i for i in range(2)], (lambda: x)())"
    ended = succeed(store, source, captured=helpers(), defs=("y",), foreach={"x": "[1, 2]"})
    assert ended.values("y") == [(11, 111, 6, 2, [1, 2], 1), (12, 112, 7, 3, [2, 3], 2)]


def test_items_may_be_instances_of_the_notebooks_classes_and_bind_them(store: Path) -> None:
    space = helpers()
    space["points"] = [space["Point"](1), space["Point"](2)]
    source = "n = p.n\nassert type(p) is Point\nq = Point(p.n * 2)\nm = q.n"
    ended = succeed(store, source, captured=space, foreach={"p": "points"}, defs=("n", "m", "q"))
    assert (ended.values("n"), ended.values("m")) == ([1, 2], [2, 4])
    assert [one.n for one in ended.values("q")] == [2, 4]


LEAKS = {
    "a name": ("seen = 'mine' in globals()\nmine = x", {}),
    "a name of the kernel that is bound again": ("seen = base != 10\nbase = x", {"base": 10}),
    "a name that is deleted": ("seen = 'base' not in globals()\ndel base", {"base": 10}),
    "a visible append": ("seen = len(rows)\nrows.append(x)", {"rows": []}),
    "a hidden append": ("seen = len(rows)\npoke(rows)", {"rows": []}),
    "an array written in place": ("seen = int(array[0])\nwrite(array)", {"array": np.zeros(10)}),
    "a frame's column": ("seen = 'new' in frame\nwiden(frame)", {"frame": pd.DataFrame({"a": [1, 2]})}),
    "an attribute of a module's function": ("seen = len(sys.argv)\n1", {}),
    "a large array": ("seen = int(array[0])\nwrite(array)", {"array": np.zeros(400_000)}),
    "an instance": ("seen = len(box.rows)\nbox.add(x)", {}),
    "what a closure holds": ("seen = count()", {}),
    "a variable of the environment": ("import os\nseen = 'LEFT' in os.environ\nos.environ['LEFT'] = '1'", {}),
    "the folder": ("import os\nseen = os.getcwd() == '/'\nos.chdir('/')", {}),
    "warning filters": (
        "import warnings\nseen = warnings.filters[0][0] == 'error'\nwarnings.simplefilter('error')",
        {},
    ),
    "a library's settings": ("seen = np.geterr()['over'] == 'ignore'\nnp.seterr(over='ignore')", {"np": np}),
    "a table's settings": (
        "seen = pd.get_option('display.precision') == 9\npd.set_option('display.precision', 9)",
        {"pd": pd},
    ),
    "a handler of logging": (
        "import logging\nseen = len(logging.root.handlers)\nlogging.getLogger().addHandler(logging.StreamHandler())",
        {},
    ),
    "a level of a logger that an item makes": (
        "import logging\nseen = logging.getLogger('own').level\nlogging.getLogger('own').setLevel(10)",
        {},
    ),
    "the last value": ("seen = _ if '_' in globals() and isinstance(_, int) else 0\nx + 1", {}),
}


@pytest.mark.parametrize("leak", LEAKS)
@pytest.mark.parametrize("apart", [False, True])
def test_no_item_sees_what_another_left_behind(store: Path, leak: str, apart: bool) -> None:
    space: dict[str, Any] = {"__name__": "__main__"}
    exec(
        textwrap.dedent(
            """
            import sys
            def poke(rows): rows.append(1)
            def write(array): array[:] = 7
            def widen(frame): frame['new'] = 1
            class Box:
                def __init__(self): self.rows = []
                def add(self, one): self.rows.append(one)
            box = Box()
            def counter():
                seen = []
                def count():
                    seen.append(1)
                    return len(seen) - 1
                return count
            count = counter()
            """
        ),
        space,
    )
    source, values = LEAKS[leak]
    copied = {name: value if isinstance(value, ModuleType) else copy(value) for name, value in values.items()}
    space.update(copied)
    changes = ("rows",) if leak == "a visible append" else ()
    ended = succeed(
        store, source, captured=space, defs=("seen",), changes=changes, apart=apart, foreach={"x": "range(6)"}
    )
    seen = ended.values("seen")
    assert len(set(map(int, seen))) == 1, seen
    hidden = {"a hidden append": "rows", "an array written in place": "array", "a frame's column": "frame"}
    if leak in hidden and not apart:
        assert ended.end.changed == (hidden[leak],)


LATER = """
import importlib
{module} = importlib.import_module("{module}") if x else None
seen = bool(x) and {seen}
if x:
    {change}
"""


@pytest.mark.parametrize(
    ("module", "seen", "change"),
    [
        ("matplotlib", "matplotlib.rcParams['lines.linewidth'] == 9", "matplotlib.rcParams['lines.linewidth'] = 9"),
        ("pandas", "pandas.get_option('display.precision') == 9", "pandas.set_option('display.precision', 9)"),
        ("numpy", "numpy.geterr()['over'] == 'ignore'", "numpy.seterr(over='ignore')"),
    ],
)
def test_what_items_set_in_a_library_that_they_import_is_their_own(
    store: Path, module: str, seen: str, change: str
) -> None:
    cold = {"defs": ("seen",), "environment": environment(), "foreach": {"x": "range(6)"}}
    ended = succeed(store, LATER.format(module=module, seen=seen, change=change), **cold)
    assert ended.values("seen") == [False] * 6
    assert ended.end.changed == (f"the settings of {module}",)


@pytest.mark.parametrize("module", ["numpy", "pandas", "matplotlib.pyplot", "sklearn.linear_model"])
def test_items_that_only_import_a_library_are_not_said_to_change_it(store: Path, module: str) -> None:
    given = {"defs": ("seen",), "environment": environment(), "foreach": {"x": "range(6)"}}
    source = f"import importlib\nif x: importlib.import_module('{module}')\nseen = x"
    ended = succeed(store, source, **given)
    assert ended.end.changed == ()


def test_items_that_only_read_a_frame_are_not_said_to_change_it(store: Path) -> None:
    frame = pd.DataFrame({"day": pd.date_range("2020", periods=90, tz="UTC"), "a": range(90), "b": [0.5] * 90})
    source = "own = table[(table['day'].dt.month == x + 1) & (table['a'] >= 0)]\nn = (len(own), table.values.shape)"
    ended = succeed(store, source, inputs=bound(store, table=frame), defs=("n",))
    assert ended.end.changed == ()
    assert [n for n, _ in ended.values("n")] == [31, 29, 30, 0, 0]


def test_an_upstream_value_that_items_change_is_as_it_was_for_each(store: Path) -> None:
    given = bound(store, table=pd.DataFrame({"a": np.arange(100_000)}), rows=[1, 2])
    source = "def poke(one): one['b'] = x\npoke(table)\nseen = (list(table.columns), rows.copy())\nf(rows)"
    ended = succeed(store, source, inputs=given, captured={"f": lambda rows: rows.append(0)}, defs=("seen",), groups=2)
    assert ended.values("seen") == [(["a", "b"], [1, 2])] * 5


def test_items_that_share_an_object_do_not_share_its_changes(store: Path) -> None:
    source = "seen = dict(d)\nd['x'] = 1\nd['y'] = e"
    ended = succeed(store, source, foreach={"d": "[{}] * 3", "e": "range(2)"}, defs=("seen",))
    assert ended.values("seen") == [{}] * 6


def test_what_was_begun_before_a_hidden_change_was_seen_is_run_again_apart(store: Path) -> None:
    source = """
    if x >= 3: poke(rows)
    seen = len(rows)
    """
    space = {"rows": [], "poke": lambda rows: rows.append(1)}
    ended = succeed(store, source, captured=space, defs=("seen",), foreach={"x": "range(60)"})
    assert ended.values("seen") == [0] * 3 + [1] * 57


def test_a_step_that_binds_nothing_never_runs_a_body_twice(store: Path, tmp_path: Path) -> None:
    path = tmp_path / "effects"
    source = f"""
    with open({str(path)!r}, "a") as file: file.write(f"{{x}}\\n")
    if x >= 3: poke(rows)
    """
    space = {"rows": [], "poke": lambda rows: rows.append(1)}
    ended = succeed(store, source, captured=space, foreach={"x": "range(30)"})
    assert ended.end.changed == ("rows",)
    assert bodies(path) == sorted(str(number) for number in range(30))


def test_the_time_that_a_server_takes_to_be_warm_is_not_the_items(
    store: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await_ready = StepServer.await_ready

    def late(server: StepServer, stop: Callable[[], bool]) -> None:
        await_ready(server, stop)
        clock.advance(10_000.0)

    monkeypatch.setattr(StepServer, "await_ready", late)
    assert succeed(store, "y = x", defs=("y",), timeout=600.0).values("y") == [0, 1, 2, 3, 4]


def test_a_process_that_dies_before_it_has_begun_an_item_is_replaced_once(store: Path, tmp_path: Path) -> None:
    class Fatal:
        def __reduce__(self) -> Any:
            path = str(tmp_path / "loaded")
            grow = f"(lambda file: (file.write('x'), file.close()))(open({path!r}, 'a'))"
            size = f"__import__('os').path.getsize({path!r})"
            return eval, (f"{grow} and {size} == 2 and __import__('os')._exit(9)",)  # its second loading is the chunk's

    path = tmp_path / "effects"
    source = f"""
    with open({str(path)!r}, "a") as file: file.write(f"{{x}}\\n")
    """
    ended = succeed(store, source, captured={"fatal": Fatal()})
    assert (tmp_path / "loaded").read_text() == "xxx"
    assert bodies(path) == [str(number) for number in range(5)]
    assert ended.states == ["succeeded"] * 5


def test_an_item_may_bind_half_of_a_surrogate_pair(store: Path) -> None:
    assert succeed(store, "y = chr(0xD800) + str(x)", defs=("y",)).values("y") == [f"\ud800{x}" for x in range(5)]


def test_an_item_can_ask_how_the_cluster_is_reached(store: Path) -> None:
    source = "from mlbench.runs import context\ny = context.current().reach()"
    ended = succeed(store, source, defs=("y",), client={"service": "/here"})
    assert ended.values("y") == [{"service": "/here"}] * 5


def test_loops_that_items_leave_tasks_in_are_closed(store: Path) -> None:
    source = """
    import asyncio, os
    t = asyncio.ensure_future(asyncio.sleep(9))
    n = len(os.listdir('/proc/self/fd'))
    """
    ended = succeed(store, source, defs=("n",), foreach={"x": "range(20)"})
    counts = ended.values("n")
    assert max(counts[2:]) <= max(counts[:2])
    assert not any(ended.text(number) for number in range(20))


# --- failures ---------------------------------------------------------------------------------------------------------

ENDS = {
    "raises": ("raise ValueError('no rows')", "error", "ValueError"),
    "exits": ("import sys\n    sys.exit(4)", "error", "SystemExit"),
    "interrupts": ("raise KeyboardInterrupt", "error", "KeyboardInterrupt"),
    "ends its process": ("import os\n    os._exit(3)", "error", "StepProcessDied"),
    "ends its process well": ("import os\n    os._exit(0)", "error", "StepProcessDied"),
    "is killed": ("import os, signal\n    os.kill(os.getpid(), signal.SIGKILL)", "error", "StepProcessDied"),
    "segfaults": ("import ctypes\n    ctypes.string_at(0)", "error", "StepProcessDied"),
    "runs too long": ("while True: pass", "timeout", "StepTimeout"),
    "is out of memory": ("raise MemoryError", "memory", "MemoryError"),
    "kills its parent": ("import os, signal\n    os.kill(os.getppid(), signal.SIGKILL)\n    while True: pass",
                         "error", "StepProcessDied"),
}  # fmt: skip


@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("apart", [False, True])
def test_an_item_fails_alone(store: Path, tmp_path: Path, clock: Clock, how: str, apart: bool) -> None:
    body, reason, ename = ENDS[how]
    path = tmp_path / "bodies"
    source = f"""
print("begun", x, flush=True)
with open({str(path)!r}, "a") as file: file.write(f"{{x}}\\n")
y = x * 10
if x in (2, 3):
    {body}
"""
    timeout = 600.0 if how == "runs too long" else None
    given = spread_task(store, source, {"x": "range(7)"}, defs=("y",), timeout=timeout, environment=WARM)
    shown = Shown()

    def let_time_pass() -> None:
        for number in (2, 3):
            await_true(lambda: number in shown.begun_items)  # noqa: B023  it is waited for here
            clock.advance(600.0)

    if timeout is not None:
        threading.Thread(target=let_time_pass, daemon=True).start()
    ended = run_all(given, apart=apart, shown=shown)
    assert ended.states == ["succeeded", "succeeded", "failed", "failed", "succeeded", "succeeded", "succeeded"]
    assert ended.values("y") == [0, 10, None, None, 40, 50, 60]
    assert bodies(path) == [str(number) for number in range(7)]
    for number in (2, 3):
        record = ended.records[number]
        assert record.failure is not None
        assert (record.reason, record.failure.ename) == (reason, ename)
        assert record.binds == ()
        assert ended.text(number, "stdout") == f"begun {number}\n"
        assert [one["output_type"] for one in record.messages][-1] == "error"
        assert record.failure.remedy
        if ename == "StepProcessDied":
            assert f"item {number} of step train" in record.failure.evalue
    assert ended.end.left == ()
    assert ended.end.failure is None


@pytest.mark.parametrize("apart", [False, True])
def test_an_item_that_takes_too_much_memory_fails_alone(store: Path, apart: bool) -> None:
    source = """
    import time
    y = x
    if x == 1:
        hog = []
        while True: hog.append(b"x" * (8 << 20))
    """
    ended = fan_out(store, source, defs=("y",), memory=400 << 20, apart=apart, foreach={"x": "range(4)"})
    assert ended.states == ["succeeded", "failed", "succeeded", "succeeded"]
    record = ended.records[1]
    assert record.reason == "memory"
    assert record.failure is not None
    assert "Item 1 of step train" in record.failure.evalue
    assert "419 MB" in record.failure.evalue


def test_a_failure_says_its_line_and_shows_the_cells_own_lines(store: Path) -> None:
    space = helpers()
    ended = fan_out(store, "y = 1\nz = y / (x - 1)", captured=space, defs=("y", "z"), foreach={"x": "range(3)"})
    assert ended.states == ["succeeded", "failed", "succeeded"]
    failure = ended.records[1].failure
    assert failure is not None
    assert (failure.ename, failure.line) == ("ZeroDivisionError", 3)
    text = "\n".join(failure.traceback)
    assert "step train" in text
    assert "stepitems" not in text


def test_thousands_of_failures_are_cheap_and_all_are_kept(store: Path) -> None:
    ended = fan_out(store, "raise KeyError(x)", foreach={"x": "range(300)"})
    assert ended.states == ["failed"] * 300
    last = ended.records[299].failure
    assert last is not None
    assert (last.evalue, last.line) == ("299", 2)
    assert any("KeyError: 299" in line for line in last.traceback)


def test_a_value_that_cannot_be_stored_says_so_in_its_item(store: Path) -> None:
    ended = succeed(store, "g = (i for i in range(3)) if x == 1 else x", defs=("g",), foreach={"x": "range(3)"})
    assert [ended.records[number].binds[0].problem is None for number in range(3)] == [True, False, True]
    assert "generator" in ended.text(1, "stderr")


def test_magics_that_swallow_errors_fail_their_item_all_the_same(store: Path) -> None:
    ended = fan_out(store, "%%time\n1 / (x - 1)", foreach={"x": "range(3)"})
    assert ended.states == ["succeeded", "failed", "succeeded"]


def test_attempts_are_in_the_records(store: Path) -> None:
    given = spread_task(store, "y = __import__('mlbench').context().attempt", {"x": "range(2)"}, defs=("y",))
    spread = evaluated(given).spread
    assert spread is not None
    ended = run_chunk(given, chunk_of(spread, range(2), attempts=(3, 1)))
    assert [one.attempt for one in ended.end.executions] == [3, 1]
    assert ended.values("y") == [3, 1]


def test_what_has_ended_is_recorded_before_long_although_its_chunk_goes_on(
    store: Path, clock: Clock, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    source = f"import os, time\ny = x\nif not os.path.exists({str(go)!r}): time.sleep(0.01)"
    given = spread_task(store, source, {"x": "range(3000)"}, defs=("y",), environment=WARM)
    shown, thread, ended = begin_all(given)
    await_true(lambda: shown.begun_items)
    clock.advance(1.5)

    def record() -> Json:
        return LocalBlobs(store).find_record("executions", f"{given.execution}-1") or {}

    await_true(record)
    early = record()
    go.touch()
    thread.join(PATIENCE)
    assert early["early"]
    assert len(early["executions"]) < 3000
    assert {one["state"] for one in early["executions"]} == {"succeeded"}
    assert len(ended[0].records) == len(record()["executions"]) == 3000


def test_cancelling_keeps_what_was_done(store: Path, tmp_path: Path) -> None:
    path = tmp_path / "go"
    source = f"import time\nprint('item', x)\ny = x\nwhile x == 3 and not time.sleep(0.01): open({str(path)!r}, 'w')"
    given = spread_task(store, source, {"x": "range(6)"}, defs=("y",))
    _, thread, ended = begin_all(given)
    await_true(path.exists)
    assert supervisor.cancel(given.execution)
    thread.join(PATIENCE)
    (one,) = ended
    assert one.states == ["succeeded"] * 3 + ["cancelled"]
    assert (one.records[3].reason, one.text(3)) == ("user", "item 3\n")
    assert one.end.left == (4, 5)
    found = LocalBlobs(store).find_record("executions", f"{given.execution}-1")
    assert found is not None
    assert [record["item"] for record in found["executions"]] == [0, 1, 2, 3]
    assert one.values("y")[:3] == [0, 1, 2]
    later = run_chunk(given, Chunk(seconds=0.0, place=7))
    assert later.end.spread is None


@pytest.mark.parametrize(("lost", "end"), [(True, ("failed", "worker-lost")), (False, ("cancelled", "service-lost"))])
def test_an_item_ends_with_its_worker_or_its_service_and_says_which(
    store: Path, tmp_path: Path, lost: bool, end: tuple[str, str]
) -> None:
    path = tmp_path / "go"
    source = f"import time\ny = x\nwhile x == 1 and not time.sleep(0.01): open({str(path)!r}, 'w')"
    _, thread, ended = begin_all(spread_task(store, source, {"x": "range(4)"}, defs=("y",)))
    await_true(path.exists)
    supervisor.close(lost=lost)
    thread.join(PATIENCE)
    (one,) = ended
    record = one.records[1]
    assert (record.state, record.reason) == end
    assert lost == (record.failure is not None and record.failure.ename == "WorkerLost")
    assert one.end.left == (2, 3)


def test_a_paused_fan_out_stands_still_and_its_timeout_with_it(store: Path, tmp_path: Path, clock: Clock) -> None:
    path, go = tmp_path / "pid", tmp_path / "go"
    source = f"""
import os, time
with open({str(path)!r}, "w") as file: file.write(str(os.getpid()))
while not os.path.exists({str(go)!r}): time.sleep(0.01)
"""
    given = spread_task(store, source, {"x": "range(1)"}, timeout=600.0)
    _, thread, ended = begin_all(given)
    await_true(lambda: path.exists() and path.read_text() != "")
    process = int(path.read_text())
    assert supervisor.pause(given.execution)
    await_true(lambda: stopped(process))
    go.touch()
    clock.advance(10_000.0)
    thread.join(0.2)
    assert thread.is_alive()
    assert stopped(process)
    assert supervisor.resume(given.execution)
    thread.join(PATIENCE)
    assert ended[0].states == ["succeeded"]


def test_nothing_that_an_item_started_outlives_its_chunk(store: Path) -> None:
    source = """
    import subprocess, os, signal
    p = subprocess.Popen(["sleep", "600"])
    q = subprocess.Popen(["sleep", "600"], start_new_session=True)
    y = (p.pid, q.pid)
    if x == 1:
        print(p.pid, q.pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    ended = fan_out(store, source, defs=("y",), foreach={"x": "range(2)"})
    assert ended.states == ["succeeded", "failed"]
    processes = [*ended.values("y")[0], *map(int, ended.text(1, "stdout").split())]
    await_true(lambda: not any(alive(one) for one in processes))


@pytest.fixture
def threaded(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Return what a fan-out takes whose process has a thread once it has loaded what it is given."""
    (tmp_path / "threaded.py").write_text(
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    )
    sys.path.insert(0, str(tmp_path))
    try:
        import threaded  # type: ignore[import-not-found]

        space = {"rows": [], "poke": lambda rows: rows.append(1), "threaded": threaded}
        yield {
            "captured": space,
            "defs": ("seen",),
            "environment": environment(PYTHONPATH=os.pathsep.join([str(tmp_path), *sys.path])),
        }
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("threaded", None)


def test_a_process_that_has_threads_runs_items_itself_and_is_replaced(store: Path, threaded: dict[str, Any]) -> None:
    source = """
    import os
    print("item", x, flush=True)
    seen = len(rows)
    poke(rows)
    if x == 2: os._exit(1)
    """
    ended = fan_out(store, source, **threaded)
    assert ended.states == ["succeeded", "succeeded", "failed", "succeeded", "succeeded"]
    assert ended.values("seen") == [0, 0, None, 0, 0]
    assert ended.end.changed == ("rows",)
    assert [ended.text(number) for number in range(5)] == [f"item {number}\n" for number in range(5)]


SLOW_TO_LOOK_AT = {"large": [str(number) for number in range(100_000)]}
"""What items take far less time than it takes to look whether they have changed it."""


@pytest.mark.parametrize("count", [8, 4])
@pytest.mark.parametrize("threads", [True, False])
def test_items_that_ended_before_one_that_died_run_again_if_a_later_one_changes_what_they_saw(
    store: Path, threaded: dict[str, Any], threads: bool, count: int
) -> None:
    source = """
    import os
    first, seen = large[0], len(rows)
    if x != 2: poke(rows)
    if x == 2: os._exit(3)
    """
    threaded["captured"] |= SLOW_TO_LOOK_AT
    if not threads:
        del threaded["captured"]["threaded"], threaded["environment"]
    ended = fan_out(store, source, foreach={"x": f"range({count})"}, **threaded)
    assert ended.states == ["succeeded"] * 2 + ["failed"] + ["succeeded"] * (count - 3)
    assert ended.values("seen") == [0, 0, None] + [0] * (count - 3)
    assert ended.end.changed == ("rows",)
    assert not ended.end.left


@pytest.mark.parametrize("threads", [True, False])
def test_items_that_ended_before_the_last_one_died_run_again_since_nobody_can_look_any_more(
    store: Path, tmp_path: Path, threaded: dict[str, Any], threads: bool
) -> None:
    path = tmp_path / "effects"
    source = f"""
    import os
    with open({str(path)!r}, "a") as file: file.write(f"{{x}}\\n")
    first, seen = large[0], len(rows)
    if x == 1: poke(rows)
    if x == 4: os._exit(3)
    """
    threaded["captured"] |= SLOW_TO_LOOK_AT
    if not threads:
        del threaded["captured"]["threaded"], threaded["environment"]
    ended = fan_out(store, source, **threaded)
    assert ended.states == ["succeeded"] * 4 + ["failed"]
    assert ended.values("seen") == [0, 0, 0, 0, None]
    assert not ended.end.left
    assert Counter(bodies(path)) == {"0": 1, "1": 2, "2": 2, "3": 2, "4": 1}, "the first has seen what no other changed"


def test_what_may_have_seen_a_change_is_left_to_a_later_chunk_where_there_is_no_time_to_run_it_again(
    store: Path, clock: Clock
) -> None:
    source = """
    import os
    first, seen = large[0], len(rows)
    poke(rows)
    if x == 3: os._exit(3)
    """
    space = {"rows": [], "poke": lambda rows: rows.append(1), **SLOW_TO_LOOK_AT}
    ended = fan_out(store, source, captured=space, defs=("seen",), foreach={"x": "range(4)"}, seconds=1e-9, rest=100.0)
    assert ended.states == ["succeeded", "failed"]
    assert ended.end.left == (1, 2)


# --- what they show ---------------------------------------------------------------------------------------------------


def test_everything_that_is_shown_lands_in_its_own_item_in_order(store: Path) -> None:
    source = """
    import ctypes, logging, subprocess, sys, warnings
    from IPython.display import display
    print("out", x)
    print("err", x, file=sys.stderr)
    print("out again", x)
    display(f"shown {x}")
    ctypes.CDLL(None).puts(f"from C {x}".encode())
    subprocess.run(["echo", f"from a process {x}"])
    logging.warning("logged %s", x)
    warnings.warn(f"warned {x}")
    from tqdm import tqdm
    for _ in tqdm(range(2), desc=f"bar {x}"): pass
    print("last", x, end="")
    x + 100
    """
    ended = succeed(store, source, foreach={"x": "range(12)"}, groups=2)
    for number, record in ended.records.items():
        assert_shown(record, number, ended)


def assert_shown(record: Execution, number: int, ended: Ended) -> None:
    out, err = ended.text(number, "stdout"), ended.text(number, "stderr")
    for text in (f"out {number}\n", f"out again {number}\n", f"from C {number}\n", f"from a process {number}\n"):
        assert out.count(text) == 1, (number, out)
    for text in (f"err {number}\n", f"logged {number}", f"warned {number}", f"bar {number}: 100%"):
        assert text in err, (number, err)
    assert out.endswith(f"last {number}")
    kinds = [one["output_type"] for one in record.messages]
    assert kinds[:4] == ["stream", "stream", "stream", "display_data"]
    assert record.messages[0]["text"] == f"out {number}\n"
    assert record.messages[1]["text"] == f"err {number}\n"
    assert record.messages[2]["text"] == f"out again {number}\n"
    assert record.messages[-1]["data"] == {"text/plain": str(number + 100)}


def test_figures_appear_under_their_own_item(store: Path) -> None:
    source = """
    import matplotlib.pyplot as plt
    if x != 1:
        plt.plot([x, 1])
    """
    ended = succeed(store, source, foreach={"x": "range(3)"})
    shown = [[one for one in ended.records[number].messages if "data" in one] for number in range(3)]
    assert ["image/png" in shown[number][-1]["data"] if shown[number] else False for number in range(3)] == [
        True,
        False,
        True,
    ]


def test_prints_of_many_items_are_kept_apart_though_nothing_waits_for_them(store: Path) -> None:
    source = "import os\nfor i in range(x % 7): print(x, i)\nos.write(1, f'{x} raw\\n'.encode())"
    ended = succeed(store, source, foreach={"x": "range(400)"})
    for number in range(400):
        expected = "".join(f"{number} {i}\n" for i in range(number % 7)) + f"{number} raw\n"
        assert ended.text(number) == expected


def test_an_item_that_prints_very_much_keeps_its_head_and_tail(store: Path) -> None:
    source = "for i in range(40_000): print(x, i)"
    ended = succeed(store, source, foreach={"x": "range(2)"})
    for number in range(2):
        text = ended.text(number)
        assert len(text) < 200_000
        assert text.startswith(f"{number} 0\n{number} 1\n")
        assert text.endswith(f"{number} 39999\n")
        assert "left out here …]" in text


def test_metrics_tags_and_the_context_are_the_items_own(store: Path) -> None:
    source = """
    import mlbench
    mlbench.log(score=x * 2)
    mlbench.tag(who=f"item {x}")
    own = mlbench.context()
    y = (own.step, own.item, own.execution, own.run)
    """
    ended = succeed(store, source, defs=("y",))
    for number, record in ended.records.items():
        assert [(one.name, one.value) for one in record.metrics] == [("score", number * 2)]
        assert record.tags == {"who": f"item {number}"}
        assert ended.values("y")[number] == ("train", number, record.id, record.run)
    news = [one for one in ended.shown.news if one["type"] == "items"]
    told = {one[0]: one for each in news for one in each["ended"]}
    assert {number: (one[1], one[3]) for number, one in told.items()} == {
        number: ("succeeded", number * 2) for number in range(5)
    }
    assert news[0]["begun"] or news[0]["ended"]


def test_metrics_of_an_item_that_died_are_kept(store: Path) -> None:
    ended = fan_out(store, "import mlbench, os\nmlbench.log(loss=1.5)\nos._exit(1)", foreach={"x": "range(2)"})
    assert [[one.value for one in ended.records[number].metrics] for number in range(2)] == [[1.5], [1.5]]


def test_what_is_heard_of_an_item_after_its_end_is_its_own_and_costs_no_more_the_more_there_is(store: Path) -> None:
    ends = ItemEnds(replace(spread_task(store, "", {"x": "[0]"}), chunk=Chunk(numbers=(0,))))
    logged = {"type": "metrics", "metrics": [{"name": "loss", "value": 1.5}]}
    ends.item(0).take_news(logged)
    before = ends.item(0).metrics
    item = ends.end(0)
    ends.item(0).take_news(logged)
    ends.item(0).take_news({"type": "tags", "tags": {"late": "yes"}})
    assert item.tags == {"late": "yes"}
    assert item.metrics is before  # not a copy for each point
    assert [one.value for one in item.metrics or ()] == [1.5, 1.5]


def test_an_item_that_never_stops_logging_is_still_ended_by_its_timeout(store: Path) -> None:
    source = """
    import mlbench
    print("begun")
    points = {str(one): 1.0 for one in range(200)}
    while True:
        mlbench.log(**points)
    """
    ended = fan_out(store, source, foreach={"x": "[0]"}, timeout=1.0)
    record = ended.records[0]
    assert (record.state, record.reason) == ("failed", "timeout")
    assert ended.text(0, "stdout") == "begun\n"
    assert record.started is not None
    assert record.ended is not None
    assert (record.ended - record.started) / 1e9 < 10


def test_files_and_connections_are_the_items_own(store: Path, tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.txt").write_text("x")
    ended = succeed(store, f"y = open({str(tmp_path)!r} + f'/{{x}}.txt').read()", foreach={"x": "range(3)"})
    assert [[Path(file.path).name for file in ended.records[number].files] for number in range(3)] == [
        ["0.txt"],
        ["1.txt"],
        ["2.txt"],
    ]


# --- cells as in a kernel ---------------------------------------------------------------------------------------------


def test_top_level_await_tasks_and_magics_work(store: Path) -> None:
    awaits = "import asyncio\nawait asyncio.sleep(0)\nt = asyncio.create_task(asyncio.sleep(0, x))\ny = await t"
    assert succeed(store, awaits, defs=("y",)).values("y") == [0, 1, 2, 3, 4]
    ended = succeed(store, "%%time\ny = x + 1", defs=("y",))
    assert ended.values("y") == [1, 2, 3, 4, 5]
    assert all("Wall time" in ended.text(number) for number in range(5))
    ended = succeed(store, "!echo item {x}\nz = !echo $x\nz = z[0]\n%time w = x", defs=("z", "w"))
    assert ended.values("z") == ["0", "1", "2", "3", "4"]
    assert ended.values("w") == [0, 1, 2, 3, 4]
    assert [ended.text(number, "stdout").splitlines()[0] for number in range(2)] == ["item 0", "item 1"]


def test_the_loop_is_an_items_own(store: Path) -> None:
    source = """
    import asyncio
    n = len(asyncio.all_tasks(asyncio.get_running_loop()))
    t = asyncio.ensure_future(asyncio.sleep(9))
    """
    ended = succeed(store, source, defs=("n",))
    assert len(set(ended.values("n"))) == 1


def test_arrays_and_frames_are_kept_small_ones_in_a_pack_large_ones_apart(store: Path) -> None:
    source = "import numpy as np, pandas as pd\na = np.full(n, x)\nf = pd.DataFrame({'a': a})"
    ended = succeed(store, source, foreach={"n": "[10, 100_000]", "x": "range(2)"}, defs=("a", "f"))
    arrays = ended.values("a")
    assert [(len(one), int(one[0])) for one in arrays] == [(10, 0), (10, 1), (100_000, 0), (100_000, 1)]
    assert all(len(one) in (10, 100_000) for one in ended.values("f"))


def test_names_of_an_item_that_share_an_object_still_do(store: Path) -> None:
    ended = succeed(store, "models = [[x]]\nbest = models[0]", defs=("models", "best"), foreach={"x": "[1]"})
    loader = artifacts.Loader(LocalBlobs(store))
    loaded = {one.name: loader.load(one) for one in ended.records[0].binds}
    assert loaded["best"] is loaded["models"][0]


def test_long_items_have_a_process_each_and_short_ones_share(store: Path) -> None:
    source = "import os, time\ntime.sleep(s)\npid = os.getpid()\nparent = os.getppid()"
    short = succeed(store, source, foreach={"s": "[0.0] * 5"}, defs=("pid",)).values("pid")
    assert len(set(short)) == 1
    long = succeed(store, source, foreach={"s": "[0.25] * 4"}, defs=("pid", "parent"))
    assert len(set(long.values("pid"))) == 4
    assert len(set(long.values("parent"))) == 1


# --- randomness -------------------------------------------------------------------------------------------------------


def seeded(number: int = 0) -> dict[str, Any]:
    random.seed(number)
    np.random.seed(number)
    return {"seeded": True, "random": randomness.read_states()}


DRAWS = (
    "import random\nimport numpy as np\nd = (random.random(), np.random.rand(), random.gauss(0, 1), np.random.randn())"
)


def test_a_seeded_fan_out_draws_the_same_numbers_however_items_are_grouped(store: Path) -> None:
    drawn = []
    for more in ({}, {"groups": 3}, {"apart": True}):
        ended = succeed(store, DRAWS, defs=("d",), foreach={"x": "range(7)"}, **seeded(), **more)
        drawn.append(ended.values("d"))
        assert all(set(one.draws) == {"random", "numpy"} for one in ended.records.values())
        assert ended.records[0].random_start
    assert drawn[0] == drawn[1] == drawn[2]
    assert len(set(drawn[0])) == 7
    other = succeed(store, DRAWS, defs=("d",), foreach={"x": "range(7)"}, **seeded(1)).values("d")
    assert not set(other) & set(drawn[0])


def test_items_that_do_not_draw_are_known(store: Path) -> None:
    source = "import random\ny = random.random() if x == 1 else 0"
    ended = succeed(store, source, defs=("y",), foreach={"x": "range(3)"}, **seeded())
    assert [ended.records[number].draws for number in range(3)] == [(), ("random",), ()]
    assert ended.records[0].random_start is None


def test_what_comes_after_a_seeded_fan_out_has_a_start_of_its_own(store: Path) -> None:
    given = spread_task(store, DRAWS, {"x": "range(2)"}, **seeded())
    after = [evaluated(given).spread for _ in range(2)]
    assert after[0] is not None
    assert after[0] == after[1]
    assert after[0].after is not None
    states = randomness.from_bytes(LocalBlobs(store).get(after[0].after))
    assert given.random is not None
    assert set(states) == set(given.random)
    assert all(states[name] != given.random[name] for name in states)


def test_items_of_an_unseeded_notebook_draw_different_numbers(store: Path) -> None:
    for apart in (False, True):
        ended = succeed(store, DRAWS, defs=("d",), foreach={"x": "range(6)"}, apart=apart, groups=2)
        assert len(set(ended.values("d"))) == 6
        assert all(set(one.draws) == {"random", "numpy"} for one in ended.records.values())


def test_a_thousand_bootstrap_items_are_a_thousand_samples_and_always_the_same(store: Path) -> None:
    def space() -> dict[str, Any]:
        own: dict[str, Any] = {"__name__": "__main__", "rng": np.random.default_rng(0), "data": np.arange(1000)}
        exec("def sample(): return rng.choice(data, 1000)", own)
        return own

    source = "mean = float(sample().mean())"
    runs = [
        succeed(store, source, captured=space(), defs=("mean",), foreach={"x": "range(1000)"}, groups=groups)
        for groups in (1, 3)
    ]
    means = runs[0].values("mean")
    assert len(set(means)) > 950
    assert runs[1].values("mean") == means
    assert runs[0].end.changed == ()
    assert abs(np.mean(means) - 499.5) < 2


@pytest.mark.parametrize(
    "make", ["random.Random(3)", "np.random.RandomState(3)", "np.random.Generator(np.random.Philox(1))"]
)
def test_generator_objects_that_are_reached_are_an_items_own(store: Path, make: str) -> None:
    space: dict[str, Any] = {"__name__": "__main__", "np": np, "random": random}
    exec(f"class Box: pass\nbox = Box()\nbox.inner = [{make}]\ndef draw(): return box.inner[0]", space)
    source = "g = draw()\nd = float(g.random() if hasattr(g, 'random') else g.rand())"
    one = succeed(store, source, captured=dict(space), defs=("d",)).values("d")
    two = succeed(store, source, captured=dict(space), defs=("d",), groups=5).values("d")
    assert one == two
    assert len(set(one)) == 5


# --- records ----------------------------------------------------------------------------------------------------------


def test_a_chunk_is_recorded_as_one_object_and_its_values_as_one_pack(store: Path) -> None:
    before = len(list((store / "packs").rglob("*"))) if (store / "packs").exists() else 0
    ended = succeed(store, "y = x * 3", defs=("y",), foreach={"x": "range(40)"})
    blobs = LocalBlobs(store)
    found = blobs.find_record("executions", f"{ended.task.execution}-1")
    assert found is not None
    from mlbench.runs.wire import msgspec

    assert msgspec.convert(found["executions"], tuple[Execution, ...]) == ended.end.executions
    after = [path for path in (store / "packs").rglob("*") if path.is_file()]
    assert len(after) - before <= 2
    record = ended.records[7]
    assert (record.step, record.run, record.state) == ("train", ended.task.run, "succeeded")
    assert record.started is not None
    assert record.ended is not None
    assert record.cpu is not None
    assert record.worker


def test_a_chunks_record_is_known_again_as_what_its_worker_wrote(store: Path) -> None:
    signer = signer_of(b"mine", "e1")
    source = "import mlbench\nprint('é', 1e300, x)\nmlbench.log(loss=1e-300, rmse=x / 3)\ny = [x, {x / 7}]"
    ended = succeed(store, source, defs=("y",), foreach={"x": "range(5)"}, signer=signer)
    identifier = f"{ended.task.execution}-1"
    found = LocalBlobs(store).find_record("executions", identifier)
    assert found is not None
    assert is_proven([signer], "executions", identifier, found)
    found["executions"][3]["messages"] = []
    assert not is_proven([signer], "executions", identifier, found)


def test_a_store_that_cannot_be_written_is_said_and_nothing_is_claimed(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    given = spread_task(store, "y = x", {"x": "range(3)"}, defs=("y",))
    spread = evaluated(given).spread
    assert spread is not None
    monkeypatch.setattr(LocalBlobs, "append", full)
    end = run_chunk(given, chunk_of(spread, range(3))).end
    assert end.executions == ()
    assert end.left == (0, 1, 2)
    assert end.failure is not None
    assert "No space left" in end.failure.evalue
