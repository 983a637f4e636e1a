"""Steps on a Dask cluster: the client's side in the service, the worker's side, and the processes that steps run in."""

from __future__ import annotations

from pathlib import Path
from typing import Final

PACKAGE: Final = Path(__file__).parents[2]
"""The folder of mlbench itself; what lies above it is what `sys.path` needs."""
