"""Stores the blocking keys of a record as one value: a row for each key took a third of the time of a full run."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Rebuilds identity_records without rows, so the next identity run computes everything."""
    op.drop_table("identity_keys")
    op.drop_table("identity_records")
    op.create_table(
        "identity_records",
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("source_id", sa.Text(), nullable=False),
        sa.Column("seen", sa.Text(), nullable=False, comment="which state of the record identity last saw"),
        sa.Column("pictures", sa.Text(), nullable=True, comment="which pictures and faces it had then"),
        sa.Column(
            "key_digests",
            sa.LargeBinary(),
            nullable=False,
            comment="what it was found by: 64 bits of each page, name, date and picture, ascending little-endian int64",
        ),
        sa.ForeignKeyConstraint(
            ["source", "source_id"],
            ["source_performers.source", "source_performers.source_id"],
            name="fk_identity_records_source_source_id_source_performers",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("source", "source_id", name="pk_identity_records"),
        sqlite_with_rowid=False,
    )
