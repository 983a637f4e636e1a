"""What steps ask for, and what becomes of those that use more than they said."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mlbench.backends.cluster_dask import resources
from mlbench.backends.cluster_dask.client.cluster import DaskCluster
from mlbench.backends.cluster_dask.worker.memory import MemoryWatch
from mlbench.core.messages import Foreach, StepOptions, StepTask
from mlbench.core.records import Execution
from tests.integration.house import House, catalog
from tests.integration.steps import alive, await_true, begin, environment, meeting, run, task, text_of

pytestmark = pytest.mark.timeout(120)

MB = 10**6
CORES = resources.machine()["cpu"]

TIMED = "import time\nbegun = time.time()\ntime.sleep({seconds})\nprint(begun, time.time())"


@asynccontextmanager
async def cluster(**options: float) -> AsyncIterator[DaskCluster]:
    one = DaskCluster(**options)  # type: ignore[arg-type]
    try:
        yield one
    finally:
        await asyncio.wait_for(one.close(), 30)


def together(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(test(), 100)

    asyncio.run(bounded())


async def submit(one: DaskCluster, given: StepTask) -> Execution:
    return await one.submit(given, lambda _: None)


def overlap(records: list[Execution]) -> bool:
    (a_begun, a_ended), (b_begun, b_ended) = sorted(
        [float(word) for word in text_of(record.messages).split()] for record in records
    )
    return max(a_begun, b_begun) < min(a_ended, b_ended)


# --- memory ----------------------------------------------------------------------------------------------------------


def test_a_step_over_its_memory_is_ended_with_limit_and_peak_and_others_go_on(store: Path) -> None:
    other, thread = begin(task(store, "import time\nprint('begun')\ntime.sleep(2)\nx = 1", defs=("x",)))
    other.wait_for("begun")
    hog = "held = []\nwhile True:\n    held.append(bytearray(b'x' * 20_000_000))"
    begun = time.monotonic()
    record = run(task(store, hog, memory=300 * MB, step="hog"))
    assert time.monotonic() - begun < 30
    assert (record.state, record.reason) == ("failed", "memory")
    assert record.failure is not None
    said = record.failure.evalue
    assert said.startswith("Step hog used more memory than --memory 300 MB (peak "), said
    assert record.failure.remedy == "Give it more with `--memory`, or let it hold less at once."
    assert record.peak_memory is not None
    assert 300 * MB < record.peak_memory < 2000 * MB
    thread.join(60)
    assert other.record is not None
    assert other.record.state == "succeeded"


def test_what_a_step_starts_counts_also_in_a_session_of_its_own_and_ends_with_it(store: Path) -> None:
    hold = "x = bytearray(b'x' * 200_000_000); import time; time.sleep(60)"
    source = (
        "import subprocess, sys\n"
        f"ones = [subprocess.Popen([sys.executable, '-c', {hold!r}], start_new_session=True) for _ in range(2)]\n"
        "print(*[one.pid for one in ones], 'begun')\n"
        "ones[0].wait()"
    )
    shown, thread = begin(task(store, source, memory=300 * MB))
    shown.wait_for("begun")
    processes = [int(word) for word in shown.text.split()[:2]]
    thread.join(60)
    assert shown.record is not None
    assert shown.record.reason == "memory", shown.record
    await_true(lambda: not any(alive(one) for one in processes))


def test_pages_that_a_fork_shares_are_counted_once(store: Path) -> None:
    source = (
        "import os, time\n"
        "held = bytearray(200_000_000)\n"
        "held[::4096] = b'x' * len(held[::4096])\n"
        "ones = []\n"
        "for _ in range(4):\n"
        "    one = os.fork()\n"
        "    if one == 0:\n"
        "        time.sleep(0.5)\n"
        "        os._exit(0)\n"
        "    ones.append(one)\n"
        "for one in ones:\n"
        "    os.waitpid(one, 0)\n"
    )
    record = run(task(store, source, memory=400 * MB))
    assert record.state == "succeeded", record.failure


def test_a_file_that_is_mapped_is_not_memory_that_is_used(store: Path, tmp_path: Path) -> None:
    file = tmp_path / "large"
    file.write_bytes(b"x" * 300_000_000)
    source = (
        "import mmap, time\n"
        f"with open({str(file)!r}, 'rb') as source:\n"
        "    held = mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ)\n"
        "total = sum(held[place] for place in range(0, len(held), 4096))\n"
        "time.sleep(0.2)"
    )
    record = run(task(store, source, memory=200 * MB))
    assert record.state == "succeeded", record.failure


def test_an_error_of_memory_is_of_that_kind(store: Path) -> None:
    record = run(task(store, "x = bytearray(2**62)", memory=10**9))
    assert (record.state, record.reason) == ("failed", "memory")
    assert record.failure is not None
    assert record.failure.ename == "MemoryError"


def test_the_peak_is_recorded_without_a_limit_too(store: Path) -> None:
    record = run(task(store, "x = bytearray(b'x' * 300_000_000)\ndel x"))
    assert record.peak_memory is not None
    assert record.peak_memory > 300 * MB


def test_a_look_at_memory_costs_less_than_a_hundredth_of_the_time() -> None:
    watch = MemoryWatch(os.getpid(), 2**60)
    begun = time.process_time()
    for number in range(200):
        watch.look(number * watch.seconds)
    assert (time.process_time() - begun) / 200 < 0.01 * watch.seconds
    assert watch.peak > 0


# --- resources -------------------------------------------------------------------------------------------------------


def test_steps_that_need_all_processors_follow_each_other_and_others_overlap(store: Path, tmp_path: Path) -> None:
    async def test() -> None:
        async with cluster() as one:
            await submit(one, task(store, "x = 1"))
            source = TIMED.format(seconds=0.6)
            asked = {"cpu": CORES}
            ends = await asyncio.gather(*(submit(one, task(store, source, resources=asked)) for _ in range(2)))
            assert not overlap(ends)
            names = ("one", "two")
            sources = [meeting(tmp_path / "met", name, *names) for name in names]
            ends = await asyncio.gather(*(submit(one, task(store, source)) for source in sources))
            assert [record.state for record in ends] == ["succeeded"] * 2

    together(test)


def test_memory_that_is_asked_for_is_kept_for_a_step(store: Path) -> None:
    async def test() -> None:
        async with cluster() as one:
            await submit(one, task(store, "x = 1"))
            asked = {"memory": 0.6 * resources.machine()["memory"]}
            source = TIMED.format(seconds=0.6)
            ends = await asyncio.gather(*(submit(one, task(store, source, resources=asked)) for _ in range(2)))
            assert not overlap(ends)

    together(test)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"cpu": 512.0}, "--cpu 512, which no worker has"),
        ({"gpu": 64.0}, "--gpu 64, which no worker has"),
        ({"memory": 1e15}, "--memory 1000 TB, which no worker has"),
        ({"cpu": 1.0, "scanner": 2.0}, "--resources scanner=2, which no worker has"),
    ],
)
def test_what_no_worker_has_is_refused_at_once_with_what_there_is(
    store: Path, asked: dict[str, float], said: str
) -> None:
    async def test() -> None:
        async with cluster() as one:
            await submit(one, task(store, "x = 1"))
            record = await asyncio.wait_for(submit(one, task(store, "x = 1", resources=asked)), 30)
            assert (record.state, record.reason) == ("failed", "error")
            assert record.failure is not None
            assert said in record.failure.evalue
            assert f"The cluster has one worker: 0 with {CORES:g} CPUs" in record.failure.evalue

    together(test)


def test_a_step_has_as_many_threads_as_processors_were_asked_for(service: House) -> None:
    kernel = service.kernel()
    source = "import os\nprint(os.environ['OMP_NUM_THREADS'])"
    step = kernel.submit("fit", source, options=StepOptions(cpu=1))
    record = kernel.state(step)
    assert record.state == "succeeded", record.failure
    assert text_of(catalog(service.store).execution(step).messages) == "1\n"


def test_options_reach_the_worker(service: House) -> None:
    kernel = service.kernel()
    asked = kernel.submit("fit", "x = 1", options=StepOptions(cpu=1, memory=100 * MB, resources={"scanner": 1}))
    record = kernel.state(asked)
    assert record.failure is not None
    assert "--resources scanner=1" in record.failure.evalue
    hog = kernel.submit(
        "hog", "x = bytearray(b'x' * 400_000_000)\nimport time\ntime.sleep(5)", options=StepOptions(memory=150 * MB)
    )
    assert kernel.state(hog).reason == "memory"
    assert kernel.state(kernel.submit("after", "x = 1")).state == "succeeded"


def test_a_step_with_gpus_sees_those_that_nobody_else_has(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    monkeypatch.setattr(resources, "_here", [])
    plain = environment()
    variables = {name: value for name, value in plain.variables.items() if name != "CUDA_VISIBLE_DEVICES"}
    source = "import os, time\nprint(os.environ.get('CUDA_VISIBLE_DEVICES'), 'begun')\ntime.sleep(1)"
    ones = [begin(task(store, source, environment=environment(**variables), resources={"gpu": 1.0})) for _ in range(2)]
    for shown, _ in ones:
        shown.wait_for("begun")
    assert sorted(shown.text.split()[0] for shown, _ in ones) == ["3", "5"]
    for _, thread in ones:
        thread.join(60)
    both = run(task(store, source, resources={"gpu": 2.0}))
    assert text_of(both.messages) == "3,5 begun\n"
    assert resources.machine()["gpu"] == 2


def test_an_item_over_its_memory_fails_alone(service: House) -> None:
    kernel = service.kernel()
    source = (
        "held = bytearray(400_000_000) if n == 3 else b''\n"
        "held[::4096] = b'x' * len(held[::4096])\n"
        "import time\n"
        "time.sleep(0.5 if n == 3 else 0)\n"
        "y = n\n"
    ).replace("held[::4096] =", "if n == 3: held[::4096] =")
    options = StepOptions(foreach=(Foreach(name="n", expression="range(8)"),), memory=250 * MB)
    step = kernel.submit("sweep", source, defs=("y",), options=options)
    record = kernel.state(step)
    assert record.state == "failed", record
    items = {one.item: one for one in catalog(service.store).items(step)}
    assert {number: one.state for number, one in items.items()} == {
        number: "failed" if number == 3 else "succeeded" for number in range(8)
    }
    assert items[3].reason == "memory"
    assert items[3].failure is not None
    assert "more memory than --memory 250 MB (peak " in items[3].failure.evalue


def test_what_is_lost_for_memory_or_with_its_worker_is_tried_again_if_asked(service: House, tmp_path: Path) -> None:
    kernel = service.kernel()
    first = tmp_path / "first"
    source = (
        "import os, time\n"
        f"again = os.path.exists({str(first)!r})\n"
        f"with open({str(first)!r} + '.new', 'w') as file: file.write(str(os.getppid()))\n"
        f"os.rename({str(first)!r} + '.new', {str(first)!r})\n"
    )
    greedy = kernel.submit(
        "greedy",
        source + "x = bytearray(b'x' * (10 if again else 300_000_000))\ntime.sleep(0 if again else 5)",
        options=StepOptions(memory=150 * MB, retries=1),
    )
    record = kernel.state(greedy)
    assert (record.state, record.attempt) == ("succeeded", 2), record.failure
    assert [one.reason for one in record.attempts] == ["memory"]
    first.unlink()
    unlucky = kernel.submit("unlucky", source + "time.sleep(0 if again else 60)", options=StepOptions(retries=1))
    await_true(first.exists, 20)
    server = int(first.read_text())
    os.kill(int(Path(f"/proc/{server}/stat").read_text().rpartition(")")[2].split()[1]), signal.SIGKILL)
    record = kernel.state(unlucky)
    assert (record.state, record.attempt) == ("succeeded", 2), record.failure
    assert [one.reason for one in record.attempts] == ["worker-lost"]
