"""A step on a worker that is not its kernel's machine: what it is given there in place of what the kernel has.

Its process comes from the worker's own interpreter and environment. Of the kernel come the variables that the notebook
changed, the modules that lie beside it, and, through the store, all values.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import platform
import re
import site
import sys
import time
from collections.abc import Mapping
from typing import Any, Final

from mlbench.backends.blobs import open_blobs, problem_of
from mlbench.backends.cluster_dask import versions
from mlbench.backends.cluster_dask.worker import modules
from mlbench.core.errors import MlbenchError, ServiceError, StoreError
from mlbench.core.ids import Digest
from mlbench.core.messages import Environment, StepTask, Surroundings
from mlbench.core.ports import BlobStore

__all__ = ["adapted", "claim", "conclude", "let_go", "travelling", "visits"]

_OF_A_MACHINE: Final = re.compile(
    r"(PATH|LD_.*|DYLD_.*|PYTHON.*|VIRTUAL_ENV.*|CONDA_.*|HOME|USER|LOGNAME|SHELL|PWD|OLDPWD|TMPDIR|TEMP|TMP|HOSTNAME"
    r"|XDG_.*|DISPLAY|SSH_.*|CUDA_VISIBLE_DEVICES|NVIDIA_.*|DASK_.*|JPY_.*|MLBENCH_.*|MPLBACKEND|SLURM_.*|_)$"
)
"""Variables that say where things are on one machine, or what somebody has there: they never travel."""

_STORE_SECONDS: Final = 5.0
"""How long a file that was just written may take to be seen through a network file system."""


def travelling(task: StepTask) -> StepTask:
    """Return a task as it is sent to such a worker: with those of the kernel's variables alone that are to travel."""
    variables = {
        name: value
        for name, value in task.environment.variables.items()
        if name in task.changed_variables and not _OF_A_MACHINE.match(name)
    }
    return dataclasses.replace(task, environment=dataclasses.replace(task.environment, variables=variables))


def adapted(task: StepTask, proof: Digest | None, client: Mapping[str, Any] | None = None) -> StepTask:
    """Return a task as it is run here.

    Parameters
    ----------
    proof
        An object that lies in the kernel's store.
    client
        How this worker's scheduler is reached from a step's process.

    Raises
    ------
    MlbenchError
        If this worker cannot run it: another Python, another store.
    """
    wanted = (task.cluster.versions if task.cluster is not None else {}).get("python")
    own = platform.python_version()
    if wanted is not None and versions.minor(wanted) != versions.minor(own):
        versions.check({"python": wanted}, {platform.node(): {"python": own, "mlbench": ""}}, _name(task))
    blobs = _store(task, proof)
    unpacked = modules.unpack(task.modules, blobs) if task.modules else None
    environment = Environment(
        interpreter=sys.executable,
        variables={**_own_variables(), **task.environment.variables},
        stamp=_stamp(),
        preload=task.environment.preload,
    )
    return dataclasses.replace(
        task,
        environment=environment,
        surroundings=_surroundings(task.surroundings, unpacked, blobs),
        client={**client, "modules": unpacked} if client is not None else None,
    )


def _surroundings(surroundings: Surroundings | None, unpacked: str | None, blobs: BlobStore) -> Surroundings | None:
    if surroundings is None:
        return None
    there = os.path.isdir(surroundings.folder)
    folder = surroundings.folder if there else unpacked or modules.unpack({}, blobs)
    first = tuple(one for one in (unpacked, surroundings.folder if there else None) if one is not None)
    return dataclasses.replace(surroundings, folder=folder, path=(), first=first)


def _store(task: StepTask, proof: Digest | None) -> BlobStore:
    """Open the kernel's store, and only that: where its path leads to nothing, nothing is made."""
    until = time.monotonic() + _STORE_SECONDS
    while True:
        problem = problem_of(task.store, proof)
        if problem is None:
            return open_blobs(task.store, make=False)
        if time.monotonic() > until:
            raise StoreError(
                f"The worker {platform.node()} of cluster {_name(task)} cannot use the store {task.store}: {problem}",
                "Mount the store there under the same path, or name one in MLBENCH_STORE that all workers see.",
            )
        time.sleep(0.1)


def _own_variables() -> dict[str, str]:
    """Return this worker's variables, without those that Dask set for its own threads."""
    import dask.config

    configured = dask.config.get("distributed.nanny.pre-spawn-environ", {})
    dasks = {**_PRE_SPAWN, **{str(name): str(value) for name, value in configured.items()}}
    return {
        name: value
        for name, value in os.environ.items()
        if dasks.get(name) != value and not name.startswith("DASK_INTERNAL_")
    }


_PRE_SPAWN: Final = {
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


def _stamp() -> str:
    states = [sys.version]
    for folder in sorted({*site.getsitepackages(), site.getusersitepackages()}):
        try:
            states.append(f"{folder}:{os.stat(folder).st_mtime_ns}")
        except OSError:
            continue
    return hashlib.blake2b("\n".join(states).encode(), digest_size=12).hexdigest()


def _name(task: StepTask) -> str:
    return task.cluster.name if task.cluster is not None else "local"


def claim(task: StepTask) -> bool:
    """Say whether this worker is the first to begin an attempt of a step; a scheduler may hand one out again.

    A scheduler that is not ours gives the task of a lost worker to another one; a body is never to start twice. So
    only who has heard the end lets the claim go.
    """
    try:
        return open_blobs(task.store, make=False).claim(_claim(task))
    except MlbenchError as error:
        raise ServiceError(error.message, "See to the store, then run the cell again.") from error


def conclude(task: StepTask) -> bool:
    """Say whether nobody else has said how an attempt of a step ended: its worker, or who has given that up."""
    return open_blobs(task.store, make=False).claim(f"{_claim(task)}-end")


def let_go(task: StepTask) -> None:
    """Forget the claims of an attempt that has ended, whoever made them."""
    blobs = open_blobs(task.store, make=False)
    blobs.let_go(_claim(task))
    blobs.let_go(f"{_claim(task)}-end")


def visits(task: StepTask) -> bool:
    """Say whether a task is for workers that are not of its own service, which may live on when they are lost to it."""
    return task.cluster is not None and task.cluster.kind != "local"


def _claim(task: StepTask) -> str:
    chunk = f"-{task.chunk.place}" if task.chunk is not None else ""
    return f"{task.execution}-{task.attempt}{chunk}"
