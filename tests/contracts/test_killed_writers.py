"""A writer that is killed at each system call that changes the store's folder: what it was writing is whole or absent.

One interpreter is started for each kind of write; it forks itself once for each of its calls.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

from mlbench.backends.blobs_local import LocalBlobs, store
from mlbench.backends.memory import MemoryCatalog
from mlbench.core.ids import Digest
from mlbench.project import Project, care, find_store
from mlbench.runs.values import encode, pack

CALLS = ("open", "pwrite", "ftruncate", "fsync", "rename", "link", "unlink", "utime", "mkdir", "chmod", "close")
KINDS: tuple[Literal["object", "pack", "record"], ...] = ("object", "pack", "record")
ITEMS = [(one.digest, one.parts) for one in map(pack, range(100))]
_LARGE = 1 << 17
LARGE, NEXT = encode(bytes(range(256)) * 800), encode(bytes(range(255, -1, -1)) * 800)


def put(blobs: LocalBlobs) -> list[str]:
    return [blobs.put(b"some bytes" * 50)]


def put_all(blobs: LocalBlobs) -> list[str]:
    blobs.put_all(ITEMS[:2])
    return [digest for digest, _ in ITEMS[:2]]


def put_pack(blobs: LocalBlobs) -> list[str]:
    blobs.put_pack(ITEMS)
    return [digest for digest, _ in ITEMS]


def put_large(blobs: LocalBlobs) -> list[str]:
    return [blobs.put_value(one.codec, one.parts) for one in (LARGE, NEXT)]


def append(blobs: LocalBlobs) -> list[str]:
    blobs.append("note", "abcd", {"text": "t" * 500})
    return []


WRITES: dict[str, Callable[[LocalBlobs], list[str]]] = {
    "put": put,
    "put_all": put_all,
    "put_pack": put_pack,
    "put_large": put_large,
    "append": append,
}


def die_at(number: int) -> None:
    """Have this process be killed at one of its system calls."""
    left = number

    def counted(call: Any) -> Any:
        def dying(*given: Any, **more: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*given, **more)

        return dying

    for name in CALLS:
        setattr(os, name, counted(getattr(os, name)))


def kill_at_each_call(what: str, folder: str, new: bool) -> None:
    """Write into a store once for each system call in it, killed there; the last time it comes to its end."""
    vars(store)["LARGE"] = _LARGE
    for number in range(1, 200):
        path = os.path.join(folder, str(number))
        if not new:
            LocalBlobs(path)
        if not (child := os.fork()):
            die_at(number)
            WRITES[what](LocalBlobs(path))
            Path(f"{path}.said").touch()
            os._exit(0)
        if not os.WIFSIGNALED(os.waitpid(child, 0)[1]):
            return
    raise AssertionError("it never came to its end")


@pytest.mark.parametrize("new", [True, False], ids=["a new store", "a store that is there"])
@pytest.mark.parametrize("what", WRITES)
def test_a_writer_that_is_killed_at_any_system_call_leaves_what_is_whole_and_all_that_was_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, new: bool
) -> None:
    monkeypatch.setattr(store, "LARGE", _LARGE)
    command = f"from {__name__} import kill_at_each_call as go; go({what!r}, {str(tmp_path)!r}, {new})"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    subprocess.run([sys.executable, "-c", command], env=environment, timeout=120, check=True)
    stores = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert len(stores) > 8
    wanted = WRITES[what](LocalBlobs(tmp_path.parent / f"{tmp_path.name}-whole"))
    told = set()
    for path in stores:
        blobs = LocalBlobs(path)
        there = [blobs.has(Digest(digest)) for digest in wanted]
        if what == "append":
            there = [blobs.find_record("note", "abcd") is not None]
        if what == "put_pack":
            assert len(set(there)) == 1
        if Path(f"{path}.said").exists():
            assert all(there)
        told.add(all(there))
        assert not [problem for kind in KINDS for piece in blobs.pieces(kind) for problem in blobs.damaged(piece)]
        for digest in WRITES[what](blobs):
            blobs.verify(Digest(digest))
        assert blobs.find_record("note", "abcd") is not None or what != "append"
        assert care.verify(Project(find_store(store=str(path)), catalog=MemoryCatalog())).damage == []
        blobs.sweep(1 << 62)
        assert list((path / "tmp").iterdir()) == []
    assert told == {True, False}
