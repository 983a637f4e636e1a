"""Whether a store's catalog and its records tell the same, and the writing again of what no record tells any more.

They are compared by what is there, and of what both have by what it says; the records are right then.

A record is written before the catalog knows of it, and goes after the catalog has forgotten it; both happens while they
are compared. So it is looked twice, and in between, after a pause, the records that have come are read: what both looks
have found is no matter of time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from mlbench.backends.blobs_local.recording import UNSYNCED, identifier_in_names
from mlbench.core.errors import NotFound, StoreError
from mlbench.core.ids import Digest, ExecutionId, RunId, short
from mlbench.core.ports import BlobStore, Piece
from mlbench.core.records import ENDED, UNDER_WAY, Execution, Json, Run, Snapshot
from mlbench.project.care.difference import Other, what_differs
from mlbench.project.care.reading import Reading
from mlbench.runs.reachable import Survey, Use
from mlbench.runs.saying import said_by

if TYPE_CHECKING:
    from mlbench.project import Project

__all__ = ["Agreement", "Untold", "compare", "fetch", "is_told", "name_without_time", "snapshots_untold"]

PAUSE: Final = 1.0
"""Seconds between two looks, in which whoever has written a record tells the catalog."""

_PAGE: Final = 2000
_TOGETHER: Final = 1000
"""Items whose records are written again in one file."""

_SHOWN: Final = 3

T = TypeVar("T", Run, Execution)


@dataclass(frozen=True, slots=True)
class Untold:
    """What is known and no record tells: `name` is that of its record, without a time.

    `ids` are those of what the record is to tell. `write` writes it again, where somebody knows all of it.
    """

    name: str
    problem: str
    ids: frozenset[str]
    write: Callable[[], None] | None


@dataclass(slots=True)
class Agreement:
    """What no record tells, what the catalog lacks and says otherwise (a sentence each), and what is no damage."""

    untold: list[Untold] = field(default_factory=list)
    lacks: str | None = None
    differs: str | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Look:
    """What differs at a time; each execution with its run, its step and, of an item, the execution of the fan-out."""

    names: dict[RunId, str]
    untold_runs: set[RunId] = field(default_factory=set)
    untold: dict[ExecutionId, tuple[RunId, str, ExecutionId | None]] = field(default_factory=dict)
    lacking_runs: set[RunId] = field(default_factory=set)
    lacking: dict[ExecutionId, RunId] = field(default_factory=dict)
    other: dict[str, Other] = field(default_factory=dict)

    @property
    def differs(self) -> bool:
        return bool(self.untold_runs or self.untold or self.lacking_runs or self.lacking or self.other)

    def of(self, run: RunId) -> str:
        """Return what a run is called among people."""
        return f"run {short(run)} ({self.names[run]})" if run in self.names else f"run {short(run)}"


def compare(project: Project, reading: Reading) -> Agreement:
    """Compare the catalog with the records, both ways.

    Parameters
    ----------
    project
        The store, with a catalog that is whole.
    reading
        The records, with what they say.

    Raises
    ------
    StoreError
        If the catalog cannot be read.
    """
    survey, is_there = reading.survey, reading.is_there
    first = _look(project, survey)
    if not first.differs:
        return Agreement()
    time.sleep(PAUSE)
    reading.go_on()
    look = _look(project, survey)
    look.untold_runs &= first.untold_runs
    look.untold = {one: where for one, where in look.untold.items() if one in first.untold}
    look.lacking_runs = {run for run in look.lacking_runs & first.lacking_runs if is_there(run)}
    left = {run: is_there(run) for run in set(look.lacking.values())}
    look.lacking = {one: run for one, run in look.lacking.items() if one in first.lacking and left[run]}
    look.other = {one: other for one, other in look.other.items() if first.other.get(one) == other}
    notes = _without_what_others_freed(look, survey) if project.catalog_is_apart else []
    differs = what_differs(project, reading, look.other, look.of)
    return Agreement(list(_told(project, look)), _what_lacks(look), differs, notes)


def _look(project: Project, survey: Survey) -> _Look:
    project.catch_up(at_once=True)
    catalog = project.catalog
    look = _Look({run.id: run.name for run in survey.runs.values()})
    known: set[str] = set()
    open_runs: set[RunId] = set()
    for run in _pages(catalog.runs_by_id):
        known.add(run.id)
        look.names[run.id] = run.name
        if run.state in UNDER_WAY:
            open_runs.add(run.id)
        elif run.id not in survey.ended:
            look.untold_runs.add(run.id)
        else:
            _compare(look, survey, run, run.id)
    for one in _pages(catalog.executions_by_id):
        known.add(one.id)
        if one.state not in ENDED:
            continue
        if one.id not in survey.ran_in:
            look.untold[one.id] = one.run, one.step, one.part_of
        elif one.run not in open_runs:  # else what was recorded is about to be written
            _compare(look, survey, one, one.run)
    look.lacking_runs = {run for run in survey.runs if run not in known}
    # Of a run that is under way a record may be about to be taken over, by its service or by the next one.
    look.lacking = {
        ExecutionId(one): run
        for one, run in survey.ran_in.items()
        if one not in known and run not in open_runs and run not in look.lacking_runs
    }
    return look


def _compare(look: _Look, survey: Survey, one: Run | Execution, run: RunId) -> None:
    """Note if the catalog says something else of what has ended than its record."""
    told = survey.said.get(one.id)
    if told is not None and told != (says := hash(said_by(one))):
        step, whole = (one.step, one.part_of) if isinstance(one, Execution) else (None, None)
        look.other[one.id] = Other(run, step, whole, (told, says))


def _pages(page: Callable[..., list[T]]) -> Iterator[T]:
    found = page(limit=_PAGE)
    while found:
        yield from found
        found = page(limit=_PAGE, after=found[-1].id) if len(found) == _PAGE else []


def _without_what_others_freed(look: _Look, survey: Survey) -> list[str]:
    """Leave out the runs of which no record is left: others have a catalog of their own, and forget them in that."""
    told = set(survey.ran_in.values()) | survey.records.keys()
    freed = look.untold_runs - told
    look.untold_runs -= freed
    look.untold = {one: where for one, where in look.untold.items() if where[0] in told}
    if not freed:
        return []
    what = f"{_counted(len(freed), 'run')} of which the store has no record any more"
    return [f"The catalog of this machine still has {what}: `mlbench store reindex` forgets what others have freed."]


def _what_lacks(look: _Look) -> str | None:
    """Return what the records tell and the catalog does not, as a sentence."""
    said = []
    if look.lacking_runs:
        said.append(f"{_counted(len(look.lacking_runs), 'run')} ({_some(look, look.lacking_runs)})")
    if look.lacking:
        what = _counted(len(look.lacking), "step or item", "steps and items")
        said.append(f"{what} of {_some(look, look.lacking.values())}")
    return f"It lacks what records tell: {' and '.join(said)}." if said else None


def _some(look: _Look, runs: Any) -> str:
    them = sorted(set(runs))
    more = len(them) - _SHOWN
    return ", ".join(map(look.of, them[:_SHOWN])) + (f" and {more:,} more" if more > 0 else "")


# --- what no record tells ---------------------------------------------------------------------------------------------


def _told(project: Project, look: _Look) -> Iterator[Untold]:
    for run in sorted(look.untold_runs):
        problem = f"No record tells how {look.of(run)} ended, which the catalog knows."
        yield Untold(f"run-{run}", problem, frozenset([run]), partial(_write_run, project, run))
    items: dict[ExecutionId, list[ExecutionId]] = {}
    for one, (run, step, whole) in look.untold.items():
        if whole is not None:
            items.setdefault(whole, []).append(one)
            continue
        problem = f"No record tells how step {step} of {look.of(run)} ended, which the catalog knows."
        yield Untold(f"execution-{one}", problem, frozenset([one]), partial(_write_execution, project, one))
    for whole, them in items.items():
        run, step, _ = look.untold[them[0]]
        what = f"{_counted(len(them), 'item')} of step {step} of {look.of(run)}"
        problem = f"No record tells how {what} ended, which the catalog knows."
        yield Untold(f"executions-{whole}", problem, frozenset(them), partial(_write_items, project, whole, them))


def snapshots_untold(project: Project, survey: Survey) -> Iterator[Untold]:
    """Yield the snapshots that something was run from, and that no record says the content of."""
    for digest, users in survey.snapshots_untold().items():
        first = min(users, key=str)
        problem = f"No record tells what {_whose(survey, first)} was run from: the notebook and what it stood on."
        found = _snapshot(project, digest)
        write = partial(_append, project, "snapshot", digest, _plain(found)) if found is not None else None
        yield Untold(f"snapshot-{identifier_in_names(digest)}", problem, frozenset([digest]), write)


def name_without_time(name: str) -> str:
    """Return what the record of a name tells of: its kind and id; of some of a fan-out's items, that of the fan-out.

    Examples
    --------
    >>> name_without_time("2026/11/1795000000000000000-executions-x3k7.0")
    'executions-x3k7'
    """
    said = name.rpartition("/")[2].partition("-")[2].removesuffix(UNSYNCED)
    return said.partition(".")[0] if said.startswith("executions-") else said


def is_told(project: Project, survey: Survey, name: str) -> bool:
    """Say whether all that a damaged record can have told is told by others, or known to the catalog.

    Parameters
    ----------
    name
        That of the record, without a time.
    """
    kind, _, identifier = name.rpartition("-")
    match kind:
        case "run":
            return identifier in survey.runs
        case "execution":
            return identifier in survey.ran_in
        case "snapshot":
            return any(identifier_in_names(digest) == identifier for digest in survey.snapshots)
        case "executions":
            try:
                fanout = project.catalog.execution(identifier).fanout
                known = sum(project.catalog.count_items(ExecutionId(identifier)).values())
            except (NotFound, StoreError):
                return False
            return fanout is not None and fanout.total is not None and known >= fanout.total
        case _:
            return False


def fetch(blobs: BlobStore, untold: Untold, other: BlobStore, there: Iterable[Piece]) -> bool:
    """Take over from another store the records that tell what none tells here; say whether they tell all of it."""
    come: list[tuple[Piece, memoryview]] = []
    told: set[str] = set()
    for piece in there:
        try:
            record = other.read_record(piece)
            come.append((piece, other.read_piece(piece)))
        except (NotFound, StoreError):
            continue
        told.update(str(one.get("id")) for one in (record, *(record.get("executions") or ())))
    if not told >= untold.ids:
        return False
    blobs.write_pieces(come)
    return True


def _whose(survey: Survey, use: Use) -> str:
    if use.run is not None:
        return f"run {short(use.run)} ({survey.runs[use.run].name})"
    return f"{use.name} of job {survey.jobs.get(use.job or '', use.job or '?')}"


def _write_run(project: Project, run: RunId) -> None:
    project.record(project.catalog.run(run))


def _write_execution(project: Project, execution: ExecutionId) -> None:
    _append(project, "execution", execution, _plain(project.catalog.execution(execution)))


def _write_items(project: Project, whole: ExecutionId, items: Sequence[ExecutionId]) -> None:
    for begin in range(0, len(items), _TOGETHER):
        them = [_plain(project.catalog.execution(one)) for one in items[begin : begin + _TOGETHER]]
        _append(project, "executions", f"{whole}-again{begin}", {"executions": them})


def _snapshot(project: Project, digest: Digest) -> Snapshot | None:
    """Return a snapshot from the object that it is, or else from the catalog; None if neither has it."""
    from mlbench.runs.wire import msgspec

    with suppress(NotFound, StoreError, msgspec.MsgspecError):
        return msgspec.json.decode(project.blobs.get(digest), type=Snapshot)
    with suppress(NotFound, StoreError):
        return project.catalog.snapshot(digest)
    return None


def _append(project: Project, kind: str, identifier: str, record: Json) -> None:
    # Without a proof (see `mlbench.runs.signing`): a catalog does not say who wrote what is in it.
    project.blobs.append(kind, identifier, record, durable=True)


def _plain(record: Any) -> Json:
    from mlbench.runs.wire import msgspec

    plain: Json = msgspec.to_builtins(record)
    return plain


def _counted(count: int, word: str, words: str | None = None) -> str:
    return f"{count:,} {word}" if count == 1 else f"{count:,} {words or f'{word}s'}"
