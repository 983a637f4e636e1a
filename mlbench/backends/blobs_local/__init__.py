"""A store's directory on this machine's disk: its objects, its packs of small ones, and its records.

`store` fulfils the port, `packs` says how many artifacts lie in one file, `files` how a file comes to be complete or
absent, and how it is mapped. Only the standard library, blake3 and msgspec are needed: kernels and step processes read
and write here themselves.
"""

from mlbench.backends.blobs_local.store import STORE_FORMAT, LocalBlobs

__all__ = ["STORE_FORMAT", "THREAD", "LocalBlobs"]

THREAD = "mlbench-store"
"""How the names of threads begin that read and write a store for a step: what they open is not the step's."""
