"""Values of parametrized tests by database."""

from __future__ import annotations

from typing import Any

import pytest


def by_database(first: Any, *others: Any) -> list[Any]:
    """All values with SQLite, and the first one with PostgreSQL too, as the database does not depend on the value.

    Use it for the names ("any_catalog", name), with any_catalog as indirect.
    """
    on_sqlite = [pytest.param("sqlite", value) for value in (first, *others)]
    return [*on_sqlite, pytest.param("postgresql", first, marks=pytest.mark.postgres)]
