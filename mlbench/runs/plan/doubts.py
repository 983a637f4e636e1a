"""Whether what a kernel found under way is what it has asked for, when a step above that one was run again.

After a restart, a notebook's cells are run again from the top. A step that goes on is known by its cell's key, which
holds the code of all that is above it, and not what that has made: the step above may make something else this time.
Then the one that was found is run again, and not before that is sure.
"""

from __future__ import annotations

from collections.abc import Mapping

from mlbench.core.ids import ExecutionId
from mlbench.runs.plan.state import SUCCEEDED, Node, Plan
from mlbench.runs.plan.words import Submitted

__all__ = ["is_wrong", "note_doubt"]


def note_doubt(found: Node, asked: Submitted, edges: Mapping[str, ExecutionId]) -> None:
    """Keep in mind that a kernel which now waits for an execution means it with what others make."""
    others = {name: provider for name, provider in edges.items() if found.edges.get(name) != provider}
    found.doubt = (asked, {**found.edges, **edges}) if others and found.asked is not None else None


def is_wrong(plan: Plan, node: Node) -> bool | None:
    """Say whether an execution was given something else than was meant; None while that is not known."""
    if node.doubt is None:
        return False
    _, edges = node.doubt
    given = {read.name: read.digest for read in node.record.reads}
    sure = True
    for name, provider in edges.items():
        if node.edges.get(name) == provider:
            continue
        above = plan.nodes.get(plan.current(provider))
        if above is None:
            return True
        if above.phase != "ended":
            sure = False
            continue
        made = next((bound for bound in above.record.binds if bound.name == name), None)
        if above.record.state not in SUCCEEDED or made is None:
            return True
        # of a module, and of what was not stored, no digest is known: the code that makes it is the same
        if (made.artifact.digest if made.artifact is not None else None) != given.get(name):
            return True
    return False if sure else None
