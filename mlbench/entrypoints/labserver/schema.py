"""What the REST interface says, once: records of `mlbench.core` and the few structs that exist only at this door.

`python -m mlbench.entrypoints.labserver.typescript` writes the same as TypeScript; a test fails where they differ.
Paths of notebooks are those of the contents API, relative to the server's root; `None` means outside of it.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

from mlbench.core.records import Execution, Firing, Job, Json, Metric, Run, Snapshot
from mlbench.runs.diff import Difference
from mlbench.runs.lineage import Lineage
from mlbench.runs.wire import look_at

PREFIX = "mlbench/api/v1"


class Problem(Struct, frozen=True, kw_only=True):
    """What every refused request answers: one sentence, and the next move where there is one.

    `place` is where a query cannot be read on, in characters from 0.
    """

    message: str
    remedy: str | None = None
    type: str = "MlbenchError"
    place: int | None = None


class Status(Struct, frozen=True, kw_only=True):
    """`service` is a sentence; `install` is what to run in a kernel's environment that lacks mlbench."""

    version: str
    store: str
    store_source: str
    service: str
    service_runs: bool
    install: str


class RunSummary(Struct, frozen=True, kw_only=True):
    """A run as a list shows it: `metric` is its headline, `error` one line of why it failed.

    `changed` names the parameters that the run before it of the same notebook did not have so.
    """

    run: Run
    path: str | None = None
    steps_done: int = 0
    steps_total: int = 0
    metric: Metric | None = None
    error: str | None = None
    job: str | None = None
    changed: list[str] = []


class RunList(Struct, frozen=True, kw_only=True):
    """A page of runs; `next` is to be handed back as `before`."""

    runs: list[RunSummary]
    count: int
    next: str | None = None


class Completions(Struct, frozen=True, kw_only=True):
    """What a name in a query can be, of which the beginning is written: each is to stand in its place."""

    names: list[str]


class StepEdge(Struct, frozen=True, kw_only=True):
    """`child` waits for `parent`."""

    parent: str
    child: str


class RunDetail(Struct, frozen=True, kw_only=True):
    """A run with its steps in the order of their cells, without their messages."""

    run: Run
    executions: list[Execution]
    edges: list[StepEdge]
    path: str | None = None
    snapshot: Snapshot | None = None
    code: str | None = None
    job: str | None = None


class ExecutionDetail(Struct, frozen=True, kw_only=True):
    """One execution with its messages."""

    execution: Execution


class ItemList(Struct, frozen=True, kw_only=True):
    """A page of a fan-out's items, without messages; `next` is to be handed back as `after`, `counts` are of all.

    `logged` says how many artifacts all items logged, where that was asked for.
    """

    items: list[Execution]
    counts: dict[str, int]
    logged: int | None = None
    next: int | None = None


class FileEntry(Struct, frozen=True, kw_only=True):
    """A file of a folder that was logged: `digest` is that of its own artifact, whose content it is."""

    path: str
    digest: str
    size: int


class FileList(Struct, frozen=True, kw_only=True):
    """The files of a folder that was logged, and where its links lead."""

    files: list[FileEntry]
    links: dict[str, str]


class ItemMetric(Struct, frozen=True, kw_only=True):
    """A metric of a fan-out's items: its value in each item's place, `null` where there is none; `names` has all."""

    names: list[str]
    values: list[float | None]
    name: str | None = None
    shape: list[int] = []


class NotebookView(Struct, frozen=True, kw_only=True):
    """A notebook of a run, as nbformat's JSON: as it was, or as it was executed."""

    notebook: Json
    executed: bool
    has_executed: bool


class Cancelled(Struct, frozen=True, kw_only=True):
    """The steps that were cancelled."""

    steps: list[str]


class Resumed(Struct, frozen=True, kw_only=True):
    """The run that goes on from another one."""

    run: str


class CellText(Struct, frozen=True, kw_only=True):
    """A code cell as the page holds it, and as it was run, where the page knows."""

    id: str
    source: str
    tags: list[str] = []
    ran: str | None = None


class GraphQuestion(Struct, frozen=True, kw_only=True):
    """The code cells of a notebook, in order."""

    cells: list[CellText]


class GraphParent(Struct, frozen=True, kw_only=True):
    """A step that another waits for, and why: the name, or the order that no name shows."""

    step: str
    why: str


class GraphStep(Struct, frozen=True, kw_only=True):
    """A step, what it waits for, the plain cells whose names it takes, and what is wrong with it."""

    name: str
    cell: str
    parents: list[GraphParent]
    problems: list[str]
    cells: list[str] = []


class Graph(Struct, frozen=True, kw_only=True):
    """The steps in the order of their cells, what is wrong with no single one of them, and the cells edited since."""

    steps: list[GraphStep]
    problems: list[str]
    edited: list[str] = []


class OutputsQuestion(Struct, frozen=True, kw_only=True):
    """Asks for what the cells of one kernel's notebook last did; `messages` for their outputs too."""

    kernel: str
    cells: list[str]
    path: str | None = None
    messages: bool = False


class Outputs(Struct, frozen=True, kw_only=True):
    """`copied` says that the document is a copy of the one that the kernel runs: nothing is put into it.

    `notebook_id` is the id under which the kernel ran the document last: that of one that was not saved since.
    """

    outputs: dict[str, Execution]
    copied: bool = False
    notebook_id: str | None = None


class Dashboard(Struct, frozen=True, kw_only=True):
    """The dashboard of a Dask cluster: `url` leads there through this server."""

    name: str
    url: str


class Dashboards(Struct, frozen=True, kw_only=True):
    """The dashboards that can be reached; none without jupyter-server-proxy, or where no cluster has one."""

    dashboards: list[Dashboard]


class Identity(Struct, frozen=True, kw_only=True):
    """Whether the id that a notebook carries is its own: that of a copy is another notebook's."""

    own: bool


class Document(Struct, frozen=True, kw_only=True):
    """The notebook of a kernel, without outputs, as its page holds it."""

    kernel: str
    notebook: Json


class Taken(Struct, frozen=True, kw_only=True):
    """Whether there was a service to take it."""

    taken: bool


class JobView(Struct, frozen=True, kw_only=True):
    """A job as a list shows it: its schedule in few words and in a sentence, its last firing and why that failed."""

    job: Job
    path: str | None = None
    short: str | None = None
    sentence: str | None = None
    last: Firing | None = None
    error: str | None = None


class JobList(Struct, frozen=True, kw_only=True):
    """`service` is one line on whether schedules go on when this machine starts again."""

    jobs: list[JobView]
    service: str


class FormField(Struct, frozen=True, kw_only=True):
    """A parameter of the notebook: `default` is its JSON value, `help` the comment behind it."""

    name: str
    type: str
    default: Any = None
    help: str | None = None
    required: bool = False


class CheckLine(Struct, frozen=True, kw_only=True):
    """Something that was checked: an `error` stops the schedule, a `warning` does not."""

    level: Literal["ok", "warning", "error"]
    text: str
    cell: str | None = None
    parameter: str | None = None


class JobQuestion(Struct, frozen=True, kw_only=True):
    """The notebook as the user sees it, to be checked before it is scheduled."""

    path: str
    notebook: Json
    name: str | None = None
    cron: str | None = None
    timezone: str | None = None
    parameters: Json = {}


class JobCheck(Struct, frozen=True, kw_only=True):
    """What scheduling would do: `version` is the number that the job would get."""

    name: str
    version: int
    fields: list[FormField]
    checked: list[CheckLine]
    service: str


class NewJob(Struct, frozen=True, kw_only=True):
    """What `Schedule` sends; `parameters` are texts as they were typed, or JSON values."""

    name: str
    path: str
    notebook: Json
    cron: str | None = None
    timezone: str | None = None
    parameters: Json = {}


class JobChange(Struct, frozen=True, kw_only=True):
    """What can be changed of a job."""

    paused: bool


class Firings(Struct, frozen=True, kw_only=True):
    """Firings, newest first."""

    firings: list[Firing]


class FiringDetail(Struct, frozen=True, kw_only=True):
    """One firing."""

    firing: Firing


class ScheduleQuestion(Struct, frozen=True, kw_only=True):
    """A cron line and the zone that it is read in."""

    cron: str
    timezone: str


class SchedulePreview(Struct, frozen=True, kw_only=True):
    """A schedule in words, and its next times as ISO 8601 with the zone's offset."""

    cron: str
    sentence: str
    next: list[str]


class News(Struct, frozen=True, kw_only=True):
    """A frame of the websocket. After `changed` and `reset`, ask again for what is shown."""

    type: Literal["hello", "run", "execution", "messages", "job", "service", "changed", "reset"]
    seq: int | None = None
    life: str | None = None
    run: str | None = None
    kernel: str | None = None
    path: str | None = None
    body: Json = {}


class Watch(Struct, frozen=True, kw_only=True):
    """What a page sends on the websocket: the executions whose messages it wants to see."""

    watch: list[str]


SPOKEN: tuple[type, ...] = (
    Problem, Status, RunList, Completions, RunDetail, ExecutionDetail, ItemList, ItemMetric, NotebookView, Cancelled,
    Resumed, GraphQuestion, Graph, OutputsQuestion, Outputs, Identity, Dashboards, Document, Taken, JobList,
    JobQuestion, JobCheck, NewJob, JobChange, JobView, Firings, FiringDetail, ScheduleQuestion, SchedulePreview, News,
    Watch, Lineage, Difference, FileList,
)  # fmt: skip

look_at(*SPOKEN)
