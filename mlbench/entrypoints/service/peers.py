"""One connection to the service: frames in, answers and news out."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from mlbench.backends.service_socket.door import check_peer
from mlbench.backends.service_socket.frames import Decoder, encode, write_error
from mlbench.core.errors import MlbenchError, ServiceError
from mlbench.core.messages import PROTOCOL
from mlbench.entrypoints.service.events import Wish
from mlbench.entrypoints.service.sessions import Session
from mlbench.entrypoints.service.store import OpenStore

__all__ = ["Peer"]

logger = logging.getLogger(__name__)

GREETING: Final = 10.0
"""Seconds in which a connection has to say who it is."""

MOST_UNREAD: Final = 64 << 20
"""Bytes that may wait for one peer: beyond, it is dropped, and can come back and ask for what it has missed."""

UNREAD_FOR: Final = 2.0
"""Seconds for which there may be more: a burst is none of the peer's making."""

OLDEST_PROTOCOL: Final = max(1, PROTOCOL - 1)


class Peer:
    """The other end of one connection.

    Parameters
    ----------
    greet
        Takes the body of the first frame, and returns the answer to it.
    handle
        Takes an operation and its body, and returns the answer.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        greet: Callable[[Peer, dict[str, Any]], Any],
        handle: Callable[[Peer, str, Any], Awaitable[Any]],
    ) -> None:
        self.wish = Wish()
        self.role = "unknown"
        self.version = "?"
        self.protocol = 0
        self.pid: int | None = None
        self.session: Session | None = None
        self.store: OpenStore | None = None
        self.opened_runs: list[tuple[OpenStore, str]] = []
        self._reader = reader
        self._writer = writer
        self._greet = greet
        self._handle = handle
        self._behind_since: float | None = None

    def describe(self) -> dict[str, Any]:
        """Return what `status` says of this peer."""
        hello = self.session.hello if self.session is not None else None
        return {
            "role": self.role,
            "pid": self.pid,
            "version": self.version,
            "kernel": hello.kernel if hello is not None else None,
            "notebook": hello.notebook if hello is not None else None,
        }

    def send(self, frame: bytes, /) -> None:
        """Write a frame without waiting; a peer that reads too slowly is dropped."""
        if self._writer.is_closing():
            return
        self._writer.write(frame)
        unread = self._writer.transport.get_write_buffer_size()
        if unread <= MOST_UNREAD:
            self._behind_since = None
            return
        now = time.monotonic()
        self._behind_since = self._behind_since or now
        if now - self._behind_since > UNREAD_FOR or unread > 8 * MOST_UNREAD:
            logger.warning("Process %s (%s) does not read its news and was dropped", self.pid, self.role)
            self._writer.transport.abort()

    async def close(self, farewell: str | None = None) -> None:
        """End the connection, in order if a farewell is said."""
        if farewell is not None:
            self.send(encode({"bye": farewell}))
        self._writer.close()

    async def serve(self) -> None:
        """Answer until the other end is gone."""
        decoder = Decoder()
        try:
            self._check()
            async with asyncio.timeout(GREETING):
                while not (first := await self._read(decoder)):
                    pass
            hello, *rest = first
            if not self._answer_hello(hello):
                return
            while True:
                for message in rest:
                    await self._answer(message)
                rest = await self._read(decoder)
        except EOFError:
            return
        except TimeoutError:
            logger.info("A connection said nothing for %.0f s and was closed", GREETING)
        except ConnectionError as error:
            logger.info("The connection to process %s broke: %s", self.pid, error)
        except ServiceError as error:
            logger.warning("A connection was closed: %s", error)
        finally:
            self._writer.close()

    def _check(self) -> None:
        sock = self._writer.get_extra_info("socket")
        try:
            self.pid = check_peer(sock)
        except ServiceError as error:
            self.send(encode({"n": 0, "error": write_error(error)}))
            raise

    async def _read(self, decoder: Decoder) -> list[dict[str, Any]]:
        data = await self._reader.read(1 << 18)
        if not data:
            raise EOFError
        return list(decoder.feed(data))

    def _answer_hello(self, message: dict[str, Any]) -> bool:
        number, body = message.get("n", 0), message.get("body")
        if message.get("op") != "hello" or not isinstance(body, dict):
            error = ServiceError("The first frame of a connection must say hello.")
            self.send(encode({"n": number, "error": write_error(error)}))
            return False
        self.role, self.version = str(body.get("role")), str(body.get("version"))
        self.protocol = int(body.get("protocol") or 0)
        said = body.get("pid")
        self.pid = self.pid or (said if isinstance(said, int) else None)
        if self.protocol < OLDEST_PROTOCOL:
            error = ServiceError(
                f"This mlbench service speaks protocol {PROTOCOL}; yours ({self.version}) is too old for it.",
                "Update mlbench in this environment.",
            )
            self.send(encode({"n": number, "error": write_error(error)}))
            return False
        self.send(encode({"n": number, "ok": self._greet(self, body)}))
        return True

    async def _answer(self, message: dict[str, Any]) -> None:
        number, op = message.get("n"), str(message.get("op"))
        try:
            answer = {"n": number, "ok": await self._handle(self, op, message.get("body"))}
        except MlbenchError as error:
            answer = {"n": number, "error": write_error(error)}
        except Exception as error:
            logger.exception("The request %s of process %s failed", op, self.pid)
            said = ServiceError(
                f"The mlbench service could not do this ({op}): {type(error).__name__}: {error}.",
                "Its log says more: mlbench service status",
            )
            answer = {"n": number, "error": write_error(said)}
        self.send(encode(answer))
