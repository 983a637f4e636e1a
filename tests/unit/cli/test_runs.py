"""`mlbench runs`: which runs are listed, and what is said of a query that cannot be read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlbench.core.records import Metric
from mlbench.entrypoints.cli import main
from mlbench.project import Project


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Return a store with three runs: two of `a.ipynb`, one of `b.ipynb`."""
    monkeypatch.setenv("MLBENCH_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    project = Project.open()
    for name, rmse, origin in (("a", 11.0, "JFK"), ("a", 13.0, "LGA"), ("b", 10.0, "JFK")):
        notebook = str(tmp_path / f"{name}.ipynb")
        run = project.begin_run(kind="papermill", notebook=notebook, parameters={"origin": origin})
        project.end_run(run, "succeeded", metrics=[Metric(name="rmse", value=rmse)])
    return project


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["runs", *arguments])
    captured = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, captured.out, captured.err


def values(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[float]:
    status, out, err = call(capsys, *arguments, "--json")
    assert status == 0, err
    return [run["metrics"][0]["value"] for run in json.loads(out)]


@pytest.mark.usefixtures("project")
def test_runs_are_listed_by_notebook_by_query_or_by_both(capsys: pytest.CaptureFixture[str]) -> None:
    query = "metrics.rmse < 12 and params.origin = 'JFK' and state = 'succeeded'"
    assert values(capsys) == [10, 13, 11]
    assert values(capsys, "a.ipynb") == [13, 11]
    assert values(capsys, query) == [10, 11]
    assert values(capsys, query, "--sort", "-metrics.rmse") == [11, 10]
    assert values(capsys, "--sort=metrics.rmse", "-n", "2") == [10, 11]
    assert values(capsys, "a.ipynb", query) == values(capsys, query, "a.ipynb") == [11]


@pytest.mark.usefixtures("project")
def test_a_file_is_a_notebook_whatever_its_name(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "state").write_text("{}")
    assert values(capsys, "state") == []


@pytest.mark.usefixtures("project")
def test_a_query_that_cannot_be_read_is_refused_at_its_character(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = call(capsys, "state = 'failed' and metric.rmse < 12")
    assert (status, out) == (2, "")
    lines = err.rstrip().split("\n")
    assert "did you mean metrics?" in lines[-3]
    assert lines[-2][lines[-1].index("^") :] == "metric.rmse < 12"
    assert call(capsys, "--sort", "__class__")[0] == 2


@pytest.mark.usefixtures("project")
def test_words_without_quotation_marks_around_them_are_told_so(capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = call(capsys, "state", "=", "failed")
    assert status == 2
    assert "one notebook and one query" in " ".join(err.split())
    assert "quotation marks" in err


@pytest.mark.usefixtures("project")
def test_where_nothing_fits_it_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "name = 'c'") == (0, "No run fits.\n", "")


@pytest.mark.usefixtures("project")
def test_python_has_the_same_search(tmp_path: Path) -> None:
    import mlbench

    assert list(mlbench.runs("params.origin = 'JFK'", sort="-metrics.rmse")["metrics.rmse"]) == [11, 10]
    assert list(mlbench.runs("a.ipynb")["metrics.rmse"]) == [13, 11]
    assert list(mlbench.runs("metrics.rmse < 12", notebook=str(tmp_path / "a.ipynb"))["metrics.rmse"]) == [11]
