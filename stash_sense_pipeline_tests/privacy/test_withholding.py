"""The intake check: which records of a batch may be stored, and what the catalog keeps of the others."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest
import sqlalchemy as sa

from stash_sense_pipeline.catalog import schema
from stash_sense_pipeline.catalog.queries import performers
from stash_sense_pipeline.catalog.transactions import reading, writing
from stash_sense_pipeline.foundation.clock import Clock
from stash_sense_pipeline.privacy.erasure import erase_suppressed
from stash_sense_pipeline.privacy.intake.withholding import WithheldIds, Withholding
from stash_sense_pipeline.privacy.suppression.suppression_file import SuppressionEntry
from stash_sense_pipeline.privacy.suppression.suppression_import import add_suppressions
from stash_sense_pipeline.privacy.suppression.suppression_list import load_suppressions
from stash_sense_pipeline.records.performer_record import PerformerRecord

KEY = bytes(range(32))
NOW = datetime(2026, 11, 20, 4, 5, 6, tzinfo=UTC)
ANNA = PerformerRecord("anna", "Anna Zq", birth_date="1980-05-17")
BERTA = PerformerRecord("berta", "Berta Zq", birth_date="1981-01-02")


def withholding(engine: sa.Engine, source: str = "boxa") -> tuple[Withholding, WithheldIds]:
    ids = WithheldIds(set(), set(), set())
    return Withholding(source, load_suppressions(engine, KEY), Clock(now=lambda: NOW), ids), ids


def suppress(engine: sa.Engine, target: str) -> None:
    with writing(engine) as connection:
        add_suppressions(
            connection, KEY, [SuppressionEntry(target, "asked", date(2026, 11, 20), unseen=True)]
        )


def reasons(engine: sa.Engine) -> set[tuple[str, str | None]]:
    table = schema.withheld_records
    with reading(engine) as connection:
        rows = connection.execute(sa.select(table.c.reason, table.c.source_id))
        return {(reason, source_id) for reason, source_id in rows}


def store(engine: sa.Engine, source: str, *records: PerformerRecord) -> None:
    with writing(engine) as connection:
        performers.store_records(connection, source, records, NOW)


def test_a_batch_is_divided_into_records_to_store_and_records_withheld_by_reason(
    any_catalog: sa.Engine,
) -> None:
    store(any_catalog, "boxa", ANNA)
    suppress(any_catalog, "boxa:anna")
    erase_suppressed(any_catalog, load_suppressions(any_catalog, KEY), NOW)
    check, ids = withholding(any_catalog, "boxb")
    like_anna = PerformerRecord("like-anna", "Anna Zq", birth_date="1980-05-17")
    child = PerformerRecord("child", "Clara Zq", birth_date="2020-01-02")
    with writing(any_catalog) as connection:
        admitted = check.admit(connection, [BERTA, like_anna, child])
    assert admitted.records == [BERTA]
    assert (ids.suppressed, ids.not_adult, ids.held) == (set(), {"child"}, {"like-anna"})
    assert reasons(any_catalog) == {("under_18", "child"), ("held", "like-anna")}


def test_a_stored_record_of_a_suppressed_person_is_deleted_and_kept_as_a_hash_without_its_id(
    any_catalog: sa.Engine,
) -> None:
    store(any_catalog, "boxa", ANNA, BERTA)
    check, ids = withholding(any_catalog)
    # The list grows after the run has read it.
    suppress(any_catalog, "boxa:anna")
    with writing(any_catalog) as connection:
        admitted = check.admit(connection, [ANNA, BERTA])
    assert admitted.records == [BERTA]
    assert "Anna Zq" in admitted.traces
    assert ids.suppressed == {"anna"}
    assert reasons(any_catalog) == {("suppressed", None)}
    with reading(any_catalog) as connection:
        assert connection.scalars(sa.select(schema.source_performers.c.source_id)).all() == ["berta"]


@pytest.mark.parametrize("gone", [{"anna": "berta"}, {"berta": "anna"}])
def test_a_record_merged_with_a_suppressed_one_in_either_direction_is_erased_and_gets_no_tombstone(
    any_catalog: sa.Engine, gone: dict[str, str | None]
) -> None:
    clara = PerformerRecord("clara", "Clara Zq", birth_date="1979-03-04")
    store(any_catalog, "boxa", BERTA, clara)
    suppress(any_catalog, "boxa:anna")
    check, _ = withholding(any_catalog)
    with writing(any_catalog) as connection:
        admitted = check.admit_tombstones(connection, {**gone, "clara": None})
    assert admitted.gone == {"clara": None}
    assert "Berta Zq" in admitted.traces
    with reading(any_catalog) as connection:
        assert connection.scalars(sa.select(schema.source_performers.c.source_id)).all() == ["clara"]
