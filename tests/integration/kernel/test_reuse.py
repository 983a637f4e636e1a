"""Steps that are reused since nothing changed that they depend on, and that run since something did.

Each case changes one thing and sees the step run; what changes nothing that matters sees it reused.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlbench.project import Project
from mlbench.runs.series import last_of_each_step

_steps = itertools.count(1)


@pytest.fixture
def step() -> str:
    """Return the name of a step that no other test has."""
    return f"s{next(_steps)}"


class Reuse:
    """Runs one step again and again, and says what became of it each time."""

    def __init__(self, page: Any, place: Any, step: str) -> None:
        self.page = page
        self.step = step
        self.project = Project.open(store=str(place.store))

    def run(self, body: str, options: str = "--cache", *, until: str | None = None) -> str:
        """Run the step; return its state."""
        answer = self.page.run(f"%%step {self.step} {options} --wait\n{body}", self.step)
        assert answer.status == "ok", answer.error
        self.text = answer.text
        if until is not None:
            assert until in answer.text
        return self.record().state

    def record(self) -> Any:
        """Return the step's last execution, with its messages."""
        for run in self.project.catalog.runs(limit=20):
            for one in last_of_each_step(self.project.catalog.executions(run.id)):
                if one.step == self.step:
                    return self.project.catalog.execution(one.id)
        raise AssertionError("the step has never run")


@pytest.fixture
def again(page: Any, place: Any, step: str) -> Reuse:
    return Reuse(page, place, step)


def test_an_unchanged_step_is_reused_and_shows_its_old_output(again: Reuse) -> None:
    assert again.run("rows = [1, 2, 3]\nprint('made')\nmlbench.log(rmse=0.5)") == "succeeded"
    first = again.record()
    assert again.run("rows = [1, 2, 3]\nprint('made')\nmlbench.log(rmse=0.5)", until="made") == "reused"
    assert "mlbench: reused from " in again.text
    record = again.record()
    assert record.reused_from == first.id
    assert record.binds == first.binds
    assert record.metrics == first.metrics
    assert record.messages == first.messages
    assert again.page.value("rows") == "[1, 2, 3]"


def test_comments_and_layout_change_nothing(again: Reuse) -> None:
    assert again.run("x = 1 + 2") == "succeeded"
    assert again.run("# a comment\nx = (1 +\n     2)") == "reused"
    assert again.run("x = 1 + 3") == "succeeded"


def test_it_runs_without_the_option_and_where_the_line_says_so(again: Reuse) -> None:
    assert again.run("x = 1") == "succeeded"
    assert again.run("x = 1", "") == "succeeded"
    assert again.run("x = 1", "--no-cache") == "succeeded"
    assert again.run("x = 1") == "reused"


def test_code_and_values_count_through_the_helpers_that_a_step_calls(again: Reuse) -> None:
    again.page.run("factor = 2\ndef inner(v): return v * factor\ndef outer(v): return inner(v) + 1")
    assert again.run("y = outer(3)") == "succeeded"
    assert again.run("y = outer(3)") == "reused"
    again.page.run("factor = 5")
    assert again.run("y = outer(3)") == "succeeded"
    again.page.run("def inner(v): return v * factor * 2")
    assert again.run("y = outer(3)") == "succeeded"
    again.page.run("def inner(v):\n    # times four\n    return v * factor * 2")
    assert again.run("y = outer(3)") == "reused"


def test_options_that_change_what_is_made_count_and_others_do_not(again: Reuse) -> None:
    assert again.run("x = 1\ny = 2") == "succeeded"
    assert again.run("x = 1\ny = 2", "--cache --timeout 1m --tag a=b") == "reused"
    assert again.run("x = 1\ny = 2", "--cache --no-store y") == "succeeded"


def test_a_parent_that_ran_again_but_made_the_same_lets_its_child_be_reused(page: Any, place: Any, step: str) -> None:
    parent, child = Reuse(page, place, f"{step}p"), Reuse(page, place, f"{step}c")
    assert parent.run("base = [1]") == "succeeded"
    assert child.run("total = sum(base)") == "succeeded"
    assert parent.run("base = [0 + 1]") == "succeeded"
    assert child.run("total = sum(base)") == "reused"
    assert parent.run("base = [2]") == "succeeded"
    assert child.run("total = sum(base)") == "succeeded"
    assert page.value("total") == "2"


def test_a_change_in_place_that_no_name_shows_is_reused_with_what_it_changed(page: Any, place: Any, step: str) -> None:
    page.run("def add(rows): rows.append(1)")
    parent, child = Reuse(page, place, f"{step}p"), Reuse(page, place, f"{step}c")
    for state in ("succeeded", "reused"):
        page.run("rows = [0]")
        assert parent.run("add(rows)\ndone = True") == state
        assert page.value("rows") == "[0, 1]"
        assert child.run("size = len(rows)") == state
        assert page.value("size") == "2"


def test_the_sources_of_modules_beside_the_notebook_count(again: Reuse, place: Any, step: str) -> None:
    near, far = place.folder / f"near_{step}.py", place.folder / f"far_{step}.py"
    near.write_text(f"from far_{step} import base\ndef load(): return base + 1\n")
    far.write_text("base = 1\n")
    again.page.run(f"from near_{step} import load")
    assert again.run("x = load()") == "succeeded"
    assert again.run("x = load()") == "reused"
    far.write_text("# nothing\nbase = 1\n")
    assert again.run("x = load()") == "reused"
    far.write_text("base = 2\n")
    assert again.run("x = load()") == "succeeded"
    assert again.page.value("x") == "3"


def test_a_module_that_another_step_imported_counts_as_it_is_now(page: Any, place: Any, step: str) -> None:
    """What a step is given by name alone, its process imports anew: an edit since then shows."""
    module = place.folder / f"near_{step}.py"
    module.write_text("class Model:\n    size = 7\n    def predict(self): return 1\n")
    parent, child, last = (Reuse(page, place, f"{step}{one}") for one in "pcl")
    assert parent.run(f"import near_{step} as near\nmodel, number = near.Model(), near.Model.size") == "succeeded"
    for body in ("x = near.Model().predict()", "x = model.predict()"):
        module.write_text("class Model:\n    size = 7\n    def predict(self): return 1\n")
        assert child.run(body) == "succeeded"
        assert child.run(body) == "reused"
        module.write_text("class Model:\n    size = 7\n    def predict(self): return 22\n")
        assert child.run(body) == "succeeded"
        assert child.run(body) == "reused"
        assert page.value("x") == "22"
    module.write_text("class Model:\n    size = 7\n    def predict(self): return 1\n")
    assert child.run("again = [model]") == "succeeded"
    assert last.run("y = again[0].predict(), number") == "succeeded"
    module.write_text("class Model:\n    size = 7\n    def predict(self): return 333\n")
    assert last.run("y = again[0].predict(), number") == "succeeded"
    assert page.value("y") == "(333, 7)"
    assert child.run("z = number") == "succeeded"
    module.write_text("class Model:\n    size = 7\n    def predict(self): return 4444\n")
    assert child.run("z = number") == "reused"  # a plain number, which nothing in the module says anything of


def test_settings_and_variables_of_the_kernel_count(again: Reuse) -> None:
    again.page.run("import os, warnings, numpy as np")
    body = "import os\nx = os.environ.get('PLACE_OF_DATA')"
    assert again.run(body) == "succeeded"
    assert again.run(body) == "reused"
    again.page.run("os.environ['PLACE_OF_DATA'] = 'here'")
    assert again.run(body) == "succeeded"
    assert again.page.value("x") == "'here'"
    again.page.run("np.set_printoptions(precision=3)")
    assert again.run(body) == "succeeded"
    again.page.run("warnings.simplefilter('error')")
    assert again.run(body) == "succeeded"
    again.page.run("np.set_printoptions(precision=8); warnings.resetwarnings(); del os.environ['PLACE_OF_DATA']")


def test_libraries_that_the_kernel_has_merely_imported_since_do_not_count(place: Any, step: str) -> None:
    page = place.notebook()
    again = Reuse(page, place, step)
    assert again.run("x = 1") == "succeeded"
    before = again.record().key_parts
    page.run("import numpy, pandas, sklearn, matplotlib.pyplot")
    assert again.run("x = 1") == "reused", {n: (p, before.get(n)) for n, p in again.record().key_parts.items()}
    page.close()


READS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "read": ("x = open({path!r}).read()", lambda path: path.write_text("others")),
    "read by a relative name": ("x = open({name!r}).read()", lambda path: path.write_text("others")),
    "not there": (
        "try:\n    x = open({path!r} + '.more').read()\nexcept OSError:\n    x = None",
        lambda path: Path(f"{path}.more").write_text("now"),
    ),
    "named only": ("x = __import__('subprocess').getoutput('cat ' + {path!r})", lambda path: path.write_text("others")),
    "written": ("x = open({path!r}, 'w').write('made')", lambda path: path.write_text("spoilt")),
    "written and gone": ("x = open({path!r}, 'w').write('made')", lambda path: path.unlink()),
    "listed": (
        "import glob\nx = sorted(glob.glob({folder!r} + '/*.csv'))",
        lambda path: (path.parent / "more.csv").write_text("1"),
    ),
    "in a folder that is named": (
        "import subprocess\nx = subprocess.getoutput('cat ' + {folder!r} + '/*')",
        lambda path: path.write_text("others"),
    ),
    "same size": ("x = open({path!r}).read()", lambda path: os.utime(path, (1, 1))),
}


@pytest.mark.parametrize("case", READS)
def test_files_count(case: str, again: Reuse, place: Any, step: str) -> None:
    body, change = READS[case]
    folder = place.folder / step
    folder.mkdir()
    path = folder / "data.csv"
    path.write_text("before")
    again.page.run(f"import os; os.chdir({str(folder)!r})")
    body = body.format(path=str(path), name=path.name, folder=str(folder))
    assert again.run(body) == "succeeded"
    assert again.run(body) == "reused"
    time.sleep(0.01)  # the clock of some file systems is coarse
    change(path)
    assert again.run(body) == "succeeded"


def test_a_file_that_a_step_writes_and_only_names_is_its_own_work(again: Reuse, place: Any, step: str) -> None:
    path = place.folder / f"{step}.txt"
    body = f"import subprocess\nx = subprocess.call('echo made > {path}', shell=True)"
    assert again.run(body) == "succeeded"
    assert again.run(body) == "reused"


def test_the_folder_counts_for_steps_that_look_at_files(again: Reuse, place: Any, step: str) -> None:
    first, second = place.folder / f"{step}1", place.folder / f"{step}2"
    for folder in (first, second):
        folder.mkdir()
        (folder / "data.txt").write_text(folder.name)
    again.page.run(f"os.chdir({str(first)!r})")
    assert again.run("x = 1 + 1") == "succeeded"
    again.page.run(f"os.chdir({str(second)!r})")
    assert again.run("x = 1 + 1") == "reused"
    assert again.run("x = open('data.txt').read()") == "succeeded"
    again.page.run(f"os.chdir({str(first)!r})")
    assert again.run("x = open('data.txt').read()") == "succeeded"
    assert again.page.value("x") == f"'{step}1'"


def test_a_step_that_used_the_network_is_reused_only_if_its_own_line_asks(again: Reuse) -> None:
    body = (
        "import socket\nwith socket.create_server(('127.0.0.1', 0)) as server:\n"
        "    socket.create_connection(server.getsockname()).close()\nx = 1"
    )
    again.page.run("%config MLBench.cache = True")
    assert again.run("x = 1", "") == "succeeded"
    assert again.run("x = 1", "") == "reused"
    assert again.run(body, "") == "succeeded"
    assert again.run(body, "") == "succeeded"
    again.page.run("%config MLBench.cache = False")
    assert again.run(body) == "reused"


def test_random_numbers_count_for_steps_that_draw(place: Any, step: str) -> None:
    page = place.notebook()
    draws, other = Reuse(page, place, f"{step}d"), Reuse(page, place, f"{step}o")
    page.run("import random")
    values = []
    for seed, state in ((1, "succeeded"), (1, "reused"), (2, "succeeded")):
        page.run(f"random.seed({seed})")
        assert draws.run("x = random.random()") == state
        values.append(page.value("x, random.random()"))
        assert other.run("y = 1") == ("succeeded" if len(values) == 1 else "reused")
    assert values[0] == values[1] != values[2]
    page.close()


def test_a_notebook_that_was_never_seeded_keeps_what_it_drew(place: Any, step: str) -> None:
    page = place.notebook()
    again = Reuse(page, place, step)
    assert again.run("import random\nx = random.random()") == "succeeded"
    first = page.value("x")
    assert again.run("import random\nx = random.random()") == "reused"
    assert page.value("x") == first
    page.close()


def test_a_cell_whose_text_does_not_show_what_it_needs_is_never_reused(again: Reuse) -> None:
    again.page.run("hidden, text = 1, 'hidden'")
    assert again.run("hidden\nx = eval(text)") == "succeeded"
    assert again.run("hidden\nx = eval(text)") == "succeeded"
    assert "eval" in again.record().key_parts["unknown"]


@pytest.mark.parametrize("damage", ["gone", "damaged"])
def test_what_is_no_longer_whole_in_the_store_is_made_again(damage: str, again: Reuse, place: Any) -> None:
    body = f"x = list(range(1000)) + [{damage!r}]"
    assert again.run(body) == "succeeded"
    digest = again.record().binds[0].artifact.digest.partition(":")[2]
    path = place.store / "objects" / digest[:2] / digest
    if damage == "gone":
        path.unlink()
    else:
        data = bytearray(path.read_bytes())
        data[-9] ^= 1
        path.chmod(0o600)
        path.write_bytes(data)
    assert again.run(body) == "succeeded"
    assert again.page.value("x[-1]") == repr(damage)


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_another_kernel_a_restart_and_another_service_make_no_difference(place: Any, step: str) -> None:
    page = place.notebook()
    again = Reuse(page, place, step)
    assert again.run("import math\nx = math.pi") == "succeeded"
    page.restart()
    assert again.run("import math\nx = math.pi") == "reused"
    other = place.notebook()
    assert Reuse(other, place, step).run("import math\nx = math.pi") == "reused"
    with place.service() as client:
        process = client.request("status", {})["pid"]
        client.request("stop", {"force": True}, timeout=30)
    while is_alive(process):
        time.sleep(0.05)
    assert Reuse(other, place, step).run("import math\nx = math.pi") == "reused"
    page.close()
    other.close()


def items(again: Reuse) -> list[tuple[int, str]]:
    return [(one.item, one.state) for one in again.project.catalog.items(again.record().id)]


def test_of_a_fan_out_only_what_failed_or_changed_runs(again: Reuse, place: Any, step: str) -> None:
    mark = place.folder / f"{step}.mark"
    body = (
        # a file that nothing shows: that it is there now would be a change for all items
        f"import os\nif n == 2 and not os.access({str(mark)[::-1]!r}[::-1], os.F_OK): raise ValueError('not yet')\n"
        "mlbench.log(double=2 * n)\nd = 2 * n"
    )
    again.page.run("ns = [1, 2, 3]")
    answer = again.page.run(f"%%step {step} --foreach n in ns --cache --wait\n{body}", step)
    assert answer.status == "error"
    assert items(again) == [(0, "succeeded"), (1, "failed"), (2, "succeeded")]
    mark.write_text("")
    assert again.run(body, "--foreach n in ns --cache") == "succeeded"
    assert items(again) == [(0, "reused"), (1, "succeeded"), (2, "reused")]
    assert again.page.value("d") == "[2, 4, 6]"
    again.page.run("ns = [5, 3, 2]")
    assert again.run(body, "--foreach n in ns --cache") == "succeeded"
    assert items(again) == [(0, "succeeded"), (1, "reused"), (2, "reused")]
    assert again.page.value("d") == "[10, 6, 4]"
    assert again.run(body, "--foreach n in ns --cache") == "reused"
    assert again.page.value("d") == "[10, 6, 4]"


def test_items_that_looked_at_files_are_reused_and_run_when_these_changed(again: Reuse, place: Any, step: str) -> None:
    data = place.folder / f"{step}.txt"
    data.write_text("1")
    body, options = f"d = n + int(open({str(data)!r}).read())", "--foreach n in ns --cache"
    again.page.run("ns = [1, 2]")
    assert again.run(body, options) == "succeeded"
    again.page.run("ns = [1, 2, 3]")
    assert again.run(body, options) == "succeeded"
    assert [state for _, state in items(again)] == ["reused", "reused", "succeeded"]
    data.write_text("10")
    assert again.run(body, options) == "succeeded"
    assert [state for _, state in items(again)] == ["succeeded"] * 3
    assert again.page.value("d") == "[11, 12, 13]"


def test_a_fan_out_of_which_the_store_lost_something_is_made_again(again: Reuse, place: Any) -> None:
    body, options = "import secrets\nd = [n] * 1000", "--foreach n in [71, 72] --cache"
    assert again.run(body, options) == "succeeded"
    for pack in (place.store / "packs").rglob("*"):
        if pack.is_file():
            pack.unlink()
    assert again.run(body, options) == "succeeded"
    assert again.page.value("len(d), d[1][0]") == "(2, 72)"


def test_items_that_draw_keep_their_numbers_as_long_as_they_keep_their_place(place: Any, step: str) -> None:
    page = place.notebook()
    again = Reuse(page, place, step)
    body = "import random\nd = random.random()"
    values = []
    for ns, states in (("[1, 2]", "ss"), ("[1, 2, 3]", "rrs"), ("[2, 1]", "ss")):
        page.run(f"random = __import__('random'); random.seed(5)\nns = {ns}")
        again.run(body, "--foreach n in ns --cache")
        assert "".join(state[0] for _, state in items(again)) == states
        values.append(page.value("d"))
    assert len(set(values[0])) > 1
    page.close()
