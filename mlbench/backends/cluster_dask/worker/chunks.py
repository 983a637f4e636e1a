"""The worker's side of a fan-out: run the items of one chunk, in one process after another if need be.

Items are bytes here, as steps are. An item that ends its process fails alone, those before it have their results, and
those behind it run in the next. What is heard of a process is `mlbench.backends.cluster_dask.worker.itemattendance`'s
business, what has become of the items is in the chunk's account.
"""

from __future__ import annotations

import dataclasses
import gc
import logging
import time
from collections.abc import Callable
from typing import Final

from mlbench.backends.cluster_dask.resources import with_devices
from mlbench.backends.cluster_dask.worker import turns
from mlbench.backends.cluster_dask.worker.itemattendance import ItemAttendance
from mlbench.backends.cluster_dask.worker.itemends import worker_lost
from mlbench.backends.cluster_dask.worker.supervisor import GivenUp, Running, entered, refusal
from mlbench.core.errors import MlbenchError
from mlbench.core.ids import ExecutionId
from mlbench.core.messages import StepTask
from mlbench.core.records import Failure, Json

__all__ = ["run_chunk"]

_MOST_DEATHS: Final = 2
"""So many processes may end one after the other without that an item was begun."""

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


class _ChunkRun(ItemAttendance):
    """One chunk, from its task to its end."""

    def __init__(
        self, task: StepTask, running: Running, publish: Callable[[ExecutionId, list[Json]], None], started: int
    ) -> None:
        super().__init__(task, running, publish, started)
        self._deaths = 0

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
        return self._account.stopped or self._cancelled()

    def _goes_on(self) -> bool:
        """Judge how a process ended; say whether another is to run what is left."""
        if self._account.take_spread():
            return self._asked.seconds != 0 and self._send_rest(apart=False)
        if self._parted is not None:
            return self._send_rest(apart=bool(self._parted["apart"]))
        if self._over_at:  # items of processes before it, of which it does not know, may have to run again
            return self._account.take_reopened() and self._send_rest(apart=True)
        status = self._status or {}
        if self._current is not None:
            self._lose(self._current, status).messages = self._texts.take()
            self._deaths = 0
            return self._send_rest(apart=False)
        self._deaths += 1
        if self._items.chunk.spread is None or self._timed_out or self._too_much or self._deaths >= _MOST_DEATHS:
            self._refuse(*self._why(status, f"step {self._task.step}"))
            return False
        return self._send_rest(apart=False)

    def _runs_again(self) -> bool:
        """Let items run again that may have seen what others changed, and that no process has looked after since."""
        again = self._account.take_unsure()
        if not again or self._is_stopped():
            return False
        self._items.forget(again)
        return self._send_rest(apart=True)

    def _send_rest(self, *, apart: bool) -> bool:
        """Make what has not ended the chunk of the next process; say whether there is anything, and time for it."""
        seconds = self._asked.seconds
        if seconds is not None:
            seconds = max(0.0, self._begun_at + seconds - time.monotonic())
            if not seconds and self._items.ended:
                return False
        chunk = self._account.rest(seconds, apart=apart)
        self._task = dataclasses.replace(self._task, chunk=chunk)
        return bool(chunk.numbers)

    # --- the end -----------------------------------------------------------------------------------------------------

    def _end(self) -> bytes:
        """Have recorded what became of the items; return it as JSON."""
        if not self._account.concludes():
            _log.warning("A chunk of execution %s ends too late: it was taken for lost", self._task.execution)
            raise GivenUp("It was taken for lost.")
        self._cancel_item()
        self._say_own(self._texts.take())
        self._flush(time.monotonic(), everything=True)
        self._account.peak = max(self._account.peak, self._watch.peak)
        return self._account.close(self._last)

    def _cancel_item(self) -> None:
        """Let the item that ran when all was cancelled be cancelled too, or fail if it was lost with its worker."""
        reason, number = self._close(), self._current
        if reason is None or number is None or number in self._items.ended:
            return
        item = self._account.end(number)
        if self._running.lost:
            item.fail(worker_lost(self._task.step), "worker-lost", self._since_when(number))
        else:
            item.cancel(reason, self._since_when(number))
        item.messages = self._texts.take()
