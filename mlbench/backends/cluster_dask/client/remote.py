"""A cluster that is not this machine's own: one at an address, or one that a class makes, by name."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any, Final

from mlbench.backends.cluster_dask.client.connection import Connection, close_quietly
from mlbench.backends.cluster_dask.client.localcluster import import_distributed
from mlbench.core.errors import MlbenchError, ServiceError
from mlbench.core.messages import ClusterChoice

__all__ = ["CONNECT_SECONDS", "connect", "make", "scale"]

CONNECT_SECONDS: Final = 10.0
"""Seconds in which a scheduler has to answer."""

_PROBE_SECONDS: Final = 2.0

Hear = Callable[[tuple[float, Any]], None]

_log = logging.getLogger(__name__)


async def connect(choice: ClusterChoice, hear: Hear) -> Connection:
    """Connect to the scheduler at an address.

    Raises
    ------
    ServiceError
        If it does not answer in time, or its workers cannot run steps of this kernel.
    """
    distributed = await import_distributed()
    assert choice.address is not None
    security = None
    if choice.tls is not None:
        security = distributed.Security(
            tls_ca_file=choice.tls.ca_file,
            tls_client_cert=choice.tls.cert,
            tls_client_key=choice.tls.key,
            require_encryption=True,
        )
    client = None
    try:
        client = distributed.Client(
            choice.address,
            asynchronous=True,
            security=security,
            timeout=CONNECT_SECONDS,
            set_as_default=False,
            name="mlbench",
        )
        await asyncio.wait_for(client, CONNECT_SECONDS)
        return await _greet(choice, client, None, hear)
    except MlbenchError:
        await close_quietly(client)
        raise
    except (Exception, asyncio.CancelledError) as error:
        await close_quietly(client)
        current = asyncio.current_task()
        if isinstance(error, asyncio.CancelledError) and current is not None and current.cancelling():
            raise
        raise await _unreachable(choice.address, error) from error


async def _unreachable(address: str, error: BaseException) -> ServiceError:
    """Say why nobody could be spoken to at an address, as far as can be found out."""
    why, remedy = _why(error), "Check the address, and that the scheduler can be reached from here."
    if "Worker.identity" in why:
        return ServiceError(f"At {address} there is a Dask worker.", "Name the address of its scheduler.")
    if ".identity" in why:
        return ServiceError(
            f"The Dask scheduler at {address} has a version of distributed that this one cannot speak to.",
            f"Have distributed {metadata.version('distributed')} there, or its version here, where the service runs.",
        )
    if address.startswith("tls://"):
        remedy = "Check the address, that the scheduler can be reached from here, and the certificates."
        if "ssl_context" in why:
            why, remedy = "TLS needs certificates", _CERTIFICATES
    if isinstance(error, asyncio.CancelledError | TimeoutError):  # of what it has tried meanwhile, Dask does not tell
        why = await _what_is_there(address)
    return ServiceError(f"No Dask scheduler answers at {address} within {CONNECT_SECONDS:g} s: {why}.", remedy)


_CERTIFICATES: Final = (
    "Name them with --tls-ca, --tls-cert and --tls-key, in the cluster's configuration (`tls`), or in Dask's own."
)


async def _what_is_there(address: str) -> str:
    """Try an address as a plain connection, and say what comes of it."""
    host, _, port = address.partition("://")[2].rpartition(":")
    try:
        opened = asyncio.open_connection(host.strip("[]"), int(port))
        _, writer = await asyncio.wait_for(opened, _PROBE_SECONDS)
    except TimeoutError:
        return "nothing there answers at all"
    except (OSError, OverflowError, ValueError) as error:
        return _why(error)
    writer.close()
    return "something listens there, and does not speak as a Dask scheduler does"


async def make(choice: ClusterChoice, hear: Hear) -> Connection:
    """Make a cluster by its class, and connect to it.

    Raises
    ------
    ServiceError
        If the class cannot be imported, refuses its arguments, or its cluster does not start.
    """
    distributed = await import_distributed()
    kind = await _class_of(choice)
    cluster: Any = None
    client: Any = None
    try:
        with _settings_of_others():
            arguments: dict[str, Any] = dict(choice.kwargs)
            if _takes_asynchronous(kind):
                cluster = kind(*choice.args, **{"asynchronous": True, **arguments})
                if inspect.isawaitable(cluster):
                    cluster = await cluster
            else:
                cluster = await asyncio.to_thread(kind, *choice.args, **arguments)
        if choice.adapt is not None:
            cluster.adapt(**choice.adapt)
        elif choice.workers is not None:
            await scale(cluster, choice.workers)
        if getattr(cluster, "asynchronous", False):
            client = distributed.Client(cluster, asynchronous=True, set_as_default=False, name="mlbench")
        else:  # it lives in another loop
            client = distributed.Client(
                cluster.scheduler_address,
                security=getattr(cluster, "security", None),
                asynchronous=True,
                set_as_default=False,
                name="mlbench",
            )
        await client
        return await _greet(choice, client, cluster, hear)
    except MlbenchError:
        await close_quietly(client, cluster)
        raise
    except Exception as error:
        await close_quietly(client, cluster)
        first = _first_cause(error)
        if isinstance(first, TypeError | ValueError) and client is None:
            raise ServiceError(
                f"{choice.factory} refuses the arguments of cluster {choice.name}: {str(first).rstrip('.')}.",
                "Correct `args` and `kwargs` in its configuration.",
            ) from error
        raise ServiceError(
            f"The cluster {choice.name} ({choice.factory}) could not be started: {_why(error)}.",
            "See that its class works by itself, then run the cell again.",
        ) from error


async def scale(cluster: Any, workers: int) -> None:
    """Ask a cluster for a number of workers; they may come much later."""
    asked = cluster.scale(workers)
    if inspect.isawaitable(asked):
        await asked


async def _greet(choice: ClusterChoice, client: Any, cluster: Any, hear: Hear) -> Connection:
    from mlbench.backends.cluster_dask.worker import plugin as worker

    connection = Connection(choice, client, cluster)
    await connection.meet(choice, again=True)  # for its refusals: what differs is told to whoever asks next
    await client.register_plugin(worker.StepWorker(own=False))
    client.subscribe_topic(worker.TOPIC, hear)
    return connection


async def _class_of(choice: ClusterChoice) -> Any:
    assert choice.factory is not None
    module, _, name = choice.factory.replace(":", ".").rpartition(".")
    try:
        if not module:
            raise ImportError("it names no module")
        kind = getattr(await _imported(module), name)
    except (ImportError, AttributeError) as error:
        raise ServiceError(
            f"The class {choice.factory} of cluster {choice.name} can't be imported: {error}.",
            f"Install it where the service runs ({sys.executable}), or correct `factory` in the configuration.",
        ) from error
    except (Exception, SystemExit) as error:
        raise ServiceError(
            f"The class {choice.factory} of cluster {choice.name} can't be imported: {_why(error)}.",
            f"See that `import {module}` works where the service runs ({sys.executable}), then run the cell again.",
        ) from error
    if not callable(kind):
        raise ServiceError(f"{choice.factory} of cluster {choice.name} is no class.", "Correct `factory`.")
    return kind


async def _imported(module: str) -> Any:
    """Import a module, which may take seconds, in a thread; in the main one if that is what it needs.

    Signal handlers can be set in the main thread alone, and dask-jobqueue sets one as it is imported. Those of the
    service stay.
    """
    try:
        return await asyncio.to_thread(importlib.import_module, module)
    except ValueError as error:
        if "main thread" not in str(error) or threading.current_thread() is not threading.main_thread():
            raise
    with _handlers_kept():
        return importlib.import_module(module)  # by now most of what it needs is there


@contextlib.contextmanager
def _handlers_kept() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None and signal.getsignal(number) != handler:
                signal.signal(number, handler)


def _takes_asynchronous(kind: Any) -> bool:
    """Say whether a class, or one that it hands its arguments to, has the argument that Dask's clusters have."""
    for one in getattr(kind, "__mro__", (kind,)):
        with contextlib.suppress(TypeError, ValueError):  # a class of C code shows no signature
            if "asynchronous" in inspect.signature(one).parameters:
                return True
    return False


@contextlib.contextmanager
def _settings_of_others() -> Iterator[None]:
    """Let a cluster that is made here be as Dask makes it, where our settings are for this machine's alone."""
    import dask.config

    plain: dict[str, Any] = {}
    for defaults in dask.config.defaults:
        plain = defaults.get("distributed", plain)
    settings = {
        "distributed.scheduler.http.routes": plain["scheduler"]["http"]["routes"],
        "distributed.worker.http.routes": plain["worker"]["http"]["routes"],
        "distributed.scheduler.worker-ttl": plain["scheduler"]["worker-ttl"],
    }
    with dask.config.set(settings):
        yield


def _first_cause(error: BaseException) -> BaseException:
    """Return the error that others were raised from: of a worker that can't start, Dask says no more than that."""
    seen = {id(error)}
    while error.__cause__ is not None and id(error.__cause__) not in seen:
        error = error.__cause__
        seen.add(id(error))
    return error


def _why(error: BaseException) -> str:
    error = _first_cause(error)
    text = str(error).strip().rstrip(".").splitlines()
    return f"{type(error).__name__}: {text[0][:300]}" if text else type(error).__name__
