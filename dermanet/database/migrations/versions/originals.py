"""An image is named by its bytes without metadata; the digest of the file that it came as is kept beside it."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Makes the table. Images from before were stored as they came: each is its own original."""
    op.create_table(
        "originals",
        sa.Column("original", sa.String(64), primary_key=True, comment="SHA-256 of a file as it came"),
        sa.Column("digest", sa.String(64), sa.ForeignKey("images.digest"), nullable=False),
    )
    op.create_index("ix_originals_digest", "originals", ["digest"])
    op.execute("INSERT INTO originals (original, digest) SELECT digest, digest FROM images")
