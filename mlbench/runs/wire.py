"""msgspec, made safe for threads: whoever turns bytes into records has it from here.

msgspec looks at a class when it first fills one, and a second thread that comes meanwhile is given what has been found
so far. With records that hold records that is a fault which ends the process. So every class that travels is looked
at once, here: Python lets one thread import a module, and the others wait.
"""

from __future__ import annotations

from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from operator import attrgetter
from typing import Any

import msgspec

from mlbench.core import messages, records

__all__ = ["compact", "look_at", "msgspec"]


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
