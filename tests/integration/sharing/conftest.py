"""A shared folder, two people, and a PostgreSQL server, each for one test."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.sharing.people import GROUP, PATHS, Person
from tests.postgres import Server

UIDS = {"ada": 54_001, "bob": 54_002}


def _python_of_others() -> str | None:
    """Return a Python that processes of other uids can run with what is installed here; `None` without one."""
    if os.geteuid() != 0:
        return None
    for found in (sys.executable, "/usr/bin/python3"):
        code = f"import sys, mlbench, msgspec, blake3; assert sys.version_info[:2] == {sys.version_info[:2]}"
        who = {"user": UIDS["ada"], "group": UIDS["ada"], "extra_groups": []}
        try:
            asked = subprocess.run(  # type: ignore[call-overload]
                [found, "-c", code], env={"PYTHONPATH": PATHS}, cwd="/", check=False, capture_output=True, **who
            )
        except OSError:
            continue
        if asked.returncode == 0:
            return found
    return None


@pytest.fixture
def shared() -> Iterator[Path]:
    """Return a folder that a group shares; where the test may not be others, one of this user."""
    folder = Path(tempfile.mkdtemp(prefix="mlb"))
    store = folder / "store"
    store.mkdir()
    if os.geteuid() == 0:
        folder.chmod(0o755)
        os.chown(store, -1, GROUP)
    store.chmod(0o2770)
    yield store
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def postgres() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def catalog_url(request: pytest.FixtureRequest) -> str | None:
    """Return what both people write in MLBENCH_CATALOG."""
    if request.param == "sqlite":
        return None
    server: Server = request.getfixturevalue("postgres")
    return server.url(server.create())


@pytest.fixture
def person(shared: Path) -> Iterator[Callable[..., Person]]:
    """Return a function that makes somebody who uses the shared store."""
    made: list[Person] = []
    python = _python_of_others()

    def make(name: str, catalog: str | None = None, store: Path | None = None) -> Person:
        made.append(
            Person(name, store or shared, UIDS.get(name) if python else None, catalog, python or sys.executable)
        )
        return made[-1]

    yield make
    for one in made:
        one.leave()
