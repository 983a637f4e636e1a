"""Notes beside what is kept: that something was needed again, or is about to be removed."""

from __future__ import annotations

import os
import re
import threading
import time
from typing import Final

from mlbench.backends.blobs_fsspec.remote import Entry, Remote
from mlbench.backends.blobs_local import files

__all__ = ["COARSE", "Notes", "read_note"]

COARSE: Final = 1_000_000_000
"""An object store's times are whole seconds, rounded down: nanoseconds to add where that is the safe side."""

_REMOVING: Final = 20.0
_AWAITED: Final = 60.0
"""Seconds within which what is about to be removed is removed or left, and those that somebody who needs it waits."""

_NOTE: Final = re.compile(r"tmp/met-([0-9a-f]{64})-([0-9]{19})")


class Notes:
    """The notes under a URL. Calls may come from several threads and processes."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote

    def meet(self, name: str, there: Entry | None = None) -> bool:
        """Have what is kept be no older than an hour, so that nobody frees it; return False if it is not there."""
        there = there or self._remote.find(name)
        if there is None:
            return False
        digits = name.rpartition("/")[2]
        fresh = time.time_ns() - int(files.FRESH * 1e9)
        notes = self._remote.entries("tmp", f"met-{digits}-")
        if there.time > fresh or any(read_note(one.name)[1] > fresh for one in notes):
            return True
        self._remote.replace(f"tmp/met-{digits}-{time.time_ns():019}", 0, [])
        until = time.monotonic() + _AWAITED
        while any(True for _ in self._remote.entries("tmp", f"freeing-{digits}-")):
            if time.monotonic() > until:  # it was killed there: nobody can tell any more, so it is written anew
                return False
            threading.Event().wait(0.2)
        return self._remote.find(name) is not None

    def remove_old(self, there: Entry, before: int) -> bool:
        """Remove something unless it was written or met since a time; return whether that was done."""
        digits = there.name.rpartition("/")[2]
        if self._last_met(there, digits) >= before:
            return False
        intent = f"tmp/freeing-{digits}-{os.urandom(8).hex()}"
        began = time.monotonic()
        self._remote.replace(intent, 0, [])
        try:
            found = self._remote.find(there.name)
            if found is None or self._last_met(found, digits) >= before:  # somebody has met it since
                return False
            if time.monotonic() - began > _REMOVING:  # who needs it does not wait for ever
                return False
            self._remote.remove(there.name)
        finally:
            self._remote.remove(intent)
        return True

    def times(self) -> dict[str, int]:
        """Return when objects and packs were met last, by their digits."""
        found: dict[str, int] = {}
        for entry in self._remote.entries("tmp", "met-"):
            digits, met = read_note(entry.name)
            found[digits] = max(met, found.get(digits, 0))
        return found

    def _last_met(self, there: Entry, digits: str) -> int:
        met = [max(read_note(one.name)[1], one.time + COARSE) for one in self._remote.entries("tmp", f"met-{digits}-")]
        return max([there.time + COARSE, *met])


def read_note(name: str) -> tuple[str, int]:
    """Return what a note is about, by its digits, and the time that it says; nothing, and 0, if it is no note."""
    found = _NOTE.fullmatch(name)
    return (found[1], int(found[2])) if found is not None else ("", 0)
