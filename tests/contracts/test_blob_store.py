"""What every `BlobStore` promises."""

from __future__ import annotations

import math
import threading

import numpy as np
import pytest

from mlbench.core.errors import NotFound
from mlbench.core.ids import Digest, is_digest
from mlbench.core.ports import BlobStore
from mlbench.runs.values import pack, unpack

NOWHERE = Digest("blake3:" + "0" * 64)


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


def test_a_metric_that_is_no_number_comes_back(blobs: BlobStore) -> None:
    values = [0.5, math.nan, math.inf, -math.inf]
    blobs.append("execution", "abcd", {"metrics": [{"name": "loss", "value": value} for value in values]})
    found = blobs.find_record("execution", "abcd")
    assert found is not None
    assert str([metric["value"] for metric in found["metrics"]]) == str(values)


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
