"""Single steps on their way: each is looked for or run, and what it says meanwhile is kept and passed on."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from mlbench.core.ids import ExecutionId
from mlbench.core.messages import RandomState, Spread, StepTask
from mlbench.core.records import Execution, Failure, FanOut, Json, Reason, with_artifacts
from mlbench.entrypoints.service.ledger import Ledger
from mlbench.entrypoints.service.reuse import Reuse
from mlbench.entrypoints.service.sessions import describe_item, metrics_of
from mlbench.entrypoints.service.telling import Teller
from mlbench.project import signing
from mlbench.runs import plan as plans
from mlbench.runs.context import bindings_of
from mlbench.runs.itemrecords import EndedItem, ItemRecord
from mlbench.runs.plan import Plan
from mlbench.runs.plan.state import Node
from mlbench.runs.transcript import Transcript

if TYPE_CHECKING:
    from mlbench.project import Project

__all__ = ["Executor", "Steps"]

logger = logging.getLogger(__name__)

FAILED_TOLD: Final = 20
"""Items that have failed which one piece of news names."""

Known = Callable[[Spread], Awaitable[tuple[Sequence[str], dict[int, Execution]]]]
"""Returns the keys of a fan-out's items, and the executions of those that have run before and need not: by number."""


class Executor(Protocol):
    """Runs steps: `mlbench.backends.cluster_dask.client.cluster.DaskCluster`, or one in memory for tests."""

    async def submit(
        self, task: StepTask, on_event: Callable[[Json], None], known: Known | None = None
    ) -> Execution: ...
    async def cancel(self, execution: ExecutionId, reason: Reason) -> bool: ...
    async def pause(self, execution: ExecutionId) -> bool: ...
    async def resume(self, execution: ExecutionId) -> bool: ...


class Steps:
    """Does for single steps what a store's plan says.

    Parameters
    ----------
    tell
        Takes the events by which the plan goes on.
    """

    def __init__(
        self,
        project: Project,
        executor: Executor,
        plan: Plan,
        ledger: Ledger,
        teller: Teller,
        tell: Callable[[plans.Event], object],
    ) -> None:
        self._project = project
        self._executor = executor
        self._plan = plan
        self._ledger = ledger
        self._teller = teller
        self._tell = tell
        self._reuse = Reuse(project, ledger)
        self._transcripts: dict[ExecutionId, Transcript] = {}

    async def run(self, start: plans.Start) -> None:
        """Run a step, or refuse to, and tell how it ended."""
        task = start.task
        self._transcripts[task.execution] = Transcript()
        own = False
        try:
            if start.random_of is not None:
                states = await self.end_states(self._plan.nodes[start.random_of].record)
                task = replace(task, random=_followed(task.random, states))
            node = self._plan.nodes[task.execution]
            task = replace(task, signer=await asyncio.to_thread(signing.signer, task.execution))
            if (refused := self._reuse.refused(task, node.record)) is not None:
                record, own = refused, True
            elif node.cancelled is None:
                known = partial(self._known_items, start, task.random) if task.foreach else None
                record = await self._executor.submit(task, partial(self._take_news, task.execution), known)
            else:
                record, own = replace(node.record, state="cancelled", reason="user", ended=time.time_ns()), True
        except Exception as error:
            logger.exception("Step %s could not be run", task.step)
            sentence = f"The step could not be run: {type(error).__name__}: {error}"
            failure = Failure(ename=type(error).__name__, evalue=sentence, remedy="Run the cell again.")
            record = self._plan.nodes[task.execution].record
            record = replace(record, state="failed", reason="worker-lost", failure=failure, ended=time.time_ns())
            own = True
        self._tell(plans.Ended(at=time.time_ns(), record=record, own=own))

    async def look(self, look: plans.Look) -> None:
        """Answer whether a step can be reused; where that cannot be told, it runs."""
        found: tuple[Execution, str] | None = None
        try:
            found = await self._reuse.find(look, await self._start_states(look))
        except Exception:
            logger.exception("Step %s could not be looked for", look.record.step)
        record, said = found if found is not None else (None, "")
        answer = plans.Found(at=time.time_ns(), execution=look.execution, look=look.look, record=record, said=said)
        self._tell(answer)

    async def _start_states(self, look: plans.Look) -> RandomState | None:
        if look.random_of is None:
            return look.random
        return _followed(look.random, await self.end_states(self._plan.nodes[look.random_of].record))

    async def _known_items(
        self, start: plans.Start, states: RandomState | None, spread: Spread
    ) -> tuple[Sequence[str], dict[int, Execution]]:
        """Return the keys of a fan-out's items, under which they are found again, and those that need not run."""
        states = states if start.task.seeded else None
        try:
            return await self._reuse.find_items(spread, start.look, states, start.item_key)
        except Exception:
            logger.exception("The items of step %s could not be looked for", start.task.step)
            return [], {}

    def say(self, what: plans.Say) -> None:
        """Show a line under a step's cell, and what else there is to be shown."""
        line = {"output_type": "stream", "name": what.stream, "text": f"mlbench: {what.text}\n"}
        said = [line, *what.messages]
        transcript = self._transcripts.setdefault(what.execution, Transcript())
        for message in said:
            transcript.add(message)
        node = self._plan.nodes[what.execution]
        self._teller.messages(node.record, node.kernel, said)

    async def end_states(self, record: Execution) -> RandomState | None:
        """Return where the generators ended from which a step drew."""
        from mlbench.runs import randomness

        if record.random is None:
            return None
        digest = record.random
        return randomness.from_bytes(await asyncio.to_thread(self._project.blobs.get, digest))

    def _take_news(self, execution: ExecutionId, news: Json) -> None:
        """Take what a step says while it runs."""
        node = self._plan.nodes[execution]
        if node.phase == "ended":
            return
        match news["type"]:
            case "started":
                at = news.get("started") or time.time_ns()
                self._tell(plans.Started(at=at, execution=execution, worker=news.get("worker")))
            case "messages":
                transcript = self._transcripts[execution]
                for message in news["messages"]:
                    transcript.add(message)
                self._teller.messages(node.record, node.kernel, news["messages"])
            case "metrics":
                node.record = replace(node.record, metrics=(*node.record.metrics, *metrics_of(news["metrics"])))
                self._teller.execution(node.record)
            case "tags":
                node.record = replace(node.record, tags={**node.record.tags, **news["tags"]})
                self._teller.execution(node.record)
            case "artifacts":
                logged = bindings_of(news["artifacts"])
                node.record = replace(node.record, artifacts=with_artifacts(node.record.artifacts, logged))
                self._teller.execution(node.record)
            case "items":
                self._take_items(node, news["executions"], news["fanout"])
            case "progress":
                self._teller.execution(node.record, progress={"done": news["done"], "total": news.get("total")})
            case other:
                logger.warning("News of an unknown type %s of step %s", other, node.record.step)

    def _take_items(self, node: Node, records: Sequence[ItemRecord], fanout: FanOut) -> None:
        """Write items that have ended, which a worker has recorded, and tell of them in one piece of news."""
        if not records and fanout == node.record.fanout:
            return
        node.record = replace(node.record, fanout=fanout)
        self._ledger.put(node.record)
        if not records:
            self._teller.execution(node.record)
            return
        failed = [record for record in records if record.state == "failed"]
        ended = {"ended": len(records), "failed": [describe_item(record) for record in failed[:FAILED_TOLD]]}
        self._ledger.put_items(
            [record if isinstance(record, EndedItem) else EndedItem.of(record) for record in records],
            then=partial(self._teller.execution, node.record, items=ended),
        )

    def full(self, record: Execution) -> Execution:
        """Return an execution with what it has said so far."""
        transcript = self._transcripts.get(record.id)
        return record if transcript is None else replace(record, messages=tuple(transcript.outputs()))

    def forget(self, execution: ExecutionId) -> None:
        """Let go of what a step has said: it is in the catalog."""
        self._transcripts.pop(execution, None)


def _followed(own: RandomState | None, above: RandomState | None) -> RandomState | None:
    """Return where generators start that go on from another step; those that it did not have are the kernel's."""
    return own if above is None else {**(own or {}), **above}
