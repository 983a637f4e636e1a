"""The `%%step` line: a name and options."""

from __future__ import annotations

from dataclasses import dataclass, field

from mlbench.core.messages import StepOptions

__all__ = ["OPTIONS", "Option", "StepCell", "parse", "read_line", "same_name", "usage"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option of `%%step`: its spelling, what follows it (`None` if nothing) and what it does."""

    name: str
    value: str | None
    help: str


OPTIONS: tuple[Option, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCell:
    """A cell that is a step: `line` is what follows `%%step`, `body` the rest, which begins at line `first_line`."""

    name: str
    line: str
    body: str
    options: StepOptions = field(default_factory=StepOptions)
    first_line: int = 2


def parse(source: str) -> StepCell | None:
    """Return the step that a cell is, or None. Raise `UsageError`."""
    raise NotImplementedError(source)


def read_line(line: str) -> tuple[str, StepOptions]:
    """Return the name and the options of what follows `%%step`. Raise `UsageError`."""
    raise NotImplementedError(line)


def same_name(name: str) -> str:
    """Return what two step names have in common if they differ only in case or Unicode form."""
    raise NotImplementedError(name)


def usage() -> str:
    """Return what `%%step?` shows."""
    raise NotImplementedError
