"""The ledger of decisions, and how often each lesion of a holdout has taken part in one."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Adds the table, empty: what was decided before is in MLflow alone; and the column, from 0 on."""
    op.add_column("sides", sa.Column("worn", sa.Integer, nullable=False, server_default="0"))
    op.create_table(
        "decisions",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("at", sa.String(32), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("run_id", sa.String(64), nullable=False),
        sa.Column("version", sa.String(16), nullable=False),
        sa.Column("snapshot", sa.String(16), nullable=False),
        sa.Column("holdout", sa.String(16), nullable=False),
        sa.Column("who", sa.Text, nullable=False),
        sa.Column("dag_run", sa.Text, nullable=False),
        sa.Column("reasons", sa.JSON, nullable=False),
        sa.Column("before", sa.JSON, nullable=False),
        sa.Column("wore", sa.Boolean, nullable=False),
    )
    for name in ("kind", "run_id", "version", "snapshot", "holdout", "dag_run"):
        op.create_index(f"ix_decisions_{name}", "decisions", [name])
