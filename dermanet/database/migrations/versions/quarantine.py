"""A refusal keeps its record, its file and what was decided about it, and has an id to call it by."""

import sqlalchemy as sa
from alembic import op

from dermanet.records import refusal_id

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Adds the columns; refusals from before have an id, and the rest comes with the next ingest of their source."""

    def text(name: str, kind: sa.types.TypeEngine[str]) -> sa.Column[str]:
        return sa.Column(name, kind, nullable=False, server_default="")

    op.add_column("refusals", text("id", sa.String(12)))
    op.add_column("refusals", sa.Column("record", sa.Text))
    op.add_column("refusals", text("lesion_id", sa.Text()))
    op.add_column("refusals", sa.Column("file", sa.String(64)))
    op.add_column("refusals", text("ruling", sa.String(8)))
    op.add_column("refusals", text("fingerprint", sa.String(64)))
    refusals = sa.table("refusals", sa.column("source"), sa.column("name"), sa.column("id"))
    connection = op.get_bind()
    for row in connection.execute(sa.select(refusals)).all():
        ours = sa.and_(refusals.c.source == row.source, refusals.c.name == row.name)
        connection.execute(sa.update(refusals).where(ours).values(id=refusal_id(row.source, row.name)))
    op.create_index("ix_refusals_id", "refusals", ["id"])
    op.create_index("ix_refusals_lesion_id", "refusals", ["lesion_id"])
