"""The operation `cluster`: show, start, scale, stop and use the clusters that steps run on."""

from __future__ import annotations

from typing import Any, Protocol

from mlbench.core.errors import ServiceError
from mlbench.core.messages import ClusterChoice, Environment
from mlbench.core.records import Json
from mlbench.runs.wire import msgspec

__all__ = ["Clusters", "answer", "reach"]


class Clusters(Protocol):
    """What an executor that has clusters can do: `mlbench.backends.cluster_dask.client.cluster.DaskCluster`."""

    async def start(self, choice: ClusterChoice | None = None) -> Any: ...
    async def use(self, choice: ClusterChoice) -> tuple[str, ...]: ...
    async def dashboards(self) -> dict[str, str]: ...
    async def describe(self, choice: ClusterChoice | None = None) -> Json: ...
    async def scale(self, choice: ClusterChoice | None, workers: int) -> None: ...
    async def stop(self, choice: ClusterChoice | None = None) -> list[str]: ...


async def reach(executor: Any, body: Json) -> Json:
    """Return how a Dask client reaches the cluster, for `mlbench.client()` in a step or a plain cell.

    Raises
    ------
    ServiceError
        If there is none, and none can be started.
    """
    if not hasattr(executor, "client"):
        raise ServiceError("The steps of this service run on no cluster.")
    try:
        environment = msgspec.convert(body["environment"], Environment)
        choice = msgspec.convert(body.get("choice") or {}, ClusterChoice)
    except (msgspec.ValidationError, KeyError) as error:
        raise ServiceError(
            f"The service cannot read what mlbench.client() asks: {error}.", "Update mlbench."
        ) from error
    folder, path = str(body["folder"]), [str(one) for one in body["path"]]
    state = {str(file): tuple(found) for file, found in body["state"].items()}
    found: Json = await executor.client(environment, folder, path, state, choice)
    return found


async def answer(executor: Any, body: Json) -> Json:
    """Do what a kernel or a command asks of a cluster; return what it then is, with `notices` for the user.

    Parameters
    ----------
    body
        `verb` (`show`, `start`, `scale`, `stop`, `use`, or `dashboards`, which answers those of all), `choice`,
        `workers` for `scale`, `force` for `stop`.

    Raises
    ------
    ServiceError
        If it cannot be done; the sentence says why.
    """
    if not hasattr(executor, "describe"):
        raise ServiceError("The steps of this service run on no cluster.")
    clusters: Clusters = executor
    if body.get("verb") == "dashboards":
        return {"dashboards": await clusters.dashboards()}
    try:
        choice = msgspec.convert(body.get("choice") or {}, ClusterChoice)
    except msgspec.ValidationError as error:
        raise ServiceError(f"The service cannot read this cluster: {error}.", "Update mlbench.") from error
    notices: tuple[str, ...] = ()
    match body.get("verb", "show"):
        case "show":
            pass
        case "start" | "use":
            if choice.kind == "local":
                if body.get("verb") == "start":
                    await clusters.start(choice)
            else:
                notices = await clusters.use(choice)
        case "scale":
            await clusters.scale(choice, int(body["workers"]))
        case "stop":
            under_way = (await clusters.describe(choice))["under_way"]
            if under_way and not body.get("force"):
                raise ServiceError(
                    f"The cluster {choice.name} was not stopped: {', '.join(sorted(set(under_way)))} "
                    f"{'is' if len(set(under_way)) == 1 else 'are'} under way there.",
                    "Add --force to end them.",
                )
            await clusters.stop(choice)
        case other:
            raise ServiceError(f"A cluster can't be asked to {other}.", "Update mlbench.")
    return {**await clusters.describe(choice), "notices": list(notices)}
