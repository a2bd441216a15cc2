from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from stash_sense_pipeline.catalog.engine import _config
from stash_sense_pipeline.catalog.schema import metadata
from stash_sense_pipeline.faces.collection.image_refusals import FINAL_REFUSALS

TABLES = [table.name for table in metadata.sorted_tables]


@pytest.mark.slow
def test_alembic_finds_no_difference_between_migrations_and_schema(any_catalog):
    with any_catalog.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


def test_the_migrated_tables_are_those_of_the_schema(any_catalog):
    assert set(sa.inspect(any_catalog).get_table_names()) == {*TABLES, "alembic_version"}


def found(inspected, name):
    """The keys, cascades, unique constraints and indexes with their columns: Alembic does not compare them."""
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
def test_each_table_of_the_readable_core_has_its_documented_columns(catalog, name):
    columns = {column["name"] for column in sa.inspect(catalog).get_columns(name)}
    assert set(CORE[name].split()) <= columns


def test_images_that_one_refusal_had_ended_are_due_again_after_the_migration(catalog):
    states = {
        "gone": ("gone", "not_found", 20),
        "kept": ("rejected", "no_face", 5),
        "disallowed": ("rejected", "disallowed", 20),
        "given-up": ("failed", "timeout", 20),
        "suppressed": ("rejected", "suppressed", 5),
    }
    config = _config()
    with catalog.begin() as connection:
        config.attributes["connection"] = connection
        # What 0007 left: the table without the column.
        connection.exec_driver_sql("ALTER TABLE source_images DROP COLUMN refusals")
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0007'")
        for name, (state, reason, count) in states.items():
            for number in range(count):
                connection.exec_driver_sql(
                    "INSERT INTO source_images (source, image_id, url, state, reason, attempts)"
                    f" VALUES ('box', '{name}{number}', 'https://a.example', '{state}', '{reason}', 5)"
                )
        command.upgrade(config, "0008")
    with catalog.connect() as connection:
        rows = connection.execute(sa.select(metadata.tables["source_images"])).all()
    now = datetime.now(UTC)
    again = [row for row in rows if row.next_attempt_at is not None]
    assert {row.image_id.rstrip("0123456789") for row in again} == {"gone", "disallowed", "given-up"}
    assert len(again) == 60
    assert {row.refusals for row in again} == {FINAL_REFUSALS - 1}
    assert all(now - timedelta(minutes=5) < row.next_attempt_at < now + timedelta(days=31) for row in again)
    assert len({row.next_attempt_at.date() for row in again}) > 10, "spread over the days"
    assert {row.refusals for row in rows if row.next_attempt_at is None} == {0}


@pytest.mark.parametrize(
    ("source", "source_id", "death_date", "is_live", "kept_date"),
    [
        ("box", "good", "2001-02-03", True, "2001-02-03"),
        ("box", "good", "2001", True, "2001"),
        ("box", "good", "2001-02-31", True, None),
        ("box", "good", "yesterday", True, None),
        ("box", "a b", None, False, None),
        ("box", "a/b", None, False, None),
        ("box", "a\nb", None, False, None),
        ("box", "..", None, False, None),
        ("iafd", "a/b", None, True, None),
    ],
)
def test_a_stored_record_that_no_release_may_hold_becomes_a_tombstone(
    catalog, source, source_id, death_date, is_live, kept_date
):
    config = _config()
    table = metadata.tables["source_performers"]
    long_ago = datetime(2026, 1, 1, tzinfo=UTC)
    with catalog.begin() as connection:
        config.attributes["connection"] = connection
        connection.execute(
            sa.insert(table).values(
                source=source,
                source_id=source_id,
                name="Ann Invented",
                death_date=death_date,
                first_seen_at=long_ago,
                changed_at=long_ago,
            )
        )
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0012'")
        command.upgrade(config, "0013")
        row = connection.execute(sa.select(table)).one()
    assert (row.deleted_at is None, row.death_date) == (is_live, kept_date)
    changed = (row.deleted_at is not None) or death_date != kept_date
    assert (row.changed_at > long_ago) == changed
