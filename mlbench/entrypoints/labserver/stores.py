"""The stores that this server has met, and the way between its paths and those of the machine."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from mlbench.core.errors import NotFound, UsageError
from mlbench.project import Project, find_store

__all__ = ["Stores"]

T = TypeVar("T")


class Stores:
    """Opens each store once; called from several threads.

    Parameters
    ----------
    root
        The server's root directory, to which the paths of the contents API are relative.
    """

    def __init__(self, root: str) -> None:
        self.root = Path(os.path.realpath(os.path.expanduser(root)))
        self._projects: dict[str, Project] = {}
        self._lock = threading.Lock()

    def project(self, path: str | None = None) -> Project:
        """Return the store of a notebook (a contents path), or that of the root directory."""
        notebook = str(self.absolute(path)) if path else str(self.root / "notebook.ipynb")
        location = find_store(notebook)
        with self._lock:
            known = self._projects.get(location.place)
            if known is None:
                known = Project.open(store=None, notebook=notebook)
                self._projects[location.place] = known
            return known

    def met(self) -> tuple[Project, ...]:
        """Return the stores that are open, that of the root directory first."""
        first = self.project()
        with self._lock:
            return (first, *(project for project in self._projects.values() if project is not first))

    def find(self, look: Callable[[Project], T], path: str | None = None) -> tuple[Project, T]:
        """Look for something in the notebook's store, else in all that are open; return where it was found."""
        if path:
            self.project(path)
        missing: NotFound | None = None
        for project in self.met():
            try:
                return project, look(project)
            except NotFound as error:
                missing = missing or error
        raise missing or NotFound("There is no store.")

    def absolute(self, path: str) -> Path:
        """Return the file of a contents path.

        Raises
        ------
        UsageError
            If it leads out of the server's root directory.
        """
        if "\0" in path or len(path) > 4096:
            raise UsageError("The path is not one of this server.")
        file = Path(os.path.realpath(self.root / path.lstrip("/")))
        if os.path.commonpath([file, self.root]) != str(self.root):
            raise UsageError("The path leads out of this server's directory.")
        return file

    def relative(self, notebook: str | None) -> str | None:
        """Return a notebook's contents path, or None if it lies elsewhere."""
        if not notebook:
            return None
        file = os.path.realpath(notebook)
        if os.path.commonpath([file, self.root]) != str(self.root):
            return None
        return Path(os.path.relpath(file, self.root)).as_posix()
