"""What became of the items of a chunk: known bit by bit while they run, written as records when all is over."""

from __future__ import annotations

import socket
import time
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from mlbench.backends.cluster_dask.itemwords import ItemEnd
from mlbench.core.messages import Chunk, StepTask
from mlbench.core.ports import BlobStore
from mlbench.core.records import Binding, Failure, Json, Metric, Reason, State, with_artifacts
from mlbench.runs.itemrecords import label_of
from mlbench.runs.randomness import start_of
from mlbench.runs.signing import proof_of
from mlbench.runs.wire import encoded, msgspec

__all__ = ["Item", "ItemEnds", "worker_lost"]


class Item(msgspec.Struct, gc=False):
    """What is known of an item: how it ended, or why it did not."""

    end: ItemEnd | None = None
    failure: Failure | None = None
    reason: Reason | None = None
    state: State = "succeeded"
    process: int | None = None
    started: int = 0
    ended: int = 0
    cpu: float | None = None
    peak: int | None = None
    draws: tuple[str, ...] = ()
    messages: Sequence[Json] = ()
    metrics: list[Metric] | None = None
    tags: dict[str, str] | None = None
    artifacts: tuple[Binding, ...] = ()

    def take(self, messages: Sequence[Json]) -> None:
        """Take what the item has shown."""
        self.messages = messages

    def take_end(self, end: ItemEnd, process: int | None) -> None:
        """Take what the item's process says of its end."""
        self.end, self.started, self.ended, self.cpu, self.process = end, end.started, end.ended, end.cpu, process
        self.draws = end.draws
        if end.failure is not None:
            self.state, self.failure = "failed", end.failure
            self.reason = "memory" if end.failure.ename == "MemoryError" else "error"

    def take_news(self, news: Json) -> None:
        """Take what the item logs."""
        if news["type"] == "metrics":
            logged = msgspec.convert(news["metrics"], list[Metric])
            if self.metrics is None:
                self.metrics = logged
            else:
                self.metrics += logged
        elif news["type"] == "artifacts":
            self.artifacts = with_artifacts(self.artifacts, msgspec.convert(news["artifacts"], list[Binding]))
        else:
            self.tags = {**(self.tags or {}), **news["tags"]}

    def fail(self, why: Failure, reason: Reason, started: int | None, status: Json | None = None) -> None:
        """Note that it failed without a word of its own: when it was begun, if it was, and how its process ended."""
        self._stop("failed", reason, started)
        self.failure = why
        if status is not None:
            self.peak, self.cpu = status.get("peak"), status.get("cpu")

    def cancel(self, reason: Reason, started: int | None) -> None:
        """Note that it was cancelled."""
        self._stop("cancelled", reason, started)

    def _stop(self, state: State, reason: Reason, started: int | None) -> None:
        self.state, self.reason, self.ended = state, reason, time.time_ns()
        self.started = started if started is not None else self.ended

    def news(self, number: int) -> list[Any]:
        """Return what is told of an item that has ended."""
        value = None
        if self.metrics:
            shown = self.metrics[0].name
            value = next(one.value for one in reversed(self.metrics) if one.name == shown)
        return [number, self.state, (self.ended - self.started) / 1e9, value]


class ItemEnds:
    """The items of one chunk.

    Attributes
    ----------
    chunk
        With the items' numbers, in whatever process they run; those of the first are known when it has evaluated the
        step's `--foreach`.
    ended
        By number.
    """

    def __init__(self, task: StepTask) -> None:
        assert task.chunk is not None
        self.chunk: Chunk = task.chunk
        self.ended: dict[int, Item] = {}
        self._task = task
        self._begun: dict[int, Item] = {}
        self._labels: dict[int, list[str]] = {}
        self._names = [one.name for one in task.foreach]
        self._host = socket.gethostname()
        known = ("cell", "position", "queued")
        self._common = {name: task.base[name] for name in known if task.base.get(name) is not None}
        self._common |= {"run": task.run, "step": task.step, "part_of": task.execution}

    def item(self, number: int) -> Item:
        """Return what is known of an item, which may have ended: a thread that it left may log later."""
        item = self.ended.get(number) or self._begun.get(number)
        if item is None:
            item = self._begun[number] = Item()
        return item

    def end(self, number: int) -> Item:
        """Note that an item has ended; return what is known of it."""
        item = self.ended[number] = self._begun.pop(number) if number in self._begun else Item()
        return item

    def forget(self, numbers: Iterable[int]) -> None:
        """Forget items that run again."""
        for number in numbers:
            self.ended.pop(number, None)
            self._begun.pop(number, None)

    def name(self, numbers: Iterable[int], labels: Iterable[list[str]]) -> None:
        """Take the labels of items, of which there are too many to come with their chunk."""
        self._labels.update(zip(numbers, labels, strict=True))

    def write(
        self, blobs: BlobStore, place: int, process: int | None, only: Collection[int] | None = None
    ) -> list[bytes]:
        """Keep what the items bound, then their records; return these as JSON: both are durable by then.

        Parameters
        ----------
        place
            The chunk's own number.
        process
            The one in which items ran of which nothing else is known.
        only
            Items that are kept ahead of the others: the record that follows has them too.
        """
        ended = self.ended if only is None else {number: self.ended[number] for number in only}
        if not ended:
            return []
        small = {
            digest: parts
            for item in ended.values()
            if item.end is not None and item.state == "succeeded"
            for digest, parts in item.end.parts
        }
        if small:
            blobs.put_pack(list(small.items()), durable=True)
        chunk = self.chunk
        records = [
            encoded(self._record(number, place_in_chunk, ended[number], process))
            for place_in_chunk, number in enumerate(chunk.numbers)
            if number in ended
        ]
        early = b',"early":true' if only is not None else b""
        said = b'{"executions":[' + b",".join(records) + b"]" + early + b"}"
        identifier = f"{self._task.execution}-{place}"
        if self._task.signer is not None:
            proof = proof_of(self._task.signer, "executions", identifier, said)
            said = said[:-1] + b',"proof":"' + proof.encode() + b'"}'
        blobs.append("executions", identifier, said, durable=True)
        return records

    def _record(self, number: int, place: int, item: Item, process: int | None) -> Json:
        """Return an item's record, without what has no value."""
        chunk, end, messages = self.chunk, item.end, item.messages
        record: Json = {
            **self._common,
            "id": chunk.executions[place],
            "item": number,
            "label": self._label(number),
            "state": item.state,
            "attempt": chunk.attempts[place],
            "started": item.started,
            "ended": item.ended,
            "worker": f"{self._host}/{item.process or process}",
        }
        if chunk.keys:
            record["key"] = chunk.keys[place]
        if item.cpu is not None:
            record["cpu"] = item.cpu
        if item.peak is not None:
            record["peak_memory"] = item.peak
        if item.reason is not None:
            record["reason"] = item.reason
        if item.failure is not None:
            record["failure"] = item.failure
            if end is None:
                messages = (*messages, _shown(item.failure))
        if end is not None:
            if item.state == "succeeded":
                record["binds"] = msgspec.Raw(end.binds)
            if end.files:
                record["files"] = end.files
            if end.network:
                record["network"] = True
        if item.draws:
            record["draws"] = item.draws
            if self._task.seeded and self._task.random:
                record["random_start"] = start_of(self._task.random, item.draws, item=number)
        if messages:
            record["messages"] = messages
        if item.artifacts:
            record["artifacts"] = item.artifacts
        if item.metrics:
            record["metrics"] = item.metrics
        if item.tags:
            record["tags"] = item.tags
        return record

    def _label(self, number: int) -> dict[str, str]:
        texts = self._labels.get(number)
        if texts is not None:
            return dict(zip(self._names, texts, strict=True))
        return label_of(self._names, self.chunk.spread, number)


def worker_lost(step: str) -> Failure:
    """Say that the worker has ended that ran an item."""
    return Failure(
        ename="WorkerLost",
        evalue=f"The worker that ran this item of step {step} has ended.",
        remedy="Run the cell again with --cache: the items that have ended are not run again.",
    )


def _shown(failure: Failure) -> Json:
    return {
        "output_type": "error",
        "ename": failure.ename,
        "evalue": failure.evalue,
        "traceback": [f"\x1b[31m{failure.ename}\x1b[39m: {failure.evalue}"],
    }
