"""Whoever reuses a step finds what may be reused, also behind what others made, and says so of its run first."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlbench.backends.memory import MemoryCatalog
from mlbench.core.ids import ExecutionId, RunId, new_id
from mlbench.core.messages import Spread
from mlbench.core.records import Binding, Execution, Run
from mlbench.entrypoints.service.ledger import Ledger
from mlbench.entrypoints.service.reuse import Reuse
from mlbench.project import Project, find_store, signing
from mlbench.runs.artifacts import save_names
from mlbench.runs.key import item_keys
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


def test_a_step_whose_run_is_half_forgotten_is_not_reused(project: Project, catalog: Forgetful) -> None:
    run = a_run(catalog, "old", 1)
    an_execution(catalog, run, "k")
    del catalog._runs[run.id]
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


# --- several people on one store --------------------------------------------------------------------------------------


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "keys"
    monkeypatch.setenv("MLBENCH_KEYS", str(folder))
    return folder


def kept(project: Project, monkeypatch: pytest.MonkeyPatch | None = None, keys: Path | None = None) -> Binding:
    """Return the name of a value that somebody, or this user, has stored."""
    signer = signing.signer("there")
    if keys is not None and monkeypatch is not None:
        with monkeypatch.context() as elsewhere:
            elsewhere.setenv("MLBENCH_KEYS", str(keys))
            signer = signing.signer("there")
    [binding] = save_names({"x": [1, {2}]}, ["x"], project.blobs, signer=signer)
    assert binding.artifact is not None
    assert binding.artifact.signature is not None
    return binding


def look_for(project: Project, spread: Spread) -> dict[int, Execution]:
    found: tuple[list[str], dict[int, Execution]] = asked(project, "find_items", spread, a_look("step"), None, "step")
    return found[1]


@pytest.mark.parametrize("most", [1, 15])
def test_ones_own_items_and_steps_are_reused_though_somebody_who_is_not_trusted_has_made_them_since(
    project: Project, catalog: Forgetful, keys: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, most: int
) -> None:
    mine, theirs = kept(project), kept(project, monkeypatch, tmp_path / "others")
    spread = Spread(shape=(2,), digests=(("one", "two"),))
    own, other = a_run(catalog, "own", 1), a_run(catalog, "other", 2)
    made = {}
    for number, key in enumerate(item_keys("step", spread)):
        made[number] = an_execution(catalog, own, key, item=number, binds=(mine,)).id
        for _ in range(most):
            an_execution(catalog, other, key, item=number, binds=(theirs,))
    step = an_execution(catalog, own, "k", binds=(mine,))
    for _ in range(most):
        an_execution(catalog, other, "k", binds=(theirs,))
    assert {number: one.id for number, one in look_for(project, spread).items()} == made
    found, _ = asked(project, "find", a_look("k"), None)
    assert found.reused_from == step.id


def test_an_item_with_a_signature_that_only_looks_like_ones_own_does_not_hide_an_older_one(
    project: Project, catalog: Forgetful, keys: Path
) -> None:
    mine = kept(project)
    assert mine.artifact is not None
    forged = replace(mine, artifact=replace(mine.artifact, signature=f"{mine.artifact.signature}"[:-4] + "beef"))
    unsigned = replace(mine, artifact=replace(mine.artifact, signature=None))
    spread = Spread(shape=(3,), digests=(("one", "two", "three"),))
    own, planted = a_run(catalog, "own", 1), a_run(catalog, "planted", 2)
    made = {}
    for number, key in enumerate(item_keys("step", spread)):
        made[number] = an_execution(catalog, own, key, item=number, binds=(mine,)).id
        if number < 2:
            an_execution(catalog, planted, key, item=number, binds=((forged, unsigned)[number],))
    assert {number: one.id for number, one in look_for(project, spread).items()} == made
