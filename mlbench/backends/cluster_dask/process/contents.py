"""What a value consists of, as a pickle for comparison only: without what libraries keep in it for themselves.

Reading changes many objects: pandas puts columns of one type together and notes the unit of its times, SciPy whether
indices are sorted, pyarrow how many nulls there are, a `cached_property` its value. None of that is a change of the
value, but all of it is in the object's own pickle. Here each of these kinds is taken apart in a way of its own.
"""

from __future__ import annotations

import copyreg
import pickle
import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from operator import methodcaller
from typing import Any, Final

__all__ = ["Contents", "TooLarge", "read"]

LARGEST: Final = 64 << 20
"""Bytes of a value beyond which it is not compared."""
_KEPT: Final = 4 << 20
"""Bytes of pickle that are kept."""
_HEAVY: Final = 16
"""A byte of pickle of what is cached counts for so many of a buffer's, which is hashed where it lies."""
_PROTOCOL: Final = 5

_Reduce = Callable[[Any], Any]


class TooLarge(Exception):
    """More than a comparison is worth."""


class Contents:
    """The digest of what a value consists of, the pickle itself where it is small, and what is cached in it.

    Cached is what a class computes when it is asked for and then keeps in the object, as `functools.cached_property`
    does: by the place of the object in the value, and the name.
    """

    __slots__ = ("cached", "data", "digest", "size")

    def __init__(self, digest: bytes, data: bytes | None, size: int, cached: Mapping[tuple[int, str], bytes]) -> None:
        self.digest = digest
        self.data = data
        self.size = size
        self.cached = cached

    def same(self, now: Contents) -> bool:
        """Say whether a value with the contents `now` is still what it was: what is cached may come and go."""
        return self.digest == now.digest and all(
            now.cached.get(place, digest) == digest for place, digest in self.cached.items()
        )


def read(value: Any) -> Contents | None:
    """Return the contents of a value, None if it has no pickle.

    Raises
    ------
    TooLarge
        If it has more than 64 MB.
    """
    return _read(value, _Cached())


def _read(value: Any, cached: _Cached) -> Contents | None:
    import cloudpickle

    ways: tuple[tuple[Any, Mapping[type, _Reduce]], ...] = (
        (pickle.Pickler, copyreg.dispatch_table),
        (cloudpickle.Pickler, cloudpickle.Pickler.dispatch_table),
    )
    for pickler, others in ways:
        cached.forget()
        sink = _Sink(cached.left, _HEAVY if cached.inside else 1)
        try:
            _with_table(pickler)(sink, _Table(others, cached)).dump(value)
        except TooLarge:
            raise
        except Exception:  # noqa: BLE001, S112  the next way, or none: what can't be pickled is not compared
            continue
        return Contents(sink.digest(), sink.data(), sink.size, cached.digests)
    return None


@lru_cache(maxsize=4)
def _with_table(pickler: Any) -> Any:
    """Return a pickler that reduces objects as a table of its own says."""

    class Pickler(pickler):  # type: ignore[misc]
        def __init__(self, sink: _Sink, table: _Table) -> None:
            self._table = table
            super().__init__(sink, protocol=_PROTOCOL, buffer_callback=sink.take_buffer)

        @property
        def dispatch_table(self) -> _Table:
            return self._table

    return Pickler


class _Sink:
    """Takes a pickle and keeps its digest, and its bytes as long as they are few."""

    def __init__(self, most: int, weight: int) -> None:
        from blake3 import blake3

        self._hash = blake3()
        self._pieces: list[bytes] | None = []
        self._most = most
        self._weight = weight
        self.size = 0

    def write(self, data: Any) -> int:
        piece = bytes(data) if not isinstance(data, bytes) else data
        self._grow(len(piece) * self._weight)
        self._hash.update(piece)
        if self._pieces is not None:
            self._pieces = [*self._pieces, piece] if self.size <= _KEPT and len(self._pieces) < 64 else None
        return len(piece)

    def take_buffer(self, buffer: pickle.PickleBuffer) -> bool:
        """Hash a buffer where it lies; return True, so that it stays in the pickle's place if it must be copied."""
        try:
            raw = buffer.raw()
        except BufferError:
            return True
        self._pieces = None
        self._grow(raw.nbytes)
        self._hash.update(raw)
        return False

    def _grow(self, more: int) -> None:
        self.size += more
        if self.size > self._most:
            raise TooLarge

    def digest(self) -> bytes:
        digest: bytes = self._hash.digest()
        return digest

    def data(self) -> bytes | None:
        return None if self._pieces is None else b"".join(self._pieces)


# --- what is cached ---------------------------------------------------------------------------------------------------


class _Cached:
    """The digests of what the objects of a value have cached, as far as that is not too much; `left` is what may come.

    `inside` is said where a value that is itself cached is read: what is cached in that one is left out.
    """

    def __init__(self, left: int = LARGEST, *, inside: bool = False) -> None:
        self.left = left
        self.inside = inside
        self._may = left
        self.forget()

    def forget(self) -> None:
        self.digests: dict[tuple[int, str], bytes] = {}
        self._count = 0

    def note(self, found: Mapping[str, Any]) -> None:
        """Note what one object has cached."""
        self._count += 1
        if self.inside:
            return
        for name, value in found.items():
            if self._may <= 0:
                return
            try:
                contents = _read(value, _Cached(self._may, inside=True))
            except TooLarge:
                self._may = 0
                return
            if contents is not None:
                self._may -= contents.size
                self.digests[self._count, name] = contents.digest


@lru_cache(maxsize=4096)
def _computed(kind: Any) -> frozenset[str]:
    """Return the names that a class computes and that a value in the object then stands before.

    An attribute of the class that computes, but has no word when it is set, leaves the object's own value in charge.
    """
    return frozenset(
        name
        for base in kind.__mro__
        for name, one in vars(base).items()
        if hasattr(type(one), "__get__")
        and not hasattr(type(one), "__set__")
        and not callable(one)
        and not isinstance(one, classmethod)
    )


def _without_cached(names: frozenset[str], drawer: frozenset[str], cached: _Cached) -> _Reduce:
    def reduce(value: Any) -> Any:
        reduced = value.__reduce_ex__(_PROTOCOL)
        if not isinstance(reduced, tuple) or len(reduced) < 3:
            return reduced
        make, arguments, state, *rest = reduced
        own, slots = state if isinstance(state, tuple) and len(state) == 2 else (state, None)
        if not isinstance(own, dict):
            return reduced
        found = {name: one for name, one in own.items() if name in names}
        cached.note(found)
        left = {name: one for name, one in own.items() if name not in found and name not in drawer}
        if not left and slots is None:  # as an object whose own dictionary is still empty has it
            return (make, arguments, None, *rest)
        return (make, arguments, left if slots is None else (left, slots), *rest)

    return reduce


@lru_cache(maxsize=4096)
def _drawer(kind: Any) -> frozenset[str]:
    """Return where objects of a kind keep what pandas' own `cache_readonly` computes, all in one dictionary."""
    kept = any(
        type(one).__module__ == "pandas._libs.properties" and type(one).__name__ == "CachedProperty"
        for base in kind.__mro__
        for one in vars(base).values()
    )
    return frozenset({_CACHE}) if kept else frozenset()


_CACHE: Final = "_cache"


# --- kinds ------------------------------------------------------------------------------------------------------------


class _Table(dict[type, _Reduce]):
    """How objects are reduced, by their type; filled as types are met."""

    def __init__(self, others: Mapping[type, _Reduce], cached: _Cached) -> None:
        super().__init__()
        self._others = others
        self._cached = cached

    def __missing__(self, kind: Any) -> _Reduce:
        found = self._others.get(kind)
        if found is None:
            if issubclass(kind, type):
                raise KeyError(kind)  # a class, which is pickled by its name
            found = _special(kind)
        if found is None:
            names, drawer = _computed(kind), _drawer(kind)
            found = _without_cached(names, drawer, self._cached) if names or drawer else _AS_IT_SAYS
        self[kind] = found
        return found


_AS_IT_SAYS: Final = methodcaller("__reduce_ex__", _PROTOCOL)


@lru_cache(maxsize=4096)
def _special(kind: Any) -> _Reduce | None:
    for base in kind.__mro__:
        found = _SPECIAL.get((base.__module__, base.__name__))
        if found is not None:
            return found
    return None


class _Parts:
    """Stands in a pickle for an object that was taken apart; it comes back as itself, so that it can be compared."""

    __slots__ = ("_parts",)

    def __init__(self, *parts: Any) -> None:
        self._parts = parts

    def __reduce__(self) -> tuple[Any, ...]:
        return _Parts, self._parts


def _bare(array: Any) -> Any:
    """Return the items of an array, wherever and in whatever order they lie."""
    import numpy as np

    dtype = array.dtype
    if dtype.hasobject:
        return array.tolist() if dtype.kind == "O" else array
    whole: Any = np.ascontiguousarray(array)
    if dtype.kind in "mM":  # no buffers of these are given
        whole = whole.view("i8")
    name = sys.intern(dtype.str) if dtype.names is None else dtype
    try:
        return name, array.shape, pickle.PickleBuffer(memoryview(whole).toreadonly())
    except (ValueError, TypeError, BufferError):
        return whole


def _blocks(manager: Any) -> Any:
    """Take apart the blocks of a frame: its columns one by one, whichever of them lie together."""
    kind = type(manager)
    blocks = getattr(manager, "blocks", None)
    if blocks is None:
        return manager.__reduce_ex__(_PROTOCOL)
    if manager.ndim == 1:
        return _Parts, (kind, manager.axes, [_column(block.values) for block in blocks])
    columns: list[Any] = [None] * len(manager.axes[0])
    for block in blocks:
        values = block.values
        if values.ndim == 1:
            (place,) = block.mgr_locs
            columns[place] = _column(values)
        else:
            for place, row in zip(block.mgr_locs, values, strict=True):
                columns[place] = _column(row)
    return _Parts, (kind, manager.axes, columns)


def _column(values: Any) -> Any:
    return _bare(values) if hasattr(values, "strides") else values


def _backed(array: Any) -> Any:
    """Take apart an array of pandas' that is one of NumPy's with a type of its own: dates, categories, texts."""
    dtype = array.dtype
    name = sys.intern(dtype.str) if type(dtype).__module__.partition(".")[0] == "numpy" else dtype
    more = {key: one for key, one in getattr(array, "__dict__", {}).items() if key != _CACHE}
    return _Parts, (type(array), name, _bare(array._ndarray), more)


def _arrow(array: Any) -> Any:
    """Take apart an array of Arrow's, without the number of its nulls, which is counted when it is asked for."""
    make, (given,) = array.__reduce__()
    return _Parts, (make, _without_counts(given))


def _without_counts(given: Any) -> Any:
    kind, length, _, offset, buffers, children, dictionary = given
    inner = None if dictionary is None else _without_counts(dictionary)
    return kind, length, offset, buffers, [_without_counts(child) for child in children], inner


def _sparse(matrix: Any) -> Any:
    """Take apart a sparse matrix: the same entries, in order and each once."""
    import numpy as np

    whole = matrix
    if matrix.format in ("csr", "csc", "bsr", "coo"):
        # Asked of another object than the one that is read, which would keep the answer.
        lean = type(matrix)(_entries(matrix), shape=matrix.shape)
        if not lean.has_canonical_format:
            whole = matrix.copy()
            whole.sum_duplicates()
        own = {name: one for name, one in vars(matrix).items() if name not in _OF_ENTRIES}
        data, places = _entries(whole)[0], _entries(whole)[1:]
        flat = [part for place in places for part in (place if isinstance(place, tuple) else (place,))]
        return _Parts, (type(matrix), own, _bare(data), [_bare(np.asarray(one, np.int64)) for one in flat])
    make, arguments, state, *rest = matrix.__reduce_ex__(_PROTOCOL)
    if isinstance(state, dict):
        state = {name: one for name, one in state.items() if name not in _OF_ENTRIES or name in ("data", "_shape")}
    return (make, arguments, state, *rest)


def _entries(matrix: Any) -> tuple[Any, ...]:
    if matrix.format == "coo":
        return matrix.data, getattr(matrix, "coords", None) or (matrix.row, matrix.col)
    return matrix.data, matrix.indices, matrix.indptr


_OF_ENTRIES: Final = frozenset(
    {"data", "indices", "indptr", "coords", "row", "col"}
    | {"_has_sorted_indices", "_has_canonical_format", "has_sorted_indices", "has_canonical_format"}
)


def _tree(tree: Any) -> Any:
    """Take apart scikit-learn's tree of neighbours, which counts how often it was asked."""
    import numpy as np

    return _Parts, (type(tree), [np.asarray(one) for one in tree.get_arrays()])


def _callbacks(registry: Any) -> Any:
    """Take apart what a figure calls, without matplotlib's count of it, which goes on with every pickle."""
    make, arguments, state, *rest = registry.__reduce_ex__(_PROTOCOL)
    return (make, arguments, {**state, "_cid_gen": 0}, *rest)


def _transform(node: Any) -> Any:
    """Take apart one of matplotlib's transforms, without who uses it: those come and go with what is drawn."""
    make, arguments, state, *rest = node.__reduce_ex__(_PROTOCOL)
    return (make, arguments, {**state, "_parents": {}}, *rest)


_SPECIAL: Final[Mapping[tuple[str, str], _Reduce]] = {
    ("pandas.core.internals.managers", "BaseBlockManager"): _blocks,
    ("pandas._libs.arrays", "NDArrayBacked"): _backed,
    ("pyarrow.lib", "Array"): _arrow,
    ("scipy.sparse._base", "_spbase"): _sparse,
    ("scipy.sparse._base", "spmatrix"): _sparse,
    ("sklearn.neighbors._kd_tree", "BinaryTree64"): _tree,
    ("sklearn.neighbors._kd_tree", "BinaryTree32"): _tree,
    ("sklearn.neighbors._kd_tree", "BinaryTree"): _tree,
    ("sklearn.neighbors._ball_tree", "BinaryTree64"): _tree,
    ("sklearn.neighbors._ball_tree", "BinaryTree32"): _tree,
    ("sklearn.neighbors._ball_tree", "BinaryTree"): _tree,
    ("matplotlib.cbook", "CallbackRegistry"): _callbacks,
    ("matplotlib.transforms", "TransformNode"): _transform,
}
"""Kinds that keep things in their objects, by the class and the module that it is made in."""
