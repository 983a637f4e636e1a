"""What is to be done next with the steps of a store: events in, instructions out.

The plan decides, others act: it knows every execution that a kernel has handed over and has no clock, no socket and
no process. Each event changes it and yields what has to happen now, in order. An execution goes through these states
(in the record both `waiting` and `sent` are `queued`):

waiting
    for its parents, for the random state of a step above, or for the execution that it supersedes to be gone
sent
    to the executor, which has not said yet that it runs
running
    its process works (it may be paused: somebody interrupted the cell that waits for it)
ended
    and its record is final

Rules that are not seen at a glance:

- A parent that did not succeed makes its children `skipped`, at once.
- An execution that is *replaced* (its cell was edited and run again; what it was given turned out to have changed; it
  drew random numbers from a state that it should not have had) is cancelled if it is under way. Children that have not
  started take the new one; those that have are replaced in turn.
- A step that changed what it was given without a name showing it (a hidden change) is a new version of that name:
  steps that were handed over after it and were given the older one are replaced.
- A kernel that was restarted finds its steps that go on. If a step above one of them is run again and makes something
  else this time, the one that was found is replaced.
- Of the seeded steps of a kernel that draw random numbers, each starts where the one above it ended. Whether a step
  draws is known from its last execution; when nobody knows, it starts at once, and is replaced if that was wrong.
- A step that may be reused is looked for when all that it depends on is known, right before it would start. What was
  found ends it as `reused`, and counts for its children as if it had run: a parent that did run again but made the same
  values does not keep its children from being reused.
- A step that failed and has attempts left is queued again, after its delay. A fan-out's items have attempts of their
  own, which the executor sees to.
"""

from mlbench.runs.plan.state import Plan
from mlbench.runs.plan.turn import advance
from mlbench.runs.plan.versions import hidden_changes
from mlbench.runs.plan.words import (
    GRACE,
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
    Look,
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

__all__ = [
    "GRACE",
    "Attach",
    "Cancel",
    "CancelAsked",
    "Closing",
    "Detached",
    "Due",
    "Ended",
    "Event",
    "Found",
    "GraceOver",
    "Instruction",
    "Interrupted",
    "Kept",
    "Later",
    "Look",
    "Pause",
    "Plan",
    "Recalled",
    "Report",
    "Resume",
    "Returned",
    "Say",
    "Seen",
    "Start",
    "Started",
    "Submitted",
    "advance",
    "hidden_changes",
]
