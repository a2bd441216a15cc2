"""Visits of reference sites."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Creates the table of visits."""
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
