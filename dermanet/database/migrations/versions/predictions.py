"""What was answered, for whoever watches over the model: no image, no name."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Makes the table."""
    op.create_table(
        "predictions",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("at", sa.DateTime, nullable=False),
        sa.Column("version", sa.String(32), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("age", sa.Float),
        sa.Column("sex", sa.String(16)),
        sa.Column("diagnosis", sa.String(32)),
        sa.Column("probabilities", sa.JSON(none_as_null=True)),
        sa.Column("quality", sa.Text),
        sa.Column("novelty", sa.Float),
        sa.Column("refer", sa.Text),
        sa.Column("error", sa.Text),
        sa.Column("milliseconds", sa.Float, nullable=False),
    )
    for name in ("at", "digest"):
        op.create_index(f"ix_predictions_{name}", "predictions", [name])
