"""Adds erasures with deleted bytes that wait to be overwritten; a catalog with earlier erasures has such bytes."""

from __future__ import annotations

from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the table, and requests one purge when the suppression list is not empty."""
    table = op.create_table(
        "pending_purges",
        sa.Column("purge_id", sa.Integer(), nullable=False),
        sa.Column("requested_at", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("purge_id", name="pk_pending_purges"),
        sqlite_autoincrement=True,
        comment="erasures after which the files of the database were not yet written anew: they hold deleted bytes",
    )
    connection = op.get_bind()
    if connection.scalar(sa.text("SELECT count(*) FROM suppressions")):
        connection.execute(sa.insert(table).values(requested_at=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"))
