"""Processes that are killed, stopped or hang, by doing it: what becomes of their steps, and of what these started."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlbench.backends.blobs_local import LocalBlobs
from mlbench.backends.cluster_dask.client import cluster as cluster_module
from mlbench.backends.cluster_dask.client.cluster import DaskCluster
from mlbench.backends.cluster_dask.worker.orphans import end_orphans
from mlbench.core.records import Execution
from tests.integration.house import House, catalog, eventually
from tests.integration.steps import PATIENCE, ROOT, Clock, alive, await_true, begin, run, task

pytestmark = pytest.mark.timeout(120)

ORPHANS = 10.0
"""Seconds after which no process of what is dead may be alive."""

FAMILY = """
import os, subprocess, sys, time
def daemon():
    'A process with two forks behind it, in a session of its own.'
    told, tell = os.pipe()
    if os.fork() == 0:
        os.setsid()
        process = os.fork()
        if process:
            os.write(tell, str(process).encode())
            os._exit(0)
        os.close(told)
        while True: time.sleep(1)
    process = int(os.read(told, 20))
    os.wait()
    return process
child = subprocess.Popen(['sleep', '600'])
apart = subprocess.Popen(['sleep', '600'], start_new_session=True)
processes = [os.getpid(), child.pid, apart.pid, daemon()]
with open({mark!r} + '.new', 'w') as file:
    file.write(' '.join(str(one) for one in [os.getppid(), *processes]))
os.rename({mark!r} + '.new', {mark!r})
"""


def parent_of(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def family(mark: Path, then: str = "time.sleep(600)") -> str:
    """Return the source of a step that starts processes of several kinds, writes their ids, and goes on."""
    return FAMILY.format(mark=str(mark)) + then


def processes_of(mark: Path) -> tuple[int, list[int]]:
    """Return the step server and the processes of a step, the step's own first."""
    eventually(mark.exists)
    server, *others = (int(word) for word in mark.read_text().split())
    return server, others


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "mark"


# --- killed ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("whom", ["step", "server", "worker", "worker and server", "service"])
def test_whatever_is_killed_the_step_has_a_true_end_and_nothing_of_it_lives_on(
    service: House, mark: Path, whom: str
) -> None:
    kernel = service.kernel(reconnect=True)
    done = kernel.submit("done", "x = 1", defs=("x",))
    kernel.state(done)
    step = kernel.submit("load", family(mark))
    server, processes = processes_of(mark)
    worker = parent_of(server)
    killed = time.monotonic()
    for process in {
        "step": [processes[0]],
        "server": [server],
        "worker": [worker],
        "worker and server": [worker, server],
        "service": [],
    }[whom]:
        os.kill(process, signal.SIGKILL)
    if whom == "service":
        service.kill()
        service.connect().request("status")  # the next one
    eventually(lambda: catalog(service.store).execution(step).state == "failed")
    assert time.monotonic() - killed < 30
    await_true(lambda: not any(alive(one) for one in processes), ORPHANS)
    record = catalog(service.store).execution(step)
    reasons = {"step": "error", "server": "error", "worker": "worker-lost", "worker and server": "worker-lost"}
    assert record.reason == reasons.get(whom, "service-lost")
    assert record.failure is None or record.failure.remedy
    # What had ended is used, not run again; and there is a worker for what comes next.
    after = kernel.submit("after", "y = x + 1", f"x={done}", defs=("y",))
    assert kernel.state(after).state == "succeeded"
    states = {
        one.step: one.state for one in catalog(service.store).executions(catalog(service.store).execution(done).run)
    }
    assert states["done"] in ("succeeded", "reused")


def test_steps_of_one_worker_that_is_killed_all_fail_and_none_begins_twice(service: House, tmp_path: Path) -> None:
    kernel = service.kernel()
    log = tmp_path / "begun"
    source = f"import os, time\nwith open({str(log)!r}, 'a') as file: print(os.getppid(), file=file)\ntime.sleep(60)"
    steps = [kernel.submit(f"step{number}", source) for number in range(3)]
    eventually(lambda: log.exists() and len(log.read_text().split()) == 3)
    os.kill(parent_of(int(log.read_text().split()[0])), signal.SIGKILL)
    records = [kernel.state(step) for step in steps]
    assert [(one.state, one.reason) for one in records] == [("failed", "worker-lost")] * 3
    assert kernel.state(kernel.submit("after", "x = 1")).state == "succeeded"
    assert len(log.read_text().split()) == 3


def test_processes_of_steps_that_live_are_no_orphans(store: Path, mark: Path) -> None:
    shown, thread = begin(task(store, family(mark, "time.sleep(3)\nx = 1")))
    _, processes = processes_of(mark)
    assert end_orphans(0.5) == []
    assert all(alive(one) for one in processes)
    thread.join(60)
    assert shown.record is not None
    assert shown.record.state == "succeeded"


# --- stopped and hung ------------------------------------------------------------------------------------------------


def test_a_worker_that_stands_still_is_lost_and_its_steps_with_it(
    store: Path, mark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worst = cluster_module._MOST_SILENCES * (cluster_module._LOOK_SECONDS + cluster_module._ANSWER_SECONDS)
    assert worst <= 30.0
    monkeypatch.setattr(cluster_module, "_LOOK_SECONDS", 1.0)
    monkeypatch.setattr(cluster_module, "_ANSWER_SECONDS", 2.0)

    async def test() -> None:
        one = DaskCluster()
        try:
            first = asyncio.create_task(one.submit(task(store, family(mark)), lambda _: None))
            server, processes = await asyncio.to_thread(processes_of, mark)
            os.kill(parent_of(server), signal.SIGSTOP)
            # One that the worker has not begun yet is lost with it too.
            second = asyncio.create_task(one.submit(task(store, "x = 1"), lambda _: None))
            for ending in (first, second):
                record: Execution = await asyncio.wait_for(ending, 60)
                assert (record.state, record.reason) in {("failed", "worker-lost"), ("succeeded", None)}
            assert (await first).reason == "worker-lost"
            await asyncio.to_thread(await_true, lambda: not any(alive(process) for process in processes), ORPHANS)
            again = await asyncio.wait_for(one.submit(task(store, "x = 1"), lambda _: None), 30)
            assert again.state == "succeeded"
        finally:
            await one.close()

    asyncio.run(test())


def test_the_late_end_of_a_worker_that_was_given_up_is_refused(store: Path, tmp_path: Path) -> None:
    script = textwrap.dedent("""
        import sys
        from pathlib import Path
        from mlbench.backends.cluster_dask.worker import supervisor
        from tests.integration.steps import run, task
        supervisor.STALL_SECONDS = 0.5
        given = task(Path(sys.argv[1]), "print('begun', flush=True)\\nimport time\\ntime.sleep(1)\\nx = 1", defs=("x",))
        print(given.execution, flush=True)
        hear = lambda execution, news: print("begun", flush=True)
        print(supervisor.supervise(given, hear).state, flush=True)
    """)
    (tmp_path / "worker.py").write_text(script)
    worker = subprocess.Popen(
        [sys.executable, str(tmp_path / "worker.py"), str(store)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        assert worker.stdout is not None
        execution = worker.stdout.readline().strip()
        assert worker.stdout.readline() == "begun\n"
        os.kill(worker.pid, signal.SIGSTOP)
        lost = {"id": execution, "run": "r", "step": "train", "state": "failed", "reason": "worker-lost", "attempt": 1}
        LocalBlobs(store).append("execution", execution, lost)
        stopped = time.monotonic()
        await_true(lambda: time.monotonic() > stopped + 1.5)
        os.kill(worker.pid, signal.SIGCONT)
        said = worker.stdout.read().split()
        assert said[-1] == "failed"
    finally:
        worker.kill()
        worker.wait(10)
    found = [one for one in LocalBlobs(store).records("execution") if one["id"] == execution]
    assert [one["state"] for one in found] == ["failed"]


HANGS = {
    "python": "while True: pass",
    "c-with-gil": "import ctypes\nctypes.PyDLL(None).pause()",
    "deaf": """
import signal
for one in set(range(1, 32)) - {9, 19}:
    signal.signal(one, signal.SIG_IGN)
while True: pass
""",
    "stopped": "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)\nwhile True: pass",
    "regex": "import re\nre.match(r'(a+)+$', 'a' * 60 + 'b')",
    "thread": """
import threading
def work():
    while True: pass
threads = [threading.Thread(target=work) for _ in range(3)]
for one in threads: one.start()
for one in threads: one.join()
""",
}


@pytest.mark.parametrize("source", HANGS.values(), ids=HANGS)
def test_a_step_that_hangs_is_gone_after_its_timeout(store: Path, clock: Clock, source: str) -> None:
    shown, thread = begin(task(store, f"import os\nprint(os.getpid(), 'begun', flush=True)\n{source}", timeout=600.0))
    shown.wait_for("begun")
    process = int(shown.text.split()[0])
    clock.advance(600.0)
    thread.join(PATIENCE)
    assert shown.record is not None
    assert (shown.record.state, shown.record.reason) == ("failed", "timeout")
    await_true(lambda: not alive(process))
    assert run(task(store, "x = 1")).state == "succeeded"


# --- memory ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def narrow() -> Iterator[Path]:
    """Return a control group whose processes may use 150 MB together; the system ends one that wants more."""
    name = f"mlbench-test-{os.getpid()}"
    for parent, limit in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
        group = Path(parent, name)
        if not Path(parent, "cgroup.procs").exists():
            continue
        try:
            group.mkdir()
            (group / limit).write_text("150000000")
        except OSError:
            continue
        yield group
        await_true(lambda: not (group / "cgroup.procs").read_text())  # noqa: B023  the loop ends here
        group.rmdir()
        return
    pytest.skip("no control group with a limit of memory can be made here")


def test_a_process_that_the_system_ends_for_want_of_memory_says_so(store: Path, narrow: Path) -> None:
    source = (
        f"import os\nopen({str(narrow / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))\n"
        "held = [bytearray(b'x' * 10_000_000) for _ in range(40)]"
    )
    record = run(task(store, source))
    assert (record.state, record.reason) == ("failed", "memory")
    assert record.failure is not None
    assert "the system, which had run out of memory" in record.failure.evalue
    assert run(task(store, "x = 1")).state == "succeeded"
