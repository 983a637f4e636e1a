"""Files and folders as artifacts: the codecs `file` and `folder`, and what they are when they are loaded.

A file is its bytes: its artifact has the same digest whatever it is called. A folder's artifact names those of its
files, each by its path, so that two folders with files in common share these; its links lead from one place of it to
another, and nowhere else.
"""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

from mlbench.core.errors import ArtifactCorrupt, UsageError
from mlbench.core.ids import Digest, is_digest
from mlbench.core.records import Json
from mlbench.runs.values import Buffer

__all__ = ["FILE", "FOLDER", "HEADER", "StoredFile", "StoredFolder", "check_name", "folder_header", "read_folder"]

FILE: Final = "file"
FOLDER: Final = "folder"

HEADER: Final = b"{}"
"""What stands before a file's bytes: nothing yet."""

_BLOCK: Final = 1 << 20
_NAME: Final = re.compile(r"[^\x00-\x1f\x7f-\x9f\\\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]{1,200}")
"""No control characters, none that turn the direction of what follows, and nothing that UTF-8 cannot say."""


def check_name(name: Any) -> str:
    """Return the name of an artifact if it may be one.

    Raises
    ------
    UsageError
        If it is no path that could lie under some folder, or does not show what it is.

    Examples
    --------
    >>> check_name("plots/loss.png")
    'plots/loss.png'
    """
    if not isinstance(name, str):
        raise UsageError(f"The name of an artifact is a text, not {name!r:.60}.", "Name it: `name='summary'`.")
    if not _NAME.fullmatch(name) or name != name.strip() or not _is_inside(name):
        raise UsageError(f"{name[:60]!r} cannot be the name of an artifact.", "Name it as in `name='plots/loss.png'`.")
    return name


def _is_inside(path: str) -> bool:
    return bool(path) and not any(part in {"", ".", ".."} for part in path.split("/")) and "\0" not in path


def folder_header(
    files: Mapping[str, tuple[Digest, int]], folders: Sequence[str] = (), links: Mapping[str, str] | None = None
) -> bytes:
    """Return what names the files of a folder, with their sizes, its empty folders, and its links.

    Examples
    --------
    >>> read_folder(folder_header({}, ["empty"], {"last": "run/1"}))
    {'files': {}, 'folders': ['empty'], 'links': {'last': 'run/1'}}
    """
    document = {
        "files": {path: [digest, size] for path, (digest, size) in files.items()},
        "folders": sorted(folders),
        "links": dict(links or {}),
    }
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode("ascii")


def read_folder(header: Buffer) -> Json:
    """Return what `folder_header` was given.

    Raises
    ------
    ArtifactCorrupt
        If a path in it leads out of the folder.
    """
    found: Json = json.loads(bytes(header))
    for path in (*found["files"], *found["folders"], *found["links"]):
        if not _is_inside(path):
            raise ArtifactCorrupt(f"A stored folder has a file that would lie outside of it: {path[:60]!r}.")
    for path, target in found["links"].items():
        to = os.path.normpath(os.path.join(os.path.dirname(path), target))
        if os.path.isabs(target) or to == ".." or to.startswith("../"):
            raise ArtifactCorrupt(f"A stored folder has a link that leads out of it: {path[:60]!r}.")
    if not all(is_digest(digest) for digest, _ in found["files"].values()):
        raise ArtifactCorrupt("A stored folder names a file by what is no digest.")
    return found


class StoredFile:
    """A file as it was when it was kept. It is read from the store piece by piece, never as a whole unless asked for.

    Parameters
    ----------
    name
        What it is called.
    data
        Its bytes: a memory map if they are many.
    """

    def __init__(self, name: str, data: memoryview) -> None:
        self.name = name
        self._data = data

    @property
    def size(self) -> int:
        """How many bytes it has."""
        return self._data.nbytes

    def read_bytes(self) -> bytes:
        """Return all of it."""
        return bytes(self._data)

    def read_text(self, encoding: str = "utf-8") -> str:
        """Return all of it as text."""
        return str(self._data, encoding)

    def open(self) -> BinaryIO:
        """Return it as an open file, to be read."""
        return io.BufferedReader(_Reading(self._data), _BLOCK)

    def save(self, path: str | os.PathLike[str] | None = None) -> Path:
        """Write it to a path, by default under its own name to the working directory; return where it is.

        An existing folder is written into.
        """
        target = Path(os.path.basename(self.name) if path is None else path)
        if target.is_dir():
            target = target / os.path.basename(self.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as file:
            for start in range(0, self.size, _BLOCK):
                file.write(self._data[start : start + _BLOCK])
        return target

    def __repr__(self) -> str:
        return f"<stored file {self.name}, {self.size:,} bytes>"


class _Reading(io.RawIOBase):
    def __init__(self, data: memoryview) -> None:
        self._left = data

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        count = min(view.nbytes, self._left.nbytes)
        view[:count] = self._left[:count]
        self._left = self._left[count:]
        return count


class StoredFolder(Mapping[str, StoredFile]):
    """A folder as it was when it was kept: its files by path, `folder["plots/loss.png"]`.

    Parameters
    ----------
    name
        What it is called.
    contents
        See `read_folder`.
    load
        Returns the bytes of a file by its digest.
    """

    def __init__(self, name: str, contents: Json, load: Callable[[Digest], memoryview]) -> None:
        self.name = name
        self._files: dict[str, tuple[Digest, int]] = {path: tuple(one) for path, one in contents["files"].items()}
        self._folders: list[str] = contents["folders"]
        self._links: dict[str, str] = contents["links"]
        self._load = load

    @property
    def size(self) -> int:
        """How many bytes its files have together."""
        return sum(size for _, size in self._files.values())

    def digests(self) -> dict[str, Digest]:
        """Return the digest of each file, by path; nothing is read."""
        return {path: digest for path, (digest, _) in self._files.items()}

    def __getitem__(self, path: str) -> StoredFile:
        digest, _ = self._files[path]
        return StoredFile(path, self._load(digest))

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def _ipython_key_completions_(self) -> list[str]:
        return list(self)

    def save(self, path: str | os.PathLike[str] | None = None) -> Path:
        """Write it to a folder that is made, by default under its own name in the working directory; return where.

        Raises
        ------
        UsageError
            If something is there already.
        """
        target = Path(os.path.basename(self.name) if path is None else path)
        if target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
            raise UsageError(f"{target} is there already, and not empty.", "Name a folder that is to be made.")
        target.mkdir(parents=True, exist_ok=True)
        for folder in self._folders:
            (target / folder).mkdir(parents=True, exist_ok=True)
        for name in self:
            self[name].save(target / name)
        for name, to in self._links.items():  # last, so that nothing is written through one
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).symlink_to(to)
        return target

    def __repr__(self) -> str:
        return f"<stored folder {self.name}, {len(self):,} files, {self.size:,} bytes>"
