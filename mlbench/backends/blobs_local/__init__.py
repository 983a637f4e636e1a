"""A store's directory on this machine's disk: its objects, its packs of small ones, and its records.

`store` fulfils the port, `packs` says how many artifacts lie in one file, `large` cuts large ones into chunks, `files`
says how a file comes to be complete or absent, and how it is mapped; `logged` keeps the files and folders of others.
Only the standard library, blake3 and msgspec are needed: kernels and step processes read and write here themselves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlbench.backends.blobs_local.care import gone
from mlbench.backends.blobs_local.store import STORE_FORMAT, LocalBlobs
from mlbench.backends.blobs_local.whole import cache_top

if TYPE_CHECKING:
    from mlbench.core.messages import Signer
    from mlbench.core.ports import BlobStore
    from mlbench.core.records import Binding

__all__ = ["STORE_FORMAT", "THREAD", "LocalBlobs", "cache_top", "gone", "keep_logged"]

THREAD = "mlbench-store"
"""How the names of threads begin that read and write a store for a step: what they open is not the step's."""


def keep_logged(value: Any, name: str | None, blobs: BlobStore, *, signer: Signer | None = None) -> Binding:
    """Keep what a cell logs: see `mlbench.backends.blobs_local.logged.keep`."""
    from mlbench.backends.blobs_local.logged import keep

    return keep(value, name, blobs, signer=signer)
