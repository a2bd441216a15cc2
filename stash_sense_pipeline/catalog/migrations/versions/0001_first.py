"""The first schema."""

from __future__ import annotations

from alembic import op

from stash_sense_pipeline.catalog.schema import metadata

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Creates every table."""
    metadata.create_all(op.get_bind())
