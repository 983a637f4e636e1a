"""The worker's side: run one step in a process of its own, and write the record of its end.

A step is bytes here: no code of a user is imported and nothing of a user's is unpickled. Who ends and pauses it, and
how its process is come by, is said in `mlbench.backends.cluster_dask.worker.attendance`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import mmap
import select
import tempfile
import time
from collections.abc import Callable
from typing import IO, Any, Final

from mlbench.backends.blobs import is_there, open_blobs
from mlbench.backends.cluster_dask.channel import ACK, Frames
from mlbench.backends.cluster_dask.ends import ended_already, record_end
from mlbench.backends.cluster_dask.process.client import leave_slot
from mlbench.backends.cluster_dask.resources import with_devices
from mlbench.backends.cluster_dask.worker.attendance import (
    BATCH,
    STALL_SECONDS,
    Attendance,
    Running,
    Sealed,
    abandon,
    cancel,
    close,
    entered,
    give_up,
    last_refusal,
    pause,
    prepare,
    refusal,
    resume,
)
from mlbench.backends.cluster_dask.worker.memory import MemoryWatch
from mlbench.backends.cluster_dask.worker.pipes import HELD, Pipes, Reader, received
from mlbench.backends.cluster_dask.worker.servers import kill
from mlbench.backends.cluster_dask.worker.visiting import conclude, visits
from mlbench.core.errors import MlbenchError
from mlbench.core.ids import Digest, ExecutionId
from mlbench.core.messages import StepTask
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

_EXIT_SECONDS: Final = 3.0

_log = logging.getLogger(__name__)


class GivenUp(Exception):
    """Somebody has taken this worker for lost, and said how what it ran has ended."""


def supervise(task: StepTask, publish: Callable[[ExecutionId, list[Json]], None]) -> Execution:
    """Run a step to its end and write its record; return it.

    Parameters
    ----------
    publish
        Takes news of the execution as it comes; called in this thread.
    """
    started = time.time_ns()
    with entered(task.execution, refused=last_refusal(task.execution)) as running, with_devices(task) as task:
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
            record_end(open_blobs(task.store, make=False), task, record)
    return record


class _Supervision(Attendance):
    """One execution, from its task to its record."""

    def __init__(
        self, task: StepTask, running: Running, publish: Callable[[ExecutionId, list[Json]], None], started: int
    ) -> None:
        super().__init__(task, running, publish, started)
        self._transcript = Transcript()
        self._spool: IO[bytes] | None = None
        self._log_ended: str | None = None  # why no more of it could be written
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
            times.append(self._published + BATCH)
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
        if self._log_ended is None:
            try:
                self._add_to_log(text.encode("utf-8", "replace"))
            except OSError as error:  # the temporary folder is full: that costs the log, and not the step
                self._log_ended = error.strerror or str(error)
        self._say_outputs(self._transcript.add({"output_type": "stream", "name": name, "text": text}))

    def _add_to_log(self, data: bytes) -> None:
        if self._spool is None:
            self._spool = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  closed when it has been kept
        while data:
            data = data[self._spool.write(data) :]

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
        if self._log_ended is not None and self._transcript.cut:
            said = f"mlbench: Not all of the step's log could be kept: {self._log_ended} ({tempfile.gettempdir()}).\n"
            self._say_outputs(self._transcript.add({"output_type": "stream", "name": "stderr", "text": said}))
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
            if not self._transcript.cut or spool.tell() == 0:
                return None
            with mmap.mmap(spool.fileno(), 0, access=mmap.ACCESS_READ) as whole, memoryview(whole) as text:
                return self._blobs.put(text)
