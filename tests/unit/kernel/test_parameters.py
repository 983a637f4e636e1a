from __future__ import annotations

from datetime import date
from enum import StrEnum

import numpy as np
import pytest

from mlbench.entrypoints.kernel.submission import is_plain
from mlbench.notebook.parameters import recorded


class Airport(StrEnum):
    JFK = "JFK"


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (np.float64(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (list(np.arange(2)), [0, 1]),
        ({1: (np.float32(2.0),)}, {"1": [2.0]}),
        (Airport.JFK, "JFK"),
        (None, None),
    ],
)
def test_a_parameter_is_kept_in_pythons_own_words(value: object, kept: object) -> None:
    assert is_plain(value)
    found = recorded({"name": value})["name"]
    assert found == kept
    assert type(found) is type(kept)


@pytest.mark.parametrize("value", [object(), date(2026, 1, 1), np.zeros(3)])
def test_what_no_record_holds_is_no_parameter(value: object) -> None:
    assert not is_plain(value)


def test_a_name_that_stands_for_a_text_is_no_parameter() -> None:
    class Placeholder:
        @property
        def __class__(self) -> type:
            return str

    assert isinstance(Placeholder(), str)
    assert not is_plain(Placeholder())
