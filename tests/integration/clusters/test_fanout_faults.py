"""Fan-outs on a cluster of somebody else, over TLS, when something there ends, stands still or is cut off.

Each ends in a true state: what has ended is kept, nothing begins twice, and nothing is said to run that does not.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mlbench.backends.blobs_local import LocalBlobs
from mlbench.backends.cluster_dask.client.cluster import DaskCluster
from mlbench.backends.cluster_dask.versions import installed
from mlbench.core.messages import ClusterChoice, Foreach, StepTask
from mlbench.core.records import Execution, Json
from mlbench.runs.artifacts import Loader
from tests.integration.clusters.cable import cable
from tests.integration.clusters.places import Elsewhere, certificates, elsewhere
from tests.integration.steps import alive, task
from tests.integration.test_cluster import cluster

pytestmark = pytest.mark.timeout(240)

SOURCE = """
import os, time
with open({marks!r}, "a") as _file:
    _file.write(f"{{x}} {{os.getpid()}}\\n")
time.sleep(0.1)  # so that not all go to one process
while x >= {free} and not os.path.exists({gate!r}):
    time.sleep(0.01)
y = 2 * x
"""


@dataclass
class Drive:
    """A fan-out on its way: items from `free` on wait for a gate."""

    cluster: DaskCluster
    given: StepTask
    marks: Path
    gate: Path
    free: int
    running: asyncio.Task[Execution] | None = None
    told: dict[int, str] = field(default_factory=dict)
    fanout: Any = None

    def begin(self) -> None:
        self.running = asyncio.create_task(self.cluster.submit(self.given, self._hear))

    def _hear(self, news: Json) -> None:
        if news["type"] == "items":
            self.fanout = news["fanout"]
            self.told.update({one.item: one.state for one in news["executions"]})

    def begun(self) -> list[tuple[int, int]]:
        """Return each item that has begun, with its process, as often as it has."""
        if not self.marks.exists():
            return []
        lines = self.marks.read_text().splitlines()
        return [(int(line.split()[0]), int(line.split()[1])) for line in lines if len(line.split()) == 2]

    @property
    def waiting(self) -> list[tuple[int, int]]:
        return [(number, process) for number, process in self.begun() if number >= self.free and alive(process)]

    async def until(self, wanted: Callable[[], object], seconds: float = 40.0) -> None:
        async with asyncio.timeout(seconds):
            while not wanted():
                assert self.running is not None
                assert not self.running.done(), self.running.result()
                await asyncio.sleep(0.02)

    async def kept_what_ended(self) -> None:
        """Wait until what has ended is recorded, although chunks have items that take long."""

        def kept() -> bool:
            under_way = {number for number, _ in self.waiting}
            return {number for number, _ in self.begun()} - under_way <= set(self.kept())

        await self.until(kept)

    async def end(self, seconds: float = 60.0) -> Execution:
        assert self.running is not None
        return await asyncio.wait_for(self.running, seconds)

    def kept(self) -> dict[int, Json]:
        """Return the last record of each item, as the store has them."""
        found: dict[int, Json] = {}
        for record in LocalBlobs(self.given.store).records("executions"):
            found.update({one["item"]: one for one in record["executions"]})
        return found

    def check(self, record: Execution, *, most: int = 1) -> None:
        """Check that what has ended is kept and that nothing is said to run."""
        assert record.state in ("succeeded", "failed", "cancelled")
        kept = LocalBlobs(self.given.store).find_record("execution", record.id)
        assert kept is not None
        assert kept["state"] == record.state
        assert record.fanout is not None
        assert record.fanout.running == 0
        times = Counter(number for number, _ in self.begun())
        assert max(times.values(), default=0) <= most, times
        loader = Loader(LocalBlobs(self.given.store))
        for number, one in self.kept().items():
            if one["state"] == "succeeded":
                assert loader.load(one["binds"][0]) == 2 * number

    def check_loss(self, record: Execution) -> None:
        """Check that what was under way is lost, in the two processes of one worker, and nothing that had ended."""
        assert record.fanout is not None
        assert record.fanout.failed == 2
        assert record.fanout.succeeded + record.fanout.failed == record.fanout.total
        failed = {number for number, one in self.kept().items() if one["state"] == "failed"}
        assert len(failed) == record.fanout.failed
        assert failed <= {number for number, _ in self.begun()}


@asynccontextmanager
async def driving(
    place: Elsewhere, tmp_path: Path, items: int = 40, free: int = 8, *, address: str = "", **others: Any
) -> AsyncIterator[Drive]:
    LocalBlobs(tmp_path / "store")
    marks, gate = tmp_path / "marks", tmp_path / "gate"
    choice = ClusterChoice(name="there", address=address or place.address, tls=place.tls, versions={**installed()})
    given = task(
        tmp_path / "store",
        SOURCE.format(marks=str(marks), gate=str(gate), free=free),
        defs=("y",),
        cluster=choice,
        foreach=(Foreach(name="x", expression=f"range({items})"),),
        **others,
    )
    async with cluster() as one:
        drive = Drive(one, given, marks, gate, free)
        drive.begin()
        try:
            yield drive
        finally:
            gate.touch()


def together(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(test(), 200)

    asyncio.run(bounded())


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up sooner whoever does not answer."""
    from mlbench.backends.cluster_dask.client import chunks, remote
    from mlbench.backends.cluster_dask.client import cluster as module

    monkeypatch.setattr(module, "_LOOK_SECONDS", 1.0)
    monkeypatch.setattr(module, "_ANSWER_SECONDS", 1.0)
    monkeypatch.setattr(chunks, "CONTROL_SECONDS", 2.0)
    monkeypatch.setattr(remote, "CONNECT_SECONDS", 5.0)


@pytest.fixture
def place(tmp_path: Path) -> Any:
    with elsewhere(tmp_path / "there", tls=certificates(tmp_path)) as one:
        yield one


async def all_gone(drive: Drive) -> None:
    async with asyncio.timeout(30):
        while any(alive(process) for _, process in drive.begun()):  # noqa: ASYNC110  processes of others send no event
            await asyncio.sleep(0.05)


def test_a_cancel_keeps_what_is_done_and_leaves_no_process(place: Elsewhere, tmp_path: Path) -> None:
    async def test() -> None:
        async with driving(place, tmp_path) as drive:
            await drive.until(lambda: len(drive.waiting) == 2)
            assert await drive.cluster.cancel(drive.given.execution)
            record = await drive.end(30)
            assert (record.state, record.reason) == ("cancelled", "user")
            drive.check(record)
            assert record.fanout is not None
            assert record.fanout.succeeded >= drive.free
            assert {number for number, one in drive.kept().items() if one["state"] == "succeeded"} >= set(range(8))
            await all_gone(drive)

    together(test)


def test_a_pause_stops_all_and_lets_nothing_begin_until_it_goes_on(place: Elsewhere, tmp_path: Path) -> None:
    async def test() -> None:
        async with driving(place, tmp_path) as drive:
            await drive.until(lambda: len(drive.waiting) == 2)
            assert await drive.cluster.pause(drive.given.execution)
            stopped = [process for _, process in drive.waiting]
            await drive.until(lambda: all(state_of(one) == "T" for one in stopped))
            place.worker("--name", "later")
            drive.gate.touch()
            before = drive.begun()
            await asyncio.sleep(5)  # nothing happens, which sends no event
            assert drive.begun() == before
            assert await drive.cluster.resume(drive.given.execution)
            record = await drive.end()
            assert record.state == "succeeded"
            drive.check(record)

    together(test)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def state_of(process: int) -> str:
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.parametrize("retries", [0, 1])
def test_a_killed_worker_costs_what_was_under_way_there(place: Elsewhere, tmp_path: Path, retries: int) -> None:
    async def test() -> None:
        place.worker("--name", "second")
        async with driving(place, tmp_path, retries=retries) as drive:
            await drive.until(lambda: len(drive.waiting) == 4)
            await drive.kept_what_ended()
            os.killpg(place.processes[1].pid, signal.SIGKILL)
            await drive.until(lambda: len(drive.waiting) <= 2)
            drive.gate.touch()
            record = await drive.end()
            drive.check(record, most=1 + retries)
            assert record.fanout is not None
            if retries:
                assert record.state == "succeeded"
                assert len(drive.begun()) == 42
            else:
                assert (record.state, record.reason) == ("failed", "worker-lost")
                drive.check_loss(record)
            await all_gone(drive)

    together(test)


def test_a_worker_that_stands_still_is_given_up_and_its_late_words_are_refused(
    place: Elsewhere, tmp_path: Path, quick: None
) -> None:
    async def test() -> None:
        place.worker("--name", "second")
        async with driving(place, tmp_path) as drive:
            await drive.until(lambda: len(drive.waiting) == 4)
            await drive.kept_what_ended()
            still = place.processes[1]
            os.killpg(still.pid, signal.SIGSTOP)
            try:
                await drive.until(lambda: list(drive.told.values()).count("failed") == 2)
                drive.gate.touch()
                record = await drive.end()
                assert (record.state, record.reason) == ("failed", "worker-lost")
                before = {number: one["state"] for number, one in drive.kept().items()}
            finally:
                os.killpg(still.pid, signal.SIGCONT)
            await all_gone(drive)
            drive.check(record)
            drive.check_loss(record)
            await asyncio.sleep(3)  # what it says late would be said by now
            assert {number: one["state"] for number, one in drive.kept().items()} == before
            drive.check(record)

    together(test)


def test_a_killed_scheduler_ends_the_fan_out_with_what_is_done(place: Elsewhere, tmp_path: Path) -> None:
    async def test() -> None:
        async with driving(place, tmp_path) as drive:
            await drive.until(lambda: len(drive.waiting) == 2)
            os.killpg(place.processes[0].pid, signal.SIGKILL)
            record = await drive.end()
            assert (record.state, record.reason) == ("failed", "worker-lost")
            drive.check(record)
            assert record.failure is not None
            assert place.address in record.failure.evalue
            assert record.fanout is not None
            assert record.fanout.succeeded >= drive.free
            await all_gone(drive)

    together(test)


def test_a_scheduler_that_stands_still_ends_the_fan_out_with_what_is_done(
    place: Elsewhere, tmp_path: Path, quick: None
) -> None:
    async def test() -> None:
        async with driving(place, tmp_path) as drive:
            await drive.until(lambda: len(drive.waiting) == 2)
            os.killpg(place.processes[0].pid, signal.SIGSTOP)
            try:
                record = await drive.end()
            finally:
                os.killpg(place.processes[0].pid, signal.SIGCONT)
            assert (record.state, record.reason) == ("failed", "worker-lost")
            assert record.failure is not None
            assert place.address in record.failure.evalue
            await all_gone(drive)
            drive.check(record)

    together(test)


@pytest.mark.parametrize("how", ["closed", "stalled"])
def test_a_network_that_is_cut_between_here_and_there_ends_the_fan_out(
    place: Elsewhere, tmp_path: Path, quick: None, how: str
) -> None:
    async def test() -> None:
        async with cable(place.address) as network, driving(place, tmp_path, address=network.address) as drive:
            await drive.until(lambda: len(drive.waiting) == 2)
            if how == "closed":
                await network.cut()
            else:
                network.stall()
            record = await drive.end()
            assert (record.state, record.reason) == ("failed", "worker-lost")
            assert record.failure is not None
            assert network.address in record.failure.evalue
            before = {number: one["state"] for number, one in drive.kept().items()}
            network.mend()
            drive.gate.touch()
            await all_gone(drive)
            drive.check(record)
            await asyncio.sleep(2)
            assert {number: one["state"] for number, one in drive.kept().items()} == before

    together(test)


def test_a_connection_that_breaks_and_is_there_again_begins_nothing_twice(
    place: Elsewhere, tmp_path: Path, quick: None
) -> None:
    async def test() -> None:
        async with cable(place.address) as network, driving(place, tmp_path, address=network.address) as drive:
            await drive.until(lambda: len(drive.waiting) == 2)
            network.drop()
            await drive.until(lambda: list(drive.told.values()).count("failed") == 2)
            drive.gate.touch()
            record = await drive.end()
            assert (record.state, record.reason) == ("failed", "worker-lost")
            drive.check_loss(record)
            drive.check(record)
            await all_gone(drive)

    together(test)


@pytest.mark.parametrize("how", ["closed", "stalled"])
def test_a_network_that_is_cut_between_a_worker_and_its_scheduler_costs_what_was_under_way_there(
    tmp_path: Path, quick: None, how: str
) -> None:
    async def test() -> None:
        place = Elsewhere(tmp_path / "there", tls=certificates(tmp_path))
        try:
            await asyncio.to_thread(place.start)
            direct = place.address
            port = free_port()
            async with cable(direct) as network, cable(f"tls://127.0.0.1:{port}") as back:
                place.address = network.address
                place.worker(
                    *("--name", "far", "--listen-address", f"tls://127.0.0.1:{port}"),
                    *("--contact-address", back.address),
                )
                place.address = direct
                async with driving(place, tmp_path) as drive:
                    await drive.until(lambda: len(drive.waiting) == 2)
                    place.worker("--name", "near")
                    await drive.until(lambda: len(drive.waiting) == 4)
                    for one in (network, back):
                        if how == "closed":
                            await one.cut()
                        else:
                            one.stall()
                    # A worker that has lost its scheduler ends what it runs, and one that is given up learns it.
                    await drive.until(lambda: len(drive.waiting) <= 2)
                    drive.gate.touch()
                    record = await drive.end()
                    assert (record.state, record.reason) == ("failed", "worker-lost")
                    drive.check_loss(record)
                    network.mend()
                    back.mend()
                    await all_gone(drive)
                    drive.check(record)
        finally:
            place.end()

    together(test)
