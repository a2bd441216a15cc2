"""Adds visits of reference sites, and records rejected by their faces."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Creates both tables."""
    op.create_table(
        "site_visits",
        sa.Column("source", sa.Text(), nullable=False, comment="a reference site"),
        sa.Column(
            "mode", sa.Text(), nullable=False, comment="url: a listed profile; name: a search for a performer"
        ),
        sa.Column(
            "item_hash",
            sa.Text(),
            nullable=False,
            comment="keyed hash of the profile key, or of the record asked for",
        ),
        sa.Column(
            "outcome", sa.Text(), nullable=False, comment="found, not_found, gone or ambiguous: answers only"
        ),
        sa.Column("visited_at", sa.Text(), nullable=False),
        sa.Column("next_visit_at", sa.Text(), nullable=False),
        sa.Column(
            "missing_since",
            sa.Text(),
            nullable=True,
            comment="first sight of a stored profile's absence; a second one removes it",
        ),
        sa.Column(
            "etag", sa.Text(), nullable=True, comment="validator of the last answer; for a wiki, its revision"
        ),
        sa.Column("last_modified", sa.Text(), nullable=True, comment="validator of the last answer"),
        sa.PrimaryKeyConstraint("source", "mode", "item_hash", name="pk_site_visits"),
        comment="how far each reference site is read, an item at a time",
        sqlite_with_rowid=False,
    )
    op.create_table(
        "site_rejections",
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("source_id", sa.Text(), nullable=False),
        sa.Column(
            "performer_id",
            sa.Integer(),
            nullable=False,
            comment="performer that the record was compared with",
        ),
        sa.Column("faces", sa.Integer(), nullable=False, comment="faces of the record"),
        sa.Column(
            "reference_faces",
            sa.Integer(),
            nullable=False,
            comment="faces of high trust they were compared with",
        ),
        sa.Column(
            "distance",
            sa.Float(),
            nullable=False,
            comment="of the nearest two, mean cosine distance over the models",
        ),
        sa.Column(
            "agreement",
            sa.Float(),
            nullable=False,
            comment="the largest distance that would have been agreement",
        ),
        sa.Column("rejected_at", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["source", "source_id"],
            ["source_performers.source", "source_performers.source_id"],
            name="fk_site_rejections_source_source_id_source_performers",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("source", "source_id", name="pk_site_rejections"),
        comment="records of reference sites that are left out, as their faces do not match the performer's",
        sqlite_with_rowid=False,
    )
