"""Bad input gives one sentence and exit status 2, and nothing is recorded."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlbench.core.errors import NotebookError, ParameterError
from mlbench.entrypoints.cli import main
from mlbench.project import Project

GOOD: dict[str, Any] = {
    "cells": [
        {
            "cell_type": "code",
            "id": "a1",
            "metadata": {"tags": ["parameters"]},
            "source": "trees: int = 2",
            "outputs": [],
            "execution_count": None,
        }
    ],
    "metadata": {"kernelspec": {"name": "python3", "display_name": "P", "language": "python"}},
    "nbformat": 4,
    "nbformat_minor": 5,
}


def changed(change: Callable[[dict[str, Any]], object]) -> bytes:
    notebook = json.loads(json.dumps(GOOD))
    change(notebook)
    return json.dumps(notebook).encode()


def cell(notebook: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = notebook["cells"][0]
    return found


BAD: dict[str, bytes] = {
    "empty": b"",
    "not JSON": b"{not json",
    "a list": b"[]",
    "null": b"null",
    "nbformat 3": changed(lambda n: n.update(nbformat=3)),
    "nbformat 5": changed(lambda n: n.update(nbformat=5)),
    "nbformat as a text": changed(lambda n: n.update(nbformat="4")),
    "no metadata": changed(lambda n: n.pop("metadata")),
    "no cells": changed(lambda n: n.pop("cells")),
    "no kernel": changed(lambda n: n.update(metadata={})),
    "unknown kernel": changed(lambda n: n["metadata"]["kernelspec"].update(name="nobody")),
    "kernel that is a path": changed(lambda n: n["metadata"]["kernelspec"].update(name="../../etc")),
    "duplicate ids": changed(lambda n: n["cells"].append(n["cells"][0])),
    "unknown cell type": changed(lambda n: cell(n).update(cell_type="magic")),
    "tags as a text": changed(lambda n: cell(n).update(metadata={"tags": "parameters"})),
    "outputs as an object": changed(lambda n: cell(n).update(outputs={})),
    "no source": changed(lambda n: cell(n).pop("source")),
    "source as a number": changed(lambda n: cell(n).update(source=5)),
    "deep nesting": b"[" * 50_000 + b"]" * 50_000,
    "lone surrogate": json.dumps({**GOOD, "cells": [{**GOOD["cells"][0], "source": "\ud800"}]}).encode(),
    "NUL in source": changed(lambda n: cell(n).update(source="a\0b")),
    "latin-1": '{"cells": "é"}'.encode("latin-1"),
    "two parameters cells": changed(lambda n: n["cells"].append({**cell(n), "id": "a2"})),
}


@pytest.fixture
def folder(tmp_path: Path, store: Path) -> Path:
    work = tmp_path / "work"
    work.mkdir()
    (work / "good.ipynb").write_text(json.dumps(GOOD))
    return work


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    captured = capsys.readouterr()
    assert ended.value.code == 2, captured.out
    assert captured.err.startswith("Error: ")
    assert captured.err.count("\n") == 1, captured.err
    assert len(captured.err) < 600
    assert "Traceback" not in captured.err
    return captured.err


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize(
    "command", [("run",), ("schedule", "--cron", "@daily", "--tz", "UTC")], ids=["run", "schedule"]
)
def test_a_notebook_that_cannot_be_run_is_refused(
    name: str, command: tuple[str, ...], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "bad.ipynb").write_bytes(BAD[name])
    said = refused(capsys, *command, str(folder / "bad.ipynb"))
    assert "bad.ipynb" in said
    project = Project.open()
    assert project.catalog.runs() == []
    assert project.catalog.jobs() == []


def test_what_is_no_file_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(folder / "pipe.ipynb")
    assert "folder" in refused(capsys, "run", str(folder))
    assert "regular file" in refused(capsys, "run", str(folder / "pipe.ipynb"))
    assert "Did you mean" in refused(capsys, "run", str(folder / "goood.ipynb"))
    assert "null" in refused(capsys, "run", "a\0b")


@pytest.mark.parametrize(
    "pairs",
    [
        ("a b=1",), ("import os;x=1",), ("class=1",), ("=1",), ("trees",), ("trees=many",), ("trees=1.5",),
        ("trees=1", "trees=2"), ("unknown=1",), ("trees=nan",), ("__class__=1",), ("trees=" + "9" * 5000,),
    ],
)  # fmt: skip
def test_a_parameter_that_does_not_fit_is_refused(
    pairs: tuple[str, ...], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [part for pair in pairs for part in ("-p", pair)]
    refused(capsys, "run", str(folder / "good.ipynb"), *arguments)
    assert Project.open().catalog.runs() == []


@pytest.mark.parametrize("cron", ["0 0 30 2 *", "* * * *", "H H * * *", "@reboot", "1" * 5000, "", "0 0 * * *; rm"])
def test_a_schedule_that_cannot_be_kept_is_refused_and_nothing_is_stored(
    cron: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(capsys, "schedule", str(folder / "good.ipynb"), "--cron", cron, "--tz", "UTC")
    refused(capsys, "schedule", str(folder / "good.ipynb"), "--cron", "@daily", "--tz", "../../etc/passwd")
    assert Project.open().catalog.jobs() == []


@pytest.mark.parametrize("name", ["../x", "%2e%2e", "/etc/passwd", "", "con", "a" * 4096, "'; drop table runs--"])
@pytest.mark.parametrize("command", [("show",), ("logs",), ("jobs", "show"), ("jobs", "run"), ("jobs", "delete")])
def test_an_id_that_is_none_is_refused(
    name: str, command: tuple[str, ...], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(capsys, *command, name)


def test_a_place_for_the_result_that_is_not_there_is_said_first(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, "run", str(folder / "good.ipynb"), "-o", str(folder / "no" / "out.ipynb"))
    assert "no folder" in said
    assert Project.open().catalog.runs() == []


def test_a_store_that_cannot_be_written_is_one_sentence(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLBENCH_STORE", str(folder / "good.ipynb"))
    assert "is not a directory" in refused(capsys, "run", str(folder / "good.ipynb"))
    monkeypatch.setenv("MLBENCH_STORE", str(folder / "good.ipynb" / "store"))
    assert "store" in refused(capsys, "run", str(folder / "good.ipynb"))
    assert "store" in refused(capsys, "runs")
    assert caplog.records == [], "what is logged is on the terminal too"


STEPS: dict[str, tuple[list[str], str]] = {
    "an unknown option": (
        ["%%step a --retires 3\nx = 1"],
        "bad.ipynb: cell 2: Unknown option --retires: did you mean --retries?",
    ),
    "no name": (["%%step\nx = 1"], "bad.ipynb: cell 2: A step needs a name: %%step NAME."),
    "one name twice": (
        ["%%step a\nx = 1", "%%step a\ny = 1"],
        "bad.ipynb: cells 2 and 3 are both step a: give one another name.",
    ),
}


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize(
    "command", [("run",), ("schedule", "--cron", "@daily", "--tz", "UTC")], ids=["run", "schedule"]
)
def test_steps_that_cannot_run_are_named_with_their_cell(
    name: str, command: tuple[str, ...], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sources, sentence = STEPS[name]
    cells = [{**GOOD["cells"][0], "id": f"s{place}", "metadata": {}, "source": source} for place, source in
             enumerate(sources)]  # fmt: skip
    (folder / "bad.ipynb").write_bytes(changed(lambda n: n["cells"].extend(cells)))
    before = (folder / "bad.ipynb").read_bytes()
    assert refused(capsys, *command, str(folder / "bad.ipynb")) == f"Error: {sentence}\n"
    assert (folder / "bad.ipynb").read_bytes() == before
    assert Project.open().catalog.runs() == []
    assert Project.open().catalog.jobs() == []


def test_papermill_itself_is_refused_a_parameter_that_is_code_and_a_kernel_that_is_not_there(folder: Path) -> None:
    import papermill

    code = f"open({str(folder / 'ran')!r}, 'w');x"
    good = str(folder / "good.ipynb")
    with pytest.raises(ParameterError, match="cannot be a parameter's name"):
        papermill.execute_notebook(good, None, engine_name="mlbench", progress_bar=False, parameters={code: 1})
    with pytest.raises(NotebookError, match='there is no kernel "nobody"'):
        papermill.execute_notebook(good, None, engine_name="mlbench", progress_bar=False, kernel_name="nobody")
    assert not (folder / "ran").exists()
    assert Project.open().catalog.runs() == []


def test_a_value_that_is_given_as_papermill_has_it_is_told_how_it_goes(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (("run",), ("check",), ("schedule", "--cron", "@daily")):
        said = refused(capsys, *command, str(folder / "good.ipynb"), "-p", "trees", "3")
        assert "Write: trees=VALUE" in said
