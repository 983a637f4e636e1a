"""The notebook as its page holds it, for the snapshot of an interactive run: the file on disk may be older."""

from __future__ import annotations

from jupyter_server.auth.decorator import authorized
from tornado import web

from mlbench.core.errors import ServiceError
from mlbench.entrypoints.labserver import schema
from mlbench.entrypoints.labserver.door import Handler

__all__ = ["DocumentOfKernel"]


class DocumentOfKernel(Handler):
    """`POST document`."""

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Hand the notebook of a kernel to the service; without a service there is no run that it belongs to."""
        await self.reply_with(self._pass_on())

    async def _pass_on(self) -> schema.Taken:
        document = self.body(schema.Document)
        try:
            await self.newsroom.ask("cells", {"kernel": document.kernel, "document": document.notebook})
        except ServiceError:
            return schema.Taken(taken=False)
        return schema.Taken(taken=True)
