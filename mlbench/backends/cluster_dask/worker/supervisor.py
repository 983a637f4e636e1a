"""The worker's side: run one step in a process of its own, and write the record of its end.

A step is bytes here: no code of a user is imported and nothing of a user's is unpickled. `cancel`, `pause` and
`resume` are called in the worker's event loop while a thread is busy in `supervise`; they take effect at any moment
of an execution, also before its process is there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import mmap
import os
import select
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import IO, Any, Final

from mlbench.backends.blobs import is_there, open_blobs
from mlbench.backends.cluster_dask.channel import ACK, Frames, frame
from mlbench.backends.cluster_dask.ends import ended_already, record_end
from mlbench.backends.cluster_dask.process.client import leave_slot
from mlbench.backends.cluster_dask.processors import available
from mlbench.backends.cluster_dask.resources import readable, with_devices
from mlbench.backends.cluster_dask.worker.environments import fitted
from mlbench.backends.cluster_dask.worker.memory import MemoryWatch, kills_by_system
from mlbench.backends.cluster_dask.worker.orphans import end_orphans
from mlbench.backends.cluster_dask.worker.pipes import HELD, Pipes, Reader, received
from mlbench.backends.cluster_dask.worker.servers import StepServers, kill, send
from mlbench.backends.cluster_dask.worker.visiting import conclude, visits
from mlbench.core.errors import MlbenchError
from mlbench.core.ids import Digest, ExecutionId
from mlbench.core.messages import Environment, StepTask
from mlbench.core.records import (
    Binding,
    Execution,
    Failure,
    FileUse,
    Json,
    Metric,
    Reason,
    State,
    with_artifacts,
)
from mlbench.runs.transcript import Transcript
from mlbench.runs.wire import msgspec

__all__ = [
    "STALL_SECONDS",
    "Attendance",
    "GivenUp",
    "Running",
    "Sealed",
    "abandon",
    "cancel",
    "close",
    "ended_record",
    "entered",
    "give_up",
    "pause",
    "prepare",
    "refusal",
    "refused",
    "resume",
    "supervise",
]

_BATCH: Final = 0.05
_STARTS: Final = 3
"""How often a process is asked for: one may be gone before the step's task has reached it."""
_EXIT_SECONDS: Final = 3.0
STALL_SECONDS: Final = 10.0
"""A supervisor that has stood still for so long (SIGSTOP, a machine that hung) may have been given up meanwhile."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Sealed:
    """A task as bytes, which Dask can carry and log without showing what is in it."""

    data: bytes = field(repr=False)


class GivenUp(Exception):
    """Somebody has taken this worker for lost, and said how what it ran has ended."""


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


def supervise(task: StepTask, publish: Callable[[ExecutionId, list[Json]], None]) -> Execution:
    """Run a step to its end and write its record; return it.

    Parameters
    ----------
    publish
        Takes news of the execution as it comes; called in this thread.
    """
    started = time.time_ns()
    with _lock:
        refused = _refused.pop(task.execution, None)
    with entered(task.execution, refused=refused) as running, with_devices(task) as task:
        return _Supervision(task, running, publish, started).run()


def ended_record(
    task: StepTask, *, state: State, reason: Reason | None = None, failure: Failure | None = None, **others: Any
) -> Execution:
    """Return the record of a task's end: what was known when it was sent, and what is known now."""
    fields = Execution.__dataclass_fields__
    known = {name: value for name, value in task.base.items() if name in fields and value is not None}
    own = {
        "id": task.execution,
        "run": task.run,
        "step": task.step,
        "attempt": task.attempt,
        "source": known.get("source", task.source),
        "ended": time.time_ns(),
    }
    record = msgspec.convert({**known, **own, "state": state}, Execution)
    return dataclasses.replace(record, reason=reason, failure=failure, **others)


def refused(task: StepTask, error: MlbenchError) -> Execution:
    """Return the record, which is durable if the store is there, of a step that cannot run on this worker."""
    failure = Failure(ename=type(error).__name__, evalue=error.message, remedy=error.remedy)
    record = ended_record(task, state="failed", reason="error", failure=failure)
    if is_there(task.store):
        with contextlib.suppress(MlbenchError, OSError):  # the service writes what it finds no record of
            record_end(open_blobs(task.store), task, record)
    return record


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
        self._blobs = open_blobs(task.store)
        self._news: list[Json] = []
        self._published = 0.0
        self._begun = False
        self._last: int | None = None
        self._status: Json | None = None
        self._timed_out = False
        self._too_much = False
        self._stalled = False
        self._watch = MemoryWatch(0, task.memory)
        self._system_kills = kills_by_system()

    def _pump(self, pipes: Pipes, process: int) -> None:
        """Pass on what a process says until it has ended: until `_status` is there."""
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
            if self._cancelled():
                return
            server = _the_servers().get(self._task.environment)
            server.await_ready(self._cancelled)
            if self._cancelled():
                return
            pipes = Pipes()
            try:
                try:
                    server.start(pipes.theirs)
                finally:
                    pipes.close_theirs()
            except OSError:
                pipes.close()
                if attempt == _STARTS - 1:
                    raise
                server.close()
                continue
            try:
                if self._attend(pipes):
                    return
            finally:
                pipes.close()
                server.ended()

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

    def _attend(self, pipes: Pipes) -> bool:
        """See one process through; return False if it ended before the task reached it."""
        self._status = None
        process = self._meet(pipes)
        if process is None:
            return False
        try:
            threads = self._task.threads or max(1, available() // max(1, self._at_work()))
            task = dataclasses.replace(self._task, threads=None if threads == available() else threads)
            with contextlib.suppress(BrokenPipeError, ConnectionError):  # ended already: its status says how
                pipes.channel.sendall(frame(task))
            self._pump(pipes, process)
        finally:
            if self._status is None:
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

    def _meet(self, pipes: Pipes) -> int | None:
        """Wait for the process's id; from then on it can be ended and paused."""
        pipes.status.settimeout(30.0)
        frames = Frames()
        try:
            while not (told := frames.feed(data := pipes.status.recv(4096))):
                if not data:
                    return None
        except OSError:
            return None
        process = self._last = int(told[0]["pid"])
        for more in told[1:]:
            self._status = more
        with _lock:
            self._running.process = process
            if self._running.cancelled:
                kill(process)
            elif self._running.paused:
                send(process, signal.SIGSTOP)
        return process

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
        if self._news and (everything or now - self._published >= _BATCH):
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


class _Supervision(Attendance):
    """One execution, from its task to its record."""

    def __init__(
        self, task: StepTask, running: Running, publish: Callable[[ExecutionId, list[Json]], None], started: int
    ) -> None:
        super().__init__(task, running, publish, started)
        self._transcript = Transcript()
        self._spool: IO[bytes] | None = None
        self._metrics: list[Json] = []
        self._tags: dict[str, str] = {}
        self._artifacts: list[Json] = []
        self._done: Json | None = None

    def run(self) -> Execution:
        """Run the step."""
        failure: Failure | None = None
        try:
            self._process()
        except MlbenchError as error:
            failure = Failure(ename=type(error).__name__, evalue=error.message, remedy=error.remedy)
        except OSError as error:
            failure = Failure(
                ename=type(error).__name__,
                evalue=f"No process could be started for the step: {error}",
                remedy="Run the cell again.",
            )
        record = self._record(failure)
        return self._write(record)

    # --- the process -------------------------------------------------------------------------------------------------

    def _pump(self, pipes: Pipes, process: int) -> None:
        """Pass on what the process says until it has ended."""
        task = self._task
        readers = {pipes.output: Reader("stdout"), pipes.errors: Reader("stderr")}
        frames, told = Frames(), Frames()
        poll = select.poll()
        for descriptor in (pipes.channel.fileno(), pipes.output, pipes.errors, pipes.status.fileno()):
            poll.register(descriptor, select.POLLIN)
        begun = now = time.monotonic()
        done_at = 0.0
        self._watch = MemoryWatch(process, task.memory)
        pipes.channel.settimeout(0)
        pipes.status.settimeout(0)

        def drain() -> None:
            """Take what the pipes hold now: what a subprocess goes on to write while it is read is not waited for."""
            for descriptor, reader in readers.items():
                taken = 0
                while taken < HELD and (text := reader.read(descriptor)):
                    self._add_text(reader.name, text)
                    taken += len(text)

        def hear(*, first: Callable[[], None] | None = None) -> None:
            """Take what the channel has; text that was read before a `sync` goes before what follows it."""
            nonlocal done_at
            data = received(pipes.channel)
            if data == b"":
                with contextlib.suppress(KeyError):
                    poll.unregister(pipes.channel.fileno())
            for message in frames.feed(data or b""):
                if message["op"] == "sync":
                    if first is not None:
                        first()
                        first = None
                    drain()
                    with contextlib.suppress(OSError):
                        pipes.channel.send(ACK)
                else:
                    self._handle(message)
                    if message["op"] == "done":
                        done_at = time.monotonic()
                        self._published = 0.0  # nothing more comes that would be worth waiting for
            if first is not None:
                first()

        while self._status is None:
            ready = {descriptor for descriptor, _ in poll.poll(1000 * self._patience(begun, done_at))}
            texts = [(descriptor, reader) for descriptor, reader in readers.items() if descriptor in ready]
            for descriptor, reader in texts:
                text = reader.read(descriptor)
                if reader.ended:
                    with contextlib.suppress(KeyError):
                        poll.unregister(descriptor)
                hear(first=functools.partial(self._add_text, reader.name, text))
            if not texts and pipes.channel.fileno() in ready:
                hear()
            if pipes.status.fileno() in ready:
                self._hear_status(pipes, told, process)
            before, now = now, time.monotonic()
            self._stalled = self._stalled or now - before > STALL_SECONDS
            if task.timeout is not None and done_at == 0.0 and now > begun + task.timeout + self._held():
                self._timed_out = True
                kill(process)
                done_at = now
            elif self._watch.look(now) and done_at == 0.0:
                self._too_much = True
                kill(process)
                done_at = now
            elif done_at and now > done_at + _EXIT_SECONDS:
                kill(process)
            self._flush(now)
        drain()
        hear()
        drain()
        for reader in readers.values():
            self._add_text(reader.name, reader.last())
        self._flush(time.monotonic(), everything=True)

    def _patience(self, begun: float, done_at: float) -> float:
        now = time.monotonic()
        times = [now + self._watch.seconds]
        if self._news:
            times.append(self._published + _BATCH)
        if self._task.timeout is not None and not done_at:
            times.append(begun + self._task.timeout + self._held() + 0.01)
        if done_at:
            times.append(done_at + _EXIT_SECONDS + 0.01)
        return max(0.001, min(times) - now)

    # --- what it says ------------------------------------------------------------------------------------------------

    def _handle(self, message: Json) -> None:
        kind = message["op"]
        if kind == "begun":
            self._begun = True
            self._say({"type": "started", "started": self._started, "worker": self._worker()})
        elif kind == "output":
            self._say_outputs(self._transcript.add(message["message"]))
        elif kind == "news":
            news = message["news"]
            if news["type"] == "metrics":
                self._metrics += news["metrics"]
            elif news["type"] == "tags":
                self._tags.update(news["tags"])
            elif news["type"] == "artifacts":
                self._artifacts += news["artifacts"]
            self._say(news)
        elif kind == "waits":
            leave_slot()
        elif kind == "done":
            self._done = message

    def _add_text(self, name: str, text: str) -> None:
        if not text:
            return
        if self._spool is None:
            self._spool = tempfile.TemporaryFile()  # noqa: SIM115  closed when it has been kept
        self._spool.write(text.encode("utf-8", "replace"))
        self._say_outputs(self._transcript.add({"output_type": "stream", "name": name, "text": text}))

    # --- its end -----------------------------------------------------------------------------------------------------

    def _record(self, failure: Failure | None) -> Execution:
        cancelled = self._close()
        done = self._done or {}
        status = self._status or {}
        state, reason = self._judge(done, failure, cancelled)
        if state == "failed" and failure is None:
            if reason == "worker-lost":
                failure = Failure(
                    ename="WorkerLost",
                    evalue=f"The worker that ran step {self._task.step} has ended.",
                    remedy="Run the cell again.",
                )
            elif self._timed_out:
                failure = self._timeout()
            elif self._too_much:
                failure = self._excess()
            elif "failure" in done:
                failure = msgspec.convert(done["failure"], Failure)
                reason = "memory" if failure.ename == "MemoryError" else "error"
            else:
                failure = self._death(status)
                reason = "memory" if self._ended_by_system(status) else reason
        if failure is not None and "failure" not in done:
            self._say_outputs(
                self._transcript.add(
                    {
                        "output_type": "error",
                        "ename": failure.ename,
                        "evalue": failure.evalue,
                        "traceback": [f"\x1b[31m{failure.ename}\x1b[39m: {failure.evalue}"],
                    }
                )
            )
        self._say_outputs(self._transcript.last_words())
        self._flush(time.monotonic(), everything=True)
        return ended_record(
            self._task,
            state=state,
            reason=reason,
            failure=failure,
            started=self._started,
            worker=self._worker(),
            binds=msgspec.convert(done.get("binds", []), tuple[Binding, ...]) if state == "succeeded" else (),
            artifacts=with_artifacts((), msgspec.convert(self._artifacts, tuple[Binding, ...])),
            metrics=msgspec.convert(self._metrics, tuple[Metric, ...]),
            messages=tuple(self._transcript.outputs()),
            files=msgspec.convert(done.get("files", []), tuple[FileUse, ...]),
            network=done.get("network", False),
            draws=tuple(done.get("draws", ())),
            random=done.get("random") if state == "succeeded" else None,
            random_start=done.get("random_start") if state == "succeeded" else None,
            cpu=status.get("cpu") or done.get("cpu"),
            peak_memory=max(status.get("peak") or 0, self._watch.peak) or None,
            tags={**self._task.base.get("tags", {}), **self._tags},
        )

    def _judge(self, done: Json, failure: Failure | None, cancelled: Reason | None) -> tuple[State, Reason | None]:
        if self._running.lost:
            return "failed", "worker-lost"
        if cancelled is not None:
            return "cancelled", cancelled
        if self._timed_out:
            return "failed", "timeout"
        if self._too_much:
            return "failed", "memory"
        return ("succeeded", None) if failure is None and done.get("ok") else ("failed", "error")

    def _timeout(self) -> Failure:
        seconds = self._task.timeout or 0.0
        return Failure(
            ename="StepTimeout",
            evalue=f"Step {self._task.step} ran longer than {seconds:g} s and was ended.",
            remedy="Give it longer with `--timeout`, or find out what it waits for.",
        )

    def _write(self, record: Execution) -> Execution:
        """Keep the log, then the record, durably; if that fails, return one that says so."""
        try:
            if self._stalled and (told := ended_already(self._blobs, self._task, record)) is not None:
                return told
            if visits(self._task) and not conclude(self._task):
                raise GivenUp(f"The end of step {self._task.step} comes too late: it was taken for lost.")
            record = dataclasses.replace(record, log=self._keep_log())
            record_end(self._blobs, self._task, record)
        except (MlbenchError, OSError) as error:
            _log.error("The end of execution %s could not be recorded: %s", record.id, error)
            remedy = getattr(error, "remedy", None) or "See that the store can be written, then run the cell again."
            said = getattr(error, "message", None) or str(error)
            return dataclasses.replace(
                record,
                state="failed",
                reason="error",
                binds=(),
                failure=Failure(
                    ename="StoreError", evalue=f"The end of the step could not be recorded: {said}", remedy=remedy
                ),
            )
        return record

    def _keep_log(self) -> Digest | None:
        spool, self._spool = self._spool, None
        if spool is None:
            return None
        with spool:
            if not self._transcript.cut:
                return None
            spool.flush()
            with mmap.mmap(spool.fileno(), 0, access=mmap.ACCESS_READ) as whole, memoryview(whole) as text:
                return self._blobs.put(text)
