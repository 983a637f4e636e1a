"""What a notebook sets for everything after it, and how a step comes to have it too.

One table: an entry is a name, how its settings are read in the kernel, and how they are applied in a step's process.
An entry is read only if its library is imported already: nothing is imported to look. A library is one entry more.
"""

from __future__ import annotations

import functools
import logging
import os
import pickle
import re
import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from mlbench.core.messages import Surroundings
from mlbench.runs import modulesettings, pandasextensions, pythonsettings, torchsettings

__all__ = ["MODULES", "apply", "changed", "modules_in", "preloadable", "read", "set_in_modules", "settings_that_differ"]


@dataclass(frozen=True, slots=True)
class _Entry:
    """One thing that notebooks set: `read` returns plain data, or None for nothing to say.

    Both get the shell (IPython's, or None) besides.
    """

    name: str
    module: str
    read: Callable[[Any], Any]
    apply: Callable[[Any, Any], None]


def read(shell: Any = None) -> Surroundings:
    """Return what holds in this process, which is a kernel's.

    Parameters
    ----------
    shell
        The kernel's IPython shell; without it, nothing of IPython is read.
    """
    settings: dict[str, bytes] = {}
    for entry in _TABLE:
        if entry.module not in sys.modules:
            continue
        found = entry.read(shell)
        if found is not None:
            packed = _pack(found)
            if packed is not None:
                settings[entry.name] = packed
    return Surroundings(folder=os.getcwd(), path=tuple(sys.path), libraries=settings)


def apply(surroundings: Surroundings, shell: Any = None) -> list[str]:
    """Make it hold in this process; return a sentence for each setting that could not be made to.

    Raises
    ------
    FileNotFoundError
        If the kernel's working directory is not there.
    """
    os.chdir(surroundings.folder)
    if surroundings.path:
        sys.path[:] = surroundings.path
    sys.path[:0] = [folder for folder in surroundings.first if folder not in sys.path]
    problems: list[str] = []
    for entry in _TABLE:
        packed = surroundings.libraries.get(entry.name)
        if packed is None:
            continue
        try:
            entry.apply(pickle.loads(packed), shell)  # noqa: S301  the bytes come from this user's own kernel
        except Exception as error:  # noqa: BLE001  a setting of another version of a library must not stop the step
            if isinstance(error, ModuleNotFoundError) and error.name == entry.module:
                continue  # an environment of the step's own need not have what the kernel has
            problems.append(f"The kernel's settings of {entry.name} do not hold here: {type(error).__name__}: {error}")
    return problems


def changed(before: Surroundings, now: Surroundings, modules: Collection[str]) -> list[str]:
    """Return the names of what is set otherwise now; that libraries were imported since then changes nothing.

    Parameters
    ----------
    modules
        The names of those that were imported before.
    """
    old, new = before.libraries, now.libraries
    if old == new:
        return []
    found = [name for name, settings in new.items() if name != "logging" and old.get(name, settings) != settings]
    appeared = {name: settings for name, settings in new.items() if name != "logging" and name not in old}
    if appeared:
        found += settings_that_differ(replace(now, libraries=appeared), imported=True)
    if old.get("logging") != new.get("logging"):
        loggers = [_loggers(one.get("logging"), modules) for one in (old, new)]
        if loggers[0] != loggers[1]:
            found.append("logging")
    return found


def _loggers(packed: bytes | None, modules: Collection[str]) -> Any:
    """Return the settings of logging, without loggers of libraries that are none of `modules`."""
    settings = _PLAIN_LOGGING if packed is None else pickle.loads(packed)  # noqa: S301  packed in this very process
    known = {
        name: said
        for name, said in settings["loggers"].items()
        if (root := name.partition(".")[0]) in modules or root not in sys.modules
    }
    return {**settings, "loggers": known}


def settings_that_differ(surroundings: Surroundings, *, imported: bool = False) -> dict[str, str]:
    """Return, as texts, the settings that are not those which their library comes with.

    So that a library that was only imported changes nothing: a step's key has these. Of the filters for warnings,
    those count that a notebook is likely to set: without a message and a module, or such that a warning is an error.

    Parameters
    ----------
    imported
        Leave out what a library has here since it was imported, as a file of the user's says it (`matplotlibrc`).
    """
    found: dict[str, str] = {}
    for name, packed in surroundings.libraries.items():
        settings = pickle.loads(packed)  # noqa: S301  packed in this very process
        if name == "warnings":
            settings = [said for one in settings if (said := _plain_filter(pickle.loads(one))) is not None]  # noqa: S301
            plain: Any = [said for one in _FILTERS_AT_START if (said := _plain_filter(one)) is not None]
            if settings != plain:
                found[name] = repr(settings)
            continue
        plain = _settings_at_first(name, imported=imported)
        if isinstance(settings, dict):
            settings = {key: one for key, one in settings.items() if key not in plain or not _equal(one, plain[key])}
        if settings:
            found[name] = repr(sorted(settings.items()) if isinstance(settings, dict) else settings)
    return found


def modules_in(surroundings: Surroundings) -> tuple[str, ...]:
    """Return the modules that are imported in a step because of what surrounds it."""
    packed = surroundings.libraries.get(_EXTENSIONS)
    return () if packed is None else pandasextensions.modules_in(pickle.loads(packed))  # noqa: S301  packed here


def set_in_modules(surroundings: Surroundings) -> dict[str, str]:
    """Return, as texts, what is set in modules, by module: it counts for the steps that use the module."""
    packed = surroundings.libraries.get(MODULES)
    settings = {} if packed is None else pickle.loads(packed)  # noqa: S301  packed in this very process
    return {name: repr(sorted(values.items())) for name, values in settings.items()}


def _plain_filter(entry: tuple[Any, ...]) -> tuple[str, str] | None:
    action, message, category, module, line = entry
    if action != "error" and (message is not None or module is not None or line or category.__module__ != "builtins"):
        return None
    return str(action), f"{category.__module__}.{category.__qualname__} {getattr(message, 'pattern', message) or ''}"


_FILTERS_AT_START: Final = tuple(warnings.filters)


def _settings_at_first(name: str, *, imported: bool) -> Mapping[str, Any]:
    """Return the settings with which a library comes, as `read` packs them."""
    if name == "matplotlib":
        matplotlib = sys.modules["matplotlib"]
        return dict(matplotlib.rcParamsOrig if imported else matplotlib.rcParamsDefault)
    if name == "numpy":
        return {"print": _packed_each(_NUMPY_PRINTS), "errors": _NUMPY_ERRORS}
    if name == "sklearn":  # what a thread begins with, whatever this one has set
        return dict(getattr(sys.modules.get("sklearn._config"), "_global_config", {}))
    return _AT_FIRST.get(name, {})


_NUMPY_ERRORS: Final = {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"}
_NUMPY_PRINTS: Final[dict[str, Any]] = {
    "edgeitems": 3,
    "threshold": 1000,
    "floatmode": "maxprec",
    "precision": 8,
    "suppress": False,
    "linewidth": 75,
    "nanstr": "nan",
    "infstr": "inf",
    "sign": "-",
    "formatter": None,
    "legacy": False,
    "override_repr": None,
}
_AT_FIRST: Final[dict[str, Mapping[str, Any]]] = {
    "python": pythonsettings.PYTHON,
    "decimal": pythonsettings.DECIMAL,
    "torch": torchsettings.TORCH,
    "pandas extensions": {"accessors": [], "progress": None},
    "inline": {
        "figure_formats": ["png"],
        "print_figure_kwargs": {"bbox_inches": "tight"},
        "close_figures": True,
        "rc": {},
    },
}


_PRELOADABLE: Final = frozenset(
    {
        "IPython",
        "PIL",
        "aiobotocore",
        "aiohttp",
        "altair",
        "botocore",
        "bs4",
        "cycler",
        "dateutil",
        "fsspec",
        "imageio",
        "joblib",
        "matplotlib",
        "matplotlib_inline",
        "networkx",
        "nltk",
        "numexpr",
        "numpy",
        "openpyxl",
        "pandas",
        "patsy",
        "plotly",
        "pyarrow",
        "requests",
        "s3fs",
        "scipy",
        "seaborn",
        "shapely",
        "skimage",
        "sklearn",
        "statsmodels",
        "sympy",
        "tabulate",
        "tqdm",
        "yaml",
    }
)
"""Safe to have imported before a fork: no threads of their own, no device, no connection."""

_NOT_SAFE: Final = frozenset({"matplotlib.testing", "numpy.f2py", "numpy.testing", "pandas.testing", "pyarrow.flight"})


def preloadable(modules: Iterable[str] | None = None) -> tuple[str, ...]:
    """Return those of the modules given, else of the imported ones, that may be imported before a fork.

    Examples
    --------
    >>> preloadable(["numpy", "sklearn.ensemble", "sklearn.ensemble._forest", "torch", "helpers"])
    ('numpy', 'sklearn.ensemble')
    """
    if modules is None:
        imported = list(sys.modules)
        return _preloadable(len(imported), imported[-1])
    wanted = []
    for name in modules:
        root, _, rest = name.partition(".")
        if root in _PRELOADABLE and "." not in rest and not rest.startswith("_") and name not in _NOT_SAFE:
            wanted.append(name)
    return tuple(sorted(wanted))


@functools.lru_cache(maxsize=1)
def _preloadable(count: int, last: str) -> tuple[str, ...]:  # noqa: ARG001  what changes when something is imported
    return preloadable(list(sys.modules))


def _pack(settings: Any) -> bytes | None:
    """Pickle settings: with the standard pickle where it can, whose bytes are the same in every process."""
    try:
        return pickle.dumps(settings, protocol=5)
    except Exception:  # noqa: BLE001  functions of the notebook, such as a formatter, take the longer way
        import cloudpickle

        try:
            return bytes(cloudpickle.dumps(settings, protocol=5))
        except Exception:  # noqa: BLE001  a setting that holds a connection or the like stays where it is
            return None


def _packed_each(settings: Mapping[str, Any]) -> dict[str, bytes]:
    """Pickle each setting by itself, so that one that can't be sent, or read there, costs only itself."""
    return {name: packed for name, value in settings.items() if (packed := _pack(value)) is not None}


def _unpacked_each(settings: Mapping[str, bytes]) -> dict[str, Any]:
    values = {}
    for name, packed in settings.items():
        try:
            values[name] = pickle.loads(packed)  # noqa: S301  the bytes come from this user's own kernel
        except Exception:  # noqa: BLE001  a class that this process does not have
            _log.debug("Setting %s can't be read here", name, exc_info=True)
    return values


_log = logging.getLogger(__name__)


# The standard library.


def _read_warnings(_: Any) -> Any:
    return [packed for one in warnings.filters if (packed := _pack(one)) is not None]


def _apply_warnings(filters: list[bytes], _: Any) -> None:
    known = []
    for packed in filters:
        try:
            known.append(pickle.loads(packed))  # noqa: S301  the bytes come from this user's own kernel
        except Exception:  # noqa: BLE001  the category is a class that this process does not have
            _log.debug("A warnings filter can't be read here", exc_info=True)
    warnings.resetwarnings()
    warnings.filters[:] = known  # type: ignore[index]  # typeshed says Sequence; it is a list


_KERNEL_LOGGERS: Final = re.compile(
    r"(traitlets|ipykernel|IPKernelApp|IPython|asyncio|tornado|zmq|parso|jedi|mlbench|distributed|comm|concurrent)(\.|$)"
)


def _read_logging(_: Any) -> Any:
    loggers: dict[str, Any] = {}
    for name, logger in sorted(logging.Logger.manager.loggerDict.items()):
        if not isinstance(logger, logging.Logger) or _KERNEL_LOGGERS.match(name):
            continue
        said = _read_logger(logger)
        if said != _PLAIN_LOGGER:
            loggers[name] = said
    settings = {"root": _read_logger(logging.root), "loggers": loggers, "disable": logging.root.manager.disable}
    return None if settings == _PLAIN_LOGGING else settings


_PLAIN_LOGGER: Final = {"level": logging.NOTSET, "propagate": True, "disabled": False, "handlers": []}
_PLAIN_LOGGING: Final[dict[str, Any]] = {
    "root": {**_PLAIN_LOGGER, "level": logging.WARNING},
    "loggers": {},
    "disable": 0,
}


def _read_logger(logger: logging.Logger) -> dict[str, Any]:
    handlers = [said for handler in logger.handlers if (said := _read_handler(handler)) is not None]
    return {"level": logger.level, "propagate": logger.propagate, "disabled": logger.disabled, "handlers": handlers}


def _read_handler(handler: logging.Handler) -> dict[str, Any] | None:
    """Return a handler's settings if it writes to a standard stream or to a file, None for any other kind."""
    if type(handler) is logging.StreamHandler:
        stream = getattr(handler.stream, "name", None)
        target = "stdout" if handler.stream is sys.stdout or stream in ("stdout", "<stdout>") else "stderr"
        standard = handler.stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
        if not standard and stream not in ("stdout", "stderr", "<stdout>", "<stderr>"):
            return None
    elif type(handler) is logging.FileHandler:
        target = handler.baseFilename
    else:
        return None
    formatter = handler.formatter
    said: dict[str, Any] = {"target": target, "level": handler.level}
    if formatter is not None:
        style = _STYLES.get(type(formatter._style).__name__, "%")
        said["format"] = (formatter._fmt, formatter.datefmt, style)
    return said


_STYLES: Final = {"PercentStyle": "%", "StrFormatStyle": "{", "StringTemplateStyle": "$"}


def _apply_logging(settings: dict[str, Any], _: Any) -> None:
    logging.disable(settings["disable"])
    _apply_logger(logging.root, settings["root"])
    for name, said in settings["loggers"].items():
        _apply_logger(logging.getLogger(name), said)


def _apply_logger(logger: logging.Logger, said: Mapping[str, Any]) -> None:
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
    for one in said["handlers"]:
        target = one["target"]
        handler = (
            logging.StreamHandler(getattr(sys, target))
            if target in ("stdout", "stderr")
            else logging.FileHandler(target, delay=True)
        )
        handler.setLevel(one["level"])
        if "format" in one:
            text, dates, style = one["format"]
            handler.setFormatter(logging.Formatter(text, dates, style))
        logger.addHandler(handler)
    logger.setLevel(said["level"])
    logger.propagate = said["propagate"]
    logger.disabled = said["disabled"]


# IPython, and figures under cells.

_OWN_EXTENSIONS: Final = frozenset({"mlbench", "storemagic", "IPython.extensions.storemagic"})


def _read_ipython(shell: Any) -> Any:
    if shell is None:
        return None
    plain = shell.display_formatter.formatters["text/plain"]
    loaded = shell.extension_manager.loaded
    return {
        "extensions": sorted(name for name in loaded if name not in _OWN_EXTENSIONS),
        "interactivity": shell.ast_node_interactivity,
        "precision": plain.float_precision,
        "pretty": plain.pprint,
        "xmode": shell.InteractiveTB.mode,
    }


def _apply_ipython(settings: dict[str, Any], shell: Any) -> None:
    if shell is None:
        return
    shell.ast_node_interactivity = settings["interactivity"]
    plain = shell.display_formatter.formatters["text/plain"]
    if settings["precision"]:
        plain.float_precision = settings["precision"]
    plain.pprint = settings["pretty"]
    if shell.InteractiveTB.mode != settings["xmode"]:
        shell.InteractiveTB.set_mode(settings["xmode"])
    for name in settings["extensions"]:
        if name not in shell.extension_manager.loaded:
            shell.extension_manager.load_extension(name)


_INLINE: Final = ("figure_formats", "print_figure_kwargs", "close_figures", "rc")


def _inline_backend(shell: Any) -> Any:
    from matplotlib_inline.config import InlineBackend

    return InlineBackend.instance(parent=shell)


def _read_inline(shell: Any) -> Any:
    if shell is None or not ("matplotlib_inline.config" in sys.modules or "InlineBackend" in shell.config):
        return None  # `%config InlineBackend.…` is kept by the shell until there is such a thing
    backend = _inline_backend(shell)
    settings: dict[str, Any] = {name: getattr(backend, name) for name in _INLINE}
    settings["figure_formats"] = sorted(settings["figure_formats"])
    return settings


def _apply_inline(settings: dict[str, Any], shell: Any) -> None:
    if shell is None:
        return
    from IPython.core import pylabtools

    backend = _inline_backend(shell)
    if settings == _read_inline(shell) and _is_inline(shell):
        return
    for name in _INLINE:
        setattr(backend, name, set(settings[name]) if name == "figure_formats" else settings[name])
    select: Any = pylabtools.select_figure_formats
    select(shell, settings["figure_formats"], **settings["print_figure_kwargs"])


# Libraries that notebooks configure globally.

_BACKENDS: Final = frozenset(
    {
        "backend",
        "backend_fallback",
        "interactive",
        "toolbar",
        "timezone",
        "webagg.port",
        "webagg.address",
        "webagg.open_in_browser",
        "webagg.port_retries",
        "savefig.directory",
        "tk.window_focus",
        "docstring.hardcopy",
        "date.epoch",
    }
)


def _read_matplotlib(_: Any) -> Any:
    settings: Any = sys.modules["matplotlib"].rcParams
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            name: dict.__getitem__(settings, name) for name in sorted(dict.__iter__(settings)) if name not in _BACKENDS
        }


def _apply_matplotlib(settings: dict[str, Any], shell: Any) -> None:
    import matplotlib

    known: Any = matplotlib.rcParams
    if shell is not None and not _is_inline(shell):
        # Activated first: it brings settings of its own, over which the kernel's then hold.
        shell.enable_matplotlib("inline")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        known.update(
            {
                name: value
                for name, value in settings.items()
                if dict.__contains__(known, name) and not _equal(dict.__getitem__(known, name), value)
            }
        )


def _is_inline(shell: Any) -> bool:
    """Say whether figures appear under cells already, as in a process that was forked from one that has seen to it."""
    backend = sys.modules.get("matplotlib_inline.backend_inline")
    return backend is not None and backend.flush_figures in shell.events.callbacks["post_execute"]


def _equal(one: Any, other: Any) -> bool:
    try:
        return type(one) is type(other) and bool(one == other)
    except Exception:  # noqa: BLE001  arrays and the like: set anew
        return False


def _read_pandas(_: Any) -> Any:
    config: Any = sys.modules["pandas._config.config"]
    changed = {}
    for name, option in config._registered_options.items():
        options, last = config._get_root(name)  # there are many, and `get_option` finds out each time which is meant
        value = options[last]
        if value is not option.defval and value != option.defval:
            changed[name] = value
    return _packed_each(changed)


def _apply_pandas(settings: dict[str, bytes], _: Any) -> None:
    import pandas as pd

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, value in _unpacked_each(settings).items():
            pd.set_option(name, value)


def _read_numpy(_: Any) -> Any:
    numpy = sys.modules["numpy"]
    return {"print": _packed_each(numpy.get_printoptions()), "errors": dict(numpy.geterr())}


def _apply_numpy(settings: dict[str, Any], _: Any) -> None:
    import numpy as np

    options = _unpacked_each(settings["print"])
    options.pop("override_repr", None)
    np.set_printoptions(**options)
    np.seterr(**settings["errors"])


def _read_sklearn(_: Any) -> Any:
    return sys.modules["sklearn"].get_config()


def _apply_sklearn(settings: dict[str, Any], _: Any) -> None:
    import sklearn

    known = sklearn.get_config()
    sklearn.set_config(**{name: value for name, value in settings.items() if name in known})


_EXTENSIONS: Final = "pandas extensions"
MODULES: Final = "modules"
"""The entry of what is set in modules of whatever origin."""
_TABLE: Final = (
    _Entry("python", "sys", pythonsettings.read, pythonsettings.apply),
    _Entry("decimal", "decimal", pythonsettings.read_decimal, pythonsettings.apply_decimal),
    _Entry("warnings", "warnings", _read_warnings, _apply_warnings),
    _Entry("logging", "logging", _read_logging, _apply_logging),
    _Entry("ipython", "IPython", _read_ipython, _apply_ipython),
    _Entry("matplotlib", "matplotlib", _read_matplotlib, _apply_matplotlib),
    _Entry("inline", "IPython", _read_inline, _apply_inline),
    _Entry("pandas", "pandas", _read_pandas, _apply_pandas),
    _Entry("numpy", "numpy", _read_numpy, _apply_numpy),
    _Entry("sklearn", "sklearn", _read_sklearn, _apply_sklearn),
    _Entry(_EXTENSIONS, "pandas", pandasextensions.read, pandasextensions.apply),
    _Entry("torch", "torch", torchsettings.read, torchsettings.apply),
    _Entry(MODULES, "sys", modulesettings.read, modulesettings.apply),
)
"""In the order in which they are applied."""
