"""Every port in memory: for tests, and as the shortest account of what a port promises."""

from mlbench.backends.memory.blobs import MemoryBlobs
from mlbench.backends.memory.catalog import MemoryCatalog

__all__ = ["MemoryBlobs", "MemoryCatalog"]
