"""What is installed in a kernel and in a worker, and which differences matter."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Final

from mlbench.core.errors import ServiceError

__all__ = ["COMPARED", "asked", "check", "differences", "installed", "minor"]

COMPARED: Final = (
    "mlbench",
    "numpy",
    "pandas",
    "scipy",
    "scikit-learn",
    "pyarrow",
    "torch",
    "xgboost",
    "lightgbm",
    "cloudpickle",
    "msgspec",
    "dask",
    "distributed",
    "ipython",
)
"""Distributions whose versions are compared, besides Python: what values are made of, and what carries them."""


def installed() -> dict[str, str]:
    """Return the versions of this process: of Python, and of what is installed of those that are compared."""
    versions = {"python": platform.python_version()}
    for name in COMPARED:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def asked() -> str:
    """Return the source of an expression that gives the same in a worker, which may not have mlbench."""
    return (
        "{'python': __import__('platform').python_version(), "
        "**({'mlbench': 'source'} if __import__('importlib.util', fromlist=['_']).find_spec('mlbench') else {}), "
        f"**{{name: one.version for name in {COMPARED!r} "
        "if name != 'mlbench' or __import__('importlib.util', fromlist=['_']).find_spec('mlbench') "
        "for one in __import__('importlib.metadata', fromlist=['_']).distributions(name=name)}}"
    )


def minor(version: str) -> str:
    """Return a version without its last part.

    Examples
    --------
    >>> minor("3.11.7")
    '3.11'
    """
    return ".".join(version.split(".")[:2])


def check(kernel: Mapping[str, str], workers: Mapping[str, Mapping[str, str]], cluster: str) -> None:
    """Refuse workers that cannot run steps of a kernel.

    Parameters
    ----------
    workers
        The versions of each, by address.

    Raises
    ------
    ServiceError
        If one has no mlbench, or another minor version of Python.
    """
    without = sorted(address for address, versions in workers.items() if "mlbench" not in versions)
    if without:
        wanted = kernel.get("mlbench")
        raise ServiceError(
            f"{_some('worker', without)} of cluster {cluster} {_verb(without, 'has', 'have')} no mlbench.",
            f"Install it there: pip install mlbench{f'=={wanted}' if wanted else ''}.",
        )
    if "python" not in kernel:
        return
    for address, versions in sorted(workers.items()):
        if minor(versions["python"]) != minor(kernel["python"]):
            raise ServiceError(
                f"The worker {address} of cluster {cluster} has Python {versions['python']}, the kernel Python "
                f"{kernel['python']}: what one pickles the other cannot run.",
                f"Give the workers Python {minor(kernel['python'])}, or the notebook a kernel with Python "
                f"{minor(versions['python'])}.",
            )


def differences(kernel: Mapping[str, str], workers: Mapping[str, Mapping[str, str]]) -> tuple[str, ...]:
    r"""Return a short table of what differs between a kernel and workers, nothing if nothing does.

    Examples
    --------
    >>> kernel = {"python": "3.11.7", "numpy": "2.1.0", "dask": "2026.1"}
    >>> workers = {"tcp://a": {**kernel, "numpy": "1.26.4"}, "tcp://b": kernel}
    >>> print(*differences(kernel, workers), sep="\n")
    Versions differ between this kernel and 1 of 2 workers:
      package  kernel  workers
      numpy    2.1.0   1.26.4, 2.1.0
    """
    rows: list[tuple[str, str, str]] = []
    differing: set[str] = set()
    for name in ("python", *COMPARED):
        own = kernel.get(name)
        there = {address: versions.get(name) for address, versions in workers.items()}
        other = {address for address, version in there.items() if version != own}
        if own is None or not other:
            continue  # what the kernel does not have, its steps do not use
        differing |= other
        rows.append((name, own, ", ".join(sorted({version or "not installed" for version in there.values()}))))
    if not rows:
        return ()
    rows.insert(0, ("package", "kernel", "workers"))
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    table = [f"  {row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]}" for row in rows]
    many = f"{len(differing)} of {len(workers)} workers" if len(workers) > 1 else "its worker"
    return (f"Versions differ between this kernel and {many}:", *table)


def _some(noun: str, ones: Sequence[str]) -> str:
    if len(ones) == 1:
        return f"The {noun} {ones[0]}"
    return f"{len(ones)} {noun}s ({', '.join(ones[:3])}{', …' if len(ones) > 3 else ''})"


def _verb(ones: Sequence[str], singular: str, plural: str) -> str:
    return singular if len(ones) == 1 else plural
