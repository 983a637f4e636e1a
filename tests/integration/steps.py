"""Steps for tests: run one in a real process, without Dask, or find out which processes are left."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlbench.backends.blobs import open_blobs
from mlbench.backends.cluster_dask.worker import supervisor
from mlbench.core.ids import ExecutionId, RunId, new_id
from mlbench.core.messages import Environment, StepTask
from mlbench.core.records import Execution, Json
from mlbench.runs import capture

ROOT = Path(__file__).resolve().parents[2]


def environment(*preload: str, **variables: str) -> Environment:
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return Environment(
        interpreter=sys.executable,
        stamp="test",
        preload=preload,
        variables={**os.environ, "PYTHONPATH": path, **variables},
    )


def task(store: Path, source: str, *, captured: dict[str, Any] | None = None, **others: Any) -> StepTask:
    """Return a step's task; `captured` is the namespace of a notebook, all of which is sent along.

    Its store is there by then, as its kernel sees to.
    """
    open_blobs(store)
    packed = b""
    if captured is not None:
        captured.setdefault("__name__", "__main__")
        names = [name for name in captured if not name.startswith("__")]
        packed = capture.make(names, captured).data
    others.setdefault("environment", environment())
    return StepTask(
        execution=ExecutionId(new_id()),
        run=RunId(new_id()),
        step=others.pop("step", "train"),
        source=source,
        store=str(store),
        capture=packed,
        **others,
    )


PATIENCE = 90.0
"""Seconds after which a test is said to hang: nothing is promised of them, and a busy machine is slow."""


class Clock:
    """The module `time`, whose monotonic clock can be put forward."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._ahead += seconds

    def monotonic(self) -> float:
        return time.monotonic() + self._ahead

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


class Shown:
    """What a step said, and its end."""

    def __init__(self) -> None:
        self.news: list[Json] = []
        self.record: Execution | None = None
        self.begun = threading.Event()
        self._changed = threading.Condition()

    def take(self, _: ExecutionId, news: list[Json]) -> None:
        with self._changed:
            self.news += news
            self._changed.notify_all()
        self.begun.set()

    def wait_for(self, text: str, seconds: float = PATIENCE) -> None:
        """Wait until the step has printed a text."""
        with self._changed:
            if not self._changed.wait_for(lambda: text in self.text, seconds):
                raise AssertionError(f"{text!r} was not printed: {self.text!r}")

    @property
    def begun_items(self) -> set[int]:
        """The items of a fan-out that were said to be under way."""
        with self._changed:
            return {number for news in self.news if news["type"] == "items" for number, _ in news["begun"]}

    @property
    def text(self) -> str:
        return text_of([one for news in self.news if news["type"] == "messages" for one in news["messages"]])


def text_of(messages: Any, *names: str) -> str:
    return "".join(
        one["text"] for one in messages if one["output_type"] == "stream" and (not names or one["name"] in names)
    )


def meeting(folder: Path, name: str, *others: str) -> str:
    """Return the source of a step that ends once it is under way together with others."""
    folder.mkdir(exist_ok=True)
    return (
        f"import os, time\nopen(os.path.join({str(folder)!r}, {name!r}), 'w').close()\n"
        f"while not set({others!r}) <= set(os.listdir({str(folder)!r})): time.sleep(0.01)\n"
    )


def run(given: StepTask, shown: Shown | None = None) -> Execution:
    """Run a step to its end."""
    shown = shown if shown is not None else Shown()
    shown.record = supervisor.supervise(given, shown.take)
    return shown.record


def begin(given: StepTask) -> tuple[Shown, threading.Thread]:
    """Run a step in a thread."""
    shown = Shown()
    thread = threading.Thread(target=run, args=(given, shown), daemon=True)
    thread.start()
    return shown, thread


def await_true(check: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Look until something holds."""
    end, waiting = time.monotonic() + seconds, threading.Event()
    while not check():
        if time.monotonic() > end:
            raise AssertionError("It did not come true in time.")
        waiting.wait(0.02)


def stopped(process: int) -> bool:
    """Say whether a process has been stopped, to go on later."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def alive(process: int) -> bool:
    """Say whether a process is there, other than as a zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def end(process: int) -> None:
    os.kill(process, signal.SIGKILL)
