"""What differs between two runs, in the order in which it matters.

What was written comes first (cells, the modules beside the notebook), then what was given (parameters), what was made
of it (data, by step, and the artifacts that were logged), what it stood on (the environment), and what came out
(metrics, the outcome, the items of fan-outs). All of it is read from records and previews; nothing is loaded here (see
`mlbench.runs.diff_values`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from mlbench.core.ids import Digest, ExecutionId, RunId
from mlbench.core.records import Artifact, Binding, Execution, Json, Metric, Run, Snapshot
from mlbench.runs.diff_cells import CodeChange, How, NotebookCell, changed_cells, changed_modules, differing
from mlbench.runs.diff_values import preview_changes, short_text, text_of
from mlbench.runs.files import FILE, FOLDER

__all__ = [
    "MOST_ITEMS",
    "ArtifactChange",
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
_MOST_LOADED: Final = 20
_LARGEST_LOADED: Final = 16 << 20
"""Of so many items of a fan-out values of so many bytes are loaded to see where they differ; else previews tell."""

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
class ArtifactChange:
    """What `mlbench.log_artifact` kept under a name, and that differs; sizes are in bytes.

    `step` is None for what plain cells of the run logged; the executions are those that logged it, or were reused.
    """

    name: str
    change: How
    step: str | None = None
    before: Digest | None = None
    after: Digest | None = None
    before_size: int | None = None
    after_size: int | None = None
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
    """An item of a fan-out that differs: in what it bound, and in what it logged."""

    label: dict[str, str]
    before: str | None = None
    after: str | None = None
    data: tuple[DataChange, ...] = ()
    artifacts: tuple[ArtifactChange, ...] = ()
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
    artifacts: tuple[ArtifactChange, ...] = ()
    environment: tuple[EnvironmentChange, ...] = ()
    metrics: tuple[MetricChange, ...] = ()
    outcome: tuple[OutcomeChange, ...] = ()
    items: tuple[FanOutChange, ...] = ()

    def __bool__(self) -> bool:
        given, made = (self.code, self.parameters, self.environment), (self.data, self.artifacts, self.items)
        return any((*given, *made, self.metrics, self.outcome))


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
        artifacts=tuple(_artifacts(before, after, load)),
        environment=tuple(_environment(before, after)),
        metrics=tuple(_metrics(before, after)),
        outcome=tuple(_outcome(before, after)),
        items=tuple(_fan_outs(before, after, load)),
    )


# --- what was given, and what it stood on -----------------------------------------------------------------------------


def _parameters(before: Json, after: Json) -> Iterator[ParameterChange]:
    for name, change in differing(before, after):
        yield ParameterChange(name=name, change=change, before=before.get(name), after=after.get(name))


def _environment(before: Side, after: Side) -> Iterator[EnvironmentChange]:
    if before.snapshot is None or after.snapshot is None:
        return
    then, now = _surroundings(before.snapshot, after.snapshot), _surroundings(after.snapshot, before.snapshot)
    for part, change in differing(then, now):
        yield EnvironmentChange(part=part, change=change, before=then.get(part), after=now.get(part))


def _surroundings(snapshot: Snapshot, other: Snapshot) -> dict[str, str]:
    """Return what a snapshot stood on, but for what of the other one is not recorded at all: that is no difference.

    Of an interactive run the kernel has no name, of one by papermill the variables are not recorded.
    """
    found = {"python": snapshot.python if other.python else None}
    found["kernel"] = snapshot.kernel_name if other.kernel_name else None
    if other.packages:
        found |= {f"package {name}": version for name, version in sorted(snapshot.packages.items())}
    if snapshot.git is not None:
        found["commit"] = snapshot.git.commit + (" with changes" if snapshot.git.difference is not None else "")
    if other.environment:
        found |= {f"variable {name}": "set" for name in snapshot.environment}
    return {part: value for part, value in found.items() if value is not None}


# --- data -------------------------------------------------------------------------------------------------------------


def _data(before: Sequence[Execution], after: Sequence[Execution], load: Load | None) -> Iterator[DataChange]:
    then, now = ({one.step: one for one in side} for side in (before, after))
    for step in dict.fromkeys((*now, *then)):
        yield from _bound(step, then.get(step), now.get(step), load)


def _bound(step: str, one: Execution | None, other: Execution | None, load: Load | None) -> Iterator[DataChange]:
    """Yield what two executions of a step bound to something else."""
    old, new = (side.binds if side is not None else () for side in (one, other))
    for name, change, before, after, details in _changed(old, new, load):
        yield DataChange(
            step=step,
            name=name,
            change=change,
            before=before.digest if before else None,
            after=after.digest if after else None,
            before_execution=one.id if one is not None and before else None,
            after_execution=other.id if other is not None and after else None,
            details=details,
        )


def _artifacts(before: Side, after: Side, load: Load | None) -> Iterator[ArtifactChange]:
    """Yield what the steps of two runs logged, then what their plain cells did."""
    then, now = ({one.step: one for one in side.executions} for side in (before, after))
    for step in dict.fromkeys((*now, *then)):
        yield from _logged(step, then.get(step), now.get(step), load)
    yield from _logged(None, before.run, after.run, load)


def _logged(
    step: str | None, one: Run | Execution | None, other: Run | Execution | None, load: Load | None
) -> Iterator[ArtifactChange]:
    old, new = (side.artifacts if side is not None else () for side in (one, other))
    for name, change, before, after, details in _changed(old, new, load):
        yield ArtifactChange(
            step=step,
            name=name,
            change=change,
            before=before.digest if before else None,
            after=after.digest if after else None,
            before_size=_size(before),
            after_size=_size(after),
            before_execution=one.id if isinstance(one, Execution) and before else None,
            after_execution=other.id if isinstance(other, Execution) and after else None,
            details=details,
        )


def _size(artifact: Artifact | None) -> int | None:
    """Return the size of an artifact, of files and folders without what the store adds."""
    if artifact is None or artifact.codec not in {FILE, FOLDER}:
        return artifact.size if artifact is not None else None
    return int(artifact.preview["size"])


def _changed(
    before: Iterable[Binding], after: Iterable[Binding], load: Load | None
) -> Iterator[tuple[str, How, Artifact | None, Artifact | None, tuple[str, ...]]]:
    """Yield the names whose artifacts differ, how, both of these, and where they first do."""
    old, new = ({one.name: one for one in side if one.artifact is not None} for side in (before, after))
    for name in dict.fromkeys((*old, *new)):
        then, now = old.get(name), new.get(name)
        was, is_ = (one.artifact if one is not None else None for one in (then, now))
        if was is None or is_ is None:
            there = was or is_
            yield name, "removed" if is_ is None else "added", was, is_, (text_of(there),) if there else ()
        elif was.digest != is_.digest:
            details = tuple(load(then, now)) if load is not None and then is not None and now is not None else ()
            yield name, "changed", was, is_, details or preview_changes(was, is_)


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


def _fan_outs(before: Side, after: Side, load: Load | None) -> Iterator[FanOutChange]:
    def loaded(old: Binding, new: Binding) -> Sequence[str]:
        sizes = [one.artifact.size for one in (old, new) if one.artifact is not None]
        return load(old, new) if load is not None and max(sizes) <= _LARGEST_LOADED else ()

    for step in dict.fromkeys((*after.items, *before.items)):
        then, now = (_by_label(side.items.get(step, ())) for side in (before, after))
        found: list[ItemChange] = []
        counts: Counter[str] = Counter()
        for key in dict.fromkeys((*now, *then)):
            one, other = then.get(key), now.get(key)
            if not _is_other(one, other):
                continue
            counts["added" if one is None else "removed" if other is None else "differing"] += 1
            if len(found) < MOST_ITEMS:
                found.append(_item(step, one, other, loaded if len(found) < _MOST_LOADED else None))
        if found:
            yield FanOutChange(
                step=step,
                differing=counts["differing"],
                added=counts["added"],
                removed=counts["removed"],
                items=tuple(found),
                cut=counts.total() > MOST_ITEMS or step in before.cut | after.cut,
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


def _is_other(before: Execution | None, after: Execution | None) -> bool:
    """Say whether an item differs, before anybody looks how."""
    if before is None or after is None:
        return True
    then, now = (
        [{one.name: one.artifact.digest for one in side if one.artifact} for side in (item.binds, item.artifacts)]
        for item in (before, after)
    )
    return then != now or _ended(before) != _ended(after) or any(_of_one(before.metrics, after.metrics))


def _item(step: str, before: Execution | None, after: Execution | None, load: Load | None) -> ItemChange:
    there = after or before
    assert there is not None
    ends = [_ended(one) if one is not None else None for one in (before, after)]
    if before is None or after is None:
        return ItemChange(label=there.label, before=ends[0], after=ends[1])
    return ItemChange(
        label=there.label,
        before=ends[0],
        after=ends[1],
        data=tuple(_bound(step, before, after, load)),
        artifacts=tuple(_logged(step, before, after, load)),
        metrics=tuple(_of_one(before.metrics, after.metrics)),
    )
