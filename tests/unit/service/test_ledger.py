"""The ledger: what is told is in the store, and what cannot be written waits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from mlbench.backends.memory import MemoryCatalog
from mlbench.core.errors import StoreError
from mlbench.core.ids import ExecutionId, RunId
from mlbench.core.ports import WrittenItem
from mlbench.core.records import Execution, Run
from mlbench.entrypoints.service import ledger as ledgers
from mlbench.entrypoints.service.ledger import Ledger
from mlbench.runs.itemrecords import EndedItem

FULL = StoreError("There is no space left on /store.", "Free some.")


class Store(MemoryCatalog):
    """A project and its catalog: each refuses to be written while it has a `problem`."""

    def __init__(self) -> None:
        super().__init__()
        self.objects: list[Execution | Run] = []
        self.objects_problem: Exception | None = None
        self.problem: Exception | None = None
        self.poison: str | None = None
        self.most_refusals = 1_000
        self.tried: list[float] = []

    @property
    def catalog(self) -> Store:
        return self

    def record(self, record: Execution | Run) -> None:
        if self.objects_problem is not None:
            raise self.objects_problem
        self.objects.append(record)

    def put_run(self, run: Run, /) -> None:
        self._may_write([run.id])
        super().put_run(run)

    def put_executions(self, executions: Sequence[Execution], /) -> None:
        self._may_write([one.id for one in executions])
        super().put_executions(executions)

    def put_items(self, items: Sequence[WrittenItem], /) -> None:
        self._may_write([one.id for one in items])
        super().put_items(items)

    def _may_write(self, names: Sequence[str]) -> None:
        self.tried.append(time.monotonic())
        if self.problem is not None and len(self.tried) <= self.most_refusals:
            raise self.problem
        if self.poison in names:
            raise TypeError("a mistake of ours")


class Desk:
    """A ledger on a store, and what it has told."""

    def __init__(self) -> None:
        self.store = Store()
        self.problems: list[str | None] = []
        self.told: list[str] = []
        self.stirred = asyncio.Event()
        self.ledger = Ledger(self.store, self._note_problem)  # type: ignore[arg-type]

    def _note_problem(self, problem: str | None) -> None:
        self.problems.append(problem)
        self.stirred.set()

    def put(self, record: Execution | Run, **more: Any) -> None:
        name = f"{record.id} {record.state}"
        self.ledger.put(record, then=lambda: (self.told.append(name), self.stirred.set()), **more)  # type: ignore[func-returns-value]

    async def until(self, wanted: Callable[[], object]) -> None:
        async with asyncio.timeout(20):
            while not wanted():
                self.stirred.clear()
                await self.stirred.wait()


def an_execution(name: str = "a", state: str = "succeeded") -> Execution:
    return Execution(id=ExecutionId(name * 26), run=RunId("r" * 26), step=name, state=state)  # type: ignore[arg-type]


def a_run(state: str = "running") -> Run:
    return Run(id=RunId("r" * 26), kind="interactive", state=state, name="nb", started=1)  # type: ignore[arg-type]


def at_a_desk(story: Callable[[Desk], Awaitable[None]]) -> None:
    async def live() -> None:
        desk = Desk()
        await story(desk)
        await desk.ledger.close()

    asyncio.run(live())


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledgers, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr(ledgers, "LONGEST_PAUSE", 0.08)


def test_an_end_that_a_worker_has_recorded_is_told_although_the_catalog_is_locked_and_written_later() -> None:
    async def story(desk: Desk) -> None:
        desk.store.problem = StoreError("Another process has held the catalog for more than 10 s.")
        record = an_execution()
        desk.put(record)
        await desk.until(lambda: desk.problems)
        assert desk.told == [f"{record.id} succeeded"]
        assert desk.ledger.unwritten(record.id) == record
        desk.store.problem = None
        await desk.until(lambda: len(desk.problems) == 2)
        assert desk.problems == ["Another process has held the catalog for more than 10 s.", None]
        assert desk.store.execution(record.id) == record
        assert desk.ledger.unwritten(record.id) is None
        assert desk.told == [f"{record.id} succeeded"]

    at_a_desk(story)


def test_an_end_that_nobody_has_recorded_is_not_told_before_the_disk_takes_it() -> None:
    async def story(desk: Desk) -> None:
        desk.store.objects_problem = FULL
        record = an_execution(state="skipped")
        desk.put(record, recorded=False)
        desk.put(an_execution("b"))
        await desk.until(lambda: desk.problems)
        assert desk.told == [f"{'b' * 26} succeeded"]
        desk.store.objects_problem = None
        await desk.until(lambda: len(desk.told) == 2)
        assert desk.store.objects == [record]
        await desk.ledger.settled()
        assert {one.step for one in desk.store.executions(record.run)} == {"a", "b"}

    at_a_desk(story)


def test_an_object_is_written_once_however_often_the_catalog_is_tried() -> None:
    async def story(desk: Desk) -> None:
        desk.store.problem = FULL
        desk.put(an_execution(state="skipped"), recorded=False)
        await desk.until(lambda: desk.problems)
        desk.store.problem = None
        await desk.until(lambda: len(desk.problems) == 2)
        assert len(desk.store.objects) == 1

    at_a_desk(story)


def test_what_is_tried_again_never_takes_the_place_of_what_came_later() -> None:
    async def story(desk: Desk) -> None:
        desk.store.problem = FULL
        desk.put(a_run("running"))
        await desk.until(lambda: desk.problems)
        desk.put(a_run("succeeded"))
        desk.store.problem = None
        await desk.until(lambda: len(desk.problems) == 2)
        await desk.ledger.settled()
        assert desk.store.run("r" * 26).state == "succeeded"

    at_a_desk(story)


def test_the_object_of_an_end_is_written_although_a_change_of_it_comes_before() -> None:
    async def story(desk: Desk) -> None:
        record = an_execution(state="cancelled")
        desk.put(record, recorded=False)
        desk.put(replace(record, note="seen"))
        await desk.ledger.settled()
        assert [one.id for one in desk.store.objects] == [record.id]

    at_a_desk(story)


def test_it_is_tried_ever_more_slowly() -> None:
    async def story(desk: Desk) -> None:
        desk.store.problem = FULL
        desk.put(an_execution())
        desk.store.most_refusals = 4
        await desk.until(lambda: len(desk.problems) == 2)
        pauses = [after - before for before, after in zip(desk.store.tried, desk.store.tried[1:], strict=False)]
        assert all(pause >= least for pause, least in zip(pauses, (0.02, 0.04, 0.08, 0.08), strict=False))

    at_a_desk(story)


def test_nobody_is_kept_waiting_for_a_store_that_cannot_be_written() -> None:
    async def story(desk: Desk) -> None:
        desk.store.problem = FULL
        desk.put(an_execution())
        async with asyncio.timeout(5):
            await desk.ledger.settled()
            desk.put(an_execution("b"))
            assert await desk.ledger.ask(lambda: 7) == 7
        desk.store.problem = None

    at_a_desk(story)


def test_a_record_that_no_store_can_take_is_let_go_and_keeps_no_other_back() -> None:
    async def story(desk: Desk) -> None:
        bad, good = an_execution("a"), an_execution("b")
        desk.store.poison = bad.id
        desk.put(bad)
        desk.put(good)
        await desk.ledger.settled()
        assert desk.store.execution(good.id) == good
        assert len(desk.told) == 2
        assert desk.problems == []

    at_a_desk(story)


def items_of(*names: str) -> list[EndedItem]:
    return [EndedItem.of(replace(an_execution(name), part_of=ExecutionId("w" * 26), item=1)) for name in names]


def test_items_are_told_of_when_they_are_written_and_can_be_read_until_then() -> None:
    async def story(desk: Desk) -> None:
        items = items_of("a", "b")
        desk.store.problem = FULL
        desk.ledger.put_items(items, then=lambda: desk.told.append("items"))
        desk.ledger.put_items(items_of("c"))
        await desk.until(lambda: desk.problems)
        assert desk.ledger.unwritten("b" * 26) == items[1].record()
        assert desk.ledger.unwritten("d" * 26) is None
        desk.store.problem = None
        await desk.until(lambda: desk.problems[-1] is None)
        assert desk.told == ["items"]
        assert desk.ledger.unwritten("b" * 26) is None
        assert [desk.store.execution(name * 26).item for name in "abc"] == [1, 1, 1]

    at_a_desk(story)


def test_an_item_that_no_store_can_take_keeps_no_other_back() -> None:
    async def story(desk: Desk) -> None:
        desk.store.poison = "b" * 26
        desk.ledger.put_items(items_of("a", "b", "c"), then=lambda: desk.told.append("items"))
        await desk.ledger.settled()
        assert [desk.store.execution(name * 26).step for name in "ac"] == ["a", "c"]
        assert (desk.told, desk.problems) == (["items"], [])

    at_a_desk(story)


def test_what_is_left_at_the_end_is_tried_once_more() -> None:
    async def story(desk: Desk) -> None:
        desk.store.problem = FULL
        desk.put(an_execution())
        await desk.until(lambda: desk.problems)
        desk.store.problem = None
        await desk.ledger.close()
        assert desk.store.execution("a" * 26).state == "succeeded"

    asyncio.run(_live(story))


async def _live(story: Callable[[Desk], Awaitable[None]]) -> None:
    await story(Desk())
