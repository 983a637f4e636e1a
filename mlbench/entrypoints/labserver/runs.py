"""Runs: a page of them, one with its steps, its notebook, and its end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from jupyter_server.auth.decorator import authorized
from tornado import web

from mlbench.core.errors import MlbenchError, NotFound, UsageError
from mlbench.core.ids import is_id, short
from mlbench.core.naming import naming
from mlbench.core.records import ENDED, UNDER_WAY, Execution, Json, Metric, Run, Snapshot
from mlbench.entrypoints.labserver import schema
from mlbench.entrypoints.labserver.door import Handler
from mlbench.notebook.parameters import defaults
from mlbench.project import Project
from mlbench.project.comparison import run_before
from mlbench.project.identity import is_own
from mlbench.project.preparation import declared
from mlbench.project.reuse import resume_apart
from mlbench.runs.search import completions, parse, parse_sort, read_place, write_place
from mlbench.runs.wire import msgspec

__all__ = ["Cancel", "NamesInUse", "Notebook", "OneRun", "Resume", "RunPage"]

LARGEST_PAGE = 200


class RunPage(Handler):
    """`GET runs?notebook=&notebook_id=&query=&sort=&metric=&limit=&before=`."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """Answer a page of runs, of one notebook or of all, that a query is true of, newest first or sorted."""
        await self.reply(self._page)

    def _page(self) -> schema.RunList:
        path = self.get_query_argument("notebook", None)
        identifier = self.get_query_argument("notebook_id", None)
        if identifier is not None and not is_id(identifier):
            raise UsageError("notebook_id is not an id.")
        limit = self.number("limit", 50, LARGEST_PAGE)
        place = self.get_query_argument("before", None)
        query = parse(self.get_query_argument("query", ""))
        sort = self.get_query_argument("sort", None)
        project = self.stores.project(path)
        notebook = str(self.stores.absolute(path)) if path else None
        if identifier and notebook and not is_own(project.catalog, notebook, identifier):
            identifier = None  # a copy carries the id of what it was copied from
        which: dict[str, Any] = {"notebook_id": identifier, "notebook": notebook}
        page = project.catalog.search(
            query,
            sort=parse_sort(sort) if sort else None,
            limit=limit,
            after=read_place(place) if place is not None else None,
            **which,
        )
        metrics = project.catalog.metrics([run.id for run in page.runs])
        if name := self.get_query_argument("metric", None):
            named = {run: tuple(one for one in logged if one.name == name) for run, logged in metrics.items()}
            metrics = {run: named[run] or logged for run, logged in metrics.items()}
        follows = page.runs if sort is None and query is None else ()
        return schema.RunList(
            runs=[self._summary(project, run, metrics.get(run.id, ()), follows) for run in page.runs],
            count=project.catalog.count_runs(query, **which),
            next=write_place(page.next) if page.next is not None else None,
        )

    def _summary(self, project: Project, run: Run, metrics: Sequence[Metric], page: Sequence[Run]) -> schema.RunSummary:
        executions = project.steps(run.id)
        return schema.RunSummary(
            run=run,
            path=self.stores.relative(run.notebook),
            steps_done=sum(each.state in ENDED for each in executions),
            steps_total=len(executions),
            metric=metrics[-1] if metrics else None,
            error=failure_line(run, executions),
            job=_job_name(project, run),
            changed=_changed_parameters(project, run, page),
        )


class NamesInUse(Handler):
    """`GET completions?prefix=&notebook=`."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """Answer the names in a query that begin so: columns, or parameters, metrics and tags in use."""
        await self.reply(self._names)

    def _names(self) -> schema.Completions:
        prefix = self.get_query_argument("prefix", "", strip=False)
        project = self.stores.project(self.get_query_argument("notebook", None))
        return schema.Completions(names=completions(prefix, project.catalog.names_in_use))


class OneRun(Handler):
    """`GET runs/{id}`."""

    @web.authenticated
    @authorized
    async def get(self, run: str) -> None:
        """Answer a run with its steps, without their messages."""
        await self.reply(self._detail, run)

    def _detail(self, identifier: str) -> schema.RunDetail:
        path = self.get_query_argument("notebook", None)
        project, run = self.stores.find(lambda project: project.catalog.run(identifier), path)
        executions = [
            msgspec.structs.replace(each, messages=()) if isinstance(each, msgspec.Struct) else each
            for each in project.steps(run.id)
        ]
        snapshot = _snapshot(project, run)
        return schema.RunDetail(
            run=run,
            executions=executions,
            edges=_edges(executions),
            path=self.stores.relative(run.notebook),
            snapshot=snapshot,
            code=_code_line(snapshot),
            job=_job_name(project, run),
        )


class Notebook(Handler):
    """`GET runs/{id}/notebook?executed=1`."""

    @web.authenticated
    @authorized
    async def get(self, run: str) -> None:
        """Answer the notebook of a run: as it was executed if that is asked for and kept, else as it was."""
        await self.reply(self._notebook, run)

    def _notebook(self, identifier: str) -> schema.NotebookView:
        wanted = self.get_query_argument("executed", "0") == "1"
        path = self.get_query_argument("notebook", None)
        project, run = self.stores.find(lambda project: project.catalog.run(identifier), path)
        if wanted and run.output is not None:
            with naming("executed notebook", run=short(run.id)):
                notebook = _untrusted(msgspec.json.decode(project.blobs.get(run.output)))
            return schema.NotebookView(notebook=notebook, executed=True, has_executed=True)
        snapshot = _snapshot(project, run)
        if snapshot is None:
            executions = project.steps(run.id)
            if not executions:
                raise NotFound("This run kept no notebook.", "Its steps are on the other tab.")
            cells = [_code_cell(each.source or "") for each in executions]
            notebook = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
        else:
            with naming("notebook", run=short(run.id)):
                notebook = _untrusted(msgspec.json.decode(project.blobs.get(snapshot.notebook)))
        return schema.NotebookView(notebook=notebook, executed=False, has_executed=run.output is not None)


class Cancel(Handler):
    """`POST runs/{id}/cancel`."""

    @web.authenticated
    @authorized("execute")
    async def post(self, run: str) -> None:
        """Cancel what is under way in a run; answer the steps that were cancelled."""
        await self.reply_with(self._cancel(run))

    async def _cancel(self, identifier: str) -> schema.Cancelled:
        _, run = await asyncio.to_thread(self.stores.find, lambda project: project.catalog.run(identifier))
        if run.state not in UNDER_WAY:
            raise UsageError(f"The run has ended: it is {run.state}.")
        answer = await self.newsroom.ask("cancel", {"run": run.id})
        return schema.Cancelled(steps=cancelled_steps(answer))


class Resume(Handler):
    """`POST runs/{id}/resume`."""

    @web.authenticated
    @authorized("execute")
    async def post(self, run: str) -> None:
        """Run the notebook again, but for the steps that succeeded and are unchanged; answer the run that has begun."""
        await self.reply(self._resume, run)

    def _resume(self, identifier: str) -> schema.Resumed:
        path = self.get_query_argument("notebook", None)
        project, run = self.stores.find(lambda project: project.catalog.run(identifier), path)
        return schema.Resumed(run=resume_apart(project, run).id)


def cancelled_steps(answer: Any) -> list[str]:
    """Read the names of steps from the service's answer to `cancel`."""
    return [str(each["step"]) for each in answer.get("cancelled", ()) if each.get("step") is not None]


def failure_line(run: Run, executions: list[Execution]) -> str | None:
    """Say in one line why a run failed, and where."""
    failed = next((each for each in executions if each.state == "failed"), None)
    step = run.failed_step or (failed.step if failed else None)
    failure = run.failure or (failed.failure if failed else None)
    if run.state != "failed" or (step is None and failure is None and run.reason is None):
        return None
    what = f"{failure.ename}: {failure.evalue}".splitlines()[0] if failure else run.reason or "failed"
    return f"{step}: {what}" if step else what


def _edges(executions: list[Execution]) -> list[schema.StepEdge]:
    steps = {each.id: each.step for each in executions}
    edges = {
        (parent, each.step)
        for each in executions
        for parent in (*(steps.get(one) for one in each.parents), *(read.step for read in each.reads))
        if parent is not None and parent != each.step and parent in steps.values()
    }
    return [schema.StepEdge(parent=parent, child=child) for parent, child in sorted(edges)]


def _changed_parameters(project: Project, run: Run, page: Sequence[Run]) -> list[str]:
    """Name the parameters that the run before had otherwise, or for want of one the notebook.

    The run before may follow on a page that has all runs in order.
    """
    if not run.parameters:
        return []
    older = iter(page)
    found = next((one for one in older if one.id == run.id), None)
    before = next((one for one in older if one.notebook == run.notebook), None) if found is not None else None
    try:
        then = (before or run_before(project, run)).parameters
    except NotFound:
        then = {}
    if not run.parameters.keys() <= then.keys():
        then = _defaults(project, run) | then
    return [name for name, value in run.parameters.items() if name not in then or then[name] != value]


def _defaults(project: Project, run: Run) -> Json:
    """Return the values that a run's notebook gave its parameters itself."""
    snapshot = _snapshot(project, run)
    if snapshot is None:
        return {}
    try:
        return defaults(declared(json.loads(project.blobs.get(snapshot.notebook))))
    except (MlbenchError, ValueError):
        return {}  # the notebook is damaged, or gone from the store: the run is listed all the same


def _snapshot(project: Project, run: Run) -> Snapshot | None:
    return project.catalog.snapshot(run.snapshot) if run.snapshot else None


def _code_line(snapshot: Snapshot | None) -> str | None:
    if snapshot is None or snapshot.git is None:
        return None
    git = snapshot.git
    state = "clean" if git.difference is None else "with changes"
    return f"{git.branch or 'detached'} {git.commit[:6]}, {state}"


def _job_name(project: Project, run: Run) -> str | None:
    if run.job is None:
        return None
    try:
        return project.catalog.job(run.job).name
    except NotFound:
        return None


def _untrusted(notebook: Json) -> Json:
    """Drop what a stored notebook says about its own trust."""
    for cell in notebook.get("cells") or ():
        if isinstance(cell, dict) and isinstance(cell.get("metadata"), dict):
            cell["metadata"].pop("trusted", None)
    return notebook


def _code_cell(source: str) -> Json:
    return {"cell_type": "code", "source": source, "metadata": {}, "outputs": [], "execution_count": None}
