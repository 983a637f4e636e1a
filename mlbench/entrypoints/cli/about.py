"""`mlbench config` and `mlbench version`."""

from __future__ import annotations

import click

from mlbench.entrypoints.cli.output import console, json_option, plain, print_json, table


@click.command(epilog="Example: MLBENCH_STORE=/data/mlbench mlbench config")
@click.argument("notebook", required=False)
@json_option
def config(notebook: str | None, as_json: bool) -> None:
    """Show which store is used here, or for NOTEBOOK, and why."""
    from mlbench.backends.blobs import local_folder
    from mlbench.backends.service_socket import Door, installed_version
    from mlbench.core.urls import without_password
    from mlbench.project.configuration import find_store

    found = find_store(notebook)
    door = Door.find()
    facts = {
        "version": installed_version(),
        "store": found.place,
        "source": found.source,
        "catalog": without_password(found.catalog_url),
        "notice": found.notice,
        "cache": local_folder(found.url) if found.url is not None else None,
        "socket": str(door.socket),
    }
    if as_json:
        print_json(facts)
        return
    shown = table("", "")
    shown.show_header = False
    for name, value in facts.items():
        if value is not None:
            shown.add_row(name, plain(value))
    console().print(shown)


@click.command(epilog="Example: mlbench version --json")
@json_option
def version(as_json: bool) -> None:
    """Show the version of mlbench, its Python and its protocol."""
    import platform

    from mlbench.backends.service_socket import installed_version
    from mlbench.core.messages import PROTOCOL

    if as_json:
        print_json({"version": installed_version(), "python": platform.python_version(), "protocol": PROTOCOL})
    else:
        click.echo(f"mlbench {installed_version()} (Python {platform.python_version()}, protocol {PROTOCOL})")
