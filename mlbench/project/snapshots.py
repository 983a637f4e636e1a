"""Reads what a notebook stands on: the modules beside it, and where it stands in git."""

from __future__ import annotations

import logging
import os
import stat
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from mlbench.core.ids import Digest
from mlbench.core.ports import BlobStore
from mlbench.core.records import GitState
from mlbench.runs.snapshots import FOLDERS_LEFT_OUT, is_module

__all__ = ["keep_modules", "read_git"]

logger = logging.getLogger(__name__)

LARGEST_MODULE: Final = 1 << 20
MOST_BYTES: Final = 16 << 20
MOST_MODULES: Final = 500
_MOST_ENTRIES = 10_000
_DEEPEST = 6
_LARGEST_DIFFERENCE = 8 << 20
_GIT_SECONDS = 10


def keep_modules(folder: str | os.PathLike[str], blobs: BlobStore, *, durable: bool = True) -> dict[str, Digest]:
    """Keep the Python files under a folder; return their paths relative to it and their digests.

    A folder may be a home directory: no more than 500 files and 16 MiB are kept, none larger than 1 MiB, nearest
    first, and no more than 10,000 entries are looked at.
    """
    kept: dict[str, Digest] = {}
    total = 0
    for path in _python_files(Path(folder)):
        try:
            data = _read(Path(folder, path))
        except OSError as error:
            logger.info("The module %s is left out of the snapshot: %s", path, error)
            continue
        if data is None or total + len(data) > MOST_BYTES:
            continue
        total += len(data)
        kept[path] = blobs.put(data, durable=durable)
        if len(kept) == MOST_MODULES:
            logger.warning("The snapshot of %s holds %d modules; further ones are left out.", folder, MOST_MODULES)
            break
    return dict(sorted(kept.items()))


def _python_files(folder: Path) -> Iterator[str]:
    """Yield the paths of modules, those near the notebook first."""
    level = [""]
    seen = 0
    for _ in range(_DEEPEST):
        below = []
        for place in level:
            try:
                entries = sorted(os.scandir(folder / place), key=lambda entry: entry.name)
            except OSError as error:
                logger.info("The folder %s is left out of the snapshot: %s", folder / place, error)
                continue
            for entry in entries:
                seen += 1
                if seen > _MOST_ENTRIES:
                    return
                path = f"{place}{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    if entry.name not in FOLDERS_LEFT_OUT and not entry.name.startswith("."):
                        below.append(f"{path}/")
                elif is_module(path):
                    yield path
        level = below


def _read(path: Path) -> bytes | None:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode) or found.st_size > LARGEST_MODULE:
            return None
        return os.read(file, LARGEST_MODULE)
    finally:
        os.close(file)


def read_git(folder: str | os.PathLike[str], blobs: BlobStore, *, durable: bool = True) -> GitState | None:
    """Return the commit that a folder stands at and its uncommitted difference, `None` outside of git.

    The difference leaves notebooks out, which a snapshot holds itself and whose outputs are large.
    """
    head = _git(folder, "rev-parse", "--verify", "HEAD")
    if not head:
        return None
    branch = (_git(folder, "symbolic-ref", "--short", "-q", "HEAD") or b"").decode("utf-8", "replace").strip()
    plain = ("--no-ext-diff", "--no-textconv", "--no-color")  # what a repository's settings name is not run
    difference = _git(folder, "diff", *plain, "HEAD", "--", ":/", ":(exclude,top)*.ipynb") or b""
    if len(difference) > _LARGEST_DIFFERENCE:
        rest = len(difference) - _LARGEST_DIFFERENCE
        difference = difference[:_LARGEST_DIFFERENCE] + f"\n[{rest} further bytes are left out]\n".encode()
    return GitState(
        commit=head.decode("ascii", "replace").strip(),
        branch=branch or None,
        difference=blobs.put(difference, durable=durable) if difference else None,
    )


def _git(folder: str | os.PathLike[str], *arguments: str) -> bytes | None:
    environment: Mapping[str, str] = {
        **{name: value for name, value in os.environ.items() if not name.startswith("GIT_")},
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_TERMINAL_PROMPT": "0",
    }
    command = ["git", "-c", "core.fsmonitor=false", "-C", os.fspath(folder), *arguments]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_GIT_SECONDS, check=False, env=environment
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        logger.info("git says nothing about %s: %s", folder, error)
        return None
    return done.stdout if done.returncode == 0 else None
