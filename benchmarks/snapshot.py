"""What values cost in a store, and a second version of one, beside the disk and what others do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from blake3 import blake3

from benchmarks.measure import LIMIT, Figure, alternate, installed, ratio
from mlbench.backends.blobs_local import LocalBlobs
from mlbench.core.ids import Digest
from mlbench.runs.values import encode, unpack

BENCH = "snapshot"

GIGABYTE: Final = 1 << 30
WRITTEN, AGAIN, READ = 1.2, 0.03, 1.5
"""The goals: storing, beside the larger of a raw write and a hash; bytes of a second version; reading, beside a map."""

MEMORY = """
import json, os, resource, sys
import numpy as np
how, path, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
from mlbench.backends.blobs_local import LocalBlobs
from mlbench.runs.values import encode
def peak():
    try:  # the system's count of a process goes on from that of whoever started it
        with open("/proc/self/status") as file:
            return 1024 * int(next(line for line in file if line.startswith("VmHWM")).split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
def put(value):
    if how == "mlbench":
        encoded = encode(value)
        LocalBlobs(path + "/store").put_value(encoded.codec, encoded.parts)
    elif how == "pickle":
        import pickle
        with open(path + "/pickled", "wb") as file:
            pickle.dump(value, file, protocol=5)
    else:
        import joblib
        joblib.dump(value, path + "/joblib")
put(np.arange(1_000_000.0))
value = np.arange(float(count))
before = peak()
put(value)
print(json.dumps(peak() - before))
"""


def measure(*, quick: bool) -> Iterator[Figure]:
    """Store, read and store again arrays, frames, forests and many small objects."""
    rounds = 1 if quick else 5
    size = GIGABYTE // 16 if quick else GIGABYTE
    with tempfile.TemporaryDirectory(prefix="mlb") as folder:
        place = Path(folder)
        yield from _array(place, size, rounds)
        yield from _memory(place, size)
        if installed("pandas"):
            yield from _frame(place, 100_000 if quick else 3_000_000)
        if installed("sklearn"):
            yield from _forest(place, 20 if quick else 200)
        yield from _small(place, 500 if quick else 20_000)
    for peer in ("mlflow", "metaflow"):
        if not installed(peer):
            yield Figure(BENCH, peer, "all", None, f"not measured: {peer} is not installed")


# --- an array ---------------------------------------------------------------------------------------------------------


def _array(place: Path, size: int, rounds: int) -> Iterator[Figure]:
    array = np.random.default_rng(0).random(size // 8)
    named = f"an array of {size >> 20:,} MiB"
    ways: dict[str, Callable[[], float]] = {
        "stored, synced": partial(_stored, place, array),
        "raw write, synced": partial(_raw, place, array),
        "blake3": partial(_hashed, array),
        "pickle, synced": partial(_pickled, place, array),
    }
    if installed("joblib"):
        ways["joblib, synced"] = partial(_joblib, place, array)
    taken = dict(zip(ways, alternate(rounds, *ways.values()), strict=True))
    for what, seconds in taken.items():
        yield Figure(BENCH, named, what, round(seconds, 4), "s")
    limit = max(taken["raw write, synced"], taken["blake3"])
    yield ratio(BENCH, "stored / the larger of a raw write and blake3", taken["stored, synced"], limit, goal=WRITTEN)

    blobs = LocalBlobs(place / "read")
    digest = _put(blobs, array)
    (chunks,) = (blobs.root / "chunks").iterdir()
    yield Figure(BENCH, named, "read back for the first time, hashed, summed up", round(_read(blobs, digest), 4), "s")
    mapped, ours = alternate(2 * rounds + 1, partial(_mapped, chunks, size), partial(_read, blobs, digest))
    yield Figure(BENCH, named, "read back, summed up", round(ours, 4), "s")
    yield Figure(BENCH, named, "memory map of the same file, summed up", round(mapped, 4), "s")
    yield ratio(BENCH, "read back / a memory map of the file", ours, mapped, goal=READ)
    again = array.copy()
    again[size // 24 : size // 24 + size // 800] += 1
    yield from _version(blobs, again, named, "a stretch of 1 % changed")
    scattered = _chunked(blobs, digest, again)
    yield Figure(BENCH, named, "second version read back, summed up", round(scattered, 4), "s")


def _put(blobs: LocalBlobs, value: Any) -> Digest:
    encoded = encode(value)
    return blobs.put_value(encoded.codec, encoded.parts)


def _stored(place: Path, value: Any) -> float:
    """Return what storing takes in a store that has nothing like it."""
    with tempfile.TemporaryDirectory(dir=place) as folder:
        blobs = LocalBlobs(Path(folder, "store"))
        began = time.perf_counter()
        _put(blobs, value)
        return time.perf_counter() - began


def _raw(place: Path, array: Any) -> float:
    data = memoryview(array).cast("B")
    return _file(place, lambda file: file.write(data))


def _file(place: Path, write: Callable[[Any], object]) -> float:
    """Return what writing a file takes, until it is on the disk."""
    path = place / "raw"
    began = time.perf_counter()
    with path.open("wb", buffering=0) as file:
        write(file)
        os.fsync(file.fileno())
    taken = time.perf_counter() - began
    path.unlink()
    return taken


def _hashed(array: Any) -> float:
    began = time.perf_counter()
    blake3(memoryview(array).cast("B"), max_threads=blake3.AUTO).digest()
    return time.perf_counter() - began


def _pickled(place: Path, value: Any) -> float:
    import pickle

    return _file(place, lambda file: pickle.dump(value, file, protocol=5))


def _joblib(place: Path, value: Any) -> float:
    import joblib

    return _file(place, lambda file: joblib.dump(value, file))


def _mapped(path: Path, size: int) -> float:
    began = time.perf_counter()
    np.memmap(path, dtype="f8", mode="c", offset=1 << 14, shape=(size // 8,)).sum()
    return time.perf_counter() - began


def _read(blobs: LocalBlobs, digest: Digest) -> float:
    began = time.perf_counter()
    unpack(None, LocalBlobs(blobs.root).get_parts(digest)).sum()
    return time.perf_counter() - began


def _chunked(blobs: LocalBlobs, first: Digest, again: Any) -> float:
    digest = _put(blobs, again)
    assert digest != first
    return _read(blobs, digest)


def _version(blobs: LocalBlobs, value: Any, named: str, how: str) -> Iterator[Figure]:
    """Tell what a second version adds to a store that has the first."""
    encoded, before = encode(value), _bytes_in(blobs)
    began = time.perf_counter()
    blobs.put_value(encoded.codec, encoded.parts)
    taken = time.perf_counter() - began
    added = _bytes_in(blobs) - before
    yield Figure(BENCH, named, f"{how}: stored again", round(taken, 4), "s")
    yield Figure(BENCH, named, f"{how}: bytes added", added, "bytes")
    yield ratio(BENCH, f"{named}, {how}: bytes added / its size", added, encoded.size, goal=AGAIN)


def _bytes_in(blobs: LocalBlobs) -> int:
    return sum(path.stat().st_size for path in Path(blobs.root).rglob("*") if path.is_file())


def _memory(place: Path, size: int) -> Iterator[Figure]:
    for how in ("mlbench", "pickle", *(("joblib",) if installed("joblib") else ())):
        with tempfile.TemporaryDirectory(dir=place) as folder:
            command = [sys.executable, "-c", MEMORY, how, folder, str(size // 8)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=True)
        named = f"an array of {size >> 20:,} MiB"
        yield Figure(BENCH, named, f"memory that storing it takes, {how}", json.loads(done.stdout), "bytes")


# --- other kinds ------------------------------------------------------------------------------------------------------


def _frame(place: Path, rows: int) -> Iterator[Figure]:
    import pandas as pd

    rng = np.random.default_rng(0)
    frame = pd.DataFrame({f"x{number}": rng.random(rows) for number in range(8)})
    frame["count"] = rng.integers(0, 1000, rows)
    frame["when"] = pd.date_range("2026", periods=rows, freq="s")
    frame["carrier"] = pd.array(np.array(["AA", "B6", "DL", "UA"])[rng.integers(0, 4, rows)], dtype="str")
    named = f"a frame of {rows:,} rows and {frame.shape[1]} columns"
    yield from _three(place, frame, named)
    blobs = LocalBlobs(place / "frame")
    _put(blobs, frame)
    again = frame.copy()
    which = slice(rows // 3, rows // 3 + rows // 100)
    for name in again:
        again.loc[again.index[which], name] = frame[name].iloc[-(rows // 100) :].to_numpy()
    yield from _version(blobs, again, named, "1 % of its rows changed in all columns")
    appended = pd.concat([frame, frame.iloc[: rows // 100]], ignore_index=True)
    before, size = _bytes_in(blobs), encode(appended).size
    _put(blobs, appended)
    yield Figure(
        BENCH, named, "1 % more rows: bytes added / its size", round((_bytes_in(blobs) - before) / size, 4), "x"
    )


def _forest(place: Path, trees: int) -> Iterator[Figure]:
    from sklearn.ensemble import RandomForestRegressor

    rng = np.random.default_rng(0)
    x = rng.random((5_000, 10))
    forest = RandomForestRegressor(trees, random_state=0, n_jobs=2).fit(x, x[:, 0] + rng.random(5_000))
    yield from _three(place, forest, f"a forest of {trees} trees")


def _three(place: Path, value: Any, named: str) -> Iterator[Figure]:
    """Tell what storing and reading takes, beside pickle and joblib."""
    ways = {"stored, synced": _stored, "pickle, synced": _pickled}
    if installed("joblib"):
        ways["joblib, synced"] = _joblib
    taken = alternate(3, *(partial(way, place, value) for way in ways.values()))
    for what, seconds in zip(ways, taken, strict=True):
        yield Figure(BENCH, named, what, round(seconds, 4), "s")
    blobs = LocalBlobs(place / named.replace(" ", "-"))
    digest = _put(blobs, value)
    began = time.perf_counter()
    unpack(None, blobs.get_parts(digest))
    yield Figure(BENCH, named, "read back", round(time.perf_counter() - began, 4), "s")
    yield Figure(BENCH, named, "bytes in the store", _bytes_in(blobs), "bytes")


def _small(place: Path, count: int) -> Iterator[Figure]:
    from mlbench.runs.values import pack

    blobs = LocalBlobs(place / "small")
    before = _bytes_in(blobs)
    named = f"{count:,} small objects"
    began = time.perf_counter()
    digests: list[Digest] = []
    for start in range(0, count, 5_000):
        packed = [pack({"rmse": number / 7, "number": number}) for number in range(start, min(start + 5_000, count))]
        blobs.put_pack([(one.digest, one.parts) for one in packed])
        digests += [one.digest for one in packed]
    yield Figure(BENCH, named, "stored in packs, synced, each", round((time.perf_counter() - began) / count, 7), "s")
    began = time.perf_counter()
    for parts in blobs.get_many(digests):
        unpack(None, parts)
    yield Figure(BENCH, named, "read back, each", round((time.perf_counter() - began) / count, 7), "s")
    yield Figure(BENCH, named, "bytes in the store, each", round((_bytes_in(blobs) - before) / count, 1), "bytes")
    yield Figure(BENCH, named, "files", sum(path.is_file() for path in (blobs.root / "packs").iterdir()), "files")
