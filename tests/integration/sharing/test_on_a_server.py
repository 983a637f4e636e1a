"""A notebook's run on a catalog in PostgreSQL: through a restart of the server, and with its password nowhere."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.sharing.people import PATIENCE, Person
from tests.postgres import PASSWORD, Server


@pytest.fixture
def own() -> Iterator[Server]:
    """Return a server that this test restarts and stops."""
    server = Server()
    yield server
    server.close()


@pytest.mark.slow
def test_a_server_that_is_restarted_during_a_run_costs_nothing_and_its_password_is_nowhere(
    person: Callable[..., Person], own: Server, shared: Path
) -> None:
    ada = person("ada", own.url(own.create()))
    go = ada.home / "go"
    steps = [
        f"%%step s{number}\nimport os, time, mlbench\nmlbench.log(rmse={number})\n"
        f"while not os.path.exists({str(go)!r}): time.sleep(0.02)\nx{number} = [{number}]"
        for number in range(3)
    ]
    last = "%%step end\ny = x0 + x1 + x2"
    path = ada.notebook("%load_ext mlbench", *steps, last)
    running = ada.start(
        ada.interpreter, "-P", "-c", "from mlbench.entrypoints.cli import main; main()", "run", str(path)
    )
    deadline = time.monotonic() + PATIENCE
    while True:
        found = json.loads(ada.mlbench("runs", "--json"))
        if found and json.loads(ada.mlbench("show", found[0]["id"], "--json"))["executions"]:
            break
        assert time.monotonic() < deadline
    own.restart()
    go.touch()
    own.restart()
    out, errors = running.communicate(timeout=PATIENCE)
    assert running.returncode == 0, (out, errors)
    (run,) = json.loads(ada.mlbench("runs", "--json"))
    shown = json.loads(ada.mlbench("show", run["id"], "--json"))
    assert {one["step"]: one["state"] for one in shown["executions"]} == dict.fromkeys(
        ("s0", "s1", "s2", "end"), "succeeded"
    )
    assert sorted(len(one["metrics"]) for one in shown["executions"]) == [0, 1, 1, 1], "nothing is doubled"
    config = ada.mlbench("config") + ada.mlbench("config", "--json")
    assert f"postgresql://127.0.0.1:{own.port}/" in config
    own.stop()
    began = time.monotonic()
    gone = ada.mlbench("runs", status=2)
    assert time.monotonic() - began < 60
    assert f"The catalog postgresql://127.0.0.1:{own.port}/" in gone
    assert "cannot be reached" in gone
    said = [out, errors, config, gone]
    files = [file for folder in (shared, ada.home / "run") for file in folder.rglob("*") if file.is_file()]
    assert files
    assert not [text for text in said if PASSWORD in text]
    assert not [file for file in files if PASSWORD.encode() in file.read_bytes()]
