"""The worker's side of a fan-out: see the processes through that run the items of one chunk.

Items are bytes here, as steps are. What their processes have said arrives whatever becomes of them: an item that ends
its process fails alone, those before it have their results, and those behind it run in the next.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import logging
import math
import os
import select
import socket
import time
from collections.abc import Callable, Sequence
from typing import Final

from mlbench.backends.cluster_dask.channel import ACK, Frames
from mlbench.backends.cluster_dask.ends import find_written
from mlbench.backends.cluster_dask.itemwords import ItemEnd, Mark, read_word
from mlbench.backends.cluster_dask.process.client import leave_slot
from mlbench.backends.cluster_dask.resources import with_devices
from mlbench.backends.cluster_dask.worker import turns
from mlbench.backends.cluster_dask.worker.itemends import Item, ItemEnds
from mlbench.backends.cluster_dask.worker.itemtexts import Texts
from mlbench.backends.cluster_dask.worker.memory import MemoryWatch
from mlbench.backends.cluster_dask.worker.pipes import PIECE, MarkedReader, Pipes, read_now
from mlbench.backends.cluster_dask.worker.servers import kill
from mlbench.backends.cluster_dask.worker.supervisor import (
    STALL_SECONDS,
    Attendance,
    GivenUp,
    Running,
    abandon,
    entered,
    refusal,
)
from mlbench.backends.cluster_dask.worker.visiting import conclude, visits
from mlbench.core.errors import MlbenchError
from mlbench.core.ids import ExecutionId, new_id
from mlbench.core.messages import Chunk, Spread, StepTask
from mlbench.core.records import Failure, Json, Reason
from mlbench.runs.wire import msgspec

__all__ = ["run_chunk"]

_BATCH: Final = 0.25
_MANY: Final = 100
"""So many items are not told when their process ends: the end of the chunk says it all in a moment."""
_GATHER: Final = 0.05
"""Seconds that what items say is left to come, so that it is taken together."""
_EXIT_SECONDS: Final = 3.0
_UNKEPT_SECONDS: Final = 1.25
"""So long after an item has ended it is recorded, with all others that have, although its chunk has not ended: a
worker that is lost then does not take it along. A chunk is about a second of work, so that few are recorded twice."""
_MOST_DEATHS: Final = 2
"""So many processes may end one after the other without that an item was begun."""
_MOST_IN_FIRST: Final = 5_000
_MOST_PIECES: Final = 4
"""So many pieces are heard at once of an item's process that never falls silent: its limits and text wait for that."""

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
    """A process that runs items: the one that was forked for them, or (`process` is None) the one that loaded all.

    `number` is that of the last message heard over its own connection: all messages up to it have been heard. `clean`
    says whether nothing was changed when it last looked, which is so until an item has ended; `unsure` are the items
    since then that may have seen what another has changed: all but the first.
    """

    def __init__(self, process: int | None, connection: int | None) -> None:
        self.process = process
        self.connection = connection
        self.frames = Frames(read_word)
        self.number = 0
        self.over_at = 0.0
        self.ended: list[int] = []
        self.clean = True
        self.unsure: list[int] = []

    def end(self, number: int) -> None:
        """Note that an item has ended in it."""
        self.ended.append(number)
        if not self.clean:
            self.unsure.append(number)
        self.clean = False

    def look(self) -> None:
        """Note that it has looked, or will not go on: whatever is to run again has been named."""
        self.clean = True
        self.unsure.clear()


class _ChunkRun(Attendance):
    """One chunk, from its task to its end."""

    def __init__(
        self, task: StepTask, running: Running, publish: Callable[[ExecutionId, list[Json]], None], started: int
    ) -> None:
        super().__init__(task, running, publish, started)
        assert task.chunk is not None
        self._asked: Chunk = task.chunk
        self._begun_at = time.monotonic()
        self._ends = ItemEnds(task)
        self._spread: Spread | None = None
        self._refused: Failure | None = None
        self._refused_for: Reason = "error"
        self._changed: dict[str, None] = {}
        self._peak: int | None = None
        self._messages: list[Json] = []
        self._untold: list[int] = []
        self._unsure: list[int] = []
        self._looked = 0
        self._kept: set[int] = set()
        self._unkept_since: float | None = None
        self._reopened = False
        self._deaths = 0
        self._given_up = False
        self._mark = Mark(task)
        self._mark.make()
        self._channel: socket.socket | None = None
        self._restart()

    def _restart(self) -> None:
        """Forget what belongs to one process."""
        self._begun = self._waits = False
        self._timed_out = self._too_much = False
        self._over_at = 0.0
        self._parted: Json | None = None
        self._child: _Child | None = None
        self._former: list[_Child] = []
        self._descriptors: list[int] = []
        self._current: int | None = None
        self._current_since = 0
        self._current_told = True
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
                going = not self._is_stopped() and (self._goes_on() or self._runs_again())
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
        finally:
            turns.leave(self._task.execution, self)
        collecting = gc.isenabled()
        gc.disable()  # thousands of objects that live until the end cost a third more if it looks for cycles in them
        try:
            return self._end()
        finally:
            if collecting:
                gc.enable()

    def _is_stopped(self) -> bool:
        return self._refused is not None or self._given_up or self._mark.lost or self._cancelled()

    def _refuse(self, failure: Failure, reason: Reason = "error") -> None:
        self._refused, self._refused_for = failure, reason

    def _goes_on(self) -> bool:
        """Judge how a process ended; say whether another is to run what is left."""
        if self._ends.chunk.spread is None and self._spread is not None:
            self._ends.chunk = _first(self._ends.chunk, self._spread)
            return self._asked.seconds != 0 and self._send_rest(apart=False)
        if self._parted is not None:
            return self._send_rest(apart=bool(self._parted["apart"]))
        if self._over_at:  # items of processes before it, of which it does not know, may have to run again
            reopened, self._reopened = self._reopened, False
            return reopened and self._send_rest(apart=True)
        status = self._status or {}
        if self._current is not None:
            self._lose(self._current, status).messages = self._texts.take()
            self._deaths = 0
            return self._send_rest(apart=False)
        self._deaths += 1
        if self._ends.chunk.spread is None or self._timed_out or self._too_much or self._deaths >= _MOST_DEATHS:
            self._refuse(*self._why(status, f"step {self._task.step}"))
            return False
        return self._send_rest(apart=False)

    def _runs_again(self) -> bool:
        """Let items run again that may have seen what others changed, and that no process has looked after since."""
        again, self._unsure, self._looked = self._unsure[self._looked :], [], 0
        if not again or self._is_stopped():
            return False
        self._ends.forget(again)
        return self._send_rest(apart=True)

    def _send_rest(self, *, apart: bool) -> bool:
        """Make what has not ended the chunk of the next process; say whether there is anything, and time for it."""
        chunk, seconds = self._ends.chunk, self._asked.seconds
        if seconds is not None:
            seconds = max(0.0, self._begun_at + seconds - time.monotonic())
            if not seconds and self._ends.ended:
                return False
        left = [place for place, number in enumerate(chunk.numbers) if number not in self._ends.ended]
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
                unsure=bool(self._unsure),
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
        frames, told = Frames(read_word), Frames()
        self._channel = pipes.channel
        poll, ends = select.poll(), select.poll()  # of all that is said, and of what is no item's
        for descriptor in (pipes.channel.fileno(), pipes.output, pipes.errors, pipes.status.fileno()):
            poll.register(descriptor, select.POLLIN)
        for descriptor in (pipes.channel.fileno(), pipes.status.fileno()):
            ends.register(descriptor, select.POLLIN)
        self._watch = MemoryWatch(process, self._task.memory)
        pipes.channel.settimeout(0)
        pipes.status.settimeout(0)
        # What was waited for before it is not the items' time: a server that warms up, an environment that is made.
        self._since, self._held_before = time.monotonic(), self._held()
        busy = False

        def read(*, whole: bool = False) -> tuple[float, bool]:
            """Take what is there; return the number up to which all is known, and whether more lies there."""
            for descriptor, reader in readers.items():
                for number, text in reader.read_marked(descriptor):
                    self._texts.add_text(number, reader.name, text)
                if reader.ended:
                    _unregister(poll, descriptor)
            known = min((reader.number for reader in readers.values() if not reader.ended), default=float("inf"))
            self._hear_process(pipes.channel, frames, poll)
            if self._hear_child(poll, whole=whole) or self._child is None:
                return known, False
            return min(known, self._child.number), True

        now = time.monotonic()
        while self._status is None and not self._idle:
            ready = {descriptor for descriptor, _ in poll.poll(1000 * self._patience())}
            if busy:
                ends.poll(1000 * _GATHER)
            before_that, now = now, time.monotonic()
            if now - before_that > STALL_SECONDS and self._was_given_up():
                kill(process)
            if self._mark.lost and not self._cancelled():  # what has ended may be told yet
                abandon(f"chunk-{self._task.execution}-{self._asked.place}")
            before = self._count
            known, more = read()
            busy = not more and self._count > before
            if pipes.status.fileno() in ready:
                self._hear_status(pipes, told, process)
            self._texts.settle(known)
            self._enforce(process)
            self._tell_items()
            self._keep_ended()
        read(whole=True)
        for reader in readers.values():
            if text := reader.last():
                self._texts.add_text(reader.number, reader.name, text)
        self._texts.settle(float("inf"))
        if self._child is not None:
            self._leave_child(poll)
        self._tell_items(everything=len(self._untold) < _MANY)

    def _was_given_up(self) -> bool:
        """Say whether somebody took this worker for lost while it stood still: others have its items by now."""
        name = f"{self._task.execution}-lost-{self._asked.place}"
        self._given_up = self._given_up or find_written(self._blobs, self._task, "executions", name) is not None
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

    def _hear_child(self, poll: select.poll, *, whole: bool) -> bool:
        """Take what the items' process has said, or, unless `whole`, some of it; say whether that was all."""
        child = self._child
        if child is None or child.connection is None:
            return True
        pieces = 0
        while data := read_now(child.connection):
            for message in child.frames.feed(data):
                self._hear(message, poll)
                child.number = message.n if isinstance(message, ItemEnd) else message["n"]
            pieces += 1
            if pieces == _MOST_PIECES and not whole:
                return False
        if data == b"":
            _unregister(poll, child.connection)
            os.close(child.connection)
            child.connection = None
        return True

    def _hear(self, message: Json | ItemEnd, poll: select.poll) -> None:
        """Take one message; those whose place among the text matters are kept until that is known."""
        self._count += 1
        if isinstance(message, ItemEnd):
            self._hear_end(message)
            return
        kind = message["op"]
        if kind == "news":
            self._ends.item(message["item"]).take_news(message["news"])
        elif kind == "output":
            self._texts.add_message(message["n"], message["message"])
        elif kind == "child":
            self._meet_child(message, poll)
        elif kind == "ended":
            self._hear_child(poll, whole=True)
            self._end_child(message, poll)
        elif kind == "changed":
            self._changed.update(dict.fromkeys(message["names"]))
            self._ends.forget((*message["again"], *self._unsure))
            self._reopened = self._reopened or bool(self._unsure)
            self._unsure, self._looked = [], 0
            self._look_at_child()
            self._current = None
        elif kind == "clean":
            self._look_at_child()
            self._looked = len(self._unsure)
        elif kind == "over":
            self._hear_over(message)
        elif kind == "begun":
            self._begun = True
            self._say({"type": "started", "started": self._started, "worker": self._worker()})
        elif kind == "labels":
            assert self._task.chunk is not None
            self._ends.name(self._task.chunk.numbers, message["labels"])
        elif kind == "spread":
            self._spread = dataclasses.replace(msgspec.convert(message["spread"], Spread), after=message["after"])
        elif kind == "ready":
            self._waits = True
            turns.ask(self._task.execution, self._asked.at_once or 1, self, self._let_begin)
        elif kind == "refused":
            self._refuse(msgspec.convert(message["failure"], Failure))
        elif kind == "parted":
            self._parted, self._current = message, None
        elif kind == "idle":
            self._idle, self._over_at, self._current = True, time.monotonic(), None
        elif kind == "drew":
            self._note_draws(message["draws"])
        elif kind == "waits":
            leave_slot()

    def _let_begin(self) -> None:
        """Tell the process that its items may be run; called in the thread of whoever made room."""
        if self._channel is not None:
            with contextlib.suppress(OSError):  # it is gone: its status says how
                self._channel.send(ACK)

    def _hear_end(self, end: ItemEnd) -> None:
        child = self._child
        item = self._ends.end(end.number)
        item.take_end(end, child.process if child is not None else None)
        self._texts.add_end(end.n, item.take)
        if child is not None:
            child.end(end.number)
        self._note_end(end.number)
        self._begin(end.following, end.ended)

    def _look_at_child(self) -> None:
        if self._child is not None:
            self._child.look()

    def _hear_over(self, message: Json) -> None:
        now = time.monotonic()
        self._look_at_child()
        if self._child is not None and self._child.process is not None:
            self._child.over_at = now
            self._note_draws(message["draws"])
        else:
            self._over_at = now
        self._current = None

    def _note_draws(self, draws: list[str]) -> None:
        if self._child is not None and draws:
            for number in self._child.ended:
                if number in self._ends.ended:
                    self._ends.ended[number].draws = tuple(draws)

    def _begin(self, number: int | None, at: int) -> None:
        """Note which item is under way now, and since when."""
        self._current, self._current_told = number, False
        if number is not None:
            self._current_since = at
        if self._task.timeout is not None:
            self._since, self._held_before = time.monotonic(), self._held()

    # --- the processes of items --------------------------------------------------------------------------------------

    def _meet_child(self, message: Json, poll: select.poll) -> None:
        process = message["pid"]
        if self._waits and not self._ends.ended:
            self._begun_at = time.monotonic()
        self._waits = False
        connection = None
        if process is not None:
            connection = self._descriptors.pop(0)
            os.set_blocking(connection, False)
            poll.register(connection, select.POLLIN)
            self._meet_item(process)
        self._child = _Child(process, connection)
        self._timed_out = self._too_much = False
        self._texts.add_end(message["n"], self._say_own)
        self._begin(message["first"], time.time_ns())

    def _end_child(self, message: Json, poll: select.poll) -> None:
        number = message["begun"]
        if not message["over"] and number is not None and number not in self._ends.ended and not self._cancelled():
            item = self._lose(number, message)
            self._texts.add_end(message["n"], item.take)
        self._peak = max(self._peak or 0, message["peak"])
        ended = self._ends.ended
        if self._child is not None and len(self._child.ended) == 1 and self._child.ended[0] in ended:
            only = ended[self._child.ended[0]]
            only.cpu, only.peak = message["cpu"], message["peak"]
        self._leave_child(poll)
        self._timed_out = self._too_much = False  # that was about this one
        if not self._cancelled():
            self._current = None
        self._since, self._held_before = time.monotonic(), self._held()

    def _leave_child(self, poll: select.poll) -> None:
        child, self._child = self._child, None
        self._meet_item(None)
        if child is None:
            return
        self._unsure += child.unsure
        if child.connection is not None:
            _unregister(poll, child.connection)
            os.close(child.connection)

    def _lose(self, number: int, status: Json) -> Item:
        """Let an item fail that ended its process, or was ended with it."""
        item = self._end_item(number)
        item.failure, item.reason = self._why(status, f"item {number} of step {self._task.step}")
        item.state, item.peak, item.cpu = "failed", status.get("peak"), status.get("cpu")
        if self._child is not None:
            item.process = self._child.process
        self._note_end(number)
        return item

    def _note_end(self, number: int) -> None:
        """Note that an item has ended which is to be told and recorded."""
        self._untold.append(number)
        if self._unkept_since is None:
            self._unkept_since = time.monotonic()

    def _end_item(self, number: int) -> Item:
        """Note the end of an item that its process has not told."""
        item = self._ends.end(number)
        item.ended = time.time_ns()
        item.started = self._current_since if number == self._current else item.ended
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
            if limit is not None and not self._waits and now > self._since + limit + self._held() - self._held_before:
                self._timed_out = True
                kill(running)
            elif self._watch.look(now):
                self._too_much = True
                kill(running)

    def _patience(self) -> float:
        now = time.monotonic()
        times = [now + self._watch.seconds]
        if self._news or self._untold or (self._current is not None and not self._current_told):
            times.append(self._published + _BATCH)
        if self._task.timeout is not None and not self._waits:
            times.append(self._since + self._task.timeout + self._held() - self._held_before + 0.01)
        if self._unkept_since is not None:
            times.append(self._unkept_since + _UNKEPT_SECONDS)
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

    def _tell_items(self, *, everything: bool = False) -> None:
        now = time.monotonic()
        if not everything and now - self._published < _BATCH:
            return
        number = self._current
        begins = number is not None and not self._current_told and number not in self._ends.ended
        if self._untold or begins:
            known = self._ends.ended
            ended = [known[one].news(one) for one in dict.fromkeys(self._untold) if one in known]
            self._say({"type": "items", "ended": ended, "begun": [[number, self._current_since]] if begins else []})
            self._untold, self._current_told = [], True
        self._flush(now, everything=True)

    # --- the end -----------------------------------------------------------------------------------------------------

    def _keep_ended(self) -> None:
        """Record what has ended some time ago, whatever the chunk still has to do."""
        now, since = time.monotonic(), self._unkept_since
        if since is None or now < since + _UNKEPT_SECONDS or self._mark.lost or self._cancelled():
            return
        unsure = {*self._unsure, *(self._child.unsure if self._child is not None else ())}
        sure = self._ends.ended.keys() - unsure
        self._unkept_since = now if unsure else None
        if self._kept.issuperset(sure):
            return
        self._kept |= sure
        try:
            self._ends.write(self._blobs, self._asked.place, self._last, only=sure)
        except (MlbenchError, OSError) as error:  # the end says it, if it is so then too
            _log.warning("Items of execution %s could not be recorded yet: %s", self._task.execution, error)

    def _end(self) -> bytes:
        """Write what became of the items; return it as JSON."""
        if self._given_up or not self._concludes():
            _log.warning("A chunk of execution %s ends too late: it was taken for lost", self._task.execution)
            raise GivenUp("It was taken for lost.")
        self._cancel_item()
        self._say_own(self._texts.take())
        self._flush(time.monotonic(), everything=True)
        records: list[bytes] = []
        end: Json = {
            "spread": self._spread if self._asked.spread is None else None,
            "changed": tuple(self._changed),
            "messages": self._messages,
            "peak_memory": max(self._peak or 0, self._watch.peak) or None,
        }
        if self._refused is not None:
            end |= {"failure": self._refused, "reason": self._refused_for}
        try:
            records = self._ends.write(self._blobs, self._asked.place, self._last)
        except (MlbenchError, OSError) as error:
            _log.error("The ends of items of execution %s could not be recorded: %s", self._task.execution, error)
            said = getattr(error, "message", None) or str(error)
            end["failure"] = Failure(
                ename="StoreError",
                evalue=f"The ends of items could not be recorded: {said}",
                remedy=getattr(error, "remedy", None) or "See that the store can be written, then run the cell again.",
            )
            end["reason"] = "error"
        self._mark.remove()
        ended = self._ends.ended if records else {}
        end["executions"] = list(map(msgspec.Raw, records))
        end["left"] = [number for number in self._asked.numbers if number not in ended]
        return msgspec.json.encode(end)

    def _concludes(self) -> bool:
        """Say whether it is this worker that says how the chunk ended; a store that cannot be written keeps nobody."""
        with contextlib.suppress(MlbenchError):
            return not visits(self._task) or conclude(dataclasses.replace(self._task, chunk=self._asked))
        return True

    def _cancel_item(self) -> None:
        """Let the item that ran when all was cancelled be cancelled too, or fail if it was lost with its worker."""
        reason, number = self._close(), self._current
        if reason is None or number is None or number in self._ends.ended:
            return
        item = self._end_item(number)
        if self._running.lost:
            item.state, item.reason = "failed", "worker-lost"
            item.failure = Failure(
                ename="WorkerLost",
                evalue=f"The worker that ran this item of step {self._task.step} has ended.",
                remedy="Run the cell again with --cache: the items that have ended are not run again.",
            )
        else:
            item.state, item.reason = "cancelled", reason
        item.messages = self._texts.take()


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
