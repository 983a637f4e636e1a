"""Python modules that lie beside the notebook, on a worker that does not see its folder."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Final

from mlbench.backends.owners import scratch_folder
from mlbench.core.errors import ServiceError
from mlbench.core.ids import Digest
from mlbench.core.ports import BlobStore

__all__ = ["forget", "unpack"]

_lock: Final = threading.Lock()
_kept: Final = contextlib.ExitStack()
_folders: Final[dict[str, str]] = {}
_root: list[Path] = []


def unpack(modules: Mapping[str, Digest], blobs: BlobStore) -> str:
    """Return a folder that holds the modules, made once for each set of them; it ends with this process.

    Parameters
    ----------
    modules
        Paths, as they are relative to the folder that is to be on `sys.path`, and the objects that they are.

    Raises
    ------
    ServiceError
        If a path would lead out of the folder.
    StoreError, NotFound
        If the store does not have one.
    """
    name = hashlib.blake2b(repr(sorted(modules.items())).encode(), digest_size=12).hexdigest()
    with _lock:
        if name in _folders:
            return _folders[name]
        if not _root:
            _root.append(_kept.enter_context(scratch_folder("modules")))
        folder = _root[0] / name
        for path, digest in modules.items():
            file = folder / _inside(path)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(blobs.get(digest))
        folder.mkdir(exist_ok=True)
        _folders[name] = os.fspath(folder)
        return _folders[name]


def forget() -> None:
    """Remove what was unpacked."""
    with _lock:
        _folders.clear()
        _root.clear()
        _kept.close()


def _inside(path: str) -> PurePosixPath:
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts or not parts.parts or "\0" in path:
        raise ServiceError(f"The path {path!r} of a module leads out of its folder.")
    return parts
