"""Every implementation of a port, fresh for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlbench.backends.blobs_fsspec import FsspecBlobs
from mlbench.backends.blobs_local import LocalBlobs
from mlbench.backends.catalog_sql import SqlCatalog
from mlbench.backends.memory import MemoryBlobs, MemoryCatalog
from mlbench.core.ids import new_id
from mlbench.core.ports import BlobStore, Catalog
from mlbench.project import Project, find_store
from tests.postgres import Server
from tests.s3 import S3Server, needs_s3


@pytest.fixture(params=["memory", "local", "fsspec", "s3"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BlobStore]:
    if request.param == "memory":
        yield MemoryBlobs()
        return
    if request.param == "local":
        yield LocalBlobs(tmp_path / "store")
        return
    monkeypatch.setenv("MLBENCH_CACHE", str(tmp_path / "cache"))
    if request.param == "fsspec":
        made = FsspecBlobs(f"memory://{new_id()}/store")
    else:
        server: S3Server = request.getfixturevalue("s3")
        for name, value in server.variables.items():
            monkeypatch.setenv(name, value)
        made = FsspecBlobs(f"{server.bucket()}/store")
    yield made
    made.rest()


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """A server that speaks S3, of this session."""
    needs_s3()
    server = S3Server()
    yield server
    server.kill()


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


@pytest.fixture
def with_catalog(catalog: Catalog, tmp_path: Path) -> Project:
    """Return a project whose catalog is of each kind in turn."""
    return Project(find_store(store=str(tmp_path / "here")), catalog=catalog)


@pytest.fixture
def with_blobs(blobs: BlobStore, tmp_path: Path) -> Iterator[Project]:
    """Yield a project whose objects and records are in each kind of store in turn."""
    made = Project(find_store(store=str(tmp_path / "there")))
    made.blobs = blobs
    yield made
    made.close()
