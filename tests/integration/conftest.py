"""A store, a runtime folder and a service of a test's own; whoever leaves a process behind fails."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlbench.backends.cluster_dask.worker import account, attendance, chunks, itemattendance, supervisor
from mlbench.backends.service_socket import start
from tests.integration.house import House
from tests.integration.steps import Clock


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a store's folder, which everything finds by itself."""
    path = tmp_path / "store"
    monkeypatch.setenv("MLBENCH_STORE", str(path))
    return path


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a runtime folder, which everything finds by itself; its path is short, since sockets' are."""
    path = Path(tempfile.mkdtemp(prefix="mlb"))
    monkeypatch.setenv("MLBENCH_RUNTIME", str(path))
    for name in ("CI", "MLBENCH_OWN_SERVICE"):
        monkeypatch.delenv(name, raising=False)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Return the time of the supervisors in this process, which need not be waited for."""
    clock = Clock()
    for module in (attendance, supervisor, chunks, itemattendance, account):
        monkeypatch.setattr(module, "time", clock)
    for kind in (supervisor._Supervision, chunks._ChunkRun):
        monkeypatch.setattr(kind, "_patience", lambda *_: 0.02)  # it cannot know when the clock is put forward
    return clock


@pytest.fixture
def service(store: Path, runtime: Path) -> Iterator[House]:
    """Return what starts, kills and ends the service of this runtime folder; no process is left afterwards."""
    house = House(runtime=runtime, store=store)
    yield house
    house.end()
    left = house.wait_until_gone()
    assert not left, f"processes were left behind: {left}"


@pytest.fixture
def alone(service: House, monkeypatch: pytest.MonkeyPatch) -> House:
    """Return a service of the test's own whose steps run in memory: what they do is said in words, see `house.py`."""
    monkeypatch.setattr(start, "_start", service.start_for)
    return service


@pytest.fixture(scope="module")
def _shared() -> Iterator[House]:
    runtime = Path(tempfile.mkdtemp(prefix="mlb"))
    house = House(runtime=runtime, store=runtime / "store")
    yield house
    house.end()
    left = house.wait_until_gone()
    shutil.rmtree(runtime, ignore_errors=True)
    assert not left, f"processes were left behind: {left}"


@pytest.fixture
def quick(store: Path, _shared: House, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    """Return a service whose steps run in memory, as in `alone`, that other tests of the module use as well.

    The store is the test's own, and nothing is under way when it begins. A service that a test has killed is followed
    by another one.
    """
    monkeypatch.setenv("MLBENCH_RUNTIME", str(_shared.runtime))
    for name in ("CI", "MLBENCH_OWN_SERVICE"):
        monkeypatch.delenv(name, raising=False)
    house = House(runtime=_shared.runtime, store=store, started=_shared.started)
    monkeypatch.setattr(start, "_start", house.start_for)
    yield house
    house.clear()
