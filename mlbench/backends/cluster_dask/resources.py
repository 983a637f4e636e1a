"""What steps ask for and what workers have, by Dask's names: `cpu`, `gpu`, `memory` (bytes), and others of the user's.

Dask holds a step back until a worker has free what it asks for; what no worker has at all is refused before that, since
Dask would let it wait for ever. A step that asks for nothing takes nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from mlbench.backends.cluster_dask.processors import available
from mlbench.core.messages import StepTask
from mlbench.core.records import Failure

__all__ = ["Devices", "devices", "machine", "readable", "refusal", "total_memory", "with_devices"]

_VISIBLE: Final = "CUDA_VISIBLE_DEVICES"
_OPTIONS: Final = ("cpu", "gpu", "memory")
_SHOWN: Final = 5


def machine() -> dict[str, float]:
    """Return what this machine, or this container, has."""
    return {"cpu": available(), "memory": total_memory(), "gpu": len(devices())}


def total_memory() -> int:
    """Return the bytes of memory that this machine, or this container, has."""
    size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError), open(path, encoding="ascii") as file:
            size = min(size, int(file.read()))
    return size


def devices(variables: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Return the GPUs that a process may use, as CUDA names them: by its variables, else as the driver lists them."""
    said = (os.environ if variables is None else variables).get(_VISIBLE)
    if said is not None:
        named: list[str] = []
        for one in said.split(","):
            if not one.strip() or one.strip().startswith("-"):
                break  # as CUDA reads it: what follows the first that is not there is not there either
            named.append(one.strip())
        return tuple(named)
    if variables is not None:
        return ()
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    try:
        listed = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(str(place) for place, _ in enumerate(one for one in listed.splitlines() if one.startswith("GPU ")))


def refusal(step: str, asked: Mapping[str, float], workers: Mapping[str, Mapping[str, float]]) -> Failure | None:
    """Return why no worker of a cluster can ever run a step, None if one can.

    Parameters
    ----------
    workers
        The resources of each worker, by name; without any, one may still come that has it.

    Examples
    --------
    >>> refusal("fit", {"cpu": 64}, {"a": {"cpu": 8, "memory": 16e9, "gpu": 0}}).evalue
    'Step fit asks for --cpu 64, which no worker has. The cluster has one worker: a with 8 CPUs, 16 GB memory, no GPU.'
    >>> refusal("fit", {"cpu": 4}, {"a": {"cpu": 8}}) is None
    True
    """
    if not asked or not workers or any(_fits(asked, has) for has in workers.values()):
        return None
    for name, amount in asked.items():
        if not any(has.get(name, 0) >= amount for has in workers.values()):
            lacking, whole = _asked({name: amount}), f"{_asked({name: amount})}, which no worker has"
            break
    else:
        lacking, whole = _asked(asked), f"{_asked(asked)}, which no worker has together"
    listed = [f"{name} with {_has(has)}" for name, has in sorted(workers.items())]
    more = f"; and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    count = "one worker" if len(listed) == 1 else f"{len(listed)} workers"
    return Failure(
        ename="ResourcesError",
        evalue=f"Step {step} asks for {whole}. The cluster has {count}: {'; '.join(listed[:_SHOWN])}{more}.",
        remedy=f"Ask for less than {lacking}, or use a cluster whose workers have it.",
    )


class Devices:
    """The GPUs of this worker, given to steps and taken back. Methods may be called from any thread.

    Dask counts them; this says which ones. A step that asks for a part of one shares it with others that do.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._free = dict.fromkeys(names, 1.0)
        self._lock = threading.Lock()

    def take(self, amount: float, among: Sequence[str] = ()) -> tuple[str, ...]:
        """Return the devices for a step, those that its kernel may use first; fewer if there are not enough.

        Examples
        --------
        >>> ours = Devices(["0", "1"])
        >>> ours.take(0.5), ours.take(1), ours.take(0.5), ours.take(1)
        (('0',), ('1',), ('0',), ())
        """
        part = min(1.0, amount)
        wanted = max(1, round(amount))
        with self._lock:
            fitting = [name for name, left in self._free.items() if left >= part - 1e-9]
            # One that is in use already is filled up before another is begun.
            fitting.sort(key=lambda name: (name not in among, self._free[name]))
            taken = tuple(fitting[:wanted])
            for name in taken:
                self._free[name] -= part
        return taken

    def give_back(self, names: Sequence[str], amount: float) -> None:
        """Take back what a step had."""
        with self._lock:
            for name in names:
                self._free[name] = min(1.0, self._free[name] + min(1.0, amount))


_here: list[Devices] = []
_lock = threading.Lock()


@contextlib.contextmanager
def with_devices(task: StepTask) -> Iterator[StepTask]:
    """Give a step that asks for GPUs some of this worker's for as long as it runs: those that no other step has."""
    amount = task.resources.get("gpu", 0.0)
    if not amount:
        yield task
        return
    with _lock:
        if not _here:
            _here.append(Devices(devices()))
        ours = _here[0]
    variables = task.environment.variables
    taken = ours.take(amount, among=devices(variables))
    try:
        environment = dataclasses.replace(task.environment, variables={**variables, _VISIBLE: ",".join(taken)})
        yield dataclasses.replace(task, environment=environment)
    finally:
        ours.give_back(taken, amount)


def _fits(asked: Mapping[str, float], has: Mapping[str, float]) -> bool:
    return all(has.get(name, 0) >= amount for name, amount in asked.items())


def _asked(asked: Mapping[str, float]) -> str:
    own = [f"--{name} {_amount(name, asked[name])}" for name in _OPTIONS if name in asked]
    others = [f"{name}={amount:g}" for name, amount in asked.items() if name not in _OPTIONS]
    return " ".join([*own, *(["--resources " + ",".join(others)] if others else [])])


def _amount(name: str, amount: float) -> str:
    return readable(amount) if name == "memory" else f"{amount:g}"


def _has(has: Mapping[str, float]) -> str:
    words = []
    if "cpu" in has:
        words.append("1 CPU" if has["cpu"] == 1 else f"{has['cpu']:g} CPUs")
    if "memory" in has:
        words.append(f"{readable(has['memory'])} memory")
    if "gpu" in has:
        words.append(f"{has['gpu']:g} GPU{'s' if has['gpu'] > 1 else ''}" if has["gpu"] else "no GPU")
    words += [f"{name}={amount:g}" for name, amount in sorted(has.items()) if name not in _OPTIONS]
    return ", ".join(words) or "nothing declared"


def readable(size: float) -> str:
    """Return a number of bytes for people.

    Examples
    --------
    >>> readable(612_000_000), readable(2_000_000_000), readable(1_500_000_000)
    ('612 MB', '2 GB', '1.5 GB')
    """
    if size >= 1e12:
        return f"{round(size / 1e12, 1):g} TB"
    return f"{round(size / 1e9, 1):g} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
