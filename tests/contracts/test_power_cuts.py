"""A store whose power is cut at any moment: all that was said to be kept is there, whole, and nothing torn is shown.

What a disk may leave is told by `tests.powercut`: at each moment what was synced, and of the rest any part.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from mlbench.backends.blobs_local import LocalBlobs, files, store
from mlbench.backends.catalog_sql import SqlCatalog, replace_catalog
from mlbench.backends.memory import MemoryCatalog
from mlbench.core.errors import StoreError
from mlbench.core.ids import Digest, ExecutionId, JobId, RunId, new_id
from mlbench.core.records import Artifact, Binding, Execution, Firing, Job, JobVersion, Run
from mlbench.project import Project, care, find_store
from mlbench.project.indexing import fill_catalog
from mlbench.runs import values
from mlbench.runs.artifacts import Loader, save_lists, save_names
from mlbench.runs.retention import DAY, Rule
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
    records = {record["id"] for record in blobs.records()}
    assert {name for kind, name, *_ in cut.said if kind == "record"} <= records
    project = opened(place)
    if not torn:
        assert not [problem for kind in KINDS for piece in blobs.pieces(kind) for problem in blobs.damaged(piece)]
        fill_catalog(project.catalog, blobs)
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
        except (AssertionError, StoreError):
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


# --- runs, and what is freed of them ----------------------------------------------------------------------------------


def a_run(project: Project, ended: int, items: range, **namespace: Any) -> Run:
    """Record a run whose one step has bound names, and one of them to a list."""
    run = project.begin_run(kind="papermill", notebook="/n/n.ipynb", started=ended - 1)
    binds = save_names(namespace, namespace, project.blobs)
    packed = [pack(f"item {number} " * 9) for number in items]
    project.blobs.put_pack([(one.digest, one.parts) for one in packed])
    parts = [Artifact(digest=one.digest, size=one.size, type="str", codec=one.codec) for one in packed]
    binds += save_lists({"items": [Binding(name="items", artifact=one) for one in parts]}, project.blobs)
    step = Execution(id=ExecutionId(new_id()), run=run.id, step="s", state="succeeded", binds=tuple(binds))
    project.put_execution(step)
    return project.end_run(run, "succeeded", ended=ended)


def project_in(store: Store) -> Project:
    project = opened(store.blobs.root)
    fill_catalog(project.catalog, project.blobs)
    return project


def values_of(project: Project, step: Execution) -> dict[str, Any]:
    loader = Loader(project.blobs)
    return {one.name: loader.load(one) for one in step.binds}


def test_a_run_that_was_recorded_is_there_with_all_its_values_and_one_that_was_not_harms_nothing(
    tmp_path: Path,
) -> None:
    def record(store: Store) -> None:
        store.disk.say(a_run(project_in(store), time.time_ns(), range(3), small="s" * 99, large=LARGE))

    for number, cut in enumerate(cuts_of(tmp_path, record, lambda _: None)):
        runs, cut.said = cut.said, []
        project = check(cut, tmp_path / str(number), torn=True)
        assert fill_catalog(project.catalog, project.blobs) == {}
        assert care.verify(project).damage == []
        care.free(project, care.plan(project, [], alive=lambda _: False))
        for run in runs:
            assert project.catalog.run(run.id).state == "succeeded"
            found = values_of(project, *project.catalog.executions(run.id))
            assert found["items"] == [f"item {number} " * 9 for number in range(3)]
            np.testing.assert_array_equal(found["large"], LARGE)


def test_a_gc_that_is_cut_short_takes_nothing_from_any_run_that_is_still_recorded(tmp_path: Path) -> None:
    now = time.time_ns()

    def fill(store: Store) -> None:
        project = project_in(store)
        a_run(project, now - 10 * DAY, range(9), both="both" * 50, mine="mine" * 50, large=LARGE)
        a_run(project, now, range(2), both="both" * 50, large=NEXT)
        moment = time.time() - 5 * 86_400
        for path in store.blobs.root.rglob("*"):
            os.utime(path, (moment, moment))

    def gc(store: Store) -> None:
        project = project_in(store)
        assert care.free(project, care.plan(project, [Rule(age=3 * 86_400)], alive=lambda _: False)) > 0

    cuts = cuts_of(tmp_path, gc, fill)
    assert len(cuts) > 20
    seen = set()
    for number, cut in enumerate(cuts):
        project = check(cut, tmp_path / str(number))
        runs = project.catalog.runs()
        seen.add(len(runs))
        assert {run.ended for run in runs} >= {now}
        for run in runs:
            for step in project.catalog.executions(run.id):
                assert len(values_of(project, step)["items"]) == (2 if run.ended == now else 9)
        assert {record["run"] for record in project.blobs.records("execution")} <= {run.id for run in runs}
        gc_again = care.plan(project, [Rule(age=3 * 86_400)], alive=lambda _: False)
        care.free(project, gc_again)
        assert [run.ended for run in project.catalog.runs()] == [now]
        assert care.verify(project).damage == []
    assert seen == {1, 2}


# --- a catalog that is made anew --------------------------------------------------------------------------------------


def seen(file: Path) -> tuple[list[str | None], list[int]]:
    """Return the names of the runs in a catalog, and what was due; a damaged one says so."""
    try:
        found = SqlCatalog(f"sqlite:///{file}")
        runs = [run.name for run in found.runs()]
    except StoreError:
        return ["damaged"], []
    fired = [firing.due for firing in found.firings()]
    found.close()
    return runs, fired


@pytest.mark.parametrize("old", ["closed", "with a log", "damaged, with a log"])
def test_a_catalog_whose_making_is_cut_short_is_the_old_or_the_new_one(tmp_path: Path, old: str) -> None:
    root = tmp_path / "disk"
    made = root if old == "closed" else tmp_path / "made"
    made.mkdir()
    catalog = SqlCatalog(f"sqlite:///{made}/catalog.sqlite")
    job = JobId(new_id())
    version = JobVersion(number=1, snapshot=Digest(f"blake3:{'0' * 64}"))
    catalog.put_job(Job(id=job, name="nightly", notebook="/n.ipynb", version=version, next_due=7))
    catalog.add_firing(Firing(job=job, due=5, state="queued"))
    with closing(sqlite3.connect(made / "catalog.sqlite")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    catalog.put_run(Run(id=RunId(new_id()), kind="job", state="succeeded", name="old"))
    if made is not root:
        shutil.copytree(made, root)  # as a process that was killed leaves it
        assert (root / "catalog.sqlite-wal").stat().st_size > 10_000
    catalog.close()
    if "damaged" in old:
        with (root / "catalog.sqlite").open("r+b") as file:
            file.seek(8192)
            file.write(b"?" * (os.fstat(file.fileno()).st_size - 8192))

    def fill(new: SqlCatalog) -> None:
        new.put_job(Job(id=job, name="nightly", notebook="/n.ipynb", version=version, next_due=1))
        new.put_run(Run(id=RunId(new_id()), kind="job", state="succeeded", name="new"))

    disk = Disk(root)
    with disk.recording():
        assert replace_catalog(f"sqlite:///{root}/catalog.sqlite", fill) is ("damaged" not in old)
        disk.say("new")
    disk.close()
    names: set[str | None] = set()
    for number, cut in enumerate(disk.cuts()):
        cut.lay(tmp_path / str(number))
        file = tmp_path / str(number) / "catalog.sqlite"
        runs, fired = seen(file)
        assert runs in ([["new"], ["old"], [], ["damaged"]] if "damaged" in old else [["new"], ["old"]])
        assert runs == ["new"] or not cut.said
        names |= set(runs)
        if runs == ["new"] or "damaged" not in old:
            assert fired == [5] * ("damaged" not in old)
            with closing(sqlite3.connect(file)) as connection:
                assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert "new" in names
