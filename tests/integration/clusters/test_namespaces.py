"""A cluster on another machine, as near as one machine comes to it: a network of its own, reached through a cable."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlbench.backends.blobs_local import LocalBlobs
from mlbench.backends.cluster_dask.versions import installed
from mlbench.core.messages import ClusterChoice, Foreach
from tests.integration.clusters.places import Elsewhere, certificates
from tests.integration.steps import task
from tests.integration.test_cluster import Heard, cluster, submit, together

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def network() -> Iterator[tuple[str, str]]:
    """Return the name of a network namespace, and the address of its end of a cable whose other end is here."""
    name, here, there = f"mlbench{os.getpid()}", f"mlba{os.getpid() % 100000}", f"mlbb{os.getpid() % 100000}"
    commands = [
        ["ip", "netns", "add", name],
        ["ip", "link", "add", here, "type", "veth", "peer", "name", there, "netns", name],
        ["ip", "addr", "add", "10.213.77.1/30", "dev", here],
        ["ip", "link", "set", here, "up"],
        ["ip", "-n", name, "addr", "add", "10.213.77.2/30", "dev", there],
        ["ip", "-n", name, "link", "set", there, "up"],
        ["ip", "-n", name, "link", "set", "lo", "up"],
    ]
    try:
        for command in commands:
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
            except FileNotFoundError:
                pytest.skip("there is no `ip` here to make networks with")
            if done.returncode:
                pytest.skip(f"no network can be made here: {done.stderr.strip()}")
        yield name, "10.213.77.2"
    finally:
        for command in (["ip", "link", "del", here], ["ip", "netns", "del", name]):
            subprocess.run(command, capture_output=True, timeout=20, check=False)


@pytest.fixture
def place(network: tuple[str, str], tmp_path: Path) -> Iterator[Elsewhere]:
    name, address = network
    inside = ("ip", "netns", "exec", name)
    one = Elsewhere(tmp_path / "there", tls=certificates(tmp_path), host=address, inside=inside)
    try:
        one.start()
        one.worker("--host", address)
        yield one
    finally:
        one.end()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    LocalBlobs(tmp_path / "store")
    return tmp_path / "store"


def choice_of(place: Elsewhere) -> ClusterChoice:
    return ClusterChoice(name="there", address=place.address, tls=place.tls, versions=installed())


def test_steps_and_fan_outs_run_in_another_network(place: Elsewhere, store: Path) -> None:
    async def test() -> None:
        async with cluster() as one:
            source = "import os\nprint('hello')\nnet = os.readlink('/proc/self/ns/net')"
            record, heard = await submit(one, task(store, source, defs=("net",), cluster=choice_of(place)))
            assert record.state == "succeeded", record.failure
            assert heard.text.endswith("hello\n")
            net = next(bound.artifact for bound in record.binds if bound.name == "net")
            assert net is not None
            assert os.readlink("/proc/self/ns/net") not in net.preview["text"]
            given = task(
                store,
                "y = x * x",
                defs=("y",),
                cluster=choice_of(place),
                foreach=(Foreach(name="x", expression="range(50)"),),
            )
            record, heard = await submit(one, given)
            assert record.state == "succeeded", record.failure
            assert record.fanout is not None
            assert record.fanout.succeeded == 50

    together(test)


def test_a_cut_cable_ends_the_step_as_lost(place: Elsewhere, store: Path) -> None:
    async def test() -> None:
        async with cluster() as one:
            given = task(store, "import time\nprint('begun')\ntime.sleep(100)", cluster=choice_of(place))
            heard = Heard()
            running = asyncio.create_task(one.submit(given, heard.take))
            await heard.wait_for("begun")
            cable = f"mlba{os.getpid() % 100000}"
            await asyncio.to_thread(subprocess.run, ["ip", "link", "set", cable, "down"], check=True, timeout=20)
            try:
                record = await asyncio.wait_for(running, 90)
            finally:
                await asyncio.to_thread(subprocess.run, ["ip", "link", "set", cable, "up"], check=True, timeout=20)
            assert (record.state, record.reason) == ("failed", "worker-lost")

    together(test)
