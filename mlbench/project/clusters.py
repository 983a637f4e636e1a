"""Which cluster steps run on: `[tool.mlbench.clusters.NAME]`, an address, or this machine. Light: kernels import it.

A configured cluster is a class by name with its arguments, or an address; `cluster = "NAME"` makes it the default::

    [tool.mlbench]
    cluster = "big"

    [tool.mlbench.clusters.big]
    factory = "dask_jobqueue.SLURMCluster"
    kwargs = {queue = "long", cores = 8, memory = "32GB"}
    adapt = {minimum = 0, maximum = 20}
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from mlbench.core.errors import UsageError
from mlbench.core.messages import ClusterChoice, Tls
from mlbench.project.configuration import settings_above

__all__ = ["ADDRESS", "choose", "configured", "default_cluster"]

ADDRESS: Final = re.compile(r"(tcp|tls|ws|wss|ucx)://[^/\s]+:\d+/?")
"""What the address of a Dask scheduler looks like."""

_SETTINGS: Final = ("factory", "args", "kwargs", "workers", "adapt", "address", "tls")
_FILES: Final = ("ca_file", "cert", "key")


def default_cluster(notebook: str | None = None) -> ClusterChoice:
    """Return where a notebook's steps run if nobody chooses: the configuration's `cluster`, else this machine.

    Raises
    ------
    UsageError
        If the configuration names a cluster that it does not have, or describes one wrongly.
    """
    for file, settings in settings_above(_folder(notebook)):
        if "cluster" in settings:
            return choose(settings["cluster"], notebook, source=f"{file} names it.")
    return ClusterChoice()


def configured(notebook: str | None = None) -> dict[str, ClusterChoice]:
    """Return the clusters that the configuration describes, by name; of two with one name the nearest counts.

    Raises
    ------
    UsageError
        If one is described wrongly.
    """
    found: dict[str, ClusterChoice] = {}
    for file, settings in settings_above(_folder(notebook)):
        tables = settings.get("clusters", {})
        if not isinstance(tables, dict):
            raise UsageError(f"{file}: clusters is not a table.", "Write [tool.mlbench.clusters.NAME].")
        for name, table in tables.items():
            if name not in found:
                found[name] = _read(file, name, table)
    return found


def choose(
    text: Any, notebook: str | None = None, *, tls: Tls | None = None, source: str | None = None
) -> ClusterChoice:
    """Return the cluster that a text means: `local`, the address of a scheduler, or a configured name.

    Parameters
    ----------
    tls
        Files for a `tls://` address; without them Dask's own configuration says which.

    Raises
    ------
    UsageError
        If there is no such cluster.
    """
    if not isinstance(text, str) or not text.strip():
        raise UsageError(f"A cluster is named by a text, not by {text!r}.")
    text = text.strip()
    if "://" in text:
        if not ADDRESS.fullmatch(text):
            raise UsageError(f"{text!r} is not the address of a Dask scheduler.", "One is tcp://10.0.0.5:8786, say.")
        secure = text.startswith(("tls://", "wss://"))
        if tls is not None and not secure:
            raise UsageError(f"{text} does not speak TLS, so it takes no certificates.", "Is it tls://…?")
        found = tls or (_dasks_own() if secure else None)
        return ClusterChoice(name=text, address=text, tls=_checked(found), source=source)
    if tls is not None:
        raise UsageError(
            f"Certificates go with an address, not with the name {text}.", "Put them in its configuration."
        )
    if text == "local":
        return ClusterChoice(source=source)
    known = configured(notebook)
    if text not in known:
        near = get_close_matches(text, [*known, "local"], 1)
        there = f"There are: {', '.join(['local', *known])}."
        raise UsageError(f"There is no cluster {text}.", f"Did you mean {near[0]}? {there}" if near else there)
    return known[text]


def _folder(notebook: str | None) -> Path:
    return Path(os.path.abspath(notebook)).parent if notebook else Path.cwd()


def _read(file: Path, name: str, table: Any) -> ClusterChoice:
    where = f"{file}: the cluster {name}"
    if name == "local" or not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
        raise UsageError(f"{where} can't be called that.", "Use letters, digits, - and _, and not the name local.")
    if not isinstance(table, dict):
        raise UsageError(f"{where} is not a table.", f"Write [tool.mlbench.clusters.{name}].")
    for setting in table:
        if setting not in _SETTINGS:
            near = get_close_matches(setting, _SETTINGS, 1)
            hint = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(_SETTINGS)}."
            raise UsageError(f"{where} has the setting {setting!r}, which does not exist.", hint)
    factory, address = table.get("factory"), table.get("address")
    if (factory is None) == (address is None):
        raise UsageError(f"{where} needs either `factory` (a class) or `address` (a scheduler).")
    if factory is not None and not (isinstance(factory, str) and re.fullmatch(r"[\w.]+[.:]\w+", factory)):
        raise UsageError(f"{where} has the factory {factory!r}.", 'Write it as "module.Class".')
    if address is not None and not (isinstance(address, str) and ADDRESS.fullmatch(address)):
        raise UsageError(f"{where} has the address {address!r}.", "One is tcp://10.0.0.5:8786, say.")
    only = ("tls",) if factory is not None else ("args", "kwargs", "workers", "adapt")
    for setting in only:
        if setting in table:
            of = "an address" if factory is not None else "a factory"
            raise UsageError(f"{where} has `{setting}`, which goes with {of}.")
    tls = _files(where, file.parent, table["tls"]) if "tls" in table else None
    if tls is None and isinstance(address, str) and address.startswith(("tls://", "wss://")):
        tls = _dasks_own()
    return ClusterChoice(
        name=name,
        address=address,
        tls=_checked(tls),
        factory=factory,
        args=tuple(_of(where, table, "args", list) or ()),
        kwargs=_of(where, table, "kwargs", dict) or {},
        workers=_count(where, "workers", table.get("workers")),
        adapt=_adapt(where, table),
        source=f"{file} describes it.",
    )


def _of(where: str, table: Mapping[str, Any], setting: str, kind: type) -> Any:
    value = table.get(setting)
    if value is not None and not isinstance(value, kind):
        raise UsageError(f"{where}: {setting} is not {'an array' if kind is list else 'a table'}.")
    return value


def _count(where: str, setting: str, value: Any) -> int | None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
        raise UsageError(f"{where}: {setting} is {value!r}, not a number of workers.")
    return value


def _adapt(where: str, table: Mapping[str, Any]) -> dict[str, int] | None:
    adapt = _of(where, table, "adapt", dict)
    if adapt is None:
        return None
    if "workers" in table:
        raise UsageError(f"{where} has both `workers` and `adapt`.", "Say how many, or between which numbers.")
    for name, value in adapt.items():
        if name not in ("minimum", "maximum"):
            raise UsageError(f"{where}: adapt has {name!r}.", "It has `minimum` and `maximum`.")
        _count(where, f"adapt.{name}", value)
    return dict(adapt)


def _files(where: str, folder: Path, table: Any) -> Tls:
    if not isinstance(table, dict) or sorted(table) != sorted(_FILES) or not all(map(_is_text, table.values())):
        raise UsageError(f"{where}: tls is not a table of `ca_file`, `cert` and `key`, each a path.")
    return Tls(**{name: os.path.abspath(folder / Path(table[name]).expanduser()) for name in _FILES})


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _dasks_own() -> Tls | None:
    """Return the files that Dask's own configuration names for clients, if it names all."""
    import dask.config

    named = {
        "ca_file": dask.config.get("distributed.comm.tls.ca-file", None),
        "cert": dask.config.get("distributed.comm.tls.client.cert", None),
        "key": dask.config.get("distributed.comm.tls.client.key", None),
    }
    named["key"] = named["key"] or named["cert"]  # one file may hold both
    if not all(map(_is_text, named.values())):
        return None
    return Tls(**{name: os.path.abspath(os.path.expanduser(path)) for name, path in named.items()})


def _checked(tls: Tls | None) -> Tls | None:
    for path in (tls.ca_file, tls.cert, tls.key) if tls is not None else ():
        if not os.access(path, os.R_OK):
            raise UsageError(f"The certificate {path} can't be read.", "Name the files with their paths.")
    return tls
