"""Where the store is, and why. Light: the kernel imports it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreLocation:
    """A store's folder, why it is this one (a sentence), and its catalog's URL.

    `notice` is one line for the user when the catalog does not lie in the store.
    """

    path: Path
    source: str
    catalog_url: str
    notice: str | None = None


def find_store(notebook: str | None = None, *, store: str | None = None) -> StoreLocation:
    """Find the store of a notebook (or of the working directory). `store` names one outright."""
    raise NotImplementedError


def low_space(path: str | Path) -> str | None:
    """Return a sentence if less than a tenth of the disk under a path is free."""
    raise NotImplementedError
