"""Who provides each name of the notebook, and what each cell saw of it.

A name is *provided* by an execution from the moment its step is submitted until a plain cell binds it anew or changes
it. A cell that is run again starts from what it saw before its own last execution; so each step remembers, for every
name that it read or bound, where it came from.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from mlbench.core.ids import ExecutionId
from mlbench.entrypoints.kernel.pending import Placeholder, is_placeholder

__all__ = ["ABSENT", "Absent", "Held", "Names", "Provided", "Settled", "Source"]


@dataclass(frozen=True, slots=True)
class Provided:
    """A name comes from an execution."""

    execution: ExecutionId


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """A name had this value in the kernel."""

    value: Any


@dataclass(frozen=True, slots=True)
class Absent:
    """A name had no value."""


ABSENT: Final = Absent()
Source = Provided | Held | Absent
_MISSING: Final = object()


class Settled(Mapping[str, Any]):
    """A namespace without the names that are pending: for whoever must not wait for them."""

    def __init__(self, namespace: dict[str, Any]) -> None:
        self._namespace = namespace

    def __getitem__(self, name: str) -> Any:
        value = self._namespace[name]
        if is_placeholder(value):
            raise KeyError(name)
        return value

    def __iter__(self) -> Iterator[str]:
        return (name for name, value in list(self._namespace.items()) if not is_placeholder(value))

    def __len__(self) -> int:
        return sum(1 for _ in self)


@dataclass(slots=True)
class _Entry:
    """`placeholder` until the value was needed, then `value`; `touched` once a plain cell could have changed it.

    `stale` says that another execution provides the name since the value was put in place.
    """

    execution: ExecutionId
    placeholder: Placeholder
    value: Any = _MISSING
    touched: bool = False
    stale: bool = False


class Names:
    """The names of one namespace that executions provide.

    Parameters
    ----------
    namespace
        The notebook's own.
    differs
        Whether a touched value is not what its execution made any more.
    on_touch
        Called with the identities of objects that a cell could change.
    """

    def __init__(
        self,
        namespace: dict[str, Any],
        differs: Callable[[str, ExecutionId, Any], bool],
        on_touch: Callable[[Collection[int]], None],
    ) -> None:
        self._namespace = namespace
        self._differs = differs
        self._on_touch = on_touch
        self._entries: dict[str, _Entry] = {}

    def provide(self, name: str, execution: ExecutionId, placeholder: Placeholder) -> None:
        """Make an execution the provider of a name: its placeholder takes the name's place."""
        self._entries[name] = _Entry(execution, placeholder)
        self._namespace[name] = placeholder

    def replace(self, before: ExecutionId, now: ExecutionId) -> None:
        """Let an execution provide what another one did; values in place are taken back at the next `sync`."""
        for entry in list(self._entries.values()):
            if entry.execution == before:
                entry.execution, entry.stale = now, True

    def withdraw(self, name: str) -> None:
        """Forget a name, in the namespace too: a step deleted it."""
        self._entries.pop(name, None)
        self._namespace.pop(name, None)

    def settle(self, name: str, value: Any) -> None:
        """Put a name's value in the place of its placeholder, unless the name was bound anew meanwhile."""
        entry = self._entries.get(name)
        if entry is not None and self._namespace.get(name) is entry.placeholder:
            self._namespace[name] = entry.value = value
            entry.touched = True  # by whoever needed it

    def sync(self) -> None:
        """Notice the names that a plain cell has bound or deleted: that wins."""
        for name, entry in list(self._entries.items()):
            value = self._namespace.get(name, _MISSING)
            if value is not entry.placeholder and value is not entry.value:
                del self._entries[name]
            elif entry.stale:
                self._namespace[name], entry.value, entry.stale = entry.placeholder, _MISSING, False

    def touch(self, names: Iterable[str]) -> None:
        """Note that a plain cell reaches names, and could change in place what they hold."""
        for name in names:
            value = self._namespace.get(name, _MISSING)
            if value is _MISSING or is_placeholder(value):
                continue
            touched = {id(value), id(getattr(value, "base", None)) if type(value).__name__ == "ndarray" else id(value)}
            self._on_touch(touched)
            for entry in self._entries.values():
                if id(entry.value) in touched:
                    entry.touched = True

    def pending(self) -> frozenset[str]:
        """Return the names whose value has not been put in place yet."""
        return frozenset(
            name for name, entry in self._entries.items() if self._namespace.get(name) is entry.placeholder
        )

    def provider(self, name: str) -> ExecutionId | None:
        """Return the execution that provides a name, changed since or not."""
        entry = self._entries.get(name)
        return entry.execution if entry is not None else None

    def source(self, name: str) -> Source:
        """Return where a name comes from now. A value that a plain cell has changed in place is the kernel's own."""
        entry = self._entries.get(name)
        value = self._namespace.get(name, _MISSING)
        if entry is not None and value is entry.placeholder:
            return Provided(entry.execution)
        if entry is not None and value is entry.value:
            if not entry.touched or not self._differs(name, entry.execution, value):
                entry.touched = False
                return Provided(entry.execution)
            del self._entries[name]
        return ABSENT if value is _MISSING else Held(value)
