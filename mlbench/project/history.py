"""Runs as people look at them: a table of them, and one with its steps and their values."""

from __future__ import annotations

import ast
import html
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from mlbench.backends.owners import user_name
from mlbench.core.errors import NotFound, NotTrusted, ResultError, UsageError
from mlbench.core.ids import Digest, RunId, short
from mlbench.core.naming import naming
from mlbench.core.ports import BlobStore, Catalog
from mlbench.core.records import Artifact, Binding, Execution, Failure, Metric, Run, State
from mlbench.project.signing import trust as whom_we_trust
from mlbench.runs.artifacts import Loader
from mlbench.runs.series import last_of_each_step

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "Artifacts",
    "NoSuchArtifact",
    "NoSuchName",
    "RunView",
    "StepView",
    "as_frame",
    "items_as_frame",
    "last_metrics",
    "runs_under_way",
    "with_items",
]

_LONGEST_CHAIN = 100
_PAGE = 5_000
_COUNTED = ("running", "succeeded", "reused", "failed", "cancelled", "skipped")
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class NoSuchName(NotFound, AttributeError):
    """A step has no such name, or a run no such step."""

    def __init__(self, message: str, remedy: str | None = None) -> None:
        super().__init__(message, remedy)


class NoSuchArtifact(NotFound, KeyError):
    """A step, or a run's plain cells, logged nothing of that name."""

    def __init__(self, message: str, remedy: str | None = None) -> None:
        super().__init__(message, remedy)


def as_frame(runs: Sequence[Run], metrics: Mapping[RunId, Sequence[Metric]]) -> pd.DataFrame:
    """Return runs as a table, with a column for each parameter (`params.…`) and each metric (`metrics.…`)."""
    try:
        import pandas as pd
    except ImportError as error:
        raise UsageError(
            "A table of runs needs pandas, which is not installed here.", "`pip install pandas`."
        ) from error
    head = {
        "id": [run.id for run in runs],
        "kind": [run.kind for run in runs],
        "state": [run.state for run in runs],
        "name": [run.name for run in runs],
        "user": [run.user for run in runs],
        "started": pd.to_datetime([run.started for run in runs], unit="ns", utc=True),
        "duration": pd.to_timedelta([_nanoseconds(run) for run in runs], unit="ns"),
    }
    for prefix, rows in (
        ("params", [dict(run.parameters) for run in runs]),
        ("metrics", [last_values(metrics.get(run.id, ())) for run in runs]),
    ):
        for name in dict.fromkeys(name for row in rows for name in row):
            head[f"{prefix}.{name}"] = _numbers([row.get(name) for row in rows])
    return pd.DataFrame(head)


def _numbers(values: list[Any]) -> list[Any]:
    """Return a column of numbers without the texts that records hold for those that are no JSON."""
    if not any(isinstance(value, float) for value in values):
        return values
    return [float(value) if value in ("nan", "inf", "-inf") else value for value in values]


def _nanoseconds(run: Run) -> int | None:
    return None if run.ended is None else run.ended - run.started


def last_values(metrics: Sequence[Metric]) -> dict[str, float]:
    """Return each metric's last value, in the order in which they were first logged.

    Examples
    --------
    >>> last_values([Metric(name="loss", value=0.9), Metric(name="rmse", value=2.0), Metric(name="loss", value=0.4)])
    {'loss': 0.4, 'rmse': 2.0}
    """
    values: dict[str, float] = {}
    for metric in metrics:
        values[metric.name] = metric.value
    return values


def runs_under_way(catalog: Catalog) -> Iterator[Run]:
    """Yield all runs that are under way, newest first."""
    before: tuple[int, str] | None = None
    while page := catalog.runs(under_way=True, limit=200, before=before):
        yield from page
        before = (page[-1].started, page[-1].id)


def with_items(catalog: Catalog, execution: Execution) -> Execution:
    """Return the execution whose items a fan-out has: itself, or the one that it was reused from as a whole."""
    found = execution
    for _ in range(_LONGEST_CHAIN):
        if found.reused_from is None or catalog.items(found.id, limit=1):
            break
        found = catalog.execution(found.reused_from)
    return found


def items_as_frame(items: Sequence[Execution]) -> pd.DataFrame:
    """Return a fan-out's items as a table: their values by name, what became of each, and its metrics."""
    try:
        import pandas as pd
    except ImportError as error:
        raise UsageError(
            "A table of items needs pandas, which is not installed here.", "`pip install pandas`."
        ) from error
    head: dict[str, Any] = {"item": [one.item for one in items]}
    end = {
        "state": [one.state for one in items],
        "seconds": [_seconds(one) for one in items],
        "attempt": [one.attempt for one in items],
    }
    last = {"reason": [one.reason for one in items], "error": [_error(one) for one in items]}
    for name in dict.fromkeys(name for one in items for name in one.label):
        shown = f"params.{name}" if name in head or name in end or name in last else name
        head[shown] = _plain([one.label.get(name) for one in items])
    logged = [last_values(one.metrics) for one in items]
    for name in dict.fromkeys(name for row in logged for name in row):
        end[f"metrics.{name}"] = [row.get(name) for row in logged]
    return pd.DataFrame(head | end | last)


def _seconds(execution: Execution) -> float | None:
    if execution.started is None or execution.ended is None:
        return None
    return (execution.ended - execution.started) / 1e9


def _error(execution: Execution) -> str | None:
    failure = execution.failure
    return None if failure is None else _ANSI.sub("", f"{failure.ename}: {failure.evalue}")


def _plain(texts: Sequence[str | None]) -> list[Any]:
    """Return texts as the numbers and strings that they are the source of, if all are; else as they are.

    Examples
    --------
    >>> _plain(["1", "2.5"]), _plain(["'AA'", "'B6'"]), _plain(["<Model>", "1"])
    ([1, 2.5], ['AA', 'B6'], ['<Model>', '1'])
    """
    found: list[Any] = []
    for text in texts:
        try:
            value = ast.literal_eval(text or "")
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return list(texts)
        if not isinstance(value, int | float | str):
            return list(texts)
        found.append(value)
    return found


def last_metrics(metrics: Sequence[Metric]) -> tuple[Metric, ...]:
    """Return the last of the metrics of each name, that which was logged last at the end.

    Examples
    --------
    >>> last_metrics([Metric(name="loss", value=0.9), Metric(name="rmse", value=2.0), Metric(name="loss", value=0.4)])
    (Metric(name='rmse', value=2.0, step=None, time=0), Metric(name='loss', value=0.4, step=None, time=0))
    """
    last: dict[str, Metric] = {}
    for metric in metrics:
        last.pop(metric.name, None)
        last[metric.name] = metric
    return tuple(last.values())


def _instant(nanoseconds: int | None) -> datetime | None:
    if nanoseconds is None:
        return None
    return datetime.fromtimestamp(nanoseconds // 1_000_000_000, UTC) + timedelta(
        microseconds=nanoseconds % 1_000_000_000 // 1000
    )


class RunView:
    """A run to look at: `view["train"]` is a step of it, `view["train"].model` a value.

    Parameters
    ----------
    run
        Its record, which `record` gives.
    catalog, blobs
        Where its executions and values are.
    accepts
        Says of an artifact whether it may run code when it is loaded: see `mlbench.project.signing.judge`.
    """

    def __init__(
        self, run: Run, catalog: Catalog, blobs: BlobStore, accepts: Callable[[Artifact], bool] = lambda _: False
    ) -> None:
        self.record = run
        self._catalog = catalog
        self._blobs = blobs
        self._accepts = accepts
        self._steps: dict[str, StepView] | None = None

    @property
    def id(self) -> RunId:
        """The run's id."""
        return self.record.id

    @property
    def kind(self) -> str:
        """How it was started: `interactive`, `papermill` or `job`."""
        return self.record.kind

    @property
    def name(self) -> str:
        """What is shown of it."""
        return self.record.name

    @property
    def state(self) -> State:
        """What became of it."""
        return self.record.state

    @property
    def user(self) -> str | None:
        """Who ran it, as its record says."""
        return self.record.user

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters that it was given."""
        return dict(self.record.parameters)

    @property
    def notebook(self) -> str | None:
        """The path of its notebook."""
        return self.record.notebook

    @property
    def tags(self) -> dict[str, str]:
        """Its tags: those it was given, and those of its plain cells."""
        return dict(self.record.tags)

    @property
    def started(self) -> datetime | None:
        """When it began, in UTC."""
        return _instant(self.record.started)

    @property
    def ended(self) -> datetime | None:
        """When it ended, in UTC; `None` while it is under way."""
        return _instant(self.record.ended)

    @property
    def failure(self) -> Failure | None:
        """Why it failed."""
        return self.record.failure

    @property
    def metrics(self) -> dict[str, float]:
        """The last value of each metric of the run and its steps."""
        return last_values(self._catalog.metrics([self.id]).get(self.id, ()))

    @property
    def artifacts(self) -> Artifacts:
        """What its plain cells logged: `run.artifacts["report.html"]`."""
        loader = Loader(self._blobs, vars(sys.modules["__main__"]), self._accepts)
        return Artifacts(self.record, loader, self._catalog, self.id)

    @property
    def steps(self) -> tuple[str, ...]:
        """The names of its steps, in the order of their cells."""
        return tuple(self._known())

    def __getitem__(self, step: str) -> StepView:
        known = self._known()
        if step not in known:
            raise NoSuchName(f"Run {short(self.id)} has no step {step!r}.", _nearest(step, known, "steps"))
        return known[step]

    def __iter__(self) -> Iterator[str]:
        return iter(self._known())

    def __len__(self) -> int:
        return len(self._known())

    def __contains__(self, step: object) -> bool:
        return step in self._known()

    def _ipython_key_completions_(self) -> list[str]:
        return list(self._known())

    def _known(self) -> dict[str, StepView]:
        if self._steps is None:
            # A notebook's own classes are used where it still defines them alike.
            loader = Loader(self._blobs, vars(sys.modules["__main__"]), self._accepts)
            self._steps = {
                execution.step: StepView(execution, self._catalog, self._blobs, loader)
                for execution in last_of_each_step(self._catalog.executions(self.id))
            }
        return self._steps

    def __repr__(self) -> str:
        lines = [f"Run {short(self.id)}: {self.name}, {self.kind}, {self.state}{_span(self.record)}"]
        lines += [f"  {view.step}: {view.state}{_names(view)}" for view in self._known().values()]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = [
            (view.step, view.state, ", ".join(view.names), ", ".join(f"{n} {v:.6g}" for n, v in view.metrics.items()))
            for view in self._known().values()
        ]
        head = f"Run {short(self.id)}: {self.name}, {self.kind}, {self.state}{_span(self.record)}"
        return _html_table(head, ("step", "state", "names", "metrics"), rows)


class Artifacts(Mapping[str, Any]):
    """What was logged by `mlbench.log_artifact`, by its names: files, folders and values.

    A file is a `StoredFile` (`read_text()`, `open()`, `save()`), a folder a `StoredFolder`, which has files by their
    paths; any other value is itself again.
    """

    def __init__(self, record: Run | Execution, loader: Loader, catalog: Catalog, seen_in: RunId) -> None:
        self._bindings = {binding.name: binding for binding in record.artifacts}
        self._whose = "The run's plain cells" if isinstance(record, Run) else f"Step {record.step}"
        self._load = partial(_load, loader, catalog, record, seen_in, kind="artifact")

    def __getitem__(self, name: str) -> Any:
        return self.load(name)

    def load(self, name: str, *, trust: bool = False) -> Any:
        """Return what was logged by a name, also, on request, what somebody else stored: see `StepView.load`."""
        if name not in self._bindings:
            raise NoSuchArtifact(f"{self._whose} logged no {name!r}.", _nearest(name, self._bindings, "artifacts"))
        return self._load(self._bindings[name], trusted=trust)

    def __iter__(self) -> Iterator[str]:
        return iter(self._bindings)

    def __len__(self) -> int:
        return len(self._bindings)

    def __contains__(self, name: object) -> bool:
        return name in self._bindings

    def _ipython_key_completions_(self) -> list[str]:
        return list(self)

    def __repr__(self) -> str:
        if not self._bindings:
            return f"{self._whose} logged no artifacts."
        return "\n".join(f"{name}: {about}" for name, about in map(_line, self._bindings.values()))


class StepView:
    """A step of a run: each name that it bound is an attribute, or an item where it is called as something here is."""

    def __init__(self, execution: Execution, catalog: Catalog, blobs: BlobStore, loader: Loader) -> None:
        self._execution = execution
        self._catalog = catalog
        self._blobs = blobs
        self._loader = loader
        self._origin: Execution | None = None
        self._full: Execution | None = None

    @property
    def record(self) -> Execution:
        """Its execution, with its messages."""
        if self._full is None:
            self._full = self._catalog.execution(self._execution.id)
        return self._full

    @property
    def step(self) -> str:
        """The step's name."""
        return self._execution.step

    @property
    def state(self) -> State:
        """What became of it."""
        return self._execution.state

    @property
    def reason(self) -> str | None:
        """Why it ended so, in one word."""
        return self._execution.reason

    @property
    def failure(self) -> Failure | None:
        """Why it failed."""
        return self._execution.failure

    @property
    def metrics(self) -> dict[str, float]:
        """The last value of each metric that it logged."""
        return last_values(self._made().metrics)

    @property
    def artifacts(self) -> Artifacts:
        """What it logged: `step.artifacts["report.html"].save()`."""
        return Artifacts(self._made(), self._loader, self._catalog, self._execution.run)

    @property
    def log(self) -> str:
        """What it printed."""
        record = self.record if self.record.messages or self.record.log else self._made()
        if record.log is not None:
            with naming("log", record.step, short(record.run)):
                return self._blobs.get(Digest(record.log)).decode("utf-8", "replace")
        messages = record.messages or self._catalog.execution(record.id).messages
        texts = [message.get("text", "") for message in messages if message.get("output_type") == "stream"]
        return "".join(text if isinstance(text, str) else "".join(text) for text in texts)

    def items(self) -> pd.DataFrame:
        """Return the items of a step with `--foreach` as a table, in their order.

        Raises
        ------
        UsageError
            If the step has none.
        """
        if self._execution.fanout is None and self._made().fanout is None:
            raise UsageError(f"Step {self.step} has no items: its line has no `--foreach`.")
        whole = with_items(self._catalog, self._execution)
        found, after = list[Execution](), -1
        while page := self._catalog.items(whole.id, limit=_PAGE, after=after):
            found += page
            after = max(after + 1, page[-1].item or 0)
        return items_as_frame(found)

    @property
    def names(self) -> tuple[str, ...]:
        """The names that it bound."""
        return tuple(self._bound())

    def __getitem__(self, name: str) -> Any:
        bound = self._bound()
        if name not in bound:
            if not bound and self.state != "succeeded":
                raise ResultError(
                    f"Step {self.step} has no values: it is {self.state}.", "`.failure` and `.log` say more."
                )
            raise NoSuchName(f"Step {self.step} did not bind {name!r}.", _nearest(name, bound, "names"))
        return self._load(name)

    def load(self, name: str, *, trust: bool = False) -> Any:
        """Return the value of a name, as `view[name]` does.

        Parameters
        ----------
        trust
            Load it also if it was stored by somebody else, or is not signed: that runs whatever code is in it.

        Raises
        ------
        NotTrusted
            If it would run code, and neither it nor whoever stored it is trusted.
        """
        return self._load(name, trusted=True) if trust and name in self._bound() else self[name]

    def _load(self, name: str, *, trusted: bool = False) -> Any:
        binding = self._bound()[name]
        return _load(self._loader, self._catalog, self._made(), self._execution.run, binding, trusted=trusted)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") and ("_origin" not in vars(self) or name not in self._bound()):
            raise AttributeError(name)
        return self[name]

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._bound()})

    def __iter__(self) -> Iterator[str]:
        return iter(self._bound())

    def __contains__(self, name: object) -> bool:
        return name in self._bound()

    def _ipython_key_completions_(self) -> list[str]:
        return list(self._bound())

    def _made(self) -> Execution:
        """Return the execution that made the values: the step's own, or the one that it was reused from."""
        if self._origin is None:
            found = self._execution
            for _ in range(_LONGEST_CHAIN):
                if found.reused_from is None or found.binds:
                    break
                found = self._catalog.execution(found.reused_from)
            self._origin = found
        return self._origin

    def _bound(self) -> dict[str, Binding]:
        return {binding.name: binding for binding in self._made().binds}

    def __repr__(self) -> str:
        lines = [f"Step {self.step}: {self.state}{self._counted()}"]
        if self.failure is not None:
            lines.append(f"  {self.failure.ename}: {_ANSI.sub('', self.failure.evalue)}")
        lines += [f"  {name}: {text}" for name, text in self._texts()]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return _html_table(f"Step {self.step}: {self.state}{self._counted()}", ("name", "value"), list(self._texts()))

    def _counted(self) -> str:
        fanout = self._execution.fanout
        if fanout is None:
            return ""
        counts = ((getattr(fanout, state), state) for state in _COUNTED)
        said = ", ".join(f"{count:,} {state}" for count, state in counts if count)
        return f", {fanout.total or 0:,} items" + (f": {said}" if said else "")

    def _texts(self) -> Iterator[tuple[str, str]]:
        yield from map(_line, self._bound().values())
        for binding in self._made().artifacts:
            name, text = _line(binding)
            yield f"artifacts[{name!r}]", text


def _load(
    loader: Loader,
    catalog: Catalog,
    maker: Run | Execution,
    seen_in: RunId,
    binding: Binding,
    *,
    trusted: bool = False,
    kind: Literal["name", "artifact"] = "name",
) -> Any:
    """Return a value of an execution, or of a run's plain cells, if it may be loaded."""
    run, step = (maker.id, None) if isinstance(maker, Run) else (maker.run, maker.step)
    try:
        with naming(binding.name, step, short(run)):
            return loader.load(binding, trusted=trusted)
    except NotTrusted as error:
        try:
            user = catalog.run(run).user
        except NotFound:  # it was freed, and what it made is needed here
            user = None
        if user is not None and user in whom_we_trust().users:
            return loader.load(binding, trusted=True)
        why: Literal["foreign", "unsigned"] = "unsigned" if user is not None and user == user_name() else "foreign"
        raise NotTrusted(binding.name, short(seen_in), step, user, why, kind) from error


def _line(binding: Binding) -> tuple[str, str]:
    if binding.artifact is not None:
        text = str(binding.artifact.preview.get("text") or binding.artifact.type)
    else:
        text = f"module {binding.module}" if binding.module else str(binding.problem)
    return binding.name, text if len(text) <= 100 else f"{text[:99]}…"


def _span(run: Run) -> str:
    seconds = _nanoseconds(run)
    return "" if seconds is None else f", {seconds / 1e9:.1f} s"


def _names(view: StepView) -> str:
    return f" ({', '.join(view.names)})" if view.names else ""


def _nearest(name: object, known: Mapping[str, Any], word: str) -> str:
    if isinstance(name, str) and (near := get_close_matches(name, known, 1, 0.5)):
        return f"Did you mean {near[0]!r}?"
    return f"Its {word} are: {', '.join(known)}." if known else f"It has no {word}."


def _html_table(head: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = "".join(row(cells, "td") for cells in rows)
    return f"<p>{html.escape(head)}</p><table><thead>{row(columns, 'th')}</thead><tbody>{body}</tbody></table>"
