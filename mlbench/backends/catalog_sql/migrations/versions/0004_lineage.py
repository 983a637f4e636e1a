"""Which executions bound an artifact and which were given one, filled from the executions that there are.

Revision: 0004, after 0003.
"""

import json
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_AT_ONCE = 1_000
_ENDED = ("succeeded", "failed", "cancelled", "reused", "skipped")


def upgrade() -> None:
    made = {name: _table(name) for name in ("artifacts_bound", "artifacts_read")}
    executions = sa.table("executions", *map(sa.column, ("id", "state", "record")))
    connection = op.get_bind()
    last = ""
    while True:
        query = sa.select(executions).where(executions.c.id > last).order_by(executions.c.id).limit(_AT_ONCE)
        page = connection.execute(query).all()
        if not page:
            return
        last = page[-1].id
        for name, rows in (("artifacts_bound", _bound(page)), ("artifacts_read", _read(page))):
            if found := [dict(zip(("digest", "execution", "name"), row, strict=True)) for row in sorted(set(rows))]:
                op.bulk_insert(made[name], found)


def _table(name: str) -> sa.Table:
    return op.create_table(
        name,
        sa.Column("digest", sa.String(length=80), nullable=False),
        sa.Column("execution", sa.String(length=26), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("digest", "execution", "name", name=op.f(f"pk_{name}")),
        sqlite_with_rowid=False,
    )


def _bound(page: Any) -> Iterator[tuple[str, str, str]]:
    for row in page:
        for one in (json.loads(row.record).get("binds") or ()) if row.state in _ENDED else ():
            if one.get("artifact"):
                yield one["artifact"]["digest"], row.id, one["name"]


def _read(page: Any) -> Iterator[tuple[str, str, str]]:
    for row in page:
        for one in json.loads(row.record).get("reads") or ():
            if one.get("digest"):
                yield one["digest"], row.id, one["name"]
