"""Under the engine: many steps at once, a plain cell that fails while steps run, and Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import papermill
import pytest

from mlbench.project import Project
from tests.integration.house import House
from tests.integration.test_papermill_steps import read, texts, write

STEPS, LINES = 40, 60


@pytest.fixture
def project(service: House) -> Iterator[Project]:
    project = Project.open()
    yield project
    project.catalog.close()


def test_the_lines_of_forty_overlapping_steps_are_each_under_their_own_cell(tmp_path: Path, project: Project) -> None:
    body = (
        "import sys, time\nfor i in range({lines}):\n"
        "    print('{name}', i, file=sys.stderr if i % 3 == 0 else sys.stdout, flush=True)\n    time.sleep(0.005)\n"
        "{name} = 1"
    )
    steps = [f"%%step s{n} --after none\n{body.format(name=f's{n}', lines=LINES)}" for n in range(STEPS)]
    source = write(tmp_path / "in.ipynb", "a = 1", "%load_ext mlbench", *steps, "print('plain')")
    papermill.execute_notebook(str(source), str(tmp_path / "out.ipynb"), engine_name="mlbench", progress_bar=False)
    cells = read(tmp_path / "out.ipynb")
    for n in range(STEPS):
        cell = cells[f"cell-{n + 2}"]
        for stream in ("stdout", "stderr"):
            said = "".join(output.text for output in cell.outputs if output.name == stream).splitlines()
            assert said == [f"s{n} {i}" for i in range(LINES) if (i % 3 == 0) == (stream == "stderr")]
    assert texts(cells[f"cell-{STEPS + 2}"]) == "plain\n"
    (run,) = project.catalog.runs()
    executions = [one for one in project.catalog.executions(run.id) if one.started and one.ended]
    assert len(executions) == STEPS
    together = max(
        sum(other.started <= one.started < other.ended for other in executions)  # type: ignore[operator]
        for one in executions
    )
    assert together > 1, "no two of them overlapped"


def test_what_the_shell_binds_by_itself_is_no_result_of_a_step(tmp_path: Path, project: Project) -> None:
    source = write(
        tmp_path / "in.ipynb",
        "a = 1",
        "%load_ext mlbench",
        "!false",
        "a + 1",
        "%%step one\nok = _exit_code == 1\n!true\n_i2 = _1 = _ = 5\na",
        "%%step each --foreach i in [1, 2]\nr = (i, _exit_code)\n!true\n_ = 3",
        "assert ok and r == [(1, 1), (2, 1)], (ok, r)",
    )
    papermill.execute_notebook(str(source), str(tmp_path / "out.ipynb"), engine_name="mlbench", progress_bar=False)
    assert [texts(cell) for cell in read(tmp_path / "out.ipynb").values() if "changed" in texts(cell)] == []
    (run,) = project.catalog.runs()
    bound = {one.step: {binding.name for binding in one.binds} for one in project.steps(run.id)}
    assert bound == {"one": {"ok"}, "each": {"r"}}


def test_steps_that_run_when_a_plain_cell_fails_end_and_keep_what_they_printed(
    tmp_path: Path, project: Project
) -> None:
    ran = tmp_path / "ran"
    source = write(
        tmp_path / "in.ipynb",
        "a = 1",
        "%load_ext mlbench",
        "%%step slow\nimport time\nprint('begins', flush=True)\ntime.sleep(1.5)\nprint('ends')\nslow = 1",
        "%%step next\nprint('next', slow)\nlater = slow",
        "print('before')\n1 / 0",
        f"open({str(ran)!r}, 'w')",
    )
    code = "import sys; from mlbench.entrypoints.cli import main; main(['run', sys.argv[1], '-o', sys.argv[2]])"
    done = subprocess.run(
        [sys.executable, "-c", code, str(source), str(tmp_path / "out.ipynb")],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    cells = read(tmp_path / "out.ipynb")
    assert texts(cells["cell-2"]) == "begins\nends\n"
    assert texts(cells["cell-3"]) == "next 1\n"
    assert texts(cells["cell-4"]) == "before\n"
    assert [output.ename for output in cells["cell-4"].outputs if output.output_type == "error"] == [
        "ZeroDivisionError"
    ]
    assert not ran.exists()
    (run,) = project.catalog.runs()
    assert run.failure is not None
    assert (run.state, run.failed_step, run.failure.cell) == ("failed", None, "cell-4")
    states = {one.step: one.state for one in project.catalog.executions(run.id)}
    assert states == {"slow": "succeeded", "next": "succeeded"}


def test_a_run_that_is_interrupted_says_what_was_cancelled_with_it(tmp_path: Path, project: Project) -> None:
    source = write(
        tmp_path / "n.ipynb",
        "n: int = 1",
        "%load_ext mlbench",
        "%%step first\nimport time\ntime.sleep(120)\nfirst = n",
        "%%step second\nsecond = first",
        "second",
    )
    code = "import sys; from mlbench.entrypoints.cli import main; main(['run', sys.argv[1]])"
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", code, str(source)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    awaited = {"first running", "second queued"}
    for line in process.stdout:
        awaited -= {one for one in awaited if line.startswith(one)}
        if not awaited:
            break
    os.kill(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    (run,) = project.catalog.runs()
    assert process.returncode == 130
    assert said == (
        f"Error: Interrupted: n was cancelled with the steps first, second. See more: mlbench show {run.id[:4]}\n"
    )
    assert (run.state, run.reason) == ("cancelled", "user")
    states = {(one.state, one.reason) for one in project.catalog.executions(run.id)}
    assert states == {("cancelled", "user")}
