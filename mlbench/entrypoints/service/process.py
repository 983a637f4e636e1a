"""The process that a service is: its lock, its socket, and its event loop."""

from __future__ import annotations

import asyncio
import fcntl
import gc
import os
import socket
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from mlbench.backends.service_socket.door import Door
from mlbench.core.errors import ServiceError
from mlbench.entrypoints.service.server import Service
from mlbench.entrypoints.service.steps import Executor

if TYPE_CHECKING:
    from mlbench.project import Project

__all__ = ["AlreadyRunning", "serve"]

LOOKED_AT: Final = 0.5
"""Seconds in which somebody who only looks who is alive lets go of the lock again."""


class AlreadyRunning(ServiceError):
    """Another process holds the lock."""


def _hold(door: Door) -> int:
    """Take the lock that says who is alive, and write our process id into it."""
    descriptor = os.open(door.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    deadline = time.monotonic() + LOOKED_AT
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(0.02)
                continue
            os.close(descriptor)
            raise AlreadyRunning(
                f"The mlbench service is running already (process {door.alive() or 'unknown'}).",
                "Look at it with: mlbench service status",
            ) from None
        break
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
    return descriptor


def _listen(door: Door) -> socket.socket:
    """Return a listening socket; it appears under its name only when it listens."""
    fresh = door.socket.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(os.fspath(fresh))
    fresh.chmod(0o600)
    listening.listen(128)
    fresh.replace(door.socket)
    return listening


def serve(
    door: Door,
    make_executor: Callable[[], Executor],
    *,
    open_project: Callable[[str], Project],
    version: str | None = None,
    until_idle: bool = False,
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Be the service at a door until it ends.

    Raises
    ------
    AlreadyRunning
        Another process is it.
    """
    lock = _hold(door)
    try:
        listening = _listen(door)

        async def life() -> None:
            executor = make_executor()
            service = Service(
                door, executor, open_project=open_project, version=version or door.version, until_idle=until_idle
            )
            await service.run(listening, ready)

        sys.setswitchinterval(0.0005)  # the thread that writes the catalog is not to hold the loop up for 5 ms a turn
        gc.set_threshold(20_000, 20, 20)  # items of a fan-out come by thousands, and are no garbage
        asyncio.run(life())
    finally:
        os.close(lock)
