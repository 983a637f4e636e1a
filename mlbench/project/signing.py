"""The key of a user, and the people whom this user trusts: files of a folder that nobody else can change.

::

    signing.key        64 hexadecimal digits: what this user stores is signed with it
    NAME.key           keys of this user's other machines: what they have signed is accepted too
    trusted.json       {"users": ["ada"], "unsigned": ["/data/store"]}

The folder is `MLBENCH_KEYS`, or `mlbench` in the user's folder of configuration: never in a store. Light: kernels
import it.
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from mlbench.backends.blobs import canonical, is_url
from mlbench.core.errors import MlbenchError, StoreError, UsageError
from mlbench.core.messages import Signer
from mlbench.core.queries import Signers
from mlbench.core.records import Artifact, Json
from mlbench.runs.signing import KERNEL, is_proven, is_signed, key_name, needs_signature, signer_of

__all__ = [
    "Trust",
    "is_own",
    "judge",
    "keys_folder",
    "own_end",
    "own_keys",
    "set_trust",
    "signer",
    "signers",
    "trust",
    "what_differs",
]

_LOG = logging.getLogger(__name__)

_KEY: Final = re.compile(rb"[0-9a-f]{64}\n?")
_OWN: Final = "signing.key"
_TRUSTED: Final = "trusted.json"
_USER: Final = re.compile(r"[^\s\x00-\x1f]{1,100}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """Whom a user trusts: people by name, and stores whose values from before there were signatures are the user's."""

    users: frozenset[str] = field(default_factory=frozenset)
    unsigned: frozenset[str] = field(default_factory=frozenset)


def keys_folder() -> Path:
    """Return the folder of the keys; it need not be there."""
    if named := os.environ.get("MLBENCH_KEYS"):
        return Path(os.path.abspath(Path(named).expanduser()))
    import platformdirs

    return Path(platformdirs.user_config_dir("mlbench", appauthor=False))


def signer(subject: str) -> Signer | None:
    """Return what signs for an execution, `None` if this user cannot have a key: values are then stored unsigned."""
    return _signer(subject, keys_folder())


def _signer(subject: str, folder: Path) -> Signer | None:
    try:
        return signer_of(_own_key(folder), subject)
    except MlbenchError as error:
        _say_once(f"Values are stored unsigned: {error}")
        return None


@lru_cache(maxsize=8)
def _say_once(sentence: str) -> None:
    _LOG.warning("%s", sentence)


def judge(store: str, *, own_session: bool = False) -> Callable[[Artifact], bool]:
    """Return what says of the artifacts of a store whether they may run code as this user when they are loaded.

    Parameters
    ----------
    store
        Its place: a path or a URL.
    own_session
        Whether it is asked by a kernel or a service of what came to be in it: for a user who cannot have a key, what
        nobody has signed passes there, or nothing would run.
    """
    folder = keys_folder()
    place = canonical(store)

    def accepts(artifact: Artifact) -> bool:
        if not needs_signature(artifact.codec):
            return True
        if artifact.signature is None:
            return place in trust().unsigned or (own_session and signer(KERNEL) is None)
        signature = artifact.signature
        return any(is_signed(key, signature, artifact.digest, artifact.codec) for key in _keys(folder))

    return accepts


def own_end(identifier: str, record: Json | None) -> Json | None:
    """Return the record of an execution's end that was found, `None` if nobody with a key of this user wrote it."""
    return record if record is not None and is_own(identifier, "execution", identifier, record) else None


def is_own(execution: str, kind: str, identifier: str, record: Json) -> bool:
    """Say whether somebody with a key of this user wrote a record of the end of an execution, or of its items.

    Whoever can write to a store can write an end there that never was.
    """
    if signer(KERNEL) is None:  # who can have no key has to believe what lies there
        return True
    ours = (signer_of(key, execution) for key in _keys(keys_folder()))
    if is_proven(ours, kind, identifier, record):
        return True
    _LOG.warning("The end of execution %s in the store is not from here, and is not taken", identifier)
    return False


def own_keys() -> tuple[str, ...]:
    """Return the names of the keys whose signatures this user takes, first that of the own; none without one."""
    folder = keys_folder()
    own = _signer(KERNEL, folder)
    return () if own is None else tuple(dict.fromkeys((own.key, *map(key_name, _keys(folder)))))


def what_differs(keys: Sequence[str], folder: str | None) -> str | None:
    """Say what is wrong if a kernel has other keys than the service that asks, whose steps store and load for it.

    Parameters
    ----------
    keys, folder
        The kernel's: see `KernelHello`.
    """
    own = own_keys()
    if not keys or not own or (keys[0] in own and own[0] in keys):
        return None
    return (
        f"This kernel signs what it stores with a key in {folder}, and the mlbench service with one in "
        f"{keys_folder()}: what one of them has stored the other does not load. `mlbench service stop`, and run the "
        "cell again: the service that it starts has this kernel's MLBENCH_KEYS."
    )


def signers() -> Signers:
    """Return whose values this user loads without a question: what a catalog is asked for (see `Catalog.by_keys`)."""
    keys = _keys(keys_folder())
    return Signers(keys=frozenset(map(key_name, keys)), users=trust().users)


# --- keys -------------------------------------------------------------------------------------------------------------


def _keys(folder: Path) -> tuple[bytes, ...]:
    """Return the keys of this user, those of other machines too."""
    try:
        files = _key_files(folder, folder.stat().st_mtime_ns)  # a key that comes or goes changes the folder
        return _read_keys(tuple((file, *_looks(file)) for file in files))
    except OSError:  # there is none, or none that this user may read
        return ()


@lru_cache(maxsize=8)
def _key_files(folder: Path, _changed: int) -> tuple[Path, ...]:
    return tuple(sorted(folder.glob("*.key")))


def _looks(file: Path) -> tuple[int, ...]:
    """Return what changes with a file, and with who may read it."""
    status = file.stat()
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_mode, status.st_uid


@lru_cache(maxsize=8)
def _read_keys(files: tuple[tuple[Any, ...], ...]) -> tuple[bytes, ...]:
    found = []
    for file, *_ in files:
        try:
            found.append(_read(file))
        except StoreError as error:
            _LOG.warning("%s", error)
    return tuple(found)


def _own_key(folder: Path) -> bytes:
    """Return the key of this user, which is made with its first use."""
    file = folder / _OWN
    try:
        if not file.exists():
            _make(file)
        return _read_own(file, _looks(file))
    except OSError as error:
        raise StoreError(
            f"The key {file}, which signs what you store, cannot be used: {error.strerror or error}.",
            "Name a folder of yours in MLBENCH_KEYS.",
        ) from error


@lru_cache(maxsize=8)
def _read_own(file: Path, _looks: tuple[int, ...]) -> bytes:
    return _read(file)


def _make(file: Path) -> None:
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    beside = file.with_name(f".{secrets.token_hex(8)}")
    _write(beside, f"{secrets.token_hex(32)}\n".encode("ascii"))
    try:
        os.link(beside, file)  # of two processes that make it at once one is first, and both use that one's
    except FileExistsError:
        pass
    finally:
        beside.unlink()
    folder = os.open(file.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _write(file: Path, data: bytes) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())


def _read(file: Path) -> bytes:
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid not in {os.geteuid(), 0} or status.st_mode & 0o077:
            raise StoreError(
                f"The key {file} is not yours alone: others can read or change it.", f"Close it: `chmod 600 {file}`."
            )
        data = os.read(descriptor, 256)
    finally:
        os.close(descriptor)
    if _KEY.fullmatch(data) is None:
        raise StoreError(f"The key {file} is no key.", "Restore it, or move it away: mlbench makes another one.")
    return data.strip()


# --- people -----------------------------------------------------------------------------------------------------------


def trust() -> Trust:
    """Return whom this user trusts; nobody if the file cannot be used, which is said."""
    try:
        return _trusted()
    except StoreError as error:
        _say_once(str(error))
        return Trust()


def _trusted() -> Trust:
    """Return whom this user trusts. Raise `StoreError` if the file that says so cannot be used."""
    file = keys_folder() / _TRUSTED
    try:
        status = file.stat()
    except OSError:  # there is none, or none that this user may read
        return Trust()
    return _read_trust(file, status.st_mtime_ns, status.st_uid, status.st_mode)


@lru_cache(maxsize=8)
def _read_trust(file: Path, _changed: int, owner: int, mode: int) -> Trust:
    if owner not in {os.geteuid(), 0} or mode & 0o022:
        raise StoreError(f"{file} can be changed by others, so nobody is trusted.", f"Close it: `chmod 600 {file}`.")
    try:
        found = json.loads(file.read_text("utf-8"))
        return Trust(
            users=frozenset(map(str, found.get("users", ()))), unsigned=frozenset(map(str, found.get("unsigned", ())))
        )
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise StoreError(
            f"{file} cannot be read, so nobody is trusted: {error}", "Mend it, or move it away."
        ) from error


def set_trust(*, user: str | None = None, unsigned: str | None = None, remove: bool = False) -> Trust:
    """Trust somebody, or the unsigned values of a store, from now on, or no more; return whom this user trusts then.

    Raises
    ------
    UsageError
        If it is nobody's name, or others can write to the store.
    StoreError
        If it cannot be written down.
    """
    known = _trusted()
    if user is not None:
        if _USER.fullmatch(user) is None:
            raise UsageError(f"{user!r} is no user's name.")
        known = replace(known, users=known.users - {user} if remove else known.users | {user})
    if unsigned is not None:
        place = canonical(unsigned)
        if not remove and _others_write(place):
            raise UsageError(
                f"Others can write to the store {place}, so what is unsigned in it may be anybody's.",
                "Load what you know with `trust=True`.",
            )
        known = replace(known, unsigned=known.unsigned - {place} if remove else known.unsigned | {place})
    file = keys_folder() / _TRUSTED
    beside = file.with_name(f".{secrets.token_hex(8)}")
    data = json.dumps({"users": sorted(known.users), "unsigned": sorted(known.unsigned)}, indent=1)
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            _write(beside, f"{data}\n".encode())
            os.replace(beside, file)
        except BaseException:
            with suppress(FileNotFoundError):
                beside.unlink()
            raise
    except OSError as error:
        raise StoreError(
            f"{file} cannot be written: {error.strerror or error}.", "Name a folder of yours in MLBENCH_KEYS."
        ) from error
    return known


def _others_write(place: str) -> bool:
    """Say whether others may write to a store; nobody can tell that of a URL."""
    if is_url(place):
        return True
    status = os.stat(place)
    return status.st_uid != os.geteuid() or bool(status.st_mode & 0o022)
