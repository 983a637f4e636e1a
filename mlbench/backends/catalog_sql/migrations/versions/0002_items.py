"""The items of fan-outs: what they are part of, their metrics, and indexes that each record pays for once.

Revision: 0002, after 0001.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("executions", sa.Column("part_of", sa.String(length=26), nullable=True))
    op.add_column("metrics", sa.Column("part_of", sa.String(length=26), nullable=True))
    op.add_column("metrics", sa.Column("item", sa.Integer(), nullable=True))
    op.drop_index("ix_executions_step_moment", table_name="executions")
    for table, columns, condition in (
        ("executions", ["run", "position"], "part_of IS NULL"),
        ("executions", ["key", "moment"], "key IS NOT NULL"),
        ("metrics", ["run", "execution"], "part_of IS NULL"),
        ("metrics", ["name", "value"], "part_of IS NULL"),
        ("executions", ["part_of", "item", "state"], "part_of IS NOT NULL"),
        ("metrics", ["part_of", "name", "item"], "part_of IS NOT NULL"),
    ):
        name = f"ix_{table}_{'_'.join(columns)}"
        if "part_of" not in columns:
            op.drop_index(name, table_name=table)
        where = sa.text(condition)
        op.create_index(name, table, columns, unique=False, sqlite_where=where, postgresql_where=where)
