"""Who answers here: versions, the store and why it is that one, and the service."""

from __future__ import annotations

import asyncio
import json
import shlex
from importlib.metadata import PackageNotFoundError, distribution
from urllib.parse import unquote, urlsplit

from jupyter_server.auth.decorator import authorized
from tornado import web

from mlbench.backends.service_socket import installed_version
from mlbench.entrypoints.labserver import schema
from mlbench.entrypoints.labserver.door import Handler
from mlbench.project import promotion

__all__ = ["StatusOfServer"]


class StatusOfServer(Handler):
    """`GET status`."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """Answer what the page says about this installation."""
        await self.reply_with(self._status())

    async def _status(self) -> schema.Status:
        project = await asyncio.to_thread(self.stores.project, self.get_query_argument("notebook", None))
        return schema.Status(
            version=installed_version(),
            store=str(project.location.path),
            store_source=project.location.source,
            service=await asyncio.to_thread(promotion.service_line),
            service_runs=self.newsroom.connected,
            install=install_line(),
        )


def install_line() -> str:
    """Return the line that installs this mlbench into a kernel's environment, to be run in a cell of it."""
    try:
        written = distribution("mlbench").read_text("direct_url.json")
    except PackageNotFoundError:
        written = None
    url = json.loads(written).get("url", "") if written else ""
    if not url:
        return f"%pip install mlbench-{installed_version()}-py3-none-any.whl"
    parts = urlsplit(url)
    return f"%pip install {shlex.quote(unquote(parts.path) if parts.scheme == 'file' else url)}"
