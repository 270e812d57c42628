"""What was forgotten, as digests alone, so that it never comes back."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Makes the table."""
    op.create_table(
        "forgotten",
        sa.Column(
            "digest", sa.String(64), primary_key=True, comment="of an image, of a file as it came, or of a lesion's id"
        ),
        sa.Column("lesion", sa.String(64), nullable=False, comment="SHA-256 of the lesion's id"),
        sa.Column("image", sa.Boolean, nullable=False, comment="whether the object store held it under this digest"),
    )
    op.create_index("ix_forgotten_lesion", "forgotten", ["lesion"])
