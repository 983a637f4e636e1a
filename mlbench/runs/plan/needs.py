"""What a step needs of a worker, read from its options."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mlbench.core.messages import StepOptions

__all__ = ["resources_of", "shown_requirements", "threads_of"]


def resources_of(options: StepOptions) -> dict[str, float]:
    """Return what a worker must have free, by Dask's names.

    Examples
    --------
    >>> resources_of(StepOptions(cpu=2, memory=10**9, resources={"scanner": 1}))
    {'cpu': 2.0, 'memory': 1000000000.0, 'scanner': 1}
    """
    own = {"cpu": options.cpu, "gpu": options.gpu, "memory": options.memory}
    return {**{name: float(amount) for name, amount in own.items() if amount}, **options.resources}


def threads_of(options: StepOptions) -> int | None:
    """Return how many threads libraries are to use in a step: its processors, or what is left to it.

    Examples
    --------
    >>> threads_of(StepOptions(cpu=2.5)), threads_of(StepOptions(cpu=0.5)), threads_of(StepOptions())
    (2, 1, None)
    """
    return max(1, int(options.cpu)) if options.cpu else None


def shown_requirements(lines: Sequence[str]) -> tuple[str, ...]:
    """Return requirement lines as they are recorded: without options, and without the passwords of addresses.

    Examples
    --------
    >>> shown_requirements(["--index-url https://ada:secret@example.org", "tool @ https://ada:secret@example.org/t.zip"])
    ('tool @ https://***@example.org/t.zip',)
    """
    return tuple(re.sub(r"(?<=://)[^/@\s]+@", "***@", line) for line in lines if not line.startswith("-"))
