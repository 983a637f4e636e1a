"""Clusters that a class makes: dask-jobqueue's on one machine, adaptive ones, and classes that are not asynchronous."""

from __future__ import annotations

import asyncio
import importlib.util
import signal
from pathlib import Path

import pytest

from mlbench.backends.blobs_local import LocalBlobs
from mlbench.backends.cluster_dask.versions import installed
from mlbench.core.errors import ServiceError
from mlbench.core.messages import ClusterChoice
from tests.integration.steps import task
from tests.integration.test_cluster import cluster, submit, together

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    LocalBlobs(tmp_path / "store")
    return tmp_path / "store"


def choice(factory: str, **others: object) -> ClusterChoice:
    return ClusterChoice(name="made", factory=factory, versions=installed(), **others)  # type: ignore[arg-type]


def test_a_step_runs_on_a_cluster_of_dask_jobqueue(store: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("dask_jobqueue") is None:  # not imported here: that is the service's to do
        pytest.skip("there is no dask_jobqueue")
    made = choice(
        "dask_jobqueue.local.LocalCluster",
        workers=1,
        kwargs={
            "cores": 2,
            "processes": 1,
            "memory": "2GB",
            "log_directory": str(tmp_path / "logs"),
            "local_directory": str(tmp_path),
            "scheduler_options": {"dashboard_address": ":0", "host": "127.0.0.1"},
        },
    )

    async def test() -> None:
        ended = asyncio.Event()  # as the service's: the import of dask_jobqueue sets another handler
        async with cluster() as one:
            asyncio.get_running_loop().add_signal_handler(signal.SIGINT, ended.set)
            record, heard = await submit(one, task(store, "x = 6 * 7\nprint('there')", defs=("x",), cluster=made))
            signal.raise_signal(signal.SIGINT)
            await asyncio.wait_for(ended.wait(), 10)
            assert record.state == "succeeded", record.failure
            assert heard.text.endswith("there\n")
            facts = await one.describe(made)
            assert (facts["kind"], facts["running"], len(facts["workers"])) == ("factory", True, 1)
            assert await one.stop(made) == []
            assert not (await one.describe(made))["running"]

    together(test)


def test_an_adaptive_cluster_gets_a_worker_when_a_step_waits_for_one(store: Path) -> None:
    made = choice(
        "distributed.LocalCluster",
        adapt={"minimum": 0, "maximum": 1},
        kwargs={"n_workers": 0, "threads_per_worker": 1, "dashboard_address": ":0", "host": "127.0.0.1"},
    )

    async def test() -> None:
        async with cluster() as one:
            assert (await one.use(made))[0] == "Cluster made has no worker yet: steps wait for one."
            record, _ = await submit(one, task(store, "x = 1", cluster=made))
            assert record.state == "succeeded", record.failure

    together(test)


def test_a_class_that_knows_no_asynchronous_is_made_in_a_thread(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plain_cluster.py").write_text(
        "import distributed\n"
        "class Plain:\n"
        "    def __init__(self, workers):\n"
        "        self.inner = distributed.LocalCluster(n_workers=workers, threads_per_worker=1,\n"
        "            dashboard_address=':0', host='127.0.0.1')\n"
        "        self.scheduler_address, self.security = self.inner.scheduler_address, self.inner.security\n"
        "        self.asynchronous = False\n"
        "    def close(self):\n"
        "        self.inner.close()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    made = choice("plain_cluster.Plain", args=(1,))

    async def test() -> None:
        async with cluster() as one:
            record, _ = await submit(one, task(store, "x = 1", cluster=made))
            assert record.state == "succeeded", record.failure

    together(test)


def test_a_class_whose_workers_refuse_a_keyword_says_which(store: Path) -> None:
    made = choice(
        "distributed.LocalCluster",
        kwargs={"n_workers": 1, "dashboard_address": ":0", "host": "127.0.0.1", "no_such": 1},
    )

    async def test() -> None:
        async with cluster() as one:
            with pytest.raises(ServiceError, match=r"refuses the arguments of cluster made: .*'no_such'"):
                await one.use(made)

    together(test)


@pytest.mark.parametrize(("line", "said"), [("1 / 0", "ZeroDivisionError"), ("raise SystemExit(3)", "SystemExit: 3")])
def test_a_class_whose_module_cannot_be_imported_says_why(
    line: str, said: str, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_cluster.py").write_text(f"{line}\nclass Made: ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    async def test() -> None:
        async with cluster() as one:
            with pytest.raises(ServiceError, match=rf"broken_cluster.Made of cluster made can't be imported: {said}"):
                await one.use(choice("broken_cluster.Made"))

    together(test)


def test_a_step_says_why_its_cluster_could_not_be_made(store: Path) -> None:
    async def test() -> None:
        async with cluster() as one:
            record, _ = await submit(one, task(store, "x = 1", cluster=choice("no_such_module.Cluster")))
            assert record.state == "failed"
            assert record.failure is not None
            assert "no_such_module.Cluster of cluster made can't be imported" in record.failure.evalue
            with pytest.raises(ServiceError, match="refuses the arguments"):
                await one.use(choice("distributed.SpecCluster", kwargs={"no_such": 1}))
            kept = LocalBlobs(store).find_record("execution", record.id)
            assert kept is not None
            assert kept["state"] == "failed"

    together(test)
