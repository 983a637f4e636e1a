"""An S3 server of the tests' own: moto's, a process on a free port, spoken to over HTTP as the real thing is."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from importlib.util import find_spec

import pytest

from mlbench.core.ids import new_id

__all__ = ["S3Server", "needs_s3"]


def needs_s3() -> None:
    """Skip, saying why, where the server or its client is not installed."""
    for name, install in (("moto", "moto[server]"), ("s3fs", "s3fs"), ("flask", "moto[server]")):
        if find_spec(name) is None:
            pytest.skip(f"S3 IS NOT TESTED: {name} is not installed: pip install '{install}'")


class S3Server:
    """The server, started; `variables` let whoever has them speak to it."""

    def __init__(self, port: int | None = None) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", port or 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.variables = {
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing-secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.url,
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"{self.url}/moto-api/data.json", timeout=5).close()
                return
            except (OSError, urllib.error.URLError):
                if self._process.poll() is not None or time.monotonic() > until:
                    self.kill()
                    raise
                time.sleep(0.1)

    def bucket(self) -> str:
        """Make a bucket and return its URL."""
        name = f"mlb-{new_id()}"
        request = urllib.request.Request(f"{self.url}/{name}", method="PUT", headers=_SIGNED)
        urllib.request.urlopen(request, timeout=10).close()
        return f"s3://{name}"

    def stop(self) -> None:
        """Have it answer nobody, and refuse nobody."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Have it answer again."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait(10)


_SIGNED = {
    "Authorization": "AWS4-HMAC-SHA256 Credential=testing/20200101/us-east-1/s3/aws4_request, SignedHeaders=host"
}
