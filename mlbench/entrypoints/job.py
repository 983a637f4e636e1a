"""A job's run, in a process of its own: `python -m mlbench.entrypoints.job`, started by the service.

It takes the promoted notebook out of the store, with the modules that stood beside it, and runs it through papermill
in the recorded interpreter and folder. The process ends with the service that started it; what became of the run is
then said by the service that starts next.

Exit status: 0 done, 1 the notebook failed, 2 the job cannot be run as it is (the sentence is on standard error).
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlbench.core.records import Snapshot
    from mlbench.project import Project

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Run the job that the arguments name and return the exit status."""
    parser = argparse.ArgumentParser(prog="mlbench job")
    parser.add_argument("--store", required=True)
    parser.add_argument("--job", required=True)
    parser.add_argument("--version", required=True, type=int)
    parser.add_argument("--due", required=True, type=int)
    parser.add_argument("--run", required=True)
    parser.add_argument("--parent", type=int, default=0)
    told = parser.parse_args(arguments)
    _end_with(told.parent)
    signal.signal(signal.SIGTERM, _interrupt)

    from mlbench.core.errors import MlbenchError
    from mlbench.project import Project
    from mlbench.project.configuration import remember_catalog

    try:
        remember_catalog(told.store, os.environ.get("MLBENCH_CATALOG"))
        project = Project.open(store=told.store)
        return _run(project, told)
    except MlbenchError as error:
        print(error, file=sys.stderr)  # noqa: T201  the service reads it
        return 2
    except KeyboardInterrupt:
        return 1


def _run(project: Project, told: argparse.Namespace) -> int:
    from dataclasses import replace

    from mlbench.backends import runner_papermill
    from mlbench.backends.owners import scratch_folder
    from mlbench.core.ids import RunId
    from mlbench.notebook.parameters import restored
    from mlbench.project.preparation import declared
    from mlbench.runs.wire import msgspec

    job = project.catalog.job(told.job)
    version = next((v for v in project.catalog.job_versions(job.id) if v.number == told.version), job.version)
    snapshot = project.catalog.snapshot(version.snapshot)
    job = replace(job, version=version)
    folder = Path(snapshot.folder or Path(job.notebook).parent)
    with scratch_folder("job") as scratch:
        modules = _materialise(project, snapshot, scratch)
        request = runner_papermill.RunRequest(
            kind="job",
            run=RunId(told.run),
            notebook=job.notebook,
            notebook_id=job.notebook_id,
            name=job.name,
            store=told.store,
            snapshot=version.snapshot,
            interpreter=snapshot.interpreter,
            path=(str(modules),) if modules is not None else (),
            job=job.id,
            job_version=version.number,
            due=told.due,
        )
        nb = msgspec.json.decode(project.blobs.get(snapshot.notebook))
        outcome = runner_papermill.execute(
            nb,
            request,
            parameters=restored(declared(nb), version.parameters),
            folder=str(folder),
            kernel=snapshot.kernel_name or "python3",
            scratch=scratch,
        )
    if outcome.error is not None:
        print(_last_line(outcome.error), file=sys.stderr)  # noqa: T201  the service reads it
    return 0 if outcome.error is None else 1


def _materialise(project: Project, snapshot: Snapshot, scratch: Path) -> Path | None:
    """Write the modules of a snapshot as they were, and return their folder; None if there are none."""
    if not snapshot.modules:
        return None
    root = (scratch / "modules").resolve()
    for relative, digest in snapshot.modules.items():
        target = (root / relative).resolve()
        if not target.is_relative_to(root):
            continue  # a snapshot names only files below the notebook's folder; anything else was not made by us
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(project.blobs.get(digest))
    return root


def _last_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _end_with(parent: int) -> None:
    """See to it that this process ends when the service that started it does.

    Linux tells a process of its parent's death; elsewhere a thread looks.
    """
    if not parent:
        return
    if sys.platform == "linux":
        import ctypes

        set_parent_death_signal = 1  # PR_SET_PDEATHSIG of linux/prctl.h
        ctypes.CDLL(None, use_errno=True).prctl(set_parent_death_signal, signal.SIGKILL, 0, 0, 0)
    else:
        import threading

        threading.Thread(target=_watch_parent, args=(parent,), daemon=True, name="mlbench-parent").start()
    if os.getppid() != parent:
        os.killpg(0, signal.SIGKILL)


def _watch_parent(parent: int) -> None:
    import time

    while os.getppid() == parent:
        time.sleep(1)
    os.killpg(0, signal.SIGKILL)


def _interrupt(_: int, __: FrameType | None) -> Any:
    """Take SIGTERM as the user's wish to cancel: the run is then recorded as cancelled."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
