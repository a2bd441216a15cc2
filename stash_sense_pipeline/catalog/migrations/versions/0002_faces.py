"""Adds the perceptual hash of images, which identifies copies in other encodings."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the column. Images that were processed before have no hash and count as different pictures."""
    with op.batch_alter_table("source_images") as table:
        table.add_column(
            sa.Column(
                "picture_hash",
                sa.Text,
                comment="perceptual hash (faces.pictures) of an image with a face: copies differ in few of its 64 bits",
            )
        )
