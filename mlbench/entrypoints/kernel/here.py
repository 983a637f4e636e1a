"""`%%step NAME --here`: run a step in the kernel, for the debugger's sake, and record it all the same."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mlbench.core.ids import ExecutionId, RunId, new_id
from mlbench.core.messages import StepOptions
from mlbench.core.records import Binding, Execution, Failure, Json, Metric, with_artifacts
from mlbench.entrypoints.kernel.sources import imports_of
from mlbench.entrypoints.kernel.submission import Track, needs_of, origin_of
from mlbench.runs import context
from mlbench.runs.transcript import text_of

if TYPE_CHECKING:
    from mlbench.entrypoints.kernel.session import Session
    from mlbench.notebook.cell import CellNames

__all__ = ["run_here"]


def run_here(
    session: Session,
    step: str,
    body: str,
    names: CellNames,
    options: StepOptions,
    *,
    store: frozenset[str],
) -> None:
    """Run a step's body in the kernel as a cell of its own, and hand its record to the service.

    What it raises is raised: `%debug` then looks into it. The names that are stored come from this execution from then
    on, as they do after a step on a worker; those that cannot be stored are the kernel's own.
    """
    execution, cell = ExecutionId(new_id()), session.front.cell_id()
    former = None if options.resume_own else session.order.former(step, cell)
    before = {name: origin_of(name, session.names, former) for name in needs_of(names, session.namespace) | store}
    for name, source in before.items():
        session.results.put_back(name, source, session.namespace)
    metrics: list[Metric] = []
    tags: dict[str, str] = dict(options.tags)
    artifacts: list[Binding] = []

    def take(news: Json) -> None:
        if news["type"] == "metrics":
            metrics.extend(Metric(**one) for one in news["metrics"])
        elif news["type"] == "tags":
            tags.update(news["tags"])
        elif news["type"] == "artifacts":
            artifacts.extend(context.bindings_of(news["artifacts"]))

    reads = tuple(session.read_of(name) for name in sorted(names.reads) if name in session.namespace)
    outer = context.enter(
        context.Context(step=step, execution=execution, attempt=1, emit=take, keep=session.storage.keep_logged)
    )
    started, cpu = time.time_ns(), time.process_time()
    with _recorded(session.shell) as messages:
        try:
            result = session.shell.run_cell(body, store_history=False)
        finally:
            context.enter(outer)
    error = result.error_before_exec or result.error_in_exec
    binds: tuple[Binding, ...] = ()
    if error is None:
        binds = session.storage.save(sorted(store), imports_of(session.shell.transform_cell(body)))
    failure = (
        None
        if error is None
        else Failure(
            ename=type(error).__name__,
            evalue=text_of(error),
            traceback=tuple(getattr(session.shell, "_last_traceback", None) or ()),
        )
    )
    record = Execution(
        id=execution,
        run=RunId(session.news.run or ""),
        step=step,
        state="succeeded" if error is None else "failed",
        reason=None if error is None else "error",
        cell=cell,
        position=session.order.place(step),
        queued=started,
        started=started,
        ended=time.time_ns(),
        worker="kernel",
        source=body,
        reads=reads,
        binds=binds,
        artifacts=with_artifacts((), artifacts),
        metrics=tuple(metrics),
        messages=tuple(messages),
        failure=failure,
        cpu=time.process_time() - cpu,
        tags=tags,
    )
    answer = session.service().request("here", record)
    if error is not None:
        raise _Shown(error)
    stored = frozenset(one.name for one in binds if one.artifact is not None or one.module is not None)
    session.take_over(
        Track(
            step=step,
            cell=cell,
            execution=execution,
            body=body,
            names=names,
            defs=stored,
            unstored={},
            quiet=frozenset(),
            before=before,
            late=False,
            parent=session.front.request(),
            record=replace(record, run=answer["run"]),
            ended=True,
            running=False,
            values={name: session.namespace[name] for name in stored},
        )
    )


class _Shown(Exception):
    """An error whose traceback the cell shows already."""

    def _render_traceback_(self) -> list[str]:
        return []


class _Tee:
    """A stream that notes what passes."""

    def __init__(self, stream: Any, name: str, messages: list[Json]) -> None:
        self._stream = stream
        self._name = name
        self._messages = messages

    def write(self, text: str) -> int:
        last = self._messages[-1] if self._messages else {}
        if last.get("output_type") == "stream" and last.get("name") == self._name:
            last["text"] += text
        else:
            self._messages.append({"output_type": "stream", "name": self._name, "text": text})
        self._stream.write(text)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def _recorded(shell: Any) -> Iterator[list[Json]]:
    """Note the output of the code inside, which is shown all the same."""
    messages: list[Json] = []
    publisher = shell.display_pub
    publish = publisher.publish

    def noting(data: Json, metadata: Json | None = None, **keywords: Any) -> Any:
        kind = "update_display_data" if keywords.get("update") else "display_data"
        if kind == "display_data":
            messages.append({"output_type": kind, "data": dict(data), "metadata": dict(metadata or {})})
        return publish(data, metadata, **keywords)

    out, err = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Tee(out, "stdout", messages), _Tee(err, "stderr", messages)
    publisher.publish = noting
    try:
        yield messages
    finally:
        sys.stdout, sys.stderr = out, err
        del publisher.publish
