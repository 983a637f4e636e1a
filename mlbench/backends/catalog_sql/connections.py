"""A catalog's connections, and each of its calls as one short transaction."""

from __future__ import annotations

import functools
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from sqlalchemy import Connection, Table, select, text

from mlbench.backends.catalog_sql import tables as t
from mlbench.backends.catalog_sql.opening import clear_errors, open_engine, sqlite_file
from mlbench.backends.catalog_sql.recording import Recorder
from mlbench.backends.catalog_sql.server import persist
from mlbench.core.errors import NotFound, StoreError
from mlbench.core.ids import is_prefix
from mlbench.core.ports import Catalog
from mlbench.core.records import Json
from mlbench.core.urls import without_password

__all__ = ["Connections", "find_row", "persistent"]

C = TypeVar("C", bound="type[Connections]")


class Connections:
    """A catalog in the database of a URL.

    Parameters
    ----------
    url
        SQLAlchemy's, as `sqlite:////home/me/.local/share/mlbench/catalog.sqlite`. A missing SQLite file is made.
    migrate
        Whether an older catalog may be brought up to date.
    durable
        Whether what is acknowledged must survive a power cut; not so while a catalog is made that nobody uses yet.

    Attributes
    ----------
    on_server
        Whether the database is one that may be away for a while.
    is_new
        Whether it held nothing when it was opened, so that a store's records may have to be indexed.
    """

    def __init__(self, url: str, *, migrate: bool = True, durable: bool = True) -> None:
        self._file = sqlite_file(url)
        self._engine = open_engine(url, migrate=migrate)
        self._writer = self._engine.execution_options(mlbench_writes=True, preserve_rowcount=True)
        self._quick_writer = self._writer.execution_options(mlbench_syncs=False)
        if not durable:
            self._writer = self._quick_writer
        self.on_server = not url.startswith("sqlite")
        self._where = str(self._file or without_password(url))
        self._fate = threading.local()
        self._recorder = Recorder(self._engine.dialect)
        self._insert = self._recorder.insert
        self._watch: sqlite3.Connection | None = None
        self._watching = threading.Lock()
        self._noted: int | None = None
        self._opened = self._state_of_file()
        self.is_new = self._holds_nothing()

    def _holds_nothing(self) -> bool:
        with self._reading() as connection:
            some = (connection.execute(select(table.c[0]).limit(1)).first() for table in (t.runs, t.jobs, t.snapshots))
            return not any(some)

    def close(self) -> None:
        """Close all connections."""
        with self._watching:
            if self._watch is not None:
                self._watch.close()
                self._watch = None
        self._engine.dispose()

    def _state_of_file(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self._file) if self._file is not None else None
        except FileNotFoundError:
            return None
        return (found.st_dev, found.st_ino) if found is not None else None

    def _look_at_file(self) -> None:
        """Let go of a file that is not the catalog any more: SQLite goes on to write one that was deleted.

        Raises
        ------
        StoreError
            If there is none under that name.
        """
        with clear_errors(self._where):
            found = self._state_of_file()
        if found == self._opened:
            return
        if found is None:
            raise StoreError(f"The catalog {self._file} is not there any more.", "Bring it, or its store, back.")
        self.close()
        self._opened = found

    def version(self) -> int:
        """Return a number that changes whenever any process has written; it means nothing to another catalog object."""
        if self._file is None:
            with self._reading() as connection:
                found = connection.execute(
                    text("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint")
                ).scalar()
                return int(found or 0)
        # SQLite counts the commits of all other connections for each, so one is needed that never writes.
        self._look_at_file()
        with self._watching, clear_errors(self._where):
            if self._watch is None:
                self._watch = sqlite3.connect(self._file, timeout=10, check_same_thread=False)
            return int(self._watch.execute("PRAGMA data_version").fetchone()[0])

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        self._look_at_file()
        with clear_errors(self._where), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def _writing(self, *, durable: bool = True) -> Iterator[Connection]:
        writer = self._writer if durable else self._quick_writer
        self._look_at_file()
        with clear_errors(self._where), writer.begin() as connection:
            yield connection
            self._fate.committing = True  # from here on an error does not say whether it was done

    def _put(self, connection: Connection, table: Table, row: Json) -> None:
        key = table.primary_key.columns.keys()
        query = self._insert(table).values(row)
        changes: Json = {name: query.excluded[name] for name in row if name not in key}
        connection.execute(query.on_conflict_do_update(index_elements=key, set_=changes))


def persistent(catalog: C) -> C:
    """Have each call of a catalog made again while its server is away: see `mlbench.backends.catalog_sql.server`."""
    for name in vars(Catalog):
        if not name.startswith("_") and name != "close":
            setattr(catalog, name, _persistent(getattr(catalog, name)))
    return catalog


def _persistent(method: Callable[..., Any]) -> Callable[..., Any]:
    settles = f"_settle_{method.__name__}"

    @functools.wraps(method)
    def call(self: Connections, *arguments: Any, **named: Any) -> Any:
        if not self.on_server:
            return method(self, *arguments, **named)
        given = tuple(list(one) if isinstance(one, Iterator) else one for one in arguments)  # they are read again
        fate = self._fate
        fate.committing, fate.claimed = False, None

        def settle() -> Any:
            look = getattr(self, settles, None) if fate.committing else None
            found = look(*given, **named) if look is not None else None  # if this fails too, it is looked at again
            fate.committing = False
            return found

        return persist(lambda: method(self, *given, **named), self._where, settle)

    return call


def _shown(given: object) -> str:
    """Return what was given in an id's place as it is shown: its beginning, where it is long."""
    text = given if isinstance(given, str) else repr(given)
    cut = text if len(text) <= 60 else f"{text[:56]} ..."
    return repr(cut) if isinstance(given, str) else cut


def find_row(connection: Connection, table: Table, prefix: str, word: str, *columns: Any) -> Any:
    """Return the record, and some columns, of the one row whose id begins with a prefix. Raise `NotFound`."""
    c = table.c
    if not is_prefix(prefix):
        raise NotFound(
            f"{_shown(prefix)} is no {word}'s id.", f"An id, or four or more letters that begin one, names a {word}."
        )
    # "{" comes after all characters of an id.
    query = select(c.record, *columns, c.id).where(c.id >= prefix, c.id < f"{prefix}{{").order_by(c.id).limit(4)
    found: Sequence[Any] = connection.execute(query).all()
    if not found:
        raise NotFound(f"There is no {word} {prefix}.", f"`mlbench {_LISTS[word]}` shows what there is.")
    if len(found) > 1:
        fitting = ", ".join(row.id[: len(prefix) + 4] for row in found[:3]) + (", …" if len(found) > 3 else "")
        raise NotFound(f"Several {word}s begin with {prefix}: {fitting}.", "Write more letters of its id.")
    return found[0]


_LISTS = {"run": "runs", "execution": "show RUN", "job": "jobs"}
