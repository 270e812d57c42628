"""Images, labels in revisions, refusals: what catalogues held before there were migrations."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Makes the three tables."""
    op.create_table(
        "images",
        sa.Column("digest", sa.String(64), primary_key=True, comment="SHA-256 of the stored bytes, hexadecimal"),
        sa.Column("format", sa.String(8), nullable=False),
        sa.Column("width", sa.Integer, nullable=False),
        sa.Column("height", sa.Integer, nullable=False),
        sa.Column("source", sa.Text, nullable=False, comment="where it came from first"),
    )
    op.create_table(
        "labels",
        sa.Column("digest", sa.String(64), sa.ForeignKey("images.digest"), primary_key=True),
        sa.Column("revision", sa.Integer, primary_key=True, comment="1, 2, …; the highest counts"),
        sa.Column("image_id", sa.String(128), nullable=False),
        sa.Column("lesion_id", sa.String(128), nullable=False),
        sa.Column("diagnosis", sa.String(32), nullable=False),
        sa.Column("age", sa.Float, comment="years; null where not recorded"),
        sa.Column("sex", sa.String(8), nullable=False),
        sa.Column("localization", sa.Text, nullable=False),
        sa.Column("confirmation", sa.Text, nullable=False),
        sa.Column("clinic", sa.Text, nullable=False),
    )
    op.create_index("ix_labels_lesion_id", "labels", ["lesion_id"])
    op.create_table(
        "refusals",
        sa.Column("source", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
    )
    op.create_index("ix_refusals_reason", "refusals", ["reason"])
