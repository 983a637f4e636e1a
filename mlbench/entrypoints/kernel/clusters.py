"""`%cluster`: on which cluster this kernel's steps run, and what goes there with them."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Protocol

from IPython.core.magic import Magics, line_magic, magics_class

from mlbench.core.errors import UsageError
from mlbench.core.ids import Digest
from mlbench.core.messages import ClusterChoice, Surroundings, Tls
from mlbench.core.records import Json
from mlbench.entrypoints.kernel.sources import file_of, modules_of

__all__ = ["ClusterMagics", "Clusters", "describe"]

_VERBS: Final = ("start", "scale", "stop")
_OPENING_SECONDS: Final = 600.0
"""How long a cluster's class may take to make it."""
_AGAIN: Final = 6 * 3600
"""Seconds after which a module's file is kept anew."""


class Service(Protocol):
    """The service's client, as far as it is needed here."""

    def request(self, op: str, body: Any = None, *, timeout: float | None = 60.0) -> Any: ...


class Clusters:
    """The choice of one kernel, which holds for its further steps.

    Parameters
    ----------
    notebook
        Its path, beside which the configuration is looked for.
    service
        Returns the service.
    keep
        Keeps bytes in the store and returns their digest.
    """

    def __init__(self, notebook: str | None, service: Callable[[], Service], keep: Callable[[bytes], Digest]) -> None:
        self._notebook = notebook
        self._service = service
        self._keep = keep
        self._chosen: ClusterChoice | None = None
        self._default: ClusterChoice | None = None
        self._kept: dict[tuple[str, int, int, int], Digest] = {}
        self._imported: set[str] = set()
        self._at_start = _variables_at_start()

    def choice(self) -> ClusterChoice:
        """Return where steps run: what was chosen, else the configuration's default, else this machine."""
        if self._chosen is not None:
            return self._chosen
        if self._default is None:
            from mlbench.project.clusters import default_cluster

            self._default = self._with_versions(default_cluster(self._notebook))
        return self._default

    def given(self, imports: Iterable[str], surroundings: Surroundings) -> Json:
        """Return what a step is handed over with, as fields of its submission: nothing on this machine.

        Parameters
        ----------
        imports
            Modules that the step's cell imports.
        """
        self._imported.update(imports)
        choice = self.choice()
        if choice.kind == "local":
            return {}
        changed = [name for name, value in os.environ.items() if self._at_start.get(name) != value]
        return {
            "cluster": choice,
            "modules": self._modules([surroundings.folder, *surroundings.path]),
            "changed_variables": tuple(sorted(changed)),
        }

    def reach(self) -> Json:
        """Say how a Dask client in a plain cell reaches the cluster."""
        from mlbench.project.client import wanted

        body = {**wanted(), "choice": self.choice()}
        found: Json = self._service().request("client", body, timeout=_OPENING_SECONDS)
        return found

    def ask(self, line: str) -> Json:
        """Do what a `%cluster` line says; return what the cluster then is."""
        words = line.split()
        verb = words[0] if words and words[0] in _VERBS else "use" if words else "show"
        if verb == "show":
            return self._verb("show", self.choice())
        if verb == "use":
            choice = self._read_choice(words)
            found = self._verb("use", choice)
            self._chosen = choice
            return found
        body: Json = {}
        rest = words[1:]
        if verb == "stop" and rest == ["--force"]:
            body["force"] = True
        elif verb == "scale":
            if len(rest) != 1 or not rest[0].isdigit():
                raise UsageError("%cluster scale takes a number of workers.")
            body["workers"] = int(rest[0])
        elif rest:
            raise UsageError(f"%cluster {verb} takes {'--force or ' if verb == 'stop' else ''}nothing.")
        return self._verb(verb, self.choice(), **body)

    def _read_choice(self, words: list[str]) -> ClusterChoice:
        from mlbench.project.clusters import choose

        name, *options = words
        if name.startswith("-") or len(options) % 2 or any(option not in _TLS for option in options[::2]):
            raise UsageError(
                f"%cluster {' '.join(words)} is not understood.",
                "Usage: %cluster [start | scale N | stop [--force] | local | NAME | "
                "tcp://HOST:PORT | tls://HOST:PORT [--tls-ca FILE --tls-cert FILE --tls-key FILE]]",
            )
        pairs = zip(options[::2], options[1::2], strict=True)
        files = {_TLS[option]: os.path.abspath(os.path.expanduser(path)) for option, path in pairs}
        if files and len(files) < len(_TLS):
            raise UsageError("Of --tls-ca, --tls-cert and --tls-key one is missing.", "TLS needs all three.")
        choice = choose(name, self._notebook, tls=Tls(**files) if files else None, source="%cluster chose it.")
        return self._with_versions(choice)

    def _with_versions(self, choice: ClusterChoice) -> ClusterChoice:
        if choice.kind == "local":
            return choice
        from mlbench.backends.cluster_dask.versions import installed

        return replace(choice, versions=installed())

    def _verb(self, verb: str, choice: ClusterChoice, **more: Any) -> Json:
        body = {"verb": verb, "choice": choice, **more}
        found: Json = self._service().request("cluster", body, timeout=_OPENING_SECONDS)
        return found

    def _modules(self, folders: Iterable[str]) -> dict[str, Digest]:
        """Keep the modules beside the notebook that are imported here, or by steps, and what they import in turn."""
        roots = [Path(one).resolve() for one in dict.fromkeys(folders) if one]
        near = tuple(f"{root}{os.sep}" for root in roots)
        loaded = [
            name
            for name, module in list(sys.modules.items())
            if str(getattr(module, "__file__", None) or "").startswith(near) and name != "__main__"
        ]
        found: dict[str, Digest] = {}
        for name in modules_of([*loaded, *self._imported], map(os.fspath, roots)).local:
            path = file_of(name, roots)
            if path is None:
                continue
            state = path.stat()
            # Once in a while anew: what no record names is freed from the store after a day.
            known = (os.fspath(path), state.st_mtime_ns, state.st_size, int(time.time()) // _AGAIN)
            if known not in self._kept:
                self._kept[known] = self._keep(path.read_bytes())
            package = path.name == "__init__.py"
            found["/".join(name.split(".")) + ("/__init__.py" if package else ".py")] = self._kept[known]
        return found


_TLS: Final[Mapping[str, str]] = {"--tls-ca": "ca_file", "--tls-cert": "cert", "--tls-key": "key"}


@lru_cache(maxsize=1)
def _variables_at_start() -> Mapping[str, str]:
    """Return the environment that this process was started with; where that is not known, the present one."""
    try:
        with open("/proc/self/environ", "rb") as file:
            lines = file.read().split(b"\0")
    except OSError:
        return dict(os.environ)
    pairs = (os.fsdecode(line).partition("=") for line in lines if line)
    return {name: value for name, _, value in pairs}


def describe(facts: Json) -> str:
    """Return what a cluster is and has, as text.

    Examples
    --------
    >>> print(describe({"name": "local", "kind": "local", "running": False, "workers": [], "under_way": []}))
    Cluster local (this machine) is not running: it starts with the first step.
    """
    kind, name = facts["kind"], facts["name"]
    what = {"local": "this machine", "address": "run by somebody else", "factory": facts.get("factory")}[kind]
    if not facts["running"]:
        how = "connected: the first step connects" if kind == "address" else "running: it starts with the first step"
        return f"Cluster {name} ({what}) is not {how}."
    lines = [f"Cluster {name} ({what})" + (f" at {facts['address']}" if facts["address"] != name else "")]
    if facts.get("dashboard"):
        lines.append(f"Dashboard: {facts['dashboard']}")
    rows = [("worker", "threads", "memory", "resources", "steps")]
    for one in facts["workers"]:
        memory = f"{one['memory'] / 1e9:.1f} GB" if one["memory"] else "not limited"
        had = ", ".join(
            f"{resource}={_amount(resource, value)}" for resource, value in sorted(one["resources"].items())
        )
        rows.append((one["address"], str(one["threads"]), memory, had, ", ".join(one["steps"])))
    asked, there = facts.get("asked"), len(rows) - 1
    if asked is not None and asked != there:
        lines.append(f"It was asked for {asked} {'worker' if asked == 1 else 'workers'}; {there or 'none'} so far.")
    if not there:
        lines.append("It has no worker yet: steps wait for one.")
    else:
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines += [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
        ]
    waiting = len(facts["under_way"]) - sum(len(one["steps"]) for one in facts["workers"])
    if waiting > 0:
        lines.append(f"{waiting} {'step waits' if waiting == 1 else 'steps wait'} for a worker.")
    return "\n".join(lines)


def _amount(resource: str, value: float) -> str:
    return f"{value / 1e9:.1f} GB" if resource == "memory" else f"{value:g}"


@magics_class
class ClusterMagics(Magics):
    """The magic of one kernel's choice of cluster."""

    def __init__(self, shell: Any, clusters: Clusters) -> None:
        super().__init__(shell)
        self._clusters = clusters

    @line_magic
    def cluster(self, line: str) -> None:
        """Show, start, scale, stop or choose the cluster that steps run on.

        `%cluster` shows it; `%cluster start`, `%cluster scale N` and `%cluster stop [--force]` steer it; `%cluster
        NAME` chooses a configured one, `%cluster tcp://HOST:PORT` or `tls://HOST:PORT` (with `--tls-ca`, `--tls-cert`
        and `--tls-key`, or Dask's own configuration) one that runs already, `%cluster local` this machine. The choice
        holds for this kernel's further steps.
        """
        facts = self._clusters.ask(line)
        print("\n".join([describe(facts), *facts.get("notices", ())]))  # noqa: T201  a magic's output
