"""Notice what an object loses when it is stored: some pickle themselves, and come back as something else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from mlbench.core.ports import BlobStore
from mlbench.core.records import Binding
from mlbench.runs.artifacts import Loader
from mlbench.runs.capture import type_name

__all__ = ["loss"]

LARGEST: Final = 1 << 20
"""Bytes of an artifact that is loaded again to be compared."""
_ITEMS: Final = 100
_ATOMS: Final = (bool, int, float, complex, str, bytes, type(None))
_KNOWN: Final = frozenset({"builtins", "matplotlib", "numpy", "pandas", "datetime", "collections", "pathlib"})
_MISSING: Final = object()


def loss(value: Any, binding: Binding, blobs: BlobStore, namespace: Mapping[str, Any]) -> str | None:
    """Say what of a value did not survive being stored, None if nothing is seen.

    Only what pickles itself in a way of its own is looked at, and of that the plain public attributes: others are
    what objects leave behind on purpose (caches, handles).
    """
    artifact = binding.artifact
    if artifact is None or artifact.codec != "pickle" or artifact.size > LARGEST or binding.member is not None:
        return None
    if not any(_reduces_itself(one) for _, one in _parts(value)):
        return None
    try:
        again = Loader(blobs, namespace).load(binding)
    except Exception as error:  # noqa: BLE001  whatever a stranger's reducer raises, the value cannot be loaded
        return (
            f"`{binding.name}` ({type_name(value)}) was stored but can't be loaded again: {type(error).__name__}: "
            f"{error}. Keep what it was made from instead."
        )
    for (place, before), (_, after) in zip(_parts(value), _parts(again), strict=False):
        if not _reduces_itself(before):
            continue
        for name, was in _attributes(before).items():
            now = _attributes(after).get(name, _MISSING)
            if isinstance(was, _ATOMS) and not _equal(was, now):
                found = "is gone" if now is _MISSING else f"is {now!r:.80}"
                return (
                    f"`{binding.name}{place}` ({type_name(before)}) does not come back from the store as it is here: "
                    f"its `{name}` was {was!r:.80} and {found}. Keep what it was made from instead."
                )
    return None


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield a value, or the items of a small container, each with its place."""
    if type(value) in (list, tuple) and len(value) <= _ITEMS:
        yield from ((f"[{place}]", item) for place, item in enumerate(value))
    elif type(value) is dict and len(value) <= _ITEMS:
        yield from ((f"[{key!r}]", item) for key, item in value.items())
    else:
        yield "", value


def _reduces_itself(value: Any) -> bool:
    kind = type(value)
    if isinstance(value, type) or kind.__module__.partition(".")[0] in _KNOWN:
        return False
    return any(
        getattr(kind, name, None) is not getattr(object, name, None)
        for name in ("__getstate__", "__reduce__", "__reduce_ex__")
    )


def _attributes(value: Any) -> dict[str, Any]:
    try:
        own = object.__getattribute__(value, "__dict__")
    except (AttributeError, TypeError):
        return {}
    return {name: one for name, one in own.items() if not name.startswith("_")} if isinstance(own, dict) else {}


def _equal(one: Any, other: Any) -> bool:
    return type(one) is type(other) and (one == other or one != one)
