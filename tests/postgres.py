"""A PostgreSQL server of a test's own: started, restarted and stopped as its owner would."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mlbench.core.ids import new_id

__all__ = ["PASSWORD", "Server"]

PASSWORD = "s3cret-of-the-test"


class Server:
    """A server that listens at a socket of its own, without a password, and on this machine's loopback, with one."""

    def __init__(self) -> None:
        pytest.importorskip("psycopg", reason="no driver of PostgreSQL is installed")
        folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)  # where Debian keeps them
        path = os.pathsep.join([os.environ.get("PATH", os.defpath), *map(str, folders)])
        programs = [shutil.which(name, path=path) for name in ("initdb", "pg_ctl")]
        if None in programs:
            pytest.skip("PostgreSQL is not installed: install it to have its catalog tested")
        self._initdb, self._pg_ctl = map(str, programs)
        self._owner: dict[str, Any] = {"user": "postgres"} if os.geteuid() == 0 else {}  # it refuses to be run by root
        self.folder = Path(tempfile.mkdtemp(prefix="mlb"))
        (self.folder / "password").write_text(PASSWORD)
        with closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        if self._owner:
            shutil.chown(self.folder, "postgres")
            shutil.chown(self.folder / "password", "postgres")
        how = ["--auth-local=trust", "--auth-host=scram-sha-256", f"--pwfile={self.folder / 'password'}"]
        self._do(self._initdb, "-D", self._cluster, "-U", "mlbench", *how, "-N", "-E", "UTF8", "--locale=C")
        self.start()

    @property
    def _cluster(self) -> str:
        return str(self.folder / "cluster")

    def _do(self, *command: str) -> None:
        with (self.folder / "out").open("ab") as log:
            subprocess.run(command, check=True, cwd=self.folder, stdout=log, stderr=log, timeout=60, **self._owner)

    def start(self) -> None:
        """Start it, and return when it lets clients in."""
        options = f"-c listen_addresses=127.0.0.1 -p {self.port} -c fsync=off -k {self.folder}"
        self._do(self._pg_ctl, "start", "-w", "-D", self._cluster, "-o", options, "-l", str(self.folder / "log"))

    def restart(self) -> None:
        """Restart it as after a crash: nobody is asked, all connections are cut."""
        self._do(self._pg_ctl, "restart", "-w", "-m", "immediate", "-D", self._cluster)

    def stop(self) -> None:
        """Stop it, as a crash would."""
        self._do(self._pg_ctl, "stop", "-w", "-m", "immediate", "-D", self._cluster)

    def close(self) -> None:
        """Stop it for good, whether or not it runs, and remove it."""
        if (self.folder / "cluster" / "postmaster.pid").exists():
            self.stop()
        shutil.rmtree(self.folder)

    def create(self, template: str = "template1") -> str:
        """Create a database and return its name."""
        import psycopg

        name = f"catalog_{new_id()}"
        where = {"host": str(self.folder), "port": self.port}
        with psycopg.connect(user="mlbench", dbname="postgres", autocommit=True, **where) as connection:  # type: ignore[arg-type]
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")  # type: ignore[arg-type]
        return name

    def quick(self, name: str) -> str:
        """Return the URL of a database by the socket."""
        return f"postgresql+psycopg://mlbench@/{name}?host={self.folder}&port={self.port}"

    def url(self, name: str, password: str = PASSWORD) -> str:
        """Return the URL of a database over the network."""
        return f"postgresql://mlbench:{password}@127.0.0.1:{self.port}/{name}"
