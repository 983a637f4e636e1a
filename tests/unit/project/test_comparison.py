"""Where values of a store come from, and what differs between its runs, as Python and the command line say it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import mlbench
from mlbench.backends.blobs_local.logged import keep
from mlbench.backends.memory import MemoryCatalog
from mlbench.core.errors import NotFound, UsageError
from mlbench.core.ids import new_id
from mlbench.core.records import Execution, FanOut, Metric, Read, Run
from mlbench.entrypoints.cli import main
from mlbench.project import Project, comparison, find_store
from mlbench.project.comparison import difference, last_success, lineage, lineage_of
from mlbench.runs.artifacts import save_names


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    project = Project(find_store(store=str(tmp_path / "store")), catalog=MemoryCatalog())
    monkeypatch.setattr(Project, "open", lambda *_, **__: project)
    return project


def a_step(project: Project, run: Run, step: str, values: dict[str, Any], **more: Any) -> Execution:
    binds = tuple(save_names(values, values, project.blobs))
    given: dict[str, Any] = {"id": new_id(), "run": run.id, "step": step, "state": "succeeded", "started": 11}
    execution = Execution(**({"binds": binds} | given | more))
    project.put_execution(execution)
    return execution


def given(execution: Execution, name: str) -> Read:
    artifact = next(one.artifact for one in execution.binds if one.name == name)
    assert artifact is not None
    return Read(name=name, digest=artifact.digest, execution=execution.id, step=execution.step)


def a_notebook(*cells: str) -> dict[str, Any]:
    made = [
        {"cell_type": "code", "id": f"c{number}", "metadata": {}, "source": source, "outputs": []}
        for number, source in enumerate(cells)
    ]
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": made}


def a_run(project: Project, frame: pd.DataFrame, **parameters: Any) -> tuple[Run, Execution, Execution]:
    cells = ("%%step load\nflights = read()", f"%%step train\nmodel = fit(flights, {parameters.get('trees')})")
    snapshot = project.snapshot(a_notebook(*cells), python="3.11.1", packages={"numpy": "2.0"})
    run = project.begin_run(kind="papermill", notebook="/n.ipynb", parameters=parameters, snapshot=snapshot)
    load = a_step(project, run, "load", {"flights": frame})
    metrics = (Metric(name="rmse", value=float(parameters.get("trees") or 0)),)
    train = a_step(project, run, "train", {"model": {"a": 1}}, reads=(given(load, "flights"),), metrics=metrics)
    return project.end_run(run, "succeeded"), load, train


FRAME = pd.DataFrame({"delay": np.arange(1000), "carrier": ["AA"] * 1000})


# --- lineage ----------------------------------------------------------------------------------------------------------


def test_a_value_is_named_by_run_step_and_name_or_by_its_digest(project: Project) -> None:
    run, load, train = a_run(project, FRAME, trees=3)
    found = lineage(project, run.id[:6], "train", "model")
    assert (found.above, found.below) == ((train.id, load.id), ())
    digest = found.values[0].digest
    assert digest is not None
    assert lineage(project, digest) == found
    assert lineage(project, run.id, "load", "flights", up=False).below == (train.id,)
    assert found.executions[0].parameters == {"trees": 3}


def test_of_equal_values_the_one_that_is_asked_about_comes_first(project: Project) -> None:
    first, old, _ = a_run(project, FRAME)
    second, new, train = a_run(project, FRAME)
    project.put_execution(replace(new, started=12))
    third = project.begin_run(kind="papermill")
    again = a_step(project, third, "load", {}, state="reused", reused_from=new.id)
    digest = given(new, "flights").digest
    assert digest is not None

    def makers(execution: str | None = None) -> list[str | None]:
        return [value.execution for value in lineage(project, digest, execution=execution, down=False).values]

    assert makers() == makers(old.id) == [old.id, new.id]
    for asked in (new.id, again.id, train.id):
        assert makers(asked) == [new.id, old.id]
    told = mlbench.lineage(digest, execution=new.id)
    assert str(told).splitlines()[1].strip().startswith(f"made by load  run {second.id[:4]}")
    with pytest.raises(NotFound):
        makers("zzzzzzzz")
    with pytest.raises(UsageError):
        lineage(project, first.id, "load", "flights", execution=old.id)


def test_a_difference_of_data_says_which_executions_made_it(project: Project) -> None:
    before, load, _ = a_run(project, FRAME)
    after, again, _ = a_run(project, FRAME.assign(delay=7))
    found = {one.name: one for one in difference(project, before.id, after.id).data}
    assert (found["flights"].before_execution, found["flights"].after_execution) == (load.id, again.id)
    project.put_execution(a_step(project, after, "more", {"extra": 1}))
    (extra,) = [one for one in difference(project, before.id, after.id).data if one.name == "extra"]
    assert extra.before_execution is None
    assert extra.after_execution is not None


def test_a_reused_step_leads_to_the_run_that_made_its_values(project: Project) -> None:
    run, load, _ = a_run(project, FRAME)
    later = project.begin_run(kind="papermill")
    again = a_step(project, later, "load", {}, state="reused", reused_from=load.id)
    found = lineage(project, later.id, "load", "flights", down=False)
    assert found.above == (load.id,)
    assert (found.executions[0].run, found.executions[0].reused_in) == (run.id, (later.id,))
    assert lineage_of(project, again, "flights").values[0].execution == load.id


def test_what_a_step_logged_is_followed_up_and_given_to_nobody(project: Project) -> None:
    run, load, _ = a_run(project, FRAME)
    logged = save_names({"report": [1], "model": [2]}, ["report", "model"], project.blobs)
    step = a_step(project, run, "judge", {"model": 3}, reads=(given(load, "flights"),), artifacts=tuple(logged))
    a_step(project, run, "show", {}, reads=(given(step, "model"),))
    found = lineage(project, run.id, "judge", "report")
    assert (found.above, found.below) == ((step.id, load.id), ())
    assert lineage_of(project, step, "model").values[0].text == "3"
    other = logged[1].artifact
    assert other is not None
    of_logged = lineage_of(project, step, "model", digest=other.digest)
    assert (of_logged.values[0].digest, of_logged.below) == (other.digest, ())
    with pytest.raises(NotFound, match="It has: model, report"):
        lineage_of(project, step, "nothing")


def test_an_item_is_named_by_its_number(project: Project) -> None:
    run = project.begin_run(kind="papermill")
    fan = FanOut(names=("x",), shape=(2,), total=2, succeeded=2)
    whole = a_step(project, run, "fit", {"model": [1, 2]}, fanout=fan)
    item = a_step(project, run, "fit", {"model": 20}, part_of=whole.id, item=1, label={"x": "b"})
    assert lineage(project, run.id, "fit[1]", "model").above == (item.id,)
    with pytest.raises(NotFound, match="no item 7"):
        lineage(project, run.id, "fit[7]", "model")


@pytest.mark.parametrize(
    ("named", "error", "says"),
    [
        (("nonsense",), UsageError, "is no artifact's digest"),
        (("blake3:" + "0" * 64,), NotFound, "No step has made the artifact"),
        (("RUN", "train"), UsageError, "by its step and its name"),
        (("RUN", "trian", "model"), NotFound, "has no step trian. It has: load, train"),
        (("RUN", "train", "modle"), NotFound, "no stored value 'modle'. It has: model"),
    ],
)
def test_a_value_that_is_not_there_is_refused_in_one_sentence(
    project: Project, named: tuple[str, ...], error: type[Exception], says: str
) -> None:
    run, _, _ = a_run(project, FRAME)
    with pytest.raises(error, match=says):
        lineage(project, *(run.id if word == "RUN" else word for word in named))


# --- difference -------------------------------------------------------------------------------------------------------


def test_what_differs_is_found_from_the_records_of_two_runs(project: Project) -> None:
    changed = FRAME.copy()
    changed.loc[700, "delay"] = -1
    before, after = a_run(project, FRAME, trees=3)[0], a_run(project, changed, trees=4)[0]
    found = difference(project, before.id[:8], after.id[:8], load=True)
    assert [(one.name, one.change) for one in found.code] == [("train", "changed")]
    assert [(one.name, one.before, one.after) for one in found.parameters] == [("trees", 3, 4)]
    assert [(one.step, one.name, one.details) for one in found.data] == [
        ("load", "flights", ("first at row 700, column delay: 700 to -1", "1 of 1,000 rows differ, in delay"))
    ]
    assert [(one.step, one.name, one.difference) for one in found.metrics] == [("train", "rmse", 1)]
    assert not difference(project, before, before)


def test_nothing_is_loaded_unless_it_is_asked_for_and_never_unpickled(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = project.begin_run(kind="papermill")
    a_step(project, run, "fit", {"model": {"a": 1}, "frame": FRAME})
    other = project.begin_run(kind="papermill")
    a_step(project, other, "fit", {"model": {"a": 2}, "frame": FRAME + FRAME})
    loaded: list[str] = []

    class Watching(comparison.Loader):
        def load(self, binding: Any, /) -> Any:
            loaded.append(binding.name)
            return super().load(binding)

    monkeypatch.setattr(comparison, "Loader", Watching)
    assert [one.name for one in difference(project, run, other).data] == ["model", "frame"]
    assert loaded == []
    found = difference(project, run, other, load=True)
    assert loaded == ["frame", "frame"]
    assert found.data[0].details == ("{'a': 1} to {'a': 2}",)


def test_a_value_that_is_gone_is_compared_by_its_preview(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = a_run(project, FRAME)[0], a_run(project, FRAME.head(10))[0]

    def gone(*_: object) -> Any:
        raise NotFound("gone")

    monkeypatch.setattr(project.blobs, "get_parts", gone)
    found = difference(project, before, after, load=True)
    assert found.data[0].details == ("rows 1,000 to 10",)


def test_of_folders_that_were_logged_the_files_that_differ_are_named(project: Project, tmp_path: Path) -> None:
    runs = []
    for text in ("one", "two"):
        folder = tmp_path / text
        folder.mkdir()
        (folder / "same.txt").write_text("same")
        (folder / "other.txt").write_text(text)
        run = project.begin_run(kind="papermill")
        a_step(project, run, "fit", {}, artifacts=(keep(folder, "plots", project.blobs),))
        runs.append(run)
    (found,) = difference(project, *runs, load=True).artifacts
    assert (found.name, found.step, found.details) == ("plots", "fit", ("files that differ: other.txt",))
    assert difference(project, *runs).artifacts[0].details == ("other content of the same size",)


def test_a_modules_text_is_compared_line_by_line(project: Project, tmp_path: Path) -> None:
    (tmp_path / "delays.py").write_text("a = 1\n")
    notebook = str(tmp_path / "n.ipynb")
    runs = []
    for text in ("a = 1\n", "a = 2\n"):
        (tmp_path / "delays.py").write_text(text)
        snapshot = project.snapshot(a_notebook("1"), notebook)
        runs.append(project.begin_run(kind="papermill", notebook=notebook, snapshot=snapshot))
    (found,) = difference(project, *runs).code
    assert (found.what, found.name, found.diff[1:]) == ("module", "delays.py", ("-a = 1", "+a = 2"))


def test_the_items_of_two_runs_are_compared_also_where_they_were_reused_as_a_whole(project: Project) -> None:
    fan = FanOut(names=("x",), shape=(2,), total=2, succeeded=2)
    wholes = []
    runs = []
    for value in (1, 2):
        run = project.begin_run(kind="papermill")
        whole = a_step(project, run, "fit", {"model": [value, 0]}, fanout=fan)
        for number, each in enumerate((value, 0)):
            a_step(project, run, "fit", {"model": each}, part_of=whole.id, item=number, label={"x": "ab"[number]})
        wholes.append(whole)
        runs.append(run)
    (found,) = difference(project, *runs).items
    assert (found.step, found.differing, [one.label for one in found.items]) == ("fit", 1, [{"x": "a"}])
    third = project.begin_run(kind="papermill")
    a_step(project, third, "fit", {}, binds=wholes[1].binds, fanout=fan, state="reused", reused_from=wholes[1].id)
    assert [one.differing for one in difference(project, runs[0], third).items] == [1]
    assert not difference(project, runs[1], third)


def test_runs_without_a_snapshot_are_compared_by_the_sources_of_their_steps(project: Project) -> None:
    runs = [project.begin_run(kind="interactive") for _ in range(2)]
    for run, source in zip(runs, ("x = 1", "x = 2"), strict=True):
        a_step(project, run, "load", {}, source=source, cell="a")
    (found,) = difference(project, *runs).code
    assert (found.name, found.diff[-2:]) == ("load", ("-x = 1", "+x = 2"))


def test_a_run_is_compared_with_the_last_success_of_its_notebook_where_no_other_is_named(project: Project) -> None:
    first, second = a_run(project, FRAME, trees=1)[0], a_run(project, FRAME, trees=2)[0]
    failed = project.end_run(project.begin_run(kind="papermill", notebook="/n.ipynb"), "failed")
    project.begin_run(kind="papermill", notebook="/other.ipynb")
    last = project.begin_run(kind="papermill", notebook="/n.ipynb")
    assert last_success(project, last) == last_success(project, failed) == second
    assert last_success(project, second) == first
    assert mlbench.diff(failed.id).record.before == second.id
    with pytest.raises(NotFound, match="No run of this notebook before"):
        last_success(project, first)


# --- Python and the command line --------------------------------------------------------------------------------------


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    captured = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, captured.out, captured.err


def test_python_shows_both_as_text_and_as_escaped_html(project: Project) -> None:
    before, after = a_run(project, FRAME, origin="<b>")[0], a_run(project, FRAME, origin="LGA")[0]
    shown = mlbench.diff(before.id, after.id)
    assert shown
    assert "  origin: '<b>' to 'LGA'" in repr(shown)
    assert "&lt;b&gt;" in shown._repr_html_()
    assert not mlbench.diff(before.id, before.id)
    told = mlbench.lineage(before.id, "train", "model")
    assert "parameters origin='<b>'" in repr(told)
    assert "&lt;b&gt;" in told._repr_html_()
    assert told.record.values[0].name == "model"


def test_the_command_line_shows_a_lineage_as_indented_text_and_as_json(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    run, load, train = a_run(project, FRAME, trees=3)
    status, out, _ = call(capsys, "lineage", run.id, "train", "model", "--up")
    assert status == 0
    assert out.splitlines()[0].startswith("model  ")
    assert f"  made by train  run {run.id[:4]}" in out
    assert "\n    from flights  " in out
    assert "\x1b" not in out
    status, out, _ = call(capsys, "lineage", run.id, "load", "flights", "--json")
    found = json.loads(out)
    assert (found["above"], found["below"], found["cut"]) == ([load.id], [train.id], False)
    status, _, err = call(capsys, "lineage", run.id, "train", "nothing")
    assert (status, err.count("\n")) == (2, 1)


def test_the_command_line_shows_a_difference_without_colours_in_a_pipe_and_as_json(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = a_run(project, FRAME, trees=3)[0], a_run(project, FRAME.head(7), trees=4)[0]
    status, out, _ = call(capsys, "diff", before.id, after.id)
    assert status == 0
    assert "  load.flights differs" in out
    assert "    -model = fit(flights, 3)\n    +model = fit(flights, 4)\n" in out
    assert "\x1b" not in out
    status, out, _ = call(capsys, "diff", before.id, after.id, "--json", "--no-load")
    assert call(capsys, "diff", after.id, "--json", "--no-load")[1] == out
    found = json.loads(out)
    assert list(found)[2:] == [
        *("code", "parameters", "data", "artifacts", "environment", "metrics", "outcome", "items")
    ]
    assert found["data"][0]["details"] == ["rows 1,000 to 7"]


def test_a_cells_text_cannot_move_the_terminals_cursor(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [
        project.begin_run(kind="papermill", snapshot=project.snapshot(a_notebook(text))) for text in ("a", "\x1b[2Jb")
    ]
    _, out, _ = call(capsys, "diff", runs[0].id, runs[1].id)
    assert "\x1b" not in out
    assert "    +b" in out
