"""What `mlbench runs` shows of what is in a store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import mlbench
from mlbench.core.ids import ExecutionId, new_id
from mlbench.core.records import Execution, Metric
from mlbench.entrypoints.cli import main
from mlbench.project import Project


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
