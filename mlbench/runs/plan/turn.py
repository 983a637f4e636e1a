"""One event's turn: how the plan changes, and what follows from it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, replace
from typing import Final, assert_never

from mlbench.core.ids import ExecutionId
from mlbench.core.messages import StepTask, Submission
from mlbench.core.records import Binding, Execution, Json, Read, Reason, State
from mlbench.runs.key import key_of
from mlbench.runs.plan import doubts, draws, retries, reuse
from mlbench.runs.plan.needs import resources_of, shown_requirements, threads_of
from mlbench.runs.plan.state import SUCCEEDED, Node, Plan
from mlbench.runs.plan.versions import changed_unknown, given, hidden_changes, version_of
from mlbench.runs.plan.words import (
    GRACE,
    KEPT_FOR,
    Attach,
    Cancel,
    CancelAsked,
    Closing,
    Detached,
    Due,
    Ended,
    Event,
    Found,
    GraceOver,
    Instruction,
    Interrupted,
    Kept,
    Later,
    Pause,
    Recalled,
    Report,
    Resume,
    Returned,
    Say,
    Seen,
    Start,
    Started,
    Submitted,
)


def advance(plan: Plan, event: Event) -> tuple[Instruction, ...]:
    """Change the plan by one event and return what has to be done now, in order."""
    turn = _Turn(plan, event.at)
    match event:
        case Submitted():
            turn.submit(event)
        case Recalled():
            turn.recall(event)
        case Started():
            turn.started(event)
        case Ended():
            turn.ended(event)
        case Found():
            turn.found(event)
        case Due():
            turn.due(event)
        case CancelAsked():
            for execution in event.executions:
                turn.cancel(plan.nodes[execution], event.reason, event.at)
        case Interrupted():
            turn.interrupt(event)
        case Kept():
            turn.take_back(event)
        case GraceOver():
            turn.end_grace(event)
        case Detached():
            turn.detach(event)
        case Returned():
            turn.come_back(event)
        case Closing():
            for node in list(plan.nodes.values()):
                turn.cancel(node, "service-lost", event.at)
        case _:
            assert_never(event)
    turn.settle(event.at)
    return tuple(turn.todo)


class _Turn:
    """One event's changes, and the instructions that they add up to."""

    def __init__(self, plan: Plan, at: int) -> None:
        self.plan = plan
        self.at = at
        self.todo: list[Instruction] = []

    def nodes(self, executions: Iterable[ExecutionId]) -> Iterator[Node]:
        for execution in executions:
            node = self.plan.nodes.get(self.plan.current(execution))
            if node is not None and node.phase != "ended":
                yield node

    # --- what a kernel says ------------------------------------------------------------------------------------------

    def recall(self, event: Recalled) -> None:
        if event.record.id not in self.plan.nodes:
            node = Node(record=event.record, kernel=event.kernel, order=0, phase="ended", notebook=event.notebook)
            node.unattended = event.owed
            self._add(node)

    def submit(self, event: Submitted) -> None:
        submission = event.submission
        if submission.execution in self.plan.nodes:
            self.todo.append(
                Attach(submitted=submission.execution, record=self.plan.nodes[submission.execution].record)
            )
            return
        edges = {**changed_unknown(self.plan, event), **submission.edges}
        edges = {name: version_of(self.plan, name, provider, event) for name, provider in edges.items()}
        if (found := self.plan.same(submission, event.kernel, event.notebook)) is not None:
            if found.phase == "waiting":
                self._turn_to(found, {**found.edges, **edges}, found.waits_for)
            else:
                doubts.note_doubt(found, event, edges)
            if found.phase != "ended" or found.unattended:
                found.kernel, found.unattended = event.kernel, False
            self.seen(found)
            if found.interrupted:
                self.keep([found])
            self.todo.append(Attach(submitted=submission.execution, record=found.record))
            return
        waits_for = {self.plan.current(parent): why for parent, why in submission.waits_for.items()}
        for former in self.plan.nodes.values():
            left = former.unattended and former.notebook == event.notebook is not None
            ours = former.kernel == event.kernel or left
            if ours and former.record.step == submission.step and former.phase == "ended":
                former.unattended = False  # its cell has been run again: nobody will ask for that result
                self.seen(former)
        old = self._superseded(event, {*edges.values(), *waits_for})
        node = self._enter(event, edges, waits_for, replaces=event.takes_over, note=None)
        if old is not None:
            self._stand_in(old, node, event.at)

    def interrupt(self, event: Interrupted) -> None:
        meant = []
        for node in self.nodes(event.executions):
            kept, node.kept = node.kept, None
            if kept is None or event.at - kept > KEPT_FOR * 1e9:
                meant.append(node.id)
        targets = self._with_needless_parents(meant)
        for node in targets:
            if not node.interrupted:
                node.interrupted, node.interrupted_at = True, event.at
                if node.phase in {"sent", "running"}:
                    self.todo.append(Pause(execution=node.id))
        if targets:
            names = tuple(node.id for node in targets)
            over = GraceOver(at=event.at + int(GRACE * 1e9), kernel=event.kernel, executions=names)
            self.todo.append(Later(seconds=GRACE, event=over))

    def take_back(self, event: Kept) -> None:
        """Let go on what an interrupt has stopped, with the parents that it took along."""
        for node in list(self.nodes(event.executions)):
            if not node.interrupted:
                node.kept = event.at
                continue
            left = [node]
            while left:
                one = left.pop()
                self.keep([one])
                left.extend(parent for parent in self.nodes(one.parents) if parent.interrupted)

    def keep(self, nodes: Iterable[Node]) -> None:
        for node in nodes:
            node.interrupted = False
            if node.phase in {"sent", "running"}:
                self.todo.append(Resume(execution=node.id))

    def end_grace(self, event: GraceOver) -> None:
        for node in list(self.nodes(event.executions)):
            since = event.at - node.interrupted_at  # that of an interrupt before may have been taken back
            if node.interrupted and node.kernel == event.kernel and since >= GRACE * 1e9:
                self.cancel(node, "user", event.at)

    def detach(self, event: Detached) -> None:
        for node in self.plan.nodes.values():
            if node.kernel == event.kernel and node.phase != "ended":
                node.unattended = True
                if node.interrupted:
                    self.keep([node])

    def come_back(self, event: Returned) -> None:
        for node in self.plan.nodes.values():
            if node.kernel == event.kernel and node.unattended:
                node.unattended = False
                self.seen(node)

    def seen(self, node: Node) -> None:
        if node.record.unseen:
            node.record = replace(node.record, unseen=False)
            self.todo.append(Seen(execution=node.id))

    # --- what the executor says --------------------------------------------------------------------------------------

    def started(self, event: Started) -> None:
        node = self.plan.nodes.get(event.execution)
        if node is not None and node.phase == "sent":
            node.phase = "running"
            node.record = replace(node.record, state="running", started=event.at, worker=event.worker)
            self.todo.append(Report(record=node.record))
            if node.interrupted:
                self.todo.append(Pause(execution=node.id))

    def ended(self, event: Ended) -> None:
        node = self.plan.nodes.get(event.record.id)
        if node is None or node.phase == "ended":
            return
        record = event.record
        own = event.own
        if node.cancelled is not None and record.state in {"cancelled", "failed"}:
            state: State = "failed" if node.cancelled == "service-lost" else "cancelled"
            own = own or (record.state, record.reason) != (state, node.cancelled)
            record = replace(record, state=state, reason=node.cancelled, note=record.note or _NOTES.get(node.cancelled))
        if retries.has_another(node, record):
            self._try_again(node, record, event.at)
        else:
            self._end(node, record, own=own)

    def due(self, event: Due) -> None:
        node = self.plan.nodes.get(event.execution)
        if node is not None and node.phase == "waiting" and node.record.attempt == event.attempt:
            node.delayed = False

    def found(self, event: Found) -> None:
        node = self.plan.nodes.get(event.execution)
        if node is not None and node.phase == "waiting" and node.look == event.look:
            node.answer = event

    def _try_again(self, node: Node, failed: Execution, at: int) -> None:
        assert node.asked is not None
        options = node.asked.submission.options
        node.phase, node.interrupted, node.random_used = "waiting", False, None
        node.record = retries.next_attempt(node.record, failed)
        node.delayed = options.retry_delay > 0
        self.todo.append(Say(execution=node.id, text=retries.sentence(node.record, options)))
        self.todo.append(Report(record=node.record))
        if node.delayed:
            due = Due(at=at + int(options.retry_delay * 1e9), execution=node.id, attempt=node.record.attempt)
            self.todo.append(Later(seconds=options.retry_delay, event=due))

    # --- what follows ------------------------------------------------------------------------------------------------

    def settle(self, at: int) -> None:
        """Do what has become possible: replace what was wrong, skip, start."""
        for node in sorted(self.plan.nodes.values(), key=lambda node: node.order):
            if draws.is_wrong(self.plan, node):
                self._again(node, at, "It drew random numbers before a step above it, which also draws, had ended.")
            if node.doubt is not None:
                self._look_again(node, at)
        progress = True
        while progress:
            progress = False
            for node in [node for node in self.plan.nodes.values() if node.phase == "waiting"]:
                progress = self._move(node, at) or progress
        self._release()

    def _look_again(self, node: Node, at: int) -> None:
        """Run what a kernel found under way again if a step above it has made something else since."""
        wrong = doubts.is_wrong(self.plan, node)
        if wrong is None or node.doubt is None:
            return
        (asked, edges), node.doubt = node.doubt, None
        if wrong:
            node.asked = asked
            self._again(node, at, "A step above it, which was run again, has made something else.", edges=edges)

    def cancel(self, node: Node, reason: Reason, at: int) -> None:
        """End an execution that is under way; children are skipped when it has ended."""
        if node.phase == "ended" or node.cancelled is not None:
            return
        node.cancelled = reason
        if node.phase == "waiting":
            state: State = "failed" if reason == "service-lost" else "cancelled"
            note = node.record.note or _NOTES.get(reason)
            self._end(node, replace(node.record, state=state, reason=reason, ended=at, note=note), own=True)
        else:
            self.todo.append(Cancel(execution=node.id, reason=reason))

    def _end(self, node: Node, record: Execution, *, own: bool) -> None:
        if node.unattended and record.state in SUCCEEDED:
            record = replace(record, unseen=True)
        node.phase, node.record, node.interrupted = "ended", record, False
        self.todo.append(Report(record=record, own=own))
        if node.asked is None or record.state not in SUCCEEDED or node.replaced_by is not None:
            return
        changed = hidden_changes(node.asked.submission, record)
        for other in sorted(self.plan.nodes.values(), key=lambda other: other.order):
            if other.kernel != node.kernel or other.order <= node.order or other.replaced_by is not None:
                continue
            names = [name for name in changed if given(other, name) == given(node, name) is not None]
            if not names:
                continue
            edges = {**other.edges, **dict.fromkeys(names, node.id)}
            if other.phase == "waiting":
                self._turn_to(other, edges, other.waits_for)
            else:
                note = f"Step {record.step} changed {_listed(names)} in place after it was given."
                self._again(other, self.at, note, edges=edges)  # `ended` is by a worker's clock

    def _move(self, node: Node, at: int) -> bool:
        """Skip or start a waiting execution if it is time; say whether it was."""
        parents = [self.plan.nodes[parent] for parent in node.parents if parent in self.plan.nodes]
        for parent in parents:
            if parent.phase == "ended" and parent.record.state not in SUCCEEDED:
                because = _because(parent.record, node)
                self._end(node, replace(node.record, state="skipped", ended=at, note=because), own=True)
                return True
        if node.interrupted or node.delayed or any(parent.phase != "ended" for parent in parents):
            return False
        if any(self.plan.nodes[gone].phase != "ended" for gone in node.gone if gone in self.plan.nodes):
            return False
        source = None
        if node.asked is not None and node.asked.submission.seeded:
            above, _ = draws.source_of(self.plan, node)
            if above is not None and above.phase != "ended":
                if node.may_draw:
                    return False
                above = draws.ended_source(self.plan, node)
            source = above.id if above is not None else None
        assert node.asked is not None
        if node.asked.reuses and node.record.attempt == 1:
            if node.look is None or node.random_used != source:
                return self._ask_for(node, source)
            if node.answer is None:
                return False
            if node.answer.record is not None:
                self._reuse(node, node.answer.record, node.answer.said, at)
                return True
        self._start(node, source)
        return True

    def _ask_for(self, node: Node, source: ExecutionId | None) -> bool:
        """Ask whether a step that could start now can be reused; say whether it may start without an answer."""
        assert node.asked is not None
        self.plan.looks += 1
        node.look, node.answer, node.random_used = self.plan.looks, None, source
        node.record = self._with_key(node)
        if node.record.key is None:
            node.answer = Found(at=0, execution=node.id, look=node.look)
            return True
        self.todo.append(reuse.question(node))
        return False

    def _reuse(self, node: Node, found: Execution, said: str, at: int) -> None:
        """End a step with what an earlier execution, of which all is the same, has made."""
        node.record = replace(node.record, reads=self._reads(node))
        self.todo.append(Say(execution=node.id, text=said, stream="stdout", messages=found.messages))
        self._end(node, reuse.take_over(node.record, found, at), own=True)

    def _with_key(self, node: Node) -> Execution:
        """Return a step's record with all that it depends on: its parents have ended."""
        assert node.asked is not None
        made = {one: self.plan.nodes[one].record.key_parts for one in node.edges.values() if one in self.plan.nodes}
        parts = reuse.parts_of(node.asked, self._inputs(node)[0], node.edges, made)
        return replace(node.record, key=key_of(parts), key_parts=parts)

    def _reads(self, node: Node) -> tuple[Read, ...]:
        assert node.asked is not None
        return (*_captured(node.asked.submission, without=node.edges), *self._inputs(node)[1])

    def _start(self, node: Node, source: ExecutionId | None) -> None:
        assert node.asked is not None
        submission = node.asked.submission
        inputs, _ = self._inputs(node)
        node.phase, node.random_used = "sent", source
        node.record = replace(self._with_key(node), reads=self._reads(node))
        task = StepTask(
            execution=node.id,
            run=node.record.run,
            step=submission.step,
            source=submission.source,
            store=node.asked.store,
            environment=node.asked.environment,
            inputs=inputs,
            capture=submission.capture,
            capture_digest=submission.capture_digest,
            defs=submission.defs,
            quiet_defs=submission.quiet_defs,
            changes=submission.changes,
            surroundings=submission.surroundings,
            random=submission.random,
            seeded=submission.seeded,
            timeout=submission.options.timeout,
            attempt=node.record.attempt,
            foreach=submission.options.foreach,
            catch=submission.options.catch,
            max_parallel=submission.options.max_parallel,
            max_items=submission.max_items,
            retries=submission.options.retries,
            retry_delay=submission.options.retry_delay,
            threads=threads_of(submission.options),
            resources=resources_of(submission.options),
            memory=submission.options.memory,
            env=submission.options.env,
            requirements=submission.requirements,
            cluster=submission.cluster,
            modules=submission.modules,
            changed_variables=submission.changed_variables,
            paths=submission.paths,
            base=asdict(node.record),
        )
        look = reuse.question(node) if task.foreach and node.asked.reuses else None
        item_key = reuse.item_key(submission, node.record.key_parts) if task.foreach else None
        self.todo.append(Start(task=task, random_of=source, item_key=item_key, look=look))

    def _inputs(self, node: Node) -> tuple[dict[str, Json], list[Read]]:
        inputs: dict[str, Json] = {}
        reads: list[Read] = []
        for name, parent in sorted(node.edges.items()):
            record = self.plan.nodes[parent].record if parent in self.plan.nodes else None
            bound: Binding | None = None
            if record is not None:
                bound = next((binding for binding in record.binds if binding.name == name), None)
            if bound is not None:
                inputs[name] = asdict(bound)
            artifact = bound.artifact if bound is not None else None
            reads.append(
                Read(
                    name=name,
                    digest=artifact.digest if artifact else None,
                    type=artifact.type if artifact else None,
                    size=artifact.size if artifact else None,
                    execution=parent,
                    step=record.step if record is not None else None,
                )
            )
        return inputs, reads

    # --- entering and replacing --------------------------------------------------------------------------------------

    def _add(self, node: Node) -> None:
        self.plan.nodes[node.id] = node

    def _enter(
        self,
        event: Submitted,
        edges: dict[str, ExecutionId],
        waits_for: dict[ExecutionId, str],
        *,
        replaces: ExecutionId | None,
        note: str | None,
        order: int | None = None,
    ) -> Node:
        if order is None:
            self.plan.ordered += 1
            order = self.plan.ordered
        submission = event.submission
        record = Execution(
            id=submission.execution,
            run=event.run,
            step=submission.step,
            state="queued",
            cell=submission.cell,
            position=submission.position,
            queued=event.at,
            source=submission.source,
            parents=tuple(sorted({*edges.values(), *waits_for})),
            replaces=replaces,
            note=note,
            env=submission.options.env,
            requirements=shown_requirements(submission.requirements),
            tags=dict(submission.options.tags),
        )
        node = Node(
            record=record,
            kernel=event.kernel,
            order=order,
            notebook=event.notebook,
            asked=event,
            edges=dict(edges),
            waits_for=dict(waits_for),
        )
        self._add(node)
        self.todo.append(Report(record=record))
        return node

    def _stand_in(self, old: Node, new: Node, at: int) -> None:
        """Let a new execution take the place of an old one, for its children too."""
        old.replaced_by = new.id
        new.gone.add(old.id)
        new.since = min(new.since, old.since)
        children = [
            node
            for node in self.plan.nodes.values()
            if old.id in node.parents and node is not new and node.replaced_by is None and node.cancelled is None
        ]
        for child in sorted(children, key=lambda node: node.order):
            edges = {name: new.id if parent == old.id else parent for name, parent in child.edges.items()}
            waits = {new.id if parent == old.id else parent: why for parent, why in child.waits_for.items()}
            if child.phase == "waiting":
                self._turn_to(child, edges, waits)
            elif child.asked is not None:
                note = f"Step {new.record.step}, whose results it was given, ran again."
                self._again(child, at, note, edges=edges, waits_for=waits)
        self.cancel(old, "superseded", at)

    def _again(
        self,
        old: Node,
        at: int,
        note: str,
        *,
        edges: dict[str, ExecutionId] | None = None,
        waits_for: dict[ExecutionId, str] | None = None,
    ) -> None:
        """Run an execution again, because what it started with was wrong."""
        if old.asked is None or old.replaced_by is not None or old.cancelled is not None:
            return
        submission = replace(old.asked.submission, execution=ExecutionId(self.plan.make_id()), supersedes=None)
        draws = bool(old.record.draws) if old.phase == "ended" else old.asked.draws
        event = replace(old.asked, submission=submission, at=at, draws=draws, takes_over=None)
        new = self._enter(
            event,
            old.edges if edges is None else edges,
            old.waits_for if waits_for is None else waits_for,
            replaces=old.id,
            note=note,
            order=old.order,
        )
        new.unattended = old.unattended
        self._stand_in(old, new, at)

    def _turn_to(self, node: Node, edges: dict[str, ExecutionId], waits_for: dict[ExecutionId, str]) -> None:
        node.edges, node.waits_for = dict(edges), dict(waits_for)
        node.look = node.answer = None
        node.record = replace(node.record, parents=tuple(sorted(node.parents)))

    # --- looking around ----------------------------------------------------------------------------------------------

    def _superseded(self, event: Submitted, parents: Collection[ExecutionId]) -> Node | None:
        """Find the execution of the same step that is under way and that the new one does not need.

        It is this kernel's, or one of the same notebook that a kernel has left behind.
        """
        named = event.submission.supersedes
        candidates = [self.plan.nodes.get(self.plan.current(named))] if named is not None else []
        candidates += [
            node
            for node in self.plan.nodes.values()
            if node.record.step == event.submission.step
            and node.replaced_by is None
            and (node.kernel == event.kernel or (node.unattended and node.notebook == event.notebook is not None))
        ]
        needed = self._ancestors(parents)
        for node in candidates:
            if node is not None and node.phase != "ended" and node.cancelled is None and node.id not in needed:
                return node
        return None

    def _ancestors(self, executions: Iterable[ExecutionId]) -> set[ExecutionId]:
        found: set[ExecutionId] = set()
        left = list(executions)
        while left:
            execution = left.pop()
            if execution not in found:
                found.add(execution)
                node = self.plan.nodes.get(execution)
                left.extend(node.parents if node is not None else ())
        return found

    def _with_needless_parents(self, executions: Iterable[ExecutionId]) -> list[Node]:
        """Return executions under way, with those of their parents under way that nothing else needs."""
        targets = {node.id: node for node in self.nodes(executions)}
        left = list(targets.values())
        while left:
            for parent in self.nodes(left.pop().parents):
                children = [
                    node for node in self.plan.nodes.values() if node.phase != "ended" and parent.id in node.parents
                ]
                if parent.id not in targets and all(child.id in targets for child in children):
                    targets[parent.id] = parent
                    left.append(parent)
        return list(targets.values())

    # --- what nobody needs any more ---------------------------------------------------------------------------------

    def _release(self) -> None:
        """Drop captures that no replacement can need any more: nothing above them is under way."""
        open_kernels: dict[str, int] = {}
        for node in self.plan.nodes.values():
            if node.phase != "ended":
                open_kernels[node.kernel] = min(node.since, open_kernels.get(node.kernel, node.since))
        for node in self.plan.nodes.values():
            above_ended = node.order < open_kernels.get(node.kernel, node.order + 1)
            if above_ended and node.phase == "ended" and node.asked is not None and node.asked.submission.capture:
                node.asked = replace(node.asked, submission=replace(node.asked.submission, capture=b""))


_NOTES: Final[dict[str, str]] = {
    "service-lost": "The mlbench service was stopped while it was under way.",
    "superseded": "Its cell was run again, or what it was given has changed.",
}


def _captured(submission: Submission, *, without: Collection[str]) -> list[Read]:
    fields = {"name", "digest", "type", "size"}
    return [
        Read(**{key: value for key, value in read.items() if key in fields})
        for read in submission.captured
        if read.get("name") not in without
    ]


def _listed(names: Collection[str]) -> str:
    return " and ".join(sorted(names))


def _because(parent: Execution, child: Node) -> str:
    """Say why a step is skipped, and why it waits for another if none of the names that it reads shows that."""
    verbs = {"failed": "failed", "cancelled": "was cancelled", "skipped": "was skipped"}
    said = f"Step {parent.step} {verbs.get(parent.state, parent.state)}"
    why = None if parent.id in child.edges.values() else child.waits_for.get(parent.id)
    return f"{said}. Step {child.record.step} waits for it: {why}." if why else f"{said}."
