"""The client of an event loop: JupyterLab's server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from typing import Any

from mlbench.backends.service_socket.client import LOST, TIMEOUT
from mlbench.backends.service_socket.door import Role, ServiceInfo
from mlbench.backends.service_socket.frames import Decoder, encode, read_error
from mlbench.backends.service_socket.start import dial
from mlbench.core.errors import ServiceError
from mlbench.core.messages import Event
from mlbench.runs.wire import msgspec

__all__ = ["AsyncServiceClient"]

logger = logging.getLogger(__name__)


class AsyncServiceClient:
    """One connection to the service, for one event loop; a loss is final: make another one.

    Made by `connect`. `lost` is set when the connection has ended, whoever ended it.
    """

    def __init__(self, info: ServiceInfo, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.service = info
        self.lost = asyncio.Event()
        self._reader = reader
        self._writer = writer
        self._pending: dict[int, asyncio.Future[Any]] = {}
        self._number = 0
        self._on_event: list[Callable[[Event], None]] = []
        self._farewell: str | None = None
        self._task: asyncio.Task[None] | None = None

    @classmethod
    async def connect(
        cls,
        *,
        role: Role = "lab",
        start: bool = False,
        runtime: str | os.PathLike[str] | None = None,
        version: str | None = None,
    ) -> AsyncServiceClient:
        """Return a client of this user's service; the loop is free meanwhile.

        Raises
        ------
        ServiceError
            With what to do, in every case in which there is no service to speak to.
        """
        connection = await asyncio.to_thread(dial, role, start=start, runtime=runtime, version=version)
        connection.socket.settimeout(0)
        reader, writer = await asyncio.open_unix_connection(sock=connection.socket)
        client = cls(connection.info, reader, writer)
        client._task = asyncio.create_task(client._read(connection.decoder), name="mlbench-news")
        return client

    def on_event(self, callback: Callable[[Event], None]) -> None:
        """Call back, in the loop, with each piece of news."""
        self._on_event.append(callback)

    async def request(self, op: str, body: Any = None, *, timeout: float | None = TIMEOUT) -> Any:  # noqa: ASYNC109
        """Ask the service and return its answer, plain data.

        Raises
        ------
        MlbenchError
            What the service says, in its own kind; a `ServiceError` if it is lost or does not answer in time.
        """
        if self.lost.is_set():
            raise ServiceError(self._farewell or LOST)
        self._number += 1
        number = self._number
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._pending[number] = future
        try:
            self._writer.write(encode({"n": number, "op": op, "body": body}))
            async with asyncio.timeout(timeout):
                await self._writer.drain()
                return await future
        except TimeoutError as error:
            raise ServiceError(
                f"The mlbench service (process {self.service.pid}) has not answered within {timeout:.0f} s.",
                "Look at: mlbench service status",
            ) from error
        except ConnectionError as error:
            raise ServiceError(self._farewell or LOST) from error
        finally:
            self._pending.pop(number, None)

    async def close(self) -> None:
        """End the connection; calling it again does nothing."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()

    async def _read(self, decoder: Decoder) -> None:
        try:
            for message in decoder.feed(b""):
                self._handle(message)
            while data := await self._reader.read(1 << 18):
                for message in decoder.feed(data):
                    self._handle(message)
        except (ConnectionError, ServiceError) as error:
            self._farewell = self._farewell or str(error)
        finally:
            self.lost.set()
            self._writer.close()
            for future in self._pending.values():
                if not future.done():
                    future.set_exception(ServiceError(self._farewell or LOST))

    def _handle(self, message: dict[str, Any]) -> None:
        if "event" in message:
            event = msgspec.convert(message["event"], Event)
            for callback in self._on_event:
                try:
                    callback(event)
                except Exception:
                    logger.exception("A callback failed on an event of type %s", event.type)
        elif "bye" in message:
            self._farewell = str(message["bye"])
        else:
            future = self._pending.get(message.get("n", -1))
            if future is not None and not future.done():
                if "error" in message:
                    future.set_exception(read_error(message["error"]))
                else:
                    future.set_result(message.get("ok"))
