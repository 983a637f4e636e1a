"""What goes next of a fan-out, and what becomes of it: which items wait, are under way, have ended.

A fan-out's items go to processes in chunks, each sized so that it is about a second of work by what items have cost
so far. Nothing here runs anything: `Spreading` is asked for the next chunk, and told how chunks ended, what is heard
of items meanwhile, and when somebody has had enough. Each of these costs the same however many items there are.

An item that failed and has attempts left waits for its delay and goes into a later chunk. An item is never in two
chunks at once, and one that has ended is never sent again.
"""

from __future__ import annotations

import bisect
import heapq
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from mlbench.core.ids import ExecutionId, RunId, new_id
from mlbench.core.messages import MAX_ITEMS, Chunk, ChunkEnd, Spread
from mlbench.core.records import Attempt, Execution, Failure, FanOut, FileUse, Json, Reason, State
from mlbench.runs.itemrecords import Bound, EndedChunk, FailedItem, ItemRecord, bound, label_of, whole
from mlbench.runs.picture import Grid

__all__ = ["LETTERS", "Outcome", "Spreading"]

AIM: Final = 1.0
"""Seconds of work that a chunk should be."""

LEAST: Final = 0.2
"""Seconds of work below which a chunk is not made smaller to share the rest out: one costs some 15 ms, with a fork."""

LIMIT: Final = 2.0
"""Seconds after which a chunk begins no further item, whatever its items were thought to cost."""

PROBE: Final = 0.2
"""The same for the first chunks, which are to find out what items cost."""

REST: Final = 0.4
"""Seconds of work that is left of one of the first chunks which it does rather than send back: a further process for
it costs a tenth of that."""

SHORT: Final = 0.2
"""Seconds up to which an item does not hold up for long a chunk that is ready and waits for its turn."""

MOST_IN_CHUNK: Final = 5_000

OVERHEAD: Final = 5e-5
"""Seconds that an item costs around its own code."""

MOST_LOSSES: Final = 4
"""So many workers, lost one after the other without any item having begun, end the fan-out."""

MOST_FILES: Final = 5_000
"""Files that the step's record says its items opened, as many as a step's own; each item's record has its own."""

KEPT_FAILURES: Final = 20
"""How many failed items a picture names."""

_RETRIED: Final = frozenset({"error", "timeout", "memory", "worker-lost"})

LETTERS: Final[dict[str, str]] = {
    "queued": "q",
    "running": "r",
    "succeeded": "s",
    "reused": "u",
    "failed": "f",
    "cancelled": "c",
    "skipped": "c",
}
"""The letter of each state in `Spreading.states` and in a picture."""

_CODE: Final = {state: ord(letter) for state, letter in LETTERS.items()}
_QUEUED: Final = _CODE["queued"]
_RUNNING: Final = _CODE["running"]
_OVER: Final = frozenset(_CODE[state] for state in ("succeeded", "reused", "failed", "cancelled"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a fan-out has come to, as the record of its step says it."""

    state: State
    reason: Reason | None = None
    failure: Failure | None = None
    note: str | None = None


class Spreading:
    """One fan-out, from its first chunk to its end.

    Parameters
    ----------
    execution, run, step, cell
        Those of the step.
    names
        The names of its `--foreach`, the outermost first.
    retries, retry_delay
        How often an item that failed is tried again, and after how many seconds.
    max_parallel
        How many items may run at once; None: as many as there are slots.
    in_turn
        Whether the cluster sees to it that no more chunks than `max_parallel` have items under way at once: one more
        may then be made ready meanwhile.
    catch
        Whether the step succeeds although items failed.
    apart
        Whether each item gets a process of its own, since it changes what all are given.
    make_id
        Returns the id of an item's execution.

    Attributes
    ----------
    states
        A letter for each item (see `LETTERS`).
    made
        What each item that succeeded bound.
    failed
        Why each item that failed did.
    """

    def __init__(
        self,
        *,
        execution: ExecutionId,
        run: RunId,
        step: str,
        names: tuple[str, ...],
        cell: str | None = None,
        retries: int = 0,
        retry_delay: float = 0.0,
        max_parallel: int | None = None,
        in_turn: bool = False,
        catch: bool = False,
        apart: bool = False,
        most_items: int = MAX_ITEMS,
        make_id: Callable[[], str] = new_id,
    ) -> None:
        self.execution, self.run, self.step, self.cell, self.names = execution, run, step, cell, names
        self.apart = apart
        self.changed: tuple[str, ...] = ()
        self.spread: Spread | None = None
        self.total = 0
        self.states = bytearray()
        self.grid = Grid(())
        self.made: list[Bound] = []
        self.failed: dict[int, FailedItem] = {}
        self._named: list[int] = []
        self.cpu: float | None = None
        self.peak_memory: int | None = None
        self.metric: str | None = None
        self.network = False
        self.draws: set[str] = set()
        self.files: dict[tuple[str, str], FileUse] = {}
        self._retries, self._retry_delay = retries, retry_delay
        self._max_parallel = max_parallel
        self._in_turn = in_turn and max_parallel is not None
        self._catch = catch
        self._most_items = most_items
        self._make_id = make_id
        self._sent: dict[int, Chunk] = {}
        self._sent_so_far = 0
        self._next = 0
        self._back: deque[int] = deque()
        self._later: list[tuple[float, int]] = []
        self._asked_at = float("-inf")
        self._unsent = 0
        self._ids: dict[int, ExecutionId] = {}
        self._attempts: dict[int, tuple[Attempt, ...]] = {}
        self._begun: dict[int, int] = {}
        self._counts: Counter[int] = Counter()
        self._seconds = 0.0
        self._slowest: tuple[int, float] | None = None
        self._work, self._worked = 0.0, 0.0
        self._losses = self._sent_by_last_loss = 0
        self._stopped: Reason | None = None
        self._cancelled_for: Reason | None = None
        self._failure: tuple[Failure, Reason | None] | None = None
        self._keys: Sequence[str] = ()

    # --- what there is -----------------------------------------------------------------------------------------------

    @property
    def over(self) -> bool:
        """Whether nothing is under way and nothing more will be."""
        if self._sent:
            return False
        ended = self._stopped is not None or self._failure is not None
        return ended or (self.spread is not None and not self._unsent)

    @property
    def done(self) -> int:
        """How many items have ended."""
        return self.total - self._counts[_QUEUED] - self._counts[_RUNNING]

    @property
    def fanout(self) -> FanOut:
        """The counts, as the step's record has them."""
        count = self._counts
        slowest = self._slowest
        return FanOut(
            names=self.names,
            shape=self.spread.shape if self.spread is not None else (),
            total=self.total if self.spread is not None else None,
            running=count[_RUNNING],
            succeeded=count[_CODE["succeeded"]],
            reused=count[_CODE["reused"]],
            failed=count[_CODE["failed"]],
            cancelled=count[_CODE["cancelled"]],
            seconds=round(self._seconds, 6),
            slowest=slowest[0] if slowest is not None else None,
            slowest_seconds=round(slowest[1], 6) if slowest is not None else None,
            metric=self.metric,
        )

    @property
    def cost(self) -> float | None:
        """Seconds that one item takes by what is known so far."""
        return self._work / self._worked + OVERHEAD if self._worked else None

    def label(self, number: int) -> dict[str, str]:
        """Return an item's values, each as a short text."""
        return label_of(self.names, self.spread, number)

    def kept_failures(self) -> list[tuple[int, str, str]]:
        """Return the first failed items, each with its label and its error, for the picture."""
        return [(number, self.label_text(number), _error(self.failed[number].failure)) for number in self._named]

    def label_text(self, number: int) -> str:
        """Return an item's values as one text."""
        return ", ".join(self.label(number).values())

    # --- what goes next ----------------------------------------------------------------------------------------------

    def next(self, now: float, slots: int) -> Chunk | None:
        """Return the next chunk, or None if there is none for the time being.

        Parameters
        ----------
        now
            Seconds of a clock that only goes forward.
        slots
            How many chunks the cluster can run at once.
        """
        self._asked_at = now
        if self._stopped is not None or self._failure is not None:
            return None
        if self.spread is None:
            if self._sent:
                return None
            return self._send(Chunk(seconds=0.0, most_items=self._most_items, apart=self.apart))
        if not self._unsent:
            return None
        parallel = max(1, min(slots, self._max_parallel or slots))
        cost = self.cost
        window = parallel
        if cost is not None and (self._max_parallel is None or (self._in_turn and cost <= SHORT and not self.apart)):
            window += (parallel + 1) // 2
        if len(self._sent) >= window:
            return None
        if cost is None:
            size, seconds, rest = -(-self._unsent // parallel), PROBE, REST
        else:
            share = max(-(-self._unsent // (2 * parallel)), int(LEAST / cost))
            size, seconds, rest = min(int(AIM / cost), share), LIMIT, 0.0
        numbers = self._take(max(1, min(size, MOST_IN_CHUNK)), now)
        if not numbers:
            return None
        for number in numbers:
            if number not in self._ids:
                self._ids[number] = ExecutionId(self._make_id())
        return self._send(
            Chunk(
                numbers=tuple(numbers),
                executions=tuple(self._ids[number] for number in numbers),
                attempts=tuple(1 + len(self._attempts.get(number, ())) for number in numbers),
                keys=tuple(self._keys[number] for number in numbers) if self._keys else (),
                spread=self.spread,
                seconds=seconds,
                rest=rest,
                most_items=self._most_items,
                apart=self.apart,
                at_once=self._max_parallel if self._in_turn else None,
            )
        )

    def wait(self, now: float) -> float | None:
        """Return the seconds until an item that failed is due again, if that is what comes next.

        One that was due when `next` was asked last, and was not sent, waits for room, which no clock makes.
        """
        if self._stopped is not None or self._failure is not None or not self._later:
            return None
        due = self._later[0][0]
        return max(0.0, due - now) if due > self._asked_at else None

    def _send(self, chunk: Chunk) -> Chunk:
        chunk = replace(chunk, place=self._sent_so_far)
        self._sent_so_far += 1
        self._sent[chunk.place] = chunk
        self._unsent -= len(chunk.numbers)
        return chunk

    def _take(self, size: int, now: float) -> list[int]:
        taken: list[int] = []
        while len(taken) < size and self._back:
            taken.append(self._back.popleft())
        while len(taken) < size and self._later and self._later[0][0] <= now:
            taken.append(heapq.heappop(self._later)[1])
        while len(taken) < size and self._next < self.total:
            if self.states[self._next] == _QUEUED:
                taken.append(self._next)
            self._next += 1
        return taken

    # --- what is told ------------------------------------------------------------------------------------------------

    def found(
        self, spread: Spread, known: Mapping[int, Execution] | None = None, keys: Sequence[str] = ()
    ) -> list[Execution]:
        """Take the items, with their keys; return the records of those that are reused: `known`, by their number."""
        total = 1
        for size in spread.shape:
            total *= size
        self.spread, self.total, self._keys = spread, total, keys
        self.states = bytearray(b"q") * total
        self.grid = Grid(spread.shape)
        self.made = [()] * total
        self._counts[_QUEUED] = total
        self._unsent = total
        reused = []
        for number, record in (known or {}).items():
            own = replace(
                record,
                id=ExecutionId(self._make_id()),
                run=self.run,
                step=self.step,
                cell=self.cell,
                part_of=self.execution,
                item=number,
                label=self.label(number),
                state="reused",
                reused_from=record.reused_from or record.id,
                key=keys[number] if keys else record.key,
                attempt=1,
                attempts=(),
                note=None,
            )
            self._unsent -= 1
            self._set(number, _CODE["reused"])
            self.made[number] = own.binds
            self._note_metric(own)
            reused.append(own)
        return reused

    def heard(self, news: Json) -> None:
        """Take what is heard of items while their chunk runs: `begun` and `ended`, as the worker sends them."""
        for number, at in news.get("begun", ()):
            if number < self.total and self.states[number] == _QUEUED:
                self._begun[number] = at
                self._set(number, _RUNNING)
        for number, state, *rest in news.get("ended", ()):
            if number < self.total and self.states[number] not in _OVER:
                if state == "failed" and len(self._attempts.get(number, ())) < self._retries:
                    continue
                self._begun.setdefault(number, 0)
                self._set(number, _CODE[state])
                if len(rest) > 1 and rest[1] is not None:
                    self.grid.set_value(number, rest[1])

    def ended(self, place: int, end: ChunkEnd | EndedChunk, now: float) -> list[ItemRecord]:
        """Take the end of a chunk; return the records of the items that have ended with it."""
        chunk = self._sent.pop(place, None)
        if chunk is None:
            return []
        if end.changed:
            self.apart = True
            self.changed = tuple(sorted({*self.changed, *end.changed}))
        if end.executions:
            self._losses = 0
        self._note_memory(end.peak_memory)
        records = self._take_in(end.executions, now)
        here = {record.item for record in end.executions}
        if end.failure is not None:
            self._failure = self._failure or (end.failure, end.reason)
        self._take_back(number for number in chunk.numbers if number not in here)
        return records

    def lost(
        self, place: int, recorded: Iterable[ItemRecord], now: float, at: int, *, begun: int | None = None
    ) -> list[ItemRecord]:
        """Take the loss of the worker that had a chunk; return the records of the items that have ended with it.

        Parameters
        ----------
        recorded
            What the worker had recorded of items before it was lost.
        at
            UTC nanoseconds.
        begun
            The item that was begun last, if anybody knows; all before it in the chunk were, too.
        """
        chunk = self._sent.pop(place, None)
        if chunk is None:
            return []
        recorded = tuple(recorded)
        here = {record.item for record in recorded}
        missing = [number for number in chunk.numbers if number not in here]
        sure = set(chunk.numbers[: chunk.numbers.index(begun) + 1]) if begun in chunk.numbers else set()
        touched = [number for number in missing if number in sure or self.states[number] != _QUEUED]
        if recorded or touched:
            self._losses = 0
        elif place >= self._sent_by_last_loss:  # one worker that is lost takes several chunks with it
            self._losses += 1
            self._sent_by_last_loss = self._sent_so_far
        failure = Failure(
            ename="WorkerLost",
            evalue=f"The worker that ran this item of step {self.step} is gone.",
            remedy="Run the cell again with --cache: the items that have ended are not run again.",
        )
        ends = [self._lost_item(chunk, number, failure, at) for number in touched]
        if self._losses >= MOST_LOSSES or (self.spread is None and self._losses > 1):
            whole = replace(failure, evalue=f"The workers that ran step {self.step} are gone, one after the other.")
            self._failure = self._failure or (whole, "worker-lost")
        records = self._take_in((*recorded, *ends), now)
        self._take_back(number for number in missing if number not in set(touched))
        return records

    def stop(self, reason: Reason) -> None:
        """Send nothing more."""
        self._stopped = self._stopped or reason

    def fail(self, failure: Failure, reason: Reason = "error") -> None:
        """Send nothing more, and fail."""
        self._failure = self._failure or (failure, reason)

    def outcome(self) -> Outcome:
        """Say what the step has come to; what has not been begun by now will not be."""
        for number in range(self.total) if self._counts[_QUEUED] + self._counts[_RUNNING] else ():
            if self.states[number] not in _OVER:
                self._set(number, _CODE["cancelled"])
        note = None
        if self.changed:
            note = f"Its items change {_listed(self.changed)} in place, so that each was given a copy of its own."
        if self._stopped is not None:
            state: State = "failed" if self._stopped == "service-lost" else "cancelled"
            return Outcome(state=state, reason=self._stopped, note=note)
        if self._failure is not None:
            failure, reason = self._failure
            return Outcome(state="failed", reason=reason or "error", failure=failure, note=note)
        if self.failed and not self._catch:
            reasons = {record.reason for record in self.failed.values()}
            return Outcome(
                state="failed",
                reason=reasons.pop() if len(reasons) == 1 else "error",
                failure=self._failed_items(),
                note=note,
            )
        if self._counts[_CODE["cancelled"]]:
            return Outcome(
                state="failed", reason=self._cancelled_for or "error", failure=self._cancelled_items(), note=note
            )
        return Outcome(state="succeeded", note=note)

    # --- one item ----------------------------------------------------------------------------------------------------

    def _take_in(self, executions: Iterable[ItemRecord], now: float) -> list[ItemRecord]:
        records: list[ItemRecord] = []
        for record in executions:
            number = record.item
            if number is None or number >= self.total:
                continue
            if not record.label:  # too many to travel with each chunk
                record = replace(whole(record), label=self.label(number))  # noqa: PLW2901
            if earlier := self._attempts.get(number):
                record = replace(whole(record), attempts=earlier)  # noqa: PLW2901
            self._note_memory(record.peak_memory)
            if record.cpu is not None:
                self.cpu = (self.cpu or 0.0) + record.cpu
            took = (record.ended - record.started) / 1e9 if record.ended and record.started else 0.0
            self._work += took
            self._worked += 1
            if (
                record.state == "failed"
                and record.reason in _RETRIED
                and len(record.attempts) < self._retries
                and self._stopped is None
                and self._failure is None
            ):
                self._try_again(number, record, now)
                continue
            self._end(number, record, took)
            records.append(record)
        if records:  # what was measured long ago counts ever less
            self._work, self._worked = self._work / 2, self._worked / 2
        return records

    def _try_again(self, number: int, record: ItemRecord, now: float) -> None:
        attempt = Attempt(
            number=record.attempt,
            state=record.state,
            reason=record.reason,
            started=record.started,
            ended=record.ended,
            worker=record.worker,
            failure=record.failure,
        )
        self._attempts[number] = (*record.attempts, attempt)
        self._begun.pop(number, None)
        self._set(number, _QUEUED)
        self._unsent += 1
        heapq.heappush(self._later, (now + self._retry_delay, number))

    def _end(self, number: int, record: ItemRecord, took: float) -> None:
        self._set(number, _CODE[record.state])
        self._ids.pop(number, None)
        self._attempts.pop(number, None)
        self._begun.pop(number, None)
        self._seconds += took
        if self._slowest is None or took > self._slowest[1]:
            self._slowest = (number, took)
        self._note_metric(record)
        self.network = self.network or record.network
        self.draws.update(record.draws)
        for file in record.files:
            if len(self.files) < MOST_FILES:
                self.files.setdefault((file.path, file.mode), file)
        if record.state == "failed":
            self._keep_failure(number, record)
        elif record.state == "cancelled":
            self._cancelled_for = self._cancelled_for or record.reason
        else:
            self.made[number] = bound(record)

    def _keep_failure(self, number: int, record: ItemRecord) -> None:
        """Keep why an item failed; the traceback only of those that a picture names."""
        named = len(self._named) < KEPT_FAILURES or number < self._named[-1]
        failure = record.failure
        if named:
            bisect.insort(self._named, number)
            del self._named[KEPT_FAILURES:]
        elif failure is not None:
            failure = replace(failure, traceback=())
        self.failed[number] = FailedItem(label=record.label, reason=record.reason, failure=failure)

    def _set(self, number: int, code: int) -> None:
        before = self.states[number]
        if before != code:
            self.states[number] = code
            self._counts[before] -= 1
            self._counts[code] += 1
            self.grid.move(number, before, code)

    def _take_back(self, numbers: Iterable[int]) -> None:
        """Let items that were sent and not begun wait again, before all others."""
        back = list(numbers)
        for number in back:
            self._begun.pop(number, None)
            self._set(number, _QUEUED)
        self._back.extendleft(reversed(back))
        self._unsent += len(back)

    def _lost_item(self, chunk: Chunk, number: int, failure: Failure, at: int) -> Execution:
        place = chunk.numbers.index(number)
        return Execution(
            id=chunk.executions[place],
            run=self.run,
            step=self.step,
            cell=self.cell,
            state="failed",
            reason="worker-lost",
            part_of=self.execution,
            item=number,
            label=self.label(number),
            attempt=chunk.attempts[place],
            key=chunk.keys[place] if chunk.keys else None,
            started=self._begun.get(number) or None,
            ended=at,
            failure=failure,
        )

    def _note_memory(self, peak: int | None) -> None:
        if peak is not None:
            self.peak_memory = max(peak, self.peak_memory or 0)

    def _note_metric(self, record: ItemRecord) -> None:
        if not record.metrics:
            return
        if self.metric is None:
            self.metric = record.metrics[0].name
        for one in reversed(record.metrics):
            if one.name == self.metric:
                assert record.item is not None
                self.grid.set_value(record.item, one.value)
                return

    def _failed_items(self) -> Failure:
        """Say how many items failed, which was the first, and how to run only these again."""
        number = min(self.failed)
        first = self.failed[number].failure
        count = len(self.failed)
        label = ", ".join(f"{name}={text}" for name, text in self.label(number).items())
        which = f"item {number}" + (f" ({label})" if label else "")
        how = f"{count:,} of {self.total:,} items failed" + (", the first is" if count > 1 else ":")
        sentence = f"{how} {which}: {_error(first)}"
        return Failure(
            ename="ItemsFailed" if count > 1 else "ItemFailed",
            evalue=sentence if sentence.endswith((".", "!", "?")) else f"{sentence}.",
            traceback=first.traceback if first is not None else (),
            line=first.line if first is not None else None,
            remedy="Put it right and run the cell with --cache: only what failed or changed is run again. "
            "With --catch the step succeeds without them.",
        )

    def _cancelled_items(self) -> Failure:
        """Say that items are missing of a fan-out that nobody has stopped: their worker has given them up."""
        count = self._counts[_CODE["cancelled"]]
        return Failure(
            ename="ItemsCancelled" if count > 1 else "ItemCancelled",
            evalue=f"{count:,} of {self.total:,} items {'were' if count > 1 else 'was'} cancelled where they ran, "
            f"though nobody had stopped step {self.step}.",
            remedy="Run the cell again with --cache: the items that have ended are not run again.",
        )


def _error(failure: Failure | None) -> str:
    return f"{failure.ename}: {failure.evalue}".strip() if failure is not None else "it says nothing"


def _listed(names: Iterable[str]) -> str:
    return " and ".join(names)
