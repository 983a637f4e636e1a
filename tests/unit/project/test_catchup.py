"""A catalog of one's own on a shared store learns what others have recorded, and keeps what it knows better."""

from __future__ import annotations

import json
import platform
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlbench.backends.blobs_fsspec import FsspecBlobs
from mlbench.core.ids import Digest, JobId, new_id
from mlbench.core.records import Job, JobVersion, Run
from mlbench.project import Project, find_store

VERSION = JobVersion(number=1, snapshot=Digest("blake3:00"), parameters={}, created=1)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLBENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def url() -> str:
    return f"memory://{new_id()}/store"


def machine(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> Project:
    """Return the store as another machine has it, with a catalog of its own."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / name))
    return Project(find_store(store=url))


def run_on(project: Project, name: str) -> Run:
    return project.end_run(project.begin_run(kind="papermill", notebook=f"/n/{name}.ipynb"), "succeeded")


def names(project: Project) -> set[str]:
    project._caught_up = 0.0  # a moment has passed
    return {run.name for run in project.search().runs}


def test_two_machines_see_each_others_runs(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = (machine(url, tmp_path, monkeypatch, name) for name in ("here", "there"))
    run_on(here, "first")
    assert names(there) == {"first"}
    run = run_on(there, "second")
    assert names(here) == {"first", "second"}
    assert here.catalog.run(run.id) == run
    late = machine(url, tmp_path, monkeypatch, "late")
    assert names(late) == {"first", "second"}


def test_what_is_known_is_not_read_again(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = machine(url, tmp_path, monkeypatch, "here")
    for name in ("first", "second"):
        run_on(here, name)
    assert names(here) == {"first", "second"}
    read: list[str] = []
    monkeypatch.setattr(FsspecBlobs, "read_record", lambda _, piece: read.append(piece.name))
    assert names(here) == {"first", "second"}
    assert read == []


def test_a_month_that_others_have_added_to_is_read_again_once_a_day(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = machine(url, tmp_path, monkeypatch, "here")
    run_on(here, "new")
    now, month = time.time_ns(), 31 * 86_400 * 10**9
    with monkeypatch.context() as patched:
        patched.setattr(time, "time_ns", lambda: now - 3 * month)
        run_on(here, "old")
    assert names(here) == {"new", "old"}
    with monkeypatch.context() as patched:
        patched.setattr(time, "time_ns", lambda: now - 3 * month + 1)
        run_on(machine(url, tmp_path, monkeypatch, "there"), "copied")
    assert names(here) == {"new", "old"}
    file = here.location.path / "caught-up.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"whole": now - 2 * 86_400 * 10**9}))
    assert names(here) == {"new", "old", "copied"}


def test_a_catalog_that_is_lost_is_made_from_the_records(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = machine(url, tmp_path, monkeypatch, "here")
    run_on(here, "first")
    assert names(here) == {"first"}
    here.close()
    for file in here.location.path.glob("catalog.sqlite*"):
        file.unlink()
    assert names(here) == {"first"}
    (here.location.path / "caught-up.json").write_text("{")
    assert names(here) == {"first"}


def test_a_job_of_this_host_is_not_put_back_by_its_own_record(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = (machine(url, tmp_path, monkeypatch, name) for name in ("here", "there"))
    own = job(platform.node())
    here.catalog.put_job(own)
    record(here, own)
    here.catalog.put_job(replace(own, next_due=2000))
    theirs = job("elsewhere")
    record(there, theirs)
    assert names(here) == set()
    assert here.catalog.job(own.id).next_due == 2000
    assert here.catalog.job(theirs.id).host == "elsewhere"
    assert [one.number for one in here.catalog.job_versions(theirs.id)] == [1]
    assert here.catalog.due_jobs(10**10, host=platform.node()) == [here.catalog.job(own.id)]


def test_a_version_whose_job_comes_later_is_not_lost(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = machine(url, tmp_path, monkeypatch, "here")
    theirs = job("elsewhere")
    version(here, theirs)
    assert names(here) == set()
    here.blobs.append("job", theirs.id, plain(theirs))
    assert names(here) == set()
    assert [one.number for one in here.catalog.job_versions(theirs.id)] == [1]


def test_a_damaged_record_keeps_nobody_from_the_others(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = machine(url, tmp_path, monkeypatch, "here")
    run_on(here, "first")
    import fsspec

    name = time.strftime(f"records/%Y/%m/{time.time_ns()}-run-broken.json", time.gmtime())
    fsspec.filesystem("memory").pipe_file(f"{url}/{name}", b"{")
    run_on(here, "second")
    assert names(machine(url, tmp_path, monkeypatch, "there")) == {"first", "second"}


def job(host: str) -> Job:
    return Job(
        id=JobId(new_id()),
        name=f"nightly-{host}",
        notebook="/n/a.ipynb",
        version=VERSION,
        cron="0 0 * * *",
        timezone="UTC",
        next_due=1000,
        host=host,
    )


def plain(value: Any) -> Any:
    import msgspec

    return msgspec.to_builtins(value)


def version(project: Project, of: Job) -> None:
    project.blobs.append("job-version", f"{of.id}-1", {"job": of.id, **plain(of.version)})


def record(project: Project, of: Job) -> None:
    version(project, of)
    project.blobs.append("job", of.id, plain(of))
