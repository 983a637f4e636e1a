"""What recording runs costs, and a page of very many of them, beside MLflow on SQLite."""

from __future__ import annotations

import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.measure import Figure, installed, ratio, surroundings, wall
from mlbench.backends.catalog_sql import SqlCatalog
from mlbench.core.ids import RunId, new_id
from mlbench.core.records import Metric, Run
from mlbench.project import Project
from mlbench.runs.search import parse, parse_sort

BENCH = "catalog"

RECORDED = 1_000
STORED = 100_000
NAMES = 10
"""Parameters, and metrics, of each run."""

FILTER = "metrics.m0 < 0.5 and params.p0 = '3'"
"""Of each twentieth run this is true."""

RARE = "metrics.m0 < 0.0005"

KNOWN = {"recorded": 0.015 + 2 * NAMES * 0.0026, "sorted": 3.9, "filtered": 0.28, "newest first": 0.027}
"""Seconds that MLflow took where it was measured, a run and a page each: they stand in for it where it is not. A
parameter takes as long as a metric's point: each is a request and a transaction."""

GOALS = {"sorted": 0.01, "filtered": 0.1, "newest first": 1.0}

MLFLOW = """
import json, random, sys, time
import mlflow
from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient
uri, recorded, stored, names = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
client = MlflowClient(uri)
experiment = client.create_experiment("benchmark")
rng = random.Random(0)
def record(at):
    run = client.create_run(experiment, start_time=at).info.run_id
    for name in range(names):
        client.log_param(run, f"p{name}", rng.randrange(10))
    for name in range(names):
        client.log_metric(run, f"m{name}", rng.random())
    client.set_terminated(run)
began = time.perf_counter()
for at in range(recorded):
    record(at)
told = {"recorded": (time.perf_counter() - began) / recorded}
for at in range(recorded, stored):
    run = client.create_run(experiment, start_time=at).info.run_id
    client.log_batch(run, metrics=[Metric(f"m{name}", rng.random(), at, 0) for name in range(names)],
                     params=[Param(f"p{name}", str(rng.randrange(10))) for name in range(names)])
def page(**which):
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        assert client.search_runs([experiment], max_results=50, **which)
        seconds.append(time.perf_counter() - began)
    return sorted(seconds)[1]
told["sorted"] = page(order_by=["metrics.m0 DESC"])
told["filtered"] = page(filter_string="metrics.m0 < 0.5 and params.p0 = '3'")
told["newest first"] = page()
json.dump(told, open(sys.argv[5], "w"))
"""


def measure(*, quick: bool) -> Iterator[Figure]:
    """Record runs through a store; look for them in a catalog of their own, which is filled at once."""
    with surroundings() as folder:
        recorded, synced = _recorded(Project.open(), folder, RECORDED // 10 if quick else RECORDED)
    yield Figure(BENCH, f"a run with {NAMES} parameters and {NAMES} metrics", "recorded", round(recorded, 5), "s")
    yield Figure(BENCH, "a file of 4 KB", "written and synced", round(synced, 5), "s")
    stored = STORED // 20 if quick else STORED
    peer, named = _mlflow(quick=quick)
    if not installed("mlflow"):
        yield Figure(BENCH, "MLflow", "all", None, "not measured: mlflow is not installed")
    for what, seconds in peer.items():
        yield Figure(BENCH, named, what, round(seconds, 5), "s")
    yield ratio(BENCH, f"recorded / {named}", recorded, peer["recorded"], goal=0.05)
    with tempfile.TemporaryDirectory(prefix="mlb") as place:
        catalog = SqlCatalog(f"sqlite:///{place}/catalog.sqlite")
        began = time.perf_counter()
        fill(catalog, stored)
        each = (time.perf_counter() - began) / stored
        yield Figure(BENCH, f"{stored:,} runs, thousands in one transaction", "recorded, each", round(each, 5), "s")
        for what, seconds in _pages(catalog):
            yield Figure(BENCH, f"50 of {stored:,} runs", what, round(seconds, 5), "s")
            if what in GOALS and (peer is KNOWN or not quick):  # the goals are for MLflow with 10,000 runs
                yield ratio(BENCH, f"{what} / {named}", seconds, peer[what], goal=GOALS[what])
        catalog.close()


def _recorded(project: Project, folder: Path, count: int) -> tuple[float, float]:
    """Return what recording one run takes, and what one synced file takes on the same disk."""
    rng = random.Random(0)
    project.end_run(project.begin_run(kind="papermill", name="first"), "succeeded")
    began = time.perf_counter()
    for _ in range(count):
        parameters = {f"p{name}": str(rng.randrange(10)) for name in range(NAMES)}
        metrics = [Metric(name=f"m{name}", value=rng.random(), time=time.time_ns()) for name in range(NAMES)]
        run = project.begin_run(kind="papermill", name="flights", parameters=parameters)
        project.end_run(run, "succeeded", metrics=metrics)
    ours = (time.perf_counter() - began) / count
    project.close()
    began = time.perf_counter()
    for number in range(50):
        with (folder / f"synced{number}").open("wb") as file:
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
    return ours, (time.perf_counter() - began) / 50


def fill(catalog: SqlCatalog, count: int) -> None:
    """Put runs into a catalog, thousands in one transaction."""
    rng = random.Random(0)
    for start in range(0, count, 5_000):
        catalog.put_runs(
            [
                Run(
                    id=RunId(new_id()),
                    kind="papermill",
                    state="succeeded",
                    name="flights",
                    notebook=f"/home/me/{at % 20}.ipynb",
                    started=at * 10**9,
                    ended=at * 10**9 + rng.randrange(10**10),
                    parameters={f"p{name}": str(rng.randrange(10)) for name in range(NAMES)},
                    metrics=tuple(Metric(name=f"m{name}", value=rng.random(), time=at) for name in range(NAMES)),
                )
                for at in range(start, min(start + 5_000, count))
            ]
        )


def _pages(catalog: SqlCatalog) -> Iterator[tuple[str, float]]:
    best, rare, common = parse_sort("-metrics.m0"), parse(RARE), parse(FILTER)
    middle = catalog.search(sort=best, limit=2_000).next
    asked: dict[str, Callable[[], object]] = {
        "sorted": lambda: catalog.search(sort=best),
        "sorted, after 2,000": lambda: catalog.search(sort=best, after=middle),
        "sorted and filtered": lambda: catalog.search(common, sort=best),
        "filtered": lambda: catalog.search(common),
        "filtered, where few fit": lambda: catalog.search(rare),
        "newest first": catalog.search,
        "sorted by a parameter": lambda: catalog.search(sort=parse_sort("params.p0")),
        "counted, filtered": lambda: catalog.count_runs(common),
        "names completed": lambda: catalog.names_in_use("metrics", "m"),
    }
    for what, ask in asked.items():
        seconds = []
        for _ in range(5):
            began = time.perf_counter()
            ask()
            seconds.append(time.perf_counter() - began)
        yield what, statistics.median(seconds)


def _mlflow(*, quick: bool) -> tuple[dict[str, float], str]:
    """Return what MLflow takes, and how to call that: measured if it is installed, else as it was once."""
    if not installed("mlflow"):
        return KNOWN, "MLflow as it was once measured"
    import json

    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder, "told.json")
        counts = ("50", "500") if quick else ("1000", "10000")
        file = Path(folder, "peer.py")
        file.write_text(MLFLOW, "utf-8")
        own = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
        wall([sys.executable, str(file), f"sqlite:///{folder}/mlflow.db", *counts, str(NAMES), str(told)], env=own)
        return json.loads(told.read_text("utf-8")), f"MLflow with {int(counts[1]):,} runs"
