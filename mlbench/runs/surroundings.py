"""What a notebook sets for everything after it, and how a step comes to have it too.

One table: an entry is a name, how its settings are read in the kernel, and how they are applied in a step's process.
An entry is read only if its library is imported already: nothing is imported to look. A library is one entry more.
"""

from __future__ import annotations

from typing import Any

from mlbench.core.messages import Surroundings

__all__ = ["apply", "preloadable", "read"]


def read(shell: Any = None) -> Surroundings:
    """Return what holds in this process: the kernel's."""
    raise NotImplementedError


def apply(surroundings: Surroundings, shell: Any = None) -> list[str]:
    """Make it hold in this process; return a sentence for each setting that could not be made to."""
    raise NotImplementedError


def preloadable(modules: Any = None) -> tuple[str, ...]:
    """Return those of the modules given (else of the imported ones) that a step server can import before it forks."""
    raise NotImplementedError
