"""The catalog, filled from the records of a store, and made anew if it is lost or damaged."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from mlbench.core.errors import NotFound, ScheduleError, StoreError
from mlbench.core.ids import Digest, JobId
from mlbench.core.ports import BlobStore, Catalog
from mlbench.core.records import Execution, Job, JobVersion, Json, Run, Snapshot

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
        If somebody has the catalog open.
    """
    from mlbench.backends.catalog_sql import replace_catalog

    project.close()
    damaged: dict[str, str] = {}
    whole = replace_catalog(project.location.catalog_url, lambda new: damaged.update(fill_catalog(new, project.blobs)))
    return damaged, whole


def fill_catalog(catalog: Catalog, blobs: BlobStore) -> dict[str, str]:
    """Fill a new catalog from a store's records; return those that cannot be read, with why."""
    damaged: dict[str, str] = {}

    def records() -> Iterator[Json]:
        for piece in blobs.pieces("record"):
            try:
                yield blobs.read_record(piece)
            except NotFound:
                continue
            except StoreError as error:
                damaged[piece.name] = str(error)
                _LOG.warning("%s", error)

    index(catalog, records())
    return damaged


def index(catalog: Catalog, records: Iterable[Json]) -> None:
    """Write records, in their order, to a catalog; jobs come last, and are due after what they have run for."""
    from mlbench.runs.wire import msgspec

    jobs: dict[str, Job] = {}
    fired: dict[str, int] = {}
    versions: list[tuple[JobId, JobVersion]] = []
    runs: list[Run] = []
    executions: list[Execution] = []

    def flush(least: int = 1) -> None:
        if len(runs) >= least:
            catalog.put_runs(runs)
            runs.clear()
        if len(executions) >= least:
            catalog.put_executions(executions)
            executions.clear()

    for record in records:
        match record["record"]:
            case "run":
                run = msgspec.convert(record, Run)
                runs.append(run)
                if run.job is not None and run.due is not None:
                    fired[run.job] = max(run.due, fired.get(run.job, 0))
            case "execution":
                executions.append(msgspec.convert(record, Execution))
            case "executions":
                executions.extend(msgspec.convert(one, Execution) for one in record["executions"])
            case "snapshot":
                catalog.put_snapshot(Digest(record["id"]), msgspec.convert(record, Snapshot))
            case "job":
                jobs[record["id"]] = msgspec.convert(record, Job)
            case "job-version":
                versions.append((JobId(record["job"]), msgspec.convert(record, JobVersion)))
        flush(_BATCH)
    flush()
    for job in jobs.values():
        catalog.put_job(_not_again(job, fired.get(job.id)))
    for job_id, version in versions:
        if job_id in jobs:
            catalog.put_job_version(job_id, version)


def _not_again(job: Job, fired: int | None) -> Job:
    """Return a job that is due after the last time that it ran for, not when its record was written."""
    from mlbench.delivery import schedule

    if job.cron is None or job.next_due is None or fired is None or fired < job.next_due:
        return job
    try:
        return replace(job, next_due=schedule.next_due(job.cron, job.timezone, fired), last_due=fired)
    except ScheduleError:
        return job
