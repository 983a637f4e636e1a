"""A notebook's document: read from bytes, checked, looked into."""

from __future__ import annotations

from typing import Any, Final

from mlbench.notebook.graph import CellSource

Notebook = dict[str, Any]

SIZE_LIMIT: Final = 50_000_000
"""How many bytes a notebook may have: the setting `notebook_size_limit`."""


def read(data: bytes, name: str, *, limit: int = SIZE_LIMIT) -> Notebook:
    """Return a checked notebook of nbformat 4. Raise `NotebookError`, naming the cell and the field."""
    raise NotImplementedError


def cells(nb: Notebook) -> list[CellSource]:
    """Return the code cells, numbered as they stand among all cells."""
    raise NotImplementedError


def kernel_name(nb: Notebook, name: str = "The notebook") -> str:
    """Return the name of its kernel. Raise `NotebookError` if it has none, or one that cannot be a kernel's."""
    raise NotImplementedError


def language(nb: Notebook) -> str | None:
    """Return the language that its metadata names, in lower case."""
    raise NotImplementedError


def notebook_id(nb: Notebook) -> str | None:
    """Return the id that mlbench has written into its metadata."""
    raise NotImplementedError


def with_notebook_id(nb: Notebook, identifier: str) -> Notebook:
    """Return a copy that carries an id."""
    raise NotImplementedError


def without_outputs(nb: Notebook) -> Notebook:
    """Return a copy without outputs, counts and what a run writes into metadata."""
    raise NotImplementedError


def parameters_cell(nb: Notebook, name: str = "The notebook") -> CellSource | None:
    """Return the cell tagged `parameters`. Raise `NotebookError` if there are two."""
    raise NotImplementedError


def has_steps(nb: Notebook) -> bool:
    """Say whether a code cell begins with `%%step`."""
    raise NotImplementedError
