"""Errors of the store that say what it is that is damaged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mlbench.core.errors import ArtifactCorrupt

__all__ = ["naming"]


@contextmanager
def naming(name: str | None = None, step: str | None = None, run: str | None = None) -> Iterator[None]:
    """Have what is damaged be told with its name, its step and its run, as far as they are known.

    Examples
    --------
    >>> with naming("model", "train", "mq2a"):
    ...     raise ArtifactCorrupt.at("blake3:" + "0" * 64, "no artifact")
    Traceback (most recent call last):
    mlbench.core.errors.ArtifactCorrupt: `model` of step train in run mq2a is damaged in the store: ...
    """
    try:
        yield
    except ArtifactCorrupt as error:
        raise error.of(name, step, run) from error
