"""`mlbench why` and `mlbench resume`: what was run again, and running again what is left."""

from __future__ import annotations

from typing import Any

import click

from mlbench.core.ids import short
from mlbench.core.records import Run
from mlbench.entrypoints.cli.output import console, json_option, plain, print_json

__all__ = ["resume", "why"]


@click.command(epilog="Example: mlbench why mq2a train")
@click.argument("run")
@click.argument("step")
@json_option
def why(run: str, step: str, as_json: bool) -> None:
    """Say why STEP of the run with the id RUN was not reused: what had changed since it last ran."""
    from mlbench.project import Project
    from mlbench.project.reuse import why as explain

    found = explain(Project.open(), run, step)
    state, before, earlier = found.execution.state, found.before, found.before_run
    if as_json:
        print_json(
            {
                "run": found.run.id,
                "step": step,
                "execution": found.execution.id,
                "state": state,
                "before": before.id if before is not None else None,
                "before_run": earlier.id if earlier is not None else None,
                "reasons": found.reasons,
            }
        )
        return
    out = console()
    if state == "reused":
        out.print(plain(f"{step} was reused from {_named(earlier)}: nothing had changed that it depends on."))
        return
    if state in ("skipped", "cancelled"):
        out.print(plain(f"{step} was {state}. {found.execution.note or ''}".rstrip()))
        return
    compared = f", compared with {_named(earlier)}" if earlier is not None else ""
    verb = "is" if state in ("queued", "running") else "was"
    fanout = found.execution.fanout
    some = f" as a whole, though {fanout.reused:,} of its items were" if fanout is not None and fanout.reused else ""
    out.print(plain(f"{step} {verb} not reused{some}{compared}:"))
    for reason in found.reasons:
        out.print(plain(f"  {reason.text}"))


@click.command(epilog="Example: mlbench resume mq2a")
@click.argument("run")
@click.option("-o", "--output", "target", type=click.Path(dir_okay=False), help="Write the executed notebook here.")
@click.option("-k", "--kernel", help="The kernel to use instead of the notebook's own.")
@json_option
def resume(run: str, target: str | None, kernel: str | None, as_json: bool) -> int:
    """Run the notebook of the run with the id RUN again, but for the steps that succeeded and are unchanged.

    It is the notebook as it is now, with the parameters that that run was given.
    """
    from mlbench.entrypoints.cli.run import run_notebook
    from mlbench.project import Project
    from mlbench.project.reuse import notebook_of

    project = Project.open()
    found = project.catalog.run(run)
    path = notebook_of(project, found)
    if found.state == "succeeded":
        if as_json:
            print_json({"run": found, "executions": project.steps(found.id)})
        else:
            console().print(plain(f"Run {short(found.id)} succeeded: there is nothing to resume."))
        return 0
    # Its defaults may have been put right since; a run without a snapshot was given all that it tells.
    given = project.catalog.snapshot(found.snapshot).parameters if found.snapshot else found.parameters
    return run_notebook(
        path, given=given, target=target, kernel=kernel, resume=found.id, name=found.name, as_json=as_json
    )


def _named(run: Run | None) -> Any:
    import time

    if run is None:
        return "an earlier run"
    moment = time.localtime(run.started / 1e9)
    return f"run {short(run.id)} of {moment.tm_mday} {time.strftime('%b %H:%M', moment)}"
