"""A store that cannot be written for a while: steps go on, it is said, and nothing that was told is lost."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mlbench.backends.memory import MemoryCatalog
from mlbench.backends.service_socket.frames import Decoder
from mlbench.core.errors import StoreError
from mlbench.core.ids import ExecutionId, new_id
from mlbench.core.messages import Environment, KernelHello, Submission
from mlbench.core.records import Execution, Run
from mlbench.entrypoints.service import ledger
from mlbench.entrypoints.service.events import News, Wish
from mlbench.entrypoints.service.store import OpenStore
from mlbench.project import Project, find_store
from tests.integration.house import MemoryExecutor


class FullCatalog(MemoryCatalog):
    """A catalog that cannot be written while it is `full`."""

    full = True

    def put_run(self, run: Run, /) -> None:
        self._look()
        super().put_run(run)

    def put_executions(self, executions: Sequence[Execution], /) -> None:
        self._look()
        super().put_executions(executions)

    def _look(self) -> None:
        if self.full:
            raise StoreError("There is no space left on the catalog.", "Free some.")


@dataclass(eq=False)
class Page:
    """A listener that can be waited for."""

    wish: Wish = field(default_factory=lambda: Wish(subscribed=True))
    heard: list[dict[str, Any]] = field(default_factory=list)
    stirred: asyncio.Event = field(default_factory=asyncio.Event)

    def send(self, frame: bytes, /) -> None:
        self.heard += [message["event"] for message in Decoder().feed(frame)]
        self.stirred.set()

    async def until(self, **wanted: Any) -> dict[str, Any]:
        async with asyncio.timeout(20):
            while True:
                for event in self.heard:
                    said = event["body"].get("execution") or event["body"]
                    if all(said.get(name, ...) == value for name, value in wanted.items()):
                        return event
                self.stirred.clear()
                await self.stirred.wait()


def test_steps_go_on_while_the_catalog_cannot_be_written_and_are_in_it_when_it_can(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "FIRST_PAUSE", 0.02)
    catalog = FullCatalog()
    project = Project(find_store(None), catalog=catalog)
    environment = Environment(interpreter=sys.executable, variables={}, stamp="test")
    hello = KernelHello(kernel="k", store=str(store), environment=environment, notebook="/n.ipynb")

    async def live() -> None:
        news, page = News("life"), Page()
        news.join(page)
        opened = OpenStore(project, MemoryExecutor(), news, "nobody", lambda: None)
        session, _ = await opened.attach(hello, 1)
        one, two = (
            Submission(execution=ExecutionId(new_id()), step=step, source="", defs=(step,)) for step in ("one", "two")
        )
        await opened.submit(session, one)
        await page.until(problem="There is no space left on the catalog. Free some.", store=opened.path)
        await page.until(id=one.execution, state="succeeded")
        assert (await opened.execution(one.execution)).state == "succeeded"
        answer = await opened.submit(session, two)
        assert "There is no space left" in answer["note"]
        assert project.blobs.find_record("execution", one.execution) is not None
        catalog.full = False
        await page.until(problem=None, store=opened.path)
        await page.until(id=two.execution, state="succeeded")
        await opened.close(patience=5)
        assert {found.step for found in catalog.executions(answer["execution"].run)} == {"one", "two"}

    asyncio.run(live())
