"""Adds evidence of held records: keyed hashes by which records that link to a held record are held too."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_COMMENTS = (
    ("suppressions", "kind", "record, url, image, persona, other; key: which key made the hashes"),
    ("withheld_records", "reason", "suppressed, held, held_linked, under_18, ..."),
)


def upgrade() -> None:
    """Adds the empty table, as no record is held yet. Updates comments with the new kinds and reasons."""
    op.create_table(
        "held_evidence",
        sa.Column("evidence_id", sa.Integer(), nullable=False),
        sa.Column("owner_hash", sa.Text(), nullable=False, comment="keyed hash of the record that is held"),
        sa.Column(
            "key_hash",
            sa.Text(),
            nullable=False,
            comment="keyed hash of an id, a page, or a name with a birth date",
        ),
        sa.PrimaryKeyConstraint("evidence_id", name="pk_held_evidence"),
        sa.UniqueConstraint("owner_hash", "key_hash", name="uq_held_evidence_owner_hash_key_hash"),
        sqlite_autoincrement=True,
        comment="what could link another record to one that is held for review; goes when that one is settled",
    )
    # SQLite keeps no comments of columns.
    if op.get_bind().dialect.name == "postgresql":
        for table, column, comment in _COMMENTS:
            op.alter_column(table, column, comment=comment)
