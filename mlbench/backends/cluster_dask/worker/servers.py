"""The step servers of this worker: one for each environment, started when needed, replaced when it has changed."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from typing import IO, Any, Final

from mlbench.backends.cluster_dask import PACKAGE
from mlbench.backends.cluster_dask.process.stepserver import INLINE_BACKEND, PRIVATE_VARIABLES
from mlbench.backends.cluster_dask.processors import SINGLE
from mlbench.backends.cluster_dask.worker.orphans import SERVER_MARK, server_mark
from mlbench.core.errors import ServiceError
from mlbench.core.messages import Environment
from mlbench.runs.surroundings import preloadable

__all__ = ["StepServer", "StepServers", "kill", "send"]

_log = logging.getLogger(__name__)

IDLE_SECONDS: Final = 600.0
MOST_SERVERS: Final = 4
_START_SECONDS: Final = 120.0

_AT_START: Final = re.compile(
    r"(PYTHON|LD_|DYLD_|OMP_|MKL_|KMP_|GOMP_|OPENBLAS_|BLIS_|NUMEXPR_|VECLIB_|MALLOC_|GLIBC_|CONDA_|CUDA_|NVIDIA_|LC_"
    r"|MPL|KERAS_|TF_|JAX_|TORCH_|PANDAS_|SKLEARN_|SCIPY_|ARROW_|NLTK_|XDG_)|(VIRTUAL_ENV|HOME|LANG|TZ|TMPDIR|PATH)$"
)
"""Variables that a library may read when it is imported: others are set in the step's process soon enough."""

_BOOT: Final = """
import sys
sys.path[:] = [folder for folder in sys.path if folder]
try:
    import mlbench
except ModuleNotFoundError:
    sys.path.append({root!r})
    import mlbench
    sys.path.remove({root!r})
from mlbench.backends.cluster_dask.process import stepserver
stepserver.main({descriptor}, {preload!r})
"""


class StepServer:
    """One warm process. `start` may be called from several threads."""

    def __init__(self, environment: Environment, preload: tuple[str, ...]) -> None:
        self.preload = preload
        self.used = time.monotonic()
        self._environment = environment
        self._running = self._awaited = 0
        self._closed = False
        self._lock = threading.Lock()
        self._ready = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._said: IO[bytes] | None = None
        self._problem: str | None = None

    @property
    def alive(self) -> bool:
        """Whether it runs, or is about to."""
        return self._problem is None and not self._closed and (self._process is None or self._process.poll() is None)

    @property
    def ready(self) -> bool:
        """Whether it is warm."""
        return self._ready.is_set() and self.alive

    @property
    def idle(self) -> float:
        """Seconds since its last step ended, 0 while one runs or waits for it to be warm."""
        return 0.0 if self._running or self._awaited else time.monotonic() - self.used

    @property
    def process(self) -> int | None:
        """Its process id."""
        return self._process.pid if self._process is not None else None

    def begin(self) -> None:
        """Start the process. Called in a thread that lives as long as it: the system ends it with its thread."""
        try:
            if not self._closed:
                self._begin()
        except (OSError, ValueError) as error:
            said = getattr(error, "strerror", None) or error
            self._problem = f"{self._environment.interpreter} can't be started: {said}."
            self._ready.set()

    def _begin(self) -> None:
        environment = self._environment
        self._said = said = tempfile.TemporaryFile()  # noqa: SIM115  closed with the server
        ours, theirs = socket.socketpair()
        variables = {name: value for name, value in environment.variables.items() if not PRIVATE_VARIABLES.match(name)}
        root = str(PACKAGE.parent)
        code = _BOOT.format(root=root, descriptor=theirs.fileno(), preload=self.preload)
        start = {"MLBENCH_STEP_START": os.environ["MLBENCH_STEP_START"]} if "MLBENCH_STEP_START" in os.environ else {}
        try:
            self._process = subprocess.Popen(
                [environment.interpreter, "-c", code],
                cwd="/",
                env={"MPLBACKEND": INLINE_BACKEND, **variables, **SINGLE, **start, SERVER_MARK: server_mark()},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        finally:
            theirs.close()
            if self._process is None:
                ours.close()
        self._socket = ours
        if self._closed:  # while it was started
            self.close()

    def await_ready(self, stop: Callable[[], bool]) -> None:
        """Wait until it is warm or closed, or `stop` says that nobody wants it to be any more.

        Raises
        ------
        ServiceError
            If it cannot be started.
        """
        until = time.monotonic() + _START_SECONDS
        with self._lock:
            self._awaited += 1
        try:
            while not self._ready.is_set() and not self._closed and not stop():
                if self._socket is None:  # the keeper has not come to it yet
                    self._ready.wait(0.01)
                else:
                    self._hear(until)
        finally:
            with self._lock:
                self._awaited -= 1
        if self._problem is not None:
            raise ServiceError(
                self._problem, "Restart the kernel, and see that mlbench is installed in its environment."
            )

    def _hear(self, until: float) -> None:
        with self._lock:
            connection = self._socket
            if self._ready.is_set() or connection is None:
                return
            try:
                connection.settimeout(0.1)
                said = connection.recv(1)
            except TimeoutError:
                if time.monotonic() < until:
                    return
                said = b""
            except OSError:
                said = b""
            if said == b"r":
                with contextlib.suppress(OSError):  # closed meanwhile
                    connection.settimeout(None)
            elif not self._closed:
                self._problem = f"No step's process can be started with {self._environment.interpreter}: {self._last()}"
                self.close()
            self._ready.set()

    def _last(self) -> str:
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(2)
        if self._said is None:
            return "it ended."
        self._said.seek(0)
        lines = self._said.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1][:300] if lines else "it ended, or did not answer."

    def start(self, descriptors: tuple[int, int, int, int]) -> None:
        """Hand over a step's stdout, stderr, channel and status. Raise `OSError` if the server is gone."""
        with self._lock:
            connection = self._socket
            if connection is None:
                raise ConnectionError("The step server is gone.")
            socket.send_fds(connection, [b"s"], list(descriptors))
            self._running += 1

    def ended(self) -> None:
        """Note that a step has ended."""
        with self._lock:
            self._running -= 1
            self.used = time.monotonic()

    def close(self) -> None:
        """End it, and with it the processes that it has started."""
        self._closed = True
        connection, self._socket = self._socket, None  # threads of several steps may close it at once
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        if self._process is not None:
            try:
                self._process.wait(3)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(3)
        said, self._said = self._said, None
        if said is not None:
            said.close()


class StepServers:
    """The servers by environment. All methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._servers: dict[Any, StepServer] = {}
        self._next: dict[Any, StepServer] = {}
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        # Servers end with the thread that starts them, so one thread starts all and lives as long as the worker.
        self._keeper = threading.Thread(target=self._keep, name="mlbench-step-servers", daemon=True)
        self._keeper.start()

    def get(self, environment: Environment) -> StepServer:
        """Return the server of an environment; it may not be warm yet."""
        key = _key(environment)
        wanted = preloadable(environment.preload)
        closing: list[StepServer] = []
        with self._lock:
            server = self._servers.get(key)
            newer = self._next.get(key)
            if newer is not None and (newer.ready or server is None or not server.alive):
                if server is not None:
                    closing.append(server)
                server = self._servers[key] = self._next.pop(key)
            if server is None or not server.alive:
                server = self._servers[key] = self._begin(environment, wanted)
            elif not set(wanted) <= set(server.preload) and key not in self._next:
                # The kernel has imported more since: steps go on from this one until the next is warm.
                together = tuple(sorted({*wanted, *server.preload}))
                self._next[key] = newer = self._begin(environment, together)
                self._watch(newer)
            server.used = time.monotonic()
            closing += self._excess(key)
        for one in closing:
            self._retire(one)
        return server

    def _begin(self, environment: Environment, preload: tuple[str, ...]) -> StepServer:
        server = StepServer(environment, preload)
        self._jobs.put(server.begin)
        return server

    def _watch(self, server: StepServer) -> None:
        def wait() -> None:
            with contextlib.suppress(ServiceError):  # said again to the step that asks for it
                server.await_ready(lambda: False)

        threading.Thread(target=wait, name="mlbench-step-server-warms", daemon=True).start()

    def _excess(self, key: Any) -> list[StepServer]:
        """Take out idle servers beyond those that are kept, the longest idle first."""
        idle = sorted((server.idle, other) for other, server in self._servers.items() if other != key and server.idle)
        return [self._servers.pop(other) for _, other in idle[::-1][: max(0, len(self._servers) - MOST_SERVERS)]]

    def _retire(self, server: StepServer) -> None:
        """Close a server once its steps have ended."""
        if server.idle or not server.alive:
            self._jobs.put(server.close)
        else:
            timer = threading.Timer(1.0, self._retire, (server,))
            timer.daemon = True
            timer.start()

    def _keep(self) -> None:
        while True:
            try:
                job = self._jobs.get(timeout=30.0)
            except queue.Empty:
                job = self._close_idle
            try:
                job()
            except Exception:  # noqa: BLE001  this thread's end would be that of all servers, and of the steps that run
                _log.exception("A step server could not be started or ended")

    def _close_idle(self) -> None:
        with self._lock:
            old = [key for key, server in self._servers.items() if server.idle > IDLE_SECONDS]
            closing = [self._servers.pop(key) for key in old]
        for server in closing:
            server.close()

    def close(self) -> None:
        """End all servers."""
        with self._lock:
            servers = [*self._servers.values(), *self._next.values()]
            self._servers.clear()
            self._next.clear()
        for server in servers:
            server.close()


def kill(process: int) -> None:
    """End a step's process and its group: it may not have made the group yet."""
    send(process, signal.SIGKILL)


def send(process: int, number: signal.Signals) -> None:
    """Send a signal to a step's process and its group."""
    try:
        os.killpg(process, number)
    except (ProcessLookupError, PermissionError):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)


def _key(environment: Environment) -> Any:
    return (environment.interpreter, environment.stamp, _at_start(environment.variables))


def _at_start(variables: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, value) for name, value in variables.items() if _AT_START.match(name)))
