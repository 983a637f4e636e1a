"""What a step's cell shows of an end that is no success: said at once, and again after a reload."""

from __future__ import annotations

from mlbench.core.records import Execution, Failure, Json

__all__ = ["end_output", "failure_lines", "why"]


def end_output(record: Execution, hint: str | None = None) -> list[Json]:
    """Return the output that a step's end adds to what it printed; none for a success.

    Parameters
    ----------
    hint
        What to do, where more is known of that than when the step failed.
    """
    failure = record.failure
    if record.state == "failed" and failure is not None:
        lines = failure_lines(failure, record.step, hint)
        return [{"output_type": "error", "ename": failure.ename, "evalue": failure.evalue, "traceback": lines}]
    verb = {"failed": "failed", "cancelled": "was cancelled", "skipped": "was not run"}.get(record.state)
    if verb is None or record.reason == "superseded":
        return []
    return [{"output_type": "stream", "name": "stderr", "text": f"Step {record.step} {verb}: {why(record)}\n"}]


def failure_lines(failure: Failure, step: str, hint: str | None = None) -> list[str]:
    """Return a step's error as it is shown: its traceback, with the user's lines, and what next.

    Examples
    --------
    >>> failure_lines(Failure(ename="KeyError", evalue="'x'", remedy="Name a key that is there."), "load")
    ["KeyError: 'x'", '', 'Name a key that is there.']
    """
    remedy = hint or failure.remedy or f"To look into it: %%step {step} --here, then %debug"
    told = failure.traceback or (f"{failure.ename}: {failure.evalue}",)
    return [*told] if told[-1].rstrip().endswith(remedy) else [*told, "", remedy]  # an error of ours ends in it


def why(record: Execution) -> str:
    """Say in a few words why an execution did not succeed."""
    if record.failure is not None:
        text = f"{record.failure.ename}: {record.failure.evalue}".rstrip()
        return text if text.endswith((".", "!", "?")) else f"{text}."
    if record.note:
        return record.note
    return {
        "timeout": "it took longer than its --timeout.",
        "memory": "it ran out of memory.",
        "worker-lost": "its process was killed.",
        "service-lost": "the service that ran it was lost.",
        "kernel-lost": "its kernel is gone.",
        "user": "somebody cancelled it.",
        "superseded": "its cell was changed and run again.",
    }.get(record.reason or "", "a step that it needs did not succeed.")
