"""Digest what a step depends on, so that the same step is known again in another process.

Pickles do not serve: their bytes vary by process, file name and line. Code is digested by its instructions,
constants and names; functions with their defaults, closures and the globals that they read, transitively; classes by
what they define; containers item by item; other objects by what they reduce to; large data by its artifact's digest.
"""

from __future__ import annotations

import ast
import functools
import json
import sys
import types
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from mlbench.core.records import Json
from mlbench.runs.capture import is_data, reduce_wrapper
from mlbench.runs.reach import is_of_notebook, names_of_code

__all__ = ["Fingerprint", "digest_source", "key_of"]

FORMAT: Final = 1
_UNSTABLE: Final = frozenset(
    {
        "__dict__",
        "__weakref__",
        "__module__",
        "_abc_impl",
        "__firstlineno__",
        "__static_attributes__",
        "__annotate_func__",
        "__annotations_cache__",
    }
)
_PLAIN: Final = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis), type(NotImplemented))
_ITEMS: Final = 100_000


def digest_source(source: str) -> str:
    """Return a digest of Python source that does not change with comments and layout.

    Examples
    --------
    >>> digest_source("x = 1  # one") == digest_source("x=1")
    True
    >>> digest_source("x = 1") == digest_source("x = 2")
    False
    """
    from blake3 import blake3

    try:
        text = ast.dump(ast.parse(source), annotate_fields=False, include_attributes=False)
    except SyntaxError:
        text = source
    return blake3(text.encode("utf-8", "surrogatepass")).hexdigest()


def key_of(parts: Json) -> str:
    """Return the digest of a step's parts: JSON, canonical.

    Examples
    --------
    >>> key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1})
    True
    """
    from blake3 import blake3

    text = json.dumps({"format": FORMAT, **parts}, sort_keys=True, separators=(",", ":"), default=str)
    return blake3(text.encode()).hexdigest()


class Fingerprint:
    """Digest values of a notebook.

    Parameters
    ----------
    namespace
        The kernel's: functions whose globals it is are the notebook's.
    without
        Names that come from other steps: that they are read counts, their values do not.
    data
        Return the artifact digest of an array or frame.

    Attributes
    ----------
    modules
        Names of the modules that the values refer to: their own sources are digested by whoever can read files.
    """

    def __init__(
        self,
        namespace: Mapping[str, Any],
        *,
        without: Collection[str] = (),
        data: Callable[[Any], str] | None = None,
    ) -> None:
        self._namespace = namespace
        self._without = frozenset(without)
        self._data = data or _digest_data
        self.modules: set[str] = set()

    def of(self, value: Any) -> str:
        """Return the digest of one value.

        Raises
        ------
        TypeError
            For a value that reduces to nothing that can be digested.
        """
        from blake3 import blake3

        hasher = blake3()
        self._add(value, hasher.update, {}, [])
        return hasher.hexdigest()

    def _add(self, value: Any, put: Callable[[bytes], Any], seen: dict[int, int], alive: list[Any]) -> None:
        kind = type(value)
        if kind in _PLAIN:
            put(f"{kind.__name__}:{value!r};".encode("utf-8", "surrogatepass"))
            return
        if id(value) in seen:
            put(b"@%d;" % seen[id(value)])
            return
        seen[id(value)] = len(seen)
        alive.append(value)  # an object made on the way must not give its id to the next one
        add = functools.partial(self._add, put=put, seen=seen, alive=alive)
        put(f"{kind.__name__}(".encode())
        if kind in (list, tuple):
            for item in value:
                add(item)
        elif kind is dict:
            for name, item in value.items():
                add(name)
                add(item)
        elif kind in (set, frozenset):
            for digest in sorted(self.of(item) for item in value):
                put(digest.encode())
        elif isinstance(value, types.FunctionType):
            self._function(value, put, add)
        elif isinstance(value, type):
            self._class(value, put, add)
        elif isinstance(value, types.ModuleType):
            self._refer(value.__name__, "", put)
        elif kind in (staticmethod, classmethod):
            add(value.__func__)
        elif kind is property:
            for part in (value.fget, value.fset, value.fdel):
                add(part)
        elif kind is types.MethodType:
            add(value.__func__)
            add(value.__self__)
        elif kind is types.CodeType:
            self._code(value, put)
        elif is_data(value):
            put(self._data(value).encode())
        else:
            self._object(value, put, add)
        put(b")")

    def _function(self, value: types.FunctionType, put: Callable[[bytes], Any], add: Callable[[Any], None]) -> None:
        if not is_of_notebook(value, self._namespace) and "<locals>" not in value.__qualname__:
            self._refer(value.__module__ or "", value.__qualname__, put)
            return
        self._code(value.__code__, put)
        for part in (value.__defaults__, value.__kwdefaults__, dict(value.__dict__)):
            add(part)
        for cell in value.__closure__ or ():
            try:
                add(cell.cell_contents)
            except ValueError:  # not bound yet
                put(b"unbound;")
        if not is_of_notebook(value, self._namespace):
            self.modules.add(value.__module__ or "")
            return
        for name in sorted(names_of_code(value.__code__)):
            if name in self._without:
                put(f"step {name};".encode())
            elif name in value.__globals__:
                put(f"{name}=".encode())
                add(value.__globals__[name])

    def _class(self, value: type, put: Callable[[bytes], Any], add: Callable[[Any], None]) -> None:
        if not is_of_notebook(value, self._namespace):
            self._refer(value.__module__, value.__qualname__, put)
            return
        put(value.__qualname__.encode())
        add(type(value))
        for base in value.__bases__:
            add(base)
        for name, item in sorted(vars(value).items()):
            if name not in _UNSTABLE and not isinstance(item, (types.GetSetDescriptorType, types.MemberDescriptorType)):
                put(f"{name}=".encode())
                add(item)

    def _code(self, code: types.CodeType, put: Callable[[bytes], Any]) -> None:
        put(code.co_code)
        put(
            repr(
                (
                    code.co_names,
                    code.co_varnames,
                    code.co_freevars,
                    code.co_cellvars,
                    code.co_argcount,
                    code.co_kwonlyargcount,
                    code.co_posonlyargcount,
                    code.co_flags,
                )
            ).encode()
        )
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                self._code(constant, put)
            elif isinstance(constant, frozenset):
                put(repr(sorted(map(repr, constant))).encode())
            else:
                put(repr(constant).encode("utf-8", "surrogatepass"))

    def _object(self, value: Any, put: Callable[[bytes], Any], add: Callable[[Any], None]) -> None:
        reduced = reduce_wrapper(value)
        if reduced is None:
            reduced = value.__reduce_ex__(4)
        if isinstance(reduced, str):
            self._refer(getattr(value, "__module__", None) or type(value).__module__, reduced, put)
            return
        make, args, *rest = reduced
        add(make)
        add(args)
        state, items, pairs = (*rest, None, None, None)[:3]
        add(state)
        add(None if items is None else list(items))
        add(None if pairs is None else list(pairs))

    def _refer(self, module: str, name: str, put: Callable[[bytes], Any]) -> None:
        """Digest something by its name and the version of the package that it is in."""
        self.modules.add(module)
        package = sys.modules.get(module.partition(".")[0])
        version = package.__dict__.get("__version__") if isinstance(package, types.ModuleType) else None
        put(f"{module}:{name}:{version if isinstance(version, str) else ''};".encode())


def _digest_data(value: Any) -> str:
    from mlbench.runs.values import pack

    return str(pack(value).digest)
