"""`mlbench logs -f` follows a run by the service's news, and `mlbench show` says how far a fan-out is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mlbench.core.ids import ExecutionId, new_id
from mlbench.core.records import Execution, FanOut, Run
from mlbench.entrypoints.cli import main
from mlbench.project import Project
from tests.integration.house import PATIENCE, House, eventually

COMMAND = [sys.executable, "-u", "-c", "from mlbench.entrypoints.cli import main; main()"]


class Following:
    """A command that runs beside the test: `until` waits for a line of its output."""

    def __init__(self, *arguments: str) -> None:
        self.lines: list[str] = []
        self._more = threading.Condition()
        self._process = subprocess.Popen(
            [*COMMAND, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._more:
                self.lines.append(line.rstrip("\n"))
                self._more.notify_all()

    def until(self, line: str) -> None:
        with self._more:
            assert self._more.wait_for(lambda: line in self.lines, PATIENCE), self.lines

    def status(self) -> int:
        """Wait for its end and return its exit status."""
        status = self._process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return status

    def end(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._reader.join(PATIENCE)
        assert self._process.stdout is not None
        self._process.stdout.close()


@pytest.fixture
def following() -> Iterator[list[Following]]:
    """Return the commands that run beside the test; they are ended with it."""
    started: list[Following] = []
    yield started
    for one in started:
        one.end()


def start(following: list[Following], *arguments: str) -> Following:
    following.append(Following("logs", "-f", *arguments))
    return following[-1]


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert isinstance(ended.value.code, int)
    captured = capsys.readouterr()
    return ended.value.code, captured.out + captured.err


def run_of(kernel: object, execution: str) -> str:
    return str(kernel.state(execution, "running", "succeeded", "failed").run)  # type: ignore[attr-defined]


def test_a_run_is_followed_from_what_it_has_printed_to_its_end(
    quick: House, tmp_path: Path, following: list[Following]
) -> None:
    kernel, gate = quick.kernel(), tmp_path / "gate"
    load = kernel.submit("load", f"print one\nwait {gate}\nprint two")
    kernel.submit("train", "print three", f"load={load}")
    run = run_of(kernel, load)
    command = start(following, run)
    command.until("one")
    assert "two" not in command.lines
    gate.touch()
    assert command.status() == 0
    assert command.lines == ["--- load ---", "one", "two", "--- train ---", "three"]


def test_a_run_that_fails_is_followed_with_status_one(quick: House, tmp_path: Path, following: list[Following]) -> None:
    kernel, gate = quick.kernel(), tmp_path / "gate"
    load = kernel.submit("load", f"wait {gate}\nfail badly")
    command = start(following, run_of(kernel, load)[:8])
    gate.touch()
    assert command.status() == 1


def test_one_step_is_followed_to_its_own_end(quick: House, tmp_path: Path, following: list[Following]) -> None:
    kernel, gate, other = quick.kernel(), tmp_path / "gate", tmp_path / "other"
    kernel.submit("slow", f"print no\nwait {other}")
    load = kernel.submit("load", f"print one\nwait {gate}\nprint two")
    command = start(following, run_of(kernel, load), "load")
    command.until("one")
    gate.touch()
    assert command.status() == 0
    assert command.lines == ["one", "two"]
    other.touch()


def test_a_step_that_begins_later_is_waited_for(quick: House, tmp_path: Path, following: list[Following]) -> None:
    kernel, gate = quick.kernel(), tmp_path / "gate"
    load = kernel.submit("load", f"print one\nwait {gate}")
    run = run_of(kernel, load)
    command = start(following, run, "train", "--json")
    eventually(lambda: [one for one in kernel.client.request("status")["clients"] if one["role"] == "cli"])
    kernel.submit("train", "print late", f"load={load}")
    gate.touch()
    assert command.status() == 0
    (said,) = [json.loads(line) for line in command.lines]
    assert (said["step"], said["messages"][0]["text"]) == ("train", "late\n")


def test_a_run_that_has_ended_is_printed_and_its_status_told(quick: House, capsys: pytest.CaptureFixture[str]) -> None:
    kernel = quick.kernel()
    good, bad = kernel.submit("good", "print well"), kernel.submit("bad", "print ill\nfail")
    run = str(kernel.state(good).run)
    kernel.state(bad)
    kernel.run_state(run, "failed")
    status, said = call(capsys, "logs", "-f", run)
    assert status == 1
    assert "well" in said
    assert call(capsys, "logs", "-f", run, "good") == (0, "well\n")
    assert call(capsys, "logs", run)[0] == 0, "without -f it says what was printed, whatever came of it"


def test_a_service_that_is_lost_is_said(quick: House, tmp_path: Path, following: list[Following]) -> None:
    kernel = quick.kernel()
    load = kernel.submit("load", f"print one\nwait {tmp_path / 'gate'}")
    command = start(following, run_of(kernel, load))
    command.until("one")
    quick.kill()
    assert command.status() == 2
    assert "The mlbench service was lost." in command.lines[-1]


# --- fan-outs, as a store holds them ---------------------------------------------------------------------------------


def stored(project: Project, state: str = "succeeded") -> Run:
    """Put a fan-out of three items into a store, of which the last has failed."""
    run = project.begin_run(kind="papermill", notebook="/home/ada/flights.ipynb", name="flights")
    whole = Execution(
        id=ExecutionId(new_id()),
        run=run.id,
        step="train",
        state="failed",
        started=1,
        ended=2_000_000_000,
        fanout=FanOut(names=("carrier",), shape=(3,), total=3, succeeded=2, reused=0, failed=1),
    )
    items = [
        replace(
            whole,
            id=ExecutionId(new_id()),
            fanout=None,
            part_of=whole.id,
            item=number,
            state="succeeded" if number < 2 else "failed",
            messages=({"output_type": "stream", "name": "stdout", "text": f"item {number}\n"},),
        )
        for number in range(3)
    ]
    project.catalog.put_executions([whole, *items])
    project.put_execution(replace(whole, id=ExecutionId(new_id()), step="load", state="reused", fanout=None))
    return project.end_run(run, state)  # type: ignore[arg-type]


def test_an_item_of_a_fan_out_is_printed_by_its_number(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project = Project.open()
    run = stored(project)
    project.close()
    assert call(capsys, "logs", run.id, "train", "--item", "1") == (0, "item 1\n")
    assert call(capsys, "logs", "-f", run.id, "train", "--item", "1") == (0, "item 1\n"), (
        "whatever became of the others"
    )
    assert call(capsys, "logs", "-f", run.id, "train", "--item", "2") == (1, "item 2\n")
    status, said = call(capsys, "logs", run.id, "train", "--item", "3")
    assert status == 2
    assert "no item 3: they are numbered from 0 to 2" in said
    assert "needs the step" in call(capsys, "logs", run.id, "--item", "3")[1]
    assert "has no items" in call(capsys, "logs", run.id, "load", "--item", "0")[1]


def test_a_run_shows_how_many_items_are_done_and_what_was_reused(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = Project.open()
    run = stored(project)
    project.close()
    _, said = call(capsys, "show", run.id)
    (train,) = [line for line in said.splitlines() if "train" in line]
    assert "×3 · 2 done · 1 failed" in train
    assert [line for line in said.splitlines() if "load" in line and "○ reused" in line]


def reusing(project: Project) -> tuple[Run, Run]:
    """Put two runs of a kernel, whose notebook nobody has named, into a store: the second reuses some of the first."""
    first, second = (project.begin_run(kind="interactive", name="notebook", kernel="k1") for _ in range(2))
    made = Execution(
        id=ExecutionId(new_id()),
        run=first.id,
        step="load",
        state="succeeded",
        started=1,
        ended=2,
        key_parts={"code": "1", "asked": "line"},
        messages=({"output_type": "stream", "name": "stdout", "text": "loaded\n"},),
    )
    taken = replace(made, id=ExecutionId(new_id()), run=second.id, state="reused", reused_from=made.id, messages=())
    train = replace(made, id=ExecutionId(new_id()), step="train", messages=())
    changed = replace(
        train,
        id=ExecutionId(new_id()),
        run=second.id,
        key_parts={"code": "2", "asked": "line"},
        fanout=FanOut(names=("n",), shape=(6,), total=6, succeeded=1, reused=5),
    )
    skipped = replace(
        train, id=ExecutionId(new_id()), run=second.id, step="report", state="skipped", note="Step other failed."
    )
    project.catalog.put_executions([made, taken, train, changed, skipped])
    return first, second


def test_a_run_shows_which_run_a_step_is_from(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project = Project.open()
    first, second = reusing(project)
    project.close()
    _, said = call(capsys, "show", second.id)
    (load,) = [line for line in said.splitlines() if "load" in line]
    assert f"from run {first.id[:4]}" in load


def test_why_finds_the_earlier_runs_of_a_kernel_whose_notebook_is_unknown(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = Project.open()
    first, second = reusing(project)
    project.close()
    _, said = call(capsys, "why", second.id, "train")
    assert f"not reused as a whole, though 5 of its items were, compared with run {first.id[:4]}" in said
    assert "never" not in said
    assert "no earlier run of this kernel has it" in call(capsys, "why", first.id, "load")[1]


def test_logs_say_what_became_of_a_step_that_did_not_run(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project = Project.open()
    first, second = reusing(project)
    project.end_run(second, "failed")
    project.close()
    status, said = call(capsys, "logs", second.id, "load")
    assert status == 0
    assert f"load was reused from run {first.id[:4]}, which had printed this:" in said
    assert "loaded" in said
    status, said = call(capsys, "logs", "-f", second.id, "report")
    assert status == 1
    assert "report was skipped. Step other failed." in said
    assert (
        "has no items: it was skipped. Step other failed."
        in call(capsys, "logs", second.id, "report", "--item", "1")[1]
    )
    assert "train has printed nothing." in call(capsys, "logs", second.id, "train")[1]
