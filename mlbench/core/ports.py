"""Every port on one page: what the pure folders and the use cases ask of the world.

A port states its promises in prose; each has a contract suite under `tests/contracts/` that every implementation in
`mlbench.backends` passes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from mlbench.core.ids import Digest, ExecutionId, JobId, RunId
from mlbench.core.queries import Page, Place, Query, Signers, Sort, Space
from mlbench.core.records import Execution, Firing, Job, JobVersion, Json, Metric, Run, Snapshot, State

__all__ = ["BlobStore", "Catalog", "Clock", "Piece", "Stream", "WrittenItem"]


@dataclass(frozen=True, slots=True)
class Piece:
    """One file of a store, as whoever takes care of it sees it.

    `name` is the digest of an object or a pack, and of a record `<year>/<month>/<time>-<kind>-<id>`. `size` is in
    bytes, `time` the UTC nanoseconds of when it was written or, later, met again by somebody who needed it.
    """

    kind: Literal["object", "pack", "record"]
    name: str
    size: int
    time: int


class Clock(Protocol):
    """The time, passed in wherever a decision depends on it."""

    def now(self) -> int:
        """Return UTC nanoseconds."""
        ...


class Stream(Protocol):
    """Bytes that are read piece by piece: they lie in a file, or are scattered in memory."""

    @property
    def nbytes(self) -> int:
        """How many there are."""
        ...

    def read(self, offset: int, size: int, /) -> bytes | memoryview:
        """Return some of them. Raise `OSError` if they are not what they were any more."""
        ...


class BlobStore(Protocol):
    """Bytes kept under the digest of their content, and the folder of records beside them.

    Calls may come from several threads and processes at once. A write is atomic: a reader finds all the bytes or
    none, also after a power cut when `durable` was asked for. Nothing is ever overwritten with other bytes.
    """

    def put(self, data: bytes | memoryview, /, *, durable: bool = True) -> Digest:
        """Keep bytes and return their digest; keeping them again costs nothing."""
        ...

    def put_parts(self, digest: Digest, parts: Sequence[bytes | memoryview], /, *, durable: bool = True) -> None:
        """Keep the parts of an artifact one after the other, each page-aligned if large, under a digest given.

        The digest is that of the artifact's canonical manifest, which the caller has made from these very parts. A
        large artifact is kept in chunks, so that one that is like another costs what differs.
        """
        ...

    def put_value(self, codec: str, parts: Sequence[bytes | memoryview | Stream], /, *, durable: bool = True) -> Digest:
        """Keep the parts of an artifact that has no manifest yet, hashed while they are written; return its digest.

        It is that of `mlbench.runs.values.seal`, without the manifest among the parts. A stream is never held as a
        whole.
        """
        ...

    def put_all(
        self, artifacts: Sequence[tuple[Digest, Sequence[bytes | memoryview]]], /, *, durable: bool = True
    ) -> None:
        """Keep several artifacts, each as `put_parts` does; syncing them together costs about what one does."""
        ...

    def put_pack(
        self, artifacts: Sequence[tuple[Digest, Sequence[bytes | memoryview]]], /, *, durable: bool = True
    ) -> Digest | None:
        """Keep several small artifacts in one file, which is complete or absent, and return the file's digest.

        What is kept already need not be kept again; `None` if that is so of all. Each is found by its digest like any
        other, whichever way it was kept.
        """
        ...

    def packs_of(self, digests: Iterable[Digest], /) -> tuple[Digest, ...]:
        """Return the packs that artifacts lie in; those that lie in none, or are not kept, are left out."""
        ...

    def get(self, digest: Digest, /) -> bytes:
        """Return the bytes kept by `put`. Raise `NotFound` or `ArtifactCorrupt`."""
        ...

    def get_parts(self, digest: Digest, /) -> list[memoryview]:
        """Return the parts kept by `put_parts`; large ones are private memory maps; all can be written to."""
        ...

    def get_many(self, digests: Sequence[Digest], /, *, packs: Sequence[Digest] = ()) -> list[list[memoryview]]:
        """Return the parts of many artifacts, in the order asked for; thousands from packs take well under a second.

        `packs` says where to look first, and may be out of date. A digest that is named twice has parts of its own
        each time: changing one value never changes another. Raise `NotFound` or `ArtifactCorrupt`.
        """
        ...

    def has(self, digest: Digest, /) -> bool:
        """Say whether something is kept under a digest."""
        ...

    def append(self, kind: str, identifier: str, record: Json | bytes, /, *, durable: bool = True) -> None:
        """Add one immutable record to `records/<year>/<month>/`.

        `schema`, `record` (its kind: a run has a `kind` of its own), `id` and `time` are added, where it has no field
        of that name. One that is JSON already has none of these, and at least one other.
        """
        ...

    def records(self, kind: str | None = None, /) -> Iterator[Json]:
        """Yield the records, oldest first; of several with one kind and id the latest wins (the caller decides)."""
        ...

    def find_record(self, kind: str, identifier: str, /) -> Json | None:
        """Return the latest record of a kind and id written in this month or the one before, if there is one."""
        ...

    def records_of(self, kind: str, owners: Collection[str], since: int, /) -> Iterator[Piece]:
        """Yield the records of a kind whose ids are one of these, a hyphen and more, the oldest first.

        None that was written since a time (nanoseconds) is left out. Of all others no more than the names are read, and
        of those of earlier months not even these.
        """
        ...

    def chunked(self) -> Iterator[tuple[Digest, tuple[Digest, ...]]]:
        """Yield the artifacts that are kept in chunks, each with the digests of these: what keeps it must keep them.

        One that is damaged is left out: see `damaged`. Chunks are listed by `contents` and `pieces`, and read by `get`,
        as other bytes are.
        """
        ...

    def touch(self, digests: Iterable[Digest], /) -> bool:
        """Note that these are needed from now on, as keeping them again would; return False if one is not kept.

        Whoever is about to record that something kept long ago is needed calls it first: what was touched within a day
        is never freed (see `free`).
        """
        ...

    def verify(self, digest: Digest, /) -> None:
        """Read everything kept under a digest. Raise `NotFound`, or `ArtifactCorrupt` if a bit of it is wrong."""
        ...

    def set_aside(self, digest: Digest, /) -> None:
        """Take a damaged object out of the way, so that whoever makes it again can keep it."""
        ...

    def claim(self, name: str, /) -> bool:
        """Take a name of letters, digits and hyphens that nobody has; return False if somebody has it.

        Of several who ask at once, wherever they are, one has it: until `let_go`, or until `sweep` finds it old.
        """
        ...

    def let_go(self, name: str, /) -> None:
        """Give a name back, whoever has it; do nothing if nobody has."""
        ...

    def pieces(self, kind: Literal["object", "pack", "record"], /) -> Iterator[Piece]:
        """Yield the files of a kind, records the oldest first; what comes or goes meanwhile may be among them or not.

        What is no file of ours is passed over.
        """
        ...

    def contents(self, pack: Digest, /) -> dict[Digest, int]:
        """Return the sizes of what lies in a pack. Raise `NotFound`, or `ArtifactCorrupt` if its index is damaged."""
        ...

    def damaged(self, piece: Piece, /) -> dict[str, str]:
        """Read all of a file and return what is wrong in it: by digest or name a sentence; nothing if it is whole.

        Of a pack each damaged artifact is named, or the pack itself if its index is. One that is gone meanwhile is
        not damaged.
        """
        ...

    def read_piece(self, piece: Piece, /) -> memoryview:
        """Return a file's bytes. Raise `NotFound`, or `ArtifactCorrupt` if they are not what its name says."""
        ...

    def read_record(self, piece: Piece, /) -> Json:
        """Return the record in a file. Raise `NotFound`, or `StoreError` if it cannot be read."""
        ...

    def write_pieces(self, pieces: Sequence[tuple[Piece, bytes | memoryview]], /) -> None:
        """Keep files as `read_piece` of another store gave them, durably; damaged ones of their names are replaced.

        Raise `ArtifactCorrupt`, and keep nothing, if the bytes of one are not what its name says.
        """
        ...

    def repack(self, pack: Digest, keep: Collection[Digest], /) -> Digest | None:
        """Keep some artifacts of a pack in a pack of their own, durably, and return it; `None` if there are none.

        The pack itself stays. Raise `ArtifactCorrupt`, and keep nothing, if one of them is damaged.
        """
        ...

    def free(self, piece: Piece, /, *, before: int | None = None) -> bool:
        """Remove a file; return False, and leave it, if it is gone or its time is not before `before` (nanoseconds).

        With `before` this is safe beside writers: one that meets the file and needs it either refreshes its time
        before that is looked at for the last time, or finds it gone and writes it anew.
        """
        ...

    def settle(self) -> None:
        """Have the records that this store has removed so far stay away, even if the power is cut later.

        Whoever frees what they named calls it first: of what is removed, a cut may bring back any part.
        """
        ...

    def sweep(self, before: int, /, *, dry_run: bool = False) -> int:
        """Remove what killed writers left before a time (nanoseconds) unfinished; return how many bytes that frees."""
        ...


class WrittenItem(Protocol):
    """An item of a fan-out that has ended, whose record is JSON already (see `mlbench.runs.itemrecords`)."""

    @property
    def id(self) -> ExecutionId: ...
    @property
    def run(self) -> RunId: ...
    @property
    def step(self) -> str: ...
    @property
    def state(self) -> State: ...
    @property
    def part_of(self) -> ExecutionId: ...
    @property
    def item(self) -> int: ...
    @property
    def position(self) -> int | None: ...
    @property
    def attempt(self) -> int: ...
    @property
    def key(self) -> str | None: ...
    @property
    def queued(self) -> int | None: ...
    @property
    def started(self) -> int | None: ...
    @property
    def ended(self) -> int | None: ...
    @property
    def metrics(self) -> tuple[Metric, ...]: ...

    def record(self) -> Execution:
        """Return all of the record."""
        ...

    def texts(self) -> tuple[str, str | None]:
        """Return the record as JSON without its messages, and these as JSON, if there are any."""
        ...


class Catalog(Protocol):
    """The index of all records, and the only home of leases and firings.

    Calls may come from several threads and processes at once; each is one short transaction. A record that says an
    end is never replaced by one that says `queued` or `running`, with one exception: an interactive run that has ended
    is running again when its kernel hands it a further step. Lists are newest first.
    """

    def put_snapshot(self, digest: Digest, snapshot: Snapshot, /) -> None: ...
    def snapshot(self, digest: Digest, /) -> Snapshot: ...

    def put_run(self, run: Run, /) -> None: ...
    def put_runs(self, runs: Sequence[Run], /) -> None:
        """Keep runs, with their parameters, metrics and tags, one after the other: all of them or none."""
        ...

    def run(self, prefix: str, /) -> Run:
        """Return the run with this id or unique prefix of one. Raise `NotFound`, naming the fitting ones if several."""
        ...

    def runs(
        self,
        *,
        notebook: str | None = None,
        notebook_id: str | None = None,
        job: JobId | None = None,
        kernel: str | None = None,
        under_way: bool = False,
        limit: int = 50,
        before: tuple[int, str] | None = None,
    ) -> list[Run]:
        """Return a page of runs, newest first; `before` is the (started, id) of the last run of the page before.

        With a notebook's path and its id these are the runs with that id, and those of the path that have none.
        """
        ...

    def search(
        self,
        query: Query | None = None,
        /,
        *,
        sort: Sort | None = None,
        notebook: str | None = None,
        notebook_id: str | None = None,
        job: JobId | None = None,
        under_way: bool = False,
        limit: int = 50,
        after: Place | None = None,
    ) -> Page:
        """Return a page of the runs that a query is true of, newest first or as `sort` says.

        `mlbench.runs.search.fits` says what a query means, with the last value of each metric that the run or one of
        its steps has logged; the metrics of items are not among them. Numbers come before texts, which are in the order
        of their characters; what a run does not have, or what has no order, comes last either way, and of equals the
        newest comes first. `after` is the `next` of the page before: a run that is there all the time is on one page
        as long as what it is sorted by stays. A page sorted by a metric takes milliseconds, however many runs there
        are. Raise `UsageError` for a place that is none of this list.
        """
        ...

    def count_runs(
        self, query: Query | None = None, /, *, notebook: str | None = None, notebook_id: str | None = None
    ) -> int: ...

    def runs_by_id(self, *, after: str = "", limit: int = 1000) -> list[Run]:
        """Return a page of all runs in the order of their ids; `after` is that of the last one of the page before.

        Raise `StoreError` if what is kept of one cannot be read.
        """
        ...

    def names_in_use(self, space: Space, prefix: str = "", /, *, limit: int = 50) -> list[str]:
        """Return the names of parameters, metrics or tags of any run that begin so, in the order of their characters.

        The metrics of items are not among them.
        """
        ...

    def notebooks(self, notebook_id: str, /) -> dict[str, int]:
        """Return the paths under which a notebook's id was seen by runs and jobs, with the first time of each."""
        ...

    def metrics(self, runs: Sequence[RunId], /) -> dict[RunId, tuple[Metric, ...]]:
        """Return the metrics of runs and of their executions, oldest first; a run without any is left out.

        Those of items are not among them: see `item_metrics`.
        """
        ...

    def put_execution(self, execution: Execution, /) -> None: ...
    def put_executions(self, executions: Sequence[Execution], /) -> None:
        """Keep executions, with their metrics; thousands in a fraction of a second."""
        ...

    def put_items(self, items: Sequence[WrittenItem], /) -> None:
        """Keep items of fan-outs that have ended, as their records say: many more in the same time."""
        ...

    def execution(self, prefix: str, /) -> Execution: ...
    def executions(self, run: RunId, /) -> list[Execution]:
        """Return the executions of a run in the order of their cells, without their messages and without items.

        Of a step that was run again in it these are several: `mlbench.runs.series.last_of_each_step` chooses.
        """
        ...

    def executions_by_id(self, *, after: str = "", limit: int = 1000) -> list[Execution]:
        """Return a page of all executions, items among them, without their messages: see `runs_by_id`."""
        ...

    def items(
        self,
        execution: ExecutionId,
        /,
        *,
        states: Sequence[str] = (),
        logged: bool = False,
        limit: int = 200,
        after: int = -1,
    ) -> list[Execution]:
        """Return a page of a fan-out's items in the order of their numbers, without their messages.

        `states` chooses some, `logged` those that logged artifacts; `after` is the number of the last item of the page
        before.
        """
        ...

    def count_items(self, execution: ExecutionId, /) -> dict[str, int]:
        """Return how many items of a fan-out are in which state; states that none is in are left out."""
        ...

    def count_logged(self, execution: ExecutionId, /) -> int:
        """Return how many artifacts the items of a fan-out logged, all together."""
        ...

    def item_metrics(self, execution: ExecutionId, name: str, /) -> list[tuple[int, float]]:
        """Return the last value of a metric of each item that logged it, with the item's number, in their order."""
        ...

    def item_metric_names(self, execution: ExecutionId, /) -> list[str]:
        """Return the names of the metrics that the items of a fan-out logged, in the order of the first of each."""
        ...

    def by_keys(
        self, keys: Iterable[str], /, *, signers: Signers | None = None, limit: int = 1
    ) -> dict[str, list[Execution]]:
        """Return by key the executions that succeeded or were reused, newest first, without their messages.

        No more than `limit` of each key, and none that was signed by others than `signers`, if they are given: what
        others have made later does not stand before what one may have. A key that is not known is left out. Of
        thousands of keys it takes a fraction of a second.
        """
        ...

    def candidates(self, key: str, /, *, signers: Signers | None = None, limit: int = 10) -> list[Execution]:
        """Return the executions with a key that succeeded, newest first, without their messages.

        Those that others than `signers` have signed are not among them, if they are given.
        """
        ...

    def meet_runs(self, runs: Iterable[RunId], now: int, /) -> set[RunId]:
        """Note that these runs are needed, at a time (nanoseconds); return those that are there.

        Whoever reuses a step calls it first, and a service for as long as a kernel may load what they made: a run that
        was met is not forgotten by who asks for those met before that. The time may be up to an hour less.
        """
        ...

    def met_since(self, moment: int, /) -> set[RunId]:
        """Return the runs that were met at or after a time (nanoseconds)."""
        ...

    def delete_runs(self, runs: Sequence[RunId], /, *, met_before: int | None = None) -> set[RunId]:
        """Forget runs that have ended, with their executions and metrics; firings stay.

        Return those that stay too: what is under way, and with `met_before` what was met at or after that time. Others
        write meanwhile, however much it is. A run that is not there any more may be half forgotten, by who was killed:
        what is left of it goes.
        """
        ...

    def delete_snapshots(self, digests: Sequence[Digest], /) -> None:
        """Forget snapshots."""
        ...

    def under_way(self) -> list[Execution]:
        """Return all executions that are queued or running."""
        ...

    def executions_named(self, ids: Iterable[ExecutionId], /) -> dict[ExecutionId, Execution]:
        """Return the executions with these whole ids, without their messages; an id that is not known is left out."""
        ...

    def makers(self, digests: Iterable[Digest], /, *, limit: int = 1000) -> list[Execution]:
        """Return the executions that ended and bound one of these artifacts, without their messages, oldest first.

        Items and those that were reused are among them. No more than `limit` are returned.
        """
        ...

    def readers(self, digests: Iterable[Digest], /, *, limit: int = 1000) -> list[Execution]:
        """Return the executions that were given one of these artifacts, without their messages, oldest first.

        They are steps: what a fan-out is given, each of its items is. No more than `limit` are returned.
        """
        ...

    def put_job(self, job: Job, /) -> None: ...
    def job(self, prefix: str, /) -> Job:
        """Return the job with this id, unique prefix or name."""
        ...

    def jobs(self, *, deleted: bool = False) -> list[Job]: ...
    def put_job_version(self, job: JobId, version: JobVersion, /) -> None: ...
    def job_versions(self, job: JobId, /) -> list[JobVersion]: ...

    def due_jobs(self, now: int, /, *, host: str | None = None, limit: int = 100) -> list[Job]:
        """Return jobs that are not paused or deleted and whose `next_due` (UTC seconds) has come."""
        ...

    def fire(self, job: JobId, firings: Sequence[Firing], /, *, was_due: int, next_due: int | None) -> bool:
        """Insert firings and advance the job's schedule in one transaction.

        Return False, and change nothing, if another scheduler has advanced it since (`was_due` no longer holds). A
        firing that exists already is left alone.
        """
        ...

    def add_firing(self, firing: Firing, /) -> bool: ...

    def claim_firing(self, owner: str, now: int, /, *, jobs: Sequence[JobId] | None = None) -> Firing | None:
        """Take one queued firing, of these jobs if some are named: state `running`, a token greater by one.

        Return it, or None.
        """
        ...

    def end_firing(self, firing: Firing, /) -> bool:
        """Write a firing's end if its token still holds; return False for a stale holder, who must stop."""
        ...

    def attach_run(self, firing: Firing, run: RunId, /) -> bool:
        """Note the run of a claimed firing if its token still holds."""
        ...

    def firings(self, job: JobId | None = None, /, *, states: Sequence[str] = (), limit: int = 50) -> list[Firing]: ...

    def version(self) -> int:
        """Return a number that changes whenever any process has written; cheap enough to ask twice a second."""
        ...

    def close(self) -> None: ...
