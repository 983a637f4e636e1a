"""`mlbench cluster`: the clusters that steps run on."""

from __future__ import annotations

import os
from typing import Any

import click

from mlbench.entrypoints.cli import output
from mlbench.entrypoints.cli.output import console, json_option, plain, print_json

_cluster_argument = click.argument("cluster", required=False)


@click.group(invoke_without_command=True, epilog="Example: mlbench cluster show big")
@click.pass_context
def cluster(context: click.Context) -> None:
    """See and steer the clusters that steps run on: this machine, configured ones, or a scheduler's address.

    Without a command it shows the configuration's default, as `%cluster` does.
    """
    if context.invoked_subcommand is None:
        _answer(_ask("show", None), as_json=False)


@cluster.command(epilog="Example: mlbench cluster show tcp://10.0.0.5:8786")
@_cluster_argument
@json_option
def show(cluster: str | None, as_json: bool) -> None:
    """Show a cluster (a name, an address, or the configuration's default): workers, resources, steps under way."""
    _answer(_ask("show", cluster), as_json)


@cluster.command(epilog="Example: mlbench cluster start big")
@_cluster_argument
@click.option("--tls-ca", type=click.Path(exists=True, dir_okay=False), help="For tls://: who signs certificates.")
@click.option("--tls-cert", type=click.Path(exists=True, dir_okay=False), help="For tls://: our certificate.")
@click.option("--tls-key", type=click.Path(exists=True, dir_okay=False), help="For tls://: its key.")
@json_option
def start(cluster: str | None, tls_ca: str | None, tls_cert: str | None, tls_key: str | None, as_json: bool) -> None:
    """Start a cluster, or connect to the scheduler at an address, and say what differs there."""
    from mlbench.core.errors import UsageError
    from mlbench.core.messages import Tls

    tls = None
    if tls_ca or tls_cert or tls_key:
        if not (tls_ca and tls_cert and tls_key):
            raise UsageError("Of --tls-ca, --tls-cert and --tls-key one is missing.", "TLS needs all three.")
        tls = Tls(ca_file=os.path.abspath(tls_ca), cert=os.path.abspath(tls_cert), key=os.path.abspath(tls_key))
    _answer(_ask("start", cluster, tls=tls), as_json)


@cluster.command(epilog="Example: mlbench cluster scale 8 big")
@click.argument("workers", type=click.IntRange(min=0))
@_cluster_argument
@json_option
def scale(workers: int, cluster: str | None, as_json: bool) -> None:
    """Ask a configured cluster for a number of workers."""
    _answer(_ask("scale", cluster, workers=workers), as_json)


@cluster.command(epilog="Example: mlbench cluster stop big")
@_cluster_argument
@click.option("--force", is_flag=True, help="Also if steps are under way there: they are then lost.")
@json_option
def stop(cluster: str | None, force: bool, as_json: bool) -> None:
    """Stop a cluster that mlbench has started; leave one that somebody else runs."""
    _answer(_ask("stop", cluster, force=force), as_json)


def _ask(verb: str, name: str | None, *, tls: Any = None, **more: Any) -> dict[str, Any]:
    from dataclasses import replace

    from mlbench.backends.cluster_dask.versions import installed
    from mlbench.backends.service_socket import Door, connect
    from mlbench.project.clusters import choose, default_cluster

    choice = choose(name, tls=tls) if name is not None else default_cluster()
    if verb in ("show", "stop") and Door.find().alive() is None:
        return {"name": choice.name, "kind": choice.kind, "running": False, "workers": [], "under_way": []}
    if verb == "start":
        choice = replace(choice, versions=installed())
    with connect(role="cli", start=True) as client:
        found: dict[str, Any] = client.request("cluster", {"verb": verb, "choice": choice, **more}, timeout=600)
    return found


def _answer(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(facts)
        return
    what = {"local": "this machine", "address": "run by somebody else"}.get(facts["kind"], facts.get("factory"))
    state = "running" if facts["running"] else "not running: it starts with the first step"
    click.echo(f"{facts['name']} ({what}): {state}")
    asked, there = facts.get("asked"), len(facts["workers"])
    if asked is not None and asked != there:
        click.echo(f"asked for {asked} {'worker' if asked == 1 else 'workers'}; {there or 'none'} so far")
    for name in ("address", "dashboard"):
        if facts.get(name) and facts[name] != facts["name"]:
            click.echo(f"{name}: {facts[name]}")
    if facts["workers"]:
        shown = output.table("worker", "threads", "memory", "resources", "steps")
        for one in facts["workers"]:
            memory = f"{one['memory'] / 1e9:.1f} GB" if one["memory"] else ""
            had = ", ".join(f"{name}={value:g}" for name, value in sorted(one["resources"].items()))
            shown.add_row(one["address"], str(one["threads"]), memory, plain(had), plain(", ".join(one["steps"])))
        console().print(shown)
    for line in facts.get("notices", ()):
        click.echo(line)
