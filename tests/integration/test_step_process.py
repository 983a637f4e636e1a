"""What a cell does in a step's process is what it does in a kernel."""

from __future__ import annotations

import linecache
import os
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlbench.backends.blobs_local import LocalBlobs
from mlbench.backends.cluster_dask.worker import attendance, supervisor
from mlbench.core.records import Execution
from mlbench.runs import artifacts
from tests.integration.steps import Shown, environment, run, task, text_of

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module", autouse=True)
def _servers() -> Iterator[None]:
    yield
    supervisor.close()


def show(store: Path, source: str, **others: Any) -> Execution:
    return run(task(store, textwrap.dedent(source).strip("\n"), **others))


def succeed(store: Path, source: str, **others: Any) -> Execution:
    record = show(store, source, **others)
    assert record.state == "succeeded", (record.failure, record.messages)
    return record


def values(store: Path, record: Execution) -> dict[str, Any]:
    loader = artifacts.Loader(LocalBlobs(store))
    return {binding.name: loader.load(binding) for binding in record.binds}


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


# --- what is shown ---------------------------------------------------------------------------------------------------


def test_the_last_expression_is_an_execute_result(store: Path) -> None:
    (shown,) = succeed(store, "x = 20\nx + 1").messages
    assert shown["output_type"] == "execute_result"
    assert shown["data"] == {"text/plain": "21"}


def test_a_trailing_semicolon_hides_the_result(store: Path) -> None:
    assert succeed(store, "20 + 1;  # nothing").messages == ()


def test_underscore_is_the_last_shown_value(store: Path) -> None:
    record = succeed(store, "5\nx = _ if _ != '' else 'nothing'", defs=("x",))
    assert values(store, record) == {"x": "nothing"}


def test_prints_errors_and_displays_keep_their_order(store: Path) -> None:
    record = succeed(
        store,
        """
        import sys
        from IPython.display import display
        for number in range(30):
            print("out", number)
            print("err", number, file=sys.stderr)
            display(number)
    """,
    )
    seen = [one.get("text") or one["data"]["text/plain"] for one in record.messages]
    assert seen == [part for number in range(30) for part in (f"out {number}\n", f"err {number}\n", str(number))]


def test_c_libraries_and_subprocesses_are_in_order_with_python(store: Path) -> None:
    record = succeed(
        store,
        """
        import ctypes, os, subprocess
        print("one", end=" ")
        ctypes.CDLL(None).puts(b"two")
        subprocess.run(["echo", "three"])
        os.system("echo four")
        os.write(1, b"five\\n")
        print("six")
        !echo seven
    """,
    )
    assert text_of(record.messages).split() == ["one", "two", "three", "four", "five", "six", "seven"]


def test_updates_and_clears_are_applied_to_what_is_kept(store: Path) -> None:
    shown = Shown()
    record = run(
        task(
            store,
            textwrap.dedent("""
        from IPython.display import clear_output, display
        handle = display("first", display_id=True)
        handle.update("second")
        print("gone")
        clear_output(wait=True)
        print("kept")
    """),
        ),
        shown,
    )
    assert [dict(one) for one in record.messages] == [{"output_type": "stream", "name": "stdout", "text": "kept\n"}]
    kinds = [one["output_type"] for news in shown.news if news["type"] == "messages" for one in news["messages"]]
    assert kinds == ["display_data", "update_display_data", "stream", "clear_output", "stream"]
    record = succeed(
        store,
        "from IPython.display import update_display\ndisplay('a', display_id='x')\nupdate_display('b', display_id='x')",
    )
    assert [one["data"]["text/plain"] for one in record.messages] == ["'b'"]


def test_figures_appear_under_the_cell_once(store: Path) -> None:
    record = succeed(
        store,
        """
        import matplotlib.pyplot as plt
        fig, ax = plt.subplots()
        ax.plot([1, 2])
        plt.show()
        plt.figure()
        plt.plot([3, 4]);
    """,
        environment=environment("matplotlib", "matplotlib.pyplot"),
    )
    assert ["image/png" in one.get("data", {}) for one in record.messages] == [True, True]


def test_magics_work_as_in_the_kernel(store: Path) -> None:
    record = succeed(
        store,
        """
        %%capture said
        %matplotlib inline
        print("hidden")
    """,
    )
    assert record.messages == ()
    record = succeed(store, "%%time\nx = 1\nprint('timed')", defs=("x",))
    assert "timed" in text_of(record.messages)
    assert "Wall time" in text_of(record.messages)
    assert values(store, record) == {"x": 1}
    assert "loop" in text_of(succeed(store, "%timeit -n 2 -r 2 1 + 1").messages)


def test_await_stands_at_the_top_and_tasks_can_be_made(store: Path) -> None:
    record = succeed(
        store,
        """
        import asyncio
        async def double(n):
            await asyncio.sleep(0)
            return 2 * n
        later = asyncio.create_task(double(4))
        x = await double(3), await later
    """,
        defs=("x",),
    )
    assert values(store, record) == {"x": (6, 8)}


def test_progress_bars_logging_and_warnings_are_caught(store: Path) -> None:
    record = succeed(
        store,
        """
        import logging, warnings
        from tqdm.auto import tqdm
        for _ in tqdm(range(3)): pass
        logging.warning("logged")
        warnings.warn("warned")
    """,
    )
    errors = text_of(record.messages, "stderr")
    assert "\r" in errors
    assert "3/3" in errors
    assert "logged" in errors
    assert "<step train>:6: UserWarning: warned" in errors


def test_widgets_are_shown_as_text(store: Path) -> None:
    (shown,) = succeed(store, "import ipywidgets\nipywidgets.IntSlider(value=3)").messages
    assert set(shown["data"]) == {"text/plain"}
    assert "value=3" in shown["data"]["text/plain"]


HUGE = """
class Huge:
    def __repr__(self):
        return "a" * 100_000_000
    def _repr_html_(self):
        return "b" * 100_000_000
display(Huge())
"""


@pytest.mark.parametrize("last", ["Huge()", "raise ValueError('x' * 100_000_000)"])
def test_a_display_without_measure_is_cut_where_it_is_made(store: Path, last: str) -> None:
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    shown = Shown()
    record = run(task(store, HUGE + last), shown)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 60_000, "kilobytes: what supervises the step never had it"
    outputs = [one for one in record.messages if one["output_type"] in ("display_data", "execute_result")]
    assert len(outputs) == (2 if last == "Huge()" else 1)
    for one in outputs:
        assert set(one["data"]) == {"text/plain"}
        assert "98,951,424 characters of this are left out here" in one["data"]["text/plain"]
        assert "text/html of 100,000,000 characters is not kept" in one["data"]["text/plain"]
    if record.failure is not None:
        assert len(record.failure.evalue) < 1_100_000
    assert len(str(record.messages)) < 5_000_000
    assert sum(len(str(news)) for news in shown.news) < 10_000_000


def test_what_is_printed_first_is_shown_at_once(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attendance, "BATCH", 60.0)  # of the news that follow one another
    seen = tmp_path / "seen"

    class Saw(Shown):
        def take(self, execution: Any, news: Any) -> None:
            super().take(execution, news)
            if "here" in self.text:
                seen.touch()

    given = task(store, f"import os\nprint('here')\nwhile not os.path.exists({str(seen)!r}): pass", timeout=20.0)
    assert run(given, Saw()).state == "succeeded"


def test_a_hundred_thousand_lines_are_fast_and_cut_in_what_is_kept(store: Path) -> None:
    record = succeed(store, "for i in range(100_000): print('line', i, 'x' * 10)")
    assert record.cpu is not None
    assert record.cpu < 5.0
    text = text_of(record.messages)
    assert len(text) < 1_700_000
    assert text.startswith("line 0 ")
    assert text.endswith(f"line 99999 {'x' * 10}\n")
    assert "characters are left out" in text
    assert record.log is not None
    assert LocalBlobs(store).get(record.log).decode().count("\n") == 100_000


def test_text_that_is_not_unicode_does_not_stop_a_step(store: Path) -> None:
    record = succeed(store, "import os\nos.write(1, b'\\xff\\n')\nprint('\\ud800')\ndisplay('\\ud800')\n'\\ud800'")
    assert "�\n\\ud800\n" in text_of(record.messages)


# --- what goes wrong -------------------------------------------------------------------------------------------------


def test_a_traceback_shows_the_users_lines_and_counts_them_as_the_user_does(store: Path) -> None:
    record = show(store, "def inner(n):\n    return 1 / n\n\ninner(0)")
    assert record.state == "failed"
    assert record.reason == "error"
    failure = record.failure
    assert failure is not None
    assert (failure.ename, failure.evalue, failure.line) == ("ZeroDivisionError", "division by zero", 3)
    shown = plain("\n".join(failure.traceback))
    assert "step train, line 5" in shown
    assert "return 1 / n" in shown
    assert "interactiveshell" not in shown
    assert "\x1b[" in "".join(failure.traceback)
    assert failure.remedy is not None
    assert "--here" in failure.remedy
    assert record.messages[-1]["output_type"] == "error"
    assert record.binds == ()


def test_an_error_in_a_helper_of_a_plain_cell_names_the_steps_line(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space: dict[str, Any] = {"__name__": "__main__"}
    helper, name = "def helper(n):\n    return 1 / n\n", "/tmp/ipykernel_12/345.py"
    exec(compile(helper, name, "exec"), space)
    monkeypatch.setitem(linecache.cache, name, (len(helper), None, helper.splitlines(keepends=True), name))
    record = show(store, "x = 1\nhelper(0)", captured=space)
    assert record.failure is not None
    assert record.failure.line == 3
    assert "step train, line 3" in plain("".join(record.failure.traceback))
    assert "return 1 / n" in plain("".join(record.failure.traceback))


def test_a_syntax_error_names_its_line(store: Path) -> None:
    record = show(store, "x = 1\ny = = 2")
    assert record.failure is not None
    assert record.failure.ename == "SyntaxError"
    assert record.failure.line == 3
    assert "y = = 2" in plain("".join(record.failure.traceback))


def test_a_cell_under_time_that_raises_has_failed(store: Path) -> None:
    record = show(store, "%%time\nx = 1\n1 / 0")
    assert record.state == "failed"
    assert record.failure is not None
    assert record.failure.ename == "ZeroDivisionError"


def test_a_part_of_a_cell_under_a_magic_has_its_own_lines(store: Path) -> None:
    record = show(store, "%%capture\nx = 1\n1 / 0")
    assert record.state == "failed"


def test_a_name_that_was_not_sent_has_a_remedy(store: Path) -> None:
    record = show(store, "eval('fra' + 'me')")
    assert record.failure is not None
    assert record.failure.ename == "NameError"
    assert record.failure.remedy is not None
    assert "write frame on a line of its own" in record.failure.remedy


def test_a_name_that_the_cell_shows_and_nobody_has_is_said_to_be_missing(store: Path) -> None:
    record = show(store, "result = frame + 1")
    assert record.failure is not None
    assert record.failure.remedy == "The notebook has no frame: bind it in a cell above, or correct the name."


def test_getpass_says_where_secrets_come_from(store: Path) -> None:
    record = show(store, "from getpass import getpass\ngetpass()")
    assert record.failure is not None
    assert "getpass('Password: ') can't be answered in a step" in record.failure.evalue
    assert "mlbench.secret" in (record.failure.remedy or "")


def test_an_error_whose_text_fails_is_shown_by_its_name(store: Path) -> None:
    source = "class Odd(Exception):\n    def __str__(self):\n        raise RuntimeError\nraise Odd"
    record = show(store, source)
    assert record.failure is not None
    assert (record.failure.ename, record.failure.evalue) == ("Odd", "<Odd that can't be shown>")
    assert "mlbench" not in "".join(record.failure.traceback)


def test_input_says_to_use_a_parameter(store: Path) -> None:
    record = show(store, "input('name? ')")
    assert record.failure is not None
    assert "can't be answered" in record.failure.evalue
    assert "parameter" in (record.failure.remedy or "")


def test_sys_exit_fails_the_step(store: Path) -> None:
    record = show(store, "import sys\nsys.exit(3)")
    assert record.state == "failed"
    assert record.failure is not None
    assert record.failure.ename == "SystemExit"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import os; os._exit(0)", "ended by itself"),
        ("import os; os._exit(7)", "exit status 7"),
        ("import ctypes; ctypes.string_at(0)", "SIGSEGV"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
    ],
)
def test_a_process_that_dies_says_how(store: Path, source: str, said: str) -> None:
    record = show(store, f"print('before')\n{source}")
    assert (record.state, record.reason) == ("failed", "error")
    assert record.failure is not None
    assert said in record.failure.evalue
    assert re.search(r"\d MB of memory", record.failure.evalue)
    assert text_of(record.messages).startswith("before\n")
    assert record.messages[-1]["output_type"] == "error"
    assert record.peak_memory is not None
    assert record.peak_memory > 10_000_000


def test_an_interpreter_that_is_not_there_is_a_failure(store: Path) -> None:
    from mlbench.core.messages import Environment

    record = show(store, "1", environment=Environment(interpreter="/nowhere/python", variables={}, stamp=""))
    assert record.state == "failed"
    assert record.failure is not None
    assert "/nowhere/python" in record.failure.evalue


def test_a_folder_that_is_gone_is_a_failure(store: Path, tmp_path: Path) -> None:
    from mlbench.core.messages import Surroundings

    record = show(store, "1", surroundings=Surroundings(folder=str(tmp_path / "gone")))
    assert record.failure is not None
    assert "is not there" in record.failure.evalue


# --- what is bound ---------------------------------------------------------------------------------------------------


def test_defs_are_stored_and_the_record_is_durable(store: Path) -> None:
    record = succeed(store, "x = [1, 2]\ny = x", defs=("x", "y", "unbound"))
    found = values(store, record)
    assert found == {"x": [1, 2], "y": [1, 2]}
    assert found["x"] is found["y"]
    kept = LocalBlobs(store).find_record("execution", record.id)
    assert kept is not None
    assert kept["state"] == "succeeded"
    assert record.cpu is not None


def test_a_def_that_cannot_be_stored_does_not_fail_its_step(store: Path) -> None:
    record = succeed(store, "x = 1\ng = (n for n in [])\n_h = (n for n in [])", defs=("x", "g"), quiet_defs=("_h",))
    assert [binding.name for binding in record.binds if binding.problem is None] == ["x"]
    assert [binding.name for binding in record.binds if binding.problem is not None] == ["g"]


def test_names_of_steps_and_helpers_are_in_one_namespace(store: Path) -> None:
    space: dict[str, Any] = {"__name__": "__main__", "base": 10}
    exec("def add(n):\n    return n + base + given", space)
    made = succeed(store, "given = 5", defs=("given",))
    inputs = {
        binding.name: {
            "name": binding.name,
            "artifact": {
                "digest": binding.artifact.digest,
                "size": binding.artifact.size,
                "type": binding.artifact.type,
                "codec": binding.artifact.codec,
            },
        }
        for binding in made.binds
        if binding.artifact
    }
    record = succeed(store, "x = add(1)\nbase = 100\ny = add(1)", captured=space, inputs=inputs, defs=("x", "y"))
    assert values(store, record) == {"x": 16, "y": 106}


def test_classes_and_functions_of_a_cell_pickle_inside_the_step(store: Path) -> None:
    record = succeed(
        store,
        """
        import pickle
        class Point:
            def __init__(self, n): self.n = n
        def double(n): return 2 * n
        again = pickle.loads(pickle.dumps(Point(3)))
        same = type(again) is Point and pickle.loads(pickle.dumps(double)) is double
    """,
        defs=("same",),
    )
    assert values(store, record) == {"same": True}


def test_processes_pools_and_threads_work_in_a_step(store: Path) -> None:
    record = succeed(
        store,
        """
        import multiprocessing, threading
        from concurrent.futures import ProcessPoolExecutor
        from joblib import Parallel, delayed
        def double(n):
            print("doubling", n)
            return 2 * n
        with multiprocessing.get_context("fork").Pool(2) as pool:
            a = pool.map(double, [1, 2])
        with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
            b = list(pool.map(double, [3]))
        c = Parallel(n_jobs=2)(delayed(double)(n) for n in [4, 5])
        d = []
        threads = [threading.Thread(target=lambda n=n: (print("thread", n), d.append(n))) for n in range(3)]
        for one in threads: one.start()
        for one in threads: one.join()
        d = sorted(d)
    """,
        defs=tuple("abcd"),
    )
    assert values(store, record) == {"a": [2, 4], "b": [6], "c": [8, 10], "d": [0, 1, 2]}
    assert text_of(record.messages).count("doubling") >= 3
    assert text_of(record.messages).count("thread") == 3


def test_what_a_step_changes_in_its_process_stays_there(store: Path) -> None:
    succeed(
        store,
        "import os, sys\nos.environ['ONLY_HERE'] = '1'\nos.chdir('/')\nsys.path.append('/only-here')\n"
        "import builtins\nbuiltins.only_here = 1",
    )
    record = succeed(
        store,
        "import os, sys, builtins\nx = 'ONLY_HERE' in os.environ, '/only-here' in sys.path, "
        "hasattr(builtins, 'only_here')",
        defs=("x",),
    )
    assert values(store, record) == {"x": (False, False, False)}


def test_the_kernels_variables_hold_and_private_ones_do_not(store: Path) -> None:
    record = succeed(
        store,
        "import os\nx = {k: v for k, v in os.environ.items() if k[:3] in ('JPY', 'SOM') or 'MLBENCH_RUN' in k}",
        defs=("x",),
        environment=environment(JPY_SESSION_NAME="a.ipynb", SOME_URL="db", MLBENCH_RUN="abc"),
    )
    found = values(store, record)["x"]
    assert found.get("SOME_URL") == "db"
    assert "JPY_SESSION_NAME" not in found
    assert "MLBENCH_RUN" not in found


def test_metrics_and_tags_are_recorded(store: Path) -> None:
    shown = Shown()
    record = run(
        task(
            store,
            textwrap.dedent("""
        from mlbench.runs import context
        context.log(rmse=0.5)
        context.log(loss=1, step=7)
        context.tag(team="ops")
        context.progress(1, 2)
        where = context.context().step, context.context().attempt
    """),
            defs=("where",),
        ),
        shown,
    )
    assert [(one.name, one.value, one.step) for one in record.metrics] == [("rmse", 0.5, None), ("loss", 1.0, 7)]
    assert record.tags == {"team": "ops"}
    assert values(store, record) == {"where": ("train", 1)}
    assert {"type": "progress", "done": 1.0, "total": 2.0} in shown.news


def test_files_and_connections_are_seen(store: Path, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("a,b\n1,2\n")
    record = succeed(
        store,
        f"""
        import json, os, socket
        os.chdir({str(tmp_path)!r})
        open("in.csv").read()
        with open("out.txt", "w") as f: f.write("12345")
        try: socket.create_connection(("127.0.0.1", 1), timeout=0.1)
        except OSError: pass
    """,
    )
    assert [(os.path.basename(one.path), one.mode, one.size) for one in record.files] == [
        ("in.csv", "r", 8),
        ("out.txt", "w", 5),
    ]
    assert record.network
    assert not succeed(store, "import socket").network
