"""Two people on one store see each other's runs, load each other's values as they allow, and do not disturb each other.

Their notebooks run as users run them: by the command line, in services, workers and step processes of their own; in a
container where the tests are root, under uids of their own.
"""

from __future__ import annotations

import json
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.sharing.people import PATIENCE, Person

People = Callable[..., Person]

TRAIN = (
    "%%step train\n"
    "class Forest:\n    def __init__(self, trees): self.trees = trees\n"
    "model = Forest(7)\nflights = 'JFK'\n"
)
NEXT = "%%step next\nmore = model.trees + 1"


def load(run: str, what: str) -> str:
    return (
        "import mlbench\nfrom mlbench.core.errors import NotTrusted\n"
        f"step = mlbench.run({run!r})['train']\n"
        f"try:\n    print({what})\nexcept NotTrusted as error:\n    print('NotTrusted', error)"
    )


@pytest.mark.slow
def test_each_sees_the_others_runs_and_loads_what_is_trusted(
    person: People, catalog_url: str | None, shared: Path
) -> None:
    ada, bob = person("ada", catalog_url), person("bob", catalog_url)
    run = ada.run(TRAIN, NEXT)
    (seen,) = json.loads(bob.mlbench("runs", "user = 'ada'", "--json"))
    assert (seen["id"], seen["user"], seen["state"]) == (run, "ada", "succeeded")
    assert json.loads(bob.mlbench("runs", "--mine", "--json")) == []
    assert "ada" in bob.mlbench("runs", "--user", "ada")
    assert "ada" in bob.mlbench("show", run)
    # Data is loaded, what can run code is not, until it is said so.
    assert bob.python(load(run, "step.flights")) == "JFK\n"
    said = bob.python(load(run, "step.model.trees"))
    assert said.startswith(f"NotTrusted `model` of step train in run {run[:4]} was stored by ada")
    assert "trust=True" in said
    assert "`mlbench trust ada`" in said
    assert bob.python(load(run, "step.load('model', trust=True).trees")) == "7\n"
    bob.mlbench("trust", "ada")
    assert bob.python(load(run, "step.model.trees")) == "7\n"
    bob.mlbench("trust", "ada", "--remove")
    assert bob.python(load(run, "step.model.trees")).startswith("NotTrusted")
    assert ada.python(load(run, "step.model.trees")) == "7\n", "one's own values are loaded without a question"
    # Both write; neither is kept from it by what the other has made.
    other = bob.run(TRAIN, NEXT)
    again = ada.run(TRAIN, NEXT)
    assert {one["id"]: one["user"] for one in json.loads(ada.mlbench("runs", "--json"))} == {
        run: "ada",
        other: "bob",
        again: "ada",
    }
    bob.mlbench("store", "verify")
    bob.mlbench("store", "gc", "--dry-run")
    for path in shared.rglob("*"):
        wanted = stat.S_IRGRP | stat.S_IWGRP | (stat.S_IXGRP | stat.S_ISGID if path.is_dir() else 0)
        if path.name not in {"catalog.json", "key"} and path.parent.name != "tmp":
            assert path.stat().st_mode & wanted == wanted, f"{path}: {oct(path.stat().st_mode)}"


@pytest.mark.slow
def test_a_service_does_not_take_the_others_running_steps_for_lost(person: People, catalog_url: str | None) -> None:
    ada, bob = person("ada", catalog_url), person("bob", catalog_url)
    go = ada.home / "go"
    waits = f"%%step wait\nimport os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.05)\ndone = 1"
    path = ada.notebook("%load_ext mlbench", waits)
    command = ("from mlbench.entrypoints.cli import main; main()", "run", str(path))
    running = ada.start(ada.interpreter, "-P", "-c", *command)
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            found = json.loads(bob.mlbench("runs", "--under-way", "--json"))
            if found and any(one["state"] == "running" for one in found):
                shown = json.loads(bob.mlbench("show", found[0]["id"], "--json"))
                if [one["state"] for one in shown["executions"]] == ["running"]:
                    break
            assert time.monotonic() < deadline
        bob.run("%%step other\nx = [1]")
        shown = json.loads(bob.mlbench("show", found[0]["id"], "--json"))
        assert shown["run"]["state"] == "running"
        assert [one["state"] for one in shown["executions"]] == ["running"]
    finally:
        go.touch()
        out, errors = running.communicate(timeout=PATIENCE)
    assert running.returncode == 0, (out, errors)
    (after,) = json.loads(ada.mlbench("runs", "user = 'ada'", "--json"))
    assert after["state"] == "succeeded"


@pytest.mark.slow
def test_what_somebody_else_stored_is_not_reused_unless_they_are_trusted(person: People) -> None:
    ada, bob = person("ada"), person("bob")
    cells = ("%%step train --cache\nrows = [1, {2}]", "%%step next --cache\nmore = rows + [3]")

    def states(run: str) -> list[str]:
        shown = json.loads(bob.mlbench("show", run, "--json"))
        return [one["state"] for one in shown["executions"]]

    ada.run(*cells)
    first = bob.run(*cells)
    assert states(first) == ["succeeded", "succeeded"]
    assert states(bob.run(*cells)) == ["reused", "reused"], "one's own are"
    changed = ("%%step train --cache\nrows = [1, {7}]", "%%step next --cache\nmore = rows + [3]")
    ada.run(*changed)
    bob.mlbench("trust", "ada")
    run = bob.run(*changed)
    assert states(run) == ["reused", "reused"]
    bob.mlbench("trust", "ada", "--remove")
    code = f"import mlbench\nprint(mlbench.run({run!r})['next'].more)"
    assert bob.python(code) == "[1, {7}, 3]\n", "what was taken over while ada was trusted stays"


@pytest.mark.slow
def test_ones_own_values_are_loaded_from_copies_after_a_loss_and_with_the_key_on_another_machine(
    person: People, tmp_path: Path
) -> None:
    ada = person("ada")
    run = ada.run(TRAIN, NEXT)
    copy = ada.home / "copy"
    ada.mlbench("store", "copy", str(ada.store), str(copy))
    ada.store = copy
    assert ada.python(load(run, "step.model.trees")) == "7\n"
    ada.mlbench("store", "reindex")
    assert ada.python(load(run, "step.model.trees")) == "7\n"
    elsewhere = person("ada", store=copy)
    said = elsewhere.python(load(run, "step.model.trees"))
    assert "has your name on it, but it is not signed with your key" in said
    folder = elsewhere.home / "keys"
    if not folder.exists():
        elsewhere.python("from pathlib import Path; import os; Path(os.environ['MLBENCH_KEYS']).mkdir(mode=0o700)")
    key = (ada.home / "keys" / "signing.key").read_text()
    elsewhere.python(
        f"import os; os.umask(0o077); open(os.path.join(os.environ['MLBENCH_KEYS'], 'home.key'), 'w').write({key!r})"
    )
    assert elsewhere.python(load(run, "step.model.trees")) == "7\n"
