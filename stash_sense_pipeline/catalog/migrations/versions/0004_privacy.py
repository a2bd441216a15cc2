"""Adds the time a suppression was applied, keyed hashes and reasons of withheld records, and suppressed faces."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Changes the tables. Withheld records were hashed without a key: they are removed, read again and withheld again."""
    with op.batch_alter_table("suppressions") as table:
        table.add_column(
            sa.Column(
                "degree",
                sa.Integer(),
                nullable=False,
                server_default="0",
                comment="0: named by the operator, or of an erased person; 1: of a refused record with evidence of degree 0",
            )
        )
        table.add_column(
            sa.Column(
                "applied_at",
                sa.Text(),
                comment="when the catalog was last searched for it; null = not searched yet",
            )
        )
        table.add_column(
            sa.Column(
                "block_face",
                sa.Boolean(),
                nullable=False,
                server_default=sa.false(),
                comment="keep one protected template of the face",
            )
        )
    op.create_table(
        "suppressed_faces",
        sa.Column("template_id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("model_digest", sa.Text(), nullable=False),
        sa.Column("person", sa.Text(), nullable=False, comment="random; joins the templates of one person"),
        sa.Column("sealed", sa.LargeBinary(), nullable=False, comment="mean unit vector, AES-GCM, float32"),
        sa.Column(
            "radius", sa.Float(), nullable=False, comment="cosine distance within which a face is refused"
        ),
        sa.Column("added_at", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("template_id", name="pk_suppressed_faces"),
        sqlite_autoincrement=True,
        comment="face templates of people with block_face; a new record with such a face is refused",
    )
    op.create_index(
        "ix_source_images_suppressed",
        "source_images",
        ["source", "image_id"],
        unique=False,
        sqlite_where=sa.text("reason = 'suppressed'"),
        postgresql_where=sa.text("reason = 'suppressed'"),
    )
    op.drop_table("withheld_records")
    op.create_table(
        "withheld_records",
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("id_hash", sa.Text(), nullable=False, comment="keyed hash of the source_id"),
        sa.Column(
            "updated_at",
            sa.Text(),
            nullable=True,
            comment="the source's own time of the version that was not stored",
        ),
        sa.Column("checked_at", sa.Text(), nullable=False),
        sa.Column(
            "reason",
            sa.Text(),
            nullable=False,
            comment="suppressed, under_18, started_under_18 or unreadable_date",
        ),
        sa.Column(
            "source_id",
            sa.Text(),
            nullable=True,
            comment="shown for review; null for a suppressed record, which is kept as a hash only",
        ),
        sa.PrimaryKeyConstraint("source", "id_hash", name="pk_withheld_records"),
        comment="records read and not stored (not of an adult, suppressed), so that they are not read in every run",
    )
