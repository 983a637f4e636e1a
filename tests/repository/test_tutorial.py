"""What the tutorial and the example say happens, happens."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

BLOCK = re.compile(r"(?:<!-- (?P<note>[^>]*) -->\n)?```python\n(?P<source>.*?)```", re.DOTALL)
RUN = "from mlbench.entrypoints.cli import main; main()"


@pytest.fixture
def surroundings(tmp_path: Path) -> dict[str, str]:
    """Return an environment with a store of its own, in which a run ends the service that it starts."""
    return {**os.environ, "MLBENCH_STORE": str(tmp_path / "store"), "MLBENCH_OWN_SERVICE": "1"}


def mlbench(*arguments: str, env: dict[str, str], cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command of mlbench to its end."""
    command = [sys.executable, "-c", RUN, *arguments]
    return subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, check=False, timeout=500)


def tutorial(root: Path, *, failing: bool) -> Any:
    """Return the tutorial's blocks as a notebook, with or without the mistake that it makes on purpose."""
    return notebook_of((root / "docs" / "tutorial" / "first-notebook.md").read_text("utf-8"), failing=failing)


def notebook_of(text: str, *, failing: bool = False) -> Any:
    """Return the blocks of Python in a page as a notebook."""
    notebook: Any = nbformat.v4.new_notebook(  # type: ignore[no-untyped-call]
        metadata={"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}}
    )
    for place, block in enumerate(BLOCK.finditer(text)):
        note = block["note"] or ""
        if note.startswith("not run") or (note == "cell: fails" and not failing):
            continue
        cell: Any = nbformat.v4.new_code_cell(block["source"].strip(), id=f"cell{place}")  # type: ignore[no-untyped-call]
        if note == "cell: parameters":
            cell.metadata["tags"] = ["parameters"]
        notebook.cells.append(cell)
    nbformat.validate(notebook)
    return notebook


def test_the_tutorials_notebook_runs(root: Path, tmp_path: Path, surroundings: dict[str, str]) -> None:
    file = tmp_path / "diabetes.ipynb"
    nbformat.write(tutorial(root, failing=False), file)  # type: ignore[no-untyped-call]
    answer = mlbench("run", str(file), "-p", "strength=2.0", env=surroundings)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    listed = mlbench("runs", "--json", env=surroundings)
    (run,) = json.loads(listed.stdout)
    assert run["state"] == "succeeded"
    assert run["parameters"] == {"strength": 2.0, "folds": 5}


def test_the_tutorials_mistake_fails_as_it_says(root: Path, tmp_path: Path, surroundings: dict[str, str]) -> None:
    file = tmp_path / "diabetes.ipynb"
    nbformat.write(tutorial(root, failing=True), file)  # type: ignore[no-untyped-call]
    answer = mlbench("run", str(file), env=surroundings)
    assert answer.returncode == 1, answer.stdout + answer.stderr
    assert "oops" in answer.stdout + answer.stderr


def test_the_example_runs_and_two_of_its_steps_overlap(root: Path, surroundings: dict[str, str]) -> None:
    pytest.importorskip("sklearn")
    answer = mlbench("run", str(root / "examples" / "flights.ipynb"), "-p", "rounds=20", env=surroundings)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    (run,) = json.loads(mlbench("runs", "--json", env=surroundings).stdout)
    shown = json.loads(mlbench("show", run["id"], "--json", env=surroundings).stdout)
    steps = {execution["step"]: execution for execution in shown["executions"]}
    assert list(steps) == ["load", "features", "baseline", "train", "evaluate"]
    assert {execution["state"] for execution in steps.values()} == {"succeeded"}
    assert steps["baseline"]["started"] < steps["train"]["ended"]
    assert steps["train"]["started"] < steps["baseline"]["ended"]
    assert {metric["name"] for metric in steps["evaluate"]["metrics"]} == {"skill", "gain"}
    assert steps["train"]["fanout"]["succeeded"] == steps["train"]["fanout"]["total"] >= 6


def test_the_sweep_trains_a_model_for_each_pair(root: Path, surroundings: dict[str, str]) -> None:
    pytest.importorskip("sklearn")
    sweep = str(root / "examples" / "sweep.ipynb")
    answer = mlbench("run", sweep, "-p", "groups=12", "-p", "settings=10", env=surroundings)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "×120 · 120 done" in answer.stdout
    (run,) = json.loads(mlbench("runs", "--json", env=surroundings).stdout)
    shown = json.loads(mlbench("show", run["id"], "--json", env=surroundings).stdout)
    (swept,) = (execution for execution in shown["executions"] if execution["step"] == "sweep")
    assert swept["fanout"]["shape"] == [12, 10]
    assert swept["fanout"]["succeeded"] == 120
    assert {bound["name"] for bound in swept["binds"]} == {"model", "off"}


def test_the_first_notebook_of_the_readme_runs(root: Path, tmp_path: Path, surroundings: dict[str, str]) -> None:
    pytest.importorskip("sklearn")
    text = (root / "README.md").read_text("utf-8")
    first = text[text.index("## A first notebook") : text.index("Afterwards, here or in another notebook")]
    file = tmp_path / "first.ipynb"
    nbformat.write(notebook_of(first), file)  # type: ignore[no-untyped-call]
    answer = mlbench("run", str(file), "--output", str(tmp_path / "executed.ipynb"), env=surroundings)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    executed: Any = nbformat.read(tmp_path / "executed.ipynb", 4)  # type: ignore[no-untyped-call]
    assert executed.cells[-1].outputs[-1].text == "explained at best: 48%\n"


@pytest.mark.parametrize("name", ["flights", "sweep"])
def test_the_examples_are_committed_without_outputs(root: Path, name: str) -> None:
    notebook = json.loads((root / "examples" / f"{name}.ipynb").read_text("utf-8"))
    nbformat.validate(notebook)
    for cell in notebook["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


def shown(line: str) -> re.Pattern[str]:
    """Return what fits a line of output in a page, in which "…" stands for whatever it is."""
    parts = (r"\s+".join(map(re.escape, part.split(" "))) for part in re.sub(" +", " ", line).split("…"))
    return re.compile(r"\s*" + ".*".join(parts) + r"\s*")


def test_the_page_about_results_can_be_followed_to_the_letter(
    root: Path, tmp_path: Path, surroundings: dict[str, str]
) -> None:
    text = (root / "docs" / "tutorial" / "results.md").read_text("utf-8")
    nbformat.write(notebook_of(text), tmp_path / "results.ipynb")  # type: ignore[no-untyped-call]
    ids: list[str] = []
    for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL):
        output: list[str] = []
        for line in block.splitlines():
            if not line.startswith("$ "):
                fitting = [place for place, each in enumerate(output) if shown(line).fullmatch(each)]
                assert fitting, f"{line!r} is not in {output}"
                del output[: fitting[0] + 1]
                continue
            words = {"RUN": ids[0] if ids else "", "STORE": surroundings["MLBENCH_STORE"]}
            _, *arguments = [words.get(word, word) for word in shlex.split(line[2:])]
            answer = mlbench(*arguments, env=surroundings, cwd=tmp_path)
            assert answer.returncode == 0, answer.stdout + answer.stderr
            output = answer.stdout.splitlines()
        if not ids:
            ids = [run["id"] for run in json.loads(mlbench("runs", "--json", env=surroundings).stdout)]
    assert len(ids) == 2
