"""A catalog of one's own on a store that others use too, brought up to date from the records that they have written."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import platform
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

from mlbench.core.errors import NotFound, StoreError
from mlbench.core.ids import JobId
from mlbench.core.ports import Catalog, Piece
from mlbench.core.records import JobVersion, Json
from mlbench.project.indexing import index

if TYPE_CHECKING:
    from mlbench.core.ports import BlobStore

__all__ = ["catch_up"]

_LOG = logging.getLogger(__name__)

_MARGIN: Final = 3600 * 10**9
"""Nanoseconds by which a clock, or a write, may be late: records of this time are listed again each time."""

_DAY: Final = 86_400 * 10**9
_PATIENCE: Final = 10.0


@runtime_checkable
class _Listed(Protocol):
    """A store that lists its new records without listing all."""

    def records_since(self, since: int, /) -> Iterator[Piece]: ...


@dataclass(slots=True)
class _Seen:
    """What is in the catalog: all records until a time, these later ones, and so many of each month that is over."""

    until: int = 0
    whole: int = 0
    recent: list[str] = field(default_factory=list)
    months: dict[str, int] = field(default_factory=dict)


def catch_up(catalog: Catalog, blobs: BlobStore, folder: Path, *, anew: bool = False) -> int:
    """Index what has come since the last time; return how many records that were.

    Once a day the records of each month are counted: a month that has others than it had is read again.

    Parameters
    ----------
    catalog, blobs
        The catalog of this machine, and the store.
    folder
        Where it is noted what the catalog has.
    anew
        Whether the catalog is new, whatever is noted.
    """
    if not isinstance(blobs, _Listed):
        return 0
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _alone(folder / "caught-up.lock") as alone:
        if not alone:
            return 0  # somebody else is at it, for longer than anybody would like to wait
        file = folder / "caught-up.json"
        seen, now = _Seen() if anew else _read(file), time.time_ns()
        since = max(seen.until - _MARGIN, 0)
        if now - seen.whole > _DAY:
            wanted, months = _in_months(blobs, seen, since)
            seen.whole, seen.months = now, months
        else:
            wanted = blobs.records_since(since)
        known = set(seen.recent)
        found = _Found(catalog, blobs)
        index(catalog, found.records(piece for piece in wanted if piece.name not in known))
        found.put_versions()
        names = {*known, *found.indexed}
        seen.until = now
        seen.recent = sorted(name for name in names if _time(name) >= now - _MARGIN)
        _write(file, seen)
        return len(found.indexed)


class _Found:
    """Records that are new to a catalog; of this host's own jobs the catalog knows more than they do."""

    def __init__(self, catalog: Catalog, blobs: BlobStore) -> None:
        self.indexed: list[str] = []
        self._catalog = catalog
        self._blobs = blobs
        self._jobs = {job.id: job.host for job in catalog.jobs(deleted=True)}
        self._versions: list[tuple[str, Json]] = []

    def records(self, pieces: Iterable[Piece]) -> Iterator[tuple[str, Json]]:
        """Yield those that are to be indexed, with their names."""
        for piece in pieces:
            try:
                record = self._blobs.read_record(piece)
            except NotFound:
                continue
            except StoreError as error:
                _LOG.warning("%s", error)
                self.indexed.append(piece.name)
                continue
            if record["record"] == "job-version":
                self._versions.append((piece.name, record))
                continue
            self.indexed.append(piece.name)
            if record["record"] != "job" or self._jobs.get(JobId(str(record.get("id"))), "") != platform.node():
                yield piece.name, record

    def put_versions(self) -> None:
        """Index versions of jobs; one whose job is still to come is looked at again the next time."""
        from mlbench.runs.wire import msgspec

        there = {job.id for job in self._catalog.jobs(deleted=True)}
        for name, record in self._versions:
            if JobId(str(record.get("job"))) in there:
                try:
                    self._catalog.put_job_version(JobId(record["job"]), msgspec.convert(record, JobVersion))
                except msgspec.ValidationError as error:
                    _LOG.warning("The record %s cannot be used: %s.", name, error)
                self.indexed.append(name)


def _in_months(blobs: BlobStore, seen: _Seen, since: int) -> tuple[Iterator[Piece], dict[str, int]]:
    """Return what is to be read after all records were counted, and how many there are in the months that are over."""
    counts = Counter(piece.name[:7] for piece in blobs.pieces("record"))
    this, before = (time.strftime("%Y/%m", time.gmtime(moment // 10**9)) for moment in (since, since - 31 * _DAY))
    new = not seen.until
    known = {month: counts[month] for month in (this, before)} | seen.months  # these were followed as they went on
    other = {month for month, count in counts.items() if new or known.get(month) != count}
    wanted = (piece for piece in blobs.pieces("record") if piece.name[:7] in other or piece.time >= since)
    return wanted, {month: count for month, count in counts.items() if month < this or new}


def _time(name: str) -> int:
    return int(name.rpartition("/")[2][:19])


@contextmanager
def _alone(lock: Path) -> Iterator[bool]:
    file = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > until:
                    yield False
                    return
                time.sleep(0.05)
            else:
                yield True
                return
    finally:
        os.close(file)


def _read(file: Path) -> _Seen:
    try:
        return _Seen(**json.loads(file.read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return _Seen()  # all is indexed again, which changes nothing


def _write(file: Path, seen: _Seen) -> None:
    beside = file.with_name(f"{file.name}-{os.urandom(8).hex()}")
    beside.write_text(json.dumps(asdict(seen)), "utf-8")
    beside.replace(file)
