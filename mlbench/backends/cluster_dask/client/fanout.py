"""Drive a fan-out from within the service's event loop: its chunks go to the cluster, its end is a record.

What goes next is decided in `mlbench.runs.spread`; here it is sent, waited for and told. A chunk that is lost with its
worker leaves what it had recorded; the rest of it is sent again, or has failed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Final

from mlbench.backends.blobs import open_blobs
from mlbench.backends.cluster_dask.client.chunks import ChunkLost, Chunks, ClusterLost
from mlbench.backends.cluster_dask.ends import find_written, record_end
from mlbench.backends.cluster_dask.itemwords import Mark
from mlbench.core.errors import MlbenchError
from mlbench.core.failed import Failed, lacking, unbound
from mlbench.core.messages import Chunk, ChunkEnd, Spread, StepTask
from mlbench.core.records import Binding, Execution, Failure, Json, Reason
from mlbench.runs.artifacts import save_lists
from mlbench.runs.itemrecords import EndedChunk, FailedItem, ItemRecord, bindings, whole
from mlbench.runs.pace import Pace
from mlbench.runs.picture import picture
from mlbench.runs.randomness import start_of
from mlbench.runs.signing import proven
from mlbench.runs.spread import Outcome, Spreading
from mlbench.runs.transcript import Transcript
from mlbench.runs.wire import msgspec

__all__ = ["FanOutDrive", "Known"]

OnEvent = Callable[[Json], None]

Known = Callable[[Spread], Awaitable[tuple[Sequence[str], dict[int, Execution]]]]
"""Returns the keys of all items, and the executions of those that need not run, having run before: by number."""

_PICTURE_SECONDS: Final = 0.25

_SLOTS_SECONDS: Final = 2.0
"""After so long it is looked again how many chunks the cluster can run."""

_CANCEL_SECONDS: Final = 10.0
"""Seconds in which chunks say that they have ended after a cancel."""

_LOSS_SECONDS: Final = 30.0
"""Chunks that are lost within so long are lost together: what follows is waited for once."""

_LAST_WORDS_SECONDS: Final = 3.0
"""Seconds that a worker which lives, though it is lost, has to end a chunk and say which items have ended."""

_RECORD_SECONDS: Final = 5.0
"""Seconds that a worker which was ending a chunk when it was lost has to write what became of its items."""

_MOST_LABELS: Final = 5_000
"""Labels that travel with each chunk; of more the process makes its own."""

_TELL_SECONDS: Final = 1.0
"""After so long the records of items that have ended are handed over, however few they are."""

_MANY: Final = 5_000
"""Records of items that are handed over at once, whenever the last were: ids are random, so that each transaction of
the catalog writes as many pages of a large index as it has items, however few."""

_log = logging.getLogger(__name__)


class FanOutDrive:
    """One fan-out on its way.

    Parameters
    ----------
    task
        The step's, with its `foreach`.
    on_event
        Takes what a step says (see `OnEvent` of the cluster), and `{"type": "items", "executions": [...], "fanout":
        ...}` when items have ended: their records (`ItemRecord`), and the counts.
    known
        Asked once, when the items are known and before any is run, for their keys and for those that need not run.
    """

    def __init__(self, task: StepTask, chunks: Chunks, on_event: OnEvent, known: Known | None = None) -> None:
        self.chunks = chunks
        self._task = task
        self._on_event = on_event
        self._known = known
        self._blobs = open_blobs(task.store, make=False)
        self._spreading = Spreading(
            execution=task.execution,
            run=task.run,
            step=task.step,
            names=tuple(one.name for one in task.foreach),
            cell=task.base.get("cell"),
            retries=task.retries,
            retry_delay=task.retry_delay,
            max_parallel=task.max_parallel,
            in_turn=chunks.in_turn,
            catch=task.catch,
            apart=_changes_what_all_are_given(task),
            most_items=task.max_items,
        )
        self._transcript = Transcript()
        self._running: dict[asyncio.Task[ChunkEnd | EndedChunk], Chunk] = {}
        self._slots = 1
        self._slots_at = float("-inf")
        self._stirred = asyncio.Event()
        self._paused = False
        self._started: int | None = None
        self._loss_at = float("-inf")
        self._claimed: dict[int, tuple[bool, int | None]] = {}
        self._stop_by: float | None = None
        self._shown = False
        self._changed = False
        self._shown_at = float("-inf")
        self._pace = Pace()
        self._untold: list[ItemRecord] = []
        self._told_at = float("-inf")
        self._news = False

    async def run(self) -> Execution:
        """Run all items and return the step's record, which is in the folder of records by then."""
        try:
            outcome = await self._drive()
        except BaseException:  # nobody would take what its processes still make
            with contextlib.suppress(Exception):
                await self.chunks.cancel("error")
            raise
        finally:
            for running in self._running:
                running.cancel()
        if self._paused:  # workers that come later have nothing to hold
            await self.resume()
        return await self._end(outcome)

    def hear(self, news: Json) -> None:
        """Take news of a chunk."""
        match news["type"]:
            case "items":
                self._spreading.heard(news)
                self._changed = self._news = True
                self._stirred.set()
            case "started":
                if self._started is None:
                    self._started = news["started"]
                    self._on_event(news)
            case _:  # what is shown of it stays by what its chunk says at its end
                self._on_event(news)

    async def stop(self, reason: Reason) -> None:
        """End what runs and begin nothing more; what has ended stays."""
        self._spreading.stop(reason)
        if self._stop_by is None:
            self._stop_by = time.monotonic() + _CANCEL_SECONDS
        await self.chunks.cancel(reason)
        self._stirred.set()

    async def pause(self) -> bool:
        """Stop everything where it is."""
        self._paused = True
        return await self.chunks.pause()

    async def resume(self) -> bool:
        """Let everything go on."""
        self._paused = False
        self._stirred.set()
        return await self.chunks.resume()

    # --- on its way --------------------------------------------------------------------------------------------------

    async def _drive(self) -> Outcome:
        spreading = self._spreading
        while not spreading.over:
            await self._send()
            stirred = asyncio.ensure_future(self._stirred.wait())
            try:
                done, _ = await asyncio.wait(
                    [*self._running, stirred], timeout=self._patience(), return_when=asyncio.FIRST_COMPLETED
                )
            finally:
                stirred.cancel()
            self._stirred.clear()
            ended: list[asyncio.Task[ChunkEnd | EndedChunk]] = [one for one in done if one is not stirred]  # type: ignore[misc]
            if lost := [self._running[one] for one in ended if _is_lost(one)]:
                await asyncio.to_thread(self._claim_back, lost)
            for one in ended:
                await self._take(one)
            if self._stop_by is not None and time.monotonic() > self._stop_by:
                for running in list(self._running):
                    running.cancel()
            self._show()
            self._let_know()
        return spreading.outcome()

    async def _send(self) -> None:
        now = time.monotonic()
        if now - self._slots_at > _SLOTS_SECONDS and self._stop_by is None:
            self._slots = max(1, await self.chunks.slots())
            self._slots_at = now
        while not self._paused and (chunk := self._spreading.next(now, self._slots)) is not None:
            task = replace(self._task, chunk=replace(chunk, spread=_light(chunk.spread)))
            running = asyncio.create_task(self.chunks.run(task), name=f"mlbench-chunk-{chunk.place}")
            self._running[running] = chunk

    async def _take(self, ended: asyncio.Task[ChunkEnd | EndedChunk]) -> None:
        chunk = self._running.pop(ended)
        if _is_lost(ended):
            await self._take_loss(chunk)
            if not ended.cancelled() and isinstance(lost := ended.exception(), ClusterLost):
                remedy = "See to the cluster, then run the cell again with --cache: what has ended is not run again."
                failure = Failure(ename="ClusterLost", evalue=str(lost), remedy=remedy)
                self._spreading.fail(failure, "worker-lost")
            return
        try:
            end = ended.result()
            if end.spread is not None and self._spreading.spread is None:
                await self._spread(end.spread)
        except MlbenchError as error:
            self._spreading.fail(Failure(ename=type(error).__name__, evalue=error.message, remedy=error.remedy))
            end = ChunkEnd()
        except Exception as error:  # noqa: BLE001  whatever went wrong there is the step's end
            _log.exception("A chunk of step %s could not be run", self._task.step)
            sentence = f"The items could not be run: {type(error).__name__}: {error}"
            self._spreading.fail(Failure(ename=type(error).__name__, evalue=sentence, remedy="Run the cell again."))
            end = ChunkEnd()
        for message in end.messages:
            self._transcript.add(message)
        self._tell(self._spreading.ended(chunk.place, end, time.monotonic()))

    async def _spread(self, spread: Spread) -> None:
        """Take the items, and leave out those that need not run."""
        keys, known = await self._known(spread) if self._known is not None else ((), {})
        reused = self._spreading.found(spread, known, keys)
        if reused:
            await asyncio.to_thread(self._record, "reused", reused)
        self._tell(reused)

    async def _take_loss(self, chunk: Chunk) -> None:
        _log.warning("Execution %s lost the worker of its chunk %s", self._task.execution, chunk.place)
        known, begun = self._claimed.pop(chunk.place)
        recorded = await asyncio.to_thread(self._last_words, chunk) if known else []
        lost = self._spreading.lost(chunk.place, recorded, time.monotonic(), time.time_ns(), begun=begun)
        own = [whole(record) for record in lost if record.reason == "worker-lost"]
        try:  # also where none was under way: a worker that was only slow sees by this that it has been given up
            await asyncio.to_thread(self._record, f"lost-{chunk.place}", own)
        except (MlbenchError, OSError) as error:
            _log.exception("The items of step %s that were lost could not be recorded", self._task.step)
            self._spreading.fail(_not_stored("items", error))
        self._tell(lost)

    def _tell(self, records: Sequence[ItemRecord]) -> None:
        self._changed = self._news = True
        self._untold += records
        self._let_know()

    def _let_know(self, *, last: bool = False) -> None:
        """Hand over the records of items that have ended, many at once, and how far all are."""
        now = time.monotonic()
        if not self._news or not (last or len(self._untold) >= _MANY or now - self._told_at > _TELL_SECONDS):
            return
        records, self._untold = self._untold, []
        self._news, self._told_at = False, now
        self._on_event({"type": "items", "executions": records, "fanout": self._spreading.fanout})

    def _patience(self) -> float | None:
        now = time.monotonic()
        due = self._spreading.wait(now) if not self._paused else None
        times = [due] if due is not None else []
        if self._changed:
            times.append(self._shown_at + _PICTURE_SECONDS - now)
        if self._news:
            times.append(self._told_at + _TELL_SECONDS - now)
        if self._stop_by is not None:
            times.append(self._stop_by - now + 0.01)
        elif self._running or self._paused:
            times.append(_SLOTS_SECONDS)
        return max(0.0, min(times)) if times else None

    # --- what is shown -----------------------------------------------------------------------------------------------

    def _say(self, messages: Iterable[Json]) -> None:
        said = [one for message in messages for one in self._transcript.add(message)]
        if said:
            self._on_event({"type": "messages", "messages": said})

    def _show(self, *, last: bool = False) -> None:
        """Show how far it is, some times a second."""
        spreading, now = self._spreading, time.monotonic()
        if not last and (not self._changed or now - self._shown_at < _PICTURE_SECONDS):
            return
        if spreading.spread is None and last:
            return  # there is nothing to show: its failure is
        self._changed, self._shown_at = False, now
        fanout = spreading.fanout
        self._say(
            [
                picture(
                    execution=self._task.execution,
                    step=self._task.step,
                    fanout=fanout,
                    grid=spreading.grid,
                    spread=spreading.spread,
                    slowest=spreading.label_text(fanout.slowest) if fanout.slowest is not None else "",
                    failed=spreading.kept_failures(),
                    rate=None if last else self._pace.rate(now, spreading.done),
                    again=self._shown,
                )
            ]
        )
        self._shown = True

    # --- records -----------------------------------------------------------------------------------------------------

    def _record(self, name: str, records: Sequence[Execution]) -> None:
        """Write records that no worker has written."""
        identifier = f"{self._task.execution}-{name}"
        executions = {"executions": [msgspec.to_builtins(record) for record in records]}
        self._blobs.append("executions", identifier, proven(self._task.signer, "executions", identifier, executions))

    def _claim_back(self, chunks: Sequence[Chunk]) -> None:
        """Let workers that are lost, and may well live, begin nothing more of their chunks.

        `_claimed` has, by place, whether one may have begun a chunk, and the item that was begun last, if known.
        """
        from mlbench.backends.cluster_dask.worker import visiting

        for chunk in chunks:
            task = replace(self._task, chunk=chunk)
            known, begun = True, Mark(task).take()
            if visiting.visits(task):
                with contextlib.suppress(MlbenchError):
                    known = not visiting.claim(task)
            self._claimed[chunk.place] = known, begun

    def _last_words(self, chunk: Chunk) -> list[Execution]:
        """Return what a worker that is lost has recorded of a chunk, and let it record nothing later."""
        from mlbench.backends.cluster_dask.worker import visiting

        task = replace(self._task, chunk=chunk)
        if visiting.visits(task):
            now = time.monotonic()
            if now > self._loss_at + _LOSS_SECONDS:
                self._loss_at = now
            until = self._loss_at + _LAST_WORDS_SECONDS
            while not (ended := self._has_ended(chunk)) and time.monotonic() < until:
                time.sleep(0.1)
            if not ended and not self._concludes(task):  # it is about to write
                until = time.monotonic() + _RECORD_SECONDS
                while not self._has_ended(chunk) and time.monotonic() < until:
                    time.sleep(0.1)
        return self._recorded(chunk)

    @staticmethod
    def _concludes(task: StepTask) -> bool:
        from mlbench.backends.cluster_dask.worker import visiting

        with contextlib.suppress(MlbenchError):
            return visiting.conclude(task)
        return True

    def _recorded(self, chunk: Chunk) -> list[Execution]:
        """Return what a worker has recorded of a chunk, perhaps ahead of its end: it has the secret of the task.

        The list of the results is signed, and so vouches for whatever was put in here.
        """
        try:
            return msgspec.convert(self._find(chunk).get("executions", []), list[Execution])
        except msgspec.ValidationError:
            _log.exception("The records of %s can't be read", self._task.store)
            return []

    def _has_ended(self, chunk: Chunk) -> bool:
        """Say whether a worker has recorded how a chunk ended."""
        found = self._find(chunk)
        return bool(found) and not found.get("early")

    def _find(self, chunk: Chunk) -> Json:
        try:
            name = f"{self._task.execution}-{chunk.place}"
            return find_written(self._blobs, self._task, "executions", name) or {}
        except MlbenchError:
            _log.exception("The records of %s can't be read", self._task.store)
            return {}

    async def _end(self, outcome: Outcome) -> Execution:
        binds: tuple[Binding, ...] = ()
        if outcome.state == "succeeded":
            try:
                binds = await asyncio.to_thread(self._lists)
            except (MlbenchError, OSError) as error:
                _log.exception("The results of step %s could not be stored", self._task.step)
                outcome = Outcome(state="failed", reason="error", failure=_not_stored("results", error))
        self._show(last=True)
        self._let_know(last=True)
        if outcome.failure is not None:
            self._say([_as_output(outcome.failure)])
        self._say(self._transcript.last_words())
        from mlbench.backends.cluster_dask.worker.supervisor import ended_record

        spreading = self._spreading
        draws = tuple(sorted(spreading.draws))
        states = self._task.random if self._task.seeded else None
        record = ended_record(
            self._task,
            state=outcome.state,
            reason=outcome.reason,
            failure=outcome.failure,
            started=self._started,
            fanout=spreading.fanout,
            binds=binds,
            messages=tuple(self._transcript.outputs()),
            files=tuple(spreading.files.values()),
            network=spreading.network,
            draws=draws,
            random=spreading.spread.after if draws and spreading.spread and outcome.state == "succeeded" else None,
            random_start=start_of(states, draws) if draws and states else None,
            cpu=round(spreading.cpu, 6) if spreading.cpu is not None else None,
            peak_memory=spreading.peak_memory,
        )
        if outcome.note is not None:
            record = replace(record, note=outcome.note)
        try:
            await asyncio.to_thread(record_end, self._blobs, self._task, record)
        except (MlbenchError, OSError) as error:
            _log.exception("The end of execution %s could not be recorded", record.id)
            failure = _not_stored("end", error)
            record = replace(record, state="failed", reason="error", binds=(), failure=failure)
        return record

    def _lists(self) -> tuple[Binding, ...]:
        """Store a list for each name, and return what the step binds."""
        made, failed = list(map(bindings, self._spreading.made)), self._spreading.failed
        bound = dict.fromkeys(self._task.defs)
        bound.update(dict.fromkeys(binding.name for binds in made for binding in binds))
        stand_ins = {number: _stand_in(number, record) for number, record in failed.items()}
        places: dict[str, list[Binding | Failed]] = {name: [] for name in bound}
        for number, binds in enumerate(made):
            stand_in = stand_ins.get(number)
            own = {binding.name: binding for binding in binds}
            for name, items in places.items():
                # What stands in for an item is false itself.
                binding = own.get(name) or unbound(name)
                if stand_in is None and self._task.catch and binding.problem is not None:
                    items.append(lacking(number, self._spreading.label(number), binding))
                else:
                    items.append(binding if stand_in is None else stand_in)
        return tuple(save_lists(places, self._blobs, signer=self._task.signer))


def _is_lost(ended: asyncio.Task[Any]) -> bool:
    return ended.cancelled() or isinstance(ended.exception(), ChunkLost)


def _changes_what_all_are_given(task: StepTask) -> bool:
    """Say whether the cell changes in place what every item is given, as its source shows."""
    given = {read["name"] for read in task.base.get("reads", ())} | set(task.inputs)
    if len(task.foreach) > 1:  # a value of one name meets each of the other's
        given |= {one.name for one in task.foreach}
    return bool(given & set(task.changes))


def _light(spread: Spread | None) -> Spread | None:
    """Return what a process has to know of the items, without what grows with their number."""
    if spread is None:
        return None
    labels = spread.labels if sum(spread.shape) <= _MOST_LABELS else ()
    return replace(spread, labels=labels, digests=())


def _stand_in(number: int, record: FailedItem) -> Failed:
    failure = record.failure
    return Failed(
        item=number,
        label=record.label,
        ename=failure.ename if failure is not None else "",
        evalue=failure.evalue if failure is not None else "",
        reason=record.reason,
    )


def _not_stored(what: str, error: Exception) -> Failure:
    said = getattr(error, "message", None) or str(error)
    remedy = getattr(error, "remedy", None) or "See that the store can be written, then run the cell again."
    return Failure(ename="StoreError", evalue=f"The step's {what} could not be stored: {said}", remedy=remedy)


def _as_output(failure: Failure) -> Json:
    own = f"\x1b[31m{failure.ename}\x1b[39m: {failure.evalue}"
    return {
        "output_type": "error",
        "ename": failure.ename,
        "evalue": failure.evalue,
        "traceback": [*failure.traceback, own],
    }
