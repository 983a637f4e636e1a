"""`mlbench service`: the process that runs steps and fires schedules."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

import click

from mlbench.entrypoints.cli import output
from mlbench.entrypoints.cli.output import console, json_option, plain, print_json


@click.group(epilog="Example: mlbench service status")
def service() -> None:
    """See and steer the process that runs steps and fires schedules; it starts by itself when it is needed."""


@service.command(epilog="Example: mlbench service status --json")
@json_option
def status(as_json: bool) -> None:
    """Say whether it runs, and what it does."""
    from mlbench.backends import autostart
    from mlbench.backends.service_socket import Door, connect

    pid = Door.find().alive()
    facts: dict[str, Any] = {"running": pid is not None, "pid": pid}
    if pid is not None:
        with connect(role="cli", start=False) as client:
            facts |= {"version": client.service.version, **client.request("status")}
    facts["autostart"] = autostart.describe()
    if as_json:
        print_json(facts)
        return
    shown = output.table("", "")
    shown.show_header = False
    for name, value in _lines(facts):
        shown.add_row(name, plain(value))
    console().print(shown)


def _lines(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what a person wants to know of the service, one line each."""
    if not facts["running"]:
        yield "service", "not running: it starts by itself when it is needed"
        yield "autostart", facts["autostart"]
        return
    since = f", started {output.ago(facts['since'])}" if facts.get("since") else ""
    yield "service", f"running{since}, process {facts['pid']}, mlbench {facts['version']}"
    if facts.get("retired"):
        yield "", "a newer mlbench has taken over: it ends with what is under way"
    steps = facts.get("executions") or []
    yield "steps", f"{len(steps)} under way" if steps else "none under way"
    for step in steps:
        yield "", f"{step.get('step')} {step.get('state')}"
    jobs = facts.get("jobs") or 0
    yield "jobs", f"{jobs} under way" if jobs else "none under way"
    for store in facts.get("stores") or []:
        count = store.get("schedules") or 0
        yield "store", f"{store.get('path')}" + (f", {count} scheduled" if count else "")
        if store.get("problem"):
            yield "", f"{store['problem']} It is tried again."
    yield "workers", "running" if (facts.get("cluster") or {}).get("running") else "none: they start when needed"
    for name in ("socket", "log"):
        if facts.get(name):
            yield name, str(facts[name])
    yield "autostart", facts["autostart"]


@service.command(epilog="Example: mlbench service start")
@json_option
def start(as_json: bool) -> None:
    """Start it, if it does not run."""
    from mlbench.backends.service_socket import connect

    with connect(role="cli", start=True, until_idle=False) as client:
        facts = {"running": True, "pid": client.service.pid, "version": client.service.version}
    if as_json:
        print_json(facts)
    else:
        click.echo(f"The service runs: process {facts['pid']}, mlbench {facts['version']}.")


@service.command(epilog="Example: mlbench service stop --force")
@click.option("--force", is_flag=True, help="Also if steps or jobs are under way: they are then lost.")
@json_option
def stop(force: bool, as_json: bool) -> None:
    """Stop it."""
    from mlbench.backends.service_socket import Door, connect, end_by_force
    from mlbench.core.errors import ServiceError

    pid = Door.find().alive()
    if pid is not None:
        try:
            with connect(role="cli", start=False) as client:
                client.request("stop", {"force": force})
        except ServiceError:
            if not force:
                raise
            end_by_force()
    if as_json:
        print_json({"running": False, "pid": None, "stopped": pid})
    else:
        click.echo(f"The service, process {pid}, was stopped." if pid is not None else "No service was running.")


@service.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": ["-h", "--help"]},
    epilog="Example: mlbench service run",
)
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def run(options: tuple[str, ...]) -> None:
    """Run it in the foreground, as a supervisor (systemd, a container) wants it."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "mlbench.entrypoints.service", "run", *options])  # noqa: S606


@service.command(epilog="Example: mlbench service install --print")
@click.option("--print", "only_print", is_flag=True, help="Show what would be written and run; change nothing.")
@json_option
def install(only_print: bool, as_json: bool) -> None:
    """Have it started by systemd (Linux) or launchd (macOS), so that schedules go on after a restart."""
    from mlbench.backends import autostart

    way = autostart.find()
    commands = [" ".join(command) for command in way.commands]
    if not only_print:
        way.install()
    if as_json:
        print_json({"path": str(way.path), "text": way.text, "commands": commands, "installed": way.installed})
        return
    if only_print:
        click.echo(f"# {way.path}\n{way.text}\n# then\n" + "\n".join(commands))
    else:
        click.echo(f"Wrote {way.path}.")
    click.echo(way.hint if not only_print else f"# {way.hint}")
