"""What runs are searched and sorted by: more of their columns, their tags, and the last value of each metric.

Revision: 0003, after 0002.
"""

import json

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

COLUMNS = {"name": sa.Text, "reason": sa.Text, "user": sa.Text, "host": sa.Text, "failed_step": sa.Text}
BATCH = 1_000


def upgrade() -> None:
    name = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
    for column, kind in COLUMNS.items():
        op.add_column("runs", sa.Column(column, kind(), nullable=True))
    op.add_column("runs", sa.Column("job_version", sa.Integer(), nullable=True))
    op.add_column("params", sa.Column("text", sa.Text(), nullable=True))
    if op.get_bind().dialect.name == "postgresql":
        op.alter_column("params", "name", type_=sa.Text(collation="C"))
    op.create_index(op.f("ix_runs_state_started_id"), "runs", ["state", "started", "id"], unique=False)
    op.drop_index("ix_metrics_name_value", table_name="metrics")
    op.create_table(
        "tags",
        sa.Column("run", sa.String(length=26), nullable=False),
        sa.Column("name", name, nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("run", "name", name=op.f("pk_tags")),
    )
    op.create_table(
        "run_metrics",
        sa.Column("run", sa.String(length=26), nullable=False),
        sa.Column("name", name, nullable=False),
        sa.Column("value", sa.Double(), nullable=True),
        sa.Column("started", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("run", "name", name=op.f("pk_run_metrics")),
    )
    _fill_runs()
    _fill_params()
    op.execute(
        "INSERT INTO run_metrics (run, name, value, started) SELECT run, name, value, started FROM ("
        "SELECT metrics.run, metrics.name, metrics.value, coalesce(runs.started, 0) AS started, row_number() OVER "
        "(PARTITION BY metrics.run, metrics.name ORDER BY metrics.time DESC, metrics.id DESC) AS place "
        "FROM metrics LEFT JOIN runs ON runs.id = metrics.run WHERE metrics.part_of IS NULL) AS ordered WHERE place = 1"
    )
    op.create_index(op.f("ix_tags_name"), "tags", ["name"], unique=False)
    is_number = sa.text("value IS NOT NULL")
    for index, columns in (
        ("falling", ["name", "value", "started", "run"]),
        ("rising", ["name", "value", sa.text("started DESC"), sa.text("run DESC")]),
    ):
        op.create_index(
            f"ix_run_metrics_{index}",
            "run_metrics",
            columns,  # type: ignore[arg-type]
            unique=False,
            sqlite_where=is_number,
            postgresql_where=is_number,
        )


def _fill_runs() -> None:
    bind = op.get_bind()
    runs = sa.table(
        "runs", sa.column("id"), sa.column("record"), *(sa.column(one) for one in (*COLUMNS, "job_version"))
    )
    tags = sa.table("tags", sa.column("run"), sa.column("name"), sa.column("value"))
    changed: dict[str, sa.BindParameter[object]] = {
        one: sa.bindparam(f"new_{one}") for one in (*COLUMNS, "job_version")
    }
    change = sa.update(runs).where(runs.c.id == sa.bindparam("which")).values(**changed)
    last = ""
    while found := bind.execute(
        sa.select(runs.c.id, runs.c.record).where(runs.c.id > last).order_by(runs.c.id).limit(BATCH)
    ).all():
        records = [(row.id, json.loads(row.record)) for row in found]
        bind.execute(
            change,
            [{"which": run} | {f"new_{one}": _text(record.get(one)) for one in changed} for run, record in records],
        )
        new = [
            {"run": run, "name": _text(name), "value": _text(value)}
            for run, record in records
            for name, value in (record.get("tags") or {}).items()
        ]
        if new:
            bind.execute(sa.insert(tags), new)
        last = found[-1].id


def _fill_params() -> None:
    bind = op.get_bind()
    params = sa.table("params", *(sa.column(one) for one in ("run", "name", "value", "number", "text")))
    c = params.c
    bind.execute(sa.update(params).where(c.value.in_(("true", "false"))).values(number=None))
    change = sa.update(params).where(c.run == sa.bindparam("one"), c.name == sa.bindparam("which"))
    run, name = "", ""
    while found := bind.execute(
        sa.select(c.run, c.name, c.value)
        .where(sa.or_(c.run > run, sa.and_(c.run == run, c.name > name)), c.value.like('"%'))
        .order_by(c.run, c.name)
        .limit(BATCH)
    ).all():
        bind.execute(
            change.values(text=sa.bindparam("new")),
            [{"one": row.run, "which": row.name, "new": _text(json.loads(row.value))} for row in found],
        )
        run, name = found[-1].run, found[-1].name


def _text(value: object) -> object:
    return value.replace("\0", "\N{REPLACEMENT CHARACTER}") if isinstance(value, str) else value
