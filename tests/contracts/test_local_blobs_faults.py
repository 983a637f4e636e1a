"""The store's directory under faults: damaged files, a full disk, strange directories."""

from __future__ import annotations

import errno
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlbench.backends.blobs_local import LocalBlobs, large
from mlbench.backends.blobs_local import store as store_module
from mlbench.backends.blobs_local.packs import Index
from mlbench.core.errors import ArtifactCorrupt, StoreError
from mlbench.core.ids import Digest
from mlbench.runs.values import pack, split, unpack


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
    if not path.exists():  # a large one, in chunks
        (path,) = (blobs.root / "chunks").iterdir()
    path.chmod(0o600)
    return packed.digest, path


# --- a store that is taken away ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", ["put", "put_parts", "put_pack", "append", "large"])
def test_what_is_written_to_a_store_that_was_taken_away_does_not_begin_another_one(
    blobs: LocalBlobs, write: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.move(blobs.root, f"{blobs.root}-moved")
    packed = pack([1, 2, 3])
    if write == "large":
        monkeypatch.setattr(store_module, "LARGE", 1)
    writes: dict[str, Callable[[], object]] = {
        "put": lambda: blobs.put(b"bytes"),
        "put_pack": lambda: blobs.put_pack([(packed.digest, packed.parts)]),
        "append": lambda: blobs.append("run", "r", {"state": "failed"}),
    }
    with pytest.raises(StoreError, match="is not there any more"):
        writes.get(write, lambda: blobs.put_parts(packed.digest, packed.parts))()
    assert not blobs.root.exists()
    shutil.move(f"{blobs.root}-moved", blobs.root)
    assert blobs.get(blobs.put(b"bytes")) == b"bytes"


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
        with pytest.raises(ArtifactCorrupt, match=f"expected {digest[:15]}, got "):
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


def test_a_flipped_bit_in_a_large_object_is_found_when_it_is_read_and_by_verify(blobs: LocalBlobs) -> None:
    digest, path = keep(blobs, np.arange(2_000_000))
    with path.open("r+b") as file:
        file.seek(9_000_000)
        file.write(b"\xff")
    for look in (blobs.get_parts, blobs.verify):
        with pytest.raises(ArtifactCorrupt, match=r"expected blake3:.* its chunk blake3:.* damaged"):
            look(digest)


def test_a_flipped_bit_in_plain_bytes_is_found(blobs: LocalBlobs) -> None:
    digest = blobs.put(b"a log")
    path = file_of(blobs, digest)
    path.chmod(0o600)
    path.write_bytes(b"a lag")
    with pytest.raises(ArtifactCorrupt, match=f"expected {digest[:15]}, got blake3:"):
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


# --- packs ------------------------------------------------------------------------------------------------------------

CALLS = ("open", "pwrite", "ftruncate", "fsync", "rename", "mkdir", "close")


def many(*them: Any) -> list[tuple[Digest, tuple[bytes | memoryview, ...]]]:
    return [(one.digest, one.parts) for one in map(pack, them)]


def packs(blobs: LocalBlobs) -> list[Path]:
    return list((blobs.root / "packs").glob("*"))


def values_of(blobs: LocalBlobs, artifacts: list[tuple[Digest, Any]]) -> list[Any]:
    return [unpack(None, parts) for parts in blobs.get_many([digest for digest, _ in artifacts])]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO], ids=["full", "broken"])
def test_an_error_of_the_disk_at_any_system_call_is_one_sentence_and_leaves_a_whole_pack_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    artifacts = many(*range(300))
    failures = 0
    for turn in range(1, 100):
        blobs = LocalBlobs(tmp_path / str(turn))
        kept = blobs.put(b"before")
        left = turn

        def failing(call: Any) -> Any:
            def counted(*given: Any, **more: Any) -> Any:
                nonlocal left
                left -= 1
                if not left:
                    raise OSError(number, os.strerror(number))
                return call(*given, **more)

            return counted

        with monkeypatch.context() as patch:
            for name in CALLS[:-1]:
                patch.setattr(os, name, failing(getattr(os, name)))
            try:
                blobs.put_pack(artifacts)
            except StoreError as error:
                failures += 1
                assert str(blobs.root) in str(error)  # noqa: PT017  (each turn but the last fails)
                assert error.remedy  # noqa: PT017
        assert list((blobs.root / "tmp").iterdir()) == []
        found = [LocalBlobs(blobs.root).has(digest) for digest, _ in artifacts]
        assert found in ([True] * 300, [False] * 300)
        assert blobs.get(kept) == b"before"
        blobs.put_pack(artifacts)
        assert values_of(blobs, artifacts) == list(range(300))
        if left > 0:
            break
    assert 5 < failures < turn  # what is only noted is not missed


def test_a_pack_of_large_and_small_artifacts_is_laid_out_for_maps(blobs: LocalBlobs) -> None:
    large = [np.full(200_000, number) for number in range(3)]
    artifacts = many(1, large[0], "text", large[1], large[2], b"")
    blobs.put_pack(artifacts)
    assert len(packs(blobs)) == 1
    found = values_of(blobs, artifacts)
    assert [found[0], found[2], found[5]] == [1, "text", b""]
    for array, place in zip(large, (1, 3, 4), strict=True):
        np.testing.assert_array_equal(found[place], array)
        assert found[place].ctypes.data % 4096 == 0


def test_thousands_of_arrays_are_mapped_at_once_with_few_open_files(blobs: LocalBlobs) -> None:
    import resource

    artifacts = many(*(np.full(10_000, number) for number in range(300)))
    blobs.put_all(artifacts, durable=False)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/dev/fd")) + 40, before[1]))
    try:
        found = values_of(blobs, artifacts)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert [array[0] for array in found] == list(range(300))
    maps = Path("/proc/self/maps")
    if maps.exists():
        assert maps.read_text().count(str(blobs.root)) == 300
        del found
        assert maps.read_text().count(str(blobs.root)) == 0


def test_every_flipped_bit_of_a_packed_artifact_is_found_and_the_others_are_there(blobs: LocalBlobs) -> None:
    artifacts = many(*({"n": number, "text": "t" * 40} for number in range(20)))
    blobs.put_pack(artifacts)
    (path,) = packs(blobs)
    whole = path.read_bytes()
    victim = artifacts[7][0]
    path.chmod(0o600)
    starts = [(whole.index(bytes(part)), len(bytes(part))) for part in artifacts[7][1]]
    for place in [start + offset for start, size in starts for offset in range(0, size, 7)]:
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        for ask in (blobs.get_parts, blobs.verify, lambda digest: blobs.get_many([digest])):
            with pytest.raises(ArtifactCorrupt, match=f"expected {victim[:15]}, got "):
                ask(victim)
        for digest, _ in artifacts[:7] + artifacts[8:]:
            blobs.verify(digest)
    blobs.put_pack(artifacts)  # keeping it again heals it, whichever of the packs is looked into first
    for moment in (0, 2_000_000_000):
        os.utime(path, (moment, moment))
        assert LocalBlobs(blobs.root).get_parts(victim)
    assert [one["n"] for one in values_of(blobs, artifacts)] == list(range(20))


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def flip_in_the_index(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-40, os.SEEK_END)
        file.write(b"\xff\xff")


def empty(path: Path) -> None:
    os.truncate(path, 0)


def replace_by_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def replace_by_a_link(path: Path) -> None:
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


@pytest.mark.parametrize("damage", [cut, flip_in_the_index, empty, replace_by_a_pipe, replace_by_a_link])
def test_a_pack_that_is_none_is_named_and_the_rest_goes_on(blobs: LocalBlobs, damage: Any) -> None:
    lost, others = many(*range(5)), many(*range(5, 10))
    blobs.put_pack(lost)
    (path,) = packs(blobs)
    blobs.put_pack(others)
    damage(path)
    fresh = LocalBlobs(blobs.root)
    assert values_of(fresh, others) == [5, 6, 7, 8, 9]
    assert not fresh.has(lost[0][0])
    with pytest.raises(
        ArtifactCorrupt, match=f"expected {lost[0][0][:15]}, got nothing but damaged packs.*{path.name[:8]}"
    ):
        fresh.get_parts(lost[0][0])
    if path.is_fifo():
        path.unlink()
    fresh.put_pack(lost)
    assert values_of(fresh, lost) == [0, 1, 2, 3, 4]


def test_what_packs_hold_is_read_once_however_often_their_store_is_opened(
    blobs: LocalBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = many(*range(5))
    blobs.put_pack(some)
    assert values_of(LocalBlobs(blobs.root), some) == [0, 1, 2, 3, 4]
    monkeypatch.setattr(Index, "__init__", lambda *_: pytest.fail("an index was read again"))
    assert values_of(LocalBlobs(blobs.root), some) == [0, 1, 2, 3, 4]


def test_what_another_process_packs_replaces_and_removes_is_seen(blobs: LocalBlobs) -> None:
    first, second = many(*range(5)), many(*range(5, 10))
    other = LocalBlobs(blobs.root)
    assert not blobs.has(first[0][0])
    other.put_pack(first)
    assert values_of(blobs, first) == [0, 1, 2, 3, 4]
    (old,) = packs(blobs)
    old.unlink()
    other.put_pack(first + second)
    assert values_of(blobs, first + second) == list(range(10))
    blobs.get_many([first[0][0]], packs=[Digest(f"blake3:{old.name}")])
    for path in packs(blobs):
        path.unlink()
    assert not blobs.has(first[0][0])


def test_the_packs_of_a_store_that_is_copied_into_another_are_found_there(blobs: LocalBlobs, tmp_path: Path) -> None:
    artifacts = many(*range(5))
    blobs.put_pack(artifacts)
    there = LocalBlobs(tmp_path / "there")
    there.put_pack(many("other"))
    shutil.copytree(blobs.root / "packs", there.root / "packs", dirs_exist_ok=True)
    assert values_of(there, artifacts) == [0, 1, 2, 3, 4]


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


def test_a_directory_of_a_group_becomes_a_store_of_that_group_with_all_that_is_in_it(tmp_path: Path) -> None:
    root = tmp_path / "store"
    root.mkdir()
    root.chmod(0o2770)
    before = os.umask(0o077)
    try:
        blobs = LocalBlobs(root)
        blobs.append("run", "abcd", {})
        blobs.put(b"x")
        blobs.put_pack([(pack(1).digest, pack(1).parts)])
    finally:
        os.umask(before)
    for path in root.rglob("*"):
        assert path.stat().st_mode & 0o7777 == (0o2770 if path.is_dir() else 0o660), path
    root.chmod(0o770)
    with pytest.raises(StoreError, match=r"make it a group's: `chmod 2770"):
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


# --- beside gc --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["put_all", "put_pack", "large"])
def test_what_is_freed_in_the_moment_in_which_it_is_kept_again_is_written_anew(
    blobs: LocalBlobs, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    value = np.arange(2_000_000) if how == "large" else "small" * 50
    (artifact,) = many(value)

    def keep() -> None:
        (blobs.put_pack if how == "put_pack" else blobs.put_all)([artifact])

    left = 1

    def freed(path: str) -> bool:
        nonlocal left
        if left:
            os.unlink(path)
        left -= 1
        return left >= 0 or os.path.exists(path)

    keep()
    with monkeypatch.context() as patch:
        patch.setattr(f"mlbench.backends.blobs_local.{'large' if how == 'large' else 'store'}.touch", freed)
        patch.setattr(large.Large, "_is_whole", lambda *_: True)
        keep()
    np.testing.assert_array_equal(values_of(blobs, [artifact])[0], value)
