"""A store whose power is cut at any moment: all that was said to be kept is there, whole, and nothing torn is shown.

What a disk may leave is told by `tests.powercut`: at each moment what was synced, and of the rest any part.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from mlbench.backends.blobs_local import LocalBlobs, files, store
from mlbench.backends.memory import MemoryCatalog
from mlbench.project import Project, care, find_store
from mlbench.runs import values
from mlbench.runs.values import encode, pack
from tests.powercut import Cut, Disk

KINDS: tuple[Literal["object", "pack", "record"], ...] = ("object", "pack", "record")
SMALL = [pack(f"value {number} " * 20) for number in range(6)]
LARGE = np.random.default_rng(0).integers(0, 256, 200_000, "u1")
NEXT = np.concatenate([LARGE[:100_000], LARGE[:50_000][::-1], LARGE[150_000:]])


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have what counts as large be small, and the reserve too: thousands of stores are laid out."""
    monkeypatch.setattr(store, "LARGE", 1 << 17)
    monkeypatch.setattr(store, "_RESERVE", 1 << 10)


class Store:
    """A store that says what it has kept durably."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.blobs = LocalBlobs(disk.root / "above" / "store")

    def said(self, one: values.Packed) -> None:
        self.disk.say(("parts", one.digest, [bytes(part) for part in one.parts]))

    def put(self, data: bytes, *, durable: bool = True) -> None:
        digest = self.blobs.put(data, durable=durable)
        if durable:
            self.disk.say(("bytes", digest, data))

    def put_all(self, *them: values.Packed, durable: bool = True) -> None:
        self.blobs.put_all([(one.digest, one.parts) for one in them], durable=durable)
        for one in them if durable else ():
            self.said(one)

    def put_pack(self, *them: values.Packed, durable: bool = True) -> None:
        self.blobs.put_pack([(one.digest, one.parts) for one in them], durable=durable)
        for one in them if durable else ():
            self.said(one)

    def put_value(self, value: Any, *, durable: bool = True) -> None:
        encoded = encode(value)
        self.blobs.put_value(encoded.codec, encoded.parts, durable=durable)
        if durable:
            self.said(pack(value))

    def append(self, identifier: str, *, durable: bool = True) -> None:
        self.blobs.append("note", identifier, {"id": identifier, "text": "t" * 300}, durable=durable)
        if durable:
            self.disk.say(("record", identifier))


def cuts_of(tmp_path: Path, do: Callable[[Store], None], before: Callable[[Store], None] | None = None) -> list[Cut]:
    """Return what a cut may leave while something is done to a store; `before` it all is synced, if there is any."""
    root = tmp_path / "disk"
    root.mkdir()
    (root / "above").mkdir()
    if before is not None:
        before(Store(Disk(root)))
    disk = Disk(root)
    with disk.recording():
        do(Store(disk))
    disk.close()
    return disk.cuts()


def opened(folder: Path) -> Project:
    return Project(find_store(store=str(folder)), catalog=MemoryCatalog())


def check(cut: Cut, folder: Path, *, torn: bool = False) -> Project:
    """Open what a cut has left; `torn` says whether something had been written that nobody asked to be durable."""
    cut.lay(folder)
    place = folder / "above" / "store"
    if not (place / "format").is_file():
        assert not cut.said
    blobs = LocalBlobs(place)
    for kind, name, *content in cut.said:
        if kind == "parts":
            assert [bytes(part) for part in blobs.get_parts(name)] == content[0]
        elif kind == "bytes":
            assert blobs.get(name) == content[0]
        if kind != "record":
            blobs.verify(name)
    records = {piece.name: piece for piece in blobs.pieces("record")}
    whole = {name for name, piece in records.items() if not blobs.damaged(piece)}
    identifiers = {blobs.read_record(records[name])["id"] for name in whole}
    assert {name for kind, name, *_ in cut.said if kind == "record"} <= identifiers
    project = opened(place)
    if not torn:
        assert not [problem for kind in KINDS for piece in blobs.pieces(kind) for problem in blobs.damaged(piece)]
        assert care.verify(project).damage == []
    return project


DONE: dict[str, Callable[[Store], None]] = {
    "put": lambda store: store.put(b"some bytes" * 100),
    "put_all": lambda store: store.put_all(*SMALL),
    "put_pack": lambda store: store.put_pack(*SMALL),
    "put_value": lambda store: store.put_value(LARGE),
    "append": lambda store: store.append("abcd"),
}


@pytest.mark.parametrize("new", [True, False], ids=["a new store", "a store that is there"])
@pytest.mark.parametrize("what", DONE)
def test_what_was_kept_is_there_after_a_cut_and_nothing_torn_is_shown(tmp_path: Path, what: str, new: bool) -> None:
    cuts = cuts_of(tmp_path, DONE[what], None if new else lambda _: None)
    assert len(cuts) > 2
    assert any(cut.said for cut in cuts)
    for number, cut in enumerate(cuts):
        check(cut, tmp_path / str(number))


def test_a_store_that_did_not_sync_would_not_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "sync_all", lambda _: None)
    failed = 0
    for number, cut in enumerate(cuts_of(tmp_path, DONE["append"], lambda _: None)):
        try:
            check(cut, tmp_path / str(number))
        except AssertionError:
            failed += 1
    assert failed > 3


def beside(data: bytes) -> bytes:
    """Return bytes that lie in the same folder as some others."""
    folder = values.digest_of(data)[:2]
    return next(one for one in map(b"%d".__mod__, range(10_000)) if values.digest_of(one)[:2] == folder)


LATER: dict[str, tuple[Callable[[Store], None], Callable[[Store], None]]] = {
    "put": (lambda store: store.put(b"x", durable=False), lambda store: store.put(b"x")),
    "put beside it": (lambda store: store.put(b"x", durable=False), lambda store: store.put(beside(b"x"))),
    "put_all": (lambda store: store.put_all(*SMALL[:2], durable=False), lambda store: store.put_all(*SMALL[:2])),
    "put_pack": (lambda store: store.put_pack(*SMALL, durable=False), lambda store: store.put_pack(*SMALL)),
    "put_pack of some": (lambda store: store.put_pack(*SMALL, durable=False), lambda store: store.put_pack(*SMALL[2:])),
    "put_pack of objects": (
        lambda store: store.put_all(*SMALL[:2], durable=False),
        lambda store: store.put_pack(*SMALL[:2]),
    ),
    "put_value": (lambda store: store.put_value(LARGE, durable=False), lambda store: store.put_value(LARGE)),
    "put_value like it": (lambda store: store.put_value(LARGE, durable=False), lambda store: store.put_value(NEXT)),
    "append": (lambda store: store.append("abcd", durable=False), lambda store: store.append("efgh")),
}


@pytest.mark.parametrize("what", LATER)
def test_what_was_first_kept_without_a_sync_is_there_once_that_was_asked_for(tmp_path: Path, what: str) -> None:
    def both(store: Store) -> None:
        for do in LATER[what]:
            do(store)

    for number, cut in enumerate(cuts_of(tmp_path, both, lambda _: None)):
        check(cut, tmp_path / str(number), torn=True)


@pytest.mark.parametrize("what", LATER)
def test_what_is_kept_again_after_a_cut_has_torn_it_is_whole_and_there_after_the_next_one(
    tmp_path: Path, what: str
) -> None:
    first, again = LATER[what]
    torn = cuts_of(tmp_path, first, lambda _: None)
    for number, cut in enumerate(torn):
        folder = tmp_path / str(number)
        cut.lay(folder)
        disk = Disk(folder)
        with disk.recording():
            again(Store(disk))
        for later, second in enumerate(disk.cuts()):
            check(second, tmp_path / f"{number}.{later}", torn=True)
            shutil.rmtree(tmp_path / f"{number}.{later}")
