"""`mlbench runs`, `mlbench show` and `mlbench logs`: what was recorded."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from mlbench.core.errors import NotFound, UsageError
from mlbench.core.ids import short
from mlbench.core.naming import naming
from mlbench.core.records import ENDED, Execution, Json, Run
from mlbench.entrypoints.cli import output
from mlbench.entrypoints.cli.items import items_table, logged_by_items, logged_in
from mlbench.entrypoints.cli.output import console, errors, json_option, plain, print_json

if TYPE_CHECKING:
    from mlbench.project import Project


@click.command(epilog="Example: mlbench runs \"metrics.rmse < 12 and params.origin = 'JFK'\" --sort -metrics.rmse")
@click.argument("what", nargs=-1, metavar="[NOTEBOOK] [QUERY]")
@click.option("-n", "--limit", type=click.IntRange(1, 100_000), default=20, show_default=True, help="How many.")
@click.option("--sort", metavar="NAME", help="By what instead of the start; -NAME is for the greatest first.")
@click.option("--job", help="Only the runs of this job: its name or id.")
@click.option("--user", help="Only the runs of this user.")
@click.option("--mine", is_flag=True, help="Only your own runs.")
@click.option("--under-way", is_flag=True, help="Only those that are queued or running.")
@json_option
def runs(
    what: tuple[str, ...],
    limit: int,
    sort: str | None,
    job: str | None,
    user: str | None,
    mine: bool,
    under_way: bool,
    as_json: bool,
) -> None:
    """List runs, newest first: all of them, those of NOTEBOOK, or those that QUERY is true of.

    What ends in .ipynb, or is a file, is the notebook. A query compares state, name, started, duration and more,
    params.X, metrics.X and tags.X by = != < <= > >= like ilike in, and joins comparisons by and, or, not and
    parentheses; texts stand in quotation marks. What a run does not have comes last when sorted.

    Metrics are those of a run and its steps: of each name the last value.
    """
    from mlbench.backends.owners import user_name
    from mlbench.project.history import last_metrics

    if mine and user is not None:
        raise UsageError("--mine and --user say whose runs: give one of them.")
    notebook, query = _tell_apart(what)
    project = _open(notebook)
    if mine:
        user = user_name()
    logged = project.search(
        query, sort=sort, notebook=notebook, job=job, user=user, under_way=under_way, limit=limit
    ).runs
    metrics = project.catalog.metrics([run.id for run in logged])
    found = [replace(run, metrics=last_metrics(metrics.get(run.id, ()))) for run in logged]
    if as_json:
        print_json(found)
        return
    if not found:
        asked = query is not None or user is not None or job is not None or under_way
        nothing = f"No runs yet in the store {project.location.place}. Run a notebook with: mlbench run NOTEBOOK.ipynb"
        if notebook is not None and not asked:
            nothing = f"No runs of {notebook} yet. Run it with: mlbench run NOTEBOOK"
            if not os.path.exists(notebook):
                nothing = f"No runs of {notebook}, and no such file. All runs: mlbench runs"
        console().print(plain("No run fits." if asked else nothing))
        return
    shared = any(run.user not in (None, user_name()) for run in found)  # a name on each line, where there are several
    shown = output.table("run", "state", "name", *["user"] * shared, "kind", "when", "time", "what", right=("time",))
    for run in found:
        shown.add_row(
            short(run.id),
            output.state_text(run.state),
            plain(run.name + (f" v{run.job_version}" if run.job_version is not None else "")),
            *[plain(run.user or "?")] * shared,
            run.kind,
            output.ago(run.started),
            output.duration(run.started, run.ended),
            plain(_headline(run)),
        )
    console().print(shown)


@click.command(epilog="Example: mlbench show mq2a --output executed.ipynb")
@click.argument("run")
@click.option("-o", "--output", "target", type=click.Path(dir_okay=False), help="Write the executed notebook here.")
@json_option
def show(run: str, target: str | None, as_json: bool) -> None:
    """Show the run with the id RUN, of which the first four characters are enough."""
    project = _open(None)
    found = project.catalog.run(run)
    executions = project.steps(found.id)
    if target is not None:
        _write_notebook(project, found, target)
    if as_json:
        snapshot = project.catalog.snapshot(found.snapshot) if found.snapshot is not None else None
        print_json({"run": found, "executions": executions, "snapshot": snapshot})
        return
    print_run(project, found, executions)
    if (summary := items_table(project.catalog, executions)) is not None:
        console().print()
        console().print(summary)
    if target is not None:
        console().print(f"\nThe executed notebook is in {target}.", markup=False)


@click.command(epilog="Example: mlbench logs -f mq2a train")
@click.argument("run")
@click.argument("step", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on until it ends; the exit status is 1 if it does not succeed.")
@click.option("--item", type=click.IntRange(min=0), metavar="N", help="Of a fan-out the item N, counted from 0.")
@json_option
def logs(run: str, step: str | None, follow: bool, item: int | None, as_json: bool) -> int:
    """Print what the run with the id RUN, or its step STEP, has printed."""
    from mlbench.entrypoints.cli import following

    if item is not None and step is None:
        raise UsageError("--item needs the step whose item it is.", "Write: mlbench logs RUN STEP --item N")
    project = _open(None)
    found = project.catalog.run(run)
    if follow and found.state not in ENDED:
        printer = following.Printer(as_json=as_json, headings=step is None)
        status = following.follow(project, found, step, printer, item=item)
        for execution in project.steps(found.id) if step is not None and item is None and status else ():
            if execution.step == step and (note := _note(project, execution, printed=True)):
                errors().print(plain(note))
        return status
    state, chosen = None, _messages(project, found, step)
    if item is not None:
        record = _item(project, found, step, item)
        state = record.state
        chosen = [{"step": f"{record.step}[{item}]", "cell": record.cell, "messages": list(record.messages)}]
        notes = {}
    else:
        notes = {one.step: _note(project, one, printed=_printed(chosen, one.step)) for one in project.steps(found.id)}
    if as_json and not follow:
        print_json(chosen)
        return 0
    printer = following.Printer(as_json=as_json, headings=len(chosen) > 1)
    for entry in chosen:
        if note := notes.get(entry["step"]):
            errors().print(plain(note))
        elif step is not None and not _printed([entry], entry["step"]):
            errors().print(plain(f"{entry['step']} has printed nothing."))
        printer.show(entry["step"], entry["cell"], entry["messages"])
        printer.close()
    return int((state or _state(project, found, step)) not in ("succeeded", "reused")) if follow else 0


def print_run(project: Project, run: Run, executions: Sequence[Execution]) -> None:
    """Print a run's head, its steps and what went wrong."""
    from rich.text import Text

    out = console()
    head = output.state_text(run.state)
    took = output.duration(run.started, run.ended)
    out.print(Text.assemble(head, "  ", plain(run.name), f"  run {short(run.id)}  {took}"))
    facts = output.table("", "")
    facts.show_header = False
    for name, value in _facts(run):
        facts.add_row(name, plain(value))
    out.print(facts)
    if executions:
        out.print()
        out.print(output.steps_table(executions, {one.id: _looked_up(project, one) for one in executions}))
    if (logged := output.artifacts_table(logged_in(run, executions))) is not None:
        out.print()
        out.print(logged)
    for whole in executions:
        shown, left = logged_by_items(project.catalog, whole)
        if (logged := output.artifacts_table(shown)) is not None:
            out.print()
            out.print(logged)
            if left:
                out.print(f"and {left:,} more, in JupyterLab on the run's tab Artifacts")
    if run.failure is not None:
        out.print()
        where = f" in step {run.failed_step}" if run.failed_step else ""
        out.print(Text(f"{run.failure.ename}{where}: ", style="red") + plain(run.failure.evalue))
        for line in run.failure.traceback:
            click.echo(output.clean(line))
        if run.failure.remedy:
            out.print(plain(run.failure.remedy))


def _looked_up(project: Project, execution: Execution) -> str:
    """Return what an execution does not say itself: which run it was reused from."""
    origin = _origin(project, execution)
    return f"from run {short(origin.run)}" if origin is not None else ""


def _origin(project: Project, execution: Execution) -> Execution | None:
    """Return the execution that another was reused from; None if it was not, or if that is gone."""
    if execution.reused_from is None:
        return None
    try:
        return project.catalog.execution(execution.reused_from)
    except NotFound:
        return None


def _facts(run: Run) -> Iterator[tuple[str, str]]:
    yield "id", run.id
    yield "kind", run.kind + (f", job {short(run.job)} v{run.job_version}" if run.job is not None else "")
    if run.notebook is not None:
        yield "notebook", run.notebook
    if run.started:
        yield "started", output.ago(run.started)
    if run.user or run.host:
        yield "by", f"{run.user or '?'} on {run.host or '?'}"
    if run.parameters:
        yield "parameters", _pairs(run.parameters)
    if run.metrics:
        yield "metrics", output.metrics_text(run.metrics)
    if run.tags:
        yield "tags", _pairs(run.tags)
    if run.snapshot is not None:
        yield "snapshot", run.snapshot
    if run.resumed_from is not None:
        yield "resumes", f"run {short(run.resumed_from)}"
    if run.reason is not None and run.reason != "error":
        yield "reason", run.reason


def _pairs(values: Json) -> str:
    return "  ".join(f"{name}={value}" for name, value in values.items())


def _headline(run: Run) -> str:
    if run.failure is not None and run.state == "failed":
        where = f"{run.failed_step}: " if run.failed_step else ""
        return output.first_line(f"{where}{run.failure.ename}: {run.failure.evalue}", 80)
    return "  ".join(part for part in (output.metrics_text(run.metrics), _pairs(run.parameters)) if part)


def _tell_apart(what: tuple[str, ...]) -> tuple[str | None, str | None]:
    """Return which of what was given is the notebook, and which the query."""
    from mlbench.project.identity import is_notebook

    notebooks = [one for one in what if is_notebook(one)]
    queries = [one for one in what if one not in notebooks]
    if len(notebooks) > 1 or len(queries) > 1:
        extra = (notebooks if len(notebooks) > 1 else queries)[1]
        raise UsageError(
            f"{output.first_line(extra, 60)} is one too many: there can be one notebook and one query.",
            "A query stands in quotation marks: mlbench runs \"metrics.rmse < 12 and state = 'failed'\"",
        )
    return next(iter(notebooks), None), next(iter(queries), None)


def _open(notebook: str | None) -> Project:
    from mlbench.project import Project

    return Project.open(notebook=notebook)


def _write_notebook(project: Project, run: Run, target: str) -> None:
    if run.output is None:
        raise NotFound(f"Run {short(run.id)} has no executed notebook.")
    with naming("executed notebook", run=short(run.id)):
        data = project.blobs.get(run.output)
    beside = f"{target}.part"
    try:
        with open(beside, "wb") as file:
            file.write(data)
        os.replace(beside, target)
    except OSError as error:
        raise UsageError(f"{target} cannot be written: {error.strerror or error}.") from error


def _state(project: Project, run: Run, step: str | None) -> str:
    """Return what became of a run that has ended, or of its step."""
    return ([one.state for one in project.steps(run.id) if one.step == step] or [run.state])[-1]


def _item(project: Project, run: Run, step: str | None, number: int) -> Execution:
    from mlbench.entrypoints.cli.following import item_of

    execution = [one for one in project.steps(run.id) if one.step == step][-1]
    found = item_of(project, execution, number, over=execution.state in ENDED)
    if found is None:
        raise NotFound(
            f"Item {number} of step {step} has not ended.",
            f"Wait for it: mlbench logs -f {short(run.id)} {step} --item {number}",
        )
    return project.catalog.execution(found.id)


def _printed_by(project: Project, execution: Execution) -> tuple[Json, ...]:
    """Return what a step has printed; if the run has only taken it over, what it printed when it ran."""
    own = project.catalog.execution(execution.id).messages
    origin = _origin(project, execution) if not own else None
    return own if origin is None else origin.messages


def _printed(chosen: Sequence[Json], step: str | None) -> bool:
    return any(entry["messages"] for entry in chosen if entry["step"] == step)


def _note(project: Project, execution: Execution, *, printed: bool) -> str | None:
    """Say of a step that did not run in its run why there is nothing of it, or where what it printed is from."""
    if execution.state == "reused":
        origin = _origin(project, execution)
        where = f" from run {short(origin.run)}" if origin is not None else ""
        return f"{execution.step} was reused{where}, {'which had printed this:' if printed else 'and printed nothing.'}"
    if execution.state in ("skipped", "cancelled"):
        return f"{execution.step} was {execution.state}. {execution.note or ''}".rstrip()
    return None


def _messages(project: Project, run: Run, step: str | None) -> list[Json]:
    executions = project.steps(run.id)
    names = list(dict.fromkeys(execution.step for execution in executions))
    if step is not None and step not in names:
        import difflib

        near = difflib.get_close_matches(step, names, 1)
        hint = f"Did you mean {near[0]}?" if near else f"It has: {', '.join(names)}." if names else "It has no steps."
        raise NotFound(f"Run {short(run.id)} has no step {step}.", hint)
    if executions:
        return [
            {"step": each.step, "cell": each.cell, "messages": list(_printed_by(project, each))}
            for each in executions
            if step is None or each.step == step
        ]
    if run.output is None:
        return []
    from mlbench.runs.wire import msgspec

    with naming("executed notebook", run=short(run.id)):
        notebook = msgspec.json.decode(project.blobs.get(run.output))
    return [
        {"step": None, "cell": cell.get("id", f"cell {place}"), "messages": cell["outputs"]}
        for place, cell in enumerate(notebook["cells"], 1)
        if cell.get("outputs")
    ]
