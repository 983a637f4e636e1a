"""Makes, migrates and opens a catalog's database.

SQLite: write-ahead log, `synchronous=FULL` (what is acknowledged survives a power cut; writes with the option
`mlbench_syncs=False` may be undone by one, up to the next that is synced), every writing transaction `BEGIN IMMEDIATE`
(one that reads first and writes later is refused as soon as another has written between), ten seconds of patience for
the lock. The file is open to its owner only. A database on a server: see `mlbench.backends.catalog_sql.server`.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import sqlite3
import stat
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import DBAPIError

from mlbench.backends.catalog_sql.server import alone_on_server, open_server, persist
from mlbench.backends.catalog_sql.tables import metadata
from mlbench.core.errors import StoreError
from mlbench.core.urls import without_password

__all__ = [
    "MADE_ANEW",
    "REPLACED",
    "REVISIONS",
    "alone",
    "check_revision",
    "clear_errors",
    "open_engine",
    "sqlite_file",
]

REVISIONS: Final = ("0001", "0002", "0003", "0004", "0005")
"""The migrations of `migrations/versions`, oldest first."""

REPLACED: Final = "replaced"
"""The revision of a file that another one has taken the place of: whoever has it open still may not use it."""

MADE_ANEW: Final = "`mlbench store reindex` makes it anew from the records."
"""What to do about a catalog that is damaged."""

_BUSY_SECONDS = 10
_LOCK_SECONDS = 60

_LOG_PAGES = 4_000
"""How long the log grows (16 MB) until it is copied into the database, which waits for the disk twice: a page that is
written by each run is copied once for all of them."""


def sqlite_file(url: str) -> Path | None:
    """Return the file of a SQLite URL, `None` for another database."""
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        return None
    return Path(parsed.database)


def open_engine(url: str, *, migrate: bool = True) -> Engine:
    """Return an engine on an existing catalog, or on a new one.

    Parameters
    ----------
    url
        SQLAlchemy's URL of the database.
    migrate
        Whether an older catalog may be brought up to date (after a backup); otherwise it is refused. A new one is
        always made.

    Raises
    ------
    StoreError
        If it cannot be opened, was written by a later version, or is older and may not be migrated.
    """
    file = sqlite_file(url)
    engine = create_engine(url) if url.startswith("sqlite") else open_server(url)
    if file is not None:
        _prepare_sqlite(engine)
        with clear_errors(str(file)):
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _create(file)
    where = str(file or without_password(url))

    def bring_up_to_date() -> None:
        with clear_errors(where):
            _bring_up_to_date(engine, file, where, migrate=migrate)

    try:
        if url.startswith("sqlite"):
            bring_up_to_date()
        else:
            persist(bring_up_to_date, where)
    except BaseException:
        engine.dispose()  # what is refused is not held
        raise
    return engine


def _bring_up_to_date(engine: Engine, file: Path | None, where: str, *, migrate: bool) -> None:
    if _revision(engine, where) != REVISIONS[-1]:
        with alone(file):  # whoever waited here may find that all is done, or another file in this one's place
            engine.dispose()
            found = _revision(engine, where)
            if found != REVISIONS[-1]:
                if found is not None and not migrate:
                    raise StoreError(
                        f"The catalog {where} was made by an older version of mlbench.",
                        "Stop the service with `mlbench service stop`; the next one brings it up to date.",
                    )
                _upgrade(engine, file, found, where)
    if file is not None:
        _keep_log(engine)


def _keep_log(engine: Engine) -> None:
    """Go back to the write-ahead log if whoever was about to replace the file was killed after leaving it."""
    raw = engine.raw_connection()
    try:
        cursor = raw.cursor()
        if cursor.execute("PRAGMA journal_mode").fetchone() != ("wal",):
            with suppress(sqlite3.OperationalError):  # others are at work in it: the next one sees to it
                cursor.execute("PRAGMA journal_mode=WAL")
    finally:
        raw.close()


def _create(file: Path) -> None:
    """Make the file of a catalog that is not there yet, for its owner alone; leave one that is there in peace.

    Whoever closes a descriptor of a file gives up all locks that its process holds on it, those of SQLite's open
    connections too: others would then take the log away under them, and what they read would stay as it was for ever.
    """
    with suppress(FileExistsError):
        made = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            _share(made, file.parent)
        finally:
            os.close(made)


def _share(descriptor: int, folder: Path) -> None:
    """Let the group of a folder that is shared (see `mlbench.backends.blobs_local.files.is_shared`) write to a file."""
    wanted = stat.S_ISGID | stat.S_IWGRP
    status = os.fstat(descriptor)
    if folder.stat().st_mode & wanted == wanted and status.st_uid == os.geteuid() and not status.st_mode & stat.S_IWGRP:
        os.fchmod(descriptor, 0o660)


_CACHE_KIB: Final = 32 << 10
"""How much of the catalog a connection holds: with SQLite's own 2 MiB a transaction of thousands of items writes the
pages of a large index again and again."""


def _prepare_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def connected(connection: sqlite3.Connection, _record: Any) -> None:
        connection.isolation_level = None  # the driver's own BEGIN would be a deferred one
        for pragma in (
            f"busy_timeout={_BUSY_SECONDS * 1000}",
            "synchronous=FULL",
            "foreign_keys=ON",
            f"cache_size=-{_CACHE_KIB}",
            f"wal_autocheckpoint={_LOG_PAGES}",
        ):
            connection.execute(f"PRAGMA {pragma}")
        connection.create_function("mlbench_lower", 1, _lower, deterministic=True)

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        options = connection.get_execution_options()
        driver: Any = connection.connection.driver_connection  # for nothing but these, SQLAlchemy would cost most
        if not options.get("mlbench_writes", False):
            driver.execute("BEGIN")
            return
        driver.execute(f"PRAGMA synchronous={'FULL' if options.get('mlbench_syncs', True) else 'NORMAL'}")
        driver.execute("BEGIN IMMEDIATE")


def _lower(value: Any) -> Any:
    """Return a text in lower case; SQLite's own function knows the letters of English alone."""
    return value.lower() if isinstance(value, str) else value


def _revision(engine: Engine, where: str) -> str | None:
    """Return the catalog's revision, `None` for a new one."""
    with engine.connect() as connection:
        return _revision_seen_by(connection, where)


def _revision_seen_by(connection: Connection, where: str) -> str | None:
    tables = inspect(connection).get_table_names()
    if "alembic_version" not in tables:
        check_strange(tables if connection.dialect.name == "sqlite" else set(tables) & set(metadata.tables), where)
        return None
    found: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    if found == REPLACED:
        raise StoreError(f"The catalog {where} has been made anew just now.", "Try again.")
    if found is not None:
        check_revision(found, where)
    return found


def check_strange(tables: Iterable[str], where: str) -> None:
    """Raise `StoreError` if a database without a revision has tables: it is somebody else's, and stays as it is."""
    if named := sorted(tables):
        raise StoreError(
            f"The database {where} is no catalog of mlbench: it has the table {named[0]}.",
            "Name another one for the catalog, or move it away: `mlbench store reindex` then makes one of the records.",
        )


def check_revision(found: str, where: str) -> None:
    """Raise `StoreError` if a catalog has a revision that this version does not know."""
    if found != REPLACED and found not in REVISIONS:
        raise StoreError(
            f"The catalog {where} was made by a newer version of mlbench (its revision is {found}, this version knows "
            f"{REVISIONS[-1]}).",
            "Update mlbench in this environment, or name another store in MLBENCH_STORE.",
        )


@contextmanager
def alone(file: Path | None) -> Iterator[None]:
    """Hold the lock of a catalog's file: one process at a time makes or migrates it."""
    if file is None:
        yield
        return
    lock = os.open(file.with_name(f"{file.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _share(lock, file.parent)
        end = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise StoreError(
                        f"Another process has been making the catalog {file} for more than {_LOCK_SECONDS} s.",
                        "Look what it does, or end it, and try again.",
                    ) from None
                time.sleep(0.02)
        yield
    finally:
        os.close(lock)


_UPGRADING = threading.Lock()
"""Alembic keeps what it works on in its modules: one thread at a time, whichever catalogs they open."""


def _upgrade(engine: Engine, file: Path | None, found: str | None, where: str) -> None:
    from alembic import command
    from alembic.config import Config

    if file is not None:
        if found is not None:
            _back_up(file, found)
        with closing(sqlite3.connect(file, timeout=_BUSY_SECONDS)) as raw:
            raw.execute("PRAGMA journal_mode=WAL")
    told = logging.getLogger("alembic")
    if told.level == logging.NOTSET:  # a program that shows what others tell, as papermill does, is not to show this
        told.setLevel(logging.WARNING)
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    with _UPGRADING, _alone_in_transaction(engine, file) as connection:
        if file is None and _revision_seen_by(connection, where) == REVISIONS[-1]:
            return  # somebody else has done it while this waited for its turn
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


@contextmanager
def _alone_in_transaction(engine: Engine, file: Path | None) -> Iterator[Connection]:
    if file is None:
        with alone_on_server(engine) as connection:
            yield connection
        return
    with engine.connect().execution_options(mlbench_writes=True) as connection, connection.begin():
        yield connection


def _back_up(file: Path, revision: str) -> None:
    now = time.time_ns()  # a migration that was killed is tried again at once
    stamp = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime(now // 10**9))}.{now % 10**9 // 1000:06}"
    target = file.with_name(f"{file.stem}-{revision}-{stamp}.backup")
    os.close(os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    with closing(sqlite3.connect(file)) as old, closing(sqlite3.connect(target)) as new:
        old.backup(new)


@contextmanager
def clear_errors(where: str) -> Iterator[None]:
    """Say what a database says about its disk or lock as one sentence; let everything else through."""
    try:
        yield
    except (DBAPIError, sqlite3.Error) as error:
        if not where.startswith("/"):
            raise  # what a server says is heard where it is asked again
        said = str(error.orig if isinstance(error, DBAPIError) else error)
        if "disk I/O error" in said and _is_full(where):
            said = "disk is full"  # SQLite says so of the files that it maps, beside the database
        for sign, sentence, remedy in _SENTENCES:
            if sign in said:
                raise StoreError(sentence.format(where=where), remedy) from error
        raise
    except OSError as error:
        raise StoreError(
            f"The catalog {where} cannot be opened: {error.strerror or error}.",
            "Make its directory writable, or name another store in MLBENCH_STORE.",
        ) from error


def _is_full(where: str) -> bool:
    try:
        return shutil.disk_usage(Path(where).parent).free < _PAGES
    except OSError:
        return False


_PAGES = 1 << 20
"""Bytes of free space below which an error of a catalog's disk is one of too little space."""

_SENTENCES = (
    ("disk is full", "There is no space left on {where}.", "Free some, or name another store in MLBENCH_STORE."),
    (
        "disk I/O error",
        "The disk that the catalog {where} lies on cannot be read or written.",
        "Look at the disk, or name another store in MLBENCH_STORE.",
    ),
    ("is locked", "Another process has held the catalog {where} for more than 10 s.", "End it, and try again."),
    ("readonly", "The catalog {where} cannot be written.", "Make it writable, or name another store in MLBENCH_STORE."),
    (
        "unable to open",
        "The catalog {where} cannot be opened.",
        "Make its directory writable, or name another store in MLBENCH_STORE.",
    ),
    ("malformed", "The catalog {where} is damaged.", MADE_ANEW),
    ("Could not decode", "The catalog {where} is damaged.", MADE_ANEW),
    ("not a database", "The file {where} is no catalog.", MADE_ANEW),
    ("unsupported file format", "The file {where} is no catalog.", MADE_ANEW),
)
