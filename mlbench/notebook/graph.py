"""The graph: the steps of a notebook, and who waits for whom and why.

The cells are gone through in their order, with what is known of each name: which steps its value comes from, and what
calling it does if it is a function. A step waits for the steps whose names it reads, itself or through functions and
plain cells; for those that write a file which it names; for those that `--after` names; and, if it is run for its
effects, for all above it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from mlbench.core.errors import UsageError
from mlbench.core.messages import StepOptions
from mlbench.notebook import evidence, step
from mlbench.notebook.cell import CellNames, FunctionNames, analyse
from mlbench.notebook.foreach import names_of

__all__ = ["CellSource", "Edge", "Followed", "Problem", "Step", "StepGraph", "build", "follow"]

EdgeKind = Literal["name", "cell", "effects", "path", "after"]


@dataclass(frozen=True, slots=True)
class CellSource:
    """A code cell: `number` is its place among all cells of the notebook, from 1."""

    id: str
    source: str
    tags: tuple[str, ...] = ()
    number: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """`child` waits for `parent`; `why` ends a sentence that begins with the child (`"reads flights"`).

    `kind` is `name` (it reads `names`), `cell` (it reads names of a plain cell that come from the parent), `effects`
    (it is run for its effects), `path` (it names a file that the parent writes) or `after` (`--after`).
    """

    parent: str
    child: str
    kind: EdgeKind
    why: str
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Problem:
    """What would fail, and where: `line` counts from 1 in the cell, 0 for the cell as a whole."""

    cell: int
    line: int
    severity: Literal["error", "warning"]
    sentence: str
    cell_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A step of the graph.

    `number` is its cell's place among all cells, `position` its place among the steps, from 0. `captured` are the
    names that it takes from the kernel, `names` what its cell and the functions that it uses do.
    """

    name: str
    cell: str
    number: int
    position: int
    options: StepOptions
    names: CellNames
    captured: tuple[str, ...] = ()
    line: str = ""
    body: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepGraph:
    r"""Steps in the order of their cells, edges, and what is wrong.

    Examples
    --------
    >>> graph = build([CellSource("a", "%%step load\nx = 1"), CellSource("b", "%%step show\nprint(x)")])
    >>> [(edge.parent, edge.child, edge.why) for edge in graph.edges]
    [('load', 'show', 'reads x')]
    """

    steps: tuple[Step, ...] = ()
    edges: tuple[Edge, ...] = ()
    problems: tuple[Problem, ...] = ()

    def parents(self, name: str) -> tuple[str, ...]:
        """Return the steps that a step itself waits for, in the order of their cells."""
        wanted = {edge.parent for edge in self.edges if edge.child == name}
        return tuple(one.name for one in self.steps if one.name in wanted)

    def children(self, name: str) -> tuple[str, ...]:
        """Return the steps that themselves wait for a step, in the order of their cells."""
        wanted = {edge.child for edge in self.edges if edge.parent == name}
        return tuple(one.name for one in self.steps if one.name in wanted)


@dataclass(frozen=True, slots=True)
class Followed:
    """A cell with its names, those of the functions that it uses included; `step` is its name if it is one."""

    cell: CellSource
    names: CellNames
    step: str | None = None


def build(cells: Sequence[CellSource]) -> StepGraph:
    """Return the graph of a notebook's code cells, given in order. Never raises: what is wrong is a problem."""
    return follow(cells)[0]


def follow(cells: Sequence[CellSource]) -> tuple[StepGraph, tuple[Followed, ...]]:
    """Return the graph, and each cell that could be read."""
    builder = _Builder()
    for place, cell in enumerate(cells, start=1):
        builder.add(cell if cell.number else replace(cell, number=place))
    return builder.graph(), tuple(builder.followed)


@dataclass(slots=True)
class _Origin:
    """Where a name's value comes from: steps that bind it, and steps that it comes from through plain cells."""

    steps: frozenset[str] = frozenset()
    through: frozenset[str] = frozenset()


@dataclass(slots=True)
class _Builder:
    steps: list[Step] = field(default_factory=list)
    edges: list[Edge] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    origins: dict[str, _Origin] = field(default_factory=dict)
    functions: dict[str, FunctionNames] = field(default_factory=dict)
    modules: set[str] = field(default_factory=set)
    constants: dict[str, str] = field(default_factory=dict)
    written: list[tuple[str, str]] = field(default_factory=list)  # a path and the step that writes it
    by_name: dict[str, Step] = field(default_factory=dict)
    ancestors: dict[str, set[str]] = field(default_factory=dict)
    followed: list[Followed] = field(default_factory=list)
    awaited: list[tuple[CellSource, str, str]] = field(default_factory=list)  # a step's `--after` that none above has

    def graph(self) -> StepGraph:
        for cell, name, after in self.awaited:
            self.problem(cell, 1, f"Cell {cell.number}: --after {after}: {self.not_above(name, after)}")
        self.awaited.clear()
        return StepGraph(steps=tuple(self.steps), edges=tuple(self.edges), problems=tuple(self.problems))

    def problem(self, cell: CellSource, line: int, sentence: str) -> None:
        self.problems.append(Problem(cell.number, line, "error", sentence, cell.id))

    def add(self, cell: CellSource) -> None:
        try:
            found = step.parse(cell.source)
        except UsageError as error:
            self.problem(cell, 1, f"Cell {cell.number}: {error}")
            return
        names = self.analysed(cell, found)
        if names is None:
            if found is None:
                return
            names = CellNames()
        names = self.without_modules(names)
        self.followed.append(Followed(cell, names, found.name if found is not None else None))
        if found is None:
            self.add_plain(cell, names)
        else:
            self.add_step(cell, found, names)
        self.functions = {
            name: does for name, does in self.functions.items() if name not in names.binds | names.deletes
        } | dict(names.functions)
        constants = {} if names.items else names.constants  # outside a fan-out's names are lists
        self.constants = {
            name: text for name, text in self.constants.items() if name not in names.binds | names.maybe
        } | dict(constants)
        self.modules -= (names.binds | names.maybe) - set(names.imports)
        self.modules |= {name for name, module in names.imports.items() if ":" not in module}

    def analysed(self, cell: CellSource, found: step.StepCell | None) -> CellNames | None:
        try:
            if found is not None:
                return names_of(found.body, found.options, self.functions)
            return analyse(cell.source, self.functions)
        except SyntaxError as error:
            if "raises-exception" not in cell.tags:
                above = 0 if found is None else found.first_line - 1
                line = error.lineno + above if error.lineno else 0
                if line > 1 and _line(cell.source, line).startswith("%%step"):
                    self.problem(cell, line, f"Cell {cell.number}: %%step must be its first line.")
                    return None
                where = f", line {line}" if line else ""
                self.problem(cell, line, f"Cell {cell.number}{where}: {error.msg}.")
            return None

    def without_modules(self, names: CellNames) -> CellNames:
        """Leave out changes of modules: their settings are surroundings, not values."""
        changed = names.changes - self.modules
        return names if changed == names.changes else replace(names, changes=changed)

    def reads(self, names: CellNames) -> set[str]:
        """Return all names that a cell needs, a notebook's own under a builtin's name included."""
        return set(names.reads | names.changes) | {name for name in names.builtins if name in self.origins}

    def add_plain(self, cell: CellSource, names: CellNames) -> None:
        if "%%step" in names.magics:
            self.problem(cell, 0, f"Cell {cell.number}: %%step must be its first line.")
        origins = [self.origins[name] for name in self.reads(names) if name in self.origins]
        through = frozenset().union(*(origin.steps | origin.through for origin in origins))
        through |= {parent for _, parent, _ in self.written_before(names)}
        for name in names.binds | names.maybe:
            before = self.origins.get(name, _Origin()) if name in names.maybe else _Origin()
            self.origins[name] = _Origin(before.steps, before.through | through)
        for name in names.changes:
            before = self.origins.get(name, _Origin())
            self.origins[name] = _Origin(before.steps, before.through | (through - before.steps))
        for name in names.deletes:
            self.origins.pop(name, None)

    def add_step(self, cell: CellSource, found: step.StepCell, names: CellNames) -> None:
        duplicate = self.duplicate(cell, found)
        for module in names.stars:
            self.problem(
                cell,
                0,
                f"Cell {cell.number}: step {found.name} imports * from {module}, so what it binds cannot be known. "
                "Name what it needs, or import * in a plain cell.",
            )
        if duplicate:
            self.after_step(found.name, names)
            return
        reads = self.reads(names)
        parents: dict[str, Edge] = {}
        captured = set(names.reads)
        by_parent: dict[tuple[str, EdgeKind], list[str]] = {}
        for name in sorted(reads):
            origin = self.origins.get(name)
            if origin is None:
                continue
            if origin.steps:
                captured.discard(name)
            for parent in origin.steps:
                by_parent.setdefault((parent, "name"), []).append(name)
            for parent in origin.through - origin.steps:
                by_parent.setdefault((parent, "cell"), []).append(name)
        for (parent, kind), shared in by_parent.items():
            listed = _listed(shared)
            why = f"reads {listed}" if kind == "name" else f"reads {listed}, which comes from it through a plain cell"
            known = parents.get(parent)
            if known is None or (known.kind == "cell" and kind == "name"):
                parents[parent] = Edge(parent=parent, child=found.name, kind=kind, why=why, names=tuple(shared))
        for path, parent, _ in self.written_before(names):
            if parent not in parents and parent != found.name:
                parents[parent] = Edge(
                    parent=parent, child=found.name, kind="path", why=f"names {path}, which {parent} writes"
                )
        self.order(cell, found, names, parents)
        one = Step(
            name=found.name,
            cell=cell.id,
            number=cell.number,
            position=len(self.steps),
            options=found.options,
            names=names,
            captured=tuple(sorted(captured)),
            line=found.line,
            body=found.body,
        )
        self.edges.extend(parents[other.name] for other in self.steps if other.name in parents)
        self.ancestors[one.name] = set(parents).union(*(self.ancestors.get(parent, set()) for parent in parents))
        self.steps.append(one)
        self.by_name[step.same_name(one.name)] = one
        self.after_step(one.name, names)

    def duplicate(self, cell: CellSource, found: step.StepCell) -> bool:
        other = self.by_name.get(step.same_name(found.name))
        if other is None:
            return False
        if other.name == found.name:
            sentence = f"Cells {other.number} and {cell.number} are both step {found.name}: give one another name."
        else:
            sentence = (
                f"The steps {other.name} (cell {other.number}) and {found.name} (cell {cell.number}) differ only in "
                "case or Unicode form: give one another name."
            )
        self.problem(cell, 1, sentence)
        return True

    def order(self, cell: CellSource, found: step.StepCell, names: CellNames, parents: dict[str, Edge]) -> None:
        """Add the parents that `--after` names, or all steps above where the step is run for its effects."""
        after = found.options.after
        if after is None:
            if names.for_effects:
                for other in reversed(self.steps):
                    waited_for = any(other.name in self.ancestors.get(parent, ()) for parent in parents)
                    if other.name not in parents and not waited_for:
                        parents[other.name] = Edge(
                            parent=other.name,
                            child=found.name,
                            kind="effects",
                            why="is run for its effects, after the steps above it",
                        )
            return
        known = {other.name: other for other in self.steps}
        for name in after:
            if name in known:
                parents.setdefault(
                    name, Edge(parent=name, child=found.name, kind="after", why=f"is to run after {name}")
                )
                continue
            self.awaited.append((cell, found.name, name))

    def not_above(self, name: str, after: str) -> str:
        """Say what is wrong with a step that is to wait for one that is not above it."""
        if name in self.ancestors.get(after, ()):
            loop = [name, after]
            while loop[-1] != name:
                parents = [edge.parent for edge in self.edges if edge.child == loop[-1]]
                loop.append(next(one for one in parents if one == name or name in self.ancestors[one]))
            return f"steps would wait for each other, {' -> '.join(loop)}: leave that out."
        place = self.by_name[step.same_name(name)].position
        near = step.nearest(after, [other.name for other in self.steps[:place]])
        hint = f"did you mean {near}?" if near else "name a step of a cell above it."
        return f"there is no such step above step {name}: {hint}"

    def written_before(self, names: CellNames) -> list[tuple[str, str, str]]:
        """Return (named path, step, written path) for what steps above write and a cell names."""
        if not self.written:
            return []
        constants = {**self.constants, **names.constants}
        named = {evidence.resolve_text(text, constants) for text in names.names_paths | names.writes_paths}
        named |= {constants[name] for name in names.reads if name in constants}
        return [
            (path, parent, written)
            for path in sorted(filter(None, named))
            for written, parent in self.written
            if evidence.paths_meet(written, path)
        ]

    def after_step(self, name: str, names: CellNames) -> None:
        constants = {**self.constants, **names.constants}
        for text in sorted(names.writes_paths):
            path = evidence.resolve_text(text, constants)
            if path is not None:
                self.written.append((path, name))
        for bound in names.binds | names.changes:
            self.origins[bound] = _Origin(frozenset({name}))
        for bound in names.maybe - names.changes:
            before = self.origins.get(bound, _Origin())
            self.origins[bound] = _Origin(before.steps | {name}, before.through)
        for gone in names.deletes:
            self.origins.pop(gone, None)


def _line(source: str, number: int) -> str:
    lines = source.splitlines()
    return lines[number - 1].lstrip() if 0 < number <= len(lines) else ""


def _listed(names: Iterable[str]) -> str:
    """Return names as a sentence has them.

    Examples
    --------
    >>> _listed(["a", "b", "c"])
    'a, b and c'
    """
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
