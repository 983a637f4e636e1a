"""`%steps`: the steps of this kernel with their states, whom each waits for and why, and what could be typed next.

Steps that were handed over are shown as they are known; a cell that begins with `%%step` and was not taken (its line
was wrong, or something could not be sent) is shown too, with what its names say.
"""

from __future__ import annotations

import html
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from mlbench.core.ids import ExecutionId, RunId, short
from mlbench.core.records import Execution
from mlbench.entrypoints.kernel.news import News
from mlbench.entrypoints.kernel.order import Order
from mlbench.entrypoints.kernel.submission import Track
from mlbench.entrypoints.kernel.waiting import listed
from mlbench.notebook.graph import CellSource, StepGraph, build
from mlbench.runs.wording import MARKS, fanned, took

__all__ = ["Line", "Overview", "overview"]

_COLOURS: Final[Mapping[str, str]] = {
    "succeeded": "var(--jp-success-color1, #388e3c)",
    "reused": "var(--jp-success-color1, #388e3c)",
    "failed": "var(--jp-error-color1, #d32f2f)",
    "running": "var(--jp-brand-color1, #1976d2)",
}
_NOT_RUN: Final = "not run"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One step: `waits` says whom it waits for, or waited, and why; `note` what went wrong."""

    step: str
    state: str
    items: str = ""
    time: str = ""
    waits: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Overview:
    """What `%steps` shows: as text, and as HTML without scripts that both themes can show."""

    lines: tuple[Line, ...]
    next: tuple[str, ...]

    def __repr__(self) -> str:
        cells = [
            (_marked(one), one.items, one.time, " · ".join(filter(None, (one.note, one.waits)))) for one in self.lines
        ]
        names = max((len(one.step) for one in self.lines), default=0)
        widths = [max((len(row[column]) for row in cells), default=0) for column in range(3)]
        rows = []
        for one, (state, items, spent, rest) in zip(self.lines, cells, strict=True):
            parts = [
                f"{one.step:<{names}}",
                f"{state:<{widths[0]}}",
                f"{items:<{widths[1]}}",
                f"{spent:>{widths[2]}}",
                rest,
            ]
            rows.append("  ".join(part for part in parts if part).rstrip())
        return "\n".join([*rows, *([""] if rows else []), *(f"Next: {one}" for one in self.next)])

    def _repr_html_(self) -> str:
        cell = '<td style="text-align:{}">{}</td>'
        rows = []
        for one in self.lines:
            colour = _COLOURS.get(one.state, "inherit")
            state = f'<span style="color:{colour}">{html.escape(_marked(one))}</span>'
            rest = " · ".join(html.escape(text) for text in (one.note, one.waits) if text)
            parts = [("left", f"<b>{html.escape(one.step)}</b>"), ("left", state), ("left", html.escape(one.items))]
            parts += [("right", html.escape(one.time)), ("left", rest)]
            rows.append("<tr>" + "".join(cell.format(*part) for part in parts) + "</tr>")
        names = ("step", "state", "items", "time", "waits for")
        head = "".join(f'<th style="text-align:{"right" if name == "time" else "left"}">{name}</th>' for name in names)
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>" if rows else ""
        return table + "".join(f"<div>Next: {_code(one)}</div>" for one in self.next)


def overview(
    order: Order, news: News, sources: Mapping[str, str], *, records: Mapping[ExecutionId, Execution] | None = None
) -> Overview:
    """Return what is known of the steps of a kernel.

    Parameters
    ----------
    sources
        Each cell that was run, by its id, in the order of these runs.
    records
        Newer records of executions, where the service has said them.
    """
    graph = build([CellSource(cell, source) for cell, source in sources.items()])
    tracks = list(order.steps.values())
    lines = [_line(track, (records or {}).get(track.execution, track.record), order, news) for track in tracks]
    known = {track.step for track in tracks}
    lines += [
        Line(step=one.name, state=_NOT_RUN, waits=_from_names(graph, one.name))
        for one in graph.steps
        if one.name not in known
    ]
    return Overview(tuple(lines), tuple(_next(lines, news.run, bool(sources))))


_NOTE: Final = 120


def _line(track: Track, record: Execution | None, order: Order, news: News) -> Line:
    state = record.state if record is not None else "queued"
    under_way = state in ("queued", "running")
    parents = [
        (parent, why)
        for execution, why in order.reasons(track.step).items()
        if (parent := news.track(execution)) is not None and parent is not track
    ]
    awaited = [(parent, why) for parent, why in parents if not parent.ended] if state == "queued" else []
    verb = "waits for" if awaited else "after"
    by_reason: dict[str, list[str]] = {}
    for parent, why in awaited or parents:
        by_reason.setdefault(why, []).append(parent.step)
    waits = ", ".join(f"{listed(steps)} ({why})" for why, steps in by_reason.items())
    note = ""
    if record is not None and state in ("failed", "cancelled", "skipped", "reused"):
        failure = record.failure
        note = f"{failure.ename}: {failure.evalue}" if failure is not None and state == "failed" else record.note or ""
        note = note.strip().partition("\n")[0]
        if state == "skipped" and waits:  # what follows is why it waits
            note = f"{note.partition('. ')[0].rstrip('.')}."
        note = note if len(note) <= _NOTE else f"{note[: _NOTE - 1].rstrip()}…"
    seconds: float | None = None
    if record is not None and record.started:
        seconds = ((record.ended or (time.time_ns() if under_way else record.started)) - record.started) / 1e9
    return Line(
        step=track.step,
        state=state,
        items=fanned(record.fanout) if record is not None and record.fanout is not None else "",
        time=took(seconds) if seconds is not None and seconds >= 0 and state != "reused" else "",
        waits=f"{verb} {waits}" if waits else "",
        note=note,
    )


def _from_names(graph: StepGraph, step: str) -> str:
    waits = ", ".join(f"{edge.parent} ({edge.why})" for edge in graph.edges if edge.child == step)
    return f"would wait for {waits}" if waits else ""


def _next(lines: Sequence[Line], run: RunId | None, cells: bool) -> list[str]:  # noqa: FBT001
    """Return what could be typed next, the most useful first."""
    by_state: dict[str, list[str]] = {}
    for one in lines:
        by_state.setdefault(one.state, []).append(one.step)
    if not lines:
        which = "the first line of a cell" if cells else "the first line of the next cell"
        return [f"write `%%step NAME` as {which}: it then runs on the cluster, and is recorded."]
    said = []
    if failed := by_state.get("failed"):
        said.append(f"`%%step {failed[0]} --here` as its cell's first line, then `%debug`, opens where it failed.")
    if not_run := by_state.get(_NOT_RUN):
        said.append(f"run the cell of {not_run[0]} again: it was not handed over.")
    if running := by_state.get("running") or by_state.get("queued"):
        follow = f"; `mlbench logs -f {short(run)} {running[0]}` in a terminal follows what it prints" if run else ""
        said.append(f"`%cancel {running[0]}` ends it{follow}.")
    if not said and run:
        said.append(f"`mlbench.run({short(run)!r})` has what was recorded of this run.")
    return said


def _marked(line: Line) -> str:
    return f"{MARKS.get(line.state, '·')} {line.state}"


def _code(text: str) -> str:
    """Return a sentence as HTML, what stands between backticks as code."""
    parts = [html.escape(part) for part in text.split("`")]
    return "".join(f"<code>{part}</code>" if place % 2 else part for place, part in enumerate(parts))
