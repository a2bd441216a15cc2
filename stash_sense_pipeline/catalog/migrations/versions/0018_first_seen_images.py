"""Adds the time at which a source first listed an image."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the column. It is null for the images that the catalog has: they count as seen before any face."""
    op.add_column(
        "source_images",
        sa.Column(
            "first_seen_at",
            sa.Text(),
            nullable=True,
            comment="when the source first listed the image; null: before this was recorded",
        ),
    )
