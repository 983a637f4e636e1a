"""`mlbench graph` and `mlbench check`: what a notebook's steps are, and what would fail, before anything is run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mlbench.core.records import Json
from mlbench.entrypoints.cli.output import clean, json_option, print_json
from mlbench.entrypoints.cli.pairs import parameters_option

if TYPE_CHECKING:
    from mlbench.notebook.graph import Edge, Step, StepGraph


@click.command(epilog="Example: mlbench graph flights.ipynb --format mermaid")
@click.argument("notebook")
@click.option(
    "--format",
    "shape",
    type=click.Choice(["text", "mermaid", "json"]),
    default="text",
    show_default=True,
    help="As lines, as a Mermaid diagram for a page or a README, or as JSON.",
)
@json_option
def graph(notebook: str, shape: str, as_json: bool) -> None:
    """Show the steps of NOTEBOOK, and who waits for whom and why, from its source alone."""
    from mlbench.notebook import document
    from mlbench.notebook.graph import build
    from mlbench.project.preparation import read_notebook

    found = build(document.cells(read_notebook(notebook)))
    if as_json or shape == "json":
        print_json(_as_json(found))
        return
    click.echo(clean(_mermaid(found) if shape == "mermaid" else _text(found)))
    for problem in found.problems:
        click.secho(clean(problem.sentence), fg="yellow", err=True)


@click.command(epilog="Example: mlbench check flights.ipynb -p origin=LGA")
@click.argument("notebook")
@parameters_option
@click.option("-k", "--kernel", help="The kernel to use instead of the notebook's own.")
@json_option
def check(notebook: str, given: dict[str, str], kernel: str | None, as_json: bool) -> int:
    """Say what would fail in NOTEBOOK if it were run now, from its source alone: nothing is run.

    The exit status is 0 if nothing would, 1 if something would, 2 if there is no notebook that could be looked at.
    """
    from mlbench.notebook import diagnostics
    from mlbench.project.preparation import missing_environments, prepare

    prepared = prepare(notebook, given=given, kernel=kernel)
    problems: list[Json] = [
        {
            "cell": problem.cell,
            "cell_id": problem.cell_id,
            "line": problem.line or None,
            "severity": problem.severity,
            "sentence": problem.sentence,
        }
        for problem in (*diagnostics.foresee(prepared.nb), *missing_environments(prepared))
    ]
    told = {diagnostics.told(problem, prepared.name) for problem in diagnostics.check(prepared.nb)}
    problems += [
        {"cell": None, "cell_id": finding.cell, "line": None, "severity": finding.level, "sentence": finding.text}
        for finding in prepared.findings
        if finding.level in ("error", "warning") and finding.text not in told
    ]
    errors = sum(problem["severity"] == "error" for problem in problems)
    if as_json:
        print_json({"notebook": prepared.path, "steps": list(prepared.steps), "problems": problems})
        return 1 if errors else 0
    for problem in problems:
        mark, colour = ("✗", "red") if problem["severity"] == "error" else ("!", "yellow")
        click.echo(f"{click.style(mark, fg=colour)} {clean(problem['sentence'])}")
    steps = f"{len(prepared.steps)} step{'s' if len(prepared.steps) != 1 else ''}"
    if errors:
        click.echo(f"{prepared.name}: {errors} thing{'s' if errors > 1 else ''} would fail.")
    else:
        well = f"{prepared.name}: nothing would fail, for all that its source shows; {steps}."
        click.echo(f"{click.style('✓', fg='green')} {well}")
    return 1 if errors else 0


def _as_json(found: StepGraph) -> Json:
    return {
        "steps": [
            {
                "name": step.name,
                "number": step.number,
                "cell": step.cell,
                "foreach": [{"name": one.name, "expression": one.expression} for one in step.options.foreach],
                "captured": list(step.captured),
                "binds": sorted(step.names.binds | step.names.maybe | step.names.changes),
                "parents": list(found.parents(step.name)),
            }
            for step in found.steps
        ],
        "edges": [
            {"parent": edge.parent, "child": edge.child, "kind": edge.kind, "why": edge.why, "names": list(edge.names)}
            for edge in found.edges
        ],
        "problems": [
            {
                "cell": problem.cell,
                "cell_id": problem.cell_id,
                "line": problem.line or None,
                "severity": problem.severity,
                "sentence": problem.sentence,
            }
            for problem in found.problems
        ],
    }


def _text(found: StepGraph) -> str:
    if not found.steps:
        return "No steps: its cells run from top to bottom. A cell becomes one by `%%step NAME` as its first line."
    rows = [(step.name, _items(step), f"cell {step.number}") for step in found.steps]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for step, row in zip(found.steps, rows, strict=True):
        waits = ", ".join(f"{edge.parent} ({edge.why})" for edge in _edges_to(found, step))
        cells = [f"{text:<{wide}}" for text, wide in zip(row, widths, strict=True) if wide]
        lines.append("  ".join([*cells, f"after {waits}" if waits else ""]).rstrip())
    return "\n".join(lines)


def _mermaid(found: StepGraph) -> str:
    """Return a diagram in Mermaid's language, in which a name cannot be mistaken for syntax."""
    numbers = {step.name: f"s{step.position}" for step in found.steps}
    lines = ["graph TD"]
    for step in found.steps:
        items = _items(step)
        lines.append(f'  {numbers[step.name]}["{_quoted(step.name)}{f" {_quoted(items)}" if items else ""}"]')
    lines += [f'  {numbers[edge.parent]} -->|"{_quoted(edge.why)}"| {numbers[edge.child]}' for edge in found.edges]
    return "\n".join(lines)


def _items(step: Step) -> str:
    return " ".join(f"× {one.name}" for one in step.options.foreach)


def _edges_to(found: StepGraph, step: Step) -> list[Edge]:
    return [edge for edge in found.edges if edge.child == step.name]


def _quoted(text: str) -> str:
    return "".join(f"#{ord(letter)};" if letter in '"#<>&;|`' else letter for letter in text)
