"""What is likely to fail when a notebook is run from top to bottom in a fresh kernel: one function for each rule.

`mlbench.notebook.diagnostics` puts them together with what is wrong for sure (a name given twice, an unknown option).
Each rule sees the cells in their order, with their names; none guesses where a cell reaches names in ways that its
source does not show.
"""

# ruff: noqa: SIM905 - lists of words read better as words
from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from mlbench.core.errors import UsageError
from mlbench.notebook import parameters, syntax
from mlbench.notebook.foreach import bound_of, names_of
from mlbench.notebook.graph import Followed, Problem, Step
from mlbench.notebook.step import nearest
from mlbench.notebook.step import parse as parse_step

__all__ = ["steps_before_mlbench", "unbound_names", "uncompilable_cells", "unknown_outputs", "unsendable_values"]

_LOADS: Final = re.compile(r"^\s*%(?:load_ext|reload_ext)\s+mlbench\b", re.MULTILINE)
_BINDS_NOTHING: Final = frozenset(
    """! %! %alias %autoreload %autosave %cache %cancel %cd %cluster %colors %conda %config %connect_info %env %gui
    %history %load_ext %logstart %ls %magic %mamba %matplotlib %mkdir %notebook %pip %precision %pwd %quickref
    %reload_ext %steps %system %sx %tensorboard %time %timeit %unload_ext %uv %watermark %who %whos %xmode %%capture
    %%html %%javascript %%js %%latex %%markdown %%prun %%step %%svg %%time %%timeit %%writefile""".split()
)
"""Magics that bind no name that the analysis does not see."""


def steps_before_mlbench(cells: Sequence[Followed]) -> Iterator[Problem]:
    """Yield the first step that stands above `%load_ext mlbench`: its `%%step` is unknown there."""
    for one in cells:
        if _LOADS.search(one.cell.source):
            return
        if one.step is not None:
            sentence = (
                f"Cell {one.cell.number}: step {one.step} stands before `%load_ext mlbench`, so `%%step` is unknown: "
                "put that line into a cell above."
            )
            yield Problem(one.cell.number, 1, "error", sentence, one.cell.id)
            return


def uncompilable_cells(cells: Sequence[Followed]) -> Iterator[Problem]:
    """Yield cells that Python can read and not compile, such as those with `return` outside a function."""
    for one in cells:
        if "raises-exception" in one.cell.tags:
            continue
        above = 0
        if one.step is not None:
            found = parse_step(one.cell.source)
            above = found.first_line - 1 if found is not None else 0
        lines = one.cell.source.splitlines(keepends=True)
        try:
            syntax.check("".join(lines[above:]))
        except SyntaxError as error:
            line = error.lineno + above if error.lineno else 0
            sentence = f"Cell {one.cell.number}{f', line {line}' if line else ''}: {error.msg}."
            yield Problem(one.cell.number, line, "error", sentence, one.cell.id)


def unknown_outputs(steps: Sequence[Step]) -> Iterator[Problem]:
    """Yield steps whose `--outputs` or `--no-store` names what their cells do not bind."""
    for one in steps:
        try:
            bound_of(one.name, names_of(one.body, one.options), one.options)
        except UsageError as error:
            yield Problem(one.number, 1, "error", f"Cell {one.number}: {error}", one.cell)


def unbound_names(cells: Sequence[Followed]) -> Iterator[Problem]:
    """Yield names that a cell reads and no cell above binds.

    One that the cell itself binds later is a warning: on some paths it may be bound in time.
    """
    bound: dict[str, str | None] = {"mlbench": None}  # a name, and the fan-out in whose items alone it is bound
    later: dict[str, int] = {}
    for one in reversed(cells):
        later.update(dict.fromkeys(one.names.binds | one.names.maybe, one.cell.number))
    for one in cells:
        names = one.names
        if _may_bind_more(one):
            return
        if "parameters" in one.cell.tags:
            bound.update(dict.fromkeys(each.name for each in _parameters(one.cell.source)))
        for name in sorted(names.reads - set(bound)):
            if name not in names.maybe:  # a branch may bind it in time, and nobody knows which is taken
                yield _unbound(one, name, bound, later)
            bound[name] = None  # said once
        inside = set(names.imports) - names.binds - names.maybe if names.items else set()
        bound.update(dict.fromkeys(names.binds | names.maybe | names.changes))
        for name in names.deletes:
            bound.pop(name, None)
            later.pop(name, None)
        for name in inside - set(bound):
            later[name] = -one.cell.number


def _unbound(one: Followed, name: str, bound: Mapping[str, str | None], later: Mapping[str, int]) -> Problem:
    who = f"step {one.step} reads" if one.step is not None else "it reads"
    number = one.cell.number
    place = later.get(name)
    if place is not None and place < 0:
        why = f"which only the items of cell {-place} import: import it in a plain cell."
    elif place is not None and place > number:
        why = f"which no cell above binds, only cell {place} below: move that one up."
    elif place == number:
        why = "before it binds it, and no cell above does: give it a first value in a cell above."
    else:
        near = nearest(name, bound)
        hint = f"did you mean {near}?" if near else "bind it in a cell above, or correct the name."
        why = f"which no cell above binds: {hint}"
    sentence, line = f"Cell {number}: {who} {name}, {why}", _line_of(name, one.cell.source)
    return Problem(number, line, "warning" if place == number else "error", sentence, one.cell.id)


def _may_bind_more(one: Followed) -> bool:
    """Say whether a cell may bind names that its source does not show: what cells below read is then not known."""
    names = one.names
    return bool(names.stars or names.dynamic or set(names.magics) - _BINDS_NOTHING)


def _parameters(source: str) -> tuple[parameters.Parameter, ...]:
    from mlbench.core.errors import ParameterError

    try:
        return parameters.read(source)
    except ParameterError:  # said where parameters are checked
        return ()


def _line_of(name: str, source: str) -> int:
    """Return the first line of a cell that has a name, 0 if none has."""
    found = re.search(rf"(?<![\w.]){re.escape(name)}(?!\w)", source)
    return source.count("\n", 0, found.start()) + 1 if found else 0


# What can't be sent to a step, or stored by one


@dataclass(frozen=True, slots=True)
class _Kind:
    what: str
    remedy: str


_FILE = _Kind("an open file", "Open it inside the step.")
_LOCK = _Kind("a lock", "Make it inside the step.")
_THREAD = _Kind("a thread or pool", "Start it inside the step.")
_PROCESS = _Kind("a process", "Start it inside the step.")
_CONNECTION = _Kind("a connection", "Connect inside the step.")
_GENERATOR = _Kind("a generator", "Make a list of it first, or make it inside the step.")

_MADE_BY: Final[Mapping[str, _Kind]] = {
    made_by: kind
    for kind, names in (
        (
            _FILE,
            "open io.open gzip.open bz2.open lzma.open codecs.open os.fdopen tarfile.open zipfile.ZipFile h5py.File",
        ),
        (_FILE, "tempfile.TemporaryFile tempfile.NamedTemporaryFile"),
        (_LOCK, "threading.Lock threading.RLock threading.Condition threading.Semaphore threading.BoundedSemaphore"),
        (_LOCK, "threading.Event threading.Barrier multiprocessing.Lock multiprocessing.RLock multiprocessing.Queue"),
        (_THREAD, "threading.Thread multiprocessing.Pool concurrent.futures.ThreadPoolExecutor"),
        (_THREAD, "concurrent.futures.ProcessPoolExecutor"),
        (_PROCESS, "subprocess.Popen"),
        (_CONNECTION, "sqlite3.connect duckdb.connect psycopg.connect psycopg2.connect pymysql.connect"),
        (_CONNECTION, "MySQLdb.connect pyodbc.connect oracledb.connect snowflake.connector.connect"),
        (_CONNECTION, "sqlalchemy.create_engine pymongo.MongoClient socket.socket socket.create_connection"),
    )
    for made_by in names.split()
}


@dataclass(frozen=True, slots=True)
class _Held:
    kind: _Kind
    number: int
    step: str | None


def unsendable_values(cells: Sequence[Followed]) -> Iterator[Problem]:
    """Yield values that a step reads and that can't be sent to it, and those that a step makes and can't be stored."""
    held: dict[str, _Held] = {}
    modules: dict[str, str] = {}
    generators: set[str] = set()
    own: set[str] = set()  # names of the notebook, which may hide a builtin's
    for one in cells:
        names = one.names
        for name in sorted((names.reads | names.changes) & set(held)):
            found = held[name]
            if one.step is not None and found.step is None:
                why = f"{found.kind.what} (cell {found.number}), which can't be sent to a step. {found.kind.remedy}"
                said = f"Cell {one.cell.number}: step {one.step} reads {name}, {why}"
            elif found.step is not None and found.step != one.step:
                who = f"step {one.step} reads" if one.step is not None else "it reads"
                why = f"{found.kind.what} of step {found.step}, which can't be stored"
                said = f"Cell {one.cell.number}: {who} {name}, {why}. Make it where it is used."
            else:
                continue
            line = _line_of(name, one.cell.source)
            yield Problem(one.cell.number, line, "error", said, one.cell.id)
        for name in names.binds | names.maybe | names.deletes:
            held.pop(name, None)
            modules.pop(name, None)
            generators.discard(name)
        modules |= names.imports
        own |= names.binds | names.maybe
        body = one.cell.source if one.step is None else one.cell.source.partition("\n")[2]
        for statement in _statements(body):
            if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)) and _yields(statement):
                generators.add(statement.name)
            for name, kind in _made(statement, modules, generators, own):
                if name in names.binds | names.maybe:
                    held[name] = _Held(kind, one.cell.number, one.step)


def _statements(source: str) -> list[ast.stmt]:
    try:
        return syntax.parse(source).body
    except SyntaxError:  # said where the graph is built
        return []


def _made(
    statement: ast.stmt, modules: Mapping[str, str], generators: set[str], own: set[str]
) -> Iterator[tuple[str, _Kind]]:
    """Yield the names that a statement binds to something that can't be sent."""
    if isinstance(statement, ast.Assign):
        targets: list[ast.expr] = statement.targets
    elif isinstance(statement, ast.AnnAssign):
        targets = [statement.target]
    else:
        return
    kind = _kind_of(statement.value, modules, generators, own)
    if kind is not None:
        yield from ((target.id, kind) for target in targets if isinstance(target, ast.Name))


def _kind_of(value: ast.expr | None, modules: Mapping[str, str], generators: set[str], own: set[str]) -> _Kind | None:
    if isinstance(value, ast.GeneratorExp):
        return _GENERATOR
    if not isinstance(value, ast.Call):
        return None
    if isinstance(value.func, ast.Name) and value.func.id in generators:
        return _GENERATOR
    called = ast.unparse(value.func)
    first, dot, rest = called.partition(".")
    module = modules.get(first)
    if module is not None:
        called = module.replace(":", ".") + dot + rest
    elif dot or first in own:
        return None
    return _MADE_BY.get(called)


def _yields(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Say whether a function is a generator: one that is decorated may be anything."""
    todo: list[ast.AST] = list(function.body) if not function.decorator_list else []
    while todo:
        node = todo.pop()
        if isinstance(node, (ast.Yield, ast.YieldFrom)):
            return True
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)):
            todo.extend(ast.iter_child_nodes(node))
    return False
