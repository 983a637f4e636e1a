"""Files, folders and values that a notebook logs, from its steps, their items and its plain cells."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from mlbench.project import Project


def show(page: Any, run: str, *options: str) -> str:
    command = [sys.executable, "-c", "from mlbench.entrypoints.cli import main; main()", "show", run, *options]
    done = subprocess.run(command, env=page.environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_step_logs_a_file_a_folder_and_a_value(place: Any, page: Any, tmp_path: Path) -> None:
    source = f"""%%step report
from pathlib import Path
folder = Path({str(tmp_path)!r})
(folder / "report.html").write_text("<h1>42</h1>")
(folder / "plots").mkdir()
(folder / "plots" / "a.txt").write_text("a" * 100_000)
mlbench.log_artifact(folder / "report.html")
mlbench.log_artifact(str(folder / "plots"))
mlbench.log_artifact({{"rmse": 0.3}}, name="summary")
mlbench.log_artifact({{"rmse": 0.2}}, name="summary")
done = 1
"""
    page.run(source)
    assert page.value("done") == "1"
    run = page.value("print(list(mlbench.runs(limit=1)['id'])[0])").strip()
    view = Project.open(store=str(place.store)).run(run)["report"]
    (tmp_path / "report.html").write_text("changed since")
    assert list(view.artifacts) == ["report.html", "plots", "summary"]
    assert view.artifacts["report.html"].read_text() == "<h1>42</h1>"
    assert view.artifacts["plots"]["a.txt"].size == 100_000
    assert view.artifacts["summary"] == {"rmse": 0.2}
    assert view.artifacts["plots"].save(tmp_path / "again").joinpath("a.txt").read_text() == "a" * 100_000
    assert view.artifacts.get("nothing") is None
    assert "done" in view
    assert "report.html" not in view
    said = show(page, run)
    assert "report.html, 11 bytes" in said
    assert "plots, 1 file, 100.0 kB" in said
    (execution,) = json.loads(show(page, run, "--json"))["executions"]
    assert [one["name"] for one in execution["artifacts"]] == ["report.html", "plots", "summary"]


def test_what_a_failed_step_logged_is_kept(place: Any, page: Any, tmp_path: Path) -> None:
    (tmp_path / "state.txt").write_text("before it failed")
    page.run(f"%%step breaks\nmlbench.log_artifact({str(tmp_path / 'state.txt')!r})\n1 / 0\n")
    assert page.run("%%step waits --after breaks\npass").status == "ok"
    page.run("get_ipython()")
    run = page.value("print(list(mlbench.runs(limit=1)['id'])[0])").strip()
    project = Project.open(store=str(place.store))
    while project.run(run)["breaks"].state in {"queued", "running"}:
        page.value("1")
    assert project.run(run)["breaks"].state == "failed"
    assert project.run(run)["breaks"].artifacts["state.txt"].read_bytes() == b"before it failed"


def test_a_plain_cell_logs_for_its_run(place: Any, page: Any, tmp_path: Path) -> None:
    page.run("%%step first\none = 1\n")
    assert page.value("one") == "1"
    (tmp_path / "notes.md").write_text("# Notes")
    answer = page.run(f"mlbench.log_artifact({str(tmp_path / 'notes.md')!r}, name='notes/today.md')")
    assert answer.status == "ok", answer.error
    run = page.value("print(list(mlbench.runs(limit=1)['id'])[0])").strip()
    view = Project.open(store=str(place.store)).run(run)
    assert view.artifacts["notes/today.md"].read_text() == "# Notes"
    assert "notes/today.md" in show(page, run)


def test_each_item_of_a_fan_out_logs_its_own(place: Any, page: Any, tmp_path: Path) -> None:
    source = f"""%%step fan --foreach x in range(3)
path = {str(tmp_path)!r} + f"/{{x}}.txt"
open(path, "w").write("item " * (x + 1))
mlbench.log_artifact(path, name="out.txt")
done = x
"""
    page.run(source)
    assert page.value("done") == "[0, 1, 2]"
    run = page.value("print(list(mlbench.runs(limit=1)['id'])[0])").strip()
    catalog = Project.open(store=str(place.store)).catalog
    (execution,) = [one for one in catalog.executions(run) if one.step == "fan"]
    items = catalog.items(execution.id)
    assert [[one.name for one in item.artifacts] for item in items] == [["out.txt"]] * 3
    assert len({one.artifact.digest for item in items for one in item.artifacts if one.artifact}) == 3


def test_a_step_that_is_run_here_logs_too(place: Any, page: Any, tmp_path: Path) -> None:
    (tmp_path / "here.txt").write_text("here")
    page.run(f"%%step local --here\nmlbench.log_artifact({str(tmp_path / 'here.txt')!r})\nx_here = 1\n")
    run = page.value("print(list(mlbench.runs(limit=1)['id'])[0])").strip()
    view = Project.open(store=str(place.store)).run(run)["local"]
    assert view.artifacts["here.txt"].read_text() == "here"


def test_a_step_that_is_reused_has_what_the_first_one_logged(place: Any, page: Any, tmp_path: Path) -> None:
    body = (
        f"open({str(tmp_path / 'a.txt')!r}, 'w').write('a')\nmlbench.log_artifact({str(tmp_path / 'a.txt')!r})\nr = 1\n"
    )
    for _ in range(2):
        page.run(f"%%step cached --cache\n{body}", "cached")
        assert page.value("r") == "1"
    run = page.value("print(list(mlbench.runs(limit=1)['id'])[0])").strip()
    view = Project.open(store=str(place.store)).run(run)["cached"]
    assert view.state == "reused"
    assert view.artifacts["a.txt"].read_text() == "a"


def test_a_file_that_is_not_there_is_an_error_of_the_cell(page: Any) -> None:
    answer = page.run("mlbench.log_artifact('no/such/file.txt')")
    assert answer.status == "error"
    assert "cannot be read: No such file or directory" in answer.error
    assert "has no name of its own" in page.run("mlbench.log_artifact(42)").error
    assert "cannot be the name" in page.run("mlbench.log_artifact(42, name='../x')").error
