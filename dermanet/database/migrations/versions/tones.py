"""How light the skin around a lesion is."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Adds the column; images from before have no value there until they are taken in again into another catalogue."""
    op.add_column("images", sa.Column("ita", sa.Float))
