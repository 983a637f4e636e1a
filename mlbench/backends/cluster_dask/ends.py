"""What became of a task, as it is written to the store, and as it is found there by who comes after a loss.

Whoever can write to a store can write the end of a step there that never was. What is written here carries a proof,
made with the secret that came with the task (see `mlbench.runs.signing`): a worker has it too, also one of a cluster
of others, where the user's key never is. What is found without one is passed over, as if nothing had been written.
"""

from __future__ import annotations

import logging

from mlbench.core.messages import StepTask
from mlbench.core.ports import BlobStore
from mlbench.core.records import ENDED, Execution, Json
from mlbench.runs.signing import is_proven, proven
from mlbench.runs.wire import msgspec

__all__ = ["ended_already", "find_written", "record_end"]

_log = logging.getLogger(__name__)


def record_end(blobs: BlobStore, task: StepTask, record: Execution) -> None:
    """Write the record of a task's end, durably, with the proof that it is from here."""
    said = proven(task.signer, "execution", record.id, msgspec.to_builtins(record))
    blobs.append("execution", record.id, said, durable=True)


def find_written(blobs: BlobStore, task: StepTask, kind: str, identifier: str) -> Json | None:
    """Return a record of a task that whoever ran it, or sent it, has written; what others put there is passed over."""
    found = blobs.find_record(kind, identifier)
    if found is None or task.signer is None or is_proven([task.signer], kind, identifier, found):
        return found
    _log.warning("The record %s %s is not from who ran it, and is not taken", kind, identifier)
    return None


def ended_already(blobs: BlobStore, task: StepTask, record: Execution) -> Execution | None:
    """Return the end of this attempt that somebody else has recorded: who was given up may not say another one."""
    found = find_written(blobs, task, "execution", record.id)
    if found is None or found.get("state") not in ENDED or found.get("attempt", 1) < record.attempt:
        return None
    _log.warning("The end of execution %s comes too late: it is recorded as %s", record.id, found["state"])
    return msgspec.convert(found, Execution)
