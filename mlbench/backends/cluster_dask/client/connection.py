"""A Dask cluster that steps are handed to: its client, and what was opened for it."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import time
from collections.abc import Callable
from typing import Any, Final

from mlbench.backends.blobs import open_blobs
from mlbench.backends.cluster_dask import versions
from mlbench.core.ids import Digest, ExecutionId
from mlbench.core.messages import ClusterChoice, StepTask
from mlbench.core.records import Json
from mlbench.runs.wire import msgspec

__all__ = ["CONTROL_SECONDS", "Connection", "close_quietly"]

CONTROL_SECONDS: Final = 10.0
"""Seconds that workers have to answer what they are asked, unless somebody says otherwise."""

_CALL: Final = "__import__('mlbench.backends.cluster_dask.worker.plugin', fromlist=['_']).{name}(sealed)"

_WORKER_SECONDS: Final = 2.0

_log = logging.getLogger(__name__)


class Connection:
    """One cluster, connected.

    Parameters
    ----------
    cluster
        What was made for it and ends with it: Dask's cluster object; None where somebody else runs it.

    Attributes
    ----------
    asked
        How many workers it was asked for, None while nobody has said a number. They may come, or go, much later.
    silent
        The addresses of workers that do not answer, which get nothing to run.
    """

    def __init__(self, choice: ClusterChoice, client: Any, cluster: Any = None) -> None:
        self.choice = choice
        self.client = client
        self.cluster = cluster
        self.asked: int | None = None if choice.adapt is not None else choice.workers
        self._address = str(client.scheduler.address)
        self.silent: set[str] = set()
        self._met: set[str] = set()
        self._proofs: dict[str, Digest] = {}

    @property
    def foreign(self) -> bool:
        """Whether its workers are not this service's own."""
        return self.choice.kind != "local"

    @property
    def alive(self) -> bool:
        """Whether the scheduler is still there, as far as is known."""
        return bool(self.client.status == "running")

    @property
    def closed(self) -> bool:
        """Whether the scheduler is gone for good: it has not been found again."""
        return self.client.status in ("closing", "closed")

    @property
    def loss(self) -> str:
        """A sentence that says that the scheduler is gone."""
        return f"The scheduler of cluster {self.choice.name} at {self._address} does not answer any more."

    def drop(self) -> None:
        """Take the scheduler for lost, which does not answer: Dask's client looks for it again for a while."""
        _log.error("%s", self.loss)
        comm = self.client.scheduler_comm
        if comm is not None:
            comm.comm.abort()

    async def answering(self) -> list[str] | None:
        """Return the workers that may be given something to run; None if it is all of them."""
        if not self.silent:
            return None
        known = await asyncio.wait_for(self.client.scheduler.identity(), CONTROL_SECONDS)
        self.silent &= set(known["workers"])
        return sorted(set(known["workers"]) - self.silent) or None

    async def answers(self, patience: float) -> bool:
        """Say whether the scheduler does."""
        try:
            await asyncio.wait_for(self.client.scheduler.identity(), patience)
        except Exception:  # noqa: BLE001  whatever it is, nobody has answered
            return False
        return True

    async def ask(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        workers: list[str] | None = None,
        patience: float = CONTROL_SECONDS,
    ) -> dict[str, Any]:
        """Call a function in workers' event loops; return the answers of those that gave one, by address."""
        try:
            answers = await asyncio.wait_for(
                self.client.run(function, *arguments, workers=workers, on_error="ignore"), patience
            )
        except Exception as error:  # noqa: BLE001  a worker is being replaced: its steps have ended with it
            _log.warning("Workers of %s did not answer: %s", self.choice.name, type(error).__name__)
            return {}
        return dict(answers)

    async def hold(self, execution: ExecutionId, *, held: bool) -> None:
        """Have workers that come later hold what waits of an execution, or do so no more."""
        from mlbench.backends.cluster_dask.worker import plugin

        try:
            if held:
                work = self.client.register_plugin(plugin.Held(execution))
            else:
                work = self.client.unregister_worker_plugin(plugin.held_name(execution))
            await asyncio.wait_for(work, CONTROL_SECONDS)
        except Exception as error:  # noqa: BLE001  whatever is wrong there, chunks will say so
            _log.warning("The scheduler of %s could not be told what is held: %s", self.choice.name, error)

    async def resources(self) -> dict[str, dict[str, float]]:
        """Return what each worker has, by its name, waiting some seconds for the first worker."""
        until = time.monotonic() + _WORKER_SECONDS
        while True:
            known = await asyncio.wait_for(self.client.scheduler.identity(), CONTROL_SECONDS)
            found = {f"{one['name']}": dict(one["resources"]) for one in known["workers"].values()}
            # What a worker has is told after it has come: one that has told nothing yet may have everything.
            if (found and all(found.values())) or time.monotonic() > until:
                return found
            await asyncio.sleep(0.1)

    async def meet(self, choice: ClusterChoice, *, again: bool = False) -> tuple[str, ...]:
        """Compare what a kernel has with what the workers have; return lines for its user, the first time alone.

        Parameters
        ----------
        choice
            With the kernel's versions; without any, nothing is compared.
        again
            Return them whether or not they have been told.

        Raises
        ------
        ServiceError
            If steps of this kernel cannot run on the workers.
        """
        name = repr(sorted(choice.versions.items()))
        if not choice.versions or (name in self._met and not again):
            return ()
        found = await self.ask(eval, versions.asked())
        versions.check(choice.versions, found, choice.name)
        if not found:
            return (f"Cluster {choice.name} has no worker yet: steps wait for one.",)
        if not again:
            self._met.add(name)
        return versions.differences(choice.versions, found)

    async def call(self, name: str, task: StepTask) -> tuple[Any, ...]:
        """Return what to submit so that a worker's `run_step` or `run_chunk` gets a task: a function, its arguments."""
        from mlbench.backends.cluster_dask.worker import plugin as worker
        from mlbench.backends.cluster_dask.worker import supervisor, visiting

        if not self.foreign:
            return getattr(worker, name), supervisor.Sealed(msgspec.msgpack.encode(task))
        if task.store not in self._proofs:
            self._proofs[task.store] = await asyncio.to_thread(open_blobs(task.store, make=False).put, os.urandom(32))
        sealed = (msgspec.msgpack.encode(visiting.travelling(task)), self._proofs[task.store])
        # Schedulers read what they are given, and theirs need not have mlbench: only words that every Python has.
        return eval, _CALL.format(name=name), {"sealed": io.BytesIO(msgspec.msgpack.encode(sealed))}

    async def describe(self) -> Json:
        """Return the scheduler's address, the dashboard's and what workers there are, as plain JSON."""
        known = await asyncio.wait_for(self.client.scheduler.identity(), CONTROL_SECONDS)
        workers = [
            {
                "address": address,
                "name": str(one["name"]),
                "host": one["host"],
                "threads": one["nthreads"],
                "memory": one["memory_limit"] or None,
                "resources": dict(one["resources"]),
            }
            for address, one in known["workers"].items()
        ]
        port = (known.get("services") or {}).get("dashboard") if self.foreign else None
        link = str(self.client.dashboard_link) if port else None
        return {"address": known["address"], "dashboard": link, "workers": workers, "asked": self.asked}

    def reach(self) -> Json:
        """Return how another client reaches the scheduler."""
        security = self.client.security
        return {
            "address": self.client.scheduler.address,
            "ca": security.tls_ca_file,
            "cert": security.tls_client_cert,
            "key": security.tls_client_key,
        }

    async def close(self) -> None:
        """End what was opened."""
        await close_quietly(self.client, self.cluster)


async def close_quietly(*ones: Any) -> None:
    """Close clients and clusters, one after the other; what does not close in time is left to end with this process."""
    for one in ones:
        if one is not None:
            try:
                closing = one.close() if getattr(one, "asynchronous", True) else asyncio.to_thread(one.close)
                if closing is not None:
                    await asyncio.wait_for(closing, 10)
            except Exception:  # noqa: BLE001  what will not close is ended with this process
                _log.warning("A cluster did not close in time", exc_info=True)
