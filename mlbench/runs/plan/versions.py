"""Which version of a name a step is given, where steps have changed values without their source showing it."""

from __future__ import annotations

from mlbench.core.ids import ExecutionId
from mlbench.core.messages import Submission
from mlbench.core.records import Execution
from mlbench.runs.plan.state import SUCCEEDED, Node, Plan
from mlbench.runs.plan.words import Submitted

__all__ = ["changed_unknown", "given", "hidden_changes", "version_of"]


def hidden_changes(submission: Submission, record: Execution) -> tuple[str, ...]:
    """Return the names that an execution was given and changed, although its source does not show it."""
    shown = {*submission.defs, *submission.quiet_defs, *submission.changes}
    return tuple(binding.name for binding in record.binds if binding.name not in shown)


def version_of(plan: Plan, name: str, provider: ExecutionId, event: Submitted) -> ExecutionId:
    """Return the newest version of a name: its provider's, or that of a step that changed it since, unseen.

    The cell's own former change is passed over: a cell that is run again starts from what it saw before.
    """
    chosen = current = plan.current(provider)
    while True:
        changer = next((node for node in plan.nodes.values() if _changed(node, name, current)), None)
        if changer is None or changer.kernel != event.kernel:
            return chosen
        current = changer.id
        if changer.record.step != event.submission.step:
            chosen = current


def changed_unknown(plan: Plan, event: Submitted) -> dict[str, ExecutionId]:
    """Return the names that a kernel captured while it could not know yet that a step had changed them."""
    edges: dict[str, ExecutionId] = {}
    for node in sorted(plan.nodes.values(), key=lambda node: node.order):
        if node.kernel != event.kernel or node.record.step == event.submission.step or node.asked is None:
            continue
        if node.replaced_by is not None or node.record.state not in SUCCEEDED:
            continue
        for name in hidden_changes(node.asked.submission, node.record):
            own = _captured_as(event.submission, name)
            if own is not None and name not in node.edges and own == given(node, name):
                edges[name] = node.id
    return edges


def _changed(node: Node, name: str, provider: ExecutionId) -> bool:
    return (
        node.asked is not None
        and node.replaced_by is None
        and node.edges.get(name) == provider
        and node.record.state in SUCCEEDED
        and name in hidden_changes(node.asked.submission, node.record)
    )


def given(node: Node, name: str) -> str | None:
    """Return which version of a name an execution was given: the execution that bound it, or what was captured."""
    if name in node.edges or node.asked is None:
        return node.edges.get(name)
    return _captured_as(node.asked.submission, name)


def _captured_as(submission: Submission, name: str) -> str | None:
    """Return which value of the kernel a name stood for when a step was handed over, None if it was not captured.

    Which object it was counts: one that was made anew since is not changed, although it may have the same content.
    """
    captured = (read for read in submission.captured if read.get("name") == name)
    return next((read.get("version") or read.get("digest") or "captured" for read in captured), None)
