"""Processes that steps run in, and those of fan-outs that have loaded everything and wait for another chunk.

A process that only loads, and forks another for the items, is as good for the next chunk as a new one, and need not
load again. It waits a moment for that, without code of a user; then it is told to end.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from dataclasses import dataclass, replace
from typing import Final

from mlbench.backends.cluster_dask.worker.memory import family
from mlbench.backends.cluster_dask.worker.pipes import Pipes
from mlbench.backends.cluster_dask.worker.servers import StepServer, kill
from mlbench.core.messages import StepTask

__all__ = ["Host", "keep", "take"]

_WAIT_SECONDS: Final = 2.0
"""Seconds that a process waits for another chunk: the next one of a fan-out is there at once, if there is one."""

_EXIT_SECONDS: Final = 3.0


@dataclass(slots=True, eq=False)
class Host:
    """A process that was started by a step server: its pipes, and its id once that is known."""

    pipes: Pipes
    server: StepServer
    process: int | None = None

    def has_ended(self, seconds: float = 0.0) -> bool:
        """Say whether it has ended, after waiting for that: its id may be another process's by then."""
        told = select.poll()  # unlike select(), of any number of descriptors
        told.register(self.pipes.status, select.POLLIN)
        return bool(told.poll(1000 * seconds))

    def release(self) -> None:
        """Close the pipes: it has ended, or ends by this."""
        self.pipes.close()
        self.server.ended()


@dataclass(slots=True, eq=False)
class _Waiting:
    host: Host
    task: StepTask
    timer: threading.Timer


_lock = threading.Lock()
_waiting: list[_Waiting] = []


def keep(host: Host, task: StepTask) -> None:
    """Let a process wait for another chunk of the task's fan-out; not one whose items have left others behind."""
    alone = host.process is not None and family(host.process) == [host.process]
    timer = threading.Timer(_WAIT_SECONDS, _expire, (host,)) if alone else threading.Timer(0.0, _end, (host,))
    timer.name, timer.daemon = "mlbench-waiting-process", True
    with _lock:
        if alone:
            _waiting.append(_Waiting(host, _common(task), timer))
        timer.start()


def take(task: StepTask) -> Host | None:
    """Return a process that has loaded what a task's chunk needs, if one waits."""
    with _lock:
        there = [one for one in _waiting if one.task.execution == task.execution]
        common = _common(task) if there and task.chunk is not None else None
        for one in there:
            if one.task == common and not one.host.has_ended():
                one.timer.cancel()
                _waiting.remove(one)
                return one.host
    return None


def _common(task: StepTask) -> StepTask:
    """Return what the tasks of a fan-out's chunks have in common where they run in equal surroundings."""
    return replace(task, chunk=None, threads=None)


def _expire(host: Host) -> None:
    with _lock:
        there = [one for one in _waiting if one.host is host]
        for one in there:
            _waiting.remove(one)
    if there:  # it was not taken at the last moment
        _end(host)


def _end(host: Host) -> None:
    """Let a process that waits end, and see to it that it does."""
    with contextlib.suppress(OSError):
        host.pipes.channel.shutdown(socket.SHUT_RDWR)
    if not host.has_ended(_EXIT_SECONDS) and host.process is not None:
        kill(host.process)
    host.release()
