"""Which cells of two notebooks, and which modules beside them, differ, and which cell is whose next version."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from mlbench.core.errors import UsageError
from mlbench.core.records import Execution, Json
from mlbench.notebook.step import StepCell, parse

__all__ = [
    "CodeChange",
    "How",
    "NotebookCell",
    "as_run",
    "changed_cells",
    "changed_modules",
    "differing",
    "notebook_cells",
]

_ALIKE: Final = 0.7
"""From this share of equal text on, a cell without a partner is taken for another one's next version, as by nbdime."""
_MOST_PAIRS: Final = 2_500
"""How many pairs of such cells are compared at most."""
_WORD: Final = re.compile(r"\w+|[^\w\s]")

How = Literal["added", "removed", "changed", "moved"]


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
class NotebookCell:
    """A cell of a notebook as it was."""

    source: str
    id: str | None = None
    type: str = "code"


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
    >>> from mlbench.core.ids import ExecutionId, RunId
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


def changed_cells(before: Sequence[NotebookCell], after: Sequence[NotebookCell]) -> Iterator[CodeChange]:
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


def changed_modules(before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[CodeChange]:
    """Yield what differs of the texts of modules, given by their paths."""
    for path, change in differing(before, after):
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


def differing(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[tuple[str, How]]:
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
