"""Tombstones stash-box records with an id that no release may hold, and removes invalid death dates.

With either of them the contract check fails, so nothing can be published. Connectors leave both out.
"""

from __future__ import annotations

from datetime import UTC, date, datetime

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

# Their ids are in no release.
_REFERENCE_SITES = (
    *("afdb", "babepedia", "boobpedia", "elitebabes", "freeones"),
    *("iafd", "indexxx", "javdatabase", "pornpics", "thenude"),
)


def upgrade() -> None:
    """Changes the rows of such records and sets their changed_at, so that the next identity run reads them again."""
    columns = ("source", "source_id", "death_date", "deleted_at", "changed_at")
    table = sa.table("source_performers", *map(sa.column, columns))
    connection = op.get_bind()
    live = sa.select(table.c.source, table.c.source_id, table.c.death_date).where(
        table.c.deleted_at.is_(None), table.c.source.not_in(_REFERENCE_SITES)
    )
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    for source, source_id, death_date in connection.execute(live).all():
        changed: dict[str, str | None] = {}
        if not _may_be_released(source_id):
            changed["deleted_at"] = now
        if death_date is not None and not _is_date(death_date):
            changed["death_date"] = None
        if changed:
            of_record = (table.c.source == source) & (table.c.source_id == source_id)
            connection.execute(sa.update(table).where(of_record).values(changed_at=now, **changed))


def _may_be_released(source_id: str) -> bool:
    plain = source_id.isprintable() and not any(character.isspace() for character in source_id)
    return bool(source_id) and plain and "/" not in source_id and source_id not in (".", "..")


def _is_date(text: str) -> bool:
    """True for a calendar date as YYYY, YYYY-MM or YYYY-MM-DD."""
    parts = text.split("-")
    widths = [len(part) for part in parts]
    if widths not in ([4], [4, 2], [4, 2, 2]) or not all(part.isascii() and part.isdigit() for part in parts):
        return False
    year, month, day = (*map(int, parts), 1, 1)[:3]
    try:
        date(year, month, day)
    except ValueError:
        return False
    return True
