"""What everybody who listens is told of a store: its executions, its runs, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mlbench.core.records import Execution, Json, Run
from mlbench.entrypoints.service.events import News
from mlbench.entrypoints.service.sessions import Session

if TYPE_CHECKING:
    from mlbench.runs.plan import Plan

__all__ = ["Teller", "shown"]


class Teller:
    """Publishes news of one store, each with the notebook and the kernel that it is about.

    Parameters
    ----------
    store
        How the store is called.
    plan, sessions
        The store's, which say whose an execution is.
    """

    def __init__(self, news: News, store: str, plan: Plan, sessions: Mapping[str, Session]) -> None:
        self._news = news
        self._store = store
        self._plan = plan
        self._sessions = sessions

    def whose(self, record: Execution, session: Session | None = None) -> tuple[str | None, str | None]:
        """Return the notebook and the kernel of an execution."""
        node = self._plan.nodes.get(record.id)
        if session is None and node is not None:
            session = self._sessions.get(node.kernel)
        if session is None:
            session = next((one for one in self._sessions.values() if one.run == record.run), None)
        return (session.hello.notebook, session.hello.kernel) if session is not None else (None, None)

    def execution(self, record: Execution, *, session: Session | None = None, **more: Any) -> None:
        """Tell how an execution is now."""
        notebook, kernel = self.whose(record, session)
        body = {"execution": shown(record), **more}
        self._news.publish("execution", body, run=record.run, notebook=notebook, kernel=kernel)

    def messages(self, record: Execution, kernel: str, messages: list[Json]) -> None:
        """Tell what an execution has said."""
        notebook, _ = self.whose(record)
        body = {"execution": record.id, "step": record.step, "cell": record.cell, "messages": messages}
        self._news.publish("messages", body, run=record.run, notebook=notebook, kernel=kernel)

    def run(self, run: Run) -> None:
        """Tell how a run is now."""
        self._news.publish("run", {"run": run}, run=run.id, notebook=run.notebook, kernel=run.kernel)

    def problem(self, problem: str | None) -> None:
        """Tell what is wrong with the store, or that nothing is any more."""
        self._news.publish("service", {"store": self._store, "problem": problem})


def shown(record: Execution) -> Execution:
    """Return an execution without what is read from the catalog, or told by itself."""
    return replace(record, messages=(), source=None)
