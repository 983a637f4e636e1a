"""Turn a step's cell into what is handed to the service: its names, its capture, its edges and its key."""

from __future__ import annotations

import types
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from mlbench.core.ids import ExecutionId
from mlbench.core.messages import StepOptions
from mlbench.core.records import Execution, Json
from mlbench.entrypoints.kernel.generators import Start
from mlbench.entrypoints.kernel.names import Held, Names, Provided, Source
from mlbench.entrypoints.kernel.pending import is_placeholder
from mlbench.notebook.cell import CellNames
from mlbench.notebook.history import is_history
from mlbench.runs import capture
from mlbench.runs.key import PLAIN
from mlbench.runs.reach import reach, submodules

__all__ = [
    "Inputs",
    "Track",
    "defs_of",
    "find_inputs",
    "is_plain",
    "modules_behind",
    "needs_of",
    "origin_of",
    "requirements_of",
    "without_modules",
]

_OF_THE_SHELL: Final = frozenset({"get_ipython", "display", "exit", "quit", "open", "__builtins__", "__builtin__"})


def is_plain(value: Any) -> bool:
    """Say whether a parameter's value is one that a record holds; a name that a step is still to bind is none.

    Examples
    --------
    >>> is_plain(("JFK", 0.5)), is_plain(object())
    (True, False)
    """
    kind = type(value)  # a stand-in says of itself that it is what it stands for
    of_numpy = kind.__module__ == "numpy" and getattr(value, "shape", None) == () and hasattr(value, "item")
    return of_numpy or issubclass(kind, (str, int, float, bool, type(None), list, dict, tuple))


@dataclass(slots=True, eq=False)
class Track:
    """One step of this kernel, as far as it is known here. Guarded by the session's lock, `execution` included.

    `before` is where each name came from that the cell read or bound; `seen` the names that it read. `late` says that
    its output is sent as it comes, `running` that its own cell still runs, `final` which execution cannot be replaced
    any more because of random numbers. `modules` are the digests of the local modules that its values may refer to.
    """

    step: str
    cell: str | None
    execution: ExecutionId
    body: str
    names: CellNames
    defs: frozenset[str]
    unstored: Mapping[str, str]
    quiet: frozenset[str]
    before: dict[str, Source]
    late: bool
    parent: Json
    key: str | None = None
    record: Execution | None = None
    ended: bool = False
    running: bool = True
    start: Start | None = None
    final: ExecutionId | None = None
    modules: Mapping[str, str] = field(default_factory=dict)
    queue: list[Json] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What a step is given: by other steps (`edges`), and captured from the kernel (`data`).

    `held` are all of the kernel's values that the cell reaches, also those that only a helper reads.
    """

    edges: dict[str, ExecutionId]
    data: bytes
    described: tuple[Json, ...]
    before: dict[str, Source]
    held: dict[str, Any]


def defs_of(step: str, names: CellNames, options: StepOptions) -> tuple[frozenset[str], frozenset[str], dict[str, str]]:
    """Return the names to store, those that are stored only if somebody reads them, and why others are not."""
    from mlbench.notebook.foreach import bound_of  # loaded with the first step

    bound = frozenset(name for name in bound_of(step, names, options) if not is_history(name))
    if options.outputs is not None:
        wanted = frozenset(options.outputs)
        return (
            wanted,
            frozenset(),
            {name: f"Step {step} was run with --outputs, which leaves {name} out." for name in bound - wanted},
        )
    left_out = frozenset(options.no_store)
    quiet = frozenset(name for name in bound - left_out if name.startswith("_"))
    return bound - left_out - quiet, quiet, {name: f"Step {step} was run with --no-store {name}." for name in left_out}


def without_modules(names: CellNames, namespace: Mapping[str, Any]) -> CellNames:
    """Leave out the modules that the items of a fan-out change: outside they stay modules, and are no lists of them."""
    if not names.items:
        return names
    held = {name: namespace.get(name) for name in names.changes}
    modules = frozenset(
        name for name, value in held.items() if not is_placeholder(value) and isinstance(value, types.ModuleType)
    )
    return replace(names, reads=names.reads | modules, changes=names.changes - modules)


def modules_behind(edges: Mapping[str, ExecutionId], track_of: Callable[[ExecutionId], Track | None]) -> dict[str, str]:
    """Return the local modules that may come with names that other steps give, as they were with those steps."""
    found: dict[str, str] = {}
    for name, execution in edges.items():
        track = track_of(execution)
        if track is not None and not _is_plain(name, track.record):
            found |= track.modules
    return found


def _is_plain(name: str, record: Execution | None) -> bool:
    """Say whether an execution is known to have made a value of a name that no module has a part in."""
    made = (one.artifact for one in (record.binds if record is not None else ()) if one.name == name)
    return any(artifact is not None and artifact.codec in PLAIN for artifact in made)


def requirements_of(options: StepOptions, notebook: str | None) -> tuple[str, ...]:
    """Return what is installed in the environment that a step asks for, nothing where it asks for none."""
    if options.env is None:
        return ()
    from mlbench.project.environments import find_requirements

    return find_requirements(options.env, notebook)


def needs_of(names: CellNames, namespace: Mapping[str, Any]) -> set[str]:
    """Return the names of the notebook that a cell may need."""
    wanted = set(names.reads | names.late | names.changes | names.maybe)
    wanted |= {name for name in names.builtins if name in namespace}
    return wanted - _OF_THE_SHELL


def origin_of(name: str, providers: Names, former: Track | None) -> Source:
    """Return where a cell has a name from: from where its last execution (`former`) had it, if that left it so."""
    source = providers.source(name)
    if former is not None and source == Provided(former.execution) and name in former.before:
        return former.before[name]
    return source


def find_inputs(
    names: CellNames,
    namespace: dict[str, Any],
    providers: Names,
    former: Track | None,
    *,
    resume_own: bool,
    defs: Collection[str],
    keep: capture.Keep | None,
) -> Inputs:
    """Say where each name comes from that the cell reaches, and capture what the kernel has.

    A cell that is run again (`former` is its last execution) starts from what it saw then, for each name that still
    is as that execution left it; with `resume_own` from what it made.
    """
    wanted = needs_of(names, namespace)
    items = names.items - wanted  # what helpers read under these names, each item brings along

    def origin(name: str) -> Source:
        return origin_of(name, providers, None if resume_own else former)

    edges: dict[str, ExecutionId] = {}
    held: dict[str, Any] = {}
    before: dict[str, Source] = {}
    todo = set(wanted)
    while todo:  # a value from before may reach names that the present one does not
        name = todo.pop()
        if name in before or name in items:
            continue
        source = before[name] = origin(name)
        if isinstance(source, Provided):
            edges[name] = source.execution
        elif isinstance(source, Held):
            held[name] = source.value
            space = {**namespace, name: source.value} if namespace.get(name) is not source.value else namespace
            todo |= reach({name}, space, inert=is_placeholder) - set(before)
    named = {name: value for name, value in held.items() if name in wanted or namespace.get(name) is not value}
    named |= _history(names.history, namespace)
    packages = [value.__name__ for value in held.values() if isinstance(value, types.ModuleType)]
    packed = capture.make(
        named,
        namespace,
        values=named,
        without={*edges, *items},
        modules=submodules({*packages, *names.imports.values(), *edges}, names.attributes),
        keep=keep,
    )
    for name in defs:
        if name not in before:
            before[name] = origin(name)
    described = [*packed.described, *(_reached(name, value) for name, value in held.items() if name not in named)]
    described = [{**one, "version": f"{id(held[one['name']]):x}"} if one["name"] in held else one for one in described]
    return Inputs(edges=edges, data=packed.data, described=tuple(described), before=before, held=held | named)


def _reached(name: str, value: Any) -> Json:
    """Describe a value that a step is given because a helper that it calls reads it."""
    return {"name": name, "type": capture.type_name(value), "size": capture.size_of(value)}


def _history(history: Collection[str], namespace: Mapping[str, Any]) -> dict[str, Any]:
    """Return the results and inputs of former cells that a cell reads by IPython's names for them."""
    found = {name: namespace[name] for name in history if name in namespace}
    results = namespace.get("Out") or {}
    numbers = [int(name[1:]) for name in history if name[1:].isdigit()]
    if "Out" not in found and numbers:
        found["Out"] = {number: results[number] for number in numbers if number in results}
    return {
        name: dict(value) if name in ("Out", "_oh") else list(value) if name in ("In", "_ih") else value
        for name, value in found.items()
    }
