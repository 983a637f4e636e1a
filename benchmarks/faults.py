"""What is lost, doubled or stuck when processes are killed, by turns those of `VICTIMS`.

A notebook of steps runs in a real kernel. Each turn hands steps over, kills one process at a moment of its own, puts
another in its place where that is not mlbench's affair, and runs the same cells until all have their results. The
scheduler that is killed is that of a Dask cluster beside the service, to which the steps of its turns go: the scheduler
of the local cluster is a part of the service. Afterwards the stores are asked: whether an end that had been told is
still there, whether a body has begun more often than its executions say, and whether anything is under way that is not.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import CellError, Figure, Kernel, surroundings

BENCH = "faults"
VICTIMS = ("kernel", "worker", "step", "service", "scheduler")
STEPS = 3
PATIENCE = 60.0

STEP = """%%step {name}
import os, time
with open({log!r}, "a") as file:
    file.write({name!r} + "\\n")
with open({log!r} + ".pid", "w") as file:
    file.write(str(os.getpid()))
time.sleep({seconds})
{name} = {value}
print("made", {name})
"""


def measure(*, quick: bool) -> Iterator[Figure]:
    """Kill by turns, then count."""
    turns = 10 if quick else 100
    chance = random.Random(7)  # the same moments in every run
    with surroundings() as folder:
        killed, lost, wrong, slowest = _kill(folder, turns, chance)
        doubled, stuck, orphans = _look(folder)
    yield Figure(BENCH, "processes of all kinds", "kills", float(sum(killed.values())), "kills")
    for victim in VICTIMS:
        yield Figure(BENCH, victim, "kills", float(killed[victim]), "kills")
    yield Figure(BENCH, "finished results", "lost", float(lost), "results", goal=0)
    yield Figure(BENCH, "values", "wrong", float(wrong), "values", goal=0)
    yield Figure(BENCH, "bodies", "begun without an execution that says so", float(doubled), "bodies", goal=0)
    yield Figure(BENCH, "runs and executions", "under way that are not", float(stuck), "records", goal=0)
    yield Figure(BENCH, "processes", "left over", float(orphans), "processes", goal=0)
    yield Figure(BENCH, "a kill", "until all steps had results again, at most", round(slowest, 1), "s")


def _kill(folder: Path, turns: int, chance: random.Random) -> tuple[Counter[str], int, int, float]:
    killed: Counter[str] = Counter()
    finished: dict[str, str] = {}
    lost = wrong = 0
    slowest = 0.0
    log = str(folder / "log")
    kernel = _open(folder)
    cluster = _Cluster(folder)
    try:
        for turn in range(turns):
            victim = VICTIMS[turn % len(VICTIMS)]
            if victim == "scheduler":
                cluster.start()
                kernel.run(f"%cluster {cluster.address}")
                warm = STEP.format(name=f"w{turn}", log=log, seconds=0, value=turn)
                kernel.send(warm, f"w{turn}")
                wrong += _value(kernel, f"w{turn}", warm) != turn
            names = [f"s{turn}_{number}" for number in range(STEPS)]
            cells = {
                name: STEP.format(name=name, log=log, seconds=0.3 * (place + 1), value=1000 * turn + place)
                for place, name in enumerate(names)
            }
            for name, cell in cells.items():
                kernel.send(cell, name)
            threading.Event().wait(chance.uniform(0.0, 1.0))
            began = time.monotonic()
            if victim == "scheduler":
                cluster.kill_scheduler()
                killed[victim] += 1
                cluster.start()
            elif _end(victim, kernel, log):
                killed[victim] += 1
            if victim == "kernel":
                kernel.__exit__(None, None, None)
                kernel = _open(folder)
            for place, (name, cell) in enumerate(cells.items()):
                wrong += _value(kernel, name, cell) != 1000 * turn + place
            slowest = max(slowest, time.monotonic() - began)
            known = _ends()
            lost += sum(1 for one, state in finished.items() if known.get(one) != state)
            finished = known
            if victim == "scheduler":
                kernel.run("%cluster local")
    finally:
        kernel.__exit__(None, None, None)
        cluster.end()
    return killed, lost, wrong, slowest


class _Cluster:
    """A Dask scheduler with a worker, of their own processes."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self._port}"
        self._folder = folder
        self._scheduler: subprocess.Popen[bytes] | None = None
        self._workers: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Start a scheduler, always at the same address, and a worker, unless they run; those that it lost go."""
        if self._scheduler is not None and self._scheduler.poll() is None:
            return
        self._end_workers()
        self._scheduler = self._run("scheduler", "--host", "127.0.0.1", "--port", str(self._port))
        self._workers.append(self._run("worker", self.address, "--nthreads", "4", "--memory-limit", "0", "--no-nanny"))

    def kill_scheduler(self) -> None:
        """Kill the scheduler."""
        assert self._scheduler is not None
        self._scheduler.kill()
        self._scheduler.wait()

    def end(self) -> None:
        """End all of it."""
        self._end_workers()
        if self._scheduler is not None:
            self._scheduler.terminate()
            self._scheduler.wait(PATIENCE)

    def _end_workers(self) -> None:
        while self._workers:
            worker = self._workers.pop()
            worker.terminate()
            worker.wait(PATIENCE)

    def _run(self, what: str, *words: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"distributed.cli.dask_{what}", *words, "--no-dashboard"]
        with (self._folder / f"{what}.log").open("ab") as log:
            return subprocess.Popen(command, cwd=self._folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def _open(folder: Path) -> Kernel:
    kernel = Kernel().__enter__()
    kernel.run(f"import os; os.chdir({str(folder)!r})\n%load_ext mlbench")
    kernel.greet()
    return kernel


def _value(kernel: Kernel, name: str, cell: str) -> int:
    """Return a step's value; run its cell again for as long as what was killed has taken it along."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return int(re.findall(r"\d+", kernel.run(f"print({name})"))[-1])
        except CellError:
            if time.monotonic() > until:
                raise
            kernel.send(cell, name)


def _end(victim: str, kernel: Kernel, log: str) -> bool:
    """Kill one process; say whether there was one."""
    until = time.monotonic() + 5.0
    while time.monotonic() < until:
        process: int | None = None
        if victim == "kernel":
            process = kernel.process
        elif victim == "service":
            process = _service()
        elif victim == "step":
            with contextlib.suppress(OSError, ValueError):
                process = int(Path(log + ".pid").read_text())
        elif (service := _service()) is not None:
            process = next((one for one in _descendants(service) if _servers(one)), None)
        with contextlib.suppress(ProcessLookupError):
            if process is not None:
                os.kill(process, signal.SIGKILL)
                return True
        threading.Event().wait(0.02)
    return False


def _service() -> int | None:
    from mlbench.backends.service_socket import Door

    return Door.find().alive()


def _descendants(process: int) -> list[int]:
    import psutil  # type: ignore[import-untyped, unused-ignore]

    with contextlib.suppress(psutil.Error):
        return [one.pid for one in psutil.Process(process).children(recursive=True)]
    return []


def _servers(process: int) -> list[int]:
    """Return the step servers that are children of a process: a worker has some."""
    import psutil

    with contextlib.suppress(psutil.Error):
        return [one.pid for one in psutil.Process(process).children() if any("stepserver" in w for w in one.cmdline())]
    return []


def _ends() -> dict[str, str]:
    """Return the executions that have ended well, with the digests of what they made."""
    from mlbench.project import Project

    project = Project.open()
    try:
        found: dict[str, str] = {}
        for run in project.catalog.runs(limit=10_000):
            for one in project.catalog.executions(run.id):
                if one.state == "succeeded":
                    found[one.id] = ",".join(bind.artifact.digest for bind in one.binds if bind.artifact is not None)
        return found
    finally:
        project.catalog.close()


def _look(folder: Path) -> tuple[int, int, int]:
    """Return how many bodies began that no execution knows of, what is under way that is not, and what is left over."""
    import psutil

    from mlbench.core.records import UNDER_WAY
    from mlbench.project import Project

    threading.Event().wait(12.0)
    project = Project.open()
    attempts: Counter[str] = Counter()
    stuck = 0
    for run in project.catalog.runs(limit=10_000):
        stuck += run.state in UNDER_WAY
        for one in project.catalog.executions(run.id):
            stuck += one.state in UNDER_WAY
            if one.state != "reused":
                attempts[one.step] += one.attempt
    project.catalog.close()
    begun = Counter((folder / "log").read_text("utf-8").split())
    doubled = sum(max(0, count - attempts[name]) for name, count in begun.items())
    left = 0
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            left += "MLBENCH_STEP_PROCESS" in process.environ() and process.environ().get("MLBENCH_RUNTIME") == str(
                folder / "run"
            )
    return doubled, stuck, left
