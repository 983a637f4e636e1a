"""What kernels and subscribers get from the service: steps, runs, news. The steps run in memory; all else is real."""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
import sys
import time
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mlbench.backends.blobs_local import LocalBlobs
from mlbench.backends.owners import owner_of, owner_of_this_process
from mlbench.backends.service_socket import AsyncServiceClient, Door
from mlbench.backends.service_socket.frames import encode
from mlbench.core.errors import ServiceError
from mlbench.core.ids import ExecutionId, RunId, new_id
from mlbench.core.messages import Event, StepOptions
from mlbench.core.records import Execution, Run
from mlbench.project.signing import signer
from mlbench.runs.signing import proven
from tests.integration.house import PATIENCE, House, Kernel, catalog, eventually, names


@pytest.fixture
def kernel(quick: House) -> Kernel:
    return quick.kernel()


@pytest.fixture
def go(tmp_path: Path) -> Path:
    """Return the file that `wait` waits for."""
    return tmp_path / "go"


def test_a_step_is_queued_runs_and_succeeds_and_is_in_the_catalog_by_then(kernel: Kernel) -> None:
    step = kernel.submit("load", "print hello")
    record = kernel.state(step)
    assert kernel.states(step) == ["queued", "running", "succeeded"]
    assert [one.name for one in record.binds] == ["load"]
    found = catalog(kernel.store).execution(step)
    assert found.state == "succeeded"
    assert [one["text"] for one in found.messages] == ["hello\n"]


def test_a_child_starts_when_its_parents_have_ended(kernel: Kernel, go: Path) -> None:
    load = kernel.submit("load", f"wait {go}")
    other = kernel.submit("other")
    train = kernel.submit("train", "", f"load={load}", f"other={other}")
    kernel.state(other)
    assert kernel.states(train) == ["queued"]
    go.touch()
    record = kernel.state(train)
    assert {(one.name, one.step) for one in record.reads} == {("load", "load"), ("other", "other")}
    assert set(record.parents) == {load, other}


def test_children_of_a_failed_step_are_skipped_and_the_rest_goes_on(kernel: Kernel, go: Path) -> None:
    load = kernel.submit("load", f"wait {go}\nfail no such file")
    train = kernel.submit("train", "", f"load={load}")
    other = kernel.submit("other", f"wait {go}")
    go.touch()
    assert kernel.state(load).failure.evalue == "no such file"  # type: ignore[union-attr]
    assert kernel.state(train).state == "skipped"
    assert kernel.state(other).state == "succeeded"
    run = kernel.run_state(kernel.state(load).run, "failed")
    assert run["failed_step"] == "load"
    assert LocalBlobs(kernel.store).find_record("execution", train)["state"] == "skipped"  # type: ignore[index]


def test_what_a_step_prints_reaches_its_kernel_while_it_runs(kernel: Kernel, go: Path) -> None:
    step = kernel.submit("load", f"print hello\nwait {go}")
    event = kernel.until(lambda event: event.type == "messages")
    assert event.body["execution"] == step
    assert event.body["cell"] == "cell-load"
    assert event.body["messages"] == [{"output_type": "stream", "name": "stdout", "text": "hello\n"}]
    assert kernel.states(step) == ["queued", "running"]
    running = kernel.client.request("execution", {"id": step})["execution"]
    assert running["messages"] == [{"output_type": "stream", "name": "stdout", "text": "hello\n"}]
    go.touch()
    kernel.state(step)


def test_metrics_of_a_step_are_seen_while_it_runs(kernel: Kernel, go: Path) -> None:
    step = kernel.submit("load", f"log rmse=0.5\nwait {go}")
    kernel.until(lambda event: event.type == "execution" and bool(event.body["execution"]["metrics"]))
    go.touch()
    kernel.state(step)


def test_an_executor_that_breaks_fails_the_step_with_a_sentence(kernel: Kernel) -> None:
    record = kernel.state(kernel.submit("load", "crash"))
    assert (record.state, record.reason) == ("failed", "worker-lost")
    assert "the executor broke" in record.failure.evalue  # type: ignore[union-attr]


def test_a_result_of_another_life_of_the_service_is_given_to_a_step(quick: House) -> None:
    kernel = quick.kernel()
    load = kernel.submit("load")
    kernel.state(load)
    quick.kill()
    again = quick.kernel()
    record = again.state(again.submit("train", "", f"load={load}"))
    assert record.state == "succeeded"
    assert record.reads[0].digest == f"blake3:{load}.load"


def test_a_step_that_needs_what_nobody_knows_is_refused(kernel: Kernel) -> None:
    with pytest.raises(ServiceError, match="Run the cells above it again"):
        kernel.submit("train", "", f"load={new_id()}")


# --- runs ------------------------------------------------------------------------------------------------------------


def test_an_interactive_run_holds_one_execution_of_each_step(kernel: Kernel) -> None:
    first = [kernel.state(kernel.submit(name)) for name in ("load", "train")]
    second = kernel.state(kernel.submit("train"))
    assert first[0].run == first[1].run != second.run
    kernel.run_state(second.run, "succeeded")
    found = catalog(kernel.store).executions(second.run)
    assert {(one.step, one.state) for one in found} == {("load", "reused"), ("train", "succeeded")}
    (reused,) = [one for one in found if one.state == "reused"]
    assert reused.reused_from == first[0].id
    assert [run.state for run in catalog(kernel.store).runs(kernel="kernel")] == ["succeeded", "succeeded"]


def test_a_run_goes_on_with_the_next_step(kernel: Kernel, go: Path) -> None:
    run = kernel.state(kernel.submit("load")).run
    kernel.run_state(run, "succeeded")
    kernel.events.clear()
    step = kernel.submit("train", f"wait {go}")
    assert kernel.run_state(run, "running")["ended"] is None
    assert catalog(kernel.store).run(run).state == "running"
    go.touch()
    kernel.state(step)
    kernel.run_state(run, "succeeded")


def test_a_restarted_kernel_opens_the_next_run_and_takes_over_what_it_does_not_run(quick: House) -> None:
    quick.connect()
    first = quick.in_another_process("kernel = house.kernel(); print(kernel.state(kernel.submit('load')).run)")
    again = quick.kernel()
    second = again.state(again.submit("train"))
    assert again.attached["run"] == first
    assert second.run != first
    again.run_state(second.run, "succeeded")
    found = catalog(quick.store).executions(second.run)
    assert {(one.step, one.state) for one in found} == {("load", "reused"), ("train", "succeeded")}


def test_a_kernel_that_has_only_lost_its_connection_goes_on_in_its_run(quick: House) -> None:
    kernel = quick.kernel()
    first = kernel.state(kernel.submit("load"))
    kernel.client.close()
    again = quick.kernel()
    assert again.attached["run"] == first.run
    assert again.state(again.submit("train")).run == first.run


def test_the_runs_of_a_kernel_go_on_after_the_service_was_killed(quick: House) -> None:
    kernel = quick.kernel()
    load = kernel.state(kernel.submit("load"))
    kernel.run_state(load.run, "succeeded")
    quick.kill()
    again = quick.kernel()
    train = again.state(again.submit("train"))
    assert train.run != load.run
    again.run_state(train.run, "succeeded")
    found = catalog(quick.store).executions(train.run)
    assert {(one.step, one.state) for one in found} == {("load", "reused"), ("train", "succeeded")}


def test_the_id_in_a_notebook_is_that_of_its_runs(quick: House, tmp_path: Path) -> None:
    notebook = tmp_path / "flights.ipynb"
    document = {"cells": [], "metadata": {"mlbench": {"id": new_id()}}, "nbformat": 4, "nbformat_minor": 5}
    notebook.write_text(json.dumps(document))
    kernel = quick.kernel(notebook=str(notebook))
    run = kernel.state(kernel.submit("load")).run
    assert catalog(quick.store).run(run).notebook_id == document["metadata"]["mlbench"]["id"]  # type: ignore[index]


def test_whether_a_step_draws_is_known_from_its_last_execution(quick: House, go: Path) -> None:
    kernel = quick.kernel()
    kernel.state(kernel.submit("first", "draw"))
    kernel.state(kernel.submit("second", "draw"))
    quick.kill()
    again = quick.kernel()
    first = again.submit("first", f"wait {go}\ndraw", seeded=True)
    second = again.submit("second", "draw", seeded=True, random_from=first)
    again.state(first, "running")
    time.sleep(0.3)
    assert again.states(second) == ["queued"]
    go.touch()
    assert again.state(second).state == "succeeded"


def test_a_kernel_that_comes_back_is_told_what_became_of_its_steps(quick: House) -> None:
    kernel = quick.kernel(reconnect=True)
    step = kernel.submit("load", "sleep 60")
    kernel.state(step, "running")
    quick.kill()
    assert kernel.state(step).reason == "service-lost"


def test_the_notebook_behind_a_run_is_recorded_with_what_it_stood_on(
    quick: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DB_PASSWORD", "hunter2")
    notebook = tmp_path / "flights.ipynb"
    git = ["git", "-C", str(tmp_path), "-c", "user.name=ada", "-c", "user.email=ada@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "begin"], check=True)
    kernel = quick.kernel(notebook=str(notebook))
    sources = ("x = 1", "%%step load\ny = x")
    record = kernel.state(kernel.submit("load", cells=sources, parameters={"trees": 2}))
    event = kernel.until(lambda event: event.type == "run" and bool(event.body["run"]["snapshot"]), "a snapshot")
    assert event.run == record.run
    found = catalog(quick.store).snapshot(event.body["run"]["snapshot"])
    assert (found.cells, found.parameters) == (sources, {"trees": 2})
    assert (found.interpreter, found.python) == (sys.executable, platform.python_version())
    assert found.packages["msgspec"] == metadata.version("msgspec")
    assert "DB_PASSWORD" in found.environment
    assert not [name for name in found.environment if "hunter2" in name]
    assert found.git is not None
    assert found.git.branch


def test_a_notebook_that_has_not_changed_since_the_last_run_has_the_same_snapshot(kernel: Kernel) -> None:
    runs = []
    for _ in range(2):
        runs.append(kernel.state(kernel.submit("load", cells=("%%step load",))).run)
        kernel.until(lambda event: event.run == runs[-1] and bool(event.body.get("run", {}).get("snapshot")))
    snapshots = [catalog(kernel.store).run(run).snapshot for run in runs]
    assert runs[0] != runs[1]
    assert snapshots[0] == snapshots[1]


def test_what_a_plain_cell_logs_is_the_runs(kernel: Kernel) -> None:
    kernel.client.request("metrics", {"run": None, "metrics": [{"name": "before", "value": 1.0}]})
    run = kernel.state(kernel.submit("load")).run
    kernel.client.request("metrics", {"run": run, "metrics": [{"name": "rmse", "value": 0.5}]})
    kernel.client.request("tag", {"run": run, "tags": {"team": "ops"}})
    found = catalog(kernel.store).run(run)
    assert {one.name: one.value for one in found.metrics} == {"before": 1.0, "rmse": 0.5}
    assert found.tags == {"team": "ops"}


def test_a_step_that_ran_in_the_kernel_is_recorded_and_can_be_a_parent(kernel: Kernel) -> None:
    record = Execution(
        id=ExecutionId(new_id()),
        run=RunId(""),
        step="here",
        state="succeeded",
        queued=time.time_ns(),
        ended=time.time_ns(),
    )
    answer = kernel.client.request("here", {"execution": record})
    child = kernel.state(kernel.submit("train", "", f"here={record.id}"))
    assert child.run == answer["run"]
    assert catalog(kernel.store).execution(record.id).run == answer["run"]


def test_a_step_that_was_running_in_a_kernel_that_is_gone_has_failed(quick: House) -> None:
    kernel = quick.kernel()
    record = Execution(
        id=ExecutionId(new_id()),
        run=RunId(""),
        step="here",
        state="running",
        queued=time.time_ns(),
    )
    kernel.client.request("here", {"execution": record})
    kernel.client.close()
    eventually(lambda: catalog(quick.store).execution(record.id).state == "failed")
    assert catalog(quick.store).execution(record.id).reason == "kernel-lost"


# --- engines ---------------------------------------------------------------------------------------------------------


def _begin(house: House, owner: str | None) -> Run:
    from mlbench.project import Project

    return Project.open(store=str(house.store)).begin_run(kind="papermill", name="flights", owner=owner)


def test_the_steps_of_an_engine_go_to_its_run_whatever_is_run_again(quick: House) -> None:
    run = _begin(quick, owner_of_this_process())
    engine = quick.connect(role="engine")
    engine.request("open_run", {"store": str(quick.store), "run": run})
    kernel = quick.kernel("papermill", run=run.id, kind="papermill")
    records = [kernel.state(kernel.submit("load")) for _ in range(2)]
    assert {record.run for record in records} == {run.id}
    assert catalog(quick.store).run(run.id).state == "running"
    engine.request("close_run", {"store": str(quick.store), "run": replace(run, state="succeeded")})


def test_a_run_whose_engine_is_gone_has_failed(quick: House) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        run = _begin(quick, owner_of(process.pid))
        engine = quick.connect(role="engine")
        engine.request("open_run", {"store": str(quick.store), "run": run})
        kernel = quick.kernel("papermill", run=run.id, kind="papermill")
        step = kernel.submit("load", "sleep 60")
        kernel.state(step, "running")
        process.kill()
    engine.close()
    assert kernel.state(step).state == "cancelled"
    eventually(lambda: catalog(quick.store).run(run.id).state == "failed")
    assert catalog(quick.store).run(run.id).reason == "worker-lost"
    kept = catalog(quick.store).execution(step)
    assert (kept.state, kept.reason) == ("cancelled", "worker-lost")


def test_a_run_whose_engine_has_only_lost_its_connection_goes_on(quick: House) -> None:
    run = _begin(quick, owner_of_this_process())
    engine = quick.connect(role="engine")
    engine.request("open_run", {"store": str(quick.store), "run": run})
    kernel = quick.kernel("papermill", run=run.id, kind="papermill")
    step = kernel.submit("load", "sleep 60")
    kernel.state(step, "running")
    quick.kill()
    again = quick.kernel("papermill", run=run.id, kind="papermill")
    eventually(lambda: catalog(quick.store).execution(step).state == "failed")
    assert catalog(quick.store).execution(step).reason == "service-lost"
    assert catalog(quick.store).run(run.id).state == "running"
    assert again.attached["run"] == run.id


# --- what the page says -----------------------------------------------------------------------------------------------


def test_the_failure_of_a_cell_that_was_deleted_holds_back_nothing_that_does_not_name_it(kernel: Kernel) -> None:
    def shown(*cells: str) -> None:
        document = {"metadata": {}, "cells": [{"id": f"cell-{cell}", "source": ""} for cell in cells]}
        kernel.client.request("cells", {"kernel": "kernel", "document": document})

    def publish(**more: Any) -> Execution:
        return kernel.state(kernel.submit("publish", "", waits_for={check: "it is run for its effects"}, **more))

    shown("check", "publish")
    check = kernel.submit("check", "fail")
    kernel.state(check)
    held = publish()
    assert held.state == "skipped"
    assert held.note == "Step check failed. Step publish waits for it: it is run for its effects."
    shown("publish")
    assert publish(options=StepOptions(after=("check",))).state == "skipped", "what a line names is meant"
    assert publish().state == "succeeded"
    shown("publish", "check")
    assert publish().state == "skipped", "it is there again"


# --- cancelling ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["execution", "step", "run"])
def test_a_cancel_ends_what_it_names(kernel: Kernel, what: str) -> None:
    answer = kernel.ask("load", "sleep 60")["execution"]
    train = kernel.submit("train", "", f"load={answer['id']}")
    body = {"execution": answer["id"], "step": "load", "run": answer["run"]}[what]
    cancelled = kernel.client.request("cancel", {what: body})
    assert names(cancelled) == (["load", "train"] if what == "run" else ["load"])
    record = kernel.state(answer["id"])
    assert (record.state, record.reason) == ("cancelled", "user")
    assert kernel.state(train).state in ("cancelled", "skipped")
    kernel.run_state(answer["run"], "cancelled")


def test_a_cancel_of_what_has_ended_cancels_nothing(kernel: Kernel) -> None:
    step = kernel.submit("load")
    kernel.state(step)
    assert kernel.client.request("cancel", {"execution": step}) == {"cancelled": []}


def test_an_interrupt_cancels_what_was_waited_for_after_a_while(kernel: Kernel) -> None:
    load = kernel.submit("load", "sleep 60")
    train = kernel.submit("train", "", f"load={load}")
    kernel.state(load, "running")
    assert names(kernel.client.request("interrupt", {"executions": [train]})) == ["load", "train"]
    assert kernel.state(load).reason == "user"
    assert kernel.state(train).state == "cancelled"


def test_an_interrupt_that_is_taken_back_changes_nothing(kernel: Kernel, go: Path) -> None:
    load = kernel.submit("load", f"wait {go}")
    kernel.state(load, "running")
    kernel.client.request("interrupt", {"executions": [load]})
    kernel.client.request("keep", {"executions": [load]})
    go.touch()
    assert kernel.state(load).state == "succeeded"


def test_a_page_takes_back_the_interrupt_that_ends_its_kernels_wait(quick: House, go: Path) -> None:
    kernel, page = quick.kernel(), quick.connect(role="lab")
    load = kernel.submit("load", f"wait {go}")
    kernel.state(load, "running")
    page.request("keep", {"executions": [load], "kernel": "kernel"})
    assert kernel.client.request("interrupt", {"executions": [load]}) == {"cancelled": []}
    go.touch()
    assert kernel.state(load).state == "succeeded"


def test_a_kernel_that_restarts_after_its_interrupt_loses_nothing(quick: House, go: Path) -> None:
    kernel, other = quick.kernel(), quick.kernel("other")
    load = kernel.submit("load", f"wait {go}", key="K")
    waited = other.submit("waited", "sleep 60")
    kernel.state(load, "running")
    other.state(waited, "running")
    with quick.standing_still():  # so that no time passes for it between the interrupt and the kernel's end
        kernel.tell("interrupt", {"executions": [load]})
        kernel.client.close()
    quick.wait_until_detached("kernel")
    again = quick.kernel()
    other.client.request("interrupt", {"executions": [waited]})
    assert other.state(waited).state == "cancelled"  # what was interrupted before is over too, if it is to be
    answer = again.ask("load", f"wait {go}", key="K")
    assert answer["attached"]
    assert answer["execution"]["id"] == load
    assert answer["execution"]["state"] == "running"
    go.touch()
    assert again.state(load).state == "succeeded"


# --- detached kernels ------------------------------------------------------------------------------------------------


def test_a_step_goes_on_without_its_kernel_and_its_result_waits_for_the_next(quick: House, go: Path) -> None:
    kernel = quick.kernel("first")
    load = kernel.submit("load", f"print hello\nwait {go}", key="K")
    kernel.client.close()
    quick.wait_until_detached("first")
    go.touch()
    eventually(lambda: not quick.connect().request("status")["executions"])
    again = quick.kernel("second")
    answer = again.ask("load", f"print hello\nwait {go}", key="K")
    assert answer["attached"]
    assert answer["execution"]["id"] == load
    assert answer["execution"]["messages"][0]["text"] == "hello\n"
    assert "before this cell was run again" in answer["note"]
    assert again.ask("load", f"print hello\nwait {go}", key="K")["attached"] is False


def _end_without_a_kernel(quick: House, go: Path) -> str:
    """Run a step to its end while its kernel is away, kill the service, and return the step's execution."""
    kernel = quick.kernel("first")
    load = kernel.submit("load", f"print hello\nwait {go}", key="K")
    kernel.state(load, "running")
    kernel.client.close()
    quick.wait_until_detached("first")
    go.touch()
    eventually(lambda: catalog(quick.store).execution(load).state == "succeeded")
    quick.kill()
    return load


def test_an_end_that_no_kernel_saw_is_found_also_after_the_service_was_killed(quick: House, go: Path) -> None:
    load = _end_without_a_kernel(quick, go)
    kernel = quick.kernel("second")
    answer = kernel.ask("load", "", key="K")
    assert answer["attached"]
    assert answer["execution"]["id"] == load
    assert answer["execution"]["messages"][0]["text"] == "hello\n"
    assert "before this cell was run again" in answer["note"]
    train = kernel.state(kernel.submit("train", "", f"load={load}"))
    assert train.reads[0].digest == f"blake3:{load}.load"
    kernel.run_state(train.run, "succeeded")
    assert {(one.step, one.reused_from) for one in catalog(quick.store).executions(train.run)} == {
        ("load", load),
        ("train", None),
    }
    quick.kill()
    assert quick.kernel("third").ask("load", "", key="K")["attached"] is False


def test_an_end_that_no_kernel_saw_is_forgotten_when_its_cell_was_edited_and_run(quick: House, go: Path) -> None:
    _end_without_a_kernel(quick, go)
    kernel = quick.kernel("second")
    kernel.state(kernel.submit("load", "", key="K2"))
    quick.kill()
    assert quick.kernel("third").ask("load", "", key="K")["attached"] is False


def test_an_end_is_still_owed_when_only_another_kernel_of_the_notebook_has_come_back(quick: House, go: Path) -> None:
    other = quick.kernel("other", reconnect=True)
    other.state(other.submit("else", "", key="E"))
    load = _end_without_a_kernel(quick, go)
    eventually(lambda: Door.find().alive())
    quick.wait_until_attached("other")
    assert quick.kernel("second").ask("load", "", key="K")["execution"]["id"] == load


def test_an_end_that_a_killed_service_told_nobody_is_found_by_the_cell_run_again(quick: House) -> None:
    kernel = quick.kernel("first")
    load = kernel.submit("load", "sleep 60", key="K")
    record = kernel.state(load, "running")
    quick.kill()
    kernel.client.close()
    ended = replace(record, state="succeeded", ended=time.time_ns())
    LocalBlobs(quick.store).append(
        "execution", load, proven(signer(load), "execution", load, msgspec.to_builtins(ended))
    )
    answer = quick.kernel("second").ask("load", "", key="K")
    assert answer["attached"]
    assert (answer["execution"]["id"], answer["execution"]["state"]) == (load, "succeeded")


def test_an_end_that_a_kernel_hears_of_when_it_comes_back_is_not_taken_for_another_run(quick: House) -> None:
    kernel = quick.kernel(reconnect=True)
    load = kernel.submit("load", "sleep 60", key="K")
    record = kernel.state(load, "running")
    ended = replace(record, state="succeeded", ended=time.time_ns())
    LocalBlobs(quick.store).append(
        "execution", load, proven(signer(load), "execution", load, msgspec.to_builtins(ended))
    )
    quick.kill()
    assert kernel.state(load, "succeeded").id == load
    assert kernel.ask("load", "", key="K")["attached"] is False


def test_a_step_that_another_kernel_takes_over_ends_the_run_that_it_was_begun_in(quick: House, go: Path) -> None:
    kernel = quick.kernel("first")
    load = kernel.submit("load", f"wait {go}", key="K")
    run = kernel.state(load, "running").run
    kernel.client.close()
    quick.wait_until_detached("first")
    again = quick.kernel("second")
    assert again.ask("load", "", key="K")["attached"]
    go.touch()
    again.state(load)
    eventually(lambda: catalog(quick.store).run(run).state == "succeeded")
    train = again.state(again.submit("train", "", f"load={load}"))
    again.run_state(train.run, "succeeded")
    assert {one.step for one in catalog(quick.store).executions(train.run)} == {"load", "train"}


def test_a_new_kernel_of_a_notebook_supersedes_what_the_former_one_left_running(quick: House) -> None:
    kernel = quick.kernel("first")
    load = kernel.submit("load", "sleep 60", key="K1")
    run = kernel.state(load, "running").run
    kernel.client.close()
    quick.wait_until_detached("first")
    again = quick.kernel("second")
    edited = again.submit("load", "print new", key="K2")
    assert again.state(edited).state == "succeeded"
    assert catalog(quick.store).execution(load).reason == "superseded"
    eventually(lambda: catalog(quick.store).run(run).state == "cancelled")


def test_what_runs_for_another_live_kernel_of_the_notebook_is_left_alone(quick: House) -> None:
    first, second = quick.kernel("first"), quick.kernel("second")
    load = first.submit("load", "sleep 60", key="K1")
    first.state(load, "running")
    assert second.state(second.submit("load", "", key="K2")).state == "succeeded"
    assert catalog(quick.store).execution(load).state == "running"


def test_a_cell_that_was_edited_meanwhile_runs_anew(quick: House) -> None:
    kernel = quick.kernel()
    load = kernel.submit("load", "sleep 60", key="K1")
    kernel.state(load, "running")
    kernel.client.close()
    again = quick.kernel()
    assert [one["id"] for one in again.attached["executions"]] == [load]
    edited = again.submit("load", "print new", key="K2")
    assert again.state(edited).state == "succeeded"
    assert catalog(quick.store).execution(load).reason == "superseded"


def test_the_note_of_a_hidden_change_reaches_the_kernel_with_the_new_execution(kernel: Kernel, go: Path) -> None:
    rows = kernel.submit("rows")
    kernel.state(rows)
    kernel.submit("change", f"wait {go}\nbind rows", f"rows={rows}")
    count = kernel.submit("count", "", f"rows={rows}")
    kernel.state(count)
    go.touch()
    event = kernel.until(
        lambda event: event.type == "execution" and event.body["execution"]["replaces"] == count, "a new execution"
    )
    record = kernel.state(event.body["execution"]["id"])
    assert record.note == "Step change changed rows in place after it was given."
    assert record.run == kernel.state(count).run


# --- news ------------------------------------------------------------------------------------------------------------


def test_a_subscriber_hears_of_everything_but_what_steps_print(quick: House) -> None:
    page = quick.connect(role="lab")
    heard: list[Event] = []
    page.on_event(heard.append)
    page.request("subscribe", {"from": None, "life": None, "messages": False})
    kernel = quick.kernel()
    kernel.state(kernel.submit("load", "print hello"))
    eventually(lambda: {event.type for event in heard} >= {"run", "execution"})
    assert "messages" not in {event.type for event in heard}
    assert heard[0].notebook == "/home/ada/flights.ipynb"


def test_a_subscriber_of_one_notebook_hears_of_that_alone(quick: House) -> None:
    page = quick.connect(role="lab")
    heard: list[Event] = []
    page.on_event(heard.append)
    page.request("subscribe", {"from": None, "life": None, "messages": True, "notebook": "/b.ipynb"})
    for name in ("/a.ipynb", "/b.ipynb"):
        kernel = quick.kernel(name, notebook=name)
        kernel.state(kernel.submit("load", "print hello"))
    eventually(lambda: any(event.type == "messages" for event in heard))
    assert {event.notebook for event in heard} == {"/b.ipynb"}


def test_a_subscriber_that_was_away_gets_what_it_missed(quick: House) -> None:
    page = quick.connect(role="lab")
    answer = page.request("subscribe", {"from": None, "life": None, "messages": False})
    page.close()
    kernel = quick.kernel()
    step = kernel.submit("load")
    kernel.state(step)
    back = quick.connect(role="lab")
    heard: list[Event] = []
    back.on_event(heard.append)
    again = back.request("subscribe", {"from": answer["seq"], "life": answer["life"], "messages": False})
    assert again["reset"] is False
    eventually(lambda: {"succeeded"} <= {_state(event) for event in heard})
    assert [event.seq for event in heard] == list(range(answer["seq"] + 1, answer["seq"] + 1 + len(heard)))


def test_a_subscriber_of_another_life_has_to_ask_for_everything(quick: House) -> None:
    page = quick.connect(role="lab")
    assert page.request("subscribe", {"from": 3, "life": "another", "messages": False})["reset"] is True


def test_a_subscriber_that_does_not_read_is_dropped_and_blocks_nobody(quick: House) -> None:
    quick.connect()
    slow = socket.socket(socket.AF_UNIX)
    slow.connect(str(Door.find().socket))
    hello = {"protocol": 1, "version": "0", "pid": 1, "role": "lab", "interpreter": ""}
    slow.sendall(encode({"n": 0, "op": "hello", "body": hello}))
    slow.sendall(encode({"n": 1, "op": "subscribe", "body": {"from": None, "messages": True}}))
    kernel = quick.kernel()
    step = kernel.submit("load", "\n".join(["print " + "x" * (1 << 16)] * 80))
    kernel.state(step)

    def is_dropped() -> bool:
        kernel.submit("more")  # it is with a piece of news that it is seen how long others have gone unread
        return {one["role"] for one in kernel.client.request("status")["clients"]} == {"cli", "kernel"}

    eventually(is_dropped)
    slow.close()


def test_the_loops_client_gets_answers_and_news(quick: House) -> None:
    import asyncio

    kernel = quick.kernel()

    async def page() -> tuple[Any, list[Event]]:
        client = await AsyncServiceClient.connect()
        heard: list[Event] = []
        ended = asyncio.Event()

        def take(event: Event) -> None:
            heard.append(event)
            if _state(event) == "succeeded":
                ended.set()

        client.on_event(take)
        await client.request("subscribe", {"from": None, "life": None, "messages": False})
        await asyncio.to_thread(kernel.submit, "load")
        await asyncio.wait_for(ended.wait(), PATIENCE)
        status = await client.request("status")
        with pytest.raises(ServiceError, match="does not know the operation"):
            await client.request("dance")
        await asyncio.to_thread(quick.kill)
        await asyncio.wait_for(client.lost.wait(), 20)
        with pytest.raises(ServiceError):
            await client.request("status")
        await client.close()
        return status, heard

    status, heard = asyncio.run(page())
    assert status["pid"] == os.getpid() or status["clients"]
    assert {event.type for event in heard} >= {"run", "execution"}


def _state(event: Event) -> str:
    return str(event.body["execution"]["state"]) if event.type == "execution" else ""


def test_the_records_that_events_carry_can_be_read_as_records(kernel: Kernel) -> None:
    step = kernel.submit("load", "print hello")
    kernel.state(step)
    for event in kernel.events:
        if event.type == "execution":
            record = msgspec.convert(event.body["execution"], Execution)
            assert (record.messages, record.source) == ((), None)
