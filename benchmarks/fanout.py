"""What an item of a fan-out costs, by how many there are, beside Dask's own map, joblib and Metaflow."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import Figure, Kernel, installed, ratio, surroundings, wall

BENCH = "fanout"

SIZES = (1_000, 5_000, 20_000, 100_000)
WORKED = 1_000
"""Items of 10 ms that are compared with joblib's."""

FLOW = """
from metaflow import FlowSpec, step

class Spread(FlowSpec):
    @step
    def start(self):
        self.numbers = list(range({count}))
        self.next(self.item, foreach="numbers")

    @step
    def item(self):
        self.twice = 2 * self.input
        self.next(self.join)

    @step
    def join(self, inputs):
        self.next(self.end)

    @step
    def end(self): pass

if __name__ == "__main__":
    Spread()
"""


def measure(*, quick: bool) -> Iterator[Figure]:
    """Measure in one warm kernel; the peers in processes of this interpreter."""
    processes = os.cpu_count() or 1
    hashes = _ten_milliseconds()
    with surroundings() as folder, Kernel() as kernel:
        kernel.run("%load_ext mlbench")
        kernel.run(f"import hashlib\ndef work():\n    hashlib.pbkdf2_hmac('sha256', b'', b'', {hashes})\n    return 1")
        kernel.run("%%step warm --foreach x in range(200)\ny = 2 * x")
        files = _files(folder)
        ours: dict[int, float] = {}
        for size in SIZES[: 2 if quick else None]:
            rounds = 1 if size > 50_000 else 3
            ours[size] = min(_ours(kernel, size, "y = 2 * x", "y[-1]", 2 * (size - 1)) for _ in range(rounds))
            yield Figure(BENCH, f"{size:,} trivial items", "run to list", round(ours[size], 3), "s")
            yield Figure(BENCH, f"{size:,} trivial items", "per item", round(1e6 * ours[size] / size, 1), "us")
            if size == 20_000:
                each = (_files(folder) - files) / rounds
                yield Figure(BENCH, "20,000 trivial items", "files in the store", each, "", 200)
            files = _files(folder)
        if not quick:
            growth = (ours[100_000] / 100_000) / (ours[20_000] / 20_000)
            yield Figure(BENCH, "ratio", "an item of 100,000 / one of 20,000", round(growth, 3), "x", 1.25)
        yield from _dask(1_000 if quick else 20_000, ours)
        yield from _worked(kernel, 200 if quick else WORKED, hashes, processes)
        yield from _metaflow(ours[5_000] / 5_000)
    yield from _sweep(("-p", "groups=40", "-p", "settings=20") if quick else ())


def _ours(kernel: Kernel, size: int, source: str, last: str, expected: object) -> float:
    """Return the seconds until the results are there, as `gather` has them: a list is read when it is first used."""
    began = time.perf_counter()
    kernel.run(f"%%step many --foreach x in range({size})\n{source}")
    told = kernel.run(f"print({last}, len(y))").split()
    seconds = time.perf_counter() - began
    assert told == [str(expected), str(size)], told
    return seconds


def _dask(size: int, ours: dict[int, float]) -> Iterator[Figure]:
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=os.cpu_count(), threads_per_worker=1, dashboard_address=None) as cluster,  # type: ignore[no-untyped-call]
        Client(cluster) as client,  # type: ignore[no-untyped-call]
    ):
        client.gather(client.map(_twice, range(100), pure=False))
        began = time.perf_counter()
        client.gather(client.map(_twice, range(size), pure=False))
        peer = time.perf_counter() - began
    yield Figure(BENCH, f"client.map + gather of {size:,}", "wall", round(peer, 3), "s")
    goal = 0.02 if size == 20_000 else 1.0  # what is started once weighs more among few
    yield ratio(BENCH, f"{size:,} trivial items / client.map + gather", ours[size], peer, goal=goal)


def _twice(number: int) -> int:
    return 2 * number


def _worked(kernel: Kernel, size: int, hashes: int, processes: int) -> Iterator[Figure]:
    from joblib import Parallel, delayed

    with Parallel(n_jobs=processes) as parallel:
        parallel(delayed(_work)(hashes) for _ in range(10 * processes))

        def peer() -> float:
            began = time.perf_counter()
            parallel(delayed(_work)(hashes) for _ in range(size))
            return time.perf_counter() - began

        def own() -> float:
            line = f"%%step many --foreach x in range({size}) --max-parallel {processes}"
            began = time.perf_counter()
            kernel.run(f"{line}\ny = work()")
            assert kernel.run("print(sum(y))").split() == [str(size)]
            return time.perf_counter() - began

        own()
        pairs = [(own(), peer()) for _ in range(2 if size < WORKED else 3)]
    ours, theirs = min(first for first, _ in pairs), min(second for _, second in pairs)
    yield Figure(BENCH, f"{size:,} items of 10 ms", "run to list", round(ours, 3), "s")
    yield Figure(BENCH, f"joblib with {processes} processes, the same", "wall", round(theirs, 3), "s")
    yield ratio(BENCH, f"{size:,} items of 10 ms / joblib", ours, theirs, goal=1.15)


def _work(hashes: int) -> int:
    """Keep a processor busy, as long in any process: numbers of a loop take 6 % more or less by what else is there."""
    hashlib.pbkdf2_hmac("sha256", b"", b"", hashes)
    return 1


def _ten_milliseconds() -> int:
    count, seconds = 10_000, 0.0
    while seconds < 0.1:
        count *= 2
        began = time.process_time()
        _work(count)
        seconds = time.process_time() - began
    return max(1, int(count * 0.01 / seconds))


def _sweep(smaller: tuple[str, ...]) -> Iterator[Figure]:
    """Run the example of 20,000 small models, from a notebook to its record, with a service of its own."""
    file = Path(__file__).parents[1] / "examples" / "sweep.ipynb"
    command = [sys.executable, "-c", "from mlbench.entrypoints.cli import main; main()", "run", str(file), *smaller]
    with tempfile.TemporaryDirectory() as folder:
        own = {**os.environ, "MLBENCH_STORE": str(Path(folder, "store")), "MLBENCH_OWN_SERVICE": "1"}
        seconds = wall(command, cwd=folder, env=own)
    subject = f"examples/sweep.ipynb, {'800' if smaller else '20,000'} models"
    yield Figure(BENCH, subject, "whole run, started from nothing", round(seconds, 2), "s")


def _metaflow(ours: float) -> Iterator[Figure]:
    if not installed("metaflow"):
        yield Figure(BENCH, "metaflow", "per item", None, "not measured: metaflow is not installed")
        return
    few, many = 2, 12
    with tempfile.TemporaryDirectory() as folder:
        own = {**os.environ, "METAFLOW_USER": "benchmark", "METAFLOW_HOME": folder}

        def flow(count: int) -> float:
            file = Path(folder, f"spread{count}.py")
            file.write_text(FLOW.format(count=count), "utf-8")
            return wall([sys.executable, str(file), "run"], cwd=folder, env=own)

        flow(few)
        short, long = flow(few), flow(many)
    each = (long - short) / (many - few)
    yield Figure(BENCH, "metaflow's foreach", "per item", round(each, 4), "s")
    yield ratio(BENCH, "per item / metaflow's foreach", ours, each, goal=1 / 2_000)


def _files(folder: Path) -> int:
    return sum(1 for one in (folder / "store").rglob("*") if one.is_file())
