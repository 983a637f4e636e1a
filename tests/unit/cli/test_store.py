"""`mlbench store` and `mlbench keep` at the prompt: what they say, and how they end."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from mlbench.core.ids import new_id
from mlbench.core.records import Execution, Run
from mlbench.entrypoints.cli import main
from mlbench.project import Project
from mlbench.runs.artifacts import save_names
from mlbench.runs.retention import DAY


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    captured = capsys.readouterr()
    status = ended.value.code
    assert isinstance(status, int)
    return status, captured.out, captured.err


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLBENCH_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "store"


@pytest.fixture
def run(store: Path) -> Run:
    """Return a run of ten days ago, all of whose files are as old."""
    project = Project.open()
    moment = time.time_ns() - 10 * DAY
    begun = project.begin_run(kind="papermill", notebook="/n/flights.ipynb", started=moment)
    binds = tuple(save_names({"model": "m" * 5000}, ["model"], project.blobs))
    step = Execution(id=new_id(), run=begun.id, step="train", state="succeeded", binds=binds)  # type: ignore[arg-type]
    project.put_execution(step)
    ended = project.end_run(begun, "succeeded", ended=moment)
    project.close()
    for path in (store / "objects").rglob("*"):
        if path.is_file():
            os.utime(path, (moment / 1e9, moment / 1e9))
    return ended


def the_object(store: Path) -> Path:
    (path,) = (path for path in (store / "objects").rglob("*") if path.is_file())
    return path


def test_du_says_what_uses_how_much(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = call(capsys, "store", "du", "--by", "name")
    assert status == 0
    assert "train.model" in out
    assert "5." in out
    assert "0 B that nothing needs" in out
    found = json.loads(call(capsys, "store", "du", "--json")[1])
    assert found["shares"][0]["group"] == f"{run.id[:4]} flights"
    assert found["total"] == found["shares"][0]["own"] > 5000


def test_verify_names_what_is_damaged_and_ends_with_1(
    run: Run, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(capsys, "store", "copy", str(store), str(tmp_path / "backup"))[0] == 0
    status, out, _ = call(capsys, "store", "verify")
    assert (status, "all whole" in out) == (0, True)
    the_object(store).write_bytes(b"x")
    status, out, _ = call(capsys, "store", "verify")
    assert status == 1
    assert f"needed by run {run.id[:8]} step train model" in out
    status, out, _ = call(capsys, "store", "verify", "--repair-from", str(tmp_path / "backup"))
    assert (status, "1 repaired" in out) == (0, True)
    assert json.loads(call(capsys, "store", "verify", "--json")[1])["whole"]


def test_gc_says_what_it_frees_and_a_kept_run_stays(run: Run, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nothing to free" in call(capsys, "store", "gc")[1]
    status, out, _ = call(capsys, "keep", run.id[:6])
    assert (status, "is kept, whatever" in out) == (0, True)
    assert "nothing to free" in call(capsys, "store", "gc", "--keep", "3 days")[1]
    call(capsys, "keep", run.id, "--no")
    status, out, _ = call(capsys, "store", "gc", "--keep", "3 days", "--dry-run")
    assert (status, "To free: 1 run, 1 object;" in out) == (0, True)
    assert the_object(store).exists()
    status, out, _ = call(capsys, "store", "gc", "--keep", "3 days", "--yes")
    assert (status, "Freed" in out) == (0, True)
    assert [path for path in (store / "objects").rglob("*") if path.is_file()] == []
    assert "No runs yet" in call(capsys, "runs")[1]


def test_gc_keeps_what_the_configuration_says(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = tmp_path / "mlbench.toml"
    settings.write_text('[retention]\nage = "3 days"\n[retention.job]\nnightly = "always"\n')
    found = json.loads(call(capsys, "store", "gc", "--dry-run", "--json")[1])
    assert [one["id"] for one in found["runs"]] == [run.id]
    assert "nothing to free" in call(capsys, "store", "gc", "--keep", "1 year")[1]
    settings.write_text('[retention]\nage = "3 moons"\n')
    status, _, err = call(capsys, "store", "gc")
    assert status == 2
    assert "mlbench.toml, retention: '3 moons' is not an age" in err


def test_reindex_makes_the_catalog_anew(run: Run, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (store / "catalog.sqlite").write_bytes(b"?" * 9000)
    status, out, _ = call(capsys, "store", "reindex")
    assert status == 0
    assert "made anew: 1 run." in out
    assert "history of firings, is lost" in out
    assert run.id[:4] in call(capsys, "runs")[1]


@pytest.mark.parametrize("command", [["verify", "--repair-from", "."], ["copy", ".", "x"], ["copy", "store", "store"]])
def test_what_is_no_other_store_is_refused(
    run: Run, store: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = call(capsys, "store", *command)
    assert status == 2
    assert "is no store of mlbench" in err or "are one store" in err
    assert not (store.parent / "x").exists()


def test_a_rule_that_is_none_is_refused(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = call(capsys, "store", "gc", "--keep", "jobs:x=1 day")
    assert status == 2
    assert "does not say what to keep" in err
    assert not list(store.rglob("objects/*/*"))


def test_a_store_is_not_copied_into_itself(run: Run, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = call(capsys, "store", "copy", "store", "store/sub")
    assert status != 0
    assert "store/sub lies inside the store store" in err
    assert not (store / "sub").exists()


@pytest.mark.parametrize("command", [[], ["store"], ["service"]])
def test_a_group_without_a_command_shows_its_help(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = call(capsys, *command)
    assert (status, err) == (0, "")
    assert out.startswith(" ".join(["Usage: mlbench", *command]))
    assert "Commands:" in out


def test_verify_says_what_to_do_about_a_record_and_a_catalog(
    run: Run, store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlbench.project.care.agreement.PAUSE", 0.0)
    (record,) = (store / "records").rglob("*-execution-*")
    record.unlink()
    status, out, _ = call(capsys, "store", "verify")
    assert status == 1
    assert "missing  record execution-" in out
    assert f"No record tells how step train of run {run.id[:4]} (flights) ended" in " ".join(out.split())
    assert "`mlbench store verify --repair` writes it again" in " ".join(out.split())
    assert "needed by" not in out
    status, out, _ = call(capsys, "store", "verify", "--repair")
    assert status == 0
    assert "repaired  record execution-" in out
    assert "writes it again" not in out
    (store / "catalog.sqlite").write_bytes(b"?" * 9000)
    found = json.loads(call(capsys, "store", "verify", "--json")[1])
    assert not found["whole"]
    ((kind, remedy),) = [(one["kind"], one["remedy"]) for one in found["damage"]]
    assert kind == "catalog"
    assert "`mlbench store reindex`" in remedy
    assert "`mlbench store reindex`" in call(capsys, "runs")[2], "whoever meets it is told the same"
    assert call(capsys, "store", "reindex")[0] == 0
    assert call(capsys, "store", "verify")[0] == 0
