"""Every implementation of a port, fresh for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mlbench.backends.blobs_local import LocalBlobs
from mlbench.backends.catalog_sql import SqlCatalog
from mlbench.backends.memory import MemoryBlobs, MemoryCatalog
from mlbench.core.ports import BlobStore, Catalog


@pytest.fixture(params=["memory", "local"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    return MemoryBlobs() if request.param == "memory" else LocalBlobs(tmp_path / "store")


@pytest.fixture(params=["memory", "sqlite"])
def catalog(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Catalog]:
    made: Catalog = MemoryCatalog() if request.param == "memory" else SqlCatalog(f"sqlite:///{tmp_path}/catalog.sqlite")
    yield made
    made.close()
