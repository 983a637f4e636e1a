"""Promote a notebook to a job, and what can be done with a job afterwards.

Promoting the same notebook under the same name again makes the next version of that job; runs that are under way go on
with the version that they started from. Everything is checked before anything is stored.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mlbench.backends import autostart
from mlbench.backends.owners import user_name
from mlbench.backends.runner_papermill import installed_packages, python_version
from mlbench.core.errors import NotebookError, NotFound, ScheduleError, UsageError
from mlbench.core.ids import JobId, new_id
from mlbench.core.records import Firing, Job, JobVersion, Json
from mlbench.delivery import schedule
from mlbench.notebook import document
from mlbench.notebook import step as step_line
from mlbench.notebook.cell import analyse
from mlbench.notebook.parameters import recorded
from mlbench.project.identity import identify, own_id
from mlbench.project.preparation import Finding, Preparation, prepare

if TYPE_CHECKING:
    from mlbench.project import Project

__all__ = ["Check", "Finding", "check_promotion", "delete", "pause", "promote", "run_now", "service_line"]

LONGEST_NAME: Final = 100
_NAME: Final = re.compile(r"[^\x00-\x1f\x7f\u202a-\u202e\u2066-\u2069]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What promoting would do: all that the schedule dialog and `mlbench schedule` show.

    `parameters` describes the form: name, type, default, help, required, value. `next` are the next five due times in
    their zone, ISO 8601. `service` is the line about whether the service starts with the machine.
    """

    name: str
    version: int
    findings: tuple[Finding, ...] = ()
    parameters: tuple[Json, ...] = ()
    values: Json = field(default_factory=dict)
    cron: str | None = None
    sentence: str | None = None
    next: tuple[str, ...] = ()
    service: str = ""

    @property
    def ok(self) -> bool:
        """Say whether nothing stands in the way."""
        return all(finding.level != "error" for finding in self.findings)


def check_promotion(
    project: Project,
    notebook: str,
    *,
    content: Json | None = None,
    parameters: Mapping[str, Any] | None = None,
    cron: str | None = None,
    timezone: str | None = None,
    name: str | None = None,
) -> Check:
    """Say what promoting a notebook would do, and what stands in its way; store nothing.

    Parameters
    ----------
    notebook
        The path of the notebook on this machine.
    content
        The notebook as its user sees it, an nbformat dictionary; without it the file is read.

    Raises
    ------
    NotebookError
        If there is no notebook to speak of.
    """
    return _check(project, notebook, content, parameters, cron, timezone, name)[0]


def promote(
    project: Project,
    notebook: str,
    *,
    content: Json | None = None,
    parameters: Mapping[str, Any] | None = None,
    cron: str | None = None,
    timezone: str | None = None,
    name: str | None = None,
    timeout: float | None = None,
) -> Job:
    """Make a notebook a job, or the next version of the job that it is, and return it.

    Raises
    ------
    UsageError
        What `check_promotion` found, in one sentence; then nothing is stored.
    """
    if timeout is not None and not 0 < timeout < float("inf"):
        raise UsageError(f"A timeout of {timeout:g} seconds cannot be kept.", "Give a positive number of seconds.")
    check, prepared, before = _check(project, notebook, content, parameters, cron, timezone, name)
    for finding in check.findings:
        if finding.level == "error":
            raise finding.error or UsageError(finding.text)
    assert prepared.kernel is not None
    interpreter = prepared.kernel.interpreter
    identifier = identify(project.catalog, prepared.path, prepared.nb)
    snapshot = project.snapshot(
        document.with_notebook_id(prepared.nb, identifier),
        prepared.path,
        interpreter,
        check.values,
        kernel_name=prepared.kernel.name,
        python=python_version(interpreter),
        packages=installed_packages(interpreter),
    )
    now = time.time_ns()
    version = JobVersion(
        number=check.version,
        snapshot=snapshot,
        parameters=check.values,
        created=now,
        user=user_name(),
        timeout=timeout,
    )
    job = Job(
        id=before.id if before is not None else JobId(new_id()),
        name=check.name,
        notebook=prepared.path,
        notebook_id=identifier,
        version=version,
        cron=check.cron,
        timezone=timezone if check.cron is not None else None,
        next_due=schedule.next_due(check.cron, timezone, now // 10**9) if check.cron is not None else None,
        last_due=before.last_due if before is not None else None,
        host=socket.gethostname(),
        user=user_name(),
        created=before.created if before is not None else now,
    )
    project.blobs.append("job-version", f"{job.id}-{version.number}", {"job": job.id, **asdict(version)}, durable=True)
    _put(project, job)
    project.catalog.put_job_version(job.id, version)
    return job


def pause(project: Project, job: str, *, paused: bool = True) -> Job:
    """Stop or resume a job's schedule; a job that is resumed is due at its next time, not at those that passed."""
    found = _find(project, job)
    if paused:
        changed = replace(found, paused=True)
    else:
        due = None
        if found.cron is not None:
            due = schedule.next_due(found.cron, found.timezone, int(time.time()))
        changed = replace(found, paused=False, problem=None, next_due=due)
    _put(project, changed)
    return changed


def delete(project: Project, job: str) -> Job:
    """Delete a job: it no longer runs, its runs stay."""
    changed = replace(_find(project, job), deleted=True, paused=True, next_due=None)
    _put(project, changed)
    return changed


def run_now(project: Project, job: str) -> Firing:
    """Queue a firing of a job for now, whether it has a schedule, is paused, or neither; the service runs it."""
    found = _find(project, job)
    firing = Firing(job=found.id, due=int(time.time()), state="queued", manual=True)
    while not project.catalog.add_firing(firing):
        # Another firing has this second already.
        firing = replace(firing, due=firing.due + 1)
    return firing


def service_line() -> str:
    """Return one line: whether the service starts with the machine, and what happens otherwise."""
    return autostart.describe()


# --- inside ------------------------------------------------------------------------------------------------------


def _find(project: Project, job: str) -> Job:
    found = project.catalog.job(job)
    if found.deleted:
        raise NotFound(f"The job {found.name} has been deleted.", "List the others with: mlbench jobs")
    return found


def _put(project: Project, job: Job) -> None:
    """Write a job: its record first, durably, so that a catalog made anew has it too."""
    project.blobs.append("job", job.id, asdict(job), durable=True)
    project.catalog.put_job(job)


def _check(
    project: Project,
    notebook: str,
    content: Json | None,
    parameters: Mapping[str, Any] | None,
    cron: str | None,
    timezone: str | None,
    name: str | None,
) -> tuple[Check, Preparation, Job | None]:
    prepared = prepare(notebook, content=content, given=parameters)
    findings = list(prepared.findings)
    line, sentence, times = _check_schedule(cron, timezone, findings)
    called, before = _check_name(project, prepared, name, findings)
    _check_surroundings(prepared, findings)
    values, defaults = recorded(prepared.values), recorded({one.name: one.default for one in prepared.parameters})
    check = Check(
        name=called,
        version=before.version.number + 1 if before is not None else 1,
        findings=tuple(findings),
        parameters=tuple(
            {
                "name": parameter.name,
                "type": parameter.type,
                "default": defaults[parameter.name],
                "help": parameter.help,
                "required": parameter.required,
                "value": values.get(parameter.name, defaults[parameter.name]),
            }
            for parameter in prepared.parameters
        ),
        values=values,
        cron=line,
        sentence=sentence,
        next=times,
        service=service_line(),
    )
    return check, prepared, before


def _check_schedule(
    cron: str | None, timezone: str | None, findings: list[Finding]
) -> tuple[str | None, str | None, tuple[str, ...]]:
    if cron is None:
        return None, None, ()
    try:
        line = schedule.check(cron, timezone)
    except ScheduleError as error:
        findings.append(Finding(level="error", text=str(error), error=error))
        return None, None, ()
    times = schedule.next_times(line, timezone, int(time.time()), 5)
    return line, schedule.sentence(line, timezone), tuple(each.isoformat() for each in times)


def _check_name(
    project: Project, prepared: Preparation, name: str | None, findings: list[Finding]
) -> tuple[str, Job | None]:
    """Return the job's name, and the job of this name that the notebook is already."""
    identifier = own_id(project.catalog, prepared.path, prepared.nb)
    called = (name or "").strip()
    if not called:
        called = Path(prepared.path).stem
        former = [job for job in project.catalog.jobs() if identifier is not None and job.notebook_id == identifier]
        if len(former) == 1 and not any(job.name == called for job in project.catalog.jobs()):
            return former[0].name, former[0]  # the notebook has a new name, and is the same job
    if len(called) > LONGEST_NAME or _NAME.fullmatch(called) is None:
        wrong = UsageError(
            f"A job's name has at most {LONGEST_NAME} characters and no control characters.", "Choose another name."
        )
        findings.append(Finding(level="error", text=str(wrong), error=wrong))
        return called[:LONGEST_NAME], None
    same = [job for job in project.catalog.jobs() if job.name == called]
    if not same:
        return called, None
    for job in same:
        if job.notebook == prepared.path or (identifier is not None and job.notebook_id == identifier):
            return called, job
    taken = UsageError(
        f'There is a job "{called}" already, of the notebook {same[0].notebook}.', "Choose another name with --name."
    )
    findings.append(Finding(level="error", text=str(taken), error=taken))
    return called, None


def _check_surroundings(prepared: Preparation, findings: list[Finding]) -> None:
    """Say which modules go along and which files of this machine are named; the folder has to be there."""
    folder = Path(prepared.path).parent
    if not folder.is_dir():
        gone = NotebookError(f"The folder {folder} of the notebook is not there.", "Save the notebook in a folder.")
        findings.append(Finding(level="error", text=str(gone), error=gone))
        return
    modules = {found.name for found in folder.glob("*.py")}
    packages = {found.parent.name for found in folder.glob("*/__init__.py")}
    for cell in document.cells(prepared.nb):
        try:
            step = step_line.parse(cell.source)
            names = analyse(cell.source if step is None else step.body)
        except (SyntaxError, UsageError):
            continue  # said above, with the steps
        for target in {module.split(":")[0].split(".")[0] for module in (*names.imports.values(), *names.stars)}:
            if f"{target}.py" in modules or target in packages:
                shown = f"{target}.py" if f"{target}.py" in modules else f"the package {target}"
                known = Finding(level="ok", text=f"{shown} goes along")
                if known not in findings:
                    findings.append(known)
        findings.extend(
            Finding(level="warning", text=f"cell {cell.number} reads {path}, a file of this machine", cell=cell.id)
            for path in sorted(names.names_paths)
            if os.path.isabs(path) and _is_file(path)
        )


def _is_file(path: str) -> bool:
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False
