"""The tables: each record as JSON, beside it the columns that are searched, sorted or changed by themselves.

A column that is changed by itself (a job's `next_due`, all of a firing) is the truth, and the JSON's field follows it.

Only migrations make tables and indexes. Where an index is said to be partial in SQLite it is so in PostgreSQL too: to
say that here as well would have each process that opens a catalog of SQLite load PostgreSQL's dialect.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    false,
    text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_STATES = "state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled', 'reused', 'skipped')"
_UNDER_WAY = text("state IN ('queued', 'running')")
_NO_ITEM = text("part_of IS NULL")
_ITEM = text("part_of IS NOT NULL")
_KEYED = text("key IS NOT NULL")
_NUMBER = text("value IS NOT NULL")
_NAME = Text().with_variant(Text(collation="C"), "postgresql")  # in one order everywhere, so that an index completes it

snapshots = Table(
    "snapshots", metadata, Column("digest", String(80), primary_key=True), Column("record", Text, nullable=False)
)

runs = Table(
    "runs",
    metadata,
    Column("id", String(26), primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("state", String(16), nullable=False),
    Column("notebook", Text),
    Column("notebook_id", String(26)),
    Column("job", String(26)),
    Column("kernel", Text),
    Column("owner", Text),
    Column("started", BigInteger, nullable=False),
    Column("ended", BigInteger),
    Column("record", Text, nullable=False),
    Column("name", Text),
    Column("reason", Text),
    Column("user", Text),
    Column("host", Text),
    Column("failed_step", Text),
    Column("job_version", Integer),
    Column("met", BigInteger),  # when somebody last meant to reuse a step of it
    CheckConstraint(_STATES, name="state"),
    Index(None, "started", "id"),
    Index(None, "state", "started", "id"),
    Index(None, "notebook", "started", "id"),
    Index(None, "notebook_id", "started", "id"),
    Index(None, "job", "started", "id"),
    Index(None, "kernel", "started", "id"),
    Index("ix_runs_under_way", "state", sqlite_where=_UNDER_WAY),
)

executions = Table(
    "executions",
    metadata,
    Column("id", String(26), primary_key=True),
    Column("run", String(26), nullable=False),  # no foreign key: records arrive in any order when they are indexed anew
    Column("step", Text, nullable=False),
    Column("state", String(16), nullable=False),
    Column("position", Integer),
    Column("part_of", String(26)),  # of an item: the execution of the whole fan-out
    Column("item", Integer),
    Column("attempt", Integer, nullable=False),
    Column("key", Text),
    Column("moment", BigInteger, nullable=False),  # when it started, was queued or ended: the first that is known
    Column("record", Text, nullable=False),  # without its messages, which a list does without
    Column("messages", Text),
    CheckConstraint(_STATES, name="state"),
    # Items are many, and each index that they are in has its price when they are written.
    Index("ix_executions_run_position", "run", "position", sqlite_where=_NO_ITEM),
    Index("ix_executions_part_of_item_state", "part_of", "item", "state", sqlite_where=_ITEM),
    Index("ix_executions_key_moment", "key", "moment", sqlite_where=_KEYED),
    Index("ix_executions_under_way", "state", sqlite_where=_UNDER_WAY),
)

# Which executions bound an artifact, and which were given one. Rows are added, and taken away only with their run:
# whoever reads one looks into the execution's record, so that writing an execution again costs nothing here.
artifacts_bound = Table(
    "artifacts_bound",
    metadata,
    Column("digest", String(80), primary_key=True),
    Column("execution", String(26), primary_key=True),
    Column("name", Text, primary_key=True),
    sqlite_with_rowid=False,
)

artifacts_read = Table(
    "artifacts_read",
    metadata,
    Column("digest", String(80), primary_key=True),
    Column("execution", String(26), primary_key=True),
    Column("name", Text, primary_key=True),
    sqlite_with_rowid=False,
)

metrics = Table(
    "metrics",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("run", String(26), nullable=False),
    Column("execution", String(26)),  # none: logged by the run itself
    Column("part_of", String(26)),  # of an item: the execution of the whole fan-out
    Column("item", Integer),
    Column("name", Text, nullable=False),
    Column("step", BigInteger),
    Column("value", Double),  # none: not a number (SQLite has no other word for it)
    Column("time", BigInteger, nullable=False),
    Index("ix_metrics_run_execution", "run", "execution", sqlite_where=_NO_ITEM),
    Index("ix_metrics_part_of_name_item", "part_of", "name", "item", sqlite_where=_ITEM),
)

run_metrics = Table(
    "run_metrics",  # of each metric of a run and of its steps the last value: what runs are searched and sorted by
    metadata,
    Column("run", String(26), primary_key=True),
    Column("name", _NAME, primary_key=True),
    Column("value", Double),  # none: not a number
    Column("started", BigInteger, nullable=False),  # the run's, since of equal values the newest comes first
    # Read backwards for the greatest first and forwards for the least: two, so that the newest comes first either way.
    Index("ix_run_metrics_falling", "name", "value", "started", "run", sqlite_where=_NUMBER),
    Index(
        "ix_run_metrics_rising",
        "name",
        "value",
        text("started DESC"),
        text("run DESC"),
        sqlite_where=_NUMBER,
    ),
)

params = Table(
    "params",
    metadata,
    Column("run", String(26), primary_key=True),
    Column("name", _NAME, primary_key=True),
    Column("value", Text, nullable=False),  # JSON
    Column("number", Double),
    Column("text", Text),
    Index(None, "name", "number"),
)

tags = Table(
    "tags",
    metadata,
    Column("run", String(26), primary_key=True),
    Column("name", _NAME, primary_key=True),
    Column("value", Text, nullable=False),
    Index(None, "name"),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", String(26), primary_key=True),
    Column("name", Text, nullable=False),
    Column("notebook_id", String(26)),
    Column("host", Text),
    Column("paused", Boolean, nullable=False),
    Column("deleted", Boolean, nullable=False),
    Column("next_due", BigInteger),  # UTC seconds, as all that is due
    Column("last_due", BigInteger),
    Column("created", BigInteger, nullable=False),
    Column("record", Text, nullable=False),
    Index(None, "name"),
    Index(None, "paused", "next_due"),
)

job_versions = Table(
    "job_versions",
    metadata,
    Column("job", String(26), ForeignKey("jobs.id"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("record", Text, nullable=False),
)

_QUEUED = text("state = 'queued'")

firings = Table(
    "firings",
    metadata,
    Column("job", String(26), ForeignKey("jobs.id"), primary_key=True),
    Column("due", BigInteger, primary_key=True),
    Column("manual", Boolean, primary_key=True),
    Column("state", String(16), nullable=False),
    Column("reason", Text),
    Column("run", String(26), unique=True),
    Column("token", Integer, nullable=False, server_default=text("0")),
    Column("attempt", Integer, nullable=False, server_default=text("1")),
    Column("owner", Text),
    Column("boot_id", Text),
    Column("lease_until", BigInteger),
    Column("cancel_requested", Boolean, nullable=False, server_default=false()),
    Column("skipped", Integer, nullable=False, server_default=text("0")),
    Column("created", BigInteger, nullable=False),
    Column("claimed", BigInteger),
    CheckConstraint(_STATES, name="state"),
    Index("ix_firings_queued", "due", "job", sqlite_where=_QUEUED),
)
