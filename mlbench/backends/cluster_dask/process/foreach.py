"""The items of a fan-out in a step's process: what its `--foreach` give, and one item's values out of all of them."""

from __future__ import annotations

import itertools
import linecache
import math
import os
import pickle
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from mlbench.core.errors import UsageError
from mlbench.core.messages import Foreach, Spread
from mlbench.core.ports import BlobStore
from mlbench.runs import artifacts, previews, values

__all__ = ["Items", "evaluate", "file_of", "keep", "what_to_do"]

_LABEL: Final = 80
_LONGEST: Final = 2_000
"""Bits of a number from which on Python may refuse to write it with decimal digits."""

_ATOMS: Final = frozenset({bool, int, float, complex, str, bytes, type(None)})
_FIXED: Final = (types.FunctionType, types.BuiltinFunctionType, types.ModuleType, type)
_LOOKED_AT: Final = 64 << 20
_MOST_UNSEEN: Final = 1_000
"""It is looked how much memory there is in use after so many bytes, and after so many items."""
_MOST_MEMORY: Final = 2 << 30
"""Bytes by which a process may grow while it takes the items of an iterator that does not say how many it has."""


def evaluate(foreach: Sequence[Foreach], namespace: dict[str, Any], most: int) -> list[list[Any]]:
    """Return the values of each `--foreach`.

    Raises
    ------
    UsageError
        If there are more than `most` items, if an iterator has no end, or if something can't be iterated, or has no
        order that would be the same elsewhere.
    Exception
        Whatever an expression raises.
    """
    found: list[list[Any]] = []
    left = most
    for one in foreach:
        file = file_of(one.name)
        linecache.cache[file] = (len(one.expression), None, [f"{one.expression}\n"], file)  # for tracebacks
        code = compile(one.expression, file, "eval")
        given = eval(code, namespace)  # noqa: S307  the user's own expression, in the user's own process
        listed = _take(one, given, left, most)
        found.append(listed)
        left = left // max(1, len(listed))
    if math.prod(map(len, found)) > most:
        raise _too_many(foreach[-1], most)
    return found


def file_of(name: str) -> str:
    """Return the file name that the code of a `--foreach` carries."""
    return f"<foreach {name}>"


def what_to_do(error: BaseException, foreach: Sequence[Foreach]) -> str:
    """Return what a user can do about an error of an expression."""
    missing = error.name if type(error) is NameError else None
    if missing in {one.name for one in foreach}:
        return (
            f"What stands behind `in` is evaluated before there is any item, so it can't read {missing}. Make all "
            "combinations in one list: `--foreach pair in [(a, b) for a in … for b in …]`."
        )
    if missing:
        return f"The notebook has no {missing}: bind it in a cell above, or correct what stands behind `in`."
    return "Correct what stands behind `in`: in a plain cell, it fails by itself in the same way."


def _take(one: Foreach, given: Any, left: int, most: int) -> list[Any]:
    if isinstance(given, (set, frozenset)):
        from mlbench.notebook.step import without_order

        raise without_order(one.name, one.expression)
    try:
        size = len(given)
    except Exception:  # noqa: BLE001  an iterator, or a class whose len() fails
        size = None
    if size is not None and size > left:
        raise _too_many(one, most)
    try:
        iterator = iter(given)
    except TypeError as error:
        raise UsageError(
            f"--foreach {one.name} in {one.expression}: a value of type {values.type_name(given)} can't be iterated.",
            f"Write a list or a range of what {one.name} is to be.",
        ) from error
    return list(_watched(one, itertools.islice(iterator, left + 1), left, most, sized=size is not None))


def _watched(one: Foreach, items: Iterator[Any], left: int, most: int, *, sized: bool) -> Iterator[Any]:
    before = 0 if sized else _memory()
    looked, size = 0, 0
    for place, item in enumerate(items):
        if place >= left:
            raise _too_many(one, most)
        if before:
            size += sys.getsizeof(item, 0)
            if size > _LOOKED_AT or place - looked > _MOST_UNSEEN:
                looked, size = place, 0
                if _memory() > before + _MOST_MEMORY:
                    raise _too_many(one, most)
        yield item


def _too_many(one: Foreach, most: int) -> UsageError:
    return UsageError(
        f"--foreach {one.name} in {one.expression} makes more items than max_items allows ({most:,}), or has no end.",
        "Give it fewer, or raise the setting: `%config MLBench.max_items = …`.",
    )


def _memory() -> int:
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # macOS
        return 0


def keep(foreach: Sequence[Foreach], found: Sequence[list[Any]], blobs: BlobStore) -> Spread:
    """Store the values, durably, and describe them.

    Raises
    ------
    UsageError
        If one can't be stored.
    """
    names = [one.name for one in foreach]
    try:
        packed = values.pack(dict(zip(names, found, strict=True)))
    except Exception as error:
        for one, listed in zip(foreach, found, strict=True):
            for value in listed:
                try:
                    values.pack(value)
                except Exception as problem:  # noqa: BLE001  whatever a value raises when it is pickled
                    said = artifacts.remedy(value, problem, otherwise="")
                    raise UsageError(
                        f"--foreach {one.name} in {one.expression}: an item {said}",
                        "Go through what it is made from, such as names or numbers, and make it in the step.",
                    ) from error
        raise
    blobs.put_parts(packed.digest, packed.parts)
    return Spread(
        shape=tuple(map(len, found)),
        items=packed.digest,
        labels=tuple(tuple(map(_label, listed)) for listed in found),
        digests=tuple(tuple(map(_digest, listed)) for listed in found),
    )


class Items:
    """The values of all items, as they were stored.

    Parameters
    ----------
    spread
        With the digest of what `keep` has stored.
    namespace
        The notebook's, whose classes are used.
    """

    def __init__(self, spread: Spread, blobs: BlobStore, namespace: Mapping[str, Any]) -> None:
        self._shape = spread.shape
        assert spread.items is not None
        found: dict[str, list[Any]] = values.unpack(
            None, values.sealed(spread.items, blobs.get_parts(spread.items)), namespace=namespace
        )
        self.names = tuple(found)
        self._values = list(found.values())
        self._fixed = [all(_is_fixed(value) for value in listed) for listed in self._values]

    def places(self, number: int) -> list[int]:
        """Return which value of each name the item with this number has: the last name's change fastest."""
        if len(self._shape) == 1:
            return [number]
        places = []
        for size in reversed(self._shape):
            number, place = divmod(number, size)
            places.append(place)
        return places[::-1]

    def bind(self, namespace: dict[str, Any], number: int, *, copied: bool) -> None:
        """Bind the names to an item's values; what can be changed in place is copied if others have it too."""
        for name, listed, fixed, place in zip(self.names, self._values, self._fixed, self.places(number), strict=True):
            value = listed[place]
            namespace[name] = _copy(value) if copied and not fixed else value

    def label(self, number: int) -> list[str]:
        """Return an item's values as short texts."""
        return [_label(listed[place]) for listed, place in zip(self._values, self.places(number), strict=True)]


def _is_fixed(value: Any) -> bool:
    kind = type(value)
    if kind in _ATOMS or isinstance(value, _FIXED):
        return True
    if kind is tuple or kind is frozenset:
        return all(map(_is_fixed, value))
    return bool(kind.__module__ == "numpy" and getattr(value, "ndim", None) == 0 and hasattr(value, "dtype"))


def _copy(value: Any) -> Any:
    if _is_fixed(value):
        return value
    try:
        return pickle.loads(pickle.dumps(value, 5))  # noqa: S301  made a moment ago
    except Exception:  # noqa: BLE001  it was stored by value, with classes that have no name: it is seen if it changes
        return value


def _label(value: Any) -> str:
    kind = type(value)
    if kind is str:
        text = value[: _LABEL + 1]
    elif kind is bytes:
        text = repr(value[: _LABEL + 1])
    elif kind is int and value.bit_length() > _LONGEST:
        text = f"{'-' if value < 0 else ''}{abs(value) >> (abs(value).bit_length() - 64):#x}…"
    elif kind in _ATOMS:
        text = repr(value)
    elif getattr(value, "ndim", None) == 0:
        text = str(value)
    else:
        text = str(previews.preview(value).get("text", kind.__name__))
    text = " ".join(text.split()) if "\n" in text else text
    return text if len(text) <= _LABEL else f"{text[: _LABEL - 1]}…"


def _digest(value: Any) -> str:
    """Return a text that stands for a value in keys: itself where it is short."""
    kind = type(value)
    if kind in _ATOMS:
        long = kind is int and value.bit_length() > _LONGEST
        text = f"{kind.__name__}:{value:#x}" if long else f"{kind.__name__}:{value!r}"
        return text if len(text) <= 40 else f"{kind.__name__}:{values.digest_of(text.encode('utf-8', 'surrogatepass'))}"
    return str(values.pack(value).digest)
