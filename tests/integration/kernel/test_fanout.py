"""Fan-outs in a real kernel, with a real service and real processes."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import pytest


def test_items_come_back_as_lists_in_their_order(page: Any) -> None:
    page.run("import numpy as np\nfactor = 10\ndef scale(x): return x * factor")
    page.run("%%step load\nxs = [3, 1, 2]\n")
    assert page.run("%%step fan --foreach x in xs\ny = scale(x)\narray = np.full(3, x)\n").status == "ok"
    assert page.value("y") == "[30, 10, 20]"
    assert page.value("type(array).__name__, [int(a.sum()) for a in array]") == "('list', [9, 3, 6])"
    assert page.value("'x' in globals()") == "False"


def test_braces_in_what_a_fan_out_goes_over_are_not_filled_in_from_the_kernel(page: Any) -> None:
    page.run("i = 4999")
    page.run("%%step named --foreach name in [f'number {i}' for i in range(3)]\nfound = name\n")
    page.run("%%step sets --foreach one in [{1}, {2}]\nkind = type(one).__name__\n")
    assert page.value("found, kind") == "(['number 0', 'number 1', 'number 2'], ['set', 'set'])"


def test_a_step_reads_the_list_that_a_fan_out_makes(page: Any) -> None:
    page.run("%%step fan --foreach a in [1, 2] --foreach b in [10, 20]\np = a * b\n")
    page.run("%%step total\nwhole = sum(p)\n")
    assert page.value("p, whole") == "([10, 20, 20, 40], 90)"


def test_a_fan_out_over_nothing_gives_empty_lists(page: Any) -> None:
    page.run("%%step empty --foreach x in []\nnothing = x\n")
    assert page.value("nothing") == "[]"


def test_a_fan_out_run_again_starts_from_what_it_saw(page: Any) -> None:
    page.run("c = 1")
    for _ in range(2):
        page.run("%%step add --foreach n in [10, 20]\nc = c + n\n", "add")
        assert page.value("c") == "[11, 21]"


def test_a_value_that_items_change_in_place_is_a_list_outside(page: Any) -> None:
    page.run("table = {'z': 0}")
    page.run("%%step fill --foreach n in [1, 2]\ntable[n] = n\n")
    assert page.value("table") == "[{'z': 0, 1: 1}, {'z': 0, 2: 2}]"


def test_what_an_item_does_to_its_own_value_no_other_item_sees(page: Any) -> None:
    page.run("rows = [{'a': 1}, {'a': 2}, {'a': 3}]")
    page.run("%%step mark --foreach row in rows\nrow['b'] = 1\nseen = len([one for one in rows if 'b' in one])\n")
    assert page.value("len(set(seen)), rows") == "(1, [{'a': 1}, {'a': 2}, {'a': 3}])"


def test_a_failed_item_fails_the_step_and_what_reads_its_names(page: Any) -> None:
    failed = page.run("%%step half --wait --foreach n in [1, 0]\nq = 1 / n\n")
    assert failed.status == "error"
    assert "ZeroDivisionError" in failed.error + "\n".join(failed.reply["traceback"]) + failed.text
    assert page.run("q").error.startswith("StepFailed")


def test_a_failed_item_that_is_caught_has_its_place_in_the_list(page: Any) -> None:
    page.run("%%step caught --catch --foreach n in [1, 0, 2]\nr = 1 / n\n")
    assert page.value("r[0], r[2], type(r[1]).__name__, bool(r[1]), r[1].ename") == (
        "(1.0, 0.5, 'Failed', False, 'ZeroDivisionError')"
    )


def test_more_items_than_the_setting_allows_are_refused_by_its_name(page: Any) -> None:
    page.run("%config MLBench.max_items = 5")
    try:
        refused = page.run("%%step many --wait --foreach n in range(6)\nm = n\n")
        assert refused.status == "error"
        assert "max_items" in refused.error
    finally:
        page.run("%config MLBench.max_items = 1_000_000")


def test_a_seeded_fan_out_draws_the_same_and_what_comes_after_it_too(page: Any) -> None:
    drawn = []
    for _ in range(2):
        page.run("import random\nimport numpy as np\nrandom.seed(3); np.random.seed(3)")
        page.run("%%step draw --foreach n in range(4)\nu = np.random.rand()\n", "draw")
        page.run("%%step after\nw = np.random.rand()\n", "after")
        drawn.append(page.value("repr([len(set(u)), *map(float, u), float(w), float(np.random.rand())])"))
    assert drawn[0] == drawn[1]
    assert drawn[0].startswith("'[4, ")


def test_steps_shows_a_fan_out_and_what_waits_for_it(page: Any) -> None:
    page.run("%%step fan --foreach x in range(3)\ny = x\n")
    page.run("%%step total\nwhole = sum(y)\n")
    page.value("whole")
    shown = page.run("%steps")
    lines = [" ".join(line.split()) for line in shown.text.splitlines()]
    assert any(line.startswith("fan ✓ succeeded ×3 · 3 done") for line in lines)
    assert any(line.startswith("total ✓ succeeded") and line.endswith("after fan (reads y)") for line in lines)
    (data,) = [one["content"]["data"] for one in shown.messages if "data" in one["content"]]
    assert "<script" not in data["text/html"]


def test_an_item_and_what_all_came_to_are_printed_by_the_command_line(place: Any, page: Any) -> None:
    body = "print('item', x)\nheard = x\nmlbench.log(size=2.5 + 2 * (x == 'b'))\n"
    page.run(f"%%step say --foreach x in ['a', 'b']\n{body}")
    assert page.value("heard") == "['a', 'b']"
    run = page.value("print(list(mlbench.runs(limit=1)['id'])[0])").strip()
    command = [sys.executable, "-c", "from mlbench.entrypoints.cli import main; main()"]
    said = subprocess.run(
        [*command, "logs", run, "say", "--item", "1"],
        env=page.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (said.returncode, said.stdout) == (0, "item b\n"), said.stderr
    shown = subprocess.run(
        [*command, "show", run], env=page.environment, capture_output=True, text=True, timeout=60, check=False
    ).stdout
    metric, seconds = (line.split() for line in shown.splitlines() if line.startswith("say ") and "done" not in line)
    assert metric == ["say", "size", "2", "3.5", "2.5", "(x=a)", "4.5", "(x=b)"]
    assert seconds[:3] == ["say", "time", "2"]


def test_a_fan_out_is_followed_from_its_first_item_on_and_its_picture_shown_once(place: Any, page: Any) -> None:
    gate = place.folder / "gate"
    page.run(f"import time\nfrom pathlib import Path\ngate = Path({str(gate)!r})")
    body = "print('wait')\nwhile not gate.exists():\n    time.sleep(0.01)\nwaited = x\n"
    page.run(f"%%step fan --foreach x in range(3)\n{body}", "followed")
    run = page.value("print(list(mlbench.runs(limit=1)['id'])[0])").strip()
    command = [sys.executable, "-c", "from mlbench.entrypoints.cli import main; main()", "logs", "-f", run, "fan"]
    with subprocess.Popen(command, env=page.environment, stdout=subprocess.PIPE, text=True) as following:
        with place.service() as client:
            deadline = time.monotonic() + 60
            while not [one for one in client.request("status")["clients"] if one["role"] == "cli"][1:]:
                assert time.monotonic() < deadline
        assert following.stdout is not None
        first = following.stdout.readline()  # before any item has ended: the gate is shut
        gate.touch()
        said, _ = following.communicate(timeout=60)
    assert following.returncode == 0
    assert first.startswith("fan: 0 of 3")
    lines = [line for line in said.splitlines() if line.startswith("fan: ") and " of 3" not in line]
    assert [line[:12] for line in lines] == ["fan: 3 items"]


@pytest.mark.parametrize("option", ["--cache", "--no-cache"])
def test_the_cache_of_a_line_reuses_items_or_does_not(page: Any, option: str) -> None:
    page.run("import os")
    cell = f"%%step pids {option} --foreach x in range(3)\npid = os.getpid(), x\n"
    first, second = ((page.run(cell, f"pids{option}"), page.value("pid"))[1] for _ in range(2))
    assert (first == second) is (option == "--cache")


def test_items_that_had_ended_well_are_reused_when_catch_is_added(page: Any) -> None:
    body = "if number == 1:\n    raise ValueError(number)\nsome = number\nif number:\n    other = number\n"
    line = "%%step caught --wait --foreach number in range(3)"
    assert page.run(f"{line}\n{body}", "caught").status == "error"
    assert page.run(f"{line} --cache --catch\n{body}", "caught").status == "ok"
    page.run("(found,) = [mlbench.run(one)['caught'] for one in mlbench.runs(limit=1)['id']]")
    assert page.value("list(found.items()['state'])") == "['reused', 'failed', 'reused']"
    assert page.value("[bool(one) for one in some], some[2]") == "([False, False, True], 2)"
    assert page.value("other[0]").endswith("It ended without binding other.)")
