"""Where a store is, a directory or a URL, and how it is opened. Light: fsspec is loaded only for a URL."""

from __future__ import annotations

import os
import re
import threading
from contextlib import suppress
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from mlbench.backends.blobs_local import THREAD, LocalBlobs, cache_top, keep_logged
from mlbench.core.errors import MlbenchError, StoreError
from mlbench.core.ids import Digest
from mlbench.core.ports import BlobStore

__all__ = [
    "THREAD",
    "canonical",
    "is_there",
    "is_url",
    "keep_logged",
    "local_folder",
    "marker_of",
    "open_blobs",
    "own_folders",
    "problem_of",
    "rest",
    "url_name",
    "url_of",
]

_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")

_opened: Final[dict[str, Any]] = {}
_lock = threading.Lock()


def open_blobs(place: str | os.PathLike[str], *, make: bool = True) -> BlobStore:
    """Open the store in a directory or under a URL.

    Parameters
    ----------
    place
        A path, or a URL such as `s3://bucket/folder`.
    make
        Whether the store is made if there is none.

    Raises
    ------
    StoreError
        If it cannot be used or made, or a library for it is missing.
    """
    if not is_url(place):
        if not make and not os.path.isfile(os.path.join(place, "format")):
            raise StoreError(
                f"There is no store in {os.fspath(place)}.",
                "Name another directory, or bring back what was there: if it is on another disk, that may be away.",
            )
        return LocalBlobs(os.fspath(place))
    url = os.fspath(place).rstrip("/")
    with _lock:
        known: BlobStore | None = _opened.get(url)
        if known is None:
            try:
                from mlbench.backends.blobs_fsspec import FsspecBlobs
            except ImportError as error:
                raise StoreError(
                    f"The store {url} needs a library that is not installed in this environment: {error.name}.",
                    "Install it there: pip install 'mlbench[s3]'",
                ) from error
            known = _opened[url] = FsspecBlobs(url, make=make)
        return known


def is_url(place: str | os.PathLike[str]) -> bool:
    """Say whether a store's place is a URL rather than a directory.

    Examples
    --------
    >>> is_url("s3://bucket/folder"), is_url("/data/s3:/x"), is_url("results")
    (True, False, False)
    """
    return _URL.match(os.fspath(place)) is not None


def url_of(named: str) -> str:
    """Return the place that a URL names: itself in one spelling, or the directory that a `file://` is.

    Raises
    ------
    StoreError
        If it has a password in it, which is not ours to keep, or names nothing.

    Examples
    --------
    >>> url_of("S3://bucket/folder/"), url_of("file:///data/results")
    ('s3://bucket/folder', '/data/results')
    """
    scheme, _, rest = named.partition("://")
    scheme, rest = scheme.lower(), rest.rstrip("/")
    parts = urlsplit(f"{scheme}://{rest}")
    if scheme in {"file", "local"}:
        return str(unquote(parts.path)) or "/"
    if parts.password is not None or parts.query:
        raise StoreError(
            f"The store's URL {scheme}://{rest.rpartition('@')[2].partition('?')[0]} has credentials or options in it.",
            "Leave them out: they come from the variables and files that the provider's own tools use.",
        )
    if not rest or "::" in named or any(not sign.isprintable() for sign in named):
        raise StoreError(f"{named!r} names no store.", "Write one such as s3://bucket/folder.")
    return f"{scheme}://{rest}"


def url_name(url: str) -> str:
    """Return a short name for a URL, by which folders of this machine that belong to its store are called."""
    return os.path.basename(local_folder(url))


def canonical(place: str) -> str:
    """Return a place in the one spelling by which it is told from others."""
    return place.rstrip("/") if is_url(place) else os.path.realpath(place)


def local_folder(place: str) -> str:
    """Return the folder of this machine from which values of a store are mapped: itself, or a URL's cache."""
    if not is_url(place):
        return place
    from mlbench.backends.blobs_fsspec import cache_folder

    return os.fspath(cache_folder(place))


def own_folders(place: str) -> tuple[str, str]:
    """Return the folders of this machine in which a store itself opens files: nobody else's business."""
    return local_folder(place), os.fspath(cache_top())


def is_there(place: str) -> bool:
    """Say whether there is a store in a place, without making one."""
    if not is_url(place):
        return os.path.isfile(os.path.join(place, "format"))
    with suppress(MlbenchError):
        open_blobs(place, make=False)
        return True
    return False


def marker_of(place: str) -> tuple[int, int, int] | None:
    """Return what tells a store in a directory from another one that lies there later, `None` if there is none."""
    try:
        found = os.stat(os.path.join(place, "format"))
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns


def problem_of(place: str, proof: Digest | None) -> str | None:
    """Return why a place is not the store that has kept a proof, if it is not; nothing is made there."""
    try:
        if not is_url(place) and not os.path.isfile(os.path.join(place, "format")):
            return "there is no store under that path."
        if not is_url(place) and not os.access(os.path.join(place, "objects"), os.W_OK):
            return "it cannot be written there."
        blobs = open_blobs(place, make=False)
        if proof is not None and not blobs.has(proof):
            return "another store lies under that path."
    except (OSError, MlbenchError) as error:
        return f"{error}."
    return None


def rest() -> None:
    """End the threads of stores under URLs, so that this process can be forked; they come again when needed."""
    with _lock:
        for blobs in _opened.values():
            blobs.rest()
