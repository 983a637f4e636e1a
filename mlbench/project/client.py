"""`mlbench.client()`: a Dask client, in a step or a plain cell, of the cluster that steps run on."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mlbench.core.errors import UsageError
from mlbench.core.messages import Environment
from mlbench.core.records import Json
from mlbench.runs import context

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["client", "wanted"]

_CONNECT_SECONDS: Final = 30.0
_START_SECONDS: Final = 120.0
_clients: Final[dict[str, Any]] = {}


def client() -> Client:
    """Return a Dask client of the cluster that steps run on; the same one each time in one process.

    It is Dask's default client from then on, so that dask.array, dask.dataframe and joblib's
    `parallel_backend("dask")` use it without being told. A step that has asked for it does not hold the place on its
    worker that its own tasks need.

    Raises
    ------
    UsageError
        Outside of a notebook that has loaded mlbench, and of its steps.
    ServiceError
        If the cluster cannot be reached.
    """
    reach = context.current().reach
    if reach is None:
        raise UsageError(
            "mlbench.client() works in steps, and in cells of a notebook that has run %load_ext mlbench.",
            "Elsewhere, make a distributed.Client.",
        )
    facts = reach()
    if "address" not in facts:
        facts = _ask(facts.get("service"))
    return _connected(facts)


def wanted() -> Json:
    """Return what the service has to know to give this process workers that are like it."""
    variables = dict(os.environ)
    path = [os.path.abspath(folder) for folder in sys.path]
    environment = Environment(interpreter=sys.executable, variables=variables, stamp="")
    return {"environment": environment, "folder": os.getcwd(), "path": path, "state": _state_of_modules()}


def _state_of_modules() -> dict[str, tuple[int, int]]:
    """Return time and size of the modules that are loaded here and are no installation: workers import them once."""
    state: dict[str, tuple[int, int]] = {}
    installed = (sys.prefix, sys.base_prefix, os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep)
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if not isinstance(file, str) or file.startswith(installed) or not file.endswith(".py"):
            continue
        try:
            found = os.stat(file)
        except OSError:
            continue
        state[file] = (found.st_mtime_ns, found.st_size)
    return state


def _ask(runtime: str | None) -> Json:
    from mlbench.backends.service_socket import connect

    with connect(role="step", start=False, runtime=Path(runtime) if runtime else None) as service:
        facts: Json = service.request("client", wanted(), timeout=_START_SECONDS)
    return facts


def _connected(facts: Json) -> Client:
    import distributed

    address = facts["address"]
    known = _clients.get(address)
    if known is not None and known.status == "running":
        return known  # type: ignore[no-any-return]
    security = None
    if facts.get("ca") is not None:
        make: Any = distributed.Security
        security = make(
            tls_ca_file=facts["ca"],
            tls_client_cert=facts.get("cert"),
            tls_client_key=facts.get("key"),
            require_encryption=True,
        )
    for other in list(_clients):
        _clients.pop(other).close()  # of a cluster that was replaced
    _by_value(facts.get("modules"))
    made: Any = distributed.Client
    _clients[address] = found = made(address, security=security, timeout=_CONNECT_SECONDS)
    return found  # type: ignore[no-any-return]


def _by_value(folder: str | None) -> None:
    """Let functions of the modules that came along travel on by value: other workers do not have their folder."""
    if folder is None:
        return
    import cloudpickle

    for module in list(sys.modules.values()):
        if str(getattr(module, "__file__", None) or "").startswith(folder + os.sep):
            cloudpickle.register_pickle_by_value(module)
