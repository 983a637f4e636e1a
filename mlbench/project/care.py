"""What keeps a store whole and small: check and repair it, free what nobody needs, say what uses how much.

All is decided from the records (`mlbench.runs.reachable`, `mlbench.runs.retention`); here they are read, and done is
what was decided. Nothing here loads a value.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from mlbench.backends.owners import user_name
from mlbench.core.errors import ArtifactCorrupt, NotFound, StoreError
from mlbench.core.ids import Digest, RunId, short
from mlbench.core.ports import BlobStore, Catalog, Piece
from mlbench.core.records import Json, Run
from mlbench.project.history import runs_under_way
from mlbench.runs.reachable import By, RunFacts, Survey, Usage, Use, fate_of_pack, usage
from mlbench.runs.retention import Rule, dropped, horizon

if TYPE_CHECKING:
    from mlbench.project import Project

__all__ = ["Damage", "Plan", "Verified", "free", "keep", "plan", "use", "verify"]

_LOG = logging.getLogger(__name__)


# --- reading the records ----------------------------------------------------------------------------------------------


class _Reading:
    """The records of a store, read once each; what cannot be read is told by name."""

    def __init__(self, blobs: BlobStore, catalog: Catalog | None = None) -> None:
        self._blobs = blobs
        self._catalog = catalog
        self.met: set[RunId] = set()
        self.survey = Survey(with_uses=catalog is None)
        self.damaged: dict[str, str] = {}
        self.pieces: dict[str, Piece] = {}
        self._lists: dict[Digest, tuple[Digest, ...]] = {}
        self.objects: list[Piece] = []
        self.go_on()

    def go_on(self) -> None:
        """Read what has come since, and what the catalog alone knows: what is queued and running."""
        from mlbench.runs.wire import msgspec

        for piece in self._blobs.pieces("record"):
            if piece.name in self.pieces:
                continue
            self.pieces[piece.name] = piece
            try:
                self.survey.add(self._blobs.read_record(piece), piece.name)
            except NotFound:
                continue
            except (StoreError, KeyError, TypeError, AttributeError) as error:  # a record that lacks what it must have
                self.damaged[piece.name] = str(error) if isinstance(error, StoreError) else f"It has no {error}."
        self.survey.chunked = dict(self._blobs.chunked())
        if self._catalog is None:
            return
        self.objects = list(self._blobs.pieces("object"))
        for run in runs_under_way(self._catalog):
            self.survey.add({"record": "run", **msgspec.to_builtins(run)})
        for execution in self._catalog.under_way():
            self.survey.add({"record": "execution", **msgspec.to_builtins(execution)})

    def met_since(self, moment: int) -> set[Digest]:
        """Return what names other objects and was met since a time: what it names may not go before it does."""
        named = self.survey.lists | self.survey.snapshots.keys() | self.survey.chunked.keys()
        return {Digest(one.name) for one in self.objects if one.time >= moment and one.name in named}

    def inside(self, digest: Digest) -> tuple[Digest, ...]:
        """Return what a list names. Raise `ArtifactCorrupt` if it is damaged, `NotFound` if it is gone."""
        from mlbench.runs.values import named_by

        if digest not in self._lists:
            self._lists[digest], _ = named_by(self._blobs.get_parts(digest))
        return self._lists[digest]

    def inside_or_nothing(self, digest: Digest) -> tuple[Digest, ...]:
        """Return what a list names as far as it can be read."""
        try:
            return self.inside(digest)
        except (NotFound, StoreError):
            return ()


# --- verify -----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Damage:
    """Something that is damaged or missing: `kind` is `object`, `pack` or `record`, `pack` the one that it lies in."""

    kind: Literal["object", "pack", "record"]
    name: str
    problem: str
    needed_by: tuple[Use, ...] = ()
    pack: str | None = None
    missing: bool = False
    repaired: bool = False


@dataclass(slots=True)
class Verified:
    """What was read, and what was wrong."""

    objects: int = 0
    packs: int = 0
    records: int = 0
    bytes: int = 0
    damage: list[Damage] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Whether nothing is damaged, or all of it was repaired."""
        return all(one.repaired for one in self.damage)


def verify(project: Project, *, repair_from: Project | None = None) -> Verified:
    """Read every object, pack and record, look whether all that is needed is there, and repair what another store has.

    Parameters
    ----------
    project
        The store.
    repair_from
        A store from which what is damaged or missing here is fetched, where it has it whole.
    """
    blobs, found = project.blobs, Verified()
    reading = _Reading(blobs)
    for name, problem in reading.damaged.items():
        found.damage.append(Damage("record", name, problem))
    for piece in reading.pieces.values():
        found.records, found.bytes = found.records + 1, found.bytes + piece.size
        if piece.name not in reading.damaged:
            found.damage += [Damage("record", name, problem) for name, problem in blobs.damaged(piece).items()]
    there: set[str] = set()
    for piece in blobs.pieces("object"):
        there.add(piece.name)
        found.objects, found.bytes = found.objects + 1, found.bytes + piece.size
        found.damage += [Damage("object", name, problem) for name, problem in blobs.damaged(piece).items()]
    for piece in blobs.pieces("pack"):
        found.packs, found.bytes = found.packs + 1, found.bytes + piece.size
        for name, problem in blobs.damaged(piece).items():
            found.damage.append(Damage("pack" if name == piece.name else "object", name, problem, pack=piece.name))
        there |= _contents(blobs, piece)
    needed = reading.survey.uses(reading.inside_or_nothing)
    for damage in found.damage:
        damage.needed_by = _in_order(needed.get(Digest(damage.name), ()))
    of_chunks = {chunk for chunks in reading.survey.chunked.values() for chunk in chunks}
    for digest, users in needed.items():
        if digest not in there and digest not in of_chunks:
            found.damage.append(Damage("object", digest, "It is not in the store.", _in_order(users), missing=True))
    found.damage += _without_chunks(reading.survey.chunked, needed, there)
    if repair_from is not None:
        _repair(blobs, repair_from.blobs, found.damage)
    return found


def _without_chunks(
    chunked: Mapping[Digest, Sequence[Digest]], needed: Mapping[Digest, Iterable[Use]], there: set[str]
) -> Iterable[Damage]:
    """Yield the artifacts that are needed and lack chunks: each once, however many those are."""
    for digest, chunks in chunked.items():
        gone = sum(chunk not in there for chunk in chunks)
        if gone and digest in needed:
            problem = f"{gone:,} of its {len(chunks):,} chunks are not in the store."
            yield Damage("object", digest, problem, _in_order(needed[digest]), missing=True)


def _in_order(users: Iterable[Use]) -> tuple[Use, ...]:
    return tuple(sorted(users, key=str))


def _contents(blobs: BlobStore, pack: Piece) -> set[str]:
    try:
        return set(blobs.contents(Digest(pack.name)))
    except (NotFound, ArtifactCorrupt):
        return set()


def _repair(blobs: BlobStore, other: BlobStore, damage: Sequence[Damage]) -> None:
    come: set[str] = set()
    for one in damage:
        piece = Piece(one.kind, one.name, 0, 0)
        one.repaired = (one.missing and one.name in come) or _fetch(blobs, other, piece)
        if one.kind == "pack" and one.repaired:
            come |= _contents(blobs, piece)
    in_packs = {one.pack: Digest(one.pack) for one in damage if one.pack is not None}
    for pack in in_packs.values():
        inside = [one for one in damage if one.pack == pack]
        index = next((one for one in inside if one.kind == "pack"), None)
        if index is None and all(one.repaired for one in inside):
            # What was damaged in it lies beside it now: the rest goes into a pack of its own.
            whole = set(blobs.contents(pack)) - {one.name for one in inside}
            blobs.repack(pack, whole)
            blobs.free(Piece("pack", pack, 0, 0))
        elif index is not None and not index.repaired:
            # Nobody knows what it held; if all that is needed is there, it is not missed.
            index.repaired = all(one.repaired for one in damage if one.kind == "object")
            if index.repaired:
                blobs.free(Piece("pack", pack, 0, 0))


def _fetch(blobs: BlobStore, other: BlobStore, piece: Piece) -> bool:
    """Take a file over from another store; return False if it has it not, or not whole."""
    from mlbench.runs.chunks import is_recipe

    data: bytes | memoryview | None
    try:
        data = other.read_piece(piece)
        if is_recipe(data):
            return _fetch_large(blobs, other, Digest(piece.name))
    except (NotFound, StoreError):
        data = _packed(other, Digest(piece.name)) if piece.kind == "object" else None
    if data is None:
        return False
    try:
        blobs.write_pieces([(piece, data)])
    except ArtifactCorrupt:
        return False
    return True


def _fetch_large(blobs: BlobStore, other: BlobStore, digest: Digest) -> bool:
    """Take over an artifact that is kept in chunks, as far as these are not here."""
    from mlbench.runs.values import read_manifest

    parts = other.get_parts(digest)
    return blobs.put_value(read_manifest(parts[0])[0], parts[1:]) == digest


def _packed(other: BlobStore, digest: Digest) -> bytes | None:
    """Return the bytes of an artifact that lies in a pack of another store, or of a chunk; None if it has it not."""
    from mlbench.runs.values import join

    with suppress(NotFound, StoreError):
        return join(other.get_parts(digest))
    with suppress(NotFound, StoreError):
        return other.get(digest)
    return None


# --- gc ---------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Plan:
    """What is to be freed: nothing of it has been touched yet.

    `bytes` counts all files that go, `leftovers` (bytes) what killed writers left half-written. `young` (bytes) is not
    needed either, and stays for now: it is younger than `horizon` (UTC nanoseconds), which `under_way` pushes back.
    `reused` are runs that no rule keeps, and that stay since runs that are kept have taken over what their steps made;
    `held` such that stay since somebody has met them since `horizon`: a kernel that may load what they made, above all.
    """

    now: int
    horizon: int
    runs: list[RunFacts]
    snapshots: list[Digest]
    objects: list[Piece]
    packs: list[Piece]
    repacked: list[Piece]
    bytes: int
    leftovers: int
    young: int
    under_way: list[RunFacts]
    reused: list[RunFacts]
    held: list[RunFacts]
    rules: tuple[Rule, ...]
    user: str | None
    reading: _Reading

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to free."""
        return not (self.runs or self.snapshots or self.objects or self.packs or self.repacked or self.leftovers)

    def as_json(self) -> Json:
        """Return it as plain JSON."""
        plain = {name: getattr(self, name) for name in ("horizon", "bytes", "leftovers", "young")}
        counts = {name: len(getattr(self, name)) for name in ("snapshots", "objects", "packs", "repacked")}
        runs = {name: [asdict(run) for run in getattr(self, name)] for name in ("runs", "under_way", "reused", "held")}
        return {**plain, **counts, **runs}


def plan(
    project: Project,
    rules: Sequence[Rule] = (),
    *,
    alive: Callable[[str | None], bool],
    now: int | None = None,
    user: str | None = None,
) -> Plan:
    """Decide what a store can do without; nothing is changed.

    Parameters
    ----------
    project
        The store.
    rules
        How long runs are kept; without any, for ever.
    alive
        Says whether the process that an owner text names still lives (`mlbench.backends.owners.is_alive`).
    now
        UTC nanoseconds.
    user
        Whose runs alone may go; None for everybody's.

    Raises
    ------
    StoreError
        If a record or a list of artifacts cannot be read: what it needs is not known.
    """
    now = time.time_ns() if now is None else now
    blobs = project.blobs
    reading = _Reading(blobs, project.catalog)
    under_way = [run for run in reading.survey.under_way() if alive(run.owner)]
    until = horizon(now, under_way)
    reading.met = project.catalog.met_since(until)
    unkept, gone, needed, snapshots = _mark(reading, rules, now, until, user)

    def in_order(runs: Iterable[RunId]) -> list[RunFacts]:
        return sorted((reading.survey.runs[run] for run in runs), key=lambda run: run.time)

    found = Plan(
        now=now,
        horizon=until,
        runs=in_order(gone),
        snapshots=snapshots,
        objects=[],
        packs=[],
        repacked=[],
        bytes=0,
        leftovers=blobs.sweep(until, dry_run=True),
        young=0,
        under_way=under_way,
        reused=in_order(unkept - gone - reading.met),
        held=in_order(unkept & reading.met),
        rules=tuple(rules),
        user=user,
        reading=reading,
    )
    names = [name for run in gone for name in reading.survey.records.get(run, ())]
    names += [name for one in snapshots for name in reading.survey.snapshot_records[one]]
    found.bytes = found.leftovers + sum(reading.pieces[name].size for name in names)
    for piece in reading.objects:
        if piece.name in needed:
            continue
        if piece.time < until:
            found.objects.append(piece)
            found.bytes += piece.size
        else:
            found.young += piece.size
    for piece in blobs.pieces("pack"):
        _judge_pack(blobs, piece, needed, found)
    return found


def _mark(
    reading: _Reading, rules: Sequence[Rule], now: int, until: int, user: str | None
) -> tuple[frozenset[RunId], frozenset[RunId], set[Digest], list[Digest]]:
    """Return the runs that no rule keeps, those of them that go, what is needed then, and the snapshots that go."""
    _refuse_damaged(reading)
    survey = reading.survey
    unkept = dropped(survey.runs.values(), rules, survey.kept, now, survey.jobs, user=user)
    gone = survey.without_origins(unkept - reading.met)
    needed = _needed(reading, gone, until)
    return unkept, gone, needed, _unneeded_snapshots(reading, needed, until)


def _needed(reading: _Reading, gone: Collection[RunId], until: int) -> set[Digest]:
    try:
        return reading.survey.needed(gone, reading.inside, reading.met_since(until))
    except (ArtifactCorrupt, NotFound) as error:
        raise StoreError(
            "Nothing is freed while a list of artifacts is damaged or gone, since what it names is not known. "
            f"{error.message}",
            "Repair it with `mlbench store verify --repair-from OTHER`.",
        ) from error


def _unneeded_snapshots(reading: _Reading, needed: Collection[Digest], until: int) -> list[Digest]:
    return [
        digest
        for digest, names in reading.survey.snapshot_records.items()
        if digest not in needed and all(reading.pieces[name].time < until for name in names)
    ]


def _refuse_damaged(reading: _Reading) -> None:
    for name, problem in reading.damaged.items():
        raise StoreError(
            f"Nothing is freed while a record cannot be read, since what it needs is not known: {name}. {problem}",
            "Restore or remove that file; `mlbench store verify` names all of them.",
        )


def _judge_pack(blobs: BlobStore, piece: Piece, needed: set[Digest], found: Plan) -> None:
    try:
        contents = blobs.contents(Digest(piece.name))
    except (NotFound, ArtifactCorrupt):
        return  # a damaged one is left to `verify`: nobody knows what it holds
    fate = fate_of_pack(contents, needed)
    spare = piece.size - sum(size for digest, size in contents.items() if digest in needed)
    if fate == "keep":
        return
    if piece.time >= found.horizon:
        found.young += spare
        return
    (found.packs if fate == "free" else found.repacked).append(piece)
    found.bytes += spare


def free(project: Project, decided: Plan) -> int:
    """Free what was decided, as far as nobody has come to need it since; return how many bytes that freed.

    Runs go from the catalog first, so that nobody finds and reuses what they made; those that somebody has met stay
    (`Catalog.meet_runs`). Then go their records, then, after the records that have come meanwhile were read too, the
    objects. Killed at any moment, it leaves a store that is whole,
    and goes on the next time.
    """
    blobs, reading, survey = project.blobs, decided.reading, decided.reading.survey
    blobs.sweep(decided.horizon)
    freed = decided.leftovers
    reading.go_on()
    gone = _mark(reading, decided.rules, decided.now, decided.horizon, decided.user)[1]
    gone &= {run.id for run in decided.runs}
    gone -= project.catalog.delete_runs(sorted(gone), met_before=decided.horizon)
    snapshots = _unneeded_snapshots(reading, _needed(reading, gone, decided.horizon), decided.horizon)
    spared = [digest for digest in snapshots if digest in set(decided.snapshots)]
    project.catalog.delete_snapshots(spared)
    names = {name for run in gone for name in survey.records.get(run, ())}
    # Last goes what says that a run has ended: by that, whoever goes on after a crash knows that it was to go.
    own = [max(ends) for run in gone if (ends := [name for name in survey.records.get(run, ()) if "-run-" in name])]
    own += [name for one in spared for name in survey.snapshot_records[one]]
    for some in sorted(names.difference(own)), own:
        for name in some:
            if blobs.free(reading.pieces[name]):
                freed += reading.pieces[name].size
        blobs.settle()
    # The second pass: whoever has reused something has said so since, or has met it and refreshed its time.
    reading.go_on()
    _refuse_damaged(reading)
    needed = _needed(reading, gone, decided.horizon)
    for piece in (*decided.objects, *decided.packs):
        inside = _contents(blobs, piece) if piece.kind == "pack" else {piece.name}
        if inside.isdisjoint(needed) and blobs.free(piece, before=decided.horizon):
            freed += piece.size
    for piece in decided.repacked:
        freed += _repack(blobs, piece, needed, decided.horizon)
    return freed


def _repack(blobs: BlobStore, piece: Piece, needed: set[Digest], until: int) -> int:
    pack = Digest(piece.name)
    try:
        contents = blobs.contents(pack)
        if fate_of_pack(contents, needed) == "keep":
            return 0
        blobs.repack(pack, needed)
    except NotFound:
        return 0
    except ArtifactCorrupt as error:
        _LOG.warning("The pack %s is left as it is: %s", pack, error)
        return 0
    if not blobs.free(piece, before=until):
        return 0
    return piece.size - sum(size for digest, size in contents.items() if digest in needed)


def keep(project: Project, prefix: str, *, kept: bool = True) -> Run:
    """Say that a run is to be kept whatever the rules say, or that they hold for it again; return the run."""
    run = project.catalog.run(prefix)
    project.blobs.append("keep", run.id, {"run": run.id, "keep": kept, "user": user_name()}, durable=True)
    return run


# --- du ---------------------------------------------------------------------------------------------------------------


def use(project: Project, by: By = "run") -> tuple[Usage, int]:
    """Return what uses how much of a store, and how many bytes its records have."""
    blobs = project.blobs
    reading = _Reading(blobs)
    survey = reading.survey
    sizes: dict[Digest, int] = {}
    spare = 0
    for piece in blobs.pieces("pack"):
        contents: Mapping[Digest, int] = {}
        try:
            contents = blobs.contents(Digest(piece.name))
        except (NotFound, ArtifactCorrupt):
            _LOG.warning("The pack %s is damaged: see `mlbench store verify`.", piece.name)
        rest = piece.size - sum(contents.values())
        for left, (digest, size) in zip(range(len(contents), 0, -1), contents.items(), strict=True):
            part = rest // left  # what a pack has beside them counts for those in it
            rest -= part
            sizes[digest] = sizes.get(digest, 0) + size + part
        spare += rest  # all of one whose contents nobody knows
    for piece in blobs.pieces("object"):
        digest = Digest(piece.name)
        sizes[digest] = sizes.get(digest, 0) + piece.size
    needed = survey.needed((), reading.inside_or_nothing)

    def group(one: Use) -> str:
        run = survey.runs.get(one.run) if one.run is not None else None
        job = one.job if one.job is not None else run.job if run is not None else None
        match by:
            case "job":
                return survey.jobs.get(job, job) if job is not None else "no job"
            case "run":
                if one.run is None:
                    return f"job {survey.jobs.get(job or '', job or '?')}"
                return f"{short(one.run)} {run.name}" if run is not None else short(one.run)
            case "step":
                return one.step or "no step"
            case "name":
                return f"{one.step}.{one.name}" if one.step and one.name else one.kind
            case "kind":
                return one.kind

    found = usage(sizes, survey.uses(reading.inside_or_nothing), group, needed)
    found = replace(found, shared=found.shared + spare, total=found.total + spare)
    return found, sum(piece.size for piece in reading.pieces.values())
