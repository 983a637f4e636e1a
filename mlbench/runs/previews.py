"""What is shown of a value without loading it: plain JSON, made where the value was made.

Each preview has a `kind` (`frame`, `array`, `estimator`, `figure`, `module`, `list`, `text`, `file`, `folder`) and a
`text`, one line. A figure's has `png`, its picture in base64, which whoever keeps it keeps as an object of its own.
Nothing here raises, looks at more of a value than it must, or changes it: a preview that cannot be made is a text.
"""

from __future__ import annotations

import base64
import io
import json
import math
import re
import reprlib
import sys
import types
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from mlbench.core.records import Artifact, Json

__all__ = ["preview", "preview_file", "preview_folder", "preview_list"]

ROWS = 10
COLUMNS = 40
TEXT = 2000
CELL = 80
_FIGURE_WIDTH = 480
_FIGURE_DPI = 5
_FIGURE_BYTES = 1_000_000
"""Of a picture at most: a larger one is drawn again with half as many dots, and so on."""
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


def preview_file(name: str, size: int) -> Json:
    """Return what is shown of a file: what it is called and how large it is.

    Examples
    --------
    >>> preview_file("plots/loss.png", 12_345)["text"]
    'loss.png, 12.3 kB'
    """
    called = name.rpartition("/")[2]
    return {"kind": "file", "text": f"{called}, {_bytes(size)}", "name": called, "size": size}


def preview_folder(name: str, files: Mapping[str, int], left_out: Sequence[str] = ()) -> Json:
    """Return what is shown of a folder: its files with their sizes, and what is not kept of it.

    Examples
    --------
    >>> preview_folder("plots", {"loss.png": 1000})["text"]
    'plots, 1 file, 1.0 kB'
    """
    total = sum(files.values())
    words = [name.rpartition("/")[2], f"{len(files):,} file{'s' * (len(files) != 1)}", _bytes(total)]
    if left_out:
        words.append(f"{len(left_out):,} left out")
    return {
        "kind": "folder",
        "text": ", ".join(words),
        "name": name.rpartition("/")[2],
        "files": len(files),
        "size": total,
        "first": [[_cut(path, CELL), size] for path, size in list(files.items())[:COLUMNS]],
        "left_out": [_cut(path, CELL) for path in left_out[:ROWS]],
    }


def _bytes(size: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"


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

    def repr_bytes(self, x: bytes, level: int) -> str:  # noqa: ARG002  reprlib's signature
        return _cut(repr(x[: self.maxother]), self.maxother)

    def repr_bytearray(self, x: bytearray, level: int) -> str:  # noqa: ARG002  reprlib's signature
        return _cut(repr(x[: self.maxother]), self.maxother)

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
    note = _uncounted("missing values", "cells") if None in missing else {}
    return {
        "kind": "frame",
        **note,
        "text": f"{type(value).__name__}, {_times(value.shape)}",
        "shape": [int(length) for length in value.shape],
        "columns": columns,
        "index": [_cut(str(label), CELL) for label in shown.index],
        "rows": [[_cell(item) for item in row] for row in shown.itertuples(index=False, name=None)],
        "memory": int(frame.memory_usage(deep=False).sum()),
    }


def _cell(item: Any) -> str:
    return f"{item:.6g}" if isinstance(item, float) else _cut(str(item), CELL)


def _polars(value: Any) -> Json:
    frame = value.to_frame() if value.__class__.__name__ == "Series" else value
    head = frame.head(ROWS).select(frame.columns[:COLUMNS])
    missing = frame.select(frame.columns[:COLUMNS]).null_count().row(0) if frame.width else ()
    return _table(value, frame.shape, frame.columns, frame.dtypes, missing, head.rows(), frame.estimated_size())


def _arrow(value: Any) -> Json:
    shape, names = (value.num_rows, value.num_columns), value.schema.names
    head = value.slice(0, ROWS).select(list(range(min(COLUMNS, len(names)))))
    rows = list(zip(*(column.to_pylist() for column in head.columns), strict=True))
    missing = [column.null_count for column in value.columns[:COLUMNS]]
    return _table(value, shape, names, value.schema.types, missing, rows, value.nbytes)


def _table(
    value: Any,
    shape: tuple[int, int],
    names: Sequence[str],
    types_: Sequence[Any],
    missing: Sequence[int],
    rows: Sequence[Sequence[Any]],
    memory: int,
) -> Json:
    return {
        "kind": "frame",
        "text": f"{type(value).__name__}, {_times(shape)}",
        "shape": list(shape),
        "columns": [
            {"name": _cut(str(name), CELL), "type": _cut(str(kind), CELL), "missing": int(count)}
            for name, kind, count in zip(names[:COLUMNS], types_[:COLUMNS], missing, strict=True)
        ],
        "rows": [[_cell(item) for item in row] for row in rows],
        "memory": int(memory),
    }


def _array(value: Any) -> Json:
    if value.dtype.names is not None and value.ndim == 1:
        return _records(value)
    kind = _cut(str(value.dtype), CELL * 2)
    found: Json = {
        "kind": "array",
        "text": f"{type(value).__name__}, {_times(value.shape)}, {kind}",
        "shape": [int(length) for length in value.shape],
        "type": kind,
    }
    if value.dtype.kind in "biufmM" and value.size > _COUNTED:
        found |= _uncounted("range and missing values", "values")
    if value.dtype.kind in "mM" and 0 < value.size <= _COUNTED:
        import numpy as np

        missing = int(np.count_nonzero(np.isnat(value)))
        if missing:
            found["missing"] = missing
        # Of nothing but NaT the range is NaT.
        least, most = (np.fmin, np.fmax) if missing < value.size else (np.minimum, np.maximum)
        found["min"], found["max"] = (str(pick.reduce(value, axis=None)) for pick in (least, most))
    if value.dtype.kind in "biuf" and 0 < value.size <= _COUNTED:
        import numpy as np

        with np.errstate(all="ignore"):
            low, high = value.min(), value.max()
            if low != low:  # nan: look at the rest
                found["missing"] = int(np.count_nonzero(np.isnan(value)))
                there = found["missing"] < value.size
                low = np.fmin.reduce(value, axis=None) if there else None
                high = np.fmax.reduce(value, axis=None) if there else None
        found["min"], found["max"] = _number(low), _number(high)
        found["first"] = [_number(item) for item in value.flat[:ROWS]]  # no copy, as reshaping may be
    return found


def _records(value: Any) -> Json:
    """Show a structured array as what it is, a table."""
    names = value.dtype.names
    shown = names[:COLUMNS]
    head = value[:ROWS]
    found: Json = {
        "kind": "frame",
        "text": f"{type(value).__name__}, {len(value):,} rows of {_cut(', '.join(names), CELL)}",
        "shape": [len(value), len(names)],
        "columns": [
            {"name": _cut(name, CELL), "type": _cut(str(value.dtype[name]), CELL), "missing": _missing(value[name])}
            for name in shown
        ],
        "rows": [[_cell(row[name]) for name in shown] for row in head],
        "memory": int(value.nbytes),
    }
    return found | (_uncounted("missing values", "rows") if len(value) > _COUNTED else {})


def _uncounted(what: str, whose: str) -> Json:
    """Say what nobody has looked for, and why."""
    return {"not counted": f"{what}, since it has more than {_COUNTED:,} {whose}"}


def _missing(values: Any) -> int | None:
    """Return how many values of an array are missing, None if it has too many to be looked at."""
    import numpy as np

    if values.size > _COUNTED:
        return None
    if values.dtype.kind not in "fcmM":
        return 0
    return int(np.count_nonzero((np.isnat if values.dtype.kind in "mM" else np.isnan)(values)))


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
    last = _last_step(value)
    fitted = sorted(name for name in vars(last[1]) if name.endswith("_") and not name.startswith("_"))[:COLUMNS]
    learned = _learned(last[1])
    if learned and last[0]:
        learned = {"last step": f"{last[0]}, {type(last[1]).__qualname__}", **learned}
    return {
        "kind": "estimator",
        "text": _cut(" ".join(repr(value).split()), 200),
        "class": f"{type(value).__module__}.{type(value).__qualname__}",
        "parameters": parameters,
        "fitted": fitted,
        "learned": learned,
    }


def _last_step(value: Any) -> tuple[str, Any]:
    """Return the last step of a pipeline, and of one inside it, with its name; anything else as it is."""
    name, pipeline = "", _is("sklearn.pipeline", "Pipeline")
    while pipeline(value) and value.steps and hasattr(value.steps[-1][1], "fit"):
        name, value = str(value.steps[-1][0]), value.steps[-1][1]
    return name, value


_ASKED = (("depth", "get_depth"), ("leaves", "get_n_leaves"), ("rounds", "num_boosted_rounds"))
_LEARNED = ("n_features_in_", "classes_", "n_iter_", "intercept_", "coef_", "best_params_", "best_score_", "n_clusters")


def _learned(value: Any) -> dict[str, str]:
    """Return what a fitted estimator says of itself: coefficients, the depth of trees, the weightiest features."""
    found: dict[str, str] = {}
    for name, method in _ASKED:
        if callable(ask := getattr(value, method, None)):
            with suppress(Exception):  # it is not fitted
                found[name] = str(ask())
    trees = vars(value).get("estimators_")
    if trees is not None and hasattr(trees, "__len__"):
        found["estimators"] = f"{getattr(trees, 'size', len(trees)):,}"
    found |= {name: _short(vars(value)[name]) for name in _LEARNED if name in vars(value)}
    with suppress(Exception):  # of some kinds a property that counts or fails
        if "coef_" not in found and (weights := value.feature_importances_) is not None:
            names = vars(value).get("feature_names_in_", range(len(weights)))
            order = sorted(range(len(weights)), key=lambda place: -weights[place])[:ROWS]
            found["importances"] = ", ".join(f"{_cut(str(names[at]), 30)} {weights[at]:.3g}" for at in order)
    return found


def _short(value: Any) -> str:
    if hasattr(value, "shape") and getattr(value, "size", 0) > ROWS:
        first = ", ".join(_cell(item) for item in value.reshape(-1)[:ROWS].tolist())
        return f"{_times(value.shape)}: {first}, …"
    return _cut(" ".join(_Repr().repr(value).split()), CELL * 2)


def _booster(value: Any) -> Json:
    """Show a model of XGBoost or LightGBM in its own form."""
    if hasattr(value, "num_trees"):  # LightGBM
        facts = {"trees": value.num_trees(), "features": value.num_feature(), **dict(value.params)}
        objective = value.params.get("objective")
    else:
        facts = {"rounds": value.num_boosted_rounds(), "features": value.num_features()}
        learner = json.loads(value.save_config())["learner"]
        objective = learner["objective"]["name"]
        facts |= {"objective": objective, "booster": learner["gradient_booster"]["name"]}
        given = _with_rate(learner["gradient_booster"]) or {}
        facts |= {name: float(given[name]) for name in _TRAINED if name in given}
    count = facts.get("trees", facts.get("rounds"))
    texts = {name: f"{one:.6g}" if type(one) is float else _Repr().repr(one) for name, one in facts.items()}
    return {
        "kind": "estimator",
        "text": f"{type(value).__name__}, {count:,} rounds, {facts['features']:,} features",
        "class": f"{type(value).__module__}.{type(value).__qualname__}",
        "parameters": {_cut(str(name), CELL): _cut(text, CELL * 2) for name, text in texts.items()},
        "objective": objective if isinstance(objective, str) else None,
    }


_TRAINED = (
    *("eta", "max_depth", "max_leaves", "min_child_weight", "subsample", "colsample_bytree"),
    *("gamma", "lambda", "alpha"),
)


def _with_rate(config: Any) -> Json | None:
    """Return the part of a configuration of XGBoost that has the rate of learning: each kind has it elsewhere."""
    parts = config.values() if isinstance(config, dict) else config if isinstance(config, list) else ()
    if isinstance(config, dict) and "eta" in config:
        return config
    return next((found for part in parts if (found := _with_rate(part)) is not None), None)


def _sparse(value: Any) -> Json:
    rows = value.shape
    total = math.prod(rows)
    share = value.nnz / total if total else 0.0
    found: Json = {
        "kind": "array",
        "text": f"{type(value).__name__}, {_times(rows)}, {value.dtype}, {share:.3g} filled",
        "shape": [int(length) for length in rows],
        "type": str(value.dtype),
        "stored": int(value.nnz),
        "filled": share,
    }
    data: Any = getattr(value, "data", None)
    if hasattr(data, "dtype") and data.dtype.kind in "biuf" and 0 < data.size <= _COUNTED:
        inside = _array(data)
        found |= {name: inside[name] for name in ("min", "max", "missing") if name in inside}
    elif value.nnz > _COUNTED:
        found |= _uncounted("range and missing values", "values")
    return found


def _tensor(value: Any) -> Json:
    found: Json = {
        "kind": "array",
        "text": f"{type(value).__name__}, {_times(tuple(value.shape))}, {str(value.dtype).removeprefix('torch.')}",
        "shape": [int(length) for length in value.shape],
        "type": str(value.dtype).removeprefix("torch."),
        "device": str(value.device),
        "gradient": bool(value.requires_grad),
    }
    plain = value.detach()
    if not plain.is_sparse and not plain.is_quantized and 0 < plain.numel() <= _COUNTED and not plain.is_complex():
        low, high = plain.min().item(), plain.max().item()
        found["min"], found["max"] = (one if math.isfinite(one) else str(one) for one in (low, high))
        found["first"] = [one if math.isfinite(one) else str(one) for one in plain.flatten()[:ROWS].tolist()]
    elif plain.numel() > _COUNTED:
        found |= _uncounted("range", "values")
    return found


def _network(value: Any) -> Json:
    """Show a module of PyTorch."""
    weights = list(value.parameters())
    count = sum(one.numel() for one in weights)
    learning = sum(one.numel() for one in weights if one.requires_grad)
    layers = [f"{name or type(value).__name__}: {type(one).__name__}" for name, one in value.named_modules()][1:]
    facts = {
        "parameters": f"{count:,}",
        "trainable": f"{learning:,}",
        "types": ", ".join(sorted({str(one.dtype).removeprefix("torch.") for one in weights})),
        "devices": ", ".join(sorted({str(one.device) for one in weights})),
        "mode": "training" if value.training else "evaluation",
    }
    return {
        "kind": "estimator",
        "text": f"{type(value).__name__}, {count:,} parameters, {len(layers):,} layers",
        "class": f"{type(value).__module__}.{type(value).__qualname__}",
        "parameters": facts,
        "layers": [_cut(layer, CELL) for layer in layers[:COLUMNS]],
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
    dpi = max(20, min(kept_dpi, _FIGURE_WIDTH / width))
    try:
        while "png" not in found and dpi >= _FIGURE_DPI:
            picture = io.BytesIO()
            FigureCanvasAgg(value).print_figure(picture, format="png", dpi=dpi)
            if picture.tell() <= _FIGURE_BYTES:
                found["png"] = base64.b64encode(picture.getvalue()).decode("ascii")
            dpi /= 2
    finally:
        value.set_canvas(canvas)
        value.dpi = kept_dpi
    return found


_KINDS: tuple[tuple[Callable[[Any], bool], Callable[[Any], Json]], ...] = (
    (lambda value: isinstance(value, types.ModuleType), _module),
    (_is("pandas", "DataFrame", "Series"), _frame),
    (_is("numpy", "ndarray"), _array),
    (_is("polars", "DataFrame", "Series"), _polars),
    (_is("pyarrow", "Table", "RecordBatch"), _arrow),
    (_is("scipy.sparse", "spmatrix", "sparray"), _sparse),
    (_is("torch", "Tensor"), _tensor),
    (_is("torch.nn", "Module"), _network),
    (_is("xgboost", "Booster"), _booster),
    (_is("lightgbm", "Booster"), _booster),
    (_is("matplotlib.figure", "Figure"), _figure),
    (_is_estimator, _estimator),
)
