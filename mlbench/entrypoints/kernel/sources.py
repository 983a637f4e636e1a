"""What of the machine a step depends on: the kernel's environment, and the Python files beside the notebook."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib.util
import os
import re
import site
import sys
import tempfile
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from mlbench.core.messages import Environment

__all__ = [
    "Modules",
    "environment",
    "file_of",
    "imports_of",
    "modules_of",
    "roots_of",
    "user_key",
    "variables",
    "version_of",
]

_LEFT_OUT = ("JPY_", "MLBENCH_RUN", "MLBENCH_RESUME", "MLBENCH_ENGINE")
_LONGEST_TEXT: Final = 1024
_NEVER_LOCAL = sys.stdlib_module_names | {"mlbench"}


def environment(preload: tuple[str, ...]) -> Environment:
    """Return this kernel's interpreter and whole environment."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(_LEFT_OUT)}
    return Environment(interpreter=sys.executable, variables=variables, stamp=_stamp(), preload=preload)


def _stamp() -> str:
    """Name the state of site-packages: installing, upgrading or removing a package changes one of these folders."""
    folders = {*site.getsitepackages(), site.getusersitepackages()}
    states = []
    for folder in sorted(folders):
        try:
            states.append(f"{folder}:{os.stat(folder).st_mtime_ns}")
        except OSError:
            continue
    return hashlib.blake2b("\n".join([sys.version, *states]).encode(), digest_size=12).hexdigest()


def file_of(module: str, folders: Iterable[Path]) -> Path | None:
    """Return the source file of a module that lies in one of the folders, None for any other."""
    loaded = sys.modules.get(module)
    origin = getattr(loaded, "__file__", None) if loaded is not None else None
    if origin is None and loaded is None:
        for folder in folders:
            base = folder.joinpath(*module.split("."))
            for path in (base.with_suffix(".py"), base / "__init__.py"):
                if path.is_file():
                    return path
        return None
    if not isinstance(origin, str) or not origin.endswith(".py"):
        return None
    path = Path(origin).resolve()
    if _is_installed(path):
        return None
    return path if any(path.is_relative_to(folder) for folder in folders) else None


@dataclass(frozen=True, slots=True)
class Modules:
    """What modules stand for: digests of the sources beside the notebook, and the packages that are installed.

    `texts` are the constant texts in those sources: some may be paths, or names of environment variables.
    """

    local: dict[str, str]
    packages: frozenset[str]
    texts: frozenset[str]


def modules_of(modules: Iterable[str], folders: Iterable[str]) -> Modules:
    """Look at the modules that a step refers to, of whatever origin, and at those that they import in turn.

    Parameters
    ----------
    folders
        The notebook's folder, and those of `sys.path`.
    """
    todo = [name for name in modules if name]
    roots = roots_of(folders) if todo else ()
    digests: dict[str, str] = {}
    packages: set[str] = set()
    texts: set[str] = set()
    seen: set[str] = set()
    while todo:
        name = todo.pop()
        if name in seen or name.partition(".")[0] in _NEVER_LOCAL:
            continue
        seen.add(name)
        parent = name.rpartition(".")[0]
        if parent:
            todo.append(parent)
        path = file_of(name, roots)
        if path is None:
            packages.add(name.partition(".")[0])
            continue
        try:
            state = path.stat()
            package = name if path.name == "__init__.py" else parent
            digests[name], imported, found = _read(path, state.st_mtime_ns, state.st_size, package)
        except (OSError, SyntaxError, ValueError):
            continue
        todo.extend(imported)
        texts |= found
    known = {name.partition(".")[0] for name in digests}
    return Modules(digests, frozenset(packages - known), frozenset(texts))


def roots_of(folders: Iterable[str]) -> tuple[Path, ...]:
    """Return the real paths of folders, but for those of installed packages."""
    return _roots_of(tuple((one, *_which(one)) for one in dict.fromkeys(folders) if one))


def _which(folder: str) -> tuple[int, int]:
    """Return what tells a folder from another one that a link may lead to later."""
    try:
        found = os.stat(folder)
    except OSError:
        return 0, 0
    return found.st_dev, found.st_ino


@lru_cache(maxsize=8)
def _roots_of(folders: tuple[tuple[str, int, int], ...]) -> tuple[Path, ...]:
    return tuple(path for path in (Path(one).resolve() for one, *_ in folders) if not _is_installed(path))


@lru_cache(maxsize=16)
def imports_of(source: str) -> frozenset[str]:
    r"""Return the modules that a cell's source imports, anywhere in it.

    Examples
    --------
    >>> sorted(imports_of("import numpy as np\nfrom helpers import load"))
    ['helpers', 'helpers.load', 'numpy']
    """
    try:
        return frozenset(_imported(ast.parse(source), ""))
    except SyntaxError:
        return frozenset()


def version_of(package: str) -> str:
    """Return the version of an installed package, by the name under which it is imported; empty if it has none."""
    return _version_of(package, _stamp())


@lru_cache(maxsize=1024)
def _version_of(package: str, stamp: str) -> str:
    """Look once for each state of the installation: a kernel that has imported an older one does not count."""
    from importlib import metadata

    with contextlib.suppress(metadata.PackageNotFoundError, ValueError):
        return metadata.version(package)
    versions = []
    for name in sorted(set(_distributions(stamp).get(package, ()))):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions.append(f"{name} {metadata.version(name)}")
    if versions:
        return ", ".join(versions)
    said = getattr(sys.modules.get(package), "__version__", "")
    return said if isinstance(said, str) else ""


@lru_cache(maxsize=1)
def _distributions(stamp: str) -> Mapping[str, list[str]]:  # noqa: ARG001  what changes when something is installed
    from importlib import metadata

    return metadata.packages_distributions()


_SET_BY_OTHERS: Final = re.compile(
    r"(JPY_|MLBENCH_|JUPYTER_|PYDEVD_|KMP_|CLICOLOR|FORCE_COLOR$|TERM$|PAGER$|GIT_PAGER$|MPLBACKEND$|COLUMNS$|LINES$"
    r"|NO_COLOR$|_$)"
)
"""Variables that a kernel, and libraries that are imported in it, set for themselves."""


def variables(texts: Collection[str]) -> dict[str, str]:
    """Return the environment variables that a step can be seen to depend on.

    These are the ones that its code names, those that were changed since the kernel started, and those by which Python
    itself computes otherwise.
    """
    begun = _at_start()
    now = dict(os.environ)
    named = {name for name in (*texts, "PYTHONHASHSEED", "TZ") if name in now}
    changed = {name for name in {*now, *begun} if now.get(name) != begun.get(name) and not _SET_BY_OTHERS.match(name)}
    return {name: now.get(name, "") for name in named | changed}


@lru_cache(maxsize=1)
def _at_start() -> dict[str, str]:
    """Return the environment with which this process began, as far as the system says so."""
    try:
        with open("/proc/self/environ", "rb") as file:
            pairs = [one.partition(b"=") for one in file.read().split(b"\0") if b"=" in one]
    except OSError:
        return dict(os.environ)
    return {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}


_at_start()


@lru_cache(maxsize=1024)
def _read(
    path: Path,
    modified: int,  # noqa: ARG001  with the size: once for each state of the file
    size: int,  # noqa: ARG001
    package: str,
) -> tuple[str, tuple[str, ...], frozenset[str]]:
    """Return the digest of a source file, comments and layout aside, what it imports, and its constant texts."""
    tree = ast.parse(path.read_bytes())
    digest = hashlib.blake2b(ast.dump(tree).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    texts = (one.value for one in ast.walk(tree) if isinstance(one, ast.Constant) and isinstance(one.value, str))
    return digest, tuple(_imported(tree, package)), frozenset(one for one in texts if len(one) <= _LONGEST_TEXT)


@lru_cache(maxsize=1024)
def _is_installed(path: Path) -> bool:
    """Say whether a path lies in an installation of Python: its versions are part of the key, not its sources."""
    return any(path.is_relative_to(one) for one in _installations())


@lru_cache(maxsize=1)
def _installations() -> tuple[Path, ...]:
    return tuple(Path(one).resolve() for one in (sys.prefix, sys.base_prefix, *site.getsitepackages()))


def _imported(tree: ast.AST, package: str) -> list[str]:
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.extend(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                try:
                    base = importlib.util.resolve_name("." * node.level + base, package)
                except ImportError:
                    continue
            names.append(base)
            names.extend(f"{base}.{alias.name}" for alias in node.names if alias.name != "*")
    return names


_KEY: Final = 32
"""Bytes of a store's secret."""


def user_key(folder: Path) -> bytes:
    """Return this store's secret, made on first use: what is hashed with it cannot be guessed from the hash."""
    path = folder / "key"
    with contextlib.suppress(FileNotFoundError):
        if len(secret := path.read_bytes()) == _KEY:
            return secret
        path.unlink(missing_ok=True)  # whoever made it was killed while at it, or had no space left
    from mlbench.backends.blobs_local.files import is_shared

    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, written = tempfile.mkstemp(dir=folder, prefix="key-")  # for this user's eyes only
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(os.urandom(_KEY))
            if is_shared(folder):  # who shares a store finds the same steps unchanged, and could guess short values
                os.fchmod(handle, 0o640)
        try:
            os.link(written, path)  # whole or not at all, and the first one wins
        except FileExistsError:
            pass
        except OSError:  # not every file system has hard links
            os.replace(written, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(written)
    return path.read_bytes()
