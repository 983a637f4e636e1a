"""A store under a URL when the network, the server, the cache or a neighbour does what it should not."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from mlbench.backends import blobs as opening
from mlbench.backends.blobs_fsspec import FsspecBlobs, cache, notes, remote
from mlbench.backends.blobs_local import LocalBlobs, files
from mlbench.core.errors import ArtifactCorrupt, NotFound, StoreError, UsageError
from mlbench.core.ids import Digest, new_id
from mlbench.core.ports import Piece
from mlbench.runs.values import Packed, pack, unpack
from tests.s3 import Proxy, S3Server

LARGE = 3_000_000
"""Numbers of an array that is sent in several parts: 24 MB."""


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def memory() -> FsspecBlobs:
    return FsspecBlobs(f"memory://{new_id()}/store")


@pytest.fixture
def way(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """The way to the server, which can be cut; few seconds are waited for it."""
    monkeypatch.setattr(remote, "_CONNECT", 2)
    monkeypatch.setattr(remote, "_ANSWER", 2)
    proxy = Proxy(s3)
    for name, value in (s3.variables | {"AWS_ENDPOINT_URL": proxy.url}).items():
        monkeypatch.setenv(name, value)
    yield proxy
    proxy.close()


@pytest.fixture
def bucket(s3: S3Server, way: Proxy) -> Iterator[FsspecBlobs]:
    blobs = FsspecBlobs(f"{s3.bucket()}/store")
    yield blobs
    blobs.rest()


def array(count: int = LARGE) -> Packed:
    return pack(np.random.default_rng(count).random(count))


def keep(blobs: FsspecBlobs, packed: Packed) -> Packed:
    blobs.put_parts(packed.digest, packed.parts)
    return packed


def value(blobs: Any, packed: Packed) -> Any:
    return unpack(None, blobs.get_parts(packed.digest))


def forget(blobs: FsspecBlobs) -> None:
    """Remove what was kept of the store on this machine."""
    for name in ("objects", "packs", "large", "chunks"):
        shutil.rmtree(blobs.folder / name, ignore_errors=True)


def names(url: str) -> list[str]:
    """Return what lies under a URL, seen by somebody else."""
    fs, root = fsspec.core.url_to_fs(url, skip_instance_cache=True, use_listings_cache=False)
    return [path[len(root) + 1 :] for path in fs.find(root)]


# --- the network ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", [0.1, 0.5, 0.95])
def test_a_put_whose_connection_is_cut_is_a_sentence_and_leaves_nothing_torn(
    s3: S3Server, bucket: FsspecBlobs, way: Proxy, part: float
) -> None:
    packed = array()
    way.cut_at = way.up + int(packed.size * part)
    with pytest.raises(StoreError, match=r"s3://.*/store cannot be used: .*http://127\.0\.0\.1"):
        keep(bucket, packed)
    way.cut_at = None
    assert [name for name in names_at(s3, bucket) if name.startswith("objects")] == []
    assert not bucket.has(packed.digest)
    bucket.sweep(time.time_ns() + 10**10)
    assert uploads_at(s3, bucket) == []
    keep(bucket, packed)
    forget(bucket)
    np.testing.assert_array_equal(value(bucket, packed), unpack(None, packed.parts))


def names_at(s3: S3Server, blobs: FsspecBlobs) -> list[str]:
    return [path.split("/", 2)[2] for path in client(s3).find(blobs.url)]


def uploads_at(s3: S3Server, blobs: FsspecBlobs) -> list[Any]:
    found: list[Any] = client(s3).list_multipart_uploads(blobs.url.split("/")[2])
    return found


def client(s3: S3Server) -> Any:
    return fsspec.filesystem("s3", endpoint_url=s3.url, skip_instance_cache=True, use_listings_cache=False)


def test_a_server_that_is_killed_in_the_middle_of_a_put_is_a_sentence_within_seconds(
    monkeypatch: pytest.MonkeyPatch, s3: S3Server, way: Proxy
) -> None:
    server = S3Server()
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    try:
        blobs = FsspecBlobs(f"{server.bucket()}/store")
        packed = array()
        sent = threading.Event()
        threading.Thread(target=lambda: (sent.wait(30), server.kill()), daemon=True).start()
        monkeypatch.setattr(remote, "_blocks", told(remote._blocks, sent))
        began = time.monotonic()
        with pytest.raises(StoreError, match="See that its address is right and the network is up"):
            keep(blobs, packed)
        with pytest.raises(StoreError, match=server.url):
            blobs.has(packed.digest)
        assert time.monotonic() - began < 60
        blobs.rest()
    finally:
        server.kill()


def told(blocks: Any, sent: threading.Event) -> Any:
    def work(*given: Any) -> Iterator[Any]:
        for number, block in enumerate(blocks(*given)):
            if number:
                sent.set()
            yield block

    return work


def test_a_server_that_does_not_answer_is_not_waited_for_for_ever(s3: S3Server, bucket: FsspecBlobs) -> None:
    began = time.monotonic()
    s3.stop()
    try:
        with pytest.raises(StoreError, match="cannot be used"):
            bucket.append("run", "abcd", {"state": "running"})
    finally:
        s3.go_on()
    assert time.monotonic() - began < 60
    bucket.append("run", "abcd", {"state": "succeeded"})
    found = bucket.find_record("run", "abcd")
    assert found is not None
    assert found["state"] == "succeeded"


def test_what_cannot_be_reached_named_or_opened_is_one_sentence(
    s3: S3Server, way: Proxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(StoreError, match=r"it is not there\. Make the bucket"):
        FsspecBlobs("s3://mlb-no-such-bucket/store")
    with pytest.raises(StoreError, match="begins with nothing://, which fsspec does not know"):
        FsspecBlobs("nothing://bucket")
    with pytest.raises(StoreError, match=r"There is no store under s3://"):
        FsspecBlobs(s3.bucket(), make=False)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(StoreError, match=r"access is refused: .*mlbench service stop"):
        FsspecBlobs(f"{s3.bucket()}/store")


def test_a_missing_library_is_one_sentence_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(protocol: str) -> Any:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    with pytest.raises(StoreError, match=r"needs a library .*: s3fs\. Install it there: pip install s3fs"):
        FsspecBlobs("s3://bucket/store")
    with pytest.raises(StoreError, match="pip install gcsfs"):
        FsspecBlobs("gs://bucket/store")


def test_what_is_no_store_is_left_alone(memory: FsspecBlobs) -> None:
    fs = fsspec.filesystem("memory")
    place = f"memory://{new_id()}"
    fs.pipe_file(f"{place}/letters/one.txt", b"dear")
    with pytest.raises(StoreError, match=r"is no store of mlbench, and not empty: it has 'letters'"):
        FsspecBlobs(place)
    fs.pipe_file(f"{memory.url}/format", b'{"format": 2}')
    with pytest.raises(StoreError, match="has format 2, and this version of mlbench knows 1"):
        FsspecBlobs(memory.url)
    fs.pipe_file(f"{memory.url}/format", b"{}")
    with pytest.raises(StoreError, match="its object `format` cannot be read"):
        FsspecBlobs(memory.url)


# --- the cache --------------------------------------------------------------------------------------------------------


def test_what_was_read_or_written_here_is_not_fetched_again(bucket: FsspecBlobs, way: Proxy) -> None:
    packed = keep(bucket, array())
    before = way.down
    value(bucket, packed)
    assert way.down - before < 10_000
    forget(bucket)
    value(bucket, packed)
    once = way.down - before
    assert once > packed.size
    for _ in range(3):
        found = value(bucket, packed)
        found[:] = 0  # its map is its own
    assert way.down - before < once + 10_000
    assert value(bucket, packed).any()
    with Path("/proc/self/maps").open() as maps:
        assert str(bucket.folder / "chunks") in maps.read()


def test_to_keep_something_again_sends_nothing(bucket: FsspecBlobs, way: Proxy) -> None:
    packed = keep(bucket, array())
    before = way.up
    keep(bucket, packed)
    assert way.up - before < 10_000


def test_what_is_damaged_in_the_cache_is_fetched_anew(bucket: FsspecBlobs) -> None:
    small, inside = keep(bucket, array(20_000)), pack("packed" * 9)
    bucket.put_pack([(inside.digest, inside.parts), *((one.digest, one.parts) for one in map(pack, range(50)))])
    expected = value(bucket, small).copy()
    for path in [one for one in bucket.folder.rglob("*") if one.is_file()]:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    np.testing.assert_array_equal(value(bucket, small), expected)
    forget(bucket)
    assert value(bucket, inside) == "packed" * 9


def test_what_is_damaged_there_is_never_returned(memory: FsspecBlobs) -> None:
    seen: list[str] = []
    fs = fsspec.filesystem("memory")
    for packed, folder in ((array(20_000), "objects"), (array(2_000_000), "chunks"), (array(2_000_001), "large")):
        keep(memory, packed)
        forget(memory)
        (path,) = [name for name in names(memory.url) if name.startswith(folder) and name not in seen]
        seen.append(path)
        data = bytearray(fs.cat_file(f"{memory.url}/{path}"))
        data[len(data) // 2] ^= 1
        fs.pipe_file(f"{memory.url}/{path}", bytes(data))
        for ask in (memory.get_parts, memory.verify):
            with pytest.raises(ArtifactCorrupt):
                ask(packed.digest)
        kind: Any = "pack" if folder == "chunks" else "object"
        (piece,) = [one for one in memory.pieces(kind) if one.name.endswith(path.rpartition("/")[2])]
        assert memory.damaged(piece)
        memory.set_aside(packed.digest)
        assert not memory.has(packed.digest)
        assert len(value(memory, keep(memory, packed)))
        forget(memory)
        assert len(value(memory, packed))
        seen += [name for name in names(memory.url) if name.startswith(("chunks", "large"))]


def test_the_cache_keeps_to_its_size_and_gives_up_what_was_longest_unused(
    monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    monkeypatch.setenv("MLBENCH_CACHE_SIZE", "40MB")
    blobs = FsspecBlobs(f"memory://{new_id()}/store")
    them = [array(1_000_000 + place) for place in range(8)]
    for place, packed in enumerate(them):
        keep(blobs, packed)
        for path in [one for one in own_cache.rglob("*") if one.is_file() and time.time() - one.stat().st_mtime < 60]:
            os.utime(path, (time.time() - 1000 + place,) * 2)
    taken = sum(path.stat().st_size for path in own_cache.rglob("*") if path.is_file())
    assert 0 < taken <= 48_500_000
    assert [len(value(blobs, packed)) for packed in them] == [1_000_000 + place for place in range(8)]
    monkeypatch.setenv("MLBENCH_CACHE_SIZE", "much")
    with pytest.raises(UsageError, match="MLBENCH_CACHE_SIZE is 'much'"):
        FsspecBlobs(blobs.url)


@pytest.mark.parametrize("size", ["0", "40MB"])
def test_without_space_on_this_machine_everything_goes_on(
    monkeypatch: pytest.MonkeyPatch, size: str, own_cache: Path
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setenv("MLBENCH_CACHE_SIZE", size)
    monkeypatch.setattr(cache, "write_files", full)
    monkeypatch.setattr(os, "posix_fallocate", full)
    blobs = FsspecBlobs(f"memory://{new_id()}/store")
    packed, large = keep(blobs, array(400_000)), keep(blobs, array(1_500_000))
    np.testing.assert_array_equal(value(blobs, packed), unpack(None, packed.parts))
    forget(blobs)
    np.testing.assert_array_equal(value(blobs, packed), unpack(None, packed.parts))
    assert not [path for path in own_cache.rglob("*") if path.is_file()]
    with pytest.raises(StoreError, match=r"There is no space left in .*/cache/stores/"):  # it cannot be mapped
        value(blobs, large)


def test_a_cache_that_others_may_write_to_is_refused(memory: FsspecBlobs) -> None:
    memory.folder.chmod(0o777)
    with pytest.raises(StoreError, match="Others may write to"):
        FsspecBlobs(memory.url)


# --- a copy -----------------------------------------------------------------------------------------------------------


def test_a_store_that_is_copied_file_by_file_is_one_in_a_directory_and_under_a_url(
    bucket: FsspecBlobs, tmp_path: Path, s3: S3Server
) -> None:
    large, inside = keep(bucket, array()), [pack(place) for place in range(20)]
    bucket.put_pack([(one.digest, one.parts) for one in inside])
    bucket.append("run", "abcd", {"kind": "job", "name": "n", "state": "succeeded"})
    fs = client(s3)
    fs.get(f"{bucket.url}/", f"{tmp_path}/copy/", recursive=True)
    (tmp_path / "copy").chmod(0o700)
    local = LocalBlobs(tmp_path / "copy")
    np.testing.assert_array_equal(value(local, large), value(bucket, large))
    assert [value(local, one) for one in inside] == list(range(20))
    assert [one["id"] for one in local.records()] == ["abcd"]
    again = s3.bucket()
    fs.put(f"{tmp_path}/copy/", f"{again}/", recursive=True)
    back = FsspecBlobs(again, make=False)
    np.testing.assert_array_equal(value(back, large), value(bucket, large))
    assert [value(back, one) for one in inside] == list(range(20))
    assert back.find_record("run", "abcd") is not None
    assert all(back.damaged(piece) == {} for kind in ("object", "pack", "record") for piece in back.pieces(kind))
    back.rest()


def test_a_later_version_sends_and_keeps_what_has_changed_and_another_machine_reads_it(
    bucket: FsspecBlobs, way: Proxy
) -> None:
    first = np.random.default_rng(0).random(LARGE)
    keep(bucket, pack(first))
    later = first.copy()
    later[1_000_000:1_010_000] = 0
    before = way.up
    changed = keep(bucket, pack(later))
    assert way.up - before < 0.03 * changed.size
    assert len(dict(bucket.chunked())) == 2
    shutil.rmtree(bucket.folder)
    other = FsspecBlobs(bucket.url)
    np.testing.assert_array_equal(value(other, changed), later)
    assert other.touch([changed.digest])
    other.verify(changed.digest)
    other.rest()


# --- neighbours -------------------------------------------------------------------------------------------------------


def test_what_is_met_while_it_is_about_to_be_removed_is_left(
    memory: FsspecBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "FRESH", 0.0)
    digest = memory.put(b"needed")
    other = FsspecBlobs(memory.url)
    met: list[bool] = []
    create = remote.Remote.replace
    threads: list[threading.Thread] = []

    def meanwhile(self: remote.Remote, name: str, *given: Any) -> None:
        create(self, name, *given)
        if name.startswith("tmp/freeing-") and not threads:
            noted = threading.Event()
            threads.append(threading.Thread(target=lambda: met.append(other.touch([digest]))))
            threads[0].start()
            while not any(note.startswith("tmp/met-") for note in names(memory.url)):
                noted.wait(0.01)

    monkeypatch.setattr(remote.Remote, "replace", meanwhile)
    (piece,) = memory.pieces("object")
    threading.Event().wait(0.05)
    assert not memory.free(
        piece, before=time.time_ns() + 10**9
    )  # a second more, since times there may be whole seconds
    threads[0].join(30)
    assert met == [True]
    assert memory.has(digest)
    assert [note for note in names(memory.url) if "freeing" in note] == []


def test_who_needs_what_is_about_to_be_removed_waits_and_finds_it_gone(
    memory: FsspecBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "FRESH", 0.0)
    monkeypatch.setattr(notes, "_AWAITED", 1.0)
    digest = memory.put(b"needed")
    fs = fsspec.filesystem("memory")
    fs.pipe_file(f"{memory.url}/tmp/freeing-{digest[7:]}-0", b"")  # whoever wrote it is still at it, or was killed
    assert not memory.touch([digest])
    assert memory.put(b"needed") == digest
    fs.rm_file(f"{memory.url}/tmp/freeing-{digest[7:]}-0")
    assert memory.touch([digest])


def test_a_sweep_leaves_what_is_young_and_keeps_the_time_of_a_note(
    memory: FsspecBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "FRESH", 0.0)
    memory.put(b"needed")
    memory.put(b"needed")
    memory.claim("abcd-1")
    assert memory.sweep(time.time_ns() - 10**10) == 0
    assert len([one for one in names(memory.url) if one.startswith("tmp/")]) == 2
    assert memory.sweep(time.time_ns() + 10**10, dry_run=True) == 1
    memory.sweep(time.time_ns() + 10**10)
    assert [one for one in names(memory.url) if one.startswith("tmp/")] == []
    assert memory.claim("abcd-1")


def test_what_another_process_packs_replaces_and_removes_is_seen(memory: FsspecBlobs) -> None:
    other = FsspecBlobs(memory.url)
    them = [pack(place) for place in range(10)]
    name = memory.put_pack([(one.digest, one.parts) for one in them])
    assert name is not None
    assert [value(other, one) for one in them] == list(range(10))
    new = other.repack(name, [them[0].digest])
    assert other.free(Piece("pack", name, 0, 0))
    shutil.rmtree(memory.folder / "packs")
    assert value(memory, them[0]) == 0
    assert memory.touch([them[0].digest])
    assert memory.packs_of([them[0].digest]) == (new,)
    with pytest.raises(NotFound):
        value(memory, them[1])


def test_of_a_large_pack_no_more_is_fetched_than_is_needed(bucket: FsspecBlobs, way: Proxy) -> None:
    them = [array(20_000 + place) for place in range(80)]
    bucket.put_pack([(one.digest, one.parts) for one in them])
    forget(bucket)
    before = way.down
    assert len(value(bucket, them[40])) == 20_040
    assert way.down - before < 1_000_000


# --- records ----------------------------------------------------------------------------------------------------------


def test_records_since_a_time_are_found_across_months_without_listing_all(
    memory: FsspecBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    day = 86_400 * 10**9
    now = time.time_ns()
    for days in (100, 40, 20, 2, 0):
        monkeypatch.setattr(time, "time_ns", lambda days=days: now - days * day)
        memory.append("run", f"day{days}", {"state": "running"})
    monkeypatch.undo()
    monkeypatch.setenv("MLBENCH_CACHE", str(memory.folder.parent.parent))
    for since, expected in (
        (None, [100, 40, 20, 2, 0]),
        (now - 60 * day, [40, 20, 2, 0]),
        (now - 3 * day, [2, 0]),
        (now - 10**9, [0]),
    ):
        pieces = memory.pieces("record") if since is None else memory.records_since(since)
        found = [memory.read_record(piece)["id"] for piece in pieces if since is None or piece.time >= since]
        assert found == [f"day{days}" for days in expected]
    assert memory.find_record("run", "day2") is not None
    assert memory.find_record("run", "day100") is None


def test_a_record_of_another_writer_is_found_at_once(memory: FsspecBlobs) -> None:
    assert memory.find_record("execution", "abcd") is None
    FsspecBlobs(memory.url).append("execution", "abcd", {"state": "succeeded"})
    found = memory.find_record("execution", "abcd")
    assert found is not None
    assert found["state"] == "succeeded"


# --- processes --------------------------------------------------------------------------------------------------------


def test_a_fork_reads_and_writes_and_a_store_at_rest_has_no_threads(bucket: FsspecBlobs) -> None:
    digest = bucket.put(b"before")
    forget(bucket)
    bucket.rest()
    opening.rest()  # other stores that are open in this process
    assert not [one for one in threading.enumerate() if one.name.startswith("mlbench-store")]
    process = os.fork()
    if process == 0:
        ok = bucket.get(digest) == b"before" and bucket.has(bucket.put(b"in the fork"))
        os._exit(0 if ok else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
    assert bucket.get(Digest(bucket.put(b"in the fork"))) == b"in the fork"


def test_one_place_is_opened_once_and_a_directory_stays_a_directory(tmp_path: Path) -> None:
    url = f"memory://{new_id()}/store"
    assert opening.open_blobs(url) is opening.open_blobs(f"{url}/")
    assert isinstance(opening.open_blobs(tmp_path / "store"), LocalBlobs)
    assert opening.is_there(url)
    assert not opening.is_there(f"{url}1")
    assert opening.problem_of(url, Digest("blake3:" + "0" * 64)) == "another store lies under that path."
    assert opening.problem_of(url, None) is None
    problem = opening.problem_of(f"{url}2", None)
    assert problem is not None
    assert "There is no store" in problem
