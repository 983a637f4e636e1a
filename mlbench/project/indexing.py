"""The catalog, filled from the records of a store, and made anew if it is lost or damaged."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from mlbench.core.errors import NotFound, ScheduleError, StoreError
from mlbench.core.ids import Digest, JobId
from mlbench.core.ports import BlobStore, Catalog
from mlbench.core.records import Execution, Job, JobVersion, Json, Run, Snapshot
from mlbench.runs.saying import InOrder

if TYPE_CHECKING:
    from mlbench.project import Project

__all__ = ["fill_catalog", "index", "reindex"]

_LOG = logging.getLogger(__name__)

_BATCH: Final = 500


def reindex(project: Project) -> tuple[dict[str, str], bool]:
    """Make a store's catalog anew from its records, and put it into the place of the old one.

    Returns
    -------
    dict, bool
        The records that could not be read, with why; and whether what only a catalog knows, firings, was taken over
        from the old one.

    Raises
    ------
    StoreError
        If somebody has a catalog in SQLite open, or the server cannot be written. All is then as it was.
    """
    from mlbench.backends.catalog_sql import replace_catalog

    project.close()
    filling = _Filling(project.blobs)
    whole = replace_catalog(project.location.catalog_url, filling.go_on)
    return filling.damaged, whole


def fill_catalog(catalog: Catalog, blobs: BlobStore) -> dict[str, str]:
    """Fill a new catalog from a store's records; return those that cannot be read, with why."""
    filling = _Filling(blobs)
    filling.go_on(catalog)
    return filling.damaged


def index(catalog: Catalog, records: Iterable[tuple[str, Json]]) -> dict[str, str]:
    """Write records, in their order, to a catalog; jobs come last, and are due after what they have run for.

    Parameters
    ----------
    catalog
        Where to.
    records
        Each with its name.

    Returns
    -------
    dict
        The names of those that lack what a record of their kind has, with why: they are left out.
    """
    indexed = _Index()
    indexed.add(catalog, records)
    return indexed.damaged


class _Filling:
    """The records of a store on their way into a catalog, each once."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._seen: set[str] = set()
        self._index = _Index()
        self.damaged = self._index.damaged

    def go_on(self, catalog: Catalog) -> None:
        """Write the records that have come since the last time."""
        self._index.add(catalog, self._new_records())

    def _new_records(self) -> Iterator[tuple[str, Json]]:
        for piece in self._blobs.pieces("record"):
            if piece.name in self._seen:
                continue
            self._seen.add(piece.name)
            try:
                record = self._blobs.read_record(piece)
            except NotFound:
                continue
            except StoreError as error:
                self.damaged[piece.name] = str(error)
                _LOG.warning("%s", error)
            else:
                yield piece.name, record


class _Index:
    """What is known of jobs, which are written when all records have been read."""

    def __init__(self) -> None:
        self.damaged: dict[str, str] = {}
        self._jobs: dict[str, Job] = {}
        self._fired: dict[str, int] = {}
        self._order = InOrder()

    def add(self, catalog: Catalog, records: Iterable[tuple[str, Json]]) -> None:
        """Write further records, in their order."""
        from mlbench.runs.wire import msgspec

        found = _Batch()
        for name, record in records:
            try:
                self._take(record, found)
            except (msgspec.ValidationError, KeyError, TypeError, ValueError, AttributeError) as error:
                why = f"it has no {error}" if isinstance(error, KeyError) else str(error)
                self.damaged[name] = f"The record {name} cannot be used: {why}."
                _LOG.warning("%s", self.damaged[name])
            found.flush(catalog, _BATCH)
        found.flush(catalog)
        for job in self._jobs.values():
            if job.id in found.changed:
                catalog.put_job(_not_again(job, self._fired.get(job.id)))
        for job_id, version in found.versions:
            if job_id in self._jobs:
                catalog.put_job_version(job_id, version)

    def _take(self, record: Json, found: _Batch) -> None:
        """Sort one record in. Raise `ValueError`, `KeyError` or `TypeError` if it is not what its kind says."""
        from mlbench.runs.wire import check_numbers, msgspec

        check_numbers(record)
        match record["record"]:
            case "run":
                run = msgspec.convert(record, Run)
                found.runs.append(run)
                if run.job is not None and run.due is not None:
                    self._fired[run.job] = max(run.due, self._fired.get(run.job, 0))
                    found.changed.add(run.job)
            case "execution":
                found.executions += self._that_count([record])
            case "executions":
                found.executions += self._that_count(record["executions"])
            case "snapshot":
                found.snapshots.append((Digest(record["id"]), msgspec.convert(record, Snapshot)))
            case "job":
                self._jobs[record["id"]] = msgspec.convert(record, Job)
                found.changed.add(record["id"])
            case "job-version":
                found.versions.append((JobId(record["job"]), msgspec.convert(record, JobVersion)))

    def _that_count(self, records: Sequence[Json]) -> list[Execution]:
        from mlbench.runs.wire import msgspec

        return [msgspec.convert(one, Execution) for one in records if self._order.counts(one)]


@dataclass(slots=True)
class _Batch:
    """What is to be written to a catalog next."""

    runs: list[Run] = field(default_factory=list)
    executions: list[Execution] = field(default_factory=list)
    snapshots: list[tuple[Digest, Snapshot]] = field(default_factory=list)
    versions: list[tuple[JobId, JobVersion]] = field(default_factory=list)
    changed: set[str] = field(default_factory=set)

    def flush(self, catalog: Catalog, least: int = 1) -> None:
        """Write snapshots, and runs and executions where there are at least so many."""
        if len(self.runs) >= least:
            catalog.put_runs(self.runs)
            self.runs.clear()
        if len(self.executions) >= least:
            catalog.put_executions(self.executions)
            self.executions.clear()
        for digest, snapshot in self.snapshots:
            catalog.put_snapshot(digest, snapshot)
        self.snapshots.clear()


def _not_again(job: Job, fired: int | None) -> Job:
    """Return a job that is due after the last time that it ran for, not when its record was written."""
    from mlbench.delivery import schedule

    if job.cron is None or job.next_due is None or fired is None or fired < job.next_due:
        return job
    try:
        return replace(job, next_due=schedule.next_due(job.cron, job.timezone, fired), last_due=fired)
    except ScheduleError:
        return job
