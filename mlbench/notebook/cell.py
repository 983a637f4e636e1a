"""What one cell reads, binds and changes, from its source alone.

The cell is followed as Python would run it, on all paths at once. Of each name it is known where its value may come
from at a point: from outside, from this cell, or from nowhere since it was deleted; where paths meet, all of their
possibilities hold. A name is read from outside if it is read where its value may come from there. What a function does
counts where it is first referred to, since from then on it may be called.
"""

from __future__ import annotations

import ast
import dis
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import CodeType

from mlbench.notebook import scopes, syntax
from mlbench.notebook.flow import Flow
from mlbench.notebook.history import is_history
from mlbench.notebook.scopes import FunctionNames
from mlbench.notebook.state import BUILTINS, GONE, HERE

__all__ = ["CellNames", "FunctionNames", "analyse", "code_globals", "statement_reads"]


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
        IPython's own that are read: `_`, `__`, `_3`, `_i`, `In`, `Out`, `_exit_code`. `Out[3]` with a constant
        is given as `_3`.
    binds, maybe
        Names bound at the end on every path, and on some paths only.
    deletes, maybe_deletes
        Names gone at the end on every path, and on some.
    changes
        Names of outside whose values are changed in place, as the syntax shows.
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
        Line and cell magics, in the order in which they stand, and `!` for shell lines.
    is_async
        Whether the cell awaits at its top level.
    writes_paths, names_paths
        Paths given to writing calls, and all constant texts that may be paths, as `evidence.path_text` spells them:
        `"out/{name}.csv"` where only the kernel knows `name` (`evidence.resolve_text` fills in what is known).
    attributes
        Names of all attributes that are read, bound or deleted: `a.b` of a package `a` may be a module.
    constants
        Names that hold a constant text (or path) at the end.
    seeds
        Whether the cell seeds a global generator (`random`, NumPy, torch).
    draws
        Libraries (`random`, `numpy`, `torch`) from whose global generator the cell seems to draw.
    dynamic
        Whether names may be reached in a way that the source does not show (`exec(text)`, `globals()`, `%run`).
    items
        Names that are bound when the cell begins, to the values of one item of a fan-out (see `notebook.foreach`).
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
    names_paths: frozenset[str] = frozenset()
    attributes: frozenset[str] = frozenset()
    constants: Mapping[str, str] = field(default_factory=dict)
    seeds: bool = False
    draws: frozenset[str] = frozenset()
    dynamic: bool = False
    items: frozenset[str] = frozenset()

    @property
    def for_effects(self) -> bool:
        """Whether the cell is run for its effects: it binds no result, and changes and deletes nothing."""
        return not (self.results or self.changes or self.deletes)


def analyse(source: str, functions: Mapping[str, FunctionNames] | None = None) -> CellNames:
    r"""Return the names of a cell's source (without its `%%step` line).

    `functions` are those of cells above: what they do counts as the cell's own where it uses them.

    Raises
    ------
    SyntaxError
        If neither Python nor IPython can read it.

    Examples
    --------
    >>> names = analyse("if flag:\n    rate = 0.1\nprint(rate * len(flights))")
    >>> sorted(names.reads), sorted(names.maybe)
    (['flag', 'flights', 'rate'], ['rate'])
    """
    tree = syntax.parse(source)
    try:
        return _names(Flow(functions=functions), tree)
    except RecursionError:
        return _all_names(tree)


def statement_reads(module: ast.Module) -> list[set[str]]:
    r"""Return, for each top-level statement, the names that it may read: builtins and IPython's own included.

    What statements above have bound does not matter here: whoever waits for a name sees whether it is still awaited.

    Examples
    --------
    >>> [sorted(names) for names in statement_reads(ast.parse("x = a + b\ny = x"))]
    [['a', 'b'], ['x']]
    """
    found: list[set[str]] = []
    lazy = False
    for statement in module.body:
        flow = Flow(lazy_annotations=lazy)
        try:
            flow.statement(statement)
            found.append(flow.reads)
        except RecursionError:
            found.append({node.id for node in ast.walk(statement) if isinstance(node, ast.Name)})
        lazy = flow.lazy_annotations
    return found


@lru_cache(maxsize=4096)
def _code_globals(code: CodeType) -> frozenset[str]:
    names: set[str] = set()
    for instruction in dis.get_instructions(code):
        if instruction.opname in _GLOBAL_READS:
            names.add(instruction.argval)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= _code_globals(constant)
    return frozenset(names)


_GLOBAL_READS = frozenset(
    {"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS", "DELETE_GLOBAL", "DELETE_NAME"} & set(dis.opmap)
)


def code_globals(code: CodeType) -> set[str]:
    """Return the global names that a code object, or one nested in it, may read.

    Examples
    --------
    >>> sorted(code_globals((lambda rows: [row * scale for row in rows]).__code__))
    ['scale']
    """
    return set(_code_globals(code))


def _all_names(tree: ast.Module) -> CellNames:
    """Return every name that is mentioned: for a cell that is nested too deeply to be followed."""
    reads: set[str] = set()
    maybe: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            (reads if isinstance(node.ctx, ast.Load) else maybe).add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            maybe.add(node.name)
        elif isinstance(node, ast.alias):
            maybe.add(node.asname or node.name.partition(".")[0])
    reads |= maybe
    return CellNames(
        reads=frozenset(reads - BUILTINS),
        builtins=frozenset(reads & BUILTINS),
        maybe=frozenset(maybe),
        results=frozenset(maybe),
        attributes=_attributes([tree]),
        dynamic=True,
    )


def _attributes(trees: Iterable[ast.AST]) -> frozenset[str]:
    return frozenset(node.attr for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Attribute))


def _names(flow: Flow, tree: ast.Module) -> CellNames:
    flow.block(tree.body)
    state = flow.state or flow.everywhere
    marks = {name: mark for name, mark in state.marks.items() if "." not in name}
    bound = {name for name, mark in marks.items() if mark & HERE}
    binds = frozenset(name for name, mark in marks.items() if mark == HERE)
    deletes = frozenset(name for name, mark in marks.items() if mark == GONE)
    functions: dict[str, FunctionNames] = {}
    late: set[str] = set()
    for name, candidates in state.functions.items():
        if name in bound:
            merged = candidates[0]
            for candidate in candidates[1:]:
                merged |= candidate
            functions[name] = merged
            late |= merged.reads
    outside = flow.reads
    history = frozenset(name for name in outside if is_history(name))
    bodies = [*tree.body, *(s for sub in flow.subtrees.values() for s in sub.body)]
    return CellNames(
        reads=frozenset(outside - BUILTINS - history),
        builtins=frozenset(outside & BUILTINS),
        history=history,
        binds=binds,
        maybe=frozenset(bound) - binds,
        deletes=deletes,
        maybe_deletes=frozenset(name for name, mark in marks.items() if mark & GONE) - deletes,
        changes=frozenset(flow.seen.changes),
        late=frozenset(late - binds - BUILTINS),
        functions=functions,
        results=frozenset(name for name in flow.results if name in bound and not name.startswith("_")),
        imports={name: module for name, module in flow.imports.items() if name in bound},
        stars=tuple(dict.fromkeys(flow.stars)),
        magics=tuple(flow.magics.values()),
        is_async=flow.is_async,
        writes_paths=frozenset(flow.seen.writes_paths),
        names_paths=frozenset(scopes.texts(bodies, flow.constants)) | flow.seen.names_paths,
        attributes=_attributes(bodies),
        constants={name: text for name, text in flow.constants.items() if name in binds},
        seeds=flow.seen.seeds,
        draws=frozenset(flow.seen.draws),
        dynamic=flow.dynamic,
    )
