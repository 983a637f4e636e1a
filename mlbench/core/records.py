"""The records: what mlbench remembers, in the words of the design.

Each is immutable, plain data (texts, numbers, tuples and dictionaries of these), and the same in the catalog, in the
folder of records, on a socket and in the REST interface: field names are the JSON's. Times are UTC nanoseconds.
A field without a value is `None`, never an empty text.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from mlbench.core.ids import Digest, ExecutionId, JobId, NotebookId, RunId

SCHEMA: Final = 1
"""The version that every record object carries as `schema`."""

State = Literal["queued", "running", "succeeded", "failed", "cancelled", "reused", "skipped"]
Reason = Literal["error", "timeout", "memory", "worker-lost", "service-lost", "kernel-lost", "user", "superseded"]
RunKind = Literal["interactive", "papermill", "job"]

UNDER_WAY: Final[frozenset[str]] = frozenset({"queued", "running"})
ENDED: Final[frozenset[str]] = frozenset({"succeeded", "failed", "cancelled", "reused", "skipped"})

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """The stored value of a name.

    `digest` is that of the canonical manifest (see `mlbench.runs.values`); `size` is in bytes, buffers included;
    `preview` was made where the value was made and is all that is ever shown without loading it. Its `kind` says
    what else it holds: `frame`, `array`, `estimator`, `figure`, `module`, `list`, `text`, `file`, `folder`. A picture
    of the value is an object of its own, whose digest it holds as `picture`. `signature` says who made what can run
    code when it is loaded (see `mlbench.runs.signing`).
    """

    digest: Digest
    size: int
    type: str
    codec: str
    preview: Json = field(default_factory=dict)
    signature: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """A name that an execution bound, with its artifact, or with why it has none.

    Names of one execution that share objects are kept in one artifact, a dictionary: `member` is then this name's
    key in it, and whoever loads two of them loads it once. A module is kept by its import name in `module`, with those
    below it that the execution imported in `submodules`. `problem` says why a value could not be stored, and what to
    do.
    """

    name: str
    artifact: Artifact | None = None
    member: str | None = None
    module: str | None = None
    submodules: tuple[str, ...] = ()
    problem: str | None = None


def with_artifacts(had: tuple[Binding, ...], more: Iterable[Binding]) -> tuple[Binding, ...]:
    """Return logged artifacts with those that were logged since: of several with one name the last one counts."""
    return tuple({binding.name: binding for binding in (*had, *more)}.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """A name that an execution was given: from a step (`execution`, `step`) or captured from the kernel."""

    name: str
    digest: Digest | None = None
    type: str | None = None
    size: int | None = None
    execution: ExecutionId | None = None
    step: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One logged number: `step` is the place in a series, `time` when it was logged."""

    name: str
    value: float
    step: int | None = None
    time: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FileUse:
    """A file that a step's process opened: `mode` is `r` or `w`, `size` in bytes, `modified` in nanoseconds.

    Both are None for a file that was not there. Of a folder that was listed (`l`), `size` is the number of its entries
    and `modified` a number made of their names.
    """

    path: str
    mode: str
    size: int | None = None
    modified: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why something failed, for people: `traceback` has ANSI colours, `line` counts from 1 in the cell as written.

    `remedy` is the next move, one sentence; `cell` is the id of the cell, where a run's failure is told.
    """

    ename: str
    evalue: str
    traceback: tuple[str, ...] = ()
    line: int | None = None
    remedy: str | None = None
    cell: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """An earlier attempt at an execution, which did not succeed and was followed by another one."""

    number: int
    state: State = "failed"
    reason: Reason | None = None
    started: int | None = None
    ended: int | None = None
    worker: str | None = None
    failure: Failure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FanOut:
    """What the execution of a step says of its items.

    `names` are those of its `--foreach`, the outermost first, `shape` how many values each has; `total` is their
    product. The counts are of items by state; `seconds` is the time that ended items took together, `slowest` the
    number of the one that took longest, in `slowest_seconds`. `metric` is the name of the metric that is shown.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...] = ()
    total: int | None = None
    running: int = 0
    succeeded: int = 0
    reused: int = 0
    failed: int = 0
    cancelled: int = 0
    skipped: int = 0
    seconds: float = 0.0
    slowest: int | None = None
    slowest_seconds: float | None = None
    metric: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """One step in one run; in a fan-out, also each item of it.

    `messages` are nbformat outputs, in order, cut to the head and tail of what was printed; where something was cut,
    `log` is the digest of all of the text. `cpu` is in seconds, `peak_memory` in bytes. `replaces` is the execution
    that this one was started instead of, because its inputs turned out to have changed; `note` says why, to people.
    `random` is the digest of the end states of the generators (`mlbench.runs.randomness.to_bytes`) of a seeded step.
    `unseen` says that it succeeded while no kernel was there to hear of it: its cell, run again, has its result.
    A step with `--foreach` has an execution of its own, with `fanout`; each item has one too, whose `part_of` is that
    of the step, `item` its number from 0 and `label` its values, each as a short text. `attempts` are the earlier ones,
    `attempt` is the last one's number. `key` is the digest of `key_parts` (see `mlbench.runs.key`), `random_start` that
    of the generators' states that a step which draws began with. `env` is the environment of its own that it ran in,
    `requirements` what that was made from. `artifacts` are the files and values that it logged, each once by its name.
    """

    id: ExecutionId
    run: RunId
    step: str
    state: State
    cell: str | None = None
    position: int | None = None
    part_of: ExecutionId | None = None
    item: int | None = None
    label: dict[str, str] = field(default_factory=dict)
    fanout: FanOut | None = None
    attempt: int = 1
    attempts: tuple[Attempt, ...] = ()
    reason: Reason | None = None
    queued: int | None = None
    started: int | None = None
    ended: int | None = None
    worker: str | None = None
    key: str | None = None
    key_parts: dict[str, str] = field(default_factory=dict)
    source: str | None = None
    parents: tuple[ExecutionId, ...] = ()
    reads: tuple[Read, ...] = ()
    binds: tuple[Binding, ...] = ()
    artifacts: tuple[Binding, ...] = ()
    metrics: tuple[Metric, ...] = ()
    messages: tuple[Json, ...] = ()
    log: Digest | None = None
    failure: Failure | None = None
    files: tuple[FileUse, ...] = ()
    network: bool = False
    draws: tuple[str, ...] = ()
    random: Digest | None = None
    random_start: str | None = None
    cpu: float | None = None
    peak_memory: int | None = None
    reused_from: ExecutionId | None = None
    replaces: ExecutionId | None = None
    unseen: bool = False
    note: str | None = None
    env: str | None = None
    requirements: tuple[str, ...] = ()
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One execution of a notebook.

    `notebook` is its path (absolute, on `host`); `name` is what is shown. `output` is the digest of the executed
    notebook, where there is one. `owner` says which process answers for a run that is under way (see
    `mlbench.core.owners`). `artifacts` are the files and values that its plain cells logged.
    """

    id: RunId
    kind: RunKind
    state: State
    name: str
    notebook: str | None = None
    notebook_id: NotebookId | None = None
    snapshot: Digest | None = None
    parameters: Json = field(default_factory=dict)
    user: str | None = None
    host: str | None = None
    started: int = 0
    ended: int | None = None
    reason: Reason | None = None
    failure: Failure | None = None
    failed_step: str | None = None
    output: Digest | None = None
    kernel: str | None = None
    job: JobId | None = None
    job_version: int | None = None
    due: int | None = None
    resumed_from: RunId | None = None
    artifacts: tuple[Binding, ...] = ()
    metrics: tuple[Metric, ...] = ()
    owner: str | None = None
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class GitState:
    """Where a notebook stood in git: `difference` is the digest of the uncommitted patch, `None` if clean."""

    commit: str
    branch: str | None = None
    difference: Digest | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """An immutable record of a notebook and what it stood on; its digest is that of its record.

    `notebook` is the digest of the notebook's JSON without outputs, `modules` maps the paths of the Python files
    beside it, relative to `folder`, to theirs. `interpreter` is the kernel's.
    """

    notebook: Digest
    cells: tuple[str, ...] = ()
    parameters: Json = field(default_factory=dict)
    modules: dict[str, Digest] = field(default_factory=dict)
    folder: str | None = None
    interpreter: str | None = None
    kernel_name: str | None = None
    python: str | None = None
    packages: dict[str, str] = field(default_factory=dict)
    environment: tuple[str, ...] = ()
    git: GitState | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobVersion:
    """What a job runs: immutable. `timeout` is in seconds; policies of later kinds are added as fields."""

    number: int
    snapshot: Digest
    parameters: Json = field(default_factory=dict)
    created: int = 0
    user: str | None = None
    timeout: float | None = None
    retries: int = 0
    missed: Literal["skip", "latest", "all"] = "latest"
    overlap: Literal["allow", "skip", "queue"] = "skip"
    on_lost: Literal["fail", "retry"] = "fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A promoted notebook, with its current version and perhaps a schedule. `next_due` is in UTC seconds."""

    id: JobId
    name: str
    notebook: str
    version: JobVersion
    notebook_id: NotebookId | None = None
    cron: str | None = None
    timezone: str | None = None
    paused: bool = False
    problem: str | None = None
    next_due: int | None = None
    last_due: int | None = None
    host: str | None = None
    user: str | None = None
    created: int = 0
    deleted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Firing:
    """One time at which a job was due (UTC seconds): `skipped` is how many due times it stands for besides its own."""

    job: JobId
    due: int
    state: State
    run: RunId | None = None
    reason: str | None = None
    token: int = 0
    attempt: int = 1
    owner: str | None = None
    skipped: int = 0
    manual: bool = False
