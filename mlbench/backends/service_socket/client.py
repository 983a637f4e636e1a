"""The client of a kernel, a command or an engine: requests that block, news on a thread, back after a loss."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from mlbench.backends.service_socket.door import Role, ServiceInfo
from mlbench.backends.service_socket.frames import encode, read_error
from mlbench.backends.service_socket.start import Connection, dial
from mlbench.core.errors import MlbenchError, ServiceError
from mlbench.core.messages import Event

__all__ = ["ServiceClient", "connect"]

logger = logging.getLogger(__name__)

TIMEOUT: Final = 60.0
"""Seconds that a request waits for its answer unless it says otherwise."""

SEND_TIMEOUT: Final = 30
"""Seconds for the service to take a frame."""

_TRIES: Final = 3
"""Services, one after the other, that are lost while they are greeted, until that is said."""

LOST = "The mlbench service ended before it answered."


def connect(
    *,
    role: Role = "cli",
    start: bool = True,
    until_idle: bool | None = None,
    reconnect: bool = False,
    runtime: str | os.PathLike[str] | None = None,
    version: str | None = None,
) -> ServiceClient:
    """Return a client of this user's service, which is started if there is none.

    Parameters
    ----------
    reconnect
        Connect again by itself when the service is lost, starting another one.

    Raises
    ------
    ServiceError
        With what to do, in every case in which there is no service to speak to.
    """

    def redial() -> Connection:
        return dial(role, start=start, until_idle=until_idle, runtime=runtime, version=version)

    return ServiceClient(redial(), redial if reconnect else None)


class _Pending:
    """A request on its way."""

    __slots__ = ("answer", "done", "error")

    def __init__(self) -> None:
        self.done = threading.Event()
        self.answer: Any = None
        self.error: Exception | None = None


class ServiceClient:
    """One connection to the service; may be used by several threads.

    Callbacks run on the client's own thread, in the order of the news: they return soon, and make no requests, but
    for those of `on_connected`.

    Parameters
    ----------
    connection
        What `dial` returned.
    redial
        Makes another one after a loss; None: a loss is final.
    """

    def __init__(self, connection: Connection, redial: Callable[[], Connection] | None = None) -> None:
        self._redial = redial
        self._guard = threading.Condition(threading.RLock())
        self._send_lock = threading.Lock()
        self._pending: dict[int, _Pending] = {}
        self._number = 0
        self._state = "open"  # open, dialling, greeting (again), away (dial when needed), closed
        self._greeter: int | None = None
        self._farewell: str | None = None
        self._refused: Connection | None = None
        self._on_event: list[Callable[[Event], None]] = []
        self._on_lost: list[Callable[[str], None]] = []
        self._on_connected: list[Callable[[ServiceClient], None]] = []
        self._connection = connection
        self._take(connection)

    @property
    def service(self) -> ServiceInfo:
        """What the service said of itself."""
        return self._connection.info

    @property
    def closed(self) -> bool:
        """Whether this client is closed, or has lost a service that it does not look for again."""
        return self._state == "closed"

    def on_event(self, callback: Callable[[Event], None]) -> None:
        """Call back with each piece of news."""
        self._on_event.append(callback)

    def on_lost(self, callback: Callable[[str], None]) -> None:
        """Call back with a sentence when the service is lost, before another one is looked for."""
        self._on_lost.append(callback)

    def on_connected(self, callback: Callable[[ServiceClient], None]) -> None:
        """Call back after each connection that follows a loss: attach again here. Others' requests wait for it."""
        self._on_connected.append(callback)

    def request(self, op: str, body: Any = None, *, timeout: float | None = TIMEOUT) -> Any:
        """Ask the service and return its answer, plain data.

        Raises
        ------
        MlbenchError
            What the service says, in its own kind; a `ServiceError` if it is lost or does not answer in time.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._await_open(deadline):
            self._dial_again()
        with self._guard:
            self._number += 1
            number = self._number
            pending = self._pending[number] = _Pending()
            connection = self._connection
        try:
            frame = encode({"n": number, "op": op, "body": body})
            try:
                with self._send_lock:
                    connection.socket.sendall(frame)
            except OSError as error:
                with contextlib.suppress(OSError):
                    connection.socket.shutdown(socket.SHUT_RDWR)
                raise ServiceError(f"The mlbench service cannot be reached: {error.strerror or error}.") from error
            remaining = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not pending.done.wait(remaining):
                raise ServiceError(
                    f"The mlbench service (process {connection.info.pid}) has not answered within {timeout:.0f} s.",
                    "Look at: mlbench service status",
                )
        finally:
            self._pending.pop(number, None)
        if pending.error is not None:
            raise pending.error
        return pending.answer

    def close(self) -> None:
        """End the connection; calling it again does nothing."""
        with self._guard:
            self._state = "closed"
            self._guard.notify_all()
        with contextlib.suppress(OSError):
            self._connection.socket.shutdown(socket.SHUT_RDWR)
        if threading.current_thread() is not self._reader:
            self._reader.join(timeout=5)
        self._connection.close()

    def __enter__(self) -> ServiceClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- the connection's life -----------------------------------------------------------------------------------

    def _await_open(self, deadline: float | None) -> bool:
        """Wait until requests may be made; False says that the caller has to connect first."""
        me = threading.get_ident()
        with self._guard:
            while self._state != "open" and not (self._state == "greeting" and self._greeter == me):
                if self._state == "closed":
                    raise ServiceError(self._farewell or "This connection to the mlbench service is closed.")
                if self._state == "away":
                    self._state = "dialling"
                    return False
                remaining = None if deadline is None else deadline - time.monotonic()
                if remaining is not None and remaining <= 0:
                    raise ServiceError("The mlbench service was lost, and another one has not started in time.")
                self._guard.wait(remaining)
        return True

    def _take(self, connection: Connection) -> None:
        timeout = struct.pack("ll", SEND_TIMEOUT, 0)
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeout)
        self._connection = connection
        self._alive = True
        self._farewell = None
        self._reader = threading.Thread(target=self._read, args=(connection,), name="mlbench-news", daemon=True)
        self._reader.start()

    def _read(self, connection: Connection) -> None:
        problem = LOST
        try:
            for message in connection.decoder.feed(b""):
                self._handle(message)
            while data := connection.socket.recv(1 << 18):
                for message in connection.decoder.feed(data):
                    self._handle(message)
        except ConnectionError:
            pass  # it was killed: its end of the socket is gone, which reads as an end or as a reset
        except OSError as error:
            problem = f"The connection to the mlbench service broke: {error.strerror or error}."
        except ServiceError as error:
            problem = str(error)
        self._lose(connection, problem)

    def _handle(self, message: dict[str, Any]) -> None:
        if "event" in message:
            from mlbench.runs.wire import msgspec

            event = msgspec.convert(message["event"], Event)
            for callback in self._on_event:
                try:
                    callback(event)
                except Exception:
                    logger.exception("A callback failed on an event of type %s", event.type)
        elif "bye" in message:
            self._farewell = str(message["bye"])
        elif (pending := self._pending.get(message.get("n", -1))) is not None:
            if "error" in message:
                pending.error = read_error(message["error"])
            else:
                pending.answer = message.get("ok")
            pending.done.set()

    def _lose(self, connection: Connection, problem: str) -> None:
        connection.close()
        with self._guard:
            if connection is self._refused or connection is not self._connection:
                return
            self._alive = False
            greeting = self._state == "greeting"  # who greets hears of it, and sees to the rest
            ours = self._state == "closed"
            farewell = self._farewell
            if not ours and not greeting:
                if self._redial is None:
                    self._state = "closed"
                    self._farewell = farewell or problem
                else:
                    self._state = "away" if farewell else "dialling"
            self._guard.notify_all()
        for pending in list(self._pending.values()):
            if not pending.done.is_set():
                pending.error = ServiceError(farewell or problem)
                pending.done.set()
        if ours or greeting:
            return
        for callback in self._on_lost:
            callback(farewell or problem)
        if self._redial is not None and not farewell:
            try:
                self._dial_again()
            except MlbenchError as error:
                logger.warning("The mlbench service is lost and cannot be started again: %s", error)

    def _dial_again(self) -> None:
        """Connect and attach again, in the state `dialling`; after a failure the next request tries again."""
        assert self._redial is not None
        state = "away"
        try:
            for _ in range(_TRIES):
                connection = self._redial()
                with self._guard:
                    if self._state == "closed":
                        connection.close()
                        return
                    self._take(connection)
                    self._state, self._greeter = "greeting", threading.get_ident()
                if self._greet(connection):
                    state = "open"
                    return
            raise ServiceError(LOST)
        finally:
            with self._guard:
                if self._state in {"dialling", "greeting"}:
                    self._state = state if self._alive else "away"
                self._greeter = None
                self._guard.notify_all()

    def _greet(self, connection: Connection) -> bool:
        """Attach again; return False if the service was lost meanwhile. A service that refuses is left alone."""
        try:
            for callback in self._on_connected:
                callback(self)
        except BaseException as error:
            with self._guard:
                if not self._alive and isinstance(error, ServiceError):
                    return False
                self._refused = connection  # what is not attached is of no use to any request
            with contextlib.suppress(OSError):
                connection.socket.shutdown(socket.SHUT_RDWR)
            raise
        return self._alive
