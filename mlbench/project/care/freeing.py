"""What nobody needs is freed, and what is to be kept is said."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from mlbench.backends.owners import user_name
from mlbench.core.errors import ArtifactCorrupt, NotFound, StoreError
from mlbench.core.ids import Digest, RunId
from mlbench.core.ports import BlobStore, Piece
from mlbench.core.records import Json, Run
from mlbench.project.care.agreement import compare, snapshots_untold
from mlbench.project.care.reading import Reading, contents
from mlbench.runs.reachable import RunFacts, fate_of_pack
from mlbench.runs.retention import Rule, dropped, horizon

if TYPE_CHECKING:
    from mlbench.project import Project

__all__ = ["Plan", "free", "keep", "plan"]

_LOG = logging.getLogger(__name__)

_SHOWN: Final = 3
"""How many who need something are named before the rest is counted."""


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
    reading: Reading

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
        If a record or a list of artifacts cannot be read, or a record is missing: what it needs is not known.
    """
    now = time.time_ns() if now is None else now
    blobs = project.blobs
    reading = Reading(blobs, project.catalog)
    under_way = [run for run in reading.survey.under_way() if alive(run.owner)]
    until = horizon(now, under_way)
    reading.met = project.catalog.met_since(until)
    _refuse_missing(project, reading)
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
    reading: Reading, rules: Sequence[Rule], now: int, until: int, user: str | None
) -> tuple[frozenset[RunId], frozenset[RunId], set[Digest], list[Digest]]:
    """Return the runs that no rule keeps, those of them that go, what is needed then, and the snapshots that go."""
    _refuse_damaged(reading)
    survey = reading.survey
    unkept = dropped(survey.runs.values(), rules, survey.kept, now, survey.jobs, user=user)
    gone = survey.without_origins(unkept - reading.met)
    needed = _needed(reading, gone, until)
    return unkept, gone, needed, _unneeded_snapshots(reading, needed, until)


def _needed(reading: Reading, gone: Collection[RunId], until: int) -> set[Digest]:
    def inside(digest: Digest) -> Iterable[Digest]:
        try:
            return reading.inside(digest)
        except (ArtifactCorrupt, NotFound) as error:
            raise StoreError(
                "Nothing is freed while a list of artifacts is damaged or gone, since what it names is not known. It "
                f"is needed by {_some(reading.users_of(digest))}. {error.message}",
                "Make it again with `mlbench store verify --repair`, or, if that cannot, fetch it from a copy: "
                "`mlbench store verify --repair-from COPY`.",
            ) from error

    return reading.survey.needed(gone, inside, reading.met_since(until))


def _some(users: Collection[str]) -> str:
    them = sorted(users)
    if not them:
        return "what is being recorded"
    return ", ".join(them[:_SHOWN]) + (f" and {len(them) - _SHOWN:,} more" if len(them) > _SHOWN else "")


def _unneeded_snapshots(reading: Reading, needed: Collection[Digest], until: int) -> list[Digest]:
    return [
        digest
        for digest, names in reading.survey.snapshot_records.items()
        if digest not in needed and all(reading.pieces[name].time < until for name in names)
    ]


def _refuse_damaged(reading: Reading) -> None:
    for name, problem in reading.damaged.items():
        raise StoreError(
            f"Nothing is freed while a record cannot be read, since what it needs is not known: {name}. {problem}",
            "Write it again with `mlbench store verify --repair`, or, if that cannot, fetch it from a copy: "
            "`mlbench store verify --repair-from COPY`. Without one, remove that file.",
        )


def _refuse_missing(project: Project, reading: Reading) -> None:
    _refuse_damaged(reading)
    known = compare(project, reading).untold
    for one in (*known, *snapshots_untold(project, reading.survey)):
        if one.write is None:  # nobody knows what it was, and there is nothing to wait for
            continue
        raise StoreError(
            f"Nothing is freed while a record is missing, since what it needs is not known. {one.problem}",
            "Write it again with `mlbench store verify --repair`.",
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
        inside = contents(blobs, piece) if piece.kind == "pack" else {piece.name}
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
