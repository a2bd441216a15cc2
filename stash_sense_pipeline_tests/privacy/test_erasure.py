import hashlib
import os
import random
from collections.abc import Iterator
from contextlib import suppress as ignoring
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from stash_sense_pipeline.catalog import schema
from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.catalog.purge import rewrite
from stash_sense_pipeline.catalog.transactions import reading, writing
from stash_sense_pipeline.foundation.errors import CatalogError
from stash_sense_pipeline.privacy.erasure import ErasureReport, ErasureScope, erase_suppressed
from stash_sense_pipeline.privacy.suppression.suppression_file import SuppressionEntry
from stash_sense_pipeline.privacy.suppression.suppression_import import add_suppressions
from stash_sense_pipeline.privacy.suppression.suppression_list import load_suppressions

KEY = bytes(range(32))
NOW = datetime(2026, 11, 20, 4, 5, 6, tzinfo=UTC)


def suppress(engine, *targets):
    entries = [SuppressionEntry(target, "asked", date(2026, 11, 20)) for target in targets]
    with writing(engine) as connection:
        add_suppressions(connection, KEY, entries)


def erase(engine):
    return erase_suppressed(engine, load_suppressions(engine, KEY), NOW)


def bytes_of(image):
    return hashlib.sha256(image.encode()).hexdigest()


class Writer:
    """Puts a small population into a catalog."""

    def __init__(self, connection):
        self.connection = connection

    def insert(self, table, **values):
        return self.connection.execute(sa.insert(table).values(**values)).inserted_primary_key[0]

    def record(self, source, source_id, *, urls=(), merged_into=None):
        self.insert(
            schema.source_performers,
            source=source,
            source_id=source_id,
            name=f"Name-of-{source_id}",
            merged_into=merged_into,
            raw={"secret": f"raw-of-{source_id}"},
            first_seen_at=NOW,
            changed_at=NOW,
        )
        self.insert(
            schema.performer_aliases, source=source, source_id=source_id, alias=f"alias-of-{source_id}"
        )
        for url in urls:
            self.insert(schema.performer_urls, source=source, source_id=source_id, url=url)

    def image(self, source, image_id, *owners, faces=1, content=None):
        self.insert(
            schema.source_images,
            source=source,
            image_id=image_id,
            url=f"https://{source}.example/images/{image_id}",
            state="done",
            attempts=1,
            sha256=bytes_of(content or f"{source}/{image_id}"),
        )
        for owner in owners:
            self.insert(schema.performer_images, source=source, source_id=owner, image_id=image_id)
        return [self.face(source, image_id, index) for index in range(faces)]

    def face(self, source, image_id, index):
        geometry = dict.fromkeys(["x1", "y1", "x2", "y2", "yaw", "roll", "blur"], 1.0)
        face_id = self.insert(
            schema.faces,
            source=source,
            image_id=image_id,
            face_index=index,
            detection_confidence=0.9,
            quality=0.5,
            landmarks=b"\0" * 40,
            pack="p",
            detector_digest="d",
            created_at=NOW,
            **geometry,
        )
        vector = f"vector-of-{image_id}".encode()
        self.insert(schema.aligned_crops, face_id=face_id, png=f"crop-of-{image_id}".encode())
        self.insert(
            schema.embeddings,
            face_id=face_id,
            model="facenet",
            vector=vector,
            pack="p",
            model_digest="m",
            created_at=NOW,
        )
        self.tattoo(face_id, image_id)
        return face_id

    def tattoo(self, face_id, image_id):
        self.insert(schema.tattoo_scans, face_id=face_id, detector_digest="t", tattoos=1, scanned_at=NOW)
        tattoo_id = self.insert(
            schema.tattoo_detections,
            face_id=face_id,
            tattoo_index=0,
            confidence=0.8,
            location_hint=f"place-of-{image_id}",
            **dict.fromkeys(["x", "y", "width", "height"], 0.25),
        )
        self.insert(schema.tattoo_crops, tattoo_id=tattoo_id, png=f"tattoo-crop-of-{image_id}".encode())
        self.insert(
            schema.tattoo_embeddings,
            tattoo_id=tattoo_id,
            vector=f"tattoo-vector-of-{image_id}".encode(),
            pack="p",
            model_digest="e",
            created_at=NOW,
        )

    def identity(self, *members):
        performer_id = self.insert(schema.identities, created_at=NOW)
        for source, source_id in members:
            self.insert(
                schema.identity_members, source=source, source_id=source_id, performer_id=performer_id
            )
        self.insert(
            schema.identity_log,
            at=NOW,
            performer_id=performer_id,
            event="created",
            detail={"members": [f"log-of-{source_id}" for _, source_id in members]},
        )
        return performer_id

    def evidence(self, first, second):
        self.insert(
            schema.identity_evidence,
            kind="profile",
            source_a=first[0],
            source_id_a=first[1],
            source_b=second[0],
            source_id_b=second[1],
            key=f"key-of-{first[1]}",
            weight=1.0,
            verdict="linked",
            first_seen_at=NOW,
        )

    def trusted(self, face_id, performer_id, source, source_id):
        self.insert(
            schema.trusted_faces,
            face_id=face_id,
            performer_id=performer_id,
            source=source,
            source_id=source_id,
            rank=0,
        )


def populate(engine):
    """Anna on two stash-boxes, with a merged-away record; Berta, who shares a photo with her; and Clara."""
    with writing(engine) as connection:
        world = Writer(connection)
        world.record("boxa", "anna", urls=["https://www.freeones.com/anna-example"])
        world.record("boxa", "annaold", merged_into="anna")
        world.record("boxb", "annab")
        world.record("boxa", "berta", urls=["https://www.freeones.com/berta-example"])
        world.record("boxa", "clara")
        anna = world.identity(("boxa", "anna"), ("boxb", "annab"))
        berta = world.identity(("boxa", "berta"))
        clara = world.identity(("boxa", "clara"))
        world.evidence(("boxa", "anna"), ("boxb", "annab"))
        world.evidence(("boxa", "berta"), ("boxa", "clara"))
        [own] = world.image("boxa", "anna1", "anna")
        world.image("boxb", "annab1", "annab", faces=2)
        [first, _] = world.image("boxa", "group", "anna", "berta", faces=2)
        [duo] = world.image("boxa", "duo", "anna", "berta")
        [theirs] = world.image("boxa", "berta1", "berta")
        world.image("boxa", "clara1", "clara")
        world.image("boxb", "placeholder", "annab", content="placeholder")
        world.image("boxa", "placeholder2", "clara", content="placeholder")
        world.trusted(own, anna, "boxa", "anna")
        world.trusted(first, anna, "boxa", "anna")
        world.trusted(duo, berta, "boxa", "berta")
        world.trusted(theirs, berta, "boxa", "berta")
    return {"anna": anna, "berta": berta, "clara": clara}


def column(engine, column_, where=True):
    with reading(engine) as connection:
        return set(connection.scalars(sa.select(column_).where(where)))


def dump(engine):
    with reading(engine) as connection:
        return {
            table.name: sorted(map(repr, connection.execute(sa.select(table))))
            for table in schema.metadata.sorted_tables
        }


@pytest.mark.slow
def test_all_records_of_a_person_are_erased_and_none_of_others(any_catalog):
    ids = populate(any_catalog)
    suppress(any_catalog, "boxa:anna")
    assert erase(any_catalog) == ErasureReport(records=3, identities=1, images=4, faces=6)
    everything = repr(dump(any_catalog))
    assert "anna" not in everything
    assert column(any_catalog, schema.source_performers.c.source_id) == {"berta", "clara"}
    of_tattoos = {name: rows for name, rows in dump(any_catalog).items() if name.startswith("tattoo")}
    assert {name: len(rows) for name, rows in of_tattoos.items()} == dict.fromkeys(of_tattoos, 4)
    # The faces on the group image are trusted for no record; the face on the duo image is trusted for Berta.
    assert column(any_catalog, schema.source_images.c.image_id) == {"duo", "berta1", "clara1", "placeholder2"}
    assert column(any_catalog, schema.faces.c.image_id) == {"duo", "berta1", "clara1", "placeholder2"}
    assert column(any_catalog, schema.trusted_faces.c.performer_id) == {ids["berta"]}
    assert column(any_catalog, schema.identity_members.c.source_id) == {"berta", "clara"}
    retired = schema.identities.c.retired_at
    assert column(any_catalog, schema.identities.c.performer_id, retired.is_not(None)) == {ids["anna"]}
    assert len(dump(any_catalog)["identity_evidence"]) == 1


def test_records_and_images_of_an_erased_person_are_suppressed(any_catalog):
    populate(any_catalog)
    suppress(any_catalog, "boxa:anna")
    erase(any_catalog)
    listed = load_suppressions(any_catalog, KEY)
    assert listed.covers_record("boxa", "annaold")
    assert listed.covers_record("boxb", "annab")
    assert listed.covers_image(bytes_of("boxa/anna1"))
    assert listed.covers_image(bytes_of("boxb/annab1"))
    for other in ("boxa/duo", "boxa/berta1", "placeholder"):
        assert not listed.covers_image(bytes_of(other)), other
    assert not listed.covers_record("boxa", "berta")


@pytest.mark.slow
@pytest.mark.parametrize(
    "target",
    ["boxa:annaold", "boxb:annab", "https://freeones.com/anna-example/bio"],
)
def test_any_kind_of_target_erases_the_whole_person(any_catalog, target):
    populate(any_catalog)
    suppress(any_catalog, target)
    assert erase(any_catalog) == ErasureReport(records=3, identities=1, images=4, faces=6)


def test_a_suppressed_image_is_erased_without_the_person(any_catalog):
    populate(any_catalog)
    suppress(any_catalog, "https://boxa.example/images/group?size=full")
    assert erase(any_catalog) == ErasureReport(records=0, identities=0, images=1, faces=2)
    assert "group" not in column(any_catalog, schema.faces.c.image_id)
    assert "anna" in column(any_catalog, schema.source_performers.c.source_id)
    assert load_suppressions(any_catalog, KEY).covers_image(bytes_of("boxa/group"))


@pytest.mark.slow
def test_a_second_erasure_deletes_no_row(any_catalog):
    populate(any_catalog)
    suppress(any_catalog, "boxa:anna")
    erase(any_catalog)
    before = dump(any_catalog)
    assert erase(any_catalog) == ErasureReport(records=0, identities=0, images=0, faces=0)
    assert dump(any_catalog) == before


@pytest.mark.slow
def test_an_applied_entry_is_searched_for_again_only_with_search_all(any_catalog):
    populate(any_catalog)
    suppress(any_catalog, "boxa:anna")
    assert len(load_suppressions(any_catalog, KEY).only_pending()) == 1
    erase(any_catalog)
    assert len(load_suppressions(any_catalog, KEY)) > 1
    assert len(load_suppressions(any_catalog, KEY).only_pending()) == 0
    with writing(any_catalog) as connection:  # as a faulty writer does
        Writer(connection).record("boxa", "anna")
    assert erase(any_catalog).records == 0
    everything = erase_suppressed(
        any_catalog, load_suppressions(any_catalog, KEY), NOW, ErasureScope(search_all=True)
    )
    assert everything.records == 1


@pytest.mark.slow
def test_an_own_page_takes_a_record_without_identity_along_and_a_shared_page_does_not(any_catalog):
    populate(any_catalog)
    with writing(any_catalog) as connection:
        world = Writer(connection)
        page = "https://www.instagram.com/anna.example/"
        for owner in ("anna", "berta"):
            world.insert(schema.performer_urls, source="boxa", source_id=owner, url=page)
        world.record("boxc", "annac", urls=["https://freeones.com/anna-example/bio"])
    suppress(any_catalog, "boxa:anna")
    report = erase(any_catalog)
    # The new record has no identity: the page links it. Berta has an identity of her own: the page is shared.
    assert (report.records, report.shared_pages) == (4, 1)
    listed = load_suppressions(any_catalog, KEY)
    assert listed.covers_url("https://www.freeones.com/anna-example")
    assert not listed.covers_url("https://www.instagram.com/anna.example")
    assert "berta" in column(any_catalog, schema.source_performers.c.source_id)


@pytest.mark.slow
def test_log_and_state_rows_about_others_lose_the_mention_of_an_erased_person(any_catalog):
    ids = populate(any_catalog)
    with writing(any_catalog) as connection:
        world = Writer(connection)
        detail = {"cause": "evidence", "records": ["boxa:anna", "boxa:berta"]}
        world.insert(schema.identity_log, at=NOW, performer_id=ids["berta"], event="split", detail=detail)
        state = {"missing": {"ids": ["anna", "clara"]}, "unread": ["annaold"]}
        world.insert(schema.sync_state, source="boxa", detail=state)
    suppress(any_catalog, "boxa:anna")
    erase(any_catalog)
    assert "anna" not in repr(dump(any_catalog))
    assert column(any_catalog, schema.identity_log.c.performer_id) == {ids["berta"], ids["clara"]}


def test_an_erasure_with_an_empty_list_deletes_no_row(any_catalog):
    populate(any_catalog)
    before = dump(any_catalog)
    assert erase(any_catalog) == ErasureReport(records=0, identities=0, images=0, faces=0)
    assert dump(any_catalog) == before


def test_an_error_during_an_erasure_changes_nothing(any_catalog, monkeypatch):
    populate(any_catalog)
    suppress(any_catalog, "boxa:anna")
    before = dump(any_catalog)
    monkeypatch.setattr("stash_sense_pipeline.privacy.erasure.forget_mentions", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        erase(any_catalog)
    assert dump(any_catalog) == before


@pytest.mark.slow
def test_no_byte_of_the_person_is_left_in_the_files(tmp_path):
    engine = open_catalog(f"sqlite:///{tmp_path / 'catalog.db'}")
    populate(engine)
    with writing(engine) as connection:  # so many other records that pages are split and overflow
        world = Writer(connection)
        for number in range(300):
            world.record("boxc", f"other{number}", urls=[f"https://others.example/{number}/{'x' * 200}"])
    needles = [b"Name-of-anna", b"alias-of-anna", b"raw-of-anna", b"vector-of-anna", b"crop-of-anna"]
    needles += [b"log-of-anna", b"key-of-anna", b"anna-example", b"images/anna", b"annab", b"annaold"]
    needles.append(bytes_of("boxa/anna1").encode())
    written = content_of(tmp_path)
    assert all(needle in written for needle in needles)
    suppress(engine, "boxa:anna")
    erase(engine)
    written = content_of(tmp_path)
    assert [needle for needle in needles if needle in written] == []
    assert b"Name-of-berta" in written
    engine.dispose()


@pytest.mark.slow
@pytest.mark.postgres
def test_no_byte_of_the_person_is_left_in_the_files_of_a_server(postgres_catalog_url):
    """Tables, indices, TOAST, statistics and write-ahead log of a real PostgreSQL."""
    engine = open_catalog(postgres_catalog_url)
    vector = random.Random(7).randbytes(6000)  # so long and irregular that TOAST stores it, as a real one
    with writing(engine) as connection:
        world = Writer(connection)
        for number in range(300):
            world.record("boxc", f"other{number}", urls=[f"https://others.example/{number}/{'x' * 200}"])
        world.record("boxa", "zoquelda", urls=["https://www.freeones.com/zoquelda-example"])
        world.identity(("boxa", "zoquelda"))
        [face_id] = world.image("boxa", "zoquelda1", "zoquelda")
        of_face = schema.embeddings.c.face_id == face_id
        connection.execute(sa.update(schema.embeddings).where(of_face).values(vector=vector))
    server(engine, "ANALYZE", "CHECKPOINT")
    needles = [
        b"Name-of-zoquelda",
        b"alias-of-zoquelda",
        b"raw-of-zoquelda",
        b"crop-of-zoquelda",
        b"zoquelda-example",
    ]
    needles += [b"images/zoquelda1", b"log-of-zoquelda", vector[100:164], bytes_of("boxa/zoquelda1").encode()]
    assert sorted(places_of(engine, needles)) == sorted(needles)
    suppress(engine, "boxa:zoquelda")
    assert erase(engine).records == 1
    server(engine, "CHECKPOINT")
    assert places_of(engine, needles), "a VACUUM is enough by now: rewriting is not needed any more"
    assert rewrite(engine)
    assert places_of(engine, [*needles, b"zoquelda"]) == {}
    assert b"Name-of-other7" in places_of(engine, [b"Name-of-other7"])
    engine.dispose()


@pytest.mark.postgres
def test_a_rewrite_without_superuser_rights_reports_that_the_log_stays(postgres_catalog_url):
    engine = open_catalog(postgres_catalog_url)
    database = engine.url.database
    role = f"owner_{database}"
    server(engine, f"CREATE ROLE {role} LOGIN", f"ALTER DATABASE {database} OWNER TO {role}")
    for table in schema.metadata.sorted_tables:
        server(engine, f"ALTER TABLE {table} OWNER TO {role}")
    engine.dispose()
    owner = sa.create_engine(engine.url.set(username=role))
    assert not rewrite(owner)
    owner.dispose()


@pytest.mark.postgres
def test_a_table_in_use_is_one_clear_line(postgres_catalog_url, monkeypatch):
    monkeypatch.setattr("stash_sense_pipeline.catalog.purge._LOCK_TIMEOUT_MS", 100)
    engine = open_catalog(postgres_catalog_url)
    with reading(engine) as connection:
        connection.execute(sa.select(schema.faces)).all()
        with pytest.raises(CatalogError, match="a table cannot be rewritten while it is in use"):
            rewrite(engine)
    engine.dispose()


def server(engine, *commands):
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for command in commands:
            connection.exec_driver_sql(command)


def places_of(engine, needles):
    """The needles that are in a file of the server, with the files."""
    with engine.connect() as connection:
        directory = Path(connection.exec_driver_sql("SHOW data_directory").scalar_one())
    places = {}
    for name, data in files_of_a_server(directory):
        for needle in needles:
            if needle in data:
                places.setdefault(needle, []).append(name)
    return places


def files_of_a_server(directory: Path) -> Iterator[tuple[str, bytes]]:
    """Each file below a directory by its path there, without those that the running server removes meanwhile."""
    for root, _, names in os.walk(directory):
        for name in sorted(names):
            path = Path(root, name)
            with ignoring(FileNotFoundError):
                if path.is_file():
                    yield str(path.relative_to(directory)), path.read_bytes()


def content_of(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in directory.iterdir())


RECORDS = st.sets(st.tuples(st.sampled_from(["boxa", "boxb"]), st.sampled_from("pqrstuvw")), min_size=1)


@pytest.fixture(scope="module")
def in_memory():
    """A catalog without a file: a migration takes longer than an example."""
    engine = open_catalog("sqlite://")
    yield engine
    engine.dispose()


@pytest.mark.slow
@settings(max_examples=40)
@given(st.data())
def test_exactly_the_records_linked_to_suppressed_ones_are_erased(in_memory, data):
    records = sorted(data.draw(RECORDS))
    merges = {
        record: (record[0], data.draw(st.sampled_from([r[1] for r in records if r[0] == record[0]])))
        for record in data.draw(st.sets(st.sampled_from(records)))
    }
    groups = {record: data.draw(st.integers(0, 4)) for record in records}
    pictures = {
        (source, image): data.draw(st.sets(st.sampled_from([r for r in records if r[0] == source])))
        for source in {r[0] for r in records}
        for image in "12345"
    }
    chosen = data.draw(st.sets(st.sampled_from(records)))

    same = {record: {record} for record in records}
    links = [*merges.items(), *((a, b) for a in records for b in records if 0 < groups[a] == groups[b])]
    for first, second in links:
        union = same[first] | same[second]
        for record in union:
            same[record] = union
    gone = {other for record in chosen for other in same[record]}

    engine = in_memory
    with writing(engine) as connection:
        for table in reversed(schema.metadata.sorted_tables):
            connection.execute(sa.delete(table))
        world = Writer(connection)
        for source, source_id in records:
            into = merges.get((source, source_id), (None, None))[1]
            world.record(source, source_id, merged_into=into)
        for group in range(1, 5):
            world.identity(*(record for record in records if groups[record] == group))
        for (source, image), owners in pictures.items():
            world.image(source, image, *(owner for _, owner in owners))
    suppress(engine, *(f"{source}:{source_id}" for source, source_id in chosen))
    report = erase(engine)

    performers, images = schema.source_performers, schema.source_images
    with reading(engine) as connection:
        left = {
            tuple(row) for row in connection.execute(sa.select(performers.c.source, performers.c.source_id))
        }
        left_images = {
            tuple(row) for row in connection.execute(sa.select(images.c.source, images.c.image_id))
        }
    assert left == set(records) - gone
    assert left_images == {image for image, owners in pictures.items() if not owners & gone}
    assert report.records == len(gone)
    assert erase(engine) == ErasureReport(0, 0, 0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("own", [False, True], ids=["by record", "that lists it too"])
def test_another_person_who_lists_the_page_of_an_erased_record_loses_only_that_link(any_catalog, own):
    uuid = "0f1e2d3c-4b5a-4978-8796-a5b4c3d2e1f0"
    page = f"https://stashdb.org/performers/{uuid}"
    kept = "https://www.freeones.com/other-example"
    with writing(any_catalog) as connection:
        world = Writer(connection)
        world.record("stashdb", uuid, urls=[page] if own else [])
        world.record("fansdb", "other", urls=[f"http://StashDB.org/performers/{uuid.upper()}/", kept])
        world.identity(("stashdb", uuid))
        world.identity(("fansdb", "other"))
    suppress(any_catalog, f"stashdb:{uuid}")
    assert erase(any_catalog).records == 1
    assert uuid not in repr(dump(any_catalog)).lower()
    assert column(any_catalog, schema.performer_urls.c.url) == {kept}
    assert column(any_catalog, schema.source_performers.c.source_id) == {"other"}
