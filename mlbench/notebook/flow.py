"""Follow a cell's statements, as Python would run them, on all paths at once."""

# ruff: noqa: SIM905 - lists of words read better as words
from __future__ import annotations

import ast
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from mlbench.notebook import evidence, scopes
from mlbench.notebook.expressions import Expressions, calls
from mlbench.notebook.scopes import FunctionNames
from mlbench.notebook.state import BUILTINS, GONE, OUTSIDE, Class, Loop, State, join

__all__ = ["Flow"]

_KEEPING_DECORATORS = frozenset(
    """property setter getter deleter staticmethod classmethod abstractmethod cached_property cache lru_cache wraps
    dataclass total_ordering unique contextmanager asynccontextmanager singledispatch overload override final
    runtime_checkable jit njit vectorize no_grad inference_mode fixture delayed task""".split()
)
_SWALLOWERS = frozenset({"suppress", "raises", "assertRaises", "assertRaisesRegex", "assert_raises", "ignored"})


class Flow(Expressions):
    """Follow statements; what was seen is in the attributes afterwards."""

    def block(self, body: Iterable[ast.stmt]) -> None:
        for statement in body:
            if self.state is None:
                return
            self.statement(statement)

    def statement(self, node: ast.stmt) -> None:
        method = getattr(self, "on_" + type(node).__name__.lower(), None)
        if method is not None:
            method(node)
        else:
            self.children(node)

    def on_expr(self, node: ast.Expr) -> None:
        self.expression(node.value)

    def on_assign(self, node: ast.Assign) -> None:
        if isinstance(node.value, ast.Lambda):
            function = self.lambda_names(node.value)
            for target in node.targets:
                if isinstance(target, ast.Name):
                    self.bind(target.id, functions=(function,))
                else:
                    self.use(function)
                    self.target(target)
            return
        text = evidence.path_text(node.value, self.constants)
        origins = self._origins(node.value)
        self.value(node.value)
        for target in node.targets:
            self.target(target)
            if isinstance(target, ast.Name):
                self._remember(target.id, text, origins)

    def _remember(self, name: str, text: str | None, origins: frozenset[str]) -> None:
        """Remember that a name holds a constant text, or a part of another name's value."""
        if self.klass is not None:
            return
        if text is not None and "{" not in text and name not in self.unsteady and evidence.could_be_path(text):
            self.constants[name] = text
        if origins - {name}:
            self.aliases[name] = origins - {name}

    def _origins(self, value: ast.expr) -> frozenset[str]:
        """Return the names whose values a value is a part of: `a.b`, `a[0]`, `a`, not `a[mask]`, which copies."""
        node = value
        while isinstance(node, (ast.Attribute, ast.Subscript)):
            if isinstance(node, ast.Subscript) and not (
                isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, (int, str))
            ):
                return frozenset()
            node = node.value
        return frozenset({node.id}) if isinstance(node, ast.Name) else frozenset()

    def on_augassign(self, node: ast.AugAssign) -> None:
        if isinstance(node.target, ast.Name):
            self.read(node.target.id)
            self.changed(node.target.id)  # a list or an array stays the same object
        self.value(node.value)
        self.target(node.target)

    def on_annassign(self, node: ast.AnnAssign) -> None:
        if not self.lazy_annotations:
            self.expression(node.annotation)
        if node.value is not None:
            text = evidence.path_text(node.value, self.constants)
            origins = self._origins(node.value)
            self.value(node.value)
            self.target(node.target)
            if isinstance(node.target, ast.Name):
                self._remember(node.target.id, text, origins)
        elif not isinstance(node.target, ast.Name):
            self.expression(node.target)

    def target(self, node: ast.expr, *, result: bool = True) -> None:
        if isinstance(node, ast.Name):
            self.bind(node.id, result=result)
        elif isinstance(node, (ast.Tuple, ast.List)):
            for element in node.elts:
                self.target(element, result=result)
        elif isinstance(node, ast.Starred):
            self.target(node.value, result=result)
        else:
            for name in evidence.assigned_roots(node):
                self.changed(name)
            self._named_globals(node)
            self.expression(node)

    def _named_globals(self, node: ast.expr) -> None:
        """Follow `globals()["name"] = …`."""
        if not (isinstance(node, ast.Subscript) and calls(node.value, "globals", "locals", "vars")):
            return
        if isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str):
            self.bind(node.slice.value)

    def on_delete(self, node: ast.Delete) -> None:
        for target in node.targets:
            self._delete(target)

    def _delete(self, target: ast.expr) -> None:
        if isinstance(target, ast.Name):
            self.read(target.id)
            self._forget(target.id)
        elif isinstance(target, (ast.Tuple, ast.List)):
            for element in target.elts:
                self._delete(element)
        else:
            self.target(target)

    def _forget(self, name: str) -> None:
        self.mark(self.slot(name), GONE)
        self.imports.pop(name, None)
        self.aliases.pop(name, None)

    def on_if(self, node: ast.If) -> None:
        after: State | None = None
        while True:
            yes, no = self.condition(node.test)
            self.state = yes
            self.block(node.body)
            after = join(after, self.state)
            self.state = no
            if len(node.orelse) != 1 or not isinstance(node.orelse[0], ast.If) or no is None:
                break
            node = node.orelse[0]  # a loop, since a chain of elif is nested as deep as it is long
        self.block(node.orelse)
        self.state = join(after, self.state)

    def on_for(self, node: ast.For | ast.AsyncFor) -> None:
        if isinstance(node, ast.AsyncFor):
            self.is_async = True
        self.expression(node.iter)
        origins = frozenset(n.id for n in ast.walk(node.iter) if isinstance(n, ast.Name)) - BUILTINS
        names = [n.id for n in ast.walk(node.target) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]

        def body() -> None:
            self.target(node.target, result=False)
            for name in names:
                if origins - {name}:
                    self.aliases[name] = origins - {name}
            self.block(node.body)

        loop, end = self._repeat(body)
        before, self.state = self.state, end
        after = join(None if _surely_runs(node.iter) else before, self.state)
        self.state = after
        self.block(node.orelse)
        self.state = join(self.state, loop.breaks)

    on_asyncfor = on_for

    def on_while(self, node: ast.While) -> None:
        leaving: list[State | None] = []

        def body() -> None:
            self.state, no = self.condition(node.test)
            leaving.append(no.copy() if no else None)
            self.block(node.body)

        loop, end = self._repeat(body)
        self.state = end
        if end is not None:
            leaving.append(self.condition(node.test)[1])
        state: State | None = None
        for one in leaving:
            state = join(state, one)
        self.state = state
        self.block(node.orelse)
        self.state = join(self.state, loop.breaks)

    def _repeat(self, body: Callable[[], None]) -> tuple[Loop, State | None]:
        """Follow a loop's body; return how it is left and the state at its end. The state before it is restored.

        Once is enough, but for functions defined in it, which the next round may call above their definition.
        """
        before = self.state
        defined = self.defined
        loop = Loop()
        self.loops.append(loop)
        self.state = before.copy() if before else None
        body()
        end = join(self.state, loop.continues)
        if self.defined != defined and not self.again and end is not None:
            self.again = True
            self.state = join(before, end)
            body()
            end = join(end, join(self.state, loop.continues))
            self.again = False
        self.loops.pop()
        self.state = before
        return loop, end

    def on_break(self, _node: ast.Break) -> None:
        if self.loops:
            self.loops[-1].breaks = join(self.loops[-1].breaks, self.state)
        self.state = None

    def on_continue(self, _node: ast.Continue) -> None:
        if self.loops:
            self.loops[-1].continues = join(self.loops[-1].continues, self.state)
        self.state = None

    def on_raise(self, node: ast.Raise) -> None:
        self.children(node)
        self.state = None

    def on_return(self, node: ast.Return) -> None:
        self.children(node)
        self.state = None

    def on_assert(self, node: ast.Assert) -> None:
        yes, no = self.condition(node.test)
        self.state = no
        if node.msg is not None and no is not None:
            self.expression(node.msg)
        self.state = yes

    def on_with(self, node: ast.With | ast.AsyncWith) -> None:
        if isinstance(node, ast.AsyncWith):
            self.is_async = True
        swallows = False
        for item in node.items:
            self.expression(item.context_expr)
            if item.optional_vars is not None:
                self.target(item.optional_vars, result=False)
            if isinstance(item.context_expr, ast.Call):
                name = evidence.dotted(item.context_expr.func) or ""
                swallows = swallows or name.rpartition(".")[2] in _SWALLOWERS
        caught = self._catching()
        self.block(node.body)
        self.catchers.pop()
        if swallows:
            self.state = join(self.state, caught)

    on_asyncwith = on_with

    def _catching(self) -> State:
        """Begin to gather what holds anywhere from here on, where an exception may be caught."""
        caught = self.state.copy() if self.state else State({}, {})
        self.catchers.append(caught)
        return caught

    def on_try(self, node: ast.Try) -> None:
        if not node.finalbody:
            self._try(node)
            return
        anywhere = self._catching()
        self.finals += 1

        def final() -> None:
            self.block(node.finalbody)

        self._then(lambda: self._try(node), final)
        self.catchers.pop()
        after = self.state
        if self.finals <= 3:  # each nested one would be followed twice as often as the one around it
            self.state = anywhere.copy()
            self.block(node.finalbody)  # reached by an exception, which goes on afterwards
        self.finals -= 1
        self.state = after
        if after is not None:
            self.block(node.finalbody)

    on_trystar = on_try

    def _try(self, node: ast.Try) -> None:
        caught = self._catching()
        self.block(node.body)
        self.catchers.pop()
        self.block(node.orelse)
        after = self.state
        for handler in node.handlers:
            self.state = caught.copy()
            if handler.type is not None:
                self.expression(handler.type)
            if handler.name is None:
                self.block(handler.body)
            else:
                name = handler.name
                self.bind(name, result=False)
                body = handler.body
                self._then(lambda body=body: self.block(body), lambda name=name: self._forget(name))  # type: ignore[misc]
                if self.state is not None:
                    self._forget(name)
            after = join(after, self.state)
        self.state = after

    def _then(self, body: Callable[[], None], leave: Callable[[], None]) -> None:
        """Follow a body, with what happens when a `break` or `continue` leaves it."""
        if not self.loops:
            body()
            return
        inner = Loop()
        self.loops.append(inner)
        body()
        self.loops.pop()
        after = self.state
        outer = self.loops[-1]
        if inner.breaks is not None:
            self.state = inner.breaks
            leave()
            outer.breaks = join(outer.breaks, self.state)
        if inner.continues is not None:
            self.state = inner.continues
            leave()
            outer.continues = join(outer.continues, self.state)
        self.state = after

    def on_match(self, node: ast.Match) -> None:
        self.expression(node.subject)
        after: State | None = None
        for case in node.cases:
            if self.state is None:
                break
            before = self.state.copy()
            self.pattern(case.pattern)
            no: State | None = None
            if case.guard is not None:
                self.state, no = self.condition(case.guard)
            self.block(case.body)
            after = join(after, self.state)
            self.state = join(None if _always_matches(case.pattern) else before, no)
        self.state = join(after, self.state)

    def pattern(self, pattern: ast.pattern) -> None:
        if isinstance(pattern, ast.MatchValue):
            self.expression(pattern.value)
        elif isinstance(pattern, ast.MatchClass):
            self.expression(pattern.cls)
        elif isinstance(pattern, ast.MatchMapping):
            for key in pattern.keys:
                self.expression(key)
        for part in ast.iter_child_nodes(pattern):
            if isinstance(part, ast.pattern):
                self.pattern(part)
        name = pattern.rest if isinstance(pattern, ast.MatchMapping) else getattr(pattern, "name", None)
        if name:
            self.bind(name)

    def on_functiondef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._definition(node)
        function = scopes.function_names(node, self.imports, lazy_annotations=self.lazy_annotations)
        types = frozenset[str]().union(*self.hidden)  # a generic class's, which its methods see
        if types & function.reads:
            function = replace(function, reads=function.reads - types)
        if self.klass is not None:
            self.klass.methods |= function
        self.bind(node.name, functions=(function,))
        if _may_call(node.decorator_list):
            self.use(function)

    on_asyncfunctiondef = on_functiondef

    def _definition(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        for decorator in node.decorator_list:
            self.expression(decorator)
        for default in scopes.defaults(node.args):
            self.expression(default)
        types = {str(getattr(p, "name", "")) for p in scopes.type_parameters(node)}
        if types:
            self.hidden.append(types)
            for parameter in scopes.type_parameters(node):
                self.children(parameter)
        if not self.lazy_annotations:
            for annotation in scopes.annotated(node):
                self.expression(annotation)
        if types:
            self.hidden.pop()

    def on_classdef(self, node: ast.ClassDef) -> None:
        for decorator in node.decorator_list:
            self.expression(decorator)
        types = {str(getattr(p, "name", "")) for p in scopes.type_parameters(node)}
        self.hidden.append(types)
        for parameter in scopes.type_parameters(node):
            self.children(parameter)
        inherited = [function for base in node.bases for function in self._base(base)]
        for keyword in node.keywords:
            self.expression(keyword.value)
        outer, loops = self.klass, self.loops
        self.depth += 1
        klass = self.klass = Class(self.depth, {g for s in node.body if isinstance(s, ast.Global) for g in s.names})
        self.loops = []
        self.block(node.body)
        self.loops, self.klass = loops, outer
        self.depth -= 1
        self.hidden.pop()
        for function in inherited:
            klass.methods |= function
        for state in (self.state, *self.catchers):
            if state is not None:
                for slot in [slot for slot in state.marks if slot.startswith(klass.prefix)]:
                    del state.marks[slot]
                    state.functions.pop(slot, None)
        if outer is not None:
            outer.methods |= klass.methods
        self.bind(node.name, functions=(klass.methods,))
        if any(isinstance(s, ast.FunctionDef) and s.name == "__init_subclass__" for s in node.body):
            self.watchful.add(node.name)
        if _may_call(node.decorator_list) or node.keywords:
            self.use(klass.methods)

    def _base(self, base: ast.expr) -> tuple[FunctionNames, ...]:
        """Read a base class, and return what its methods do: they run when the class is used, not here."""
        if not isinstance(base, ast.Name) or base.id in self.watchful or self.klass is not None or self.state is None:
            self.expression(base)
            return ()
        if not any(base.id in names for names in self.hidden):
            if self.state.marks.get(base.id, OUTSIDE) & OUTSIDE:
                self.reads.add(base.id)
            return self.state.functions.get(base.id, ())
        return ()

    def on_import(self, node: ast.Import) -> None:
        for alias in node.names:
            name = alias.asname or alias.name.partition(".")[0]
            self.bind(name, result=False)
            if self.klass is None:
                self.imports[name] = alias.name if alias.asname else name

    def on_importfrom(self, node: ast.ImportFrom) -> None:
        module = "." * node.level + (node.module or "")
        if module == "__future__":
            self.lazy_annotations = self.lazy_annotations or any(a.name == "annotations" for a in node.names)
        for alias in node.names:
            if alias.name == "*":
                self.stars.append(module)
                continue
            name = alias.asname or alias.name
            self.bind(name, result=False)
            if self.klass is None:
                self.imports[name] = f"{module}:{alias.name}"

    def on_global(self, _node: ast.Global) -> None:
        return

    def on_typealias(self, node: Any) -> None:
        """Follow `type Name[T] = …` (Python 3.12): its value is computed when it is asked for."""
        lazy = ast.Lambda(args=ast.arguments([], [], None, [], [], None, []), body=node.value)
        lazy.args.args = [ast.arg(arg=str(getattr(p, "name", ""))) for p in scopes.type_parameters(node)]
        self.bind(node.name.id, functions=(scopes.function_names(lazy, self.imports),))


def _may_call(decorators: Iterable[ast.expr]) -> bool:
    """Say whether a decorator may call what it decorates: all but those known to keep it for later."""
    for decorator in decorators:
        called = decorator.func if isinstance(decorator, ast.Call) else decorator
        name = called.attr if isinstance(called, ast.Attribute) else called.id if isinstance(called, ast.Name) else ""
        if name not in _KEEPING_DECORATORS:
            return True
    return False


def _surely_runs(iterated: ast.expr) -> bool:
    """Say whether a loop over this runs at least once."""
    if isinstance(iterated, (ast.Tuple, ast.List, ast.Set)):
        return any(not isinstance(element, ast.Starred) for element in iterated.elts)
    if isinstance(iterated, ast.Constant):
        return isinstance(iterated.value, (str, bytes)) and bool(iterated.value)
    if isinstance(iterated, ast.Call) and isinstance(iterated.func, ast.Name) and not iterated.keywords:
        if iterated.func.id in ("enumerate", "list", "tuple", "reversed", "sorted") and len(iterated.args) == 1:
            return _surely_runs(iterated.args[0])
        if iterated.func.id == "range":
            try:
                return bool(range(*(ast.literal_eval(argument) for argument in iterated.args)))
            except (ValueError, TypeError):
                return False
    return False


def _always_matches(pattern: ast.pattern) -> bool:
    if isinstance(pattern, ast.MatchAs):
        return pattern.pattern is None or _always_matches(pattern.pattern)
    return isinstance(pattern, ast.MatchOr) and any(_always_matches(p) for p in pattern.patterns)
