import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from stash_sense_pipeline.catalog.schema import metadata

TABLES = [table.name for table in metadata.sorted_tables]


def test_alembic_finds_no_difference_between_migrations_and_schema(any_catalog):
    with any_catalog.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


def test_the_migrated_tables_are_those_of_the_schema(any_catalog):
    assert set(sa.inspect(any_catalog).get_table_names()) == {*TABLES, "alembic_version"}


def found(inspected, name):
    """What alembic does not compare: keys, cascades, unique constraints and indexes, each with its columns."""
    return {
        "columns": {column["name"]: column["nullable"] for column in inspected.get_columns(name)},
        "primary key": inspected.get_pk_constraint(name)["constrained_columns"],
        "foreign keys": {
            (
                tuple(key["constrained_columns"]),
                key["referred_table"],
                tuple(key["referred_columns"]),
                key["options"].get("ondelete"),
            )
            for key in inspected.get_foreign_keys(name)
        },
        "unique": {tuple(key["column_names"]) for key in inspected.get_unique_constraints(name)},
        "indexes": {
            tuple(index["column_names"])
            for index in inspected.get_indexes(name)
            if not index.get("duplicates_constraint")
        },
    }


def wanted(table):
    return {
        "columns": {column.name: column.nullable for column in table.columns},
        "primary key": [column.name for column in table.primary_key],
        "foreign keys": {
            (
                tuple(key.column_keys),
                key.referred_table.name,
                tuple(element.column.name for element in key.elements),
                key.ondelete,
            )
            for key in table.foreign_key_constraints
        },
        "unique": {
            tuple(key.columns.keys()) for key in table.constraints if isinstance(key, sa.UniqueConstraint)
        },
        "indexes": {tuple(index.columns.keys()) for index in table.indexes},
    }


def test_each_migrated_table_is_that_of_the_schema(any_catalog):
    inspected = sa.inspect(any_catalog)
    for table in metadata.sorted_tables:
        assert found(inspected, table.name) == wanted(table), table.name


CORE = {
    "source_performers": "source source_id name updated_at deleted_at merged_into",
    "source_images": "source image_id url state attempts sha256",
    "performer_images": "source source_id image_id",
    "faces": "face_id source image_id detection_confidence yaw quality",
    "embeddings": "face_id model vector",
    "identities": "performer_id",
    "identity_members": "performer_id source source_id",
    "identity_evidence": "",
    "suppressions": "",
    "sync_state": "source",
}


@pytest.mark.parametrize("name", CORE)
def test_the_readable_core_keeps_its_names(catalog, name):
    columns = {column["name"] for column in sa.inspect(catalog).get_columns(name)}
    assert set(CORE[name].split()) <= columns
