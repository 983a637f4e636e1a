"""Executions: one with its messages, its items, its end, and the wait for it."""

from __future__ import annotations

import asyncio
import math

from jupyter_server.auth.decorator import authorized
from tornado import web

from mlbench.core.errors import UsageError
from mlbench.core.records import ENDED, UNDER_WAY, Execution
from mlbench.entrypoints.labserver import schema
from mlbench.entrypoints.labserver.door import Handler
from mlbench.entrypoints.labserver.runs import cancelled_steps
from mlbench.project import Project
from mlbench.project.history import with_items

__all__ = ["Cancel", "Items", "Keep", "MetricOfItems", "OneExecution"]

LARGEST_PAGE = 1000
MOST_ITEMS = 10_000_000


class _Lively(Handler):
    """A handler that speaks with the service."""

    async def stored(self, identifier: str) -> Execution:
        """Return an execution as the catalog has it."""
        path = self.get_query_argument("notebook", None)
        found: Execution
        _, found = await asyncio.to_thread(
            self.stores.find, lambda project: project.catalog.execution(identifier), path
        )
        return found


class OneExecution(_Lively):
    """`GET executions/{id}`."""

    @web.authenticated
    @authorized
    async def get(self, execution: str) -> None:
        """Answer an execution with its messages; of one under way those that the service has."""
        await self.reply_with(self._detail(execution))

    async def _detail(self, identifier: str) -> schema.ExecutionDetail:
        execution = await self.stored(identifier)
        if execution.state in UNDER_WAY:
            execution = await self.newsroom.execution(execution.id) or execution
        return schema.ExecutionDetail(execution=execution)


class _OfItems(Handler):
    """A handler that reads a fan-out's items."""

    def whole(self, identifier: str) -> tuple[Project, Execution]:
        """Return a store and the execution in it that has the items."""
        path = self.get_query_argument("notebook", None)
        project, found = self.stores.find(lambda project: project.catalog.execution(identifier), path)
        return project, with_items(project.catalog, found)


class Items(_OfItems):
    """`GET executions/{id}/items?state=&logged=1&limit=&after=`."""

    @web.authenticated
    @authorized
    async def get(self, execution: str) -> None:
        """Answer a page of a fan-out's items: of some states or of all, or of those that logged artifacts."""
        await self.reply(self._page, execution)

    def _page(self, identifier: str) -> schema.ItemList:
        states = tuple(filter(None, ",".join(self.get_query_arguments("state")).split(",")))
        if strange := [state for state in states if state not in UNDER_WAY | ENDED]:
            raise UsageError(
                f"{strange[0][:40]!r} is not a state.", f"They are: {', '.join(sorted(UNDER_WAY | ENDED))}."
            )
        limit = self.number("limit", 200, LARGEST_PAGE)
        after = self.number("after", 0, MOST_ITEMS, smallest=0) if self.get_query_argument("after", None) else -1
        logged = self.get_query_argument("logged", "0") == "1"
        project, whole = self.whole(identifier)
        items = project.catalog.items(whole.id, states=states, logged=logged, limit=limit, after=after)
        return schema.ItemList(
            items=items,
            counts=project.catalog.count_items(whole.id),
            logged=project.catalog.count_logged(whole.id) if logged else None,
            next=items[-1].item if len(items) == limit else None,
        )


class MetricOfItems(_OfItems):
    """`GET executions/{id}/metric?name=`."""

    @web.authenticated
    @authorized
    async def get(self, execution: str) -> None:
        """Answer the values of a metric in the order of the items: without a name those of the one that is shown."""
        await self.reply(self._values, execution)

    def _values(self, identifier: str) -> schema.ItemMetric:
        project, whole = self.whole(identifier)
        names = project.catalog.item_metric_names(whole.id)
        shown = whole.fanout.metric if whole.fanout is not None else None
        name = self.get_query_argument("name", shown or (names[0] if names else None))
        found = dict(project.catalog.item_metrics(whole.id, name)) if name is not None else {}
        total = (whole.fanout and whole.fanout.total) or max(found, default=-1) + 1
        values = (found.get(number, math.nan) for number in range(total))
        return schema.ItemMetric(
            name=name,
            names=names,
            values=[value if math.isfinite(value) else None for value in values],
            shape=list(whole.fanout.shape) if whole.fanout is not None else [],
        )


class Cancel(_Lively):
    """`POST executions/{id}/cancel`."""

    @web.authenticated
    @authorized("execute")
    async def post(self, execution: str) -> None:
        """Cancel an execution; answer the steps that were cancelled."""
        await self.reply_with(self._cancel(execution))

    async def _cancel(self, identifier: str) -> schema.Cancelled:
        answer = await self.newsroom.ask("cancel", {"execution": identifier})
        return schema.Cancelled(steps=cancelled_steps(answer))


class Keep(_Lively):
    """`POST executions/{id}/keep`."""

    @web.authenticated
    @authorized("execute")
    async def post(self, execution: str) -> None:
        """Take care that the interrupt that ends a cell's wait does not cancel what it waits for."""
        await self.reply_with(self._keep(execution))

    async def _keep(self, identifier: str) -> schema.Cancelled:
        execution = await self.stored(identifier)
        _, run = await asyncio.to_thread(self.stores.find, lambda project: project.catalog.run(execution.run))
        await self.newsroom.ask("keep", {"executions": [identifier], "kernel": run.kernel})
        return schema.Cancelled(steps=[])
