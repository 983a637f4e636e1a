"""pandas' frames, series and indexes as a canonical header and one buffer or more for each column.

A column's buffers are its values as NumPy or Arrow hold them, so that writing them copies nothing and reading them is a
memory map. What is not seen in the values is not stored: how columns are grouped in blocks, what lies under a missing
value, whether an array was a slice of a larger one. Columns of strings have one form, whatever holds them: UTF-8 text,
the end of each value in it, and which are missing.

What is not known here (columns of arbitrary objects, intervals, sparse arrays, subclasses) raises `Odd`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from mlbench.core.ports import Stream
from mlbench.core.records import Json
from mlbench.runs.arrays import array_bytes, array_from, plain_dtype
from mlbench.runs.values import Buffer, Odd, writable

__all__ = ["decode", "encode"]

_CONSOLIDATE = 256
"""Frames with more columns than this are put together in blocks again: single columns would make them slow."""


def encode(value: Any) -> list[bytes | memoryview | Stream]:
    """Return the header and the buffers of a frame, series or index. Raise `Odd` if it is not a plain one."""
    import pandas as pd

    writer = _Writer()
    kind = type(value)
    header: Json
    if kind is pd.DataFrame:
        _refuse_extras(value)
        header = {
            "kind": "frame",
            "columns": writer.index(value.columns),
            "index": writer.index(value.index),
            "data": [writer.column(value.iloc[:, place].array) for place in range(value.shape[1])],
        }
    elif kind is pd.Series:
        _refuse_extras(value)
        header = {
            "kind": "series",
            "name": _label(value.name),
            "index": writer.index(value.index),
            "data": writer.column(value.array),
        }
    elif isinstance(value, pd.Index):
        header = {"kind": "index", "index": writer.index(value)}
    else:
        raise Odd
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")
    return [text, *writer.buffers]


def decode(header: Buffer, buffers: Sequence[Buffer]) -> Any:
    """Return the frame, series or index that `encode` was given, over the buffers where they are writable."""
    import pandas as pd

    reader = _Reader(buffers)
    document = json.loads(bytes(header))
    if document["kind"] == "index":
        return reader.index(document["index"])
    index = reader.index(document["index"])
    if document["kind"] == "series":
        return reader.series(document["data"], index, name=_unlabel(document["name"]))
    columns = reader.index(document["columns"])
    data = {place: reader.series(column, index) for place, column in enumerate(document["data"])}
    frame = pd.DataFrame(data, index=index, copy=len(data) > _CONSOLIDATE)
    frame.columns = columns
    return frame


def _refuse_extras(value: Any) -> None:
    if value.attrs or not value.flags.allows_duplicate_labels:
        raise Odd


def _label(label: Any) -> Any:
    if label is None or type(label) in {str, bool, int}:
        return label
    if type(label) is tuple:
        return [_label(part) for part in label]
    raise Odd


def _unlabel(label: Any) -> Any:
    return tuple(map(_unlabel, label)) if isinstance(label, list) else label


class _Writer:
    def __init__(self) -> None:
        self.buffers: list[bytes | memoryview | Stream] = []

    def _array(self, array: Any) -> Json:
        """Keep a NumPy array; return where, and its dtype."""
        dtype = plain_dtype(array.dtype)
        self.buffers.append(array_bytes(array))
        return {"buffer": len(self.buffers) - 1, "dtype": dtype}

    def _bytes(self, data: bytes | memoryview) -> int:
        self.buffers.append(data)
        return len(self.buffers) - 1

    def column(self, array: Any) -> Json:
        """Keep the values of a column; return what makes it again."""
        import numpy as np
        import pandas as pd

        dtype = array.dtype
        if isinstance(dtype, pd.StringDtype):
            return self._strings(array, dtype)
        if isinstance(array, pd.arrays.NumpyExtensionArray) or isinstance(dtype, np.dtype):
            values = array.to_numpy()
            return self._objects(values) if values.dtype.kind == "O" else {"type": "numpy", **self._array(values)}
        if isinstance(dtype, pd.CategoricalDtype):
            return {
                "type": "categories",
                "codes": self._array(array.codes),
                "categories": self.index(array.categories),
                "ordered": bool(array.ordered),
            }
        if isinstance(dtype, pd.DatetimeTZDtype):
            again: Any = pd.api.types.pandas_dtype(str(dtype))
            if again != dtype or type(again.tz) is not type(dtype.tz) or str(again.tz) != str(dtype.tz):
                raise Odd
            return {"type": "instants", "zone": str(dtype.tz), **self._array(array.asi8.view(f"M8[{dtype.unit}]"))}
        if isinstance(array, pd.arrays.IntegerArray | pd.arrays.FloatingArray | pd.arrays.BooleanArray):
            return self._masked(array, dtype)
        raise Odd

    def _masked(self, array: Any, dtype: Any) -> Json:
        mask, values = array._mask, array._data
        found: Json = {"type": "masked", "name": dtype.name, "mask": None}
        if mask.any():
            values = values.copy()
            values[mask] = 0  # what lies under a missing value differs from one computation to the next
            found["mask"] = self._array(mask)["buffer"]
        return {**found, **self._array(values)}

    def _strings(self, array: Any, dtype: Any) -> Json:
        import pandas as pd

        missing = "NA" if dtype.na_value is pd.NA else "nan"
        about = {"type": "strings", "storage": dtype.storage, "missing": missing}
        chunks = getattr(array, "_pa_array", None)
        if chunks is None:
            texts = self._objects(array.to_numpy(dtype=object, na_value=None))
            return {**about, **{name: texts[name] for name in ("ends", "text", "mask")}}
        return {**about, **self._arrow(chunks)}

    def _arrow(self, chunks: Any) -> Json:
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        texts = chunks.cast(pa.large_string())
        whole = texts.chunk(0) if texts.num_chunks == 1 else texts.combine_chunks()
        if isinstance(whole, pa.ChunkedArray):
            whole = pa.concat_arrays(whole.chunks) if whole.num_chunks else pa.array([], pa.large_string())
        mask = None
        if whole.null_count:
            mask = self._array(whole.is_null().to_numpy(zero_copy_only=False))["buffer"]
            whole = pc.fill_null(whole, "")
        _, ends, text = whole.buffers()
        if not len(whole) or ends is None:
            return {"ends": self._array(np.zeros(0, "<i8"))["buffer"], "text": self._bytes(b""), "mask": mask}
        bounds = np.frombuffer(ends, dtype="<i8")[whole.offset : whole.offset + len(whole) + 1]
        first, last = int(bounds[0]), int(bounds[-1])
        return {
            "ends": self._array(bounds[1:] - first if first else bounds[1:])["buffer"],
            "text": self._bytes(memoryview(text)[first:last] if text is not None else b""),
            "mask": mask,
        }

    def _objects(self, values: Any) -> Json:
        """Keep an array of objects that are all texts, or one kind of missing."""
        import numpy as np

        found = values.tolist()
        kinds = set(map(type, found)) - {str}
        missing, mask = "none", None
        if kinds:
            missing = _missing_kind(kinds, found)
            empty = np.fromiter((type(text) is not str for text in found), dtype="?", count=len(found))
            mask = self._array(empty)["buffer"]
            found = [text if type(text) is str else "" for text in found]
        whole = "".join(found)
        if whole.isascii():
            data, sizes = whole.encode("ascii"), map(len, found)
        else:
            try:
                encoded = [text.encode("utf-8") for text in found]
            except UnicodeEncodeError as error:
                raise Odd from error
            data, sizes = b"".join(encoded), map(len, encoded)
        ends = np.cumsum(np.fromiter(sizes, dtype="<i8", count=len(found)))
        return {
            "type": "texts",
            "missing": missing,
            "ends": self._array(ends)["buffer"],
            "text": self._bytes(data),
            "mask": mask,
        }

    def index(self, index: Any) -> Json:
        """Keep an index; return what makes it again."""
        import pandas as pd

        kind = type(index)
        if kind is pd.RangeIndex:
            return {"range": [index.start, index.stop, index.step], "name": _label(index.name)}
        if kind is pd.MultiIndex:
            return {
                "levels": [self.index(level) for level in index.levels],
                "codes": [self._array(codes) for codes in index.codes],
                "names": [_label(name) for name in index.names],
            }
        if kind not in {pd.Index, pd.DatetimeIndex, pd.TimedeltaIndex, pd.CategoricalIndex}:
            raise Odd
        found: Json = {"values": self.column(index.array), "name": _label(index.name)}
        if (frequency := getattr(index, "freqstr", None)) is not None:
            if pd.tseries.frequencies.to_offset(frequency) != index.freq:
                raise Odd
            found["frequency"] = frequency
        return found


def _missing_kind(kinds: set[type], values: list[Any]) -> str:
    import pandas as pd

    if kinds == {type(None)}:
        return "None"
    if kinds == {type(pd.NA)}:
        return "NA"
    if kinds == {float} and all(value != value for value in values if type(value) is float):
        return "nan"
    raise Odd


class _Reader:
    def __init__(self, buffers: Sequence[Buffer]) -> None:
        self._buffers = buffers

    def series(self, about: Json, index: Any, name: Any = None) -> Any:
        import pandas as pd

        values = self.array(about)
        # pandas would look into objects and make texts of them again.
        dtype = object if about["type"] == "texts" else None
        return pd.Series(values, index=index, name=name, dtype=dtype, copy=False)

    def _plain(self, about: Json) -> Any:
        return array_from(self._buffers[about["buffer"]], about["dtype"])

    def _mask(self, place: int) -> Any:
        return array_from(self._buffers[place], "|b1")

    def array(self, about: Json) -> Any:
        """Return a column's values: a NumPy array or one of pandas' own."""
        import numpy as np
        import pandas as pd

        kind = about["type"]
        if kind == "numpy":
            return self._plain(about)
        if kind == "texts":
            return self._texts(about, {"None": None, "NA": pd.NA, "nan": np.nan, "none": None}[about["missing"]])
        if kind == "strings":
            return self._strings(about)
        if kind == "categories":
            return pd.Categorical.from_codes(
                self._plain(about["codes"]), self.index(about["categories"]), ordered=about["ordered"], validate=False
            )
        if kind == "instants":
            return pd.DatetimeIndex(self._plain(about), tz="UTC").tz_convert(about["zone"]).array
        dtype: Any = pd.api.types.pandas_dtype(about["name"])
        values = self._plain(about)
        mask = np.zeros(len(values), dtype=bool) if about["mask"] is None else self._mask(about["mask"])
        return dtype.construct_array_type()(values, mask)

    def _texts(self, about: Json, missing: Any) -> Any:
        import numpy as np

        data = bytes(self._buffers[about["text"]])
        ends = array_from(self._buffers[about["ends"]], "<i8").tolist()
        known: dict[str, str] = {}  # equal texts are one object again, as they mostly were
        found: list[Any] = []
        start = 0
        if data.isascii():
            whole = data.decode("ascii")
            for end in ends:
                text = whole[start:end]
                found.append(known.setdefault(text, text))
                start = end
        else:
            for end in ends:
                text = data[start:end].decode("utf-8")
                found.append(known.setdefault(text, text))
                start = end
        values = np.empty(len(found), dtype=object)
        values[:] = found
        if about["mask"] is not None:
            values[self._mask(about["mask"])] = missing
        return values

    def _strings(self, about: Json) -> Any:
        import numpy as np
        import pandas as pd

        missing = np.nan if about["missing"] == "nan" else pd.NA
        dtype = pd.StringDtype(about["storage"], na_value=missing)
        if about["storage"] != "pyarrow":
            return pd.array(self._texts(about, missing), dtype=dtype)
        import pyarrow as pa

        ends = array_from(self._buffers[about["ends"]], "<i8")
        bounds = np.concatenate([np.zeros(1, "<i8"), ends])
        empty = None if about["mask"] is None else self._mask(about["mask"])
        valid = None if empty is None else pa.py_buffer(np.packbits(~empty, bitorder="little").tobytes())
        text = pa.py_buffer(writable(self._buffers[about["text"]]))
        texts = pa.LargeStringArray.from_buffers(len(ends), pa.py_buffer(bounds), text, valid)
        made: Any = pd.arrays.ArrowStringArray
        return made(pa.chunked_array([texts]), dtype=dtype)

    def index(self, about: Json) -> Any:
        """Return the index that `_Writer.index` was given."""
        import pandas as pd

        if "range" in about:
            start, stop, step = about["range"]
            return pd.RangeIndex(start, stop, step, name=_unlabel(about["name"]))
        if "levels" in about:
            return pd.MultiIndex(
                levels=[self.index(level) for level in about["levels"]],
                codes=[self._plain(codes) for codes in about["codes"]],
                names=[_unlabel(name) for name in about["names"]],
                verify_integrity=False,
            )
        values = self.array(about["values"])
        dtype = object if about["values"]["type"] == "texts" else None
        index = pd.Index(values, dtype=dtype, name=_unlabel(about["name"]), copy=False)
        if (frequency := about.get("frequency")) is not None:
            index.freq = frequency
        return index
