"""Values that a step changes in place without its names showing it: fingerprints before and after."""

from __future__ import annotations

import os
import pickle
import types
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from mlbench.backends.cluster_dask.process import contents
from mlbench.backends.cluster_dask.process.contents import LARGEST, Contents, TooLarge
from mlbench.notebook.history import is_history

__all__ = ["Values"]

_IMMUTABLE: Final = (type(None), bool, int, float, complex, str, bytes, range, frozenset)
_SHELL: Final = frozenset({"get_ipython", "exit", "quit", "display"})


class Values:
    """The values of a namespace as they were, so that it can be said later which have changed.

    A value's fingerprint is the digest of what it consists of; of arrays and frames over 64 MB, which are mapped from
    the store, the number of pages written to. What neither has is not watched, nor what never pickles twice the same.
    """

    def __init__(self, namespace: dict[str, Any], *, store: str, without: Collection[str] = ()) -> None:
        self._namespace = namespace
        self._store = store
        self._before: dict[str, tuple[Any, Any]] = {}
        self._large: dict[str, list[tuple[int, int]]] = {}
        for name, value in list(namespace.items()):
            if is_history(name) or name in _SHELL or name in without or (name.startswith("__") and name.endswith("__")):
                continue
            ranges = _memory_of(value)
            if sum(end - start for start, end in ranges) > LARGEST:
                self._large[name] = ranges
                self._before[name] = (value, None)
            else:
                self._before[name] = (value, _fingerprint(value))
        self._dirty = self._written()

    def changed(self, *, bound: Collection[str] = ()) -> tuple[str, ...]:
        """Return the names whose values are not what they were.

        Names that are gone are not, nor those in `bound` that hold another object: the cell shows that it binds them.
        """
        names = []
        written = self._written()
        for name, (value, before) in self._before.items():
            if name not in self._namespace:
                continue
            now = self._namespace[name]
            if now is not value:
                if name not in bound and not _same_plain(now, value):
                    names.append(name)
            elif name in self._large:
                if written.get(name, 0) > self._dirty.get(name, 0):
                    names.append(name)
            elif before is not None and not before.same(now):
                names.append(name)
        return tuple(names)

    def _written(self) -> dict[str, int]:
        """Return how much of each large value's memory differs from the file that it is mapped from, in KB."""
        if not self._large or not os.path.exists("/proc/self/smaps"):
            return {}
        written = dict.fromkeys(self._large, 0)
        inside: list[str] = []
        store = os.path.realpath(self._store)
        with open("/proc/self/smaps", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                words = line.split(None, 5)
                if "-" in words[0] and not words[0].endswith(":"):
                    start, end = (int(part, 16) for part in words[0].split("-"))
                    inside = []
                    if len(words) == 6 and words[5].startswith(store):
                        inside = [
                            name
                            for name, ranges in self._large.items()
                            if any(first < end and start < last for first, last in ranges)
                        ]
                elif inside and words[0] == "Private_Dirty:":
                    for name in inside:
                        written[name] += int(words[1])
        return written


class _Fingerprint:
    """What a value consisted of."""

    __slots__ = ("_before", "_of")

    def __init__(self, of: Callable[[Any], Any], before: Contents) -> None:
        self._of = of
        self._before = before

    def same(self, value: Any) -> bool:
        """Say whether a value still has this fingerprint.

        Pickles of some objects settle only after one round trip: if the digests differ, settled forms are compared.
        Others never do: if nothing happened and they differ again, nothing can be said.
        """
        before = self._before
        try:
            now = contents.read(self._of(value))
            if now is None or before.same(now):
                return True
            if before.digest == now.digest:  # it is something cached that has changed
                return False
            if before.data is not None and now.data is not None and _settled(before.data) == _settled(now.data):
                return True
            again = contents.read(self._of(value))
        except TooLarge:
            return False
        return again is None or not now.same(again)


def _settled(data: bytes) -> bytes:
    try:
        again = contents.read(pickle.loads(data))  # noqa: S301  pickled by this process a moment ago
    except Exception:  # noqa: BLE001  what can't be loaded again is compared as it is
        return data
    return again.digest if again is not None else data


def _fingerprint(value: Any) -> _Fingerprint | None:
    of = _what_of(value)
    if of is None:
        return None
    try:
        before = contents.read(of(value))
    except TooLarge:
        return None
    return None if before is None else _Fingerprint(of, before)


def _what_of(value: Any) -> Callable[[Any], Any] | None:
    """Return what of a value can change in place, as a function of it, or None."""
    kind = type(value)
    if kind in _IMMUTABLE or isinstance(value, (types.ModuleType, types.BuiltinFunctionType)):
        return None
    if kind is types.FunctionType:
        if value.__module__ != "__main__" or not (
            value.__closure__ or value.__defaults__ or value.__kwdefaults__ or value.__dict__
        ):
            return None
        return _held_by
    if isinstance(value, type):
        return _attributes if value.__module__ == "__main__" else None
    if kind.__module__ == "torch._C" and kind.__name__ == "Generator":
        return lambda generator: generator.get_state().numpy()
    return lambda same: same


def _held_by(function: Any) -> Any:
    cells = []
    for cell in function.__closure__ or ():
        try:
            cells.append(None if isinstance(cell.cell_contents, types.FunctionType) else cell.cell_contents)
        except ValueError:  # not bound yet
            cells.append(None)
    return (
        cells,
        function.__defaults__,
        function.__kwdefaults__,
        {name: item for name, item in function.__dict__.items() if name != "__wrapped__"},
    )


def _attributes(kind: Any) -> Any:
    return {
        name: item
        for name, item in vars(kind).items()
        if not name.startswith("__") and not callable(item) and not hasattr(item, "__get__")
    }


def _same_plain(now: Any, before: Any) -> bool:
    """Say whether a name that was bound again holds an equal plain value."""
    return type(now) is type(before) and type(now) in _IMMUTABLE and now == before


def _memory_of(value: Any) -> list[tuple[int, int]]:
    """Return where an array's or a frame's memory lies, for those of NumPy's kinds."""
    kind = type(value)
    if kind.__module__ == "numpy" and kind.__name__ == "ndarray":
        return _span(value)
    if kind.__name__ in ("DataFrame", "Series") and kind.__module__.partition(".")[0] == "pandas":
        blocks: Mapping[Any, Any] | list[Any] = getattr(getattr(value, "_mgr", None), "arrays", [])
        return [span for block in blocks for span in _memory_of(getattr(block, "_ndarray", block))]
    return []


def _span(array: Any) -> list[tuple[int, int]]:
    if array.dtype.hasobject or not array.nbytes:
        return []
    try:
        from numpy.lib.array_utils import byte_bounds
    except ImportError:  # NumPy 1
        from numpy import byte_bounds  # type: ignore[attr-defined,no-redef]
    start, end = byte_bounds(array)
    return [(int(start), int(end))]
