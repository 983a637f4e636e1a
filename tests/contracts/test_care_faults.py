"""What takes care of a store under faults: killed at any system call, beside writers, on a broken disk."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mlbench.core.errors import StoreError
from mlbench.core.ids import RunId
from mlbench.project import Project, care, find_store
from mlbench.project.copying import copy
from mlbench.project.indexing import reindex
from mlbench.runs.retention import GRACE, Rule

CALLS = ("open", "pwrite", "ftruncate", "fsync", "rename", "unlink", "link", "mkdir", "utime", "close")

STORE = """
import os, sys, time
from mlbench.core.ids import new_id
from mlbench.core.records import Execution
from mlbench.project import Project, care, find_store
from mlbench.runs.artifacts import save_names
from mlbench.runs.retention import DAY, Rule
from mlbench.runs.values import pack

OLD = time.time_ns() - 10 * DAY

def open_project(path):
    return Project(find_store(store=path))

def make(path):
    "A store with a run to be dropped, one to be kept, what nobody needs, and a pack of which little is needed."
    project = open_project(path)
    together = [pack(f"{number:03}" * 100) for number in range(20)]
    project.blobs.put_pack([(one.digest, one.parts) for one in together])
    project.blobs.put(b"nobody needs this")
    for name, ended, some in (("old", OLD, together), ("new", time.time_ns(), together[:3])):
        run = project.begin_run(kind="papermill", notebook=f"/n/{name}.ipynb", started=ended - 1)
        binds = save_names({name: name * 100, "both": "both" * 100}, [name, "both"], project.blobs)
        binds += [save_names({f"x{at}": f"{at:03}" * 100}, [f"x{at}"], Forgetful())[0] for at in range(len(some))]
        project.put_execution(
            Execution(id=new_id(), run=run.id, step="train", state="succeeded", started=ended, binds=tuple(binds))
        )
        project.end_run(run, "succeeded", ended=ended)
    project.close()
    moment = time.time() - 5 * 86_400
    for folder in ("objects", "packs"):
        for top, _, names in os.walk(os.path.join(path, folder)):
            for name in names:
                os.utime(os.path.join(top, name), (moment, moment))

class Forgetful:
    def put_all(self, *given, **more):
        "Keep nothing: it lies in the pack."

def gc(project):
    return care.free(project, care.plan(project, [Rule(age=3 * 86_400)], alive=lambda owner: False))
"""

KILLED = """
import shutil, signal
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
make(f"{sys.argv[1]}/made")
import mlbench.backends.catalog_sql.replacing, mlbench.project.indexing, mlbench.runs.wire
for number in range(1, 400):
    path = f"{sys.argv[1]}/{number}"
    shutil.copytree(f"{sys.argv[1]}/made", path)
    if not (child := os.fork()):
        project = open_project(path)
        DO
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print(number, int(os.WIFSIGNALED(status)), flush=True)
    if not os.WIFSIGNALED(status):
        break
"""


def python(source: str, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", source, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def killed_at_each_call(tmp_path: Path, do: str) -> list[Path]:
    """Do something to a store once for each system call in it, killed there; return the stores, the last one's not."""
    with python(STORE + KILLED.replace("DO", do), str(tmp_path), ",".join(CALLS)) as child:
        out, err = child.communicate(timeout=280)
    assert child.returncode == 0, err
    ends = [line.split() for line in out.splitlines()]
    assert ends[-1][1] == "0"
    return [tmp_path / number for number, _ in ends]


def opened(path: Path) -> Project:
    return Project(find_store(store=str(path)))


def gc(project: Project) -> int:
    return care.free(project, care.plan(project, [Rule(age=3 * 86_400)], alive=lambda _: False))


@pytest.mark.slow
def test_a_gc_that_is_killed_at_any_system_call_leaves_a_whole_store_and_the_next_one_goes_on(tmp_path: Path) -> None:
    stores = killed_at_each_call(tmp_path, "project.catalog; die_at(number); gc(project)")
    assert len(stores) > 15
    for path in stores:
        project = opened(path)
        names = {run.name for run in project.catalog.runs()}
        assert names in ({"old", "new"}, {"new"})
        damage = care.verify(project).damage
        needed = {use.run for one in damage for use in one.needed_by}
        kept = next(run.id for run in project.catalog.runs() if run.name == "new")
        assert kept not in needed, damage
        gc(project)
        assert care.verify(project).damage == []
        assert [run.name for run in project.catalog.runs()] == ["new"]
        assert {path.name for path in (path / "tmp").iterdir() if path.name.startswith("freed-")} == set()
        project.close()
    sizes = {sum(one.stat().st_size for one in path.glob("packs/*")) for path in stores}
    assert len(sizes) <= 2, "a pack that was made anew may lie there twice for a day, no more"


@pytest.mark.slow
def test_a_catalog_whose_making_is_killed_at_any_system_call_is_the_old_or_the_new_one(tmp_path: Path) -> None:
    do = "project.catalog; die_at(number); from mlbench.project.indexing import reindex; reindex(project)"
    stores = killed_at_each_call(tmp_path, do)
    assert len(stores) > 5
    for path in stores:
        project = opened(path)
        assert {run.name for run in project.catalog.runs()} == {"old", "new"}
        assert all(project.catalog.executions(run.id) for run in project.catalog.runs())
        project.close()
        assert reindex(project) == ({}, True)
        assert len(project.catalog.runs()) == 2
        project.close()
        assert not list(path.glob("catalog.sqlite.new*"))


@pytest.mark.slow
def test_a_copy_that_is_killed_at_any_system_call_is_whole_as_far_as_it_goes_and_the_next_one_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlbench.project.care.agreement.PAUSE", 0.0)
    do = (
        "import mlbench.project.copying; target = open_project(f'{path}/to'); target.catalog; die_at(number); "
        "mlbench.project.copying.copy(project, target)"
    )
    stores = killed_at_each_call(tmp_path, do)
    assert len(stores) > 30
    for path in stores:
        source, target = opened(path), opened(path / "to")
        # The catalog comes before a record, so that what is left of a copy is indexed by the next one.
        left = care.verify(target).damage
        assert {(one.kind, one.missing) for one in left} <= {("record", True)}, left
        copy(source, target)
        assert care.verify(target).damage == []
        assert copy(source, target).bytes == 0
        for kind in ("object", "pack", "record"):
            there = {piece.name for piece in target.blobs.pieces(kind)}  # type: ignore[arg-type]
            assert there == {piece.name for piece in source.blobs.pieces(kind)}  # type: ignore[arg-type]
        assert target.catalog.runs() == source.catalog.runs()
        source.close()
        target.close()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO], ids=["full", "broken"])
def test_an_error_of_the_disk_at_any_system_call_of_a_gc_is_one_sentence_and_costs_nothing_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    with python(STORE + "make(sys.argv[1])", str(tmp_path / "made")) as child:
        _, err = child.communicate(timeout=60)
    assert child.returncode == 0, err
    for turn in range(1, 200):
        path = tmp_path / str(turn)
        shutil.copytree(tmp_path / "made", path)
        project = opened(path)
        kept = RunId(next(run.id for run in project.catalog.runs() if run.name == "new"))
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
            for name in ("pwrite", "ftruncate", "fsync", "rename", "unlink"):
                patch.setattr(os, name, failing(getattr(os, name)))
            try:
                gc(project)
            except StoreError as error:
                assert str(path) in str(error)  # noqa: PT017  (each turn but the last fails)
                assert error.remedy  # noqa: PT017
        needed = {use.run for one in care.verify(project).damage for use in one.needed_by}
        assert kept not in needed
        gc(project)
        assert care.verify(project).damage == []
        project.close()
        if left > 0:
            break
    assert turn > 5


# --- beside writers ---------------------------------------------------------------------------------------------------

WRITER = """
import random
from mlbench.backends.blobs_local import files
files.FRESH = 0.0
number, until = int(sys.argv[2]), time.monotonic() + float(sys.argv[3])
project = open_project(sys.argv[1])
chance = random.Random(number)
while time.monotonic() < until:
    run = project.begin_run(kind="papermill", notebook=f"/n/{number}.ipynb", owner="nobody")
    # What others write too, and what was thrown away long ago by the time that its file shows.
    shared = {f"s{one}": f"shared {one}" * 50 for one in chance.sample(range(30), 5)}
    binds = save_names(shared, shared, project.blobs, durable=False)
    packed = [pack(f"packed {one}" * 50) for one in chance.sample(range(30), 5)]
    project.blobs.put_pack([(one.digest, one.parts) for one in packed], durable=False)
    binds += [
        save_names({f"p{at}": "x"}, [f"p{at}"], Forgetful())[0].__class__(
            name=f"p{at}",
            artifact=binds[0].artifact.__class__(digest=one.digest, size=one.size, type="str", codec="scalar"),
        )
        for at, one in enumerate(packed)
    ]
    project.put_execution(Execution(id=new_id(), run=run.id, step="s", state="succeeded", binds=tuple(binds)))
    if chance.random() < 0.5:
        project.end_run(run, "succeeded", ended=OLD)  # to be dropped at once
    else:
        project.end_run(run, "succeeded")
print("done")
"""

MARGIN = 4 * 10**9
"""Nanoseconds that stand for the day within which a writer says what it has stored."""


@pytest.mark.slow
def test_a_gc_beside_four_writers_frees_nothing_that_they_need(tmp_path: Path) -> None:
    store = tmp_path / "store"
    project = opened(store)
    project.catalog.runs()
    writers = [python(STORE + WRITER, str(store), str(number), "12") for number in range(4)]
    freed = rounds = 0
    while any(one.poll() is None for one in writers):
        soon = time.time_ns() + GRACE - MARGIN
        decided = care.plan(project, [Rule(age=3 * 86_400)], alive=lambda _: False, now=soon)
        freed += care.free(project, decided)
        rounds += 1
    for one in writers:
        out, err = one.communicate(timeout=60)
        assert (one.returncode, out) == (0, "done\n"), err
    assert rounds > 2
    assert freed > 0
    found = care.verify(project)
    assert found.damage == []
    assert found.records > 20
    assert project.catalog.count_runs() > 0
    project.close()
