"""The process: its socket, its stores, the operations that it answers, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from mlbench.backends.blobs import canonical
from mlbench.backends.owners import is_alive, owner_of_this_process, sweep
from mlbench.backends.service_socket.door import Door, ServiceInfo
from mlbench.backends.service_socket.start import retire_older
from mlbench.core.errors import MlbenchError, NotFound, ServiceError
from mlbench.core.ids import ExecutionId, RunId, new_id
from mlbench.core.messages import PROTOCOL, KernelHello, Submission
from mlbench.core.records import Execution, Firing, Job, Json, Reason, Run
from mlbench.entrypoints.service import clusters, remembered
from mlbench.entrypoints.service.events import News, Wish
from mlbench.entrypoints.service.firing import Scheduler
from mlbench.entrypoints.service.peers import OLDEST_PROTOCOL, Peer
from mlbench.entrypoints.service.sessions import Session
from mlbench.entrypoints.service.steps import Executor
from mlbench.entrypoints.service.store import OpenStore
from mlbench.project.configuration import remember_catalog
from mlbench.runs.wire import msgspec

if TYPE_CHECKING:
    from mlbench.project import Project

__all__ = ["Service"]

logger = logging.getLogger(__name__)

LINGER: Final = 1.0
"""Seconds without clients or work after which a service that is to end when idle does."""

FIRST_CLIENT: Final = 60.0
"""Seconds that such a service waits for its first client."""

PATIENCE: Final = 8.0
"""Seconds for steps to be gone when the service ends."""

ENGINE_PATIENCE: Final = 3.0
"""Seconds after the loss of an engine's connection before it is looked whether the engine is alive."""

TOUCH_EVERY: Final = 6 * 3600
"""Seconds between two touches of the files in the runtime folder."""

LOOK_EVERY: Final = 10.0
"""Seconds between two looks whether those files are still there."""

HOLD_EVERY: Final = 600
"""Seconds after which it is said again what open notebooks need, where that was said more than an hour ago."""

SWEEP_EVERY: Final = 3600
"""Seconds between two searches for what killed processes have left behind."""

T = TypeVar("T")


class _Clock:
    def now(self) -> int:
        return time.time_ns()


class Service:
    """One life of the service.

    Parameters
    ----------
    door
        Where it listens.
    executor
        What runs steps; it may have `start`, `prepare`, `close`, `running` and `idle_since` as the Dask cluster has.
    open_project
        Opens a store by its path.
    version
        What it says of itself.
    until_idle
        End when the last client has gone and nothing is under way.
    """

    def __init__(
        self,
        door: Door,
        executor: Executor,
        *,
        open_project: Callable[[str], Project],
        version: str,
        until_idle: bool = False,
    ) -> None:
        self.door = door
        self.info = ServiceInfo(
            protocol=PROTOCOL, version=version, pid=os.getpid(), life=new_id(), serves=(OLDEST_PROTOCOL, PROTOCOL)
        )
        self._executor = executor
        self._open_project = open_project
        self._until_idle = until_idle
        self._since = time.time_ns()
        self._news = News(self.info.life)
        self._owner = owner_of_this_process()
        self._stores: dict[str, OpenStore] = {}
        self._opening: dict[str, asyncio.Task[OpenStore]] = {}
        self._schedulers: dict[str, Scheduler] = {}
        self._peers: set[Peer] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._retired = False
        self._had_client = False
        self._stop = asyncio.Event()
        self._farewell = "The mlbench service was stopped."
        self._stirred = asyncio.Event()

    # --- life --------------------------------------------------------------------------------------------------------

    async def run(self, listening: socket.socket, ready: Callable[[], None]) -> None:
        """Serve until it is told to stop, or is not needed any more."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        server = await asyncio.start_unix_server(self._welcome, sock=listening, limit=1 << 20)
        ready()
        logger.info("mlbench service %s, process %s, listens at %s", self.info.version, self.info.pid, self.door.socket)
        self._spawn(asyncio.to_thread(_import_stores))
        self._spawn(self._retire_older())
        self._spawn(self._open_remembered())
        self._spawn(self._watch())
        self._spawn(self._keep_files())
        self._spawn(self._sweep())
        self._spawn(self._hold())
        await self._stop.wait()
        logger.info("Ending: %s", self._farewell)
        server.close()
        if self.door.leads_to(self.info.pid):  # or it is that of the service which came after this one's was deleted
            self.door.socket.unlink(missing_ok=True)
        await self._end()

    async def _retire_older(self) -> None:
        try:
            for version in await asyncio.to_thread(retire_older, self.door):
                logger.info("The service of mlbench %s takes no new work and ends with what it has", version)
        except (ServiceError, OSError) as error:
            logger.warning("A service of another version could not be told to retire: %s", error)

    async def _sweep(self) -> None:
        """Remove, now and then, what killed processes have left in the temporary folder."""
        while True:
            try:
                for folder in await asyncio.to_thread(sweep):
                    logger.info("Removed %s, which a process that was killed had left", folder)
            except OSError as error:
                logger.warning("The temporary folder cannot be looked through: %s", error)
            await asyncio.sleep(SWEEP_EVERY)

    async def _hold(self) -> None:
        """Say now and then what open notebooks need. A machine that slept is late by that much, when it wakes."""
        while True:
            await asyncio.sleep(HOLD_EVERY)
            await self.op_hold(None, {})

    async def _keep_files(self) -> None:
        """Touch the door's files now and then: what clears a temporary folder takes untouched ones for forgotten."""
        touched = time.monotonic()
        while not self._retired:
            await asyncio.sleep(LOOK_EVERY)
            if not await asyncio.to_thread(self.door.leads_to, self.info.pid):
                # A session's folder goes with its last log-in, and people clear temporary ones. Whoever comes now finds
                # nobody and starts another service, and nobody could ever find and stop this one.
                logger.warning("The files in %s are gone: this service takes no new work", self.door.folder)
                self._retire(f"The files of the mlbench service in {self.door.folder} were deleted.")
            elif time.monotonic() - touched >= TOUCH_EVERY:
                touched = time.monotonic()
                for path in (self.door.socket, self.door.lock, self.door.log, self.door.folder):
                    with contextlib.suppress(OSError):
                        os.utime(path)

    async def _end(self) -> None:
        schedulers = [scheduler.close() for scheduler in self._schedulers.values()]
        await asyncio.gather(*schedulers, return_exceptions=True)
        closing = [store.close(patience=PATIENCE) for store in self._stores.values()]
        for problem in await asyncio.gather(*closing, return_exceptions=True):
            if isinstance(problem, BaseException):
                logger.error("A store was not closed in order", exc_info=problem)
        close = getattr(self._executor, "close", None)
        if close is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(close(), PATIENCE)
        for peer in list(self._peers):
            await peer.close(self._farewell)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.sleep(0)

    async def _watch(self) -> None:
        """End a service that is not needed any more; wakes when something has ended."""
        begun = time.monotonic()
        while True:
            self._stirred.clear()
            wait: float | None = None
            if self._unneeded():
                wait = LINGER if self._had_client else max(LINGER, begun + FIRST_CLIENT - time.monotonic())
            try:
                await asyncio.wait_for(self._stirred.wait(), wait)
            except TimeoutError:
                if self._unneeded():
                    if not self._retired:
                        self._farewell = "The mlbench service ended: nothing was left to do."
                    self._stop.set()
                    return

    def _unneeded(self) -> bool:
        if self._under_way() or any(scheduler.busy for scheduler in self._schedulers.values()):
            return False
        return self._retired or (self._until_idle and not self._peers)

    def _stir(self) -> None:
        self._stirred.set()

    def _under_way(self) -> list[Execution]:
        return [record for store in self._stores.values() for record in store.under_way()]

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("Something in the background failed", exc_info=error)

    # --- stores ------------------------------------------------------------------------------------------------------

    async def store(self, path: str, catalog: str | None = None) -> OpenStore:
        """Return an open store; several who need it at once get one."""
        path = canonical(path)
        remember_catalog(path, catalog)
        if path in self._stores and self._stores[path].was_replaced():
            await self._forget(path)
        if path in self._stores:
            self._stores[path].require(catalog)
            return self._stores[path]
        if path not in self._opening:
            self._opening[path] = asyncio.ensure_future(self._open(path))
        try:
            return await asyncio.shield(self._opening[path])
        finally:
            if path in self._opening and self._opening[path].done():
                del self._opening[path]

    async def _open(self, path: str) -> OpenStore:
        project = await asyncio.to_thread(self._open_project, path)
        store = OpenStore(project, self._executor, self._news, self._owner, self._stir)
        await store.open()
        self._stores[path] = store
        scheduler = Scheduler(project, _Clock(), partial(self._job_changed, path))
        self._schedulers[path] = scheduler
        self._spawn(scheduler.run())
        await self._note_schedules(store)
        return store

    async def _forget(self, path: str) -> None:
        """Leave a store in whose place there is another one now; the kernels that used it come back by themselves."""
        logger.warning("The store %s was replaced by another one", path)
        store, scheduler = self._stores.pop(path), self._schedulers.pop(path)
        for peer in [one for one in self._peers if one.store is store]:
            await peer.close(f"The store {path} was replaced by another one.")
        await scheduler.close()
        await store.leave()

    async def _open_remembered(self) -> None:
        """Open the stores that have schedules, so that these are fired whether or not anybody connects."""
        for path in await asyncio.to_thread(remembered.stores):
            try:
                await self.store(path)
            except MlbenchError as error:
                logger.warning("The store %s, which has schedules, cannot be opened: %s", path, error)

    async def _note_schedules(self, store: OpenStore) -> None:
        scheduled = await store.ledger.ask(partial(_has_schedules, store.project))
        await asyncio.to_thread(remembered.note, store.path, scheduled=scheduled)

    def _job_changed(self, path: str, job: Job, firing: Firing | None) -> None:
        body: Json = {"job": job, "store": path, **({"firing": firing} if firing is not None else {})}
        self._news.publish("job", body, notebook=job.notebook)
        self._stir()

    # --- connections -------------------------------------------------------------------------------------------------

    async def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer, self._greet, self._handle)
        try:
            await peer.serve()
        finally:
            self._leave(peer)

    def _greet(self, peer: Peer, _: dict[str, Any]) -> ServiceInfo:
        self._peers.add(peer)
        self._had_client = True
        self._stir()
        return replace(self.info, retired=self._retired or self._stop.is_set())

    def _leave(self, peer: Peer) -> None:
        self._peers.discard(peer)
        self._news.leave(peer)
        others = any(other.session is peer.session for other in self._peers)
        if peer.session is not None and peer.store is not None and not others:
            peer.store.detach(peer.session)
        for store, run in peer.opened_runs:
            asyncio.get_running_loop().call_later(ENGINE_PATIENCE, self._look_after, store, RunId(run))
        self._stir()

    def _look_after(self, store: OpenStore, run: RunId) -> None:
        if not any(run == opened for peer in self._peers for _, opened in peer.opened_runs):
            self._spawn(store.abandon_run(run, is_alive))

    async def _handle(self, peer: Peer, op: str, body: Any) -> Any:
        operation = getattr(self, f"op_{op}", None)
        if operation is None:
            raise ServiceError(f"This mlbench service ({self.info.version}) does not know the operation {op!r}.")
        return await operation(peer, body if body is not None else {})

    def _session(self, peer: Peer) -> tuple[OpenStore, Session]:
        if peer.session is None or peer.store is None:
            raise ServiceError("This connection has not attached a kernel.")
        return peer.store, peer.session

    # --- operations of kernels ---------------------------------------------------------------------------------------

    async def op_attach(self, peer: Peer, body: Json) -> Json:
        hello = _read(body, KernelHello)
        prepare = getattr(self._executor, "prepare", None)
        if prepare is not None and peer.session is None and not self._retired:
            self._spawn(prepare(hello.environment))  # a kernel attaches with its first step
        store = await self.store(hello.store, hello.catalog)
        session, answer = await store.attach(hello, peer.pid)
        peer.session, peer.store, peer.wish.kernel = session, store, hello.kernel
        self._news.join(peer)
        asyncio.get_running_loop().call_soon(store.catch_up, session)
        return answer

    async def op_submit(self, peer: Peer, body: Json) -> Json:
        store, session = self._session(peer)
        if self._retired or self._stop.is_set():
            raise ServiceError(
                "This mlbench service ends with the steps that are under way, and takes no new ones.",
                "Run the cell again when they have ended.",
            )
        return await store.submit(session, _read(body, Submission))

    async def op_interrupt(self, peer: Peer, body: Json) -> Json:
        store, session = self._session(peer)
        return {"cancelled": store.interrupt(session, [ExecutionId(one) for one in body["executions"]])}

    async def op_keep(self, peer: Peer, body: Json) -> Json:
        del peer  # a page speaks for its kernel, which is waiting
        for store in self._stores.values():
            store.keep([ExecutionId(one) for one in body["executions"]])
        return {}

    async def op_here(self, peer: Peer, body: Json) -> Json:
        store, session = self._session(peer)
        record = _read(body.get("execution", body), Execution)
        answer = store.here(session, record, new_run=bool(body.get("new_run")))
        await store.ledger.settled()
        return answer

    async def op_cells(self, peer: Peer, body: Json) -> Json:
        kernel = body.get("kernel")
        sessions = [peer.session] if kernel is None else [store.sessions.get(kernel) for store in self._stores.values()]
        for session in sessions:
            if session is not None:
                session.note_cells([str(one) for one in body.get("cells") or ()])
                if isinstance(body.get("document"), dict):
                    session.take_document(body["document"])
        return {}

    async def op_metrics(self, peer: Peer, body: Json) -> Json:
        store = await self._store_of(peer, body)
        await store.add_to_run(peer.session if peer.store is store else None, body.get("run"), body)
        return {}

    op_tag = op_artifacts = op_metrics

    # --- operations on what is under way -----------------------------------------------------------------------------

    async def op_cancel(self, peer: Peer, body: Json) -> Json:
        cancelled: list[Json] = []
        reason: Reason = _read(body.get("reason", "user"), Reason)  # type: ignore[arg-type]
        for store in self._stores.values():
            cancelled += store.cancel(_chosen(store, peer, body), reason)
        if (run := body.get("run")) is not None:
            for scheduler in list(self._schedulers.values()):  # a store may be opened meanwhile
                if await scheduler.cancel(run):
                    cancelled.append({"run": run, "step": None, "execution": None})
        return {"cancelled": cancelled}

    async def op_execution(self, peer: Peer, body: Json) -> Json:
        record = await self._find(peer, body, lambda store: store.execution(body["id"]))
        return {"execution": record, "seq": self._news.seq}  # what it printed up to this piece of news is in it

    async def _find(self, peer: Peer, body: Json, look: Callable[[OpenStore], Awaitable[T]]) -> T:
        problem: NotFound | None = None
        if body.get("store") is not None:
            await self.store(body["store"], body.get("catalog"))
        for store in sorted(self._stores.values(), key=lambda store: store is not peer.store):
            try:
                return await look(store)
            except NotFound as error:
                problem = problem or error
        raise problem or NotFound("The mlbench service has no store open.", "Name the store.")

    # --- operations of engines ---------------------------------------------------------------------------------------

    async def op_open_run(self, peer: Peer, body: Json) -> Json:
        start = getattr(self._executor, "start", None)
        if start is not None and not self._retired:
            self._spawn(start())  # its steps will need it, and its kernel takes as long to start
        store = await self._store_of(peer, body)
        run = _read(body["run"], Run)
        store.open_run(run)
        peer.opened_runs.append((store, run.id))
        peer.wish.kernel = peer.wish.kernel or run.kernel
        return {}

    async def op_close_run(self, peer: Peer, body: Json) -> Json:
        store = await self._store_of(peer, body)
        run = _read(body["run"], Run)
        peer.opened_runs = [(where, opened) for where, opened in peer.opened_runs if opened != run.id]
        store.close_run(run)
        return {}

    # --- clusters ----------------------------------------------------------------------------------------------------

    async def op_cluster(self, peer: Peer, body: Json) -> Json:
        del peer
        if self._retired and body.get("verb") in ("start", "use", "scale"):
            raise ServiceError("This mlbench service ends with the steps that are under way.", "Try again.")
        return await clusters.answer(self._executor, body)

    async def op_client(self, peer: Peer, body: Json) -> Json:
        del peer
        return await clusters.reach(self._executor, body)

    # --- news --------------------------------------------------------------------------------------------------------

    async def op_subscribe(self, peer: Peer, body: Json) -> Json:
        kernel = peer.wish.kernel
        peer.wish = Wish(
            subscribed=True, messages=bool(body.get("messages")), notebook=body.get("notebook"), kernel=kernel
        )
        self._news.join(peer)
        known = self._news.catch_up(peer, seq=body.get("from"), life=body.get("life"))
        return {"reset": not known, "seq": self._news.seq, "life": self.info.life}

    # --- operations on the service -----------------------------------------------------------------------------------

    async def op_status(self, peer: Peer, body: Json) -> Json:
        del peer, body
        idle = getattr(self._executor, "idle_since", None)
        stores = [
            {
                "path": path,
                "schedules": await store.ledger.ask(partial(_count_schedules, store.project)),
                "problem": store.ledger.problem,
            }
            for path, store in list(self._stores.items())  # another one may be opened meanwhile
        ]
        return {
            "version": self.info.version,
            "protocol": self.info.protocol,
            "pid": self.info.pid,
            "life": self.info.life,
            "since": self._since,
            "retired": self._retired,
            "socket": str(self.door.socket),
            "log": str(self.door.log),
            "stores": stores,
            "executions": [store.summary(record) for store in self._stores.values() for record in store.under_way()],
            "jobs": sum(scheduler.busy for scheduler in self._schedulers.values()),
            "cluster": {
                "running": bool(getattr(self._executor, "running", False)),
                "workers": int(bool(getattr(self._executor, "running", False))),
                "idle": time.monotonic() - idle if idle is not None else None,
            },
            "clients": [one.describe() for one in self._peers],
        }

    async def op_stop(self, peer: Peer, body: Json) -> Json:
        del peer
        busy = len(self._under_way()) + sum(scheduler.busy for scheduler in self._schedulers.values())
        if busy and not body.get("force"):
            said = "1 step or job is" if busy == 1 else f"{busy} steps or jobs are"
            raise ServiceError(f"The mlbench service was not stopped: {said} under way.", "Add --force to end them.")
        asyncio.get_running_loop().call_soon(self._stop.set)
        return {"pid": self.info.pid, "ended": busy}

    async def op_retire(self, peer: Peer, body: Json) -> Json:
        del peer
        self._retire(f"mlbench {body.get('version', 'of a newer version')} has taken over.")
        return {"under_way": len(self._under_way())}

    def _retire(self, farewell: str) -> None:
        self._retired, self._farewell = True, farewell
        self._stir()

    async def op_hold(self, peer: Peer | None, body: Json) -> Json:
        del peer, body
        for path, store in list(self._stores.items()):
            try:
                await store.hold()
            except Exception:
                logger.exception("What open notebooks need of %s could not be said", path)
        return {}

    async def op_jobs_changed(self, peer: Peer, body: Json) -> Json:
        store = await self._store_of(peer, body)
        self._schedulers[canonical(store.path)].wake()
        await self._note_schedules(store)
        self._news.publish("job", {"store": store.path})
        return {}

    async def _store_of(self, peer: Peer, body: Json) -> OpenStore:
        if body.get("store") is not None:
            return await self.store(body["store"], body.get("catalog"))
        if peer.store is not None:
            return peer.store
        run = body.get("run")
        for store in self._stores.values():
            if run is not None and (run in store.runs or any(one.run == run for one in store.sessions.values())):
                return store
        raise ServiceError("The request names no store.")


def _import_stores() -> None:
    """Import what opens stores while nobody waits for it: it takes most of a second."""
    importlib.import_module("mlbench.backends.catalog_sql.catalog")


def _read(body: Any, kind: type[T]) -> T:
    try:
        return msgspec.convert(body, kind)
    except msgspec.ValidationError as error:
        raise ServiceError(f"The service cannot read this {kind.__name__}: {error}.", "Update mlbench.") from error


def _chosen(store: OpenStore, peer: Peer, body: Json) -> list[Execution]:
    """Return the executions under way that a `cancel` means."""
    records = store.under_way()
    if (execution := body.get("execution")) is not None:
        current = store.plan.current(ExecutionId(execution))
        return [one for one in records if one.id in (execution, current)]
    if (run := body.get("run")) is not None:
        return [one for one in records if one.run == run]
    if (step := body.get("step")) is not None:
        own = peer.session.hello.kernel if peer.session is not None else None
        return [one for one in records if one.step == step and (own is None or store.plan.nodes[one.id].kernel == own)]
    raise ServiceError("Cancel what? Name an execution, a step or a run.")


def _scheduled(project: Project) -> list[Job]:
    return [job for job in project.catalog.jobs() if job.cron is not None and not job.paused]


def _has_schedules(project: Project) -> bool:
    return bool(_scheduled(project)) or bool(project.catalog.firings(states=("queued", "running"), limit=1))


def _count_schedules(project: Project) -> int:
    return len(_scheduled(project))
