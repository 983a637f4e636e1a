"""The warm process that step processes are forked from: one for each environment, single-threaded, no code of a user.

It is started with the kernel's interpreter and variables, imports what the kernel has imported (from a list that is
safe to fork), and keeps spare processes ahead. For each step it hands a spare the step's pipes, and afterwards says
how the process ended and what it used. It ends with its worker, and ends with it all that it has started.

Requests are one byte with four descriptors: stdout, stderr, the step's channel, and where to say how it ended.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import re
import select
import signal
import socket
import sys
import time
from typing import Final, NoReturn

from mlbench.backends.cluster_dask.channel import frame
from mlbench.backends.cluster_dask.processors import SINGLE

__all__ = ["INLINE_BACKEND", "PRIVATE_VARIABLES", "be_spare", "main"]

INLINE_BACKEND: Final = "module://matplotlib_inline.backend_inline"

PRIVATE_VARIABLES: Final = re.compile(r"JPY_|MLBENCH_(RUN|ENGINE|STEP_)")
"""Variables of a kernel that are not for its steps: who its server is, and which run an engine has opened."""

_LINGER: Final = 1.0
"""Seconds that what a step has started may go on after it, such as joblib's clearing of its files."""

_SPARES: Final = 2
"""So many are kept: a step that follows another at once has one that was ready before."""

_SPARE_DELAY: Final = 0.15
_SPARE_IN_TIME: Final = 1.0
"""Seconds after a step's start until the next spare is forked, where none is left and where one is: the step's own
first moments come first."""

_SPARE_AFTER_END: Final = 0.01
"""The same after a step's end, which may come sooner: it has to be told first."""

_SPAWNED: Final = """
import sys
sys.path[:] = {path!r}
from mlbench.backends.cluster_dask.process import stepserver
stepserver.be_spare({descriptor}, {preload!r})
"""


def main(descriptor: int, preload: tuple[str, ...]) -> NoReturn:
    """Serve until the worker is gone."""
    end_with_parent(signal.SIGTERM)
    worker = socket.socket(fileno=descriptor)
    forks = sys.platform.startswith("linux") and os.environ.pop("MLBENCH_STEP_START", "fork") == "fork"
    _adopt_orphans()
    if forks:
        _load(preload)
    _Server(worker, preload, forks=forks).run()


def end_with_parent(number: signal.Signals) -> None:
    """Let the system send this process a signal when the thread that started it ends (Linux)."""
    if sys.platform.startswith("linux"):
        import ctypes

        parent = os.getppid()
        ctypes.CDLL(None).prctl(1, number, 0, 0, 0)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(0)


def _adopt_orphans() -> None:
    """Become the parent of what the steps' processes leave behind, so that it can be ended (Linux)."""
    if sys.platform.startswith("linux"):
        import ctypes

        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def _load(preload: tuple[str, ...]) -> None:
    for name in preload:
        with contextlib.suppress(Exception):  # a module that can't be imported fails in the step that needs it
            importlib.import_module(name)
    from mlbench.backends.cluster_dask.process import stepprocess

    stepprocess.warm()
    for name in SINGLE:
        os.environ.pop(name, None)
    gc.collect()
    gc.freeze()


def be_spare(descriptor: int, preload: tuple[str, ...]) -> NoReturn:
    """Be a spare process that was started rather than forked (macOS, or where forking is not safe)."""
    os.setsid()
    end_with_parent(signal.SIGKILL)
    _load(preload)
    from mlbench.backends.cluster_dask.process import stepprocess

    stepprocess.serve(socket.socket(fileno=descriptor))
    os._exit(0)


class _Server:
    """The loop: requests, ends of processes, spares."""

    def __init__(self, worker: socket.socket, preload: tuple[str, ...], *, forks: bool) -> None:
        self._worker = worker
        self._preload = preload
        self._forks = forks
        self._running: dict[int, socket.socket] = {}
        self._spares: dict[int, socket.socket] = {}
        self._spare_at = 0.0
        self._leftovers: dict[int, float] = {}
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._woken, False)
        os.set_blocking(self._wake, False)

    def run(self) -> NoReturn:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        self._make_spare()
        self._worker.sendall(b"r")
        while True:
            ready: list[int]
            ready, _, _ = select.select([self._worker.fileno(), self._woken], [], [], self._patience())
            if self._woken in ready and signal.SIGTERM in os.read(self._woken, 4096):
                self._end()
            self._reap()
            if self._worker.fileno() in ready:
                try:
                    said, descriptors, _, _ = socket.recv_fds(self._worker, 1, 4)
                except OSError:
                    self._end()
                if not said:
                    self._end()
                self._hand_over(descriptors)
            now = time.monotonic()
            if len(self._spares) < _SPARES and now >= self._spare_at:
                self._make_spare()
                self._spare_at = now + _SPARE_DELAY
            for process in [one for one, when in self._leftovers.items() if now >= when]:
                del self._leftovers[process]
                self._end_leftovers(process)

    def _patience(self) -> float | None:
        times = [*self._leftovers.values(), *([self._spare_at] if len(self._spares) < _SPARES else [])]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _make_spare(self) -> None:
        ours, theirs = socket.socketpair()
        process = self._fork(ours, theirs) if self._forks else self._start(theirs)
        theirs.close()
        self._spares[process] = ours

    def _fork(self, ours: socket.socket, theirs: socket.socket) -> int:
        server = os.getpid()
        process = os.fork()
        if process:
            return process
        try:
            os.setsid()
            end_with_parent(signal.SIGKILL)
            if os.getppid() != server:
                os._exit(0)
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            for one in (ours, self._worker, *self._running.values(), *self._spares.values()):
                one.close()
            os.close(self._woken)
            os.close(self._wake)
            from mlbench.backends.cluster_dask.process import stepprocess

            stepprocess.serve(theirs)
        finally:
            os._exit(71)

    def _start(self, theirs: socket.socket) -> int:
        theirs.set_inheritable(True)
        code = _SPAWNED.format(path=sys.path, descriptor=theirs.fileno(), preload=self._preload)
        return os.posix_spawn(sys.executable, [sys.executable, "-c", code], dict(os.environ))

    def _hand_over(self, descriptors: list[int]) -> None:
        *pipes, told = descriptors
        status = socket.socket(fileno=told)
        for _ in range(3):
            if not self._spares:
                self._make_spare()
            process = next(iter(self._spares))
            handover = self._spares.pop(process)
            try:
                socket.send_fds(handover, [b"s"], pipes)
            except OSError:  # the spare was killed while it waited
                handover.close()
                continue
            handover.close()
            self._running[process] = status
            with contextlib.suppress(OSError):
                status.sendall(frame({"pid": process}))
            break
        else:
            status.close()
        for one in pipes:
            os.close(one)
        self._spare_at = time.monotonic() + (_SPARE_IN_TIME if self._spares else _SPARE_DELAY)

    def _reap(self) -> None:
        while True:
            try:
                process, status, used = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if process == 0:
                return
            if process in self._spares:
                self._spares.pop(process).close()
                continue
            told = self._running.pop(process, None)
            if told is None:
                continue
            scale = 1 if sys.platform == "darwin" else 1024
            code = os.waitstatus_to_exitcode(status)
            with contextlib.suppress(OSError):
                told.sendall(
                    frame({"status": code, "peak": used.ru_maxrss * scale, "cpu": used.ru_utime + used.ru_stime})
                )
            told.close()
            self._spare_at = min(self._spare_at, time.monotonic() + _SPARE_AFTER_END)
            self._leftovers[process] = time.monotonic() + (_LINGER if code == 0 else 0.0)

    def _end_leftovers(self, process: int) -> None:
        """End what a step's process has left behind: its session, and what carries its mark in the environment.

        When no step runs, that is every child: `process` may then be 0.
        """
        if process:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process, signal.SIGKILL)
        for _ in range(50):
            left = [child for child in _children() if self._is_left_by(child, process)]
            if not left:
                return
            for child in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            time.sleep(0.002)  # their own children come to us one after the other
            self._reap()

    def _is_left_by(self, child: int, process: int) -> bool:
        if child in self._running or child in self._spares:
            return False
        if not self._running:
            return True
        try:
            if os.getsid(child) == process:
                return True
            with open(f"/proc/{child}/environ", "rb") as variables:
                return f"MLBENCH_STEP_PROCESS={process}".encode() in variables.read().split(b"\0")
        except OSError:
            return False

    def _end(self) -> NoReturn:
        """End everything that was started here, then this process."""
        steps = [*self._running, *self._spares, *self._leftovers]
        for process in steps:
            for end in (os.killpg, os.kill):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    end(process, signal.SIGKILL)
        self._running.clear()
        self._spares.clear()
        self._end_leftovers(0)
        os._exit(0)


def _children() -> list[int]:
    """Return the processes whose parent is this one (Linux)."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as listed:
            return [int(one) for one in listed.read().split()]
    except OSError:
        return []
