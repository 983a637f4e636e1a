"""A notebook's shell without a kernel, and a service in memory that runs steps on threads."""

from __future__ import annotations

import ast
import atexit
import contextlib
import io
import itertools
import math
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from mlbench.backends.blobs_local import LocalBlobs
from mlbench.core.errors import NotFound
from mlbench.core.ids import RunId, new_id
from mlbench.core.messages import Event, Submission
from mlbench.core.records import Execution, Failure, FanOut
from mlbench.entrypoints.kernel.session import Session
from mlbench.project.signing import signer
from mlbench.runs import artifacts, capture
from mlbench.runs.signing import KERNEL


class MemoryService:
    """Runs each step on a thread of this process, once its gate is open; all gates are, unless a test shuts one."""

    def __init__(self, store: Path) -> None:
        self.blobs = LocalBlobs(store)
        self.run = RunId(new_id())
        self.records: dict[str, Execution] = {}
        self.submissions: list[Submission] = []
        self.requests: list[tuple[str, Any]] = []
        self.gates: dict[str, threading.Event] = {}
        self.threads: list[threading.Thread] = []
        self.listeners: list[Callable[[Event], None]] = []
        self.ended: dict[str, threading.Event] = {}
        self.closed = False

    # The client's side.

    def on_event(self, callback: Callable[[Event], None]) -> None:
        self.listeners.append(callback)

    def on_connected(self, callback: Callable[[Any], None]) -> None:
        self.reconnect = callback

    def close(self) -> None:
        self.closed = True

    def request(self, op: str, body: Any = None, *, timeout: float | None = 60.0) -> Any:
        self.requests.append((op, body))
        return getattr(self, f"do_{op}")(body)

    # The service's side.

    def shut(self, step: str) -> threading.Event:
        """Let a step begin its work only when the event returned is set."""
        return self.gates.setdefault(step, threading.Event())

    def do_attach(self, hello: Any) -> Any:
        return {"run": None, "executions": []}

    def do_execution(self, body: Any) -> Any:
        if body["id"] not in self.records:
            raise NotFound("No such execution.")
        return {"execution": msgspec.to_builtins(self.records[body["id"]])}

    def do_submit(self, submission: Submission) -> Any:
        for record in self.records.values():
            if record.key is not None and record.key == submission.key and record.state in ("queued", "running"):
                return {"execution": msgspec.to_builtins(record), "attached": True, "note": "on since 12:00."}
        self.submissions.append(submission)
        record = Execution(
            id=submission.execution,
            run=self.run,
            step=submission.step,
            state="queued",
            key=submission.key,
            cell=submission.cell,
            source=submission.source,
        )
        self.records[record.id] = record
        self.ended[record.id] = threading.Event()
        answer = {"execution": msgspec.to_builtins(record), "attached": False}
        thread = threading.Thread(target=self._work, args=(submission,), daemon=True)
        self.threads.append(thread)
        thread.start()
        return answer

    def do_interrupt(self, body: Any) -> Any:
        names = []
        for identifier in body["executions"]:
            record = self.records[identifier]
            if record.state in ("queued", "running"):
                names.append(record.step)
                self.end(replace(record, state="cancelled", reason="user", ended=time.time_ns()))
        return {"cancelled": names}

    def do_cancel(self, body: Any) -> Any:
        found = [
            one
            for one in self.records.values()
            if one.state in ("queued", "running") and body.get("execution", one.id) == one.id
        ]
        return self.do_interrupt({"executions": [one.id for one in found]})

    def do_metrics(self, body: Any) -> Any:
        return None

    do_tag = do_metrics

    def do_here(self, record: Execution) -> Any:
        self.records[record.id] = replace(record, run=self.run)
        self.ended[record.id] = threading.Event()
        self.ended[record.id].set()
        return {"run": self.run}

    def news(self, kind: str, **body: Any) -> None:
        for listener in self.listeners:
            listener(Event(seq=1, life="test", type=kind, body=body))  # type: ignore[arg-type]

    def end(self, record: Execution) -> None:
        if self.records[record.id].state in ("queued", "running"):
            self.records[record.id] = record
            self.news("execution", execution=msgspec.to_builtins(record))
            self.ended[record.id].set()

    def _work(self, submission: Submission) -> None:
        parents = {*submission.edges.values(), *submission.waits_for}
        for parent in parents:
            self.ended[parent].wait(20)
        if any(self.records[one].state != "succeeded" for one in parents):
            record = self.records[submission.execution]
            self.end(replace(record, state="skipped", note="a step that it needs failed.", ended=time.time_ns()))
            return
        gate = self.gates.get(submission.step)
        if gate is not None:
            gate.wait(20)
        data = self.blobs.get(submission.capture_digest) if submission.capture_digest else submission.capture
        namespace = capture.install(data, self.blobs)
        loader = artifacts.Loader(self.blobs, namespace)
        for name, parent in submission.edges.items():
            binding = next((one for one in self.records[parent].binds if one.name == name), None)
            if binding is not None:
                namespace[name] = loader.load(binding)
        record = self.records[submission.execution]
        printed = io.StringIO()
        fanout = None
        try:
            if submission.options.foreach:
                fanout = self._items(submission, namespace, printed)
            else:
                exec(compile(ast.parse(submission.source), "step", "exec"), _with_print(namespace, printed))
        except Exception as error:  # noqa: BLE001  whatever a step raises is its failure
            self._print(submission, printed)
            failure = Failure(ename=type(error).__name__, evalue=str(error), traceback=(f"step {record.step}, line 1",))
            self.end(replace(record, state="failed", reason="error", failure=failure, ended=time.time_ns()))
            return
        self._print(submission, printed)
        names = [*submission.defs, *submission.quiet_defs]
        binds = artifacts.save_names(
            namespace, [name for name in names if name in namespace], self.blobs, signer=signer(KERNEL)
        )
        self.end(replace(record, state="succeeded", binds=tuple(binds), fanout=fanout, ended=time.time_ns()))

    def _items(self, submission: Submission, namespace: dict[str, Any], printed: io.StringIO) -> FanOut:
        """Run the body for each item; afterwards the names that it binds are lists in the namespace."""
        foreach = submission.options.foreach
        values = [list(eval(one.expression, namespace)) for one in foreach]
        clean, code = dict(namespace), compile(ast.parse(submission.source), "step", "exec")
        lists: dict[str, list[Any]] = {name: [] for name in (*submission.defs, *submission.quiet_defs)}
        for item in itertools.product(*values):
            namespace.clear()  # helpers have this very dictionary as their globals
            namespace.update({**clean, **{one.name: value for one, value in zip(foreach, item, strict=True)}})
            exec(code, _with_print(namespace, printed))
            for name, made in lists.items():
                made.append(namespace.get(name))
        namespace.update(lists)
        shape = tuple(map(len, values))
        total = math.prod(shape)
        return FanOut(names=tuple(one.name for one in foreach), shape=shape, total=total, succeeded=total)

    def _print(self, submission: Submission, printed: io.StringIO) -> None:
        if printed.getvalue():
            self.news(
                "messages",
                execution=submission.execution,
                step=submission.step,
                cell=submission.cell,
                messages=[{"output_type": "stream", "name": "stdout", "text": printed.getvalue()}],
            )


def _with_print(namespace: dict[str, Any], stream: io.StringIO) -> dict[str, Any]:
    namespace["print"] = lambda *args, **keywords: print(*args, **{**keywords, "file": stream})
    return namespace


class Book:
    """A notebook: run cells, look at names."""

    def __init__(self, shell: InteractiveShell, session: Session, service: MemoryService) -> None:
        self.shell = shell
        self.session = session
        self.service = service
        self.names: dict[str, Any] = shell.user_ns

    def run(self, source: str) -> Any:
        """Run a cell and return what it showed last; raise what it raised."""
        result = self.shell.run_cell(source, store_history=True)
        error = result.error_before_exec or result.error_in_exec
        if error is not None:
            raise error
        return result.result

    def fail(self, source: str) -> BaseException:
        """Run a cell that must fail; return what it raised."""
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            result = self.shell.run_cell(source, store_history=True)
        error = result.error_before_exec or result.error_in_exec
        assert error is not None
        return error


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Book]:
    """Return a notebook whose steps are asynchronous, as in a page that has greeted its kernel."""
    from mlbench.entrypoints import kernel
    from mlbench.entrypoints.kernel import attachment

    monkeypatch.setenv("MLBENCH_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    service = MemoryService(tmp_path / "store")
    monkeypatch.setattr(attachment, "_connect", lambda: service)
    InteractiveShell.clear_instance()
    main = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    config = Config()
    config.HistoryManager.enabled = False
    shell = InteractiveShell.instance(user_module=main, config=config)
    session = kernel.load(shell)
    monkeypatch.setattr(session.front, "takes_late_output", lambda: True)
    yield Book(shell, session, service)
    for gate in service.gates.values():
        gate.set()
    for thread in service.threads:
        thread.join(20)
    kernel.unload(shell)
    shell.atexit_operations()
    atexit.unregister(shell.atexit_operations)
    InteractiveShell.clear_instance()
