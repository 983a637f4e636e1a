"""What kernel, service, worker and step process say to each other.

Frozen records again; `mlbench.core` only says what they look like, the socket's two ends encode them. The protocol's
number rises with each change that an older peer could misread; a service speaks its own and the one before.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Literal

from mlbench.core.ids import Digest, ExecutionId, NotebookId, RunId
from mlbench.core.records import Execution, Failure, Json, Reason, RunKind

PROTOCOL: Final = 1

MAX_ITEMS: Final = 1_000_000
"""How many items a fan-out may have where no setting says otherwise."""

RandomState = dict[str, bytes]
"""Generator (`random`, `numpy`, `torch`) to its pickled state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreach:
    """One `--foreach NAME in EXPRESSION`."""

    name: str
    expression: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOptions:
    """The options of a `%%step` line, read and checked. Times are in seconds, memory in bytes.

    `foreach` has the outermost first; `cpu`, `gpu` and `resources` (by name) are what a worker must have free;
    `cache` is None where the line says neither `--cache` nor `--no-cache`.
    """

    foreach: tuple[Foreach, ...] = ()
    catch: bool = False
    max_parallel: int | None = None
    cpu: float | None = None
    gpu: float | None = None
    memory: int | None = None
    resources: dict[str, float] = field(default_factory=dict)
    retries: int = 0
    retry_delay: float = 0.0
    cache: bool | None = None
    env: str | None = None
    wait: bool | None = None
    here: bool = False
    resume_own: bool = False
    after: tuple[str, ...] | None = None
    outputs: tuple[str, ...] | None = None
    no_store: tuple[str, ...] = ()
    timeout: float | None = None
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """Where a step's process comes from: an interpreter and the whole environment of its kernel.

    `variables` travel over private sockets only and are never stored. `stamp` names the state of site-packages, so
    that a warm process that imported an older one is replaced. `preload` are modules that the kernel has imported.
    """

    interpreter: str
    variables: dict[str, str]
    stamp: str
    preload: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What holds in the kernel and must hold in the step: see `mlbench.runs.surroundings`.

    `libraries` maps a library's import name to the pickled settings that its entry of the table read. `first` are
    folders before all others on `path`, or on the process's own path where the kernel's is not for it.
    """

    folder: str
    path: tuple[str, ...] = ()
    libraries: dict[str, bytes] = field(default_factory=dict)
    first: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Signer:
    """What signs the values that one execution stores (see `mlbench.runs.signing`): `secret` is good for that alone."""

    key: str
    subject: str
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """The files by which both ends of a Dask cluster know each other: PEM, by path."""

    ca_file: str
    cert: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterChoice:
    """Where steps run: this machine, the address of a Dask scheduler, or a class by name with its arguments.

    With neither `address` nor `factory` it is this machine. `adapt` has Dask's `minimum` and `maximum`; `source` is a
    sentence that says who chose; `versions` are those of the kernel that is to use it.
    """

    name: str = "local"
    address: str | None = None
    tls: Tls | None = None
    factory: str | None = None
    args: tuple[Any, ...] = ()
    kwargs: Json = field(default_factory=dict)
    workers: int | None = None
    adapt: dict[str, int] | None = None
    source: str | None = None
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def kind(self) -> Literal["local", "address", "factory"]:
        """Which of the three it is."""
        if self.factory is not None:
            return "factory"
        return "address" if self.address is not None else "local"


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelHello:
    """How a kernel presents itself when it attaches.

    `catalog` is the URL of the store's. `keys` are the names of the keys whose signatures it takes, its own first, and
    `keys_folder` is where they lie; none where it has none. `run` is set where an engine has opened the run already,
    `again` where this very process had attached before and knows its steps.
    """

    kernel: str
    store: str
    environment: Environment
    notebook: str | None = None
    notebook_id: NotebookId | None = None
    run: RunId | None = None
    kind: RunKind = "interactive"
    again: bool = False
    catalog: str | None = field(default=None, repr=False)
    keys: tuple[str, ...] = ()
    keys_folder: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A step's cell, as its kernel hands it over.

    `source` is the cell without its `%%step` line (which is `line`). `edges` maps a name to the execution that binds
    it; `waits_for` are parents that no name shows, with the reason. `capture` is the packed bundle of everything else
    that the cell reads: bytes, or the digest of the object where they are large. `defs` are the names to store.
    `random` is the kernel's generators as they were then; `random_from` is the seeded step handed over before, unless
    the kernel itself has drawn or seeded since: then `random` is where this step starts, whatever is under way.
    `cluster` is None on this machine; elsewhere a step is given the `modules` that lie beside the notebook (by path,
    as objects of the store) and those of the kernel's variables that were changed since it started. `cache_default` and
    `max_items` are the kernel's settings (`%config MLBench`): whether an unchanged step is reused where its line does
    not say it, and how many items a fan-out may have.
    `key` is that of the very cell, whatever its parents will make; `key_parts` is what the step depends on besides
    them (see `mlbench.runs.key`), `paths` are the files and folders that its code names, `items_from` the names
    that only say of which items a fan-out is made.
    """

    execution: ExecutionId
    step: str
    source: str
    line: str = ""
    cell: str | None = None
    position: int | None = None
    options: StepOptions = field(default_factory=StepOptions)
    edges: dict[str, ExecutionId] = field(default_factory=dict)
    waits_for: dict[ExecutionId, str] = field(default_factory=dict)
    capture: bytes = b""
    capture_digest: Digest | None = None
    captured: tuple[Json, ...] = ()
    defs: tuple[str, ...] = ()
    quiet_defs: tuple[str, ...] = ()
    deletes: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    surroundings: Surroundings | None = None
    random: RandomState | None = None
    random_from: ExecutionId | None = None
    seeded: bool = False
    parameters: Json = field(default_factory=dict)
    new_run: bool = False
    supersedes: ExecutionId | None = None
    key: str | None = None
    key_parts: dict[str, str] = field(default_factory=dict)
    paths: tuple[str, ...] = ()
    items_from: tuple[str, ...] = ()
    cells: tuple[str, ...] = ()
    cache_default: bool = False
    max_items: int = MAX_ITEMS
    requirements: tuple[str, ...] = ()
    cluster: ClusterChoice | None = None
    modules: dict[str, Digest] = field(default_factory=dict)
    changed_variables: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """The items of a fan-out, as the process that evaluated its `--foreach` found them.

    `items` is the digest under which the values lie (a list for each name, together one artifact), `digests` has the
    digest of each value of each name, for keys; `labels` each value as a short text. `after` is the digest of the
    states (`mlbench.runs.randomness.to_bytes`) that the generators of a seeded notebook have after the step, if items
    draw.
    """

    shape: tuple[int, ...]
    items: Digest | None = None
    after: Digest | None = None
    labels: tuple[tuple[str, ...], ...] = ()
    digests: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """The items of a fan-out that one process runs one after the other.

    `numbers` are the items' (from 0, the last `--foreach` fastest), `executions`, `attempts` and `keys` (where they
    have some) theirs, in the same order. The first chunk of a fan-out has no `spread` and no numbers: its process
    evaluates the `--foreach`, and then begins items from the first on for `seconds`, with ids of its own making: none
    with 0. In every chunk no item is begun once `seconds` are over (None: all are), unless by what they have cost the
    others are done within `rest` seconds more. `place` is the chunk's own number in its fan-out. A `spread` may come
    without labels and digests, where they are many. With `apart` each item gets a process of its own, forked from one
    that has loaded everything. Where `at_once` is given, so many chunks of the fan-out, and no more, have items under
    way at once on a worker; a further one is made ready there. With `unsure` items have ended in a process that then
    died, and may have seen what others among them had changed in place: even a single item is looked at then.
    """

    numbers: tuple[int, ...] = ()
    executions: tuple[ExecutionId, ...] = ()
    attempts: tuple[int, ...] = ()
    keys: tuple[str, ...] = ()
    place: int = 0
    spread: Spread | None = None
    seconds: float | None = None
    rest: float = 0.0
    most_items: int = MAX_ITEMS
    apart: bool = False
    at_once: int | None = None
    unsure: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkEnd:
    """What became of a chunk: durable by the time that this is told.

    `executions` are the records of the items that ended, as catalog and kernel get them; `left` those of the chunk's
    numbers that were not begun. `failure` says why no item could be begun, if that is so, and `reason` of which kind
    that is; `changed` names what items were given and changed in place, so that the rest must be run `apart`.
    """

    executions: tuple[Execution, ...] = ()
    left: tuple[int, ...] = ()
    spread: Spread | None = None
    failure: Failure | None = None
    reason: Reason | None = None
    changed: tuple[str, ...] = ()
    messages: tuple[Json, ...] = ()
    peak_memory: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTask:
    """A step whose inputs are known, ready for a process: all that a worker and the process need.

    `memory` is the limit in bytes, `resources` what the worker must have free, by Dask's names (`cpu`, `gpu`,
    `memory`, others); `env` is the name of an environment of its own, `requirements` what is installed in it. A fan-out
    has its `foreach`; its processes are each given a `chunk` of it.
    `paths` are files and folders that the code names, whose state is part of the record. `signer` signs what it stores.
    """

    execution: ExecutionId
    run: RunId
    step: str
    source: str
    store: str
    environment: Environment
    inputs: dict[str, Json] = field(default_factory=dict)
    capture: bytes = b""
    capture_digest: Digest | None = None
    defs: tuple[str, ...] = ()
    quiet_defs: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    surroundings: Surroundings | None = None
    random: RandomState | None = None
    seeded: bool = False
    timeout: float | None = None
    attempt: int = 1
    threads: int | None = None
    foreach: tuple[Foreach, ...] = ()
    chunk: Chunk | None = None
    catch: bool = False
    max_parallel: int | None = None
    max_items: int = MAX_ITEMS
    retries: int = 0
    retry_delay: float = 0.0
    resources: dict[str, float] = field(default_factory=dict)
    memory: int | None = None
    env: str | None = None
    requirements: tuple[str, ...] = ()
    cluster: ClusterChoice | None = None
    modules: dict[str, Digest] = field(default_factory=dict)
    changed_variables: tuple[str, ...] = ()
    client: Json | None = None
    paths: tuple[str, ...] = ()
    signer: Signer | None = None
    base: Json = field(default_factory=dict)


EventType = Literal["run", "execution", "messages", "job", "service"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One piece of news. `seq` grows within a service's life, `life` names that life: resume with both."""

    seq: int
    life: str
    type: EventType
    run: RunId | None = None
    notebook: str | None = None
    body: dict[str, Any] = field(default_factory=dict)
