"""How the command line shows things: states, times, tables and JSON."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import click

from mlbench.core.ids import ExecutionId
from mlbench.core.records import Binding, Execution, Metric
from mlbench.runs.wording import MARKS, fanned, took

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

__all__ = [
    "ago",
    "clean",
    "console",
    "duration",
    "errors",
    "json_option",
    "leave_unread",
    "print_json",
    "state_text",
    "table",
]

_COLOURS: Final = {
    "succeeded": "green",
    "failed": "red",
    "running": "blue",
    "queued": "bright_black",
    "cancelled": "bright_black",
    "reused": "green",
    "skipped": "bright_black",
}

_ESCAPES: Final = re.compile(
    r"\x1b\[(?![0-9;]*m)[0-?]*[ -/]*[@-~]"  # control sequences, but for colours
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?"  # operating system commands: links, titles, the clipboard
    r"|\x1b(?!\[)[PX^_][^\x1b]*(?:\x1b\\)?"
    r"|\x1b(?![\[\]])."
    r"|[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]"
)


def leave_unread() -> None:
    """Let what is still to be printed go nowhere: Python would complain when it closes standard output at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def console() -> Console:
    """Return the console of standard output; a pipe gets whole lines, not a terminal's width."""
    return _console(stderr=False)


def errors() -> Console:
    """Return the console of standard error."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    class Told(Console):
        """A console that leaves it to its caller what a closed pipe means: rich would end the thread that prints."""

        def on_broken_pipe(self) -> None:
            raise  # noqa: PLE0704  the error that rich has caught and calls this for

    stream = sys.stderr if stderr else sys.stdout
    wide = None if stream.isatty() or os.environ.get("COLUMNS") else 200
    return Told(stderr=stderr, width=wide, highlight=False, soft_wrap=not stream.isatty())


def print_json(value: object) -> None:
    """Print a value as JSON; records are written in their own words."""
    click.echo(json.dumps(_plain(value), ensure_ascii=False, indent=2))


def _plain(value: object) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None  # JSON has no such numbers
    return value


def clean(text: str) -> str:
    r"""Return a text that cannot move a terminal's cursor, set its title or hide a link; colours stay.

    Examples
    --------
    >>> clean("a\x1b]8;;http://x\x07b\x1b[31mc\x1b[2J")
    'ab\x1b[31mc'
    """
    return _ESCAPES.sub("", text)


def plain(text: str) -> Text:
    """Return a stored text as a rich text that is shown as it is, without markup or colours."""
    from rich.text import Text

    return Text(clean(text).replace("\x1b", ""))


def state_text(state: str) -> Text:
    """Return a state with its shape and colour."""
    from rich.text import Text

    return Text(f"{MARKS.get(state, '?')} {state}", style=_COLOURS.get(state, "default"))


def table(*columns: str, right: Sequence[str] = ()) -> Table:
    """Return a table without lines; columns named in `right` hold numbers."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return made


def duration(started: int | None, ended: int | None) -> str:
    """Return how long something took, short.

    Examples
    --------
    >>> duration(0 + 1, 2_600_000_001), duration(1, 72_000_000_001), duration(1, 7_500_000_000_001)
    ('2.6 s', '1 min 12 s', '2 h 5 min')
    """
    if not started:
        return ""
    seconds = ((ended or time.time_ns()) - started) / 1e9
    return took(seconds) if seconds >= 0 else ""


def ago(moment: int | None, now: int | None = None) -> str:
    """Return when something was, short.

    Examples
    --------
    >>> ago(1, 14 * 60 * 10**9), ago(1, 5 * 10**9)
    ('14 min ago', 'now')
    """
    if not moment:
        return ""
    seconds = ((now or time.time_ns()) - moment) / 1e9
    if seconds < 10:
        return "now"
    if seconds < 60:
        return f"{int(seconds)} s ago"
    if seconds < 3600 - 30:
        return f"{round(seconds / 60)} min ago"
    if seconds < 24 * 3600:
        return f"{round(seconds / 3600)} h ago"
    return datetime.fromtimestamp(moment / 1e9).astimezone().strftime("%d %b %Y %H:%M")


_NAME: Final = 40
"""Characters of a metric's name that a table shows."""


def number(value: float) -> str:
    """Return a metric's value with as many digits as tell something.

    Examples
    --------
    >>> number(11.82345), number(336776.0)
    ('11.82', '336,776')
    """
    return f"{value:,.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:.4g}"


def _shortened(name: str) -> str:
    return name if len(name) <= _NAME else f"{name[: _NAME - 1]}…"


def metrics_text(metrics: Sequence[Metric]) -> str:
    """Return the last value of each metric."""
    last = {metric.name: metric.value for metric in metrics}
    return "  ".join(f"{_shortened(clean(name))} {number(value)}" for name, value in last.items())


def steps_table(executions: Sequence[Execution], looked_up: Mapping[ExecutionId, str]) -> Table:
    """Return the steps of a run, one line each; a fan-out is one step.

    `looked_up` is what executions do not say themselves.
    """
    made = table("step", "state", "time", "what", right=("time",))
    for execution in executions:
        made.add_row(
            plain(execution.step),
            state_text(execution.state),
            duration(execution.started, execution.ended),
            plain(_what(execution, looked_up.get(execution.id, ""))),
        )
    return made


def artifacts_table(logged: Iterable[tuple[str, Binding]]) -> Table | None:
    """Return what was logged in a run, one line each with what logged it; None if nothing was."""
    made = table("artifact", "of", "what")
    for whose, binding in logged:
        preview = binding.artifact.preview if binding.artifact is not None else {}
        text = str(preview.get("text") or (binding.artifact.type if binding.artifact is not None else binding.problem))
        made.add_row(plain(binding.name), plain(whose), plain(first_line(text)))
    return made if made.row_count else None


def _what(execution: Execution, looked_up: str) -> str:
    """Say the most important of an execution: how far its items are, and what went wrong, or what it logged."""
    said = [fanned(execution.fanout)] if execution.fanout is not None else []
    said.append(looked_up)
    if execution.failure is not None and execution.state == "failed":
        said.append(f"{execution.failure.ename}: {first_line(execution.failure.evalue)}")
    elif execution.note:
        said.append(execution.note)
    else:
        said.append(metrics_text(execution.metrics))
    if execution.attempts:
        said.append(_attempts(execution))
    return "  ".join(filter(None, said))


def _attempts(execution: Execution) -> str:
    """Say which attempt this is, and what became of the one before."""
    last = execution.attempts[-1]
    why = f"{last.failure.ename}: {last.failure.evalue}" if last.failure is not None else last.reason or last.state
    return f"attempt {execution.attempt}; attempt {last.number} {last.state}: {first_line(why, 60)}"


def first_line(text: str, most: int = 120) -> str:
    """Return the first line of a text, cut."""
    line = text.strip().splitlines()[0] if text.strip() else ""
    return line if len(line) <= most else f"{line[: most - 3]}..."
