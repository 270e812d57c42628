"""What images look like, patients, sides that are kept, batches with their receipts, and the history of snapshots."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Adds columns and tables. What images from before look like is measured before the next snapshot."""
    for name in ("brightness", "contrast", "detail"):
        op.add_column("images", sa.Column(name, sa.Float))
    op.add_column("images", sa.Column("phash", sa.String(64)))
    op.create_index("ix_images_phash", "images", ["phash"])
    op.add_column("labels", sa.Column("patient_id", sa.String(128), nullable=False, server_default=""))
    op.add_column("labels", sa.Column("batch", sa.String(16), nullable=False, server_default=""))
    op.create_index("ix_labels_patient_id", "labels", ["patient_id"])
    op.create_table(
        "sides",
        sa.Column("lesion_id", sa.String(128), primary_key=True),
        sa.Column("side", sa.String(10), nullable=False),
        sa.Column("because", sa.Text, nullable=False),
    )
    op.create_table(
        "thumbnails",
        sa.Column("digest", sa.String(64), sa.ForeignKey("images.digest"), primary_key=True),
        sa.Column("grey", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "alike",
        sa.Column("one", sa.String(64), sa.ForeignKey("images.digest"), primary_key=True),
        sa.Column("other", sa.String(64), sa.ForeignKey("images.digest"), primary_key=True),
        sa.Column("likeness", sa.Float, nullable=False),
    )
    op.create_index("ix_alike_other", "alike", ["other"])
    op.create_table(
        "parted",
        sa.Column("one", sa.String(64), primary_key=True, comment="digest of an image, the smaller of the two"),
        sa.Column("other", sa.String(64), primary_key=True),
    )
    op.create_table(
        "batches",
        sa.Column("source", sa.Text, primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("taking", sa.String(16), nullable=False),
        sa.Column("digest", sa.String(16), nullable=False),
        sa.Column("receipt", sa.Text, nullable=False),
    )
    op.create_index("ix_batches_taking", "batches", ["taking"])
    op.create_table(
        "snapshots",
        sa.Column("id", sa.String(16), primary_key=True),
        sa.Column("number", sa.Integer, nullable=False, unique=True),
        sa.Column("statistics", sa.Text),
        sa.Column("verdict", sa.String(16), nullable=False),
        sa.Column("because", sa.Text, nullable=False),
    )
    _keep_sides()


def _keep_sides() -> None:
    """Lesions from before have had a side by the hash of their id: it stays theirs, whatever they turn out to look like."""
    # Imported here and not restated: a side is for ever, so the function that decides it is as frozen as this file.
    from dermanet.split import side

    connection = op.get_bind()
    labels = sa.table("labels", sa.column("lesion_id"))
    lesions = connection.scalars(sa.select(labels.c.lesion_id).distinct().order_by(labels.c.lesion_id)).all()
    sides = sa.table("sides", sa.column("lesion_id"), sa.column("side"), sa.column("because"))
    if lesions:
        rows = [{"lesion_id": lesion, "side": side(lesion), "because": f"lesion {lesion}"} for lesion in lesions]
        connection.execute(sa.insert(sides), rows)
