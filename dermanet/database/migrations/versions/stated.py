"""What an S3 server calls a file's bytes, so that one that is known is not fetched again."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Adds the column; files from before are read once more, at their next ingest from a bucket."""
    op.add_column("originals", sa.Column("md5", sa.String(32)))
    op.create_index("ix_originals_md5", "originals", ["md5"])
