"""The client's side: hand steps to a local Dask cluster from within the service's event loop."""

from __future__ import annotations

from collections.abc import Callable

from mlbench.core.ids import ExecutionId
from mlbench.core.messages import Environment, StepTask
from mlbench.core.records import Execution, Json

OnEvent = Callable[[Json], None]
"""Takes one piece of news of an execution, in order, in the event loop.

`{"type": "started", "started": ns, "worker": text}`, `{"type": "messages", "messages": [...]}` (nbformat's outputs,
with `update_display_data`, `clear_output` and `transient`), `{"type": "metrics", "metrics": [Metric as JSON]}`,
`{"type": "tags", "tags": {...}}`, `{"type": "progress", "done": number, "total": number or None}`.
"""


class DaskCluster:
    """A local Dask cluster that starts with the first step and ends after a while without any.

    All methods are called in one event loop.
    """

    def __init__(self, *, idle_after: float = 900.0, threads: int | None = None) -> None:
        self._idle_after = idle_after
        self._threads = threads

    @property
    def idle_since(self) -> float | None:
        """`time.monotonic()` of the last end, None while a step is under way."""
        raise NotImplementedError

    @property
    def running(self) -> bool:
        """Whether the worker process is there."""
        raise NotImplementedError

    async def start(self) -> None:
        """Start the cluster if it is not running; several callers get one."""
        raise NotImplementedError

    async def prepare(self, environment: Environment) -> None:
        """Start the warm process of an environment ahead of its first step."""
        raise NotImplementedError

    async def submit(self, task: StepTask, on_event: OnEvent) -> Execution:
        """Run a step and return the record of its end, which is in the folder of records by then. Never raises for
        what a step does: a lost worker, a cancel and a failure are records.
        """
        raise NotImplementedError

    async def cancel(self, execution: ExecutionId) -> bool:
        """End an execution's process now; say whether there was something to end."""
        raise NotImplementedError

    async def pause(self, execution: ExecutionId) -> bool:
        """Stop an execution's process where it is (SIGSTOP); its timeout waits with it."""
        raise NotImplementedError

    async def resume(self, execution: ExecutionId) -> bool:
        """Let a paused execution go on."""
        raise NotImplementedError

    async def close(self) -> None:
        """End the cluster and all that runs on it."""
        raise NotImplementedError
