"""`%config MLBench`: settings that hold for all steps of a kernel, unless a step's own line says otherwise."""

from __future__ import annotations

import difflib
from typing import Any

from traitlets import Bool, Int
from traitlets.config import Configurable

from mlbench.core.errors import UsageError
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

    def update_config(self, config: Any) -> None:
        """Take settings; traitlets itself would keep a name that is none without a word.

        Raises
        ------
        UsageError
            If there is no setting of that name.
        """
        known = sorted(self.trait_names(config=True))
        for name in config.get("MLBench", ()):
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                raise UsageError(
                    f"There is no setting MLBench.{name}.",
                    f"Did you mean {near[0]}?" if near else f"There are {' and '.join(known)}: see `%config MLBench`.",
                )
        super().update_config(config)
