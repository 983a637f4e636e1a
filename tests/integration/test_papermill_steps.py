"""Under papermill, steps overlap, what they print is under their own cells, and a late failure is their own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import papermill
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from papermill.exceptions import PapermillExecutionError

from mlbench.core.errors import NotebookError
from mlbench.project import Project
from tests.integration.house import House


def write(path: Path, *sources: str) -> Path:
    cells = [
        new_code_cell(source, metadata={"tags": ["parameters"]} if not n else {}) for n, source in enumerate(sources)
    ]
    for place, cell in enumerate(cells):
        cell["id"] = f"cell-{place}"
    spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = new_notebook(cells=cells, metadata={"kernelspec": spec})
    nbformat.validate(notebook)
    path.write_text(nbformat.writes(notebook), encoding="utf-8")
    return path


def read(path: Path) -> dict[str, Any]:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return {cell.id: cell for cell in notebook.cells if cell.cell_type == "code"}


def texts(cell: Any) -> str:
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


@pytest.fixture
def project(service: House) -> Iterator[Project]:
    project = Project.open()
    yield project
    project.catalog.close()


def speaker(name: str, lines: int = 30) -> str:
    return (
        f"%%step {name}\nimport sys, time\nfor i in range({lines}):\n"
        f"    print('{name}', i, file=sys.stderr if i % 2 else sys.stdout, flush=True)\n    time.sleep(0.02)\n"
        f"{name} = trees"
    )


def test_steps_overlap_and_everything_lands_in_its_own_cell(tmp_path: Path, project: Project) -> None:
    shown = (
        "%%step shown\nfrom IPython.display import clear_output, display\nimport time\n"
        "print('gone'); time.sleep(0.2)\nclear_output(wait=True); time.sleep(0.2)\nprint('kept')\n"
        "handle = display('first', display_id=True); time.sleep(0.2); handle.update('second')\ndel handle\n'result'"
    )
    source = write(
        tmp_path / "in.ipynb",
        "trees: int = 1",
        "%load_ext mlbench\nimport mlbench",
        speaker("a"),
        speaker("b"),
        shown,
        "%%step c\nmlbench.log(n=a + b)\nc = a + b",
        "mlbench.log(plain=2)\nprint('plain', c)",
    )
    papermill.execute_notebook(
        str(source), str(tmp_path / "out.ipynb"), engine_name="mlbench", progress_bar=False, parameters={"trees": 4}
    )
    cells = read(tmp_path / "out.ipynb")
    for name, cell in (("a", cells["cell-2"]), ("b", cells["cell-3"])):
        lines = sorted(texts(cell).splitlines(), key=lambda line: int(line.split()[1]))
        assert lines == [f"{name} {i}" for i in range(30)]
    assert texts(cells["cell-4"]) == "kept\n"
    others = [output for output in cells["cell-4"].outputs if output.output_type != "stream"]
    assert [output.data["text/plain"] for output in others] == ["'second'", "'result'"]
    assert texts(cells["cell-6"]) == "plain 8\n"
    assert [cell.metadata.papermill.status for cell in cells.values()] == ["completed"] * 8
    assert all(cell.execution_count for cell in cells.values())
    assert cells["cell-2"].metadata.papermill.duration > 0.5

    (run,) = project.catalog.runs()
    assert (run.kind, run.state, run.parameters) == ("papermill", "succeeded", {"trees": 4})
    assert {metric.name: metric.value for metric in run.metrics} == {"plain": 2}
    steps = {execution.step: execution for execution in project.catalog.executions(run.id)}
    assert {name: step.state for name, step in steps.items()} == dict.fromkeys(["a", "b", "shown", "c"], "succeeded")
    assert steps["a"].started is not None
    assert steps["b"].started is not None
    assert steps["a"].ended is not None
    assert steps["b"].started < steps["a"].ended, "the steps did not overlap"
    assert steps["a"].cell == "cell-2"
    assert {metric.name: metric.value for metric in steps["c"].metrics} == {"n": 8}


def test_a_late_failure_is_on_its_own_cell_and_ends_the_run_when_the_others_have_ended(
    tmp_path: Path, project: Project
) -> None:
    source = write(
        tmp_path / "in.ipynb",
        "a = 1",
        "%load_ext mlbench",
        "%%step slow\nimport time\ntime.sleep(1.5)\nprint('slow has ended')\nslow = 1",
        "%%step bad\ndef deep():\n    return 1 / 0\nworse = deep()",
        "%%step child\nleast = worse",
        "print(worse)",
        f"open({str(tmp_path / 'ran')!r}, 'w')",
    )
    with pytest.raises(PapermillExecutionError) as raised:
        papermill.execute_notebook(str(source), str(tmp_path / "out.ipynb"), engine_name="mlbench", progress_bar=False)
    assert raised.value.ename == "ZeroDivisionError"
    assert raised.value.cell_index == 3
    cells = read(tmp_path / "out.ipynb")
    assert texts(cells["cell-2"]) == "slow has ended\n"
    assert [output.ename for output in cells["cell-3"].outputs if output.output_type == "error"] == [
        "ZeroDivisionError"
    ]
    assert cells["cell-3"].metadata.papermill.exception is True
    assert not [
        output for name in ("cell-4", "cell-5") for output in cells[name].outputs if output.output_type == "error"
    ]
    assert not (tmp_path / "ran").exists()

    (run,) = project.catalog.runs()
    assert (run.state, run.reason, run.failed_step) == ("failed", "error", "bad")
    assert run.failure is not None
    assert (run.failure.ename, run.failure.cell) == ("ZeroDivisionError", "cell-3")
    states = {execution.step: execution.state for execution in project.catalog.executions(run.id)}
    assert states["slow"] == "succeeded"
    assert states["bad"] == "failed"
    assert states.get("child", "skipped") == "skipped"


@pytest.mark.parametrize(
    "sources",
    [("%%step s\nx = 1", "%%step s\ny = 1"), ("%%step s --retires 3\nx = 1",), ("%%step a\nx = (",)],
    ids=["one name twice", "unknown option", "syntax error"],
)
def test_steps_that_cannot_run_are_refused_before_a_kernel_starts(
    tmp_path: Path, project: Project, sources: tuple[str, ...]
) -> None:
    source = write(tmp_path / "in.ipynb", f"open({str(tmp_path / 'ran')!r}, 'w')", "%load_ext mlbench", *sources)
    with pytest.raises(NotebookError, match=r"in\.ipynb: cell"):
        papermill.execute_notebook(str(source), str(tmp_path / "out.ipynb"), engine_name="mlbench", progress_bar=False)
    assert not (tmp_path / "ran").exists()
    assert project.catalog.runs() == []


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; from mlbench.entrypoints.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120, check=False
    )


def test_mlbench_run_shows_its_steps_and_ends_with_what_shows_more(tmp_path: Path, project: Project) -> None:
    (tmp_path / "helper.py").write_text("K = 10\n")
    write(
        tmp_path / "n.ipynb",
        "trees: int = 1",
        "%load_ext mlbench\nimport helper",
        "%%step load\nprint('loading')\nx = helper.K * trees",
        "x",
    )
    good = command("run", str(tmp_path / "n.ipynb"), "-p", "trees=3", "-o", str(tmp_path / "out.ipynb"))
    assert good.returncode == 0, good.stderr
    assert "load running" in good.stdout
    assert "load succeeded" in good.stdout
    assert "See more: mlbench show" in good.stdout
    assert read(tmp_path / "out.ipynb")["cell-3"].outputs[0].data["text/plain"] == "30"
    (run,) = project.catalog.runs()
    shown = json.loads(command("show", run.id[:4], "--json").stdout)
    assert (shown["run"]["id"], shown["run"]["kind"], shown["run"]["state"]) == (run.id, "papermill", "succeeded")
    assert [step["step"] for step in shown["executions"]] == ["load"]
    assert [listed["id"] for listed in json.loads(command("runs", "--json").stdout)] == [run.id]
    assert command("logs", run.id[:6], "load").stdout == "loading\n"
    assert "has no step lod. Did you mean load?" in command("logs", run.id, "lod").stderr

    write(tmp_path / "n.ipynb", "trees: int = 1", "%load_ext mlbench", "%%step bad\nprint('before')\n1 / 0")
    bad = command("run", str(tmp_path / "n.ipynb"))
    assert bad.returncode == 1
    assert "ZeroDivisionError" in bad.stdout
    assert "1 / 0" in bad.stdout
    assert "Traceback (most recent call last):\n  File" not in bad.stderr


SLOW_TO_BE_IDLE = """
import time
handlers = get_ipython().kernel.shell_handlers
reply = handlers["kernel_info_request"]

async def reply_and_take_time(*request):
    await reply(*request)
    time.sleep(0.3)

handlers["kernel_info_request"] = reply_and_take_time
"""


@pytest.mark.parametrize("cells", [("%load_ext mlbench", "%%step load\nx = 1", "x"), ("x = 1",)])
def test_a_run_that_ends_well_leaves_the_terminal_clean_however_slow_its_kernel_is(
    cells: tuple[str, ...], tmp_path: Path, project: Project
) -> None:
    write(tmp_path / "n.ipynb", "a = 1", SLOW_TO_BE_IDLE, *cells)
    good = command("run", str(tmp_path / "n.ipynb"))
    assert (good.returncode, good.stderr) == (0, "")


ODD = (
    "from pathlib import Path\nrate = 0.5\nlarge = 1\nlimits = [float('inf')]\nbig = 2**70\n"
    "paths = [Path('a')]\ndays = {1: 'Mon'}"
)


def test_parameters_that_json_has_no_word_for_are_recorded_and_stop_no_step(tmp_path: Path, project: Project) -> None:
    step = "%%step one\nshown = f'{rate} {large}'"
    source = write(tmp_path / "in.ipynb", ODD, "%load_ext mlbench", step, "print(shown)")
    given = {"rate": float("nan"), "large": 10**30}
    papermill.execute_notebook(
        str(source), str(tmp_path / "out.ipynb"), engine_name="mlbench", progress_bar=False, parameters=given
    )
    assert texts(read(tmp_path / "out.ipynb")["cell-3"]) == f"nan {10**30}\n"

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON: JupyterLab does not open such a notebook")

    json.loads((tmp_path / "out.ipynb").read_text("utf-8"), parse_constant=refuse)
    (run,) = project.catalog.runs()
    recorded = {"rate": "nan", "large": str(10**30), "limits": ["inf"], "big": str(2**70), "days": {"1": "Mon"}}
    assert {name: run.parameters.get(name) for name in recorded} == recorded
    assert run.snapshot is not None
    assert project.catalog.snapshot(run.snapshot).parameters == {"rate": "nan", "large": str(10**30)}


@pytest.mark.parametrize(
    ("above", "says", "remedy"),
    [
        (("1", "%%step one\nz = 1"), "Cell magic `%%step` not found.", "Put `%load_ext mlbench` into a cell above it."),
        (("%load_ext mlbench", "# first\n%%step one\nz = 1"), "%%step one is not its cell's first line", None),
    ],
)
def test_a_step_that_ipython_does_not_know_is_explained(
    above: tuple[str, ...], says: str, remedy: str | None, tmp_path: Path, project: Project
) -> None:
    source = write(tmp_path / "in.ipynb", "a = 1", *above)
    with pytest.raises(PapermillExecutionError):
        papermill.execute_notebook(str(source), str(tmp_path / "out.ipynb"), engine_name="mlbench", progress_bar=False)
    (run,) = project.catalog.runs()
    assert run.failure is not None
    assert (run.failure.ename, run.failure.remedy) == ("UsageError", remedy)
    assert run.failure.evalue.startswith(says)
