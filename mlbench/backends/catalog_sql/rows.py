"""Records as rows of the tables, and back."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from typing import Any, Final, TypeVar

from mlbench.core.ports import WrittenItem
from mlbench.core.queries import Signers
from mlbench.core.records import ENDED, Execution, Firing, Job, JobVersion, Json, Metric, Run, Snapshot
from mlbench.runs.lineage import moment
from mlbench.runs.search import comparable
from mlbench.runs.wire import compact, encoded, msgspec

__all__ = [
    "LOGGED",
    "SIGNED",
    "bound_rows",
    "decode",
    "encode",
    "execution_row",
    "firing_row",
    "item_row",
    "metric_rows",
    "param_row",
    "read_rows",
    "run_row",
    "searchable",
    "signs_of",
    "tag_row",
    "to_execution",
    "to_firing",
    "to_job",
    "to_metric",
    "use_rows",
]

SIGNED: Final = '"signature":"'
"""Where a signature begins in a record's JSON, as it is written; see `mlbench.runs.signing`."""

LOGGED: Final = '"artifacts":[{'
"""How the artifacts that an execution logged begin in its record's JSON; without any they are not in it."""

R = TypeVar("R", Run, Execution, Job, JobVersion, Snapshot)


def encode(record: Any) -> str:
    """Return a record as JSON; a metric that JSON has no number for (nan, inf) is a text."""
    return encoded(record).decode()


def decode(record: str, kind: type[R]) -> R:
    """Return the record of a JSON text."""
    try:
        return msgspec.json.decode(record, type=kind)
    except msgspec.ValidationError:
        return msgspec.json.decode(record, type=kind, strict=False)  # numbers as texts: see `encode`


def to_execution(row: Any) -> Execution:
    """Return an execution with its messages, of a row with `record` and `messages`."""
    execution = decode(row.record, Execution)
    return replace(execution, messages=tuple(msgspec.json.decode(row.messages))) if row.messages else execution


def execution_row(execution: Execution) -> Json:
    """Return an execution as a row: its record is without its messages, and without what has its default."""
    record = compact(execution)
    messages = record.pop("messages", None)
    return {
        "id": execution.id,
        "run": execution.run,
        "step": execution.step,
        "state": execution.state,
        "position": execution.position,
        "part_of": execution.part_of,
        "item": execution.item,
        "attempt": execution.attempt,
        "key": execution.key,
        "moment": moment(execution),
        "record": encode(record),
        "messages": msgspec.json.encode(messages).decode() if messages else None,
    }


def signs_of(signers: Signers) -> list[str]:
    """Return how what these keys have signed is known in a record's JSON, without reading it.

    Examples
    --------
    >>> signs_of(Signers(keys=frozenset({"a1"})))
    ['"signature":"a1.']
    """
    return [f"{SIGNED}{key}." for key in sorted(signers.keys)]


def bound_rows(executions: Iterable[Execution]) -> list[Json]:
    """Return a row for each artifact that executions which have ended bound, in one order whoever writes them."""
    return use_rows(
        (binding.artifact.digest, one.id, binding.name)
        for one in executions
        if one.state in ENDED
        for binding in one.binds
        if binding.artifact is not None
    )


def read_rows(executions: Iterable[Execution]) -> list[Json]:
    """Return a row for each artifact that executions were given, in one order whoever writes them."""
    return use_rows(
        (read.digest, one.id, read.name) for one in executions for read in one.reads if read.digest is not None
    )


def use_rows(found: Iterable[tuple[str, str, str]]) -> list[Json]:
    """Return rows of digests, executions and names, in one order whoever writes them."""
    return [{"digest": digest, "execution": execution, "name": name} for digest, execution, name in sorted(set(found))]


def item_row(item: WrittenItem) -> Json:
    """Return an item that has ended as a row."""
    record, messages = item.texts()
    return {
        "id": item.id,
        "run": item.run,
        "step": item.step,
        "state": item.state,
        "position": item.position,
        "part_of": item.part_of,
        "item": item.item,
        "attempt": item.attempt,
        "key": item.key,
        "moment": item.started or item.queued or item.ended or 0,
        "record": record,
        "messages": messages,
    }


def metric_rows(run: str, metrics: Sequence[Metric], execution: Execution | WrittenItem | None = None) -> list[Json]:
    """Return metrics as rows: of a run, or of one of its executions."""
    return [
        {
            "run": run,
            "execution": None if execution is None else execution.id,
            "part_of": None if execution is None else execution.part_of,
            "item": None if execution is None else execution.item,
            "name": metric.name,
            "step": metric.step,
            "value": None if math.isnan(metric.value) else metric.value,
            "time": metric.time,
        }
        for metric in metrics
    ]


def to_metric(row: Any) -> Metric:
    """Return the metric of a row."""
    return Metric(name=row.name, value=math.nan if row.value is None else row.value, step=row.step, time=row.time)


def run_row(run: Run) -> Json:
    """Return a run as a row."""
    same = ("id", "kind", "state", "notebook", "notebook_id", "job", "kernel", "owner", "started", "ended")
    return {
        **{name: getattr(run, name) for name in (*same, "job_version")},
        **{name: searchable(getattr(run, name)) for name in ("name", "reason", "user", "host", "failed_step")},
        "record": encode(run),
    }


def param_row(run: str, name: str, value: Any) -> Json:
    """Return a parameter of a run as a row."""
    found = comparable(value)
    number = found if isinstance(found, float) and math.isfinite(found) else None
    text = searchable(value) if isinstance(value, str) else None
    return {"run": run, "name": name, "value": msgspec.json.encode(value).decode(), "number": number, "text": text}


def tag_row(run: str, name: str, value: str) -> Json:
    """Return a tag of a run as a row."""
    return {"run": run, "name": searchable(name), "value": searchable(value)}


def searchable(text: str | None) -> str | None:
    """Return a text without the one character that PostgreSQL does not keep, and that no query holds."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}") if text else text


def to_job(row: Any) -> Job:
    """Return the job of a row with `record`, `next_due` and `last_due`."""
    return replace(decode(row.record, Job), next_due=row.next_due, last_due=row.last_due)


def firing_row(firing: Firing) -> Json:
    """Return a firing as a row."""
    row = {field.name: getattr(firing, field.name) for field in fields(firing)}
    return row | {"created": time.time_ns(), "cancel_requested": False}


def to_firing(row: Any) -> Firing:
    """Return the firing of a row."""
    return Firing(**row._mapping)
