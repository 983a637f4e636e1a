"""mlbench: a notebook goes from prototype to production and back without being rewritten.

The notebook is the graph. One line on top of a cell, `%%step train`, is all that is added::

    # a cell tagged `parameters`
    origin: str = "JFK"      # airport the model is for
    trees: int = 200         # size of each forest

    %load_ext mlbench
    import pandas as pd

    %%step load
    flights = delays(origin)                # runs on the cluster; the cell returns at once

    %%step train
    model = fit(flights, trees)             # that it needs `flights` is read from its source
    mlbench.log(rmse=error(model))

    model                                   # a plain cell: waits for `train`, then shows the value

Each step's outputs, inputs, code, parameters and environment are recorded. Afterwards::

    mlbench.runs("metrics.rmse < 12")       # a DataFrame, newest first
    mlbench.run("mq2a")["train"].model      # a value of a former run

Importing this package is cheap: what is heavy is imported where it is used.
"""

from __future__ import annotations

from typing import Any

from mlbench.runs.context import context, log, log_artifact, progress, tag

__all__ = [
    "Failed",
    "__version__",
    "client",
    "context",
    "diff",
    "lineage",
    "load_ipython_extension",
    "log",
    "log_artifact",
    "progress",
    "run",
    "runs",
    "tag",
    "unload_ipython_extension",
]


def runs(query: str | None = None, *, sort: str | None = None, notebook: str | None = None, limit: int = 50) -> Any:
    """Return runs as a DataFrame, newest first: all of the store's, or those that a query is true of.

    Parameters
    ----------
    query
        As in `"metrics.rmse < 12 and params.origin = 'JFK'"`; the path of a notebook stands for its runs.
    sort
        What to sort by instead, as in `"-metrics.rmse"`: a minus is for the greatest first.
    notebook
        Only the runs of the notebook at this path.
    limit
        How many at most.

    Raises
    ------
    QueryError
        If the query cannot be read, with the place.
    """
    from mlbench.project import Project
    from mlbench.project.identity import is_notebook

    if isinstance(query, str) and notebook is None and is_notebook(query):
        query, notebook = None, query
    return Project.open().runs(query, sort=sort, notebook=notebook, limit=limit)


def run(prefix: str) -> Any:
    """Return the run of an id, or of a beginning of one: `mlbench.run("mq2a")["train"].model` is a value.

    Raises
    ------
    NotFound
        If no run, or more than one, begins with it.
    """
    from mlbench.project import Project

    return Project.open().run(prefix)


def lineage(
    of: str,
    step: str | None = None,
    name: str | None = None,
    *,
    execution: str | None = None,
    up: bool = True,
    down: bool = True,
) -> Any:
    """Return where a value comes from and what was made of it: `mlbench.lineage("mq2a", "train", "model")`.

    Parameters
    ----------
    of
        A run's id, or a beginning of it, or an artifact's digest, which then stands alone.
    step, name
        The step (`fit[3]` is an item of it) and the name that it bound.
    execution
        With a digest, an execution's id: of equal values those come first that it made or was given.
    up, down
        Which ways are followed.

    Raises
    ------
    NotFound
        If there is no such value.
    """
    from mlbench.project import Project, comparison

    found = comparison.lineage(Project.open(), of, step, name, execution=execution, up=up, down=down)
    return comparison.LineageView(found)


def diff(run: str, other: str | None = None, *, load: bool = True) -> Any:
    """Return what differs between two runs, in the order in which it matters: `mlbench.diff("mq2a", "x7fd")`.

    Parameters
    ----------
    run, other
        The runs' ids, or beginnings of these; the second one is the later. With one run only, it is compared with the
        last run of its notebook before it that succeeded.
    load
        Whether frames and arrays that differ are loaded to see where they first do. Nothing is unpickled.

    Raises
    ------
    NotFound
        If there is no such run, or several begin so.
    """
    from mlbench.project import Project, comparison

    project = Project.open()
    named = project.catalog.run(run)
    pair = (comparison.last_success(project, named), named) if other is None else (named, other)
    return comparison.DifferenceView(comparison.difference(project, *pair, load=load))


def client() -> Any:
    """Return a Dask client of the cluster that steps run on, in a step or a plain cell.

    It is Dask's default from then on: dask.array, dask.dataframe and joblib's `parallel_backend("dask")` use it.

    Raises
    ------
    UsageError
        Where mlbench has not been loaded.
    ServiceError
        If the cluster cannot be reached.
    """
    from mlbench.project.client import client

    return client()


def load_ipython_extension(shell: Any) -> None:
    """Make `%%step` known to a notebook (`%load_ext mlbench`)."""
    from mlbench.entrypoints import kernel

    kernel.load(shell)


def unload_ipython_extension(shell: Any) -> None:
    """Take it back (`%unload_ext mlbench`); steps under way go on."""
    from mlbench.entrypoints import kernel

    kernel.unload(shell)


def _jupyter_labextension_paths() -> list[dict[str, str]]:
    return [{"src": "labextension", "dest": "mlbench"}]  # where `jupyter-builder develop` finds the page's half


def __getattr__(name: str) -> Any:
    if name == "__version__":  # reading a distribution's metadata takes longer than all else here
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("mlbench")
        except PackageNotFoundError:
            return "0.0.0"
    if name == "Failed":
        from mlbench.core.failed import Failed

        return Failed
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
