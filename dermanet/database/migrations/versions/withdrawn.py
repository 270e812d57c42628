"""A refused record stays in quarantine when its source has it no more, and says so."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Adds the column: until now such a record left at the next ingest, so that there is none."""
    op.add_column("refusals", sa.Column("withdrawn", sa.Boolean, nullable=False, server_default=sa.false()))
