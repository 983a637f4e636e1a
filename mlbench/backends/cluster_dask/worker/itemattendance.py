"""The processes that run a chunk's items, each seen through: what is heard of them, and what they may take.

What they have said arrives whatever becomes of them. What has ended goes into the chunk's account (see
`mlbench.backends.cluster_dask.worker.account`); what runs next is for whoever derives from this.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import select
import socket
import time
from collections.abc import Callable, Sequence
from typing import Final

from mlbench.backends.cluster_dask.channel import ACK, Frames
from mlbench.backends.cluster_dask.itemwords import ItemEnd, read_word
from mlbench.backends.cluster_dask.process.client import leave_slot
from mlbench.backends.cluster_dask.worker import turns
from mlbench.backends.cluster_dask.worker.account import Account
from mlbench.backends.cluster_dask.worker.attendance import STALL_SECONDS, Attendance, Running, abandon
from mlbench.backends.cluster_dask.worker.itemends import Item
from mlbench.backends.cluster_dask.worker.itemprocess import ItemProcess, unregister
from mlbench.backends.cluster_dask.worker.itemtexts import Streams, Texts
from mlbench.backends.cluster_dask.worker.memory import MemoryWatch
from mlbench.backends.cluster_dask.worker.pipes import PIECE, Pipes
from mlbench.backends.cluster_dask.worker.servers import kill
from mlbench.core.ids import ExecutionId
from mlbench.core.messages import Chunk, Spread, StepTask
from mlbench.core.records import Failure, Json, Reason
from mlbench.runs.wire import msgspec

__all__ = ["ItemAttendance"]

_BATCH: Final = 0.25
_MANY: Final = 100
"""So many items are not told when their process ends: the end of the chunk says it all in a moment."""
_GATHER: Final = 0.05
"""Seconds that what items say is left to come, so that it is taken together."""
_EXIT_SECONDS: Final = 3.0
_MOST_PIECES: Final = 4
"""So many pieces are heard at once of an item's process that never falls silent: its limits and text wait for that."""


class ItemAttendance(Attendance):
    """The processes of one chunk, one after the other."""

    def __init__(
        self, task: StepTask, running: Running, publish: Callable[[ExecutionId, list[Json]], None], started: int
    ) -> None:
        super().__init__(task, running, publish, started)
        assert task.chunk is not None
        self._asked: Chunk = task.chunk
        self._begun_at = time.monotonic()
        self._account = Account(task, self._blobs)
        self._items = self._account.items
        self._channel: socket.socket | None = None
        self._restart()

    def _restart(self) -> None:
        """Forget what belongs to one process."""
        self._begun = self._waits = False
        self._timed_out = self._too_much = False
        self._over_at = 0.0
        self._parted: Json | None = None
        self._child: ItemProcess | None = None
        self._descriptors: list[int] = []
        self._current: int | None = None
        self._current_since = 0
        self._current_told = True
        self._since = time.monotonic()
        self._held_before = self._held()
        self._count = 0
        self._texts = Texts()

    def _refuse(self, failure: Failure, reason: Reason = "error") -> None:
        self._account.refused = failure, reason

    # --- what is heard -----------------------------------------------------------------------------------------------

    def _pump(self, pipes: Pipes, process: int) -> None:
        """Pass on what the processes say until the one that was started has ended."""
        streams = Streams(self._texts, pipes, self._task.execution)
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
            known = streams.read()
            for descriptor in streams.ended():
                unregister(poll, descriptor)
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
            if now - before_that > STALL_SECONDS and self._account.was_given_up():
                kill(process)
            if self._account.taken_away and not self._cancelled():  # what has ended may be told yet
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
        streams.end()
        self._texts.settle(float("inf"))
        if self._child is not None:
            self._leave_child(poll)
        self._tell_items(everything=len(self._account.untold) < _MANY)

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
                unregister(poll, channel.fileno())
                return
            for message in frames.feed(data):
                self._hear(message, poll)

    def _hear_child(self, poll: select.poll, *, whole: bool) -> bool:
        """Take what the items' process has said, or, unless `whole`, some of it; say whether that was all."""
        child = self._child
        if child is None:
            return True
        pieces = 0
        while (messages := child.read()) is not None:
            for message in messages:
                self._hear(message, poll)
            pieces += 1
            if pieces == _MOST_PIECES and not whole:
                return False
        if child.ended_saying:
            child.close(poll)
        return True

    def _hear(self, message: Json | ItemEnd, poll: select.poll) -> None:
        """Take one message; those whose place among the text matters are kept until that is known."""
        self._count += 1
        if isinstance(message, ItemEnd):
            self._hear_end(message)
            return
        kind = message["op"]
        if kind == "news":
            self._items.item(message["item"]).take_news(message["news"])
        elif kind == "output":
            self._texts.add_message(message["n"], message["message"])
        elif kind == "child":
            self._meet_child(message, poll)
        elif kind == "ended":
            self._hear_child(poll, whole=True)
            self._end_child(message, poll)
        elif kind == "changed":
            self._account.change(message["names"], message["again"])
            self._look_at_child()
            self._current = None
        elif kind == "clean":
            self._look_at_child()
            self._account.look()
        elif kind == "over":
            self._hear_over(message)
        elif kind == "begun":
            self._begun = True
            self._say({"type": "started", "started": self._started, "worker": self._worker()})
        elif kind == "labels":
            assert self._task.chunk is not None
            self._items.name(self._task.chunk.numbers, message["labels"])
        elif kind == "spread":
            spread = msgspec.convert(message["spread"], Spread)
            self._account.spread_out(dataclasses.replace(spread, after=message["after"]))
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
        item = self._account.end(end.number)
        item.take_end(end, child.process if child is not None else None)
        self._texts.add_end(end.n, item.take)
        if child is not None:
            child.end(end.number)
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
        if self._child is not None:
            self._account.note_draws(self._child.ended, draws)

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
        if self._waits and not self._items.ended:
            self._begun_at = time.monotonic()
        self._waits = False
        connection = None
        if process is not None:
            connection = self._descriptors.pop(0)
            os.set_blocking(connection, False)
            poll.register(connection, select.POLLIN)
            self._meet_item(process)
        self._child = ItemProcess(process, connection)
        self._timed_out = self._too_much = False
        self._texts.add_end(message["n"], self._say_own)
        self._begin(message["first"], time.time_ns())

    def _end_child(self, message: Json, poll: select.poll) -> None:
        number = message["begun"]
        if not message["over"] and number is not None and number not in self._items.ended and not self._cancelled():
            item = self._lose(number, message)
            self._texts.add_end(message["n"], item.take)
        self._account.note_only(self._child.ended if self._child is not None else (), message["cpu"], message["peak"])
        self._leave_child(poll)
        self._timed_out = self._too_much = False  # that was about this one
        if not self._cancelled():
            self._current = None
        self._since, self._held_before = time.monotonic(), self._held()

    def _leave_child(self, poll: select.poll) -> None:
        child, self._child = self._child, None
        self._meet_item(None)
        if child is not None:
            self._account.doubt(child.unsure)
            child.close(poll)

    def _lose(self, number: int, status: Json) -> Item:
        """Let an item fail that ended its process, or was ended with it."""
        item = self._account.end(number)
        why, reason = self._why(status, f"item {number} of step {self._task.step}")
        item.fail(why, reason, self._since_when(number), status)
        if self._child is not None:
            item.process = self._child.process
        return item

    def _since_when(self, number: int) -> int | None:
        """Return when an item was begun that is under way, None if it is not."""
        return self._current_since if number == self._current else None

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
        if self._news or self._account.untold or (self._current is not None and not self._current_told):
            times.append(self._published + _BATCH)
        if self._task.timeout is not None and not self._waits:
            times.append(self._since + self._task.timeout + self._held() - self._held_before + 0.01)
        if self._account.keep_at is not None:
            times.append(self._account.keep_at)
        if self._over_at:
            times.append(self._over_at + _EXIT_SECONDS + 0.01)
        if self._child is not None and self._child.over_at:
            times.append(self._child.over_at + _EXIT_SECONDS + 0.01)
        return max(0.001, min(times) - now)

    # --- what is told ------------------------------------------------------------------------------------------------

    def _add_text(self, name: str, text: str) -> None:
        self._texts.say(name, text)

    def _say_own(self, messages: Sequence[Json]) -> None:
        """Show what is said before items begin, or behind the last: it is nobody's."""
        self._account.messages += messages
        self._say_outputs(list(messages))

    def _tell_items(self, *, everything: bool = False) -> None:
        now = time.monotonic()
        if not everything and now - self._published < _BATCH:
            return
        number = self._current
        begun = []
        if number is not None and not self._current_told and number not in self._items.ended:
            begun = [(number, self._current_since)]
        if self._account.untold or begun:
            self._say(self._account.news(begun))
            self._current_told = True
        self._flush(now, everything=True)

    def _keep_ended(self) -> None:
        """Have recorded what has ended some time ago."""
        at = self._account.keep_at
        if at is not None and time.monotonic() >= at and not self._cancelled():
            self._account.keep(self._last, unsure=self._child.unsure if self._child is not None else ())
