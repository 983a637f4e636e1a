"""The websocket that brings news to a page: `GET events?from=&life=`."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from jupyter_server.auth.decorator import authorized, ws_authenticated
from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.base.websocket import WebSocketMixin
from tornado import websocket

from mlbench.core.ids import is_id
from mlbench.entrypoints.labserver.news import Newsroom, Page
from mlbench.entrypoints.labserver.schema import Watch
from mlbench.runs.wire import msgspec

__all__ = ["Events"]


class Events(WebSocketMixin, websocket.WebSocketHandler, JupyterHandler):
    """One page. It begins with `hello`; what the page sends is a `Watch`, anything else ends the connection."""

    auth_resource = "mlbench"

    def initialize(self, newsroom: Newsroom, **_: Any) -> None:
        """Take what brings the news."""
        self.newsroom = newsroom
        self.page = Page()
        self._writer: asyncio.Task[None] | None = None

    @ws_authenticated
    @authorized("read")
    async def get(self, *args: Any, **kwargs: Any) -> None:  # type: ignore[override]  # Jupyter's decorators are untyped
        """Open the websocket."""
        await super().get(*args, **kwargs)

    def open(self, *_: str, **__: str) -> None:
        """Let the page listen."""
        super().open()
        since = self.get_query_argument("from", "")
        life = self.get_query_argument("life", None)
        self._writer = asyncio.create_task(self._write(), name="mlbench-page")
        known = since.isascii() and since.isdigit() and len(since) < 16
        self.newsroom.join(self.page, int(since) if known else None, life)

    def on_message(self, message: str | bytes) -> None:
        """Read which executions the page watches."""
        try:
            watched = msgspec.json.decode(message, type=Watch).watch
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            self.close(1003, "Only a Watch can be sent here.")
            return
        self.page.watched = frozenset(each for each in watched[:100] if is_id(each))

    def on_close(self) -> None:
        """Let the page go."""
        self.newsroom.leave(self.page)
        if self._writer is not None:
            self._writer.cancel()
        super().on_close()

    async def _write(self) -> None:
        with contextlib.suppress(websocket.WebSocketClosedError):
            while True:
                news = await self.page.queue.get()
                await self.write_message(msgspec.json.encode(news))
