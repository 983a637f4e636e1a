"""When a step that failed is tried again, and what its record and its cell say of that."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from mlbench.core.messages import StepOptions
from mlbench.core.records import Attempt, Execution
from mlbench.runs.plan.state import Node

__all__ = ["has_another", "next_attempt", "sentence"]

_AGAIN: Final = frozenset({"error", "timeout", "memory", "worker-lost"})
"""Reasons of failures that another attempt may not meet."""


def has_another(node: Node, ended: Execution) -> bool:
    """Say whether an execution that has ended is queued again."""
    if node.asked is None or node.cancelled is not None or node.replaced_by is not None:
        return False
    options = node.asked.submission.options
    if options.foreach or ended.state != "failed" or ended.reason not in _AGAIN:
        return False
    return node.record.attempt <= options.retries


def next_attempt(record: Execution, failed: Execution) -> Execution:
    """Return the record of an execution that is queued again after an attempt that failed."""
    attempt = Attempt(
        number=record.attempt,
        state=failed.state,
        reason=failed.reason,
        started=failed.started,
        ended=failed.ended,
        worker=failed.worker,
        failure=failed.failure,
    )
    return replace(
        record,
        state="queued",
        reason=None,
        started=None,
        worker=None,
        metrics=(),
        attempt=record.attempt + 1,
        attempts=(*record.attempts, attempt),
    )


def sentence(record: Execution, options: StepOptions) -> str:
    """Return the line that a step's cell shows before its next attempt.

    Examples
    --------
    >>> from mlbench.core.records import Failure
    >>> failed = Attempt(number=1, failure=Failure(ename="ValueError", evalue="no data"))
    >>> record = Execution(id="a", run="r", step="load", state="queued", attempt=2, attempts=(failed,))
    >>> sentence(record, StepOptions(retries=2, retry_delay=30))
    'attempt 2 of 3 in 30 s: ValueError: no data'
    """
    last = record.attempts[-1]
    when = f" in {options.retry_delay:g} s" if options.retry_delay else ""
    why: str = last.reason or "failed"
    if last.failure is not None:
        why = f"{last.failure.ename}: {last.failure.evalue}".splitlines()[0].rstrip(": ")
    return f"attempt {record.attempt} of {options.retries + 1}{when}: {why}"
