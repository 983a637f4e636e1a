"""Who answers here: versions, the store and why it is that one, and the service."""

from __future__ import annotations

import asyncio
import json
import shlex
import socket
from importlib.metadata import PackageNotFoundError, distribution
from urllib.parse import unquote, urlsplit

from jupyter_server.auth.decorator import authorized
from jupyter_server.utils import url_path_join
from tornado import web

from mlbench.backends.service_socket import installed_version
from mlbench.core.errors import MlbenchError
from mlbench.entrypoints.labserver import schema
from mlbench.entrypoints.labserver.door import Handler
from mlbench.project import promotion

__all__ = ["DashboardsOfClusters", "StatusOfServer", "proxied"]

PROXY = "jupyter_server_proxy"


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
            store=project.location.place,
            store_source=project.location.source,
            service=await asyncio.to_thread(promotion.service_line),
            service_runs=self.newsroom.connected,
            install=install_line(),
        )


class DashboardsOfClusters(Handler):
    """`GET dashboards`."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """Answer the dashboards of the clusters that are open, as far as this server leads there."""
        await self.reply_with(self._dashboards())

    async def _dashboards(self) -> schema.Dashboards:
        if not self.newsroom.connected or not self._has_proxy():
            return schema.Dashboards(dashboards=[])
        try:
            answer = await self.newsroom.ask("cluster", {"verb": "dashboards"})
        except MlbenchError:  # no service any more, or one that has no clusters: then there is no dashboard
            return schema.Dashboards(dashboards=[])
        found = answer["dashboards"].items()
        urls = {name: proxied(link, self.base_url) for name, link in found}
        return schema.Dashboards(dashboards=[schema.Dashboard(name=name, url=url) for name, url in urls.items() if url])

    def _has_proxy(self) -> bool:
        manager = getattr(self.serverapp, "extension_manager", None)
        extension = manager.extensions.get(PROXY) if manager is not None else None
        return extension is not None and extension.enabled


def proxied(link: str, base_url: str) -> str | None:
    """Return the address of a dashboard of this machine through Jupyter's proxy; None for one of another machine.

    Examples
    --------
    >>> proxied("http://127.0.0.1:8787/status", "/user/ann/")
    '/user/ann/proxy/8787/status'
    >>> proxied("http://192.0.2.7:8787/status", "/") is None
    True
    """
    parts = urlsplit(link)
    if parts.scheme != "http" or parts.hostname is None or parts.port is None or not _is_here(parts.hostname):
        return None
    return url_path_join(base_url, "proxy", str(parts.port), parts.path or "/status")


def _is_here(host: str) -> bool:
    """Say whether an address is one of this machine's own: only there can a socket be bound to it."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as tried:
            tried.bind(address)
    except OSError:
        return False
    return True


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
