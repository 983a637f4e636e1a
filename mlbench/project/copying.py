"""A store copied into another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Final

from mlbench.core.errors import NotFound, StoreError
from mlbench.core.ids import JobId, short
from mlbench.core.ports import Piece
from mlbench.core.records import Job, JobVersion, Json
from mlbench.project.indexing import index

if TYPE_CHECKING:
    from mlbench.project import Project

__all__ = ["Copied", "copy"]

_TOGETHER: Final = 64
"""Files that are copied, and synced, together."""

_ENOUGH: Final = 64 << 20
"""Bytes that are copied together at most, but for a file that has more."""


@dataclass(slots=True)
class Copied:
    """How many files of each kind were copied and how many were there; what could not be, with why."""

    objects: int = 0
    packs: int = 0
    records: int = 0
    there: int = 0
    bytes: int = 0
    paused: list[str] = field(default_factory=list)
    damaged: dict[str, str] = field(default_factory=dict)


def copy(source: Project, target: Project, *, progress: Callable[[Copied], None] = lambda _: None) -> Copied:
    """Copy all of a store into another, which may hold other things or a part of these.

    Objects come before the packs, and both before the records that need them, so that a copy that breaks off is whole
    as far as it goes; the next one goes on there. Every file is read whole and checked on the way. A job with a
    schedule that is new there is paused: it would otherwise run in both.
    """
    done = Copied()
    known = {job.id for job in target.catalog.jobs(deleted=True)}
    new_jobs: dict[str, Job] = {}
    for kind in ("object", "pack", "record"):
        there = {piece.name: piece for piece in target.blobs.pieces(kind)}
        batch: list[tuple[Piece, memoryview]] = []
        size = 0
        for piece in source.blobs.pieces(kind):
            here = there.get(piece.name)
            if here is not None and (here.size == piece.size or not target.blobs.damaged(here)):
                done.there += 1
                continue
            try:
                data = source.blobs.read_piece(piece)
            except NotFound:
                continue  # it was freed meanwhile
            except StoreError as error:
                done.damaged[piece.name] = error.message
                continue
            batch.append((piece, data))
            size += data.nbytes
            if len(batch) >= _TOGETHER or size >= _ENOUGH:
                _write(source, target, batch, done, new_jobs)
                progress(done)
                batch, size = [], 0
        _write(source, target, batch, done, new_jobs)
        progress(done)
    for job in new_jobs.values():
        if job.id not in known and job.cron is not None and not job.paused and not job.deleted:
            paused = replace(job, paused=True)
            target.blobs.append("job", job.id, asdict(paused), durable=True)
            target.catalog.put_job(paused)
            done.paused.append(job.name)
    return done


def _write(
    source: Project,
    target: Project,
    batch: Sequence[tuple[Piece, memoryview]],
    done: Copied,
    new_jobs: dict[str, Job],
) -> None:
    if not batch:
        return
    kind = batch[0][0].kind
    if kind == "record":
        # The catalog first: a record that is there already is not indexed again by a copy that goes on.
        damaged = _merge(target, [(piece.name, source.blobs.read_record(piece)) for piece, _ in batch], new_jobs)
        done.damaged |= damaged
        batch = [(piece, data) for piece, data in batch if piece.name not in damaged]
    target.blobs.write_pieces(batch)
    done.bytes += sum(data.nbytes for _, data in batch)
    match kind:
        case "object":
            done.objects += len(batch)
        case "pack":
            done.packs += len(batch)
        case "record":
            done.records += len(batch)


def _merge(target: Project, records: Sequence[tuple[str, Json]], new_jobs: dict[str, Job]) -> dict[str, str]:
    """Index records of another store, and return those that cannot be used.

    Jobs that are here stay as they are; others come paused until all is there.
    """
    from mlbench.runs.wire import msgspec

    damaged = index(target.catalog, [one for one in records if one[1]["record"] not in {"job", "job-version"}])
    here = {job.id for job in target.catalog.jobs(deleted=True)}
    for name, record in sorted(records, key=lambda one: one[1]["record"] != "job"):
        try:
            if record["record"] == "job" and (record["id"] not in here or record["id"] in new_jobs):
                job = msgspec.convert(record, Job)
                new_jobs[job.id] = job
                target.catalog.put_job(replace(job, paused=True))
                here.add(job.id)
            elif record["record"] == "job-version":
                _merge_version(target, JobId(record["job"]), msgspec.convert(record, JobVersion), here, new_jobs)
        except (msgspec.ValidationError, KeyError) as error:
            why = f"it has no {error}" if isinstance(error, KeyError) else str(error)
            damaged[name] = f"The record {name} cannot be used: {why}."
    return damaged


def _merge_version(
    target: Project, job_id: JobId, version: JobVersion, here: set[JobId], new_jobs: dict[str, Job]
) -> None:
    if job_id not in here:  # its job's record comes after it
        job = Job(id=job_id, name=short(job_id), notebook="", version=version, paused=True)
        target.catalog.put_job(job)
        new_jobs[job_id] = job
        here.add(job_id)
    target.catalog.put_job_version(job_id, version)
