"""A store that was damaged is mended by doing what is said, to the letter; and what is damaged is said by its name."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

import mlbench as package
from mlbench.core.errors import ArtifactCorrupt
from mlbench.core.records import Run
from mlbench.project import Project
from tests.integration.house import House
from tests.integration.test_papermill_steps import write

CELLS = (
    "n: int = 3",
    "%load_ext mlbench",
    "%%step load\nrows = list(range(500))",
    "%%step train\nmodel = sum(rows) + n\nprint('trained')",
    "%%step score --foreach i in range(4)\nscore = i + n",
)


def mlbench(*arguments: str) -> tuple[int, str]:
    """Run a command; return its status and all that it said, in one line."""
    code = "from mlbench.entrypoints.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    assert "Traceback" not in done.stderr
    return done.returncode, " ".join((done.stdout + done.stderr).split())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a store with a run of three steps, one of them a fan-out, whose service has ended."""
    folder, runtime = tmp_path_factory.mktemp("made"), Path(tempfile.mkdtemp(prefix="mlb"))
    house = House(runtime=runtime, store=folder / "store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLBENCH_STORE", str(folder / "store"))
        patch.setenv("MLBENCH_RUNTIME", str(runtime))
        status, said = mlbench("run", str(write(folder / "flights.ipynb", *CELLS)))
        assert status == 0, said
    house.end()
    assert not house.wait_until_gone()
    yield folder / "store"
    shutil.rmtree(runtime, ignore_errors=True)


@pytest.fixture
def run(made: Path, store: Path) -> Run:
    """Return the run of a store of the test's own."""
    shutil.copytree(made, store)
    project = Project.open()
    (found,) = project.catalog.runs()
    project.close()
    return found


def records(store: Path, kind: str) -> list[Path]:
    return sorted((store / "records").rglob(f"*-{kind}-*"))


def shown(run: Run) -> str:
    """Return all that is shown of a run."""
    said = [mlbench("show", run.id, "--json"), mlbench("logs", run.id, "score", "--item", "2")]
    assert [status for status, _ in said] == [0, 0]
    return "\n".join(text for _, text in said)


def do_what_is_said(said: str) -> list[str]:
    """Run the commands that an answer names, in its order, each once; return them."""
    commands = list(dict.fromkeys(re.findall(r"`(mlbench store [^`]+)`", said)))
    status, answer = [mlbench(*shlex.split(command)[1:]) for command in commands][-1]
    assert status == 0, answer
    return commands


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def test_a_record_that_is_lost_is_written_again_and_nothing_is_missing_then(run: Run, store: Path) -> None:
    status, said = mlbench("store", "verify")
    assert status == 0, said
    before = shown(run)
    for kind, damage in (
        ("execution", Path.unlink),
        ("executions", Path.unlink),
        ("snapshot", Path.unlink),
        ("run", cut),
    ):
        damage(records(store, kind)[-1])
    status, said = mlbench("store", "verify")
    assert status == 1
    assert re.search(rf"No record tells how step \w+ of run {run.id[:4]} \(flights\) ended", said)
    assert re.search(rf"how \d items? of step score of run {run.id[:4]} \(flights\) ended", said)
    assert f"No record tells what run {run.id[:4]} (flights) was run from" in said
    assert f"-run-{run.id}.json cannot be read" in said
    assert do_what_is_said(said) == ["mlbench store verify --repair"]
    assert mlbench("store", "verify")[0] == 0
    assert mlbench("store", "reindex")[0] == 0, "the records alone tell all of it"
    assert shown(run) == before


def test_a_flipped_bit_in_the_catalog_is_found_and_it_is_made_anew(run: Run, store: Path) -> None:
    catalog = store / "catalog.sqlite"
    with closing(sqlite3.connect(catalog)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    before = shown(run)
    whole = catalog.read_bytes()
    for place in (4096 * 2, whole.index(b'{"id":"' + run.id.encode())):  # of a page and of a text
        catalog.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        for beside in ("-wal", "-shm"):
            Path(f"{catalog}{beside}").unlink(missing_ok=True)
        status, said = mlbench("store", "verify")
        assert (status, f"damaged catalog {catalog}" in said) == (1, True), said
        assert do_what_is_said(said) == ["mlbench store reindex"]
        status, said = mlbench("store", "verify")
        assert status == 0, said
        whole = catalog.read_bytes()
    assert shown(run) == before


def test_a_catalog_that_is_gone_or_lacks_something_is_made_anew_after_the_records(run: Run, store: Path) -> None:
    before = shown(run)
    (store / "catalog.sqlite").unlink()
    status, said = mlbench("store", "verify")
    assert (status, "is gone" in said) == (1, True)
    assert do_what_is_said(said) == ["mlbench store reindex"]
    records(store, "execution")[0].unlink()
    with closing(sqlite3.connect(store / "catalog.sqlite")) as connection, connection:
        lost = records(store, "execution")[-1].name.partition("-execution-")[2].partition(".")[0]
        connection.execute("DELETE FROM executions WHERE id = ?", (lost,))
    status, said = mlbench("store", "verify")
    assert (status, "It lacks what records tell: 1 step or item" in said) == (1, True), said
    assert do_what_is_said(said) == ["mlbench store verify --repair", "mlbench store reindex"]
    assert mlbench("store", "verify")[0] == 0
    assert shown(run) == before


def test_a_catalog_that_says_otherwise_than_the_records_is_named_by_run_and_step_and_made_anew(
    run: Run, store: Path
) -> None:
    before = shown(run)
    project = Project.open()
    train = next(one for one in project.steps(run.id) if one.step == "train")
    project.catalog.put_run(replace(run, parameters={"n": 4}))
    project.catalog.put_execution(replace(train, state="failed", binds=()))
    whole = next(one for one in project.steps(run.id) if one.step == "score")
    project.catalog.put_executions([replace(one, tags={"a": "b"}) for one in project.catalog.items(whole.id)[1:]])
    project.close()
    assert shown(run) != before
    status, said = mlbench("store", "verify")
    assert status == 1
    assert (
        f"It says otherwise than the records: of run {run.id[:4]} (flights) the parameters, "
        "of 3 items of step score the tags, "
        "of step train the state (failed instead of succeeded) and what was bound."
    ) in said
    status, told = mlbench("store", "verify", "--json")
    (damage,) = json.loads(told)["damage"]
    assert (status, damage["kind"], damage["remedy"] in said) == (1, "catalog", True)
    assert do_what_is_said(said) == ["mlbench store reindex"]
    assert mlbench("store", "verify")[0] == 0
    assert shown(run) == before


@pytest.mark.parametrize("damage", [Path.unlink, cut])
def test_a_list_that_gc_lacks_is_named_with_who_needs_it_and_made_again_from_its_items(
    run: Run, store: Path, damage: Callable[[Path], object]
) -> None:
    project = Project.open()
    step = next(one for one in project.steps(run.id) if one.step == "score")
    project.close()
    (bound,) = step.binds
    assert bound.artifact is not None
    name = bound.artifact.digest[7:]
    kept = store / "objects" / name[:2] / name
    whole = kept.read_bytes()
    damage(kept)
    status, said = mlbench("store", "gc", "--yes")
    assert status == 2
    assert f"It is needed by run {run.id[:8]} step score score." in said
    repair, *_ = re.findall(r"`(mlbench store [^`]+)`", said)
    assert repair in mlbench("store", "verify")[1]
    assert mlbench(*shlex.split(repair)[1:])[0] == 0
    assert kept.read_bytes()[:100] == whole[:100]
    assert mlbench("store", "verify")[0] == 0
    assert mlbench("store", "gc", "--yes")[0] == 0
    assert package.run(run.id)["score"].score == [3, 4, 5, 6]


@pytest.mark.parametrize("kind", ["execution", "executions", "run", "snapshot"])
@pytest.mark.parametrize("damage", [Path.unlink, cut])
def test_gc_that_lacks_a_record_goes_on_after_what_it_says(
    run: Run, store: Path, damage: Callable[[Path], object], kind: str
) -> None:
    damage(records(store, kind)[-1])
    status, said = mlbench("store", "gc", "--yes")
    assert status == 2
    assert damage is cut or f"run {run.id[:4]} (flights)" in said
    repair, *_ = re.findall(r"`(mlbench store [^`]+)`", said)
    assert mlbench(*shlex.split(repair)[1:])[0] == 0
    assert mlbench("store", "gc", "--yes")[0] == 0


def test_a_damaged_value_is_named_where_it_is_read_and_a_copy_has_it(run: Run, store: Path, tmp_path: Path) -> None:
    project = Project.open()
    step = next(one for one in project.steps(run.id) if one.step == "load")
    project.close()
    (bound,) = step.binds
    assert bound.artifact is not None
    assert mlbench("store", "copy", str(store), str(tmp_path / "copy"))[0] == 0
    name = bound.artifact.digest[7:]
    value = store / "objects" / name[:2] / name
    data = bytearray(value.read_bytes())
    data[-5] ^= 4
    value.write_bytes(data)
    sentence = f"`rows` of step load in run {run.id[:4]} is damaged in the store: expected blake3:{name[:8]}, got "
    with pytest.raises(ArtifactCorrupt) as caught:
        _ = package.run(run.id)["load"].rows
    assert str(caught.value).startswith(sentence)
    assert str(caught.value).count("expected") == 1
    assert str(caught.value).endswith(
        "Run step load again, or fetch it from a copy of the store: `mlbench store verify --repair-from COPY`."
    )
    assert mlbench("store", "verify", "--repair-from", str(tmp_path / "copy"))[0] == 0
    assert package.run(run.id)["load"].rows == list(range(500))

    assert run.output is not None
    kept = store / "objects" / run.output[7:9] / run.output[7:]
    cut(kept)
    status, said = mlbench("show", run.id, "--output", str(tmp_path / "executed.ipynb"))
    assert status == 2
    assert f"`executed notebook` in run {run.id[:4]} is damaged in the store: expected {run.output[:15]}, got" in said
