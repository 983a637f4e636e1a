"""Which process answers for a run: pid, start time and boot as text, so that a reused pid is never taken for it."""

from __future__ import annotations


def owner_of_this_process() -> str:
    """Return the owner text of this process."""
    raise NotImplementedError


def is_alive(owner: str | None, /) -> bool:
    """Say whether the process that an owner text names still lives on this host."""
    raise NotImplementedError
