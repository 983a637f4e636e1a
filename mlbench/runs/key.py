"""Digest what a step depends on, so that the same step is known again in another process.

Pickles do not serve: their bytes vary by process, file name and line. Code is digested by its instructions,
constants and names; functions with their defaults, closures and the globals that they read, transitively; classes by
what they define; containers item by item; other objects by what they reduce to; large data by its artifact's digest.

A step's key is the digest of named parts (`code`, `value trees`, `module helpers`, `input flights` …), so that it can
be said which of them has changed. Some are kept beside the key: they tell what else is compared, or what was asked.
"""

from __future__ import annotations

import ast
import copyreg
import dis
import functools
import itertools
import json
import sys
import types
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from mlbench.core.messages import Spread
from mlbench.runs.capture import is_data, reduce_wrapper
from mlbench.runs.reach import is_of_notebook, names_of_code

__all__ = [
    "ASIDE",
    "ASKED",
    "CATCH",
    "CELL",
    "FOLDER",
    "ITEMS",
    "PLAIN",
    "UNKNOWN",
    "Fingerprint",
    "digest_source",
    "item_keys",
    "key_of",
]

FORMAT: Final = 2

CELL: Final = "cell"
"""The part by which the very same cell is known when it is handed over again, whatever its parents will make."""
FOLDER: Final = "folder"
"""The part that says where a step ran: it counts if the step opened files or named some."""
ASKED: Final = "asked"
"""The part that says who asked for a step to be reused if it could be: its `line`, the kernel's `setting`, `resume`;
`no` is `--no-cache`, and nothing that nobody asked."""
UNKNOWN: Final = "unknown"
"""The part that says why nobody can tell what a step depends on: then it has no key."""
ITEMS: Final = "items"
"""The part that says of which items a fan-out is made: it is none of an item's own key."""
CATCH: Final = "--catch"
"""The part that says that a fan-out's lists have places for items that failed: to an item it makes no difference."""
ASIDE: Final = frozenset({CELL, FOLDER, ASKED, UNKNOWN})
"""The parts that are kept beside the key."""
PLAIN: Final = frozenset({"ndarray", "sparse", "frame", "arrow", "scalar"})
"""Codecs of values that hold nothing which any code of the user's says what it is."""

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
_HEAP_TYPE: Final = 1 << 9
"""Python's flag of a class that was not built into it."""
_PLAIN: Final = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis), type(NotImplemented))


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


def key_of(parts: Mapping[str, str]) -> str | None:
    """Return the digest of the parts that a step depends on, None where they are not all known.

    Examples
    --------
    >>> key_of({"code": "1", "python": "2"}) == key_of({"python": "2", "code": "1", "folder": "/tmp"})
    True
    >>> key_of({"code": "1", "unknown": "it uses eval"}) is None
    True
    """
    from blake3 import blake3

    if "code" not in parts or UNKNOWN in parts:
        return None
    counted = {name: part for name, part in parts.items() if name not in ASIDE}
    text = json.dumps([FORMAT, counted], sort_keys=True, separators=(",", ":"))
    return blake3(text.encode("utf-8", "surrogatepass")).hexdigest()


def item_keys(key: str, spread: Spread) -> list[str]:
    """Return the key of each item of a fan-out, from what the items have in common and the values of each.

    Of items with the same values each has another key: the first, the second … of them. All begin alike, so that they
    lie together in an index.

    Examples
    --------
    >>> keys = item_keys("all", Spread(shape=(3,), digests=(("one", "two", "one"),)))
    >>> len(set(keys)), keys[:2] == item_keys("all", Spread(shape=(2,), digests=(("one", "two"),)))
    (3, True)
    """
    from blake3 import blake3

    seen: Counter[tuple[str, ...]] = Counter()
    keys = []
    common = blake3(key.encode()).hexdigest()[:24]
    before = json.dumps([FORMAT, key], separators=(",", ":"))[:-1]
    # The JSON of [FORMAT, key, values, how often these were seen], put together: there may be a million.
    for values in itertools.product(*([json.dumps(one) for one in some] for some in spread.digests)):
        text = f"{before},[{','.join(values)}],{seen[values]}]"
        seen[values] += 1
        keys.append(common + blake3(text.encode()).hexdigest()[:40])
    return keys


class Fingerprint:
    """Digest values of a notebook.

    Parameters
    ----------
    namespace
        The kernel's: functions whose globals it is are the notebook's.
    without
        Names that are digested by themselves, or come from other steps: that they are read counts, their values do not.
    data
        Return the artifact digest of an array or frame.

    Attributes
    ----------
    modules
        Names of the modules that the values refer to: their own sources are digested by whoever can read files.
    attributes
        Names in the notebook's functions that may be attributes: `a.b` of a package `a` may be a module.
    texts
        Constant texts of the notebook's functions: some may be paths, or names of environment variables.
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
        self.attributes: set[str] = set()
        self.texts: set[str] = set()

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
        elif kind in (dict, types.MappingProxyType):
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
        elif kind is functools.cached_property:
            add(value.func)
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
                put(f"{name} elsewhere;".encode())
            elif name in value.__globals__:
                put(f"{name}=".encode())
                add(value.__globals__[name])

    def _class(self, value: type, put: Callable[[bytes], Any], add: Callable[[Any], None]) -> None:
        if not is_of_notebook(value, self._namespace) and _is_found_by_name(value):
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
        self.modules |= _imports_of_code(code)
        self.attributes.update(code.co_names)
        for constant in code.co_consts:
            self._note_texts(constant)
            if isinstance(constant, types.CodeType):
                self._code(constant, put)
            elif isinstance(constant, frozenset):
                put(repr(sorted(map(repr, constant))).encode())
            else:
                put(repr(constant).encode("utf-8", "surrogatepass"))

    def _note_texts(self, constant: Any) -> None:
        if isinstance(constant, str):
            self.texts.add(constant)
        elif isinstance(constant, (tuple, frozenset)):
            for one in constant:
                self._note_texts(one)

    def _object(self, value: Any, put: Callable[[bytes], Any], add: Callable[[Any], None]) -> None:
        reduced = reduce_wrapper(value)
        if reduced is None:
            registered = copyreg.dispatch_table.get(type(value))
            reduced = registered(value) if registered is not None else value.__reduce_ex__(4)
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


def _is_found_by_name(value: type) -> bool:
    """Say whether a class is what its name says: one that was made as the program ran may claim to be a module's."""
    if not value.__flags__ & _HEAP_TYPE:
        return True
    found: Any = sys.modules.get(value.__module__)
    for name in value.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is value


@functools.lru_cache(maxsize=4096)
def _imports_of_code(code: types.CodeType) -> frozenset[str]:
    """Return the modules that a code object imports, those inside it aside; `from a import b` may mean `a.b`."""
    found: set[str] = set()
    base = ""
    for one in dis.get_instructions(code):
        if one.opname == "IMPORT_NAME":
            base = str(one.argval)
            found.add(base)
        elif one.opname == "IMPORT_FROM":
            found.add(f"{base}.{one.argval}")
    return frozenset(found)


def _digest_data(value: Any) -> str:
    from mlbench.runs.values import pack

    return str(pack(value).digest)
