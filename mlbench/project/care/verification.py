"""Whether all of a store is there and whole, and the repair of what is not."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from mlbench.core.errors import ArtifactCorrupt, NotFound, StoreError
from mlbench.core.ids import Digest
from mlbench.core.ports import BlobStore, Piece
from mlbench.core.urls import without_password
from mlbench.project.care.agreement import (
    Agreement,
    Untold,
    compare,
    fetch,
    is_told,
    name_without_time,
    snapshots_untold,
)
from mlbench.project.care.lists import can_be_made, make_again
from mlbench.project.care.reading import Reading, contents
from mlbench.runs.reachable import Use

if TYPE_CHECKING:
    from mlbench.project import Project

__all__ = ["Damage", "Verified", "verify"]

_LOG = logging.getLogger(__name__)

_REPAIR: Final = "`mlbench store verify --repair` writes it again from what is known elsewhere in the store."
_REMAKE: Final = "`mlbench store verify --repair` makes it again from what its items bound."
_REINDEX: Final = "`mlbench store reindex` makes it anew from the records."


@dataclass(slots=True)
class Damage:
    """Something that is damaged or missing: `pack` is the one that it lies in, `remedy` what to do, a sentence."""

    kind: Literal["object", "pack", "record", "catalog"]
    name: str
    problem: str
    needed_by: tuple[Use, ...] = ()
    pack: str | None = None
    missing: bool = False
    repaired: bool = False
    remedy: str | None = None


@dataclass(slots=True)
class Verified:
    """What was read, what was wrong, and what else is to be said."""

    objects: int = 0
    packs: int = 0
    records: int = 0
    bytes: int = 0
    damage: list[Damage] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Whether nothing is damaged, or all of it was repaired."""
        return all(one.repaired for one in self.damage)


def verify(project: Project, *, repair_from: Project | None = None, repair: bool = False) -> Verified:
    """Read every object, pack and record and the catalog, and look whether all that is needed and known is there.

    Parameters
    ----------
    project
        The store.
    repair_from
        A store from which what is damaged or missing here is fetched, where it has it whole.
    repair
        Whether records that are damaged or missing are written again from what the catalog knows, and lists of a
        fan-out's results from what its items bound.
    """
    blobs, found = project.blobs, Verified()
    reading = Reading(blobs, with_said=True)
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
        there |= contents(blobs, piece)
    needed = reading.survey.uses(reading.inside_or_nothing)
    for damage in found.damage:
        damage.needed_by = _in_order(needed.get(Digest(damage.name), ()))
    of_chunks = {chunk for chunks in reading.survey.chunked.values() for chunk in chunks}
    for digest, users in needed.items():
        if digest not in there and digest not in of_chunks:
            found.damage.append(Damage("object", digest, "It is not in the store.", _in_order(users), missing=True))
    found.damage += _without_chunks(reading.survey.chunked, needed, there)
    for damage in found.damage:
        if damage.kind == "object" and damage.name in reading.survey.lists:
            digest = Digest(damage.name)
            damage.remedy = _REMAKE if can_be_made(project, digest, damage.needed_by) else None
    untold = _compare(project, reading, found)
    if repair_from is not None:
        _repair(blobs, repair_from.blobs, found.damage, untold)
    if repair:
        _write_again(blobs, found.damage, untold)
        for damage in found.damage:
            if damage.remedy == _REMAKE and not damage.repaired:
                damage.repaired = make_again(project, Digest(damage.name), damage.needed_by)
    return found


def _compare(project: Project, reading: Reading, found: Verified) -> dict[str, Untold]:
    """Add what is wrong with the catalog, and what no record tells; return the latter by the names of the records."""
    agreed, place = Agreement(), without_password(project.location.catalog_url).removeprefix("sqlite:///")
    try:
        problem = project.catalog_problem(expected=bool(reading.pieces))
        if problem is not None:
            found.damage.append(Damage("catalog", place, problem, remedy=_REINDEX))
        else:
            agreed = compare(project, reading)
    except StoreError as error:
        found.damage.append(Damage("catalog", place, error.message, remedy=error.remedy))
    untold = {one.name: one for one in (*agreed.untold, *snapshots_untold(project, reading.survey))}
    for damage in found.damage:
        if damage.kind == "record" and damage.name in reading.damaged:
            name = name_without_time(damage.name)
            if (name in untold and untold[name].write) or is_told(project, reading.survey, name):
                damage.remedy = _REPAIR
    damaged = set(map(name_without_time, reading.damaged))
    found.damage += [
        Damage("record", name, one.problem, missing=True, remedy=_REPAIR if one.write else None)
        for name, one in untold.items()
        if name not in damaged
    ]
    first = "Once the records are repaired, " if untold else ""
    for problem in filter(None, (agreed.lacks, agreed.differs)):
        found.damage.append(Damage("catalog", place, problem, remedy=f"{first}{_REINDEX}"))
    found.notes += agreed.notes
    return untold


def _write_again(blobs: BlobStore, damage: Sequence[Damage], untold: Mapping[str, Untold]) -> None:
    """Write again what no record tells, and remove the damaged records that this, or other records, stand for."""
    written: set[str] = set()
    for one in damage:
        if one.remedy != _REPAIR or one.repaired:
            continue
        name = one.name if one.missing else name_without_time(one.name)
        try:
            if name in untold and name not in written and (write := untold[name].write) is not None:
                write()
                written.add(name)
            if not one.missing:
                blobs.free(Piece("record", one.name, 0, 0))
        except (NotFound, StoreError) as error:
            _LOG.warning("The record of %s cannot be written again: %s", name, error)
            continue
        one.repaired = True


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
    """Return who needs something, each once: a name that is both bound and logged is one, whatever kinds it has."""
    found = {(use.run, use.job, use.step, use.name or use.kind): use for use in sorted(users, key=_kind, reverse=True)}
    return tuple(sorted(found.values(), key=str))


def _kind(use: Use) -> str:
    return use.kind


def _repair(blobs: BlobStore, other: BlobStore, damage: Sequence[Damage], untold: Mapping[str, Untold]) -> None:
    come: set[str] = set()
    records = _records_by_name(other) if any(one.kind == "record" and one.missing for one in damage) else {}
    for one in damage:
        if one.kind == "catalog":
            continue
        if one.kind == "record" and one.missing:
            one.repaired = fetch(blobs, untold[one.name], other, records.get(one.name, ()))
            continue
        piece = Piece(one.kind, one.name, 0, 0)
        one.repaired = (one.missing and one.name in come) or _fetch(blobs, other, piece)
        if one.kind == "pack" and one.repaired:
            come |= contents(blobs, piece)
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


def _records_by_name(blobs: BlobStore) -> dict[str, list[Piece]]:
    found: dict[str, list[Piece]] = {}
    for piece in blobs.pieces("record"):
        found.setdefault(name_without_time(piece.name), []).append(piece)
    return found


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
