"""Counts refusals of images, to retry them on other days; images that were given up get one more attempt."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zlib import crc32

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

# The next refusal is the last one.
_REFUSALS = 5
# So many days they are spread over: as many requests a day as a source has new images, or fewer.
_DAYS = 30
_A_BATCH = 1000
_LOST_REASONS = ("disallowed", "too_many_bytes", "empty", "html", "not_an_image", "truncated")


def upgrade() -> None:
    """Adds the count, and makes images due that were gone, disallowed or given up."""
    op.add_column(
        "source_images",
        sa.Column(
            "refusals",
            sa.Integer(),
            nullable=False,
            server_default=sa.text("0"),
            comment="days on which the source refused it or it was given up",
        ),
    )
    images = sa.table(
        "source_images",
        *map(sa.column, ("source", "image_id", "state", "reason", "refusals", "next_attempt_at")),
    )
    lost = sa.or_(
        images.c.state == "gone",
        sa.and_(images.c.state == "failed", images.c.next_attempt_at.is_(None)),
        sa.and_(images.c.state == "rejected", images.c.reason.in_(_LOST_REASONS)),
    )
    connection, now = op.get_bind(), datetime.now(UTC)
    found = connection.execute(sa.select(images.c.source, images.c.image_id).where(lost)).all()
    again = (
        sa.update(images)
        .where(images.c.source == sa.bindparam("of_source"), images.c.image_id == sa.bindparam("of_image"))
        .values(refusals=_REFUSALS, next_attempt_at=sa.bindparam("due"))
    )
    for start in range(0, len(found), _A_BATCH):
        connection.execute(
            again,
            [
                {"of_source": source, "of_image": image_id, "due": _spread(image_id, now)}
                for source, image_id in found[start : start + _A_BATCH]
            ],
        )


def _spread(image_id: str, now: datetime) -> str:
    """A time in the next days, the same for the same image."""
    due = now + timedelta(days=_DAYS) * (crc32(image_id.encode(errors="replace")) / 2**32)
    return due.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
