"""What differs between two runs, in the order in which it matters.

What was written comes first (cells, the modules beside the notebook), then what was given (parameters), what was made
of it (data, by step), what it stood on (the environment), and what came out (metrics, the outcome, the items of
fan-outs). All of it is read from records and previews; nothing is loaded here (see `mlbench.runs.diff_values`).
"""

from __future__ import annotations

import difflib
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from mlbench.core.errors import UsageError
from mlbench.core.ids import Digest, ExecutionId, RunId
from mlbench.core.records import Binding, Execution, Json, Metric, Run, Snapshot
from mlbench.notebook.step import StepCell, parse
from mlbench.runs.diff_values import preview_changes, short_text, text_of

__all__ = [
    "MOST_ITEMS",
    "CodeChange",
    "DataChange",
    "Difference",
    "EnvironmentChange",
    "FanOutChange",
    "ItemChange",
    "MetricChange",
    "NotebookCell",
    "OutcomeChange",
    "ParameterChange",
    "Side",
    "as_run",
    "compare",
    "notebook_cells",
]

MOST_ITEMS: Final = 1_000
"""How many items that differ are named; all are counted."""

_ALIKE: Final = 0.7
"""From this share of equal text on, a cell without a partner is taken for another one's next version, as by nbdime."""
_MOST_PAIRS: Final = 2_500
"""How many pairs of such cells are compared at most."""
_WORD: Final = re.compile(r"\w+|[^\w\s]")
_ANSI: Final = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")

How = Literal["added", "removed", "changed", "moved"]
Load = Callable[[Binding, Binding], Sequence[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeChange:
    """A cell or a module that differs; `diff` are the lines of a unified difference, without its head.

    `name` is the step that the cell is, the module's path, or the number of the cell, counted from 1, as `cell 3`.
    """

    what: Literal["cell", "module"]
    change: How
    name: str
    cell: str | None = None
    type: str = "code"
    diff: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterChange:
    """A parameter that was given another value, or in one of the runs only."""

    name: str
    change: How
    before: Any = None
    after: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DataChange:
    """A name that a step bound to something else; `details` say where the values first differ, as far as is known.

    The executions are those of the two runs: others may have made equal values, before or since.
    """

    step: str
    name: str
    change: How
    before: Digest | None = None
    after: Digest | None = None
    before_execution: ExecutionId | None = None
    after_execution: ExecutionId | None = None
    details: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentChange:
    """A part of what the runs stood on: `python`, `package numpy`, `commit`, `variable TZ`, `kernel`."""

    part: str
    change: How
    before: str | None = None
    after: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricChange:
    """A metric whose last value differs; `step` is None for one that the run itself logged."""

    name: str
    change: How
    step: str | None = None
    before: float | None = None
    after: float | None = None
    difference: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeChange:
    """What became of the run, or of one of its steps: a state, with the reason and the error where there is one."""

    step: str | None = None
    before: str | None = None
    after: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemChange:
    """An item of a fan-out that differs: `names` are those that it bound to something else."""

    label: dict[str, str]
    before: str | None = None
    after: str | None = None
    names: tuple[str, ...] = ()
    metrics: tuple[MetricChange, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FanOutChange:
    """The items of a step that differ, the first of them by name; `added` and `removed` are in one run only."""

    step: str
    differing: int = 0
    added: int = 0
    removed: int = 0
    items: tuple[ItemChange, ...] = ()
    cut: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What differs between a run and a later one, most telling first."""

    before: RunId
    after: RunId
    code: tuple[CodeChange, ...] = ()
    parameters: tuple[ParameterChange, ...] = ()
    data: tuple[DataChange, ...] = ()
    environment: tuple[EnvironmentChange, ...] = ()
    metrics: tuple[MetricChange, ...] = ()
    outcome: tuple[OutcomeChange, ...] = ()
    items: tuple[FanOutChange, ...] = ()

    def __bool__(self) -> bool:
        parts = (self.code, self.parameters, self.data, self.environment, self.metrics, self.outcome, self.items)
        return any(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class NotebookCell:
    """A cell of a notebook as it was."""

    source: str
    id: str | None = None
    type: str = "code"


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """All that is known of one of the two runs.

    `executions` are those that count, with their steps' metrics; `modules` the texts of those beside the notebook;
    `items` those of each fan-out, by step, and `cut` the fan-outs of which there are more.
    """

    run: Run
    cells: tuple[NotebookCell, ...] = ()
    executions: tuple[Execution, ...] = ()
    snapshot: Snapshot | None = None
    modules: Mapping[str, str] = field(default_factory=dict)
    items: Mapping[str, Sequence[Execution]] = field(default_factory=dict)
    cut: frozenset[str] = frozenset()


def compare(before: Side, after: Side, *, load: Load | None = None) -> Difference:
    """Return what differs between two runs.

    Parameters
    ----------
    load
        Says of two bindings in which details their values differ, where previews do not tell; it may load them.
    """
    return Difference(
        before=before.run.id,
        after=after.run.id,
        code=(*_cells(before.cells, after.cells), *_modules(before.modules, after.modules)),
        parameters=tuple(_parameters(before.run.parameters, after.run.parameters)),
        data=tuple(_data(before.executions, after.executions, load)),
        environment=tuple(_environment(before, after)),
        metrics=tuple(_metrics(before, after)),
        outcome=tuple(_outcome(before, after)),
        items=tuple(_fan_outs(before, after)),
    )


def notebook_cells(notebook: Json) -> tuple[NotebookCell, ...]:
    """Return the cells of a notebook's JSON.

    Examples
    --------
    >>> notebook_cells({"cells": [{"cell_type": "code", "id": "a", "source": ["x = 1", ""]}]})
    (NotebookCell(source='x = 1', id='a', type='code'),)
    """
    found = []
    for cell in notebook.get("cells") or ():
        source = cell.get("source") or ""
        text = source if isinstance(source, str) else "".join(source)
        found.append(NotebookCell(source=text, id=cell.get("id"), type=cell.get("cell_type") or "code"))
    return tuple(found)


def as_run(cells: Iterable[NotebookCell], executions: Iterable[Execution]) -> tuple[NotebookCell, ...]:
    r"""Return cells with the text that their steps ran: the notebook that was kept may be older than that.

    Examples
    --------
    >>> from mlbench.core.ids import ExecutionId
    >>> ran = Execution(id=ExecutionId("e"), run=RunId("r"), step="load", state="failed", cell="a", source="x = 2")
    >>> as_run([NotebookCell(source="%%step load\nx = 1", id="a")], [ran])[0].source
    '%%step load\nx = 2'
    """
    ran = {(one.cell, one.step): one.source for one in executions if one.state != "reused" and one.source is not None}

    def one(cell: NotebookCell) -> NotebookCell:
        step = _parsed(cell)
        source = ran.get((cell.id, step.name)) if step is not None else None
        if step is None or source is None or source.strip() == step.body.strip():
            return cell
        whole = cell.source.replace("\r\n", "\n")
        return replace(cell, source=whole[: len(whole) - len(step.body)] + source)

    return tuple(one(cell) for cell in cells)


# --- code -------------------------------------------------------------------------------------------------------------


def _cells(before: Sequence[NotebookCell], after: Sequence[NotebookCell]) -> Iterator[CodeChange]:
    """Yield what differs of cells: in the order of the later notebook, each removed one where it stood."""
    pairs = _paired(before, after)
    partner = {new: old for old, new in pairs.items()}
    moved = _moved(pairs)
    at = 0
    for new, cell in enumerate(after):
        old = partner.get(new)
        if old is None:
            yield _cell("added", None, cell, new)
            continue
        while at <= old:
            if at not in pairs:
                yield _cell("removed", before[at], None, at)
            at += 1
        if before[old].source != cell.source or before[old].type != cell.type:
            yield _cell("changed", before[old], cell, new)
        elif new in moved:
            yield _cell("moved", cell, cell, new)
    for old in range(at, len(before)):
        if old not in pairs:
            yield _cell("removed", before[old], None, old)


def _paired(before: Sequence[NotebookCell], after: Sequence[NotebookCell]) -> dict[int, int]:
    """Return for each cell its next version: that with its id, else its step, its text, else the most alike."""
    pairs: dict[int, int] = {}
    taken: set[int] = set()

    def pair(key: Callable[[NotebookCell], object | None]) -> None:
        free: dict[object, list[int]] = {}
        for new, cell in enumerate(after):
            if new not in taken and (known := key(cell)) is not None:
                free.setdefault(known, []).append(new)
        for old, cell in enumerate(before):
            if old not in pairs and free.get(known := key(cell)):
                pairs[old] = free[known].pop(0)
                taken.add(pairs[old])

    pair(lambda cell: cell.id)
    pair(_step)
    pair(lambda cell: cell.source.strip() or None)
    left = [old for old in range(len(before)) if old not in pairs]
    free = [new for new in range(len(after)) if new not in taken]
    if len(left) * len(free) <= _MOST_PAIRS:
        alike = sorted(
            (-ratio, old, new)
            for old in left
            for new in free
            if before[old].type == after[new].type
            and (ratio := _likeness(before[old].source, after[new].source)) >= _ALIKE
        )
        for _, old, new in alike:
            if old not in pairs and new not in taken:
                pairs[old] = new
                taken.add(new)
    return pairs


def _likeness(one: str, other: str) -> float:
    """Return how much of two texts is the same, from 0 to 1; what does not count is not looked at closely.

    They are compared word by word: character by character the two would take twenty times as long.
    """
    matcher = difflib.SequenceMatcher(None, _WORD.findall(one), _WORD.findall(other), autojunk=False)
    if min(matcher.real_quick_ratio(), matcher.quick_ratio()) < _ALIKE:
        return 0.0
    return matcher.ratio()


def _moved(pairs: Mapping[int, int]) -> set[int]:
    """Return the cells that do not stand in the order of before: all but the longest row that does.

    Examples
    --------
    >>> _moved({0: 0, 1: 2, 2: 1, 3: 3}) in ({1}, {2})
    True
    """
    order = [pairs[old] for old in sorted(pairs)]
    best: list[int] = []
    came: list[int | None] = []
    for place, new in enumerate(order):
        fitting = [earlier for earlier in range(place) if order[earlier] < new]
        last = max(fitting, key=lambda earlier: best[earlier], default=None)
        came.append(last)
        best.append(1 + (best[last] if last is not None else 0))
    stays: set[int] = set()
    at = max(range(len(order)), key=lambda place: best[place], default=None)
    while at is not None:
        stays.add(order[at])
        at = came[at]
    return set(order) - stays


def _parsed(cell: NotebookCell) -> StepCell | None:
    try:
        return parse(cell.source) if cell.type == "code" else None
    except UsageError:
        return None


def _step(cell: NotebookCell) -> str | None:
    found = _parsed(cell)
    return found.name if found is not None else None


def _cell(change: How, before: NotebookCell | None, after: NotebookCell | None, number: int) -> CodeChange:
    cell = after or before
    assert cell is not None
    diff = () if change == "moved" else _lines(before.source if before else "", after.source if after else "")
    return CodeChange(
        what="cell",
        change=change,
        name=_step(cell) or f"cell {number + 1}",
        cell=cell.id,
        type=cell.type,
        diff=diff,
    )


def _modules(before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[CodeChange]:
    for path, change in _keys(before, after):
        yield CodeChange(
            what="module", change=change, name=path, diff=_lines(before.get(path, ""), after.get(path, ""))
        )


def _lines(before: str, after: str) -> tuple[str, ...]:
    r"""Return the lines of a unified difference, without its head.

    Examples
    --------
    >>> _lines("a\nb", "a\nc")
    ('@@ -1,2 +1,2 @@', ' a', '-b', '+c')
    """
    return tuple(difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=3))[2:]


def _keys(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[tuple[str, How]]:
    """Yield the names whose values differ, those of before first, and how."""
    for name in dict.fromkeys((*before, *after)):
        if name not in after:
            yield name, "removed"
        elif name not in before:
            yield name, "added"
        elif not _same(before[name], after[name]):
            yield name, "changed"


def _same(one: Any, other: Any) -> bool:
    """Say whether two JSON values are one: `1` and `True` are not, nan and nan are."""
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one) and math.isnan(other):
        return True
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


# --- what was given, and what it stood on -----------------------------------------------------------------------------


def _parameters(before: Json, after: Json) -> Iterator[ParameterChange]:
    for name, change in _keys(before, after):
        yield ParameterChange(name=name, change=change, before=before.get(name), after=after.get(name))


def _environment(before: Side, after: Side) -> Iterator[EnvironmentChange]:
    if before.snapshot is None or after.snapshot is None:
        return
    then, now = _surroundings(before.snapshot), _surroundings(after.snapshot)
    for part, change in _keys(then, now):
        yield EnvironmentChange(part=part, change=change, before=then.get(part), after=now.get(part))


def _surroundings(snapshot: Snapshot) -> dict[str, str]:
    found = {"python": snapshot.python, "kernel": snapshot.kernel_name}
    found |= {f"package {name}": version for name, version in sorted(snapshot.packages.items())}
    if snapshot.git is not None:
        found["commit"] = snapshot.git.commit + (" with changes" if snapshot.git.difference is not None else "")
    found |= {f"variable {name}": "set" for name in snapshot.environment}
    return {part: value for part, value in found.items() if value is not None}


# --- data -------------------------------------------------------------------------------------------------------------


def _data(before: Sequence[Execution], after: Sequence[Execution], load: Load | None) -> Iterator[DataChange]:
    then, now = ({one.step: one for one in side} for side in (before, after))
    for step in dict.fromkeys((*now, *then)):
        one, other = then.get(step), now.get(step)
        old, new = _bindings(one), _bindings(other)
        for name in dict.fromkeys((*old, *new)):
            found = _changed(step, name, old.get(name), new.get(name), load)
            if found is not None:
                yield replace(
                    found,
                    before_execution=one.id if one is not None and found.before is not None else None,
                    after_execution=other.id if other is not None and found.after is not None else None,
                )


def _bindings(execution: Execution | None) -> dict[str, Binding]:
    return {one.name: one for one in execution.binds if one.artifact is not None} if execution is not None else {}


def _changed(step: str, name: str, old: Binding | None, new: Binding | None, load: Load | None) -> DataChange | None:
    before = old.artifact if old is not None else None
    after = new.artifact if new is not None else None
    if before is None or after is None:
        there = before or after
        if there is None:
            return None
        return DataChange(
            step=step,
            name=name,
            change="removed" if after is None else "added",
            before=before.digest if before else None,
            after=after.digest if after else None,
            details=(text_of(there),),
        )
    if before.digest == after.digest:
        return None
    assert old is not None
    assert new is not None
    details = tuple(load(old, new)) if load is not None else ()
    return DataChange(
        step=step,
        name=name,
        change="changed",
        before=before.digest,
        after=after.digest,
        details=details or preview_changes(before, after),
    )


# --- what came out ----------------------------------------------------------------------------------------------------


def _metrics(before: Side, after: Side) -> Iterator[MetricChange]:
    then, now = (
        {None: side.run.metrics, **{one.step: one.metrics for one in side.executions}} for side in (before, after)
    )
    for step in dict.fromkeys((*now, *then)):
        yield from _of_one(then.get(step, ()), now.get(step, ()), step)


def _of_one(before: Sequence[Metric], after: Sequence[Metric], step: str | None = None) -> Iterator[MetricChange]:
    then, now = ({one.name: one.value for one in metrics} for metrics in (before, after))
    for name, change in _keys(then, now):
        old, new = then.get(name), now.get(name)
        difference = new - old if old is not None and new is not None else None
        yield MetricChange(name=name, change=change, step=step, before=old, after=new, difference=difference)


def _outcome(before: Side, after: Side) -> Iterator[OutcomeChange]:
    then, now = _ended(before.run), _ended(after.run)
    if then != now:
        yield OutcomeChange(before=then, after=now)
    old, new = ({one.step: _ended(one) for one in side.executions} for side in (before, after))
    for step, _ in _keys(old, new):
        yield OutcomeChange(step=step, before=old.get(step), after=new.get(step))


def _ended(record: Run | Execution) -> str:
    """Say what became of something: that it was reused is not another outcome than that it succeeded."""
    state = "succeeded" if record.state == "reused" else record.state
    reason = f" ({record.reason})" if record.reason not in (None, "error") else ""
    if record.failure is None or state != "failed":
        return f"{state}{reason}"
    error = _ANSI.sub("", record.failure.evalue).strip().splitlines()
    return f"{state}{reason}: {record.failure.ename}{f': {short_text(error[0])}' if error else ''}"


# --- fan-outs ---------------------------------------------------------------------------------------------------------


def _fan_outs(before: Side, after: Side) -> Iterator[FanOutChange]:
    for step in dict.fromkeys((*after.items, *before.items)):
        then, now = (_by_label(side.items.get(step, ())) for side in (before, after))
        found = [
            change for key in dict.fromkeys((*now, *then)) if (change := _item(then.get(key), now.get(key))) is not None
        ]
        if found:
            yield FanOutChange(
                step=step,
                differing=sum(one.before is not None and one.after is not None for one in found),
                added=sum(one.before is None for one in found),
                removed=sum(one.after is None for one in found),
                items=tuple(found[:MOST_ITEMS]),
                cut=len(found) > MOST_ITEMS or step in before.cut | after.cut,
            )


def _by_label(items: Iterable[Execution]) -> dict[tuple[Any, ...], Execution]:
    """Return items by their values; of those with the same values the first, the second … of them."""
    seen: Counter[tuple[Any, ...]] = Counter()
    found = {}
    for one in items:
        label = tuple(one.label.items()) or (one.item,)
        found[(*label, seen[label])] = one
        seen[label] += 1
    return found


def _item(before: Execution | None, after: Execution | None) -> ItemChange | None:
    there = after or before
    assert there is not None
    if before is None or after is None:
        return ItemChange(
            label=there.label,
            before=_ended(before) if before is not None else None,
            after=_ended(after) if after is not None else None,
        )
    then, now = _bindings(before), _bindings(after)
    digests = [{name: one.artifact.digest for name, one in side.items() if one.artifact} for side in (then, now)]
    names = tuple(name for name, _ in _keys(*digests))
    metrics = tuple(_of_one(before.metrics, after.metrics))
    states = _ended(before), _ended(after)
    if not names and not metrics and states[0] == states[1]:
        return None
    return ItemChange(label=there.label, before=states[0], after=states[1], names=names, metrics=metrics)
