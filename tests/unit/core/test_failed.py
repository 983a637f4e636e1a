"""What stands in the place of an item that failed says why, and counts as nothing."""

from __future__ import annotations

import pickle

import mlbench
from mlbench.core.failed import Failed


def test_a_failed_place_is_false_and_says_why() -> None:
    failed = Failed(item=3, label={"carrier": "'AA'"}, ename="ValueError", evalue="no rows", reason="error")
    assert not failed
    assert [model for model in ("model", failed) if model] == ["model"]
    assert repr(failed) == "Failed(item 3, carrier='AA': ValueError: no rows)"
    assert repr(Failed(item=0, reason="timeout")) == "Failed(item 0: timeout)"
    assert repr(Failed(item=0)) == "Failed(item 0)"


def test_a_failed_place_survives_pickling_and_can_be_looked_for() -> None:
    failed = Failed(item=3, label={"carrier": "'AA'"}, ename="ValueError", evalue="no rows", reason="error")
    assert pickle.loads(pickle.dumps(failed)) == failed
    assert len({failed, pickle.loads(pickle.dumps(failed))}) == 1
    assert mlbench.Failed is Failed
