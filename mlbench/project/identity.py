"""Which notebook a file is: the id in its metadata, by which its history survives a new name.

A copy carries the id of what it was copied from. Of two files that are there under one id, the one that the catalog
met first keeps it.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mlbench.core.errors import NotebookError
from mlbench.core.ids import NotebookId, new_id
from mlbench.core.records import Json
from mlbench.notebook import document
from mlbench.notebook.identity import insert_id

if TYPE_CHECKING:
    from mlbench.core.ports import Catalog

__all__ = ["identify", "is_notebook", "is_own", "own_id", "runs_of", "write_id"]

LARGEST: Final = document.SIZE_LIMIT


def identify(catalog: Catalog, path: str, notebook: Json) -> NotebookId:
    """Return the id of the notebook at a path: the one that it carries, or a new one if that is another file's."""
    return own_id(catalog, path, notebook) or NotebookId(new_id())


def own_id(catalog: Catalog, path: str, notebook: Json) -> NotebookId | None:
    """Return the id that a notebook carries, if it is its own: None without one, or if it is a copy's.

    Parameters
    ----------
    path
        Where the notebook lies on this machine.
    notebook
        nbformat's dictionary.
    """
    carried = document.notebook_id(notebook) if isinstance(notebook.get("metadata"), dict) else None
    return NotebookId(carried) if carried is not None and is_own(catalog, path, carried) else None


def is_own(catalog: Catalog, path: str, identifier: str) -> bool:
    """Say whether an id that the file at a path carries is its own: no other file that is there had it first."""
    seen = catalog.notebooks(identifier)
    mine = min((moment for known, moment in seen.items() if _same(known, path)), default=None)
    earlier = (known for known, moment in seen.items() if mine is None or moment < mine)
    return not any(not _same(known, path) and _carries(known, identifier) for known in earlier)


def is_notebook(text: str) -> bool:
    """Say whether a text names a notebook, and is no query: it ends like one, or there is such a file."""
    return text.endswith(".ipynb") or os.path.isfile(text)


def runs_of(catalog: Catalog, path: str) -> dict[str, str]:
    """Return what to ask `Catalog.runs` for, to have the runs of the notebook at a path, its former names included."""
    path = os.path.abspath(path)
    notebook = _read(path)
    identifier = own_id(catalog, path, notebook) if notebook is not None else None
    return {"notebook": path, **({"notebook_id": identifier} if identifier is not None else {})}


def write_id(path: str, identifier: str) -> bool:
    """Write an id into a notebook's file, whole or not at all; return whether the file was changed.

    What else is in the file stays as it is written. A link is followed.

    Raises
    ------
    OSError, NotebookError
        If the file cannot be read or written, or is no notebook any more.
    """
    where = Path(path).resolve(strict=True)
    before = where.read_bytes()
    try:
        text = before.decode("utf-8")
    except UnicodeDecodeError as error:
        raise NotebookError(f"{where.name} is not UTF-8.") from error
    after = insert_id(text, identifier).encode("utf-8")
    if after == before:
        return False
    if not os.access(where, os.W_OK):
        raise PermissionError(13, "Permission denied", str(where))  # renaming would replace what is write-protected
    status = where.stat()
    descriptor, beside = tempfile.mkstemp(dir=where.parent, prefix=f".{where.name[:40]}.", suffix=".part")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(after)
            os.fchmod(file.fileno(), status.st_mode & 0o7777)
            file.flush()
            os.fsync(file.fileno())
        if where.read_bytes() != before:
            raise BlockingIOError(11, "It was changed meanwhile", str(where))
        os.replace(beside, where)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(beside)
        raise
    folder = os.open(where.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return True


def _same(one: str, other: str) -> bool:
    """Say whether two paths lead to one file, or are one."""
    if os.path.abspath(one) == os.path.abspath(other):
        return True
    try:
        return os.path.samefile(one, other)
    except (OSError, ValueError):
        return False


def _carries(path: str, identifier: str) -> bool:
    """Say whether there is a notebook at a path of this machine that carries an id."""
    notebook = _read(path)
    return notebook is not None and document.notebook_id(notebook) == identifier


def _read(path: str) -> Json | None:
    """Return the notebook at a path; None if there is none, or what is there is none."""
    try:
        if not os.path.isfile(path) or os.path.getsize(path) > LARGEST:
            return None
        found = json.loads(Path(path).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("metadata"), dict) else None
