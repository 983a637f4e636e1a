"""A snapshot's digest says what was written, not what running it has left behind."""

from __future__ import annotations

from mlbench.core.ids import Digest
from mlbench.core.records import Snapshot
from mlbench.runs.snapshots import is_module, notebook_bytes, snapshot_bytes, without_outputs
from mlbench.runs.values import digest_of

CELL = {"cell_type": "code", "id": "a", "source": "x = 1", "metadata": {"tags": ["parameters"]}, "outputs": []}


def test_a_notebook_that_was_run_has_the_digest_of_one_that_was_not() -> None:
    clean = {"cells": [{**CELL, "execution_count": None}], "metadata": {"kernelspec": {"name": "p"}}, "nbformat": 4}
    run = {
        "nbformat": 4,
        "metadata": {"kernelspec": {"name": "p"}, "widgets": {"state": {}}},
        "cells": [
            {
                **CELL,
                "execution_count": 7,
                "outputs": [{"output_type": "stream", "name": "stdout", "text": "secret"}],
                "metadata": {"tags": ["parameters"], "execution": {"iopub": "…"}, "trusted": True},
            }
        ],
    }
    assert notebook_bytes(without_outputs(run)) == notebook_bytes(without_outputs(clean)) == notebook_bytes(clean)
    assert run["cells"][0]["outputs"]  # it is left as it was


def test_markdown_cells_get_no_outputs() -> None:
    found = without_outputs({"cells": [{"cell_type": "markdown", "source": "# a", "metadata": {}}], "metadata": {}})
    assert "outputs" not in found["cells"][0]


def test_a_snapshots_bytes_do_not_depend_on_the_order_of_its_parts() -> None:
    some = Digest("blake3:" + "0" * 64)
    one = Snapshot(notebook=some, modules={"a.py": some, "b.py": some}, packages={"x": "1", "y": "2"})
    other = Snapshot(notebook=some, modules={"b.py": some, "a.py": some}, packages={"y": "2", "x": "1"})
    assert digest_of(snapshot_bytes(one)) == digest_of(snapshot_bytes(other))
    assert snapshot_bytes(one) != snapshot_bytes(Snapshot(notebook=some))


def test_python_files_of_environments_and_hidden_folders_are_no_modules() -> None:
    taken = ["delays.py", "lib/fit.py", "a/b/c.py"]
    left = [".venv/x.py", "venv/lib/python3.11/site-packages/pandas/io.py", "__pycache__/x.py", "x.txt", ".hidden.py"]
    assert [path for path in taken + left if is_module(path)] == taken
