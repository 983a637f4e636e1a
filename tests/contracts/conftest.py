"""Every implementation of a port, fresh for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlbench.backends.blobs_local import LocalBlobs
from mlbench.backends.catalog_sql import SqlCatalog
from mlbench.backends.memory import MemoryBlobs, MemoryCatalog
from mlbench.core.ports import BlobStore, Catalog
from tests.postgres import Server


@pytest.fixture(params=["memory", "local"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    return MemoryBlobs() if request.param == "memory" else LocalBlobs(tmp_path / "store")


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def catalog(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Catalog]:
    made: Catalog
    if request.param == "memory":
        made = MemoryCatalog()
    elif request.param == "sqlite":
        made = SqlCatalog(f"sqlite:///{tmp_path}/catalog.sqlite")
    else:
        made = SqlCatalog(request.getfixturevalue("new_database")())
    yield made
    made.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """Return a PostgreSQL server of this session."""
    server = Server()
    yield server
    server.close()


@pytest.fixture(scope="session")
def new_database(postgres: Server) -> Callable[[], str]:
    """Return a function that makes an empty catalog on the session's server and returns its URL."""
    template = postgres.create()
    SqlCatalog(postgres.quick(template)).close()
    return lambda: postgres.quick(postgres.create(template))
