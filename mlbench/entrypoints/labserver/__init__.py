"""JupyterLab's server half: REST and news under `/mlbench/api/v1`, for whoever may, and never a pickle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jupyter_server.serverapp import ServerApp

__all__ = ["load_jupyter_server_extension"]


def _jupyter_server_extension_points() -> list[dict[str, Any]]:
    return [{"module": "mlbench.entrypoints.labserver"}]


def load_jupyter_server_extension(server: ServerApp) -> None:
    """Add the handlers to a server. Nothing is opened or connected before the first request."""
    from mlbench.entrypoints.labserver.news import Newsroom
    from mlbench.entrypoints.labserver.routes import routes
    from mlbench.entrypoints.labserver.stores import Stores

    settings = server.web_app.settings
    root = getattr(server.contents_manager, "root_dir", None) or server.root_dir
    stores = Stores(str(root))
    newsroom = settings["mlbench_newsroom"] = Newsroom(stores)
    handlers = routes(settings["base_url"], stores, newsroom)
    server.web_app.add_handlers(".*$", handlers)  # type: ignore[no-untyped-call]
    server.log.info("mlbench answers under %s", "/mlbench/api/v1")


_load_jupyter_server_extension = load_jupyter_server_extension
