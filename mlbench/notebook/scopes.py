"""Which globals a function's body reads, binds and changes: Python's scope rules, without order.

A function runs some time after it is defined, so all that its body mentions counts. The order of things in a cell is
the business of `mlbench.notebook.cell`.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from mlbench.notebook import evidence, syntax

__all__ = ["Effects", "Function", "FunctionNames", "annotated", "defaults", "function_names"]

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionNames:
    """What happens to a cell's globals when a function (or class) defined there is used.

    `reads`, `binds` (by `global`) and `changes` are global names, builtins among `reads`. `writes_paths` are paths
    given to writing calls, `names_paths` constant texts in the body (both as `evidence.path_text` spells them).
    """

    reads: frozenset[str] = frozenset()
    binds: frozenset[str] = frozenset()
    changes: frozenset[str] = frozenset()
    writes_paths: frozenset[str] = frozenset()
    names_paths: frozenset[str] = frozenset()
    draws: frozenset[str] = frozenset()
    seeds: bool = False

    def __or__(self, other: FunctionNames) -> FunctionNames:
        return FunctionNames(
            reads=self.reads | other.reads,
            binds=self.binds | other.binds,
            changes=self.changes | other.changes,
            writes_paths=self.writes_paths | other.writes_paths,
            names_paths=self.names_paths | other.names_paths,
            draws=self.draws | other.draws,
            seeds=self.seeds or other.seeds,
        )


class Effects:
    """What has been seen so far of a cell or a body: `FunctionNames` that grow."""

    def __init__(self) -> None:
        self.reads: set[str] = set()
        self.binds: set[str] = set()
        self.changes: set[str] = set()
        self.writes_paths: set[str] = set()
        self.names_paths: set[str] = set()
        self.draws: set[str] = set()
        self.seeds = False

    def note_call(
        self,
        call: ast.Call,
        *,
        imports: Mapping[str, str],
        constants: Mapping[str, str],
        changed: Callable[[str], None],
        kept: bool = False,
    ) -> None:
        """Note what a call's form gives away."""
        for name in evidence.call_changes(call, kept=kept):
            changed(name)
        self.writes_paths.update(evidence.call_writes(call, constants))
        if evidence.call_seeds(call, imports):
            self.seeds = True
        elif library := evidence.call_draws(call, imports):
            self.draws.add(library)

    def note_use(self, names: FunctionNames) -> None:
        """Note what using a function does, reads, binds and changes aside."""
        self.writes_paths |= names.writes_paths
        self.names_paths |= names.names_paths
        self.draws |= names.draws
        self.seeds = self.seeds or names.seeds


def function_names(node: Function, imports: Mapping[str, str], *, lazy_annotations: bool = False) -> FunctionNames:
    r"""Return what a function's body does to globals when it is called; defaults and decorators are not part of it.

    Examples
    --------
    >>> tree = ast.parse("def total(rows):\n    global calls\n    calls = 1\n    return sum(rows) * scale")
    >>> names = function_names(tree.body[0], {})
    >>> sorted(names.reads), sorted(names.binds)
    (['scale', 'sum'], ['calls'])
    """
    visitor = _Body(imports, lazy_annotations=lazy_annotations)
    visitor.function(node)
    found = visitor.found
    return FunctionNames(
        reads=frozenset(found.reads - {"__class__"}),
        binds=frozenset(found.binds),
        changes=frozenset(found.changes),
        writes_paths=frozenset(found.writes_paths),
        names_paths=frozenset(texts([node])),
        draws=frozenset(found.draws),
        seeds=found.seeds,
    )


def defaults(arguments: ast.arguments) -> Iterator[ast.expr]:
    """Yield the default values of arguments, which are evaluated where the function is defined."""
    yield from arguments.defaults
    yield from (value for value in arguments.kw_defaults if value is not None)


def annotated(node: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[ast.expr]:
    """Yield the annotations of a function's arguments and of its result."""
    for argument in _arguments(node.args):
        if argument.annotation is not None:
            yield argument.annotation
    if node.returns is not None:
        yield node.returns


def type_parameters(node: ast.AST) -> list[ast.AST]:
    """Return the type parameters (`def f[T]`) that Python 3.12 and later know."""
    return list(getattr(node, "type_params", ()))


def texts(nodes: Iterable[ast.AST], constants: Mapping[str, str] = {}) -> Iterator[str]:
    """Yield all constant texts that could be paths; a path put together (`Path(a) / "b"`) is one text."""
    stack = list(nodes)
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Constant):
            if isinstance(node.value, str) and evidence.could_be_path(node.value):
                yield node.value
            continue
        if isinstance(node, (ast.JoinedStr, ast.BinOp, ast.Call)):
            if isinstance(node, ast.Call) and (magic := syntax.magic_call(node)):
                for text in magic[1]:
                    yield from filter(evidence.could_be_path, syntax.shell_words(text))
                continue
            whole = evidence.path_text(node, constants)
            if whole and evidence.could_be_path(whole):
                yield whole
                continue
            if isinstance(node, ast.BinOp):
                stack.extend(evidence.operands(node))
                continue
        stack.extend(ast.iter_child_nodes(node))


def _arguments(arguments: ast.arguments) -> Iterator[ast.arg]:
    yield from arguments.posonlyargs
    yield from arguments.args
    yield from arguments.kwonlyargs
    if arguments.vararg:
        yield arguments.vararg
    if arguments.kwarg:
        yield arguments.kwarg


class _Scope:
    """The names of one function, class or comprehension."""

    def __init__(self, names: set[str], globals_: set[str], *, is_class: bool = False) -> None:
        self.names = names
        self.globals = globals_
        self.is_class = is_class


def _bindings(nodes: Iterable[ast.AST]) -> tuple[set[str], set[str], set[str]]:
    """Return the names that one scope binds (not those nested in it), those it declares global, and nonlocal."""
    bound: set[str] = set()
    global_: set[str] = set()
    nonlocal_: set[str] = set()
    stack: list[tuple[ast.AST, bool]] = [(node, False) for node in nodes]
    while stack:
        node, in_comprehension = stack.pop()
        inside: Iterable[ast.AST]
        if isinstance(node, ast.Name):
            if not in_comprehension and not isinstance(node.ctx, ast.Load):
                bound.add(node.id)
            continue
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            bound.add(node.name)
            inside = [*node.decorator_list, *defaults(node.args), *annotated(node)]
        elif isinstance(node, ast.Lambda):
            inside = defaults(node.args)
        elif isinstance(node, ast.ClassDef):
            bound.add(node.name)
            inside = [*node.decorator_list, *node.bases, *node.keywords]
        elif isinstance(node, ast.NamedExpr):
            bound.add(node.target.id)
            inside = [node.value]
        elif type(node).__name__ == "TypeAlias":
            bound.add(node.name.id)  # type: ignore[attr-defined]
            continue
        else:
            inside = ast.iter_child_nodes(node)
            in_comprehension = in_comprehension or isinstance(node, _COMPREHENSIONS)
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                bound.update(alias.asname or alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)) and node.name:
                bound.add(node.name)
            elif isinstance(node, ast.MatchMapping) and node.rest:
                bound.add(node.rest)
            elif isinstance(node, ast.Global):
                global_.update(node.names)
            elif isinstance(node, ast.Nonlocal):
                nonlocal_.update(node.names)
        stack.extend((child, in_comprehension) for child in inside)
    return bound - global_ - nonlocal_, global_, nonlocal_


class _Body:
    """Visit a function's body with the scopes that it opens."""

    def __init__(self, imports: Mapping[str, str], *, lazy_annotations: bool) -> None:
        self.found = Effects()
        self.imports = imports
        self.lazy_annotations = lazy_annotations
        self.scopes: list[_Scope] = []

    def function(self, node: Function) -> None:
        body: list[ast.AST] = [node.body] if isinstance(node, ast.Lambda) else list(node.body)
        bound, global_, _ = _bindings(body)
        bound |= {argument.arg for argument in _arguments(node.args)}
        with_types = bool(self._open_types(node))
        self.scopes.append(_Scope(bound, global_))
        self.visit_all(body)
        self.scopes.pop()
        if with_types:
            self.scopes.pop()

    def _open_types(self, node: ast.AST) -> list[ast.AST]:
        parameters = type_parameters(node)
        if parameters:
            self.scopes.append(_Scope({str(getattr(p, "name", "")) for p in parameters}, set()))
            for parameter in parameters:
                self.visit_all(ast.iter_child_nodes(parameter))
        return parameters

    def is_global(self, name: str) -> bool:
        for place, scope in enumerate(reversed(self.scopes)):
            if scope.is_class and place:
                continue
            if name in scope.globals:
                return True
            if name in scope.names:
                return False
        return True

    def read(self, name: str) -> None:
        if self.is_global(name):
            self.found.reads.add(name)

    def store(self, name: str) -> None:
        scope = self.scopes[-1] if self.scopes else None
        if scope is None:
            return
        if name in scope.globals:
            self.found.binds.add(name)
        elif scope.is_class:
            scope.names.add(name)

    def changed(self, name: str) -> None:
        if self.is_global(name) and ":" in self.imports.get(name, ":"):
            self.found.changes.add(name)

    def visit_all(self, nodes: Iterable[ast.AST]) -> None:
        for node in nodes:
            self.visit(node)

    def visit(self, node: ast.AST) -> None:
        method = getattr(self, "visit_" + type(node).__name__.lower(), None)
        if method is not None:
            method(node)
        else:
            self.visit_all(ast.iter_child_nodes(node))

    def visit_name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load):
            self.read(node.id)
        else:
            self.store(node.id)

    def visit_binop(self, node: ast.BinOp) -> None:
        self.visit_all(evidence.operands(node))

    def visit_namedexpr(self, node: ast.NamedExpr) -> None:
        self.visit(node.value)
        for scope in reversed(self.scopes):
            if node.target.id in scope.globals:
                self.found.binds.add(node.target.id)
            if not scope.is_class:
                break

    def visit_assign(self, node: ast.Assign) -> None:
        self._value(node.value)
        for target in node.targets:
            self._target(target)

    def visit_augassign(self, node: ast.AugAssign) -> None:
        if isinstance(node.target, ast.Name):
            self.read(node.target.id)
        self.visit(node.value)
        self._target(node.target)

    def visit_annassign(self, node: ast.AnnAssign) -> None:
        if self.scopes and self.scopes[-1].is_class and not self.lazy_annotations:
            self.visit(node.annotation)  # annotations of a function's own variables are never evaluated
        if node.value is not None:
            self._value(node.value)
            self._target(node.target)
        elif not isinstance(node.target, ast.Name):
            self.visit(node.target)

    def _value(self, node: ast.expr) -> None:
        if isinstance(node, ast.Call):
            self.visit_call(node, kept=True)
        else:
            self.visit(node)

    def _target(self, target: ast.expr) -> None:
        for name in evidence.assigned_roots(target):
            self.changed(name)
        self.visit(target)

    def visit_delete(self, node: ast.Delete) -> None:
        for target in node.targets:
            self._target(target)

    def visit_for(self, node: ast.For | ast.AsyncFor) -> None:
        self.visit(node.iter)
        self._target(node.target)
        self.visit_all(node.body)
        self.visit_all(node.orelse)

    visit_asyncfor = visit_for

    def visit_call(self, node: ast.Call, *, kept: bool = False) -> None:
        self.found.note_call(node, imports=self.imports, constants={}, changed=self.changed, kept=kept)
        self.visit_all(ast.iter_child_nodes(node))
        magic = syntax.magic_call(node)
        if magic is None:
            return
        for text in magic[1]:
            for name in syntax.template_names(text):
                self.read(name)
        if magic[0].startswith("run_") and len(magic[1]) > 1 and magic[1][0] in syntax.PYTHON_MAGICS:
            line, names = syntax.strip_options(magic[1][0], magic[1][1])
            for name in names:
                self.read(name)
            self.visit_all(syntax.parse(line if magic[0] == "run_line_magic" else magic[1][-1]).body)

    def visit_functiondef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self.visit_all(node.decorator_list)
        self.visit_all(defaults(node.args))
        if not self.lazy_annotations:
            with_types = bool(self._open_types(node))
            self.visit_all(annotated(node))
            if with_types:
                self.scopes.pop()
        self.store(node.name)
        self.function(node)

    visit_asyncfunctiondef = visit_functiondef

    def visit_lambda(self, node: ast.Lambda) -> None:
        self.visit_all(defaults(node.args))
        self.function(node)

    def visit_classdef(self, node: ast.ClassDef) -> None:
        self.visit_all(node.decorator_list)
        with_types = bool(self._open_types(node))
        self.visit_all(node.bases)
        self.visit_all(node.keywords)
        _, global_, _ = _bindings(node.body)
        self.scopes.append(_Scope(set(), global_, is_class=True))
        self.visit_all(node.body)
        self.scopes.pop()
        if with_types:
            self.scopes.pop()
        self.store(node.name)

    def visit_typealias(self, node: ast.AST) -> None:
        with_types = bool(self._open_types(node))
        self.visit(node.value)  # type: ignore[attr-defined]
        if with_types:
            self.scopes.pop()

    def visit_listcomp(self, node: ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp) -> None:
        self.visit(node.generators[0].iter)
        names = {
            target.id
            for generator in node.generators
            for target in ast.walk(generator.target)
            if isinstance(target, ast.Name) and isinstance(target.ctx, ast.Store)
        }
        self.scopes.append(_Scope(names, set()))
        for place, generator in enumerate(node.generators):
            if place:
                self.visit(generator.iter)
            self._target(generator.target)
            self.visit_all(generator.ifs)
        self.visit_all([node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt])
        self.scopes.pop()

    visit_setcomp = visit_dictcomp = visit_generatorexp = visit_listcomp

    def visit_import(self, node: ast.Import | ast.ImportFrom) -> None:
        for alias in node.names:
            self.store(alias.asname or alias.name.partition(".")[0])

    visit_importfrom = visit_import
