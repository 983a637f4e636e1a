"""What stands in the place of an item that failed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mlbench.core.records import Binding, Reason

__all__ = ["Failed", "lacking", "unbound"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The place of an item that failed, or lacks what the list is of, in the lists of a step with `--catch`.

    It is false, so that `[model for model in models if model]` are those that there are.

    Parameters
    ----------
    item
        The item's number, from 0.
    label
        The item's values by name, each as a short text.
    ename, evalue
        The name and the text of what was raised, or of what happened.
    reason
        Of which kind it was: `error`, `timeout`, `memory`, `worker-lost`.

    Examples
    --------
    >>> failed = Failed(item=3, label={"carrier": "'AA'"}, ename="ValueError", evalue="no rows", reason="error")
    >>> failed
    Failed(item 3, carrier='AA': ValueError: no rows)
    >>> bool(failed)
    False
    """

    item: int
    label: dict[str, str] = field(default_factory=dict, hash=False)
    ename: str = ""
    evalue: str = ""
    reason: Reason | None = None

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        where = ", ".join([f"item {self.item}", *(f"{name}={text}" for name, text in self.label.items())])
        why = ": ".join(word for word in (self.ename or self.reason, self.evalue) if word)
        return f"Failed({where}: {why})" if why else f"Failed({where})"


def unbound(name: str) -> Binding:
    """Return what stands for a name that an item did not bind."""
    return Binding(name=name, problem=f"It ended without binding {name}.")


def lacking(number: int, label: Mapping[str, str], binding: Binding) -> Failed:
    """Return what stands, with `--catch`, in the place of an item that succeeded and lacks this name all the same."""
    return Failed(item=number, label=dict(label), ename="ResultError", evalue=binding.problem or "")
