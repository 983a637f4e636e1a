"""What becomes of steps when cells are stopped, kernels restart and front ends cannot show late output."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest


def wait_for_file(path: Path, lines: int = 1, timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    while not (path.exists() and len(path.read_text().splitlines()) >= lines):
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.05)


def slow_step(name: str, mark: Path, seconds: float, variable: str = "x") -> str:
    return (
        f"%%step {name}\nimport time\n"
        f"with open({str(mark)!r}, 'a') as f: print('begun', file=f)\n"
        f"time.sleep({seconds})\n{variable} = 1\nprint('over {name}')\n"
    )


def gated_step(name: str, mark: Path, go: Path, variable: str = "x") -> str:
    return (
        f"%%step {name}\nimport os, time\n"
        f"with open({str(mark)!r}, 'a') as f: print('begun', file=f)\n"
        f"while not os.path.exists({str(go)!r}): time.sleep(0.05)\n{variable} = 1\nprint('over {name}')\n"
    )


def test_where_late_output_would_be_lost_the_cell_waits(place: Any) -> None:
    other = place.notebook(greet=False)
    begun = time.monotonic()
    answer = other.run("%%step load\nimport time; time.sleep(1); x = 1\nprint('native')\nx")
    assert time.monotonic() - begun > 1
    assert "native" in answer.text
    assert answer.messages[-1]["msg_type"] == "execute_result"
    assert answer.messages[-1]["parent_header"]["msg_id"]
    failed = other.run("%%step bad\n1 / 0\n")
    assert failed.reply["ename"] == "ZeroDivisionError"
    assert len([one for one in failed.messages if one["msg_type"] == "error"]) == 1
    assert other.late == []
    other.close()


def test_a_failed_step_does_not_stand_in_the_way_of_code_that_only_may_read_it(page: Any) -> None:
    page.run("%%step nothing\nno_value = 1 / 0\n")
    assert page.run("no_value").status == "error"
    assert page.value("eval('1 + 1'), 'no_value' in globals()") == "(2, True)"
    page.run("no_value = 0")


def test_run_all_stops_at_a_step_that_fails(page: Any) -> None:
    page.run("%%step warm\nw = 1\n")
    page.run("w")
    until_it_has_failed = (
        "import time\nuntil = time.monotonic() + 30\n"
        "while not get_ipython().mlbench_session.order.steps['fails'].ended and time.monotonic() < until:\n"
        "    time.sleep(0.05)"
    )
    requests = [
        page.send("%%step fails\nimport time; time.sleep(0.3)\nbad = 1 / 0\n", "fails"),
        page.send(until_it_has_failed),
        page.send("never_run = 1"),
        page.send("%%step never\nn = 1\n"),
    ]
    answers = [page.receive(one) for one in requests]
    assert [one.status for one in answers[:2]] == ["ok", "ok"]
    assert answers[2].reply["ename"] == "CellNotRun"
    assert answers[3].status in ("error", "aborted")
    assert page.value("'never_run' in globals()") == "False"


def test_the_stop_button_cancels_what_the_waiting_cell_waits_for(page: Any, tmp_path: Path) -> None:
    page.run(slow_step("stopped", tmp_path / "begun", 60))
    wait_for_file(tmp_path / "begun")
    request = page.send("x + 1")
    page.until_it_waits(request)
    page.manager.interrupt_kernel()
    answer = page.receive(request)
    assert answer.reply["ename"] == "KeyboardInterrupt"
    assert "Stopping stopped. It is paused now, and cancelled in 3 seconds" in answer.text
    again = page.run("x")
    assert again.reply["ename"] == "StepFailed"
    assert "cancelled" in again.error


def test_a_wait_that_is_given_up_cancels_nothing_and_says_so(place: Any, page: Any, tmp_path: Path) -> None:
    go = tmp_path / "go"
    page.run(gated_step("kept", tmp_path / "begun", go, "kept_x"), "kept")
    wait_for_file(tmp_path / "begun")
    execution = page.run("get_ipython().mlbench_session.order.steps['kept'].execution").text.strip("'")
    request = page.send("kept_x + 1")
    page.until_it_waits(request)
    with place.service() as client:
        client.request("keep", {"executions": [execution]})
    page.manager.interrupt_kernel()
    answer = page.receive(request)
    assert "Not waiting any more; kept goes on." in answer.text
    go.touch()
    assert page.value("kept_x") == "1"


def test_an_interrupt_of_an_idle_kernel_cancels_nothing(page: Any, tmp_path: Path) -> None:
    page.run(slow_step("goes_on", tmp_path / "begun", 3, "idle_x"))
    wait_for_file(tmp_path / "begun")
    page.manager.interrupt_kernel()
    assert page.value("idle_x") == "1"


def test_a_restart_loses_no_work_and_the_same_cell_attaches(place: Any, tmp_path: Path) -> None:
    book = place.notebook()
    mark = tmp_path / "begun"
    go = tmp_path / "go"
    source = gated_step("survives", mark, go)
    book.run(source, "survives")
    wait_for_file(mark)
    book.restart()
    answer = book.run(source, "survives")
    assert "under way since" in answer.text
    go.touch()
    assert book.value("x") == "1"
    assert "over survives" in book.late_text("survives", "over")
    assert len(mark.read_text().splitlines()) == 1
    book.close()


def test_a_restart_while_a_cell_waits_is_no_stop(place: Any, tmp_path: Path) -> None:
    book = place.notebook()
    mark = tmp_path / "begun"
    go = tmp_path / "go"
    source = gated_step("waited", mark, go)
    book.run(source, "waited")
    wait_for_file(mark)
    book.until_it_waits(book.send("x"))
    book.restart()
    book.run(source, "waited")
    go.touch()
    assert book.value("x") == "1"
    assert len(mark.read_text().splitlines()) == 1
    book.close()


def test_a_step_that_is_edited_and_run_again_takes_the_place_of_its_first_run(page: Any, tmp_path: Path) -> None:
    mark = tmp_path / "begun"
    page.run(slow_step("edited", mark, 60, "e"), "edited")
    wait_for_file(mark)
    page.run("%%step child\nc = e + 1\n", "child")
    page.run("%%step edited\ne = 41\n", "edited")
    assert page.value("e, c") == "(41, 42)"


def test_two_kernels_use_one_service(place: Any, page: Any) -> None:
    other = place.notebook()
    page.run("%%step mine\nv = 'page'\n")
    other.run("%%step mine\nv = 'other'\n")
    assert (page.value("v"), other.value("v")) == ("'page'", "'other'")
    other.close()


def test_cancel_ends_a_step_and_its_process(page: Any, tmp_path: Path) -> None:
    page.run(
        "%%step endless\nimport os, time\n"
        f"with open({str(tmp_path / 'pid')!r}, 'w') as f: print(os.getpid(), file=f)\n"
        "time.sleep(600)\nx = 1\n",
        "endless",
    )
    wait_for_file(tmp_path / "pid")
    assert "endless" in page.run("%cancel endless").text
    assert "cancelled" in page.run("x").error
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 30
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists()


def test_a_step_whose_process_is_killed_says_so(page: Any) -> None:
    page.run("%%step killed\nimport os, signal\nos.kill(os.getpid(), signal.SIGKILL)\nk = 1\n", "killed")
    answer = page.run("k")
    assert answer.reply["ename"] == "StepFailed"


def test_a_widgets_callback_waits_for_a_pending_name(page: Any) -> None:
    page.run(
        "box = []\n"
        "def opened(comm, message):\n    comm.on_msg(lambda message: box.append(len(later)))\n"
        "get_ipython().kernel.comm_manager.register_target('test', opened)"
    )
    shell = page.client.shell_channel
    session = page.client.session
    shell.send(session.msg("comm_open", {"comm_id": "c1", "target_name": "test", "data": {}}))
    page.run("%%step slow\nimport time; time.sleep(1); later = [1, 2, 3]\n")
    shell.send(session.msg("comm_msg", {"comm_id": "c1", "data": {}}))
    assert page.value("box") == "[3]"


def test_completion_and_inspection_never_wait(page: Any, tmp_path: Path) -> None:
    go = tmp_path / "go"
    page.run(gated_step("slow", tmp_path / "begun", go, "later"))
    page.client.complete("later.", 6)
    assert page.client.get_shell_msg(timeout=60)["content"]["matches"] == []
    page.client.inspect("later", 5)
    assert page.client.get_shell_msg(timeout=60)["content"]["found"]
    assert "pending" in page.run("%whos").text
    page.run("{name: repr(value) for name, value in list(globals().items())}", silent=True)
    go.touch()
    assert page.value("later") == "1"


def test_a_killed_service_is_told_or_made_good_and_never_hangs_a_cell(place: Any, tmp_path: Path) -> None:
    book = place.notebook()
    book.run("%%step warm\nw = 1\n")
    assert book.value("w") == "1"
    with place.service() as client:
        pid = client.service.pid
    book.run(slow_step("orphan", tmp_path / "begun", 60), "orphan")
    wait_for_file(tmp_path / "begun")
    request = book.send("x")
    book.until_it_waits(request)
    os.kill(pid, signal.SIGKILL)
    answer = book.receive(request, 90)
    assert answer.reply["ename"] == "StepFailed"
    assert "service" in answer.error
    book.run("%%step after\ny = 5\n")
    assert book.value("y", timeout=90) == "5"
    book.close()


def test_loading_is_cheap_and_starts_nothing(tmp_path: Path) -> None:
    import subprocess
    import sys

    program = (
        "import sys, os\n"
        "from IPython.core.interactiveshell import InteractiveShell\n"
        "shell = InteractiveShell.instance()\n"
        "before = set(sys.modules)\n"
        "shell.run_cell('%load_ext mlbench')\n"
        "assert '%%step' and 'step' in shell.magics_manager.magics['cell']\n"
        "heavy = {'distributed', 'dask', 'sqlalchemy', 'alembic', 'msgspec', 'cloudpickle', 'importlib.metadata',\n"
        "    'mlbench.backends.blobs_local', 'mlbench.runs.plan'} & (set(sys.modules) - before)\n"
        "assert not heavy, heavy\n"
        "assert not os.path.exists(os.environ['MLBENCH_RUNTIME'])\n"
    )
    environment = {**os.environ, "MLBENCH_RUNTIME": str(tmp_path / "run"), "MLBENCH_STORE": str(tmp_path / "store")}
    found = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    # a failure in a shell's cell is shown, and `benchmarks load_ext` says what loading takes
    assert (found.returncode, found.stdout) == (0, ""), found.stdout + found.stderr


@pytest.mark.slow
def test_every_way_to_reach_a_pending_name_works_in_a_real_kernel(page: Any) -> None:
    import runpy

    ways = runpy.run_path(str(Path(__file__).parents[2] / "unit" / "kernel" / "test_pending.py"))
    page.run("x = 0")
    assert page.run(ways["SETUP"]).status == "ok"
    wrong = []
    for way in ways["WAYS"]:
        page.run("%%step make\nimport time; time.sleep(0.05); x = [1, 2, 3]\n", "make")
        answer = page.run(way.cell)
        found = page.run("box[-1]" if way.boxed else "r").text
        if answer.status != "ok" or found != repr(way.result):
            wrong.append((way.title, answer.error, found))
    assert wrong == []
