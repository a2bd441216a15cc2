"""The ledger of sense2 releases: a number is given once, never moves and is never used twice."""

from __future__ import annotations

import threading
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from stash_sense_pipeline.catalog.queries.sense2.ledger import (
    Ledger,
    Publication,
    PublishedFace,
    PublishedRecord,
    blank_numbers,
    number_new,
    read_ledger,
    store_publication,
)
from stash_sense_pipeline.catalog.schema import faces as catalog_faces
from stash_sense_pipeline.catalog.schema import (
    sense2_faces,
    sense2_performers,
    sense2_releases,
    source_performers,
)
from stash_sense_pipeline.catalog.transactions import reading, writing
from stash_sense_pipeline.foundation.errors import ReleaseError
from stash_sense_pipeline_tests.factories import Rows, TrustedFace, add_rows, insert_rows, record_rows
from stash_sense_pipeline_tests.release.worlds import PACK

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
RECORDS = [(source, f"{source}-{number}") for source in ("stashdb", "fansdb") for number in range(6)]
FACES = [
    (source, f"image-{number}", index)
    for source in ("stashdb", "site")
    for number in range(5)
    for index in (0, 1)
]
# What happens between two releases: records and faces that are named (by a sync, a merge or a split), a release of some
# of them, an erasure, numbers of a lost catalog that must not be used again.
STEPS = st.one_of(
    st.tuples(st.just("name"), st.lists(st.sampled_from(RECORDS)), st.lists(st.sampled_from(FACES))),
    st.tuples(st.just("release"), st.lists(st.sampled_from(RECORDS)), st.lists(st.sampled_from(FACES))),
    st.tuples(
        st.just("erase"), st.lists(st.sampled_from(RECORDS)), st.lists(st.sampled_from(FACES), max_size=2)
    ),
    st.tuples(st.just("above"), st.integers(0, 40), st.integers(0, 40)),
)


def publication(version: str) -> Publication:
    return Publication(version, NOW, "d" * 64, "arcface", "a" * 64, "1" * 64, "2" * 64)


def keep(engine: sa.Engine, records, faces) -> None:
    """Adds those of the records and faces to the catalog that it does not hold."""
    rows: Rows = {}
    with reading(engine) as connection:
        table, found = source_performers.c, catalog_faces.c
        known = set(map(tuple, connection.execute(sa.select(table.source, table.source_id))))
        detected = sa.select(found.source, found.image_id, found.face_index)
        shown = set(map(tuple, connection.execute(detected)))
        images = {key[:2] for key in shown}
    for source, source_id in set(records) - known:
        add_rows(rows, {"source_performers": record_rows(source, source_id, 1, NOW)["source_performers"]})
    for source, image_id, index in set(faces) - shown:
        face = TrustedFace(0, 1, source, "", 0, image_id, "https://pictures.example", {}).rows(PACK, NOW)
        new = [{**row, "face_index": index} for row in face["faces"]]
        for row in new:
            del row["face_id"]
        add_rows(rows, {"faces": new})
        if (source, image_id) not in images:
            images.add((source, image_id))
            add_rows(rows, {"source_images": face["source_images"]})
    insert_rows(engine, rows)


def named(engine: sa.Engine, records, faces, above=(1, 0)) -> Ledger:
    keep(engine, records, faces)
    with writing(engine) as connection:
        return number_new(connection, records, faces, above)


def release(engine: sa.Engine, version: str, records, faces) -> None:
    """Publishes these records and faces, and none of the others."""
    ledger = named(engine, records, faces)
    numbers, indices = ledger.numbers, ledger.indices
    held, shown = {numbers[key] for key in records}, {indices[key] for key in faces}
    with writing(engine) as connection:
        store_publication(
            connection,
            publication(version),
            [
                PublishedRecord(row.number, "a" if row.number in held else None, row.number in held)
                for row in ledger.records
            ],
            [
                PublishedFace(
                    row.embedding_index,
                    None,
                    "b" if row.embedding_index in shown else None,
                    row.embedding_index in shown,
                )
                for row in ledger.faces
            ],
        )


class Truth:
    """All numbers that were ever given, and what they meant."""

    def __init__(self) -> None:
        self.meant: dict[tuple[str, int], object] = {}
        self.erased: set[tuple[str, int]] = set()

    def see(self, ledger: Ledger) -> None:
        rows = [
            *(("record", row.number, (row.source, row.source_id)) for row in ledger.records),
            *(
                ("face", row.embedding_index, (row.source, row.image_id, row.face_index))
                for row in ledger.faces
            ),
        ]
        assert len({(kind, number) for kind, number, _ in rows}) == len(rows)
        for kind, number, key in rows:
            if key[0] is None:
                assert set(key) == {None}
                self.erased.add((kind, number))
                continue
            assert (kind, number) not in self.erased, "the number of an erased person is used again"
            assert self.meant.setdefault((kind, number), key) == key, "a number has moved"
        assert {(kind, number) for kind, number, _ in rows} >= set(self.meant), "a number is lost"
        living = [key for _, _, key in rows if key[0] is not None]
        assert len(set(living)) == len(living), "two numbers mean the same"


def run(engine: sa.Engine, steps) -> None:
    truth = Truth()
    for place, (kind, records, faces) in enumerate(steps):
        if kind == "name":
            named(engine, records, faces)
        elif kind == "above":
            before = named(engine, [], [])
            after = named(
                engine, [("stashdb", f"late-{place}")], [("site", f"late-{place}", 0)], (records, faces)
            )
            assert after.numbers["stashdb", f"late-{place}"] == max(before.next_number, records)
            assert after.indices["site", f"late-{place}", 0] == max(before.next_index, faces)
        elif kind == "release":
            release(engine, f"2026.03.{place + 1:02d}", records, faces)
        else:
            with writing(engine) as connection:
                blank_numbers(connection, set(records), {face[:2] for face in faces})
        with reading(engine) as connection:
            truth.see(read_ledger(connection))


def empty(engine: sa.Engine) -> None:
    with writing(engine) as connection:
        for table in (sense2_faces, sense2_performers, sense2_releases):
            connection.execute(sa.delete(table))


@pytest.mark.slow
def test_no_number_moves_or_is_used_twice(any_catalog: sa.Engine) -> None:
    # An example takes five times as long on PostgreSQL.
    examples = 40 if any_catalog.dialect.name == "sqlite" else 25

    @settings(max_examples=examples)
    @given(steps=st.lists(STEPS, max_size=12))
    def keeps_its_numbers(steps) -> None:
        empty(any_catalog)
        run(any_catalog, steps)

    keeps_its_numbers()


def test_the_ledger_is_the_same_on_both_databases(any_catalog: sa.Engine) -> None:
    run(
        any_catalog,
        [
            ("name", RECORDS[:3], FACES[:4]),
            ("release", RECORDS[:2], FACES[:3]),
            ("erase", RECORDS[:1], FACES[1:2]),
            ("name", RECORDS[:4], FACES[:5]),
            ("above", 30, 20),
            ("release", RECORDS[1:4], FACES[1:6]),
        ],
    )
    with reading(any_catalog) as connection:
        ledger = read_ledger(connection)
    assert ledger.newest == publication("2026.03.06")
    assert ledger.records[0][1:] == (None, None, None, False)
    assert {row.number for row in ledger.records if row.published} == {2, 3, 5}


def test_an_erased_row_keeps_its_number_and_that_a_release_holds_it(any_catalog: sa.Engine) -> None:
    release(any_catalog, "2026.03.01", RECORDS[:2], FACES[:2])
    with writing(any_catalog) as connection:
        counts = blank_numbers(connection, RECORDS[:1], {FACES[0][:2]})
    # Both faces are on one image.
    assert counts == {"sense2_performers": 1, "sense2_faces": 2}
    with reading(any_catalog) as connection:
        ledger = read_ledger(connection)
    assert ledger.records[0] == (1, None, None, None, True)
    assert ledger.faces[0] == (0, None, None, None, None, None, True)


def test_an_erasure_while_a_release_is_made_leaves_no_digest(catalog: sa.Engine) -> None:
    named(catalog, RECORDS[:1], FACES[:1])
    with writing(catalog) as connection:
        blank_numbers(connection, RECORDS[:1], {FACES[0][:2]})
    with writing(catalog) as connection:
        store_publication(
            connection,
            publication("2026.03.01"),
            [PublishedRecord(1, "a", True)],
            [PublishedFace(0, 1, "b", True)],
        )
    with reading(catalog) as connection:
        ledger = read_ledger(connection)
    assert [(row.digest, row.published, row.source) for row in ledger.records] == [(None, True, None)]
    assert [(row.digest, row.published, row.source) for row in ledger.faces] == [(None, True, None)]


def test_a_version_is_published_once(catalog: sa.Engine) -> None:
    release(catalog, "2026.03.01", [], [])
    with pytest.raises(sa.exc.IntegrityError):
        release(catalog, "2026.03.01", [], [])


@pytest.mark.parametrize("lost", ["record", "face"])
def test_what_the_catalog_does_not_hold_gets_no_number(any_catalog: sa.Engine, lost: str) -> None:
    keep(any_catalog, RECORDS[:1] if lost == "face" else [], FACES[:1] if lost == "record" else [])
    changed = pytest.raises(ReleaseError, match=r"the catalog changed meanwhile.*publish again")
    with changed, writing(any_catalog) as connection:
        number_new(connection, RECORDS[:1], FACES[:1])
    with reading(any_catalog) as connection:
        ledger = read_ledger(connection)
    assert (ledger.records, ledger.faces) == ((), ())


def test_a_record_with_a_number_keeps_it_when_the_catalog_lost_it(any_catalog: sa.Engine) -> None:
    before = named(any_catalog, RECORDS[:1], [])
    with writing(any_catalog) as connection:
        connection.execute(sa.delete(source_performers))
        assert number_new(connection, RECORDS[:1], []) == before


@pytest.mark.slow
def test_an_erasure_waits_for_numbers_that_are_not_committed(any_catalog: sa.Engine) -> None:
    keep(any_catalog, RECORDS[:1], FACES[:1])
    counts: list[dict[str, int]] = []

    def blank() -> None:
        with writing(any_catalog) as connection:
            counts.append(blank_numbers(connection, RECORDS[:1], {FACES[0][:2]}))

    other = threading.Thread(target=blank)
    with writing(any_catalog) as connection:
        number_new(connection, RECORDS[:1], FACES[:1])
        other.start()
        other.join(timeout=0.2)
        assert counts == []
    other.join(timeout=240)
    assert counts == [{"sense2_performers": 1, "sense2_faces": 1}]
