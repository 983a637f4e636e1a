"""Steps on a cluster that somebody else runs: another folder, another environment, TCP with TLS."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mlbench.backends.blobs_local import LocalBlobs
from mlbench.backends.cluster_dask.client import remote
from mlbench.backends.cluster_dask.versions import installed
from mlbench.core.errors import ServiceError
from mlbench.core.messages import ClusterChoice, StepTask, Surroundings
from tests.integration.clusters.places import PATIENCE, Elsewhere, certificates, elsewhere
from tests.integration.steps import ROOT, environment, task
from tests.integration.test_cluster import cluster, gone, submit, together

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Elsewhere]:
    folder = tmp_path_factory.mktemp("elsewhere")
    with elsewhere(folder / "there", tls=certificates(folder), variables={"THERE": "yes"}) as one:
        yield one


@pytest.fixture
def store(tmp_path: Path) -> Path:
    LocalBlobs(tmp_path / "store")
    return tmp_path / "store"


def choice_of(place: Elsewhere, **others: object) -> ClusterChoice:
    return ClusterChoice(name=place.address, address=place.address, tls=place.tls, versions=installed(), **others)  # type: ignore[arg-type]


def visit(place: Elsewhere, store: Path, source: str, **others: object) -> StepTask:
    return task(store, source, cluster=choice_of(place), **others)  # type: ignore[arg-type]


def stat_of(process: int) -> str:
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_step_runs_there_in_the_workers_own_environment(place: Elsewhere, store: Path, tmp_path: Path) -> None:
    helpers = LocalBlobs(store).put(b"def twice(x):\n    return 2 * x\n")
    source = (
        "import os, helpers, sys\n"
        "x = helpers.twice(21)\n"
        "seen = (os.environ.get('THERE'), os.environ.get('MINE'), os.environ.get('SECRET'), os.environ.get('PATH'))\n"
        "threads = os.environ.get('OMP_NUM_THREADS')\n"
        "print('hello', os.path.isdir(os.getcwd()), os.getcwd() == os.path.dirname(helpers.__file__))"
    )
    gone_folder = str(tmp_path / "not there")

    async def test() -> None:
        async with cluster() as one:
            given = visit(
                place,
                store,
                source,
                defs=("x", "seen", "threads"),
                modules={"helpers.py": helpers},
                surroundings=Surroundings(folder=gone_folder, path=("/nowhere",)),
                environment=environment(MINE="1", SECRET="s", PATH="/nowhere"),
                changed_variables=("MINE", "PATH"),
            )
            record, heard = await submit(one, given)
            assert record.state == "succeeded", record.failure
            assert heard.text.endswith("hello True True\n")
            values = {one.name: one.artifact.preview for one in record.binds if one.artifact is not None}
            assert values["x"]["text"] == "42"
            assert values["seen"]["text"].startswith("('yes', '1', None, ")
            assert "/nowhere" not in values["seen"]["text"]
            kept = LocalBlobs(store).find_record("execution", record.id)
            assert kept is not None
            assert kept["state"] == "succeeded"
            assert not list((store / "tmp").glob("claim-*"))

    together(test)


def test_cancel_pause_and_the_end_of_the_service_reach_a_worker_there(place: Elsewhere, store: Path) -> None:
    source = "import os, time\nprint(os.getpid(), 'begun')\nwhile True: time.sleep(0.01)"

    async def test() -> None:
        from tests.integration.test_cluster import Heard

        async with cluster() as one:
            given, heard = visit(place, store, source), Heard()
            running = asyncio.create_task(one.submit(given, heard.take))
            await heard.wait_for("begun")
            process = int(heard.text.partition(" begun")[0].split()[-1])
            assert await one.pause(given.execution)
            async with asyncio.timeout(30):
                while stat_of(process) != "T":  # noqa: ASYNC110  a process of others sends no event
                    await asyncio.sleep(0.01)
            assert await one.resume(given.execution)
            assert await one.cancel(given.execution)
            record = await asyncio.wait_for(running, 60)
            assert (record.state, record.reason) == ("cancelled", "user")
            await gone(process)
            given, heard = visit(place, store, source), Heard()
            running = asyncio.create_task(one.submit(given, heard.take))
            await heard.wait_for("begun")
            process = int(heard.text.partition(" begun")[0].split()[-1])
        record = await asyncio.wait_for(running, 60)
        assert record.reason in ("service-lost", "worker-lost")
        await gone(process)
        async with cluster() as one:  # and the worker is still there for the next service
            record, _ = await submit(one, visit(place, store, "x = 1"))
            assert record.state == "succeeded"

    together(test)


def test_a_second_service_ends_no_step_of_the_first(place: Elsewhere, store: Path) -> None:
    async def test() -> None:
        from tests.integration.test_cluster import Heard

        async with cluster() as one:
            given, heard = (
                visit(place, store, "import time\nprint('begun')\ntime.sleep(2)\nx = 1", defs=("x",)),
                Heard(),
            )
            running = asyncio.create_task(one.submit(given, heard.take))
            await heard.wait_for("begun")
            async with cluster() as two:
                record, _ = await submit(two, visit(place, store, "y = 1"))
                assert record.state == "succeeded"
            record = await asyncio.wait_for(running, 30)
            assert record.state == "succeeded"

    together(test)


def test_a_worker_that_comes_later_runs_steps_and_a_lost_one_loses_its_step_once(tmp_path: Path, store: Path) -> None:
    marks = tmp_path / "marks"

    async def test(place: Elsewhere) -> None:
        from tests.integration.test_cluster import Heard

        async with cluster() as one:
            record, _ = await submit(one, visit(place, store, "x = 1"))
            assert record.state == "succeeded"
            first = place.processes[1]
            os.killpg(first.pid, signal.SIGTERM)
            # Dask lets a worker wait 30 s that is told to end in the middle of a message to its scheduler.
            await asyncio.to_thread(first.wait, PATIENCE)
            place.worker("--name", "later")
            place.worker("--name", "last")
            source = f"import os, time\nopen({str(marks)!r}, 'a').write('x')\nprint('begun')\ntime.sleep(60)"
            given, heard = visit(place, store, source), Heard()
            running = asyncio.create_task(one.submit(given, heard.take))
            await heard.wait_for("begun")
            address = one._under_way[given.execution].address
            known = await one._place(given.cluster or choice_of(place)).connection.client.scheduler.identity()  # type: ignore[union-attr]
            name = known["workers"][address]["name"]
            os.killpg(place.processes[2 if name == "later" else 3].pid, signal.SIGKILL)
            record = await asyncio.wait_for(running, 60)
            assert (record.state, record.reason) == ("failed", "worker-lost")
            assert marks.read_text() == "x"
            record, _ = await submit(one, visit(place, store, "x = 1"))
            assert record.state == "succeeded"

    with elsewhere(tmp_path / "there") as place:
        together(lambda: test(place))


def test_a_scheduler_that_is_killed_loses_what_runs_and_nothing_that_has_ended(tmp_path: Path, store: Path) -> None:
    async def test(place: Elsewhere) -> None:
        from tests.integration.test_cluster import Heard

        async with cluster() as one:
            ended, _ = await submit(one, visit(place, store, "x = 1"))
            assert ended.state == "succeeded"
            given, heard = visit(place, store, "import time\nprint('begun')\ntime.sleep(60)"), Heard()
            running = asyncio.create_task(one.submit(given, heard.take))
            await heard.wait_for("begun")
            os.killpg(place.processes[0].pid, signal.SIGKILL)
            record = await asyncio.wait_for(running, 60)
            assert (record.state, record.reason) == ("failed", "worker-lost")
            kept = LocalBlobs(store).find_record("execution", ended.id)
            assert kept is not None
            assert kept["state"] == "succeeded"
            later, _ = await submit(one, visit(place, store, "x = 2"))
            assert later.failure is not None
            assert place.address in later.failure.evalue

    with elsewhere(tmp_path / "there") as place:
        together(lambda: test(place))


def test_what_cannot_work_is_said_in_a_sentence(
    place: Elsewhere, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "CONNECT_SECONDS", 3.0)
    stranger = socket.create_server(("127.0.0.1", 0))

    async def test() -> None:
        async with cluster() as one:
            nobody = ClusterChoice(name="x", address="tcp://127.0.0.1:9", versions=installed())
            with pytest.raises(ServiceError, match=r"No Dask scheduler answers at tcp://127\.0\.0\.1:9 within 3 s"):
                await one.use(nobody)
            refused = {
                "tcp://no-such-host.invalid:8786": "known|resolution|nodename",
                f"tcp://127.0.0.1:{stranger.getsockname()[1]}": "does not speak as a Dask scheduler does",
                "tcp://127.0.0.1:9": "refused|failed",
                "tls://127.0.0.1:9": "TLS needs certificates",
            }
            for address, why in refused.items():
                with pytest.raises(ServiceError, match=rf"No Dask scheduler answers at .* s: .*({why})"):
                    await one.use(ClusterChoice(name="x", address=address, versions=installed()))
            await one.use(choice_of(place))
            worker = next(iter((await one.describe(choice_of(place)))["workers"]))["address"]
            with pytest.raises(ServiceError, match=r"there is a Dask worker\. Name the address of its scheduler"):
                await one.use(replace(choice_of(place), address=worker))
            other = choice_of(
                place,
            )
            other = replace(other, versions={**installed(), "python": "3.99.1"})
            with pytest.raises(ServiceError, match=r"the kernel Python 3\.99\.1.*Give the workers Python 3\.99"):
                await one.use(other)
            older = replace(choice_of(place), versions={**installed(), "numpy": "0.1"})
            lines = await one.use(older)
            assert lines[0] == "Versions differ between this kernel and its worker:"
            assert lines[2].split()[:2] == ["numpy", "0.1"]
            assert await one.use(choice_of(place)) == ()
            facts = await one.describe(choice_of(place))
            assert (facts["kind"], facts["address"], len(facts["workers"])) == ("address", place.address, 1)
            assert facts["workers"][0]["threads"] == 2
            link = facts["dashboard"]
            assert await one.dashboards() == ({facts["name"]: link} if link else {})
            with pytest.raises(ServiceError, match="run by somebody else"):
                await one.scale(choice_of(place), 3)

    together(test)


def test_a_store_that_a_worker_does_not_see_is_a_clear_error(place: Elsewhere, store: Path, tmp_path: Path) -> None:
    from mlbench.backends.cluster_dask.worker import visiting

    given = replace(visit(place, store, "x = 1"), store=str(tmp_path / "elsewhere"))
    with pytest.raises(Exception, match=r"cannot use the store .*: there is no store under that path"):
        visiting.adapted(given, None)
    assert not (tmp_path / "elsewhere").exists()
    LocalBlobs(tmp_path / "elsewhere")
    mine = LocalBlobs(tmp_path / "mine").put(b"proof")
    with pytest.raises(Exception, match="another store lies under that path"):
        visiting.adapted(given, mine)


def test_workers_without_mlbench_are_refused_and_a_scheduler_needs_none(tmp_path: Path, store: Path) -> None:
    """A start-up module takes mlbench's folder from `sys.path`, as if it were not installed there."""
    bare = tmp_path / "bare"
    bare.mkdir()
    root = str(ROOT)
    (bare / "sitecustomize.py").write_text(f"import sys\nsys.path[:] = [one for one in sys.path if one != {root!r}]\n")
    without = {"PYTHONPATH": str(bare)}
    place = Elsewhere(tmp_path / "there")

    async def test() -> None:
        async with cluster() as one:
            record, _ = await submit(one, visit(place, store, "x = 1"))
            assert record.state == "succeeded", record.failure
            place.worker("--name", "bare", **without)
            client = one._place(choice_of(place)).connection.client  # type: ignore[union-attr]
            await client.wait_for_workers(2, timeout=60)  # our plugin did not keep it from starting
        async with cluster() as one:
            with pytest.raises(ServiceError, match=r"has no mlbench\. Install it there: pip install mlbench"):
                await one.use(choice_of(place))

    try:
        place.variables = without
        place.start()
        place.variables = {}
        place.worker("--name", "full")
        together(test)
    finally:
        place.end()
