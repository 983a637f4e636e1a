"""When somebody last meant to reuse a step of a run, which is then not forgotten.

Revision: 0005, after 0004.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("runs", sa.Column("met", sa.BigInteger(), nullable=True))
