"""Each due time fires once, and what became of it is always said."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlbench.backends.owners import owner_of
from mlbench.core.ids import Digest, JobId, RunId, new_id
from mlbench.core.records import Firing, Job, JobVersion, Run, Snapshot
from mlbench.entrypoints.service.firing import Scheduler
from mlbench.project import Project
from mlbench.project.promotion import run_now

HOUR = 3600
NOON = 1_800_000_000 // HOUR * HOUR
"""A full hour in UTC."""


class FakeClock:
    """A clock that is set by the test."""

    def __init__(self, seconds: int = NOON) -> None:
        self.seconds = seconds

    def now(self) -> int:
        return self.seconds * 10**9


class FakeBody:
    """A run that ends when the test says so, having written its end or not."""

    def __init__(self, project: Project, job: Job, firing: Firing) -> None:
        self.project, self.job, self.firing = project, job, firing
        self.ended: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()
        self.interrupted = False

    async def wait(self) -> tuple[int, str]:
        return await self.ended

    def interrupt(self) -> None:
        self.interrupted = True

    def kill(self) -> None:
        self.die(-signal.SIGKILL)

    def die(self, status: int, said: str = "") -> None:
        if not self.ended.done():
            self.ended.set_result((status, said))

    def begin(self) -> Run:
        assert self.firing.run is not None
        return self.project.begin_run(kind="job", id=self.firing.run, name=self.job.name, job=self.job.id)

    def succeed(self) -> None:
        self.project.end_run(self.begin(), "succeeded")
        self.die(0)


class Bench:
    """A scheduler on a store, with what it did."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.clock = FakeClock()
        self.bodies: list[FakeBody] = []
        self.news: list[tuple[str, str | None]] = []

    def scheduler(self, owner: str | None = None) -> Scheduler:
        return Scheduler(self.project, self.clock, self._changed, self._spawn, owner)

    def _changed(self, job: Job, firing: Firing | None) -> None:
        self.news.append((job.name, firing.state if firing is not None else None))

    async def _spawn(self, store: str, job: Job, firing: Firing) -> FakeBody:
        assert store == str(self.project.location.path)
        self.bodies.append(FakeBody(self.project, job, firing))
        return self.bodies[-1]

    def states(self, job: Job) -> list[tuple[int, str, int]]:
        found = self.project.catalog.firings(job.id)
        return sorted((firing.due - NOON, firing.state, firing.skipped) for firing in found)

    def run(self, story: Callable[[Scheduler], Awaitable[None]]) -> None:
        async def play() -> None:
            scheduler = self.scheduler()
            loop = asyncio.create_task(scheduler.run())
            try:
                await asyncio.wait_for(story(scheduler), 20)
            finally:
                await scheduler.close()
                await asyncio.wait_for(loop, 10)

        asyncio.run(play())


async def until(holds: Callable[[], Any]) -> None:
    while not holds():  # noqa: ASYNC110  a catalog has no events
        await asyncio.sleep(0.01)


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    project = Project.open(store=str(tmp_path / "store"))
    yield project
    project.catalog.close()


@pytest.fixture
def bench(project: Project) -> Bench:
    return Bench(project)


def make_job(project: Project, folder: Path, name: str = "nightly", /, **changes: Any) -> Job:
    policy = {key: changes.pop(key) for key in ("missed", "overlap", "on_lost", "timeout", "retries") if key in changes}
    snapshot = Snapshot(notebook=Digest("blake3:" + "0" * 64), folder=str(folder), interpreter=sys.executable)
    snapshot = replace(snapshot, **{key: changes.pop(key) for key in ("interpreter",) if key in changes})
    if "folder" in changes:
        snapshot = replace(snapshot, folder=changes.pop("folder"))
    digest = Digest("blake3:" + (new_id().encode().hex() * 2)[:64])
    project.catalog.put_snapshot(digest, snapshot)
    job = Job(
        id=JobId(new_id()),
        name=name,
        notebook=str(folder / "n.ipynb"),
        version=JobVersion(number=1, snapshot=digest, **policy),
        cron="0 * * * *",
        timezone="UTC",
        next_due=NOON,
        host=socket.gethostname(),
    )
    job = replace(job, **changes)
    project.catalog.put_job(job)
    project.catalog.put_job_version(job.id, job.version)
    return job


def test_a_job_that_is_due_runs_once_and_its_end_is_the_runs(bench: Bench, tmp_path: Path) -> None:
    job = make_job(bench.project, tmp_path)

    async def story(scheduler: Scheduler) -> None:
        await until(lambda: bench.bodies)
        assert scheduler.busy == 1
        bench.bodies[0].succeed()
        await until(lambda: not scheduler.busy)
        scheduler.wake()
        await asyncio.sleep(0.1)

    bench.run(story)
    assert bench.states(job) == [(0, "succeeded", 0)]
    assert len(bench.bodies) == 1
    firing = bench.project.catalog.firings(job.id)[0]
    assert firing.run == bench.bodies[0].firing.run
    assert bench.project.catalog.job(job.id).next_due == NOON + HOUR
    assert ("nightly", "queued") in bench.news
    assert bench.news[-1] == ("nightly", "succeeded")


def test_two_schedulers_fire_a_due_time_once(bench: Bench, tmp_path: Path) -> None:
    jobs = [make_job(bench.project, tmp_path, f"job{n}") for n in range(6)]

    async def story(first: Scheduler) -> None:
        other = bench.scheduler(owner_of(os.getppid()))
        loop = asyncio.create_task(other.run())
        done: set[int] = set()
        while len(done) < len(jobs):
            for place, body in enumerate(list(bench.bodies)):
                if place not in done:
                    done.add(place)
                    body.succeed()
            await asyncio.sleep(0.01)
        await until(lambda: not first.busy and not other.busy)
        await other.close()
        await loop

    bench.run(story)
    assert len(bench.bodies) == len(jobs)
    assert [bench.states(job) for job in jobs] == [[(0, "succeeded", 0)]] * len(jobs)


def test_missed_times_are_made_up_for_once_and_counted(bench: Bench, tmp_path: Path) -> None:
    job = make_job(bench.project, tmp_path)
    bench.clock.seconds = NOON + 5 * HOUR + 60

    async def story(scheduler: Scheduler) -> None:
        await until(lambda: bench.bodies)
        bench.bodies[0].succeed()
        await until(lambda: not scheduler.busy)

    bench.run(story)
    assert bench.states(job) == [(5 * HOUR, "succeeded", 5)]


def test_one_bad_schedule_stops_itself_and_no_other(bench: Bench, tmp_path: Path) -> None:
    bad = make_job(bench.project, tmp_path, "bad", cron="0 0 30 2 *", next_due=NOON - 1)
    good = make_job(bench.project, tmp_path, "good")

    async def story(scheduler: Scheduler) -> None:
        await until(lambda: bench.bodies)
        bench.bodies[0].succeed()
        await until(lambda: not scheduler.busy)

    bench.run(story)
    assert bench.states(good) == [(0, "succeeded", 0)]
    stopped = bench.project.catalog.job(bad.id)
    assert stopped.paused
    assert "never fires" in (stopped.problem or "")
    assert bench.states(bad) == []


def test_a_run_that_is_still_under_way_is_not_overlapped(bench: Bench, tmp_path: Path) -> None:
    job = make_job(bench.project, tmp_path)

    async def story(scheduler: Scheduler) -> None:
        await until(lambda: bench.bodies)
        bench.clock.seconds = NOON + HOUR
        scheduler.wake()
        await until(lambda: (HOUR, "skipped", 0) in bench.states(job))
        bench.bodies[0].succeed()
        await until(lambda: not scheduler.busy)

    bench.run(story)
    assert bench.states(job) == [(0, "succeeded", 0), (HOUR, "skipped", 0)]
    assert len(bench.bodies) == 1


def test_a_job_may_be_queued_behind_its_own_run(bench: Bench, tmp_path: Path) -> None:
    job = make_job(bench.project, tmp_path, overlap="queue")

    async def story(scheduler: Scheduler) -> None:
        await until(lambda: bench.bodies)
        bench.clock.seconds = NOON + HOUR
        scheduler.wake()
        await until(lambda: scheduler.busy == 2)
        assert len(bench.bodies) == 1
        bench.bodies[0].succeed()
        await until(lambda: len(bench.bodies) == 2)
        bench.bodies[1].succeed()
        await until(lambda: not scheduler.busy)

    bench.run(story)
    assert bench.states(job) == [(0, "succeeded", 0), (HOUR, "succeeded", 0)]


def test_a_process_that_is_killed_fails_its_run_with_the_signal(bench: Bench, tmp_path: Path) -> None:
    job = make_job(bench.project, tmp_path)

    async def story(scheduler: Scheduler) -> None:
        await until(lambda: bench.bodies)
        bench.bodies[0].begin()
        bench.bodies[0].die(-signal.SIGKILL)
        await until(lambda: not scheduler.busy)

    bench.run(story)
    firing = bench.project.catalog.firings(job.id)[0]
    run = bench.project.catalog.run(str(firing.run))
    assert (firing.state, run.state, run.reason) == ("failed", "failed", "worker-lost")
    assert "SIGKILL" in (firing.reason or "")


def test_a_process_that_could_not_begin_leaves_a_failed_run_with_what_it_said(bench: Bench, tmp_path: Path) -> None:
    job = make_job(bench.project, tmp_path)

    async def story(scheduler: Scheduler) -> None:
        await until(lambda: bench.bodies)
        bench.bodies[0].die(2, "The store cannot be read.")
        await until(lambda: not scheduler.busy)

    bench.run(story)
    firing = bench.project.catalog.firings(job.id)[0]
    run = bench.project.catalog.run(str(firing.run))
    assert run.state == "failed"
    assert run.kind == "job"
    assert run.job == job.id
    assert firing.reason == "The store cannot be read."


@pytest.mark.parametrize(
    ("changes", "says"),
    [({"interpreter": "/nowhere/bin/python"}, "interpreter /nowhere/bin/python"), ({"folder": "/nowhere"}, "/nowhere")],
)
def test_what_a_job_needs_and_is_gone_fails_the_firing(
    bench: Bench, tmp_path: Path, changes: dict[str, str], says: str
) -> None:
    job = make_job(bench.project, tmp_path, **changes)

    async def story(scheduler: Scheduler) -> None:
        await until(lambda: any(state == "failed" for _, state, _ in bench.states(job)))

    bench.run(story)
    firing = bench.project.catalog.firings(job.id)[0]
    assert says in (firing.reason or "")
    assert "gone" in (firing.reason or "")
    assert bench.project.catalog.run(str(firing.run)).state == "failed"
    assert bench.bodies == []


def test_a_run_that_takes_longer_than_its_timeout_is_ended(bench: Bench, tmp_path: Path) -> None:
    job = make_job(bench.project, tmp_path, timeout=0.1)

    async def story(scheduler: Scheduler) -> None:
        await until(lambda: any(state == "failed" for _, state, _ in bench.states(job)))

    bench.run(story)
    firing = bench.project.catalog.firings(job.id)[0]
    assert bench.project.catalog.run(str(firing.run)).reason == "timeout"
    assert "timeout of 0.1 seconds" in (firing.reason or "")


def test_paused_and_deleted_jobs_do_not_fire_but_run_now_does(bench: Bench, tmp_path: Path) -> None:
    paused = make_job(bench.project, tmp_path, "paused", paused=True)
    make_job(bench.project, tmp_path, "deleted", deleted=True, paused=True)

    async def story(scheduler: Scheduler) -> None:
        scheduler.wake()
        await asyncio.sleep(0.1)
        assert bench.bodies == []
        run_now(bench.project, "paused")
        scheduler.wake()
        await until(lambda: bench.bodies)
        bench.bodies[0].succeed()
        await until(lambda: not scheduler.busy)

    bench.run(story)
    firing = bench.project.catalog.firings(paused.id)[0]
    assert (firing.state, firing.manual) == ("succeeded", True)
    assert len(bench.bodies) == 1


def test_run_now_twice_makes_two_firings(bench: Bench, tmp_path: Path) -> None:
    job = make_job(bench.project, tmp_path, cron=None, next_due=None)
    first, second = run_now(bench.project, job.id), run_now(bench.project, job.id)
    assert first.due < second.due
    assert len(bench.project.catalog.firings(job.id)) == 2


def dead_owner() -> str:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    owner = owner_of(child.pid)
    child.communicate()
    return owner


def claimed_by_the_dead(project: Project, job: Job) -> Firing:
    project.catalog.add_firing(Firing(job=job.id, due=NOON - HOUR, state="queued"))
    firing = project.catalog.claim_firing(dead_owner(), NOON - HOUR)
    assert firing is not None
    run = project.begin_run(kind="job", id=RunId(new_id()), name=job.name, job=job.id)
    project.catalog.attach_run(firing, run.id)
    return replace(firing, run=run.id)


def test_the_run_of_a_service_that_died_is_said_to_be_lost_and_not_run_again(bench: Bench, tmp_path: Path) -> None:
    job = make_job(bench.project, tmp_path, next_due=NOON + HOUR)
    lost = claimed_by_the_dead(bench.project, job)

    async def story(scheduler: Scheduler) -> None:
        await until(lambda: bench.states(job)[0][1] != "running")
        scheduler.wake()
        await asyncio.sleep(0.1)

    bench.run(story)
    assert bench.states(job) == [(-HOUR, "failed", 0)]
    run = bench.project.catalog.run(str(lost.run))
    assert (run.state, run.reason) == ("failed", "worker-lost")
    assert bench.bodies == []


def test_a_lost_run_is_run_again_once_where_its_job_says_so(bench: Bench, tmp_path: Path) -> None:
    job = make_job(bench.project, tmp_path, next_due=NOON + HOUR, on_lost="retry")
    lost = claimed_by_the_dead(bench.project, job)

    async def story(scheduler: Scheduler) -> None:
        await until(lambda: bench.bodies)
        bench.bodies[0].succeed()
        await until(lambda: not scheduler.busy)

    bench.run(story)
    assert bench.states(job) == [(-HOUR, "succeeded", 0)]
    assert bench.project.catalog.run(str(lost.run)).state == "failed"
    assert len(bench.bodies) == 1
    assert bench.bodies[0].firing.run != lost.run


def test_the_end_that_a_run_had_before_its_service_died_is_kept(bench: Bench, tmp_path: Path) -> None:
    job = make_job(bench.project, tmp_path, next_due=NOON + HOUR)
    lost = claimed_by_the_dead(bench.project, job)
    bench.project.end_run(bench.project.catalog.run(str(lost.run)), "succeeded")

    async def story(scheduler: Scheduler) -> None:
        await until(lambda: bench.states(job)[0][1] != "running")

    bench.run(story)
    assert bench.states(job) == [(-HOUR, "succeeded", 0)]


def test_a_due_time_that_a_wrong_clock_moved_away_is_brought_back(bench: Bench, tmp_path: Path) -> None:
    job = make_job(bench.project, tmp_path, next_due=NOON + 400 * 24 * HOUR)

    async def story(scheduler: Scheduler) -> None:
        await until(lambda: bench.project.catalog.job(job.id).next_due == NOON + HOUR)

    bench.run(story)
    assert bench.bodies == []


def test_a_job_of_another_host_is_left_to_it(bench: Bench, tmp_path: Path) -> None:
    job = make_job(bench.project, tmp_path, host="elsewhere")

    async def story(scheduler: Scheduler) -> None:
        scheduler.wake()
        await asyncio.sleep(0.2)

    bench.run(story)
    assert bench.states(job) == []


def test_no_more_runs_than_the_limit_are_under_way_and_none_is_left_out(bench: Bench, tmp_path: Path) -> None:
    jobs = [make_job(bench.project, tmp_path, f"job{n}") for n in range(9)]

    async def story(scheduler: Scheduler) -> None:
        most = 0
        while len([body for body in bench.bodies if body.ended.done()]) < len(jobs):
            most = max(most, scheduler.busy)
            if scheduler.busy == 4 or len(bench.bodies) == len(jobs):
                for body in bench.bodies:
                    if not body.ended.done():
                        body.succeed()
                        break
            await asyncio.sleep(0.01)
        await until(lambda: not scheduler.busy)
        assert most == 4

    bench.run(story)
    assert {state for job in jobs for _, state, _ in bench.states(job)} == {"succeeded"}


def test_closing_ends_runs_and_says_that_the_service_was_stopped(bench: Bench, tmp_path: Path) -> None:
    job = make_job(bench.project, tmp_path)

    async def story(scheduler: Scheduler) -> None:
        await until(lambda: bench.bodies)

    bench.run(story)
    firing = bench.project.catalog.firings(job.id)[0]
    assert firing.state == "failed"
    assert bench.project.catalog.run(str(firing.run)).reason == "service-lost"


def test_a_real_process_ends_with_the_one_that_started_it() -> None:
    code = (
        "import os, subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', '''\n"
        "import sys, os, time\n"
        "from mlbench.entrypoints.job import _end_with\n"
        "_end_with(int(sys.argv[1]))\n"
        "print(os.getpid(), flush=True)\n"
        "time.sleep(60)\n"
        "''', str(os.getpid())], stdout=subprocess.PIPE, start_new_session=True)\n"
        "print(child.stdout.readline().decode().strip(), flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    pid = int(done.stdout)
    deadline = 200
    while deadline and _lives(pid):
        deadline -= 1
        subprocess.run(["sleep", "0.05"], check=True)
    assert not _lives(pid)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_nobodys_job_is_fired_or_run_as_somebody_else(bench: Bench, project: Project, tmp_path: Path) -> None:
    theirs = make_job(project, tmp_path, "theirs", user="ada", next_due=NOON - HOUR)
    mine = make_job(project, tmp_path, "mine", user="bob", next_due=NOON)
    asked = make_job(project, tmp_path, "asked", user="ada", cron=None, next_due=None)
    run_now(project, "asked")

    async def story() -> None:
        scheduler = Scheduler(project, bench.clock, bench._changed, bench._spawn, user="bob")
        loop = asyncio.create_task(scheduler.run())
        await until(lambda: bench.bodies)
        bench.bodies[0].succeed()
        await until(lambda: bench.states(mine) == [(0, "succeeded", 0)])
        scheduler.wake()
        await scheduler.close()
        await asyncio.wait_for(loop, 10)

    asyncio.run(asyncio.wait_for(story(), 20))
    assert [body.job.name for body in bench.bodies] == ["mine"]
    assert bench.states(theirs) == []
    assert project.catalog.job(theirs.id).next_due == NOON - HOUR
    assert [firing.state for firing in project.catalog.firings(asked.id)] == ["queued"], "it waits for ada's service"
