"""What a snapshot holds, as bytes: the notebook without what running it has added, and which files go with it."""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import Any, Final

from mlbench.core.records import SCHEMA, Json, Snapshot

__all__ = ["FOLDERS_LEFT_OUT", "is_module", "notebook_bytes", "snapshot_bytes", "without_outputs"]

FOLDERS_LEFT_OUT: Final = frozenset(
    {"__pycache__", "build", "dist", "mlruns", "node_modules", "site-packages", "wandb"}
)
"""Folders whose Python files are not the notebook's own."""

_LEFT_BY_RUNNING = frozenset({"execution", "trusted", "widgets", "signature"})


def without_outputs(notebook: Json) -> Json:
    """Return a notebook without outputs, counts, times and trust: what its author wrote.

    Examples
    --------
    >>> cell = {"cell_type": "code", "source": "1", "outputs": [{}], "metadata": {"trusted": True}}
    >>> without_outputs({"cells": [cell], "metadata": {}})["cells"]
    [{'cell_type': 'code', 'source': '1', 'outputs': [], 'metadata': {}, 'execution_count': None}]
    """
    return {
        **notebook,
        "metadata": _written(notebook.get("metadata")),
        "cells": [_cell(cell) for cell in notebook.get("cells", [])],
    }


def _written(metadata: Any) -> Json:
    given = metadata if isinstance(metadata, dict) else {}
    return {name: value for name, value in given.items() if name not in _LEFT_BY_RUNNING}


def _cell(cell: Json) -> Json:
    kept = {**cell, "metadata": _written(cell.get("metadata"))}
    if cell.get("cell_type") == "code":
        kept |= {"outputs": [], "execution_count": None}
    return kept


def notebook_bytes(notebook: Json) -> bytes:
    """Return a notebook's JSON in one form, so that the same notebook has one digest."""
    return json.dumps(notebook, sort_keys=True, separators=(",", ":")).encode("ascii")


def snapshot_bytes(snapshot: Snapshot) -> bytes:
    """Return a snapshot's record, whose digest is the snapshot's."""
    import msgspec

    record = {"schema": SCHEMA, "record": "snapshot", **msgspec.to_builtins(snapshot)}
    return json.dumps(record, sort_keys=True, separators=(",", ":")).encode("ascii")


def is_module(path: str) -> bool:
    """Say whether a file under the notebook's folder is a module that a snapshot takes along.

    Examples
    --------
    >>> is_module("delays.py"), is_module("helpers/fit.py"), is_module(".venv/x.py"), is_module("notes.md")
    (True, True, False, False)
    """
    parts = PurePosixPath(path).parts
    hidden = any(part.startswith(".") for part in parts)
    return path.endswith(".py") and not hidden and FOLDERS_LEFT_OUT.isdisjoint(parts[:-1])
