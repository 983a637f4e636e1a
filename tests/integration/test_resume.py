"""A run that failed is gone on from: what succeeded and is unchanged is not run again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import papermill
import pytest
from papermill.exceptions import PapermillExecutionError

from mlbench.core.errors import NotFound
from mlbench.entrypoints.cli import main
from mlbench.project import Project
from tests.integration.house import House
from tests.integration.test_papermill_steps import read, texts, write


@pytest.fixture
def project(service: House) -> Iterator[Project]:
    project = Project.open()
    yield project
    project.catalog.close()


def states(project: Project, run: str) -> dict[str, str]:
    return {one.step: one.state for one in project.steps(project.catalog.run(run).id)}


def newest(project: Project) -> Any:
    return project.catalog.runs(limit=1)[0]


def printed(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    found = capsys.readouterr()
    assert ended.value.code == status, found
    return found.out


def notebook(folder: Path, divisor: str = "0") -> Path:
    return write(
        folder / "work.ipynb",
        "trees: int = 1",
        "%load_ext mlbench\ndef twice(v): return 2 * v",
        "%%step load\nrows = [twice(trees)] * 3\nprint('loaded', len(rows))",
        f"%%step train\nmodel = sum(rows) / {divisor}",
        "print(model)",
    )


def test_a_resumed_run_takes_the_defaults_from_the_notebook_as_it_is_now(
    tmp_path: Path, project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path / "work.ipynb", "trees: int = 5\ndivisor: int = 0", "model = trees / divisor")
    printed(capsys, "run", str(source), "-p", "trees=6", status=1)
    assert newest(project).parameters == {"trees": 6, "divisor": 0}
    write(tmp_path / "work.ipynb", "trees: int = 5\nby: int = 3", "model = trees / by")
    printed(capsys, "resume", newest(project).id[:6])
    assert newest(project).parameters == {"trees": 6, "by": 3}


def test_resuming_runs_what_failed_and_reuses_the_rest(
    tmp_path: Path, project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    source = notebook(tmp_path)
    printed(capsys, "run", str(source), "-p", "trees=5", status=1)
    failed = newest(project)
    assert states(project, failed.id) == {"load": "succeeded", "train": "failed"}

    notebook(tmp_path, "3")
    target = tmp_path / "out.ipynb"
    out = printed(capsys, "resume", failed.id[:6], "--output", str(target))
    run = newest(project)
    assert run.resumed_from == failed.id
    assert run.parameters == {"trees": 5}
    assert states(project, run.id) == {"load": "reused", "train": "succeeded"}
    assert f"Reused from run {failed.id[:4]}: load." in out
    loaded = next(cell for cell in read(target).values() if "step load" in cell.source)
    assert f"mlbench: reused from {failed.id[:4]} (run " in texts(loaded)
    assert "loaded 3" in texts(loaded)
    assert "10.0" in texts(list(read(target).values())[-1])

    said = printed(capsys, "resume", run.id)
    assert "succeeded: there is nothing to resume" in said
    assert newest(project).id == run.id
    assert f"run {failed.id[:4]}" in printed(capsys, "show", run.id)


def test_without_resuming_nothing_is_reused_and_why_says_what_changed(
    tmp_path: Path, project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    source = notebook(tmp_path, "2")
    printed(capsys, "run", str(source))
    first = newest(project)
    assert "never run before" in printed(capsys, "why", first.id, "load")
    printed(capsys, "run", str(source), "-p", "trees=2")
    second = newest(project)
    assert states(project, second.id) == {"load": "succeeded", "train": "succeeded"}
    out = printed(capsys, "why", second.id[:6], "load")
    assert f"compared with run {first.id[:4]}" in out
    assert "--cache was not asked for" in out
    assert "parameter trees changed" in out
    found = json.loads(printed(capsys, "why", second.id, "train", "--json"))
    assert [one["part"] for one in found["reasons"]] == ["asked", "input rows"]
    printed(capsys, "why", second.id, "trian", status=2)

    printed(capsys, "run", str(source), "-p", "trees=2", "--resume", second.id)
    third = newest(project)
    assert states(project, third.id) == {"load": "reused", "train": "reused"}
    assert f"was reused from run {second.id[:4]}" in printed(capsys, "why", third.id, "load")


def test_papermill_resumes_by_a_variable_or_a_word_of_the_engine(
    tmp_path: Path, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = notebook(tmp_path), tmp_path / "out.ipynb"
    with pytest.raises(PapermillExecutionError):
        papermill.execute_notebook(str(source), str(target), engine_name="mlbench", progress_bar=False)
    failed = newest(project)
    notebook(tmp_path, "1")
    monkeypatch.setenv("MLBENCH_RESUME", failed.id[:5])
    papermill.execute_notebook(str(source), str(target), engine_name="mlbench", progress_bar=False)
    by_variable = newest(project)
    assert by_variable.resumed_from == failed.id
    assert states(project, by_variable.id) == {"load": "reused", "train": "succeeded"}
    monkeypatch.delenv("MLBENCH_RESUME")
    papermill.execute_notebook(
        str(source), str(target), engine_name="mlbench", progress_bar=False, resume=by_variable.id
    )
    assert states(project, newest(project).id) == {"load": "reused", "train": "reused"}
    with pytest.raises(NotFound):
        papermill.execute_notebook(str(source), str(target), engine_name="mlbench", progress_bar=False, resume="zzzz")


def test_a_notebook_that_is_gone_is_named(tmp_path: Path, project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    source = notebook(tmp_path)
    printed(capsys, "run", str(source), status=1)
    failed = newest(project)
    moved = source.rename(tmp_path / "renamed.ipynb")
    with pytest.raises(SystemExit) as ended:
        main(["resume", failed.id])
    assert ended.value.code == 2
    assert f"mlbench run NOTEBOOK --resume {failed.id[:4]}" in capsys.readouterr().err
    moved.rename(source)


def test_retries_are_shown_under_the_cell_and_recorded(
    tmp_path: Path, project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    mark = tmp_path / "tries"
    source = write(
        tmp_path / "work.ipynb",
        "trees: int = 1",
        "%load_ext mlbench",
        f"%%step flaky --retries 2 --retry-delay 100ms\nimport pathlib\nfile = pathlib.Path({str(mark)!r})\n"
        "tries = len(file.read_text()) if file.exists() else 0\nfile.write_text('x' * (tries + 1))\n"
        "import mlbench\nattempt = mlbench.context().attempt\n"
        "if tries < 2: raise ValueError(f'not yet: {tries}')",
        "print(attempt)",
        "%%step never --retries 1\n1 / 0",
    )
    target = tmp_path / "out.ipynb"
    printed(capsys, "run", str(source), "--output", str(target), status=1)
    run = newest(project)
    flaky, never = project.steps(run.id)
    assert (flaky.state, flaky.attempt, mark.read_text()) == ("succeeded", 3, "xxx")
    assert [(one.number, one.failure.evalue) for one in flaky.attempts if one.failure] == [
        (1, "not yet: 0"),
        (2, "not yet: 1"),
    ]
    assert (never.state, never.attempt, len(never.attempts)) == ("failed", 2, 1)
    cells = list(read(target).values())
    assert "mlbench: attempt 2 of 3 in 0.1 s: ValueError: not yet: 0" in texts(cells[2])
    assert texts(cells[3]) == "3\n"
    written = [one for one in project.blobs.records("execution") if one["id"] == flaky.id]
    assert [(one["attempt"], one["state"]) for one in written] == [(1, "failed"), (2, "failed"), (3, "succeeded")]
    assert "attempt 2; attempt 1 failed: ZeroDivisionError" in printed(capsys, "show", run.id)
