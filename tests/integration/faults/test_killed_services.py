"""A service that is killed in the middle of a fan-out: the next one has the catalog know all that was recorded."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlbench.core.messages import Foreach, StepOptions
from mlbench.project import Project
from tests.integration.house import House, eventually
from tests.integration.kernel.conftest import Notebook, Place
from tests.postgres import Server
from tests.s3 import S3Server, needs_s3

pytestmark = pytest.mark.timeout(300)

ITEMS = 200


@pytest.fixture(params=["folder", "postgresql", pytest.param("s3", marks=pytest.mark.slow)])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, str]]:
    """Return the variables that say where a store of each kind is; its server knows of no service."""
    variables = {"XDG_DATA_HOME": str(tmp_path / "data"), "MLBENCH_STORE": str(tmp_path / "store")}
    if request.param == "postgresql":
        server = Server()
        yield {**variables, "MLBENCH_CATALOG": server.url(server.create())}
        server.close()
    elif request.param == "s3":
        needs_s3()
        bucket = S3Server()
        variables |= {"MLBENCH_CACHE": str(tmp_path / "cache"), "MLBENCH_STORE": f"{bucket.bucket()}/team"}
        yield {**variables, **bucket.variables}
        bucket.kill()
    else:
        yield variables


@pytest.fixture
def house(where: dict[str, str], tmp_path: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    """Return the service of a store of each kind."""
    for name, value in where.items():
        monkeypatch.setenv(name, value)
    found = House(runtime=runtime, store=tmp_path / "store")
    yield found
    found.end()
    left = found.wait_until_gone()
    assert not left, f"processes were left behind: {left}"


@pytest.fixture
def book(house: House, tmp_path: Path) -> Iterator[Notebook]:
    """Return a notebook of this store, whatever its kind."""
    found = Place(tmp_path, house.runtime).notebook(MLBENCH_STORE=os.environ["MLBENCH_STORE"])
    yield found
    found.close()


def mlbench(*arguments: str) -> tuple[int, str]:
    code = "from mlbench.entrypoints.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout + done.stderr


def recorded(project: Project) -> dict[int, Any]:
    """Return the items that the records say have ended, by their numbers."""
    return {one["item"]: one for record in project.blobs.records("executions") for one in record["executions"]}


def test_what_had_ended_when_the_service_was_killed_in_a_fan_out_is_in_the_catalog_and_is_not_run_again(
    house: House, book: Notebook, tmp_path: Path
) -> None:
    ran = tmp_path / "ran"
    source = (
        f"%%step train --foreach x in range({ITEMS}) --cache\nimport mlbench, subprocess, time\n"
        f"subprocess.run(f'echo {{x}} >> {ran}', shell=True, check=True)\ntime.sleep(0.05)\n"
        "mlbench.log(size=x)\ny = x + 1"
    )
    assert book.run(source, "train").status == "ok"
    project = Project.open()

    def step() -> Any:
        return next(one for run in project.catalog.runs() for one in project.catalog.executions(run.id))

    def known() -> int:
        return sum(project.catalog.count_items(step().id).values())

    eventually(lambda: ran.exists() and known() > 0)
    os.kill(house.pid, signal.SIGSTOP)  # so that it hears of none of what its workers record from now on
    eventually(lambda: len(recorded(project)) > known())
    house.kill()
    house.connect()
    eventually(lambda: step().state == "failed")
    eventually(lambda: len(recorded(project)) == known())
    there = recorded(project)
    status, said = mlbench("store", "verify")
    assert status == 0, said
    assert 0 < len(there) < ITEMS
    lost = json.loads(mlbench("show", step().run, "--json")[1])
    (shown,) = lost["executions"]
    assert (shown["reason"], shown["fanout"]["running"]) == ("service-lost", 0)
    states = Counter(one["state"] for one in there.values())
    assert {state: shown["fanout"][state] for state in states} == states
    items = {one.item: one for one in project.catalog.items(step().id, limit=ITEMS)}
    assert {number: one.state for number, one in items.items()} == {n: one["state"] for n, one in there.items()}
    assert dict(project.catalog.item_metrics(step().id, "size")) == {
        number: number for number, one in items.items() if one.state == "succeeded"
    }
    before = Counter(ran.read_text().split())
    assert book.run(source.replace("--cache", "--cache --wait"), "train").status == "ok"
    assert book.value(f"y == list(range(1, {ITEMS + 1}))") == "True"
    again = Counter(ran.read_text().split()) - before
    assert set(map(int, again)) == set(range(ITEMS)) - {n for n, one in items.items() if one.state == "succeeded"}


def test_so_it_is_in_the_run_of_an_engine_that_lives_on(service: House, tmp_path: Path) -> None:
    project = Project.open()
    run = project.begin_run(kind="papermill")
    kernel = service.kernel(run=run.id, kind="papermill", reconnect=True)
    foreach = StepOptions(foreach=(Foreach(name="x", expression=f"range({ITEMS})"),))
    step = kernel.submit("train", "import time\ntime.sleep(0.05)\ny = x", options=foreach, defs=("y",))

    def known() -> int:
        return sum(project.catalog.count_items(step).values())

    eventually(lambda: known() > 0)
    os.kill(service.pid, signal.SIGSTOP)
    eventually(lambda: len(recorded(project)) > known())
    service.kill()
    record = kernel.state(step)
    assert (record.state, record.reason) == ("failed", "service-lost")
    eventually(lambda: len(recorded(project)) == known())
    assert project.catalog.run(run.id).state == "running"
    project.end_run(run, "failed")
    assert mlbench("store", "verify")[0] == 0
