"""Evidence of held records: keyed hashes by which records that link to a held one are held too."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Makes the table, empty: no record is held yet."""
    op.create_table(
        "held_evidence",
        sa.Column("evidence_id", sa.Integer(), nullable=False),
        sa.Column("owner_hash", sa.Text(), nullable=False),
        sa.Column("key_hash", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("evidence_id", name="pk_held_evidence"),
        sa.UniqueConstraint("owner_hash", "key_hash", name="uq_held_evidence_owner_hash_key_hash"),
        sqlite_autoincrement=True,
        comment="what could link another record to one that is held for review; goes when that one is settled",
    )
