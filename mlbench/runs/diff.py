"""What differs between two runs, in the order in which it matters.

What was written comes first (cells, the modules beside the notebook), then what was given (parameters), what was made
of it (data, by step), what it stood on (the environment), and what came out (metrics, the outcome, the items of
fan-outs). All of it is read from records and previews; nothing is loaded here (see `mlbench.runs.diff_values`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from mlbench.core.ids import Digest, ExecutionId, RunId
from mlbench.core.records import Binding, Execution, Json, Metric, Run, Snapshot
from mlbench.runs.diff_cells import CodeChange, How, NotebookCell, changed_cells, changed_modules, differing
from mlbench.runs.diff_values import preview_changes, short_text, text_of

__all__ = [
    "MOST_ITEMS",
    "DataChange",
    "Difference",
    "EnvironmentChange",
    "FanOutChange",
    "ItemChange",
    "MetricChange",
    "OutcomeChange",
    "ParameterChange",
    "Side",
    "compare",
]

MOST_ITEMS: Final = 1_000
"""How many items that differ are named; all are counted."""

_ANSI: Final = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")

Load = Callable[[Binding, Binding], Sequence[str]]


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
        code=(*changed_cells(before.cells, after.cells), *changed_modules(before.modules, after.modules)),
        parameters=tuple(_parameters(before.run.parameters, after.run.parameters)),
        data=tuple(_data(before.executions, after.executions, load)),
        environment=tuple(_environment(before, after)),
        metrics=tuple(_metrics(before, after)),
        outcome=tuple(_outcome(before, after)),
        items=tuple(_fan_outs(before, after)),
    )


# --- what was given, and what it stood on -----------------------------------------------------------------------------


def _parameters(before: Json, after: Json) -> Iterator[ParameterChange]:
    for name, change in differing(before, after):
        yield ParameterChange(name=name, change=change, before=before.get(name), after=after.get(name))


def _environment(before: Side, after: Side) -> Iterator[EnvironmentChange]:
    if before.snapshot is None or after.snapshot is None:
        return
    then, now = _surroundings(before.snapshot), _surroundings(after.snapshot)
    for part, change in differing(then, now):
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
    for name, change in differing(then, now):
        old, new = then.get(name), now.get(name)
        difference = new - old if old is not None and new is not None else None
        yield MetricChange(name=name, change=change, step=step, before=old, after=new, difference=difference)


def _outcome(before: Side, after: Side) -> Iterator[OutcomeChange]:
    then, now = _ended(before.run), _ended(after.run)
    if then != now:
        yield OutcomeChange(before=then, after=now)
    old, new = ({one.step: _ended(one) for one in side.executions} for side in (before, after))
    for step, _ in differing(old, new):
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
    names = tuple(name for name, _ in differing(*digests))
    metrics = tuple(_of_one(before.metrics, after.metrics))
    states = _ended(before), _ended(after)
    if not names and not metrics and states[0] == states[1]:
        return None
    return ItemChange(label=there.label, before=states[0], after=states[1], names=names, metrics=metrics)
