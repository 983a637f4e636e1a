"""Puts a catalog that was made anew into the place of the old one; on a server: see `replacing_on_server`.

SQLite's file must not be replaced under connections that are open: they would go on with one that has no name any more,
and what they write would be lost. So the old one is locked first, for this process alone, which fails while anybody has
it open; and whoever opens it between the lock and the renaming finds that it is no catalog of this version.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from mlbench.backends.catalog_sql.catalog import SqlCatalog
from mlbench.backends.catalog_sql.opening import (
    REPLACED,
    REVISIONS,
    alone,
    check_revision,
    check_strange,
    clear_errors,
    sqlite_file,
)
from mlbench.backends.catalog_sql.tables import firings
from mlbench.core.errors import StoreError

__all__ = ["replace_catalog"]


def replace_catalog(url: str, fill: Callable[[SqlCatalog], None]) -> bool:
    """Make a catalog anew, beside the old one, and put it into its place.

    Parameters
    ----------
    url
        The catalog's.
    fill
        Given the new one, which is empty; on a server several times, each time to add what has come since. What is in
        no record is then taken over from the old one, if it can be read: firings, and when jobs are due.

    Returns
    -------
    bool
        Whether the old one could be read.

    Raises
    ------
    StoreError
        If others have the file open, if a later version has made it, or if the disk or the server cannot be written.
        The old one is then as it was.
    """
    file = sqlite_file(url)
    if file is None:
        from mlbench.backends.catalog_sql.replacing_on_server import replace_on_server

        return replace_on_server(url, fill)
    beside = file.with_name(f"{file.name}.new")
    with clear_errors(str(file)):
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with alone(file), _held(file) as old:
            if old is not None:
                _refuse_newer(old, file)
            _remove(beside)
            try:
                new = SqlCatalog(f"sqlite:///{beside}", durable=False)
                try:
                    fill(new)
                finally:
                    new.close()
                readable = old is not None and _take_over(old, beside)
                _settle(beside)
                _exchange(beside, file, old)
            finally:
                _remove(beside)
    return readable


@contextmanager
def _held(file: Path) -> Iterator[sqlite3.Connection | None]:
    """Lock a catalog's file against all others; with it a connection to it, or `None` if it is damaged or gone."""
    if not file.exists():
        yield None
        return
    with closing(sqlite3.connect(file, timeout=1, isolation_level=None)) as connection:
        try:
            connection.execute("PRAGMA locking_mode=EXCLUSIVE")
            connection.execute("BEGIN EXCLUSIVE")
            connection.execute("COMMIT")  # the lock stays
            whole = connection.execute("PRAGMA quick_check(1)").fetchone() == ("ok",)
        except sqlite3.DatabaseError as error:
            if "locked" in str(error):
                raise StoreError(
                    f"The catalog {file} is in use.",
                    "Stop the service with `mlbench service stop`, close JupyterLab, and try again.",
                ) from error
            whole = False
        yield connection if whole else None


def _refuse_newer(old: sqlite3.Connection, file: Path) -> None:
    try:
        found = old.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.DatabaseError:
        there = {name for (name,) in old.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if "executions" not in there:
            check_strange(there, str(file))
        return  # it has no such table: it was never whole
    if found is not None:
        check_revision(found[0], str(file))


def _take_over(old: sqlite3.Connection, beside: Path) -> bool:
    """Copy what only a catalog knows, if the old one has the tables for it; say whether it had."""
    names = ", ".join(column.name for column in firings.c)
    try:
        if old.execute("SELECT version_num FROM alembic_version").fetchone() not in {(one,) for one in REVISIONS}:
            return False
        due = old.execute("SELECT next_due, last_due, id FROM jobs").fetchall()
        fired = old.execute(f"SELECT {names} FROM firings").fetchall()  # noqa: S608  (the names of our columns)
    except sqlite3.DatabaseError:
        return False
    with closing(sqlite3.connect(beside)) as new, new:
        known = {row[0] for row in new.execute("SELECT id FROM jobs")}
        new.executemany("UPDATE jobs SET next_due = ?, last_due = ? WHERE id = ?", due)
        marks = ", ".join("?" * len(firings.c))
        there = [row for row in fired if row[0] in known]
        new.executemany(f"INSERT INTO firings ({names}) VALUES ({marks})", there)  # noqa: S608  (as above)
    return True


def _settle(beside: Path) -> None:
    """Leave no log beside a new catalog, and sync it."""
    with closing(sqlite3.connect(beside)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    _sync(beside)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exchange(beside: Path, file: Path, old: sqlite3.Connection | None) -> None:
    if old is None:
        # What cannot be read is kept beside it, its log with it: that would be taken for the new one's.
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        for end in ("-wal", "-shm", "-journal", ""):
            with suppress(FileNotFoundError):
                os.rename(f"{file}{end}", file.with_name(f"{file.stem}-damaged-{stamp}.backup{end}"))
        _sync(file.parent)
        os.rename(beside, file)
        _sync(file.parent)
    else:
        # Without a log, and without a journal on disk: one of that name would be taken for the new file's, also one
        # that a power cut brings back. Who has the file alone keeps the journal open, whatever its mode, until `OFF`.
        for mode in ("DELETE", "OFF"):
            old.execute(f"PRAGMA journal_mode={mode}")
        with suppress(FileNotFoundError):
            os.unlink(f"{file}-journal")
        old.execute("PRAGMA journal_mode=MEMORY")
        old.execute("BEGIN EXCLUSIVE")
        if old.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone() is not None:
            old.execute("UPDATE alembic_version SET version_num = ?", (REPLACED,))
        _sync(file.parent)
        os.rename(beside, file)
        _sync(file.parent)  # else the old one might be there after a power cut, and say that it is not
        old.execute("COMMIT")  # whoever has opened the old file meanwhile is told that it is none of this version


def _remove(beside: Path) -> None:
    for end in ("", "-wal", "-shm", "-journal", ".lock"):
        with suppress(FileNotFoundError):
            os.unlink(f"{beside}{end}")
