"""`mlbench trust`."""

from __future__ import annotations

import click

from mlbench.core.errors import UsageError
from mlbench.entrypoints.cli.output import console, json_option, print_json


@click.command(epilog="Example: mlbench trust ada")
@click.argument("user", required=False)
@click.option("--unsigned", is_flag=True, help="Trust what is unsigned in this store, from before values were signed.")
@click.option("--remove", is_flag=True, help="Trust no more.")
@json_option
def trust(user: str | None, unsigned: bool, remove: bool, as_json: bool) -> None:
    """Load what USER has stored without a question, also where that runs code; without USER, show who is trusted.

    A stored model is a pickle: to load it is to run code of whoever made it. Who can write to a store can write any
    user's name there, so trust USER only on a store whose other writers you trust too.
    """
    from mlbench.project.configuration import find_store
    from mlbench.project.signing import keys_folder, set_trust
    from mlbench.project.signing import trust as whom

    if remove and user is None and not unsigned:
        raise UsageError("Trust whom no more?", "Write: mlbench trust USER --remove")
    if user is not None or unsigned:
        found = set_trust(user=user, unsigned=find_store().place if unsigned else None, remove=remove)
    else:
        found = whom()
    if as_json:
        folder = str(keys_folder())
        print_json({"users": sorted(found.users), "unsigned": sorted(found.unsigned), "keys": folder})
        return
    print_ = console().print
    print_(f"Trusted: {', '.join(sorted(found.users)) or 'nobody but you'}.", markup=False)
    for store in sorted(found.unsigned):
        print_(f"What is unsigned in {store} counts as yours.", markup=False)
    print_(f"Your key is in {keys_folder()}.", markup=False)
