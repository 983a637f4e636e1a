"""A service for tests, and the kernels that use it.

`python -m tests.integration.house VERSION READY` is a service whose steps run in memory. Their source says what they
do, one thing a line: `print TEXT`, `sleep SECONDS`, `wait FILE` (until it is there), `bind NAME`, `log NAME=VALUE`,
`draw`, `fail`, `crash`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from mlbench.backends.blobs_local import LocalBlobs
from mlbench.backends.service_socket import Door, ServiceClient, connect
from mlbench.backends.service_socket.frames import encode
from mlbench.core.ids import ExecutionId, new_id
from mlbench.core.messages import Environment, Event, KernelHello, StepTask, Submission
from mlbench.core.records import ENDED, Artifact, Binding, Execution, Failure, Json

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 90.0


# --- steps in memory -------------------------------------------------------------------------------------------------


class MemoryExecutor:
    """Does what a task's source says, and writes its record as a worker does."""

    def __init__(self) -> None:
        self._running: dict[ExecutionId, asyncio.Task[None]] = {}
        self._paused: dict[ExecutionId, asyncio.Event] = {}
        self.idle_since: float | None = time.monotonic()
        self.running = True

    async def submit(self, task: StepTask, on_event: Callable[[Json], None], known: Any = None) -> Execution:
        known = {one.name for one in Execution.__dataclass_fields__.values()}
        base = msgspec.convert({name: one for name, one in task.base.items() if name in known}, Execution)
        self._paused[task.execution] = go_on = asyncio.Event()
        go_on.set()
        base = replace(base, state="running", started=time.time_ns(), worker="memory")
        on_event({"type": "started", "started": base.started, "worker": "memory"})
        said: list[str] = []
        work = self._running[task.execution] = asyncio.ensure_future(self._do(task, on_event, go_on, said))
        await asyncio.wait([work])
        ended: dict[str, Any] = {"state": "succeeded"}
        if work.cancelled():
            ended = {"state": "cancelled", "reason": "user"}
        elif isinstance(error := work.exception(), RuntimeError):
            raise error
        elif error is not None:
            ended = {"state": "failed", "reason": "error", "failure": Failure(ename="ValueError", evalue=str(error))}
        else:
            ended["binds"] = tuple(_binding(task, name) for name in _bound(task))
            ended["draws"] = ("random",) if "draw" in task.source.split() else ()
        text = "".join(f"{line}\n" for line in said)
        shown: tuple[Json, ...] = ({"output_type": "stream", "name": "stdout", "text": text},) if text else ()
        record = replace(base, ended=time.time_ns(), messages=shown, **ended)
        LocalBlobs(task.store).append("execution", record.id, msgspec.to_builtins(record))
        return record

    async def _do(
        self, task: StepTask, on_event: Callable[[Json], None], go_on: asyncio.Event, said: list[str]
    ) -> None:
        for line in task.source.splitlines():
            word, _, rest = line.strip().partition(" ")
            await go_on.wait()
            if word == "print":
                said.append(rest)
                text = {"output_type": "stream", "name": "stdout", "text": f"{rest}\n"}
                on_event({"type": "messages", "messages": [text]})
            elif word == "sleep":
                await asyncio.sleep(float(rest))
            elif word == "wait":
                while not os.path.exists(rest):  # noqa: ASYNC240
                    await asyncio.sleep(0.01)
                    await go_on.wait()
            elif word == "fail":
                raise ValueError(rest or "as it was told")
            elif word == "crash":
                raise RuntimeError("the executor broke")
            elif word == "log":
                name, value = rest.split("=")
                on_event({"type": "metrics", "metrics": [{"name": name, "value": float(value), "time": 1}]})

    async def cancel(self, execution: ExecutionId, reason: str = "user") -> bool:
        work = self._running.get(execution)
        return work is not None and work.cancel()

    async def pause(self, execution: ExecutionId) -> bool:
        self._paused[execution].clear()
        return True

    async def resume(self, execution: ExecutionId) -> bool:
        self._paused[execution].set()
        return True

    async def close(self) -> None:
        for work in self._running.values():
            work.cancel()


def _bound(task: StepTask) -> list[str]:
    hidden = [line.split()[1] for line in task.source.splitlines() if line.strip().startswith("bind ")]
    return [*task.defs, *hidden]


def _binding(task: StepTask, name: str) -> Binding:
    made = Artifact(digest=f"blake3:{task.execution}.{name}", size=1, type="int", codec="scalar")  # type: ignore[arg-type]
    return Binding(name=name, artifact=made)


def _hurry() -> None:
    """Shorten the service's waits for people and machines: who waits for them here is a test."""
    from mlbench.entrypoints.service import peers, server
    from mlbench.runs.plan import turn

    turn.GRACE = 1.0  # type: ignore[misc]
    server.ENGINE_PATIENCE = 0.5  # type: ignore[misc]
    server.LINGER = 0.3  # type: ignore[misc]
    server.LOOK_EVERY = 0.3  # type: ignore[misc]
    peers.MOST_UNREAD, peers.UNREAD_FOR = 1 << 20, 1.5  # type: ignore[misc]


def main(version: str, ready: int, until_idle: bool) -> None:
    import logging

    from mlbench.entrypoints.service.process import serve
    from mlbench.project import Project

    logging.basicConfig(level="INFO", stream=sys.stderr)
    _hurry()

    def say() -> None:
        os.write(ready, b"ready\n")
        os.close(ready)

    door = Door.find(version=version)
    serve(door, MemoryExecutor, open_project=lambda path: Project.open(store=path), until_idle=until_idle, ready=say)


# --- the house -------------------------------------------------------------------------------------------------------


@dataclass
class House:
    """The service of one runtime folder, whichever process it is now."""

    runtime: Path
    store: Path
    clients: list[ServiceClient] = field(default_factory=list)
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def pid(self) -> int:
        pid = Door.find().alive()
        assert pid, "no service is running"
        return pid

    def start(self, *, version: str | None = None, until_idle: bool = False) -> int:
        """Start a service whose steps run in memory, and return its process id."""
        reader, writer = os.pipe()
        door = Door.find(version=version)
        with door.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.integration.house", door.version, str(writer), str(int(until_idle))],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                pass_fds=(writer,),
                start_new_session=True,
            )
        self.started.append(process)
        os.close(writer)
        with os.fdopen(reader, "rb") as said:
            assert said.read(), door.last_lines(40)
        return process.pid

    def start_for(self, door: Door, *, until_idle: bool) -> None:
        """Start one in the place of the real one, for a client that found none."""
        self.start(version=door.version, until_idle=until_idle)

    def connect(self, *, role: str = "cli", **more: Any) -> ServiceClient:
        """Return a client; the service is started if there is none."""
        client = connect(role=role, **more)  # type: ignore[arg-type]
        self.clients.append(client)
        return client

    def kernel(self, name: str = "kernel", **more: Any) -> Kernel:
        """Return a kernel that has attached."""
        return Kernel(self, name, **more)

    def in_another_process(self, code: str) -> str:
        """Run code that has this house as `house` in a process of its own, and return what it printed."""
        begin = (
            "from pathlib import Path; from tests.integration.house import House;"
            f"house = House(runtime=Path({str(self.runtime)!r}), store=Path({str(self.store)!r}));"
        )
        command = [sys.executable, "-c", f"{begin}{code}"]
        return subprocess.run(
            command, stdout=subprocess.PIPE, text=True, timeout=PATIENCE, check=True, cwd=ROOT
        ).stdout.strip()

    def kill(self) -> int:
        """Kill the service, and return what its process id was."""
        pid = self.pid
        os.kill(pid, signal.SIGKILL)
        for process in self.started:
            if process.pid == pid:
                process.wait()
        deadline = time.monotonic() + PATIENCE
        while Door.find().alive() == pid:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return pid

    @contextlib.contextmanager
    def standing_still(self) -> Iterator[None]:
        """Stop the service for a while."""
        pid = self.pid
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def processes(self) -> dict[int, str]:
        """Return all processes that know this runtime folder, but this one."""
        mark = f"MLBENCH_RUNTIME={self.runtime}".encode()
        found: dict[int, str] = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            with contextlib.suppress(OSError):
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        return found

    def clear(self) -> None:
        """End all clients and what they left under way; the service goes on."""
        for client in self.clients:
            client.close()
        if Door.find().alive() is None:
            return
        with connect(role="cli") as client:
            for one in client.request("status")["executions"]:
                client.request("cancel", {"execution": one["execution"]})
            eventually(lambda: not client.request("status")["executions"])

    def wait_until_detached(self, kernel: str) -> None:
        """Return when the service knows that a kernel is gone."""
        client = self.connect()
        eventually(lambda: kernel not in [one["kernel"] for one in client.request("status")["clients"]])

    def wait_until_attached(self, kernel: str) -> None:
        """Return when the service has a kernel."""
        client = self.connect()
        eventually(lambda: kernel in [one["kernel"] for one in client.request("status")["clients"]])

    def end(self) -> None:
        """End all clients, then the service of each version."""
        for client in self.clients:
            client.close()
        for lock in self.runtime.glob("*.lock"):
            with contextlib.suppress(ValueError, ProcessLookupError):
                pid = int(lock.read_text() or 0)
                if pid in self.processes():
                    os.kill(pid, signal.SIGTERM)
        for process in self.started:
            process.wait(timeout=PATIENCE)

    def wait_until_gone(self) -> dict[int, str]:
        """Return the processes that do not end by themselves within some seconds; they are killed."""
        deadline = time.monotonic() + PATIENCE
        while left := self.processes():
            if time.monotonic() > deadline:
                for pid in left:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                return left
            time.sleep(0.05)
        return {}


class Kernel:
    """A kernel without IPython: it attaches, submits and listens."""

    def __init__(
        self,
        house: House,
        name: str = "kernel",
        *,
        client: ServiceClient | None = None,
        run: str | None = None,
        notebook: str = "/home/ada/flights.ipynb",
        kind: str = "interactive",
        reconnect: bool = False,
    ) -> None:
        self.client = client or house.connect(role="kernel", reconnect=reconnect)
        self.store = house.store
        self.events: list[Event] = []
        self._news = threading.Condition()
        self.hello = KernelHello(
            kernel=name,
            store=str(house.store),
            environment=Environment(interpreter=sys.executable, variables=dict(os.environ), stamp="test"),
            notebook=notebook,
            run=run,  # type: ignore[arg-type]
            kind=kind,  # type: ignore[arg-type]
        )
        self.client.on_event(self._take)
        self.client.on_connected(lambda client: client.request("attach", replace(self.hello, again=True)))
        self.attached = self.client.request("attach", self.hello)

    def _take(self, event: Event) -> None:
        with self._news:
            self.events.append(event)
            self._news.notify_all()

    def tell(self, op: str, body: Any) -> None:
        """Make a request without waiting for its answer."""
        self.client._connection.socket.sendall(encode({"n": 0, "op": op, "body": body}))

    def submit(self, step: str, source: str = "", *parents: str, **more: Any) -> str:
        """Hand a step over and return the id of its execution; `parents` are `NAME=EXECUTION`."""
        return str(self.ask(step, source, *parents, **more)["execution"]["id"])

    def ask(self, step: str, source: str = "", *parents: str, **more: Any) -> Json:
        edges = dict(parent.split("=") for parent in parents)
        submission = Submission(
            execution=ExecutionId(new_id()),
            step=step,
            source=source,
            edges=edges,  # type: ignore[arg-type]
            defs=more.pop("defs", (step,)),
            cell=more.pop("cell", f"cell-{step}"),
            **more,
        )
        answer: Json = self.client.request("submit", submission)
        return answer

    def until(self, wanted: Callable[[Event], bool], what: str = "the event") -> Event:
        """Return the first event that is wanted, which may have come already."""
        deadline = time.monotonic() + PATIENCE
        with self._news:
            while True:
                for event in self.events:
                    if wanted(event):
                        return event
                left = deadline - time.monotonic()
                assert left > 0, f"{what} did not come; there were {[(e.type, _state(e)) for e in self.events]}"
                self._news.wait(left)

    def state(self, execution: str, *states: str) -> Execution:
        """Wait until an execution has one of the states given (or has ended), and return its record."""
        wanted = states or tuple(ENDED)

        def fits(event: Event) -> bool:
            record = event.body.get("execution")
            return event.type == "execution" and record["id"] == execution and record["state"] in wanted

        return msgspec.convert(self.until(fits, f"{execution} {wanted}").body["execution"], Execution)

    def run_state(self, run: str, state: str) -> Json:
        """Wait until a run has a state."""

        def fits(event: Event) -> bool:
            return event.type == "run" and event.run == run and event.body["run"]["state"] == state

        found: Json = self.until(fits, f"run {run} {state}").body["run"]
        return found

    def states(self, execution: str) -> list[str]:
        """Return the states of an execution, as they were told."""
        return [
            event.body["execution"]["state"]
            for event in self.events
            if event.type == "execution" and event.body["execution"]["id"] == execution
        ]


def _state(event: Event) -> str:
    body = event.body.get("execution") or event.body.get("run")
    return f"{body.get('step')} {body.get('state')}" if isinstance(body, dict) else ""


def eventually(question: Callable[[], Any]) -> None:
    """Ask until the answer is yes."""
    deadline = time.monotonic() + PATIENCE
    while not question():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def catalog(store: Path) -> Any:
    """Return a store's catalog, to be read as another process does."""
    from mlbench.project import Project

    return Project.open(store=str(store)).catalog


def names(answer: Json) -> Sequence[str]:
    """Return the steps that an answer says were cancelled."""
    return sorted(one["step"] for one in answer["cancelled"])


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), bool(int(sys.argv[3])))
