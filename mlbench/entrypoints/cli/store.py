"""`mlbench store` and `mlbench keep`: a store that is whole, no larger than it must be, and can be moved."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final, get_args

import click

from mlbench.core.errors import MlbenchError, StoreError
from mlbench.core.ids import short
from mlbench.entrypoints.cli import output
from mlbench.entrypoints.cli.output import console, json_option, plain, print_json
from mlbench.runs.reachable import By
from mlbench.runs.wording import sized

if TYPE_CHECKING:
    from mlbench.project import Project
    from mlbench.project.care import Damage, Plan

_HOLDING: Final = 30.0
"""Seconds in which a service has said what open notebooks need."""

_SHOWN: Final = 20
"""How many runs, and how many users of something damaged, are named before the rest is counted."""


@click.group(epilog="Example: mlbench store du --by step")
def store() -> None:
    """Check, clean, copy and measure the store in which everything that is recorded lies."""


@store.command(epilog="Example: mlbench store verify --repair-from /backup/mlbench")
@click.option(
    "--repair-from",
    "other",
    metavar="OTHER",
    help="Fetch what is damaged or missing from this store, where it has it whole.",
)
@click.option("--repair", is_flag=True, help="Write records and lists that are damaged or missing again.")
@json_option
def verify(other: str | None, repair: bool, as_json: bool) -> int:
    """Read every object, pack and record; name what is damaged or missing, and the runs, steps and names that need it.

    The catalog is read too, and compared with the records: what one knows the other has to tell, and to tell the same.
    The exit status is 1 if anything is damaged or missing, and was not repaired.
    """
    from mlbench.project.care import verify as verified

    origin = _existing(other) if other is not None else None
    found = verified(_here(), repair_from=origin, repair=repair)
    if as_json:
        print_json({**asdict(found), "whole": found.whole})
        return int(not found.whole)
    for damage in found.damage:
        _print_damage(damage)
    for note in found.notes:
        console().print(plain(note))
    read = _files(found.objects, found.packs, found.records, found.bytes)
    left = sum(not damage.repaired for damage in found.damage)
    repaired = len(found.damage) - left
    said = f"{left:,} damaged or missing" if left else "all whole"
    click.echo(f"Read {read}: {said}" + (f", {repaired:,} repaired." if repaired else "."))
    return int(not found.whole)


def _print_damage(damage: Damage) -> None:
    state = "repaired" if damage.repaired else "missing" if damage.missing else "damaged"
    needed, more = damage.needed_by[:_SHOWN], max(len(damage.needed_by) - _SHOWN, 0)
    console().print(plain(f"{state}  {damage.kind} {damage.name}"))
    console().print(plain(f"  {damage.problem}"))
    for use in needed:
        console().print(plain(f"  needed by {use}"))
    if more:
        console().print(plain(f"  and by {more:,} more"))
    if not needed and damage.kind == "object":
        console().print(plain("  needed by nothing that is recorded"))
    if damage.remedy is not None and not damage.repaired:
        console().print(plain(f"  {damage.remedy}"))


@store.command(epilog='Example: mlbench store gc --keep "90 days" --keep "job:nightly=always" --dry-run')
@click.option("--dry-run", is_flag=True, help="Say what would be freed, and free nothing.")
@click.option(
    "--keep",
    "rules",
    multiple=True,
    metavar="AGE|job:NAME=AGE|tag:NAME[=VALUE]=AGE",
    help='How long runs are kept, beside what the configuration says: "90 days", "job:nightly=2 weeks", "always".',
)
@click.option("--everyone", is_flag=True, help="Apply the rules to the runs of all who share the store.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@json_option
def gc(dry_run: bool, rules: tuple[str, ...], everyone: bool, yes: bool, as_json: bool) -> None:
    """Free what no kept run and no job needs; say first what that is.

    Without a rule, here or in the configuration, all runs are kept. What is younger than a day stays, what open
    notebooks may load does, and so do the runs of others, unless the rules are said to be for everyone.
    """
    from mlbench.backends.owners import is_alive, user_name
    from mlbench.project import care
    from mlbench.project.configuration import find_retention
    from mlbench.runs.retention import parse_rule

    project = _here()
    _ask_service()
    given = (*find_retention(), *map(parse_rule, rules))
    decided = care.plan(project, given, alive=is_alive, user=None if everyone else user_name())
    if not as_json:
        _print_plan(decided)
    freed = 0
    if not dry_run and not decided.is_empty:
        if decided.runs and not yes and not as_json and sys.stdin.isatty():
            click.confirm(f"Forget {_counted(len(decided.runs), 'run')}?", abort=True)
        freed = care.free(project, decided)
    if as_json:
        print_json({**decided.as_json(), "dry_run": dry_run, "freed": freed})
    elif not dry_run and not decided.is_empty:
        click.echo(f"Freed {sized(freed)}.")


def _ask_service() -> None:
    """Have this user's service say what open notebooks need, which it does now and then: not while a machine sleeps."""
    from mlbench.backends.service_socket import connect

    try:
        with connect(role="cli", start=False) as client:
            client.request("hold", {}, timeout=_HOLDING)
    except MlbenchError:  # there is none, or an older one: then nobody holds what is older than a day
        return


def _print_plan(decided: Plan) -> None:
    if decided.runs:
        shown = output.table("run", "state", "name", "when")
        for run in decided.runs[:_SHOWN]:
            shown.add_row(short(run.id), output.state_text(run.state or "?"), plain(run.name), output.ago(run.time))
        console().print(shown)
        if len(decided.runs) > _SHOWN:
            click.echo(f"and {len(decided.runs) - _SHOWN:,} more")
    if decided.is_empty:
        click.echo("There is nothing to free.")
    else:
        counts = {"run": len(decided.runs), "object": len(decided.objects)}
        if packs := len(decided.packs) + len(decided.repacked):
            counts["pack"] = packs
        what = ", ".join(_counted(count, word) for word, count in counts.items())
        click.echo(f"To free: {what}; {sized(decided.bytes)}.")
    if decided.reused:
        click.echo(f"Kept because runs that stay have reused their steps: {_counted(len(decided.reused), 'run')}.")
    if decided.held:
        who = "Kept because an open notebook, or who reuses their steps, needs them"
        click.echo(f"{who}: {_counted(len(decided.held), 'run')}.")
    if decided.young:
        click.echo(f"Not needed but too young to be freed: {sized(decided.young)}.")
    for run in sorted(decided.under_way, key=lambda run: run.started)[:1]:
        where = f"run {short(run.id)} ({run.name}), which began {output.ago(run.started)}"
        click.echo(output.clean(f"Nothing that was stored since a day before {where} is freed while it is under way."))


@store.command(epilog="Example: mlbench store reindex")
@json_option
def reindex(as_json: bool) -> int:
    """Make the catalog anew from the records.

    Nobody may have one in SQLite open: stop the service first. On PostgreSQL all go on. What is queued, and the history
    of firings, is in the catalog alone: it is taken over if the old one can be read.
    The exit status is 1 if a record could not be read.
    """
    from mlbench.project.indexing import reindex as made_anew

    project = _here()
    damaged, whole = made_anew(project)
    runs = project.catalog.count_runs()
    if as_json:
        print_json({"runs": runs, "damaged": damaged, "old_catalog_read": whole})
        return int(bool(damaged))
    for name, problem in damaged.items():
        console().print(plain(f"damaged  record {name}"))
        console().print(plain(f"  {problem}"))
    click.echo(f"The catalog was made anew: {_counted(runs, 'run')}.")
    if not whole:
        click.echo("The old one was gone or damaged: what was queued, and the history of firings, is lost.")
    return int(bool(damaged))


@store.command(epilog="Example: mlbench store copy ~/.local/share/mlbench /data/mlbench")
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST")
@json_option
def copy(source: str, target: str, as_json: bool) -> int:
    """Copy the store SRC into DST, which is made if it is not there, and may hold another one's runs.

    Each is a directory or a URL, such as s3://bucket/folder. A copy that broke off goes on where it ended. All is
    checked on the way; the exit status is 1 if anything is damaged.
    """
    from mlbench.backends.blobs import canonical, is_url
    from mlbench.project import Project, find_store
    from mlbench.project.copying import copy as copied

    origin, destination = _existing(source), find_store(store=target)
    if canonical(origin.location.place) == canonical(destination.place):
        raise StoreError(f"{source} and {target} are one store.", "Name another one to copy to.")
    places = [Path(one.place) for one in (destination, origin.location) if not is_url(one.place)]
    if len(places) > 1 and places[0].resolve().is_relative_to(places[1].resolve()):
        raise StoreError(f"{target} lies inside the store {source}.", "Name a directory outside it to copy to.")
    done = copied(origin, Project(destination))
    if as_json:
        print_json(done)
        return int(bool(done.damaged))
    for name, problem in done.damaged.items():
        console().print(plain(f"damaged, and not copied  {name}"))
        console().print(plain(f"  {problem}"))
    what = _files(done.objects, done.packs, done.records, done.bytes)
    click.echo(f"Copied {what}; {done.there:,} files were there already.")
    if done.paused:
        names = ", ".join(done.paused)
        click.echo(output.clean(f"Paused there, so that they do not run twice: {names}. See: mlbench jobs resume"))
    return int(bool(done.damaged))


@store.command(epilog="Example: mlbench store du --by job")
@click.option("--by", type=click.Choice(get_args(By)), default="run", show_default=True, help="What to add up by.")
@click.option("-n", "--limit", type=click.IntRange(1), default=_SHOWN, show_default=True, help="How many lines.")
@json_option
def du(by: By, limit: int, as_json: bool) -> None:
    """Say what uses how much of the store.

    `alone` is what would be free without it; `shared` is what others use too, and counts once in the total.
    """
    from mlbench.project.care import use

    found, records = use(_here(), by)
    if as_json:
        print_json({"by": by, **asdict(found), "records": records})
        return
    shown = output.table(by, "objects", "alone", "shared", right=("objects", "alone", "shared"))
    for share in found.shares[:limit]:
        shown.add_row(plain(share.group), f"{share.objects:,}", sized(share.own), sized(share.shared))
    if found.shares:
        console().print(shown)
    if len(found.shares) > limit:
        click.echo(f"and {len(found.shares) - limit:,} more")
    click.echo(
        f"{sized(found.total + records)} in all: {sized(found.shared)} shared, {sized(records)} of records, "
        f"{sized(found.unused)} that nothing needs (see: mlbench store gc)."
    )


@click.command(epilog="Example: mlbench keep mq2a")
@click.argument("run")
@click.option("--no", "no_longer", is_flag=True, help="Let the rules hold for it again.")
@json_option
def keep(run: str, no_longer: bool, as_json: bool) -> None:
    """Keep the run with the id RUN, and all that it needs, whatever the rules of retention say."""
    from mlbench.project.care import keep as kept

    found = kept(_here(), run, kept=not no_longer)
    if as_json:
        print_json({"run": found.id, "keep": not no_longer})
    else:
        said = "is kept as long as the rules say" if no_longer else "is kept, whatever the rules say"
        click.echo(output.clean(f"Run {short(found.id)} ({found.name}) {said}."))


def _counted(count: int, word: str) -> str:
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"


def _files(objects: int, packs: int, records: int, size: int) -> str:
    return f"{_counted(objects, 'object')}, {_counted(packs, 'pack')} and {_counted(records, 'record')}, {sized(size)}"


def _here() -> Project:
    from mlbench.project import Project

    return Project.open()


def _existing(place: str) -> Project:
    """Open the store in a directory or under a URL, which must be one: none is made."""
    from mlbench.backends.blobs import is_url, open_blobs
    from mlbench.project import Project, find_store

    location = find_store(store=place)
    if not is_url(location.place) and not (location.path / "format").is_file():
        raise StoreError(f"{place} is no store of mlbench.", "Name a directory that has a file `format`.")
    open_blobs(location.place, make=False)
    return Project(location)
