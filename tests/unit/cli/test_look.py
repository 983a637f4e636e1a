"""`mlbench graph` and `mlbench check`: what they print, and how they end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mlbench.entrypoints.cli import main

CELLS = (
    "%load_ext mlbench",
    "%%step load\nrows = [1, 2]\nnames = ['a']",
    "%%step train --foreach name in names --foreach n in range(3)\nmodel = rows, name, n",
    "%%step report\nprint(model)",
)


def written(folder: Path, *cells: str, kernel: str = "python3", parameters: str | None = None) -> str:
    """Write a notebook and return its path."""
    sources = [*([parameters] if parameters else []), *cells]
    document = {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {"kernelspec": {"name": kernel, "display_name": kernel, "language": "python"}},
        "cells": [
            {
                "cell_type": "code",
                "id": f"c{number}",
                "metadata": {"tags": ["parameters"]} if source == parameters else {},
                "source": source,
                "outputs": [],
                "execution_count": None,
            }
            for number, source in enumerate(sources, 1)
        ],
    }
    path = folder / "work.ipynb"
    path.write_text(json.dumps(document))
    return str(path)


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    captured = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, captured.out, captured.err


def test_a_graph_is_told_line_by_line_with_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = call(capsys, "graph", written(tmp_path, *CELLS))
    assert status == 0
    assert [" ".join(line.split()) for line in out.splitlines()] == [
        "load cell 2",
        "train × name × n cell 3 after load (reads names and rows)",
        "report cell 4 after train (reads model)",
    ]


def test_a_graph_as_mermaid_keeps_what_is_text_apart_from_what_is_syntax(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = ("%%step a\nframe.to_csv('out/x\"; end#.csv')", "%%step b\nrows = load('out/x\"; end#.csv')")
    _, out, _ = call(capsys, "graph", written(tmp_path, *cells), "--format", "mermaid")
    head, first, second, edge = out.splitlines()
    assert (head, first, second) == ("graph TD", '  s0["a"]', '  s1["b"]')
    assert edge == '  s0 -->|"names out/x#34;#59; end#35;.csv, which a writes"| s1'


@pytest.mark.parametrize("arguments", [["--json"], ["--format", "json"]])
def test_a_graph_as_json_has_steps_edges_and_problems(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    found = json.loads(call(capsys, "graph", written(tmp_path, *CELLS, "%%step load\nx = 1"), *arguments)[1])
    train = found["steps"][1]
    assert (train["name"], train["number"], train["cell"], train["parents"]) == ("train", 3, "c3", ["load"])
    assert train["foreach"] == [{"name": "name", "expression": "names"}, {"name": "n", "expression": "range(3)"}]
    assert train["binds"] == ["model"]
    assert found["edges"][0] == {
        "parent": "load",
        "child": "train",
        "kind": "name",
        "why": "reads names and rows",
        "names": ["names", "rows"],
    }
    assert found["problems"][0]["cell"] == 5


def test_a_graph_with_problems_is_shown_and_they_are_told_beside_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = call(capsys, "graph", written(tmp_path, *CELLS, "%%step load\nx = 1"))
    assert (status, len(out.splitlines())) == (0, 3)
    assert "both step load" in err


def test_a_notebook_without_steps_says_how_to_make_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "`%%step NAME`" in call(capsys, "graph", written(tmp_path, "x = 1"))[1]


def test_a_notebook_in_which_nothing_would_fail_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = call(capsys, "check", written(tmp_path, *CELLS))
    assert status == 0
    assert "nothing would fail" in out
    assert "3 steps" in out


def test_all_that_would_fail_is_told_with_its_cell_and_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(
        tmp_path,
        *CELLS,
        "%%step load\nx = 1",
        "%%step late --timout 3m\nx = 1",
        "print(nothing)",
        parameters="day: str",
        kernel="gone",
    )
    status, out, _ = call(capsys, "check", path, "-p", "dya=today")
    assert status == 1
    lines = [line for line in out.splitlines() if line.startswith("✗")]
    expected = (
        "Cells 3 and 6 are both step load",
        "Cell 7: Unknown option --timout: did you mean --timeout?",
        "Cell 8: it reads nothing, which no cell above binds",
        'there is no kernel "gone" on this machine',
        "Unknown parameter dya: did you mean day?",
        "needs a value for its parameter day",
    )
    assert len(lines) == len(expected)
    for line, words in zip(lines, expected, strict=True):
        assert words in line
    assert out.splitlines()[-1] == "work.ipynb: 6 things would fail."


def test_what_the_kernel_would_refuse_at_once_fails_the_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(
        tmp_path,
        "%load_ext mlbench\nimport asyncio\nawait asyncio.sleep(0)",
        "%%step early\nx = 1\nreturn x",
        "%%step few --outputs nope\na = 1",
        "%%step less --no-store nope\nb = 1",
        "%%step apart --env nope\nc = 1",
        "%%step all --foreach n in range(2) --outputs d\n%time d = n",
    )
    status, out, _ = call(capsys, "check", path)
    assert status == 1
    assert [line.removeprefix("✗ ") for line in out.splitlines() if line.startswith("✗")] == [
        "Cell 2, line 3: 'return' outside function.",
        "Cell 3: --outputs names nope, which step few does not bind. It binds a.",
        "Cell 4: --no-store names nope, which step less does not bind. It binds b.",
        (
            "Cell 5: --env nope: there is no environment of this name. "
            'Write [tool.mlbench.environments.NAME] with requirements = ["…"] into pyproject.toml.'
        ),
    ]


WRITERS = {
    "a magic": "%%writefile requirements.txt\nsix\n",
    "a call": "with open('requirements.txt', 'w') as file:\n    file.write('six')",
    "a path": "from pathlib import Path\nPath('./requirements.txt').write_text('six')",
}


@pytest.mark.parametrize("writer", WRITERS.values(), ids=list(WRITERS))
def test_requirements_that_a_cell_above_writes_are_only_noted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], writer: str
) -> None:
    step = "%%step apart --env requirements.txt\nc = 1"
    status, out, _ = call(capsys, "check", written(tmp_path, "%load_ext mlbench", writer, step))
    assert status == 0
    assert out.splitlines()[0] == (
        "! Cell 3: --env requirements.txt is not there yet, cell 2 writes it: it was not looked at."
    )
    status, out, _ = call(capsys, "check", written(tmp_path, "%load_ext mlbench", step, writer))
    assert status == 1, "a cell below comes too late"
    assert "✗ Cell 2: --env requirements.txt: there is no file" in out
    (tmp_path / "requirements.txt").write_text("-e .\n")
    status, out, _ = call(capsys, "check", written(tmp_path, "%load_ext mlbench", writer, step))
    assert status == 1, "what is there already can be looked at"


def test_a_check_as_json_has_each_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = call(capsys, "check", written(tmp_path, *CELLS, "print(nothing)"), "--json")
    found = json.loads(out)
    assert status == 1
    assert found["steps"] == ["load", "train", "report"]
    (problem,) = found["problems"]
    assert (problem["cell"], problem["cell_id"], problem["line"], problem["severity"]) == (5, "c5", 1, "error")


def test_a_warning_alone_lets_a_notebook_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = call(capsys, "check", written(tmp_path, "%load_ext mlbench", "n = n + 1"))
    assert status == 0
    assert out.splitlines()[0].startswith("! Cell 2: it reads n, before it binds it")


@pytest.mark.parametrize("command", ["graph", "check"])
def test_what_is_no_notebook_is_wrong_use(tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    (tmp_path / "a.ipynb").write_text("{}")
    assert call(capsys, command, str(tmp_path / "none.ipynb"))[0] == 2
    assert call(capsys, command, str(tmp_path / "a.ipynb"))[0] == 2


@pytest.mark.parametrize("command", ["graph", "check"])
def test_looking_at_a_notebook_loads_nothing_heavy(tmp_path: Path, command: str) -> None:
    path = written(tmp_path, *CELLS)
    code = (
        f"import sys; from mlbench.entrypoints.cli import main\n"
        f"try:\n    main([{command!r}, {path!r}])\nexcept SystemExit as end:\n    assert not end.code\n"
        "heavy = {'IPython', 'jupyter_client', 'nbformat', 'papermill', 'sqlalchemy', 'distributed', 'rich', 'zmq'}\n"
        "print('LOADED', sorted(heavy & set(sys.modules)))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert said.stdout.splitlines()[-1] == "LOADED []"
