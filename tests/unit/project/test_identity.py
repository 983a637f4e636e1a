"""A notebook's history survives a new name, and a copy has one of its own."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from mlbench.backends.memory import MemoryCatalog
from mlbench.core.ids import Digest, JobId, NotebookId, new_id
from mlbench.core.records import Job, JobVersion
from mlbench.project import Project, find_store, identity


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(find_store(store=str(tmp_path / "store")), catalog=MemoryCatalog())


@pytest.fixture
def original(tmp_path: Path) -> Path:
    """Return a notebook that carries an id."""
    path = tmp_path / "flights.ipynb"
    metadata = {"kernelspec": {"name": "python3"}, "mlbench": {"id": new_id()}}
    path.write_text(json.dumps({"cells": [], "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}, indent=1))
    return path


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def carried(path: Path) -> NotebookId:
    return NotebookId(read(path)["metadata"]["mlbench"]["id"])


def ran(project: Project, path: Path, identifier: str | None = None) -> str:
    """Record a run of a notebook as it says who it is, and return the run's id."""
    own = NotebookId(identifier) if identifier else identity.own_id(project.catalog, str(path), read(path))
    return project.begin_run(kind="papermill", notebook=str(path), notebook_id=own).id


def runs(project: Project, path: Path) -> list[str]:
    return [run.id for run in project.catalog.runs(**identity.runs_of(project.catalog, str(path)))]


def test_a_renamed_notebook_keeps_its_id_and_its_runs(project: Project, original: Path) -> None:
    first = ran(project, original)
    renamed = original.rename(original.with_name("delays.ipynb"))
    assert identity.identify(project.catalog, str(renamed), read(renamed)) == carried(renamed)
    second = ran(project, renamed)
    assert set(runs(project, renamed)) == {first, second}
    assert list(project.runs(notebook=str(renamed))["id"]) == runs(project, renamed)


def test_a_copied_notebook_gets_an_id_of_its_own_and_the_original_keeps_its(project: Project, original: Path) -> None:
    first = ran(project, original)
    copy = Path(shutil.copy(original, original.with_name("copy.ipynb")))
    assert identity.own_id(project.catalog, str(copy), read(copy)) is None
    fresh = identity.identify(project.catalog, str(copy), read(copy))
    assert fresh != carried(original)
    assert identity.write_id(str(copy), fresh)
    second = ran(project, copy)
    assert (runs(project, original), runs(project, copy)) == ([first], [second])
    third = ran(project, copy.rename(copy.with_name("elsewhere.ipynb")))
    assert set(runs(project, original.with_name("elsewhere.ipynb"))) == {second, third}
    assert identity.own_id(project.catalog, str(original), read(original)) == carried(original)


def test_of_two_files_under_one_id_that_both_ran_the_one_that_ran_first_keeps_it(
    project: Project, original: Path
) -> None:
    identifier = carried(original)
    copy = Path(shutil.copy(original, original.with_name("copy.ipynb")))
    ran(project, copy, identifier)
    ran(project, original, identifier)
    assert identity.own_id(project.catalog, str(copy), read(copy)) == identifier
    assert identity.own_id(project.catalog, str(original), read(original)) is None


def test_a_job_knows_its_notebook_as_a_run_does(project: Project, original: Path) -> None:
    version = JobVersion(number=1, snapshot=Digest("blake3:" + "a" * 64))
    named: dict[str, Any] = {"id": JobId(new_id()), "name": "nightly", "created": 1, "version": version}
    project.catalog.put_job(Job(notebook=str(original), notebook_id=carried(original), **named))
    copy = Path(shutil.copy(original, original.with_name("copy.ipynb")))
    assert identity.own_id(project.catalog, str(copy), read(copy)) is None


def test_a_link_is_the_notebook_itself_and_is_not_replaced_by_a_file(project: Project, original: Path) -> None:
    ran(project, original)
    link = original.with_name("link.ipynb")
    link.symlink_to(original)
    assert identity.own_id(project.catalog, str(link), read(link)) == carried(original)
    identity.write_id(str(link), new_id())
    assert link.is_symlink()


def test_runs_from_before_a_notebook_had_an_id_are_its_runs(project: Project, original: Path) -> None:
    before = project.begin_run(kind="papermill", notebook=str(original)).id
    after = ran(project, original)
    assert set(runs(project, original)) == {before, after}


def test_an_id_is_written_whole_with_the_mode_of_the_file_and_nothing_beside_it(original: Path) -> None:
    original.chmod(0o640)
    text, identifier = original.read_text(), new_id()
    assert identity.write_id(str(original), identifier)
    assert original.read_text() == text.replace(json.loads(text)["metadata"]["mlbench"]["id"], identifier)
    assert original.stat().st_mode & 0o777 == 0o640
    assert os.listdir(original.parent) == ["flights.ipynb"]
    assert not identity.write_id(str(original), identifier)
