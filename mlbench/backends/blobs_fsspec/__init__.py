"""A store under a URL: an object store such as S3, reached through fsspec, with what was read kept on this machine.

`store` fulfils the port, `remote` speaks to the other side, `cache` is the folder on this machine. The layout is that
of a store in a directory, so that one can be copied into the other by any tool. Nothing here is imported for a store
that is a directory.
"""

from mlbench.backends.blobs_fsspec.cache import cache_folder
from mlbench.backends.blobs_fsspec.store import FsspecBlobs

__all__ = ["FsspecBlobs", "cache_folder"]
