"""What is shown of a value without loading it."""

from __future__ import annotations

from typing import Any

from mlbench.core.records import Json


def preview(value: Any) -> Json:
    """Return a preview as plain JSON; never raises."""
    raise NotImplementedError
