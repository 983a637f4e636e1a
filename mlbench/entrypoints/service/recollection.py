"""What another life of the service has left in a store, for those who ask about it now."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from mlbench.core.errors import NotFound, ServiceError
from mlbench.core.ids import ExecutionId, NotebookId, RunId
from mlbench.core.messages import Submission
from mlbench.core.records import ENDED, UNDER_WAY, Execution, Failure, Run
from mlbench.entrypoints.service.ledger import Ledger
from mlbench.entrypoints.service.sessions import Session, read_notebook
from mlbench.notebook.document import notebook_id
from mlbench.project import signing
from mlbench.project.leftovers import Leftovers
from mlbench.runs.series import last_of_each_step
from mlbench.runs.wire import msgspec

if TYPE_CHECKING:
    from mlbench.project import Project

__all__ = ["Recollection"]

RUNS_MET: Final = 500
RUNS_BACK: Final = 10
"""Runs of a notebook that are looked at for its steps' last executions."""


class Recollection:
    """Reads one store's catalog and records, on its ledger's thread."""

    def __init__(self, project: Project, ledger: Ledger) -> None:
        self._project = project
        self._ledger = ledger
        self._draws: dict[tuple[str, str], bool] = {}

    async def last_run(self, kernel: str) -> list[Execution]:
        """Return what the last run of a kernel came to."""

        def look() -> list[Execution]:
            runs = self._project.catalog.runs(kernel=kernel, limit=1)
            found = self._project.catalog.executions(runs[0].id) if runs else []
            return [one for one in found if one.state in ENDED]

        return await self._ledger.ask(look)

    def meet(self, kernels: Collection[str], more: Collection[RunId]) -> None:
        """Say of all runs of kernels, and of some more, that they are needed."""
        found, catalog = set(more), self._project.catalog
        for kernel in kernels:
            before: tuple[int, str] | None = None
            while page := catalog.runs(kernel=kernel, limit=RUNS_MET, before=before):
                found |= {run.id for run in page}
                before = page[-1].started, page[-1].id
        catalog.meet_runs(sorted(found), time.time_ns())

    async def owed(self, session: Session) -> list[tuple[str, Execution]]:
        """Return the last executions of a notebook's steps of whose success no kernel has heard, with their kernels."""

        def look() -> list[tuple[str, Execution]]:
            last: dict[str, tuple[str, Execution]] = {}
            for run in self._runs(session):
                if run.kind != "interactive":
                    continue
                own = [one for one in self._project.catalog.executions(run.id) if one.state != "reused"]
                last = {one.step: (run.kernel or "", one) for one in last_of_each_step(own)} | last
            return [(kernel, one) for kernel, one in last.values() if one.unseen and one.state == "succeeded"]

        return await self._ledger.ask(look)

    async def lost(self, run: RunId, known: Collection[ExecutionId], left: Leftovers) -> list[Execution]:
        """Return the ends of a run's executions that the catalog has under way, and nobody knows any more.

        `left` takes their items.
        """

        def look() -> list[Execution]:
            found = self._project.catalog.executions(run)
            return self._ends([one for one in found if one.state in UNDER_WAY and one.id not in known], left)

        return await self._ledger.ask(look)

    async def ended(self, submission: Submission, executions: Collection[ExecutionId]) -> list[Execution]:
        """Return executions that a submission names and that have ended in another life.

        Raises
        ------
        ServiceError
            One of them is not known at all.
        """

        def look() -> list[Execution]:
            found = [self._project.catalog.execution(one) for one in executions]
            lost = [one for one in found if one.state in UNDER_WAY]
            ends = {one.id: one for one in self._ends(lost, Leftovers(self._project))}
            return [ends.get(one.id, one) for one in found]

        try:
            return await self._ledger.ask(look)
        except NotFound as error:
            raise ServiceError(
                f"Step {submission.step} needs the result of a step that the mlbench service does not know.",
                "Run the cells above it again.",
            ) from error

    def _ends(self, lost: Sequence[Execution], left: Leftovers) -> list[Execution]:
        if lost:
            left.take_of(lost)
        return [self._end(replace(one, fanout=left.counted(one))) for one in lost]

    def _end(self, record: Execution) -> Execution:
        """Return the end that a lost execution has in the records, or say that it is lost."""
        written = signing.own_end(record.id, self._project.blobs.find_record("execution", record.id))
        if written is not None and written.get("state") in ENDED and written.get("attempt", 1) >= record.attempt:
            return msgspec.convert(written, Execution)
        failure = Failure(
            ename="ServiceError",
            evalue="The mlbench service was lost while this step was under way.",
            remedy="Run the cell again.",
        )
        return replace(record, state="failed", reason="service-lost", failure=failure, ended=time.time_ns())

    # --- random numbers ----------------------------------------------------------------------------------------------

    def note(self, session: Session, record: Execution) -> None:
        """Keep whether a step that has succeeded drew random numbers."""
        if record.state == "succeeded":
            self._draws[_place(session, record.step)] = bool(record.draws)

    async def draws(self, session: Session, step: str) -> bool | None:
        """Say whether a step drew random numbers when it last succeeded; None if nobody knows."""
        place = _place(session, step)
        if place not in self._draws:
            last = await self._ledger.ask(partial(self._last, session, step))
            if last is None:
                return None
            self._draws[place] = bool(last.draws)
        return self._draws[place]

    def _runs(self, session: Session) -> list[Run]:
        """Return the last runs of a kernel's notebook, newest first."""
        hello = session.hello
        if hello.notebook_id is None and hello.notebook is None:
            return []
        return self._project.catalog.runs(
            notebook=hello.notebook if hello.notebook_id is None else None,
            notebook_id=hello.notebook_id,
            limit=RUNS_BACK,
        )

    def _last(self, session: Session, step: str) -> Execution | None:
        for run in self._runs(session):
            for one in self._project.catalog.executions(run.id):
                if one.step == step and one.state in {"succeeded", "reused"}:
                    return one
        return None

    # --- notebooks ---------------------------------------------------------------------------------------------------

    async def identity(self, path: str | None, said: NotebookId | None = None) -> tuple[NotebookId | None, bool]:
        """Return the id by which a notebook's history survives a new name, and whether it is the notebook's own.

        A copied notebook carries the id of the one that it was copied from: its history is that of its path.
        """
        from mlbench.project.identity import is_own

        def look() -> tuple[NotebookId | None, bool]:
            found: str | None = said
            if found is None:
                notebook = read_notebook(path)
                found = notebook_id(notebook) if notebook is not None and "metadata" in notebook else None
            if found is None:
                return None, True
            return NotebookId(found), path is None or is_own(self._project.catalog, path, found)

        return await self._ledger.ask(look)


def _place(session: Session, step: str) -> tuple[str, str]:
    return session.notebook or session.hello.kernel, step
