"""The tree keeps its shape: what may import what, and what must not be loaded by whom."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PURE = ("core", "notebook", "runs", "delivery")
HEAVY = (
    "alembic", "cloudpickle", "dask", "distributed", "matplotlib", "nbclient", "numpy", "pandas", "papermill",
    "pyarrow", "sklearn", "sqlalchemy", "tornado",
)  # fmt: skip
ON_DEMAND = {"mlbench.runs.pickles"}
"""A module that is itself imported where it is used, because it subclasses what a heavy library offers."""

UNPICKLERS = ("cloudpickle", "dill", "joblib", "pickle", "shelve", "torch")
SERVERS = ("mlbench/entrypoints/labserver", "mlbench/entrypoints/cli", "mlbench/entrypoints/service")


def modules(folder: Path, root: Path) -> list[str]:
    """Return the import names of all modules in a folder."""
    names = []
    for file in sorted(folder.rglob("*.py")):
        parts = file.relative_to(root).with_suffix("").parts
        names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return names


def loaded_by(names: list[str]) -> set[str]:
    """Return the top-level packages that importing some modules loads, in a process of its own."""
    program = f"import importlib, sys\nfor name in {names!r}: importlib.import_module(name)\nprint(*sys.modules)"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    return {name.partition(".")[0] for name in answer.stdout.split()}


@pytest.mark.parametrize("folder", PURE)
def test_importing_a_pure_folder_loads_no_heavy_library(root: Path, folder: str) -> None:
    found = modules(root / "mlbench" / folder, root)
    assert found, f"mlbench/{folder} holds no module"
    assert not loaded_by([name for name in found if name not in ON_DEMAND]) & set(HEAVY)


def test_the_core_imports_the_standard_library_alone(root: Path) -> None:
    for file in (root / "mlbench" / "core").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                top = name.partition(".")[0]
                assert top in sys.stdlib_module_names or name.startswith("mlbench.core"), f"{file.name}: {name}"


def test_importing_mlbench_loads_neither_the_cluster_nor_the_catalog_nor_the_sciences() -> None:
    assert not loaded_by(["mlbench"]) & {"dask", "distributed", "numpy", "pandas", "papermill", "sqlalchemy"}


def test_what_serves_or_lists_holds_nothing_that_unpickles(root: Path) -> None:
    seen = 0
    for place in SERVERS:
        for file in (root / place).rglob("*.py"):
            seen += 1
            text = file.read_text("utf-8")
            assert "allow_pickle=True" not in text, file
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and not node.level:
                    names = [node.module or ""]
                else:
                    continue
                for name in names:
                    assert name.partition(".")[0] not in UNPICKLERS, f"{file.relative_to(root)} imports {name}"
    assert seen


def test_no_module_is_a_drawer(root: Path) -> None:
    drawers = {"utils", "util", "common", "helpers", "misc", "data", "info", "base"}
    assert not [file for file in (root / "mlbench").rglob("*.py") if file.stem in drawers]


def test_whoever_loads_values_for_a_user_says_which_may_run_code(root: Path) -> None:
    made = []
    for folder in ("project", "entrypoints"):
        for file in (root / "mlbench" / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text("utf-8"))):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Loader":
                    made.append(file.name)
                    judged = len(node.args) >= 3 or any(one.arg == "accepts" for one in node.keywords)
                    assert judged, f"{file.name}:{node.lineno}: a Loader without a judge loads everybody's pickles"
    assert made
