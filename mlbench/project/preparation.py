"""What is checked before a notebook is run or promoted: its document, steps, parameters, kernel and folder.

Everything that is found is a `Finding`; `mlbench run` stops at the first error, the schedule dialog shows them all.
"""

from __future__ import annotations

import json
import os
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from mlbench.backends.runner_papermill import Kernel, find_kernel
from mlbench.core.errors import MlbenchError, NotebookError, ParameterError, UsageError
from mlbench.core.records import Json
from mlbench.notebook import diagnostics, document, graph
from mlbench.notebook import parameters as form
from mlbench.notebook.evidence import paths_meet
from mlbench.notebook.parameters import Parameter
from mlbench.project.environments import find_requirements

__all__ = ["Finding", "Preparation", "declared", "missing_environments", "prepare", "read_notebook"]

READ_LIMIT: Final = document.SIZE_LIMIT


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was checked: whether it is well, in one sentence, and the cell (its id) that it is about.

    `level` is `ok`, `warning` (worth a look) or `error` (nothing is run or stored until it is put right).
    """

    level: str
    text: str
    cell: str | None = None
    parameter: str | None = None
    error: MlbenchError | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """A notebook with what is known of it before it runs. `values` are the parameters given, converted."""

    path: str
    nb: Json
    kernel: Kernel | None
    parameters: tuple[Parameter, ...]
    values: Json
    steps: tuple[str, ...]
    findings: tuple[Finding, ...]

    @property
    def name(self) -> str:
        """What the notebook is called in sentences."""
        return Path(self.path).name

    def require(self) -> None:
        """Raise the first error that was found, if one was."""
        for finding in self.findings:
            if finding.level == "error":
                raise finding.error or UsageError(finding.text)


def read_notebook(path: str) -> Json:
    """Return a checked notebook from a file.

    Raises
    ------
    NotebookError
        If it is no file of reasonable size, cannot be read, or is no notebook.
    """
    name = Path(path).name or path
    if "\0" in path:
        raise NotebookError("A path cannot hold a null character.")
    where = Path(path)
    try:
        if where.is_dir():
            raise NotebookError(f"{path} is a folder, not a notebook.", "Name the .ipynb file in it.")
        if not where.exists():
            raise NotebookError(f"There is no notebook {path}.", _near(where))
        if not where.is_file():
            raise NotebookError(f"{path} is not a regular file.", "Name an .ipynb file.")
        data = where.read_bytes()
    except OSError as error:
        raise NotebookError(f"{path} cannot be read: {error.strerror or error}.") from error
    return document.read(data, name)


def declared(nb: Json) -> tuple[Parameter, ...]:
    """Return the parameters that a notebook declares; none if its cell is no Python, or cannot be told."""
    if document.language(nb) not in (None, "python"):
        return ()
    try:
        cell = document.parameters_cell(nb)
        return form.read(cell.source) if cell is not None else ()
    except (ParameterError, NotebookError):
        return ()  # it runs all the same, as papermill would run it


def prepare(
    path: str,
    *,
    content: Json | None = None,
    given: Mapping[str, Any] | None = None,
    kernel: str | None = None,
) -> Preparation:
    """Check a notebook, from its file or as its user sees it, with values for its parameters.

    Raises
    ------
    NotebookError
        If there is no notebook to speak of; all else is a finding.
    """
    where = os.path.abspath(path)
    name = Path(where).name
    if content is None:
        nb = read_notebook(path)
    else:
        try:
            nb = document.read(json.dumps(content).encode("utf-8"), name)
        except (TypeError, ValueError, RecursionError) as error:
            raise NotebookError(f"{name} is not a notebook that can be written as JSON.") from error
    findings: list[Finding] = []
    steps = _check_steps(nb, name, findings)
    chosen = _check_kernel(nb, name, kernel, findings)
    declared, values = _check_parameters(nb, name, given or {}, findings)
    return Preparation(
        path=where,
        nb=nb,
        kernel=chosen,
        parameters=declared,
        values=values,
        steps=steps,
        findings=tuple(findings),
    )


def missing_environments(prepared: Preparation) -> Iterator[graph.Problem]:
    """Yield the steps whose `--env` names no environment, or one that cannot be made.

    A file that a plain cell above writes is only noted: it may well be there when the step is run.
    """
    built, followed = graph.follow(document.cells(prepared.nb))
    for step in built.steps:
        env = step.options.env
        if env is None:
            continue
        try:
            find_requirements(env, prepared.path)
        except UsageError as error:
            writer = None if _is_there(env, prepared.path) else _written_above(env, step.number, followed)
            if writer is None:
                yield graph.Problem(step.number, 1, "error", f"Cell {step.number}: {error}", step.cell)
            else:
                note = (
                    f"Cell {step.number}: --env {env} is not there yet, cell {writer} writes it: it was not looked at."
                )
                yield graph.Problem(step.number, 1, "warning", note, step.cell)


def _is_there(env: str, notebook: str) -> bool:
    return (Path(notebook).parent / Path(env).expanduser()).exists()


def _written_above(env: str, number: int, followed: Sequence[graph.Followed]) -> int | None:
    """Return the number of the first plain cell above a cell that writes the file that an `--env` names."""
    for one in followed:
        if one.step is None and one.cell.number < number:
            for path in one.names.writes_paths:
                if posixpath.basename(path) == posixpath.basename(env) and paths_meet(path, env):
                    return one.cell.number
    return None


def _check_steps(nb: Json, name: str, findings: list[Finding]) -> tuple[str, ...]:
    if not document.has_steps(nb):
        findings.append(Finding(level="ok", text="no steps: the cells run from top to bottom"))
        return ()
    problems = diagnostics.check(nb)
    for problem in problems:
        sentence = diagnostics.told(problem, name)
        if problem.severity == "error":
            error = NotebookError(sentence)
            findings.append(Finding(level="error", text=sentence, cell=problem.cell_id, error=error))
        else:
            findings.append(Finding(level="warning", text=problem.sentence, cell=problem.cell_id))
    steps = tuple(step.name for step in graph.build(document.cells(nb)).steps)
    if not any(problem.severity == "error" for problem in problems):
        count = f"{len(steps)} steps form" if len(steps) != 1 else "1 step forms"
        findings.append(Finding(level="ok", text=f"{count} a graph"))
    return steps


def _check_kernel(nb: Json, name: str, chosen: str | None, findings: list[Finding]) -> Kernel | None:
    try:
        kernel = find_kernel(chosen or document.kernel_name(nb, name), name)
    except NotebookError as error:
        findings.append(Finding(level="error", text=str(error), error=error))
        return None
    findings.append(Finding(level="ok", text=f"kernel {kernel.name} is {kernel.interpreter}"))
    return kernel


def _check_parameters(
    nb: Json, name: str, given: Mapping[str, Any], findings: list[Finding]
) -> tuple[tuple[Parameter, ...], Json]:
    try:
        cell = document.parameters_cell(nb, name)
        declared = form.read(cell.source) if cell is not None else ()
    except (ParameterError, NotebookError) as error:
        findings.append(Finding(level="error", text=str(error), error=error))
        return (), {}
    if cell is None and given:
        none = ParameterError(
            f"{name} has no cell tagged `parameters`, so it takes no parameter {_shown(next(iter(given)))}.",
            "Tag the cell that sets its defaults.",
        )
        findings.append(Finding(level="error", text=str(none), parameter=next(iter(given)), error=none))
        return (), {}
    values: Json = {}
    well = True
    for key, value in given.items():
        try:
            values.update(form.convert(declared, {key: value}))
        except ParameterError as error:
            well = False
            findings.append(Finding(level="error", text=str(error), parameter=key, error=error))
    for parameter in declared:
        if parameter.required and parameter.name not in given:
            well = False
            missing = ParameterError(
                f"{name} needs a value for its parameter {parameter.name}.", f"Give one: -p {parameter.name}=VALUE"
            )
            findings.append(Finding(level="error", text=str(missing), parameter=parameter.name, error=missing))
    if declared and well:
        findings.append(Finding(level="ok", text="parameters are typed"))
    return declared, values


def _shown(key: str) -> str:
    return repr(key if len(key) <= 40 else f"{key[:36]} ...")


def _near(where: Path) -> str | None:
    """Return a hint at a notebook of nearly this name in the same folder."""
    import difflib

    try:
        names = [found.name for found in where.parent.glob("*.ipynb")]
    except OSError:
        return None
    near = difflib.get_close_matches(where.name, names, 1)
    return f"Did you mean {where.with_name(near[0])}?" if near else None
