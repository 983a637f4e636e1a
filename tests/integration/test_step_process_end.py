"""A step's process ends when it is to end, at any moment, and takes with it what it has started."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlbench.backends.blobs_local import LocalBlobs
from mlbench.backends.cluster_dask.worker import attendance, supervisor
from mlbench.core.messages import StepTask
from mlbench.core.records import Execution
from tests.integration.steps import (
    PATIENCE,
    Clock,
    Shown,
    alive,
    await_true,
    begin,
    end,
    environment,
    run,
    stopped,
    task,
    text_of,
)

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module", autouse=True)
def _servers() -> Iterator[None]:
    yield
    supervisor.close()


def ended(shown: Shown, thread: threading.Thread, seconds: float = PATIENCE) -> Execution:
    thread.join(seconds)
    assert shown.record is not None
    return shown.record


def numbers(text: str) -> list[int]:
    return [int(word) for word in text.split() if word.isdecimal()]


LINGERING = """
import os, subprocess, sys, time
quick = subprocess.Popen(["sleep", "600"])
apart = subprocess.Popen(["sleep", "600"], start_new_session=True)
print(os.getpid(), quick.pid, apart.pid, "begun")
"""


@pytest.mark.parametrize("how", ["timeout", "cancel", "success"])
def test_nothing_that_a_step_started_outlives_it(store: Path, clock: Clock, how: str) -> None:
    source = LINGERING + ("" if how == "success" else "while True: pass")
    shown, thread = begin(task(store, source, timeout=600.0 if how == "timeout" else None, defs=("quick",)))
    shown.wait_for("begun")
    processes = numbers(shown.text)
    assert len(processes) == 3
    if how == "cancel":
        (execution,) = attendance._running
        supervisor.cancel(execution)
    if how == "timeout":
        clock.advance(600.0)
    record = ended(shown, thread)
    expected = {"timeout": ("failed", "timeout"), "cancel": ("cancelled", "user"), "success": ("succeeded", None)}
    assert (record.state, record.reason) == expected[how]
    await_true(lambda: not any(alive(process) for process in processes))
    if how == "timeout":
        assert record.failure is not None
        assert "longer than 600 s" in record.failure.evalue


def test_a_subprocess_that_prints_without_end_does_not_keep_a_step_from_its_timeout(store: Path) -> None:
    source = """
import subprocess, time
from IPython.display import display
endless = subprocess.Popen(["yes"])
for number in range(1000):
    display(number)
    time.sleep(0.05)
"""
    record = run(task(store, source, timeout=0.6))
    assert (record.state, record.reason) == ("failed", "timeout")


def test_a_cancel_takes_effect_within_a_second_at_every_moment(store: Path) -> None:
    run(task(store, "1"))
    begun = time.monotonic()
    run(task(store, "1"))
    usual = time.monotonic() - begun
    took = []
    for delay in (0.0, 0.001, 0.003, 0.006, 0.01, 0.02, 0.05, 0.3):
        given = task(store, "import time\nprint('x')\ntime.sleep(60)\n", defs=("time",))
        shown, thread = begin(given)
        threading.Event().wait(delay)
        begun = time.monotonic()
        supervisor.cancel(given.execution)
        record = ended(shown, thread)
        assert record.state == "cancelled", delay
        took.append(time.monotonic() - begun)
        assert record.binds == ()
    assert sorted(took)[len(took) // 2] < 1.0 + 5 * usual  # the middle one, on a machine that may be busy
    await_true(lambda: not _steps_alive())


def _steps_alive() -> list[int]:
    return [running.process for running in attendance._running.values() if running.process is not None]


def test_a_cancel_before_the_step_begins_keeps_it_from_beginning(store: Path, tmp_path: Path) -> None:
    given = task(store, f"open({str(tmp_path / 'ghost')!r}, 'w')")
    assert not supervisor.cancel(given.execution, "superseded")
    record = run(given)
    assert (record.state, record.reason) == ("cancelled", "superseded")
    assert not (tmp_path / "ghost").exists()


def test_a_cancel_while_the_server_warms_up_does_not_wait_for_it(store: Path) -> None:
    given = task(store, "1", environment=environment("numpy", "pandas", OMP_WHATEVER="cold"))
    shown, thread = begin(given)
    threading.Event().wait(0.05)
    supervisor.cancel(given.execution)
    assert ended(shown, thread).state == "cancelled"
    assert not attendance._the_servers().get(given.environment).ready


@pytest.mark.parametrize(("lost", "end"), [(True, ("failed", "worker-lost")), (False, ("cancelled", "service-lost"))])
def test_a_step_ends_with_its_worker_or_its_service_and_says_which(
    store: Path, lost: bool, end: tuple[str, str]
) -> None:
    given = task(store, "import time\nprint('begun')\ntime.sleep(60)")
    shown, thread = begin(given)
    shown.wait_for("begun")
    supervisor.close(lost=lost)
    record = ended(shown, thread)
    assert (record.state, record.reason) == end
    assert lost == (record.failure is not None and record.failure.ename == "WorkerLost")


def test_a_cancel_while_a_step_saves_records_nothing_as_done(store: Path) -> None:
    source = """
class Slow:
    def __reduce__(self):
        import time
        print("saving")
        time.sleep(60)
        return Slow, ()
x = Slow()
"""
    given = task(store, source, defs=("x",))
    shown, thread = begin(given)
    shown.wait_for("saving")
    supervisor.cancel(given.execution)
    record = ended(shown, thread)
    assert record.state == "cancelled"
    kept = LocalBlobs(store).find_record("execution", record.id)
    assert kept is not None
    assert kept["state"] == "cancelled"


def test_a_paused_step_stands_still_and_goes_on_and_its_timeout_waits(
    store: Path, tmp_path: Path, clock: Clock
) -> None:
    go = tmp_path / "go"
    source = f"import os, time\nprint(os.getpid(), 'begun')\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)"
    given = task(store, source, timeout=600.0)
    shown, thread = begin(given)
    shown.wait_for("begun")
    assert supervisor.pause(given.execution)
    (process,) = numbers(shown.text)
    await_true(lambda: stopped(process))
    go.touch()
    clock.advance(10_000.0)
    threading.Event().wait(0.2)
    assert stopped(process)
    assert thread.is_alive()
    assert supervisor.resume(given.execution)
    assert ended(shown, thread).state == "succeeded"
    assert not supervisor.pause(given.execution)


def test_a_paused_step_can_be_cancelled(store: Path) -> None:
    given = task(store, "print('begun')\nwhile True: pass")
    shown, thread = begin(given)
    shown.wait_for("begun")
    supervisor.pause(given.execution)
    supervisor.cancel(given.execution)
    assert ended(shown, thread).state == "cancelled"


def test_a_pause_before_the_process_is_there_holds_it(store: Path) -> None:
    given = task(store, "print('begun')")
    shown, thread = begin(given)
    await_true(lambda: supervisor.pause(given.execution) or not thread.is_alive())
    threading.Event().wait(0.3)
    if shown.record is None:
        assert supervisor.resume(given.execution)
    assert ended(shown, thread).state == "succeeded"


def _server(given: StepTask) -> Any:
    return attendance._the_servers().get(given.environment)


def test_a_dead_step_server_is_replaced(store: Path) -> None:
    given = task(store, "1")
    run(given)
    before = _server(given).process
    end(before)
    await_true(lambda: not alive(before))
    assert run(task(store, "1")).state == "succeeded"
    assert _server(given).process != before


def test_steps_whose_server_dies_fail_and_leave_nothing(store: Path) -> None:
    given = task(store, LINGERING + "while True: pass")
    shown, thread = begin(given)
    shown.wait_for("begun")
    processes = numbers(shown.text)
    end(_server(given).process)
    record = ended(shown, thread)
    assert (record.state, record.reason) == ("failed", "error")
    await_true(lambda: not any(alive(process) for process in processes[:2]))
    for process in processes[2:]:  # a session of its own, and nobody left who knows of it
        if alive(process):
            os.kill(process, signal.SIGKILL)


def test_killed_spares_do_not_fail_the_next_step(store: Path) -> None:
    given = task(store, "1")
    run(given)
    server = _server(given).process
    children = Path(f"/proc/{server}/task/{server}/children")
    await_true(lambda: len(children.read_text().split()) == 2)
    for spare in children.read_text().split():
        os.kill(int(spare), signal.SIGKILL)
    assert run(task(store, "1")).state == "succeeded"


def test_an_environment_that_changes_gets_another_server_and_a_variable_alone_does_not(store: Path) -> None:
    first = _server(task(store, "1"))
    assert _server(task(store, "1", environment=environment(SOME_URL="new"))) is first
    import dataclasses

    newer = dataclasses.replace(environment(), stamp="after pip install")
    assert _server(task(store, "1", environment=newer)) is not first


def test_a_server_whose_kernel_has_imported_more_is_followed_by_one_that_has_too(store: Path) -> None:
    plain = environment(OMP_WHATEVER="more")
    run(task(store, "1", environment=plain))
    first = attendance._the_servers().get(plain)
    more = environment("numpy", OMP_WHATEVER="more")
    record = run(task(store, "1", environment=more))
    assert record.state == "succeeded"
    await_true(lambda: attendance._the_servers().get(more) is not first, 30)
    shown = run(task(store, "import sys\n'numpy' in sys.modules", environment=more))
    assert shown.messages[0]["data"]["text/plain"] == "True"


def test_where_forking_is_not_safe_processes_are_started(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLBENCH_STEP_START", "spawn")
    given = task(store, "print('spawned')\nx = 1", defs=("x",), environment=environment(OMP_WHATEVER="spawn"))
    record = run(given)
    assert record.state == "succeeded", record.failure
    assert text_of(record.messages) == "spawned\n"
    given = task(store, "print('begun')\nwhile True: pass", environment=environment(OMP_WHATEVER="spawn"))
    shown, thread = begin(given)
    shown.wait_for("begun")
    supervisor.cancel(given.execution)
    assert ended(shown, thread).state == "cancelled"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are told of their parent's end on Linux")
def test_a_full_disk_is_said_and_loses_nothing_else(store: Path, tmp_path: Path) -> None:
    class Full(LocalBlobs):
        def append(self, *args: Any, **kwargs: Any) -> None:
            raise OSError(28, "No space left on device")

    given = task(store, "x = 1", defs=("x",))
    supervision = supervisor._Supervision(given, supervisor.Running(), lambda *_: None, time.time_ns())
    supervision._blobs = Full(store)
    record = supervision.run()
    assert record.state == "failed"
    assert record.failure is not None
    assert "No space left" in record.failure.evalue
    assert record.binds == ()


def test_a_full_temporary_folder_costs_the_log_and_not_the_step(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.FileIO):
        def write(self, data: Any) -> int:
            if self.tell() >= 100_000:
                raise OSError(28, "No space left on device")
            return super().write(data[:70_000])

    monkeypatch.setattr(supervisor.tempfile, "TemporaryFile", lambda **_: Full(tmp_path / "log", "w+"))
    record = run(task(store, "for i in range(30): print('x' * 10_000)\nx = 1", defs=("x",)))
    assert record.state == "succeeded", record.failure
    assert text_of(record.messages, "stdout") == ("x" * 10_000 + "\n") * 30
    assert text_of(record.messages, "stderr") == ""  # nothing was left out that the log would be looked into for
    record = run(task(store, "for i in range(3000): print('x' * 10_000)\nx = 1", defs=("x",)))
    assert record.state == "succeeded", record.failure
    assert [one.name for one in record.binds] == ["x"]
    assert "Not all of the step's log could be kept: No space left on device" in text_of(record.messages, "stderr")


SLOW_TO_START = """
import os, sys, time
if any("popen_loky_posix" in word for word in sys.orig_argv):
    try:
        os.close(os.open("{folder}/first", os.O_CREAT | os.O_EXCL))
    except FileExistsError:  # it starts when its step has let go of the semaphores, unless that ends it before
        until = time.monotonic() + 20
        while not os.path.exists("{folder}/over") and time.monotonic() < until:
            time.sleep(0.005)
"""


def test_a_worker_of_joblib_that_the_work_did_not_wait_for_ends_without_a_word(store: Path, tmp_path: Path) -> None:
    pytest.importorskip("joblib")
    (tmp_path / "sitecustomize.py").write_text(SLOW_TO_START.format(folder=tmp_path))
    source = f"""
import os, joblib, multiprocessing.util
os.environ["PYTHONPATH"] = {os.fspath(tmp_path)!r}
multiprocessing.util.Finalize(None, open, ({os.fspath(tmp_path / "over")!r}, "w"), exitpriority=0)
total = sum(joblib.Parallel(n_jobs=2)(joblib.delayed(abs)(-i) for i in range(8)))
"""
    record = run(task(store, source, defs=("total",)))
    assert record.state == "succeeded", record.failure
    assert text_of(record.messages) == ""
