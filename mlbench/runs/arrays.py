"""NumPy's arrays and scalars as a header that says their type, and their bytes in the order of their indexes.

A structured type is said by its fields, their places and its size; what lies between the fields means nothing, differs
from one computation to the next, and is stored as zeros. What is not known here (arrays of Python objects, subclasses
but `recarray`, fields with titles) raises `Odd`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from mlbench.core.errors import ArtifactCorrupt
from mlbench.core.ports import Stream
from mlbench.core.records import Json
from mlbench.runs.values import Buffer, Odd, dumps, whole, writable

__all__ = [
    "SCATTERED",
    "array_bytes",
    "array_from",
    "decode",
    "decode_scalar",
    "encode",
    "plain_dtype",
]

SCATTERED: Final = 1 << 22
"""Arrays of so many bytes that cannot be written as they lie are put together piece by piece, when they are written."""


def encode(value: Any) -> tuple[str, list[bytes | memoryview | Stream]]:
    """Return the codec, the header and the bytes of an array or a scalar. Raise `Odd` if it is no plain one."""
    import numpy as np

    if isinstance(value, np.generic):
        if type(value) is not value.dtype.type:
            raise Odd
        header = {"kind": "numpy", "dtype": _described(value.dtype)}
        return "scalar", [dumps(header), bytes(whole(array_bytes(np.asarray(value).reshape(1))))]
    records = type(value) is np.recarray
    if type(value) is not np.ndarray and type(value) is not np.memmap and not records:
        raise Odd
    dtype, array, order = _described(value.dtype), np.asarray(value), "C"
    if not array.flags.c_contiguous:
        # What is contiguous by columns stays so: sums over it depend on the order in their last digits.
        order = "F" if array.flags.f_contiguous else "C"
        array = array.T if order == "F" else array
    about = {"dtype": dtype, "order": order, "shape": list(value.shape)}
    return "ndarray", [dumps({**about, "records": True} if records else about), array_bytes(array)]


def decode(header: Json, buffers: Sequence[Buffer]) -> Any:
    """Return the array that `encode` was given, over the buffer where it is writable."""
    import numpy as np

    array = array_from(buffers[0], header["dtype"]).reshape(header["shape"], order=header["order"])
    return array.view(np.recarray) if header.get("records") else array


def decode_scalar(header: Json, buffers: Sequence[Buffer]) -> Any:
    """Return the scalar that `encode` was given."""
    import numpy as np

    return np.frombuffer(bytearray(buffers[0]), dtype=_dtype(header["dtype"]))[0]


# --- types ------------------------------------------------------------------------------------------------------------


def plain_dtype(dtype: Any) -> str:
    """Return a NumPy dtype as text that makes it again; raise `Odd` for objects, structures and metadata."""
    if dtype.kind not in "biufcSUmM" or dtype.hasobject or dtype.metadata or dtype.itemsize == 0:
        raise Odd
    return str(dtype.str)


def _described(dtype: Any) -> Any:
    """Return a dtype as JSON that makes it again: a text, or what a structure is made of."""
    if dtype.kind != "V":
        return plain_dtype(dtype)
    found = _structure(dtype)
    again = _dtype(found)
    if again != dtype or again.isalignedstruct != dtype.isalignedstruct or again.type is not dtype.type:
        raise Odd
    return found


def _structure(dtype: Any) -> Any:
    if dtype.kind != "V" and dtype.subdtype is None:
        return plain_dtype(dtype)
    if dtype.hasobject or dtype.metadata or dtype.itemsize == 0:
        raise Odd
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return {"base": _structure(base), "shape": list(shape)}
    if dtype.names is None:
        return str(dtype.str)
    import numpy as np

    fields = [dtype.fields[name] for name in dtype.names]
    if any(len(field) > 2 for field in fields):  # titles
        raise Odd
    return {
        "names": list(dtype.names),
        "formats": [_structure(field[0]) for field in fields],
        "offsets": [int(field[1]) for field in fields],
        "size": int(dtype.itemsize),
        "aligned": bool(dtype.isalignedstruct),
        "records": dtype.type is np.record,
    }


def _dtype(about: Any) -> Any:
    """Return the dtype that `_described` was given.

    Raises
    ------
    ArtifactCorrupt
        If it is one that no data has.
    """
    import numpy as np

    if isinstance(about, str):
        dtype = np.dtype(about)
    elif "base" in about:
        dtype = np.dtype((_dtype(about["base"]), tuple(about["shape"])))
    else:
        fields: Any = {
            "names": about["names"],
            "formats": [_dtype(one) for one in about["formats"]],
            "offsets": about["offsets"],
            "itemsize": about["size"],
        }
        dtype = np.dtype(fields, align=about["aligned"])
        if about["records"]:
            dtype = np.dtype((np.record, dtype))
    if dtype.hasobject:
        raise ArtifactCorrupt("An array was stored as data, and says that it holds objects.")
    return dtype


def _gaps(dtype: Any) -> Any:
    """Return the places in an item that belong to none of its fields, as an array."""
    import numpy as np

    known = np.zeros(dtype.itemsize, dtype=bool)
    _mark(dtype, known)
    return np.flatnonzero(~known)


def _mark(dtype: Any, known: Any) -> None:
    if dtype.subdtype is not None:
        base = dtype.subdtype[0]
        for start in range(0, dtype.itemsize, base.itemsize):
            _mark(base, known[start : start + base.itemsize])
    elif dtype.names is None:
        known[:] = True
    else:
        for name in dtype.names:
            field, offset = dtype.fields[name][:2]
            _mark(field, known[offset : offset + field.itemsize])


# --- bytes ------------------------------------------------------------------------------------------------------------


class _Scattered:
    """The bytes of an array that cannot be written as it lies, in the order of its indexes."""

    def __init__(self, array: Any, gaps: Any) -> None:
        self._array = array
        self._gaps = gaps
        self._row = array.nbytes // len(array)
        self.nbytes: int = array.nbytes

    def read(self, offset: int, size: int, /) -> memoryview:
        first = offset // self._row
        rows = self._array[first : -(-(offset + size) // self._row)]
        return _flat(rows, self._gaps)[offset - first * self._row :][:size]


def _flat(array: Any, gaps: Any) -> memoryview:
    import numpy as np

    if not len(gaps) or not array.size:
        return memoryview(np.ascontiguousarray(array).reshape(-1).view("u1").data)
    items = np.array(array, order="C").reshape(-1)
    data = items.view("u1")
    data.reshape(len(items), -1)[:, gaps] = 0
    return memoryview(data.data)


def array_bytes(array: Any) -> memoryview | Stream:
    """Return the bytes of an array, in the order of its indexes, not copied where they lie so."""
    gaps = _gaps(array.dtype) if array.dtype.kind == "V" else ()
    copied = bool(len(gaps)) or not array.flags.c_contiguous
    if copied and array.ndim and array.nbytes >= SCATTERED and array.nbytes // len(array) < SCATTERED:
        return _Scattered(array, gaps)
    return _flat(array, gaps)


def array_from(buffer: Buffer, dtype: Any) -> Any:
    """Return a one-dimensional array over bytes."""
    import numpy as np

    if not (buffer.nbytes if isinstance(buffer, memoryview) else len(buffer)):
        return np.empty(0, dtype=_dtype(dtype))
    return np.frombuffer(writable(buffer), dtype=_dtype(dtype))
