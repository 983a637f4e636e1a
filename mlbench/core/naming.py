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
    >>> try:
    ...     with naming("model", "train", "mq2a"):
    ...         raise ArtifactCorrupt.at("blake3:" + "0" * 64, "no artifact")
    ... except ArtifactCorrupt as error:
    ...     print(error.message)
    `model` of step train in run mq2a is damaged in the store: expected blake3:00000000, got no artifact.
    """
    try:
        yield
    except ArtifactCorrupt as error:
        raise error.of(name, step, run) from error
