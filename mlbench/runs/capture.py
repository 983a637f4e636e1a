"""Pack what a step's cell reads from its kernel, by value, and unpack it in the step's process.

A capture is one pickle of a dictionary of names. Functions and classes of the notebook travel by value with what they
in turn read; modules travel by name. One function of the notebook's own namespace, the sentinel, travels along: all
functions captured share one globals dictionary with it, so that on the other side that dictionary is the namespace
in which the cell runs, and a helper sees what the cell binds.

Large arrays and frames do not travel: they are kept once in the store, and the capture holds their binding. The
source of what travels goes along, so that a traceback shows a helper's lines.
"""

from __future__ import annotations

import contextvars
import copyreg
import functools
import gc
import importlib
import io
import linecache
import pickle
import sys
import types
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from mlbench.core.errors import CaptureError
from mlbench.core.records import Json
from mlbench.runs.reach import is_of_notebook, names_of_code

if TYPE_CHECKING:
    from mlbench.core.ports import BlobStore

__all__ = ["LARGE", "Capture", "Problem", "install", "is_data", "make", "size_of", "type_name"]

LARGE: Final = 1 << 20
"""From this many bytes on an array or frame is kept in the store rather than sent along."""

Keep = Callable[[Any], Json]
"""Keep a large value in the store and return its binding as JSON (see `mlbench.core.records.Binding`)."""

_SENTINEL: Final = "__mlbench_sentinel__"
_SOURCES: Final = "__mlbench_sources__"
_MODULES: Final = "__mlbench_modules__"
_FETCH: contextvars.ContextVar[Callable[[Json], Any]] = contextvars.ContextVar("mlbench_fetch")


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A value that cannot be sent: `path` says where it is, such as `cfg["lock"]`."""

    path: str
    type: str
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Capture:
    """What a cell reads from its kernel, packed.

    `described` says it to people, one object a name, with the fields of `mlbench.core.records.Read`.
    """

    data: bytes
    described: tuple[Json, ...] = ()


def make(
    names: Collection[str],
    namespace: dict[str, Any],
    *,
    values: Mapping[str, Any] | None = None,
    without: Collection[str] = (),
    modules: Collection[str] = (),
    keep: Keep | None = None,
) -> Capture:
    """Pack the values of names.

    Parameters
    ----------
    names
        The names that the cell reads. Those that the namespace lacks are left out.
    namespace
        The kernel's.
    values
        Values to send for some of the names in place of what the namespace holds now.
    without
        Names that come from other steps: helpers that read them are sent, their values are not.
    modules
        Modules to import there though no name holds them: those below a package that one holds.
    keep
        Where large values go; without it they travel along.

    Raises
    ------
    CaptureError
        Names each value that cannot be sent, where it is, its type and what to do instead.
    """
    given = values or {}
    wanted = {
        name: given[name] if name in given else namespace[name]
        for name in sorted(set(names))
        if (name in given or name in namespace) and name not in without
    }
    hidden = frozenset(without) | {name for name in given if namespace.get(name) is not given[name]}
    sentinel = types.FunctionType(_nothing.__code__, namespace, _SENTINEL)
    sentinel.__module__ = "__main__"
    kept: dict[int, Json] = {}
    try:
        sources: dict[str, str] = {}  # filled while what comes before it is packed
        whole = {_SENTINEL: sentinel, **wanted, _MODULES: sorted(modules), _SOURCES: sources}
        data = _dumps(whole, namespace, hidden, keep, kept, sources)
    except Exception as error:
        problems = tuple(_problems(wanted, namespace, hidden))
        if not problems:
            raise CaptureError(
                f"What the cell reads can't be sent to a step: {type(error).__name__}: {error}.",
                "Run the cell with --here, or make what it reads inside the step.",
            ) from error
        raise _error(problems) from error
    return Capture(data=data, described=tuple(_describe(name, value, kept) for name, value in wanted.items()))


def install(data: bytes, blobs: BlobStore | None = None) -> dict[str, Any]:
    """Unpack a capture: return the namespace in which the cell is to run.

    Functions of the notebook have this very dictionary as their globals.
    """
    from mlbench.runs.artifacts import Loader

    fetch: Callable[[Json], Any] = Loader(blobs).load if blobs is not None else _no_store
    token = _FETCH.set(fetch)
    collecting = gc.isenabled()
    gc.disable()  # a pickle of many small objects loads 2.7 times faster
    try:
        names: dict[str, Any] = pickle.loads(data)  # noqa: S301  the bytes come from this user's own kernel
    finally:
        if collecting:
            gc.enable()
        _FETCH.reset(token)
    for module in names.pop(_MODULES, ()):
        importlib.import_module(module)
    for filename, source in names.pop(_SOURCES).items():
        lines = source.splitlines(keepends=True)
        linecache.cache[filename] = (len(source), None, lines, filename)
    namespace: dict[str, Any] = names.pop(_SENTINEL).__globals__
    namespace.update(names)
    return namespace


def is_data(value: Any) -> bool:
    """Say whether a value is an array or a frame: plain data in large buffers."""
    kind = type(value)
    return (kind.__module__, kind.__name__) in _DATA


def size_of(value: Any) -> int | None:
    """Return the bytes that an array or frame takes, None for anything else."""
    if not is_data(value):
        return None
    if type(value).__name__ == "ndarray":
        return int(value.nbytes)
    usage = value.memory_usage(deep=False)
    return int(usage if isinstance(usage, int) else usage.sum())


def type_name(value: Any) -> str:
    """Return the full name of a value's type, without `builtins`.

    Examples
    --------
    >>> type_name([]), type_name(io.StringIO())
    ('list', '_io.StringIO')
    """
    kind = type(value)
    module = kind.__module__
    return kind.__qualname__ if module in ("builtins", "__main__") else f"{module}.{kind.__qualname__}"


_DATA: Final = frozenset(
    {
        ("numpy", "ndarray"),
        ("pandas", "DataFrame"),
        ("pandas", "Series"),
        ("pandas.core.frame", "DataFrame"),
        ("pandas.core.series", "Series"),
    }
)


def _nothing() -> None:
    """Stand for the notebook's globals on the other side."""


def _no_store(binding: Json) -> Any:
    raise CaptureError(f"The capture needs {binding.get('name')} from a store, and none is given.")


def _code_of(make: Callable[..., types.CodeType], parts: tuple[Any, ...], filename: str) -> types.CodeType:
    """Make a code object again that knows the cell it is from: cloudpickle forgets it."""
    return make(*parts).replace(co_filename=filename)


def _source(filename: str) -> dict[str, str]:
    """Return the source of a cell, which no file holds: an entry of the line cache without a time."""
    entry = linecache.cache.get(filename)
    return {filename: "".join(entry[2])} if entry is not None and len(entry) == 4 and entry[1] is None else {}


def _fetch(binding: Json) -> Any:
    return _FETCH.get()(binding)


class _Refused(TypeError):
    """A value that would pickle, but not as what it is."""


def _dumps(
    value: Any,
    namespace: dict[str, Any],
    without: frozenset[str],
    keep: Keep | None,
    kept: dict[int, Json],
    sources: dict[str, str] | None = None,
) -> bytes:
    import cloudpickle
    from cloudpickle.cloudpickle import _code_reduce

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        """cloudpickle's, and what it lacks for notebooks."""

        def reducer_override(self, value: Any) -> Any:
            refusal = _refusal(value)
            if refusal is not None:
                raise _Refused(refusal)
            if keep is not None and (size_of(value) or 0) >= LARGE:
                if id(value) not in kept:
                    kept[id(value)] = keep(value)
                return _fetch, (kept[id(value)],)
            if type(value) is types.CodeType:
                name = value.co_filename
                if sources is not None and name not in sources:
                    sources.update(_source(name))
                return _code_of, (*_code_reduce(value), name)
            own = reduce_wrapper(value)
            if own is not None:
                return own
            reduced = super().reducer_override(value)
            if type(value) is types.FunctionType and isinstance(reduced, tuple) and value.__globals__ is namespace:
                _leave_out(reduced, without)
            return reduced

    stream = io.BytesIO()
    Pickler(stream, protocol=5).dump(value)
    return stream.getvalue()


def _leave_out(reduced: tuple[Any, ...], without: frozenset[str]) -> None:
    """Take names out of the globals that cloudpickle sends with a function (its state's second part)."""
    sent = reduced[2][1]["__globals__"]
    for name in [name for name in sent if name in without or name in _OF_THE_SHELL]:
        del sent[name]


_OF_THE_SHELL: Final = frozenset({"get_ipython", "display", "exit", "quit", "In", "Out", "open", "__builtins__"})


def reduce_wrapper(value: Any) -> Any:
    """Reduce an object around a notebook's function that would travel by its name only, or None.

    `functools.lru_cache` and `toolz.curry` reduce to the name of what they wrap, which means nothing elsewhere: what
    they wrap is sent by value and wrapped again.
    """
    kind = type(value)
    if kind is functools._lru_cache_wrapper:
        return (_cache_again, (value.cache_parameters(), value.__wrapped__)) if _of_main(value.__wrapped__) else None
    if kind.__name__ == "curry" and kind.__module__.partition(".")[0] in ("toolz", "cytoolz"):
        return (
            (kind, (value.func, *value.args))
            if not value.keywords
            else (_curry_again, (kind, value.func, value.args, value.keywords))
        )
    if kind is weakref.WeakKeyDictionary or kind is weakref.WeakValueDictionary:
        return _weak_again, (kind, dict(value))
    wrapped = _own_attribute(value, "__wrapped__")
    if wrapped is not None and kind is not types.FunctionType and _of_main(wrapped) and not isinstance(value, type):
        plain = value.__reduce_ex__(4)
        return (copyreg.__newobj__, (kind,), dict(value.__dict__)) if isinstance(plain, str) else None  # type: ignore[attr-defined]
    return None


def _of_main(function: Any) -> bool:
    return getattr(function, "__module__", None) == "__main__"


def _own_attribute(value: Any, name: str) -> Any:
    try:
        own = object.__getattribute__(value, "__dict__")
    except (AttributeError, TypeError):
        return None
    return own.get(name) if isinstance(own, dict) else None


def _cache_again(parameters: Mapping[str, Any], function: Callable[..., Any]) -> Any:
    return functools.lru_cache(**parameters)(function)


def _curry_again(kind: Any, function: Any, args: tuple[Any, ...], keywords: Mapping[str, Any]) -> Any:
    return kind(function, *args, **keywords)


def _weak_again(kind: Any, items: Mapping[Any, Any]) -> Any:
    return kind(items)


def _describe(name: str, value: Any, kept: Mapping[int, Json]) -> Json:
    described: Json = {"name": name, "type": type_name(value)}
    size = size_of(value)
    if size is not None:
        described["size"] = size
    binding = kept.get(id(value))
    if binding is not None and binding.get("artifact"):
        described["digest"] = binding["artifact"]["digest"]
        described["size"] = binding["artifact"]["size"]
    return described


# What can't be sent: who it is, and what to do instead.

_REMEDIES: Final = (
    (("_io.", "tempfile.", "gzip.", "zipfile.", "tarfile.", "h5py."), "Open it inside the step."),
    (("lock", "Lock", "Condition", "Semaphore", "threading.Event", "Barrier"), "Make it inside the step."),
    (("generator", "coroutine"), "Make a list of it first, or make it inside the step."),
    (
        ("sqlite3.", "sqlalchemy.", "psycopg", "duckdb", "socket.", "ssl.", "http.client", "Connection", "Session"),
        "Connect inside the step.",
    ),
    (("threading.", "subprocess.", "multiprocessing.", "concurrent."), "Start it inside the step."),
)
_REMEDY: Final = "Make it inside the step, or run the cell with --here."


def _refusal(value: Any) -> str | None:
    """Say why a value may not be pickled although it could be: it would arrive as something else."""
    kind = type(value)
    if issubclass(kind, io.IOBase) and not issubclass(kind, (io.BytesIO, io.StringIO)):
        return None if value in (sys.stdout, sys.stderr, sys.stdin, sys.__stdout__, sys.__stderr__) else "an open file"
    threading = sys.modules.get("threading")
    if threading is not None and issubclass(kind, threading.Thread):
        return "a thread"
    return None


def _problems(wanted: Mapping[str, Any], namespace: dict[str, Any], without: frozenset[str]) -> Iterator[Problem]:
    seen: set[int] = set()
    for name, value in wanted.items():
        yield from _search(name, value, namespace, without, seen, 0)


def _search(
    path: str, value: Any, namespace: dict[str, Any], without: frozenset[str], seen: set[int], depth: int
) -> Iterator[Problem]:
    """Yield the innermost values that can't be sent, of a value that may hold some."""
    if id(value) in seen or depth > 8:
        return
    try:
        _dumps(value, namespace, without, None, {})
    except Exception:  # noqa: BLE001  whatever a stranger's reducer raises, the value can't be sent
        seen.add(id(value))
        inner = [
            problem
            for where, child in _inside(path, value, namespace, without)
            for problem in _search(where, child, namespace, without, seen, depth + 1)
        ]
        if inner:
            yield from inner
        elif not any(id(child) in seen for _, child in _inside(path, value, namespace, without)):
            name = type_name(value)
            remedy = next((remedy for parts, remedy in _REMEDIES if any(part in name for part in parts)), _REMEDY)
            yield Problem(path=path, type=name, remedy=remedy)


def _inside(path: str, value: Any, namespace: dict[str, Any], without: frozenset[str]) -> Iterator[tuple[str, Any]]:
    """Yield what a value holds, each with where it is, as the user would write it."""
    kind = type(value)
    if isinstance(value, dict):
        yield from ((f"{path}[{_quoted(key)}]", item) for key, item in value.items())
    elif kind in (list, tuple):
        yield from ((f"{path}[{place}]", item) for place, item in enumerate(value))
    elif kind in (set, frozenset):
        yield from ((f"an item of {path}", item) for item in value)
    elif kind is types.FunctionType:
        for name in sorted(names_of_code(value.__code__)):
            if name in value.__globals__ and name not in without:
                yield (name if path == name else f"{name} (which {path} reads)"), value.__globals__[name]
        for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=False):
            try:
                yield f"{name} (which {path} closes over)", cell.cell_contents
            except ValueError:  # not bound yet
                continue
        yield from ((f"a default of {path}", item) for item in value.__defaults__ or ())
    elif kind is types.MethodType:
        yield path.rpartition(".")[0] or path, value.__self__
    elif isinstance(value, functools.partial):
        yield f"{path}.func", value.func
        yield from ((f"{path}.args[{place}]", item) for place, item in enumerate(value.args))
        yield from ((f"{path}.keywords[{_quoted(key)}]", item) for key, item in value.keywords.items())
    elif isinstance(value, type):
        if is_of_notebook(value, namespace):
            yield from ((f"{path}.{key}", item) for key, item in vars(value).items() if not key.startswith("__"))
    elif kind is types.SimpleNamespace or is_of_notebook(kind, namespace):
        yield from ((f"{path}.{key}", item) for key, item in getattr(value, "__dict__", {}).items())
        yield kind.__name__, kind


def _quoted(key: Any) -> str:
    return f'"{key}"' if isinstance(key, str) else repr(key)


def _error(problems: tuple[Problem, ...]) -> CaptureError:
    listed = ", ".join(f"{one.path} ({one.type})" for one in problems)
    remedies = dict.fromkeys(one.remedy for one in problems)
    return CaptureError(f"This can't be sent to a step: {listed}.", " ".join(remedies))
