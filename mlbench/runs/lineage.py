"""Where a value comes from, and what was made from it.

A value is a name that an execution bound. Upwards: the execution that made it, what that was given, who made this, and
so on; downwards: who was given it, and what these made. An execution that was reused stands for the one that ran, and
an item of a fan-out was given what the whole was given; what it made goes on in the list that the whole made of it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final, Literal

from mlbench.core.errors import NotFound
from mlbench.core.ids import Digest, ExecutionId, RunId, short
from mlbench.core.ports import Catalog
from mlbench.core.records import Binding, Execution, FanOut, FileUse, Json, Read, Run, Snapshot, State
from mlbench.runs.key import digest_source
from mlbench.runs.wording import fanned, shortened, sized

__all__ = [
    "MOST_NODES",
    "Lineage",
    "LineageExecution",
    "LineageValue",
    "binds",
    "given",
    "lines",
    "moment",
    "origin_of",
    "trace",
    "value_of",
    "values_of",
]

MOST_NODES: Final = 10_000
"""How many values and executions are followed each way; where there are more, it is said."""

_LONGEST_CHAIN: Final = 100
_FILES: Final = 20
_TEXT: Final = 80
"""How many files of an execution are named in text, and how long what is said of a value is."""

How = Literal["name", "captured", "item", "file"]
_Key = tuple[ExecutionId, str]
"""A value: the execution that ran and bound it, and its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LineageValue:
    """A value, as an execution bound it or was given it.

    `execution` is the one that made it; `None` where nobody knows, since it was the kernel's. `how` it was given:
    by `name` from a step, `captured` from the kernel, as an `item` of a list, or as a `file` that a step above wrote.
    `text` is what its preview says in a line.
    """

    name: str
    digest: Digest | None = None
    execution: ExecutionId | None = None
    type: str | None = None
    size: int | None = None
    text: str | None = None
    how: How = "name"


@dataclass(frozen=True, slots=True, kw_only=True)
class LineageExecution:
    """An execution that ran, with what it was given and what it made.

    `code` is the digest of its source without comments and layout, `source` the text. `notebook` is the digest of the
    notebook in its run's snapshot, `path` where that lay, `commit` where it stood in git. `reused_in` are the runs,
    among those that were met, that took it over instead of running it again.
    """

    id: ExecutionId
    run: RunId
    step: str
    state: State
    item: int | None = None
    label: dict[str, str] = field(default_factory=dict)
    part_of: ExecutionId | None = None
    fanout: FanOut | None = None
    started: int | None = None
    ended: int | None = None
    code: str | None = None
    source: str | None = None
    path: str | None = None
    user: str | None = None
    snapshot: Digest | None = None
    notebook: Digest | None = None
    commit: str | None = None
    parameters: Json = field(default_factory=dict)
    files: tuple[FileUse, ...] = ()
    reads: tuple[LineageValue, ...] = ()
    binds: tuple[LineageValue, ...] = ()
    reused_in: tuple[RunId, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """What is known of values: `above` are the executions that led to them, their makers first, `below` who used them.

    `values` are those that were asked for, `cut` says that there is more than was followed.
    """

    values: tuple[LineageValue, ...]
    executions: tuple[LineageExecution, ...] = ()
    above: tuple[ExecutionId, ...] = ()
    below: tuple[ExecutionId, ...] = ()
    cut: bool = False


# --- what an execution says -------------------------------------------------------------------------------------------


def binds(execution: Execution) -> set[Digest]:
    """Return the digests of what an execution bound."""
    return {binding.artifact.digest for binding in execution.binds if binding.artifact is not None}


def given(execution: Execution) -> set[Digest]:
    """Return the digests of what an execution was given."""
    return {read.digest for read in execution.reads if read.digest is not None}


def moment(execution: Execution) -> int:
    """Return when an execution started, was queued or ended: the first that is known."""
    moments = (execution.started, execution.queued, execution.ended)
    return next((one for one in moments if one is not None), 0)


def value_of(execution: Execution, binding: Binding) -> LineageValue:
    """Return what an execution bound to a name, which must be stored, as a value."""
    artifact = binding.artifact
    assert artifact is not None
    text = artifact.preview.get("text")
    return LineageValue(
        name=binding.name,
        digest=artifact.digest,
        execution=execution.id,
        type=artifact.type,
        size=artifact.size,
        text=str(text) if text is not None else None,
    )


def origin_of(catalog: Catalog, execution: Execution) -> Execution:
    """Return the execution that ran: itself, or the one that it was reused from, as far as the catalog has it."""
    return _Walk(catalog, MOST_NODES).origins([execution.id], known=[execution])[execution.id]


def values_of(catalog: Catalog, digest: Digest, asked: Execution | None = None) -> tuple[LineageValue, ...]:
    """Return the values that are an artifact, one for each execution that ran and bound it, oldest first.

    Parameters
    ----------
    asked
        An execution that bound it or was given it: what it made, or was given, comes before equal values of others.

    Raises
    ------
    NotFound
        If none did.
    """
    walk = _Walk(catalog, MOST_NODES)
    makers = catalog.makers([digest], limit=MOST_NODES)
    if asked is not None:
        first = dict.fromkeys([asked.id, *_providers(asked.reads, {digest})])
        known = {asked.id: asked, **catalog.executions_named(first)}
        makers = [*(known[one] for one in first if one in known), *makers]
    origins = walk.origins([one.id for one in makers], known=makers)
    makers = [origins[one.id] if not one.binds else one for one in makers]  # whoever reused it need not name it again
    found: dict[_Key, LineageValue] = {}
    for maker in makers:
        origin = origins.get(maker.id, maker)
        for binding in maker.binds:
            if binding.artifact is not None and binding.artifact.digest == digest:
                found.setdefault((origin.id, binding.name), value_of(origin, binding))
    if not found:
        raise NotFound(
            f"No step has made the artifact {digest}.", "Name a value by its run: mlbench lineage RUN STEP NAME"
        )
    return tuple(found.values())


# --- the walk ---------------------------------------------------------------------------------------------------------


def trace(
    catalog: Catalog, values: Sequence[LineageValue], *, up: bool = True, down: bool = True, limit: int = MOST_NODES
) -> Lineage:
    """Follow values up to all that led to them, and down to all that came of them.

    Parameters
    ----------
    values
        As `values_of` returns them; the execution of each may be one that was reused.
    up, down
        Which ways are followed.
    limit
        How many values and executions are followed each way.
    """
    walk = _Walk(catalog, limit)
    origins = walk.origins([value.execution for value in values if value.execution is not None])
    values = [
        replace(value, execution=origins[value.execution].id) if value.execution in origins else value
        for value in values
        if value.execution is not None
    ]
    makers = [value.execution for value in values if value.execution is not None]
    walk.enter(makers)
    above = walk.up(makers) if up else []
    above_is_cut = walk.renew(limit)
    below = walk.down(values) if down else []
    return Lineage(
        values=tuple(values),
        executions=walk.executions(),
        above=tuple(above),
        below=tuple(below),
        cut=walk.cut or above_is_cut,
    )


class _Walk:
    """Goes through the catalog, a level at a time, so that a level costs a few questions."""

    def __init__(self, catalog: Catalog, limit: int) -> None:
        self.cut = False
        self._catalog = catalog
        self._left = limit
        self._known: dict[ExecutionId, Execution] = {}
        self._met: dict[ExecutionId, None] = {}
        self._reads: dict[ExecutionId, dict[tuple[How, str, ExecutionId | None], LineageValue]] = {}
        self._reused: dict[ExecutionId, dict[RunId, None]] = {}

    def origins(self, ids: Iterable[ExecutionId], *, known: Iterable[Execution] = ()) -> dict[ExecutionId, Execution]:
        """Return the execution that ran, for each of those that the catalog has."""
        self._known.update((one.id, one) for one in known)
        wanted = list(dict.fromkeys(ids))
        self._learn(wanted)
        last = {one: self._known[one] for one in wanted if one in self._known}
        for _ in range(_LONGEST_CHAIN):
            before = {one: found.reused_from for one, found in last.items() if found.reused_from is not None}
            self._learn(before.values())
            further = {one: self._known[origin] for one, origin in before.items() if origin in self._known}
            if not further:
                break
            last |= further
        for one, origin in last.items():
            if origin.id != one:
                self._reused.setdefault(origin.id, {})[self._known[one].run] = None
        return last

    def enter(self, ids: Iterable[ExecutionId]) -> list[ExecutionId]:
        """Take executions into the answer, as far as there is room; return those that were not in it yet."""
        entered = []
        for one in ids:
            if one in self._met or one not in self._known:
                continue
            cost = 1 + len(self._known[one].binds)
            if cost > self._left:
                self.cut = True
                break
            self._left -= cost
            self._met[one] = None
            entered.append(one)
        return entered

    def renew(self, limit: int) -> bool:
        """Make room for the other way; return whether there was too little for the one before."""
        was, self.cut, self._left = self.cut, False, limit
        return was

    def up(self, makers: Iterable[ExecutionId]) -> list[ExecutionId]:
        """Follow what executions were given; return all of them, nearest first."""
        above: dict[ExecutionId, None] = {}
        level = [one for one in dict.fromkeys(makers) if one in self._met]
        while level:
            above.update(dict.fromkeys(level))
            executions = [self._known[one] for one in level]
            self._learn([one.part_of for one in executions if one.part_of is not None])
            asked = {one.id: self._whole(one) for one in executions}
            wholes = list(asked.values())
            origins = self.origins(
                [parent for whole in wholes for parent in (*whole.parents, *_providers(whole.reads))]
            )
            reached: dict[ExecutionId, None] = {}
            for one in executions:
                for value in self._given(one, asked[one.id], origins):
                    self._note(one.id, value)
                    if value.execution is not None:
                        reached[value.execution] = None
            self.enter(reached)
            level = [one for one in reached if one in self._met and one not in above]
        return list(above)

    def down(self, values: Iterable[LineageValue]) -> list[ExecutionId]:
        """Follow who was given values; return them, nearest first."""
        below: dict[ExecutionId, None] = {}
        seen: set[_Key] = set()
        level = [value for value in values if value.execution is not None and value.digest is not None]
        while level and not self.cut:
            wanted: dict[_Key, LineageValue] = {}
            for value in level:
                if value.execution is not None and (value.execution, value.name) not in seen:
                    wanted[value.execution, value.name] = value
            seen.update(wanted)
            level = []
            for reader, value in [*self._readers(wanted), *self._collectors(wanted)]:
                self.enter([reader])
                if reader not in self._met:
                    continue
                self._note(reader, value)
                if reader not in below or value.how == "item":
                    below[reader] = None
                    level += self._made(reader, value)
        return list(below)

    def executions(self) -> tuple[LineageExecution, ...]:
        """Return all that was met, with what is known of its run."""
        runs: dict[RunId, tuple[Run | None, Snapshot | None]] = {}
        found = []
        for one in self._met:
            execution = self._known[one]
            if execution.run not in runs:
                runs[execution.run] = self._run(execution.run)
            found.append(self._described(execution, *runs[execution.run]))
        return tuple(found)

    # --- the steps of it ----------------------------------------------------------------------------------------------

    def _learn(self, ids: Iterable[ExecutionId]) -> None:
        lacking = [one for one in dict.fromkeys(ids) if one not in self._known]
        if lacking:
            self._known.update(self._catalog.executions_named(lacking))

    def _whole(self, execution: Execution) -> Execution:
        """Return who says what an execution was given: of an item, the fan-out."""
        if execution.part_of is None or execution.reads:
            return execution
        return self._known.get(execution.part_of, execution)

    def _given(
        self, execution: Execution, whole: Execution, origins: dict[ExecutionId, Execution]
    ) -> Iterator[LineageValue]:
        for read in whole.reads:
            origin = origins.get(read.execution) if read.execution is not None else None
            yield self._read(read, origin)
        named = _providers(whole.reads)
        paths = {use.path for use in (*execution.files, *whole.files) if use.mode == "r"}
        for parent in whole.parents:
            if parent in origins and parent not in named:
                for use in origins[parent].files:
                    if use.mode == "w" and use.path in paths:
                        yield LineageValue(name=use.path, execution=origins[parent].id, size=use.size, how="file")

    def _read(self, read: Read, origin: Execution | None) -> LineageValue:
        binding = _binding(origin, read.name) if origin is not None else None
        if origin is not None and binding is not None and binding.artifact is not None:
            return value_of(origin, binding)
        return LineageValue(
            name=read.name,
            digest=read.digest,
            execution=origin.id if origin is not None else None,
            type=read.type,
            size=read.size,
            how="captured" if read.execution is None else "name",
        )

    def _readers(self, wanted: dict[_Key, LineageValue]) -> Iterator[tuple[ExecutionId, LineageValue]]:
        digests = {value.digest for value in wanted.values() if value.digest is not None}
        readers = self._ask(self._catalog.readers, digests)
        providers = [one for reader in readers for one in _providers(reader.reads, digests)]
        origins = self.origins([*providers, *(one.id for one in readers)], known=readers)
        for reader in readers:
            for read in reader.reads:
                if read.execution is None or read.digest is None or read.execution not in origins:
                    continue
                value = wanted.get((origins[read.execution].id, read.name))
                if value is not None and value.digest == read.digest:
                    yield origins[reader.id].id, value

    def _collectors(self, wanted: dict[_Key, LineageValue]) -> Iterator[tuple[ExecutionId, LineageValue]]:
        """Yield the fan-outs whose lists hold values that items bound, in whichever run these were reused."""
        of_items = {
            key: value for key, value in wanted.items() if key[0] in self._known and self._known[key[0]].part_of
        }
        digests = {value.digest for value in of_items.values() if value.digest is not None}
        if not digests:
            return
        makers = [one for one in self._ask(self._catalog.makers, digests) if one.part_of is not None]
        origins = self.origins([one.id for one in makers], known=makers)
        self._learn([one.part_of for one in makers if one.part_of is not None])
        for maker in makers:
            whole = self._known.get(maker.part_of) if maker.part_of is not None else None
            for binding in maker.binds if whole is not None else ():
                value = of_items.get((origins[maker.id].id, binding.name))
                if whole is not None and value is not None and _binding(whole, binding.name) is not None:
                    yield whole.id, replace(value, how="item")

    def _ask(self, question: Callable[..., list[Execution]], digests: set[Digest]) -> list[Execution]:
        if not digests:
            return []
        most = self._left + 1
        found = question(sorted(digests), limit=most)
        if len(found) >= most:
            self.cut = True
        return found

    def _made(self, reader: ExecutionId, value: LineageValue) -> Iterator[LineageValue]:
        execution = self._known[reader]
        for binding in execution.binds:
            if binding.artifact is not None and (value.how != "item" or binding.name == value.name):
                yield value_of(execution, binding)

    def _note(self, reader: ExecutionId, value: LineageValue) -> None:
        self._reads.setdefault(reader, {}).setdefault((value.how, value.name, value.execution), value)

    def _run(self, run: RunId) -> tuple[Run | None, Snapshot | None]:
        try:
            found = self._catalog.run(run)
            return found, self._catalog.snapshot(found.snapshot) if found.snapshot is not None else None
        except NotFound:  # a store that was merged in part
            return None, None

    def _described(self, execution: Execution, run: Run | None, snapshot: Snapshot | None) -> LineageExecution:
        whole = self._whole(execution)
        source = execution.source or whole.source
        code = execution.key_parts.get("code") or whole.key_parts.get("code")
        return LineageExecution(
            id=execution.id,
            run=execution.run,
            step=execution.step,
            state=execution.state,
            item=execution.item,
            label=execution.label,
            part_of=execution.part_of,
            fanout=execution.fanout,
            started=execution.started,
            ended=execution.ended,
            code=code or (digest_source(source) if source is not None else None),
            source=source,
            path=run.notebook if run is not None else None,
            user=run.user if run is not None else None,
            snapshot=run.snapshot if run is not None else None,
            notebook=snapshot.notebook if snapshot is not None else None,
            commit=snapshot.git.commit if snapshot is not None and snapshot.git is not None else None,
            parameters=dict(run.parameters) if run is not None else {},
            files=execution.files,
            reads=tuple(self._reads.get(execution.id, {}).values()),
            binds=tuple(value_of(execution, one) for one in execution.binds if one.artifact is not None),
            reused_in=tuple(self._reused.get(execution.id, ())),
        )


def _providers(reads: Iterable[Read], digests: set[Digest] | None = None) -> list[ExecutionId]:
    return [one.execution for one in reads if one.execution and (digests is None or one.digest in digests)]


def _binding(execution: Execution, name: str) -> Binding | None:
    return next((one for one in execution.binds if one.name == name), None)


# --- as text ----------------------------------------------------------------------------------------------------------


def lines(lineage: Lineage) -> list[str]:
    """Return a lineage as indented text; what is met a second time is named and not told again."""
    known = {one.id: one for one in lineage.executions}
    found: list[str] = []
    for value in lineage.values:
        found.append(_value_line(value))
        if lineage.above:
            _tell_up(value, known, found)
        if lineage.below:
            _tell_down(value, known, lineage.below, found)
        elif not lineage.above:
            found.append("  nothing was made from it")
    if lineage.cut:
        found.append(f"… and more: no more than {MOST_NODES:,} values and executions are followed each way.")
    return found


def _tell_up(value: LineageValue, known: dict[ExecutionId, LineageExecution], found: list[str]) -> None:
    told: set[ExecutionId] = set()
    todo: list[tuple[LineageValue, int]] = [(value, 0)]
    while todo:
        one, level = todo.pop()
        if level:
            found.append(f"{'  ' * level}from {_value_line(one)}")
        if one.execution is None:
            continue
        maker = known.get(one.execution)
        below = "  " * (level + 1)
        if maker is None:
            found.append(f"{below}made by execution {short(one.execution)}, which was not followed")
            continue
        again = maker.id in told
        found.append(f"{below}made by {_execution_line(maker)}{' (told above)' if again else ''}")
        if not again:
            told.add(maker.id)
            found += [f"{below}  {line}" for line in _facts(maker)]
            todo += [(read, level + 2) for read in reversed(maker.reads) if read.how != "item"]


def _tell_down(
    value: LineageValue,
    known: dict[ExecutionId, LineageExecution],
    below: Collection[ExecutionId],
    found: list[str],
) -> None:
    readers: dict[_Key, list[tuple[LineageExecution, How]]] = {}
    for one in (known[one] for one in below if one in known):
        for read in one.reads:
            if read.execution is not None:
                readers.setdefault((read.execution, read.name), []).append((one, read.how))
    told: set[ExecutionId] = set()
    todo: list[tuple[LineageValue | str, int]] = [(value, 0)]
    while todo:
        entry, level = todo.pop()
        if isinstance(entry, str):
            found.append(f"{'  ' * level}{entry}")
            continue
        if level:
            found.append(f"{'  ' * level}made {_value_line(entry)}")
        if entry.execution is None:
            continue
        entries: list[tuple[LineageValue | str, int]] = []
        for reader, how in readers.get((entry.execution, entry.name), ()):
            again = reader.id in told
            verb = "collected by" if how == "item" else "read by"
            entries.append((f"{verb} {_execution_line(reader)}{' (told above)' if again else ''}", level + 1))
            if not again:
                told.add(reader.id)
                made = (bound for bound in reader.binds if how != "item" or bound.name == entry.name)
                entries += [(bound, level + 2) for bound in made]
        todo += reversed(entries)


def _value_line(value: LineageValue) -> str:
    digest = f"  {short(value.digest)}" if value.digest is not None else ""
    what = shortened(value.text or value.type or "", _TEXT)
    where = "  (a file)" if value.how == "file" else "  (from the kernel)" if value.how == "captured" else ""
    return f"{value.name}{digest}{f'  {what}' if what else ''}{where}"


def _execution_line(one: LineageExecution) -> str:
    item = "" if one.item is None else f"[{one.item}]"
    label = f" ({', '.join(f'{name}={text}' for name, text in one.label.items())})" if one.label else ""
    when = f" of {datetime.fromtimestamp(one.started / 1e9).astimezone():%d %b %Y %H:%M}" if one.started else ""
    many = f"  {fanned(one.fanout)}" if one.fanout is not None else ""
    reused = f", reused in {', '.join(short(run) for run in one.reused_in)}" if one.reused_in else ""
    state = "" if one.state in ("succeeded", "reused") else f", {one.state}"
    return f"{one.step}{item}{label}  run {short(one.run)}{when}{state}{many}{reused}"


def _facts(one: LineageExecution) -> Iterator[str]:
    code = f"code {one.code[:8]}" if one.code else ""
    notebook = f"notebook {one.path or '?'}{f' at {short(one.notebook)}' if one.notebook else ''}"
    commit = f"commit {one.commit[:8]}" if one.commit else ""
    yield "  ".join(filter(None, (code, notebook if one.path or one.notebook else "", commit)))
    if one.parameters:
        given = (f"{name}={shortened(repr(value), _TEXT)}" for name, value in one.parameters.items())
        yield f"parameters {'  '.join(given)}"
    files = [use for use in one.files if use.mode != "l"]
    for use in files[:_FILES]:
        size = f"  {sized(use.size)}" if use.size is not None else ""
        yield f"{'wrote' if use.mode == 'w' else 'read'} file {use.path}{size}"
    if len(files) > _FILES:
        yield f"and {len(files) - _FILES:,} more files"
