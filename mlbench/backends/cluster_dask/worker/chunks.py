"""The worker's side of a fan-out: run the items of one chunk, and write the records of their ends.

Items are bytes here, as steps are. What their processes have said arrives whatever becomes of them: an item that ends
its process fails alone, those before it have their results, and those behind it run in the next.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import logging
import math
import select
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from mlbench.backends.cluster_dask.channel import Frames
from mlbench.backends.cluster_dask.client.resources import with_devices
from mlbench.backends.cluster_dask.itemwords import ItemEnd, Mark, read_end
from mlbench.backends.cluster_dask.process.client import leave_slot
from mlbench.backends.cluster_dask.worker.itemtexts import Texts
from mlbench.backends.cluster_dask.worker.memory import MemoryWatch
from mlbench.backends.cluster_dask.worker.pipes import PIECE, MarkedReader, Pipes, received
from mlbench.backends.cluster_dask.worker.servers import kill
from mlbench.backends.cluster_dask.worker.supervisor import STALL_SECONDS, Attendance, Running, entered, refusal
from mlbench.core.errors import MlbenchError
from mlbench.core.ids import ExecutionId, new_id
from mlbench.core.messages import Chunk, ChunkEnd, Spread, StepTask
from mlbench.core.records import Binding, Failure, Json, Metric, Reason, State, with_artifacts
from mlbench.runs.randomness import start_of
from mlbench.runs.wire import msgspec

__all__ = ["run_chunk"]

_BATCH: Final = 0.1
_GATHER: Final = 0.003
"""Seconds that what comes quickly is left to come, so that it is taken together."""
_EXIT_SECONDS: Final = 3.0
_MOST_DEATHS: Final = 2
"""So many processes may end one after the other without that an item was begun."""
_MOST_IN_FIRST: Final = 5_000

_log = logging.getLogger(__name__)


def run_chunk(task: StepTask, publish: Callable[[ExecutionId, list[Json]], None]) -> bytes:
    """Run the chunk of a task to its end, and write its records; return what became of it: a `ChunkEnd` as JSON.

    Parameters
    ----------
    publish
        Takes news as they come, with the step's execution; called in this thread.
    """
    assert task.chunk is not None
    started = time.time_ns()
    key = f"{task.execution}/{task.chunk.place}"
    with entered(key, refused=refusal(task.execution)) as running, with_devices(task) as task:
        return _ChunkRun(task, running, publish, started).run()


class _Child:
    """A process that runs items: the one that was forked for them, or (`process` is None) the one that loaded all."""

    def __init__(self, process: int | None, connection: socket.socket | None) -> None:
        self.process = process
        self.connection = connection
        self.frames = Frames()
        self.over_at = 0.0
        self.draws: tuple[str, ...] = ()
        self.ended: list[int] = []


@dataclasses.dataclass(slots=True)
class _Item:
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
    metrics: tuple[Metric, ...] = ()
    tags: dict[str, str] | None = None
    artifacts: tuple[Binding, ...] = ()

    def take(self, messages: Sequence[Json]) -> None:
        """Take what the item has shown."""
        self.messages = messages


class _ChunkRun(Attendance):
    """One chunk, from its task to its end."""

    def __init__(
        self, task: StepTask, running: Running, publish: Callable[[ExecutionId, list[Json]], None], started: int
    ) -> None:
        super().__init__(task, running, publish, started)
        assert task.chunk is not None
        self._asked: Chunk = task.chunk
        self._chunk: Chunk = task.chunk
        self._begun_at = time.monotonic()
        self._items: dict[int, _Item] = {}
        self._begun_items: dict[int, _Item] = {}
        self._places = {number: place for place, number in enumerate(task.chunk.numbers)}
        self._host = socket.gethostname()
        known = ("cell", "position", "queued")
        self._common = {name: task.base[name] for name in known if task.base.get(name) is not None}
        self._common |= {"run": task.run, "step": task.step, "part_of": task.execution}
        self._labels: dict[int, list[str]] = {}
        self._spread: Spread | None = None
        self._refused: Failure | None = None
        self._refused_for: Reason = "error"
        self._changed: dict[str, None] = {}
        self._peak: int | None = None
        self._messages: list[Json] = []
        self._told_begun: list[list[Any]] = []
        self._told_ended: list[list[Any]] = []
        self._deaths = 0
        self._given_up = False
        self._restart()

    def _restart(self) -> None:
        """Forget what belongs to one process."""
        self._begun = False
        self._timed_out = self._too_much = False
        self._over_at = 0.0
        self._parted: Json | None = None
        self._child: _Child | None = None
        self._former: list[_Child] = []
        self._descriptors: list[int] = []
        self._current: int | None = None
        self._since = time.monotonic()
        self._held_before = self._held()
        self._count = 0
        self._texts = Texts()

    def run(self) -> bytes:
        """Run the chunk."""
        try:
            going = True
            while going:
                self._restart()
                self._process()
                going = self._refused is None and not self._cancelled() and not self._given_up and self._goes_on()
        except MlbenchError as error:
            self._refuse(Failure(ename=type(error).__name__, evalue=error.message, remedy=error.remedy))
        except OSError as error:
            self._refuse(
                Failure(
                    ename=type(error).__name__,
                    evalue=f"No process could be started for the step: {error}",
                    remedy="Run the cell again.",
                )
            )
        collecting = gc.isenabled()
        gc.disable()  # thousands of objects that live until the end cost a third more if it looks for cycles in them
        try:
            return self._end()
        finally:
            if collecting:
                gc.enable()

    def _refuse(self, failure: Failure, reason: Reason = "error") -> None:
        self._refused, self._refused_for = failure, reason

    def _goes_on(self) -> bool:
        """Judge how a process ended; say whether another is to run what is left."""
        if self._chunk.spread is None and self._spread is not None:
            self._chunk = _first(self._chunk, self._spread)
            self._places = {number: place for place, number in enumerate(self._chunk.numbers)}
            return self._asked.seconds != 0 and self._send_rest(apart=False)
        if self._parted is not None:
            return self._send_rest(apart=bool(self._parted["apart"]))
        if self._over_at:
            return False
        status = self._status or {}
        if self._current is not None:
            self._lose(self._current, status).messages = self._texts.take()
            self._deaths = 0
            return self._send_rest(apart=False)
        self._deaths += 1
        if self._chunk.spread is None or self._timed_out or self._too_much or self._deaths >= _MOST_DEATHS:
            self._refuse(*self._why(status, f"step {self._task.step}"))
            return False
        return self._send_rest(apart=False)

    def _send_rest(self, *, apart: bool) -> bool:
        """Make what has not ended the chunk of the next process; say whether there is anything, and time for it."""
        chunk, seconds = self._chunk, self._asked.seconds
        if seconds is not None:
            seconds = max(0.0, self._begun_at + seconds - time.monotonic())
            if not seconds and self._items:
                return False
        left = [place for place, number in enumerate(chunk.numbers) if number not in self._items]
        self._task = dataclasses.replace(
            self._task,
            chunk=dataclasses.replace(
                chunk,
                numbers=tuple(chunk.numbers[place] for place in left),
                executions=tuple(chunk.executions[place] for place in left),
                attempts=tuple(chunk.attempts[place] for place in left),
                keys=tuple(chunk.keys[place] for place in left) if chunk.keys else (),
                seconds=seconds,
                apart=chunk.apart or apart or bool(self._changed),
            ),
        )
        return bool(left)

    # --- what is heard -----------------------------------------------------------------------------------------------

    def _pump(self, pipes: Pipes, process: int) -> None:
        """Pass on what the processes say until the one that was started has ended."""
        execution = self._task.execution
        readers = {
            pipes.output: MarkedReader("stdout", execution),
            pipes.errors: MarkedReader("stderr", execution),
        }
        frames, told = Frames(), Frames()
        poll = select.poll()
        for descriptor in (pipes.channel.fileno(), pipes.output, pipes.errors, pipes.status.fileno()):
            poll.register(descriptor, select.POLLIN)
        self._watch = MemoryWatch(process, self._task.memory)
        pipes.channel.settimeout(0)
        pipes.status.settimeout(0)
        # What was waited for before it is not the items' time: a server that warms up, an environment that is made.
        self._since, self._held_before = time.monotonic(), self._held()
        busy = False

        def read() -> float:
            """Take what is there; return the number up to which all is known, text and messages."""
            for descriptor, reader in readers.items():
                for number, text in reader.read_marked(descriptor):
                    self._texts.add_text(number, reader.name, text)
                if reader.ended:
                    _unregister(poll, descriptor)
            known = min((reader.number for reader in readers.values() if not reader.ended), default=float("inf"))
            self._hear_process(pipes.channel, frames, poll)
            self._hear_child(poll)
            return known

        now = time.monotonic()
        while self._status is None:
            ready = {descriptor for descriptor, _ in poll.poll(1000 * self._patience())}
            if busy:
                time.sleep(_GATHER)
            before_that, now = now, time.monotonic()
            if now - before_that > STALL_SECONDS and self._was_given_up():
                kill(process)
            before = self._count
            known = read()
            busy = self._count - before > 2
            if pipes.status.fileno() in ready:
                self._hear_status(pipes, told, process)
            self._texts.settle(known)
            self._enforce(process)
            self._tell_items()
        read()
        for reader in readers.values():
            if text := reader.last():
                self._texts.add_text(reader.number, reader.name, text)
        self._texts.settle(float("inf"))
        if self._child is not None:
            self._leave_child(poll)
        self._tell_items(everything=True)

    def _was_given_up(self) -> bool:
        """Say whether somebody took this worker for lost while it stood still: others have its items by now."""
        name = f"{self._task.execution}-lost-{self._asked.place}"
        self._given_up = self._given_up or self._blobs.find_record("executions", name) is not None
        return self._given_up

    def _hear_process(self, channel: socket.socket, frames: Frames, poll: select.poll) -> None:
        while True:
            try:
                data, descriptors, _, _ = socket.recv_fds(channel, PIECE, 4)
            except BlockingIOError:
                return
            except OSError:
                data, descriptors = b"", []
            self._descriptors += descriptors
            if not data:
                _unregister(poll, channel.fileno())
                return
            for message in frames.feed(data):
                self._hear(message, poll)

    def _hear_child(self, poll: select.poll) -> None:
        child = self._child
        if child is None or child.connection is None:
            return
        while data := received(child.connection):
            for message in child.frames.feed(data):
                self._hear(message, poll)
        if data == b"":
            _unregister(poll, child.connection.fileno())
            child.connection.close()
            child.connection = None

    def _hear(self, message: Json, poll: select.poll) -> None:
        """Take one message; those whose place among the text matters are kept until that is known."""
        kind = message["op"]
        self._count += 1
        if kind == "item":
            self._hear_end(message)
        elif kind == "news":
            self._hear_news(message)
        elif kind == "output":
            self._texts.add_message(message["n"], message["message"])
        elif kind == "child":
            self._meet_child(message, poll)
        elif kind == "ended":
            self._hear_child(poll)
            self._end_child(message, poll)
        elif kind == "changed":
            self._changed.update(dict.fromkeys(message["names"]))
            for number in message["again"]:
                self._items.pop(number, None)
                self._begun_items.pop(number, None)
            self._current = None
        elif kind == "over":
            self._hear_over(message)
        elif kind == "begun":
            self._begun = True
            self._say({"type": "started", "started": self._started, "worker": self._worker()})
        elif kind == "labels":
            assert self._task.chunk is not None
            self._labels.update(zip(self._task.chunk.numbers, message["labels"], strict=True))
        elif kind == "spread":
            self._spread = dataclasses.replace(msgspec.convert(message["spread"], Spread), after=message["after"])
        elif kind == "refused":
            self._refuse(msgspec.convert(message["failure"], Failure))
        elif kind == "parted":
            self._parted, self._current = message, None
        elif kind == "drew":
            self._note_draws(message["draws"])
        elif kind == "waits":
            leave_slot()

    def _hear_end(self, message: Json) -> None:
        end = read_end(message["body"])
        item = self._items[end.number] = self._item(end.number)
        item.end, item.started, item.ended, item.cpu = end, end.started, end.ended, end.cpu
        item.draws = end.draws
        if end.failure is not None:
            item.state, item.failure = "failed", end.failure
            item.reason = "memory" if end.failure.ename == "MemoryError" else "error"
        self._texts.add_end(message["n"], item.take)
        if self._child is not None:
            self._child.ended.append(end.number)
            item.process = self._child.process
        self._tell_end(end.number, item)
        self._begin(end.following)

    def _hear_news(self, message: Json) -> None:
        news = message["news"]
        item = self._item(message["item"])
        if news["type"] == "metrics":
            item.metrics += msgspec.convert(news["metrics"], tuple[Metric, ...])
        elif news["type"] == "artifacts":
            item.artifacts = with_artifacts(item.artifacts, msgspec.convert(news["artifacts"], list[Binding]))
        else:
            item.tags = {**(item.tags or {}), **news["tags"]}

    def _hear_over(self, message: Json) -> None:
        now = time.monotonic()
        if self._child is not None and self._child.process is not None:
            self._child.over_at = now
            self._note_draws(message["draws"])
        else:
            self._over_at = now
        self._current = None

    def _note_draws(self, draws: list[str]) -> None:
        if self._child is not None and draws:
            for number in self._child.ended:
                if number in self._items:
                    self._items[number].draws = tuple(draws)

    def _item(self, number: int) -> _Item:
        item = self._begun_items.get(number)
        if item is None:
            item = self._begun_items[number] = _Item()
        return item

    def _begin(self, number: int | None) -> None:
        """Note which item is under way now."""
        self._current = number
        if self._task.timeout is not None:
            self._since, self._held_before = time.monotonic(), self._held()
        if number is not None:
            now = time.time_ns()
            self._item(number).started = now
            self._told_begun.append([number, now])

    # --- the processes of items --------------------------------------------------------------------------------------

    def _meet_child(self, message: Json, poll: select.poll) -> None:
        process = message["pid"]
        connection = None
        if process is not None:
            connection = socket.socket(fileno=self._descriptors.pop(0))
            connection.settimeout(0)
            poll.register(connection.fileno(), select.POLLIN)
            self._meet_item(process)
        self._child = _Child(process, connection)
        self._timed_out = self._too_much = False
        self._texts.add_end(message["n"], self._say_own)
        self._begin(message["first"])

    def _end_child(self, message: Json, poll: select.poll) -> None:
        number = message["begun"]
        if not message["over"] and number is not None and number not in self._items and not self._cancelled():
            item = self._lose(number, message)
            self._texts.add_end(message["n"], item.take)
        self._peak = max(self._peak or 0, message["peak"])
        if self._child is not None and len(self._child.ended) == 1 and self._child.ended[0] in self._items:
            only = self._items[self._child.ended[0]]
            only.cpu, only.peak = message["cpu"], message["peak"]
        self._leave_child(poll)
        self._timed_out = self._too_much = False  # that was about this one
        if not self._cancelled():
            self._current = None
        self._since, self._held_before = time.monotonic(), self._held()

    def _leave_child(self, poll: select.poll) -> None:
        child, self._child = self._child, None
        self._meet_item(None)
        if child is not None and child.connection is not None:
            _unregister(poll, child.connection.fileno())
            child.connection.close()

    def _lose(self, number: int, status: Json) -> _Item:
        """Let an item fail that ended its process, or was ended with it."""
        item = self._items[number] = self._item(number)
        item.failure, item.reason = self._why(status, f"item {number} of step {self._task.step}")
        item.state, item.peak, item.cpu = "failed", status.get("peak"), status.get("cpu")
        item.ended = time.time_ns()
        if self._child is not None:
            item.process = self._child.process
        self._tell_end(number, item)
        return item

    def _why(self, status: Json, what: str) -> tuple[Failure, Reason]:
        if self._timed_out:
            failure = Failure(
                ename="StepTimeout",
                evalue=f"{what[0].upper()}{what[1:]} ran longer than {self._task.timeout or 0.0:g} s and was ended.",
                remedy="Give it longer with `--timeout`, or find out what it waits for.",
            )
            return failure, "timeout"
        if self._too_much:
            return self._excess(what), "memory"
        return self._death(status, what), "memory" if self._ended_by_system(status) else "error"

    def _enforce(self, process: int) -> None:
        """End what runs for too long or takes too much, and what will not end."""
        now = time.monotonic()
        child = self._child
        running = child.process if child is not None and child.process is not None else process
        limit = self._task.timeout
        if self._over_at:
            if now > self._over_at + _EXIT_SECONDS:
                kill(process)
        elif child is not None and child.over_at:
            if now > child.over_at + _EXIT_SECONDS:
                kill(running)
        elif not self._timed_out and not self._too_much:
            if limit is not None and now > self._since + limit + self._held() - self._held_before:
                self._timed_out = True
                kill(running)
            elif self._watch.look(now):
                self._too_much = True
                kill(running)

    def _patience(self) -> float:
        now = time.monotonic()
        times = [now + self._watch.seconds]
        if self._news or self._told_begun or self._told_ended:
            times.append(self._published + _BATCH)
        if self._task.timeout is not None:
            times.append(self._since + self._task.timeout + self._held() - self._held_before + 0.01)
        if self._over_at:
            times.append(self._over_at + _EXIT_SECONDS + 0.01)
        if self._child is not None and self._child.over_at:
            times.append(self._child.over_at + _EXIT_SECONDS + 0.01)
        return max(0.001, min(times) - now)

    # --- text --------------------------------------------------------------------------------------------------------

    def _add_text(self, name: str, text: str) -> None:
        self._texts.say(name, text)

    def _say_own(self, messages: Sequence[Json]) -> None:
        """Show what is said before items begin, or behind the last: it is nobody's."""
        self._messages += messages
        self._say_outputs(list(messages))

    # --- news --------------------------------------------------------------------------------------------------------

    def _tell_end(self, number: int, item: _Item) -> None:
        value = None
        if item.metrics:
            shown = item.metrics[0].name
            value = next(one.value for one in reversed(item.metrics) if one.name == shown)
        self._told_ended.append([number, item.state, (item.ended - item.started) / 1e9, value])

    def _tell_items(self, *, everything: bool = False) -> None:
        now = time.monotonic()
        if not everything and now - self._published < _BATCH:
            return
        if self._told_begun or self._told_ended:
            ended = {one[0] for one in self._told_ended}
            begun = [one for one in self._told_begun if one[0] not in ended]
            self._say({"type": "items", "ended": self._told_ended, "begun": begun})
            self._told_begun, self._told_ended = [], []
        self._flush(now, everything=True)

    # --- the end -----------------------------------------------------------------------------------------------------

    def _end(self) -> bytes:
        """Write what became of the items; return it as JSON."""
        if self._given_up:
            _log.warning("A chunk of execution %s ends too late: it was taken for lost", self._task.execution)
            return msgspec.json.encode(ChunkEnd())
        self._cancel_item()
        self._say_own(self._texts.take())
        self._flush(time.monotonic(), everything=True)
        numbers = [number for number in self._chunk.numbers if number in self._items]
        records = [self._record(number, self._items[number]) for number in numbers]
        end: Json = {
            "spread": self._spread if self._asked.spread is None else None,
            "changed": tuple(self._changed),
            "messages": self._messages,
            "peak_memory": max(self._peak or 0, self._watch.peak) or None,
        }
        if self._refused is not None:
            end |= {"failure": self._refused, "reason": self._refused_for}
        try:
            self._write(records)
        except (MlbenchError, OSError) as error:
            _log.error("The ends of items of execution %s could not be recorded: %s", self._task.execution, error)
            said = getattr(error, "message", None) or str(error)
            end["failure"] = Failure(
                ename="StoreError",
                evalue=f"The ends of items could not be recorded: {said}",
                remedy=getattr(error, "remedy", None) or "See that the store can be written, then run the cell again.",
            )
            end["reason"] = "error"
            records = []
        Mark(self._task).remove()
        ended = {record["item"] for record in records}
        end["executions"] = records
        end["left"] = [number for number in self._asked.numbers if number not in ended]
        return msgspec.json.encode(end)

    def _cancel_item(self) -> None:
        """Let the item that ran when all was cancelled be cancelled too."""
        reason, number = self._close(), self._current
        if reason is None or number is None or number in self._items:
            return
        item = self._items[number] = self._item(number)
        item.state, item.reason, item.ended = "cancelled", reason, time.time_ns()
        item.messages = self._texts.take()

    def _write(self, records: list[Json]) -> None:
        """Keep what the items bound, then their records; both are durable when this returns."""
        if not records:
            return
        small = {
            digest: parts
            for item in self._items.values()
            if item.end is not None and item.state == "succeeded"
            for digest, parts in item.end.parts
        }
        if small:
            self._blobs.put_pack(list(small.items()), durable=True)
        name = f"{self._task.execution}-{self._asked.place}"
        self._blobs.append("executions", name, {"executions": records}, durable=True)

    def _record(self, number: int, item: _Item) -> Json:
        """Return an item's record as JSON has it, without what has no value."""
        place = self._places[number]
        chunk, end = self._chunk, item.end
        record: Json = {
            **self._common,
            "id": chunk.executions[place],
            "item": number,
            "label": self._label(number),
            "state": item.state,
            "attempt": chunk.attempts[place],
            "started": item.started,
            "ended": item.ended,
            "worker": f"{self._host}/{item.process or self._last}",
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
                item.messages = (*item.messages, _shown(item.failure))
        if end is not None:
            if item.state == "succeeded":
                record["binds"] = end.binds
            if end.files:
                record["files"] = end.files
            if end.network:
                record["network"] = True
        if item.draws:
            record["draws"] = item.draws
            if self._task.seeded and self._task.random:
                record["random_start"] = start_of(self._task.random, item.draws, item=number)
        if item.messages:
            record["messages"] = item.messages
        if item.artifacts:
            record["artifacts"] = item.artifacts
        if item.metrics:
            record["metrics"] = item.metrics
        if item.tags:
            record["tags"] = item.tags
        return record

    def _label(self, number: int) -> dict[str, str]:
        names = [one.name for one in self._task.foreach]
        texts = self._labels.get(number)
        spread = self._chunk.spread
        if texts is None and spread is not None and spread.labels:
            texts, rest = [], number
            for size, labels in zip(reversed(spread.shape), reversed(spread.labels), strict=True):
                rest, place = divmod(rest, size)
                texts.append(labels[place])
            texts.reverse()
        return dict(zip(names, texts or (), strict=False))


def _first(chunk: Chunk, spread: Spread) -> Chunk:
    """Return the items that the first chunk of a fan-out may begin."""
    count = min(math.prod(spread.shape), _MOST_IN_FIRST)
    return dataclasses.replace(
        chunk,
        numbers=tuple(range(count)),
        executions=tuple(ExecutionId(new_id()) for _ in range(count)),
        attempts=(1,) * count,
        spread=spread,
    )


def _unregister(poll: select.poll, descriptor: int) -> None:
    with contextlib.suppress(KeyError):
        poll.unregister(descriptor)


def _shown(failure: Failure) -> Json:
    return {
        "output_type": "error",
        "ename": failure.ename,
        "evalue": failure.evalue,
        "traceback": [f"\x1b[31m{failure.ename}\x1b[39m: {failure.evalue}"],
    }
