"""What a record says that the catalog says too, and by which it is seen that both say the same.

Of a record there may be as many as there are items of all fan-outs: what is kept of each is one number. What may come
to differ without anything being wrong is not among it: whether somebody has seen an end, where a cell stood, what a
fan-out counts.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from mlbench.core.records import Binding, Execution, Json, Run
from mlbench.runs.wire import msgspec

__all__ = ["InOrder", "Saying", "differences", "said_by", "said_in"]

Saying = tuple[Hashable, ...]
"""The state, the end, the parameters (None of an execution), metrics, tags, what was bound, and what was logged."""

_NAMES: Final = (
    "the state",
    "when it ended",
    "the parameters",
    "the metrics",
    "the tags",
    "what was bound",
    "what was logged",
)


class InOrder:
    """Says which of several records of an execution counts: the last one, but for those of earlier attempts.

    What comes after what is said by the clocks of whoever wrote them, and attempts may be made on several machines.
    """

    def __init__(self) -> None:
        self._attempts: dict[str, int] = {}

    def counts(self, record: Json) -> bool:
        """Say whether a record, of which those written before have been seen, counts more than these.

        Examples
        --------
        >>> order = InOrder()
        >>> [order.counts({"id": "a", "attempt": attempt}) for attempt in (1, 2, 1, 2)]
        [True, True, False, True]
        """
        one, attempt = record["id"], record.get("attempt", 1)
        if attempt < self._attempts.get(one, 1):
            return False
        if attempt > 1:
            self._attempts[one] = attempt
        return True


def said_in(record: Json) -> Saying:
    """Return what the record of a run or of an execution says, as it was read.

    Examples
    --------
    >>> run = Run(id="r", kind="job", state="failed", name="n", parameters={"a": 1}, tags={"team": "ops"})
    >>> said_in(msgspec.to_builtins(run)) == said_by(run)
    True
    """
    parameters, tags = record.get("parameters"), record.get("tags")
    return (
        record["state"],
        record.get("ended"),
        _canonical(parameters),
        _metrics(
            (one["name"], one["value"], one.get("step"), one.get("time", 0)) for one in record.get("metrics") or ()
        ),
        _canonical(tags),
        tuple(_bound_in(record.get("binds") or ())),
        tuple(_bound_in(record.get("artifacts") or ())),
    )


def said_by(record: Run | Execution) -> Saying:
    """Return what a run or an execution says, as the catalog has it."""
    return (
        record.state,
        record.ended,
        _canonical(record.parameters) if isinstance(record, Run) else None,
        _metrics((one.name, one.value, one.step, one.time) for one in record.metrics),
        _canonical(record.tags),
        tuple(_bound_by(record.binds)) if isinstance(record, Execution) else (),
        tuple(_bound_by(record.artifacts)),
    )


def differences(record: Saying, catalog: Saying) -> list[str]:
    """Return in words what differs.

    Examples
    --------
    >>> run = Run(id="r", kind="job", state="failed", name="n")
    >>> other = Run(id="r", kind="job", state="succeeded", name="n", tags={"team": "ops"})
    >>> differences(said_by(run), said_by(other))
    ['the state (succeeded instead of failed)', 'the tags']
    """
    found = [name for name, one, other in zip(_NAMES, record, catalog, strict=True) if one != other]
    state = f"{_NAMES[0]} ({catalog[0]} instead of {record[0]})"
    return [state if name == _NAMES[0] else name for name in found]


def _canonical(document: Mapping[str, Any] | None) -> bytes | None:
    """Return a JSON document as bytes that do not depend on the order of its names; None for an empty one."""
    return msgspec.json.encode(document, order="sorted") if document else None


def _metrics(logged: Iterable[tuple[str, float, int | None, int]]) -> tuple[Hashable, ...]:
    # A number that is none is not equal to itself.
    return tuple((name, value if value == value else None, step, time) for name, value, step, time in logged)


def _bound_in(bindings: Sequence[Json]) -> Iterator[Hashable]:
    for one in bindings:
        artifact = one.get("artifact")
        digest = artifact["digest"] if artifact is not None else None
        yield one["name"], digest, one.get("member"), one.get("module"), one.get("problem")


def _bound_by(bindings: Sequence[Binding]) -> Iterator[Hashable]:
    for one in bindings:
        yield one.name, one.artifact.digest if one.artifact is not None else None, one.member, one.module, one.problem
