"""What is said of objects that do not come back as they were stored."""

from __future__ import annotations

from typing import Any

import pytest

from mlbench.backends.memory import MemoryBlobs
from mlbench.runs.artifacts import save_names
from mlbench.runs.faithful import loss


class Forgetful:
    def __init__(self, n: int) -> None:
        self.n = n

    def __getstate__(self) -> dict[str, int]:
        return {"n": 0}


class Careful:
    def __init__(self) -> None:
        self.n = 5
        self._cache = 7

    def __getstate__(self) -> dict[str, int]:
        return {"n": self.n}


class Broken:
    def __reduce__(self) -> Any:
        return int, ("not a number",)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (Forgetful(5), "its `n` was 5 and is 0"),
        ([Careful(), Forgetful(5)], "`value[1]`"),
        (Broken(), "can't be loaded again: ValueError"),
        (Careful(), None),
        (Forgetful(0), None),
        ({"a": [1, 2]}, None),
        (3, None),
    ],
)
def test_a_loss_is_said_and_what_is_left_behind_on_purpose_is_none(value: Any, said: str | None) -> None:
    blobs = MemoryBlobs()
    (binding,) = save_names({"value": value}, ["value"], blobs)
    found = loss(value, binding, blobs, {})
    assert (said is None and found is None) or (said is not None and said in str(found))
