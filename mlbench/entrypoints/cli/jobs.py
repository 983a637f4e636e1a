"""`mlbench schedule` and `mlbench jobs`."""

from __future__ import annotations

import contextlib
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import click

from mlbench.core.errors import MlbenchError, ScheduleError
from mlbench.core.ids import short
from mlbench.core.records import UNDER_WAY, Firing, Job
from mlbench.entrypoints.cli import output
from mlbench.entrypoints.cli.output import console, errors, json_option, plain, print_json
from mlbench.entrypoints.cli.pairs import parameters_option

if TYPE_CHECKING:
    from mlbench.project import Project

POLL_SECONDS = 0.5


@click.command(epilog='Example: mlbench schedule flights.ipynb --cron "0 6 * * 1-5" --tz Europe/Berlin -p origin=JFK')
@click.argument("notebook")
@click.option("--cron", required=True, help='When: five fields, such as "0 6 * * 1-5", or @daily.')
@click.option("--tz", "timezone", help="The time zone, such as Europe/Berlin; this machine's otherwise.")
@parameters_option
@click.option("--name", help="What the job is called; the notebook's name otherwise.")
@click.option("--timeout", type=float, metavar="SECONDS", help="The most that a run may take.")
@json_option
def schedule(
    notebook: str,
    cron: str,
    timezone: str | None,
    given: dict[str, str],
    name: str | None,
    timeout: float | None,
    as_json: bool,
) -> None:
    """Make NOTEBOOK, as it is now, a job that runs by the clock.

    Later edits do not change the job: schedule the notebook again under the same name to make its next version.
    """
    from mlbench.project import Project, promotion

    project = Project.open(notebook=os.path.abspath(notebook))
    zone = timezone or local_timezone()
    check = promotion.check_promotion(project, notebook, parameters=given, cron=cron, timezone=zone, name=name)
    job = promotion.promote(project, notebook, parameters=given, cron=cron, timezone=zone, name=name, timeout=timeout)
    _mark(notebook, job)
    trouble = _tell_service(project)
    if as_json:
        print_json({"job": job, "sentence": check.sentence, "next": check.next, "service": check.service})
        return
    for finding in check.findings:
        if finding.level == "warning":
            errors().print(plain(finding.text), style="yellow")
    out = console()
    out.print(plain(f"{job.name} v{job.version.number}  job {short(job.id)}"))
    out.print(plain(f"{check.cron}  {check.sentence}"))
    for each in check.next:
        out.print(plain(f"  {datetime.fromisoformat(each):%a %d %b %Y %H:%M}"))
    out.print(plain(trouble or check.service))
    out.print(plain("\nSee it: mlbench jobs   Run it now: mlbench jobs run " + job.name))


@click.group(
    invoke_without_command=True, epilog="Example: mlbench jobs run flights --wait", context_settings={"obj": {}}
)
@click.pass_context
@json_option
def jobs(context: click.Context, as_json: bool) -> None:
    """List jobs, or do something with one. A JOB is named by its name, or by its id or the beginning of it."""
    if context.invoked_subcommand is None:
        _list(as_json=as_json)


@jobs.command("list", epilog="Example: mlbench jobs list --json")
@json_option
def list_jobs(as_json: bool) -> None:
    """List jobs, those that are due next first."""
    _list(as_json=as_json)


@jobs.command("show", epilog="Example: mlbench jobs show flights")
@click.argument("job")
@click.option("-n", "--limit", type=click.IntRange(1, 10_000), default=15, show_default=True, help="How many firings.")
@json_option
def show_job(job: str, limit: int, as_json: bool) -> None:
    """Show a job, its next times and its last firings."""
    project = _open()
    found = project.catalog.job(job)
    firings = project.catalog.firings(found.id, limit=limit)
    times = _next(found)
    if as_json:
        print_json({"job": found, "sentence": _sentence(found), "next": times, "firings": firings})
        return
    facts = output.table("", "")
    facts.show_header = False
    for name, value in (
        ("job", f"{found.name} v{found.version.number}"),
        ("id", found.id),
        ("notebook", found.notebook),
        ("schedule", _sentence(found) or "none"),
        ("state", _state(found)),
        ("next", ", ".join(f"{datetime.fromisoformat(each):%a %d %b %H:%M}" for each in times)),
        ("parameters", "  ".join(f"{key}={each}" for key, each in found.version.parameters.items())),
    ):
        if value:
            facts.add_row(name, plain(value))
    out = console()
    out.print(facts)
    if firings:
        shown = output.table("due", "state", "run", "what")
        for firing in firings:
            shown.add_row(
                _when(firing.due, found.timezone),
                output.state_text(firing.state),
                short(firing.run or ""),
                _what(firing),
            )
        out.print()
        out.print(shown)


@jobs.command("run", epilog="Example: mlbench jobs run flights --wait")
@click.argument("job")
@click.option("--wait", is_flag=True, help="Wait until it has ended; the exit status is then the run's.")
@json_option
def run_job(job: str, wait: bool, as_json: bool) -> int:
    """Run a job now, whether it is due or not."""
    from mlbench.project import promotion

    project = _open()
    firing = promotion.run_now(project, job)
    trouble = _tell_service(project)
    if trouble is not None:
        errors().print(plain(trouble), style="yellow")
    if wait:
        firing = _await(project, firing)
    if as_json:
        print_json(firing)
    elif wait:
        console().print(plain(f"{firing.state}{f': {firing.reason}' if firing.reason else ''}"))
        if firing.run is not None:
            console().print(f"See more: mlbench show {short(firing.run)}")
    else:
        console().print("It is queued. See it: mlbench jobs show " + job, markup=False)
    return 0 if not wait or firing.state == "succeeded" else 1


@jobs.command("pause", epilog="Example: mlbench jobs pause flights")
@click.argument("job")
@json_option
def pause_job(job: str, as_json: bool) -> None:
    """Stop a job's schedule until it is resumed."""
    _change(job, paused=True, as_json=as_json)


@jobs.command("resume", epilog="Example: mlbench jobs resume flights")
@click.argument("job")
@json_option
def resume_job(job: str, as_json: bool) -> None:
    """Let a paused job's schedule go on from its next time."""
    _change(job, paused=False, as_json=as_json)


@jobs.command("delete", epilog="Example: mlbench jobs delete flights")
@click.argument("job")
@json_option
def delete_job(job: str, as_json: bool) -> None:
    """Delete a job; its runs stay."""
    from mlbench.project import promotion

    project = _open()
    gone = promotion.delete(project, job)
    _tell_service(project, start=False)
    if as_json:
        print_json(gone)
    else:
        console().print(plain(f"Deleted {gone.name}. Its runs stay: mlbench runs"))


def _mark(notebook: str, job: Job) -> None:
    """Write the id by which the job knows its notebook into the notebook's file."""
    from mlbench.project import identity

    try:
        identity.write_id(notebook, str(job.notebook_id))
    except (OSError, MlbenchError) as error:
        said = error.strerror if isinstance(error, OSError) else error
        line = f"{notebook} keeps its history only under this name, for its id cannot be written: {said}."
        errors().print(plain(line), style="yellow")


def local_timezone() -> str:
    """Return this machine's time zone by its name.

    Raises
    ------
    ScheduleError
        If the machine does not tell it.
    """
    named = os.environ.get("TZ", "").lstrip(":")
    if named and not named.startswith("/"):
        return named
    link = Path(named or "/etc/localtime")
    parts = link.resolve().parts
    if "zoneinfo" in parts:
        return "/".join(parts[parts.index("zoneinfo") + 1 :]) or "UTC"
    text = Path("/etc/timezone")
    if text.is_file():
        return text.read_text("utf-8").strip() or "UTC"
    if not link.exists():
        return "UTC"
    raise ScheduleError("This machine does not tell its time zone.", "Name one with --tz, such as Europe/Berlin.")


def _open() -> Project:
    from mlbench.project import Project

    return Project.open()


def _tell_service(project: Project, *, start: bool = True) -> str | None:
    """Have the service look at the schedules, starting it if need be; return what went wrong, in a sentence."""
    from mlbench.backends.service_socket import connect

    try:
        with connect(role="cli", start=start) as client:
            client.request("jobs_changed", project.location.named())
    except MlbenchError as error:
        return None if not start else f"No service fires schedules now: {error}"
    return None


def _list(*, as_json: bool) -> None:
    found = sorted(_open().catalog.jobs(), key=lambda job: (job.next_due is None, job.next_due or 0, job.name))
    if as_json:
        print_json(found)
        return
    if not found:
        console().print('No jobs yet. Make one with: mlbench schedule NOTEBOOK.ipynb --cron "0 6 * * 1-5"')
        return
    shown = output.table("job", "name", "schedule", "next", "state")
    for job in found:
        name = plain(f"{job.name} v{job.version.number}")
        due = _when(job.next_due, job.timezone) if not job.paused else ""
        shown.add_row(short(job.id), name, plain(_sentence(job) or "none"), due, plain(_state(job)))
    console().print(shown)


def _change(job: str, *, paused: bool, as_json: bool) -> None:
    from mlbench.project import promotion

    project = _open()
    changed = promotion.pause(project, job, paused=paused)
    _tell_service(project, start=not paused)
    if as_json:
        print_json(changed)
    else:
        due = (
            f", next {_when(changed.next_due, changed.timezone)}" if changed.next_due is not None and not paused else ""
        )
        console().print(plain(f"{'Paused' if paused else 'Resumed'} {changed.name}{due}."))


def _await(project: Project, firing: Firing) -> Firing:
    """Return a firing when it has ended; the catalog is asked only when somebody has written to it."""
    seen = None
    while firing.state in UNDER_WAY:
        version = project.catalog.version()
        if version != seen:
            seen = version
            for each in project.catalog.firings(firing.job, limit=200):
                if each.due == firing.due:
                    firing = each
        if firing.state in UNDER_WAY:
            time.sleep(POLL_SECONDS)
    return firing


def _sentence(job: Job) -> str | None:
    from mlbench.delivery import schedule as clock

    if job.cron is None:
        return None
    try:
        return clock.sentence(job.cron, job.timezone)
    except ScheduleError as error:
        return str(error)


def _next(job: Job) -> list[str]:
    from mlbench.delivery import schedule as clock

    if job.cron is None or job.paused or job.deleted:
        return []
    try:
        return [each.isoformat() for each in clock.next_times(job.cron, job.timezone, int(time.time()), 5)]
    except ScheduleError:
        return []


def _state(job: Job) -> str:
    if job.problem:
        return f"stopped: {job.problem}"
    return "deleted" if job.deleted else "paused" if job.paused else "on"


def _when(due: int | None, timezone: str | None = None) -> str:
    """Return a due time on the clocks of its schedule's zone, or of this machine."""
    if due is None:
        return ""
    zone = None
    if timezone is not None:
        with contextlib.suppress(ZoneInfoNotFoundError, ValueError):
            zone = ZoneInfo(timezone)
    return f"{datetime.fromtimestamp(due, UTC).astimezone(zone):%a %d %b %Y %H:%M}"


def _what(firing: Firing) -> Any:
    missed = f"also for {firing.skipped} missed before it" if firing.skipped else ""
    return plain(". ".join(part for part in (firing.reason or "", missed) if part))
