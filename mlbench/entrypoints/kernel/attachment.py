"""How a kernel is attached to its user's service: from its first step on, and again whenever the service is another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

from mlbench.core.errors import ServiceError
from mlbench.core.messages import Event, KernelHello
from mlbench.core.records import Json
from mlbench.entrypoints.kernel.front import Front
from mlbench.entrypoints.kernel.news import News
from mlbench.entrypoints.kernel.sources import environment

__all__ = ["Attachment", "Connect", "Service"]


class Service(Protocol):
    """The service's client, as the kernel uses it."""

    def request(self, op: str, body: Any = None, *, timeout: float | None = 60.0) -> Any: ...
    def on_event(self, callback: Callable[[Event], None]) -> None: ...
    def on_connected(self, callback: Callable[[Any], None]) -> None: ...
    def close(self) -> None: ...


Connect = Callable[[], Service]


class Attachment:
    """The one connection of a kernel.

    Parameters
    ----------
    store
        Returns what names the store in a request.
    connect
        Finds or starts the service; called at the first step.
    say
        Shows a sentence under the running cell.
    """

    def __init__(
        self,
        front: Front,
        store: Callable[[], Json],
        news: News,
        connect: Connect | None,
        say: Callable[[str], None],
    ) -> None:
        self._front = front
        self._say = say
        self._store = store
        self._news = news
        self._connect = connect or _connect
        self._service: Service | None = None
        self._hello: KernelHello | None = None
        self._closed = False

    def service(self) -> Service:
        """Return the service, found or started at the first step; it knows this kernel as it is now.

        Raises
        ------
        ServiceError
            If the kernel is ending, or there is no service and none can be started.
        """
        if self._closed:
            raise ServiceError("This kernel is ending.")
        hello = self._present()
        if self._service is None:
            self._service = self._connect()
            self._service.on_event(self._news.on_event)
            self._service.on_connected(self._attach_again)
            self._attach(self._service, hello)
        elif hello != self._hello:
            self._attach(self._service, hello)
        self._hello = hello
        return self._service

    def close(self) -> None:
        """Leave the service for good."""
        self._closed = True
        service, self._service = self._service, None
        if service is not None:
            service.close()

    def _attach(self, service: Service, hello: KernelHello) -> None:
        answer = service.request("attach", hello)
        if note := (answer or {}).get("note"):
            self._say(note)

    def _attach_again(self, client: Service) -> None:
        assert self._hello is not None  # it has attached before
        client.request("attach", replace(self._hello, again=True))

    def _present(self) -> KernelHello:
        from mlbench.project.signing import keys_folder, own_keys
        from mlbench.runs.surroundings import preloadable

        front, store = self._front, self._store()
        return KernelHello(
            kernel=front.kernel_id,
            store=store["store"],
            catalog=store["catalog"],
            environment=environment(preloadable()),
            notebook=front.notebook,
            run=front.engine_run(),
            kind=front.kind(),
            notebook_id=front.notebook_id(),
            keys=own_keys(),
            keys_folder=str(keys_folder()),
        )


def _connect() -> Service:
    from mlbench.backends.service_socket import connect

    return connect(role="kernel", reconnect=True)
