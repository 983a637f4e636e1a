"""What every `BlobStore` promises."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from typing import Any, Final, Literal

import numpy as np
import pytest

from mlbench.backends.blobs_local import files
from mlbench.core.errors import ArtifactCorrupt, NotFound
from mlbench.core.ids import Digest, ExecutionId, RunId, is_digest, new_id
from mlbench.core.ports import BlobStore, Piece
from mlbench.core.records import Execution, Metric
from mlbench.runs.values import digest_of, pack, unpack
from mlbench.runs.wire import compact, msgspec

NOWHERE = Digest("blake3:" + "0" * 64)
KINDS: Final[tuple[Literal["object", "pack", "record"], ...]] = ("object", "pack", "record")


@pytest.mark.parametrize(
    "data", [b"", b"x", b"MLB1" + b"\xff" * 100, b"y" * 200_000], ids=["none", "one", "like ours", "much"]
)
def test_bytes_are_kept_under_the_digest_of_their_content(blobs: BlobStore, data: bytes) -> None:
    digest = blobs.put(data)
    assert is_digest(digest)
    assert blobs.get(digest) == data
    assert blobs.put(memoryview(data), durable=False) == digest
    assert blobs.has(digest)


def test_what_is_not_kept_is_not_found(blobs: BlobStore) -> None:
    assert not blobs.has(NOWHERE)
    for ask in (blobs.get, blobs.get_parts):
        with pytest.raises(NotFound):
            ask(NOWHERE)


@pytest.mark.parametrize("digest", ["", "../../etc/passwd", "blake3:../x", "sha256:" + "0" * 64, "blake3:" + "A" * 64])
def test_what_is_no_digest_is_not_found_and_never_a_path(blobs: BlobStore, digest: str) -> None:
    assert not blobs.has(Digest(digest))
    with pytest.raises(NotFound):
        blobs.get(Digest(digest))
    with pytest.raises(ValueError, match="not a digest"):
        blobs.put_parts(Digest(digest), [b"x"])


@pytest.mark.parametrize("count", [0, 3, 20_000, 2_000_000])
def test_an_artifacts_parts_come_back_writable_without_any_effect_on_the_store(blobs: BlobStore, count: int) -> None:
    array = np.arange(count, dtype="<i4")
    packed = pack({"array": array, "text": "t"})
    for _ in range(2):
        blobs.put_parts(packed.digest, packed.parts)
        parts = blobs.get_parts(packed.digest)
        assert [part.nbytes for part in parts] == [memoryview(part).nbytes for part in packed.parts]
        assert not any(part.readonly for part in parts)
        found = unpack(packed.codec, parts)
        np.testing.assert_array_equal(found["array"], array)
        found["array"][:] = 7


def test_the_bytes_of_an_artifacts_digest_are_its_manifest(blobs: BlobStore) -> None:
    packed = pack(np.arange(3))
    blobs.put_parts(packed.digest, packed.parts)
    assert blobs.get(packed.digest) == bytes(packed.parts[0])


class Counting:
    """A stream of numbers that says how much of it was asked for at once."""

    def __init__(self, count: int) -> None:
        self.nbytes = 8 * count
        self.most = 0

    def read(self, offset: int, size: int, /) -> memoryview:
        self.most = max(self.most, size)
        return memoryview(np.arange(offset // 8, (offset + size) // 8).view("u1").data)


@pytest.mark.parametrize("count", [3, 20_000, 2_000_000])
def test_what_has_no_manifest_yet_is_kept_as_what_has_one(blobs: BlobStore, count: int) -> None:
    packed = pack(np.arange(count))
    for part in (packed.parts[2], Counting(count)):
        assert blobs.put_value("ndarray", [packed.parts[1], part]) == packed.digest
        assert [bytes(part) for part in blobs.get_parts(packed.digest)] == [bytes(part) for part in packed.parts]
    assert blobs.has(packed.digest)
    assert blobs.get(packed.digest) == bytes(packed.parts[0])
    assert blobs.touch([packed.digest])


def test_what_an_artifact_is_made_of_is_said_and_is_there(blobs: BlobStore) -> None:
    small, large = pack(np.arange(1000)), pack(np.arange(2_000_000))
    blobs.put_all([(one.digest, one.parts) for one in (small, large)])
    chunked = dict(blobs.chunked())
    assert small.digest not in chunked
    assert set(chunked) <= {large.digest}
    inside = {digest for piece in blobs.pieces("pack") for digest in blobs.contents(Digest(piece.name))}
    for chunk in chunked.get(large.digest, ()):
        assert chunk in inside
        assert Digest(f"blake3:{digest_of(blobs.get(chunk))}") == chunk


# --- packs ------------------------------------------------------------------------------------------------------------


def packed_together(*them: Any) -> list[tuple[Digest, Sequence[bytes | memoryview]]]:
    return [(one.digest, one.parts) for one in map(pack, them)]


def values_of(blobs: BlobStore, digests: Sequence[Digest], **more: Any) -> list[Any]:
    return [unpack(None, parts) for parts in blobs.get_many(digests, **more)]


def test_what_is_packed_together_is_found_like_any_other(blobs: BlobStore) -> None:
    them = [0.5, "text", b"", {"a": [1, 2]}, np.arange(20_000), None]
    artifacts = packed_together(*them)
    name = blobs.put_pack(artifacts)
    assert name is not None
    assert is_digest(name)
    for (digest, parts), value in zip(artifacts, them, strict=True):
        assert blobs.has(digest)
        assert blobs.get(digest) == bytes(parts[0])
        np.testing.assert_array_equal(unpack(None, blobs.get_parts(digest)), value)
    assert blobs.packs_of([digest for digest, _ in artifacts]) == (name,)


def test_many_artifacts_come_in_the_order_asked_for_whichever_way_they_were_kept(blobs: BlobStore) -> None:
    first, second = packed_together(*range(100)), packed_together(*range(90, 200))
    alone = packed_together("alone", np.zeros(300_000))
    packs = [blobs.put_pack(first), blobs.put_pack(second, durable=False)]
    blobs.put_all(alone)
    order = [artifacts[place][0] for place in range(100) for artifacts in (second, first)]
    expected = [base + place for place in range(100) for base in (90, 0)]
    for hint in ([], packs, packs[:1], [NOWHERE], ["../x"]):
        assert values_of(blobs, order, packs=hint) == expected
        found = values_of(blobs, [alone[1][0], first[3][0], alone[0][0]], packs=hint)
        assert (found[0].sum(), *found[1:]) == (0, 3, "alone")
    assert blobs.get_many([]) == []
    with pytest.raises(NotFound, match=NOWHERE):
        blobs.get_many([first[0][0], NOWHERE])


@pytest.mark.parametrize("count", [10, 50_000])
def test_an_artifact_that_is_asked_for_twice_at_once_is_given_twice(blobs: BlobStore, count: int) -> None:
    for number, keep in enumerate((blobs.put_pack, blobs.put_all)):
        artifacts = packed_together(np.full(count, number), "another")
        keep(artifacts)
        digest = artifacts[0][0]
        one, other, text, third = values_of(blobs, [digest, digest, artifacts[1][0], digest])
        one[:] = 7
        third[:] = 8
        assert other.tolist() == [number] * count
        assert text == "another"
        assert unpack(None, blobs.get_parts(digest)).tolist() == [number] * count


def test_what_is_kept_already_is_not_packed_again(blobs: BlobStore) -> None:
    artifacts = packed_together(*range(10))
    blobs.put_parts(*artifacts[0])
    name = blobs.put_pack(artifacts[:5])
    assert blobs.packs_of([digest for digest, _ in artifacts]) == (name,)
    assert blobs.packs_of([artifacts[0][0], NOWHERE]) == ()
    assert blobs.put_pack(artifacts[:5]) is None
    assert blobs.put_pack([]) is None
    again = blobs.put_pack([*artifacts, *artifacts])
    assert again not in {None, name}
    assert values_of(blobs, [digest for digest, _ in artifacts]) == list(range(10))


@pytest.mark.parametrize("digest", ["", "../../etc/passwd", "blake3:" + "A" * 64])
def test_nothing_is_packed_under_what_is_no_digest(blobs: BlobStore, digest: str) -> None:
    with pytest.raises(ValueError, match="not a digest"):
        blobs.put_pack([(Digest(digest), [b"x"])])
    with pytest.raises(NotFound):
        blobs.get_many([Digest(digest)])


def test_threads_that_pack_and_read_at_once_do_not_disturb_each_other(blobs: BlobStore) -> None:
    found: list[list[int]] = []

    def work(number: int) -> None:
        for turn in range(5):
            artifacts = packed_together(*range(number * 10 + turn, number * 10 + turn + 30))
            blobs.put_pack(artifacts, durable=False)
            found.append(values_of(blobs, [digest for digest, _ in artifacts]))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(them[0] for them in found) == [number * 10 + turn for number in range(6) for turn in range(5)]
    assert all(them == list(range(them[0], them[0] + 30)) for them in found)


# --- names that are taken ---------------------------------------------------------------------------------------------


def test_of_several_who_take_a_name_one_has_it(blobs: BlobStore) -> None:
    had: list[bool] = []
    threads = [threading.Thread(target=lambda: had.append(blobs.claim("abcd-1"))) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(had) == [False] * 4 + [True]
    blobs.let_go("abcd-1")
    blobs.let_go("abcd-1")
    assert blobs.claim("abcd-1")
    assert blobs.claim("abcd-2")


# --- records ----------------------------------------------------------------------------------------------------------


def test_the_latest_record_of_an_id_is_found_and_all_come_in_order(blobs: BlobStore) -> None:
    blobs.append("run", "abcd", {"state": "running", "kind": "job"}, durable=False)
    blobs.append("job-version", "abcd-1", {"number": 1})
    blobs.append("run", "abcd", {"state": "succeeded", "kind": "job"})
    blobs.append("snapshot", "blake3:00", {"cells": []})
    found = blobs.find_record("run", "abcd")
    assert found is not None
    assert (found["state"], found["kind"], found["record"], found["id"], found["schema"]) == (
        "succeeded",
        "job",
        "run",
        "abcd",
        1,
    )
    assert [record["state"] for record in blobs.records("run")] == ["running", "succeeded"]
    assert [record["id"] for record in blobs.records()] == ["abcd", "abcd-1", "abcd", "blake3:00"]
    times = [record["time"] for record in blobs.records()]
    assert times == sorted(times)
    assert blobs.find_record("run", "abce") is None
    assert blobs.find_record("version", "1") is None
    assert blobs.find_record("job-version", "abcd-1") is not None


def test_a_record_that_is_json_already_comes_back_like_another(blobs: BlobStore) -> None:
    blobs.append("executions", "abcd-1", b'{"executions":[{"id":"x","state":"succeeded"}]}')
    found = blobs.find_record("executions", "abcd-1")
    assert found is not None
    assert (found["record"], found["id"], found["schema"]) == ("executions", "abcd-1", 1)
    assert found["executions"] == [{"id": "x", "state": "succeeded"}]
    assert list(blobs.records("executions")) == [found]


def test_the_records_of_the_parts_of_some_are_found_by_their_names(
    blobs: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, day = time.time_ns(), 86_400 * 10**9
    for days, kind, identifier in (
        (70, "executions", "abcd-0"),
        (2, "executions", "abcd-1"),
        (1, "executions", "abce-1"),
        (0, "execution", "abcd"),
        (0, "execution", "abcd-3"),
        (0, "executions", "abcd"),
        (0, "executions", "abc-2"),
        (0, "executions", "abcd-lost-2"),
        (0, "executions", "abcf-2"),
    ):
        monkeypatch.setattr(time, "time_ns", lambda days=days: now - days * day)
        blobs.append(kind, identifier, {"executions": []})
    monkeypatch.undo()
    since = now - 3 * day
    found = list(blobs.records_of("executions", {"abcd", "abcf", "none"}, since))
    assert [blobs.read_record(piece)["id"] for piece in found] == ["abcd-1", "abcd-lost-2", "abcf-2"]
    assert found == [piece for piece in blobs.pieces("record") if piece in found]
    assert list(blobs.records_of("executions", (), since)) == []
    assert next(blobs.read_record(one)["id"] for one in blobs.records_of("executions", ["abcd"], 0)) == "abcd-0"


def test_a_metric_that_is_no_number_comes_back(blobs: BlobStore) -> None:
    values = [0.5, math.nan, math.inf, -math.inf]
    blobs.append("execution", "abcd", {"metrics": [{"name": "loss", "value": value} for value in values]})
    found = blobs.find_record("execution", "abcd")
    assert found is not None
    assert str([metric["value"] for metric in found["metrics"]]) == str(values)


def test_the_records_of_a_chunks_items_come_back(blobs: BlobStore) -> None:
    items = [
        Execution(
            id=ExecutionId(new_id()),
            run=RunId(new_id()),
            step="train",
            state="succeeded",
            item=number,
            metrics=(Metric(name="rmse", value=value),),
        )
        for number, value in enumerate((0.5, math.nan, -math.inf))
    ]
    blobs.append("executions", items[0].id, {"executions": [*map(compact, items[:2]), items[2]]})
    (found,) = blobs.records("executions")
    assert str([msgspec.convert(one, Execution) for one in found["executions"]]) == str(items)


def test_threads_that_keep_the_same_and_other_bytes_do_not_disturb_each_other(blobs: BlobStore) -> None:
    packed = pack(np.arange(100_000))
    digests: list[Digest] = []

    def write(number: int) -> None:
        for turn in range(10):
            blobs.put_parts(packed.digest, packed.parts, durable=False)
            digests.append(blobs.put(b"%d" % ((number + turn) % 7), durable=False))
            unpack(packed.codec, blobs.get_parts(packed.digest))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(digests) == 60
    assert len(set(digests)) == 7


# --- files ------------------------------------------------------------------------------------------------------------


def all_pieces(blobs: BlobStore) -> list[Piece]:
    return [piece for kind in KINDS for piece in blobs.pieces(kind)]


def some_of_each(blobs: BlobStore) -> tuple[Digest, Digest, Digest]:
    """Keep bytes, an artifact of its own, and one in a pack beside another, and write a record."""
    plain = blobs.put(b"plain")
    (alone,) = packed_together(np.arange(20_000))
    blobs.put_parts(*alone)
    inside = packed_together("packed" * 9, "beside" * 9)
    blobs.put_pack(inside)
    blobs.append("run", "abcd", {"kind": "job", "name": "n", "state": "running"})
    return plain, alone[0], inside[0][0]


def test_all_files_are_listed_with_their_sizes_and_times(blobs: BlobStore) -> None:
    before = time.time_ns() - 10**9  # an object store's clock has whole seconds
    plain, alone, inside = some_of_each(blobs)
    pieces = all_pieces(blobs)
    assert {piece.name for piece in pieces if piece.kind == "object"} == {plain, alone}
    assert [piece.kind for piece in pieces if piece.kind != "object"] == ["pack", "record"]
    assert all(before <= piece.time <= time.time_ns() for piece in pieces)
    assert next(piece.size for piece in pieces if piece.name == plain) == 5
    assert all(piece.size == len(blobs.read_piece(piece)) for piece in pieces)
    (pack_piece,) = blobs.pieces("pack")
    contents = blobs.contents(Digest(pack_piece.name))
    assert inside in contents
    assert len(contents) == 2
    assert sum(contents.values()) <= pack_piece.size
    (record,) = blobs.pieces("record")
    assert blobs.read_record(record)["state"] == "running"
    assert [blobs.damaged(piece) for piece in pieces] == [{}] * 4


def test_files_of_one_store_are_kept_in_another_as_they_are(blobs: BlobStore) -> None:
    plain, alone, inside = some_of_each(blobs)
    pieces = [(piece, bytes(blobs.read_piece(piece))) for piece in all_pieces(blobs)]
    for piece, _ in pieces:
        assert blobs.free(piece)
        assert not blobs.free(piece)
        with pytest.raises(NotFound):
            blobs.read_piece(piece)
    assert not any(map(blobs.has, (plain, alone, inside)))
    assert list(blobs.records()) == []
    blobs.write_pieces(pieces)
    assert blobs.get(plain) == b"plain"
    assert values_of(blobs, [alone, inside])[1] == "packed" * 9
    assert [record["id"] for record in blobs.records("run")] == ["abcd"]
    with pytest.raises(ArtifactCorrupt):
        blobs.write_pieces([(Piece("object", NOWHERE, 5, 0), b"other")])
    assert not blobs.has(NOWHERE)


def tick() -> None:
    """Wait until a disk's clock, which is coarse, has gone on."""
    threading.Event().wait(0.02)


def test_what_is_met_again_is_not_freed_and_what_is_old_is(blobs: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "FRESH", 0.0)
    plain, alone, inside = some_of_each(blobs)
    artifact = packed_together("packed" * 9)
    for meet in (
        lambda: blobs.touch([plain, alone, inside]),
        lambda: (blobs.put(b"plain"), blobs.put_all(packed_together(np.arange(20_000))), blobs.put_pack(artifact)),
    ):
        tick()
        moment = time.time_ns()
        tick()
        meet()
        assert [blobs.free(piece, before=moment) for kind in KINDS[:2] for piece in blobs.pieces(kind)] == [False] * 3
    assert blobs.has(inside)
    assert not blobs.touch([plain, NOWHERE])
    later = time.time_ns() + 10**9
    assert all(blobs.free(piece, before=later) for kind in KINDS[:2] for piece in blobs.pieces(kind))
    assert not blobs.touch([plain])
    assert not blobs.touch([inside])


def test_some_of_a_pack_are_kept_in_a_pack_of_their_own(blobs: BlobStore) -> None:
    artifacts = packed_together(*range(10))
    name = blobs.put_pack(artifacts)
    assert name is not None
    wanted = [digest for digest, _ in artifacts[3:5]]
    new = blobs.repack(name, [*wanted, NOWHERE])
    assert new is not None
    assert set(blobs.contents(new)) == set(wanted)
    assert len(blobs.contents(name)) == 10
    assert blobs.free(Piece("pack", name, 0, 0))
    assert values_of(blobs, wanted) == [3, 4]
    assert not blobs.has(artifacts[0][0])
    assert blobs.repack(new, []) is None
    with pytest.raises(NotFound):
        blobs.contents(name)


@pytest.mark.parametrize("name", ["../x", "2026/11/../../../x", "blake3:../x", ""])
def test_what_is_no_files_name_is_never_a_path(blobs: BlobStore, name: str) -> None:
    for kind in KINDS:
        with pytest.raises((NotFound, ValueError, ArtifactCorrupt)):
            blobs.read_piece(Piece(kind, name, 0, 0))
