"""Suppressions that are not applied yet: as long as the catalog may hold people on the list, it is not read for analysis."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import sqlalchemy as sa

from stash_sense_pipeline.catalog.schema import suppressions
from stash_sense_pipeline.foundation.errors import CatalogError
from stash_sense_pipeline.privacy.suppression.suppression_file import read_suppressions_file
from stash_sense_pipeline.privacy.suppression.suppression_hashes import AWAITED_IMAGE
from stash_sense_pipeline.privacy.suppression.suppression_import import has_new_entries
from stash_sense_pipeline.privacy.suppression.suppression_key import read_key
from stash_sense_pipeline.privacy.suppression.suppression_list import load_list

_APPLY = "run stash-sense suppress apply first"


def refuse_unapplied(connection: sa.Connection) -> None:
    """Raises CatalogError when the catalog was not yet searched for its whole suppression list.

    Then it may still hold suppressed people. After `suppress apply`, and after a publish, it holds none. The URL of an
    image that no source has shown means no person yet, and is no reason to refuse.
    """
    table = suppressions
    waiting = sa.select(sa.func.count()).where(table.c.applied_at.is_(None), table.c.kind != AWAITED_IMAGE)
    if count := connection.scalar(waiting) or 0:
        raise CatalogError(
            f"{count} entries of the suppression list are not applied, so the catalog may hold suppressed people; {_APPLY}"
        )


def refuse_unimported(
    connection: sa.Connection, file: Path, key_file: Path, sources: Collection[str]
) -> None:
    """Raises CatalogError when suppressions.yaml has an entry that the list of the catalog lacks. Writes nothing.

    `sources` are the names that a target may begin with. Raises ConfigurationError for an invalid file or key.
    """
    entries = read_suppressions_file(file, sources) if file.exists() else []
    if not entries:
        return
    if not key_file.exists() or has_new_entries(load_list(connection, read_key(key_file)), entries):
        raise CatalogError(f"{file} has entries that the catalog does not know yet; {_APPLY}")
