"""The account of a chunk: which of its items have ended and stand, what was told and recorded of them, what is left.

It knows no process. Whoever sees these through says what has happened, and asks what is to run next; what has ended is
recorded here, some time before the chunk's end and then with it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import time
from collections.abc import Collection, Iterable, Sequence
from typing import Final

from mlbench.backends.cluster_dask.ends import find_written
from mlbench.backends.cluster_dask.itemwords import Mark
from mlbench.backends.cluster_dask.worker.itemends import Item, ItemEnds
from mlbench.backends.cluster_dask.worker.visiting import conclude, visits
from mlbench.core.errors import MlbenchError
from mlbench.core.ids import ExecutionId, new_id
from mlbench.core.messages import Chunk, Spread, StepTask
from mlbench.core.ports import BlobStore
from mlbench.core.records import Failure, Json, Reason
from mlbench.runs.wire import msgspec

__all__ = ["Account"]

_UNKEPT_SECONDS: Final = 1.25
"""So long after an item has ended it is recorded, with all others that have, although its chunk has not ended: a
worker that is lost then does not take it along. A chunk is about a second of work, so that few are recorded twice."""
_MOST_IN_FIRST: Final = 5_000

_log = logging.getLogger(__name__)


class Account:
    """What has become of a chunk so far.

    Attributes
    ----------
    items
        What is known of its items.
    untold
        The numbers of those that have ended and are not told.
    keep_at
        When what has ended is to be recorded; None if there is nothing that is not.
    messages
        What was shown that is no item's.
    peak
        The most memory that a process took which ran items.
    refused
        Why the chunk as a whole cannot be run, if it cannot.
    """

    def __init__(self, task: StepTask, blobs: BlobStore) -> None:
        assert task.chunk is not None
        self.items = ItemEnds(task)
        self.untold: list[int] = []
        self.keep_at: float | None = None
        self.messages: list[Json] = []
        self.peak = 0
        self.refused: tuple[Failure, Reason] | None = None
        self._task = task
        self._asked: Chunk = task.chunk
        self._blobs = blobs
        self._spread: Spread | None = None
        self._changed: dict[str, None] = {}
        self._unsure: list[int] = []
        self._looked = 0
        self._reopened = False
        self._kept: set[int] = set()
        self._given_up = False
        self._mark = Mark(task)
        self._mark.make()

    @property
    def stopped(self) -> bool:
        """Whether nothing more of it is to run here."""
        return self.refused is not None or self._given_up or self.taken_away

    @property
    def taken_away(self) -> bool:
        """Whether somebody has taken its mark away, and by that its items: they run elsewhere."""
        return self._mark.lost

    def was_given_up(self) -> bool:
        """Look whether somebody took this worker for lost, in the record of which items have ended so."""
        name = f"{self._task.execution}-lost-{self._asked.place}"
        self._given_up = self._given_up or find_written(self._blobs, self._task, "executions", name) is not None
        return self._given_up

    # --- what has ended ----------------------------------------------------------------------------------------------

    def end(self, number: int) -> Item:
        """Note that an item has ended, which is to be told and recorded; return what is known of it."""
        self.untold.append(number)
        if self.keep_at is None:
            self.keep_at = time.monotonic() + _UNKEPT_SECONDS
        return self.items.end(number)

    def note_draws(self, numbers: Iterable[int], draws: Sequence[str]) -> None:
        """Note from which generators items drew that ran in one process."""
        ended = self.items.ended
        for number in numbers:
            if draws and number in ended:
                ended[number].draws = tuple(draws)

    def note_only(self, numbers: Sequence[int], cpu: float | None, peak: int) -> None:
        """Note what a process took: if it ran one item only, that one did."""
        self.peak = max(self.peak, peak)
        if len(numbers) == 1 and (only := self.items.ended.get(numbers[0])) is not None:
            only.cpu, only.peak = cpu, peak

    def news(self, begun: Sequence[tuple[int, int]]) -> Json:
        """Return what is to be told of the items that have ended, and of those that have begun, with when."""
        known = self.items.ended
        ended = [known[one].news(one) for one in dict.fromkeys(self.untold) if one in known]
        self.untold = []
        return {"type": "items", "ended": ended, "begun": list(begun)}

    # --- what may have to run again ----------------------------------------------------------------------------------

    def doubt(self, numbers: Iterable[int]) -> None:
        """Note items of a process that is gone which may have seen what others changed, if it did not look."""
        self._unsure += numbers

    def look(self) -> None:
        """Note that a process has looked, and that nothing is changed: all items before that stand."""
        self._looked = len(self._unsure)

    def change(self, names: Iterable[str], again: Iterable[int]) -> None:
        """Note names that items were found to have changed, and which items are to run again for it."""
        self._changed.update(dict.fromkeys(names))
        self.items.forget((*again, *self._unsure))
        self._reopened = self._reopened or bool(self._unsure)
        self._unsure, self._looked = [], 0

    def take_reopened(self) -> bool:
        """Say, once, whether items run again that ended in another process than the one that found the change."""
        reopened, self._reopened = self._reopened, False
        return reopened

    def take_unsure(self) -> list[int]:
        """Return, once, the items that may have seen a change and that no process has looked after since."""
        again, self._unsure, self._looked = self._unsure[self._looked :], [], 0
        return again

    # --- what is left ------------------------------------------------------------------------------------------------

    def spread_out(self, spread: Spread) -> None:
        """Take what the first chunk has found out: which items there are."""
        self._spread = spread

    def take_spread(self) -> bool:
        """Say, once, whether this is the first chunk and its items are known by now; they are its own then."""
        if self.items.chunk.spread is not None or self._spread is None:
            return False
        self.items.chunk = _first(self.items.chunk, self._spread)
        return True

    def rest(self, seconds: float | None, *, apart: bool) -> Chunk:
        """Return the items that have not ended as the chunk of another process."""
        chunk, ended = self.items.chunk, self.items.ended
        left = [place for place, number in enumerate(chunk.numbers) if number not in ended]
        return dataclasses.replace(
            chunk,
            numbers=tuple(chunk.numbers[place] for place in left),
            executions=tuple(chunk.executions[place] for place in left),
            attempts=tuple(chunk.attempts[place] for place in left),
            keys=tuple(chunk.keys[place] for place in left) if chunk.keys else (),
            seconds=seconds,
            apart=chunk.apart or apart or bool(self._changed),
            unsure=bool(self._unsure),
        )

    # --- records -----------------------------------------------------------------------------------------------------

    def keep(self, process: int | None, unsure: Collection[int]) -> None:
        """Record what has ended some time ago, unless others have its items; the chunk may have more to do.

        Parameters
        ----------
        process
            The one in which items ran of which nothing else is known.
        unsure
            Items of the present process that may have to run again.
        """
        if self.taken_away:
            return
        unsure = {*self._unsure, *unsure}
        sure = self.items.ended.keys() - unsure
        self.keep_at = time.monotonic() + _UNKEPT_SECONDS if unsure else None
        if self._kept.issuperset(sure):
            return
        self._kept |= sure
        try:
            self.items.write(self._blobs, self._asked.place, process, only=sure)
        except (MlbenchError, OSError) as error:  # the end says it, if it is so then too
            _log.warning("Items of execution %s could not be recorded yet: %s", self._task.execution, error)

    def concludes(self) -> bool:
        """Say whether it is this worker that says how the chunk ended; a store that cannot be written keeps nobody."""
        if self._given_up:
            return False
        with contextlib.suppress(MlbenchError):
            return not visits(self._task) or conclude(self._task)
        return True

    def close(self, process: int | None) -> bytes:
        """Write what became of the items; return it as a `ChunkEnd` in JSON."""
        records: list[bytes] = []
        end: Json = {
            "spread": self._spread if self._asked.spread is None else None,
            "changed": tuple(self._changed),
            "messages": self.messages,
            "peak_memory": self.peak or None,
        }
        if self.refused is not None:
            end["failure"], end["reason"] = self.refused
        try:
            records = self.items.write(self._blobs, self._asked.place, process)
        except (MlbenchError, OSError) as error:
            _log.error("The ends of items of execution %s could not be recorded: %s", self._task.execution, error)
            end["failure"], end["reason"] = _unrecorded(error), "error"
        self._mark.remove()
        ended = self.items.ended if records else {}
        end["executions"] = list(map(msgspec.Raw, records))
        end["left"] = [number for number in self._asked.numbers if number not in ended]
        return msgspec.json.encode(end)


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


def _unrecorded(error: Exception) -> Failure:
    said = getattr(error, "message", None) or str(error)
    return Failure(
        ename="StoreError",
        evalue=f"The ends of items could not be recorded: {said}",
        remedy=getattr(error, "remedy", None) or "See that the store can be written, then run the cell again.",
    )
