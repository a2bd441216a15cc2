"""Storing performer records: only differences are written, tombstones keep few fields, images are shared."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from stash_sense_pipeline.catalog import schema
from stash_sense_pipeline.catalog.queries import performers
from stash_sense_pipeline.catalog.queries.performers import RecordCounts, StoreCounts, TombstoneCounts
from stash_sense_pipeline.catalog.queries.sync_state import SyncState, load_state, load_states, save_state
from stash_sense_pipeline.catalog.transactions import reading, writing
from stash_sense_pipeline.records.performer_record import ImageRecord, PerformerRecord

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LATER = NOW + timedelta(days=1)
UPDATED = datetime(2025, 5, 5, tzinfo=UTC)


def person(source_id: str = "1", **fields: Any) -> PerformerRecord:
    """A record with a value in every field."""
    values: dict[str, Any] = {
        "name": f"Person {source_id}",
        "aliases": ("A",),
        "urls": ("https://a.example",),
        "images": (ImageRecord(f"i{source_id}", f"https://box.example/images/i{source_id}", 40, 50),),
        "updated_at": UPDATED,
        "raw": {"tattoos": ["Back"]},
    }
    return PerformerRecord(source_id, **{**values, **fields})


def store(
    engine: sa.Engine, *records: PerformerRecord, source: str = "box", now: datetime = NOW
) -> StoreCounts:
    """Stores records in one transaction."""
    with writing(engine) as connection:
        return performers.store_records(connection, source, records, now)


def tombstone(engine: sa.Engine, gone: dict[str, str | None], now: datetime = NOW) -> TombstoneCounts:
    """Tombstones records in one transaction."""
    with writing(engine) as connection:
        return performers.tombstone_records(connection, "box", gone, now)


def table(engine: sa.Engine, of: sa.Table) -> list[dict[str, Any]]:
    """All rows of a table, sorted by primary key."""
    with engine.connect() as connection:
        query = sa.select(of).order_by(*of.primary_key)
        return [dict(row._mapping) for row in connection.execute(query)]


def everything(engine: sa.Engine) -> dict[str, list[dict[str, Any]]]:
    """All rows in the tables of records."""
    tables = ("source_performers", "performer_aliases", "performer_urls", "source_images", "performer_images")
    return {name: table(engine, schema.metadata.tables[name]) for name in tables}


@contextmanager
def statements(engine: sa.Engine) -> Iterator[list[str]]:
    """Collects the statements that are executed in the block."""
    seen: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        seen.append(statement.split()[0].upper())

    sa.event.listen(engine, "before_cursor_execute", note)
    yield seen
    sa.event.remove(engine, "before_cursor_execute", note)


def test_a_record_is_stored_with_all_of_its_fields(any_catalog):
    record = person(
        **{"disambiguation": "tall", "gender": "FEMALE", "birth_date": "1990-05", "death_date": "2020"},
        **{"country": "DE", "ethnicity": "ASIAN", "eye_color": "GREY", "hair_color": "RED", "height_cm": 170},
        **{"career_start_year": 2010, "career_end_year": 2012, "created_at": UPDATED - timedelta(days=9)},
    )
    assert store(any_catalog, record) == StoreCounts(added=1, images_added=1)
    (row,) = table(any_catalog, schema.source_performers)
    modelled = {
        name: getattr(record, name) for name in row.keys() & set(PerformerRecord.__dataclass_fields__)
    }
    assert {name: row[name] for name in modelled} == {**modelled, "raw": {"tattoos": ["Back"]}}
    assert (row["content_hash"], row["deleted_at"], row["merged_into"]) == (record.content_hash, None, None)
    assert (row["first_seen_at"], row["changed_at"]) == (NOW, NOW)
    (image,) = table(any_catalog, schema.source_images)
    assert (image["state"], image["attempts"], image["width"], image["url"]) == (
        "pending",
        0,
        40,
        "https://box.example/images/i1",
    )


def test_an_unchanged_record_costs_no_write(any_catalog):
    store(any_catalog, person())
    before = everything(any_catalog)
    with statements(any_catalog) as seen:
        assert store(any_catalog, person(), now=LATER) == StoreCounts(unchanged=1)
    assert everything(any_catalog) == before
    assert {word for word in seen if word not in ("SELECT", "BEGIN")} == set()


def test_a_record_with_only_a_new_time_of_change_writes_that_column(any_catalog):
    store(any_catalog, person())
    (before,) = table(any_catalog, schema.source_performers)
    assert store(any_catalog, person(updated_at=LATER), now=LATER) == StoreCounts(unchanged=1)
    (after,) = table(any_catalog, schema.source_performers)
    assert after == {**before, "updated_at": LATER}


def test_a_change_moves_changed_at_and_only_what_differs(any_catalog):
    store(any_catalog, person(aliases=("A", "B"), urls=("u", "v")))
    changed = person(aliases=("B", "C"), urls=("v",), images=(ImageRecord("new", "n"),), name="Other")
    assert store(any_catalog, changed, now=LATER) == StoreCounts(updated=1, images_added=1)
    (row,) = table(any_catalog, schema.source_performers)
    assert (row["name"], row["first_seen_at"], row["changed_at"]) == ("Other", NOW, LATER)
    assert [each["alias"] for each in table(any_catalog, schema.performer_aliases)] == ["B", "C"]
    assert [each["url"] for each in table(any_catalog, schema.performer_urls)] == ["v"]
    assert [each["image_id"] for each in table(any_catalog, schema.performer_images)] == ["new"]
    assert [each["image_id"] for each in table(any_catalog, schema.source_images)] == ["i1", "new"]


def test_of_a_record_that_comes_twice_the_last_one_counts(any_catalog):
    assert store(any_catalog, person(name="First"), person(name="Second")) == StoreCounts(
        added=1, images_added=1
    )
    assert table(any_catalog, schema.source_performers)[0]["name"] == "Second"


def test_an_image_of_two_performers_is_one_image(any_catalog):
    shared = (ImageRecord("shared", "s"),)
    assert store(any_catalog, person("1", images=shared), person("2", images=shared)).images_added == 1
    assert len(table(any_catalog, schema.performer_images)) == 2


def test_a_known_image_keeps_its_state_and_gets_its_new_url(any_catalog):
    store(any_catalog, person())
    with writing(any_catalog) as connection:
        connection.execute(sa.update(schema.source_images).values(state="done", attempts=2, sha256="ab"))
    moved = person(images=(ImageRecord("i1", "https://elsewhere.example/i1", 40, 50),))
    assert store(any_catalog, moved, now=LATER).images_added == 0
    (image,) = table(any_catalog, schema.source_images)
    assert (image["url"], image["state"], image["attempts"], image["sha256"]) == (
        "https://elsewhere.example/i1",
        "done",
        2,
        "ab",
    )


def test_only_images_without_records_are_removed_with_their_faces(any_catalog):
    store(any_catalog, person("1"), person("2"))
    with writing(any_catalog) as connection:
        connection.execute(sa.insert(schema.faces), [face(image) for image in ("i1", "i2")])
    store(any_catalog, person("1", images=()))
    store(any_catalog, person("1"), source="other")
    with writing(any_catalog) as connection:
        assert performers.remove_orphaned_images(connection, "box") == 1
        assert performers.remove_orphaned_images(connection, "box") == 0
    assert [row["image_id"] for row in table(any_catalog, schema.faces)] == ["i2"]
    assert [(row["source"], row["image_id"]) for row in table(any_catalog, schema.source_images)] == [
        ("box", "i2"),
        ("other", "i1"),
    ]


def face(image_id: str) -> dict[str, Any]:
    """A row of `faces` for an image."""
    numbers = ("detection_confidence", "x1", "y1", "x2", "y2", "yaw", "roll", "blur", "quality")
    return {
        **{"source": "box", "image_id": image_id, "face_index": 0, "landmarks": b"", "created_at": NOW},
        **{"pack": "demo", "detector_digest": "d"},
        **dict.fromkeys(numbers, 0.5),
    }


def test_a_tombstone_keeps_only_the_name_and_the_times(any_catalog):
    store(any_catalog, person("1", height_cm=170), person("2"))
    assert tombstone(any_catalog, {"1": "2"}, LATER) == TombstoneCounts(merged=1)
    assert tombstone(any_catalog, {"2": None}, LATER) == TombstoneCounts(removed=1)
    first, second = table(any_catalog, schema.source_performers)
    assert {name for name, value in first.items() if value not in (None, {})} == {
        *("source", "source_id", "name", "updated_at", "deleted_at", "merged_into"),
        *("first_seen_at", "changed_at"),
    }
    assert (first["deleted_at"], first["merged_into"], first["changed_at"]) == (LATER, "2", LATER)
    assert second["merged_into"] is None
    for name in ("performer_aliases", "performer_urls", "performer_images"):
        assert table(any_catalog, schema.metadata.tables[name]) == []
    assert len(table(any_catalog, schema.source_images)) == 2


def test_an_equal_tombstone_costs_no_write_and_a_new_target_is_a_change(any_catalog):
    store(any_catalog, person("1"))
    tombstone(any_catalog, {"1": "2"})
    before = everything(any_catalog)
    assert tombstone(any_catalog, {"1": "2"}, LATER) == TombstoneCounts()
    assert everything(any_catalog) == before
    assert tombstone(any_catalog, {"1": "3"}, LATER) == TombstoneCounts()
    (row,) = table(any_catalog, schema.source_performers)
    assert (row["merged_into"], row["deleted_at"], row["changed_at"]) == ("3", NOW, LATER)


def test_a_tombstone_of_an_unknown_record_is_stored_without_a_name(any_catalog):
    assert tombstone(any_catalog, {"1": "2", "3": None}) == TombstoneCounts()
    with reading(any_catalog) as connection:
        assert performers.tombstones(connection, "box") == {"1": "2", "3": None}
        assert performers.count_records(connection, "box") == RecordCounts(
            live=0, merged=0, removed=0, unseen=2
        )


def test_a_tombstoned_record_that_is_stored_again_is_live(any_catalog):
    store(any_catalog, person())
    tombstone(any_catalog, {"1": "2"})
    assert store(any_catalog, person(), now=LATER) == StoreCounts(updated=1)
    (row,) = table(any_catalog, schema.source_performers)
    assert (row["deleted_at"], row["merged_into"], row["changed_at"]) == (None, None, LATER)
    assert len(table(any_catalog, schema.performer_images)) == 1


def test_records_that_must_not_be_stored_leave_a_hash_of_their_id(any_catalog):
    with writing(any_catalog) as connection:
        withheld = [
            performers.WithheldRecord("hash-1", UPDATED, "suppressed", None),
            performers.WithheldRecord("hash-9", None, "under_18", "9"),
        ]
        performers.withhold_records(connection, "box", withheld, NOW)
        hashes = {"hash-1": "1", "hash-2": "2", "hash-9": "9"}
        assert performers.withheld_versions(connection, "box", hashes, NOW) == {"1": UPDATED, "9": None}
        assert performers.withheld_versions(connection, "box", {"hash-1": "1"}, LATER) == {}
        assert performers.withheld_for_review(connection) == [("box", "9", "under_18", NOW)]


def test_queries_of_a_sync_give_live_records_tombstones_and_counts(any_catalog):
    store(any_catalog, person("1"), person("2", updated_at=LATER, images=()), person("3"))
    store(any_catalog, person("4"), source="other")
    tombstone(any_catalog, {"3": None})
    with reading(any_catalog) as connection:
        ask = connection, "box"
        assert performers.live_besides(*ask, {}) == (2, ["1", "2"])
        assert performers.live_besides(*ask, {"1": UPDATED, "9": None}) == (2, ["2"])
        assert performers.live_versions(*ask, ["2", "3", "5"]) == {"2": LATER}
        assert performers.liveness(*ask, ["1", "3", "5"]) == {"1": True, "3": False}
        assert {
            source_id: held.image_ids
            for source_id, held in performers.held_records(*ask, ["1", "2", "3"]).items()
        } == {"1": {"i1"}, "2": frozenset()}
        assert performers.count_changed_since(*ask, LATER) == 1
        assert performers.count_records(*ask) == RecordCounts(live=2, merged=0, removed=1, unseen=0)


@pytest.mark.slow
def test_more_records_than_one_statement_may_name_are_read(any_catalog):
    many = [person(str(number)) for number in range(1203)]
    assert store(any_catalog, *many).added == 1203
    assert store(any_catalog, *many).unchanged == 1203
    with writing(any_catalog) as connection:
        assert len(performers.live_versions(connection, "box", [each.source_id for each in many])) == 1203
        gone = performers.tombstone_records(connection, "box", {each.source_id: None for each in many}, LATER)
        assert gone.removed == 1203


def test_names_of_any_script_are_stored(any_catalog):
    names = ("Ünal Ø", "葵 つかさ", "🙂", "'); DROP TABLE faces; --", "%_\\")
    store(any_catalog, *(person(str(number), name=name) for number, name in enumerate(names)))
    assert [row["name"] for row in table(any_catalog, schema.source_performers)] == list(names)


def test_a_sync_state_is_stored_and_loaded_unchanged(any_catalog):
    state = SyncState("box", updated_watermark=UPDATED, last_outcome="found", detail={"unread": ["1"]})
    with writing(any_catalog) as connection:
        assert load_state(connection, "box") == SyncState("box")
        save_state(connection, state)
        save_state(connection, replace(state, last_outcome="timeout"))
    with reading(any_catalog) as connection:
        assert load_state(connection, "box") == replace(state, last_outcome="timeout")
        assert load_states(connection).keys() == {"box"}


def set_image(engine: sa.Engine, **values: Any) -> None:
    with writing(engine) as connection:
        connection.execute(sa.update(schema.source_images).values(**values))


def image_after(engine: sa.Engine, url: str) -> dict[str, Any]:
    """The image of `person` after it is listed at another URL."""
    store(engine, person(images=(ImageRecord("i1", url, 40, 50),)))
    (image,) = table(engine, schema.source_images)
    return image


MOVED = "https://new.example/i1"
REFUSED = {"state": "gone", "reason": "not_found", "attempts": 2, "refusals": 3, "next_attempt_at": LATER}


@pytest.mark.parametrize(
    "before",
    [
        REFUSED,
        {**REFUSED, "next_attempt_at": None},
        {**REFUSED, "state": "rejected", "reason": "disallowed"},
        {**REFUSED, "state": "rejected", "reason": "html"},
        {**REFUSED, "state": "failed", "reason": "timeout"},
    ],
)
def test_an_unjudged_image_with_a_new_url_is_pending_again(any_catalog, before):
    store(any_catalog, person())
    set_image(any_catalog, **before)
    image = image_after(any_catalog, MOVED)
    assert (image["url"], image["state"], image["reason"]) == (MOVED, "pending", None)
    assert (image["attempts"], image["refusals"], image["next_attempt_at"]) == (0, 0, None)


@pytest.mark.parametrize(
    "before",
    [
        {"state": "done"},
        {"state": "rejected", "reason": "no_face", "sha256": "00", "judged_by": "d320"},
        {"state": "rejected", "reason": "suppressed"},
    ],
)
def test_a_judged_image_with_a_new_url_keeps_its_verdict(catalog, before):
    store(catalog, person())
    set_image(catalog, **before)
    image = image_after(catalog, MOVED)
    assert image["url"] == MOVED
    assert {name: image[name] for name in before} == before


def test_a_failed_image_with_only_a_new_query_keeps_its_attempts(catalog):
    store(catalog, person(images=(ImageRecord("i1", "https://a.example/i1?sig=1", 40, 50),)))
    set_image(catalog, **REFUSED)
    image = image_after(catalog, "https://a.example/i1?sig=2")
    assert image["url"] == "https://a.example/i1?sig=2"
    assert {name: image[name] for name in REFUSED} == REFUSED
