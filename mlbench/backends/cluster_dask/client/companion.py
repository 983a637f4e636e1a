"""The local cluster for code inside steps: what `mlbench.client()` reaches on this machine.

The workers that supervise steps never load a user's code. Tasks that a step, or a plain cell, makes for itself go to a
cluster of their own: a scheduler and one worker process a core, from the kernel's interpreter and environment, with
the notebook's folder on `sys.path`. It speaks TLS with certificates that are made for it, on this machine alone. It
starts when it is asked for, ends when nobody has used it for a while, and with the service; a step's death does not
touch it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, Final

from mlbench.backends.cluster_dask import PACKAGE
from mlbench.backends.cluster_dask.processors import SINGLE, available
from mlbench.core.errors import ServiceError
from mlbench.core.messages import Environment
from mlbench.core.records import Json

__all__ = ["Companions", "main"]

_IDLE_SECONDS: Final = 600.0
_START_SECONDS: Final = 60.0
_LOOK_SECONDS: Final = 2.0
_NOT_ITS_OWN: Final = re.compile(r"(JPY_|MLBENCH_(RUN|ENGINE|STEP_)|DASK_INTERNAL_)|(PWD|OLDPWD|SHLVL|_)$")

_BOOT: Final = """
import sys
sys.path[:] = [folder for folder in sys.path if folder]
try:
    import mlbench
except ModuleNotFoundError:
    sys.path.append({root!r})
    import mlbench
    sys.path.remove({root!r})
from mlbench.backends.cluster_dask.client import companion
companion.main()
"""

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Companion:
    """One that runs; `seen` are the modules that its workers may have imported, as they were."""

    process: subprocess.Popen[bytes]
    facts: Json
    began: int
    seen: dict[str, tuple[int, int]]

    def fits(self, state: Mapping[str, tuple[int, int]]) -> bool:
        return all(self.seen.get(file, found) == found for file, found in state.items()) and not any(
            found[0] > self.began for file, found in state.items() if file not in self.seen
        )


class Companions:
    """The service's side: starts companions, one for each environment, and ends them. Used in one event loop."""

    def __init__(self, *, idle_after: float = _IDLE_SECONDS) -> None:
        self._idle_after = idle_after
        self._lock = asyncio.Lock()
        self._running: dict[str, _Companion] = {}
        self._retired: list[subprocess.Popen[bytes]] = []

    async def get(
        self, environment: Environment, folder: str, path: Sequence[str], state: Mapping[str, tuple[int, int]]
    ) -> Json:
        """Return how the companion of an environment is reached, starting it if there is none.

        Parameters
        ----------
        state
            Time (ns) and size of the modules that are no installation, by file: workers that may have imported older
            ones are replaced.

        Raises
        ------
        ServiceError
            If it cannot be started.
        """
        variables = {name: value for name, value in environment.variables.items() if not _NOT_ITS_OWN.match(name)}
        variables = {name: value for name, value in variables.items() if name not in SINGLE}
        home = repr((environment.interpreter, sorted(variables.items()), folder, tuple(path)))
        name = hashlib.blake2b(home.encode(), digest_size=12).hexdigest()
        async with self._lock:
            found = self._running.get(name)
            if found is not None and found.process.poll() is None and found.fits(state):
                found.seen.update(state)
                return found.facts
            if found is not None:
                self._retire(name)
            config = {"folder": folder, "path": list(path), "idle": self._idle_after}
            began = time.time_ns()
            process, facts = await asyncio.to_thread(_start, environment.interpreter, variables, config)
            self._running[name] = _Companion(process, facts, began, dict(state))
            return facts

    def _retire(self, name: str) -> None:
        """Let one end when its last client has gone."""
        process = self._running.pop(name).process
        self._retired = [one for one in self._retired if one.poll() is None]
        if process.poll() is None and process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.write(b"retire\n")
                process.stdin.flush()
            self._retired.append(process)

    async def close(self) -> None:
        """End all of them."""
        processes = [one.process for one in self._running.values()] + self._retired
        self._running.clear()
        self._retired.clear()
        await asyncio.gather(*(asyncio.to_thread(_end, process) for process in processes))


def _start(interpreter: str, variables: Mapping[str, str], config: Json) -> tuple[subprocess.Popen[bytes], Json]:
    root = str(PACKAGE.parent)
    with tempfile.TemporaryFile() as said:
        try:
            process = subprocess.Popen(
                [interpreter, "-c", _BOOT.format(root=root)],
                cwd="/",
                env=dict(variables),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                start_new_session=True,
            )
        except OSError as error:
            raise ServiceError(f"{interpreter} can't be started: {error.strerror}.", "Restart the kernel.") from error
        assert process.stdin is not None
        assert process.stdout is not None
        timer = threading.Timer(_START_SECONDS, process.kill)
        timer.start()
        try:
            process.stdin.write(json.dumps(config).encode() + b"\n")
            process.stdin.flush()
            line = process.stdout.readline()
            facts: Json = json.loads(line)
        except (OSError, ValueError) as error:
            _end(process)
            said.seek(0)
            lines = said.read().decode("utf-8", "replace").strip().splitlines()
            raise ServiceError(
                f"The cluster of mlbench.client() did not start with {interpreter}: "
                f"{lines[-1][:300] if lines else 'it ended, or did not answer'}.",
                "See that dask and distributed can be imported there.",
            ) from error
        finally:
            timer.cancel()
    _log.info("The cluster of mlbench.client(), process %s, listens at %s", process.pid, facts["address"])
    return process, facts


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a companion: it does so by itself when nobody writes to it any more."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(5)


# --- the companion itself ---------------------------------------------------------------------------------------------


def main() -> None:
    """Be the companion: read what to be from stdin, say there where to be reached, and last as long as is wanted."""
    answers = os.fdopen(os.dup(1), "wb")
    silent = os.open(os.devnull, os.O_RDWR)
    os.dup2(silent, 1)  # what tasks print is nobody's answer
    config = json.loads(sys.stdin.buffer.readline())
    sys.path[:] = config["path"]
    with contextlib.suppress(OSError):
        os.chdir(config["folder"])
    asyncio.run(_serve(config, answers, silent))
    os._exit(0)


async def _serve(config: Json, answers: IO[bytes], silent: int) -> None:
    import dask.config
    import distributed

    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    dask.config.set({"distributed.scheduler.http.routes": [], "distributed.worker.http.routes": []})
    security: Any = distributed.Security.temporary()  # type: ignore[no-untyped-call]
    cluster: Any = await distributed.LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=available(),
        threads_per_worker=1,
        processes=True,
        asynchronous=True,
        host="127.0.0.1",
        protocol="tls://",
        security=security,
        memory_limit=None,
        dashboard_address=None,
        worker_dashboard_address=None,
        silence_logs=logging.CRITICAL,
        scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
    )
    cluster.scheduler.http_server.stop()  # Dask starts it also without a dashboard
    facts = {
        "address": cluster.scheduler_address,
        "ca": security.tls_ca_file,
        "cert": security.tls_client_cert,
        "key": security.tls_client_key,
    }
    answers.write(json.dumps(facts).encode() + b"\n")
    answers.flush()
    os.dup2(silent, 2)  # so far it has told whoever started it why it could not
    await _until_unwanted(cluster.scheduler, config["idle"])
    with contextlib.suppress(Exception):  # its workers end with this process
        await asyncio.wait_for(cluster.close(), 4)


async def _until_unwanted(scheduler: Any, idle: float) -> None:
    """Return when the service has gone, when nobody has used it for long, or, once replaced, when nobody uses it."""
    ended, retired = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def listen() -> None:
        for line in sys.stdin.buffer:
            if line.strip() == b"retire":
                loop.call_soon_threadsafe(retired.set)
        loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=listen, name="mlbench-companion", daemon=True).start()
    used = time.monotonic()
    while not ended.is_set():
        clients = [name for name in scheduler.clients if not name.startswith("fire-and-forget")]
        if clients or scheduler.tasks:
            used = time.monotonic()
        patience = _LOOK_SECONDS if retired.is_set() else idle
        if time.monotonic() - used >= patience:
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), _LOOK_SECONDS)
