"""JupyterLab in a headless browser, on stores and folders of a test's own.

`MLBENCH_CHROMIUM` names the browser; without it the one on PATH is taken, else the test is skipped, and says so.
"""

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
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
PATIENCE = 90_000
"""Milliseconds that a journey waits for what it sees next."""


def chromium() -> str | None:
    """Return the browser's path."""
    named = os.environ.get("MLBENCH_CHROMIUM")
    return named or next(
        (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
    )


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = chromium()
    if path is None:
        pytest.skip("there is no Chromium here: install it, or name it in MLBENCH_CHROMIUM")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield opened
        opened.close()


@dataclass
class Lab:
    """A JupyterLab of its own, and the page that shows it."""

    url: str
    root: Path
    page: Page
    environment: dict[str, str]

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
        self.execute("docmanager:open", path=name)
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


@pytest.fixture
def lab(browser: Browser, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Lab]:
    """Return a JupyterLab with nothing in its root folder; its service, kernels and server end with it."""
    runtime = Path(tempfile.mkdtemp(prefix="mlb"))
    root = tmp_path / "root"
    root.mkdir()
    settings = tmp_path / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text('{"fetchNews": "false"}')
    environment = {
        **os.environ,
        "MLBENCH_STORE": str(tmp_path / "store"),
        "MLBENCH_RUNTIME": str(runtime),
        "JUPYTER_CONFIG_DIR": str(tmp_path / "config"),
        "JUPYTER_DATA_DIR": str(tmp_path / "data"),
        "JUPYTER_RUNTIME_DIR": str(runtime / "jupyter"),
        "JUPYTERLAB_SETTINGS_DIR": str(tmp_path / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(tmp_path / "workspaces"),
        "IPYTHONDIR": str(tmp_path / "ipython"),
    }
    for name in ("CI", "MLBENCH_OWN_SERVICE"):
        environment.pop(name, None)
    port = free_port()
    log = tmp_path / "jupyterlab.log"
    with log.open("wb") as written:
        server = subprocess.Popen(
            [
                sys.executable, "-m", "jupyterlab", "--allow-root", "--no-browser", f"--port={port}",
                "--ServerApp.port_retries=0", "--IdentityProvider.token=journey", f"--ServerApp.root_dir={root}",
                "--LabApp.expose_app_in_browser=True", "--LabApp.extension_manager=readonly",
            ],
            env=environment, stdout=written, stderr=written, start_new_session=True,
        )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{port}/lab?token=journey"
        wait_for_server(url, server, log)
        context = browser.new_context(
            viewport={"width": 1440, "height": 900}, timezone_id="Europe/Berlin", locale="en-GB"
        )
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        opened = Lab(url=url, root=root, page=page, environment=environment)
        yield opened
        page.screenshot(path=str(tmp_path / f"{request.node.name}.png"))
        context.close()
        assert not problems, problems
    finally:
        server.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            server.wait(20)
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
        subprocess.run(
            [sys.executable, "-m", "mlbench.entrypoints.cli", "service", "stop", "--force"],
            env=environment, capture_output=True, timeout=60, check=False,
        )  # fmt: skip
        shutil.rmtree(runtime, ignore_errors=True)


def write_notebook(path: Path, *cells: tuple[str, str], parameters: str | None = None) -> None:
    """Write a notebook of code cells, each an id and a source; the one named is tagged `parameters`."""
    document = {
        "cells": [
            {
                "cell_type": "code", "id": identifier, "source": source, "outputs": [], "execution_count": None,
                "metadata": {"tags": ["parameters"]} if identifier == parameters else {},
            }
            for identifier, source in cells
        ],
        "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }  # fmt: skip
    path.write_text(json.dumps(document), encoding="utf-8")
