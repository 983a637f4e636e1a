"""The store's directory under faults: killed writers, damaged files, a full disk, strange directories."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlbench.backends.blobs_local import LocalBlobs
from mlbench.core.errors import ArtifactCorrupt, StoreError
from mlbench.core.ids import Digest
from mlbench.runs.values import pack, split

ROUNDS = 8


@pytest.fixture
def blobs(tmp_path: Path) -> LocalBlobs:
    return LocalBlobs(tmp_path / "store")


def file_of(blobs: LocalBlobs, digest: Digest) -> Path:
    name = digest.partition(":")[2]
    return blobs.root / "objects" / name[:2] / name


def objects(root: Path) -> Iterator[Digest]:
    for path in (root / "objects").glob("*/*"):
        yield Digest(f"blake3:{path.name}")


def keep(blobs: LocalBlobs, value: Any) -> tuple[Digest, Path]:
    packed = pack(value)
    blobs.put_parts(packed.digest, packed.parts)
    path = file_of(blobs, packed.digest)
    path.chmod(0o600)
    return packed.digest, path


# --- killed writers ---------------------------------------------------------------------------------------------------

WRITER = """
import sys, numpy as np
from mlbench.backends.blobs_local import LocalBlobs
from mlbench.runs.values import pack
blobs = LocalBlobs(sys.argv[1])
number = int(sys.argv[2])
print("ready", flush=True)
while True:
    number += 1
    packed = pack({"n": number, "array": np.full(number % 5 * 40_000, number)})
    blobs.put_parts(packed.digest, packed.parts)
    blobs.append("execution", f"abcd{number}", {"digest": packed.digest})
    print(packed.digest, flush=True)
"""


@pytest.mark.slow
def test_a_writer_killed_at_any_moment_leaves_whole_objects_and_all_that_was_acknowledged(tmp_path: Path) -> None:
    root, acknowledged = tmp_path / "store", set()
    chance = random.Random(7)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for turn in range(ROUNDS):
        command = [sys.executable, "-c", WRITER, str(root), str(turn * 100_000)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
            lines = [writer.stdout.readline() for _ in range(chance.randrange(1, 12))]
            for _ in range(chance.randrange(20_000)):  # some moment within the next write
                pass
            writer.send_signal(signal.SIGKILL)
            lines += writer.stdout.readlines()
        acknowledged |= {line.strip() for line in lines if line.endswith("\n")}
    blobs = LocalBlobs(root)
    kept = set(objects(root))
    assert len(acknowledged) >= ROUNDS
    assert acknowledged <= kept
    for digest in kept:
        blobs.verify(digest)
    assert {record["digest"] for record in blobs.records("execution")} <= kept


# --- damaged objects --------------------------------------------------------------------------------------------------


def test_every_flipped_bit_is_found_and_nothing_damaged_is_returned(blobs: LocalBlobs) -> None:
    digest, path = keep(blobs, {"array": np.arange(3000), "text": "t"})
    whole = path.read_bytes()
    used = [place for place, byte in enumerate(whole) if byte or place % 7 == 0]
    chance = random.Random(3)
    found = 0
    for place in chance.sample(used, 100):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        if not belongs_to_a_part(whole, place):
            continue
        found += 1
        with pytest.raises(ArtifactCorrupt, match=f"{digest}.* got "):
            blobs.get_parts(digest)
    assert found > 90
    path.write_bytes(whole)
    blobs.get_parts(digest)


def belongs_to_a_part(whole: bytes, place: int) -> bool:
    """Say whether a byte is one of a part: between two there are some that belong to none."""
    view = bytearray(whole)
    parts = split(view)
    before = [bytes(part) for part in parts]
    view[place] ^= 255
    return place < 4 or [bytes(part) for part in parts] != before


@pytest.mark.parametrize("count", [10, 50_000, 2_000_000])
@pytest.mark.parametrize("cut", [0, 3, 0.5, -1])
def test_a_cut_object_is_found_whatever_its_size(blobs: LocalBlobs, count: int, cut: float) -> None:
    digest, path = keep(blobs, np.arange(count))
    size = path.stat().st_size
    os.truncate(path, int(size * cut) if cut == 0.5 else size - 1 if cut == -1 else int(cut))
    with pytest.raises(ArtifactCorrupt):
        blobs.get_parts(digest)
    packed = pack(np.arange(count))
    blobs.put_parts(digest, packed.parts)  # keeping it again heals it
    blobs.verify(digest)


def test_a_flipped_bit_in_a_large_object_is_found_by_verify(blobs: LocalBlobs) -> None:
    digest, path = keep(blobs, np.arange(2_000_000))
    with path.open("r+b") as file:
        file.seek(9_000_000)
        file.write(b"\xff")
    with pytest.raises(ArtifactCorrupt, match=r"expected blake3:.* got blake3:"):
        blobs.verify(digest)


def test_a_flipped_bit_in_plain_bytes_is_found(blobs: LocalBlobs) -> None:
    digest = blobs.put(b"a log")
    path = file_of(blobs, digest)
    path.chmod(0o600)
    path.write_bytes(b"a lag")
    with pytest.raises(ArtifactCorrupt, match=f"expected {digest}, got blake3:"):
        blobs.get(digest)
    with pytest.raises(ArtifactCorrupt):
        blobs.verify(digest)


def test_a_link_a_pipe_or_a_folder_in_an_objects_place_is_refused(blobs: LocalBlobs, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"x")
    for replace in (lambda path: path.symlink_to(secret), os.mkfifo, Path.mkdir):
        digest = blobs.put(b"x")
        path = file_of(blobs, digest)
        path.unlink()
        replace(path)
        with pytest.raises(ArtifactCorrupt):
            blobs.get(digest)
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


# --- disks ------------------------------------------------------------------------------------------------------------


def fail(monkeypatch: pytest.MonkeyPatch, name: str, number: int) -> None:
    def failing(*_: Any) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, name, failing)


@pytest.mark.parametrize("call", ["pwrite", "ftruncate", "fsync", "rename"])
def test_a_full_disk_is_one_sentence_and_leaves_nothing_behind(
    blobs: LocalBlobs, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    kept = blobs.put(b"before")
    with monkeypatch.context() as patch:
        fail(patch, call, errno.ENOSPC)
        with pytest.raises(StoreError, match=f"no space left on {blobs.root}") as caught:
            blobs.put(b"after")
        assert caught.value.remedy
    assert list((blobs.root / "tmp").iterdir()) == []
    assert blobs.get(kept) == b"before"
    assert set(objects(blobs.root)) == {kept}
    assert blobs.get(blobs.put(b"after")) == b"after"


def test_a_record_is_still_written_to_a_full_disk_from_the_reserve(
    blobs: LocalBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    reserve = blobs.root / "reserve"
    assert reserve.stat().st_size == 1 << 20
    write = os.pwrite

    def full(file: int, data: Any, offset: int) -> int:
        if reserve.exists():
            raise OSError(errno.ENOSPC, "full")
        return write(file, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    blobs.append("run", "abcd", {"state": "failed"})
    assert blobs.find_record("run", "abcd") is not None
    assert not reserve.exists()


def test_an_error_of_the_disk_while_syncing_is_not_acknowledged(
    blobs: LocalBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        fail(patch, "fsync", errno.EIO)
        with pytest.raises(StoreError, match="Input/output error"):
            blobs.put(b"x")
    assert set(objects(blobs.root)) == set()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", disk], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("mounting a small disk is not allowed here")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def test_a_disk_that_fills_up_loses_nothing_and_works_again_once_there_is_space(small_disk: Path) -> None:
    blobs = LocalBlobs(small_disk / "store")
    kept: list[Digest] = []

    def fill() -> None:
        for number in range(100):
            packed = pack(np.full(50_000, number))
            blobs.put_parts(packed.digest, packed.parts)
            kept.append(packed.digest)

    with pytest.raises(StoreError, match="no space left on"):
        fill()
    assert kept
    for digest in kept:
        blobs.verify(digest)
    assert set(objects(blobs.root)) == set(kept)
    blobs.append("run", "abcd", {"state": "failed"})
    file_of(blobs, kept.pop()).unlink()
    again = pack(np.full(10_000, -1))
    blobs.put_parts(again.digest, again.parts)


# --- directories ------------------------------------------------------------------------------------------------------


def test_a_store_is_open_to_its_owner_only(blobs: LocalBlobs) -> None:
    blobs.append("run", "abcd", {})
    digest = blobs.put(b"x")
    assert blobs.root.stat().st_mode & 0o777 == 0o700
    assert file_of(blobs, digest).stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in blobs.root.rglob("*"))


def test_an_empty_directory_that_others_may_read_is_closed_when_it_becomes_a_store(tmp_path: Path) -> None:
    root = tmp_path / "store"
    root.mkdir()
    root.chmod(0o775)
    LocalBlobs(root)
    assert root.stat().st_mode & 0o777 == 0o700
    root.chmod(0o777)
    with pytest.raises(StoreError, match=r"Others may write to the store .* `chmod 700"):
        LocalBlobs(root)


def test_a_directory_with_something_else_in_it_is_not_made_a_store(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(StoreError, match=r"not empty: it has 'thesis\.tex'"):
        LocalBlobs(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"format": 2}', "has format 2, and this version of mlbench knows 1"),
        ("?", "cannot be read"),
        ("[]", "cannot be read"),
    ],
)
def test_a_store_of_another_format_is_refused_in_one_sentence(blobs: LocalBlobs, text: str, sentence: str) -> None:
    (blobs.root / "format").write_text(text)
    with pytest.raises(StoreError, match=sentence):
        LocalBlobs(blobs.root)


def test_a_directory_that_cannot_be_made_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"The store .* cannot be written: Not a directory"):
        LocalBlobs(tmp_path / "file" / "store")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_cannot_be_written_is_refused_in_one_sentence(blobs: LocalBlobs) -> None:
    blobs.root.chmod(0o500)
    with pytest.raises(StoreError, match="cannot be written: Permission denied"):
        LocalBlobs(blobs.root)


def test_large_parts_begin_on_a_page(blobs: LocalBlobs) -> None:
    packed = pack({"a": np.zeros(100_000), "b": np.zeros(100_000)})
    blobs.put_parts(packed.digest, packed.parts)
    addresses = [
        np.frombuffer(part, "u1").ctypes.data for part in blobs.get_parts(packed.digest) if part.nbytes > 1 << 16
    ]
    assert len(addresses) == 2
    assert {address % 4096 for address in addresses} == {0}


def test_a_file_that_is_no_record_is_passed_over(blobs: LocalBlobs) -> None:
    blobs.append("run", "abcd", {})
    (folder,) = (blobs.root / "records").glob("*/*")
    (folder / "notes.txt").touch()
    assert len(list(blobs.records())) == 1
