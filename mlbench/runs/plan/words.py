"""What the plan is told, and what it tells others to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from mlbench.core.ids import ExecutionId, RunId
from mlbench.core.messages import Environment, RandomState, StepTask, Submission
from mlbench.core.records import Execution, Json, Reason

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
    resume: RunId | None = None
    """The run whose steps are reused where they succeeded and are unchanged."""

    @property
    def reuses(self) -> bool:
        """Whether an unchanged step need not run."""
        said = self.submission.options.cache
        return said if said is not None else self.submission.cache_default or self.resume is not None


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
class Found:
    """What a `Look` came to: the execution that can be reused, with what its cell is told, or None."""

    at: int
    execution: ExecutionId
    look: int
    record: Execution | None = None
    said: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """The delay before an attempt is over."""

    at: int
    execution: ExecutionId
    attempt: int


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
    | Found
    | Due
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
class Look:
    """Ask the catalog whether a step has been run already, with all that it depends on; the answer is `Found`.

    Files, random numbers (`random`, or the end state of `random_of`, is where it would start) and the network are
    to be compared with those of who had the same `key`. `named` says that `--cache` stands on the step's own line;
    without `others` only executions of the run `resume` count.
    """

    execution: ExecutionId
    look: int
    record: Execution
    random: RandomState | None = None
    random_of: ExecutionId | None = None
    named: bool = False
    others: bool = True
    resume: RunId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Give a task to the executor, its random state being the end state of `random_of` if that is said.

    `item_key` is what the keys of a fan-out's items have in common; with `look` they are reused in the same way.
    """

    task: StepTask
    random_of: ExecutionId | None = None
    item_key: str | None = None
    look: Look | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Say:
    """Show a line under a step's cell, and the `messages` of an execution that stands for it.

    `stream` is that of the line: `stderr` for what somebody should look at.
    """

    execution: ExecutionId
    text: str
    stream: Literal["stdout", "stderr"] = "stderr"
    messages: tuple[Json, ...] = ()


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


Instruction = Start | Look | Say | Cancel | Pause | Resume | Report | Attach | Seen | Later
