"""What the command line does where nobody reads what it prints: the work counts, and the exit status tells of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from mlbench.core.records import Execution, Run
from mlbench.entrypoints.cli.run import _Lines, _terminated_as_interrupted
from mlbench.project import Project

MLBENCH = [sys.executable, "-m", "mlbench"]
CLOSED = "import os, sys; [os.close(n) for n in (0, 1, 2)]; os.execv(sys.argv[1], sys.argv[1:])"


@pytest.fixture
def notebook(tmp_path: Path, store: Path, runtime: Path) -> Path:
    """Return a notebook without steps that succeeds; beside it stands `fails.ipynb`."""
    for name, source in (("fails", "1 / 0"), ("good", "1 + 1")):
        made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])  # type: ignore[no-untyped-call]
        made.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "Python 3"}
        nbformat.write(made, tmp_path / f"{name}.ipynb")  # type: ignore[no-untyped-call]
    return tmp_path / "good.ipynb"


def unread(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command into a pipe that is closed at its other end."""
    read, write = os.pipe()
    os.close(read)
    try:
        return subprocess.run([*MLBENCH, *arguments], stdout=write, stderr=subprocess.PIPE, text=True, timeout=120)
    finally:
        os.close(write)


def state() -> str:
    (run,) = Project.open().catalog.runs()
    return run.state


def test_a_run_that_nobody_listens_to_is_done_all_the_same(notebook: Path) -> None:
    answer = unread("run", str(notebook))
    assert (answer.returncode, answer.stderr) == (0, "")
    assert state() == "succeeded"


def test_a_run_that_fails_unheard_has_failed(notebook: Path) -> None:
    answer = unread("run", str(notebook.with_name("fails.ipynb")))
    assert (answer.returncode, answer.stderr) == (1, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no file that is always full")
def test_where_it_cannot_be_written_what_came_of_a_run_that_is_said_and_the_run_stays_whole(notebook: Path) -> None:
    with open("/dev/full", "w") as full:
        answer = subprocess.run(
            [*MLBENCH, "run", str(notebook)], stdout=full, stderr=subprocess.PIPE, text=True, timeout=120
        )
        assert answer.returncode == 2
        assert answer.stderr.startswith("Error: What there is to say cannot be written: No space left on device.")
        assert answer.stderr.count("\n") == 1
        unsaid = subprocess.run([*MLBENCH, "show", "zzzz"], stdout=full, stderr=full, timeout=120)
        assert unsaid.returncode == 2
    assert state() == "succeeded"


def test_a_command_whose_caller_has_closed_its_streams_works(notebook: Path) -> None:
    """A kernel is started then, which needs the three; and no file of a store may be one of them."""
    answer = subprocess.run([sys.executable, "-c", CLOSED, *MLBENCH, "run", str(notebook)], timeout=120)
    assert answer.returncode == 0
    assert state() == "succeeded"


def test_a_closed_pipe_does_not_end_the_thread_that_tells_of_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the one that hears answers of the service: without it the run's end waited for one for a minute."""
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        lines = _Lines(("train",))
        lines.take({"type": "run", "run": Run(id="r", kind="papermill", name="n", state="running")})  # type: ignore[arg-type]
        lines.take({"type": "execution", "execution": Execution(id="e", run="r", step="train", state="running")})  # type: ignore[arg-type]
        assert lines.steps["train"] is not None
        monkeypatch.undo()
        os.dup2(os.open(os.devnull, os.O_WRONLY), write)


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGHUP])
def test_the_end_of_a_terminal_is_an_interrupt_unless_it_is_ignored_as_by_nohup(sign: signal.Signals) -> None:
    before = signal.getsignal(sign)
    with pytest.raises(KeyboardInterrupt), _terminated_as_interrupted():
        os.kill(os.getpid(), sign)
    assert signal.getsignal(sign) == before
    signal.signal(sign, signal.SIG_IGN)
    try:
        with _terminated_as_interrupted():
            os.kill(os.getpid(), sign)
    finally:
        signal.signal(sign, before)
