"""A command of mlbench's own as a process that outlives whoever starts it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from typing import IO

__all__ = ["Command", "start"]

_RUN = "from mlbench.entrypoints.cli import main; main()"


class Command:
    """A command that runs.

    Parameters
    ----------
    process
        It, in a session of its own.
    said
        Where it writes what it has to say.
    """

    def __init__(self, process: subprocess.Popen[bytes], said: IO[bytes]) -> None:
        self._process = process
        self._said = said

    def has_ended(self, seconds: float) -> bool:
        """Wait for its end for some time; say whether it has come."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def last_line(self) -> str:
        """Return the last line that it has written."""
        self._said.seek(0)
        lines = self._said.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1].strip() if lines else ""


def start(*arguments: str, store: str) -> Command:
    """Start `mlbench` with arguments, on a store."""
    said = tempfile.TemporaryFile()  # noqa: SIM115  the process writes to it for as long as it lasts
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", _RUN, *arguments],
        env={**os.environ, "MLBENCH_STORE": store},
        stdin=subprocess.DEVNULL,
        stdout=said,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    return Command(process, said)
