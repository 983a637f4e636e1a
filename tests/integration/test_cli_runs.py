"""What `mlbench runs` shows of what is in a store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import mlbench
from mlbench.core.errors import NotFound, UsageError
from mlbench.core.ids import ExecutionId, new_id
from mlbench.core.records import Execution, Metric
from mlbench.entrypoints.cli import main
from mlbench.project import Project
from mlbench.project.history import NoSuchName


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_a_list_of_runs_shows_what_their_steps_logged_last(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project = Project.open()
    run = project.begin_run(kind="papermill", notebook="/home/ada/flights.ipynb", name="flights")
    for step, logged in (
        ("first", (Metric(name="rmse", value=9.0, time=1), Metric(name="rows", value=3.0, time=2))),
        ("again", (Metric(name="rmse", value=2.5, time=5),)),
    ):
        execution = ExecutionId(new_id())
        project.put_execution(Execution(id=execution, run=run.id, step=step, state="succeeded", metrics=logged))
    project.end_run(run, "succeeded", metrics=[Metric(name="plain", value=7.0, time=3)])
    project.close()

    (listed,) = json.loads(printed(capsys, "runs", "--json"))
    assert {metric["name"]: metric["value"] for metric in listed["metrics"]} == {"rows": 3.0, "plain": 7.0, "rmse": 2.5}
    assert "rows 3  plain 7  rmse 2.5" in printed(capsys, "runs")
    (row,) = mlbench.runs().to_dict("records")
    assert (row["metrics.rmse"], row["metrics.rows"], row["metrics.plain"]) == (2.5, 3.0, 7.0)


def test_where_no_run_fits_it_is_said_what_was_asked_for(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert printed(capsys, "runs").startswith(f"No runs yet in the store {store}. Run a notebook with: ")
    project = Project.open()
    project.end_run(project.begin_run(kind="papermill", notebook="/home/ada/flights.ipynb"), "succeeded")
    project.close()
    typo = str(tmp_path / "fligths.ipynb")
    assert printed(capsys, "runs", typo) == f"No runs of {typo}, and no such file. All runs: mlbench runs\n"
    Path(typo).write_text("{}")
    assert printed(capsys, "runs", typo) == f"No runs of {typo} yet. Run it with: mlbench run NOTEBOOK\n"
    assert printed(capsys, "runs", "--under-way") == "No run fits.\n"


def test_a_step_that_was_skipped_was_not_looked_for_in_vain(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project = Project.open()
    run = project.begin_run(kind="papermill", notebook="/home/ada/flights.ipynb")
    skipped = Execution(
        id=ExecutionId(new_id()), run=run.id, step="after", state="skipped", note="Step bad failed.", ended=1
    )
    project.put_execution(skipped)
    project.end_run(run, "failed")
    project.close()
    assert printed(capsys, "why", run.id, "after") == "after was skipped. Step bad failed.\n"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"query": 5}, "query is a text, not 5"),
        ({"sort": 5}, "sort is a text, not 5"),
        ({"limit": -1}, "limit is a whole number from 1, not -1"),
        ({"limit": "3"}, "limit is a whole number from 1, not '3'"),
    ],
)
def test_what_the_table_of_runs_cannot_take_is_named(store: Path, given: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        mlbench.runs(**given)


def test_what_is_no_id_and_no_steps_name_is_said_to_be_none(store: Path) -> None:
    with pytest.raises(NotFound, match="5 is no run's id"):
        mlbench.run(5)  # type: ignore[arg-type]
    project = Project.open()
    run = project.end_run(project.begin_run(kind="papermill", notebook="/n.ipynb"), "succeeded", tags={"team": "ops"})
    view = mlbench.run(run.id)
    assert (view.notebook, view.tags, view.steps) == ("/n.ipynb", {"team": "ops"}, ())
    with pytest.raises(NoSuchName, match="has no step 0"):
        view[0]
