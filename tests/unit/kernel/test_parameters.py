from __future__ import annotations

from datetime import date
from enum import StrEnum

import numpy as np
import pytest

from mlbench.entrypoints.kernel.submission import plain_value


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
    found = plain_value(value)
    assert found == kept
    assert type(found) is type(kept)


@pytest.mark.parametrize("value", [object(), [object()], date(2026, 1, 1), np.zeros(3), 10**30])
def test_what_no_record_holds_is_no_parameter(value: object) -> None:
    with pytest.raises(TypeError):
        plain_value(value)
