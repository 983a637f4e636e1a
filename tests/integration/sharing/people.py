"""Two people on one store: each with a home, a key, a runtime folder and, where the test may, a uid of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
from nbformat.v4 import new_code_cell, new_notebook

ROOT = Path(__file__).resolve().parents[3]
GROUP = 54_321
"""The group of those who share, where there are several uids."""

PATIENCE = 120
PATHS = os.pathsep.join([str(ROOT), *{sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}])
"""Where Python finds mlbench and what it needs, also one that is not in this environment."""


@dataclass
class Person:
    """Somebody who works on the shared store, in processes of their own."""

    name: str
    store: Path
    uid: int | None = None
    catalog: str | None = None
    interpreter: str = sys.executable
    home: Path = field(init=False)

    def __post_init__(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="mlb"))
        (self.home / "run").mkdir(mode=0o700)
        if self.uid is not None:
            for path in (self.home, self.home / "run"):
                os.chown(path, self.uid, self.uid)

    @property
    def variables(self) -> dict[str, str]:
        """Return the environment of this person's processes."""
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "MPLCONFIGDIR") if name in os.environ}
        own = {
            "HOME": str(self.home),
            "LOGNAME": self.name,
            "USER": self.name,
            "PYTHONPATH": PATHS,
            "IPYTHONDIR": str(self.home / "ipython"),
            "JUPYTER_RUNTIME_DIR": str(self.home / "jupyter"),
            "JUPYTER_DATA_DIR": str(self.home / "jupyter-data"),
            "MPLCONFIGDIR": str(self.home / "mpl"),
            "MLBENCH_KEYS": str(self.home / "keys"),
            "MLBENCH_RUNTIME": str(self.home / "run"),
            "MLBENCH_STORE": str(self.store),
            "MLBENCH_OWN_SERVICE": "1",
        }
        return kept | own | ({"MLBENCH_CATALOG": self.catalog} if self.catalog is not None else {})

    def start(self, *command: str, **more: Any) -> subprocess.Popen[str]:
        """Start a process as this person."""
        who: dict[str, Any] = {}
        if self.uid is not None:
            who = {"user": self.uid, "group": self.uid, "extra_groups": [GROUP], "umask": 0o022}
        return subprocess.Popen(
            command, env=self.variables, cwd=self.home, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **who
        )

    def python(self, code: str) -> str:
        """Run Python as this person; return what it printed."""
        return self._said(self.start(self.interpreter, "-c", code))

    def mlbench(self, *arguments: str, status: int = 0) -> str:
        """Run a command as this person; return what it printed."""
        program = "from mlbench.entrypoints.cli import main; main()"
        return self._said(self.start(self.interpreter, "-P", "-c", program, *arguments), status)

    def notebook(self, *sources: str, name: str = "work.ipynb") -> Path:
        """Write a notebook of this person's."""
        cells = [new_code_cell(source) for source in sources]
        for place, cell in enumerate(cells):
            cell["id"] = f"cell-{place}"
        spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
        made = new_notebook(cells=cells, metadata={"kernelspec": spec})
        path = self.home / name
        path.write_text(nbformat.writes(made), encoding="utf-8")
        if self.uid is not None:
            os.chown(path, self.uid, self.uid)
        return path

    def run(self, *sources: str, status: int = 0, more: tuple[str, ...] = ()) -> str:
        """Run a notebook; return the run's id."""
        path = self.notebook("%load_ext mlbench", *sources)
        self.mlbench("run", str(path), *more, status=status)
        found: list[dict[str, Any]] = json.loads(self.mlbench("runs", "--mine", "-n", "1", "--json"))
        return str(found[0]["id"])

    def leave(self) -> None:
        """Remove what this person had."""
        shutil.rmtree(self.home, ignore_errors=True)

    def _said(self, process: subprocess.Popen[str], status: int = 0) -> str:
        out, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == status, f"{self.name}: {out}\n{errors}"
        return out if status == 0 else out + errors
