"""Puts a catalog that was made anew into the place of one on a server, while others go on using it.

The new tables are made and filled in a schema of their own. Then one transaction locks the old ones, so that whoever
writes waits and whoever reads goes on, takes over what has come meanwhile and what no record says, drops the old tables
and moves the new ones into their place. Whoever is killed before it commits leaves that schema, which the next one
makes anew, and the old catalog as it was.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from typing import Final

from sqlalchemy import Connection, inspect, make_url, or_, select, text
from sqlalchemy.exc import DBAPIError

from mlbench.backends.catalog_sql import tables as t
from mlbench.backends.catalog_sql.catalog import SqlCatalog
from mlbench.backends.catalog_sql.rows import decode
from mlbench.backends.catalog_sql.server import REPLACES, alone_on_server, open_server, persist
from mlbench.core.records import Execution, Run
from mlbench.core.urls import without_password

__all__ = ["replace_on_server"]

_WAIT: Final = "600ms"
"""How long a lock is waited for at a time: less than the second after which the server ends one of two who wait."""

_TRIES: Final = 100
_PAUSE: Final = 0.1
"""Seconds between two tries."""

_HELD: Final = {"40P01", "55P03"}
"""SQLSTATE of a deadlock, and of a lock that was not got in time."""

_OURS: Final = (*(table.name for table in t.metadata.sorted_tables), "alembic_version")


def replace_on_server(url: str, fill: Callable[[SqlCatalog], None]) -> bool:
    """Make a catalog anew and put it into the place of the old one: see `replace_catalog`.

    `fill` is called several times with the new one: each time it adds what has come since.
    """
    where = str(without_password(url))
    return persist(lambda: _replace(url, fill), where, patience=0.0)


def _replace(url: str, fill: Callable[[SqlCatalog], None]) -> bool:
    whole = _is_whole(url)
    engine = open_server(url)
    try:
        with alone_on_server(engine, REPLACES) as connection:
            place = str(connection.execute(text("SELECT current_schema()")).scalar_one())
            beside = f"{place}_new"
            with engine.begin() as other:
                _remove(other, beside)
                other.execute(text(f"CREATE SCHEMA {_quoted(beside)}"))
            with closing(SqlCatalog(_within(url, beside))) as new:
                fill(new)
                fill(new)  # so that little is left for the time in which all others wait
                _lock(connection)
                fill(new)
                if whole:
                    _take_over(connection, new, beside)
            _exchange(connection, place, beside)
    except BaseException:
        # Not while somebody else makes one; and what cannot be removed now is removed by the next.
        with suppress(DBAPIError), alone_on_server(engine, REPLACES) as connection:
            place = str(connection.execute(text("SELECT current_schema()")).scalar_one())
            _remove(connection, f"{place}_new")
        raise
    finally:
        engine.dispose()
    return whole


def _remove(connection: Connection, schema: str) -> None:
    connection.execute(text(f"DROP SCHEMA IF EXISTS {_quoted(schema)} CASCADE"))


def _is_whole(url: str) -> bool:
    """Say whether the old catalog can be read, after it was brought up to date. Raise `StoreError` if it is newer."""
    try:
        with closing(SqlCatalog(url)) as old, old._engine.connect() as connection:
            return set(inspect(connection).get_table_names()).issuperset(_OURS)
    except DBAPIError:
        return False  # a table is missing, or is not as it should be


def _within(url: str, schema: str) -> str:
    """Return the URL of the same database with a schema in which all tables are."""
    parsed = make_url(url)
    given = parsed.query.get("options", "")
    options = f"{given if isinstance(given, str) else ' '.join(given)} -csearch_path={_quoted(schema)}".strip()
    return parsed.update_query_dict({"options": options}).render_as_string(hide_password=False)


def _quoted(name: str) -> str:
    doubled = name.replace('"', '""')
    return f'"{doubled}"'


def _lock(connection: Connection) -> None:
    """Have all others wait who are about to write; who reads goes on."""
    names = set(inspect(connection).get_table_names())
    connection.execute(text(f"SET LOCAL lock_timeout = '{_WAIT}'"))
    if there := [name for name in _OURS if name in names]:
        _patiently(connection, [f"LOCK TABLE {', '.join(there)} IN EXCLUSIVE MODE"])


def _patiently(connection: Connection, statements: Sequence[str]) -> None:
    """Execute statements that need locks, all of them or none; let those go on who hold some, and try again.

    Others lock tables in orders of their own. Who waits for us while we wait for him is not let down: we give up first.
    """
    for left in range(_TRIES, 0, -1):
        try:
            with connection.begin_nested():
                for statement in statements:
                    connection.execute(text(statement))
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) not in _HELD or left == 1:
                raise
            time.sleep(_PAUSE)
        else:
            return


def _take_over(connection: Connection, new: SqlCatalog, beside: str) -> None:
    """Copy what only a catalog knows: what is under way, firings, when jobs are due, and which runs were met."""
    for table in (t.runs, t.executions):
        under_way = or_(table.c.state == text("'queued'"), table.c.state == text("'running'"))
        records = list(connection.execute(select(table.c.record).where(under_way)).scalars())
        if table is t.runs:
            new.put_runs([decode(record, Run) for record in records])
        else:
            new.put_executions([decode(record, Execution) for record in records])
    names, schema = ", ".join(_quoted(column.name) for column in t.firings.c), _quoted(beside)
    known = f"SELECT id FROM {schema}.jobs"  # noqa: S608  (here and below: the names of our tables and columns)
    same = "FROM {0} AS old WHERE old.id = " + schema + ".{0}.id"
    for statement in (
        f"INSERT INTO {schema}.firings ({names}) SELECT {names} FROM firings WHERE job IN ({known})",  # noqa: S608
        f"UPDATE {schema}.jobs SET (next_due, last_due) = (old.next_due, old.last_due) {same.format('jobs')}",  # noqa: S608
        f"UPDATE {schema}.runs SET met = old.met {same.format('runs')}",  # noqa: S608
    ):
        connection.execute(text(statement))


def _exchange(connection: Connection, place: str, beside: str) -> None:
    """Drop the old tables, and move the new ones into their place, with the owner and the rights of the old ones."""
    there = set(inspect(connection).get_table_names())
    rights = _rights(connection, place, beside)
    old = [f"{_quoted(place)}.{name}" for name in _OURS if name in there]
    statements = [
        *([f"DROP TABLE {', '.join(old)}"] if old else []),
        *rights,
        *(f"ALTER TABLE {_quoted(beside)}.{name} SET SCHEMA {_quoted(place)}" for name in _OURS),
        f"DROP SCHEMA {_quoted(beside)}",
    ]
    _patiently(connection, statements)


def _rights(connection: Connection, place: str, beside: str) -> list[str]:
    """Return the statements that give the new tables and their sequences the owner and the rights of the old ones."""
    schema = _quoted(beside)
    found = connection.execute(_RIGHTS, {"place": place, "ours": list(_OURS)}).all()
    owners = {row.name: row.owner for row in found if row.is_table and row.owner != row.me}
    granted = [
        f"GRANT {row.right} ON {'TABLE' if row.is_table else 'SEQUENCE'} {schema}.{_quoted(row.name)} TO "
        f"{'PUBLIC' if row.grantee is None else _quoted(row.grantee)}"
        for row in found
        if row.right is not None
    ]
    return [*granted, *(f"ALTER TABLE {schema}.{name} OWNER TO {_quoted(owner)}" for name, owner in owners.items())]


_RIGHTS: Final = text("""
SELECT c.relname AS name, c.relkind = 'r' AS is_table, pg_get_userbyid(c.relowner) AS owner, current_user AS me,
       acl.privilege_type AS right, grantee.rolname AS grantee
FROM pg_class AS c
LEFT JOIN LATERAL aclexplode(c.relacl) AS acl ON acl.grantee <> c.relowner
LEFT JOIN pg_roles AS grantee ON grantee.oid = acl.grantee
WHERE c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = :place)
  AND (c.relname = ANY(:ours) OR c.relkind = 'S' AND c.relname = 'metrics_id_seq')
  AND c.relkind IN ('r', 'S')
""")
