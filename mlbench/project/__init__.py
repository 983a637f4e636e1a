"""Puts a configuration's backends together; the use cases of a store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mlbench.backends.blobs_local import LocalBlobs
from mlbench.core.ids import Digest, NotebookId, RunId
from mlbench.core.ports import Catalog
from mlbench.core.records import Execution, Failure, Json, Metric, Reason, Run, RunKind, State
from mlbench.project.configuration import StoreLocation, find_store

__all__ = ["Project", "StoreLocation", "find_store"]


class Project:
    """A store with its use cases. The catalog is opened (and migrated) when it is first used."""

    location: StoreLocation
    blobs: LocalBlobs

    @classmethod
    def open(cls, store: str | None = None, notebook: str | None = None) -> Project:
        """Open the store that is configured, or the one named."""
        raise NotImplementedError

    @property
    def catalog(self) -> Catalog:
        raise NotImplementedError

    def begin_run(
        self,
        *,
        kind: RunKind,
        notebook: str | None = None,
        name: str | None = None,
        id: RunId | None = None,  # noqa: A002
        notebook_id: NotebookId | None = None,
        snapshot: Digest | None = None,
        parameters: Json | None = None,
        owner: str | None = None,
        **more: Any,
    ) -> Run:
        """Record that a run began (`state="running"`); `more` are further fields of `Run`."""
        raise NotImplementedError

    def end_run(
        self,
        run: Run,
        state: State,
        *,
        reason: Reason | None = None,
        failure: Failure | None = None,
        failed_step: str | None = None,
        output: Digest | None = None,
        metrics: Sequence[Metric] | None = None,
        **more: Any,
    ) -> Run:
        """Record a run's end, durably, and return it."""
        raise NotImplementedError

    def put_run(self, run: Run, *, durable: bool = False) -> None:
        """Write a run as it is: record and catalog."""
        raise NotImplementedError

    def put_execution(self, execution: Execution, *, recorded: bool = False) -> None:
        """Write an execution to the catalog, and its record if it has ended and is not `recorded` yet."""
        raise NotImplementedError

    def snapshot(
        self,
        notebook: Json,
        path: str | None = None,
        interpreter: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        *,
        cells: Sequence[str] = (),
        kernel_name: str | None = None,
        python: str | None = None,
        packages: Mapping[str, str] | None = None,
        environment: Sequence[str] = (),
    ) -> Digest:
        """Make and keep a snapshot of a notebook (nbformat's dict, outputs are dropped) and of what it stands on."""
        raise NotImplementedError

    def runs(self, **which: Any) -> Any:
        """Return runs as a DataFrame, newest first."""
        raise NotImplementedError

    def run(self, prefix: str) -> Any:
        """Return a run by its id or a unique prefix of it."""
        raise NotImplementedError

    def reconcile(self, alive: Callable[[str | None], bool]) -> list[Run]:
        """Say of every run and execution whose owner is dead what became of it; return the runs that changed."""
        raise NotImplementedError
