"""Column types that store equal values on SQLite and PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

_WITHOUT_ZONE = len("2026-01-31T04:05:06.000007")


class UtcTime(TypeDecorator[datetime]):
    """An instant, stored as ISO 8601 text in UTC, for example `2026-01-31T04:05:06.000007Z`.

    All texts have the same width, so that the order of the texts is the order of the times.
    """

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> str | None:
        """Converts an aware datetime to text. Raises ValueError for a naive one."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"a time without a zone cannot be stored: {value!r}")
        # strftime does not pad years before 1000.
        moment = value if value.tzinfo is UTC else value.astimezone(UTC)
        return moment.isoformat(timespec="microseconds")[:_WITHOUT_ZONE] + "Z"

    def process_result_value(self, value: Any | None, dialect: Dialect) -> datetime | None:
        """Converts text to an aware datetime in UTC."""
        return None if value is None else datetime.fromisoformat(value)
