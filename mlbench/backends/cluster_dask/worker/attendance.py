"""A step's processes on a worker: asked for, met, ended, paused, and seen through to their end.

`cancel`, `pause` and `resume` are called in the worker's event loop while a thread is busy with an `Attendance`; they
take effect at any moment of an execution, also before its process is there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from mlbench.backends.blobs import open_blobs
from mlbench.backends.cluster_dask.channel import Frames, frame
from mlbench.backends.cluster_dask.processors import available
from mlbench.backends.cluster_dask.resources import readable
from mlbench.backends.cluster_dask.worker import hosts
from mlbench.backends.cluster_dask.worker.environments import fitted
from mlbench.backends.cluster_dask.worker.hosts import Host
from mlbench.backends.cluster_dask.worker.memory import MemoryWatch, kills_by_system
from mlbench.backends.cluster_dask.worker.orphans import end_orphans
from mlbench.backends.cluster_dask.worker.pipes import Pipes, received
from mlbench.backends.cluster_dask.worker.servers import StepServers, kill, send
from mlbench.core.ids import ExecutionId
from mlbench.core.messages import Environment, StepTask
from mlbench.core.records import Failure, Json, Reason
from mlbench.runs.wire import msgspec

__all__ = [
    "BATCH",
    "STALL_SECONDS",
    "Attendance",
    "Running",
    "Sealed",
    "abandon",
    "cancel",
    "close",
    "entered",
    "give_up",
    "last_refusal",
    "pause",
    "prepare",
    "refusal",
    "resume",
]

BATCH: Final = 0.05
"""Seconds of news that are sent together."""

_STARTS: Final = 3
"""How often a process is asked for: one may be gone before the step's task has reached it."""
STALL_SECONDS: Final = 10.0
"""A supervisor that has stood still for so long (SIGSTOP, a machine that hung) may have been given up meanwhile."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Sealed:
    """A task as bytes, which Dask can carry and log without showing what is in it."""

    data: bytes = field(repr=False)


@dataclass(slots=True)
class Running:
    """What is known of an execution, or of a chunk of one, while a thread has it. Guarded by a lock of this module.

    `item` is the process in which items of a chunk run, a child of `process` with a group of its own. `lost` says that
    its worker ends, for which nobody has cancelled it.
    """

    process: int | None = None
    item: int | None = None
    cancelled: Reason | None = None
    lost: bool = False
    paused: bool = False
    paused_at: float = 0.0
    paused_for: float = 0.0
    ended: bool = False


_lock = threading.Lock()
_running: dict[str, Running] = {}
"""By execution; chunks by that of their step, a slash and their place."""
_refused: dict[ExecutionId, Reason] = {}
_held: set[ExecutionId] = set()
"""Executions that are paused, whose chunks, or whose whole, may come only now."""
_servers: list[StepServers] = []


def prepare(data: Sealed) -> None:
    """Start the step server of an environment ahead of its first step."""
    _the_servers().get(msgspec.msgpack.decode(data.data, type=Environment))


def cancel(execution: ExecutionId, reason: Reason = "user") -> bool:
    """End an execution, or see to it that it does not begin; say whether it was there."""
    with _lock:
        _held.discard(execution)
        found = _of(execution)
        if not found or execution not in _running:  # chunks of it may be still to come
            _refused[execution] = reason
        there = [one for one in found if not one.ended]
        for running in there:
            running.cancelled = running.cancelled or reason
            _signal(running, signal.SIGKILL)
        return bool(there)


def pause(execution: ExecutionId) -> bool:
    """Stop an execution's processes where they are, and those that come later before they begin."""
    return _set_paused(execution, paused=True)


def resume(execution: ExecutionId) -> bool:
    """Let a paused execution go on."""
    return _set_paused(execution, paused=False)


def give_up(executions: list[ExecutionId]) -> bool:
    """End executions whose service ends; say whether one was there."""
    return sum(cancel(one, "service-lost") for one in executions) > 0


def abandon(key: str) -> None:
    """End what runs for a task of Dask's that nobody waits for any more, by the key that it was submitted with."""
    kind, _, rest = key.partition("-")
    execution, _, number = rest.rpartition("-")
    with _lock:
        running = _running.get(f"{execution}/{number}" if kind == "chunk" else execution)
        if running is not None and not running.ended:
            running.lost = running.cancelled is None
            running.cancelled = running.cancelled or "service-lost"
            _signal(running, signal.SIGKILL)


def close(*, lost: bool = False) -> None:
    """End everything that runs here: with its service, or, if `lost`, with a worker that ends before it."""
    with _lock:
        for running in _running.values():
            running.lost = running.lost or (lost and running.cancelled is None)
            running.cancelled = running.cancelled or "service-lost"
            _signal(running, signal.SIGKILL)
        servers = _servers[:]
        _servers.clear()
    for one in servers:
        one.close()


@contextlib.contextmanager
def entered(key: str, *, refused: Reason | None) -> Iterator[Running]:
    """Let an execution be cancelled and paused for as long as a thread has it."""
    with _lock:
        running = _running[key] = Running(cancelled=refused)
        if key.partition("/")[0] in _held:
            running.paused, running.paused_at = True, time.monotonic()
    try:
        yield running
    finally:
        with _lock:
            _running.pop(key, None)


def refusal(execution: ExecutionId) -> Reason | None:
    """Return why chunks of an execution are not to begin any more, if that is so."""
    with _lock:
        return _refused.get(execution)


def last_refusal(execution: ExecutionId) -> Reason | None:
    """Return why an execution is not to begin, if that is so, and forget it: what begins next is another attempt."""
    with _lock:
        return _refused.pop(execution, None)


def _of(execution: ExecutionId) -> list[Running]:
    chunks = f"{execution}/"
    return [one for key, one in _running.items() if key == execution or key.startswith(chunks)]


def _signal(running: Running, number: signal.Signals) -> None:
    for process in (running.item, running.process):
        if process is not None:
            send(process, number)


def _set_paused(execution: ExecutionId, *, paused: bool) -> bool:
    with _lock:
        (_held.add if paused else _held.discard)(execution)
        there = [one for one in _of(execution) if not one.ended]
        for running in there:
            if running.paused == paused:
                continue
            now = time.monotonic()
            if paused:
                running.paused_at = now
            else:
                running.paused_for += now - running.paused_at
            running.paused = paused
            _signal(running, signal.SIGSTOP if paused else signal.SIGCONT)
        return bool(there)


def _the_servers() -> StepServers:
    with _lock:
        if not _servers:
            _servers.append(StepServers())
        return _servers[0]


class Attendance:
    """A task's processes, each seen through from being asked for to its end.

    Who derives from it says in `_pump` what is heard of a process, and in `_add_text` where text goes.
    """

    def __init__(
        self, task: StepTask, running: Running, publish: Callable[[ExecutionId, list[Json]], None], started: int
    ) -> None:
        self._task = task
        self._running = running
        self._publish = publish
        self._started = started
        self._blobs = open_blobs(task.store, make=False)
        self._news: list[Json] = []
        self._published = 0.0
        self._begun = False
        self._last: int | None = None
        self._status: Json | None = None
        self._idle = False
        self._timed_out = False
        self._too_much = False
        self._stalled = False
        self._watch = MemoryWatch(0, task.memory)
        self._system_kills = kills_by_system()

    def _pump(self, pipes: Pipes, process: int) -> None:
        """Pass on what a process says until it has ended, and `_status` is there, or until it waits: `_idle`."""
        raise NotImplementedError

    def _add_text(self, name: str, text: str) -> None:
        """Take text that comes from nobody's process, or from one."""
        raise NotImplementedError

    # --- the process -------------------------------------------------------------------------------------------------

    def _process(self) -> None:
        task = fitted(self._task, self._tell, self._cancelled)
        if task is None:
            return
        self._task = task
        for attempt in range(_STARTS):
            try:
                host = hosts.take(self._task) or self._start()
            except OSError:
                if attempt == _STARTS - 1:
                    raise
                continue
            if host is None:
                return
            try:
                if self._attend(host):
                    return
            finally:
                waits, self._idle = self._idle, False
                if waits and not self._cancelled():
                    hosts.keep(host, self._task)
                else:
                    host.release()

    def _start(self) -> Host | None:
        """Start a process; return None if it is not wanted any more."""
        if self._cancelled():
            return None
        server = _the_servers().get(self._task.environment)
        server.await_ready(self._cancelled)
        if self._cancelled():
            return None
        pipes = Pipes()
        try:
            server.start(pipes.theirs)
        except OSError:
            pipes.close()
            server.close()
            raise
        finally:
            pipes.close_theirs()
        return Host(pipes, server)

    def _tell(self, sentence: str) -> None:
        """Say something to whoever looks at the step's cell before its process is there."""
        self._add_text("stderr", f"mlbench: {sentence}\n")
        self._flush(time.monotonic(), everything=True)

    def _cancelled(self) -> bool:
        with _lock:
            return self._running.cancelled is not None

    def _close(self) -> Reason | None:
        """Let nobody cancel or pause this any more; return why it was cancelled, if it was."""
        with _lock:
            self._running.ended = True
            return self._running.cancelled

    def _attend(self, host: Host) -> bool:
        """See one process through; return False if it ended before the task reached it."""
        self._status = None
        pipes = host.pipes
        process = host.process = host.process or self._hear_of(pipes)
        if process is None:
            return False
        self._meet(process)
        try:
            threads = self._task.threads or max(1, available() // max(1, self._at_work()))
            task = dataclasses.replace(self._task, threads=None if threads == available() else threads)
            with contextlib.suppress(BrokenPipeError, ConnectionError):  # ended already: its status says how
                pipes.channel.settimeout(None)
                pipes.channel.sendall(frame(task))
            self._pump(pipes, process)
        finally:
            if not self._idle and self._status is None:
                kill(process)
            with _lock:  # another process may get its number
                self._running.process = None
        return self._begun or self._timed_out or self._cancelled()

    def _at_work(self) -> int:
        """Return how many executions, and chunks of some, share this machine's processors: one that waits does not."""
        limit = self._task.chunk.at_once if self._task.chunk is not None else None
        with _lock:
            waiting = 0 if limit is None else max(0, len(_of(self._task.execution)) - limit)
            return len(_running) - waiting

    def _hear_of(self, pipes: Pipes) -> int | None:
        """Wait for the id of a process that was asked for."""
        pipes.status.settimeout(30.0)
        frames = Frames()
        try:
            while not (told := frames.feed(data := pipes.status.recv(4096))):
                if not data:
                    return None
        except OSError:
            return None
        for more in told[1:]:
            self._status = more
        return int(told[0]["pid"])

    def _meet(self, process: int) -> None:
        """Note the process: from now on it can be ended and paused."""
        self._last = process
        with _lock:
            self._running.process = process
            if self._running.cancelled:
                kill(process)
            else:  # one that has waited may have been stopped with what ran in it before
                send(process, signal.SIGSTOP if self._running.paused else signal.SIGCONT)

    def _meet_item(self, process: int | None) -> None:
        """Note the process in which items run: it is ended and paused with the one that it was forked from."""
        with _lock:
            self._running.item = process
            if process is not None and self._running.cancelled:
                kill(process)
            elif process is not None and self._running.paused:
                send(process, signal.SIGSTOP)

    def _hear_status(self, pipes: Pipes, told: Frames, process: int) -> None:
        data = received(pipes.status)
        if data is None:
            return
        if not data:  # the server has ended, and this process with it, though not what it started
            kill(process)
            threading.Thread(target=end_orphans, name="mlbench-orphans", daemon=True).start()
            self._status = {"status": None}
        for message in told.feed(data):
            self._status = message

    def _held(self) -> float:
        """Return for how long the execution has been paused."""
        with _lock:
            running = self._running
            return running.paused_for + (time.monotonic() - running.paused_at if running.paused else 0.0)

    # --- news --------------------------------------------------------------------------------------------------------

    def _say_outputs(self, outputs: list[Json]) -> None:
        for one in outputs:
            last = self._news[-1] if self._news and self._news[-1]["type"] == "messages" else None
            if last is None:
                self._say({"type": "messages", "messages": [one]})
                continue
            before = last["messages"][-1]
            if one["output_type"] == before["output_type"] == "stream" and one["name"] == before["name"]:
                last["messages"][-1] = {**before, "text": before["text"] + one["text"]}
            else:
                last["messages"].append(one)

    def _say(self, news: Json) -> None:
        self._news.append(news)

    def _flush(self, now: float, *, everything: bool = False) -> None:
        if self._news and (everything or now - self._published >= BATCH):
            news, self._news = self._news, []
            if any(one["type"] != "started" for one in news):  # what is printed first is not to wait for that
                self._published = now
            try:
                self._publish(self._task.execution, news)
            except Exception:  # noqa: BLE001  news may be lost, the step's end may not
                _log.exception("News of execution %s could not be sent", self._task.execution)

    def _worker(self) -> str:
        return f"{socket.gethostname()}/{self._last or os.getpid()}"

    # --- how it ended ------------------------------------------------------------------------------------------------

    def _death(self, status: Json, what: str = "") -> Failure:
        """Say how a process ended that never said so itself; `what` is the step, or an item of it."""
        code = status.get("status")
        peak = status.get("peak")
        used = f" It had used {readable(peak)} of memory at most." if peak else ""
        remedy = f"Run the cell with `%%step {self._task.step} --here` to see where."
        if code is None:
            how = "ended with the process that had started it."
            remedy = "Run the cell again."
        elif code < 0:
            name = signal.Signals(-code).name
            how = f"was killed by {name} ({signal.strsignal(-code)})."
            if self._ended_by_system(status):
                how = "was ended by the system, which had run out of memory."
                remedy = "Let the step hold less at once, or say with `--memory` what it needs, so that others wait."
            elif -code == signal.SIGKILL:
                remedy = (
                    "Nobody cancelled it, so the system probably ran out of memory: let the step hold less at once."
                )
        elif code == 0:
            how = "ended by itself before the cell's end, as os._exit() makes it do."
            remedy = "Leave os._exit() out: a step ends where its cell ends."
        else:
            how = f"ended with exit status {code} before the cell's end."
        return Failure(
            ename="StepProcessDied",
            evalue=f"The process of {what or f'step {self._task.step}'} {how}{used}",
            remedy=remedy,
        )

    def _excess(self, what: str = "") -> Failure:
        """Say that the limit of memory was passed by the step, or an item of it (`what`)."""
        limit, peak = readable(self._task.memory or 0), readable(self._watch.peak)
        who = what or f"step {self._task.step}"
        return Failure(
            ename="StepMemoryError",
            evalue=f"{who[0].upper()}{who[1:]} used more memory than --memory {limit} (peak {peak}) and was ended.",
            remedy="Give it more with `--memory`, or let it hold less at once.",
        )

    def _ended_by_system(self, status: Json) -> bool:
        """Say whether the system ended the process because it had run out of memory."""
        return status.get("status") == -signal.SIGKILL and kills_by_system() > self._system_kills
