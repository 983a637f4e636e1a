"""An S3 server of the tests' own: moto's, a process on a free port, spoken to over HTTP as the real thing is."""

from __future__ import annotations

import contextlib
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from importlib.util import find_spec

import pytest

from mlbench.core.ids import new_id

__all__ = ["Proxy", "S3Server", "needs_s3"]


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


class Proxy:
    """What stands between a client and a server: it counts, cuts and stalls what goes through it."""

    def __init__(self, server: S3Server) -> None:
        self._to = ("127.0.0.1", server.port)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self.up = 0
        self.down = 0
        self.cut_at: int | None = None
        """Bytes that may go up before every connection is cut, now and later."""
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def is_cut(self) -> bool:
        return self.cut_at is not None and self.up >= self.cut_at

    def close(self) -> None:
        """Take no connection any more."""
        self._listening.close()
        self._cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                if self.is_cut:
                    _reset(client)
                    continue
                server = socket.create_connection(self._to)
                with self._lock:
                    self._open |= {client, server}
                threading.Thread(target=self._pump, args=(client, server, True), daemon=True).start()
                threading.Thread(target=self._pump, args=(server, client, False), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, upwards: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if upwards:
                    self.up += len(data)
                    if self.is_cut:
                        self._cut()
                        return
                else:
                    self.down += len(data)
                target.sendall(data)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _cut(self) -> None:
        with self._lock:
            for one in self._open:
                _reset(one)
            self._open.clear()


def _reset(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
