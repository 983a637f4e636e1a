"""Kernels: who is attached, and which run their steps go to."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from mlbench.backends.owners import user_name
from mlbench.core.ids import Digest, NotebookId, RunId, new_id
from mlbench.core.messages import KernelHello
from mlbench.core.records import Binding, Execution, Json, Metric, Run
from mlbench.notebook.document import notebook_id
from mlbench.runs.itemrecords import ItemRecord
from mlbench.runs.series import Series

__all__ = [
    "Session",
    "ago",
    "already_running",
    "describe",
    "describe_item",
    "metrics_of",
    "notebook_of",
    "read_notebook",
]

LARGEST_NOTEBOOK: Final = 50 << 20
"""Bytes of a notebook's file that is read for a snapshot; a longer one is made of the cells that were run."""


@dataclass(slots=True, eq=False)
class Session:
    """One kernel, attached or gone.

    `pid` tells a kernel that has restarted from one that has only connected again. `fixed` is the run that an engine
    has opened for it; without one its runs are interactive. `here` are steps under way in the kernel itself,
    `missed` ends that it could not hear of, `kept` the last snapshot with the cells and parameters that it was made of.
    `several` says that pages of more than one notebook use the kernel.
    """

    hello: KernelHello
    owner: str
    pid: int | None = None
    attached: bool = True
    parameters: Json = field(default_factory=dict)
    cells: tuple[str, ...] = ()
    document: Json | None = None
    document_at: int = 0
    several: bool = False
    kept: tuple[tuple[str, ...], Json, Digest] | None = None
    metrics: list[Metric] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    artifacts: tuple[Binding, ...] = ()
    lost_at: int | None = None
    here: dict[str, Execution] = field(default_factory=dict)
    missed: list[Execution] = field(default_factory=list)
    foreign: NotebookId | None = None
    series: Series = field(init=False)

    def __post_init__(self) -> None:
        self.series = Series(self.hello.kernel, self._make_run, new_id)

    @property
    def fixed(self) -> RunId | None:
        return self.hello.run

    @property
    def notebook(self) -> str | None:
        """What the notebook is known by."""
        return self.hello.notebook_id or self.hello.notebook

    @property
    def kin(self) -> str | None:
        """What it has in common with kernels whose steps it may take over: the notebook, or an engine's one run."""
        return self.fixed or self.notebook

    @property
    def run(self) -> RunId | None:
        """The run that a step goes to now, unless it opens the next."""
        if self.fixed is not None:
            return self.fixed
        current = self.series.current
        return current.id if current is not None else None

    def attach(self, hello: KernelHello, pid: int | None) -> None:
        """Take the kernel's word for where it is now; another process is a kernel that has restarted."""
        if pid is None or pid != self.pid:
            self.series.restart()
            self.cells = ()
        known = self.hello.notebook_id
        self.hello, self.pid, self.attached, self.lost_at = hello, pid, True, None
        self.identify(hello.notebook_id or known)

    def identify(self, notebook_id: NotebookId | None, *, own: bool = True) -> None:
        """Take note of the id that the notebook carries: one that is not its `own` is that of another for good."""
        if not own:
            self.foreign = notebook_id
        if notebook_id is not None:
            self.hello = replace(self.hello, notebook_id=notebook_id if notebook_id != self.foreign else None)

    def take_document(self, document: Json) -> None:
        """Keep the notebook as its page holds it: the file on disk may be older."""
        self.several = self.several or (self.document is not None and _id_of(document) != _id_of(self.document))
        self.document, self.document_at = document, time.time_ns()
        if (found := _id_of(document)) is not None:
            self.identify(NotebookId(found))

    def place_of(self, cell: str | None) -> int | None:
        """Return a cell's place in the notebook as its page holds it, None where that is not known."""
        if cell is None:
            return None
        return next((place for place, one in enumerate(self._shown_cells()) if one.get("id") == cell), None)

    def has_deleted(self, step: Execution) -> bool:
        """Say whether the cell of a step was deleted: the page has said since then what cells there are."""
        known = step.cell is not None and self.document_at > (step.queued or 0) and not self.several
        return known and self.place_of(step.cell) is None

    def _shown_cells(self) -> list[Json]:
        cells = self.document.get("cells") if self.document is not None else None
        return [one if isinstance(one, dict) else {} for one in cells] if isinstance(cells, list) else []

    def _make_run(self, at: int) -> Run:
        hello = self.hello
        run = Run(
            id=RunId(new_id()),
            kind="interactive",
            state="running",
            name=Path(hello.notebook).stem if hello.notebook else "notebook",
            notebook=hello.notebook,
            notebook_id=hello.notebook_id,
            parameters=dict(self.parameters),
            user=user_name(),
            host=socket.gethostname(),
            started=at,
            kernel=hello.kernel,
            owner=self.owner,
            metrics=tuple(self.metrics),
            tags=dict(self.tags),
            artifacts=self.artifacts,
        )
        self.metrics, self.tags, self.artifacts = [], {}, ()
        return run

    def note_cells(self, cells: Sequence[str]) -> None:
        """Keep the sources of the cells as they were run."""
        if cells:
            self.cells = tuple(cells)


def _id_of(document: Json) -> str | None:
    return notebook_id(document) if isinstance(document.get("metadata"), dict) else None


def describe(execution: Execution) -> Json:
    """Return what is said of an execution when it is cancelled or asked for in short."""
    return {"execution": execution.id, "step": execution.step, "state": execution.state}


def describe_item(execution: ItemRecord) -> Json:
    """Return what is said at once of an item of a fan-out that has failed."""
    failure = execution.failure
    why = f"{failure.ename}: {failure.evalue}" if failure is not None else None
    return {"execution": execution.id, "item": execution.item, "label": execution.label, "failure": why}


def ago(record: Execution, clock: Callable[[float], time.struct_time] = time.localtime) -> str:
    """Say, to the user of a kernel that takes an execution over, since when it has been there.

    Examples
    --------
    >>> from mlbench.core.ids import ExecutionId
    >>> done = Execution(id=ExecutionId("a"), run=RunId("r"), step="load", state="succeeded", ended=3_600_000_000_000)
    >>> ago(done, time.gmtime)
    'Step load ended at 01:00:00, before this cell was run again: this is its result.'
    """
    if record.ended is not None:
        at = _at(record.ended, clock)
        return f"Step {record.step} ended at {at}, before this cell was run again: this is its result."
    since = _at(record.started or record.queued, clock)
    return f"Step {record.step} has been under way since {since}; this cell shows it."


def already_running(
    record: Execution, pid: int | None, clock: Callable[[float], time.struct_time] = time.localtime
) -> str:
    """Say, to the user of a kernel that works on the same run as another, who has a step under way, and since when.

    Examples
    --------
    >>> from mlbench.core.ids import ExecutionId
    >>> there = Execution(id=ExecutionId("a"), run=RunId("r"), step="load", state="running", started=3_600_000_000_000)
    >>> already_running(there, 4711, time.gmtime)
    'Step load of this run is already running (kernel process 4711, since 01:00:00).'
    """
    owner = f"kernel process {pid}" if pid is not None else "another kernel"
    since = _at(record.started or record.queued, clock)
    return f"Step {record.step} of this run is already running ({owner}, since {since})."


def _at(moment: int | None, clock: Callable[[float], time.struct_time]) -> str:
    return time.strftime("%H:%M:%S", clock((moment or 0) / 1e9))


def metrics_of(body: Any) -> list[Metric]:
    """Return the metrics in a message."""
    from mlbench.runs.wire import msgspec

    return msgspec.convert(body or [], list[Metric])


def read_notebook(path: str | None) -> Json | None:
    """Return a notebook's file as it is on disk, which may be older than what was run; None without a usable one."""
    if path is None:
        return None
    file = Path(path)
    try:
        if file.stat().st_size > LARGEST_NOTEBOOK:
            return None
        found = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("cells"), list) else None


def notebook_of(cells: Iterable[str]) -> Json:
    """Return a notebook made of the cells that were run."""
    made: list[Json] = [
        {
            "cell_type": "code",
            "id": f"cell-{place}",
            "metadata": {},
            "outputs": [],
            "execution_count": None,
            "source": one,
        }
        for place, one in enumerate(cells)
    ]
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": made}
