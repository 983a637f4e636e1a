"""A Dask cluster that somebody else runs: a scheduler and workers from the command line, in a folder of their own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distributed import Security

from mlbench.core.messages import Tls

PATIENCE = 60.0


def certificates(folder: Path) -> Tls:
    """Write certificates that are made for one test, as `Security.temporary` makes them."""
    made: Any = Security.temporary()  # type: ignore[no-untyped-call]
    files = {"ca_file": made.tls_ca_file, "cert": made.tls_client_cert, "key": made.tls_client_key}
    paths = {}
    for name, text in files.items():
        path = folder / f"{name}.pem"
        path.write_text(text)
        path.chmod(0o600)
        paths[name] = str(path)
    return Tls(**paths)


@dataclass
class Elsewhere:
    """A scheduler and its workers, each a process. `inside` is put before each command line, by process."""

    folder: Path
    tls: Tls | None = None
    host: str = "127.0.0.1"
    inside: Sequence[str] = ()
    interpreter: str = sys.executable
    variables: dict[str, str] = field(default_factory=dict)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    address: str = ""

    def start(self, *options: str) -> None:
        """Start the scheduler."""
        self.folder.mkdir(parents=True, exist_ok=True)
        said = self.folder / "scheduler.json"
        protocol = "tls" if self.tls is not None else "tcp"
        self.run(
            "distributed.cli.dask_scheduler",
            *("--host", self.host, "--port", "0", "--protocol", protocol),
            *("--scheduler-file", str(said)),
            *(options or ("--no-dashboard",)),
        )
        until = time.monotonic() + PATIENCE
        while not self.address:
            assert time.monotonic() < until, self.log()
            with contextlib.suppress(OSError, ValueError, KeyError):
                self.address = json.loads(said.read_text())["address"]

    def worker(self, *options: str, inside: Sequence[str] | None = None, **variables: str) -> subprocess.Popen[bytes]:
        """Start a worker; it may be ready much later."""
        options = ("--nthreads", "2", "--memory-limit", "0", "--no-dashboard", "--no-nanny", *options)
        return self.run("distributed.cli.dask_worker", self.address, *options, inside=inside, **variables)

    def run(
        self, module: str, *arguments: str, inside: Sequence[str] | None = None, **variables: str
    ) -> subprocess.Popen[bytes]:
        files = (
            ("--tls-ca-file", self.tls.ca_file, "--tls-cert", self.tls.cert, "--tls-key", self.tls.key)
            if self.tls is not None
            else ()
        )
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLBENCH_", "DASK_"))}
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(
                [*(self.inside if inside is None else inside), self.interpreter, "-m", module, *arguments, *files],
                cwd=self.folder,
                env={**kept, **self.variables, **variables},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def end(self) -> None:
        """End all processes, workers first."""
        for process in reversed(self.processes):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(10)


@contextlib.contextmanager
def elsewhere(folder: Path, **options: object) -> Iterator[Elsewhere]:
    """Run a scheduler with one worker."""
    place = Elsewhere(folder, **options)  # type: ignore[arg-type]
    try:
        place.start()
        place.worker()
        yield place
    finally:
        place.end()
