"""The tables of the first version.

Revision: 0001, the first.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "executions",
        sa.Column("id", sa.String(length=26), nullable=False),
        sa.Column("run", sa.String(length=26), nullable=False),
        sa.Column("step", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("position", sa.Integer(), nullable=True),
        sa.Column("item", sa.Integer(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("key", sa.Text(), nullable=True),
        sa.Column("moment", sa.BigInteger(), nullable=False),
        sa.Column("record", sa.Text(), nullable=False),
        sa.Column("messages", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled', 'reused', 'skipped')",
            name=op.f("ck_executions_state"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_executions")),
    )
    op.create_index(op.f("ix_executions_key_moment"), "executions", ["key", "moment"], unique=False)
    op.create_index(op.f("ix_executions_run_position"), "executions", ["run", "position"], unique=False)
    op.create_index(op.f("ix_executions_step_moment"), "executions", ["step", "moment"], unique=False)
    op.create_index(
        "ix_executions_under_way",
        "executions",
        ["state"],
        unique=False,
        sqlite_where=sa.text("state IN ('queued', 'running')"),
        postgresql_where=sa.text("state IN ('queued', 'running')"),
    )
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(length=26), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("notebook_id", sa.String(length=26), nullable=True),
        sa.Column("host", sa.Text(), nullable=True),
        sa.Column("paused", sa.Boolean(), nullable=False),
        sa.Column("deleted", sa.Boolean(), nullable=False),
        sa.Column("next_due", sa.BigInteger(), nullable=True),
        sa.Column("last_due", sa.BigInteger(), nullable=True),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("record", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
    )
    op.create_index(op.f("ix_jobs_name"), "jobs", ["name"], unique=False)
    op.create_index(op.f("ix_jobs_paused_next_due"), "jobs", ["paused", "next_due"], unique=False)
    op.create_table(
        "metrics",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("run", sa.String(length=26), nullable=False),
        sa.Column("execution", sa.String(length=26), nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=True),
        sa.Column("value", sa.Double(), nullable=True),
        sa.Column("time", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_metrics")),
    )
    op.create_index(op.f("ix_metrics_name_value"), "metrics", ["name", "value"], unique=False)
    op.create_index(op.f("ix_metrics_run_execution"), "metrics", ["run", "execution"], unique=False)
    op.create_table(
        "params",
        sa.Column("run", sa.String(length=26), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("number", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("run", "name", name=op.f("pk_params")),
    )
    op.create_index(op.f("ix_params_name_number"), "params", ["name", "number"], unique=False)
    op.create_table(
        "runs",
        sa.Column("id", sa.String(length=26), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("notebook", sa.Text(), nullable=True),
        sa.Column("notebook_id", sa.String(length=26), nullable=True),
        sa.Column("job", sa.String(length=26), nullable=True),
        sa.Column("kernel", sa.Text(), nullable=True),
        sa.Column("owner", sa.Text(), nullable=True),
        sa.Column("started", sa.BigInteger(), nullable=False),
        sa.Column("ended", sa.BigInteger(), nullable=True),
        sa.Column("record", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled', 'reused', 'skipped')",
            name=op.f("ck_runs_state"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_runs")),
    )
    op.create_index(op.f("ix_runs_job_started_id"), "runs", ["job", "started", "id"], unique=False)
    op.create_index(op.f("ix_runs_kernel_started_id"), "runs", ["kernel", "started", "id"], unique=False)
    op.create_index(op.f("ix_runs_notebook_id_started_id"), "runs", ["notebook_id", "started", "id"], unique=False)
    op.create_index(op.f("ix_runs_notebook_started_id"), "runs", ["notebook", "started", "id"], unique=False)
    op.create_index(op.f("ix_runs_started_id"), "runs", ["started", "id"], unique=False)
    op.create_index(
        "ix_runs_under_way",
        "runs",
        ["state"],
        unique=False,
        sqlite_where=sa.text("state IN ('queued', 'running')"),
        postgresql_where=sa.text("state IN ('queued', 'running')"),
    )
    op.create_table(
        "snapshots",
        sa.Column("digest", sa.String(length=80), nullable=False),
        sa.Column("record", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_snapshots")),
    )
    op.create_table(
        "firings",
        sa.Column("job", sa.String(length=26), nullable=False),
        sa.Column("due", sa.BigInteger(), nullable=False),
        sa.Column("manual", sa.Boolean(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("run", sa.String(length=26), nullable=True),
        sa.Column("token", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("attempt", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("owner", sa.Text(), nullable=True),
        sa.Column("boot_id", sa.Text(), nullable=True),
        sa.Column("lease_until", sa.BigInteger(), nullable=True),
        sa.Column("cancel_requested", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("skipped", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("claimed", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled', 'reused', 'skipped')",
            name=op.f("ck_firings_state"),
        ),
        sa.ForeignKeyConstraint(["job"], ["jobs.id"], name=op.f("fk_firings_job_jobs")),
        sa.PrimaryKeyConstraint("job", "due", "manual", name=op.f("pk_firings")),
        sa.UniqueConstraint("run", name=op.f("uq_firings_run")),
    )
    op.create_index(
        "ix_firings_queued",
        "firings",
        ["due", "job"],
        unique=False,
        sqlite_where=sa.text("state = 'queued'"),
        postgresql_where=sa.text("state = 'queued'"),
    )
    op.create_table(
        "job_versions",
        sa.Column("job", sa.String(length=26), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("record", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["job"], ["jobs.id"], name=op.f("fk_job_versions_job_jobs")),
        sa.PrimaryKeyConstraint("job", "number", name=op.f("pk_job_versions")),
    )
