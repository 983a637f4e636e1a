"""Whose turn it is: of a fan-out with `--max-parallel`, so many chunks have items under way, and others are ready.

What comes next has a process that has loaded everything by the time that one before it ends, so that nobody waits for
that. All functions may be called from any thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from mlbench.core.ids import ExecutionId

__all__ = ["ask", "leave"]


@dataclass(slots=True)
class _Line:
    limit: int
    inside: set[Hashable] = field(default_factory=set)
    waiting: dict[Hashable, Callable[[], None]] = field(default_factory=dict)


_lock = threading.Lock()
_lines: dict[ExecutionId, _Line] = {}


def ask(execution: ExecutionId, limit: int, chunk: Hashable, begin: Callable[[], None]) -> None:
    """Call `begin` once a chunk may run items: at once, also if it has done so before, or in a thread that leaves."""
    with _lock:
        line = _lines.setdefault(execution, _Line(limit))
        if chunk in line.inside or len(line.inside) < line.limit:
            line.inside.add(chunk)
            begin()
        else:
            line.waiting[chunk] = begin


def leave(execution: ExecutionId, chunk: Hashable) -> None:
    """Note that a chunk runs no more items, or never will; the one that has waited longest is next."""
    with _lock:
        line = _lines.get(execution)
        if line is None:
            return
        line.inside.discard(chunk)
        line.waiting.pop(chunk, None)
        while line.waiting and len(line.inside) < line.limit:
            following = next(iter(line.waiting))
            line.inside.add(following)
            line.waiting.pop(following)()
        if not line.inside:
            del _lines[execution]
