"""`python -m mlbench.entrypoints.service run`: be the service, in this process."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from mlbench.backends.service_socket.door import Door
from mlbench.core.errors import MlbenchError

if TYPE_CHECKING:
    from mlbench.entrypoints.service.steps import Executor
    from mlbench.project import Project

LARGEST_LOG: Final = 5 << 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Be the service until it ends; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m mlbench.entrypoints.service")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="be the service")
    run.add_argument("--until-idle", action="store_true", help="end when nobody needs it any more")
    run.add_argument("--ready-fd", type=int, default=None, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    return run_service(until_idle=chosen.until_idle, ready_descriptor=chosen.ready_fd)


_LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR")


def run_service(*, until_idle: bool = False, ready_descriptor: int | None = None) -> int:
    """Be the service until it ends; return the exit status.

    Parameters
    ----------
    ready_descriptor
        Where to say that it listens; closed then.
    """
    level = (os.environ.get("MLBENCH_LOG_LEVEL") or "INFO").upper()
    if level not in _LEVELS:
        sys.stderr.write(f"MLBENCH_LOG_LEVEL is {level!r:.40}. Write one of {', '.join(_LEVELS)}.\n")
        return 1
    logging.basicConfig(
        level=level,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    for noisy in ("distributed", "asyncio", "tornado", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)

    def ready() -> None:
        if ready_descriptor is not None:
            os.write(ready_descriptor, b"ready\n")
            os.close(ready_descriptor)

    from mlbench.entrypoints.service.process import AlreadyRunning, serve

    try:
        door = Door.find()
        if door.log.is_file() and door.log.stat().st_size > LARGEST_LOG:
            os.truncate(door.log, 0)
        serve(door, _cluster, open_project=_project, until_idle=until_idle, ready=ready)
    except AlreadyRunning as error:
        if ready_descriptor is None:
            sys.stderr.write(f"{error}\n")
            return 1
        ready()  # whoever started us finds the other one
    except MlbenchError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _project(path: str) -> Project:
    from mlbench.project import Project

    return Project.open(store=path)


def _cluster() -> Executor:
    from mlbench.backends.cluster_dask.client.cluster import DaskCluster

    return DaskCluster()


if __name__ == "__main__":
    sys.exit(main())
