"""msgspec, made safe for threads: whoever turns bytes into records has it from here.

msgspec looks at a class when it first fills one, and a second thread that comes meanwhile is given what has been found
so far. With records that hold records that is a fault which ends the process. So every class that travels is looked
at once, here: Python lets one thread import a module, and the others wait.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from operator import attrgetter
from typing import Any

import msgspec

from mlbench.core import messages, records

__all__ = ["check_numbers", "compact", "encoded", "look_at", "msgspec", "numbers_as_text"]


def compact(record: Any) -> records.Json:
    """Return a record's fields by name, without those that have their defaults: whoever reads it fills them in.

    Of an item of a fan-out that is a third.

    Examples
    --------
    >>> compact(records.Metric(name="rmse", value=0.5))
    {'name': 'rmse', 'value': 0.5}
    """
    kind: Any = type(record)
    names, defaults, values = _fields(kind)
    pairs = zip(names, values(record), defaults, strict=True)
    return {name: value for name, value, default in pairs if value is not default and value != default}


def encoded(record: Any) -> bytes:
    """Return a record, or what is left of it (`compact`), as JSON; a metric that JSON has no number for is a text.

    Examples
    --------
    >>> encoded({"metrics": (records.Metric(name="loss", value=float("inf")),)})
    b'{"metrics":[{"name":"loss","value":"inf","step":null,"time":0}]}'
    """
    metrics: Sequence[Any] = record.get("metrics", ()) if isinstance(record, dict) else getattr(record, "metrics", ())
    if any(not math.isfinite(metric.value) for metric in metrics):
        told = msgspec.to_builtins(metrics)
        for metric in told:
            if not math.isfinite(metric["value"]):
                metric["value"] = str(metric["value"])
        # Of what is a dictionary, parts may be JSON already (`Raw`).
        record = {**(record if isinstance(record, dict) else msgspec.to_builtins(record)), "metrics": told}
    return msgspec.json.encode(record)


def numbers_as_text(record: records.Json) -> records.Json:
    """Return a plain record whose metrics that JSON has no number for (nan, inf) are texts.

    Examples
    --------
    >>> numbers_as_text({"metrics": [{"name": "loss", "value": float("inf")}]})
    {'metrics': [{'name': 'loss', 'value': 'inf'}]}
    """
    if record.get("executions"):
        record = {**record, "executions": [numbers_as_text(one) for one in record["executions"]]}
    metrics: Sequence[Any] = record.get("metrics") or ()
    if all(isinstance(metric.get("value"), float) and math.isfinite(metric["value"]) for metric in metrics):
        return record
    plain = [
        {**metric, "value": str(value)} if isinstance(value, float) and not math.isfinite(value) else metric
        for metric, value in ((metric, metric.get("value")) for metric in metrics)
    ]
    return {**record, "metrics": plain}


def check_numbers(record: records.Json) -> None:
    """Raise `ValueError` if a plain record has a whole number that no database holds: nobody of us has written it.

    Examples
    --------
    >>> check_numbers({"started": 2**70})
    Traceback (most recent call last):
        ...
    ValueError: its `started` has more than 64 bits
    """
    for one in (record, *_inside(record, "executions")):
        for part in (one, *_inside(one, "metrics")):
            for name, value in part.items():
                if type(value) is int and not -(2**63) <= value < 2**63:
                    raise ValueError(f"its `{name}` has more than 64 bits")


def _inside(record: records.Json, name: str) -> list[records.Json]:
    found = record.get(name)
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list | tuple) else []


@cache
def _fields(kind: Any) -> tuple[tuple[str, ...], tuple[Any, ...], attrgetter[Any]]:
    known = fields(kind)
    defaults = tuple(
        one.default
        if one.default is not MISSING
        else one.default_factory()
        if one.default_factory is not MISSING
        else ...
        for one in known
    )
    names = tuple(one.name for one in known)
    return names, defaults, attrgetter(*names)


def look_at(*kinds: Any) -> None:
    """Have msgspec know classes, and those of their fields, before threads do."""
    for kind in kinds:
        msgspec.json.Decoder(kind)


look_at(
    *(
        kind
        for module in (records, messages)
        for kind in vars(module).values()
        if isinstance(kind, type) and is_dataclass(kind)
    )
)
