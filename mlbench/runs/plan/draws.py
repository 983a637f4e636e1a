"""Which steps draw random numbers, where each starts, and which started from a state that it should not have had.

Only the steps of a seeded notebook have an order here; see the package's rules.
"""

from __future__ import annotations

from collections.abc import Iterator

from mlbench.runs.plan.state import SUCCEEDED, Node, Plan

__all__ = ["ended_source", "is_wrong", "source_of"]


def source_of(plan: Plan, node: Node) -> tuple[Node | None, bool]:
    """Return the step whose end state this one starts from, and whether that is sure."""
    sure = True
    for above in _above(plan, node):
        if above.phase == "ended":
            if _drew(above):
                return above, sure
        elif above.may_draw:
            return above, False
        else:
            sure = False
    return None, sure


def ended_source(plan: Plan, node: Node) -> Node | None:
    """Return the nearest step above one that has ended and drew, whatever those between them may do."""
    return next((above for above in _above(plan, node) if above.phase == "ended" and _drew(above)), None)


def is_wrong(plan: Plan, node: Node) -> bool:
    """Say whether a step surely drew from a state that it should not have had."""
    if node.phase in {"waiting", "sent"} or node.asked is None or not node.asked.submission.seeded:
        return False
    if node.replaced_by is not None or node.cancelled is not None or not node.may_draw:
        return False
    if node.phase == "ended" and node.record.state not in {*SUCCEEDED, "failed"}:
        return False
    source, sure = source_of(plan, node)
    if not sure or (source.id if source is not None else None) == node.random_used:
        return False
    # while that one may be wrong itself, this is looked at again when what it depends on is known
    return source is None or _is_right(plan, source)


def _is_right(plan: Plan, node: Node) -> bool:
    """Say whether a step that has ended started from the state that it should have had, as far up as it goes."""
    while node.asked is not None:
        source, sure = source_of(plan, node)
        if not sure or (source.id if source is not None else None) != node.random_used:
            return False
        if source is None:
            break
        node = source
    return True


def _drew(node: Node) -> bool:
    return bool(node.record.draws) and node.record.state in SUCCEEDED


def _above(plan: Plan, node: Node) -> Iterator[Node]:
    """Yield the seeded steps above one, the nearest first."""
    seen = {node.id}
    while node.asked is not None and (named := node.asked.submission.random_from) is not None:
        above = plan.nodes.get(plan.current(named))
        if above is None or above.id in seen:
            return
        seen.add(above.id)
        yield above
        node = above
