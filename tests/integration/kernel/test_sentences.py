"""What a cell shows when something is wrong: one sentence that says what to do, and no line of ours."""

from __future__ import annotations

import re
from typing import Any

import pytest


def shown(answer: Any) -> str:
    """Return what a cell shows of its error."""
    return re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(answer.reply["traceback"]))


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("%%step load --tiemout 3", "UsageError: Unknown option --tiemout: did you mean --timeout?"),
        ("%%step", "UsageError: A step needs a name: %%step NAME."),
        ("%%step 3x!", "UsageError: The step name 3x! holds !: use letters, digits, '_', '-' and '.'."),
        ("%%step load --timeout soon", "UsageError: --timeout takes a time such as 30s, 10m, 2h or 1d: found soon."),
        ("%%step load --outputs zz", "UsageError: --outputs names zz, which step load does not bind. It binds x."),
        ("%%step load --no-store zz", "UsageError: --no-store names zz, which step load does not bind. It binds x."),
        ("%%step load --after zz", "UsageError: --after names zz, and no step of that name has been run."),
    ],
)
def test_a_wrong_line_is_one_sentence(page: Any, line: str, sentence: str) -> None:
    answer = page.run(f"{line}\nx = 1\n")
    assert shown(answer).startswith(sentence)
    assert "\n" not in shown(answer)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("y = cfg", 'This can\'t be sent to a step: cfg["lock"] (_thread.lock). Make it inside the step.'),
        ("y = file.read()", "This can't be sent to a step: file (_io.TextIOWrapper). Open it inside the step."),
        ("y = helper()", "This can't be sent to a step: numbers (which helper reads) (generator). Make a list of it"),
        ("y = con.execute('')", "This can't be sent to a step: con (sqlite3.Connection). Connect inside the step."),
        ("from math import *", "Step broken has `from math import *`, so its names can't be known. Put that line"),
    ],
)
def test_what_cannot_be_sent_is_named_with_what_to_do(page: Any, body: str, sentence: str) -> None:
    page.run(
        "import threading, sqlite3\ncfg = {'lock': threading.Lock()}\nfile = open('/dev/null')\n"
        "numbers = (n for n in range(3))\ndef helper(): return list(numbers)\ncon = sqlite3.connect(':memory:')\n"
    )
    answer = page.run(f"%%step broken\n{body}\n")
    assert sentence in shown(answer)
    assert "\n" not in shown(answer)


def test_the_error_of_a_step_and_what_follows_from_it(page: Any) -> None:
    page.run("def parse(text):\n    return int(text)\n")
    page.run("%%step failing\nvalue = parse('x')\n", "failing")
    answer = page.run("value + 1")
    assert shown(answer) == (
        "StepFailed: Step failing failed: ValueError: invalid literal for int() with base 10: 'x'. "
        "Its own cell shows what happened."
    )
    text = re.sub(r"\x1b\[[0-9;]*m", "", page.late_text("failing", "%debug"))
    assert "----> 2 value = parse('x')" in text
    assert "return int(text)" in text
    assert "Run the cell with `%%step failing --here`, then `%debug`." in text
    assert "mlbench/" not in text
    page.run("%%step child\nq = value\n", "child")
    assert shown(page.run("q")) == (
        "StepFailed: Step child was skipped: Step failing failed. Its own cell shows what happened."
    )
    assert "Step child was not run: Step failing failed." in page.late_text("child", "not run")


def test_a_step_that_a_failed_one_holds_back_says_how_to_run_it_all_the_same(page: Any) -> None:
    page.run("%%step checked --after none\nassert 1 > 2\n", "checked")
    page.late_text("checked", "AssertionError")
    page.run("%%step sent\nprint('out')\n", "sent")
    assert "so it waits for the steps above it; `%%step sent --after none` does not." in page.late_text(
        "sent", "not run"
    )
    page.run("%%step sent --after none\nprint('out')\n", "sent")
    assert "out" in page.late_text("sent", "out")


def test_a_waited_step_shows_its_error_as_its_cells_own(page: Any) -> None:
    answer = page.run("%%step waited --wait\ndef g(v):\n    return 1 / v\nw = g(0)\n")
    text = shown(answer)
    assert answer.reply["ename"] == "ZeroDivisionError"
    assert "----> 4 w = g(0)" in text
    assert "mlbench/" not in text
    assert len([one for one in answer.messages if one["msg_type"] == "error"]) == 1


def test_a_step_that_takes_too_long_says_so(page: Any) -> None:
    page.run("%%step long --timeout 1s\nimport time; time.sleep(60); t = 1\n", "long")
    assert "Step long ran longer than 1 s and was ended." in shown(page.run("t"))
    assert "Give it longer with `--timeout`" in page.late_text("long", "--timeout")


def test_a_step_whose_process_was_killed_says_so(page: Any) -> None:
    page.run("%%step killed\nimport os; os.kill(os.getpid(), 9); k = 1\n", "killed")
    assert "The process of step killed was killed by SIGKILL" in shown(page.run("k"))
    assert "ran out of memory" in page.late_text("killed", "memory:")


def test_a_name_that_could_not_be_stored_is_told_in_its_cell_and_when_it_is_read(page: Any) -> None:
    page.run("%%step binds\nlazy = (i for i in range(3))\nwith open('/dev/null') as f: pass\nfine = 1\n", "binds")
    assert page.value("fine") == "1"
    sentence = "`lazy` is a generator, which can't be stored. Keep what it yields instead, as in `list(…)`."
    assert shown(page.run("lazy")) == f"ResultError: {sentence}"
    assert page.late_text("binds", "list(") == f"mlbench: {sentence}\n"


def test_a_name_that_was_left_out_is_told(page: Any) -> None:
    page.run("%%step leaves --no-store big\nbig = 1\nsmall = 2\n")
    assert shown(page.run("big")) == (
        "ResultError: Step leaves was run with --no-store big. Run the step without that option to have its value here."
    )


def test_a_name_that_only_eval_reads_is_told(page: Any) -> None:
    page.run("hidden_name = 3")
    page.run("%%step evaluates\nv = eval('hidden' + '_name')\n", "evaluates")
    page.run("v")
    assert "The kernel has hidden_name, but the step's source does not show that it reads it. Write a line" in (
        page.late_text("evaluates", "Write a line")
    )


def test_what_to_do_about_an_error_of_ours_is_told_once(page: Any) -> None:
    page.run("%%step asks\nanswer = input('name? ')\n", "asks")
    page.run("answer")
    assert page.late_text("asks", "in a plain cell.").count("Make the value a parameter of the notebook") == 1


def test_exit_is_no_name_to_send_along(page: Any) -> None:
    page.run("%%step leaves_early --after none\nexit()\n", "leaves_early")
    assert "leave exit() out" in page.late_text("leaves_early", "what is wrong.")


def test_cancelling_what_is_not_there_is_told(page: Any) -> None:
    assert shown(page.run("%cancel nobody")).startswith("UsageError: No step nobody has been run here. Steps: ")


def test_where_no_service_can_be_and_no_store_the_folder_is_named_and_plain_cells_run(place: Any) -> None:
    book = place.notebook(MLBENCH_RUNTIME="/proc/nothing")
    assert shown(book.run("%%step load\nx = 1\n")).startswith("ServiceError: The service's folder /proc/nothing cannot")
    assert book.value("1 + 1") == "2"
    book.close()
    book = place.notebook(MLBENCH_STORE="/proc/nothing/store")
    assert shown(book.run("%%step load\nx = 1\n")).startswith(
        "StoreError: The store /proc/nothing/store cannot be used"
    )
    assert book.value("1 + 1") == "2"
    book.close()
