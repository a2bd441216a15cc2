"""Every stored field has a purpose, and every table is reached by an erasure."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from stash_sense_pipeline.catalog.schema import metadata
from stash_sense_pipeline.privacy.data_inventory import PURPOSES
from stash_sense_pipeline.privacy.erasure import BELONGS

# Tables without a row about a single person.
WITHOUT_PEOPLE = {
    "sync_state",
    "suppressions",
    "suppressed_faces",
    "held_evidence",
    "identity_runs",
    "identity_hubs",
    "pending_purges",
    "claimed_releases",
    "sense2_releases",
    "site_visits",
}
TABLES = sorted(metadata.tables)
# Words for data that no table may hold.
NEVER = ("legal", "birthplace", "address", "email", "phone", "bio", "note", "comment", "thumbnail", "jpeg")


@pytest.mark.parametrize("table", TABLES)
def test_each_stored_column_has_a_purpose_in_the_inventory(table: str) -> None:
    known = PURPOSES.get(table, {})
    missing = [column.name for column in metadata.tables[table].columns if column.name not in known]
    assert not missing, (
        f"{table}.{missing[0]} has no purpose: say in privacy/data_inventory.py why it is stored, where it is from and"
        " whether a release holds it - or leave it out"
    )


@pytest.mark.parametrize("table", sorted(PURPOSES))
def test_every_purpose_belongs_to_a_column(table: str) -> None:
    if table in metadata.tables:
        assert [name for name in PURPOSES[table] if name not in metadata.tables[table].columns] == []


def test_no_purpose_is_empty_or_has_outer_blanks() -> None:
    for columns in PURPOSES.values():
        for purpose in columns.values():
            assert len(purpose.why.split()) >= 1
            assert purpose.why.strip() == purpose.why


@pytest.mark.parametrize("table", TABLES)
def test_no_column_name_tells_of_forbidden_data(table: str) -> None:
    for column in metadata.tables[table].columns:
        assert not any(word in column.name for word in NEVER), f"{table}.{column.name}"


@pytest.mark.parametrize("table", TABLES)
def test_each_table_with_personal_columns_is_covered_by_an_erasure(table: str) -> None:
    if table in WITHOUT_PEOPLE or table == "identities":
        return
    columns = set(metadata.tables[table].columns.keys())
    named = any(columns.issuperset(names) for names in BELONGS)
    cascades = any(
        isinstance(constraint, sa.ForeignKeyConstraint) and constraint.ondelete == "CASCADE"
        for constraint in metadata.tables[table].constraints
    )
    assert named or cascades, (
        f"nothing of {table} goes when a person is erased: give it columns of privacy.erasure.BELONGS, or a foreign"
        " key with ON DELETE CASCADE to a table that has them; or name it in WITHOUT_PEOPLE if no row is about a person"
    )
