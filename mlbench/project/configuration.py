"""Where the store is, and why. Light: kernels import it.

A store is named by `MLBENCH_STORE`, else by `[tool.mlbench]` in a `pyproject.toml` or by an `mlbench.toml`, the nearest
above the notebook, else it is in the user's data directory.

Its catalog is a file of SQLite in it, unless `MLBENCH_CATALOG`, or `catalog` in the file that names the store, says
otherwise. A store whose catalog is on a server says so itself, in its file `catalog.json`, so that nobody begins a
second one. Of a store under a URL the catalog lies on this machine, unless it is named.
"""

from __future__ import annotations

import json
import os
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from mlbench.backends.blobs import is_url, url_name, url_of
from mlbench.core.errors import StoreError, UsageError
from mlbench.core.records import Json
from mlbench.core.urls import without_password

if TYPE_CHECKING:
    from mlbench.runs.retention import Rule

__all__ = [
    "StoreLocation",
    "describe",
    "find_retention",
    "find_store",
    "low_space",
    "note_catalog",
    "remember_catalog",
    "settings_above",
]

SETTINGS: Final = ("store", "catalog", "environments", "cluster", "clusters", "retention")
"""What an `mlbench.toml` or `[tool.mlbench]` may say."""

_LOW: Final = 0.1

# fmt: off
_NETWORK = frozenset({
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "lustre", "gpfs", "beegfs",
    "glusterfs", "ocfs2", "gfs2", "pvfs2", "orangefs", "coda", "ncpfs", "davfs",
    "fuse.sshfs", "fuse.s3fs", "fuse.gcsfuse", "fuse.rclone", "fuse.goofys", "fuse.glusterfs",
    "fuse.ceph", "fuse.juicefs", "fuse.blobfuse2", "fuse.mount-s3", "fuse.davfs", "fuse.beegfs",
})
# fmt: on


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreLocation:
    """A store's folder or URL, why it is this one (a sentence), and its catalog's URL.

    `notice` is one line for the user where the catalog does not lie in the store. The catalog's URL may hold a
    password: it is never shown (see `without_password`). Of a store under a URL, `url`, `path` is the folder on this
    machine in which lies what others do not see: its key, and its catalog if that is not shared.
    """

    path: Path
    source: str
    catalog_url: str = field(repr=False)
    notice: str | None = None
    url: str | None = None

    @property
    def place(self) -> str:
        """What names the store to others of this user: its URL, or its folder's path."""
        return self.url or str(self.path)

    @property
    def on_a_server(self) -> bool:
        """Whether the catalog is in a database that others may be connected to from elsewhere."""
        return not self.catalog_url.startswith("sqlite")

    def named(self) -> Json:
        """Return what names this store in a request to the service, which has settings and variables of its own."""
        return {"store": self.place, "catalog": self.catalog_url}

    def variables(self) -> dict[str, str]:
        """Return the environment variables by which another process of this user finds it."""
        return {"MLBENCH_STORE": self.place, "MLBENCH_CATALOG": self.catalog_url}


def find_store(notebook: str | None = None, *, store: str | None = None) -> StoreLocation:
    """Find the store of a notebook.

    Parameters
    ----------
    notebook
        Its path; without one, the working directory decides.
    store
        A directory or a URL that overrides everything.

    Raises
    ------
    StoreError
        If a file of settings cannot be read, or names something that is neither a directory nor a URL.
    UsageError
        If it has a setting that does not exist.
    """
    catalog = os.environ.get("MLBENCH_CATALOG") or None
    if store is not None:
        path = _directory(store, Path.cwd())
        return _located(path, "It was named outright.", _remembered.get(str(path)))
    if named := os.environ.get("MLBENCH_STORE"):
        return _located(_directory(named, Path.cwd()), "MLBENCH_STORE names it.", catalog)
    start = Path(os.path.abspath(notebook)).parent if notebook else Path.cwd()
    for file, settings in settings_above(start):
        if "store" in settings:
            path = _directory(settings["store"], file.parent, said_by=file)
            return _located(path, f"{file} names it.", catalog or settings.get("catalog"))
        if "catalog" in settings:
            raise UsageError(
                f"{file} names a catalog, and not the store that it is of.", "Write `store` beside `catalog`."
            )
    import platformdirs

    path = Path(platformdirs.user_data_dir("mlbench", appauthor=False))
    return _located(path, "Nothing names another, so it is in your data directory.", catalog)


_remembered: Final[dict[str, str]] = {}


def remember_catalog(store: str, url: str | None) -> None:
    """Note which catalog goes with a store that is named outright: whoever asked for it has said so."""
    if url is not None:
        _remembered[str(_directory(store, Path.cwd()))] = _checked_url(url)


def note_catalog(location: StoreLocation) -> None:
    """Have a store say that its catalog is on a server, for all who come to it later and are not told.

    One under a URL does not: who is not told of its catalog has one of their own, which catches up with the records.
    """
    if location.url is not None or not location.on_a_server:
        return
    file = location.path / _NOTE
    if file.exists():
        return
    beside = file.with_name(f"{_NOTE}-{os.urandom(8).hex()}")
    beside.write_text(json.dumps({"catalog": without_password(location.catalog_url)}), "utf-8")
    with suppress(FileExistsError):
        os.link(beside, file)  # of two who say so at once, one is first
    beside.unlink()


def _noted(path: Path) -> str | None:
    """Return the catalog that a store names itself."""
    file = path / _NOTE
    try:
        found = json.loads(file.read_text("utf-8"))["catalog"]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{file}, which says where the store's catalog is, cannot be read.",
            'It holds {"catalog": "postgresql://…"}: correct it.',
        ) from error
    return _checked_url(found)


_NOTE: Final = "catalog.json"


def find_retention(folder: Path | None = None) -> tuple[Rule, ...]:
    """Return how long runs are kept, as the nearest file of settings says that says so; without one, for ever.

    Raises
    ------
    StoreError, UsageError
        If it cannot be read, or says something else.
    """
    from mlbench.runs.retention import read_rules

    for file, settings in settings_above(folder or Path.cwd()):
        found = settings.get("retention")
        if found is not None:
            if not isinstance(found, dict):
                raise UsageError(f"{file}: retention is not a table.")
            return read_rules(found, str(file))
    return ()


def describe(location: StoreLocation) -> Json:
    """Return what `mlbench config` shows of a store, as plain JSON."""
    return {
        "store": location.place,
        "source": location.source,
        "catalog": without_password(location.catalog_url),
        "notice": location.notice,
        "space": low_space(location.path),
    }


def low_space(path: str | Path) -> str | None:
    """Return a sentence if less than a tenth of the disk under a path is free.

    The path itself need not be there yet.
    """
    there = Path(os.path.abspath(path))
    while not there.exists():
        there = there.parent
    disk = os.statvfs(there)
    if not disk.f_blocks or disk.f_bavail / disk.f_blocks >= _LOW:
        return None
    left = disk.f_bavail * disk.f_frsize / 1e9
    return (
        f"The disk of the store {path} is nearly full: {left:.1f} GB are left, "
        f"{100 * disk.f_bavail / disk.f_blocks:.0f} %. Free some, or name another directory in MLBENCH_STORE."
    )


def _directory(named: Any, beside: Path, *, said_by: Path | None = None) -> Path | str:
    """Return the directory that a text names, or the URL that it is."""
    if not isinstance(named, str) or not named.strip() or "\0" in named:
        where = f"{said_by}: a" if said_by is not None else "A"
        raise StoreError(f"{where} store is named by the path of a directory or by a URL, not by {named!r:.60}.")
    if re.match(r"[A-Za-z][A-Za-z0-9+]+:/[^/]", named):
        scheme, _, rest = named.partition(":/")
        raise StoreError(f"The store {named:.60} is neither a path nor a URL.", f"Write {scheme}://{rest:.60}")
    if is_url(named):
        url = url_of(named)
        if is_url(url):
            return url
        named = url
    path = Path(os.path.abspath(beside / Path(named).expanduser()))
    if path.exists() and not path.is_dir():
        raise StoreError(f"The store {path} is not a directory.", "Name another in MLBENCH_STORE.")
    return path


def settings_above(folder: Path) -> Iterator[tuple[Path, Json]]:
    """Yield the files of settings of a folder and those above it, nearest first."""
    for place in (folder, *folder.parents):
        for name in ("mlbench.toml", "pyproject.toml"):
            file = place / name
            if file.is_file() and _is_ours(file):
                settings = _read_settings(file)
                if settings is not None:
                    yield file, settings


def _is_ours(file: Path) -> bool:
    """Say whether a file may speak for its user: in a folder that all can write to, a stranger's may not."""
    return file.stat().st_uid in {os.getuid(), 0} or not file.parent.stat().st_mode & stat.S_IWOTH


def _read_settings(file: Path) -> Json | None:
    import tomllib

    try:
        with file.open("rb") as source:
            document = tomllib.load(source)
    except (OSError, ValueError) as error:
        raise StoreError(f"{file} cannot be read: {error}.", "Correct it, or name a store in MLBENCH_STORE.") from error
    settings: Any = document
    if file.name == "pyproject.toml":
        tools = document.get("tool", {})
        settings = tools.get("mlbench") if isinstance(tools, dict) else None
    if settings is None:
        return None
    if not isinstance(settings, dict):
        raise UsageError(f"{file}: [tool.mlbench] is not a table.")
    for name in settings:
        if name not in SETTINGS:
            near = get_close_matches(name, SETTINGS, 1)
            hint = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(SETTINGS)}."
            raise UsageError(f"{file} has the setting {name!r}, which does not exist.", hint)
    return settings


def _located(path: Path | str, source: str, catalog: Any = None) -> StoreLocation:
    if isinstance(path, str):
        return _located_elsewhere(path, source, catalog)
    noted = _noted(path)
    if catalog is not None:
        url = _checked_url(catalog)
        if noted is not None and without_password(url) != noted:
            raise StoreError(
                f"The catalog of the store {path} is {noted}, as its file {_NOTE} says, "
                f"and not {without_password(url)}.",
                "Name that one in `catalog` or MLBENCH_CATALOG; if it has moved, correct the file.",
            )
        return StoreLocation(path=path, source=source, catalog_url=url)
    if noted is not None:
        return StoreLocation(path=path, source=source, catalog_url=noted)
    kind = file_system(path)
    if kind in _NETWORK and (local := _local_folder(path)) is not None:
        notice = (
            f"The store {path} lies on a network file system ({kind}), so its catalog is in {local} on this machine."
        )
        return StoreLocation(path=path, source=source, catalog_url=_sqlite(local), notice=notice)
    return StoreLocation(path=path, source=source, catalog_url=_sqlite(path))


def _checked_url(catalog: Any) -> str:
    """Return a catalog's URL as it is used; say what is wrong with one without showing what may be a password."""
    if isinstance(catalog, str):
        scheme, divided, rest = catalog.partition("://")
        if catalog.startswith("sqlite:///") and rest != "/":
            return catalog
        if divided and rest and scheme in _SERVERS:
            with suppress(ValueError):
                urlsplit(catalog).port  # noqa: B018  (it is read when it is asked for)
                return f"postgresql://{rest}"
    begin = catalog.partition("://")[0][:20] if isinstance(catalog, str) and "://" in catalog else "that"
    raise UsageError(
        f"The catalog {begin}://… cannot be used."
        if begin != "that"
        else "What `catalog` or MLBENCH_CATALOG says is no URL.",
        "Write postgresql://HOST/DATABASE, or sqlite:////PATH/TO/FILE.",
    )


_SERVERS: Final = ("postgresql", "postgres", "postgresql+psycopg")


def _located_elsewhere(url: str, source: str, catalog: Any) -> StoreLocation:
    """Return the place of a store under a URL; its catalog is on this machine, unless another is named."""
    import platformdirs

    folder = Path(platformdirs.user_data_dir("mlbench", appauthor=False)) / "catalogs" / url_name(url)
    if catalog is not None:
        return StoreLocation(path=folder, url=url, source=source, catalog_url=_checked_url(catalog))
    kind = file_system(folder)
    local = (_local_folder(folder) if kind in _NETWORK else None) or folder
    notice = (
        f"The store {url} is shared, its catalog is not: it is made from the store's records in {local}. "
        'To share it, name a database: catalog = "postgresql://…".'
    )
    return StoreLocation(path=folder, url=url, source=source, catalog_url=_sqlite(local), notice=notice)


def _sqlite(folder: Path) -> str:
    return f"sqlite:///{folder / 'catalog.sqlite'}"


def _local_folder(store: Path) -> Path | None:
    """Return a folder on a local disk for a store's catalog, or None if there is none."""
    import hashlib
    import tempfile

    name = hashlib.blake2b(os.fsencode(store), digest_size=8).hexdigest()
    for temporary in (Path("/var/tmp"), Path(tempfile.gettempdir())):  # noqa: S108  (its folder is 0700 and checked)
        if not temporary.is_dir() or not os.access(temporary, os.W_OK) or file_system(temporary) in _NETWORK:
            continue
        folder = temporary / f"mlbench-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise StoreError(f"{folder} is not a folder of yours alone.", "Remove it: mlbench makes it anew.")
        return folder / name
    return None


def file_system(path: str | Path) -> str | None:
    """Return the kind of file system under a path (which need not be there yet), `None` where that is not known."""
    if sys.platform != "linux":
        return None
    there = os.path.realpath(path)
    best, kind = "", None
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
            lines = mounts.read().splitlines()
    except OSError:
        return None
    for line in lines:
        fields = line.split(" ")
        if "-" not in fields:
            continue
        mount = fields[4].replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
        if os.path.commonpath([mount, there]) == mount and len(mount) >= len(best):
            best, kind = mount, fields[fields.index("-") + 1]
    return kind
