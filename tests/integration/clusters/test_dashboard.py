"""Dask's dashboard through Jupyter's proxy, where jupyter-server-proxy and bokeh are installed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import websocket

from mlbench.backends.service_socket import connect
from mlbench.core.messages import ClusterChoice
from mlbench.core.records import Json
from mlbench.runs.wire import msgspec
from tests.integration.clusters.places import PATIENCE, Elsewhere, certificates

pytest.importorskip("jupyter_server_proxy")
pytest.importorskip("bokeh")

pytestmark = pytest.mark.timeout(300)

TOKEN = "for-this-test-only"


@dataclass
class Server:
    """A Jupyter server of its own, under a prefix as a hub gives it."""

    folder: Path
    runtime: Path
    url: str = ""
    process: subprocess.Popen[bytes] | None = None
    variables: dict[str, str] = field(default_factory=dict)

    def start(self) -> None:
        said = self.folder / "jupyter"
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "jupyter", "server", "--no-browser", "--allow-root", "--port=0"),
                *(f"--ServerApp.root_dir={self.folder}", "--ServerApp.base_url=/user/ann/"),
                f"--IdentityProvider.token={TOKEN}",
            ],
            env={**os.environ, "JUPYTER_RUNTIME_DIR": str(said), **self.variables},
            stdin=subprocess.DEVNULL,
            stdout=(self.folder / "server.log").open("wb"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        until = time.monotonic() + 2 * PATIENCE
        while not self.url:
            assert time.monotonic() < until, (self.folder / "server.log").read_text()
            for path in said.glob("jpserver-*.json"):
                try:
                    self.url = json.loads(path.read_text())["url"].partition("/user/")[0]
                except ValueError:
                    continue
            time.sleep(0.1)

    def get(self, path: str) -> tuple[int, str]:
        """Return the status and the text that a path answers, redirections followed."""
        request = urllib.request.Request(self.url + path, headers={"Authorization": f"token {TOKEN}"})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.read().decode("utf-8", "replace")
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode("utf-8", "replace")

    def dashboards(self) -> list[Json]:
        status, text = self.get("/user/ann/mlbench/api/v1/dashboards")
        assert status == 200, text
        found: list[Json] = json.loads(text)["dashboards"]
        return found

    def open(self) -> websocket.WebSocket:
        """Be a page, without which a server looks for no service."""
        url = f"{self.url.replace('http', 'ws')}/user/ann/mlbench/api/v1/events"
        return websocket.create_connection(url, header={"Authorization": f"token {TOKEN}"}, timeout=30)

    def end(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait(10)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    runtime = Path(tempfile.mkdtemp(prefix="mlb"))
    variables = {"MLBENCH_STORE": str(tmp_path / "store"), "MLBENCH_RUNTIME": str(runtime)}
    one = Server(tmp_path, runtime, variables=variables)
    try:
        yield one
    finally:
        one.end()
        shutil.rmtree(runtime, ignore_errors=True)


def test_the_link_to_a_dashboard_leads_through_the_proxy_to_dask(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in server.variables.items():
        monkeypatch.setenv(name, value)
    place = Elsewhere(tmp_path / "there", tls=certificates(tmp_path))
    with connect(role="cli", runtime=server.runtime) as client:
        try:
            place.start("--dashboard-address", "127.0.0.1:0")
            place.worker()
            choice = ClusterChoice(name="team", address=place.address, tls=place.tls)
            client.request("cluster", {"verb": "use", "choice": msgspec.to_builtins(choice)})
            server.start()
            page = server.open()
            until = time.monotonic() + PATIENCE
            while not (found := server.dashboards()):
                assert time.monotonic() < until, "the server does not know of the cluster"
                time.sleep(0.2)
            (dashboard,) = found
            assert dashboard["name"] == "team"
            assert dashboard["url"].startswith("/user/ann/proxy/")
            status, text = server.get(dashboard["url"])
            assert status == 200, text
            assert "Dask" in text
            page.close()
            status, _ = server.get(dashboard["url"].replace("/status", "/statics/css/base.css"))
            assert status == 200
        finally:
            client.request("stop", {"force": True})
            place.end()
