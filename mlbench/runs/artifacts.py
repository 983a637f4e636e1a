"""Names of a namespace as artifacts, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mlbench.core.ports import BlobStore
from mlbench.core.records import Binding, Json


def save_names(namespace: Mapping[str, Any], names: Iterable[str], blobs: BlobStore, *, durable: bool = True) -> list[Binding]:
    """Store the values of names and return their bindings, in the order given; never raises for a value."""
    raise NotImplementedError


def remedy(value: Any, error: BaseException | None = None) -> str:
    """Say in one sentence why a value can't be stored or sent, and what to do instead."""
    raise NotImplementedError


class Loader:
    """Values of bindings. Names that share objects share them again when one loader loads both."""

    def __init__(self, blobs: BlobStore, namespace: Mapping[str, Any] | None = None) -> None:
        self._blobs = blobs
        self._namespace = namespace

    def load(self, binding: Binding | Json, /) -> Any:
        """Return the value. Raise `ResultError` for one that has none, `NotFound`, `ArtifactCorrupt`."""
        raise NotImplementedError
