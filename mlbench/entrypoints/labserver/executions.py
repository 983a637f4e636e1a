"""Executions: one with its messages, its end, and the wait for it."""

from __future__ import annotations

import asyncio

from jupyter_server.auth.decorator import authorized
from tornado import web

from mlbench.core.records import UNDER_WAY, Execution
from mlbench.entrypoints.labserver import schema
from mlbench.entrypoints.labserver.door import Handler
from mlbench.entrypoints.labserver.runs import cancelled_steps

__all__ = ["Cancel", "Keep", "OneExecution"]


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
