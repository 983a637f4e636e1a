"""Waiting for a step: interruptible, and never for one that nobody knows of any more."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from mlbench.core.errors import NotFound, ServiceError
from mlbench.core.ids import ExecutionId, RunId
from mlbench.core.records import Execution, Failure
from mlbench.entrypoints.kernel.news import News, as_execution
from mlbench.entrypoints.kernel.submission import Track

__all__ = ["ASK_EVERY", "Waiting", "listed", "names_in"]

_LOG = logging.getLogger(__name__)
ASK_EVERY: Final = 5.0
"""Seconds without news of a step after which its waiter asks the service."""
_TELL_AFTER: Final = 0.4
"""Seconds of waiting after which the page is told what for."""
_LOST_AFTER: Final = 60.0
"""Seconds after which a step is given up of which no service can be asked."""


class Waiting:
    """Waits of one kernel's cells.

    Parameters
    ----------
    request
        Asks the service.
    tell
        Called with the execution that a cell has waited for a while, and with None when that is over.
    say
        Called with a line for the user.
    """

    def __init__(
        self,
        news: News,
        request: Callable[[str, Any], Any],
        *,
        tell: Callable[[ExecutionId | None], None],
        say: Callable[[str], None],
    ) -> None:
        self._news = news
        self._request = request
        self._tell = tell
        self._say = say

    def until_ended(self, track: Track, show: Callable[[], None] | None = None) -> None:
        """Return when an execution has ended; call `show` whenever there is something to be shown.

        Raises
        ------
        KeyboardInterrupt
            The stop button was pressed: the service has been told.
        """
        began = asked = lost = time.monotonic()
        told = False
        try:
            while True:
                with self._news.changed:
                    if not track.ended and not (track.queue and show is not None):
                        self._news.changed.wait(0.5)
                    ended = track.ended
                if show is not None:
                    show()
                if ended:
                    return
                now = time.monotonic()
                if not told and now - began > _TELL_AFTER:
                    told = True
                    self._tell(track.execution)
                if now - asked > ASK_EVERY:
                    asked = now
                    if self._ask(track):
                        lost = now
                    elif now - lost > _LOST_AFTER:
                        self._give_up(track)
        except KeyboardInterrupt:
            self._interrupted(track)
            raise
        finally:
            if told:
                self._tell(None)

    def _ask(self, track: Track) -> bool:
        """Ask the service what became of an execution; False if it cannot be asked."""
        execution = track.execution
        try:
            answer = self._request("execution", {"id": execution})
        except NotFound:
            self._give_up(track)
            return True
        except ServiceError as error:
            _LOG.info("The service cannot be asked about step %s: %s", track.step, error)
            return False
        self._news.answered(execution, as_execution(answer["execution"]))
        return True

    def _give_up(self, track: Track) -> None:
        failure = Failure(
            ename="ServiceError",
            evalue="The service that ran this step is gone, and no other knows of it.",
            remedy="Run the cell again.",
        )
        record = Execution(
            id=track.execution,
            run=self._news.run or RunId(""),
            step=track.step,
            state="failed",
            reason="service-lost",
            failure=failure,
            ended=time.time_ns(),
        )
        with self._news.changed:
            self._news.note(track, record)

    def _interrupted(self, track: Track) -> None:
        """Tell the service that the stop button was pressed while a cell waited, and say what comes of that."""
        try:
            names = names_in(self._request("interrupt", {"executions": [track.execution]}))
        except ServiceError as error:
            self._say(f"The stop could not be passed on: {error}")
            return
        if names:
            from mlbench.runs.plan.words import GRACE

            they = "It is" if len(names) == 1 else "They are"
            self._say(
                f"Stopping {listed(names)}. {they} paused now, and cancelled in {GRACE:.0f} seconds "
                "unless the kernel is restarted."
            )
        elif not track.ended:
            self._say(f"Not waiting any more; {track.step} goes on.")


def listed(names: Sequence[str]) -> str:
    """Return names as a sentence lists them.

    Examples
    --------
    >>> listed(["load", "clean", "train"])
    'load, clean and train'
    """
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def names_in(answer: Any) -> list[str]:
    """Return the steps' names in an answer that names what was cancelled."""
    if isinstance(answer, dict):
        answer = answer.get("cancelled") or answer.get("steps") or []
    return [str(one.get("step")) if isinstance(one, dict) else str(one) for one in answer or []]
