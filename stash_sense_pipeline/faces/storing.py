"""Write transactions of this room: one batch each, and one clear line when the catalog cannot take it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from stash_sense_pipeline.catalog.engine import writing
from stash_sense_pipeline.errors import CatalogError


@contextmanager
def storing(engine: sa.Engine) -> Iterator[sa.Connection]:
    """One write transaction. CatalogError when the database refuses it (full disk, lock held too long):
    nothing is stored.
    """
    try:
        with writing(engine) as connection:
            yield connection
    except sa.exc.OperationalError as error:
        where = engine.url.render_as_string(hide_password=True)
        reason = str(error.orig).strip().split("\n")[0]
        raise CatalogError(
            f"cannot write the catalog {where}: {reason}; what was stored before is whole,"
            " run again when that is put right"
        ) from error
