"""Tables of Arrow, and frames and series of Polars, as Arrow's own stream behind a header that says which they are.

What is not seen in the values is not stored: how columns are cut into chunks, what lies in a bitmap behind its end, how
Polars keeps its texts. What is not known here (columns of Python objects, subclasses) raises `Odd`.
"""

from __future__ import annotations

import json
import sys
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, Final

from mlbench.core.ports import Stream
from mlbench.runs.arrays import SCATTERED
from mlbench.runs.values import Buffer, Odd

__all__ = ["decode", "encode"]

_NOT_ARROW: Final = frozenset({"Object", "Unknown", "Int128", "UInt128"})
"""Types of Polars that Arrow has none for."""


def encode(value: Any) -> list[bytes | memoryview | Stream]:
    """Return the header and the stream of a table, a batch, a frame or a series. Raise `Odd` if it is no plain one."""
    kind, whole = _polars(value) if type(value).__module__.startswith("polars") else _arrow(value)
    header = json.dumps({"kind": kind}, separators=(",", ":")).encode("ascii")
    return [header, _stream(whole)]


def decode(header: Buffer, buffers: Sequence[Buffer]) -> Any:
    """Return what `encode` was given."""
    import pyarrow as pa

    kind = json.loads(str(header, "utf-8"))["kind"]
    with pa.ipc.open_stream(pa.py_buffer(buffers[0])) as reader:
        if kind in {"polars", "series"}:
            import polars as pl

            frame = pl.DataFrame(pl.from_arrow(reader.read_all(), rechunk=False))
            return frame if kind == "polars" else frame.to_series(0)
        return reader.read_all() if kind == "table" else reader.read_next_batch()


def _arrow(value: Any) -> tuple[str, Any]:
    pa = sys.modules.get("pyarrow")
    if pa is None or type(value) not in {pa.Table, pa.RecordBatch}:
        raise Odd
    return ("table", value.combine_chunks()) if type(value) is pa.Table else ("batch", value)


def _polars(value: Any) -> tuple[str, Any]:
    pl = sys.modules.get("polars")
    if pl is None or type(value) not in {pl.DataFrame, pl.Series}:
        raise Odd
    kind = "polars" if type(value) is pl.DataFrame else "series"
    frame = value if kind == "polars" else value.to_frame()
    if any(str(dtype) in _NOT_ARROW for dtype in frame.dtypes):
        raise Odd
    # With views of strings the same texts can lie in many ways.
    return kind, frame.to_arrow(compat_level=pl.CompatLevel.oldest()).combine_chunks()


def _stream(whole: Any) -> memoryview | Stream:
    """Return a table or a batch as Arrow's own stream; the columns of a large one are not copied."""
    import pyarrow as pa

    columns = [_without_rest(column) for column in whole.columns]
    gathered = _Gathered()
    with pa.ipc.new_stream(pa.PythonFile(gathered, mode="w"), whole.schema) as writer:
        writer.write(type(whole).from_arrays(columns, schema=whole.schema))
    return gathered if gathered.nbytes >= SCATTERED else gathered.read(0, gathered.nbytes)


def _without_rest(column: Any) -> Any:
    """Return a column without what lies in its bitmaps behind its end, which is different each time."""
    import pyarrow as pa

    if isinstance(column, pa.ChunkedArray):
        return pa.chunked_array([_without_rest(chunk) for chunk in column.chunks], type=column.type)
    kind, count = column.type, len(column)
    is_ = pa.types
    texts = is_.is_string(kind) or is_.is_large_string(kind) or is_.is_binary(kind) or is_.is_large_binary(kind)
    if column.offset or not (texts or is_.is_primitive(kind)):
        return column
    buffers = column.buffers()
    if not column.null_count:
        buffers[0] = None
    for place in (0, 1) if pa.types.is_boolean(kind) else (0,):
        if buffers[place] is not None:
            bits = bytearray(buffers[place].slice(0, -(-count // 8)).to_pybytes())
            if count % 8:
                bits[-1] &= (1 << count % 8) - 1
            buffers[place] = pa.py_buffer(bytes(bits))
    return pa.Array.from_buffers(kind, count, buffers, column.null_count)


class _Gathered:
    """What is written to it, held as it was handed over: a file to write to, then a stream."""

    closed = False

    def __init__(self) -> None:
        self.nbytes = 0
        self._pieces: list[memoryview] = []
        self._starts: list[int] = []

    def write(self, data: Any) -> int:
        piece = memoryview(data).cast("B")
        if piece.nbytes:
            self._pieces.append(piece)
            self._starts.append(self.nbytes)
            self.nbytes += piece.nbytes
        return piece.nbytes

    def flush(self) -> None:
        """Do nothing: what was written is there."""

    def close(self) -> None:
        """Do nothing: it is read afterwards."""

    def read(self, offset: int, size: int, /) -> memoryview:
        data, done = bytearray(size), 0
        place = max(bisect_right(self._starts, offset) - 1, 0)
        while done < size:
            piece = self._pieces[place][offset + done - self._starts[place] :][: size - done]
            data[done : done + piece.nbytes] = piece
            done += piece.nbytes
            place += 1
        return memoryview(data)
