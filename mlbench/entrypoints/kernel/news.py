"""News of steps: what the client's thread brings is noted here, and sent to where it is shown.

Two threads meet: the kernel's own, which runs cells, and the client's. All that both use is guarded by `changed`. News
is only noted on the client's thread; values are loaded, and names moved, where cells run.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from mlbench.core.ids import ExecutionId, RunId
from mlbench.core.messages import Event
from mlbench.core.records import ENDED, Binding, Execution, Failure, Json
from mlbench.entrypoints.kernel.display import Delivery
from mlbench.entrypoints.kernel.submission import Track
from mlbench.runs.endings import end_output

__all__ = ["News", "as_execution"]


class News:
    """The steps that a kernel has handed over, as far as they are known.

    Parameters
    ----------
    delivery
        Sends late output; None without a kernel.
    moved
        Called with two executions, of which the second stands in for the first.
    hint
        What to do about a failure, where the kernel knows better than the step.
    answers
        Whether late output is sent as an answer to the step's own request.
    """

    def __init__(
        self,
        delivery: Delivery | None,
        *,
        moved: Callable[[ExecutionId, ExecutionId], None],
        hint: Callable[[Failure], str | None],
        answers: Callable[[], bool],
    ) -> None:
        self._delivery = delivery
        self._on_moved = moved
        self._hint = hint
        self._answers = answers
        self.changed = threading.Condition(threading.RLock())
        self._tracks: dict[ExecutionId, Track] = {}
        self._moved: dict[ExecutionId, ExecutionId] = {}
        self._hidden: list[tuple[Track, Binding]] = []
        self._drawn: list[tuple[Track, Execution]] = []
        self.run: RunId | None = None
        self.last_failure: float | None = None

    def track(self, execution: ExecutionId | None) -> Track | None:
        """Return what is known of an execution, or of what stands in for it."""
        return self._tracks.get(self.now(execution)) if execution is not None else None

    def tracks(self) -> list[Track]:
        """Return all steps that were handed over."""
        with self.changed:
            return list(dict.fromkeys(self._tracks.values()))

    def tracks_after(self, track: Track) -> list[Track]:
        """Return the steps that were handed over after one."""
        tracks = self.tracks()
        return tracks[tracks.index(track) + 1 :]

    def now(self, execution: ExecutionId) -> ExecutionId:
        """Return the execution that stands in for one, itself if none does."""
        while execution in self._moved:
            execution = self._moved[execution]
        return execution

    def expect(self, track: Track) -> None:
        """Take news of an execution from now on."""
        with self.changed:
            self._tracks[track.execution] = track

    def forget(self, track: Track) -> None:
        """Take no news of an execution that the service did not accept."""
        with self.changed:
            self._tracks.pop(track.execution, None)

    def accept(self, track: Track, record: Execution) -> None:
        """Take the service's record of a step handed over: a new execution, or one that is there already."""
        with self.changed:
            if record.id != track.execution and record.id not in self._moved:
                known = self._tracks.get(record.id)
                if known is not None:  # the same cell again while it is on: what it printed goes under this one
                    known.queue.clear()
                self._tracks.pop(track.execution, None)
                self._tracks[record.id] = track
                self._on_moved(track.execution, record.id)
                track.execution = record.id
                track.queue.extend(_shown(record.messages))
            self.run = record.run
            if record.id == track.execution:
                self.note(track, record)

    def answered(self, execution: ExecutionId, record: Execution) -> None:
        """Take the service's answer about an execution: it is that of what stands in for it."""
        with self.changed:
            track = self._tracks.get(execution)
            if track is None or track.execution != execution:
                return
            if record.id != execution:
                self._move(execution, record)
            if record.state in ENDED:
                self.note(track, record)

    # --- on the client's thread -------------------------------------------------------------------------------------

    def on_event(self, event: Event) -> None:
        """Take one piece of news."""
        if event.type == "messages":
            self._take_messages(event.body)
        elif event.type == "execution":
            record = as_execution(event.body["execution"])
            with self.changed:
                if record.replaces is not None and record.replaces in self._tracks and record.id not in self._tracks:
                    self._move(record.replaces, record)
                track = self._tracks.get(record.id)
                if track is not None and track.execution == record.id:  # the end of one replaced comes later than
                    self.note(track, record)  # the news of what stands in for it

    def _take_messages(self, body: Json) -> None:
        with self.changed:
            track = self._tracks.get(body["execution"])
            if track is None or track.execution != body["execution"]:
                return
            track.queue.extend(_shown(body["messages"]))
            self.changed.notify_all()
            send = track.late and not track.running
        if send:
            self.flush([track])

    def _move(self, before: ExecutionId, record: Execution) -> None:
        """Follow an execution that the service has started in place of another one."""
        track = self._tracks[before]
        self._moved[before] = record.id
        self._tracks[record.id] = track
        track.execution, track.record, track.ended = record.id, None, False
        track.values.clear()
        self._hidden = [one for one in self._hidden if one[0] is not track]
        self._drawn = [one for one in self._drawn if one[0] is not track]
        self._on_moved(before, record.id)
        if record.note:
            track.queue.append({"output_type": "stream", "name": "stderr", "text": f"mlbench: {record.note}\n"})

    def note(self, track: Track, record: Execution) -> None:
        """Note what an execution has come to; with the lock held."""
        if track.ended:
            return
        track.record = record
        if record.state in ENDED:
            track.ended = True
            known = track.defs | track.quiet
            self._hidden.extend((track, one) for one in record.binds if one.name not in known)
            if record.draws and record.random is not None and track.start is not None:
                self._drawn.append((track, record))
            if record.state == "failed" and track.late:
                self.last_failure = (record.ended or time.time_ns()) / 1e9
            track.queue.extend(self._end_shown(track, record))
            if track.late and not track.running:
                self.flush([track])
        self.changed.notify_all()

    def _end_shown(self, track: Track, record: Execution) -> list[Json]:
        """Return what a step's cell shows of an end that is no success."""
        if record.state == "failed" and record.failure is not None:
            return end_output(record, self._hint(record.failure))
        return end_output(record) if track.late else []

    # --- to be shown and applied ------------------------------------------------------------------------------------

    def flush(self, tracks: Iterable[Track]) -> None:
        """Send what late output there is of steps whose cells have ended."""
        for track in tracks:
            with self.changed:
                track.running = False
                if not track.late or self._delivery is None:
                    continue
                messages, track.queue = track.queue, []
                about = {"execution": track.execution, "step": track.step, "cell": track.cell}
                parent = track.parent if self._answers() else None
                for message in messages:
                    self._delivery.send(message, parent=parent, about=about)

    def drain(self, track: Track) -> list[Json]:
        """Return what a step has shown since the last time."""
        with self.changed:
            messages, track.queue = track.queue, []
        return messages

    def take(self) -> tuple[list[tuple[Track, Binding]], list[tuple[Track, Execution]]]:
        """Return names that executions changed though no name showed it, and executions that drew random numbers."""
        with self.changed:
            hidden, self._hidden = self._hidden, []
            drawn, self._drawn = self._drawn, []
        return hidden, drawn


def as_execution(found: Any) -> Execution:
    """Return an execution that came over the socket."""
    from mlbench.runs.wire import msgspec

    return found if isinstance(found, Execution) else msgspec.convert(found, Execution)


def _shown(messages: Iterable[Json]) -> list[Json]:
    """Return messages without errors: a step's error is shown when its end is known, with what to do next."""
    return [dict(one) for one in messages if one["output_type"] != "error"]
