"""One open store: its plan, and the acting on what the plan says."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, assert_never

from mlbench.backends.blobs import marker_of
from mlbench.core.errors import ServiceError, StoreError
from mlbench.core.ids import ExecutionId, RunId
from mlbench.core.messages import KernelHello, Submission
from mlbench.core.records import ENDED, UNDER_WAY, Execution, Json, Reason, Run, with_artifacts
from mlbench.core.urls import without_password
from mlbench.entrypoints.service.events import News
from mlbench.entrypoints.service.ledger import Ledger
from mlbench.entrypoints.service.recollection import Recollection
from mlbench.entrypoints.service.sessions import (
    Session,
    ago,
    already_running,
    describe,
    metrics_of,
)
from mlbench.entrypoints.service.snapshots import Snapshots
from mlbench.entrypoints.service.steps import Executor, Steps
from mlbench.entrypoints.service.telling import Teller, shown
from mlbench.project import signing
from mlbench.project.leftovers import Leftovers
from mlbench.runs import plan as plans
from mlbench.runs.context import bindings_of
from mlbench.runs.plan import Plan, advance

if TYPE_CHECKING:
    from mlbench.project import Project

__all__ = ["OpenStore"]

logger = logging.getLogger(__name__)

TURNS: Final = 10
"""Turns of the event loop that it takes at most until what lies in a socket has been heard and acted on."""

GRACE: Final = 10.0
"""Seconds in which the processes of an abandoned run's steps are gone."""

FORGET_AFTER: Final = 24 * 3600
"""Seconds for which the results of a kernel that is gone are held ready for the next one."""

LATER: Final = (3.0, 27.0, 90.0)
"""Seconds after which it is looked again for items of a service that is gone: its workers end a moment after it."""


class OpenStore:
    """A store that this service answers for.

    Parameters
    ----------
    project
        The store's use cases, opened.
    owner
        What the runs that this service begins say of who answers for them.
    stir
        Called when something may have ended.
    """

    def __init__(self, project: Project, executor: Executor, news: News, owner: str, stir: Callable[[], None]) -> None:
        self.path = project.location.place
        self.project = project
        self.plan = Plan()
        self.sessions: dict[str, Session] = {}
        self._teller = Teller(news, self.path, self.plan, self.sessions)
        self.ledger = Ledger(project, self._teller.problem)
        self.runs: dict[RunId, Run] = {}
        self.changed = asyncio.Event()
        self._executor = executor
        self._owner = owner
        self._stir = stir
        self._recollection = Recollection(project, self.ledger)
        self._marker = marker_of(self.path)
        self._snapshots = Snapshots(project, self.ledger, self._teller.run)
        self._steps = Steps(project, executor, self.plan, self.ledger, self._teller, self.tell)
        self._tasks: set[asyncio.Task[Any]] = set()

    def was_replaced(self) -> bool:
        """Say whether another store lies in this one's place. While steps are under way nobody leaves this one."""
        now = marker_of(self.path)
        return now is not None and now != self._marker and not self.plan.under_way()

    def require(self, catalog: str | None) -> None:
        """Refuse who names another catalog of this store than the one that is open."""
        own = without_password(self.project.location.catalog_url)
        if catalog is not None and without_password(catalog) != own:
            raise ServiceError(
                f"The mlbench service has the store {self.path} open with the catalog {own}, and not with "
                f"{without_password(catalog)}.",
                "If the catalog has moved, `mlbench service stop`, and run it again.",
            )

    # --- life --------------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Say of what a dead service or engine has left behind what became of it."""
        from mlbench.backends.owners import is_alive

        left = Leftovers(self.project)
        for run in await self.ledger.ask(partial(self.project.reconcile, is_alive, left)):
            self._teller.run(run)
        self._look_again(left)

    def _look_again(self, left: Leftovers) -> None:
        """Have the items taken that workers of a dead service are recording yet."""

        async def take_late() -> None:
            for seconds in LATER:
                await asyncio.sleep(seconds)
                try:
                    late = await self.ledger.ask(left.take_late)
                except StoreError as error:
                    logger.warning("Items of a service that is gone could not be looked for: %s", error)
                    continue
                for execution in late:
                    self._teller.execution(execution)

        if left:
            self._spawn(take_late())

    async def close(self, *, patience: float) -> None:
        """End what is under way, and write everything."""
        self.tell(plans.Closing(at=time.time_ns()))
        deadline = time.monotonic() + patience
        while self.plan.under_way() and time.monotonic() < deadline:
            self.changed.clear()
            await _first(self.changed.wait(), deadline - time.monotonic())
        for record in self.plan.under_way():
            ended = replace(record, state="failed", reason="service-lost", ended=time.time_ns())
            self.tell(plans.Ended(at=time.time_ns(), record=ended, own=True))
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=patience)
        await self.ledger.close()

    async def leave(self) -> None:
        """Close a store in whose place there is another one, into which nothing of this one's is to be written."""
        for task in list(self._tasks):
            task.cancel()
        await self.ledger.close(write=False)
        await asyncio.to_thread(self.project.close)

    def under_way(self) -> list[Execution]:
        """Return what is queued or running here."""
        return self.plan.under_way()

    # --- kernels -----------------------------------------------------------------------------------------------------

    async def attach(self, hello: KernelHello, pid: int | None) -> tuple[Session, Json]:
        """Take a kernel in; return its session and what it has to know."""
        session = self.sessions.get(hello.kernel)
        if session is None or session.fixed != hello.run:
            session = Session(hello=hello, owner=self._owner, pid=pid)
            self.sessions[hello.kernel] = session
            if hello.run is None:
                found, own = await self._recollection.identity(hello.notebook, hello.notebook_id)
                session.identify(found, own=own)
                session.missed = await self._recollection.last_run(hello.kernel)
                session.series.resume(session.missed)
                await self._take_up_owed(session)
            else:
                left = Leftovers(self.project)
                session.missed = await self._recollection.lost(hello.run, self.plan.nodes, left)
                for record in session.missed:
                    self.ledger.put(record, recorded=record.reason != "service-lost")
                self._look_again(left)
        else:
            if session.attached and session.pid != pid:
                self.detach(session)
            if not session.attached and session.pid == pid:
                session.missed = self.plan.of_kernel(hello.kernel)
                self.tell(plans.Returned(at=time.time_ns(), kernel=hello.kernel))
            session.attach(hello, pid)
        self._forget_the_gone()
        known = [shown(record) for record in self.plan.of_kernel(hello.kernel)]
        note = await asyncio.to_thread(signing.what_differs, hello.keys, hello.keys_folder)
        return session, {"run": session.run, "executions": known, **({"note": note} if note is not None else {})}

    async def _take_up_owed(self, session: Session) -> None:
        """Hold ready, for a kernel that has not been here in this life, what ended while no kernel was there."""
        at, hello = time.time_ns(), session.hello
        for kernel, record in await self._recollection.owed(session):
            if record.id not in self.plan.nodes:
                self.tell(plans.Recalled(at=at, record=record, kernel=kernel, notebook=session.kin, owed=True))
        if hello.again:
            self.tell(plans.Returned(at=at, kernel=hello.kernel))

    async def hold(self) -> None:
        """Say that the runs of attached kernels are needed: what a name stands for is loaded when it is first used.

        Otherwise a rule that keeps runs for some days would take away what an open notebook was made of a week ago.
        """
        kernels = {kernel for kernel, session in self.sessions.items() if session.attached}
        if kernels:
            runs = {node.record.run for node in self.plan.nodes.values() if node.kernel in kernels}
            await self.ledger.ask(partial(self._recollection.meet, kernels, runs))

    def catch_up(self, session: Session) -> None:
        """Tell a kernel that has just attached what became of its steps while it could not hear of it."""
        missed, session.missed = session.missed, []
        for record in missed:
            self._teller.execution(record, session=session)

    def detach(self, session: Session) -> None:
        """Let a kernel go; its steps go on."""
        session.attached, session.lost_at = False, time.monotonic_ns()
        for record in session.here.values():
            lost = replace(record, state="failed", reason="kernel-lost", ended=time.time_ns())
            self._report(lost, own=True, session=session)
        session.here.clear()
        self.tell(plans.Detached(at=time.time_ns(), kernel=session.hello.kernel))
        if session.fixed is not None and session.fixed not in self.runs:
            self._forget(session.hello.kernel)

    def _forget_the_gone(self) -> None:
        """Drop the sessions of kernels that have been gone for long, and what they left."""
        for kernel, session in list(self.sessions.items()):
            if session.attached or session.lost_at is None:
                continue
            gone = (time.monotonic_ns() - session.lost_at) / 1e9
            busy = any(record for record in self.plan.of_kernel(kernel) if record.state in UNDER_WAY)
            if gone > FORGET_AFTER and not busy:
                self._forget(kernel)

    def _forget(self, kernel: str) -> None:
        self.plan.forget(kernel)
        del self.sessions[kernel]

    # --- steps -------------------------------------------------------------------------------------------------------

    async def submit(self, session: Session, submission: Submission) -> Json:
        """Take a step's cell over; return its execution, or the one that it is attached to."""
        await self._recall(session, submission)
        draws = await self._recollection.draws(session, submission.step) if submission.seeded else None
        session.note_cells(submission.cells)
        waits_for = self._without_deleted(session, submission)
        submission = replace(submission, waits_for=waits_for, cells=())  # cells would be kept with each execution
        if (place := session.place_of(submission.cell)) is not None:
            submission = replace(submission, position=place)
        session.parameters = dict(submission.parameters)
        at = time.time_ns()
        kernel = session.hello.kernel
        takes_over: ExecutionId | None = None
        if session.fixed is not None:
            self._refuse_another(submission.step, kernel, session.fixed)
        known = submission.execution in self.plan.nodes
        if known or self.plan.same(submission, kernel, session.kin) is not None:
            run = session.run or RunId("")
        else:
            run = self._place(session, submission.step, at, new_run=submission.new_run)
            takes_over = session.series.taken_over(submission.step)
        event = plans.Submitted(
            at=at,
            submission=submission,
            kernel=kernel,
            run=run,
            store=self.path,
            environment=session.hello.environment,
            notebook=session.kin,
            draws=draws,
            takes_over=takes_over,
            resume=self._resumed(session),
        )
        for instruction in self.tell(event):
            if isinstance(instruction, plans.Attach):
                record = replace(self._steps.full(await self.execution(instruction.record.id)), unseen=False)
                if session.fixed is None and record.state in ENDED:
                    session.series.resume([replace(record, messages=())])
                answer = {"execution": record, "attached": True}
                if record.id != submission.execution:
                    answer["note"] = ago(record)
                return answer
        await self.ledger.settled()  # whoever has an answer can ask what became of it, also after we are killed
        answer = {"execution": shown(self.plan.nodes[submission.execution].record), "attached": False}
        if self.ledger.problem is not None:
            answer["note"] = f"{self.ledger.problem} Until then runs are shown as they were."
        return answer

    def _without_deleted(self, session: Session, submission: Submission) -> dict[ExecutionId, str]:
        """Return what a step waits for though it reads none of its names, without failures of cells that are deleted.

        Nobody could put those right; what `--after` names is meant, wherever its cell is.
        """
        waits_for = dict(submission.waits_for)
        for execution in submission.waits_for if submission.options.after is None else ():
            node = self.plan.nodes.get(self.plan.current(execution))
            failed = node is not None and node.record.state in ENDED - {"succeeded", "reused"}
            if node is not None and failed and session.has_deleted(node.record):
                del waits_for[execution]
        return waits_for

    def _refuse_another(self, step: str, kernel: str, run: RunId) -> None:
        """Refuse a kernel that hands over what another one has under way in the run that both work on."""
        held = self.plan.held(step, kernel, run)
        if held is not None:
            owner = self.sessions[held.kernel].pid if held.kernel in self.sessions else None
            raise ServiceError(already_running(held.record, owner), "Run the cell again when it has ended.")

    def _resumed(self, session: Session) -> RunId | None:
        """Return the run that a kernel's run goes on from."""
        run = self.runs.get(session.fixed) if session.fixed is not None else None
        return run.resumed_from if run is not None else None

    def _place(self, session: Session, step: str, at: int, *, new_run: bool) -> RunId:
        if session.fixed is not None:
            return session.fixed
        run, opened = session.series.place(step, at, new_run=new_run)
        if opened:
            self.ledger.put(run)
            self._teller.run(run)
        return run.id

    async def _recall(self, session: Session, submission: Submission) -> None:
        """Tell the plan of executions that a submission names and that another life of the service has seen end."""
        wanted = {*submission.edges.values(), *submission.waits_for} - set(self.plan.nodes)
        if wanted:
            for record in await self._recollection.ended(submission, wanted):
                self.tell(plans.Recalled(at=time.time_ns(), record=record, kernel=session.hello.kernel))

    async def _note_seen(self, execution: ExecutionId) -> None:
        self.ledger.put(replace(await self.execution(execution), unseen=False))

    def here(self, session: Session, record: Execution, *, new_run: bool = False) -> Json:
        """Take the record of a step that ran in the kernel itself."""
        known = session.here.pop(record.id, None)
        if known is not None:
            run = known.run
        else:
            run = self._place(session, record.step, record.queued or record.started or time.time_ns(), new_run=new_run)
        place = session.place_of(record.cell)
        record = replace(record, run=run, position=place if place is not None else record.position)
        if record.state in ENDED:
            self.tell(plans.Recalled(at=time.time_ns(), record=record, kernel=session.hello.kernel))
        else:
            session.here[record.id] = record
        self._report(record, own=record.state in ENDED, session=session)
        return {"run": run}

    def interrupt(self, session: Session, executions: Iterable[ExecutionId]) -> list[Json]:
        """Pause what a kernel waited for; return what will end with it unless that is taken back."""
        event = plans.Interrupted(at=time.time_ns(), kernel=session.hello.kernel, executions=tuple(executions))
        for instruction in self.tell(event):
            if isinstance(instruction, plans.Later) and isinstance(instruction.event, plans.GraceOver):
                return [describe(self.plan.nodes[one].record) for one in instruction.event.executions]
        return []

    def keep(self, executions: Iterable[ExecutionId]) -> None:
        """Let what a kernel has interrupted, or is about to, go on."""
        self.tell(plans.Kept(at=time.time_ns(), executions=tuple(executions)))

    def summary(self, record: Execution) -> Json:
        """Return what `status` says of an execution under way."""
        notebook, _ = self._teller.whose(record)
        since = record.started or record.queued
        return {**describe(record), "run": record.run, "notebook": notebook, "since": since, "worker": record.worker}

    def cancel(self, chosen: Iterable[Execution], reason: Reason = "user") -> list[Json]:
        """End executions; return those that were under way."""
        records = [record for record in chosen if record.state in UNDER_WAY]
        executions = tuple(record.id for record in records)
        self.tell(plans.CancelAsked(at=time.time_ns(), executions=executions, reason=reason))
        return [describe(record) for record in records]

    async def execution(self, identifier: str) -> Execution:
        """Return an execution with its messages, as far as there are any."""
        identifier = self.plan.current(ExecutionId(identifier)) if identifier in self.plan.nodes else identifier
        node = self.plan.nodes.get(ExecutionId(identifier))
        if node is not None and node.phase != "ended":
            return self._steps.full(node.record)
        unwritten = self.ledger.unwritten(identifier)
        if isinstance(unwritten, Execution):
            return unwritten
        return await self.ledger.ask(partial(self.project.catalog.execution, identifier))

    # --- runs --------------------------------------------------------------------------------------------------------

    def open_run(self, run: Run) -> None:
        """Take note of a run that an engine has begun, and has written itself."""
        self.runs[run.id] = run
        self._teller.run(run)

    def close_run(self, run: Run) -> None:
        """Take note of an engine's run that has ended."""
        self.runs.pop(run.id, None)
        self._teller.run(run)
        for kernel, session in list(self.sessions.items()):
            if session.fixed == run.id and not session.attached:
                self._forget(kernel)

    async def abandon_run(self, run: RunId, owner_alive: Callable[[str | None], bool]) -> None:
        """End a run whose engine has gone without a word, unless it is still alive somewhere."""
        begun = self.runs.get(run)
        if begun is None or owner_alive(begun.owner):
            return
        self.runs.pop(run)
        self.cancel([record for record in self.plan.under_way() if record.run == run], reason="worker-lost")
        # Whose end is still to come is not lost: only then is the rest looked for.
        deadline = time.monotonic() + GRACE
        while any(one.run == run for one in self.plan.under_way()) and time.monotonic() < deadline:
            self.changed.clear()
            await _first(self.changed.wait(), deadline - time.monotonic())
        for ended in await self.ledger.ask(partial(self.project.reconcile, owner_alive)):
            self._teller.run(ended)

    async def add_to_run(self, session: Session | None, run: str | None, body: Json) -> None:
        """Add what a plain cell logged to its run, or to the next one if none is open."""
        metrics, tags = metrics_of(body.get("metrics")), {str(k): str(v) for k, v in (body.get("tags") or {}).items()}
        logged = bindings_of(body.get("artifacts") or ())
        current = session.series.current if session is not None and session.fixed is None else None
        if session is not None and session.fixed is None and (current is None or session.series.fresh):
            session.metrics.extend(metrics)
            session.tags.update(tags)
            session.artifacts = with_artifacts(session.artifacts, logged)
            return
        if current is None:
            identifier = run or (session.run if session is not None else None)
            if identifier is None:
                raise ServiceError("Metrics were sent for no run.", "Name the run.")
            current = self.runs.get(RunId(identifier))
            if current is None:
                current = await self.ledger.ask(partial(self.project.catalog.run, identifier))
        artifacts = with_artifacts(current.artifacts, logged)
        more: Json = {"metrics": (*current.metrics, *metrics), "tags": {**current.tags, **tags}, "artifacts": artifacts}
        changed = replace(current, **more)
        if session is not None:
            session.series.edit(current.id, **more)
        if current.id in self.runs:
            self.runs[current.id] = changed
        self.ledger.put(changed, then=partial(self._teller.run, changed))
        await self.ledger.settled()

    # --- acting ------------------------------------------------------------------------------------------------------

    def tell(self, event: plans.Event) -> tuple[plans.Instruction, ...]:
        """Tell the plan of an event and do what it says."""
        instructions = advance(self.plan, event)
        for instruction in instructions:
            self._act(instruction)
        self.changed.set()
        self._stir()
        return instructions

    def _act(self, instruction: plans.Instruction) -> None:
        match instruction:
            case plans.Start():
                self._spawn(self._steps.run(instruction))
            case plans.Look():
                self._spawn(self._steps.look(instruction))
            case plans.Say():
                self._steps.say(instruction)
            case plans.Cancel():
                self._spawn(self._executor.cancel(instruction.execution, instruction.reason))
            case plans.Pause():
                self._spawn(self._executor.pause(instruction.execution))
            case plans.Resume():
                self._spawn(self._executor.resume(instruction.execution))
            case plans.Report():
                session = self.sessions.get(self.plan.nodes[instruction.record.id].kernel)
                self._report(instruction.record, own=instruction.own, session=session)
            case plans.Seen():
                self._spawn(self._note_seen(instruction.execution))
            case plans.Later():
                asyncio.get_running_loop().call_later(instruction.seconds, self._put_off, instruction.event)
            case plans.Attach():
                pass  # the answer to who submitted it
            case _:
                assert_never(instruction)

    def _put_off(self, event: plans.Event) -> None:
        """Tell of an event whose time has come, after all that has come before it: this process may have stood still.

        A kernel that went within the grace of its interrupt, or a word that takes that back, may lie in a socket.
        """

        async def tell_last() -> None:
            for _ in range(TURNS):
                await asyncio.sleep(0)
            self.tell(event)

        self._spawn(tell_last())

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("The executor failed", exc_info=error)

    # --- telling -----------------------------------------------------------------------------------------------------

    def _report(self, record: Execution, *, own: bool, session: Session | None) -> None:
        """Write a record and tell everybody: of an end only when it is written."""
        runs: list[Run] = []
        reused: list[Execution] = []
        home = next((one for one in self.sessions.values() if one.series.holds(record.run)), session)
        if home is not None and home.fixed is None:  # another kernel may have taken the execution over, not its run
            runs, reused = home.series.note(replace(record, messages=()))
            if session is not None and session is not home and record.state in ENDED:
                session.series.resume([replace(record, messages=())])
        if record.state in UNDER_WAY:
            self.ledger.put(record)
            self._teller.execution(record)
        else:
            if session is not None:
                self._recollection.note(session, record)
            self.ledger.put(record, recorded=not own, then=partial(self._tell_end, record))
        for one in reused:
            self.ledger.put(one, recorded=False, then=partial(self._teller.execution, one))
        for run in runs:
            if run.state == "running":
                self.ledger.put(run)
                self._teller.run(run)
            else:
                self.ledger.put(run, then=partial(self._teller.run, run))
                if home is not None:
                    self._spawn(self._snapshots.keep(home, run.id))

    def _tell_end(self, record: Execution) -> None:
        if record.random is not None and record.draws:
            self._spawn(self._tell_end_of_random(record))
        else:
            self._let_go(record)

    async def _tell_end_of_random(self, record: Execution) -> None:
        """Tell of an end together with where the generators ended: the kernel's go on from there."""
        try:
            states = await self._steps.end_states(record)
        except Exception as error:  # noqa: BLE001  whatever it is, the end is told
            logger.warning("Where the generators of step %s ended cannot be read: %s", record.step, error)
            states = None
        self._let_go(record, **({"random": states} if states else {}))

    def _let_go(self, record: Execution, **more: Any) -> None:
        self._teller.execution(record, **more)
        self._steps.forget(record.id)
        node = self.plan.nodes.get(record.id)
        if node is not None and node.phase == "ended":
            node.record = shown(node.record)  # what it printed is read from the catalog from now on


async def _first(waiting: Any, seconds: float) -> None:
    try:
        await asyncio.wait_for(waiting, max(0.0, seconds))
    except TimeoutError:
        return
