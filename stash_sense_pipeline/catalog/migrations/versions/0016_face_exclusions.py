"""Adds the faces that are kept out of releases, each with its reason."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the empty table. The next choice of trusted faces fills it."""
    op.create_table(
        "face_exclusions",
        sa.Column("face_id", sa.Integer(), nullable=False),
        sa.Column("performer_id", sa.Integer(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("source_id", sa.Text(), nullable=False),
        sa.Column(
            "reason", sa.Text(), nullable=False, comment="hub, outlier, not this person, not a face, ..."
        ),
        sa.Column(
            "people",
            sa.Integer(),
            nullable=True,
            comment="of a hub: the number of other people near the face",
        ),
        sa.Column("found_at", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("face_id", "performer_id", name="pk_face_exclusions"),
        sa.ForeignKeyConstraint(
            ["face_id"], ["faces.face_id"], name="fk_face_exclusions_face_id_faces", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["performer_id"],
            ["identities.performer_id"],
            name="fk_face_exclusions_performer_id_identities",
        ),
        comment="faces kept out of releases for another reason than a collision, a copy or a cap",
    )
    op.create_index("ix_face_exclusions_performer_id", "face_exclusions", ["performer_id"])
