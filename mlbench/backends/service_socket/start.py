"""Find a service or start one, so that of many who need it at once each gets the same."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from mlbench.backends.service_socket.door import (
    Door,
    Role,
    ServiceInfo,
    check_peer,
    hello,
    protocol_problem,
    read_info,
    version_key,
)
from mlbench.backends.service_socket.frames import Decoder, encode, read_error
from mlbench.core.errors import ServiceError
from mlbench.core.messages import PROTOCOL

__all__ = ["Connection", "dial", "end_by_force", "retire_older", "service_environment"]

GREETING_TIMEOUT: Final = 10.0
"""Seconds for the first answer of a service that is there."""

START_TIMEOUT: Final = 60.0
"""Seconds for a service to start; a loaded machine needs some."""

_STOP_COMMAND = "Run: mlbench service stop --force"


class Connection:
    """A socket whose both ends have said who they are, and what came after the greeting."""

    def __init__(self, sock: socket.socket, info: ServiceInfo, decoder: Decoder) -> None:
        self.socket = sock
        self.info = info
        self.decoder = decoder

    def close(self) -> None:
        self.socket.close()


def dial(
    role: Role,
    *,
    start: bool = True,
    until_idle: bool | None = None,
    runtime: str | os.PathLike[str] | None = None,
    version: str | None = None,
) -> Connection:
    """Return a connection to this user's service, which is started if there is none.

    A newer version's service is spoken to, if it still speaks our protocol; an older one's is told to retire by ours,
    which starts beside it.

    Parameters
    ----------
    until_idle
        A service that is started here ends when its last client has gone and nothing is under way; None: if this is
        a CI (`CI` or `MLBENCH_OWN_SERVICE` is set).
    """
    door = Door.find(runtime=runtime, version=version)
    if (connection := _ours(door, role)) is not None:
        return connection
    if (connection := _newer(door, role)) is not None:
        return connection
    if not start:
        raise ServiceError("No mlbench service is running.", "Run: mlbench service start")
    with _starting(door):
        if (connection := _ours(door, role)) is not None:
            return connection
        if (connection := _await_end(door, role)) is not None:
            return connection
        if until_idle is None:
            until_idle = bool(os.environ.get("CI") or os.environ.get("MLBENCH_OWN_SERVICE"))
        _start(door, until_idle=until_idle)
        connection = _ours(door, role)
    if connection is None:
        raise ServiceError("The mlbench service has started and ended at once." + _said(door), f"Its log: {door.log}")
    return connection


def _await_end(door: Door, role: Role) -> Connection | None:
    """Wait for a service that holds the lock to listen, or to end; None when the lock is free."""
    deadline = time.monotonic() + START_TIMEOUT
    while (pid := door.alive()) is not None:
        if (connection := _ours(door, role)) is not None:
            return connection
        if time.monotonic() > deadline:
            raise ServiceError(
                f"The mlbench service (process {pid}) is ending, and has not ended within {START_TIMEOUT:.0f} s.",
                _STOP_COMMAND,
            )
        time.sleep(0.05)
    return None


def _ours(door: Door, role: Role) -> Connection | None:
    connection = _greet(door.socket, door, role)
    if connection is not None and connection.info.retired:
        connection.close()
        return None
    return connection


def _newer(door: Door, role: Role) -> Connection | None:
    """Return a connection to a newer version's service, if there is one."""
    for path in door.others():
        connection = _greet(path, door, role)
        if connection is None:
            continue
        theirs = connection.info
        if version_key(theirs.version) > version_key(door.version) and not theirs.retired:
            problem = protocol_problem(ours=PROTOCOL, theirs=theirs.protocol, their_version=theirs.version)
            if problem is None:
                return connection
            connection.close()
            raise ServiceError(problem, "Update mlbench in this kernel's environment, then restart the kernel.")
        connection.close()
    return None


def retire_older(door: Door) -> list[str]:
    """Tell the services of older versions to take no new work, and to end with what they have; return the versions."""
    told = []
    for path in door.others():
        connection = _greet(path, door, "service")
        if connection is None:
            continue
        theirs = connection.info
        if version_key(theirs.version) < version_key(door.version) and not theirs.retired:
            connection.socket.settimeout(GREETING_TIMEOUT)
            connection.socket.sendall(encode({"n": 1, "op": "retire", "body": {"version": door.version}}))
            _answer(connection.socket, connection.decoder, path)
            told.append(theirs.version)
        connection.close()
    return told


def _greet(path: Path, door: Door, role: Role) -> Connection | None:
    """Say hello at a socket; None if nobody listens there."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(GREETING_TIMEOUT)
    try:
        sock.connect(os.fspath(path))
    except (FileNotFoundError, ConnectionRefusedError):
        sock.close()
        return None
    except OSError as error:
        sock.close()
        raise ServiceError(
            f"The mlbench service's socket {path} cannot be reached: {error.strerror or error}.", _STOP_COMMAND
        ) from error
    try:
        check_peer(sock)
        decoder = Decoder()
        body = {**hello(role), "version": door.version}
        sock.sendall(encode({"n": 0, "op": "hello", "body": body}))
        info = read_info(_answer(sock, decoder, path))
    except (ConnectionError, EOFError):
        sock.close()  # it ended while we knocked
        return None
    except BaseException:
        sock.close()
        raise
    sock.settimeout(None)
    return Connection(sock, info, decoder)


def _answer(sock: socket.socket, decoder: Decoder, path: Path) -> Any:
    while True:
        try:
            data = sock.recv(65536)
        except TimeoutError as error:
            raise ServiceError(
                f"The mlbench service at {path} does not answer within {GREETING_TIMEOUT:.0f} s.", _STOP_COMMAND
            ) from error
        if not data:
            raise EOFError
        for message in decoder.feed(data):
            if "error" in message:
                raise read_error(message["error"])
            if "ok" in message:
                return message["ok"]


@contextlib.contextmanager
def _starting(door: Door) -> Iterator[None]:
    """Hold the lock of those who start the service."""
    descriptor = os.open(door.start_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    deadline = time.monotonic() + START_TIMEOUT
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ServiceError(
                        f"Another process has been starting the mlbench service for {START_TIMEOUT:.0f} s.",
                        f"Look at {door.log}, then try again.",
                    ) from None
                time.sleep(0.02)
            else:
                break
        yield
    finally:
        os.close(descriptor)


def service_environment(environment: dict[str, str]) -> dict[str, str]:
    """Return the environment of a service that is started from one: without what belongs to one kernel or run.

    Examples
    --------
    >>> service_environment({"HOME": "/home/ada", "JPY_PARENT_PID": "7", "MLBENCH_RUN": "x", "MLBENCH_STORE": "/s"})
    {'HOME': '/home/ada'}
    """
    own = ("JPY_", "MLBENCH_RUN", "MLBENCH_RESUME", "MLBENCH_ENGINE", "MLBENCH_STORE", "MLBENCH_CATALOG", "MLBENCH_JOB")
    kept = ("MLBENCH_RUNTIME",)
    return {name: value for name, value in environment.items() if name in kept or not name.startswith(own)}


def _start(door: Door, *, until_idle: bool) -> None:
    """Start a service in a session of its own, and return when it listens, or when another one does."""
    reader, writer = os.pipe()
    command = [sys.executable, "-P", "-m", "mlbench.entrypoints.service", "run", "--ready-fd", str(writer)]
    if until_idle:
        command.append("--until-idle")
    environment = {**service_environment(dict(os.environ)), "MLBENCH_RUNTIME": str(door.folder)}
    log = os.open(door.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env=environment,
            pass_fds=(writer,),
            start_new_session=True,
        )
    except OSError as error:
        os.close(reader)
        raise ServiceError(f"The mlbench service cannot be started: {error.strerror}.") from error
    finally:
        os.close(log)
        os.close(writer)
    try:
        ready, _, _ = select.select([reader], [], [], START_TIMEOUT)
        said = os.read(reader, 16) if ready else b""
    finally:
        os.close(reader)
    if not ready:
        process.kill()
        raise ServiceError(f"The mlbench service did not start within {START_TIMEOUT:.0f} s.", f"Its log: {door.log}")
    if not said:
        status = process.wait(timeout=START_TIMEOUT)
        raise ServiceError(
            f"The mlbench service ended while it started (exit status {status})." + _said(door), f"Its log: {door.log}"
        )
    # It may outlive us, or end before: then its remains are not to stay.
    threading.Thread(target=process.wait, name="mlbench-reaper", daemon=True).start()


def _said(door: Door) -> str:
    lines = door.last_lines()
    return f" Its last lines:\n{lines}\n" if lines else ""


def end_by_force(*, runtime: str | os.PathLike[str] | None = None, version: str | None = None) -> int | None:
    """Kill the service that holds the lock, with its workers; return its process id, or None if there was none.

    Its steps end with it. What replaces it says of each what became of it.
    """
    door = Door.find(runtime=runtime, version=version)
    pid = door.alive()
    if not pid:
        return None
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + GREETING_TIMEOUT
    while door.alive() == pid:
        if time.monotonic() > deadline:
            raise ServiceError(f"The mlbench service (process {pid}) cannot be ended.", "Restart the machine.")
        time.sleep(0.02)
    return pid
