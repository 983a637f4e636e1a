"""`mlbench lineage` and `mlbench diff`: where a value comes from, and what differs between two runs."""

from __future__ import annotations

import click

from mlbench.entrypoints.cli.output import console, json_option, plain, print_json

__all__ = ["diff", "lineage"]

_COLOURS = {"title": "bold", "head": "bold", "added": "green", "removed": "red", "faint": "bright_black", "plain": ""}


@click.command(epilog="Example: mlbench lineage mq2a train model --up")
@click.argument("of", metavar="RUN|DIGEST")
@click.argument("step", required=False)
@click.argument("name", required=False)
@click.option("--up", is_flag=True, help="Only what it was made of.")
@click.option("--down", is_flag=True, help="Only what was made of it.")
@json_option
def lineage(of: str, step: str | None, name: str | None, up: bool, down: bool, as_json: bool) -> None:
    """Show where a value comes from, and everything that was made of it.

    It is what STEP of the run with the id RUN bound to NAME, or every value with a DIGEST. STEP[3] is the item 3 of a
    fan-out.
    """
    from mlbench.project import Project
    from mlbench.project.comparison import lineage as follow
    from mlbench.runs.lineage import lines

    both = up == down
    found = follow(Project.open(), of, step, name, up=up or both, down=down or both)
    if as_json:
        print_json(found)
        return
    out = console()
    for line in lines(found):
        out.print(plain(line))


@click.command(epilog="Example: mlbench diff mq2a x7fd")
@click.argument("run", metavar="RUN")
@click.argument("other", metavar="[RUN]", required=False)
@click.option("--no-load", is_flag=True, help="Compare previews only: no value is loaded.")
@json_option
def diff(run: str, other: str | None, no_load: bool, as_json: bool) -> None:
    """Show what differs between two runs: cells, parameters, data, environment, metrics, outcome, items.

    The second one is the later. With one run only, it is compared with the last run of its notebook before it that
    succeeded. Frames and arrays that differ are loaded, to say where they first do.
    """
    from rich.text import Text

    from mlbench.project import Project
    from mlbench.project.comparison import difference, last_success
    from mlbench.runs.diff_text import as_lines

    project = Project.open()
    named = project.catalog.run(run)
    pair = (last_success(project, named), named) if other is None else (named, project.catalog.run(other))
    found = difference(project, *pair, load=not no_load)
    if as_json:
        print_json(found)
        return
    out = console()
    for style, line in as_lines(found):
        out.print(Text(plain(line).plain, style=_COLOURS[style]))
