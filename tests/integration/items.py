"""Items for tests: run the chunks of a fan-out in real processes, without Dask and without a service."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from mlbench.backends.blobs_local import LocalBlobs
from mlbench.backends.cluster_dask.worker import chunks
from mlbench.core.ids import ExecutionId, new_id
from mlbench.core.messages import Chunk, ChunkEnd, Foreach, Spread, StepTask
from mlbench.core.records import Execution
from mlbench.runs import artifacts
from tests.integration.steps import Shown, task, text_of


@dataclass
class Ended:
    """What became of a chunk, with what was shown meanwhile."""

    task: StepTask
    end: ChunkEnd
    shown: Shown
    spread: Spread | None = None
    records: dict[int, Execution] = field(default_factory=dict)

    def values(self, name: str) -> list[Any]:
        """Return what items bound a name to; None for one that did not."""
        loader = artifacts.Loader(LocalBlobs(Path(self.task.store)))
        found = []
        for number in sorted(self.records):
            bound = [one for one in self.records[number].binds if one.name == name]
            found.append(loader.load(bound[0]) if bound else None)
        return found

    def text(self, number: int, *names: str) -> str:
        return text_of(self.records[number].messages, *names)

    @property
    def states(self) -> list[str]:
        return [self.records[number].state for number in sorted(self.records)]


def spread_task(store: Path, source: str, foreach: dict[str, str], **others: Any) -> StepTask:
    """Return the task of a fan-out; `foreach` is names and expressions."""
    listed = tuple(Foreach(name=name, expression=expression) for name, expression in foreach.items())
    return task(store, source, foreach=listed, **others)


def run_chunk(given: StepTask, chunk: Chunk, shown: Shown | None = None) -> Ended:
    """Run one chunk to its end."""
    shown = shown if shown is not None else Shown()
    sent = replace(given, chunk=chunk)
    end = msgspec.json.decode(chunks.run_chunk(sent, shown.take), type=ChunkEnd)
    records = {one.item: one for one in end.executions if one.item is not None}
    return Ended(given, end, shown, end.spread or chunk.spread, records)


def evaluated(given: StepTask, **others: Any) -> Ended:
    """Find out a fan-out's items."""
    return run_chunk(given, Chunk(seconds=0.0, **others))


def chunk_of(spread: Spread, numbers: Sequence[int], **others: Any) -> Chunk:
    return Chunk(
        numbers=tuple(numbers),
        executions=tuple(ExecutionId(new_id()) for _ in numbers),
        attempts=others.pop("attempts", (1,) * len(numbers)),
        spread=spread,
        **others,
    )


def total(spread: Spread) -> int:
    size = 1
    for one in spread.shape:
        size *= one
    return size


def run_all(given: StepTask, *, groups: int = 1, shown: Shown | None = None, **others: Any) -> Ended:
    """Run all items of a fan-out, in so many chunks one after the other."""
    first = evaluated(given)
    assert first.end.failure is None, first.end.failure
    spread = first.spread
    assert spread is not None
    numbers = list(range(total(spread)))
    size = max(1, -(-len(numbers) // groups))
    whole: Ended | None = None
    for place, begin in enumerate(range(0, len(numbers), size)):
        chunk = chunk_of(spread, numbers[begin : begin + size], place=place + 1, **others)
        ended = run_chunk(given, chunk, shown)
        if whole is None:
            whole = ended
        else:
            whole.records.update(ended.records)
    return whole if whole is not None else first


def begin_all(given: StepTask, **others: Any) -> tuple[Shown, threading.Thread, list[Ended]]:
    """Run all items in a thread, in one chunk."""
    shown, ended = Shown(), list[Ended]()
    spread = evaluated(given).spread
    assert spread is not None
    chunk = chunk_of(spread, range(total(spread)), place=1, **others)
    thread = threading.Thread(target=lambda: ended.append(run_chunk(given, chunk, shown)), daemon=True)
    thread.start()
    return shown, thread, ended
