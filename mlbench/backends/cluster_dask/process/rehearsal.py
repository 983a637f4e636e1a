"""What the libraries of a notebook load and touch when they are first used, done before a step needs it.

Importing is not all: fonts are looked up with the first figure, adapters of frames are imported with the first model.
And the memory of a forked process is its server's until it is written to; copying it, page after page, takes a step
longer than its own work may. So a server uses each library once before it forks, and a process that waits for its
step does so again. Only libraries that are imported are used, and nothing comes of it.
"""

from __future__ import annotations

import io
import logging
import sys
import warnings
from collections.abc import Callable
from typing import Any, Final

__all__ = ["use_libraries"]

_log = logging.getLogger(__name__)


def use_libraries() -> None:
    """Use each library a little, if it is imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for modules, use in _USES:
            found: list[Any] = [sys.modules.get(name) for name in modules]
            if all(found):
                try:
                    use(*found)
                except Exception:  # noqa: BLE001  another version of it: the step finds it as cold as it was
                    _log.debug("%s could not be used ahead", modules[0], exc_info=True)


def _use_numpy(numpy: Any) -> None:
    numpy.random.default_rng(0).normal(size=(4, 2)).sum(axis=0)


def _use_pandas(pandas: Any) -> None:
    frame = _frame(pandas)
    frame.assign(sum=frame["a"] + frame["b"])[["a", "sum"]].head()._repr_html_()


def _use_models(validation: Any, base: Any, pandas: Any) -> None:
    frame = _frame(pandas)
    validation.validate_data(base.BaseEstimator(), frame[["a", "b"]], frame["a"])


def _use_figures(figure: Any, agg: Any) -> None:
    drawn = figure.Figure(figsize=(1, 1))
    axes = drawn.subplots()
    axes.set_title("a")
    axes.scatter([1, 2], [1, 2])
    axes.plot([1, 2], [1, 2])
    agg.FigureCanvasAgg(drawn).print_png(io.BytesIO())


def _frame(pandas: Any) -> Any:
    return pandas.DataFrame({"a": [1.0, 2.0], "b": [2.0, 3.0], "c": ["x", "y"]})


_USES: Final[tuple[tuple[tuple[str, ...], Callable[..., None]], ...]] = (
    (("numpy",), _use_numpy),
    (("pandas",), _use_pandas),
    (("sklearn.utils.validation", "sklearn.base", "pandas"), _use_models),
    (("matplotlib.figure", "matplotlib.backends.backend_agg"), _use_figures),
)
