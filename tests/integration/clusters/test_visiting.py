"""What a step is given on a worker that is not its kernel's machine, and what is compared; without a cluster."""

from __future__ import annotations

import os
import pickle
import platform
from dataclasses import replace
from pathlib import Path

import distributed
import pytest

from mlbench.backends.blobs_local import LocalBlobs
from mlbench.backends.cluster_dask import versions
from mlbench.backends.cluster_dask.worker import modules, visiting
from mlbench.backends.cluster_dask.worker.plugin import StepWorker
from mlbench.core.errors import ServiceError
from mlbench.core.messages import ClusterChoice, StepTask
from tests.integration.steps import environment, task


@pytest.fixture
def given(tmp_path: Path) -> StepTask:
    LocalBlobs(tmp_path / "store")
    choice = ClusterChoice(name="big", address="tcp://h:1", versions=versions.installed())
    return task(tmp_path / "store", "x = 1", cluster=choice)


def test_only_what_the_notebook_changed_and_no_machine_owns_travels(given: StepTask) -> None:
    variables = {"MINE": "1", "PATH": "/x", "SECRET": "s", "MLBENCH_STORE": "/y"}
    sent = visiting.travelling(
        replace(
            given,
            environment=replace(environment(), variables=variables),
            changed_variables=("MINE", "PATH", "MLBENCH_STORE", "DELETED"),
        )
    )
    assert sent.environment.variables == {"MINE": "1"}


def test_what_dask_sets_for_its_threads_is_not_the_steps(given: StepTask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")
    there = visiting.adapted(visiting.travelling(given), None)
    assert "OMP_NUM_THREADS" not in there.environment.variables
    assert there.environment.variables["OPENBLAS_NUM_THREADS"] == "3"


def test_another_minor_version_of_python_is_refused_by_the_worker_too(given: StepTask) -> None:
    assert given.cluster is not None
    other = replace(given, cluster=replace(given.cluster, versions={"python": "3.99.0"}))
    with pytest.raises(ServiceError, match=r"the kernel Python 3\.99\.0"):
        visiting.adapted(other, None)


def test_an_attempt_is_claimed_once(given: StepTask) -> None:
    assert visiting.claim(given)
    assert not visiting.claim(given)
    assert visiting.claim(replace(given, attempt=2))
    visiting.let_go(given)
    assert visiting.claim(given)


def test_modules_are_unpacked_once_and_never_outside_of_their_folder(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path / "store")
    digest = blobs.put(b"TWO = 2\n")
    folder = modules.unpack({"pack/__init__.py": digest, "pack/deep.py": digest}, blobs)
    assert Path(folder, "pack", "deep.py").read_text() == "TWO = 2\n"
    assert modules.unpack({"pack/deep.py": digest, "pack/__init__.py": digest}, blobs) == folder
    for path in ("../x.py", "/x.py", "a/../../x.py", ""):
        with pytest.raises(ServiceError, match="leads out of its folder"):
            modules.unpack({path: digest}, blobs)
    modules.forget()
    assert not os.path.exists(folder)


def test_workers_without_mlbench_and_with_another_python_are_refused() -> None:
    kernel = {"python": "3.11.7", "mlbench": "0.1.0"}
    with pytest.raises(ServiceError, match=r"tcp://a of cluster big has no mlbench\. Install it there: .*0\.1\.0"):
        versions.check(kernel, {"tcp://a": {"python": "3.11.7"}, "tcp://b": kernel}, "big")
    with pytest.raises(ServiceError, match=r"Python 3\.12\.1, the kernel Python 3\.11\.7"):
        versions.check(kernel, {"tcp://a": {**kernel, "python": "3.12.1"}}, "big")
    versions.check(kernel, {"tcp://a": {**kernel, "python": "3.11.9"}}, "big")


def test_a_worker_says_its_versions_without_mlbench() -> None:
    found = eval(versions.asked())
    assert found["python"] == platform.python_version()
    assert found == versions.installed()


def test_the_plugin_is_nothing_where_mlbench_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    packed = pickle.dumps(StepWorker(own=False))
    found = pickle.loads(packed)
    assert isinstance(found, StepWorker)
    assert not found.own
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert type(pickle.loads(packed)) is distributed.WorkerPlugin


def test_a_plugin_that_is_registered_again_ends_no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlbench.backends.cluster_dask.worker import supervisor

    ended: list[bool] = []
    monkeypatch.setattr(supervisor, "close", lambda *, lost: ended.append(lost))

    class Worker:
        status = distributed.Status.running

    one = Worker()
    StepWorker(own=False).teardown(one)
    assert not ended
    one.status = distributed.Status.closing
    StepWorker(own=False).teardown(one)
    assert ended
