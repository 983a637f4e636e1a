"""What code in a step, or in a plain cell, can say about itself: metrics, tags, artifacts, progress, and where it runs.

The kernel and the step process each set one `Context`; the functions here speak to it. `mlbench` exports them.
"""

from __future__ import annotations

import math
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from mlbench.core.errors import UsageError
from mlbench.core.records import Binding, Json

__all__ = ["Context", "bindings_of", "context", "current", "enter", "log", "log_artifact", "progress", "tag"]


def _nowhere(_: Json) -> None:
    """Take news that nobody waits for: code that runs outside of a notebook may log all the same.

    In a notebook it is an oversight: a line of it is missing, and what is logged would be lost without a word.
    """
    ipython = sys.modules.get("IPython")
    if ipython is not None and ipython.get_ipython() is not None:
        warnings.warn(
            "mlbench: nothing is recorded here, since this notebook has not run `%load_ext mlbench`. "
            "Put that line into a cell above.",
            stacklevel=3,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Where code runs: which run, step, execution, item of a fan-out, attempt; all None outside of steps.

    `emit` takes the news: `{"type": "metrics" | "tags" | "artifacts" | "progress", ...}`. `keep` stores a
    value, or the file or folder at a path, under a name or its own. `reach` says how a Dask client reaches the
    cluster (`address`, `ca`, `cert`, `key`), or where the service that knows it is found (`service`).
    """

    run: str | None = None
    step: str | None = None
    execution: str | None = None
    item: int | None = None
    attempt: int | None = None
    emit: Callable[[Json], None] = field(default=_nowhere, repr=False, compare=False)
    keep: Callable[[Any, str | None], Binding] | None = field(default=None, repr=False, compare=False)
    reach: Callable[[], Json] | None = field(default=None, repr=False, compare=False)


_LONGEST: Final = 200
"""Characters of a metric's name."""

_current = Context()


def current() -> Context:
    """Return the context in which code runs now, in any thread of this process."""
    return _current


def enter(context: Context) -> Context:
    """Make a context the current one; return the one before, to go back to."""
    global _current
    before, _current = _current, context
    return before


def context() -> Context:
    """Return the run, step, execution, item and attempt of the code that asks.

    Examples
    --------
    >>> context().step is None
    True
    """
    return _current


def log(metrics: Mapping[str, Any] | None = None, /, *, step: int | None = None, **more: Any) -> None:
    """Record numbers: `mlbench.log(rmse=0.3)`, or a point of a series with `step=7`; or a dictionary of numbers.

    Raises
    ------
    UsageError
        For a value that is no number, a name of more than 200 characters, or a step of more than 64 bits.
    """
    if step is not None and (isinstance(step, bool) or not hasattr(step, "__index__")):
        raise UsageError(f"mlbench.log: step must be a whole number, not {step!r}.")
    if step is not None and not -(2**63) <= int(step) < 2**63:
        raise UsageError("mlbench.log: step must be a whole number of at most 64 bits.", "Count from 0, say.")
    points: list[Json] = []
    now = time.time_ns()
    for name, value in _named("log", "rmse=0.3", metrics, more).items():
        if len(name) > _LONGEST:
            raise UsageError(f"mlbench.log: {name[:40]!r}… has {len(name):,} characters, a name at most {_LONGEST}.")
        number = _number(f"mlbench.log: {name}", value)
        if not math.isfinite(number):
            warnings.warn(f"mlbench.log: {name} is {number} and was not recorded.", stacklevel=2)
            continue
        points.append({"name": name, "value": number, "step": None if step is None else int(step), "time": now})
    if points:
        _current.emit({"type": "metrics", "metrics": points})


def tag(tags: Mapping[str, Any] | None = None, /, **more: Any) -> None:
    """Give the execution, or in a plain cell the run, tags: `mlbench.tag(team="ops")`; or a dictionary of them."""
    named = {name: _writable(str(value)) for name, value in _named("tag", 'team="ops"', tags, more).items()}
    if named:
        _current.emit({"type": "tags", "tags": named})


def _named(of: str, example: str, given: Any, more: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was given by names, in a dictionary or as arguments."""
    if given is not None and not (isinstance(given, Mapping) and all(isinstance(name, str) for name in given)):
        raise UsageError(
            f"mlbench.{of} takes values by their names, not {type(given).__name__} {str(given)[:40]!r}.",
            f"Write mlbench.{of}({example}), or give a dictionary.",
        )
    return {_writable(name): value for name, value in {**(given or {}), **more}.items()}


def _writable(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "replace").decode()  # half of a surrogate pair


def log_artifact(value: Any, name: str | None = None) -> None:
    """Keep a file, a folder or any value beside what the step binds: `mlbench.log_artifact("report.html")`.

    Parameters
    ----------
    value
        The path of a file, which is kept as it is now; of a folder, with all files in it (links that lead out of it are
        left out); or any other value.
    name
        What it is called: by default as the file is. A value needs a name. Of several with one name the last one is
        kept.

    Raises
    ------
    UsageError
        If there is no such file, or the value cannot be stored.
    StoreError
        If the store cannot be written.
    """
    if _current.keep is None:
        _nowhere({})  # outside of a notebook there is nothing that it could belong to
        return
    from mlbench.runs.wire import msgspec

    _current.emit({"type": "artifacts", "artifacts": [msgspec.to_builtins(_current.keep(value, name))]})


def bindings_of(artifacts: Iterable[Json]) -> list[Binding]:
    """Return what the news of logged artifacts is about."""
    from mlbench.runs.wire import msgspec

    return msgspec.convert(list(artifacts), list[Binding])


def progress(done: float, total: float | None = None) -> None:
    """Say how far the work is: `mlbench.progress(i, n)`."""
    _current.emit(
        {
            "type": "progress",
            "done": _number("mlbench.progress: done", done),
            "total": None if total is None else _number("mlbench.progress: total", total),
        }
    )


def _number(what: str, value: Any) -> float:
    """Return a value as a float, also one of NumPy, pandas or torch that holds one number."""
    if not isinstance(value, (str, bytes, bool)):
        try:
            return float(value)
        except (TypeError, ValueError, OverflowError):
            pass
    raise UsageError(f"{what} must be a number, not {type(value).__name__} {str(value)[:40]!r}.")
