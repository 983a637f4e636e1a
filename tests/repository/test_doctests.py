"""The examples in docstrings are true."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PURE = ("core", "notebook", "runs", "delivery")
FILES = sorted(file for folder in PURE for file in (ROOT / "mlbench" / folder).rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_docstrings_examples_are_true(file: Path) -> None:
    parts = file.relative_to(ROOT).with_suffix("").parts
    module = importlib.import_module(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("script", ["hatch_build.py", "examples/delays.py"])
def test_the_examples_of_a_script_are_true(script: str) -> None:
    pytest.importorskip("hatchling" if script == "hatch_build.py" else "sklearn")
    answer = subprocess.run(
        [sys.executable, "-m", "doctest", script], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
