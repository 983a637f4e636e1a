"""Steps through a local Dask cluster: news, ends, losses, and nobody else's hands on it."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from mlbench.backends.blobs_local import LocalBlobs
from mlbench.backends.cluster_dask.client.cluster import DaskCluster
from mlbench.core.messages import StepTask
from mlbench.core.records import Execution, Json
from mlbench.runs.signing import is_proven, proven, signer_of
from tests.integration.steps import PATIENCE, ROOT, alive, await_true, environment, meeting, stopped, task, text_of

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@asynccontextmanager
async def cluster(**options: float) -> AsyncIterator[DaskCluster]:
    one = DaskCluster(**options)  # type: ignore[arg-type]
    try:
        yield one
    finally:
        await asyncio.wait_for(one.close(), PATIENCE)


def together(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(test(), 120)

    asyncio.run(bounded())


class Heard:
    """News of an execution."""

    def __init__(self) -> None:
        self.news: list[Json] = []
        self._changed = asyncio.Event()

    def take(self, news: Json) -> None:
        self.news.append(news)
        self._changed.set()

    @property
    def text(self) -> str:
        return text_of([one for news in self.news if news["type"] == "messages" for one in news["messages"]])

    async def wait_for(self, text: str) -> None:
        async with asyncio.timeout(PATIENCE):
            while text not in self.text:
                self._changed.clear()
                await self._changed.wait()


async def gone(*processes: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while any(alive(process) for process in processes):  # noqa: ASYNC110  processes of others send no event
            await asyncio.sleep(0.05)


async def submit(one: DaskCluster, given: StepTask) -> tuple[Execution, Heard]:
    heard = Heard()
    return await one.submit(given, heard.take), heard


def test_a_step_is_run_heard_and_recorded_and_a_trivial_one_is_fast(store: Path) -> None:
    async def test() -> None:
        async with cluster() as one:
            given = task(store, "print('hello')\nx = 1\nx", defs=("x",), base={"cell": "c1", "position": 3})
            record, heard = await submit(one, given)
            assert record.state == "succeeded"
            assert (record.cell, record.position, record.step) == ("c1", 3, "train")
            assert heard.news[0]["type"] == "started"
            assert heard.text == "hello\n"
            kept = LocalBlobs(store).find_record("execution", record.id)
            assert kept is not None
            assert kept["state"] == "succeeded"
            times = []
            for _ in range(9):
                begun = time.perf_counter()
                await submit(one, task(store, "x = 1", defs=("x",)))
                times.append(time.perf_counter() - begun)
            assert min(times) < 0.2  # 20 ms on a machine that has nothing else to do
            assert one.idle_since is not None

    together(test)


def test_steps_overlap_and_each_hears_its_own_news(store: Path, tmp_path: Path) -> None:
    names = ("one", "two", "three")

    def source(name: str) -> str:
        return f"print('{name}')\n" + meeting(tmp_path / "met", name, *names)

    async def test() -> None:
        async with cluster() as one:
            ends = await asyncio.gather(*(submit(one, task(store, source(name), step=name)) for name in names))
            assert [record.state for record, _ in ends] == ["succeeded"] * 3
            assert [heard.text for _, heard in ends] == ["one\n", "two\n", "three\n"]

    together(test)


@pytest.mark.parametrize("moment", ["at once", "starting", "running"])
def test_a_cancel_ends_a_step_at_any_moment(store: Path, moment: str) -> None:
    async def test() -> None:
        async with cluster() as one:
            await one.start()
            heard = Heard()
            given = task(store, "import os\nprint(os.getpid(), 'begun')\nwhile True: pass")
            running = asyncio.create_task(one.submit(given, heard.take))
            await asyncio.sleep(0 if moment == "at once" else 0.01)
            if moment == "running":
                await heard.wait_for("begun")
            assert await one.cancel(given.execution, "superseded")
            record = await asyncio.wait_for(running, PATIENCE)
            assert (record.state, record.reason) == ("cancelled", "superseded")
            assert not await one.cancel(given.execution)
            if heard.text:
                await gone(int(heard.text.split()[0]))

    together(test)


def test_a_step_that_waits_for_a_thread_is_cancelled_too(store: Path) -> None:
    async def test() -> None:
        async with cluster(threads=1) as one:
            first, second = (task(store, "print('begun')\nwhile True: pass") for _ in range(2))
            heard = Heard()
            ends = [asyncio.create_task(one.submit(first, heard.take))]
            await heard.wait_for("begun")
            ends.append(asyncio.create_task(one.submit(second, Heard().take)))
            await asyncio.sleep(0.3)
            await one.cancel(second.execution)
            assert (await asyncio.wait_for(ends[1], PATIENCE)).state == "cancelled"
            await one.cancel(first.execution)
            assert (await asyncio.wait_for(ends[0], PATIENCE)).state == "cancelled"

    together(test)


def test_a_step_is_paused_and_goes_on(store: Path, tmp_path: Path) -> None:
    go = tmp_path / "go"

    async def test() -> None:
        async with cluster() as one:
            heard = Heard()
            source = (
                f"import os, time\nprint(os.getpid(), 'begun')\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)"
            )
            given = task(store, source)
            running = asyncio.create_task(one.submit(given, heard.take))
            await heard.wait_for("begun")
            assert await one.pause(given.execution)
            process = int(heard.text.split()[0])
            await asyncio.to_thread(await_true, lambda: stopped(process))
            go.touch()
            await asyncio.sleep(0.2)
            assert stopped(process)
            assert not running.done()
            assert await one.resume(given.execution)
            assert (await asyncio.wait_for(running, PATIENCE)).state == "succeeded"

    together(test)


def test_a_killed_worker_fails_its_steps_and_the_next_one_runs(store: Path) -> None:
    async def test() -> None:
        async with cluster() as one:
            heard = Heard()
            source = (
                "import os, subprocess\nother = subprocess.Popen(['sleep', '600'])\n"
                "print(os.getpid(), os.getppid(), other.pid, 'begun')\nwhile True: pass"
            )
            running = asyncio.create_task(one.submit(task(store, source), heard.take))
            await heard.wait_for("begun")
            step, server, other = (int(word) for word in heard.text.split()[:3])
            worker = parent_of(server)
            os.kill(worker, signal.SIGKILL)
            record = await asyncio.wait_for(running, PATIENCE)
            assert (record.state, record.reason) == ("failed", "worker-lost")
            assert record.failure is not None
            assert record.failure.remedy is not None
            kept = LocalBlobs(store).find_record("execution", record.id)
            assert kept is not None
            assert kept["reason"] == "worker-lost"
            await gone(worker, server, step, other)
            again, _ = await submit(one, task(store, "x = 1", defs=("x",)))
            assert again.state == "succeeded"

    together(test)


@pytest.mark.slow
def test_a_worker_that_hangs_is_ended_and_its_steps_with_it(store: Path) -> None:
    async def test() -> None:
        async with cluster() as one:
            heard = Heard()
            running = asyncio.create_task(
                one.submit(task(store, "import os\nprint(os.getppid(), 'begun')\nwhile True: pass"), heard.take)
            )
            await heard.wait_for("begun")
            os.kill(parent_of(int(heard.text.split()[0])), signal.SIGSTOP)
            record = await asyncio.wait_for(running, 75)
            assert record.reason == "worker-lost"

    together(test)


@pytest.mark.parametrize("ours", [True, False])
def test_an_end_that_was_recorded_before_the_worker_was_lost_is_the_end_if_the_worker_wrote_it(
    store: Path, *, ours: bool
) -> None:
    async def test() -> None:
        async with cluster() as one:
            heard = Heard()
            given = task(store, "import os\nprint(os.getppid(), 'begun')\nwhile True: pass")
            signer = signer_of(b"mine", given.execution)
            given = dataclasses.replace(given, signer=signer)
            running = asyncio.create_task(one.submit(given, heard.take))
            await heard.wait_for("begun")
            end = {"id": given.execution, "run": given.run, "step": given.step, "state": "succeeded", "attempt": 1}
            if ours:
                end = proven(given.signer, "execution", given.execution, end)
            LocalBlobs(store).append("execution", given.execution, end)
            server = int(heard.text.split()[0])
            worker = parent_of(server)
            os.kill(worker, signal.SIGKILL)
            record = await asyncio.wait_for(running, PATIENCE)
            assert (record.state, record.reason) == (("succeeded", None) if ours else ("failed", "worker-lost"))
            kept = LocalBlobs(store).find_record("execution", given.execution)
            assert kept is not None
            assert is_proven([signer], "execution", given.execution, kept)

    together(test)


def test_an_idle_cluster_ends_and_the_next_step_starts_another(store: Path) -> None:
    async def test() -> None:
        async with cluster(idle_after=0.5) as one:
            given = task(store, "import os\nprint(os.getpid(), os.getppid())")
            _, heard = await submit(one, given)
            step, server = (int(word) for word in heard.text.split())
            async with asyncio.timeout(PATIENCE):
                while one.running:  # noqa: ASYNC110  it ends by itself
                    await asyncio.sleep(0.05)
            await gone(step, server)
            record, _ = await submit(
                one,
                given.__class__(
                    **{**{name: getattr(given, name) for name in given.__dataclass_fields__}, "attempt": 2}
                ),
            )
            assert record.state == "succeeded"

    together(test)


def test_close_ends_what_runs(store: Path) -> None:
    async def test() -> None:
        heard = Heard()
        async with cluster() as one:
            running = asyncio.create_task(
                one.submit(
                    task(store, "import os\nprint(os.getpid(), os.getppid(), 'begun')\nwhile True: pass"), heard.take
                )
            )
            await heard.wait_for("begun")
        record = await asyncio.wait_for(running, PATIENCE)
        assert record.state in ("cancelled", "failed")
        assert record.reason in ("service-lost", "worker-lost")
        await gone(*(int(word) for word in heard.text.split()[:2]))

    together(test)


def test_everything_ends_when_the_service_is_killed(store: Path, tmp_path: Path) -> None:
    script = textwrap.dedent(f"""
        import asyncio, sys
        from pathlib import Path
        from mlbench.backends.cluster_dask.client.cluster import DaskCluster
        from tests.integration.steps import task
        def hear(news):
            for one in news.get("messages", ()):
                print(one["text"], flush=True)
        async def main():
            source = "import os\\nprint(str(os.getpid()) + chr(32) + str(os.getppid()))\\nwhile True: pass"
            given = task(Path({str(store)!r}), source)
            await DaskCluster().submit(given, hear)
        if __name__ == "__main__":
            asyncio.run(main())
    """)
    (tmp_path / "service.py").write_text(script)
    service = subprocess.Popen(
        [sys.executable, str(tmp_path / "service.py")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        assert service.stdout is not None
        step, server = (int(word) for word in service.stdout.readline().split())
        worker = parent_of(server)
        assert alive(worker)
    finally:
        service.kill()
        service.wait(10)

    async def test() -> None:
        await gone(step, server, worker)

    together(test)


def test_the_cluster_listens_to_this_machine_alone_over_tls(store: Path) -> None:
    async def test() -> None:
        from distributed import Client

        async with cluster() as one:
            _, heard = await submit(one, task(store, "import os\nprint(os.getppid())"))
            server = int(heard.text)
            worker = parent_of(server)
            ports = {port: host for process in (os.getpid(), worker) for host, port in listening(process)}
            assert ports
            assert set(ports.values()) == {"0100007F"}  # 127.0.0.1
            for port in ports:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"GET / HTTP/1.0\r\n\r\n")
                with suppress(TimeoutError, ConnectionError):
                    assert b"HTTP/1" not in await asyncio.wait_for(reader.read(100), 5)
                writer.close()
            address = re.sub(r"^tls", "tcp", one._client.scheduler.address)
            with pytest.raises(OSError):  # noqa: PT011  Dask's CommClosedError and a timeout are both
                async with asyncio.timeout(8):
                    await Client(address, asynchronous=True, timeout=4)

    together(test)


def parent_of(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def listening(process: int) -> list[tuple[str, int]]:
    """Return the addresses that a process listens at."""
    sockets = set()
    for one in Path(f"/proc/{process}/fd").iterdir():
        try:
            target = os.readlink(one)
        except OSError:
            continue
        if target.startswith("socket:["):
            sockets.add(target[8:-1])
    found = []
    for line in Path(f"/proc/{process}/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        if words[3] == "0A" and words[9] in sockets:
            host, _, port = words[1].partition(":")
            found.append((host, int(port, 16)))
    return found


def test_a_cluster_leaves_the_variables_of_its_service_as_they_were(store: Path) -> None:
    before = {**os.environ, "PYTHONHASHSEED": "random"}

    async def test() -> None:
        async with cluster() as one:
            await submit(one, task(store, "pass"))

    together(test)
    assert {**os.environ, "PYTHONHASHSEED": os.environ.get("PYTHONHASHSEED", "random")} == before


def test_a_kernels_environment_is_in_no_log(store: Path, capfd: pytest.CaptureFixture[str]) -> None:
    async def test() -> None:
        async with cluster() as one:
            heard = Heard()
            given = task(
                store,
                "import os\nprint(os.getppid(), 'begun')\nwhile True: pass",
                environment=environment(MY_TOKEN="hush-hush-9"),
            )
            running = asyncio.create_task(one.submit(given, heard.take))
            await heard.wait_for("begun")
            server = int(heard.text.split()[0])
            os.kill(parent_of(server), signal.SIGKILL)
            await asyncio.wait_for(running, PATIENCE)

    together(test)
    said = capfd.readouterr()
    assert "hush" not in said.out + said.err
    for record in (store / "records").rglob("*.json"):
        assert "hush" not in record.read_text()
