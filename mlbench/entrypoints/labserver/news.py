"""One connection to the service for all pages of this server, and the news that it brings them.

The service is not started for the sake of news: only when a job has to be fired, or when a page asks for something.
Where no service runs, a catalog that another process has written to is noticed by its version.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict, deque
from typing import Any, Final

from mlbench.backends.service_socket import AsyncServiceClient
from mlbench.core.errors import MlbenchError, NotFound, ServiceError
from mlbench.core.messages import Event
from mlbench.core.records import Execution
from mlbench.entrypoints.labserver.schema import News
from mlbench.entrypoints.labserver.stores import Stores
from mlbench.runs.wire import msgspec

__all__ = ["Newsroom", "Page"]

LOOK_EVERY: Final = 2.0
"""Seconds between looks for a service, and at the catalogs' versions."""

KEPT: Final = 2000
"""News that a page that was away can catch up with."""

WAITING: Final = 1000
"""News that wait for a slow page; beyond, it is told to ask again for everything."""

RUNS_KNOWN: Final = 4000

log = logging.getLogger(__name__)


class Page:
    """A page that listens: a queue, and the executions whose messages it wants."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[News] = asyncio.Queue(WAITING)
        self.watched: frozenset[str] = frozenset()

    def tell(self, news: News) -> None:
        """Queue a piece of news, or replace all that wait by one that says to ask again."""
        if news.type == "messages" and news.body.get("execution") not in self.watched:
            return
        if self.queue.full():
            while not self.queue.empty():
                self.queue.get_nowait()
            news = News(type="reset", seq=news.seq, life=news.life)
        self.queue.put_nowait(news)


class Newsroom:
    """Listens to the service, and passes on what it says, with the paths of this server.

    All of it runs in the server's event loop.
    """

    def __init__(self, stores: Stores) -> None:
        self._stores = stores
        self._client: AsyncServiceClient | None = None
        self._connecting = asyncio.Lock()
        self._pages: set[Page] = set()
        self._kept: deque[News] = deque(maxlen=KEPT)
        self._raw: asyncio.Queue[Event] = asyncio.Queue()
        self._runs: OrderedDict[str, tuple[str | None, str | None]] = OrderedDict()
        self._tasks: list[asyncio.Task[None]] = []
        self._seq: int | None = None
        self._life: str | None = None
        self._versions: dict[str, int] = {}
        self._last_event = 0.0

    @property
    def connected(self) -> bool:
        """Say whether there is a service at the other end."""
        return self._client is not None and not self._client.lost.is_set()

    def join(self, page: Page, since: int | None = None, life: str | None = None) -> None:
        """Let a page listen, beginning after the news that it saw last."""
        if not self._tasks:
            self._tasks = [
                asyncio.create_task(self._listen(), name="mlbench-listen"),
                asyncio.create_task(self._pass_on(), name="mlbench-pass-on"),
            ]
        page.tell(News(type="hello", seq=self._seq, life=self._life))
        if since is not None:
            first = self._kept[0].seq if self._kept else None
            if life == self._life and (since == self._seq or (first is not None and first <= since + 1)):
                for news in self._kept:
                    if news.seq is not None and news.seq > since:
                        page.tell(news)
            else:
                page.tell(News(type="reset", seq=self._seq, life=self._life))
        self._pages.add(page)

    def leave(self, page: Page) -> None:
        """Let a page go."""
        self._pages.discard(page)

    async def ask(self, op: str, body: Any = None, *, start: bool = False) -> Any:
        """Ask the service.

        Raises
        ------
        ServiceError
            If none runs, unless it is to be started.
        """
        client = await self._connect(start=start)
        return await client.request(op, body)

    async def execution(self, identifier: str) -> Execution | None:
        """Return an execution that is under way as the service has it, or None where no service knows it."""
        try:
            answer = await self.ask("execution", {"id": identifier})
        except (ServiceError, NotFound):
            return None
        if isinstance(answer, dict) and "execution" in answer:
            answer = answer["execution"]
        return msgspec.convert(answer, Execution)

    async def jobs_changed(self) -> None:
        """Tell the service, which is started if there is none, that jobs are to be looked at again."""
        for project in await asyncio.to_thread(self._stores.met):
            await self.ask("jobs_changed", project.location.named(), start=True)

    async def close(self) -> None:
        """Stop listening."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._client is not None:
            await self._client.close()

    async def _connect(self, *, start: bool) -> AsyncServiceClient:
        async with self._connecting:
            if self._client is not None and not self._client.lost.is_set():
                return self._client
            client = await AsyncServiceClient.connect(role="lab", start=start)
            client.on_event(self._raw.put_nowait)
            answer = await client.request("subscribe", {"from": self._seq, "life": self._life, "messages": True})
            if isinstance(answer, dict) and answer.get("reset"):
                self._say(News(type="reset"))
            self._client = client
            return client

    async def _listen(self) -> None:
        start = await asyncio.to_thread(self._something_is_scheduled)
        while True:
            with contextlib.suppress(ServiceError):
                if self._pages and not self.connected:
                    await self._connect(start=start)
                    start = False
            await asyncio.sleep(LOOK_EVERY)
            if self._pages:
                await self._look_at_catalogs()

    def _something_is_scheduled(self) -> bool:
        try:
            return any(
                job.next_due is not None and not job.paused
                for project in self._stores.met()
                for job in project.catalog.jobs()
            )
        except MlbenchError as error:
            log.warning("The jobs cannot be read: %s", error)
            return False

    async def _look_at_catalogs(self) -> None:
        try:
            versions = await asyncio.to_thread(self._read_versions)
        except Exception as error:  # noqa: BLE001  whatever it is, the pages go on listening
            log.warning("The catalog cannot be read: %s", error)
            return
        if versions == self._versions or time.monotonic() - self._last_event < LOOK_EVERY:
            return
        # Also at the first look: what was written between a page's first question and this look, nobody else tells.
        self._say(News(type="changed"))
        self._versions = versions

    def _read_versions(self) -> dict[str, int]:
        versions = {}
        for project in self._stores.met():
            with contextlib.suppress(MlbenchError):  # one that was taken away says so to whoever asks for its runs
                versions[project.location.place] = project.catalog.version()
        return versions

    async def _pass_on(self) -> None:
        while True:
            event = await self._raw.get()
            self._last_event = time.monotonic()
            notebook, kernel = await self._whose(event)
            self._seq, self._life = event.seq, event.life
            self._say(
                News(
                    type=event.type,
                    seq=event.seq,
                    life=event.life,
                    run=event.run,
                    kernel=kernel,
                    path=self._stores.relative(notebook),
                    body=event.body,
                )
            )

    async def _whose(self, event: Event) -> tuple[str | None, str | None]:
        """Return the notebook and the kernel of a piece of news."""
        if event.run is None:
            return event.notebook, None
        run = event.body.get("run") if event.type == "run" else None
        if isinstance(run, dict):
            self._runs[event.run] = (run.get("notebook"), run.get("kernel"))
        elif event.run not in self._runs:
            try:
                _, found = await asyncio.to_thread(
                    self._stores.find, lambda project: project.catalog.run(str(event.run))
                )
            except MlbenchError:
                return event.notebook, None
            self._runs[event.run] = (found.notebook, found.kernel)
        while len(self._runs) > RUNS_KNOWN:
            self._runs.popitem(last=False)
        return self._runs[event.run]

    def _say(self, news: News) -> None:
        if news.seq is not None and news.type != "messages":
            self._kept.append(news)
        for page in self._pages:
            page.tell(news)
