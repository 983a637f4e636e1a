"""JupyterLab in a headless browser, on stores and folders of its own, and what a user does in it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
MLBENCH = str(Path(sys.executable).with_name("mlbench"))
TOKEN = "journey"
PATIENCE = 90_000
"""Milliseconds that a journey waits for what it sees next."""


def chromium() -> str | None:
    """Return the browser's path: the one that `MLBENCH_CHROMIUM` names, or the one on PATH."""
    named = os.environ.get("MLBENCH_CHROMIUM")
    return named or next(
        (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
    )


@dataclass(frozen=True, slots=True)
class Server:
    """A JupyterLab with stores of its own."""

    address: str
    root: Path
    environment: dict[str, str]

    def ask(self, method: str, path: str) -> Any:
        """Ask the server something, and return what its answer holds."""
        asked = urllib.request.Request(self.address + path, method=method, headers={"Authorization": f"token {TOKEN}"})
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return json.loads(answer.read() or "null")

    def clear(self) -> None:
        """End all kernels, and delete all jobs."""
        for kernel in self.ask("GET", "/api/kernels"):
            self.ask("DELETE", f"/api/kernels/{kernel['id']}")
        for view in self.ask("GET", "/mlbench/api/v1/jobs")["jobs"]:
            self.ask("DELETE", f"/mlbench/api/v1/jobs/{view['job']['id']}")


@dataclass(frozen=True, slots=True)
class Lab:
    """A page that shows a JupyterLab, and the folder in which it finds its notebooks."""

    server: Server
    folder: str
    page: Page

    @property
    def root(self) -> Path:
        """Where the notebooks lie."""
        return self.server.root / self.folder

    @property
    def url(self) -> str:
        """The address of a workspace that no other page has."""
        return f"{self.server.address}/lab/workspaces/{self.folder}?token={TOKEN}"

    def open(self) -> None:
        """Show JupyterLab, and wait until it is ready."""
        self.page.goto(self.url)
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        self.page.wait_for_function(
            "() => window.jupyterapp && window.jupyterapp.commands.hasCommand('mlbench:show-sidebar')",
            timeout=PATIENCE,
        )
        self.page.evaluate("async () => { await window.jupyterapp.restored; }")

    def execute(self, command: str, **args: Any) -> None:
        """Run a command of JupyterLab."""
        self.page.evaluate(
            "async ([command, args]) => { await window.jupyterapp.commands.execute(command, args); }", [command, args]
        )

    def open_notebook(self, name: str) -> None:
        """Open a notebook with the sidebar beside it, and wait for its kernel."""
        self.execute("docmanager:open", path=f"{self.folder}/{name}")
        self.execute("mlbench:show-sidebar")
        self.wait_for_kernel()

    def wait_for_kernel(self) -> None:
        self.page.wait_for_function(
            """() => {
              const panel = window.jupyterapp.shell.currentWidget;
              const kernel = panel?.sessionContext?.session?.kernel;
              return kernel?.connectionStatus === 'connected' && kernel.status === 'idle';
            }""",
            timeout=PATIENCE,
        )

    def cell(self, identifier: str) -> str:
        """Make a cell the active one, and return the selector of what stands in it."""
        found = self.page.evaluate(
            """async identifier => {
              const { content } = window.jupyterapp.shell.currentWidget;
              const at = content.widgets.findIndex(cell => cell.model.id === identifier);
              content.activeCellIndex = at;
              await content.scrollToItem(at);
              content.activeCell.node.setAttribute('data-test-cell', identifier);
              return at;
            }""",
            identifier,
        )
        assert found >= 0, identifier
        return f"[data-test-cell='{identifier}']"

    def run(self, *identifiers: str) -> None:
        """Run cells, one after the other, without waiting for them to end."""
        for identifier in identifiers:
            self.cell(identifier)
            self.page.evaluate("() => { void window.jupyterapp.commands.execute('notebook:run-cell'); }")

    def outputs(self, identifier: str) -> str:
        """Return all that a cell has printed, as the document holds it."""
        text: str = self.page.evaluate(
            """identifier => {
              const { content } = window.jupyterapp.shell.currentWidget;
              const cell = content.widgets.find(cell => cell.model.id === identifier);
              return cell.model.outputs.toJSON().map(each => [each.text ?? each.data?.['text/plain'] ?? each.evalue]
                .flat().join('')).join('');
            }""",
            identifier,
        )
        return text

    def wait_for_output(self, identifier: str, text: str) -> None:
        """Wait until a cell shows a text."""
        self.wait_until(lambda: text in self.outputs(identifier), f"{text!r} under {identifier}")

    def wait_until(self, holds: Callable[[], bool], what: str) -> None:
        """Wait until something holds; the page goes on meanwhile."""
        end = time.monotonic() + PATIENCE / 1000
        while not holds():
            assert time.monotonic() < end, f"did not see: {what}"
            self.page.wait_for_timeout(100)

    def pill(self, step: str, state: str) -> None:
        """Wait until a step's pill shows a state."""
        self.page.wait_for_selector(f".jp-mlb-Pill[data-step='{step}'][data-state='{state}']", timeout=PATIENCE)

    def sidebar_state(self, step: str, state: str) -> None:
        """Wait until the sidebar shows a step in a state."""
        row = self.page.locator(".jp-mlb-StepList-row", has=self.page.get_by_text(step, exact=True))
        row.locator(f".jp-mlb-StateIcon[data-state='{state}']").wait_for(timeout=PATIENCE)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def wait_for_server(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + PATIENCE / 1000
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.2)


@contextmanager
def serving(folder: Path, **variables: str) -> Iterator[Server]:
    """Start a JupyterLab with nothing in its root folder; its service, kernels and server end with it.

    Parameters
    ----------
    folder
        Where all that it writes goes; it is empty.
    variables
        What else its environment holds.
    """
    runtime = Path(tempfile.mkdtemp(prefix="mlb"))
    root = folder / "root"
    root.mkdir()
    settings = folder / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text('{"fetchNews": "false"}')
    environment = {
        **os.environ,
        "MLBENCH_STORE": str(folder / "store"),
        "MLBENCH_RUNTIME": str(runtime),
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTER_DATA_DIR": str(folder / "data"),
        "JUPYTER_RUNTIME_DIR": str(runtime / "jupyter"),
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
        "IPYTHONDIR": str(folder / "ipython"),
        **variables,
    }
    for name in ("CI", "MLBENCH_OWN_SERVICE"):
        environment.pop(name, None)
    port = free_port()
    log = folder / "jupyterlab.log"
    with log.open("wb") as written:
        process = subprocess.Popen(
            [
                sys.executable, "-m", "jupyterlab", "--allow-root", "--no-browser", f"--port={port}",
                "--ServerApp.port_retries=0", f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={root}",
                "--LabApp.expose_app_in_browser=True", "--LabApp.extension_manager=readonly",
            ],
            env=environment, stdout=written, stderr=written, start_new_session=True,
        )  # fmt: skip
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for_server(f"{address}/lab?token={TOKEN}", process, log)
        yield Server(address=address, root=root, environment=environment)
    finally:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        subprocess.run(
            [MLBENCH, "service", "stop", "--force"],
            env=environment, capture_output=True, timeout=60, check=True,
        )  # fmt: skip
        shutil.rmtree(runtime, ignore_errors=True)


@contextmanager
def browsing() -> Iterator[Browser | None]:
    """Open a browser; None where there is none."""
    path = chromium()
    if path is None:
        yield None
        return
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield opened
        opened.close()


@contextmanager
def showing(browser: Browser, server: Server, folder: str) -> Iterator[Lab]:
    """Open a page for the notebooks of a folder, which is made if there is none; an error of the page's is one here."""
    (server.root / folder).mkdir(exist_ok=True)
    context = browser.new_context(viewport={"width": 1440, "height": 900}, timezone_id="Europe/Berlin", locale="en-GB")
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    yield Lab(server=server, folder=folder, page=page)
    context.close()
    assert not problems, problems


def write_notebook(path: Path, *cells: tuple[str, str], parameters: str | None = None, kernel: str = "python3") -> None:
    """Write a notebook of code cells, each an id and a source; the one named is tagged `parameters`."""
    document = {
        "cells": [
            {
                "cell_type": "code", "id": identifier, "source": source, "outputs": [], "execution_count": None,
                "metadata": {"tags": ["parameters"]} if identifier == parameters else {},
            }
            for identifier, source in cells
        ],
        "metadata": {"kernelspec": {"name": kernel, "display_name": kernel, "language": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }  # fmt: skip
    path.write_text(json.dumps(document), encoding="utf-8")
