"""What the benchmarks share: figures, a kernel to measure in, a store and a service of their own."""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

LIMIT = 300.0
"""Seconds after which a cell that is measured is given up."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number; a ratio has a goal that it should not be above. Without a value, `unit` says why."""

    bench: str
    subject: str
    metric: str
    value: float | None
    unit: str
    goal: float | None = None

    @property
    def reached(self) -> bool | None:
        """Whether the goal is reached, or None where there is none."""
        return None if self.goal is None or self.value is None else self.value <= self.goal


def ratio(bench: str, metric: str, ours: float, peer: float, *, goal: float) -> Figure:
    """Return ours as a multiple of the peer's."""
    return Figure(bench, "ratio", metric, round(ours / peer, 4), "x", goal)


def alternate(rounds: int, *subjects: Callable[[], float]) -> list[float]:
    """Measure each subject in turn, as many rounds as said, and return the medians.

    What else the machine does falls on all subjects alike; every other round goes in the opposite order.
    """
    measured: list[list[float]] = [[] for _ in subjects]
    for turn in range(rounds):
        order = list(enumerate(subjects))
        for place, subject in reversed(order) if turn % 2 else order:
            measured[place].append(subject())
    return [statistics.median(values) for values in measured]


@contextlib.contextmanager
def surroundings() -> Iterator[Path]:
    """Give what is measured a store and a service of its own, and end that service afterwards."""
    with tempfile.TemporaryDirectory(prefix="mlb", ignore_cleanup_errors=True) as folder:
        own = {
            "MLBENCH_STORE": f"{folder}/store",
            "MLBENCH_RUNTIME": f"{folder}/run",
            "IPYTHONDIR": f"{folder}/ipython",
        }
        before = {name: os.environ.get(name) for name in own}
        os.environ.update(own)
        try:
            yield Path(folder)
        finally:
            stop = "from mlbench.entrypoints.cli import main; main(['service', 'stop', '--force'])"
            command = [sys.executable, "-c", stop]
            subprocess.run(command, capture_output=True, check=False, timeout=60)
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


class CellError(Exception):
    """A cell that was to be measured failed."""


class Kernel:
    """A kernel of this interpreter, driven as a front end drives it."""

    def __enter__(self) -> Self:
        from jupyter_client.manager import KernelManager

        self._manager = cast("Any", KernelManager(kernel_name="python3"))
        self._manager.kernel_spec.argv[0] = sys.executable
        self._manager.start_kernel(stderr=subprocess.DEVNULL)
        self._client: Any = self._manager.client()
        self._client.start_channels()
        self._client.wait_for_ready(timeout=LIMIT)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.stop_channels()
        self._manager.shutdown_kernel(now=True)

    @property
    def process(self) -> int:
        """The kernel's process."""
        return int(self._manager.provisioner.pid)

    def greet(self) -> None:
        """Be a page that shows late output: steps that are sent from now on do not wait."""
        page = self._client.session.session
        self.run(f"get_ipython().__dict__.setdefault('mlbench_pages', set()).add({page!r})")

    def send(self, code: str, cell: str) -> None:
        """Ask for a cell, as a page does, and do not wait for it."""
        content = {"code": code, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False}
        message = self._client.session.msg("execute_request", content | {"stop_on_error": False})
        message["metadata"] = {"cellId": cell}
        self._client.shell_channel.send(message)

    def run(self, code: str) -> str:
        """Run a cell and return what it printed. Raise `CellError` if it fails."""
        return self._run(code)[0]

    def seconds(self, code: str, shown: str | None = None) -> float:
        """Run a cell; return the seconds until the kernel was idle again, or until a text was shown."""
        return self._run(code, shown)[1]

    def _run(self, code: str, shown: str | None = None) -> tuple[str, float]:
        began = time.perf_counter()
        request = self._client.execute(code, stop_on_error=False)
        printed: list[str] = []
        seen: float | None = None
        while True:
            message = self._client.get_iopub_msg(timeout=LIMIT)
            if message["parent_header"].get("msg_id") != request:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "stream":
                printed.append(content["text"])
                if shown is not None and seen is None and shown in content["text"]:
                    seen = time.perf_counter() - began
            elif kind == "error":
                raise CellError(f"{content['ename']}: {content['evalue']}")
            elif kind == "status" and content["execution_state"] == "idle":
                break
        elapsed = time.perf_counter() - began
        if shown is not None and seen is None:
            raise CellError(f"The cell never showed {shown!r}; it printed {''.join(printed)!r}.")
        return "".join(printed), elapsed if seen is None else seen


def installed(module: str) -> bool:
    """Say whether a peer can be measured here."""
    from importlib.util import find_spec

    return find_spec(module) is not None


def wall(command: Sequence[str], **options: Any) -> float:
    """Run a command and return its seconds. Raise `CalledProcessError`, with what it said, if it fails."""
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, timeout=LIMIT, **options)
    return time.perf_counter() - began
