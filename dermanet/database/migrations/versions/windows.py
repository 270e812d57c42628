"""What photographs of predictions look like in figures, and the verdicts on windows of them."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Adds the columns, which are null for predictions from before, and makes the table."""
    for name in ("brightness", "contrast", "detail"):
        op.add_column("predictions", sa.Column(name, sa.Float))
    op.add_column("predictions", sa.Column("sketch", sa.JSON(none_as_null=True)))
    op.create_table(
        "windows",
        sa.Column("start", sa.DateTime, primary_key=True),
        sa.Column("days", sa.Integer, primary_key=True),
        sa.Column("version", sa.String(32), primary_key=True),
        sa.Column("verdict", sa.String(16), nullable=False),
        sa.Column("images", sa.Integer, nullable=False),
        sa.Column("record", sa.JSON, nullable=False),
        sa.Column("at", sa.String(32), nullable=False),
        sa.Column("dag_run", sa.Text, nullable=False),
        sa.Column("report", sa.String(64), nullable=False),
    )
    op.create_index("ix_windows_dag_run", "windows", ["dag_run"])
