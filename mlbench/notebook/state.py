"""What is known of the names at a point of a cell, and what happens to them there."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Mapping

from mlbench.notebook.scopes import Effects, FunctionNames

__all__ = ["BUILTINS", "GONE", "HERE", "OUTSIDE", "Class", "Loop", "Names", "State", "join"]

BUILTINS = frozenset(dir(builtins)) | {
    "__annotations__",
    "__builtins__",
    "__class__",
    "__file__",
    "__path__",
    "display",
    "exit",
    "get_ipython",
    "quit",
}

OUTSIDE, HERE, GONE = 1, 2, 4
"""Where a name's value may come from: outside, this cell, nowhere since it was deleted. They are added up."""


class State:
    """Where each name's value may come from at a point, and which functions it may be.

    A name that is not in `marks` comes from outside. Names of a class body are kept under `"<depth>.name"`.
    """

    __slots__ = ("functions", "marks")

    def __init__(self, marks: dict[str, int], functions: dict[str, tuple[FunctionNames, ...]]) -> None:
        self.marks = marks
        self.functions = functions

    def copy(self) -> State:
        return State(self.marks.copy(), self.functions.copy())


def join(one: State | None, other: State | None) -> State | None:
    """Return what holds where two paths meet; None is a path that does not get here."""
    if one is None or other is None:
        return one or other
    marks = {name: mark | other.marks.get(name, OUTSIDE) for name, mark in one.marks.items()}
    for name, mark in other.marks.items():
        if name not in marks:
            marks[name] = mark | OUTSIDE
    functions = one.functions.copy()
    for name, candidates in other.functions.items():
        known = functions.get(name, ())
        functions[name] = known + tuple(f for f in candidates if f not in known)
    return State(marks, functions)


class Loop:
    """The states in which a loop is left or begun again."""

    __slots__ = ("breaks", "continues")

    def __init__(self) -> None:
        self.breaks: State | None = None
        self.continues: State | None = None


class Class:
    """The class whose body is being followed."""

    __slots__ = ("globals", "methods", "prefix")

    def __init__(self, depth: int, global_: set[str]) -> None:
        self.prefix = f"{depth}."
        self.globals = global_
        self.methods = FunctionNames()


class Names:
    """The names of a cell while it is followed: `state` is what holds now, None where no path gets to."""

    def __init__(self, *, functions: Mapping[str, FunctionNames] | None = None, lazy_annotations: bool = False) -> None:
        known: dict[str, tuple[FunctionNames, ...]] = {
            name: (function,) for name, function in (functions or {}).items()
        }
        self.state: State | None = State({}, known)
        self.everywhere = State({}, {})  # what held anywhere, for a cell that always ends in an exception
        self.catchers: list[State] = [self.everywhere]
        self.reads: set[str] = set()
        self.seen = Effects()
        self.results: set[str] = set()
        self.imports: dict[str, str] = {}
        self.stars: list[str] = []
        self.magics: dict[int, str] = {}
        self.subtrees: dict[int, ast.Module] = {}
        self.constants: dict[str, str] = {}
        self.unsteady: set[str] = set()
        self.watchful: set[str] = set()  # classes with __init_subclass__
        self.aliases: dict[str, frozenset[str]] = {}
        self.loops: list[Loop] = []
        self.hidden: list[set[str]] = []
        self.klass: Class | None = None
        self.depth = 0
        self.again = False
        self.finals = 0
        self.defined = 0
        self.is_async = False
        self.dynamic = False
        self.lazy_annotations = lazy_annotations

    def slot(self, name: str) -> str:
        if self.klass is not None and name not in self.klass.globals:
            return self.klass.prefix + name
        return name

    def mark(self, slot: str, mark: int, functions: tuple[FunctionNames, ...] = ()) -> None:
        state = self.state
        if state is None:
            return
        state.marks[slot] = mark
        if functions:
            state.functions[slot] = functions
        else:
            state.functions.pop(slot, None)
        for catcher in self.catchers:
            catcher.marks[slot] = catcher.marks.get(slot, OUTSIDE) | mark
            if functions:
                known = catcher.functions.get(slot, ())
                catcher.functions[slot] = known + tuple(f for f in functions if f not in known)

    def bind(self, name: str, *, result: bool = True, functions: tuple[FunctionNames, ...] = ()) -> None:
        slot = self.slot(name)
        self.mark(slot, HERE, functions)
        if slot == name:
            self.aliases.pop(name, None)
            self.imports.pop(name, None)
            if name in self.constants:
                self.unsteady.add(name)
                del self.constants[name]
            if result:
                self.results.add(name)
        if functions:
            self.defined += 1

    def read(self, name: str) -> None:
        state = self.state
        if state is None or any(name in names for names in self.hidden):
            return
        if self.klass is not None and name not in self.klass.globals:
            slot = self.klass.prefix + name
            for function in state.functions.get(slot, ()):
                self.use(function)
            if not state.marks.get(slot, OUTSIDE) & OUTSIDE:
                return
        self.read_global(name, set())

    def read_global(self, name: str, used: set[str]) -> None:
        state = self.state
        if state is None:
            return
        if state.marks.get(name, OUTSIDE) & OUTSIDE:
            self.reads.add(name)
        if name in state.functions and name not in used:
            used.add(name)
            for function in state.functions[name]:
                self.use(function, used)

    def use(self, function: FunctionNames, used: set[str] | None = None) -> None:
        """Take in what a function does: it may be called from here on."""
        used = set() if used is None else used
        for name in function.reads:
            self.read_global(name, used)
        for name in function.changes:
            self.changed_global(name)
        self.seen.note_use(function)
        if self.state is not None:
            for name in function.binds:
                self.mark(name, self.state.marks.get(name, OUTSIDE) | HERE, self.state.functions.get(name, ()))
                self.results.add(name)

    def changed(self, name: str) -> None:
        if any(name in names for names in self.hidden):
            for origin in self.aliases.get(name, ()):
                self.changed_global(origin)
            return
        if self.slot(name) != name and self.state and self.state.marks.get(self.slot(name), OUTSIDE) == HERE:
            return
        self.changed_global(name)

    def changed_global(self, name: str) -> None:
        pending, done = [name], {name}
        while pending:
            name = pending.pop()
            if self.state and self.state.marks.get(name, OUTSIDE) & OUTSIDE and ":" in self.imports.get(name, ":"):
                self.seen.changes.add(name)
            for origin in self.aliases.get(name, ()):
                if origin not in done:
                    done.add(origin)
                    pending.append(origin)
