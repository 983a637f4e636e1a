"""Whoever reuses a step says so of its run first, and finds out whether it has been forgotten just then."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from mlbench.backends.memory import MemoryCatalog
from mlbench.core.ids import ExecutionId, RunId, new_id
from mlbench.core.records import Execution, Run
from mlbench.entrypoints.service.ledger import Ledger
from mlbench.entrypoints.service.reuse import Reuse
from mlbench.project import Project, find_store
from mlbench.runs.plan import Look


class Forgetful(MemoryCatalog):
    """A catalog in which runs are forgotten at the last moment before somebody says that they are needed."""

    forgets: frozenset[RunId] = frozenset()

    def meet_runs(self, runs: Iterable[RunId], now: int, /) -> set[RunId]:
        self.delete_runs(sorted(self.forgets), met_before=now - 10**9)
        return super().meet_runs(runs, now)


@pytest.fixture
def catalog() -> Forgetful:
    return Forgetful()


@pytest.fixture
def project(tmp_path: Path, catalog: Forgetful) -> Project:
    return Project(find_store(store=str(tmp_path / "store")), catalog=catalog)


def a_run(catalog: Forgetful, name: str, started: int) -> Run:
    run = Run(id=RunId(new_id()), kind="papermill", state="succeeded", name=name, started=started, ended=started + 1)
    catalog.put_run(run)
    return run


def an_execution(catalog: Forgetful, run: Run, key: str, **more: Any) -> Execution:
    given = {"state": "succeeded", "started": run.started} | more
    one = Execution(id=ExecutionId(new_id()), run=run.id, step="train", key=key, **given)
    catalog.put_execution(one)
    return one


def asked(project: Project, question: str, *arguments: Any) -> Any:
    async def ask() -> Any:
        ledger = Ledger(project)
        try:
            return await getattr(Reuse(project, ledger), question)(*arguments)
        finally:
            await ledger.close()

    return asyncio.run(ask())


def a_look(key: str) -> Look:
    record = Execution(id=ExecutionId(new_id()), run=RunId(new_id()), step="train", state="queued", key=key)
    return Look(execution=record.id, look=1, record=record)


def test_a_step_is_reused_from_a_run_that_is_then_not_forgotten(project: Project, catalog: Forgetful) -> None:
    run = a_run(catalog, "old", 1)
    made = an_execution(catalog, run, "k")
    found, words = asked(project, "find", a_look("k"), None)
    assert (found.reused_from, words[:11]) == (made.id, "reused from")
    assert catalog.delete_runs([run.id], met_before=time.time_ns() - 3600 * 10**9) == {run.id}


def test_a_step_whose_run_was_forgotten_just_now_is_reused_from_an_older_one_or_runs(
    project: Project, catalog: Forgetful
) -> None:
    older, newer = a_run(catalog, "older", 1), a_run(catalog, "newer", 5)
    first, _ = an_execution(catalog, older, "k"), an_execution(catalog, newer, "k")
    catalog.forgets = frozenset({newer.id})
    found, _ = asked(project, "find", a_look("k"), None)
    assert found.reused_from == first.id
    catalog.forgets = frozenset({older.id})
    catalog._met.clear()
    assert asked(project, "find", a_look("k"), None) is None


def test_items_of_a_run_that_was_forgotten_just_now_run_and_others_name_who_is_there(
    project: Project, catalog: Forgetful
) -> None:
    origin, kept, gone = a_run(catalog, "origin", 1), a_run(catalog, "kept", 2), a_run(catalog, "gone", 3)
    made = an_execution(catalog, origin, "a", item=0)
    again = an_execution(catalog, kept, "a", item=0, state="reused", reused_from=made.id)
    own, lost = an_execution(catalog, kept, "b", item=1), an_execution(catalog, gone, "c", item=2)
    reuse = Reuse(project, None)  # type: ignore[arg-type]
    catalog.forgets = frozenset({gone.id, origin.id})
    found = reuse._items_met({0: again, 1: own, 2: lost})
    assert {number: one.reused_from or one.id for number, one in found.items()} == {0: again.id, 1: own.id}
