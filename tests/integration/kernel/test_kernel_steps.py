"""Steps in a real kernel, through the real service, in a page that takes late output."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any


def test_a_step_prints_under_its_own_cell_and_gives_its_value_to_a_plain_cell(page: Any) -> None:
    page.run("factor = 3\ndef scale(v): return v * factor")
    page.run("%%step load\nrows = [1, 2, 3]\nprint('hello from load')", "load")
    page.run("%%step train\nmodel = [scale(v) for v in rows]\nmodel", "train")
    assert page.value("model") == "[3, 6, 9]"
    assert "hello from load" in page.late_text("load", "hello")
    assert "[3, 6, 9]" in page.late_text("train", "9]")
    assert all(one["metadata"]["mlbench"]["step"] in ("load", "train") for one in page.late)


def test_the_error_of_a_step_shows_its_own_lines_in_its_cell(page: Any) -> None:
    page.run("def helper(v):\n    return v / 0")
    page.run("%%step bad\nx = 1\ny = helper(x)\n", "bad")
    answer = page.run("y")
    assert answer.reply["ename"] == "StepFailed"
    assert "ZeroDivisionError: division by zero" in answer.error
    shown = re.sub(r"\x1b\[[0-9;]*m", "", page.late_text("bad", "--here"))
    assert "helper(x)" in shown
    assert "return v / " in shown
    assert "ZeroDivisionError" in shown
    assert len([one for one in page.late if one["msg_type"] == "error"]) == 1


def test_independent_steps_overlap(page: Any, tmp_path: Path) -> None:
    def meets(name: str, other: str) -> str:
        return (
            f"%%step {name}\nimport os, time\nos.mkdir(os.path.join(meeting, {name!r}))\n"
            f"while {other!r} not in os.listdir(meeting): time.sleep(0.02)\n{name}_met = True\n"
        )

    page.run(f"meeting = {str(tmp_path)!r}")
    page.run(meets("left", "right"))
    page.run(meets("right", "left"))
    assert page.value("left_met, right_met") == "(True, True)"


def test_a_cell_that_is_run_again_starts_from_what_it_saw(page: Any) -> None:
    page.run("c = 10")
    for _ in range(3):
        page.run("%%step add\nc = c + 1", "add")
        assert page.value("c") == "11"
    page.run("%%step add --continue\nc = c + 1", "add")
    assert page.value("c") == "12"


def test_classes_keep_their_identity_both_ways(page: Any) -> None:
    page.run("class Shape:\n    def __init__(self, n): self.n = n")
    page.run("%%step make\nshape = Shape(3)\nclass Made:\n    def twice(self): return 2 * base\nmade = Made()\n")
    page.run("%%step use\nsame = isinstance(made, Made), isinstance(shape, Shape)\n")
    page.run("base = 21")
    assert page.value("same, type(shape) is Shape, type(made) is Made, made.twice()") == (
        "((True, True), True, True, 42)"
    )


def test_names_of_one_object_share_it_after_a_step(page: Any) -> None:
    page.run("%%step fit\nmodels = [[1], [2]]\nbest = models[0]\nfor i in range(3): last = i")
    assert page.value("best is models[0], i, last") == "(True, 2, 2)"


def test_a_figure_is_shown_once_and_comes_back_as_itself(page: Any) -> None:
    page.run("import matplotlib.pyplot as plt", timeout=90)
    page.run("%%step draw\nimport matplotlib.pyplot as plt\nfig, ax = plt.subplots()\nax.plot([1, 2]);", "draw")
    answer = page.run("ax.figure is fig, plt.get_fignums()", timeout=90)
    assert answer.text == "(True, [])"
    assert [one["msg_type"] for one in answer.messages] == ["execute_result"]
    page.late_text("draw", "Figure")
    assert len([one for one in page.late if "image/png" in one["content"].get("data", {})]) == 1


def test_frames_come_back_and_modules_as_modules(page: Any) -> None:
    page.run("%%step table\nimport pandas as pd\nframe = pd.DataFrame({'a': [1, 2]})\n", timeout=90)
    assert page.value("pd.__name__, int(frame.a.sum()), frame.index.tolist()", timeout=90) == "('pandas', 3, [0, 1])"


def test_a_step_sees_results_of_former_cells(page: Any) -> None:
    answer = page.run("40 + 2")
    number = answer.reply["execution_count"]
    page.run(f"%%step again\nx = Out[{number}] + 1\n")
    assert page.value("x") == "43"


def test_time_magics_work_inside_a_step_and_around_it(page: Any) -> None:
    page.run("%%step timed\n%time x = 1\n", "timed")
    assert page.value("x") == "1"
    assert "Wall time" in page.late_text("timed", "Wall")
    answer = page.run("%%time\n%%step outer\ny = 2\nprint('inside')\n")
    assert "inside" in answer.text
    assert "Wall time" in answer.text


def test_a_module_beside_the_notebook_is_seen_with_its_edits(page: Any) -> None:
    path = Path(page.folder) / "helpers_beside.py"
    path.write_text("def value(): return 1\n")
    page.run("import sys; sys.path.insert(0, '')")
    page.run("%%step one\nimport helpers_beside\nx = helpers_beside.value()\n")
    assert page.value("x") == "1"
    path.write_text("def value(): return 22\n")
    page.run("%%step one\nimport helpers_beside\nx = helpers_beside.value()\n")
    assert page.value("x") == "22"


def test_what_cannot_be_sent_is_refused_with_its_place(page: Any) -> None:
    page.run("import threading\ncfg = {'lock': threading.Lock()}")
    answer = page.run("%%step broken\nx = cfg\n")
    assert answer.reply["ename"] == "CaptureError"
    assert 'cfg["lock"] (_thread.lock)' in answer.error
    assert len(answer.reply["traceback"]) == 1


def test_a_hidden_change_is_a_new_version_of_the_name(page: Any) -> None:
    page.run("bag = [1]\ndef grow(r): r.append(2)")
    page.run("%%step hidden\nx = grow(bag)\n", "hidden")
    page.run("x")
    assert page.value("bag") == "[1, 2]"
    page.run("%%step hidden\nx = grow(bag)\n", "hidden")
    page.run("x")
    assert page.value("bag") == "[1, 2]"


def test_a_step_in_the_kernel_is_recorded_all_the_same(page: Any) -> None:
    answer = page.run(
        "%%step debug --here\nimport mlbench, os\npid = os.getpid()\nprint('here')\nmlbench.log(rmse=0.5)"
    )
    assert "here" in answer.text
    assert page.value("pid == os.getpid()") == "True"
    failed = page.run("%%step debug --here\nlocal = 5\n1 / 0\n")
    assert failed.status == "error"
    tracebacks = [one for one in failed.messages if one["msg_type"] == "error"]
    assert "ZeroDivisionError" in "\n".join(tracebacks[0]["content"]["traceback"])


def test_metrics_of_plain_cells_are_kept(page: Any) -> None:
    answer = page.run("import mlbench\nmlbench.log(accuracy=0.9)\nmlbench.tag(team='ops')\nmlbench.context().step")
    assert answer.status == "ok", answer.error


def test_a_wrong_option_is_one_sentence(page: Any) -> None:
    answer = page.run("%%step load --tiemout 3\nx = 1\n")
    assert answer.reply["ename"] == "UsageError"
    assert "--timeout" in answer.error


def test_the_usage_is_shown_on_request(page: Any) -> None:
    answer = page.run("%%step?")
    assert "--timeout" in str(answer.reply["payload"])


def test_a_timeout_ends_a_step(page: Any) -> None:
    page.run("%%step slow --timeout 1s\nimport time\ntime.sleep(60)\nx = 1\n", "slow")
    answer = page.run("x")
    assert answer.reply["ename"] == "StepFailed"
    assert "imeout" in answer.error


def test_a_later_cell_takes_over_a_steps_name_and_says_so(page: Any) -> None:
    page.run("%%step taken\nq = 1\n", "first-cell")
    answer = page.run("%%step taken\nq = 2\n", "second-cell")
    assert "takes its place" in answer.text
    assert page.value("q") == "2"


def test_a_seeded_notebook_draws_what_it_would_without_steps(page: Any) -> None:
    expected = page.value("import random\nrandom.seed(7)\n[random.random() for _ in range(5)]")
    page.run("import random\nrandom.seed(7)")
    page.run("%%step first\na = random.random()\n")
    page.run("%%step quiet\nz = 1\n")
    page.run("%%step second\nb = [random.random(), random.random()]\n")
    page.run("a, b, z")
    assert page.value("[a, *b, random.random(), random.random()]") == expected


def test_steps_that_draw_do_so_in_the_order_of_their_cells_however_they_end(page: Any) -> None:
    expected = page.value("import random\nrandom.seed(8)\n[random.random() for _ in range(3)]")
    page.run("import random\nrandom.seed(8)")
    page.run("%%step above\nimport time; time.sleep(1.5); above = random.random()\n", "above")
    page.run("%%step below\nbelow = random.random()\n", "below")
    assert page.value("[above, below, random.random()]") == expected


def test_a_plain_cell_that_drew_too_early_is_told(page: Any, tmp_path: Path) -> None:
    go = tmp_path / "go"
    page.run("import random\nrandom.seed(9)")
    page.run(
        f"%%step above\nimport os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.02)\n"
        "early = random.random()\n",
        "above",
    )
    page.run("mine = random.random()")
    go.touch()
    answer = page.run("early")
    assert "drew random numbers" in answer.text


def test_a_parameter_that_a_step_binds_anew_or_that_numpy_made_stands_in_no_steps_way(page: Any) -> None:
    page.run("import numpy as np\nrate: float = 0.5\nsizes: list = [1]", "p", tags=["parameters"])
    page.run("rate, sizes = np.float64(rate) / 2, list(np.arange(2))")
    assert page.run("%%step slow\nimport time; time.sleep(0.5)\nsizes = [7]\n").status == "ok"
    answer = page.run("%%step after\ntwice = rate * 2\n")
    assert answer.status == "ok", answer.error
    assert page.value("float(twice), sizes") == "(0.5, [7])"
    assert page.value("import mlbench; print(mlbench.runs(limit=1)['params.rate'][0])").strip() == "0.25"
