"""On the command line: a renamed notebook keeps its runs and its job, a copied one gets its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import papermill
import pytest

from mlbench.entrypoints.cli import main
from mlbench.project import Project, identity
from tests.integration.house import House
from tests.integration.test_papermill_steps import write


def mlbench(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run a command, and return its exit status and what it printed."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


def own(path: Path) -> str | None:
    identifier: str | None = json.loads(path.read_text())["metadata"].get("mlbench", {}).get("id")
    return identifier


def test_a_renamed_notebook_keeps_its_runs_and_its_job_and_a_copied_one_gets_its_own(
    tmp_path: Path, service: House, capsys: pytest.CaptureFixture[str]
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    path = write(work / "flights.ipynb", "trees: int = 1", "%load_ext mlbench", "%%step s\nx = trees")
    text = path.read_text()

    def listed(notebook: Path) -> list[str]:
        return [run["id"] for run in json.loads(mlbench(capsys, "runs", str(notebook), "--json")[1])]

    papermill.execute_notebook(str(path), str(work / "out.ipynb"), engine_name="mlbench", progress_bar=False)
    assert path.read_text() == text, "papermill's input is not ours to write"
    assert mlbench(capsys, "run", str(path))[0] == 0
    identifier = own(path)
    assert identifier is not None
    with_id = ' "metadata": {\n  "kernelspec"', f'  "mlbench": {{\n   "id": "{identifier}"\n  }}'
    assert all(part in path.read_text() for part in with_id)
    assert len(path.read_text().splitlines()) == len(text.splitlines()) + 3
    assert mlbench(capsys, "schedule", str(path), "--cron", "0 6 * * *", "--tz", "UTC")[0] == 0
    assert own(path) == identifier

    renamed = path.rename(work / "delays.ipynb")
    copy = Path(shutil.copy(renamed, work / "copy.ipynb"))
    assert mlbench(capsys, "run", str(renamed))[0] == 0
    assert own(renamed) == identifier
    assert mlbench(capsys, "run", str(copy))[0] == 0
    assert own(copy) not in (None, identifier)
    assert len(listed(copy)) == 1
    assert len(listed(renamed)) == 2
    assert len(listed(path)) == 2, "by its former name"
    assert mlbench(capsys, "schedule", str(renamed), "--cron", "0 7 * * *", "--tz", "UTC")[0] == 0
    assert mlbench(capsys, "schedule", str(copy), "--cron", "0 8 * * *", "--tz", "UTC")[0] == 0
    jobs = {job.name: job for job in Project.open().catalog.jobs()}
    assert set(jobs) == {"flights", "copy"}
    assert (jobs["flights"].version.number, jobs["flights"].notebook) == (2, str(renamed))
    assert (jobs["flights"].notebook_id, jobs["copy"].notebook_id) == (identifier, own(copy))


def test_a_notebook_that_cannot_be_written_is_run_all_the_same(
    tmp_path: Path,
    service: House,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> bool:
        raise PermissionError(13, "Permission denied")  # root, whom tests may run as, is refused nothing

    monkeypatch.setattr(identity, "write_id", refuse)
    path = write(tmp_path / "flights.ipynb", "1", "%load_ext mlbench", "%%step s\nx = 1")
    assert mlbench(capsys, "run", str(path))[0] == 0
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        f"{path} keeps its history only under this name, for its id cannot be written: Permission denied."
    ]
    assert own(path) is None
    assert Project.open().catalog.runs()[0].notebook_id is None
