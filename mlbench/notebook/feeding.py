"""Which plain cells feed a step, and whether a cell's code is still what ran.

What a step takes from the kernel was bound by plain cells: who edits one of them has changed the step too.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping, Sequence

from mlbench.core.errors import UsageError
from mlbench.notebook import step
from mlbench.notebook.cell import CellNames, analyse
from mlbench.notebook.graph import CellSource, StepGraph

__all__ = ["feeding_cells", "is_edited"]


def feeding_cells(cells: Sequence[CellSource], graph: StepGraph) -> dict[str, tuple[str, ...]]:
    r"""Return, for the cell of each step, the plain cells whose names it takes, itself or through other plain cells.

    Examples
    --------
    >>> from mlbench.notebook.graph import build
    >>> cells = [CellSource("a", "rate = 2"), CellSource("b", "def f(): return rate")]
    >>> cells.append(CellSource("c", "%%step s\nf()"))
    >>> feeding_cells(cells, build(cells))
    {'c': ('a', 'b')}
    """
    steps = {one.cell: one for one in graph.steps}
    bound: dict[str, frozenset[str]] = {}
    needs: dict[str, frozenset[str]] = {}
    feeds: dict[str, tuple[str, ...]] = {}
    for cell in cells:
        found = steps.get(cell.id)
        if found is not None:
            own = _closure(found.captured, bound, needs)
            feeds[cell.id] = tuple(one.id for one in cells if one.id in own)
            for name in found.names.binds | found.names.changes:
                bound.pop(name, None)
            continue
        names = _names(cell)
        if names is None:
            continue
        needs[cell.id] = names.reads | names.changes | names.late
        for name in names.binds:
            bound[name] = frozenset({cell.id})
        for name in (names.maybe | names.changes) - names.binds:
            bound[name] = bound.get(name, frozenset()) | {cell.id}
    return feeds


def is_edited(source: str, ran: str) -> bool:
    r"""Say whether a cell is not what ran, comments and layout aside.

    Parameters
    ----------
    source
        The cell as it is written.
    ran
        The cell as it was run; of a step, its body alone will do.

    Examples
    --------
    >>> is_edited("%%step load --retries 2\nx = 1  # one", "%%step load\nx = 1")
    False
    >>> is_edited("%%step load\nx = 2", "x = 1")
    True
    """
    try:
        now, then = step.parse(source), step.parse(ran)
    except UsageError:
        return source.strip() != ran.strip()
    if now is None:
        return then is not None or _code(source) != _code(ran)
    if then is None:
        return _code(now.body) != _code(ran)
    return (now.name, _matters(now), _code(now.body)) != (then.name, _matters(then), _code(then.body))


def _matters(found: step.StepCell) -> tuple[object, ...]:
    """Return the options on which what a step makes depends."""
    options = found.options
    return options.foreach, options.catch, options.outputs, options.no_store, options.env


def _code(source: str) -> str:
    try:
        return ast.dump(ast.parse(source), annotate_fields=False)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # the last for what is nested too deeply
        return source.strip()


def _closure(
    names: Iterable[str], bound: Mapping[str, frozenset[str]], needs: Mapping[str, frozenset[str]]
) -> frozenset[str]:
    found: set[str] = set()
    left = list(names)
    while left:
        for cell in bound.get(left.pop(), frozenset()) - found:
            found.add(cell)
            left.extend(needs[cell])
    return frozenset(found)


def _names(cell: CellSource) -> CellNames | None:
    """Return the names of a plain cell; None for one that is no Python, or a step that is not in the graph."""
    if step.is_step(cell.source):
        return None
    try:
        return analyse(cell.source)
    except SyntaxError:
        return None
