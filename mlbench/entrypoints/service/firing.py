"""Fire schedules: each due time exactly once, whichever scheduler is killed and however many there are."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from mlbench.core.ports import Clock
from mlbench.core.records import Firing, Job

if TYPE_CHECKING:
    from mlbench.project import Project

__all__ = ["Body", "Scheduler"]


class Body(Protocol):
    """A job's run on its way: a process of its own."""

    async def wait(self) -> int:
        """Return its exit status when it has ended."""
        ...

    def kill(self) -> None:
        """End it and everything that it started, at once."""
        ...


Spawn = Callable[[Job, Firing], Body]
OnChange = Callable[[Job, Firing | None], None]


class Scheduler:
    """Fires the jobs of one store, and follows their runs to their end.

    Parameters
    ----------
    project
        The open store; its catalog is used in a thread, never in the event loop.
    on_change
        Called in the event loop with each job, and the firing, whose state has changed: the news for the page.
    spawn
        Starts the process of a claimed firing; `None` is the real one.
    """

    def __init__(
        self,
        project: Project,
        clock: Clock,
        on_change: OnChange | None = None,
        spawn: Spawn | None = None,
    ) -> None:
        self.project = project
        self.clock = clock

    async def run(self) -> None:
        """Fire what is due until `close` is called; returns then."""
        raise NotImplementedError

    def wake(self) -> None:
        """Look again now: a job was added, changed or asked for."""
        raise NotImplementedError

    async def close(self) -> None:
        """Stop firing; runs under way go on, and are taken over by the service that starts next."""
        raise NotImplementedError

    @property
    def busy(self) -> int:
        """How many runs of jobs are under way here."""
        raise NotImplementedError
