"""msgspec, made safe for threads: whoever turns bytes into records has it from here.

msgspec looks at a class when it first fills one, and a second thread that comes meanwhile is given what has been found
so far. With records that hold records that is a fault which ends the process. So every class that travels is looked
at once, here: Python lets one thread import a module, and the others wait.
"""

from __future__ import annotations

from dataclasses import is_dataclass
from typing import Any

import msgspec

from mlbench.core import messages, records

__all__ = ["look_at", "msgspec"]


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
