"""Fires schedules: each due time exactly once, whichever service is killed and however many there are.

What is due is inserted as firings, and the schedule advanced, in one transaction of the catalog; a firing is then
claimed by one service, which gives it a process of its own and writes its end. A firing that a dead service had
claimed is settled by the next: its run is said to be lost, and run again only if its job says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, Protocol

from mlbench.backends.owners import end_processes_of, is_alive, owner_of_this_process, sweep, user_name
from mlbench.core.errors import MlbenchError
from mlbench.core.ids import RunId, new_id
from mlbench.core.ports import Clock
from mlbench.core.records import ENDED, Failure, Firing, Job, Json, Reason, Run
from mlbench.delivery import policies, schedule

if TYPE_CHECKING:
    from mlbench.project import Project

__all__ = ["Body", "Scheduler", "Spawn"]

logger = logging.getLogger(__name__)

LONGEST_SLEEP: Final = 30.0
"""Seconds after which the catalog is looked at again, also when nothing was said to be due."""

SWEEP_SECONDS: Final = 60
"""Seconds between two repairs of due times that an accident of the clock has moved too far away."""

AT_ONCE: Final = 4
"""Runs of jobs that are under way at most; the others wait in the catalog."""

GRACE: Final = 10.0
"""Seconds that a cancelled run has to say so before it is killed."""


class Body(Protocol):
    """A job's run on its way: a process of its own."""

    async def wait(self) -> tuple[int, str]:
        """Return its exit status when it has ended, negative for a signal, and the last that it said."""
        ...

    def interrupt(self) -> None:
        """Ask it to end: its run is then recorded as cancelled."""
        ...

    def kill(self) -> None:
        """End it and everything that it started, at once."""
        ...


class Spawn(Protocol):
    """Starts the process of a claimed firing."""

    async def __call__(self, store: str, job: Job, firing: Firing, /) -> Body: ...


OnChange = Callable[[Job, Firing | None], None]


class Scheduler:
    """Fires the jobs of one store, and follows their runs to their end.

    Parameters
    ----------
    project
        The open store; its catalog is used in threads, never in the event loop.
    on_change
        Called in the event loop with each job, and the firing, whose state has changed: the news for the page.
    spawn
        Starts the process of a claimed firing; `None` is the real one.
    owner
        Who claims firings, in the words of `mlbench.backends.owners`; this process otherwise. Each scheduler of a
        store has one of its own.
    user
        Whose jobs are fired, this process's user otherwise: a job runs code, so nobody's runs as somebody else.
    """

    def __init__(
        self,
        project: Project,
        clock: Clock,
        on_change: OnChange | None = None,
        spawn: Spawn | None = None,
        owner: str | None = None,
        user: str | None = None,
    ) -> None:
        self.project = project
        self.clock = clock
        self._on_change = on_change
        self._spawn = spawn or partial(start_process, variables=project.location.variables())
        self._owner = owner or owner_of_this_process()
        self._host = socket.gethostname()
        self._user = user or user_name()
        self._wake = asyncio.Event()
        self._closing = False
        self._last_sweep = 0
        self._bodies: dict[RunId, Body] = {}
        self._followers: set[asyncio.Task[None]] = set()
        self._waiting: dict[str, asyncio.Lock] = {}
        self._claimed: set[tuple[str, int]] = set()

    @property
    def busy(self) -> int:
        """How many runs of jobs are under way here."""
        return len(self._followers)

    def wake(self) -> None:
        """Look again now: a job was added, changed or asked for, or a time has passed."""
        self._wake.set()

    async def run(self) -> None:
        """Fire what is due until `close` is called; returns then."""
        while not self._closing:
            self._wake.clear()
            pause = LONGEST_SLEEP
            try:
                pause = await self._round()
            except MlbenchError as error:
                logger.warning("The schedules of %s cannot be looked at now: %s", self.project.location.place, error)
            except Exception:
                # A catalog that is locked or gone for a moment must not end the firing of schedules for good.
                logger.exception("A round of the scheduler failed; the next is in %.0f seconds", pause)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), pause)

    async def close(self) -> None:
        """Stop firing, and end the runs that are under way: they are recorded as lost with the service."""
        self._closing = True
        self.wake()
        for body in list(self._bodies.values()):
            body.kill()
        if self._followers:
            await asyncio.wait(self._followers, timeout=GRACE)

    async def drain(self) -> None:
        """Wait until no run is under way here; none is started meanwhile."""
        self._closing = True
        self.wake()
        while self._followers:
            await asyncio.wait(list(self._followers))

    async def cancel(self, run: str) -> bool:
        """End a job's run; False if it is not under way here."""
        body = self._bodies.get(RunId(run))
        if body is None:
            return False
        body.interrupt()
        loop = asyncio.get_running_loop()
        loop.call_later(GRACE, lambda: body.kill() if self._bodies.get(RunId(run)) is body else None)
        return True

    # --- one round -----------------------------------------------------------------------------------------------

    async def _round(self) -> float:
        """Fire and start what is due; return the seconds until something is due again."""
        changed = await asyncio.to_thread(self._tick)
        changed += await asyncio.to_thread(self._settle_lost)
        for job, firing in changed:
            self._tell(job, firing)
        while not self._closing and len(self._followers) < AT_ONCE:
            firing = await asyncio.to_thread(self._claim)
            if firing is None:
                break
            follower = asyncio.create_task(self._follow(firing), name=f"job-{firing.job}-{firing.due}")
            self._followers.add(follower)
            follower.add_done_callback(self._forget)
        return await asyncio.to_thread(self._pause)

    def _forget(self, follower: asyncio.Task[None]) -> None:
        self._followers.discard(follower)
        if not follower.cancelled() and (error := follower.exception()) is not None:
            logger.error("The run of a job could not be followed", exc_info=error)
        self.wake()

    def _now(self) -> int:
        return self.clock.now() // 10**9

    def _tick(self) -> list[tuple[Job, Firing | None]]:
        """Insert the firings of all jobs that are due. One bad schedule never stops the others."""
        now = self._now()
        changed: list[tuple[Job, Firing | None]] = []
        for job in filter(self._fires, self.project.catalog.due_jobs(now, host=self._host)):
            try:
                owed = policies.owed(job, now)
            except Exception as error:  # noqa: BLE001  whatever is wrong with one line is that job's own trouble
                said = str(error) or type(error).__name__
                logger.warning("The schedule of job %s is paused: %s", job.name, said)
                stopped = replace(job, paused=True, problem=said)
                self.project.catalog.put_job(stopped)
                changed.append((stopped, None))
                continue
            assert job.next_due is not None
            if not owed.firings:
                continue
            if self.project.catalog.fire(job.id, owed.firings, was_due=job.next_due, next_due=owed.next_due):
                moved = replace(job, next_due=owed.next_due, last_due=owed.firings[-1].due)
                changed.extend((moved, firing) for firing in owed.firings)
        if abs(now - self._last_sweep) >= SWEEP_SECONDS:
            self._last_sweep = now
            self._sweep(now)
        return changed

    def _sweep(self, now: int) -> None:
        """Bring back a due time that lies further away than the schedule has it: the clock was wrong for a while."""
        for job in self.project.catalog.jobs():
            if job.cron is None or job.paused or not self._fires(job):
                continue
            try:
                due = schedule.next_due(job.cron, job.timezone, now)
            except MlbenchError:
                continue  # said when it is due
            if job.next_due is not None and job.next_due > due:
                self.project.catalog.fire(job.id, (), was_due=job.next_due, next_due=due)

    def _pause(self) -> float:
        dues = [
            job.next_due
            for job in self.project.catalog.jobs()
            if job.next_due is not None and not job.paused and self._fires(job)
        ]
        if not dues:
            return LONGEST_SLEEP
        return min(LONGEST_SLEEP, max(0.05, min(dues) - self.clock.now() / 1e9))

    # --- claims --------------------------------------------------------------------------------------------------

    def _fires(self, job: Job) -> bool:
        """Say whether this scheduler is the one to fire a job: on its host, and as the user who promoted it."""
        return job.host in (None, self._host) and job.user in (None, self._user)

    def _claim(self) -> Firing | None:
        # A deleted job's firings are claimed too, to be cancelled.
        own = [job.id for job in self.project.catalog.jobs(deleted=True) if self._fires(job)]
        firing = self.project.catalog.claim_firing(self._owner, self._now(), jobs=own) if own else None
        if firing is not None:
            self._claimed.add((firing.job, firing.due))
        return firing

    def _settle_lost(self) -> list[tuple[Job, Firing | None]]:
        """Say what became of firings whose service has died."""
        changed: list[tuple[Job, Firing | None]] = []
        for firing in self.project.catalog.firings(states=("running",), limit=1000):
            mine = firing.owner == self._owner
            if (mine and (firing.job, firing.due) in self._claimed) or (not mine and is_alive(firing.owner)):
                continue
            job = self.project.catalog.job(firing.job)
            if not self._fires(job):
                continue
            run = self._run_of(firing) or self._begin(job, firing)
            ended = _with_end_of(firing, run if run.state in ENDED else self.project.settle_run(run))
            # Each claim makes the token greater by one: it counts the times that the body may have begun.
            again = job.version.on_lost == "retry" and firing.token <= max(1, job.version.retries)
            if again and ended.state == "failed":
                ended = replace(firing, state="queued", reason=ended.reason, run=None)
            if self.project.catalog.end_firing(ended):
                changed.append((job, ended))
        return changed

    def _ended(self, job: Job, firing: Firing, reason: Reason, sentence: str, remedy: str | None = None) -> Firing:
        """Return a firing with the end that its run has; a run that has none is failed, for the reason given."""
        run = self._run_of(firing)
        if run is None or run.state not in ENDED:
            begun = run or self._begin(job, firing)
            failure = Failure(ename="JobFailed", evalue=sentence, remedy=remedy)
            run = self.project.end_run(begun, "failed", reason=reason, failure=failure)
        return _with_end_of(firing, run)

    def _run_of(self, firing: Firing) -> Run | None:
        if firing.run is None:
            return None
        try:
            return self.project.catalog.run(firing.run)
        except MlbenchError:
            return None

    def _begin(self, job: Job, firing: Firing) -> Run:
        """Record the run of a firing whose process never got so far."""
        return self.project.begin_run(
            kind="job",
            id=firing.run or RunId(new_id()),
            notebook=job.notebook,
            name=job.name,
            notebook_id=job.notebook_id,
            snapshot=job.version.snapshot,
            parameters=self._parameters(job),
            job=job.id,
            job_version=job.version.number,
            due=firing.due,
        )

    def _parameters(self, job: Job) -> Json:
        """Return the values that a job's run would have had, its notebook's defaults among them."""
        from mlbench.notebook.parameters import defaults, recorded
        from mlbench.project.preparation import declared
        from mlbench.runs.wire import msgspec

        try:
            kept = self.project.blobs.get(self.project.catalog.snapshot(job.version.snapshot).notebook)
            own = recorded(defaults(declared(msgspec.json.decode(kept))))
        except (MlbenchError, msgspec.DecodeError):  # its end is recorded also where the store is damaged
            own = {}
        return own | job.version.parameters

    # --- one firing ----------------------------------------------------------------------------------------------

    async def _follow(self, firing: Firing) -> None:
        """Run a claimed firing and write its end."""
        try:
            job = await asyncio.to_thread(self.project.catalog.job, firing.job)
            ended = await self._perform(job, firing)
            if await asyncio.to_thread(self.project.catalog.end_firing, ended):
                self._tell(job, ended)
        finally:
            self._claimed.discard((firing.job, firing.due))

    async def _perform(self, job: Job, firing: Firing) -> Firing:
        if job.deleted:
            return replace(firing, state="cancelled", reason="The job has been deleted.")
        lock = self._waiting.setdefault(job.id, asyncio.Lock())
        skips = job.version.overlap == "skip" and job.version.missed != "all"  # those that are made up for queue
        if lock.locked() and not firing.manual and skips:
            return replace(firing, state="skipped", reason="The run before it was still under way.")
        if job.version.overlap == "allow" or firing.manual:
            return await self._run_body(job, firing)
        async with lock:
            return await self._run_body(job, firing)

    async def _run_body(self, job: Job, firing: Firing) -> Firing:
        firing = replace(firing, run=RunId(new_id()))
        assert firing.run is not None
        problem = await asyncio.to_thread(self._problem, job)
        if problem is not None:
            sentence, remedy = problem
            return await asyncio.to_thread(self._ended, job, firing, "error", sentence, remedy)
        if not await asyncio.to_thread(self.project.catalog.attach_run, firing, firing.run):
            raise MlbenchError(f"The firing of {job.name} belongs to another service by now.")
        self._tell(job, firing)
        body = await self._spawn(self.project.location.place, job, firing)
        self._bodies[firing.run] = body
        late = False
        try:
            waiting = asyncio.ensure_future(body.wait())
            done, _ = await asyncio.wait([waiting], timeout=job.version.timeout)
            if not done:
                late = True
                body.kill()
            status, said = await waiting
        finally:
            self._bodies.pop(firing.run, None)
        if late:
            sentence = f"It took longer than its timeout of {job.version.timeout:g} seconds."
            return await asyncio.to_thread(self._ended, job, firing, "timeout", sentence)
        reason, sentence = _what_ended(status, said, closing=self._closing)
        return await asyncio.to_thread(self._ended, job, firing, reason, sentence)

    def _problem(self, job: Job) -> tuple[str, str] | None:
        """Return why a job cannot run on this machine as it was recorded, and what to do."""
        snapshot = self.project.catalog.snapshot(job.version.snapshot)
        again = "Promote the notebook again."
        if snapshot.interpreter is not None and not os.access(snapshot.interpreter, os.X_OK):
            return f"The interpreter {snapshot.interpreter} of job {job.name} is gone.", again
        folder = snapshot.folder or str(Path(job.notebook).parent)
        if not Path(folder).is_dir():
            return f"The folder {folder} of job {job.name} is gone.", again
        return None

    def _tell(self, job: Job, firing: Firing | None) -> None:
        if self._on_change is not None:
            self._on_change(job, firing)


def _with_end_of(firing: Firing, run: Run) -> Firing:
    said = run.failure.evalue if run.failure is not None else run.reason
    return replace(firing, run=run.id, state=run.state, reason=None if run.state == "succeeded" else said)


def _what_ended(status: int, said: str, *, closing: bool) -> tuple[Reason, str]:
    """Return the reason and the sentence for a process that ended without saying what became of its run."""
    if closing:
        return "service-lost", "The service was stopped while it ran."
    if status < 0:
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = f"signal {-status}"
        return "worker-lost", f"Its process was ended by {name}."
    return "error", said or f"Its process ended with status {status} before the run began."


class _Process:
    """A job's process: a session of its own, so that all that it starts can be ended with it."""

    def __init__(self, process: asyncio.subprocess.Process, errors: IO[bytes], run: RunId) -> None:
        self._process = process
        self._run = run
        self._errors = errors

    async def wait(self) -> tuple[int, str]:
        status = await self._process.wait()
        # What it started and left behind ends with it.
        self._signal(signal.SIGKILL)
        await asyncio.to_thread(end_processes_of, self._run)
        if status < 0:
            await asyncio.to_thread(sweep)
        with self._errors as errors:
            end = errors.seek(0, os.SEEK_END)
            errors.seek(max(0, end - 4096))
            lines = errors.read().decode("utf-8", "replace").strip().splitlines()
        return status, lines[-1][:500] if lines else ""

    def interrupt(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


async def start_process(store: str, job: Job, firing: Firing, *, variables: Mapping[str, str]) -> Body:
    """Start `mlbench.entrypoints.job` for a firing, with environment variables that say where the store is."""
    # A file, not a pipe: a process that the notebook leaves behind could hold a pipe open for ever.
    errors = tempfile.TemporaryFile(prefix="mlbench-job-")  # noqa: SIM115  closed when the process has ended
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "mlbench.entrypoints.job",
        "--store",
        store,
        "--job",
        job.id,
        "--version",
        str(job.version.number),
        "--due",
        str(firing.due),
        "--run",
        str(firing.run),
        "--parent",
        str(os.getpid()),
        env={**os.environ, **variables},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=errors,
        start_new_session=True,
    )
    assert firing.run is not None
    return _Process(process, errors, firing.run)
