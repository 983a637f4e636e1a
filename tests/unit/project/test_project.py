"""The use cases of a store: recording, looking back, and saying what became of what was lost."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest

from mlbench.backends.memory import MemoryCatalog
from mlbench.backends.owners import is_alive, owner_of, owner_of_this_process
from mlbench.core.errors import NotFound, ResultError, UsageError
from mlbench.core.ids import new_id
from mlbench.core.records import Execution, Failure, FanOut, Job, JobVersion, Metric, Run
from mlbench.project import Project, find_store
from mlbench.project.history import NoSuchName, items_as_frame
from mlbench.project.signing import signer
from mlbench.runs.artifacts import save_names
from mlbench.runs.signing import KERNEL, proven
from mlbench.runs.wire import compact

NOTEBOOK: dict[str, Any] = {
    "nbformat": 4,
    "nbformat_minor": 5,
    "metadata": {},
    "cells": [{"cell_type": "code", "id": "a", "metadata": {}, "source": "1", "outputs": [{}], "execution_count": 1}],
}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(find_store(store=str(tmp_path / "store")), catalog=MemoryCatalog())


def an_execution(run: Run, **more: Any) -> Execution:
    given: dict[str, Any] = {"id": new_id(), "run": run.id, "step": "train", "state": "succeeded", "started": 11}
    return Execution(**(given | more))


def bound(project: Project, **namespace: Any) -> dict[str, Any]:
    return {"binds": tuple(save_names(namespace, namespace, project.blobs, signer=signer(KERNEL)))}


# --- recording --------------------------------------------------------------------------------------------------------


def test_a_run_is_recorded_when_it_begins_and_when_it_ends(project: Project) -> None:
    run = project.begin_run(
        kind="papermill", notebook="/home/ada/flights.ipynb", parameters={"origin": "JFK"}, kernel="k"
    )
    assert (run.name, run.state, run.kernel, run.owner) == ("flights", "running", "k", owner_of_this_process())
    failure = Failure(ename="ValueError", evalue="no")
    ended = project.end_run(run, "failed", reason="error", failure=failure, failed_step="train")
    assert project.catalog.run(run.id) == ended
    assert ended.ended is not None
    assert ended.ended >= run.started
    records = [msgspec.convert(record, Run) for record in project.blobs.records("run")]
    assert records == [run, ended]


def test_only_an_end_is_recorded_of_an_execution_and_only_once(project: Project) -> None:
    run = project.begin_run(kind="papermill")
    execution = an_execution(run, state="running")
    project.put_execution(execution)
    assert list(project.blobs.records("execution")) == []
    ended = replace(execution, state="succeeded", ended=12, metrics=(Metric(name="a", value=float("inf")),))
    project.put_execution(ended)
    project.put_execution(ended, recorded=True)
    assert [msgspec.convert(record, Execution) for record in project.blobs.records("execution")] == [ended]


# --- snapshots --------------------------------------------------------------------------------------------------------


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main")
    command = ["git", *identity, "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    for path in ("delays.py", "helpers/fit.py", ".venv/lib/x.py", "node_modules/y.py"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(f"# {path}\n")
    (folder / "huge.py").write_bytes(b"#" * (2 << 20))
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    os.mkfifo(folder / "pipe.py")
    return folder


def test_a_snapshot_keeps_the_notebook_its_modules_and_its_python(project: Project, folder: Path) -> None:
    digest = project.snapshot(
        NOTEBOOK, str(folder / "n.ipynb"), sys.executable, {"trees": 2}, cells=["1"], environment=["PATH", "HOME"]
    )
    snapshot = project.catalog.snapshot(digest)
    assert list(snapshot.modules) == ["delays.py", "helpers/fit.py"]
    assert project.blobs.get(snapshot.modules["delays.py"]) == b"# delays.py\n"
    assert msgspec.json.decode(project.blobs.get(snapshot.notebook))["cells"][0]["outputs"] == []
    assert (snapshot.parameters, snapshot.cells, snapshot.environment) == ({"trees": 2}, ("1",), ("HOME", "PATH"))
    assert snapshot.python == ".".join(map(str, sys.version_info[:3]))
    assert snapshot.packages["pandas"] == pd.__version__
    assert snapshot.git is None
    assert msgspec.json.decode(project.blobs.get(digest))["notebook"] == snapshot.notebook
    assert digest == project.snapshot(
        NOTEBOOK, str(folder / "n.ipynb"), sys.executable, {"trees": 2}, cells=["1"], environment=["HOME", "PATH"]
    )


def test_a_snapshot_knows_the_commit_and_what_is_not_in_it(project: Project, folder: Path) -> None:
    (folder / "huge.py").unlink()
    git(folder, "init", "-q")
    git(folder, "add", "delays.py")
    git(folder, "commit", "-q", "-m", "one")
    state = project.catalog.snapshot(project.snapshot(NOTEBOOK, str(folder / "n.ipynb"))).git
    assert state is not None
    assert (state.commit, state.branch, state.difference) == (git(folder, "rev-parse", "HEAD").strip(), "main", None)
    (folder / "delays.py").write_text("x = 2\n")
    state = project.catalog.snapshot(project.snapshot(NOTEBOOK, str(folder / "helpers" / "n.ipynb"))).git
    assert state is not None
    assert state.difference is not None
    assert b"+x = 2" in project.blobs.get(state.difference)


def test_a_repositorys_settings_run_nothing_when_a_snapshot_is_made(project: Project, folder: Path) -> None:
    git(folder, "init", "-q")
    git(folder, "add", "delays.py")
    git(folder, "commit", "-q", "-m", "one")
    (folder / "delays.py").write_text("x = 2\n")
    (folder / ".gitattributes").write_text("*.py diff=evil\n")
    trap = f"touch {folder}/trapped; cat"
    for setting in ("diff.external", "diff.evil.textconv", "diff.evil.command", "core.fsmonitor", "core.pager"):
        git(folder, "config", setting, trap)
    assert project.catalog.snapshot(project.snapshot(NOTEBOOK, str(folder / "n.ipynb"))).git is not None
    assert not (folder / "trapped").exists()


def test_a_snapshot_of_a_notebook_whose_folder_is_gone_is_made_all_the_same(project: Project) -> None:
    snapshot = project.catalog.snapshot(project.snapshot(NOTEBOOK, "/no/such/folder/n.ipynb"))
    assert (snapshot.folder, snapshot.modules, snapshot.git) == ("/no/such/folder", {}, None)


# --- looking back -----------------------------------------------------------------------------------------------------


def test_runs_are_a_table_with_parameters_and_metrics(project: Project) -> None:
    first = project.begin_run(kind="papermill", notebook="/w/a.ipynb", parameters={"n": 1})
    project.put_execution(an_execution(first, metrics=(Metric(name="rmse", value=9), Metric(name="rmse", value=0.5))))
    project.end_run(first, "succeeded")
    second = project.begin_run(kind="job", notebook="/w/b.ipynb", parameters={"origin": "JFK"})
    table = project.runs()
    assert list(table["id"]) == [second.id, first.id]
    assert list(table.columns[:6]) == ["id", "kind", "state", "name", "user", "started"]
    assert str(table["started"].dtype).startswith("datetime64")
    assert table["started"][1] == pd.Timestamp(first.started, tz="UTC")
    assert pd.isna(table["duration"][0])
    assert table["duration"][1] >= pd.Timedelta(0)
    assert (table["params.n"][1], table["params.origin"][0], table["metrics.rmse"][1]) == (1, "JFK", 0.5)
    assert list(project.runs(notebook="/w/a.ipynb")["id"]) == [first.id]
    assert len(project.runs(limit=1)) == 1


def test_runs_are_searched_and_sorted(project: Project) -> None:
    made = []
    for rmse in (2.0, 1.0, 3.0):
        run = project.begin_run(kind="papermill", notebook="/w/a.ipynb", parameters={"origin": "JFK"})
        made.append(project.end_run(run, "succeeded", metrics=[Metric(name="rmse", value=rmse)]).id)
    project.begin_run(kind="job", notebook="/w/b.ipynb")
    assert list(project.runs("metrics.rmse < 3", sort="-metrics.rmse")["id"]) == [made[0], made[1]]
    assert list(project.runs("state = 'succeeded'", sort="metrics.rmse", limit=1)["id"]) == [made[1]]
    page = project.search("params.origin = 'JFK'", notebook="/w/a.ipynb", limit=2)
    rest = project.search("params.origin = 'JFK'", notebook="/w/a.ipynb", limit=2, after=page.next)
    assert [run.id for run in (*page.runs, *rest.runs)] == made[::-1]


def test_a_store_without_runs_is_an_empty_table(project: Project) -> None:
    assert project.runs().empty
    assert "started" in project.runs().columns


def test_a_runs_values_are_attributes_of_its_steps(project: Project) -> None:
    run = project.begin_run(kind="papermill", notebook="/w/a.ipynb")
    model = {"weights": np.arange(3)}
    out = {"output_type": "stream", "name": "stdout", "text": "fitted\n"}
    step = an_execution(
        run, **bound(project, model=model, state="NY"), metrics=(Metric(name="rmse", value=2),), messages=(out,)
    )
    project.put_execution(step)
    view = project.run(run.id[:6])
    assert view.steps == ("train",)
    assert list(view["train"].model["weights"]) == [0, 1, 2]
    assert view["train"]["state"] == "NY"  # the step's own word wins as an attribute
    assert view["train"].state == "succeeded"
    assert view["train"].log == "fitted\n"
    assert view.metrics == view["train"].metrics == {"rmse": 2}
    assert {"model", "log", "metrics"} <= set(dir(view["train"]))
    assert "train: succeeded (model, state)" in repr(view)
    assert "model" in repr(view["train"])


def test_a_whole_log_is_read_where_messages_were_cut(project: Project) -> None:
    run = project.begin_run(kind="papermill")
    project.put_execution(an_execution(run, log=project.blobs.put(b"all of it")))
    assert project.run(run.id)["train"].log == "all of it"


def test_a_reused_step_has_the_values_of_the_one_that_made_them(project: Project) -> None:
    first, second = project.begin_run(kind="papermill"), project.begin_run(kind="papermill")
    made = an_execution(first, **bound(project, model=[1]), metrics=(Metric(name="a", value=1),))
    once = an_execution(second, state="reused", reused_from=made.id)
    twice = an_execution(second, step="again", state="reused", reused_from=once.id)
    for execution in (made, once, twice):
        project.put_execution(execution)
    view = project.run(second.id)
    assert view["again"].model == view["train"].model == [1]
    assert view["again"].metrics == {"a": 1}
    assert view["train"].state == "reused"


def test_of_a_step_that_ran_twice_in_a_run_the_later_one_is_shown(project: Project) -> None:
    run = project.begin_run(kind="papermill")
    project.put_execution(an_execution(run, started=50, **bound(project, model="new")))
    project.put_execution(an_execution(run, started=40, **bound(project, model="old")))
    assert project.run(run.id)["train"].model == "new"


def test_a_wrong_name_is_answered_with_the_nearest_right_one(project: Project) -> None:
    run = project.begin_run(kind="papermill")
    project.put_execution(an_execution(run, **bound(project, model=[1], rows=(x for x in ()))))
    failed = an_execution(run, step="score", state="failed", failure=Failure(ename="ValueError", evalue="\x1b[31mno"))
    project.put_execution(failed)
    view = project.run(run.id)
    with pytest.raises(NoSuchName, match=r"has no step 'trian'\. Did you mean 'train'\?"):
        view["trian"]
    with pytest.raises(NoSuchName, match="Its steps are: train, score"):
        view["zzz"]
    with pytest.raises(NoSuchName, match=r"did not bind 'modle'\. Did you mean 'model'\?"):
        _ = view["train"].modle
    with pytest.raises(ResultError, match="`rows` is a generator"):
        _ = view["train"].rows
    with pytest.raises(ResultError, match="Step score has no values: it is failed"):
        _ = view["score"].model
    assert not hasattr(view["train"], "nothing")
    assert not hasattr(view["train"], "_ipython_display_")
    assert "ValueError: no" in repr(view["score"])
    with pytest.raises(NotFound):
        project.run("zzzz")


def test_what_is_shown_as_html_is_text(project: Project) -> None:
    run = project.begin_run(kind="papermill", name="<img src=x onerror=alert(1)>")
    step = an_execution(run, step="<script>", **bound(project, text="<b>"), metrics=(Metric(name="<i>", value=1),))
    project.put_execution(step)
    view = project.run(run.id)
    for html in (view._repr_html_(), view["<script>"]._repr_html_()):
        assert not any(tag in html for tag in ("<img", "<script", "<b>", "<i>"))


def test_names_that_share_an_object_share_it_in_a_past_run(project: Project) -> None:
    run = project.begin_run(kind="papermill")
    models = [[1], [2]]
    project.put_execution(an_execution(run, **bound(project, models=models, best=models[1])))
    step = project.run(run.id)["train"]
    assert step.best is step.models[1]


def a_fan_out(project: Project, run: Run, **more: Any) -> tuple[Execution, list[Execution]]:
    """Record a fan-out of three items, of which the second failed."""
    fanout = FanOut(names=("carrier", "alpha"), shape=(1, 3), total=3, succeeded=2, failed=1, metric="rmse")
    given: dict[str, Any] = {"state": "failed", "fanout": fanout, **more}
    whole = an_execution(run, **given)
    failure = Failure(ename="ValueError", evalue="\x1b[31mno rows")
    items = [
        an_execution(
            run,
            part_of=whole.id,
            item=number,
            label={"carrier": "'AA'", "alpha": f"{number / 2}"},
            state="failed" if number == 1 else "succeeded",
            reason="error" if number == 1 else None,
            failure=failure if number == 1 else None,
            attempt=number + 1,
            started=10**9,
            ended=3 * 10**9,
            metrics=() if number == 1 else (Metric(name="rmse", value=9), Metric(name="rmse", value=number / 4)),
        )
        for number in range(3)
    ]
    project.put_execution(whole)
    project.catalog.put_executions(items)
    return whole, items


def test_the_items_of_a_fan_out_are_a_table(project: Project) -> None:
    run = project.begin_run(kind="papermill")
    a_fan_out(project, run)
    step = project.run(run.id)["train"]
    table = step.items()
    assert list(table.columns) == [
        "item",
        "carrier",
        "alpha",
        "state",
        "seconds",
        "attempt",
        "metrics.rmse",
        "reason",
        "error",
    ]
    assert list(table["item"]) == [0, 1, 2]
    assert list(table["carrier"]) == ["AA"] * 3
    assert list(table["alpha"]) == [0, 0.5, 1]
    assert list(table["state"]) == ["succeeded", "failed", "succeeded"]
    assert list(table["seconds"]) == [2, 2, 2]
    assert list(table["attempt"]) == [1, 2, 3]
    assert table["metrics.rmse"].dropna().to_list() == [0, 0.5]
    assert (table["reason"][1], table["error"][1]) == ("error", "ValueError: no rows")
    assert repr(step).splitlines()[0] == "Step train: failed, 3 items: 2 succeeded, 1 failed"
    assert project.run(run.id).steps == ("train",)


def test_the_items_of_a_fan_out_that_was_reused_are_those_of_the_one_that_ran(project: Project) -> None:
    first, second = project.begin_run(kind="papermill"), project.begin_run(kind="papermill")
    made, items = a_fan_out(project, first, state="succeeded")
    project.put_execution(an_execution(second, state="reused", reused_from=made.id, fanout=made.fanout))
    assert list(project.run(second.id)["train"].items()["item"]) == [one.item for one in items]


def test_a_step_without_foreach_has_no_items(project: Project) -> None:
    run = project.begin_run(kind="papermill")
    project.put_execution(an_execution(run))
    with pytest.raises(UsageError, match="Step train has no items"):
        project.run(run.id)["train"].items()


def test_a_table_of_items_keeps_a_name_apart_from_its_own_columns() -> None:
    run = Run(id=new_id(), kind="job", state="running", name="n")  # type: ignore[arg-type]
    items = [an_execution(run, item=number, label={"state": text}) for number, text in enumerate(("'NY'", "<obj>"))]
    table = items_as_frame(items)
    assert list(table["params.state"]) == ["'NY'", "<obj>"]
    assert list(table["state"]) == ["succeeded", "succeeded"]
    assert items_as_frame([]).empty


# --- after a loss -----------------------------------------------------------------------------------------------------

DEAD = owner_of(2**22 + 1)


def write_end(project: Project, record: Execution) -> None:
    said = proven(signer(record.id), "execution", record.id, msgspec.to_builtins(record))
    project.blobs.append("execution", record.id, said)


def test_what_a_dead_service_left_is_settled_and_nothing_that_ended_is_lost(project: Project) -> None:
    run = project.begin_run(kind="interactive", owner=DEAD)
    ended = an_execution(run, step="load", state="running")
    queued = an_execution(run, step="later", state="queued")
    for execution in (ended, queued):
        project.put_execution(execution)
    written = replace(ended, state="succeeded", ended=20, metrics=(Metric(name="loss", value=float("nan")),))
    write_end(project, written)  # by the worker, before the service died
    (changed,) = project.reconcile(is_alive)
    assert (changed.id, changed.state, changed.failed_step) == (run.id, "failed", "later")
    assert project.catalog.execution(ended.id).state == "succeeded"
    lost = project.catalog.execution(queued.id)
    assert (lost.state, lost.reason) == ("failed", "service-lost")
    assert lost.failure is not None
    assert lost.failure.remedy == "Run its cell again."
    assert project.reconcile(is_alive) == []
    assert project.catalog.under_way() == []


@pytest.mark.parametrize("whose", ["nobody's", "another user's", "another execution's"])
def test_an_end_that_somebody_else_has_put_into_the_store_is_not_taken(
    project: Project, whose: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = project.begin_run(kind="interactive", owner=DEAD)
    lost, other = (an_execution(run, step=step, state="running") for step in ("load", "other"))
    project.put_execution(lost)
    said = msgspec.to_builtins(replace(lost, state="succeeded", ended=20))
    with monkeypatch.context() as elsewhere:
        if whose == "another user's":
            elsewhere.setenv("MLBENCH_KEYS", str(tmp_path / "theirs"))
        signs = signer(lost.id) if whose == "another user's" else signer(other.id)
    proof = None if whose == "nobody's" else signs
    project.blobs.append("execution", lost.id, proven(proof, "execution", lost.id, said))
    project.reconcile(is_alive)
    settled = project.catalog.execution(lost.id)
    assert (settled.state, settled.reason) == ("failed", "service-lost")


def test_an_end_is_recorded_so_that_it_is_known_again_after_a_loss(project: Project) -> None:
    run = project.begin_run(kind="interactive", owner=DEAD)
    one = an_execution(run, state="running")
    project.put_execution(one)
    project.record(replace(one, state="skipped", ended=12))
    project.reconcile(is_alive)
    assert project.catalog.execution(one.id).state == "skipped"


def test_a_dead_engines_run_has_failed_unless_its_end_was_recorded(project: Project) -> None:
    lost = project.begin_run(kind="papermill", owner=DEAD)
    done = project.begin_run(kind="job", owner=DEAD)
    end = replace(done, state="succeeded", ended=done.started + 1)
    project.blobs.append("run", done.id, msgspec.to_builtins(end))
    changed = {run.id: run for run in project.reconcile(is_alive)}
    assert (changed[lost.id].state, changed[lost.id].reason) == ("failed", "worker-lost")
    assert changed[done.id] == project.catalog.run(done.id) == end


def test_a_record_that_is_damaged_keeps_no_store_from_being_opened(project: Project) -> None:
    run = project.begin_run(kind="interactive", owner=DEAD)
    execution = an_execution(run, state="running")
    project.put_execution(execution)
    write_end(project, replace(execution, state="succeeded"))
    (record,) = Path(project.location.path).glob(f"records/*/*/*-execution-{execution.id}.json")
    record.chmod(0o600)
    record.write_bytes(b"{")
    (changed,) = project.reconcile(is_alive)
    assert changed.state == "failed"
    assert project.catalog.execution(execution.id).reason == "service-lost"


def test_what_living_processes_carry_is_left_alone(project: Project) -> None:
    run = project.begin_run(kind="papermill")
    execution = an_execution(run, state="running")
    project.put_execution(execution)
    assert project.reconcile(is_alive) == []
    assert project.catalog.execution(execution.id).state == "running"


def test_an_owner_is_a_process_and_not_whoever_has_its_number_now() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        owner = owner_of(process.pid)
        assert is_alive(owner)
        assert process.stdin is not None
        process.stdin.close()
        process.wait(30)
    assert not is_alive(owner)
    host, boot, pid, start = owner_of_this_process().rsplit("/", 3)
    assert is_alive(owner_of_this_process())
    assert not is_alive(f"{host}/{boot}/{pid}/{int(start) + 1}")
    assert not is_alive(f"{host}/another boot/{pid}/{start}")
    assert is_alive(f"not {host}/{boot}/{pid}/{start}")  # its own host's service knows
    for nonsense in (None, "", "x", "a/b/c/d"):
        assert not is_alive(nonsense)


def test_a_lost_catalog_is_made_again_from_the_records(tmp_path: Path) -> None:
    location = find_store(store=str(tmp_path / "store"))
    project = Project(location)
    run = project.begin_run(kind="papermill", parameters={"n": 1})
    execution = an_execution(run, **bound(project, model=[1]), metrics=(Metric(name="loss", value=float("nan")),))
    project.put_execution(execution)
    items = [an_execution(run, part_of=execution.id, item=number) for number in range(3)]
    project.blobs.append("executions", items[0].id, {"executions": [compact(one) for one in items]})
    snapshot = project.snapshot(NOTEBOOK)
    ended = project.end_run(run, "succeeded", snapshot=snapshot)
    version = JobVersion(number=1, snapshot=snapshot)
    job = Job(id=new_id(), name="nightly", notebook="/n.ipynb", version=version)  # type: ignore[arg-type]
    project.blobs.append("job-version", f"{job.id}-1", {"job": job.id, **msgspec.to_builtins(version)})
    project.blobs.append("job", job.id, msgspec.to_builtins(job))
    project.close()
    for path in location.path.glob("catalog.sqlite*"):
        path.unlink()
    again = Project(location)
    assert again.catalog.run(run.id) == ended
    assert again.run(run.id)["train"].model == [1]
    assert again.catalog.items(execution.id) == items
    assert str(again.run(run.id).metrics) == "{'loss': nan}"
    assert again.catalog.snapshot(snapshot).notebook
    assert again.catalog.job("nightly") == job
    assert again.catalog.job_versions(job.id) == [version]
    again.close()


def test_opening_a_project_loads_no_database_library() -> None:
    script = (
        "import sys, mlbench.project, mlbench.backends.blobs_local, mlbench.runs.artifacts\n"
        "heavy = {'sqlalchemy', 'alembic', 'cloudpickle', 'numpy', 'pandas', 'distributed'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60, env=environment)
