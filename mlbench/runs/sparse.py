"""SciPy's sparse matrices and arrays (CSR, CSC, COO) as a header and the arrays that they consist of.

These are written and mapped as any array is. Their indexes are looked at before a matrix is made of them, since SciPy's
own code follows them wherever they lead. Whether a CSR or CSC matrix is sorted and without duplicates is found in its
indexes; a COO matrix only says so. What is not known here (subclasses, numbers that are objects, attributes of the
user's) raises `Odd`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Final

from mlbench.core.errors import ArtifactCorrupt
from mlbench.core.ports import Stream
from mlbench.core.records import Json
from mlbench.runs.arrays import array_bytes, array_from, plain_dtype
from mlbench.runs.values import Buffer, Odd, dumps

__all__ = ["arrays_of", "decode", "encode"]

_KINDS: Final = frozenset({"csr_matrix", "csc_matrix", "coo_matrix", "csr_array", "csc_array", "coo_array"})
_KNOWN: Final = frozenset({
    "_shape", "maxprint", "data", "indices", "indptr", "coords", "row", "col",
    "_has_sorted_indices", "_has_canonical_format", "has_canonical_format",
})  # fmt: skip
_MAXPRINT: Final = 50
_INDEXES: Final = frozenset({"<i4", "<i8", ">i4", ">i8"})


def encode(value: Any) -> list[bytes | memoryview | Stream]:
    """Return the header and the arrays of a sparse matrix. Raise `Odd` if it is no plain one."""
    sparse = sys.modules.get("scipy.sparse")
    name = type(value).__name__
    if sparse is None or name not in _KINDS or type(value) is not getattr(sparse, name, None):
        raise Odd
    if not vars(value).keys() <= _KNOWN or vars(value).get("maxprint", _MAXPRINT) != _MAXPRINT:
        raise Odd
    arrays = _trimmed(value)
    shape = [int(length) for length in value.shape]
    header: Json = {"kind": name, "shape": shape, "dtypes": [plain_dtype(array.dtype) for array in arrays]}
    if name.startswith("coo"):
        header["canonical"] = bool(value.has_canonical_format)
    try:
        _check(name, shape, arrays)
    except ArtifactCorrupt as error:  # it is no use to anybody, but it comes back as it is
        raise Odd from error
    return [dumps(header), *map(array_bytes, arrays)]


def decode(header: Json, buffers: Sequence[Buffer]) -> Any:
    """Return the matrix that `encode` was given, over the buffers where they are writable.

    Raises
    ------
    ArtifactCorrupt
        If its indexes lead out of it.
    """
    import scipy.sparse

    name, shape = header["kind"], tuple(header["shape"])
    if name not in _KINDS:
        raise ArtifactCorrupt(f"A sparse matrix is of a kind that there is not: {name!r:.60}.")
    arrays = [array_from(buffer, dtype) for buffer, dtype in zip(buffers, header["dtypes"], strict=True)]
    _check(name, header["shape"], arrays)
    # From arrays SciPy makes a matrix with indexes as short as they can be, and perhaps other numbers.
    made = getattr(scipy.sparse, name)(shape)
    if not name.startswith("coo"):
        made.data, made.indices, made.indptr = arrays
        return made
    made.data = arrays[0]
    made.has_canonical_format = header["canonical"]
    if hasattr(made, "coords"):
        made.coords = tuple(arrays[1:])
    else:  # SciPy before 1.13
        made.row, made.col = arrays[1:]
    return made


def arrays_of(value: Any) -> list[Any]:
    """Return the arrays that a matrix consists of: its numbers, then what says where they stand."""
    if hasattr(value, "indptr"):
        return [value.data, value.indices, value.indptr]
    return [value.data, *(value.coords if hasattr(value, "coords") else (value.row, value.col))]


def _trimmed(value: Any) -> list[Any]:
    """Return the arrays of a matrix without what lies behind its last number."""
    import numpy as np

    arrays = arrays_of(value)
    if any(type(array) not in {np.ndarray, np.memmap} or array.ndim != 1 for array in arrays):
        raise Odd
    if not hasattr(value, "indptr"):
        return arrays
    data, indices, indptr = arrays
    count = int(indptr[-1]) if len(indptr) else 0
    return [data[:count], indices[:count], indptr]


def _check(name: str, shape: Sequence[int], arrays: Sequence[Any]) -> None:
    """Raise `ArtifactCorrupt` unless all indexes lead into a matrix."""
    if not _is_sound(name, shape, arrays):
        raise ArtifactCorrupt(
            "A sparse matrix is not what it says: its indexes lead out of it.", "Run what made it again."
        )


def _is_sound(name: str, shape: Sequence[int], arrays: Sequence[Any]) -> bool:
    data, *places = arrays
    if any(length < 0 for length in shape) or any(place.dtype.str not in _INDEXES for place in places):
        return False
    if name.startswith("coo"):
        return len(places) == len(shape) and all(
            len(place) == len(data) and _is_within(place, length) for place, length in zip(places, shape, strict=True)
        )
    if len(places) != 2 or len(shape) not in (1, 2):
        return False
    indices, bounds = places
    rows, columns = (1, shape[0]) if len(shape) == 1 else (shape[0], shape[1])
    if name.startswith("csc"):
        rows, columns = columns, rows
    return (
        len(indices) == len(data)
        and len(bounds) == rows + 1
        and bounds[0] == 0
        and bounds[-1] == len(data)
        and bool((bounds[1:] >= bounds[:-1]).all())
        and _is_within(indices, columns)
    )


def _is_within(places: Any, length: int) -> bool:
    return not len(places) or (int(places.min()) >= 0 and int(places.max()) < length)
