"""Every implementation of a port, fresh for each test."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import make_url

from mlbench.backends.blobs_fsspec import FsspecBlobs
from mlbench.backends.blobs_local import LocalBlobs
from mlbench.backends.catalog_sql import SqlCatalog
from mlbench.backends.memory import MemoryBlobs, MemoryCatalog
from mlbench.core.ids import new_id
from mlbench.core.ports import BlobStore, Catalog
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
def new_database() -> Iterator[Callable[[], str]]:
    """Return a function that makes an empty catalog on a PostgreSQL server of this session and returns its URL."""
    pytest.importorskip("psycopg", reason="no driver of PostgreSQL is installed")
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)  # where Debian keeps them, off the path
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *map(str, folders)])
    programs = [shutil.which(name, path=path) for name in ("initdb", "pg_ctl")]
    if None in programs:
        pytest.skip("PostgreSQL is not installed: install it to have its catalog tested")
    initdb, pg_ctl = map(str, programs)
    owner = {"user": "postgres"} if os.geteuid() == 0 else {}  # it refuses to be run by root
    folder = Path(tempfile.mkdtemp(prefix="mlb"))
    if owner:
        shutil.chown(folder, "postgres")
    cluster = folder / "cluster"

    def do(*command: str) -> None:
        log = (folder / "out").open("ab")
        with log:
            subprocess.run(command, check=True, cwd=folder, stdout=log, stderr=log, timeout=60, **owner)  # type: ignore[call-overload]

    do(initdb, "-D", str(cluster), "-U", "mlbench", "-A", "trust", "-N", "-E", "UTF8", "--locale=C")
    options = f"-c listen_addresses= -c fsync=off -k {folder}"
    do(pg_ctl, "start", "-w", "-D", str(cluster), "-o", options, "-l", str(folder / "log"))
    try:
        template = _create_database(folder, "template1")
        SqlCatalog(template).close()
        yield lambda: _create_database(folder, make_url(template).database)
    finally:
        do(pg_ctl, "stop", "-w", "-m", "immediate", "-D", str(cluster))
        shutil.rmtree(folder)


def _create_database(socket: Path, template: str | None) -> str:
    import psycopg

    name = f"catalog_{new_id()}"
    with psycopg.connect(host=str(socket), user="mlbench", dbname="postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    return f"postgresql+psycopg://mlbench@/{name}?host={socket}"
