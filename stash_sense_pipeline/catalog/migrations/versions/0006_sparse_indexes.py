"""Makes two indexes on mostly null columns partial: a new record needs two index entries less."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_SPARSE = {
    "ix_source_images_sha256": ("source_images", ["sha256"], "sha256"),
    "ix_source_performers_source_merged_into": (
        "source_performers",
        ["source", "merged_into"],
        "merged_into",
    ),
}


def upgrade() -> None:
    """Rebuilds both indexes."""
    for name, (table, columns, sparse) in _SPARSE.items():
        op.drop_index(name, table_name=table)
        where = sa.text(f"{sparse} IS NOT NULL")
        op.create_index(name, table, columns, sqlite_where=where, postgresql_where=where)
