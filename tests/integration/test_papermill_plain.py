"""A notebook without steps comes out as from papermill's own engine, starts no service, and is recorded."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import papermill
import pytest
from nbclient.exceptions import DeadKernelError
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from papermill.exceptions import PapermillExecutionError

from mlbench.core.records import Run
from mlbench.project import Project

KERNELSPEC = {"name": "python3", "display_name": "Python 3", "language": "python"}

OUTPUTS = [
    "print(a)\nimport sys; print('e', file=sys.stderr)\n'x'",
    (
        "from IPython.display import HTML, clear_output, display\n"
        "h = display(HTML('<b>1</b>'), display_id=True); h.update(HTML('<i>2</i>'))\nprint(1); clear_output(wait=True)"
    ),
    "print('z', end=''); print('y')",
    "for i in range(3): print(i, end='\\r')",
    "h.update(HTML('later'))",
    "import logging; logging.warning('careful')",
    "1 + 1;",
    "from concurrent.futures import ThreadPoolExecutor\nThreadPoolExecutor(1).submit(print, 'thread').result()",
]


def write(path: Path, *sources: str, metadata: dict[str, Any] | None = None) -> Path:
    cells = [new_code_cell("a: int = 1  # how many\n", metadata={"tags": ["parameters"]}), new_markdown_cell("# Title")]
    cells += [new_code_cell(source) for source in sources]
    for place, cell in enumerate(cells):
        cell["id"] = f"cell-{place}"
    notebook = new_notebook(cells=cells, metadata={"kernelspec": KERNELSPEC, **(metadata or {})})
    nbformat.validate(notebook)
    path.write_text(nbformat.writes(notebook), encoding="utf-8")
    return path


def execute(source: Path, target: Path, engine: str | None, **options: Any) -> Any:
    return papermill.execute_notebook(str(source), str(target), engine_name=engine, progress_bar=False, **options)


def comparable(path: Path) -> Any:
    """Return a notebook without what differs between any two runs: times, and the ids of cells put in."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    plain = json.loads(json.dumps(notebook))
    told = plain["metadata"]["papermill"]
    for name in ("start_time", "end_time", "duration", "output_path"):
        told[name] = told[name] is not None
    for cell in plain["cells"]:
        cell.pop("id")
        cell["metadata"].pop("execution", None)
        told = cell["metadata"].get("papermill") or {}
        for name in ("start_time", "end_time", "duration"):
            if name in told:
                told[name] = told[name] is not None
    return plain


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLBENCH_STORE", str(tmp_path / "store"))
    return tmp_path / "store"


@pytest.fixture
def project(store: Path) -> Iterator[Project]:
    project = Project.open()
    yield project
    project.catalog.close()


def only_run(project: Project) -> Run:
    runs = project.catalog.runs()
    assert len(runs) == 1
    return runs[0]


@pytest.mark.parametrize(
    "sources",
    [OUTPUTS, ["print(1)", "1/0", "print(2)"], ["raise SystemExit(0)", "print(1)"], ["raise SystemExit(3)"], ["a +"]],
    ids=["outputs", "error", "clean exit", "exit", "syntax error"],
)
def test_a_plain_notebook_comes_out_cell_for_cell_as_from_the_stock_engine(
    sources: list[str], tmp_path: Path, project: Project
) -> None:
    source = write(tmp_path / "in.ipynb", *sources)
    raised = []
    for engine in (None, "mlbench"):
        try:
            execute(source, tmp_path / f"{engine}.ipynb", engine, parameters={"a": 3})
        except PapermillExecutionError as error:
            raised.append((error.ename, error.evalue, error.cell_index, error.exec_count))
        else:
            raised.append(None)
    assert raised[0] == raised[1]
    assert comparable(tmp_path / "mlbench.ipynb") == comparable(tmp_path / "None.ipynb")
    assert only_run(project).state == ("succeeded" if raised[0] is None else "failed")


def test_a_plain_run_is_recorded_with_all_that_it_was(tmp_path: Path, project: Project) -> None:
    (tmp_path / "helpers.py").write_text("x = 1\n")
    source = write(tmp_path / "flights.ipynb", "import helpers", "a * 2", metadata={"mlbench": {"id": "n" * 26}})
    before = source.read_bytes()
    execute(source, tmp_path / "out.ipynb", "mlbench", parameters={"a": 3}, cwd=str(tmp_path))
    run = only_run(project)
    assert (run.kind, run.state, run.name) == ("papermill", "succeeded", "flights")
    assert run.notebook == str(source)
    assert run.notebook_id == "n" * 26
    assert run.parameters == {"a": 3}
    assert run.owner is not None
    assert run.ended is not None
    assert run.ended > run.started > 0
    assert run.snapshot is not None
    snapshot = project.catalog.snapshot(run.snapshot)
    assert list(snapshot.modules) == ["helpers.py"]
    assert project.blobs.get(snapshot.modules["helpers.py"]) == b"x = 1\n"
    assert snapshot.interpreter is not None
    assert os.access(snapshot.interpreter, os.X_OK)
    assert "nbclient" in snapshot.packages
    kept = json.loads(project.blobs.get(snapshot.notebook))
    assert "".join(kept["cells"][-1]["source"]) == "a * 2"
    assert not any("injected-parameters" in cell["metadata"].get("tags", []) for cell in kept["cells"])
    assert run.output is not None
    executed = nbformat.reads(project.blobs.get(run.output).decode(), as_version=4)
    assert executed.cells[-1].outputs[0].data["text/plain"] == "6"
    assert source.read_bytes() == before


def test_a_failure_is_recorded_with_its_cell_and_no_later_cell_runs(tmp_path: Path, project: Project) -> None:
    source = write(tmp_path / "in.ipynb", "print(1)", "1/0", f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(PapermillExecutionError):
        execute(source, tmp_path / "out.ipynb", "mlbench")
    run = only_run(project)
    assert (run.state, run.reason) == ("failed", "error")
    assert run.failure is not None
    assert (run.failure.ename, run.failure.cell) == ("ZeroDivisionError", "cell-3")
    assert run.output is not None
    assert not (tmp_path / "ran").exists()


def test_what_plain_cells_log_is_kept_with_the_run(tmp_path: Path, project: Project) -> None:
    (tmp_path / "notes.md").write_text("# Notes")
    log = f"mlbench.log_artifact({str(tmp_path / 'notes.md')!r})"
    source = write(tmp_path / "in.ipynb", "%load_ext mlbench\nimport mlbench", log)
    execute(source, tmp_path / "out.ipynb", "mlbench")
    run = only_run(project)
    assert [one.name for one in run.artifacts] == ["notes.md"]
    assert project.run(run.id).artifacts["notes.md"].read_text() == "# Notes"


def test_metrics_of_plain_cells_are_the_runs(tmp_path: Path, project: Project, store: Path) -> None:
    scrap = "{'application/scrapbook.scrap.json+json': {'name': 'glued', 'data': 2, 'encoder': 'json', 'version': 1}}"
    source = write(
        tmp_path / "in.ipynb",
        "%load_ext mlbench\nimport mlbench",
        "mlbench.log(rmse=0.5)\nmlbench.log(loss=1.0, step=7)\nmlbench.tag(team='ops')",
        f"from IPython.display import display\ndisplay({scrap}, raw=True)",
    )
    execute(source, tmp_path / "out.ipynb", "mlbench")
    run = only_run(project)
    found = {metric.name: (metric.value, metric.step) for metric in run.metrics}
    assert found == {"rmse": (0.5, None), "loss": (1.0, 7), "glued": (2.0, None)}
    assert run.tags == {"team": "ops"}


def test_a_plain_notebook_starts_no_service(tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = tmp_path / "r"
    runtime.mkdir(mode=0o700)
    monkeypatch.setenv("MLBENCH_RUNTIME", str(runtime))
    execute(write(tmp_path / "in.ipynb", "%load_ext mlbench", "a"), tmp_path / "out.ipynb", "mlbench")
    assert list(runtime.iterdir()) == []


def test_a_dead_kernel_is_papermills_and_is_recorded(tmp_path: Path, project: Project) -> None:
    source = write(tmp_path / "in.ipynb", "print(1)", "import os; os.kill(os.getpid(), 9)", "print(2)")
    with pytest.raises(DeadKernelError):
        execute(source, tmp_path / "out.ipynb", "mlbench")
    run = only_run(project)
    assert (run.state, run.reason) == ("failed", "kernel-lost")
    assert run.failure is not None
    assert run.failure.cell == "cell-3"


def test_a_cell_that_takes_too_long_is_papermills_and_is_recorded(tmp_path: Path, project: Project) -> None:
    source = write(tmp_path / "in.ipynb", "import time; time.sleep(60)")
    with pytest.raises(Exception, match="timed out"):
        execute(source, tmp_path / "out.ipynb", "mlbench", execution_timeout=1)
    assert (only_run(project).state, only_run(project).reason) == ("failed", "timeout")


def test_an_unknown_parameter_is_papermills_warning(tmp_path: Path, project: Project) -> None:
    execute(write(tmp_path / "in.ipynb", "b"), tmp_path / "out.ipynb", "mlbench", parameters={"b": 5})
    assert only_run(project).parameters == {"a": 1, "b": 5}


def test_a_run_records_the_values_that_its_parameters_really_had(tmp_path: Path, project: Project) -> None:
    cell = (
        "import datetime\norigin: str = 'JFK'\ntrees: int = 100\nscale: float = 1\nneeded: str = None\n"
        "seven = len('flights')\nday = datetime.date(2026, 1, 2)\npair = tuple('ab')\nother = len(origin)"
    )
    source = write(tmp_path / "in.ipynb", "seven = 8\nprint(trees)")
    notebook = nbformat.read(source, as_version=4)
    notebook.cells[0].source = cell
    nbformat.write(notebook, source)
    execute(source, tmp_path / "out.ipynb", "mlbench", parameters={"trees": 3, "other": 9})
    run = only_run(project)
    assert run.parameters == {
        "origin": "JFK", "trees": 3, "scale": 1.0, "needed": None, "seven": 7, "pair": ["a", "b"], "other": 9
    }  # fmt: skip
    assert [one.id for one in project.search("params.origin = 'JFK' and params.seven = 7").runs] == [run.id]
    assert run.snapshot is not None
    assert project.catalog.snapshot(run.snapshot).parameters == {"trees": 3, "other": 9}
    assert nbformat.read(tmp_path / "out.ipynb", as_version=4).cells[-1].outputs[0].text == "3\n"


def test_a_store_that_cannot_be_written_is_said_before_a_cell_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlbench.core.errors import StoreError

    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("MLBENCH_STORE", str(tmp_path / "file" / "store"))
    source = write(tmp_path / "in.ipynb", f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(StoreError):
        execute(source, tmp_path / "out.ipynb", "mlbench")
    assert not (tmp_path / "ran").exists()


def papermill_command(*arguments: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "papermill", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_papermills_own_command_finds_the_engine_and_keeps_its_exit_codes(tmp_path: Path, project: Project) -> None:
    write(tmp_path / "good.ipynb", "a")
    write(tmp_path / "bad.ipynb", "1/0")
    write(tmp_path / "dead.ipynb", "import os; os._exit(3)")
    codes = []
    for name in ("good", "bad", "dead"):
        done = papermill_command(f"{name}.ipynb", "out.ipynb", "--engine", "mlbench", "-p", "a", "7", folder=tmp_path)
        done.communicate(timeout=60)
        codes.append(done.returncode)
    assert codes == [0, 1, 138]
    assert {run.name: run.state for run in project.catalog.runs()} == {
        "good": "succeeded", "bad": "failed", "dead": "failed",
    }  # fmt: skip


def test_an_interrupted_run_is_recorded_as_cancelled(tmp_path: Path, project: Project) -> None:
    with socket.create_server(("127.0.0.1", 0)) as began:
        began.settimeout(60)
        port = began.getsockname()[1]
        say_so = f"import socket, time\nsocket.create_connection(('127.0.0.1', {port}))\ntime.sleep(60)"
        write(tmp_path / "in.ipynb", say_so)
        started = papermill_command("in.ipynb", "out.ipynb", "--engine", "mlbench", folder=tmp_path)
        began.accept()[0].close()
        started.send_signal(signal.SIGINT)
    started.communicate(timeout=30)
    assert (only_run(project).state, only_run(project).reason) == ("cancelled", "user")
