"""Pickling as notebooks need it: cloudpickle, and what it leaves out.

- Buffers of 16 KiB and more go out of band; frames nested in other objects are written by their own codec.
- Functions of the notebook that something wraps (`lru_cache`, `singledispatch`, `toolz.curry`, a decorator's object)
  are sent by value and wrapped again: by themselves these pickle as a name that does not exist where they arrive.
- A figure does not register itself with pyplot when it is loaded, which would show it a second time.
- An open file is refused: cloudpickle would send what it holds instead. So is a future of Dask's.
- A class of the notebook carries a digest of its definition, so that it can be told whether a live one is the same.

This module imports cloudpickle; `mlbench.runs.values` imports it when something has to be pickled.
"""

from __future__ import annotations

import functools
import gc
import io
import itertools
import pickle
import sys
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from typing import Any

import cloudpickle
from cloudpickle import cloudpickle as internals

from mlbench.runs.values import Buffer, Odd, Reduce, digest_of, whole, writable

__all__ = [
    "definition_digest",
    "dump",
    "load",
    "restore_cached_property",
    "restore_curry",
    "restore_frame",
    "restore_lru_cache",
    "restore_singledispatch",
    "restore_wrapper",
]

OUT_OF_BAND = 16 * 1024


def dump(value: Any, *, reduce: Reduce | None = None, seen: dict[int, Any] | None = None) -> list[bytes | memoryview]:
    """Return the stream of a value and its large buffers; see `mlbench.runs.values.pack`."""
    stream = io.BytesIO()
    buffers: list[bytes | memoryview] = []

    def keep(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < OUT_OF_BAND:
            return True
        buffers.append(raw)
        return False

    pickler = _Pickler(stream, keep, reduce)
    pickler.dump(value)
    if seen is not None:
        # The memo is copied whole: it keeps alive what was made on the way, so that no id is used twice.
        memo = {key: found for key, (_, found) in pickler.memo.copy().items()}
        artist = getattr(sys.modules.get("matplotlib.artist"), "Artist", ())
        if any(isinstance(found, artist) for found in memo.values()):
            # All figures hold some lists and arrays of matplotlib's own in common, which nobody sees.
            memo = {key: found for key, found in memo.items() if isinstance(found, artist) or found is value}
        own = _descriptions(memo.values())
        seen.update((key, found) for key, found in memo.items() if key not in own and _has_identity(found))
    return [stream.getbuffer(), *buffers]


def load(stream: Buffer, buffers: Sequence[Buffer], *, namespace: Mapping[str, Any] | None = None) -> Any:
    """Return what `dump` was given. The garbage collector rests meanwhile: nothing made here is garbage yet."""
    views = [writable(buffer) for buffer in buffers]
    resting = gc.isenabled()
    gc.disable()
    try:
        if b"_make_skeleton_" in bytes(stream):
            return _deep_down(_DEPTH, _Unpickler(io.BytesIO(stream), views, namespace or {}).load)
        # Only kernels and step processes come here.
        return _deep_down(_DEPTH, functools.partial(pickle.loads, stream, buffers=views))
    finally:
        if resting:
            gc.enable()


_DEPTH = 12


def _deep_down(depth: int, call: Callable[[], Any]) -> Any:
    """Call from so many frames below: some objects (patsy's formulas) look at their callers when they are loaded."""
    return _deep_down(depth - 1, call) if depth else call()


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # it comes without types
    def __init__(self, file: io.BytesIO, keep: Callable[[pickle.PickleBuffer], bool], reduce: Reduce | None) -> None:
        super().__init__(file, protocol=5, buffer_callback=keep)
        self._reduce = reduce

    def reducer_override(self, obj: Any) -> Any:
        if self._reduce is not None and (found := self._reduce(obj)) is not NotImplemented:
            return found
        kind = type(obj)
        if isinstance(obj, type):
            return _reduce_class(obj, super().reducer_override(obj))
        if kind is types.FunctionType:
            if hasattr(obj, "registry") and hasattr(obj, "dispatch") and _by_value(obj):
                return restore_singledispatch, (dict(obj.registry),)
        else:
            rule = _RULES.get(kind.__module__.partition(".")[0], _reduce_wrapper)
            if (found := rule(obj)) is not NotImplemented:
                return found
        return super().reducer_override(obj)


# --- what is reduced otherwise ----------------------------------------------------------------------------------------


def _by_value(obj: Any) -> bool:
    """Say whether an object that pickles as a name has none where it arrives."""
    module = sys.modules.get(getattr(obj, "__module__", None) or "__main__")
    if module is None or module.__name__ == "__main__":
        return True
    found: Any = module
    for part in getattr(obj, "__qualname__", "").split("."):
        found = getattr(found, part, None)
    return found is not obj


def _reduce_class(cls: type, reduced: Any) -> Any:
    if isinstance(reduced, tuple) and reduced[0] in {internals._make_skeleton_class, internals._make_skeleton_enum}:
        function, arguments, *rest = reduced
        # The last argument is cloudpickle's own place for additions, which it ignores.
        return (function, (*arguments[:-1], {"mlbench": definition_digest(cls)}), *rest)
    return reduced


def _reduce_functools(obj: Any) -> Any:
    if isinstance(obj, functools._lru_cache_wrapper) and _by_value(obj):
        # The wrapper's own attributes name the function, so that they come again with it.
        return restore_lru_cache, (obj.cache_parameters(), obj.__wrapped__)
    if type(obj) is functools.cached_property:
        return restore_cached_property, (obj.func, obj.attrname)  # until Python 3.12 it holds a lock
    return NotImplemented


def _reduce_file(obj: Any) -> Any:
    if isinstance(obj, io.BytesIO | io.StringIO) or obj in {sys.stdout, sys.stderr}:
        return NotImplemented
    raise pickle.PicklingError(f"cannot pickle '{type(obj).__module__}.{type(obj).__qualname__}' object")


def _reduce_numpy(obj: Any) -> Any:
    import numpy as np

    if type(obj) is not np.ndarray or obj.nbytes < OUT_OF_BAND or obj.flags.forc or obj.dtype.kind == "O":
        return NotImplemented
    return np.ascontiguousarray(obj).__reduce_ex__(5)  # by itself it would be copied into the stream


def _reduce_frame(obj: Any) -> Any:
    from mlbench.runs import frames

    try:
        header, *buffers = frames.encode(obj)
    except Odd:
        return NotImplemented
    return restore_frame, (bytes(whole(header)), [pickle.PickleBuffer(whole(buffer)) for buffer in buffers])


def _reduce_matplotlib(obj: Any) -> Any:
    transforms = sys.modules.get("matplotlib.transforms")
    if transforms is not None and isinstance(obj, transforms.TransformNode):
        return _reduce_transform(obj)
    cbook = sys.modules.get("matplotlib.cbook")
    if cbook is not None and type(obj) is cbook.CallbackRegistry:
        return _reduce_callbacks(obj)
    figure = sys.modules.get("matplotlib.figure")
    if figure is None or not isinstance(obj, figure.Figure):
        return NotImplemented
    reduced = list(obj.__reduce_ex__(5))
    if isinstance(reduced[2], dict):
        reduced[2] = {name: value for name, value in reduced[2].items() if name != "_restore_to_pylab"}
    return tuple(reduced)


def _reduce_transform(obj: Any) -> Any:
    reduced = list(obj.__reduce_ex__(5))
    state = reduced[2]
    if isinstance(state, dict) and isinstance(state.get("_parents"), dict):
        # They stand under their addresses, which differ each time and mean nothing where they are loaded.
        parents = [parent for parent in state["_parents"].values() if parent is not None]
        reduced[2] = {**state, "_parents": dict(enumerate(parents))}
    return tuple(reduced)


def _reduce_callbacks(obj: Any) -> Any:
    reduced = obj.__reduce_ex__(5)
    if isinstance(reduced[2], dict) and type(count := reduced[2].get("_cid_gen")) is int:
        obj._cid_gen = itertools.count(count)  # that it was pickled has taken one, so that no two pickles were alike
    return reduced


def _reduce_curry(obj: Any) -> Any:
    if type(obj).__name__ != "curry" or not _by_value(obj.func):
        return NotImplemented
    return restore_curry, (type(obj), obj.func, obj.args, obj.keywords)


def _reduce_wrapper(obj: Any) -> Any:
    state = getattr(obj, "__dict__", None)
    if not isinstance(state, dict) or "__wrapped__" not in state or state.get("__module__") != "__main__":
        return NotImplemented
    reduced = obj.__reduce_ex__(5)
    if not isinstance(reduced, str):
        return reduced
    rest = {name: value for name, value in state.items() if name != "__wrapped__"}
    return restore_wrapper, (type(obj), state["__wrapped__"], rest)


def _reduce_future(obj: Any) -> Any:
    """Refuse what stands for a task of Dask's: it pickles, and comes back as one that belongs to no client."""
    if any(kind.__name__ == "Future" and kind.__module__ == "distributed.client" for kind in type(obj).__mro__):
        raise TypeError("cannot pickle 'distributed.client.Future' object")
    return NotImplemented


_RULES: dict[str, Callable[[Any], Any]] = {
    "distributed": _reduce_future,
    "functools": _reduce_functools,
    "_io": _reduce_file,
    "numpy": _reduce_numpy,
    "pandas": _reduce_frame,
    "matplotlib": _reduce_matplotlib,
    "toolz": _reduce_curry,
    "cytoolz": _reduce_curry,
}


# --- named in stored pickles: never rename or remove these ------------------------------------------------------------


def restore_frame(header: bytes, buffers: Sequence[Buffer]) -> Any:
    """Return a frame that lay inside another object."""
    from mlbench.runs import frames

    return frames.decode(header, buffers)


def restore_lru_cache(parameters: Mapping[str, Any], function: Callable[..., Any]) -> Any:
    """Return a cached function, its cache empty."""
    return functools.lru_cache(**parameters)(function)


def restore_cached_property(function: Callable[..., Any], name: str | None) -> Any:
    """Return a cached property of a class."""
    found = functools.cached_property(function)
    found.attrname = name
    return found


def restore_singledispatch(registry: dict[type, Callable[..., Any]]) -> Any:
    """Return a function of many types."""
    function = functools.singledispatch(registry.pop(object))
    for kind, implementation in registry.items():
        function.register(kind, implementation)
    return function


def restore_curry(kind: type, function: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    """Return a curried function."""
    return kind(function, *arguments, **(keywords or {}))


def restore_wrapper(kind: type, function: Any, state: dict[str, Any]) -> Any:
    """Return a decorator's object around a function."""
    wrapper = kind(function)
    vars(wrapper).update(state)
    return wrapper


# --- classes of the notebook ------------------------------------------------------------------------------------------


def definition_digest(cls: type) -> str:
    """Return a digest of what a class statement says: names, code and plain constants, not where it stands."""
    own = {name: _definition(value) for name, value in vars(cls).items() if name not in _NOT_WRITTEN}
    bases = [f"{base.__module__}.{base.__qualname__}" for base in cls.__bases__]
    return digest_of(repr((cls.__qualname__, bases, sorted(own.items()))).encode("utf-8", "backslashreplace"))


_NOT_WRITTEN = frozenset(
    {
        "__module__",
        "__dict__",
        "__weakref__",
        "__doc__",
        "__firstlineno__",
        "__static_attributes__",
        "_abc_impl",
        "__abstractmethods__",
        "__annotations_cache__",
        "__annotate_func__",
        "__annotate__",
        "__parameters__",
        "__slotnames__",
    }
)


def _definition(value: Any) -> str:
    if isinstance(value, staticmethod | classmethod):
        return f"{type(value).__name__} {_definition(value.__func__)}"
    if isinstance(value, property):
        return f"property {[_definition(part) for part in (value.fget, value.fset, value.fdel)]}"
    if isinstance(value, types.FunctionType):
        return f"function {_code(value.__code__)} {_definition(value.__defaults__)} {_definition(value.__kwdefaults__)}"
    if isinstance(value, str | bytes | int | float | complex | None):
        return repr(value)
    if isinstance(value, tuple | list):
        return f"{type(value).__name__} {[_definition(part) for part in value]}"
    if isinstance(value, dict):
        return f"dict {sorted((repr(key), _definition(part)) for key, part in value.items())}"
    if isinstance(value, Enum):
        return repr(value)
    if isinstance(value, type):
        return f"class {value.__module__}.{value.__qualname__}"
    return type(value).__qualname__


def _code(code: types.CodeType) -> str:
    constants = [_code(part) if isinstance(part, types.CodeType) else _constant(part) for part in code.co_consts]
    return repr((code.co_code, constants, code.co_names, code.co_varnames, code.co_freevars, code.co_flags))


def _constant(value: Any) -> str:
    return f"frozenset {sorted(map(repr, value))}" if isinstance(value, frozenset) else repr(value)


class _Unpickler(pickle.Unpickler):
    """Uses the classes that are there already: those seen before under the same tracker id, and live ones alike."""

    def __init__(self, file: io.BytesIO, buffers: Sequence[memoryview], namespace: Mapping[str, Any]) -> None:
        super().__init__(file, buffers=buffers)
        self._namespace = namespace
        self._there: set[type] = set()

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if module_name == "cloudpickle.cloudpickle":
            if global_name in {"_make_skeleton_class", "_make_skeleton_enum"}:
                return functools.partial(self._skeleton, getattr(internals, global_name))
            if global_name == "_class_setstate":
                return self._fill
        return super().find_class(module_name, global_name)

    def _skeleton(self, make: Callable[..., type], *arguments: Any) -> type:
        *_, tracker, extra = arguments
        found = internals._DYNAMIC_CLASS_TRACKER_BY_ID.get(tracker) or self._live(arguments[1], extra)
        if found is None:
            return make(*arguments)
        self._there.add(found)
        return found

    def _live(self, name: str, extra: Any) -> type | None:
        live = self._namespace.get(name)
        if not isinstance(live, type) or live.__module__ != "__main__" or not isinstance(extra, dict):
            return None
        return live if definition_digest(live) == extra.get("mlbench") else None

    def _fill(self, cls: type, state: Any) -> type:
        return cls if cls in self._there else internals._class_setstate(cls, state)


# --- identity ---------------------------------------------------------------------------------------------------------

_CONTAINERS = (list, dict, set, bytearray)

_ATOMIC_MODULES = frozenset({
    "builtins", "types", "typing", "datetime", "decimal", "fractions", "uuid", "pathlib", "re", "zoneinfo", "logging",
    "pickle", "_pickle", "operator", "functools", "ipaddress", "weakref", "cloudpickle", "abc", "_abc", "pytz",
    "dateutil", "inspect", "enum", "_thread", "threading", "contextvars", "_contextvars", "random_state", "pyarrow",
})  # fmt: skip


def _descriptions(objects: Iterable[Any]) -> set[int]:
    """Return the ids of the tables of fields of NumPy's types: all arrays of a structured type have one in common."""
    np = sys.modules.get("numpy")
    kinds = [one for one in objects if np is not None and isinstance(one, np.dtype) and one.names is not None]
    return {id(part) for kind in kinds for part in kind.__reduce__()[2] if isinstance(part, dict)}


def _has_identity(obj: Any) -> bool:
    """Say whether someone could observe that two names hold this very object."""
    if isinstance(obj, _CONTAINERS):
        return True
    kind = type(obj)
    root = kind.__module__.partition(".")[0]
    if root in _ATOMIC_MODULES or isinstance(obj, type | Enum | types.ModuleType):
        return False
    if root == "numpy":
        return kind.__name__ in {"ndarray", "Generator", "RandomState", "MaskedArray", "matrix"}
    if root == "pandas":
        return kind.__name__ in {"DataFrame", "Series"}
    if root == "matplotlib":
        artist = sys.modules.get("matplotlib.artist")
        return artist is not None and isinstance(obj, artist.Artist)
    return True
