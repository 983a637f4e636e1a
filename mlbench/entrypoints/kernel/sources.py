"""What of the machine a step depends on: the kernel's environment, and the Python files beside the notebook."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import os
import site
import sys
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from mlbench.core.messages import Environment

__all__ = ["environment", "file_of", "local_modules", "user_key"]

_LEFT_OUT = ("JPY_", "MLBENCH_RUN", "MLBENCH_ENGINE")
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


def local_modules(modules: Iterable[str], folders: Iterable[str]) -> dict[str, str]:
    """Return digests of the sources of modules beside the notebook, those included that they import in turn.

    Parameters
    ----------
    modules
        Names of modules that a step refers to, of whatever origin.
    folders
        The notebook's folder, and those of `sys.path` that are no installation.
    """
    roots = [path for path in (Path(one).resolve() for one in dict.fromkeys(folders) if one) if not _is_installed(path)]
    digests: dict[str, str] = {}
    todo = [name for name in modules if name]
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
            continue
        try:
            state = path.stat()
            package = name if path.name == "__init__.py" else parent
            digests[name], imported = _read(path, state.st_mtime_ns, state.st_size, package)
        except (OSError, SyntaxError, ValueError):
            continue
        todo.extend(imported)
    return digests


@lru_cache(maxsize=1024)
def _read(path: Path, modified: int, size: int, package: str) -> tuple[str, tuple[str, ...]]:  # noqa: ARG001
    """Return the digest of a source file, comments and layout aside, and what it imports; once for each state of it."""
    tree = ast.parse(path.read_bytes())
    digest = hashlib.blake2b(ast.dump(tree).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return digest, tuple(_imported(tree, package))


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


def user_key(folder: Path) -> bytes:
    """Return this store's secret, made on first use: what is hashed with it cannot be guessed from the hash."""
    path = folder / "key"
    try:
        return path.read_bytes()
    except FileNotFoundError:
        pass
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_bytes()
    with os.fdopen(handle, "wb") as file:
        file.write(os.urandom(32))
    return path.read_bytes()
