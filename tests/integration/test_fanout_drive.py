"""A fan-out on its way, with chunks that run in memory: what is told and recorded, what a loss or a cancel leaves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

import mlbench
from mlbench.backends.blobs_local import LocalBlobs
from mlbench.backends.cluster_dask.client.chunks import ChunkLost
from mlbench.backends.cluster_dask.client.fanout import FanOutDrive
from mlbench.core.errors import StoreError
from mlbench.core.ids import ExecutionId, RunId, new_id
from mlbench.core.messages import Chunk, ChunkEnd, Environment, Foreach, Spread, StepTask
from mlbench.core.records import Binding, Execution, Failure, Json, Metric, Reason
from mlbench.runs.artifacts import Loader, save_names
from mlbench.runs.picture import MIME
from mlbench.runs.signing import proven, signer_of
from mlbench.runs.wire import msgspec

pytestmark = pytest.mark.timeout(60)

SECOND = 1_000_000_000
KEY = b"mine"


@dataclass
class MemoryChunks:
    """Runs chunks in the loop: item number n binds `y` to twice n and logs it."""

    shape: tuple[int, ...]
    fails: Callable[[int, int], bool] = lambda number, attempt: False
    lose: set[int] = field(default_factory=set)
    hold: asyncio.Event | None = None
    room: int = 2
    cost: float = 0.001
    hear: Callable[[Json], None] = lambda news: None
    ran: list[tuple[int, int]] = field(default_factory=list)
    keys: dict[int, str] = field(default_factory=dict)
    most: int = 0
    cancelled: Reason | None = None
    in_turn: bool = False
    _running: int = 0

    async def slots(self) -> int:
        return self.room

    async def run(self, task: StepTask) -> ChunkEnd:
        chunk = task.chunk
        assert chunk is not None
        self._running += 1
        self.most = max(self.most, self._running)
        try:
            return await self._run(task, chunk)
        finally:
            self._running -= 1

    async def _run(self, task: StepTask, chunk: Chunk) -> ChunkEnd:
        await asyncio.sleep(0)
        self.hear({"type": "started", "started": 7, "worker": "memory"})
        if chunk.spread is None:
            labels = tuple(tuple(f"v{place}" for place in range(size)) for size in self.shape)
            return ChunkEnd(spread=Spread(shape=self.shape, labels=labels))
        if chunk.place in self.lose:
            self.hear({"type": "items", "begun": [[chunk.numbers[0], 1]], "ended": []})
            raise ChunkLost
        if self.hold is not None and chunk.place > 1:
            await self.hold.wait()
        self.keys.update(zip(chunk.numbers, chunk.keys, strict=False))
        blobs = LocalBlobs(task.store)
        ends = []
        for number, execution, attempt in zip(chunk.numbers, chunk.executions, chunk.attempts, strict=True):
            if self.cancelled:
                break
            self.ran.append((number, attempt))
            failed = self.fails(number, attempt)
            record = Execution(
                id=execution,
                run=task.run,
                step=task.step,
                state="failed" if failed else "succeeded",
                reason="error" if failed else None,
                failure=Failure(ename="ValueError", evalue="no", traceback=("line 1",)) if failed else None,
                part_of=task.execution,
                item=number,
                attempt=attempt,
                started=SECOND,
                ended=SECOND + int(self.cost * SECOND),
                binds=() if failed else tuple(save_names({"y": 2 * number}, ["y"], blobs, durable=False)),
                metrics=(Metric(name="twice", value=2.0 * number),),
                cpu=0.5,
            )
            ends.append(record)
        left = chunk.numbers[len(ends) :]
        return ChunkEnd(executions=tuple(ends), left=left)

    async def cancel(self, reason: Reason) -> None:
        self.cancelled = reason
        if self.hold is not None:
            self.hold.set()

    async def workers(self) -> set[str]:
        return {"memory"}

    async def give_up(self, address: str) -> None:
        return None

    async def pause(self) -> bool:
        return True

    async def resume(self) -> bool:
        return True


class Told:
    """What a drive has told."""

    def __init__(self) -> None:
        self.news: list[Json] = []
        self.changed = asyncio.Event()

    def take(self, news: Json) -> None:
        self.news.append(news)
        self.changed.set()

    @property
    def items(self) -> list[Execution]:
        return [record for news in self.news if news["type"] == "items" for record in news["executions"]]

    @property
    def pictures(self) -> list[Json]:
        shown = [one for news in self.news if news["type"] == "messages" for one in news["messages"]]
        return [one for one in shown if MIME in one.get("data", {})]

    async def until(self, wanted: Callable[[], object]) -> None:
        async with asyncio.timeout(20):
            while not wanted():
                self.changed.clear()
                await self.changed.wait()


def a_task(store: Path, **more: Any) -> StepTask:
    LocalBlobs(store)
    return StepTask(
        execution=ExecutionId(new_id()),
        run=RunId(new_id()),
        step="train",
        source="y = 2 * x",
        store=str(store),
        environment=Environment(interpreter="python", variables={}, stamp=""),
        foreach=more.pop("foreach", (Foreach(name="x", expression="xs"),)),
        defs=("y",),
        base={"cell": "c1", "position": 3},
        **more,
    )


def drive(store: Path, chunks: MemoryChunks, known: Any = None, **more: Any) -> tuple[Execution, Told]:
    task, told = a_task(store, **more), Told()

    async def live() -> Execution:
        one = FanOutDrive(task, chunks, told.take, known)
        chunks.hear = one.hear
        return await asyncio.wait_for(one.run(), 30)

    return asyncio.run(live()), told


def loaded(store: Path, record: Execution, name: str = "y") -> Any:
    binding = next(one for one in record.binds if one.name == name)
    return Loader(LocalBlobs(store)).load(binding)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def test_items_end_as_a_list_in_their_order_and_the_record_says_what_they_were(store: Path) -> None:
    record, told = drive(store, MemoryChunks((500,)))
    assert record.state == "succeeded"
    assert loaded(store, record) == [2 * number for number in range(500)]
    assert (record.cell, record.position, record.started) == ("c1", 3, 7)
    assert record.fanout is not None
    assert (record.fanout.total, record.fanout.succeeded, record.fanout.metric) == (500, 500, "twice")
    assert record.cpu == 250.0
    assert record.metrics == ()
    assert sorted(one.item for one in told.items if one.item is not None) == list(range(500))
    kept = LocalBlobs(store).find_record("execution", record.id)
    assert kept is not None
    assert msgspec.convert(kept, Execution).fanout == record.fanout


def test_the_picture_is_under_the_cell_from_the_beginning_and_stays_as_it_ended(store: Path) -> None:
    record, told = drive(store, MemoryChunks((3, 2)), foreach=(Foreach(name="a", expression="as_"),) * 2)
    assert [one["output_type"] for one in told.pictures[:2]] == ["display_data", "update_display_data"]
    (shown,) = record.messages
    assert shown["output_type"] == "display_data"
    assert shown["data"][MIME]["counts"]["succeeded"] == 6
    assert shown["data"][MIME]["values"] == [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]


def test_news_is_a_few_pieces_however_many_items_there_are(store: Path) -> None:
    _, told = drive(store, MemoryChunks((20_000,), cost=1e-5))
    assert len(told.news) < 60
    assert len(told.items) == 20_000


@pytest.mark.parametrize("shape", [(0,), (1,), (4, 0)])
def test_no_items_succeed_with_empty_lists(store: Path, shape: tuple[int, ...]) -> None:
    foreach = tuple(Foreach(name=name, expression="xs") for name in "xz"[: len(shape)])
    record, _ = drive(store, MemoryChunks(shape), foreach=foreach)
    assert record.state == "succeeded"
    assert loaded(store, record) == ([0] if shape == (1,) else [])


def test_a_failed_item_fails_the_step_after_the_others_and_its_error_is_shown(store: Path) -> None:
    chunks = MemoryChunks((30,), fails=lambda number, _: number == 3)
    record, told = drive(store, chunks)
    assert (record.state, record.reason) == ("failed", "error")
    assert record.failure is not None
    assert record.failure.evalue == "1 of 30 items failed: item 3 (x=v3): ValueError: no."
    assert len(chunks.ran) == 30
    assert record.binds == ()
    assert [one["output_type"] for one in record.messages] == ["display_data", "error"]
    assert record.messages[1]["traceback"][0] == "line 1"
    assert {one.state for one in told.items} == {"succeeded", "failed"}


def test_with_catch_the_failed_place_says_why(store: Path) -> None:
    record, _ = drive(store, MemoryChunks((4,), fails=lambda number, _: number == 2), catch=True)
    assert record.state == "succeeded"
    values = loaded(store, record)
    assert values[:2] == [0, 2]
    assert isinstance(values[2], mlbench.Failed)
    assert (values[2].item, values[2].label, values[2].ename) == (2, {"x": "v2"}, "ValueError")


def test_an_item_is_tried_again_and_only_it(store: Path) -> None:
    chunks = MemoryChunks((20,), fails=lambda number, attempt: number == 5 and attempt < 3)
    record, told = drive(store, chunks, retries=2, retry_delay=0.05)
    assert record.state == "succeeded"
    assert [attempt for number, attempt in chunks.ran if number == 5] == [1, 2, 3]
    assert len(chunks.ran) == 22
    (own,) = [one for one in told.items if one.item == 5]
    assert [attempt.number for attempt in own.attempts] == [1, 2]


def test_a_lost_worker_costs_the_item_that_was_under_way_and_no_item_runs_twice(store: Path) -> None:
    chunks = MemoryChunks((100,), lose={2})
    record, told = drive(store, chunks)
    assert record.state == "failed"
    assert record.reason == "worker-lost"
    lost = [one for one in told.items if one.reason == "worker-lost"]
    assert len(lost) == 1
    assert sorted(number for number, _ in chunks.ran) == sorted(set(range(100)) - {lost[0].item})
    kept = LocalBlobs(store).find_record("executions", f"{record.id}-lost-2")
    assert kept is not None
    assert [one["item"] for one in kept["executions"]] == [lost[0].item]


def test_what_a_lost_worker_had_recorded_is_not_run_again(store: Path) -> None:
    record, chunks = after_a_loss(store, lambda task, said: proven(task.signer, *said))
    assert record.state == "succeeded"
    assert sorted(number for number, _ in chunks.ran) == list(range(40))
    assert loaded(store, record) == [2 * number for number in range(40)]


OTHER = signer_of(b"theirs", "e1")

PLANTED: dict[str, Callable[[StepTask, tuple[str, str, Json]], Json]] = {
    "unsigned": lambda task, said: said[2],
    "by another key": lambda task, said: proven(replace(OTHER, subject=task.execution), *said),
    "of another execution": lambda task, said: proven(signer_of(KEY, "e1"), *said),
    "of another chunk": lambda task, said: proven(task.signer, said[0], f"{task.execution}-7", said[2]),
    "changed since": lambda task, said: proven(task.signer, *said) | {"executions": [*said[2]["executions"], {}]},
}


@pytest.mark.parametrize("how", PLANTED)
def test_what_somebody_else_put_into_the_store_is_not_taken_for_what_a_lost_worker_had_recorded(
    store: Path, how: str
) -> None:
    record, chunks = after_a_loss(store, PLANTED[how])
    assert len(chunks.ran) == 45, "what was said to have ended has run all the same"
    assert loaded(store, record) == [2 * number for number in range(40)]


def after_a_loss(
    store: Path, written: Callable[[StepTask, tuple[str, str, Json]], Json]
) -> tuple[Execution, MemoryChunks]:
    """Drive a fan-out whose first chunk is lost, of which something was written."""
    chunks = MemoryChunks((40,), lose={1})
    execution = ExecutionId(new_id())
    task, told = replace(a_task(store), execution=execution, signer=signer_of(KEY, execution)), Told()

    async def live() -> Execution:
        one = FanOutDrive(task, chunks, told.take)
        chunks.hear = one.hear

        async def run(given: StepTask) -> ChunkEnd:
            chunk = given.chunk
            if chunk is not None and chunk.place == 1:
                part = replace(chunk, place=99, numbers=chunk.numbers[:5])
                part = replace(part, executions=chunk.executions[:5], attempts=chunk.attempts[:5])
                end = await MemoryChunks.run(chunks, replace(given, chunk=part))
                executions = {"executions": [msgspec.to_builtins(record) for record in end.executions]}
                said = ("executions", f"{task.execution}-1", executions)
                LocalBlobs(store).append(*said[:2], written(task, said))
                raise ChunkLost
            return await MemoryChunks.run(chunks, given)

        chunks.run = run  # type: ignore[method-assign,assignment]
        return await asyncio.wait_for(one.run(), 30)

    return asyncio.run(live()), chunks


def test_a_cancel_in_the_middle_keeps_what_is_done(store: Path) -> None:
    task, told = a_task(store), Told()

    async def live() -> tuple[Execution, MemoryChunks]:
        chunks = MemoryChunks((5_000,), hold=asyncio.Event())
        one = FanOutDrive(task, chunks, told.take)
        chunks.hear = one.hear
        running = asyncio.create_task(one.run())
        await told.until(lambda: told.items)
        await one.stop("user")
        record = await asyncio.wait_for(running, 30)
        return record, chunks

    record, chunks = asyncio.run(live())
    assert (record.state, record.reason) == ("cancelled", "user")
    done = len(chunks.ran)
    assert 0 < done < 5_000
    assert len(told.items) == done
    assert record.fanout is not None
    assert (record.fanout.succeeded, record.fanout.cancelled) == (done, 5_000 - done)


def test_a_worker_that_never_says_that_it_has_ended_is_not_waited_for(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlbench.backends.cluster_dask.client.fanout._CANCEL_SECONDS", 0.2)

    async def live() -> Execution:
        chunks, told = MemoryChunks((50,), hold=asyncio.Event()), Told()
        one = FanOutDrive(a_task(store), chunks, told.take)

        async def forget(reason: Reason) -> None:
            return None

        chunks.cancel = forget  # type: ignore[method-assign]
        running = asyncio.create_task(one.run())
        await told.until(lambda: told.items)
        await one.stop("user")
        return await asyncio.wait_for(running, 30)

    assert asyncio.run(live()).state == "cancelled"


def test_max_parallel_holds(store: Path) -> None:
    chunks = MemoryChunks((200,), room=8)
    drive(store, chunks, max_parallel=1)
    assert chunks.most == 1


def test_known_items_are_asked_for_before_any_runs_and_are_not_run(store: Path) -> None:
    chunks = MemoryChunks((6,))
    asked: list[Spread] = []
    (bound,) = save_names({"y": "kept"}, ["y"], LocalBlobs(store))
    former = Execution(
        id=ExecutionId(new_id()), run=RunId(new_id()), step="train", state="succeeded", item=1, binds=(bound,)
    )

    async def known(spread: Spread) -> tuple[list[str], dict[int, Execution]]:
        assert chunks.ran == []
        asked.append(spread)
        return [f"key {number}" for number in range(6)], {4: former}

    record, told = drive(store, chunks, known)
    assert record.state == "succeeded"
    assert [spread.shape for spread in asked] == [(6,)]
    assert sorted(number for number, _ in chunks.ran) == [0, 1, 2, 3, 5]
    assert loaded(store, record) == [0, 2, 4, 6, "kept", 10]
    (reused,) = [one for one in told.items if one.state == "reused"]
    assert (reused.reused_from, reused.run, reused.key) == (former.id, record.run, "key 4")
    assert chunks.keys == {0: "key 0", 1: "key 1", 2: "key 2", 3: "key 3", 5: "key 5"}
    kept = LocalBlobs(store).find_record("executions", f"{record.id}-reused")
    assert kept is not None


def test_a_name_that_an_item_does_not_bind_has_no_list_and_a_reason(store: Path) -> None:
    task = a_task(store)
    chunks = MemoryChunks((3,))
    told = Told()

    async def live() -> Execution:
        one = FanOutDrive(replace(task, defs=("y", "z")), chunks, told.take)
        return await asyncio.wait_for(one.run(), 30)

    record = asyncio.run(live())
    binding = next(one for one in record.binds if one.name == "z")
    assert isinstance(binding, Binding)
    assert binding.artifact is None
    assert "z" in (binding.problem or "")


def test_a_chunk_that_breaks_is_the_steps_failure_and_not_a_hang(store: Path) -> None:
    chunks = MemoryChunks((3,))

    async def broken(task: StepTask) -> ChunkEnd:
        raise RuntimeError("the executor broke")

    chunks.run = broken  # type: ignore[method-assign]
    record, _ = drive(store, chunks)
    assert record.state == "failed"
    assert record.failure is not None
    assert "the executor broke" in record.failure.evalue


def test_a_store_that_cannot_be_written_is_the_steps_failure(store: Path) -> None:
    async def known(spread: Spread) -> tuple[list[str], dict[int, Execution]]:
        raise StoreError("No space is left on the disk.", "Free some.")

    record, _ = drive(store, MemoryChunks((3,)), known)
    assert record.state == "failed"
    assert record.failure is not None
    assert record.failure.remedy == "Free some."


def test_what_breaks_the_drive_ends_its_processes_too(store: Path) -> None:
    chunks = MemoryChunks((3,))

    def hear(news: Json) -> None:
        if news["type"] == "messages":
            raise RuntimeError("a mistake of ours")

    async def live() -> Execution:
        return await asyncio.wait_for(FanOutDrive(a_task(store), chunks, hear).run(), 30)

    with pytest.raises(RuntimeError):
        asyncio.run(live())
    assert chunks.cancelled == "error"


def test_cost_per_item_does_not_grow_with_their_number(store: Path) -> None:
    class Instant(MemoryChunks):
        async def _run(self, task: StepTask, chunk: Chunk) -> ChunkEnd:
            if chunk.spread is None:
                return await MemoryChunks._run(self, task, chunk)
            ends = tuple(
                Execution(
                    id=execution, run=task.run, step="train", state="succeeded", item=number, started=1, ended=10_001
                )
                for number, execution in zip(chunk.numbers, chunk.executions, strict=True)
            )
            return ChunkEnd(executions=ends)

    def seconds(total: int) -> float:
        begun = time.process_time()
        record, _ = drive(store, Instant((total,)))
        assert record.state == "succeeded"
        return time.process_time() - begun

    seconds(2_000)
    small = min(seconds(5_000) for _ in range(3))
    large = min(seconds(50_000) for _ in range(2))
    assert large < 10 * small * 1.8 + 0.3
