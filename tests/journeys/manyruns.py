"""Thousands of runs of a notebook, written straight into a store: nobody waits for them to run."""

from __future__ import annotations

import random
import time
from pathlib import Path

from mlbench.core.ids import new_id
from mlbench.core.records import Execution, Metric, Run
from mlbench.project import Project, find_store

__all__ = ["write_runs"]

SECOND = 10**9
ORIGINS = ("JFK", "LGA", "EWR")


def write_runs(store: str, notebook: Path, many: int, *, newest: float = 3600.0) -> list[Run]:
    """Write runs of a notebook into a store, a minute apart, and return them, oldest first.

    The run `n` was given `n`, `origin` and `trees`; its step `train` logged `rmse`, of which the least, 1.5, is logged
    by the run in the middle alone. Every fiftieth run has failed.

    Parameters
    ----------
    newest
        How many seconds ago the last one began.
    """
    project = Project(find_store(store=store))
    chance = random.Random(0)
    now = time.time_ns()
    runs, executions = [], []
    for number in range(many):
        started = now - int((newest + 60 * (many - 1 - number)) * SECOND)
        failed = number % 50 == 49
        run = Run(
            id=new_id(), kind="papermill", state="failed" if failed else "succeeded", name=notebook.stem,
            notebook=str(notebook), started=started, ended=started + (5 + number % 50) * SECOND, user="ann",
            parameters={"n": number, "origin": ORIGINS[number // 7 % 3], "trees": 100 + number // 11 % 5 * 50},
            failed_step="train" if failed else None, reason="error" if failed else None,
        )  # fmt: skip
        runs.append(run)
        rmse = 1.5 if number == many // 2 else 10 + round(chance.random() * 4, 3)
        executions.append(
            Execution(
                id=new_id(), run=run.id, step="train", state=run.state, started=started, ended=run.ended,
                metrics=() if failed else (Metric(name="rmse", value=rmse, time=started),),
            )
        )  # fmt: skip
    project.catalog.put_runs(runs)
    project.catalog.put_executions(executions)
    project.close()
    return runs
