"""Every address of the interface, and the handler that answers it."""

from __future__ import annotations

import re
from typing import Any

from jupyter_server.utils import url_path_join
from tornado import web

from mlbench.entrypoints.labserver import (
    artifacts,
    document,
    events,
    executions,
    graph,
    jobs,
    lineage,
    outputs,
    runs,
    schedule,
    status,
)
from mlbench.entrypoints.labserver.door import DIGEST, ID, NothingHere
from mlbench.entrypoints.labserver.news import Newsroom
from mlbench.entrypoints.labserver.schema import PREFIX
from mlbench.entrypoints.labserver.stores import Stores

__all__ = ["HANDLERS", "routes"]

HANDLERS: tuple[tuple[str, type[web.RequestHandler]], ...] = (
    ("status", status.StatusOfServer),
    ("dashboards", status.DashboardsOfClusters),
    ("runs", runs.RunPage),
    ("completions", runs.NamesInUse),
    (f"runs/{ID}", runs.OneRun),
    (f"runs/{ID}/notebook", runs.Notebook),
    (f"runs/{ID}/diff", lineage.DifferenceOfRuns),
    (f"runs/{ID}/cancel", runs.Cancel),
    (f"runs/{ID}/resume", runs.Resume),
    (f"executions/{ID}", executions.OneExecution),
    (f"executions/{ID}/items", executions.Items),
    (f"executions/{ID}/metric", executions.MetricOfItems),
    (f"executions/{ID}/cancel", executions.Cancel),
    (f"executions/{ID}/keep", executions.Keep),
    (f"artifacts/{DIGEST}/lineage", lineage.LineageOfArtifact),
    (f"artifacts/{DIGEST}/content", artifacts.ContentOfArtifact),
    (f"artifacts/{DIGEST}/files", artifacts.FilesOfArtifact),
    (f"artifacts/{DIGEST}/picture", artifacts.PictureOfArtifact),
    ("graph", graph.GraphOfCells),
    ("outputs", outputs.OutputsOfCells),
    ("identity", outputs.IdentityOfNotebook),
    ("document", document.DocumentOfKernel),
    ("jobs", jobs.Jobs),
    ("jobs/check", jobs.Check),
    (f"jobs/{ID}", jobs.OneJob),
    (f"jobs/{ID}/run", jobs.RunNow),
    (f"jobs/{ID}/firings", jobs.FiringsOfJob),
    ("schedule/preview", schedule.Preview),
    ("events", events.Events),
    (".*", NothingHere),
)


def routes(
    base_url: str, stores: Stores, newsroom: Newsroom
) -> list[tuple[str, type[web.RequestHandler], dict[str, Any]]]:
    """Return what tornado takes: patterns, handlers, and what these share."""
    shared = {"stores": stores, "newsroom": newsroom}
    prefix = re.escape(url_path_join(base_url, PREFIX))
    return [(f"{prefix}/{pattern}", handler, shared) for pattern, handler in HANDLERS]
