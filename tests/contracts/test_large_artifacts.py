"""Artifacts that are kept in chunks: what they cost, what becomes of them, and that none is ever torn."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlbench.backends.blobs_local import LocalBlobs, large, whole
from mlbench.backends.memory import MemoryCatalog
from mlbench.core.errors import ArtifactCorrupt, StoreError
from mlbench.core.ids import Digest, new_id
from mlbench.core.records import Execution
from mlbench.project import Project, care, find_store
from mlbench.project.copying import copy
from mlbench.runs.artifacts import save_names
from mlbench.runs.chunks import LARGE
from mlbench.runs.retention import Rule
from mlbench.runs.values import encode, pack, unpack

OLD = 10 * 86_400 * 10**9


@pytest.fixture
def blobs(tmp_path: Path) -> LocalBlobs:
    return LocalBlobs(tmp_path / "store")


def put(blobs: LocalBlobs, value: Any, **more: Any) -> Digest:
    encoded = encode(value)
    return blobs.put_value(encoded.codec, encoded.parts, **more)


def get(blobs: LocalBlobs, digest: Digest) -> Any:
    return unpack(None, blobs.get_parts(digest))


def size_of(root: Path) -> int:
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file())


def chunk_packs(blobs: LocalBlobs) -> list[Path]:
    return sorted((blobs.root / "chunks").glob("*"))


def numbers(seed: int, count: int = 1_500_000) -> Any:
    return np.random.default_rng(seed).random(count)


def changed(array: Any, start: float = 0.4, share: float = 0.01) -> Any:
    again = array.copy()
    begin = int(len(array) * start)
    again[begin : begin + int(len(array) * share)] += 1
    return again


# --- what they cost ---------------------------------------------------------------------------------------------------


def test_the_digest_does_not_depend_on_how_an_artifact_is_kept(blobs: LocalBlobs) -> None:
    value = {"array": numbers(0), "few": np.arange(50_000), "text": "t"}
    packed = pack(value)
    assert packed.size > LARGE
    assert put(blobs, value) == packed.digest
    assert encode(value).size == packed.size
    assert blobs.has(packed.digest)
    assert blobs.get(packed.digest) == bytes(packed.parts[0])
    assert [bytes(part) for part in blobs.get_parts(packed.digest)] == [bytes(part) for part in packed.parts]
    blobs.verify(packed.digest)


@pytest.mark.parametrize("rows", [300_000, 1_000_000])
def test_a_frame_with_a_hundredth_of_its_rows_changed_adds_three_hundredths_at_most(
    blobs: LocalBlobs, rows: int
) -> None:
    pd = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({f"x{number}": rng.random(rows) for number in range(8)})
    frame["small"] = rng.integers(0, 9, rows).astype("i4")
    frame["when"] = pd.date_range("2026", periods=rows, freq="s")
    frame["name"] = pd.array(rng.integers(100, 999, rows).astype(str), dtype="str")
    first = put(blobs, frame)
    before, again = size_of(blobs.root), frame.copy()
    which = slice(rows // 3, rows // 3 + rows // 100)
    for name in again:
        again.loc[again.index[which], name] = frame[name].iloc[-(rows // 100) :].to_numpy()
    second = put(blobs, again)
    assert size_of(blobs.root) - before <= 0.03 * encode(frame).size
    pd.testing.assert_frame_equal(get(blobs, second), again)
    pd.testing.assert_frame_equal(get(blobs, first), frame)


def test_storing_the_same_again_writes_nothing(blobs: LocalBlobs) -> None:
    put(blobs, numbers(0))
    before = {path: path.stat().st_mtime_ns for path in blobs.root.rglob("*") if path.is_file()}
    put(blobs, numbers(0))
    packed = pack(numbers(0))
    blobs.put_all([(packed.digest, packed.parts)])
    assert {path: path.stat().st_mtime_ns for path in blobs.root.rglob("*") if path.is_file()} == before


def test_equal_chunks_of_one_artifact_are_kept_once(blobs: LocalBlobs) -> None:
    digest = put(blobs, np.ones(4_000_000))
    assert size_of(blobs.root / "chunks") < 1 << 20
    np.testing.assert_array_equal(get(blobs, digest), np.ones(4_000_000))
    blobs.verify(digest)


def test_arrays_that_are_not_contiguous_are_put_together_while_they_are_written(blobs: LocalBlobs) -> None:
    whole = numbers(0, 4_000_000).reshape(1000, 2000, 2)
    for array in (whole[::2, 3:1999], whole.transpose(1, 0, 2), whole[:, ::-1], np.asfortranarray(whole)):
        digest = put(blobs, array)
        assert digest == pack(np.array(array, order="K")).digest or digest == pack(array).digest
        np.testing.assert_array_equal(get(blobs, digest), array)


def test_a_value_read_back_is_private_and_may_be_written_to(blobs: LocalBlobs) -> None:
    array = numbers(0)
    again = changed(array)
    first, second = put(blobs, array), put(blobs, again)
    read = get(blobs, second)
    read[:] = 7
    np.testing.assert_array_equal(get(blobs, second), again)
    np.testing.assert_array_equal(get(blobs, first), array)


@pytest.mark.parametrize("most", [1, 10_000])
def test_a_version_that_is_scattered_over_many_places_is_read_however_many_maps_there_may_be(
    blobs: LocalBlobs, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(large, "_RUNS", most)
    array = numbers(0, 4_000_000)
    put(blobs, array)
    again = array.copy()
    again[:: 1 << 16] += 1  # a number in each second chunk
    digest = put(blobs, again)
    np.testing.assert_array_equal(get(blobs, digest), again)


MEMORY = """
import resource, sys
import numpy as np
from mlbench.backends.blobs_local import LocalBlobs
from mlbench.runs.artifacts import save_names
def peak():
    try:  # the system's count of a process goes on from that of whoever started it
        with open("/proc/self/status") as file:
            return 1024 * int(next(line for line in file if line.startswith("VmHWM")).split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
blobs = LocalBlobs(sys.argv[1])
save_names({"x": np.arange(1_000_000.0)}, ["x"], blobs)
import pandas as pd
array = np.arange(40_000_000.0).reshape(-1, 4)
if sys.argv[2] == "frame":
    array = pd.DataFrame(array, copy=False)
if sys.argv[2] == "slice":
    array = array[:, 1:]
pd.DataFrame({"a": [1.0]}).isna().sum()
before = peak()
(bound,) = save_names({"array": array}, ["array"], blobs)
assert bound.artifact is not None and bound.artifact.size > 200_000_000, bound
print(peak() - before)
"""


@pytest.mark.parametrize("kind", ["array", "slice", "frame"])
def test_storing_a_large_value_takes_no_second_copy_of_it(tmp_path: Path, kind: str) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "store"), kind]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 80 << 20  # of 320 MB


# --- damage -----------------------------------------------------------------------------------------------------------


def flip(path: Path, place: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)
        file.seek(place)
        file.write(bytes([byte[0] ^ 255]))


def test_a_flipped_bit_in_a_chunk_is_found_and_storing_the_value_again_heals_it(blobs: LocalBlobs) -> None:
    digest = put(blobs, numbers(0))
    (path,) = chunk_packs(blobs)
    flip(path, 5_000_000)
    for look in (blobs.get_parts, blobs.verify):
        with pytest.raises(ArtifactCorrupt, match=r"expected blake3:.* its chunk blake3:.* damaged"):
            look(digest)
    blobs.set_aside(digest)
    assert not blobs.has(digest)
    assert put(blobs, numbers(0)) == digest
    blobs.verify(digest)
    assert size_of(blobs.root / "chunks") < 1.1 * encode(numbers(0)).size


@pytest.mark.parametrize("place", range(100))
def test_a_bit_that_flips_in_a_chunk_that_was_read_before_is_found_at_the_next_load(
    blobs: LocalBlobs, place: int
) -> None:
    """A process remembers what it has found whole: of a file that nobody has written to since."""
    digest = put(blobs, numbers(0))
    np.testing.assert_array_equal(get(blobs, digest), numbers(0))
    (path,) = chunk_packs(blobs)
    recipe = blobs._large.recipe(digest)
    assert recipe is not None
    places = [*blobs._large.packs.find(recipe.chunks())[0].values()]
    hit = places[place * len(places) // 100]
    flip(path, hit.offset + place * 7919 % hit.size)
    with pytest.raises(ArtifactCorrupt):
        blobs.get_parts(digest)


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What is hashed when it is read."""
    seen: list[bytes] = []
    hash_all = large._hash

    def watched(chunks: Any) -> None:
        seen.extend(chunk.digest for chunk in chunks)
        hash_all(chunks)

    monkeypatch.setattr(large, "_hash", watched)
    return seen


def test_what_one_process_found_whole_no_other_hashes_again_until_its_file_changes(
    blobs: LocalBlobs, hashed: list[bytes]
) -> None:
    digest = put(blobs, numbers(0))
    blobs.get_parts(digest)
    assert len(hashed) == len(set(hashed)) > 1
    whole._known.clear()  # as in another process
    blobs.get_parts(digest)
    assert len(hashed) == len(set(hashed))
    (path,) = chunk_packs(blobs)
    os.utime(path)
    blobs.get_parts(digest)
    assert len(hashed) == 2 * len(set(hashed))


def test_what_a_disk_changed_by_itself_is_found_by_verify_and_then_by_whoever_loads_it(blobs: LocalBlobs) -> None:
    digest = put(blobs, numbers(0))
    (path,) = chunk_packs(blobs)
    recipe = blobs._large.recipe(digest)
    assert recipe is not None
    flip(path, 5_000_000)
    with path.open("rb") as file:  # as if nobody had written to it since it was found whole
        whole.note([whole.note_of(file.fileno(), (bytes.fromhex(one[7:]) for one in recipe.chunks()))])
    assert not np.array_equal(get(blobs, digest), numbers(0))
    (piece,) = (one for one in blobs.pieces("pack"))
    assert blobs.damaged(piece)
    with pytest.raises(ArtifactCorrupt):
        blobs.get_parts(digest)


@pytest.mark.parametrize("spoil", [lambda path: os.truncate(path, 40), lambda path: path.chmod(0o666), Path.unlink])
def test_notes_that_are_torn_or_open_to_others_are_not_believed(
    blobs: LocalBlobs, hashed: list[bytes], spoil: Callable[[Path], None]
) -> None:
    first, second = put(blobs, numbers(0)), put(blobs, numbers(1))
    for digest in (first, second):
        blobs.get_parts(digest)
    seen = len(hashed)
    spoil(whole.cache_top() / "whole")
    whole._known.clear()
    np.testing.assert_array_equal(get(blobs, second), numbers(1))
    assert len(hashed) > seen
    np.testing.assert_array_equal(get(blobs, second), numbers(1))


@pytest.mark.parametrize("place", range(0, 3000, 101))
def test_a_flipped_bit_in_what_says_of_which_chunks_it_is_made_is_found_when_it_is_read(
    blobs: LocalBlobs, place: int
) -> None:
    digest = put(blobs, numbers(0))
    (path,) = (blobs.root / "large").iterdir()
    flip(path, place % path.stat().st_size)
    with pytest.raises(ArtifactCorrupt):
        blobs.get_parts(digest)
    (piece,) = (one for one in blobs.pieces("object") if one.name == digest)
    assert set(blobs.damaged(piece)) == {digest}
    assert put(blobs, numbers(0)) == digest  # keeping it again heals it
    blobs.verify(digest)


@pytest.mark.parametrize(
    "damage", [Path.unlink, lambda path: os.truncate(path, 100), lambda path: flip(path, path.stat().st_size - 100)]
)
def test_chunks_that_are_gone_are_never_left_out_silently_and_come_again(
    blobs: LocalBlobs, damage: Callable[[Path], None]
) -> None:
    array = numbers(0)
    digest, second = put(blobs, array), put(blobs, changed(array))
    largest = max(chunk_packs(blobs), key=lambda path: path.stat().st_size)
    damage(largest)
    again = LocalBlobs(blobs.root)
    for one in (digest, second):
        with pytest.raises(ArtifactCorrupt, match="all but its chunk"):
            again.get_parts(one)
        assert not again.touch([one])
    put(again, array)
    np.testing.assert_array_equal(get(again, digest), array)
    np.testing.assert_array_equal(get(again, second), changed(array))


# --- care -------------------------------------------------------------------------------------------------------------


def opened(path: Path) -> Project:
    return Project(find_store(store=str(path)), catalog=MemoryCatalog())


def record(project: Project, name: str, value: Any, *, old: bool = False, touched: bool = False) -> str:
    ended = time.time_ns() - (OLD if old else 0)
    run = project.begin_run(kind="papermill", notebook=f"/n/{name}.ipynb", started=ended)
    (bound,) = save_names({name: value}, [name], project.blobs)
    project.put_execution(
        Execution(id=new_id(), run=run.id, step="train", state="succeeded", started=ended, binds=(bound,))  # type: ignore[arg-type]
    )
    project.end_run(run, "succeeded", ended=ended)
    if not touched:
        age(project)
    return run.id


def age(project: Project) -> None:
    moment = time.time() - OLD / 1e9
    for folder in ("objects", "large", "chunks", "packs"):
        for path in (project.blobs.root / folder).rglob("*"):
            if path.is_file():
                os.utime(path, (moment, moment))


def gc(project: Project) -> int:
    return care.free(project, care.plan(project, [Rule(age=3 * 86_400)], alive=lambda _: False))


def bound(project: Project, run: str) -> Any:
    (execution,) = project.catalog.executions(run)  # type: ignore[arg-type]
    (binding,) = execution.binds
    assert binding.artifact is not None
    return get(project.blobs, binding.artifact.digest)


def test_gc_keeps_the_chunks_of_what_is_kept_and_frees_the_others(tmp_path: Path) -> None:
    project = opened(tmp_path / "store")
    array = numbers(0)
    record(project, "old", array, old=True)
    new = record(project, "new", changed(array, share=0.3))
    record(project, "other", numbers(1), old=True)
    before = size_of(project.blobs.root / "chunks")
    freed = gc(project)
    np.testing.assert_array_equal(bound(project, new), changed(array, share=0.3))
    assert freed >= 0.9 * array.nbytes
    assert size_of(project.blobs.root / "chunks") <= before - 0.9 * array.nbytes
    assert care.verify(project).whole
    assert len(list((project.blobs.root / "large").iterdir())) == 1


def test_gc_makes_a_pack_anew_of_which_little_is_needed(tmp_path: Path) -> None:
    project = opened(tmp_path / "store")
    array = numbers(0)
    record(project, "old", array, old=True)
    again = changed(array, start=0, share=0.8)
    new = record(project, "new", again)
    assert len(chunk_packs(project.blobs)) == 2
    freed = gc(project)
    assert freed > 0.7 * array.nbytes
    assert size_of(project.blobs.root) < 1.1 * array.nbytes
    np.testing.assert_array_equal(bound(project, new), again)
    assert care.verify(project).whole


def test_gc_frees_no_chunk_that_a_writer_has_met_again_meanwhile(tmp_path: Path) -> None:
    project = opened(tmp_path / "store")
    array = numbers(0)
    record(project, "old", array, old=True)
    plan = care.plan(project, [Rule(age=3 * 86_400)], alive=lambda _: False)
    new = record(project, "new", changed(array), touched=True)
    care.free(project, plan)
    np.testing.assert_array_equal(bound(project, new), changed(array))


def test_what_was_said_to_be_needed_keeps_its_chunks_though_no_record_says_so(tmp_path: Path) -> None:
    project = opened(tmp_path / "store")
    digest = put(project.blobs, numbers(0))
    age(project)
    plan = care.plan(project, [Rule(age=3 * 86_400)], alive=lambda _: False)
    assert project.blobs.touch([digest])
    care.free(project, plan)
    np.testing.assert_array_equal(get(project.blobs, digest), numbers(0))


def test_writers_that_meet_old_chunks_beside_a_gc_lose_none(tmp_path: Path) -> None:
    project = opened(tmp_path / "store")
    array = numbers(0, 600_000)
    kept: list[tuple[Digest, Any]] = []
    for number in range(4):  # packs that nobody needs any more, and that the writers may meet
        put(project.blobs, changed(array, start=number / 4, share=0.2))
    age(project)

    def write(place: int) -> None:
        blobs = LocalBlobs(project.blobs.root)
        for number in range(place, 12, 3):
            value = changed(array, start=number / 20, share=0.1)
            digest = put(blobs, value, durable=False)
            np.testing.assert_array_equal(get(blobs, digest), value)
            kept.append((digest, value))

    threads = [threading.Thread(target=write, args=(place,)) for place in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        care.free(project, care.plan(project, [], alive=lambda _: False))
    assert len(kept) == 12
    for digest, value in kept:
        np.testing.assert_array_equal(get(project.blobs, digest), value)


def test_verify_names_the_run_that_needs_a_damaged_chunk_and_takes_it_from_another_store(tmp_path: Path) -> None:
    project, other = opened(tmp_path / "store"), opened(tmp_path / "other")
    array = numbers(0)
    run = record(project, "array", array)
    copy(project, other)
    (path,) = chunk_packs(project.blobs)
    flip(path, 5_000_000)
    found = care.verify(project)
    (damage,) = found.damage
    assert [use.run for use in damage.needed_by] == [run]
    assert [use.name for use in damage.needed_by] == ["array"]
    assert care.verify(project, repair_from=other).whole
    assert care.verify(project).whole
    np.testing.assert_array_equal(bound(project, run), array)


@pytest.mark.parametrize("gone", ["large", "chunks", "both"])
@pytest.mark.parametrize("copied", [True, False])
def test_verify_names_an_artifact_without_chunks_once_and_takes_it_from_another_store(
    tmp_path: Path, gone: str, copied: bool
) -> None:
    project, other = opened(tmp_path / "store"), opened(tmp_path / "other")
    array = numbers(0)
    run = record(project, "array", array)
    if copied:
        copy(project, other)
    else:
        put(other.blobs, changed(array, share=0.5))
        put(other.blobs, array)  # its chunks lie in two packs there
    for folder in ("large", "chunks") if gone == "both" else (gone,):
        for path in (project.blobs.root / folder).iterdir():
            path.unlink()
    project = Project(find_store(store=str(tmp_path / "store")), catalog=project.catalog)
    (damage,) = care.verify(project).damage
    assert damage.missing
    assert [use.run for use in damage.needed_by] == [run]
    assert care.verify(project, repair_from=other).whole
    assert care.verify(project).whole
    np.testing.assert_array_equal(bound(project, run), array)


def test_a_store_is_copied_with_its_chunks(tmp_path: Path) -> None:
    project, other = opened(tmp_path / "store"), opened(tmp_path / "other")
    array = numbers(0)
    runs = [record(project, "first", array), record(project, "second", changed(array))]
    copy(project, other)
    assert care.verify(other).whole
    np.testing.assert_array_equal(bound(other, runs[1]), changed(array))
    assert size_of(other.blobs.root / "chunks") == size_of(project.blobs.root / "chunks")
    assert copy(project, other).there > 0


def test_what_a_run_uses_counts_the_chunks_that_it_shares_once(tmp_path: Path) -> None:
    project = opened(tmp_path / "store")
    array = numbers(0)
    record(project, "first", array)
    record(project, "second", changed(array))
    found, _ = care.use(project, "name")
    by_name = {share.group: share for share in found.shares}
    assert by_name["train.first"].shared > 0.9 * array.nbytes
    assert by_name["train.second"].own < 0.05 * array.nbytes
    assert found.unused == 0
    assert found.total < 1.1 * array.nbytes


# --- crashes ----------------------------------------------------------------------------------------------------------

CALLS = ("open", "pwrite", "ftruncate", "fsync", "rename", "mkdir", "close")

KILLED = """
import os, signal, sys
import numpy as np
from mlbench.backends.blobs_local import LocalBlobs
from mlbench.runs.values import encode
array = np.random.default_rng(0).random(3_000_000)
again = array.copy()
again[1_000_000:1_900_000] = 0
again[:300_000] += 1
def die_at(number):
    def count(call):
        def counted(*given, **more):
            nonlocal number
            number -= 1
            if not number:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*given, **more)
        return counted
    for name in sys.argv[2].split(","):
        setattr(os, name, count(getattr(os, name)))
def put(blobs, value):
    encoded = encode(value)
    blobs.put_value(encoded.codec, encoded.parts)
for number in range(1, 200):
    blobs = LocalBlobs(f"{sys.argv[1]}/{number}")
    put(blobs, array)
    if not (child := os.fork()):
        die_at(number)
        put(blobs, again)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print(number, int(os.WIFSIGNALED(status)), flush=True)
    if not os.WIFSIGNALED(status):
        break
"""


def versions() -> tuple[Any, Any]:
    array = numbers(0, 3_000_000)
    again = array.copy()
    again[1_000_000:1_900_000] = 0
    again[:300_000] += 1
    return array, again


def test_a_writer_killed_at_any_system_call_leaves_a_whole_artifact_or_none(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path), ",".join(CALLS)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200, check=True)
    ends = [line.split() for line in done.stdout.splitlines()]
    assert len(ends) > 10
    assert ends[-1][1] == "0"
    first, second = (pack(one).digest for one in versions())
    there = 0
    for number, _ in ends:
        blobs = LocalBlobs(tmp_path / number)
        blobs.verify(first)
        if blobs.has(second):
            there += 1
            blobs.verify(second)
        assert put(blobs, versions()[1]) == second
        blobs.verify(second)
    assert 1 < there < len(ends)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO], ids=["full", "broken"])
def test_an_error_of_the_disk_at_any_system_call_is_one_sentence_and_leaves_a_whole_artifact_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    array, again = versions()
    first, second = pack(array).digest, pack(again).digest
    for turn in range(1, 200):
        blobs = LocalBlobs(tmp_path / str(turn))
        put(blobs, array)
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
                put(blobs, again)
            except StoreError as error:
                assert str(blobs.root) in str(error)  # noqa: PT017  (each turn but the last fails)
        assert list((blobs.root / "tmp").iterdir()) == []
        fresh = LocalBlobs(blobs.root)
        fresh.verify(first)
        if fresh.has(second):
            fresh.verify(second)
        put(blobs, again)
        blobs.verify(second)
        if left > 0:
            break
    assert turn > 10
