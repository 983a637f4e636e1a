"""Runs a notebook through papermill and our engine, and finds the kernels that notebooks name.

papermill is imported where it is used: whoever only asks for a kernel does not pay for it.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from mlbench.core.errors import NotebookError
from mlbench.core.ids import Digest, JobId, NotebookId, RunId
from mlbench.core.records import Json, Run, RunKind

__all__ = ["Kernel", "Outcome", "RunRequest", "execute", "find_kernel", "installed_packages"]

ENGINE: Final = "mlbench"
REQUEST: Final = "mlbench_request"
"""The keyword under which papermill hands a `RunRequest` on to the engine."""

_THIS_PYTHON: Final = frozenset({"python", "python3", f"python3.{sys.version_info[1]}"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """A kernel that can be started: the spec's name, the full path of its interpreter, its command and variables."""

    name: str
    interpreter: str
    command: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """What `mlbench run` and a job ask of the engine beyond what papermill can say.

    `path` are folders that come first on the kernel's `sys.path`; `watch` is called with what happens: runs, cells,
    executions and messages, each a dictionary with a `type`. `snapshot` is set where one was made already, and
    `interpreter` where the kernel must be that one; `resume` is a run, by its id or the beginning of it, whose steps
    are reused where they succeeded and are unchanged; `marks` has an id written into the notebook's file if it needs
    one; a `private` kernel speaks over sockets that only its user can open, where papermill's own listen on TCP ports
    of this machine.
    """

    kind: RunKind = "papermill"
    run: RunId | None = None
    notebook: str | None = None
    notebook_id: NotebookId | None = None
    name: str | None = None
    store: str | None = None
    snapshot: Digest | None = None
    interpreter: str | None = None
    marks: bool = False
    private: bool = False
    path: tuple[str, ...] = ()
    job: JobId | None = None
    job_version: int | None = None
    due: int | None = None
    resume: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    watch: Callable[[Json], None] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run through papermill ended: its record (None if it never began) and what stopped it, if anything."""

    run: Run | None
    error: Exception | None = None


def execute(
    nb: Mapping[str, Any],
    request: RunRequest,
    *,
    parameters: Mapping[str, Any],
    folder: str,
    output: str | None = None,
    scratch: Path,
    kernel: str | None = None,
    cell_timeout: int | None = None,
) -> Outcome:
    """Run a checked notebook through papermill, in a folder, and say how it ended.

    Parameters
    ----------
    output
        The path of the executed notebook; without it, it is kept in the store alone.
    scratch
        An empty folder, which papermill reads the notebook from.

    Raises
    ------
    MlbenchError
        What a user can put right, before any cell was run.
    """
    _quiet()
    import papermill
    from papermill.exceptions import PapermillExecutionError

    from mlbench.core.errors import MlbenchError

    last: list[Run] = []
    outer = request.watch

    def watch(news: Json) -> None:
        if news["type"] == "run":
            last[:] = [news["run"]]
        if outer is not None:
            outer(news)

    language = nb.get("metadata", {}).get("kernelspec", {}).get("language")
    source = scratch / (Path(request.notebook).name if request.notebook else "notebook.ipynb")
    source.write_text(json.dumps(nb, ensure_ascii=False), encoding="utf-8")
    try:
        papermill.execute_notebook(
            str(source),
            str(Path(output).absolute()) if output else None,
            parameters=dict(parameters) or None,
            engine_name=ENGINE,
            kernel_name=kernel,
            language=language or "python",
            progress_bar=False,
            cwd=folder,
            execution_timeout=cell_timeout,
            **{REQUEST: _with(request, watch)},
        )
    except PapermillExecutionError as error:
        return Outcome(run=last[0] if last else None, error=error)
    except MlbenchError:
        if not last:
            raise
        return Outcome(run=last[0], error=sys.exc_info()[1])  # type: ignore[arg-type]
    except Exception as error:
        if not last:
            raise
        return Outcome(run=last[0], error=error)
    return Outcome(run=last[0] if last else None)


def _with(request: RunRequest, watch: Callable[[Json], None]) -> RunRequest:
    from dataclasses import replace

    return replace(request, watch=watch, private=True)


def _quiet() -> None:
    """Keep papermill's own log out of the terminal, and Python's debugger from warning about frozen modules."""
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    logging.getLogger("papermill").setLevel(logging.ERROR)
    logging.getLogger("traitlets").setLevel(logging.ERROR)


def find_kernel(name: str, notebook: str = "The notebook") -> Kernel:
    """Return the kernel of a name, its interpreter as a full path.

    Raises
    ------
    NotebookError
        If there is no such kernel, or its interpreter is gone; the installed ones are named.
    """
    spec = _installed_spec(name) or _any_spec(name, notebook)
    command = tuple(spec["argv"])
    program = command[0] if command else ""
    found = sys.executable if program in _THIS_PYTHON else shutil.which(program)
    if not found:
        raise NotebookError(
            f'{notebook}: the interpreter {program or "(none)"} of its kernel "{name}" is not on this machine.',
            "Install the kernel again, or choose another one.",
        )
    return Kernel(name=name, interpreter=os.path.abspath(found), command=command, variables=dict(spec["env"]))


def _installed_spec(name: str) -> Json | None:
    """Return the specification of a kernel from its file, without loading Jupyter's client, which takes long."""
    from jupyter_core.paths import jupyter_path

    if not re.fullmatch(r"[a-z0-9._-]+", name):  # as it is spelled in most notebooks; the client knows the others
        return None
    for folder in jupyter_path("kernels"):
        try:
            spec = json.loads(Path(folder, name, "kernel.json").read_text("utf-8"))
        except (OSError, ValueError):
            continue
        return {"argv": spec.get("argv", []), "env": spec.get("env", {})} if isinstance(spec, dict) else None
    return None


def _any_spec(name: str, notebook: str) -> Json:
    """Return the specification of a kernel as Jupyter finds it."""
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    specs = KernelSpecManager()
    try:
        spec = specs.get_kernel_spec(name)
    except (NoSuchKernel, ValueError, OSError) as error:
        known = sorted(specs.find_kernel_specs())
        shown = name if len(name) <= 64 else f"{name[:60]} ..."
        raise NotebookError(
            f'{notebook}: there is no kernel "{shown}" on this machine.',
            f"Choose one of these in the notebook or with --kernel: {', '.join(known) or 'none is installed'}.",
        ) from error
    return {"argv": list(spec.argv), "env": dict(spec.env)}


_DIST_INFO: Final = re.compile(r"(?P<name>[A-Za-z0-9._]+?)-(?P<version>[^-]+)\.(?:dist|egg)-info")


@lru_cache(maxsize=16)
def _site_packages(interpreter: str) -> tuple[str, ...]:
    if os.path.abspath(interpreter) == os.path.abspath(sys.executable):
        return tuple(entry for entry in sys.path if entry and Path(entry).is_dir())
    root = Path(interpreter).parent.parent
    return tuple(str(found) for pattern in ("lib", "lib64") for found in root.glob(f"{pattern}/python3*/site-packages"))


def installed_packages(interpreter: str) -> dict[str, str]:
    """Return the packages beside an interpreter and their versions, without starting it.

    They are read from the names of their metadata folders: a few milliseconds for hundreds.
    """
    packages: dict[str, str] = {}
    for folder in _site_packages(interpreter):
        try:
            names = os.listdir(folder)
        except OSError:
            continue
        for name in names:
            found = _DIST_INFO.fullmatch(name)
            if found is not None:
                packages.setdefault(found["name"].replace("_", "-").lower(), found["version"])
    return dict(sorted(packages.items()))


def python_version(interpreter: str) -> str | None:
    """Return an interpreter's version as far as its folders tell it: `3.11.4`, or `3.11`."""
    if os.path.abspath(interpreter) == os.path.abspath(sys.executable):
        return ".".join(map(str, sys.version_info[:3]))
    settings = Path(interpreter).parent.parent / "pyvenv.cfg"
    if settings.is_file():
        found = re.search(r"^version(?:_info)?\s*=\s*(\d+\.\d+(?:\.\d+)?)", settings.read_text("utf-8"), re.MULTILINE)
        if found is not None:
            return found[1]
    for folder in _site_packages(interpreter):
        found = re.search(r"python(3\.\d+)", folder)
        if found is not None:
            return found[1]
    return None
