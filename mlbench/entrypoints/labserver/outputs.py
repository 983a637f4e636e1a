"""What the cells of a kernel's notebook last did: for the pills, and to put output back after a reload."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from jupyter_server.auth.decorator import authorized
from tornado import web

from mlbench.core.errors import NotFound, UsageError
from mlbench.core.ids import is_id
from mlbench.core.ports import Catalog
from mlbench.core.records import UNDER_WAY, Execution, Run
from mlbench.entrypoints.labserver import schema
from mlbench.entrypoints.labserver.door import Handler
from mlbench.project.identity import is_own
from mlbench.runs.endings import end_output

__all__ = ["IdentityOfNotebook", "OutputsOfCells"]

RUNS_BACK = 200
"""Runs of one kernel that are looked at, newest first, until every cell has been found."""


class OutputsOfCells(Handler):
    """`POST outputs`."""

    @web.authenticated
    @authorized("read")
    async def post(self) -> None:
        """Answer the last execution of each cell that this kernel has run as a step."""
        await self.reply_with(self._outputs())

    async def _outputs(self) -> schema.Outputs:
        question = self.body(schema.OutputsQuestion)
        stored = await asyncio.to_thread(self._stored, question)
        if question.messages:
            for cell, execution in stored.outputs.items():
                if execution.state in UNDER_WAY:
                    stored.outputs[cell] = await self.newsroom.execution(execution.id) or execution
                stored.outputs[cell] = _with_end(stored.outputs[cell])
        return stored

    def _stored(self, question: schema.OutputsQuestion) -> schema.Outputs:
        catalog = self.stores.project(question.path).catalog
        wanted = set(question.cells)
        found: dict[str, Execution] = {}
        runs = catalog.runs(kernel=question.kernel, limit=RUNS_BACK)
        if question.path and runs and self._is_copy(question.path, runs[0]):
            return schema.Outputs(outputs={}, copied=True)
        for run in runs:
            if len(found) == len(wanted):
                break
            for execution in reversed(catalog.executions(run.id)):
                cell = execution.cell
                if cell in wanted and (cell not in found or _later(execution, found[cell])):
                    found[cell] = execution
        for cell, one in found.items():
            # What the next run of a kernel has taken over ran as itself; what it printed, it printed then.
            if one.reused_from is not None and is_taken_over(one):
                found[cell] = _origin(catalog, one)
            elif question.messages:
                found[cell] = catalog.execution(one.id)
                if one.reused_from is not None and not found[cell].messages:
                    found[cell] = replace(found[cell], messages=_origin(catalog, one).messages)
        return schema.Outputs(outputs=found, notebook_id=runs[0].notebook_id if runs and question.path else None)

    def _is_copy(self, path: str, run: Run) -> bool:
        """Say whether a document is not the one that the kernel runs: that one has another path, and still exists."""
        if run.notebook is None or not Path(run.notebook).exists():
            return False
        return Path(run.notebook).resolve() != self.stores.absolute(path)


class IdentityOfNotebook(Handler):
    """`GET identity?notebook=&notebook_id=`."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """Answer whether the id that a notebook carries is its own: a copy gets another one."""
        await self.reply(self._identity)

    def _identity(self) -> schema.Identity:
        path = self.get_query_argument("notebook", "")
        identifier = self.get_query_argument("notebook_id", "")
        if not path or not is_id(identifier):
            raise UsageError("Ask with the path of a notebook and the id that it carries.")
        catalog = self.stores.project(path).catalog
        return schema.Identity(own=is_own(catalog, str(self.stores.absolute(path)), identifier))


def is_taken_over(execution: Execution) -> bool:
    """Say whether an execution only stands for the one of the run before: it took no time at all."""
    return execution.state == "reused" and execution.queued == execution.ended


def _origin(catalog: Catalog, execution: Execution) -> Execution:
    """Return the execution that one was reused from; itself, in a store that was merged in part."""
    try:
        return catalog.execution(execution.reused_from) if execution.reused_from is not None else execution
    except NotFound:
        return execution


def _with_end(execution: Execution) -> Execution:
    """Return an execution with what its cell is shown of an end that is no success."""
    if execution.state in UNDER_WAY:
        return execution
    printed = [one for one in execution.messages if one["output_type"] != "error"]
    return replace(execution, messages=(*printed, *end_output(execution)))


def _later(one: Execution, other: Execution) -> bool:
    return (one.queued or 0) > (other.queued or 0)
