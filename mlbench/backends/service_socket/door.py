"""The service's door: where its socket, lock and log lie, who may pass, and what is said first.

Nothing of it lies in a home directory, which may be on a network file system: the folder is `$MLBENCH_RUNTIME`, else
`$XDG_RUNTIME_DIR/mlbench`, else `mlbench-<uid>` in the temporary directory, and nobody but its user can enter it. The
files' name is made of this host and of the version of mlbench, so that a newer service starts beside an older one. A
lock says who is alive, never the presence of the socket.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import re
import socket
import stat
import struct
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from mlbench.core.errors import ServiceError
from mlbench.core.messages import PROTOCOL

__all__ = [
    "Door",
    "Role",
    "ServiceInfo",
    "check_peer",
    "installed_version",
    "protocol_problem",
    "read_info",
    "version_key",
]

Role = Literal["kernel", "cli", "lab", "engine", "job", "service", "step"]

LONGEST_PATH: Final = 103 if sys.platform == "darwin" else 107
"""Bytes in the path of a socket: a limit of the operating system."""


@functools.cache
def installed_version() -> str:
    """Return the version of the mlbench that is imported here."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("mlbench")
    except PackageNotFoundError:
        return "0.0.0"


def version_key(version: str) -> tuple[tuple[int, ...], int, int]:
    """Return what orders versions; a pre-release comes before its release.

    Examples
    --------
    >>> version_key("0.9.1") < version_key("0.10.0rc1") < version_key("0.10") < version_key("0.10.1")
    True
    """
    found = re.match(r"(\d+(?:\.\d+)*)(?:[-.]?(?:a|b|rc|dev|alpha|beta)[-.]?(\d*))?", version)
    if found is None:
        return (0,), 0, 0
    numbers = [int(part) for part in found[1].split(".")]
    while len(numbers) > 1 and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers), 1 if found[2] is None else 0, int(found[2] or 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceInfo:
    """What a service says of itself at each connection. `life` names one life of one service."""

    protocol: int
    version: str
    pid: int
    life: str
    retired: bool = False
    serves: tuple[int, int] | None = None
    """The oldest and the newest protocol that it speaks."""


@dataclass(frozen=True, slots=True)
class Door:
    """The paths of one version's service on this host.

    Parameters
    ----------
    folder
        The runtime folder, checked.
    version
        The version of mlbench whose service it is.
    """

    folder: Path
    version: str

    @classmethod
    def find(cls, *, runtime: str | os.PathLike[str] | None = None, version: str | None = None) -> Door:
        """Return the door for this user, making and checking its folder.

        Raises
        ------
        ServiceError
            The folder is open to others, is somebody else's, or its path is too long.
        """
        door = cls(_checked(_folder(runtime)), version or installed_version())
        length = len(os.fsencode(door.socket))
        if length > LONGEST_PATH:
            raise ServiceError(
                f"The path of the service's socket, {door.socket}, has {length} bytes; {LONGEST_PATH} are allowed.",
                "Set MLBENCH_RUNTIME to a folder with a shorter path.",
            )
        return door

    @property
    def name(self) -> str:
        """The files' name, without its end."""
        return f"s-{_host()}{hashlib.sha256(self.version.encode()).hexdigest()[:8]}"

    @property
    def socket(self) -> Path:
        return self.folder / f"{self.name}.sock"

    @property
    def lock(self) -> Path:
        return self.folder / f"{self.name}.lock"

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    @property
    def start_lock(self) -> Path:
        """Held by whoever starts the service, so that two who need it start one."""
        return self.folder / f"{self.name}.start"

    def others(self) -> list[Path]:
        """Return the sockets of other versions' services on this host, which may or may not be alive."""
        return sorted(path for path in self.folder.glob(f"s-{_host()}*.sock") if path != self.socket)

    def alive(self) -> int | None:
        """Return the process id of the service that holds the lock, or None; 0 if it has not said it yet."""
        try:
            descriptor = os.open(self.lock, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            written = os.read(descriptor, 32).split()
            return int(written[0]) if written and written[0].isdigit() else 0
        else:
            return None
        finally:
            os.close(descriptor)

    def leads_to(self, pid: int) -> bool:
        """Say whether who comes to this door finds a process that holds its lock: its files may have been deleted."""
        try:
            self.socket.stat()
            return self.alive() == pid
        except FileNotFoundError:
            return False
        except OSError:  # too many files are open, say: then nothing is known of these
            return True

    def last_lines(self, count: int = 12) -> str:
        """Return the end of the service's log, for an error message."""
        try:
            with self.log.open("rb") as log:
                log.seek(max(0, self.log.stat().st_size - 8192))
                lines = log.read().decode("utf-8", "replace").splitlines()
        except FileNotFoundError:
            return ""
        return "\n".join(lines[-count:])


def _folder(runtime: str | os.PathLike[str] | None) -> Path:
    if runtime is not None:
        return Path(runtime)
    if named := os.environ.get("MLBENCH_RUNTIME"):
        return Path(named)
    if session := os.environ.get("XDG_RUNTIME_DIR"):
        parent = Path(session)
        if parent.is_dir() and os.access(parent, os.W_OK | os.X_OK):
            return parent / "mlbench"
    return Path(tempfile.gettempdir()) / f"mlbench-{os.getuid()}"


def _checked(folder: Path) -> Path:
    folder = Path(os.path.abspath(folder))  # not resolved: a symbolic link must stay one, to be refused
    remedy = "Set MLBENCH_RUNTIME to a folder of your own that nobody else can enter (mode 0700)."
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = os.lstat(folder)
    except OSError as error:
        raise ServiceError(f"The service's folder {folder} cannot be made: {error.strerror}.", remedy) from error
    if not stat.S_ISDIR(found.st_mode):
        raise ServiceError(f"The service's folder {folder} is not a folder.", remedy)
    if found.st_uid != os.getuid():
        raise ServiceError(f"The service's folder {folder} belongs to user {found.st_uid}, not to you.", remedy)
    if found.st_mode & 0o077:
        mode = f"{stat.S_IMODE(found.st_mode):04o}"
        raise ServiceError(
            f"The service's folder {folder} can be entered by others (its mode is {mode}).", f"Run: chmod 700 {folder}"
        )
    return folder


@functools.cache
def _host() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def check_peer(connection: socket.socket) -> int | None:
    """Return the process id at a socket's other end (where the system tells), or refuse another user's.

    Raises
    ------
    ServiceError
        The other end runs as another user.
    """
    pid: int | None = None
    if sys.platform == "darwin":
        local, peer_credentials = 0, 1  # SOL_LOCAL and LOCAL_PEERCRED of sys/un.h; struct xucred of sys/ucred.h
        _, uid = struct.unpack_from("=II", connection.getsockopt(local, peer_credentials, 76))
    else:
        wanted = struct.calcsize("3i")
        pid, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, wanted))
    if uid != os.getuid():
        raise ServiceError(f"The other end of the service's socket runs as user {uid}, not as you: refused.")
    return pid


def protocol_problem(*, ours: int, theirs: int, their_version: str) -> str | None:
    """Say why a service cannot be spoken to, or nothing: a service speaks its protocol and the one before.

    Examples
    --------
    >>> protocol_problem(ours=1, theirs=2, their_version="0.2") is None
    True
    >>> protocol_problem(ours=1, theirs=3, their_version="0.9")
    'A newer mlbench (0.9) is running, which no longer speaks to this one.'
    """
    if theirs - ours > 1:
        return f"A newer mlbench ({their_version}) is running, which no longer speaks to this one."
    return None


def read_info(answer: dict[str, Any]) -> ServiceInfo:
    """Return what a service answered to the first frame."""
    from mlbench.runs.wire import msgspec

    try:
        return msgspec.convert(answer, ServiceInfo)
    except msgspec.ValidationError as error:
        raise ServiceError(f"What answers on the service's socket is no mlbench service: {error}.") from error


def hello(role: Role) -> dict[str, Any]:
    """Return the body of the first frame."""
    return {
        "protocol": PROTOCOL,
        "version": installed_version(),
        "interpreter": sys.executable,
        "pid": os.getpid(),
        "role": role,
    }
