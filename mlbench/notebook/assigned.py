"""What a cell sets in modules, as its syntax shows it: `cfg.N = 10`, `cfg.ROWS["x"] = 2`, `cfg.NAMES.append("x")`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Final

__all__ = ["assigned"]

_CHANGERS: Final = frozenset(
    {"add", "append", "appendleft", "clear", "discard", "extend", "insert", "pop", "popitem", "remove", "reverse"}
    | {"setdefault", "sort", "update"}
)


def assigned(tree: ast.AST) -> frozenset[tuple[str, ...]]:
    """Return the chains of names that are bound or changed. Whether the first one is a module, only who runs it knows.

    Functions are looked into too, since they may be called.

    Examples
    --------
    >>> sorted(assigned(ast.parse("cfg.N = 10; a.b.ROWS['x'] += 1; cfg.NAMES.append(1); setattr(cfg, 'M', 2); n = 1")))
    [('a', 'b', 'ROWS'), ('cfg', 'M'), ('cfg', 'N'), ('cfg', 'NAMES')]
    """
    return frozenset(chain for node in ast.walk(tree) for chain in _of(node) if len(chain) > 1)


def _of(node: ast.AST) -> Iterator[tuple[str, ...]]:
    if isinstance(node, ast.Attribute | ast.Subscript) and not isinstance(node.ctx, ast.Load):
        yield _chain(node)
    elif isinstance(node, ast.Call):
        function = node.func
        if isinstance(function, ast.Attribute) and function.attr in _CHANGERS:
            yield _chain(function.value)
        elif isinstance(function, ast.Name) and function.id == "setattr" and len(node.args) == 3:
            name = node.args[1]
            if isinstance(name, ast.Constant) and isinstance(name.value, str) and (above := _chain(node.args[0])):
                yield (*above, name.value)


def _chain(node: ast.expr) -> tuple[str, ...]:
    """Return a dotted name's parts, those before its first item where it has some; nothing for anything else."""
    names: list[str] = []
    while isinstance(node, ast.Attribute | ast.Subscript):
        if isinstance(node, ast.Subscript):
            names.clear()
        else:
            names.append(node.attr)
        node = node.value
    return (node.id, *reversed(names)) if isinstance(node, ast.Name) else ()
