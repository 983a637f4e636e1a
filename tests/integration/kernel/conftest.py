"""A real kernel, spoken to as a front end does, with a store and a service of its own."""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client import KernelManager

from mlbench.backends.service_socket import connect
from mlbench.core.errors import ServiceError

SHOWN = ("stream", "display_data", "execute_result", "error", "update_display_data", "clear_output")


class Answer:
    """What came of a cell: `status` and `reply`, and the messages that were its output while it ran."""

    def __init__(self, reply: dict[str, Any], messages: list[dict[str, Any]]) -> None:
        self.reply = reply
        self.status = reply["status"]
        self.messages = messages

    @property
    def text(self) -> str:
        """All text: of streams, results and displays."""
        parts = []
        for message in self.messages:
            content = message["content"]
            parts.append(content.get("text") or content.get("data", {}).get("text/plain", ""))
        return "".join(parts)

    @property
    def error(self) -> str:
        """The error's name and text, empty without one."""
        return f"{self.reply['ename']}: {self.reply['evalue']}" if self.status == "error" else ""


class Notebook:
    """A kernel and the page that speaks to it; every wait is bounded."""

    def __init__(
        self, folder: Path, store: Path, runtime: Path, *, greet: bool = True, loads: bool = True, **variables: str
    ) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "MLBENCH_STORE": str(store),
            "MLBENCH_RUNTIME": str(runtime),
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",
            **variables,
        }
        self.greets = greet
        self.loads = loads
        self.late: list[dict[str, Any]] = []
        self.manager = KernelManager()
        self.manager.start_kernel(env=self.environment, cwd=str(folder))
        self._connect()

    def _connect(self) -> None:
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)
        if self.greets:
            page = self.client.session.session
            self.run(f"get_ipython().__dict__.setdefault('mlbench_pages', set()).add({page!r})", silent=True)
        if self.loads:
            assert self.run("%load_ext mlbench").status == "ok"

    def send(self, source: str, cell: str | None = None, *, silent: bool = False, **metadata: Any) -> str:
        """Ask for a cell; return the request's id."""
        content = {
            "code": source,
            "silent": silent,
            "store_history": not silent,
            "user_expressions": {},
            "allow_stdin": False,
            "stop_on_error": True,
        }
        message = self.client.session.msg("execute_request", content)
        message["metadata"] = {"cellId": cell or f"cell-{hash(source) & 0xFFFFFF:x}", **metadata}
        self.client.shell_channel.send(message)
        return str(message["header"]["msg_id"])

    def receive(self, request: str, timeout: float = 60) -> Answer:
        """Return what came of a cell."""
        messages: list[dict[str, Any]] = []
        deadline = time.monotonic() + timeout
        while True:
            message = self.client.iopub_channel.get_msg(timeout=max(0.1, deadline - time.monotonic()))
            if message["metadata"].get("mlbench"):
                self.late.append(message)
            elif message["parent_header"].get("msg_id") != request:
                continue
            elif message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                break
            elif message["msg_type"] in SHOWN:
                messages.append(message)
        while True:
            reply = self.client.shell_channel.get_msg(timeout=max(0.1, deadline - time.monotonic()))
            if reply["parent_header"].get("msg_id") == request:
                return Answer(reply["content"], messages)

    def until_it_waits(self, request: str, timeout: float = 60) -> None:
        """Return when the kernel has said that a cell waits for a step."""
        deadline = time.monotonic() + timeout
        while True:
            message = self.client.iopub_channel.get_msg(timeout=max(0.1, deadline - time.monotonic()))
            if message["metadata"].get("mlbench"):
                self.late.append(message)
            elif message["msg_type"] == "mlbench" and message["parent_header"].get("msg_id") == request:
                assert message["content"]["waits_for"]
                return

    def run(self, source: str, cell: str | None = None, *, timeout: float = 60, **keywords: Any) -> Answer:
        """Run a cell and return what came of it."""
        return self.receive(self.send(source, cell, **keywords), timeout)

    def value(self, expression: str, timeout: float = 60) -> str:
        """Return the text of an expression's value."""
        answer = self.run(expression, timeout=timeout)
        assert answer.status == "ok", answer.error
        return answer.text

    def late_text(self, cell: str, until: str, timeout: float = 30) -> str:
        """Return the late output of a cell as text, read until it holds a text."""
        deadline = time.monotonic() + timeout
        while True:
            found = [one for one in self.late if one["metadata"]["mlbench"]["cell"] == cell]
            text = Answer({"status": "ok"}, found).text + "".join(
                "\n".join(one["content"].get("traceback", ())) for one in found
            )
            if until in text:
                return text
            assert time.monotonic() < deadline, text
            with contextlib.suppress(queue.Empty):
                message = self.client.iopub_channel.get_msg(timeout=0.2)
                if message["metadata"].get("mlbench"):
                    self.late.append(message)

    def restart(self) -> None:
        """Restart the kernel as JupyterLab does."""
        self.client.stop_channels()
        self.manager.restart_kernel(now=False)
        self._connect()

    def close(self) -> None:
        """End the kernel."""
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=False)


class Place:
    """A folder with a store and a service's runtime; starts notebooks in it."""

    def __init__(self, folder: Path, runtime: Path) -> None:
        self.folder = folder
        self.store = folder / "store"
        self.runtime = runtime
        self._open: list[Notebook] = []

    def notebook(self, **keywords: Any) -> Notebook:
        """Start a kernel here."""
        found = Notebook(self.folder, self.store, self.runtime, **keywords)
        self._open.append(found)
        return found

    def service(self) -> Any:
        """Connect to this place's service."""
        return connect(start=False, runtime=self.runtime)

    def close(self) -> None:
        """End kernels and service."""
        for notebook in self._open:
            if notebook.manager.has_kernel:
                notebook.close()
        with contextlib.suppress(ServiceError), self.service() as client:
            client.request("stop", {"force": True}, timeout=30)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Return a place for the tests of a module."""
    runtime = Path(tempfile.mkdtemp(prefix="mlb"))
    found = Place(tmp_path_factory.mktemp("place"), runtime)
    yield found
    found.close()
    shutil.rmtree(runtime, ignore_errors=True)


@pytest.fixture(scope="module")
def shared(place: Place) -> Notebook:
    """Return one notebook for all tests of a module, in a page that has greeted its kernel."""
    return place.notebook()


@pytest.fixture
def page(shared: Notebook) -> Notebook:
    """Return the module's notebook, its late output forgotten."""
    shared.late.clear()
    return shared
