"""A difference between two runs, said in lines and as HTML that does nothing."""

from __future__ import annotations

import html
from collections.abc import Iterator
from typing import Any, Final, Literal

from mlbench.core.ids import short
from mlbench.runs.diff import (
    ArtifactChange,
    DataChange,
    Difference,
    FanOutChange,
    ItemChange,
    MetricChange,
    OutcomeChange,
    ParameterChange,
)
from mlbench.runs.diff_cells import CodeChange

__all__ = ["Style", "as_html", "as_lines"]

Style = Literal["title", "head", "added", "removed", "plain", "faint"]

_NAMED: Final = 20
"""How many items of a fan-out are named."""
_DETAILS: Final = 2
"""Of what differs in an item's value at most so much is said."""


def as_lines(difference: Difference, *, items: int = _NAMED) -> Iterator[tuple[Style, str]]:
    """Yield the lines of a difference, each with what it is; where nothing differs, one that says so."""
    pair = f"run {short(difference.before)} and run {short(difference.after)}"
    if not difference:
        yield "title", f"Nothing differs between {pair}."
        return
    yield "title", f"What differs between {pair}:"
    for head, lines in _sections(difference, items):
        if lines:
            yield "head", head
            yield from lines


def as_html(difference: Difference) -> str:
    """Return a difference as HTML without scripts, styles or anything that is fetched; all texts are escaped."""
    parts: list[str] = []
    for style, line in as_lines(difference):
        text = html.escape(line)
        match style:
            case "title":
                parts.append(f"<p>{text}</p>")
            case "head":
                parts.append(f"{'</pre>' if len(parts) > 1 else ''}<p><b>{text}</b></p><pre>")
            case "added":
                parts.append(f"<ins>{text}</ins>\n")
            case "removed":
                parts.append(f"<del>{text}</del>\n")
            case _:
                parts.append(f"{text}\n")
    return "".join(parts) + ("</pre>" if len(parts) > 1 else "")


def _sections(difference: Difference, items: int) -> Iterator[tuple[str, list[tuple[Style, str]]]]:
    yield "Cells", [line for one in difference.code for line in _code(one)]
    yield "Parameters", [("plain", f"  {_parameter(one)}") for one in difference.parameters]
    yield "Data", [line for one in difference.data for line in _data(one)]
    yield "Artifacts", [line for one in difference.artifacts for line in _artifact(one)]
    changes = difference.environment
    yield "Environment", [("plain", f"  {one.part}: {_to(one.before, one.after)}") for one in changes]
    yield "Metrics", [("plain", f"  {_metric(one)}") for one in difference.metrics]
    yield "Outcome", [("plain", f"  {_outcome(one)}") for one in difference.outcome]
    yield "Items", [line for one in difference.items for line in _fan_out(one, items)]


def _code(change: CodeChange) -> Iterator[tuple[Style, str]]:
    kind = "" if change.what == "cell" and change.type == "code" else f"{change.what} "
    kind = f"{change.type} " if change.what == "cell" and change.type != "code" else kind
    yield "plain", f"  {kind}{change.name} {'was ' if change.change != 'moved' else ''}{change.change}"
    for line in change.diff:
        style: Style = "added" if line[:1] == "+" else "removed" if line[:1] == "-" else "plain"
        yield ("faint" if line.startswith("@@") else style), f"    {line}"


def _parameter(change: ParameterChange) -> str:
    before = repr(change.before) if change.change != "added" else None
    after = repr(change.after) if change.change != "removed" else None
    return f"{change.name}: {_to(before, after)}"


def _data(change: DataChange) -> Iterator[tuple[Style, str]]:
    yield "plain", f"  {change.step}.{change.name} {_verb(change)}"
    for detail in change.details:
        yield "plain", f"    {detail}"


def _artifact(change: ArtifactChange) -> Iterator[tuple[Style, str]]:
    who = "the run" if change.step is None else change.step
    yield "plain", f"  {change.name} of {who} {_verb(change)}"
    for detail in change.details:
        yield "plain", f"    {detail}"


def _verb(change: DataChange | ArtifactChange) -> str:
    if change.before is not None and change.after is not None:
        return f"differs  {short(change.before)} to {short(change.after)}"
    return f"was {change.change}"


def _metric(change: MetricChange) -> str:
    name = f"{change.step}.{change.name}" if change.step is not None else change.name
    by = f" ({change.difference:+.6g})" if change.difference is not None else ""
    before, after = (None if value is None else f"{value:.6g}" for value in (change.before, change.after))
    return f"{name}: {_to(before, after)}{by}"


def _outcome(change: OutcomeChange) -> str:
    who = "the run" if change.step is None else change.step
    return f"{who}: {_to(change.before, change.after)}"


def _fan_out(change: FanOutChange, most: int) -> Iterator[tuple[Style, str]]:
    counts = ((change.differing, "differ"), (change.added, "new"), (change.removed, "gone"))
    said = ", ".join(f"{count:,} {word}" for count, word in counts if count)
    yield "plain", f"  {change.step}: {said}{' (of those that were compared)' if change.cut else ''}"
    for item in change.items[:most]:
        yield "plain", f"    {_item(item)}"
    left = change.differing + change.added + change.removed - min(most, len(change.items))
    if left:
        yield "faint", f"    … and {left:,} more"


def _item(item: ItemChange) -> str:
    label = ", ".join(f"{name}={text}" for name, text in item.label.items()) or "an item"
    said = [] if item.before == item.after else [_to(item.before, item.after)]
    changes: list[DataChange | ArtifactChange] = [*item.data, *item.artifacts]
    for change in changes:
        how = "differs" if change.change == "changed" else f"was {change.change}"
        said.append(f"{change.name} {how}" + (f": {', '.join(change.details[:_DETAILS])}" if change.details else ""))
    said += [_metric(metric) for metric in item.metrics]
    return f"{label}: {'; '.join(said)}"


def _to(before: Any, after: Any) -> str:
    if before is None:
        return f"{after} (not there before)"
    return f"{before} to {after}" if after is not None else f"{before} (not there any more)"
