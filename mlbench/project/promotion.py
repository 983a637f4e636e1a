"""Promote a notebook to a job, and what can be done with a job afterwards.

Promoting the same notebook under the same name again makes the next version of that job; runs that are under way go on
with the version that they started from. Everything is checked before anything is stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlbench.core.records import Firing, Job, Json

if TYPE_CHECKING:
    from mlbench.project import Project

__all__ = ["Check", "Finding", "check_promotion", "delete", "pause", "promote", "run_now"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was checked: whether it is well, in one sentence, and the cell (its id) that it is about.

    `level` is `ok`, `warning` (worth a look) or `error` (nothing is stored until it is put right).
    """

    level: str
    text: str
    cell: str | None = None
    parameter: str | None = None


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
    """
    raise NotImplementedError


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
    raise NotImplementedError


def pause(project: Project, job: str, *, paused: bool = True) -> Job:
    """Stop or resume a job's schedule; a job that is resumed is due at its next time, not at those that passed."""
    raise NotImplementedError


def delete(project: Project, job: str) -> Job:
    """Delete a job: it no longer runs, its runs stay."""
    raise NotImplementedError


def run_now(project: Project, job: str) -> Firing:
    """Queue a firing of a job for now, whether it has a schedule, is paused, or neither; the service runs it."""
    raise NotImplementedError
