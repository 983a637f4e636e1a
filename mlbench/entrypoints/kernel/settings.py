"""`%config MLBench`: settings that hold for all steps of a kernel, unless a step's own line says otherwise."""

from __future__ import annotations

from traitlets import Bool, Int
from traitlets.config import Configurable

from mlbench.core.messages import MAX_ITEMS

__all__ = ["MLBench"]


class MLBench(Configurable):
    """Settings of mlbench in this kernel; `c.MLBench.cache = True` in IPython's configuration sets one for all."""

    cache = Bool(
        False,
        help="Take the results of an unchanged step instead of running it, as if --cache stood on each %%step line.",
    ).tag(config=True)
    max_items = Int(
        MAX_ITEMS, min=1, help="The most items that a --foreach may have; with more the step fails at once."
    ).tag(config=True)
