"""Whether a catalog's database is whole, looked at without making, migrating or changing it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

from sqlalchemy import inspect

from mlbench.backends.catalog_sql.opening import MADE_ANEW, clear_errors, sqlite_file
from mlbench.backends.catalog_sql.server import open_server, persist
from mlbench.core.errors import StoreError
from mlbench.core.urls import without_password

__all__ = ["problem_of"]

_PATIENCE: Final = 10.0


def problem_of(url: str, *, expected: bool) -> str | None:
    """Read all of a catalog's database and return what is wrong with it, a sentence; `None` if it is whole.

    Of one on a server it is only looked whether its tables are there: the server looks after its pages.

    Parameters
    ----------
    url
        The catalog's.
    expected
        Whether there is something that it should know, so that it is damage if it is gone.

    Raises
    ------
    StoreError
        If it cannot be told: somebody has it locked, its disk cannot be read, or its server does not answer.
    """
    file = sqlite_file(url)
    where = str(file or without_password(url))
    if file is None:
        there = persist(lambda: _tables(url), where)
    elif not file.exists():
        there = set()
    else:
        try:
            with clear_errors(where):
                there, problem = _read_all(file)
        except StoreError as error:
            if error.remedy != MADE_ANEW:
                raise
            return error.message
        except sqlite3.DatabaseError as error:
            return f"The catalog {where} is damaged: {error}."
        if problem is not None:
            return f"The catalog {where} is damaged: {problem}"
    if not there:
        return f"The catalog {where} is gone." if expected else None
    lost = [name for name in ("alembic_version", "runs", "executions") if name not in there]
    return f"The catalog {where} is damaged: it has no table {', '.join(lost)}." if lost else None


def _tables(url: str) -> set[str]:
    engine = open_server(url)
    try:
        return set(inspect(engine).get_table_names())
    finally:
        engine.dispose()


def _read_all(file: Path) -> tuple[set[str], str | None]:
    """Return the tables of a file of SQLite, and what is wrong in its pages, if anything is."""
    with closing(sqlite3.connect(file, timeout=_PATIENCE)) as connection:
        there = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        found = [str(line) for (line,) in connection.execute("PRAGMA integrity_check(3)")]
    return there, None if found == ["ok"] else " ".join(line.replace("\n", " ").rstrip(".") + "." for line in found)
