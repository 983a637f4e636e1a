"""What the plan knows of each execution."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

from mlbench.core.ids import ExecutionId, RunId, new_id
from mlbench.core.messages import Submission
from mlbench.core.records import Execution, Reason
from mlbench.runs.key import CELL
from mlbench.runs.plan.words import Found, Submitted

SUCCEEDED: Final = frozenset({"succeeded", "reused"})

Phase = Literal["waiting", "sent", "running", "ended"]


@dataclass(slots=True)
class Node:
    """One execution, as the plan knows it."""

    record: Execution
    kernel: str
    order: int
    notebook: str | None = None
    phase: Phase = "waiting"
    asked: Submitted | None = None
    edges: dict[str, ExecutionId] = field(default_factory=dict)
    waits_for: dict[ExecutionId, str] = field(default_factory=dict)
    gone: set[ExecutionId] = field(default_factory=set)
    replaced_by: ExecutionId | None = None
    cancelled: Reason | None = None
    interrupted: bool = False
    interrupted_at: int = 0
    kept: int | None = None
    """When its next interrupt was taken back before it came."""
    unattended: bool = False
    """It ended, or goes on, while its kernel is away."""
    random_used: ExecutionId | None = None
    look: int | None = None
    """The number of the last question whether it can be reused; `answer` is what came of it."""
    answer: Found | None = None
    delayed: bool = False
    """It waits for the delay before its next attempt."""
    doubt: tuple[Submitted, dict[str, ExecutionId]] | None = None
    """What a kernel asked for that was given this execution, and by whom it means its names to be made."""
    since: int = field(init=False)
    """The order of the first of those whose place it has taken: what came after that may be run again because of it."""

    def __post_init__(self) -> None:
        self.since = self.order

    @property
    def id(self) -> ExecutionId:
        return self.record.id

    @property
    def parents(self) -> set[ExecutionId]:
        return {*self.edges.values(), *self.waits_for}

    @property
    def cell_key(self) -> str | None:
        """By which the very same cell is known when it is handed over again."""
        if self.asked is not None:
            return self.asked.submission.key
        return self.record.key_parts.get(CELL, self.record.key)

    @property
    def may_draw(self) -> bool | None:
        """Whether it draws random numbers: seen, or known from its last execution; None: nobody knows."""
        if self.phase == "ended":
            return bool(self.record.draws)
        return self.asked.draws if self.asked is not None else None


@dataclass(slots=True)
class Plan:
    """All executions of a store that are under way here, and those that they may still need.

    Parameters
    ----------
    make_id
        Returns the id of an execution that replaces another one.
    """

    make_id: Callable[[], str] = new_id
    nodes: dict[ExecutionId, Node] = field(default_factory=dict)
    ordered: int = 0
    looks: int = 0

    def under_way(self) -> list[Execution]:
        """Return the records of what has not ended."""
        return [node.record for node in self.nodes.values() if node.phase != "ended"]

    def of_kernel(self, kernel: str) -> list[Execution]:
        """Return what a kernel that attaches has to know: what goes on, and what ended while none was there."""
        return [
            node.record
            for node in self.nodes.values()
            if node.kernel == kernel and node.replaced_by is None and (node.phase != "ended" or node.unattended)
        ]

    def current(self, execution: ExecutionId) -> ExecutionId:
        """Return the execution that stands for one now, which may have been replaced."""
        while (node := self.nodes.get(execution)) is not None and node.replaced_by is not None:
            execution = node.replaced_by
        return execution

    def held(self, step: str, kernel: str, run: RunId) -> Node | None:
        """Find what another kernel, which is there, has under way of a step in a run that several kernels work on."""
        for node in self.nodes.values():
            ours = node.kernel == kernel or node.unattended or node.replaced_by is not None
            if node.record.step == step and node.record.run == run and node.phase != "ended" and not ours:
                return node
        return None

    def same(self, submission: Submission, kernel: str, notebook: str | None) -> Node | None:
        """Find what was submitted before, with the same key, and that a kernel may take for its own.

        It is under way, or has succeeded while its kernel was away, or in the one run that several kernels work on.
        """
        key = submission.key
        if key is None:
            return None
        for node in reversed(self.nodes.values()):
            if node.cell_key != key or node.notebook != notebook:
                continue
            if node.replaced_by is not None or node.cancelled is not None:
                continue
            if node.phase != "ended" and (node.kernel == kernel or node.unattended):
                return node
            others = node.kernel != kernel and node.record.run == notebook  # an engine's run, which they have in common
            if node.phase == "ended" and (node.unattended or others) and node.record.state in SUCCEEDED:
                return node
        return None

    def forget(self, kernel: str) -> None:
        """Drop what has ended of a kernel that will not come back."""
        for node in [node for node in self.nodes.values() if node.kernel == kernel and node.phase == "ended"]:
            del self.nodes[node.id]
