"""A team's place: the store in a bucket and the catalog in PostgreSQL, from a kernel's step to others' processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlbench.backends.catalog_sql import SqlCatalog
from mlbench.backends.service_socket import end_by_force
from mlbench.core.ids import RunId
from tests.integration.kernel.conftest import Place
from tests.postgres import PASSWORD, Server
from tests.s3 import S3Server, needs_s3

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def s3() -> Iterator[S3Server]:
    needs_s3()
    server = S3Server()
    yield server
    server.kill()


@pytest.fixture
def postgres() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def team(tmp_path: Path, s3: S3Server, postgres: Server) -> Iterator[tuple[Place, dict[str, str]]]:
    """Return a place in which kernels find nothing but two URLs, and the variables that name these."""
    place = Place(tmp_path, Path(tempfile.mkdtemp(prefix="mlb")))
    variables = {
        **s3.variables,
        "MLBENCH_STORE": f"{s3.bucket()}/team",
        "MLBENCH_CATALOG": postgres.url(postgres.create()),
        "MLBENCH_RUNTIME": str(place.runtime),
        "MLBENCH_CACHE": str(tmp_path / "cache"),
        "XDG_DATA_HOME": str(tmp_path / "data"),
    }
    yield place, variables
    place.close()


def elsewhere(variables: dict[str, str], cache: Path, *command: str) -> str:
    """Run Python in a process that has nothing of the kernel's but the two URLs; return what it printed."""
    environment = {**os.environ, **variables, "MLBENCH_CACHE": str(cache)}
    asked = subprocess.run(
        [sys.executable, *command], env=environment, cwd=cache.parent, capture_output=True, text=True, timeout=120
    )
    assert asked.returncode == 0, asked.stderr
    return asked.stdout


def mlbench(variables: dict[str, str], cache: Path, *arguments: str) -> Any:
    program = "from mlbench.entrypoints.cli import main; main()"
    return json.loads(elsewhere(variables, cache, "-c", program, *arguments, "--json"))


def test_a_kernels_steps_are_in_the_bucket_and_on_the_server_for_everybody(
    team: tuple[Place, dict[str, str]], tmp_path: Path
) -> None:
    place, variables = team
    cache = tmp_path / "other-cache"
    page = place.notebook(**variables)
    assert page.run("import numpy as np\nrows = 400_000").status == "ok"
    made = (
        "%%step load\ntable = np.arange(float(rows))\n"
        "class Forest:\n    def __init__(self, trees): self.trees = trees\n"
        "model = Forest(7)"
    )
    assert page.run(made).status == "ok"
    score = "%%step score --foreach n in range(3)\nimport mlbench\ns = [n, model.trees]\nmlbench.log(rmse=n / 2)"
    assert page.run(score).status == "ok"
    assert page.value("s") == "[[0, 7], [1, 7], [2, 7]]"

    (run,) = mlbench(variables, cache, "runs", "metrics.rmse >= 0 or params.none = none")
    assert (run["state"], run["kind"]) == ("succeeded", "interactive")
    shown = mlbench(variables, cache, "show", run["id"])
    assert {one["step"]: one["state"] for one in shown["executions"]} == {"load": "succeeded", "score": "succeeded"}
    code = (
        "import mlbench, sys\nfound = mlbench.run(sys.argv[1])\n"
        "print(found['load'].table.sum(), found['load'].model.trees, found['score'].s)"
    )
    loaded = elsewhere(variables, cache, "-c", code, run["id"])
    assert loaded == f"{400_000 * 399_999 / 2} 7 [[0, 7], [1, 7], [2, 7]]\n"
    assert mlbench(variables, cache, "store", "verify")["whole"]

    # Whoever frees something asks first what the open notebook, whose names it has not all loaded, may still need.
    assert mlbench(variables, cache, "store", "gc", "--keep", "1 hour")["runs"] == []
    catalog = SqlCatalog(variables["MLBENCH_CATALOG"])
    assert catalog.met_since(time.time_ns() - 60 * 10**9) == {RunId(run["id"])}
    catalog.close()
    assert page.value("model.trees + len(table)") == "400007"

    # The service is one of many that may answer for these: what replaces it finds the same.
    end_by_force(runtime=place.runtime)
    again = page.run("%%step more\ntotal = float(table.sum())")
    assert again.status == "ok", again.error
    assert page.value("total") == str(400_000 * 399_999 / 2)
    steps = mlbench(variables, cache, "show", mlbench(variables, cache, "runs", "-n", "1")[0]["id"])["executions"]
    assert {one["step"] for one in steps} >= {"more"}

    own = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert not [file for file in own if file.name.startswith("catalog.sqlite")], "the catalog is the server's alone"
    assert not [file for file in own if PASSWORD.encode() in file.read_bytes()]
