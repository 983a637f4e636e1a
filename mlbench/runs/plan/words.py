"""What the plan is told, and what it tells others to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mlbench.core.ids import ExecutionId, RunId
from mlbench.core.messages import Environment, StepTask, Submission
from mlbench.core.records import Execution, Reason

GRACE: Final = 3.0
"""Seconds between an interrupt and the end of what it stops: a kernel that restarts is interrupted first."""

# --- events ----------------------------------------------------------------------------------------------------------


KEPT_FOR: Final = 10.0
"""Seconds in which an interrupt that was taken back before it came is still ignored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """A kernel hands a step over.

    `notebook` is what it has in common with kernels whose executions it may take for its own. `draws` says whether
    the step's last execution drew random numbers, None: nobody knows.
    """

    at: int
    submission: Submission
    kernel: str
    run: RunId
    store: str
    environment: Environment
    notebook: str | None = None
    draws: bool | None = None
    takes_over: ExecutionId | None = None
    """The `reused` execution of the same step that this one stands in for, in its run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recalled:
    """An execution that ended before this plan began, and that a submission refers to.

    With `owed` no kernel has heard of its end: it is for whoever runs the same cell of that notebook again.
    """

    at: int
    record: Execution
    kernel: str
    notebook: str | None = None
    owed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The executor says that a step's process works."""

    at: int
    execution: ExecutionId
    worker: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The executor hands over the final record of an execution. `own`: no worker has written it."""

    at: int
    record: Execution
    own: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelAsked:
    """Somebody wants executions ended."""

    at: int
    executions: tuple[ExecutionId, ...]
    reason: Reason = "user"


@dataclass(frozen=True, slots=True, kw_only=True)
class Interrupted:
    """A kernel was interrupted while it waited for these."""

    at: int
    kernel: str
    executions: tuple[ExecutionId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """An interrupt of these is taken back, or the one that comes next: its sender may be faster than the kernel."""

    at: int
    executions: tuple[ExecutionId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GraceOver:
    """An interrupt has not been taken back in time."""

    at: int
    kernel: str
    executions: tuple[ExecutionId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Detached:
    """A kernel is gone, or restarts: its steps go on."""

    at: int
    kernel: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Returned:
    """The very kernel that was gone is back: it had only lost its connection, and knows its steps."""

    at: int
    kernel: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Closing:
    """The service ends: nothing may stay under way."""

    at: int


Event = (
    Submitted
    | Recalled
    | Started
    | Ended
    | CancelAsked
    | Interrupted
    | Kept
    | GraceOver
    | Detached
    | Returned
    | Closing
)


# --- instructions ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Give a task to the executor, its random state being the end state of `random_of` if that is said."""

    task: StepTask
    random_of: ExecutionId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """Tell the executor to end an execution; its record comes as an event."""

    execution: ExecutionId
    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """Stop an execution's processes for a while."""

    execution: ExecutionId


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """Let an execution's processes go on."""

    execution: ExecutionId


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Write a record and tell everybody. `own` says that the plan ended it: no worker has written its end."""

    record: Execution
    own: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Attach:
    """What was submitted is under way already, or ended while its kernel was away: take that one."""

    submitted: ExecutionId
    record: Execution


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """Note that a kernel knows now of an end that came while none was there."""

    execution: ExecutionId


@dataclass(frozen=True, slots=True, kw_only=True)
class Later:
    """Hand an event back after some seconds."""

    seconds: float
    event: Event


Instruction = Start | Cancel | Pause | Resume | Report | Attach | Seen | Later
