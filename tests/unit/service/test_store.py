"""What an open store does of what its plan says, with an executor and a catalog in memory."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlbench.backends.memory import MemoryCatalog
from mlbench.core.ids import ExecutionId, RunId, new_id
from mlbench.core.messages import (
    Environment,
    Foreach,
    KernelHello,
    RandomState,
    Spread,
    StepOptions,
    StepTask,
    Submission,
)
from mlbench.core.records import Execution, Run
from mlbench.entrypoints.service.events import News
from mlbench.entrypoints.service.sessions import Session
from mlbench.entrypoints.service.store import OpenStore
from mlbench.project import Project, care, find_store, signing
from mlbench.runs import plan as plans
from mlbench.runs import randomness
from mlbench.runs.plan import GraceOver, turn
from mlbench.runs.retention import DAY, Rule
from mlbench.runs.wire import msgspec


class BrokenCatalog(MemoryCatalog):
    """A catalog in which nothing can be looked up, for a reason that nobody has thought of."""

    def candidates(self, key: str, /, **named: Any) -> list[Execution]:
        raise ValueError("not a record")

    def by_keys(self, keys: Any, /, **named: Any) -> dict[str, list[Execution]]:
        raise ValueError("not a record")


class Executor:
    """Ends each step at once, or once `goes_on` is set; `draws` says in which state the generators of one are then."""

    def __init__(self) -> None:
        self.tasks: dict[str, StepTask] = {}
        self.known: list[Any] = []
        self.draws: dict[str, Any] = {}
        self.cancelled: list[ExecutionId] = []
        self.begun, self.goes_on = asyncio.Event(), asyncio.Event()
        self.goes_on.set()

    async def submit(self, task: StepTask, on_event: Any, known: Any = None) -> Execution:
        self.tasks[task.step] = task
        on_event({"type": "started"})
        self.begun.set()
        await self.goes_on.wait()
        if known is not None:
            self.known.append(await known(Spread(shape=(2,), digests=(("one", "two"),))))
        record = msgspec.convert(task.base, Execution)
        end = self.draws.get(task.step)
        more = {"draws": ("random",), "random": end} if end is not None else {}
        return replace(record, state="succeeded", ended=1, **more)  # type: ignore[arg-type]

    async def cancel(self, execution: ExecutionId, reason: Any) -> bool:
        self.cancelled.append(execution)
        return True

    async def pause(self, execution: ExecutionId) -> bool:
        return False

    resume = pause


Live = Callable[[OpenStore, Executor, Session], Awaitable[None]]


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return what lives with an open store for a while."""
    monkeypatch.setenv("MLBENCH_STORE", str(tmp_path / "store"))
    environment = Environment(interpreter="/usr/bin/python", variables={}, stamp="1")
    hello = KernelHello(kernel="k", store=str(tmp_path / "store"), environment=environment, notebook="/n.ipynb")

    def run(live: Live, catalog: MemoryCatalog | None = None) -> None:
        async def main() -> None:
            executor = Executor()
            project = Project(find_store(None), catalog=catalog or MemoryCatalog())
            opened = OpenStore(project, executor, News("life"), "nobody", lambda: None)
            session, _ = await opened.attach(hello, 1)
            async with asyncio.timeout(5):
                await live(opened, executor, session)
            await opened.close(patience=5)

        asyncio.run(main())

    return run


def handed(step: str, **more: Any) -> Submission:
    return Submission(execution=ExecutionId(new_id()), step=step, source="", defs=(step,), **more)


async def ended(opened: OpenStore, submission: Submission) -> Execution:
    while (record := opened.plan.nodes[submission.execution].record).state in ("queued", "running"):
        opened.changed.clear()
        await opened.changed.wait()
    return record


def test_a_step_runs_when_it_cannot_be_told_whether_it_could_be_reused(house: Any) -> None:
    async def live(opened: OpenStore, executor: Executor, session: Session) -> None:
        one = handed("one", options=StepOptions(cache=True), key="cell", key_parts={"code": "1"})
        await opened.submit(session, one)
        assert (await ended(opened, one)).state == "succeeded"

    house(live, BrokenCatalog())


def test_items_run_when_it_cannot_be_told_whether_they_could_be_reused(house: Any) -> None:
    async def live(opened: OpenStore, executor: Executor, session: Session) -> None:
        options = StepOptions(cache=True, foreach=(Foreach(name="n", expression="[1, 2]"),))
        one = handed("one", options=options, key="cell", key_parts={"code": "1"})
        await opened.submit(session, one)
        assert (await ended(opened, one)).state == "succeeded"
        assert executor.known == [([], {})]

    house(live, BrokenCatalog())


def test_a_step_starts_where_the_one_above_ended_and_has_the_generators_that_are_new_since(house: Any) -> None:
    def states(**said: bytes) -> RandomState:
        return dict(said)

    async def live(opened: OpenStore, executor: Executor, session: Session) -> None:
        executor.draws["one"] = opened.project.blobs.put(randomness.to_bytes(states(random=b"end")))
        one = handed("one", seeded=True, random=states(random=b"start"))
        await opened.submit(session, one)
        await ended(opened, one)
        two = handed("two", seeded=True, random=states(random=b"start", torch=b"new"), random_from=one.execution)
        await opened.submit(session, two)
        await ended(opened, two)
        assert executor.tasks["two"].random == states(random=b"end", torch=b"new")

    house(live)


def test_an_end_is_told_although_nobody_can_read_where_its_generators_ended(
    house: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def live(opened: OpenStore, executor: Executor, session: Session) -> None:
        executor.draws["one"] = opened.project.blobs.put(b"no states")
        told = asyncio.Event()
        monkeypatch.setattr(opened, "_let_go", lambda record: told.set())
        await opened.submit(session, handed("one", seeded=True))
        await told.wait()

    house(live)


def test_the_sources_of_all_cells_are_not_kept_with_each_execution(house: Any) -> None:
    async def live(opened: OpenStore, executor: Executor, session: Session) -> None:
        one = handed("one", cells=("%%step one", "1 + 1"))
        await opened.submit(session, one)
        assert session.cells == ("%%step one", "1 + 1")
        asked = opened.plan.nodes[one.execution].asked
        assert asked is not None
        assert asked.submission.cells == ()
        await ended(opened, one)

    house(live)


def test_a_kernel_that_went_while_the_service_stood_still_loses_no_step(
    house: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turn, "GRACE", 0.01)

    async def live(opened: OpenStore, executor: Executor, session: Session) -> None:
        service, kernel = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=service)

        async def attend() -> None:
            while await reader.read(1 << 10):
                pass
            opened.detach(session)

        attending = asyncio.ensure_future(attend())
        graces = asyncio.Event()
        tell = opened.tell

        def listen(event: Any) -> Any:
            done = tell(event)
            if isinstance(event, GraceOver):
                graces.set()
            return done

        monkeypatch.setattr(opened, "tell", listen)
        executor.goes_on.clear()
        one = handed("one")
        await opened.submit(session, one)
        await executor.begun.wait()
        opened.interrupt(session, [one.execution])
        kernel.sendall(b"its last word")
        kernel.close()
        threading.Event().wait(0.05)  # the whole process stands still for longer than the grace
        await graces.wait()
        executor.goes_on.set()
        assert (await ended(opened, one)).state == "succeeded"
        assert not executor.cancelled
        await attending
        writer.close()

    house(live)


def test_what_an_open_notebook_was_given_is_not_forgotten_whatever_its_age(house: Any) -> None:
    """A name is loaded when it is first used, and that may be a week later."""

    async def live(opened: OpenStore, executor: Executor, session: Session) -> None:
        project = opened.project
        now = time.time_ns()

        async def run_of(kernel: str) -> Run:
            run = Run(id=RunId(new_id()), kind="interactive", state="succeeded", name="n", kernel=kernel, started=1)
            project.put_run(replace(run, ended=2))
            return run

        own = [await run_of(session.hello.kernel) for _ in range(3)]
        other = await run_of("gone")
        taken = await run_of("gone")
        record = Execution(id=ExecutionId(new_id()), run=taken.id, step="load", state="succeeded")
        opened.tell(plans.Recalled(at=now, record=record, kernel=session.hello.kernel, notebook=session.kin))
        await opened.hold()
        rules = (Rule(3600),)
        decided = care.plan(project, rules, alive=lambda _: False)
        assert {run.id for run in decided.held} == {run.id for run in (*own, taken)}
        assert [run.id for run in decided.runs] == [other.id]
        opened.detach(session)
        await opened.hold()
        later = care.plan(project, rules, alive=lambda _: False, now=now + 3 * DAY)
        assert {run.id for run in later.runs} == {run.id for run in (*own, taken, other)}

    house(live)


def test_a_kernel_with_other_keys_than_the_service_is_told_so_when_it_attaches(
    house: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = signing.own_keys()
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("MLBENCH_KEYS", str(tmp_path / "others"))
        others = signing.own_keys()
    assert own[0] != others[0]

    async def live(opened: OpenStore, executor: Executor, session: Session) -> None:
        async def told(*keys: str) -> str | None:
            hello = replace(session.hello, kernel=new_id(), keys=keys, keys_folder="/of/the/kernel")
            note: str | None = (await opened.attach(hello, 1))[1].get("note")
            return note

        assert await told() is None, "an older kernel, or one without a key"
        assert await told(*own, *others) is None
        for keys in (others, (*others, *own)):
            said = await told(*keys)
            assert said is not None
            assert "with a key in /of/the/kernel, and the mlbench service with one in " in said
            assert "`mlbench service stop`, and run the cell again" in said

    house(live)
