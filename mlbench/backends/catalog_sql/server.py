"""A catalog on a PostgreSQL server: one that is restarted, goes away for a while, or does not answer.

Every call of a catalog is one short transaction that may be made again: what it writes has keys of its own, so that
writing it twice is writing it once. Where the connection is lost before the server has said that a transaction is
committed, its fate is read back by these keys. Nothing waits without an end: not for a connection, an answer or a lock.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from mlbench.core.errors import StoreError

__all__ = ["PATIENCE", "Settle", "alone_on_server", "open_server", "persist"]

_LOG = logging.getLogger(__name__)

T = TypeVar("T")
Settle = Callable[[], T | None]

PATIENCE: Final = 20.0
"""Seconds for which a server that is gone is asked again; a restart with recovery takes one or a few."""

_CONNECT_SECONDS: Final = 5
_ANSWER_SECONDS: Final = 30.0
"""Seconds without a word after which a server, or the way to it, is given up."""

_LONGEST_PAUSE: Final = 1.0
_FIRST_PAUSE: Final = 0.05

_SETTINGS: Final = (
    "SET lock_timeout = '10s'; SET statement_timeout = '60s'; SET idle_in_transaction_session_timeout = '15s'"
)
_LASTING: Final = {
    "keepalives_idle": "20",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",
    "application_name": "mlbench",
}

_MIGRATES: Final = 7_283_104_416_531_202_121
"""The number of the lock that one process at a time holds while it makes or migrates the tables."""

REPLACES: Final = _MIGRATES + 1
"""The number of the lock that one process at a time holds while it makes a catalog anew."""


def open_server(url: str) -> Engine:
    """Return an engine on a server's database. Nothing is connected yet.

    Raises
    ------
    StoreError
        If its driver is not installed.
    """
    try:
        engine = create_engine(
            make_url(url).set(drivername="postgresql+psycopg"), pool_size=4, max_overflow=12, pool_timeout=PATIENCE
        )
    except ModuleNotFoundError as error:
        raise StoreError(
            "A catalog on PostgreSQL needs psycopg, which is not installed here.",
            '`pip install "mlbench[postgresql]"`.',
        ) from error

    @event.listens_for(engine, "do_connect")
    def connect(_dialect: Any, _record: Any, arguments: Any, named: dict[str, Any]) -> Any:
        return _connection_class().connect(*arguments, **{"connect_timeout": _CONNECT_SECONDS, **_LASTING, **named})

    @event.listens_for(engine, "connect")
    def connected(connection: Any, _record: Any) -> None:
        connection.execute(_SETTINGS)
        connection.commit()

    return engine


@functools.cache
def _connection_class() -> Any:
    import psycopg

    class Patient(psycopg.Connection[Any]):
        """A connection that is given up when nothing is heard for some time, whatever the network thinks of it."""

        patience = _ANSWER_SECONDS

        def wait(self, gen: Any, *arguments: Any, **named: Any) -> Any:
            return super().wait(_limited(gen, self), *arguments, **named)

    return Patient


def _limited(steps: Generator[Any, Any, T], connection: Any) -> Generator[Any, Any, T]:
    """Go through psycopg's steps, of which each waits for the socket a moment, until nothing was heard for too long."""
    import psycopg

    end = time.monotonic() + connection.patience
    try:
        wanted = next(steps)
        while True:
            ready = yield wanted
            if ready:
                end = time.monotonic() + connection.patience
            elif time.monotonic() > end:
                steps.close()
                connection.pgconn.finish()
                raise psycopg.OperationalError(f"it has not answered for {connection.patience:.0f} s")
            wanted = steps.send(ready)
    except StopIteration as done:
        result: T = done.value
        return result


@contextmanager
def alone_on_server(engine: Engine, number: int = _MIGRATES) -> Iterator[Connection]:
    """Yield a connection with a transaction in which this process alone makes or migrates the tables.

    Who is killed in it leaves nothing: PostgreSQL undoes the making of tables too.
    """
    with engine.connect() as connection:
        raw: Any = connection.connection.dbapi_connection
        raw.patience = 3600.0  # large tables take their time
        try:
            with connection.begin():
                connection.execute(text("SET LOCAL lock_timeout = '120s'"))
                connection.execute(text("SET LOCAL statement_timeout = 0"))
                connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
                connection.execute(text("SELECT pg_advisory_xact_lock(:one)"), {"one": number})
                yield connection
        finally:
            raw.patience = _ANSWER_SECONDS


def persist(call: Callable[[], T], where: str, settle: Settle[T] | None = None, *, patience: float = PATIENCE) -> T:
    """Return what a call says; make it again, for some time, as long as the server is away.

    Parameters
    ----------
    where
        The server's address, as people may see it.
    settle
        Looks what became of a call whose connection was lost: what it would have returned if it has been done, `None`
        if it has not.

    Raises
    ------
    StoreError
        If the server cannot be reached, or refuses.
    """
    end = time.monotonic() + patience
    pause = _FIRST_PAUSE
    lost = False
    while True:
        try:
            if lost and settle is not None and (done := settle()) is not None:
                return done
            return call()
        except (DBAPIError, PoolTimeout) as error:
            fate = _fate_of(error)
            if fate is None:
                raise
            sentence, remedy, temporary = fate
            if not temporary or time.monotonic() + pause > end:
                raise StoreError(f"The catalog {where} {sentence}", remedy) from error
            if not lost:
                _LOG.warning("The catalog %s %s It is tried again.", where, sentence)
            lost = True
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


def _fate_of(error: DBAPIError | PoolTimeout) -> tuple[str, str, bool] | None:
    """Return what an error says of the server, what to do, and whether to ask again; `None` for a mistake of ours."""
    if isinstance(error, PoolTimeout):
        return f"had no free connection for {PATIENCE:.0f} s.", "Try again.", False
    said = error.orig
    code = getattr(said, "sqlstate", None) or ""
    line = " ".join(str(said).split())
    for sign, sentence, remedy in _REFUSALS:
        if code.startswith(sign) if sign[0].isdigit() else sign in line:
            return sentence, remedy, False
    if code in _AGAIN:
        return f"asks for patience: {_first(line)}.", _LOOK, True
    lost = error.connection_invalidated or code.startswith(_AWAY)
    if lost or (not code and isinstance(error, OperationalError | InterfaceError)):
        return f"cannot be reached: {_first(line)}.", _LOOK, True
    if not code:
        return f"cannot be used: {_first(line)}.", _LOOK, False
    return None


def _first(line: str) -> str:
    """Return the beginning of what a driver says, without its advice."""
    line = line.partition(" Is the server running")[0].partition(" This probably means")[0]
    return (line if len(line) <= 200 else f"{line[:197]}…").rstrip(". ")


_LOOK: Final = "See that the server runs and can be reached from here, then try again."
_AGAIN: Final = frozenset({"40001", "40P01"})
_AWAY: Final = ("08", "57P", "53300")
"""SQLSTATE of lost connections, of a server that starts or stops, and of one with as many clients as it takes."""

_ACCESS: Final = "See to the name and password in `catalog`, MLBENCH_CATALOG or ~/.pgpass."

_REFUSALS: Final = (
    ("28", "refuses this user.", _ACCESS),
    ("authentication failed", "refuses this user.", _ACCESS),
    ("no password supplied", "asks for a password.", _ACCESS),
    ("no pg_hba.conf entry", "lets nobody in from this machine.", "Ask whoever runs the server."),
    ("3D000", "has no such database.", "Create it with `createdb`, or name another."),
    ('" does not exist', "has no such database or user.", "Create it with `createdb`, or name another."),
    ("42501", "does not allow this user to do that.", "Ask whoever runs the server for the rights on its tables."),
    ("25006", "cannot be written: it is a read-only copy.", "Name the server that is written to."),
    ("53100", "has no space left on its disk.", "Free some, then try again."),
    ("55P03", "was held by another process for more than 10 s.", "Try again; `pg_stat_activity` shows who holds it."),
    ("57014", "took more than 60 s for one question.", "Ask for less, or see what the server is busy with."),
)
