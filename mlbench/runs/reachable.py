"""What the records of a store need of its objects, and whose they are.

Two questions, answered apart. What must be there (`uses`) is said field by field, so that damage and sizes are told by
run, step and name. What may not be freed (`Survey.needed`) is every text in a record that is a digest, whatever the
field: a record of a later version keeps what it names, and nothing that is needed is freed because somebody forgot it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from mlbench.core.ids import Digest, RunId
from mlbench.core.records import ENDED, UNDER_WAY, Json
from mlbench.runs.saying import InOrder, said_in
from mlbench.runs.values import NAMING

__all__ = ["By", "RunFacts", "Share", "Survey", "Usage", "Use", "fate_of_pack", "mentions", "usage", "uses"]

By = Literal["job", "run", "step", "name", "kind"]

_DIGEST: Final = re.compile(r"blake3:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Use:
    """Who needs an object: `name` is the name that was bound to it, `kind` what it is."""

    kind: str
    run: RunId | None = None
    step: str | None = None
    name: str | None = None
    job: str | None = None

    def __str__(self) -> str:
        where = [f"run {self.run[:8]}"] if self.run is not None else [f"job {self.job}"] if self.job else []
        where += [f"step {self.step}"] if self.step is not None else []
        return " ".join([*where, self.name if self.name is not None else self.kind])


@dataclass(slots=True)
class RunFacts:
    """What is decided by, of a run; `time` is when it ended, or else began, in UTC nanoseconds."""

    id: RunId
    name: str = "?"
    state: str | None = None
    job: str | None = None
    owner: str | None = None
    user: str | None = None
    started: int = 0
    time: int = 0
    tags: dict[str, str] = field(default_factory=dict)


def mentions(document: Any) -> Iterator[Digest]:
    """Yield every text of a JSON document that is a digest.

    Examples
    --------
    >>> digest = "blake3:" + "0" * 64
    >>> list(mentions({"a": [digest, "blake3:x"], "b": 1})) == [digest]
    True
    """
    if isinstance(document, str):
        if _DIGEST.fullmatch(document):
            yield Digest(document)
    elif isinstance(document, Mapping):
        for value in document.values():
            yield from mentions(value)
    elif isinstance(document, list | tuple):
        for value in document:
            yield from mentions(value)


def uses(record: Json) -> Iterator[tuple[Digest, Use]]:
    """Yield what must be in the store for a record to hold, and what for."""
    kind = record.get("record")
    if kind == "run":
        run = RunId(record["id"])
        yield from _snapshot_of(record)
        yield from _given(record.get("output"), Use("executed notebook", run))
        yield from _of_bindings(record, run, None)
    elif kind == "execution":
        yield from _of_execution(record)
    elif kind == "executions":
        for one in record.get("executions") or ():
            yield from _of_execution(one)
    elif kind == "job-version":
        yield from _snapshot_of(record)


def _snapshot_of(record: Json) -> Iterator[tuple[Digest, Use]]:
    """Yield what a run, or a version of a job, is run from."""
    if record["record"] == "run":
        use = Use("snapshot", RunId(record["id"]))
    else:
        use = Use("snapshot", job=str(record.get("job")), name=f"version {record.get('number')}")
    yield from _given(record.get("snapshot"), use)


def _of_execution(record: Json) -> Iterator[tuple[Digest, Use]]:
    run, step = RunId(record["run"]), record.get("step")
    yield from _of_bindings(record, run, step)
    yield from _given(record.get("log"), Use("log", run, step))
    yield from _given(record.get("random"), Use("random state", run, step))


def _of_bindings(record: Json, run: RunId, step: str | None) -> Iterator[tuple[Digest, Use]]:
    for binding in (*(record.get("binds") or ()), *(record.get("artifacts") or ())):
        artifact = binding.get("artifact")
        if artifact is not None:
            preview = artifact.get("preview") or {}
            kind = preview.get("kind") or artifact.get("type") or "value"
            use = Use(str(kind), run, step, binding.get("name"))
            yield from _given(artifact.get("digest"), use)
            yield from _given(preview.get("picture"), use)


def _of_snapshot(record: Json, use: Use) -> Iterator[tuple[Digest, Use]]:
    def part(kind: str, name: str | None = None) -> Use:
        return Use(kind, use.run, use.step, name or use.name, use.job)

    yield from _given(record.get("notebook"), part("notebook"))
    for path, digest in (record.get("modules") or {}).items():
        yield from _given(digest, part("module", path))
    yield from _given((record.get("git") or {}).get("difference"), part("git difference"))


def _given(digest: Any, use: Use) -> Iterator[tuple[Digest, Use]]:
    if isinstance(digest, str):
        yield Digest(digest), use


class Survey:
    """What the records of a store say, gathered record by record; all is decided from it.

    Records come in any order; of a run's the last one added decides.

    Parameters
    ----------
    with_uses, with_said
        Whether `uses` will be asked, and whether `said` is filled.

    Attributes
    ----------
    chunked
        The artifacts that are kept in chunks, each with these: whoever asks `needed` or `uses` fills it first.
    ran_in
        The run of each execution, items among them.
    ended
        The runs of which records say that they have: the catalog may have been a moment behind.
    said
        By the id of a run or of an execution that has ended a number that stands for what its record says: that is
        other for one that says something else (see `mlbench.runs.saying`).
    """

    def __init__(self, *, with_uses: bool = True, with_said: bool = False) -> None:
        self._with_uses = with_uses
        self._with_said = with_said
        self.runs: dict[RunId, RunFacts] = {}
        self.records: dict[RunId, list[str]] = {}
        self.snapshots: dict[Digest, Json] = {}
        self.snapshot_records: dict[Digest, list[str]] = {}
        self.jobs: dict[str, str] = {}
        self.lists: set[Digest] = set()
        self.chunked: dict[Digest, tuple[Digest, ...]] = {}
        self._keeps: dict[RunId, bool] = {}
        self.ran_in: dict[str, RunId] = {}
        self.ended: set[RunId] = set()
        self.said: dict[str, int] = {}
        self._order = InOrder()
        self._reused: dict[RunId, set[str]] = {}
        self._of_runs: dict[RunId, set[Digest]] = {}
        self._of_others: set[Digest] = set()
        self._uses: dict[Digest, set[Use]] = {}
        self._snapshots_of: dict[Digest, set[Use]] = {}

    def add(self, record: Json, name: str | None = None) -> None:
        """Take in a record that lies in the file `name`; without one it is known from the catalog alone."""
        kind = record.get("record")
        if self._with_uses:
            for digest, use in uses(record):
                self._uses.setdefault(digest, set()).add(use)
        if kind in {"run", "job-version"}:
            for digest, use in _snapshot_of(record):
                self._snapshots_of.setdefault(digest, set()).add(use)
        if kind == "run":
            self._add_run(RunId(record["id"]), record, name)
        elif kind == "execution":
            self._add_execution(record, name)
        elif kind == "executions":
            for one in record.get("executions") or ():
                self._add_execution(one, name)
        elif kind == "snapshot":
            digest = Digest(record["id"])
            self.snapshots[digest] = record
            self.snapshot_records.setdefault(digest, []).extend([name] if name else [])
        elif kind == "keep":
            run = RunId(record["run"])
            self._keeps[run] = bool(record["keep"])
            self.records.setdefault(run, []).extend([name] if name else [])
        else:
            if kind == "job":
                self.jobs[record["id"]] = str(record.get("name"))
            self._of_others.update(mentions(record))

    @property
    def kept(self) -> frozenset[RunId]:
        """The runs that somebody said are to be kept."""
        return frozenset(run for run, keep in self._keeps.items() if keep)

    def _add_run(self, run: RunId, record: Json, name: str | None) -> None:
        self._note(run, record, name)
        ended = name is not None and run in self.runs and self.runs[run].state in ENDED
        if ended and record.get("state") in UNDER_WAY and record.get("kind") != "interactive":
            return  # whoever wrote it had not heard of its end yet
        if name is not None:
            (self.ended.add if record.get("state") in ENDED else self.ended.discard)(run)
        if self._with_said and record.get("state") in ENDED:
            self.said[run] = hash(said_in(record))
        self.runs[run] = RunFacts(
            id=run,
            name=str(record.get("name")),
            state=record.get("state"),
            job=record.get("job"),
            owner=record.get("owner"),
            user=record.get("user"),
            started=record.get("started") or 0,
            time=record.get("ended") or record.get("started") or 0,
            tags={str(key): str(value) for key, value in (record.get("tags") or {}).items()},
        )

    def _add_execution(self, record: Json, name: str | None) -> None:
        self._note_lists(record)
        run, origin = RunId(record["run"]), record.get("reused_from")
        self.ran_in[str(record.get("id"))] = run
        if self._with_said and self._order.counts(record):
            self.said[str(record.get("id"))] = hash(said_in(record))
        if origin is not None:
            self._reused.setdefault(run, set()).add(origin)
        self._note(run, record, name)

    def _note_lists(self, record: Json) -> None:
        bindings = (*(record.get("binds") or ()), *(record.get("artifacts") or ()))
        artifacts = [binding.get("artifact") or {} for binding in bindings]
        self.lists.update(Digest(one["digest"]) for one in artifacts if one.get("codec") in NAMING)

    def _note(self, run: RunId, record: Json, name: str | None) -> None:
        self._of_runs.setdefault(run, set()).update(mentions(record))
        names = self.records.setdefault(run, [])
        if name is not None and (not names or names[-1] != name):
            names.append(name)

    def without_origins(self, runs: Collection[RunId]) -> frozenset[RunId]:
        """Return runs but for those whose steps others have reused: there it says how they ran, and what they said."""
        gone = set(runs)
        todo = [run for run in self._reused if run not in gone]
        while todo:
            for execution in self._reused.get(todo.pop(), ()):
                origin = self.ran_in.get(execution)
                if origin in gone:
                    gone.remove(origin)
                    todo.append(origin)
        return frozenset(gone)

    def needed(
        self,
        dropped: Collection[RunId],
        inside: Callable[[Digest], Iterable[Digest]],
        also: Iterable[Digest] = (),
    ) -> set[Digest]:
        """Return what may not be freed once some runs are dropped.

        Parameters
        ----------
        dropped
            The runs whose records go.
        inside
            What a list of artifacts names; asked for each that is needed.
        also
            What is needed though no record says so yet.
        """
        needed: set[Digest] = set()
        todo = self._of_others.union(also)
        for run, digests in self._of_runs.items():
            if run not in dropped:
                todo |= digests
        while todo:
            digest = todo.pop()
            if digest in needed:
                continue
            needed.add(digest)
            if digest in self.snapshots:
                todo.update(mentions(self.snapshots[digest]))
            if digest in self.lists:
                todo.update(inside(digest))
            needed.update(self.chunked.get(digest, ()))
        return needed

    def uses(self, inside: Callable[[Digest], Iterable[Digest]]) -> dict[Digest, set[Use]]:
        """Return who needs what: also the items of lists, and what snapshots are made of."""
        found = {digest: set(users) for digest, users in self._uses.items()}
        for digest in [one for one in self.lists if one in found]:
            for item in inside(digest):
                found.setdefault(item, set()).update(found[digest])
        for digest in [one for one in self.snapshots if one in found]:
            for use in tuple(found[digest]):
                for part, what in _of_snapshot(self.snapshots[digest], use):
                    found.setdefault(part, set()).add(what)
        for digest in [one for one in self.chunked if one in found]:
            for chunk in self.chunked[digest]:
                found.setdefault(chunk, set()).update(found[digest])
        return found

    def snapshots_untold(self) -> dict[Digest, set[Use]]:
        """Return the snapshots that runs and jobs name and no record tells the content of, with who names them."""
        return {digest: users for digest, users in self._snapshots_of.items() if digest not in self.snapshots}

    def under_way(self) -> list[RunFacts]:
        """Return the runs that have not ended, as far as the records say."""
        return [run for run in self.runs.values() if run.state in UNDER_WAY]


def fate_of_pack(contents: Mapping[Digest, int], needed: Collection[Digest]) -> Literal["keep", "free", "repack"]:
    """Return what becomes of a pack: it is made anew, with what is needed, when less than half of its bytes are.

    Examples
    --------
    >>> one, other = Digest("blake3:" + "0" * 64), Digest("blake3:" + "1" * 64)
    >>> [fate_of_pack({one: 10, other: 90}, them) for them in ([], [one], [other], [one, other])]
    ['free', 'repack', 'keep', 'keep']
    """
    wanted = sum(size for digest, size in contents.items() if digest in needed)
    if not any(digest in needed for digest in contents):
        return "free"
    return "repack" if 2 * wanted < sum(contents.values()) else "keep"


@dataclass(frozen=True, slots=True)
class Share:
    """What one group uses, in bytes: `own` is what nobody else uses, `shared` what others use too."""

    group: str
    objects: int
    own: int
    shared: int


@dataclass(frozen=True, slots=True)
class Usage:
    """What uses how much; `shared` and `unused` count each byte once, as `total` does."""

    shares: tuple[Share, ...]
    shared: int
    unused: int
    total: int


def usage(
    sizes: Mapping[Digest, int],
    needed_by: Mapping[Digest, Collection[Use]],
    group_of: Callable[[Use], str],
    needed: Collection[Digest] = (),
) -> Usage:
    """Return who uses how many bytes of a store, the greatest first.

    Parameters
    ----------
    sizes
        The size of each object.
    needed_by
        Who needs each.
    group_of
        The group that a use counts for.
    needed
        Further objects that are needed, though no group can be named: they count as shared.
    """
    objects: dict[str, int] = {}
    own: dict[str, int] = {}
    shared: dict[str, int] = {}
    in_common = unused = 0
    for digest, size in sizes.items():
        groups = {group_of(use) for use in needed_by.get(digest, ())}
        for group in groups:
            objects[group] = objects.get(group, 0) + 1
            bill = own if len(groups) == 1 else shared
            bill[group] = bill.get(group, 0) + size
        if len(groups) > 1 or (not groups and digest in needed):
            in_common += size
        elif not groups:
            unused += size
    shares = [Share(group, count, own.get(group, 0), shared.get(group, 0)) for group, count in objects.items()]
    shares.sort(key=lambda share: (-share.own - share.shared, share.group))
    return Usage(tuple(shares), in_common, unused, sum(sizes.values()))
