"""IPython's own names for what former cells were and came to, which are no names of the notebook."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["is_history"]

_HISTORY: Final = re.compile(r"_{1,3}|_i{1,3}|_i?[0-9]+|In|Out|_[iod]h|_exit_code")


def is_history(name: str) -> bool:
    """Say whether a name is one that IPython gives to results, to the texts of cells, or to what a shell line came to.

    Examples
    --------
    >>> [name for name in ("_", "_3", "_i", "_i12", "Out", "_oh", "_exit_code", "_mine", "In2") if is_history(name)]
    ['_', '_3', '_i', '_i12', 'Out', '_oh', '_exit_code']
    """
    return _HISTORY.fullmatch(name) is not None
