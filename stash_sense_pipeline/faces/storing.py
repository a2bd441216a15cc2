"""Write transactions of this room: one batch each, and one clear line when the catalog cannot take it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from stash_sense_pipeline.catalog.engine import shown_url, writing
from stash_sense_pipeline.errors import CatalogError


@contextmanager
def storing(engine: sa.Engine) -> Iterator[sa.Connection]:
    """One write transaction. CatalogError when the database refuses it (full disk, lock held too long):
    nothing is stored.
    """
    with in_one_line(engine), writing(engine) as connection:
        yield connection


@contextmanager
def in_one_line(engine: sa.Engine) -> Iterator[None]:
    """Raises CatalogError for what the database refuses in the block."""
    try:
        yield
    except sa.exc.OperationalError as error:
        where = shown_url(engine.url)
        reason = str(error.orig).strip().split("\n")[0]
        raise CatalogError(
            f"cannot write the catalog {where}: {reason}; what was stored before is whole,"
            " run again when that is put right"
        ) from error
