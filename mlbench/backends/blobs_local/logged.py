"""Files and folders of this machine, kept in a store."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from mlbench.core.errors import UsageError
from mlbench.core.ids import Digest
from mlbench.core.messages import Signer
from mlbench.core.ports import BlobStore, Stream
from mlbench.core.records import Artifact, Binding
from mlbench.runs.artifacts import save_names
from mlbench.runs.files import FILE, FOLDER, HEADER, check_name, folder_header
from mlbench.runs.previews import preview_file, preview_folder
from mlbench.runs.values import Encoded, Packed, seal

__all__ = ["keep"]

_TOGETHER: Final = 256
"""Small files of a folder that are packed together."""

_SMALL: Final = 1 << 16


def keep(value: Any, name: str | None, blobs: BlobStore, *, signer: Signer | None = None) -> Binding:
    """Keep a file or a folder, given by its path, or any other value, durably; return it with its name.

    A signer signs a value that can run code when it is loaded.

    Raises
    ------
    UsageError
        If there is no such file, or a value has no name.
    StoreError
        If the store cannot be written.
    """
    if isinstance(value, str | os.PathLike):
        if not os.fsdecode(value):
            raise UsageError(
                "mlbench.log_artifact: an empty text is no path.", "The working directory itself is `'.'`."
            )
        path = Path(os.path.abspath(os.fsdecode(value)))
        found = _kind_of(path, value)
        called = check_name(name if name is not None else path.name)
        artifact = _keep_folder(path, called, blobs) if stat.S_ISDIR(found.st_mode) else _keep_file(path, called, blobs)
        return Binding(name=called, artifact=artifact)
    if name is None:
        raise UsageError(
            f"mlbench.log_artifact: a value of type {type(value).__name__} has no name of its own.",
            "Give it one: `mlbench.log_artifact(value, name='summary')`.",
        )
    (binding,) = save_names({check_name(name): value}, [name], blobs, signer=signer)
    if binding.problem is not None:
        raise UsageError(f"mlbench.log_artifact: {binding.problem}")
    return binding


def _kind_of(path: Path, given: Any) -> os.stat_result:
    try:
        found = path.stat()
    except OSError as error:
        raise UsageError(
            f"mlbench.log_artifact: {os.fsdecode(given)[:200]!r} cannot be read: {error.strerror}.",
            f"The working directory is {os.getcwd()}. A text that is no path is kept by what holds it.",
        ) from error
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
        raise UsageError(f"mlbench.log_artifact: {path} is neither a file nor a folder.")
    return found


class _FileStream:
    """The bytes of an open file, which must not become fewer while they are read."""

    def __init__(self, file: int, path: Path) -> None:
        self._file = file
        self._path = path
        self.nbytes: int = os.fstat(file).st_size

    def read(self, offset: int, size: int, /) -> bytes | memoryview:
        data = bytearray(size)
        view, done = memoryview(data), 0
        while done < size:
            count = os.preadv(self._file, [view[done:]], offset + done)
            if not count:
                raise UsageError(f"mlbench.log_artifact: {self._path} became shorter while it was read.")
            done += count
        return view


def _open(path: Path) -> int:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise UsageError(f"mlbench.log_artifact: {path} is no file any more.")
    return file


def _keep_file(path: Path, name: str, blobs: BlobStore) -> Artifact:
    file = _open(path)
    try:
        stream = _FileStream(file, path)
        encoded = _encoded(stream)
        digest = blobs.put_value(encoded.codec, encoded.parts)
        about = preview_file(name, stream.nbytes)
        return Artifact(digest=digest, size=encoded.size, type="file", codec=FILE, preview=about)
    finally:
        os.close(file)


def _encoded(content: bytes | memoryview | Stream) -> Encoded:
    return Encoded(FILE, "file", (HEADER, content))


def _keep_folder(root: Path, name: str, blobs: BlobStore) -> Artifact:
    files: dict[str, tuple[Digest, int]] = {}
    folders: list[str] = []
    links: dict[str, str] = {}
    small: dict[Digest, Packed] = {}
    left_out: list[str] = []
    for path, kind in _entries(root):
        inside = path.relative_to(root).as_posix()
        if kind == "folder":
            folders.append(inside)
        elif kind == "link":
            if (target := _target(path, root)) is not None:
                links[inside] = target
            else:
                left_out.append(inside)
        elif kind == "file":
            files[inside] = _keep_inside(path, blobs, small)
            if len(small) >= _TOGETHER:
                _pack(small, blobs)
        else:
            left_out.append(inside)
    _pack(small, blobs)
    packed = seal(Encoded(FOLDER, "folder", (folder_header(files, folders, links),)))
    blobs.put_parts(packed.digest, packed.parts)
    total = sum(size for _, size in files.values())
    return Artifact(
        digest=packed.digest,
        size=packed.size + total,
        type="folder",
        codec=FOLDER,
        preview=preview_folder(name, {path: size for path, (_, size) in files.items()}, left_out),
    )


def _keep_inside(path: Path, blobs: BlobStore, small: dict[Digest, Packed]) -> tuple[Digest, int]:
    file = _open(path)
    try:
        stream = _FileStream(file, path)
        if stream.nbytes >= _SMALL:
            encoded = _encoded(stream)
            return blobs.put_value(encoded.codec, encoded.parts), stream.nbytes
        packed = seal(_encoded(stream.read(0, stream.nbytes)))
    finally:
        os.close(file)
    small[packed.digest] = packed
    return packed.digest, stream.nbytes


def _pack(small: dict[Digest, Packed], blobs: BlobStore) -> None:
    if small:
        blobs.put_pack([(digest, packed.parts) for digest, packed in small.items()])
        small.clear()


def _entries(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield what lies under a folder, in order: files, links, empty folders, and what is none of these."""
    with os.scandir(folder) as listed:
        entries = sorted(listed, key=lambda entry: entry.name)
    for entry in entries:
        path = Path(entry.path)
        if entry.is_symlink():
            yield path, "link"
        elif entry.is_dir(follow_symlinks=False):
            empty = True
            for one in _entries(path):
                empty = False
                yield one
            if empty:
                yield path, "folder"
        else:
            yield path, "file" if entry.is_file(follow_symlinks=False) else "other"


def _target(link: Path, root: Path) -> str | None:
    """Return where a link leads, from its own folder; None if that is out of the tree, or nowhere."""
    with suppress(OSError, RuntimeError):
        real, top = link.resolve(strict=True), root.resolve()
        if real == top or real.is_relative_to(top):
            inside = top / link.relative_to(root)
            return Path(os.path.relpath(real, inside.parent.resolve())).as_posix()
    return None
