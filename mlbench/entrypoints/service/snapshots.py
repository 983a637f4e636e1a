"""The notebook behind an interactive run that has come to rest, kept as its snapshot."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from mlbench.core.errors import MlbenchError, StoreError
from mlbench.core.ids import Digest, RunId
from mlbench.core.records import Run
from mlbench.entrypoints.service.ledger import Ledger
from mlbench.entrypoints.service.sessions import Session, notebook_of, read_notebook

if TYPE_CHECKING:
    from mlbench.project import Project

__all__ = ["Snapshots"]

logger = logging.getLogger(__name__)


class Snapshots:
    """Records notebooks and what they stood on.

    What the kernel's interpreter has installed is read from its folders: no code of the user's runs here. Nothing waits
    for it, as it may take a while: git is asked.

    Parameters
    ----------
    tell
        Called with a run once it is written with its snapshot.
    """

    def __init__(self, project: Project, ledger: Ledger, tell: Callable[[Run], None]) -> None:
        self._project = project
        self._ledger = ledger
        self._tell = tell

    async def keep(self, session: Session, run: RunId) -> None:
        """Record the notebook of a kernel as that of its run, anew only where it has changed."""
        cells, parameters = session.cells, dict(session.parameters)
        if not cells:
            return
        hello, document = session.hello, session.document

        def make() -> Digest:
            notebook = document or read_notebook(hello.notebook) or notebook_of(cells)
            return self._project.snapshot(
                notebook,
                hello.notebook,
                hello.environment.interpreter,
                parameters,
                cells=cells,
                environment=tuple(hello.environment.variables),
            )

        known = session.kept is not None and session.kept[:2] == (cells, parameters)
        if session.kept is None or not known or not await asyncio.to_thread(self._touched, session.kept[2]):
            try:
                session.kept = (cells, parameters, await asyncio.to_thread(make))
            except (MlbenchError, OSError) as error:
                logger.warning("The notebook of run %s cannot be recorded: %s", run, error)
                return
        changed = session.series.edit(run, snapshot=session.kept[2])
        if changed is not None:
            self._ledger.put(changed, then=partial(self._tell, changed))

    def _touched(self, snapshot: Digest) -> bool:
        """Note that a snapshot is needed again; return False if it was freed, as that of a run that nobody keeps."""
        try:
            return self._project.blobs.touch([snapshot])
        except StoreError:
            return False
