"""What one cell reads, binds and changes, from its source alone."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import CodeType
from typing import Any

__all__ = ["CellNames", "FunctionNames", "analyse", "code_globals", "statement_reads"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionNames:
    """What happens to a cell's globals when a function (or class) defined there is used.

    `reads`, `binds` (by `global`) and `changes` are global names, builtins among `reads`. `writes_paths` are constant
    paths given to writing calls, `path_names` names given in their place, `names_paths` constant texts in the body.
    """

    reads: frozenset[str] = frozenset()
    binds: frozenset[str] = frozenset()
    changes: frozenset[str] = frozenset()
    writes_paths: frozenset[str] = frozenset()
    path_names: frozenset[str] = frozenset()
    names_paths: frozenset[str] = frozenset()
    draws: frozenset[str] = frozenset()
    seeds: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CellNames:
    """The names of a cell.

    Parameters
    ----------
    reads
        Names that may be read from outside before the cell has surely bound them; no builtins.
    builtins
        Builtin names that are read: these count as reads where the notebook has bound one of them.
    history
        IPython's own that are read: `_`, `__`, `_3`, `_i`, `In`, `Out`. `Out[3]` with a constant is given as `_3`.
    binds, maybe
        Names bound at the end on every path, and on some paths only.
    deletes, maybe_deletes
        Names gone at the end on every path, and on some.
    changes
        Names of outside or of the cell that are changed in place, as the syntax shows.
    late
        Names that functions defined here read when they are called later, without those in `binds`; no builtins.
    functions
        Functions and classes bound at the end, with what using them does.
    results
        Of the names bound, those that look like a result: no imports, loop variables, `with … as` or `_private` names.
    imports
        Name to module (`"pandas"`, or `"pandas:DataFrame"` for `from pandas import DataFrame`).
    stars
        Modules whose names are all imported (`from m import *`).
    magics
        Line and cell magics in order, and `!` for shell lines.
    is_async
        Whether the cell awaits at its top level.
    writes_paths, path_names, names_paths
        Constant paths given to writing calls; names given in their place; all constant texts that may be paths.
    constants
        Names that hold a constant text (or path) at the end.
    seeds
        Whether the cell seeds a global generator (`random`, NumPy, torch).
    draws
        Libraries (`random`, `numpy`, `torch`) from whose global generator the cell seems to draw.
    dynamic
        Whether names may be reached in a way that the source does not show (`exec(text)`, `globals()`, `%run`).
    """

    reads: frozenset[str] = frozenset()
    builtins: frozenset[str] = frozenset()
    history: frozenset[str] = frozenset()
    binds: frozenset[str] = frozenset()
    maybe: frozenset[str] = frozenset()
    deletes: frozenset[str] = frozenset()
    maybe_deletes: frozenset[str] = frozenset()
    changes: frozenset[str] = frozenset()
    late: frozenset[str] = frozenset()
    functions: Mapping[str, FunctionNames] = field(default_factory=dict)
    results: frozenset[str] = frozenset()
    imports: Mapping[str, str] = field(default_factory=dict)
    stars: tuple[str, ...] = ()
    magics: tuple[str, ...] = ()
    is_async: bool = False
    writes_paths: frozenset[str] = frozenset()
    path_names: frozenset[str] = frozenset()
    names_paths: frozenset[str] = frozenset()
    constants: Mapping[str, str] = field(default_factory=dict)
    seeds: bool = False
    draws: frozenset[str] = frozenset()
    dynamic: bool = False

    @property
    def for_effects(self) -> bool:
        """Whether the cell is run for its effects: it binds no result, and changes and deletes nothing."""
        return not (self.results or self.changes or self.deletes)


def analyse(source: str) -> CellNames:
    """Return the names of a cell's source (without its `%%step` line). Raise `SyntaxError`."""
    raise NotImplementedError(source)


def statement_reads(module: ast.Module) -> list[set[str]]:
    """Return, for each top-level statement, the names that it may read: builtins and IPython's own included."""
    raise NotImplementedError(module)


def code_globals(code: CodeType) -> set[str]:
    """Return the global names that a code object, or one nested in it, may read."""
    raise NotImplementedError(code)
