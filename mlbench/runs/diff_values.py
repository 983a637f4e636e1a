"""Where two values first differ: frames by rows, columns and types, arrays by place.

By their previews, which are always there, or by the values themselves where somebody has loaded them. Nothing heavy is
imported: a value's library is there already if the value is.
"""

from __future__ import annotations

import functools
import operator
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from mlbench.core.records import Artifact, Json
from mlbench.runs.files import StoredFolder
from mlbench.runs.wording import shortened, sized

__all__ = ["CODECS", "preview_changes", "short_text", "text_of", "value_changes"]

CODECS: Final = frozenset({"frame", "ndarray", "sparse", "arrow", "scalar", "folder"})
"""The codecs whose values are read without unpickling anything."""

_SHOWN: Final = 10
_MOST: Final = 60


# --- by previews ------------------------------------------------------------------------------------------------------


def preview_changes(before: Artifact, after: Artifact) -> tuple[str, ...]:
    """Say in which way two values differ, as far as their previews tell: rows, columns, types first.

    Examples
    --------
    >>> from mlbench.core.ids import Digest
    >>> def one(shape, text):
    ...     preview = {"kind": "array", "shape": shape, "type": "int64", "text": text}
    ...     return Artifact(digest=Digest(text), size=1, type="numpy.ndarray", codec="ndarray", preview=preview)
    >>> preview_changes(one([3], "a"), one([4], "b"))
    ('shape 3 to 4',)
    """
    if before.type != after.type:
        return (f"type {before.type} to {after.type}",)
    then, now = before.preview, after.preview
    kind = then.get("kind")
    found: list[str] = []
    if kind == now.get("kind") == "frame":
        found += _frame_preview(then, now)
    elif kind == now.get("kind") == "array":
        if then.get("shape") != now.get("shape"):
            found.append(f"shape {_shape(then)} to {_shape(now)}")
        found += _pairs(then, now, ("type", "stored", "min", "max", "missing", "first"))
    elif kind == now.get("kind") == "estimator":
        old, new = then.get("parameters") or {}, now.get("parameters") or {}
        names = [name for name in dict.fromkeys((*old, *new)) if old.get(name) != new.get(name)]
        found += [f"{name} {old.get(name, 'unset')} to {new.get(name, 'unset')}" for name in names]
    elif kind == now.get("kind") == "list":
        found += _pairs(then, now, ("length", "failed", "min", "max", "first"))
    elif kind == now.get("kind") == "figure":
        same = then.get("picture") is not None and then.get("picture") == now.get("picture")
        found.append("it looks the same" if same else "it looks otherwise")
    elif kind == now.get("kind") in {"file", "folder"}:
        found += _file_preview(then, now)
    elif then.get("text") != now.get("text"):
        found.append(f"{short_text(text_of(before))} to {short_text(text_of(after))}")
    if not found and before.codec == after.codec == "items":
        return ("in single items, which are named below",)
    return tuple(found) or ("the content: what is shown of it is the same",)


def _frame_preview(then: Json, now: Json) -> Iterator[str]:
    old, new = (list(side.get("shape") or ()) for side in (then, now))
    if old[:1] != new[:1] and old and new:
        yield f"rows {old[0]:,} to {new[0]:,}"
    columns = [{str(one["name"]): one for one in side.get("columns") or ()} for side in (then, now)]
    gone = [name for name in columns[0] if name not in columns[1]]
    more = [name for name in columns[1] if name not in columns[0]]
    if gone:
        yield f"columns gone: {', '.join(gone)}"
    if more:
        yield f"new columns: {', '.join(more)}"
    both = [name for name in columns[0] if name in columns[1]]
    for name in both:
        was, is_ = columns[0][name], columns[1][name]
        if was.get("type") != is_.get("type"):
            yield f"column {name}: type {was.get('type')} to {is_.get('type')}"
        elif was.get("missing") != is_.get("missing") and None not in (was.get("missing"), is_.get("missing")):
            yield f"column {name}: missing {was['missing']:,} to {is_['missing']:,}"
    places = [{name: place for place, name in enumerate(side)} for side in columns]
    for row, (one, other) in enumerate(zip(then.get("rows") or (), now.get("rows") or (), strict=False)):
        for name in both:
            cells = one[places[0][name]], other[places[1][name]]
            if cells[0] != cells[1]:
                yield f"first at row {row}, column {name}: {cells[0]} to {cells[1]}"
                return


def _file_preview(then: Json, now: Json) -> Iterator[str]:
    """Say how the size of a file or a folder differs, and which of the first files of a folder do."""
    if then.get("files") != now.get("files"):
        yield f"files {then.get('files'):,} to {now.get('files'):,}"
    old, new = ({str(path): size for path, size in side.get("first") or ()} for side in (then, now))
    if then.get("files") == len(old) and now.get("files") == len(new):
        yield from _contents(old, new)
    was, is_ = int(then["size"]), int(now["size"])
    if was == is_:
        yield "other content of the same size"
    else:
        texts = sized(was), sized(is_)
        yield f"size {texts[0]} to {texts[1]}" if texts[0] != texts[1] else f"size {was:,} to {is_:,} bytes"


def _contents(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    if gone := [path for path in before if path not in after]:
        yield f"files gone: {_listed(gone)}"
    if more := [path for path in after if path not in before]:
        yield f"new files: {_listed(more)}"
    if other := [path for path in before if path in after and before[path] != after[path]]:
        yield f"files that differ: {_listed(other)}"


def _pairs(then: Json, now: Json, names: Iterable[str]) -> Iterator[str]:
    for name in names:
        old, new = then.get(name), now.get(name)
        if old == new or (name == "first" and None in (old, new)):
            continue
        if isinstance(old, list) and isinstance(new, list):
            place = next((at for at, pair in enumerate(zip(old, new, strict=False)) if pair[0] != pair[1]), None)
            if place is not None:
                yield f"first at {place}: {old[place]} to {new[place]}"
        else:
            yield f"{name} {'none' if old is None else old} to {'none' if new is None else new}"


def _shape(preview: Json) -> str:
    return " × ".join(f"{length:,}" for length in preview.get("shape") or ()) or "one value"


def text_of(artifact: Artifact) -> str:
    """Return what is shown of a value in a line."""
    return str(artifact.preview.get("text") or artifact.type)


def short_text(text: str) -> str:
    """Return a text as the beginning of one line."""
    return shortened(text, _MOST)


# --- by the values themselves -----------------------------------------------------------------------------------------


def value_changes(before: Any, after: Any) -> tuple[str, ...]:
    """Say in which way two values differ; nothing, where this is not known of their kind.

    Examples
    --------
    >>> value_changes(3, 4), value_changes(object(), object())
    (('3 to 4',), ())
    """
    if type(before) is not type(after):
        return (f"type {_kind(before)} to {_kind(after)}",)
    if _is("pandas", "DataFrame", before):
        return tuple(_frames(before, after))
    if _is("pandas", "Series", before):
        return tuple(_frames(before.to_frame("value"), after.to_frame("value")))
    if _is("pyarrow", "Table", before):
        return tuple(_frames(before.to_pandas(), after.to_pandas()))
    if _is("numpy", "ndarray", before) or _is("numpy", "recarray", before):
        return tuple(_arrays(before, after))
    if type(before).__module__.startswith("scipy.sparse"):
        return tuple(_sparse(before, after))
    if isinstance(before, StoredFolder):
        return tuple(_contents(before.digests(), after.digests()))
    if isinstance(before, int | float | complex | str | bytes):
        return (f"{_shown(before)} to {_shown(after)}",)
    return ()


def _frames(before: Any, after: Any) -> Iterator[str]:
    if len(before) != len(after):
        yield f"rows {len(before):,} to {len(after):,}"
    old, new = list(before.columns), list(after.columns)
    if gone := [name for name in old if name not in new]:
        yield f"columns gone: {_listed(gone)}"
    if more := [name for name in new if name not in old]:
        yield f"new columns: {_listed(more)}"
    both = [name for name in old if name in new]
    if not gone and not more and old != new:
        yield f"order of columns: {_listed(old)} to {_listed(new)}"
    for name in both if before.columns.is_unique and after.columns.is_unique else ():
        kinds = before[name].dtype, after[name].dtype
        if kinds[0] != kinds[1]:
            then, now = map(str, kinds)
            yield f"column {name}: {f'type {then} to {now}' if then != now else 'other categories'}"
    if not before.columns.is_unique or not after.columns.is_unique:
        return
    rows = min(len(before), len(after))
    yield from _index(before.index[:rows], after.index[:rows])
    yield from _rows(before, after, both, rows)


def _index(before: Any, after: Any) -> Iterator[str]:
    if before.nlevels != after.nlevels:
        yield f"index: {before.nlevels} to {after.nlevels} levels"
        return
    if before.nlevels == 1:
        different = _unlike(before, after)
    else:
        levels = range(before.nlevels)
        pairs = [(before.get_level_values(level), after.get_level_values(level)) for level in levels]
        different = functools.reduce(operator.or_, (_unlike(*pair) for pair in pairs))
    if different.any():
        row = int(different.argmax())
        yield f"index: first at row {row:,}: {_shown(before[row])} to {_shown(after[row])}"


def _rows(before: Any, after: Any, columns: list[Any], rows: int) -> Iterator[str]:
    """Say at which row and column frames first differ, and in how many rows and which columns they do."""
    import numpy as np

    anywhere = np.zeros(rows, dtype=bool)
    first: tuple[int, Any] | None = None
    touched = []
    for name in columns:
        different = _unlike(before[name].iloc[:rows], after[name].iloc[:rows])
        if not different.any():
            continue
        touched.append(name)
        anywhere |= different
        row = int(different.argmax())
        if first is None or row < first[0]:
            first = row, name
    if first is None:
        return
    row, name = first
    was, is_ = _shown(before[name].iloc[row]), _shown(after[name].iloc[row])
    yield f"first at row {row:,}, column {name}: {was} to {is_}"
    yield f"{int(anywhere.sum()):,} of {rows:,} rows differ, in {_listed(touched)}"


def _unlike(before: Any, after: Any) -> Any:
    """Return where two series or indexes of one length differ; two that are missing are the same."""
    import numpy as np

    missing = np.asarray(before.isna()), np.asarray(after.isna())
    different = missing[0] != missing[1]
    both = ~(missing[0] | missing[1])
    numbers = before.dtype == after.dtype and isinstance(before.dtype, np.dtype) and before.dtype.kind in "biufcmM"
    one, other = (np.asarray(side, dtype=None if numbers else object)[both] for side in (before, after))
    try:
        different[both] = np.asarray(one != other, dtype=bool)
    except (TypeError, ValueError):  # lists and arrays in a column say of each of their items whether it is another
        different[both] = [repr(was) != repr(is_) for was, is_ in zip(one, other, strict=True)]
    return different


def _arrays(before: Any, after: Any) -> Iterator[str]:
    if before.dtype != after.dtype:
        yield f"type {before.dtype} to {after.dtype}"
    if before.shape != after.shape:
        yield f"shape {_times(before.shape)} to {_times(after.shape)}"
        return
    import numpy as np

    if before.dtype.names or after.dtype.names:
        yield from _fields(before, after)
        return
    with np.errstate(all="ignore"):
        different = np.asarray(before != after)
        if before.dtype.kind in "fc" and after.dtype.kind in "fc":
            different &= ~(np.isnan(before) & np.isnan(after))
    if different.any():
        place = np.unravel_index(int(different.argmax()), different.shape)
        where = ", ".join(str(int(one)) for one in place)
        yield f"first at [{where}]: {_shown(before[place])} to {_shown(after[place])}"
        yield f"{int(different.sum()):,} of {different.size:,} values differ"


def _fields(before: Any, after: Any) -> Iterator[str]:
    """Say of structured arrays of one shape which fields differ, and where each first does."""
    old, new = (list(side.dtype.names or ()) for side in (before, after))
    if gone := [name for name in old if name not in new]:
        yield f"fields gone: {_listed(gone)}"
    if more := [name for name in new if name not in old]:
        yield f"new fields: {_listed(more)}"
    for name in [name for name in old if name in new][:_SHOWN]:
        yield from (f"field {name}: {said}" for said in _arrays(before[name], after[name]))


def _sparse(before: Any, after: Any) -> Iterator[str]:
    """Say where sparse matrices first differ, by rows; of other than two dimensions only how full they are."""
    if before.dtype != after.dtype:
        yield f"type {before.dtype} to {after.dtype}"
    if before.shape != after.shape:
        yield f"shape {_times(before.shape)} to {_times(after.shape)}"
        return
    if before.nnz != after.nnz:
        yield f"stored values {before.nnz:,} to {after.nnz:,}"
    if len(before.shape) != 2:
        return
    import numpy as np

    sides = [sys.modules["scipy.sparse"].csr_matrix(side) for side in (before, after)]  # its items are no sparse ones
    rows, columns = (sides[0] != sides[1]).nonzero()
    if not len(rows):
        return
    old, new = (np.asarray(side[rows, columns]).reshape(-1) for side in sides)
    there = (old == old) | (new == new)  # two that are missing are the same
    rows, columns, old, new = rows[there], columns[there], old[there], new[there]
    if not len(rows):
        return
    first = int(np.lexsort((columns, rows))[0])
    was, is_ = _shown(old[first]), _shown(new[first])
    yield f"first at [{int(rows[first])}, {int(columns[first])}]: {was} to {is_}"
    yield f"{len(rows):,} of {before.shape[0] * before.shape[1]:,} values differ"


def _is(module: str, name: str, value: Any) -> bool:
    kind = getattr(sys.modules.get(module), name, None)
    return isinstance(kind, type) and type(value) is kind


def _kind(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _times(shape: tuple[int, ...]) -> str:
    return " × ".join(f"{length:,}" for length in shape) or "one value"


def _listed(names: list[Any]) -> str:
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(map(str, names[:_SHOWN])) + more


def _shown(value: Any) -> str:
    plain = tuple(map(_plain, value)) if type(value) is tuple else _plain(value)
    return short_text(f"{plain:.9g}" if isinstance(plain, float) else repr(plain))


def _plain(value: Any) -> Any:
    """Return Python's own number for one of NumPy's."""
    return value.item() if getattr(value, "shape", None) == () else value
