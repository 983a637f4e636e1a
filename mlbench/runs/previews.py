"""What is shown of a value without loading it: plain JSON, made where the value was made.

Each preview has a `kind` (`frame`, `array`, `estimator`, `figure`, `module`, `list`, `text`) and a `text`, one line.
Nothing here raises, looks at more of a value than it must, or changes it: a preview that cannot be made is a text.
"""

from __future__ import annotations

import base64
import io
import math
import re
import reprlib
import sys
import types
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from mlbench.core.records import Artifact, Json

__all__ = ["preview", "preview_list"]

ROWS = 10
COLUMNS = 40
TEXT = 2000
CELL = 80
_FIGURE_WIDTH = 480
_FIGURE_BYTES = 200_000
_COUNTED = 50_000_000
"""Cells of a frame, and items of an array, up to which missing values and the range are looked for."""


def preview(value: Any) -> Json:
    """Return what is shown of a value.

    Examples
    --------
    >>> preview([1, 2, 3])
    {'kind': 'text', 'text': '[1, 2, 3]', 'length': 3}
    """
    try:
        for applies, show in _KINDS:
            if applies(value):
                return show(value)
        return _text(value)
    except Exception as error:  # noqa: BLE001  (a value's own repr may raise anything: then that is what there is to show)
        return {"kind": "text", "text": f"<{type(value).__qualname__}: no preview ({type(error).__name__})>"}


def preview_list(items: Sequence[Artifact | None]) -> Json:
    """Return what is shown of the list of a fan-out, from what is known of its items.

    Parameters
    ----------
    items
        The artifact in each place; `None` where an item has none, since it failed or is a module.

    Examples
    --------
    >>> from mlbench.core.ids import Digest
    >>> one = Artifact(digest=Digest(""), size=9, type="float", codec="scalar", preview=preview(0.5))
    >>> preview_list([one, one, None])["text"]
    'list of 3: float, 0.5 to 0.5, 1 without a value'
    """
    there = [one for one in items if one is not None]
    kinds = Counter(one.type for one in there).most_common()
    texts = [str(one.preview.get("text", one.type)) for one in there]
    numbers = [_as_number(text) for text in texts] if kinds and all(_is_number(kind) for kind, _ in kinds) else []
    finite = [number for number in numbers if number is not None and math.isfinite(number)]
    found: Json = {
        "kind": "list",
        "length": len(items),
        "failed": len(items) - len(there),
        "types": [[_cut(kind, CELL), count] for kind, count in kinds[:ROWS]],
        "first": ["-" if one is None else _cut(str(one.preview.get("text", one.type)), CELL) for one in items[:ROWS]],
    }
    words = [", ".join(_cut(kind, CELL) for kind, _ in kinds[:3]) + (", …" if len(kinds) > 3 else "")]
    if finite:
        found["min"], found["max"] = min(finite), max(finite)
        words.append(f"{found['min']:.6g} to {found['max']:.6g}")
    if found["failed"]:
        words.append(f"{found['failed']:,} without a value")
    found["text"] = f"list of {len(items):,}" + (f": {', '.join(filter(None, words))}" if items else "")
    return found


_NUMBER = re.compile(r"(?:np\.\w+\()?([-+\w.]+)\)?")


def _is_number(kind: str) -> bool:
    return kind in {"int", "float"} or re.fullmatch(r"numpy\.u?(int|float)\d+", kind) is not None


def _as_number(text: str) -> float | None:
    found = _NUMBER.fullmatch(text)
    try:
        return float(found[1]) if found else None
    except ValueError:  # an integer of very many digits is shown cut
        return None


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _loaded(module: str, name: str) -> type | None:
    found = getattr(sys.modules.get(module), name, None)
    return found if isinstance(found, type) else None


def _is(module: str, *names: str) -> Callable[[Any], bool]:
    def applies(value: Any) -> bool:
        return any((kind := _loaded(module, name)) is not None and isinstance(value, kind) for name in names)

    return applies


class _Repr(reprlib.Repr):
    """A repr that looks at a few items of a large container only."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother, self.maxlong = 4, 400, 400, 400
        self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = self.maxdeque = self.maxarray = 20
        self.maxdict = 20

    def repr_instance(self, x: Any, level: int) -> str:
        return _cut(repr(x), self.maxother) if level < self.maxlevel else _cut(repr(x), TEXT)


def _text(value: Any) -> Json:
    if isinstance(value, type | types.FunctionType):
        kind = "class" if isinstance(value, type) else "function"
        return {"kind": "text", "text": f"{kind} {value.__qualname__}"}
    text = _cut(value, TEXT) if type(value) is str else _cut(_Repr().repr(value), TEXT)
    found: Json = {"kind": "text", "text": text}
    if isinstance(value, str | bytes | list | tuple | dict | set | frozenset):
        found["length"] = len(value)
    return found


def _module(value: Any) -> Json:
    version = getattr(value, "__version__", None)
    return {
        "kind": "module",
        "text": f"module {value.__name__}",
        "name": value.__name__,
        "version": version if isinstance(version, str) else None,
    }


def _times(shape: tuple[int, ...]) -> str:
    return " × ".join(f"{length:,}" for length in shape) or "one value"


def _frame(value: Any) -> Json:
    series = value.ndim == 1
    frame = value.to_frame() if series else value
    rows, width = frame.shape
    shown = frame.iloc[:ROWS, :COLUMNS]
    missing: list[int | None] = [None] * shown.shape[1]
    if rows * max(width, 1) <= _COUNTED:
        missing = [int(count) for count in frame.iloc[:, :COLUMNS].isna().sum()]
    columns = [
        {"name": _cut(str(name), CELL), "type": str(dtype), "missing": count}
        for name, dtype, count in zip(shown.columns, shown.dtypes, missing, strict=True)
    ]
    return {
        "kind": "frame",
        "text": f"{type(value).__name__}, {_times(value.shape)}",
        "shape": [int(length) for length in value.shape],
        "columns": columns,
        "index": [_cut(str(label), CELL) for label in shown.index],
        "rows": [[_cell(item) for item in row] for row in shown.itertuples(index=False, name=None)],
        "memory": int(frame.memory_usage(deep=False).sum()),
    }


def _cell(item: Any) -> str:
    return f"{item:.6g}" if isinstance(item, float) else _cut(str(item), CELL)


def _table(value: Any) -> Json:
    """Show a frame of Polars or Arrow."""
    names = list(map(str, value.columns if hasattr(value, "dtypes") else value.column_names))
    types_ = list(value.dtypes if hasattr(value, "dtypes") else value.schema.types)
    shape = (value.shape[0], value.shape[1]) if hasattr(value, "shape") else (value.num_rows, value.num_columns)
    head = value.slice(0, ROWS).select(names[:COLUMNS])
    records = head.rows() if hasattr(head, "rows") else [tuple(row.values()) for row in head.to_pylist()]
    return {
        "kind": "frame",
        "text": f"{type(value).__name__}, {_times(shape)}",
        "shape": list(shape),
        "columns": [
            {"name": _cut(name, CELL), "type": str(kind), "missing": None}
            for name, kind in zip(names[:COLUMNS], types_[:COLUMNS], strict=True)
        ],
        "rows": [[_cell(item) for item in row] for row in records],
    }


def _array(value: Any) -> Json:
    found: Json = {
        "kind": "array",
        "text": f"{type(value).__name__}, {_times(value.shape)}, {value.dtype}",
        "shape": [int(length) for length in value.shape],
        "type": str(value.dtype),
    }
    if value.dtype.kind in "biuf" and 0 < value.size <= _COUNTED:
        import numpy as np

        with np.errstate(all="ignore"):
            low, high = value.min(), value.max()
            if low != low:  # nan: look at the rest
                finite = value[~np.isnan(value)]
                found["missing"] = int(value.size - finite.size)
                low, high = (finite.min(), finite.max()) if finite.size else (None, None)
        found["min"], found["max"] = _number(low), _number(high)
        found["first"] = [_number(item) for item in value.reshape(-1)[:ROWS]]
    return found


def _number(value: Any) -> float | int | str | bool | None:
    if value is None:
        return None
    plain: float | int | bool = value.item()
    return plain if not isinstance(plain, float) or math.isfinite(plain) else str(plain)


def _is_estimator(value: Any) -> bool:
    return (
        not isinstance(value, type)
        and callable(getattr(type(value), "get_params", None))
        and callable(getattr(type(value), "fit", None))
    )


def _estimator(value: Any) -> Json:
    parameters = {
        _cut(str(name), CELL): _cut(_Repr().repr(given), CELL * 2)
        for name, given in list(value.get_params(deep=False).items())[:COLUMNS]
    }
    fitted = sorted(name for name in vars(value) if name.endswith("_") and not name.startswith("_"))[:COLUMNS]
    return {
        "kind": "estimator",
        "text": _cut(" ".join(repr(value).split()), 200),
        "class": f"{type(value).__module__}.{type(value).__qualname__}",
        "parameters": parameters,
        "fitted": fitted,
    }


def _figure(value: Any) -> Json:
    width, height = (float(length) for length in value.get_size_inches())
    found: Json = {
        "kind": "figure",
        "text": f"Figure, {len(value.axes)} axes",
        "size": [round(width * value.dpi), round(height * value.dpi)],
    }
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas, kept_dpi = value.canvas, value.dpi
    picture = io.BytesIO()
    try:
        FigureCanvasAgg(value).print_figure(picture, format="png", dpi=max(20, min(kept_dpi, _FIGURE_WIDTH / width)))
    finally:
        value.set_canvas(canvas)
        value.dpi = kept_dpi
    if picture.tell() <= _FIGURE_BYTES:
        found["png"] = base64.b64encode(picture.getvalue()).decode("ascii")
    return found


_KINDS: tuple[tuple[Callable[[Any], bool], Callable[[Any], Json]], ...] = (
    (lambda value: isinstance(value, types.ModuleType), _module),
    (_is("pandas", "DataFrame", "Series"), _frame),
    (_is("numpy", "ndarray"), _array),
    (_is("polars", "DataFrame"), _table),
    (_is("pyarrow", "Table"), _table),
    (_is("matplotlib.figure", "Figure"), _figure),
    (_is_estimator, _estimator),
)
