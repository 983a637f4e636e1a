"""What a step depends on, as far as its kernel can tell: the named parts of its key, and the paths that it names."""

from __future__ import annotations

import glob
import json
import os
import platform
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from mlbench.core.messages import StepOptions, Surroundings
from mlbench.entrypoints.kernel.pending import is_placeholder
from mlbench.entrypoints.kernel.sources import imports_of, modules_of, user_key, variables, version_of
from mlbench.notebook.cell import CellNames, analyse
from mlbench.notebook.evidence import resolve_text
from mlbench.runs import key
from mlbench.runs.reach import reach, submodules
from mlbench.runs.surroundings import MODULES, modules_in, set_in_modules, settings_that_differ

__all__ = ["Parts", "cell_key", "parts_of"]

_LONGEST_PATH: Final = 1024
_MOST_PATHS: Final = 1000


_MODULE: Final = "module "


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a step's key that its kernel knows, and the files and folders that its code names.

    `items_from` are names that only say of which items a fan-out is made.
    """

    parts: dict[str, str] = field(default_factory=dict)
    paths: tuple[str, ...] = ()
    items_from: tuple[str, ...] = ()

    @property
    def modules(self) -> dict[str, str]:
        """The digests of the local modules among the parts."""
        return {name.removeprefix(_MODULE): digest for name, digest in self.parts.items() if name.startswith(_MODULE)}


def parts_of(
    *,
    step: str,
    source: str,
    options: StepOptions,
    requirements: Collection[str],
    names: CellNames,
    values: Mapping[str, Any],
    edges: Collection[str],
    behind: Mapping[str, str],
    namespace: dict[str, Any],
    defs: Collection[str],
    surroundings: Surroundings,
    store: Path,
    data: Callable[[Any], str],
) -> Parts:
    """Return what a step depends on besides its parents.

    Parameters
    ----------
    source
        The cell's body as Python.
    values
        All of the kernel's values that the cell reaches, by name.
    edges
        Names that other steps give it.
    behind
        The local modules that may come with those, with their digests from when those steps were handed over. What has
        been edited since counts here: the step's process imports it as it is now.
    defs
        The names that it stores.
    data
        Return the artifact digest of an array or frame.
    """
    parts: dict[str, str] = {key.FOLDER: surroundings.folder}
    if names.dynamic:
        return Parts(parts | {key.UNKNOWN: "it reaches names in a way that its text does not show, such as by eval"})
    items = names.items - set(values)
    fingerprint = key.Fingerprint(namespace, without={*edges, *values, *items}, data=data)
    for name, value in values.items():
        try:
            parts[f"value {name}"] = fingerprint.of(value)
        except Exception:  # noqa: BLE001  a stranger's reducer may raise anything; without a key nothing is reused
            return Parts(parts | {key.UNKNOWN: f"{name} is a {type(value).__name__}, which can't be compared"})
    held = fingerprint.modules | set(names.imports.values()) | set(edges)
    below = submodules(held, fingerprint.attributes | names.attributes)
    folders = [surroundings.folder, *surroundings.path]
    reached = fingerprint.modules | below | imports_of(source) | set(modules_in(surroundings))
    modules = modules_of(reached, folders)
    now = modules_of(behind, folders).local
    parts |= {f"{_MODULE}{name}": now.get(name, "") for name, digest in behind.items() if now.get(name, "") != digest}
    parts |= {f"{_MODULE}{name}": digest for name, digest in modules.local.items()}
    parts |= {f"package {name}": version_of(name) for name in modules.packages}
    secret = user_key(store)
    texts = fingerprint.texts | modules.texts | names.names_paths
    parts |= {f"variable {name}": _keyed(secret, value.encode()) for name, value in variables(texts).items()}
    parts["step"] = step
    parts["code"] = key.digest_source(source)
    if options.foreach:
        parts[key.ITEMS] = ", ".join(f"{one.name} in {key.digest_source(one.expression)}" for one in options.foreach)
    parts["options"] = _options(options, requirements, defs)
    if options.catch:
        parts[key.CATCH] = "yes"
    parts["surroundings"] = _surroundings(surroundings, secret)
    settings = set_in_modules(surroundings)
    unused = set(modules_of(settings, folders).local) - set(modules.local) - set(behind)
    parts |= {f"set in {name}": _keyed(secret, said.encode()) for name, said in settings.items() if name not in unused}
    parts["python"] = f"{platform.python_implementation()} {platform.python_version()} {platform.machine()}"
    constants = {
        name: os.fspath(one)
        for name, one in namespace.items()
        if not is_placeholder(one) and isinstance(one, (str, os.PathLike))
    }
    named = {resolve_text(text, constants) for text in names.names_paths}
    held = {os.fspath(one) for one in values.values() if isinstance(one, (str, os.PathLike))}
    paths = _paths((named | texts | held) - {None}, named, surroundings.folder)
    return Parts(parts, paths, _items_from(source, {*edges, *values}, namespace) if options.foreach else ())


def _items_from(source: str, names: Collection[str], namespace: Mapping[str, Any]) -> tuple[str, ...]:
    """Return those of a fan-out's names that its body does not need: its `--foreach` does."""
    body = analyse(source)
    wanted = body.reads | body.late | body.changes | body.maybe | body.builtins
    return tuple(sorted(set(names) - wanted - reach(wanted, namespace, inert=is_placeholder)))


def cell_key(parts: Mapping[str, str], parents: Mapping[str, str | None], waits: Collection[str | None]) -> str | None:
    """Return the digest by which a cell is known again when it is handed over again, whatever its parents make.

    Parameters
    ----------
    parents, waits
        The keys of the steps that give it names, and of those that it waits for besides.
    """
    if any(one is None for one in (*parents.values(), *waits)):
        return None
    above = {f"parent {name}": one or "" for name, one in parents.items()}
    return key.key_of({**parts, **above, "waits": " ".join(sorted(one or "" for one in waits))})


def _options(options: StepOptions, requirements: Collection[str], defs: Collection[str]) -> str:
    """Return the options that make a difference to what a step makes."""
    said = {
        "defs": sorted(defs),
        "env": options.env,
        "requirements": sorted(requirements),
    }
    return json.dumps({name: value for name, value in said.items() if value}, sort_keys=True)


def _surroundings(surroundings: Surroundings, secret: bytes) -> str:
    """Digest what surrounds a step, but for where it is: what it imports from there is known by what it is."""
    return _settings(tuple(item for item in surroundings.libraries.items() if item[0] != MODULES), secret)


@lru_cache(maxsize=4)
def _settings(libraries: tuple[tuple[str, bytes], ...], secret: bytes) -> str:
    """Digest settings of libraries, which are mostly those of the step before."""
    settings = sorted(settings_that_differ(Surroundings(folder="", libraries=dict(libraries))).items())
    return _keyed(secret, repr(settings).encode("utf-8", "surrogatepass"))


def _keyed(secret: bytes, data: bytes) -> str:
    """Return a digest from which a short secret, such as a password, can't be guessed."""
    from blake3 import blake3

    return blake3(data, key=secret).hexdigest(length=16)


def _paths(texts: Collection[Any], named: Collection[str | None], folder: str) -> tuple[str, ...]:
    """Return those of some texts, and of their words, that are paths.

    Something is there, seen from a folder, or the cell names a file.
    """
    words = {word for text in texts if isinstance(text, str) and len(text) <= _LONGEST_PATH for word in text.split()}
    found = []
    for text in sorted({text for text in texts if isinstance(text, str)} | words):
        if not 0 < len(text) <= _LONGEST_PATH or not text.isprintable() or text.strip() in ("", ".", "/", "~"):
            continue
        where = os.path.join(folder, os.path.expanduser(text))
        there = os.path.exists(where) or (
            glob.has_magic(text) and "/" in text and os.path.isdir(os.path.dirname(where))
        )
        if there or (text in named and (_FILE_NAME.fullmatch(text) or "*" in text)):
            found.append(text)
    return tuple(found[:_MOST_PATHS])


_FILE_NAME: Final = re.compile(r"[^\s:%{}<>|]*\.[A-Za-z]\w{0,9}")
