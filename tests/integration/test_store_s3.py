"""A notebook with steps whose store is a bucket: from its run to the values, and what takes care of the store."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import papermill
import pytest

from mlbench.backends import blobs as opening
from mlbench.entrypoints.cli import main
from mlbench.project import Project
from tests.integration.house import House
from tests.integration.test_papermill_steps import read, texts, write
from tests.s3 import S3Server, needs_s3


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[S3Server]:
    """A server that speaks S3, a bucket of which is the store."""
    needs_s3()
    server = S3Server()
    for name, value in server.variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    yield server
    opening.rest()
    server.kill()


@pytest.fixture
def store(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    url = f"{s3.bucket()}/team"
    monkeypatch.setenv("MLBENCH_STORE", url)
    return url


def said(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> Any:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--json"])
    found = capsys.readouterr()
    assert ended.value.code == status, found
    return json.loads(found.out)


def test_a_notebook_with_steps_has_its_store_in_a_bucket(
    store: str, service: House, tmp_path: Path, capsys: pytest.CaptureFixture[str], s3: S3Server
) -> None:
    source = write(
        tmp_path / "in.ipynb",
        "rows: int = 3_000_000",
        "%load_ext mlbench\nimport mlbench\nimport numpy as np\nbefore = np.ones(rows)",
        "%%step load\ntable = np.arange(float(rows)) + before\nnames = ['a', 'bb', 'ccc']",
        "%%step train --foreach name in names\nscore = len(name) + float(table[0])\nmlbench.log(score=score)",
        "%%step change\ntable[0] = 7\nkind = type(table.base).__name__",
        "print(score, table[0], table[-1])",
    )
    papermill.execute_notebook(str(source), str(tmp_path / "out.ipynb"), engine_name="mlbench", progress_bar=False)
    assert texts(read(tmp_path / "out.ipynb")["cell-5"]) == "[2.0, 3.0, 4.0] 7.0 3000000.0\n"

    project = Project.open()
    assert project.location.url == store
    (run,) = project.search().runs
    view = project.run(run.id)
    np.testing.assert_array_equal(view["load"].table, np.arange(3_000_000.0) + 1)
    assert view["change"].table[0] == 7
    steps = {one.step: one for one in project.steps(run.id)}
    assert {name: one.state for name, one in steps.items()} == dict.fromkeys(("load", "train", "change"), "succeeded")
    assert not any(one.network for one in steps.values())  # what the store needs is not the step's

    assert said(capsys, "store", "verify")["whole"]
    assert said(capsys, "store", "gc", "--dry-run")["freed"] == 0
    assert said(capsys, "store", "du")["shares"]
    copied = said(capsys, "store", "copy", store, str(tmp_path / "copy"))
    assert copied["objects"] > 0
    assert copied["damaged"] == {}
    there = Project.open(store=str(tmp_path / "copy"))
    assert [one.id for one in there.search().runs] == [run.id]
    np.testing.assert_array_equal(there.run(run.id)["load"].table, view["load"].table)
    there.close()
    back = f"{s3.bucket()}/back"
    assert said(capsys, "store", "copy", str(tmp_path / "copy"), back)["records"] == copied["records"]
    assert said(capsys, "store", "copy", store, back)["there"] > 0
    again = Project.open(store=back)
    assert again.run(run.id)["train"].score == [2.0, 3.0, 4.0]
    again.close()
    project.close()
    assert said(capsys, "config")["store"] == store


def test_a_bucket_that_is_gone_fails_the_notebook_with_its_address(
    store: str, service: House, tmp_path: Path, s3: S3Server, capsys: pytest.CaptureFixture[str]
) -> None:
    s3.kill()
    source = write(tmp_path / "in.ipynb", "n: int = 1", "%load_ext mlbench", "%%step load\nx = n")
    with pytest.raises(SystemExit) as ended:
        main(["run", str(source)])
    assert ended.value.code != 0
    error = capsys.readouterr().err
    assert f"The store {store} cannot be used" in error
    assert s3.url in error
    assert "Traceback" not in error
