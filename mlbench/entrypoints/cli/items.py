"""What was logged in a run, and what the items of its fan-outs come to: their metrics, times and artifacts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from mlbench.core.ports import Catalog
from mlbench.core.records import Binding, Execution, Run
from mlbench.entrypoints.cli import output
from mlbench.entrypoints.cli.output import number, plain
from mlbench.project.history import with_items
from mlbench.runs.wording import took

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["items_table", "logged_by_items", "logged_in"]

_MOST: Final = 10
"""Metrics of one fan-out that are shown."""
_FIRST: Final = 5
"""Items that logged artifacts of which these are shown."""


def items_table(catalog: Catalog, executions: Sequence[Execution]) -> Table | None:
    """Return what the items of fan-outs logged and how long they took, one line each; None without any fan-out."""
    fanouts = [with_items(catalog, one) for one in executions if one.fanout is not None]
    rows = [(one.step, *row) for one in fanouts for row in _rows(catalog, one)]
    if not rows:
        return None
    made = output.table("items of", "what", "items", "mean", "lowest", "highest", right=("items", "mean"))
    for row in rows:
        made.add_row(*map(plain, row))
    return made


def logged_in(run: Run, executions: Iterable[Execution]) -> Iterator[tuple[str, Binding]]:
    """Yield what plain cells and steps logged, with who did."""
    for binding in run.artifacts:
        yield "plain cells", binding
    for one in executions:
        for binding in one.artifacts:
            yield one.step, binding


def logged_by_items(catalog: Catalog, execution: Execution) -> tuple[list[tuple[str, Binding]], int]:
    """Return what the first items of a fan-out logged, with which item did, and how much more there is."""
    if execution.fanout is None:
        return [], 0
    whole = with_items(catalog, execution)
    items = catalog.items(whole.id, logged=True, limit=_FIRST)
    shown = [(f"{one.step}{_words(one.label, one.item)}", binding) for one in items for binding in one.artifacts]
    return shown, catalog.count_logged(whole.id) - len(shown) if len(items) == _FIRST else 0


def _rows(catalog: Catalog, execution: Execution) -> Iterator[tuple[str, str, str, str, str]]:
    for name in catalog.item_metric_names(execution.id)[:_MOST]:
        found = [(item, value) for item, value in catalog.item_metrics(execution.id, name) if math.isfinite(value)]
        if not found:
            continue
        mean = number(math.fsum(value for _, value in found) / len(found))
        low, high = min(found, key=lambda one: one[1]), max(found, key=lambda one: one[1])
        lowest, highest = (f"{number(value)}{_label(catalog, execution, item)}" for item, value in (low, high))
        yield name, f"{len(found):,}", mean, lowest, highest
    fanout = execution.fanout
    assert fanout is not None
    ran = fanout.succeeded + fanout.failed + fanout.cancelled
    if ran and fanout.slowest is not None and fanout.slowest_seconds is not None:
        slowest = f"{took(fanout.slowest_seconds)}{_label(catalog, execution, fanout.slowest)}"
        yield "time", f"{ran:,}", took(fanout.seconds / ran), "", slowest


def _label(catalog: Catalog, execution: Execution, item: int) -> str:
    """Return which item it is: by its values, or by its number."""
    found = catalog.items(execution.id, after=item - 1, limit=1)
    return _words(found[0].label if found and found[0].item == item else {}, item)


def _words(label: Mapping[str, str], item: int | None) -> str:
    said = ", ".join(f"{name}={value}" for name, value in label.items()) or f"item {item}"
    return f" ({output.first_line(said, 60)})"
