"""No release holds anything of a suppressed person, in any order of suppressing, syncing, merging and publishing."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import tempfile
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from stash_sense_pipeline.catalog import schema
from stash_sense_pipeline.catalog.purge import is_purge_pending
from stash_sense_pipeline.catalog.queries import performers
from stash_sense_pipeline.catalog.transactions import reading, writing
from stash_sense_pipeline.foundation.clock import Clock
from stash_sense_pipeline.identity.linkage.overrides import Overrides, load_overrides
from stash_sense_pipeline.identity.rebuild import rebuild_identities
from stash_sense_pipeline.privacy.erasure import erase_suppressed
from stash_sense_pipeline.privacy.suppression.suppression_file import SuppressionEntry
from stash_sense_pipeline.privacy.suppression.suppression_import import add_suppressions
from stash_sense_pipeline.privacy.suppression.suppression_list import load_suppressions
from stash_sense_pipeline.records.performer_record import ImageRecord, PerformerRecord
from stash_sense_pipeline.sources.catalog_writer import CatalogWriter
from stash_sense_pipeline.sources.ingest_context import IngestContext
from stash_sense_pipeline_tests.catalog_copies import new_catalog
from stash_sense_pipeline_tests.release.memory_disk import memory_disk

KEY = bytes(range(32))
NOW = datetime(2026, 11, 20, 4, 5, 6, tzinfo=UTC)
BOXES = ("boxa", "boxb")
PEOPLE = ("zqanna", "zqberta", "zqclara")


def sha256(person: str, picture: int) -> str:
    return hashlib.sha256(f"{person} {picture}".encode()).hexdigest()


@dataclass
class Upstream:
    """The current content of the stash-boxes: records by (box, id), each of a person, and merges."""

    records: dict[tuple[str, str], PerformerRecord] = field(default_factory=dict)
    person: dict[tuple[str, str], str] = field(default_factory=dict)
    gone: dict[tuple[str, str], str | None] = field(default_factory=dict)
    pictures: dict[tuple[str, str], int] = field(default_factory=dict)
    made: int = 0

    def publish(self, box: str, person: str, picture: int) -> None:
        """Adds a record of a person, with the page that all records of that person list."""
        self.made += 1
        key = box, f"{person}-{self.made}"
        image = ImageRecord(f"{person}-i{self.made}", f"https://{box}.example/{person}-i{self.made}.jpg")
        self.pictures[box, image.image_id] = picture
        self.person[key] = person
        self.records[key] = PerformerRecord(
            source_id=key[1],
            name=f"Name {person} {self.made}",
            aliases=(f"Alias {person} {self.made}",),
            urls=(f"https://www.instagram.com/{person}",),
            images=(image,),
            birth_date="1980",
        )


class Leaving(RuleBasedStateMachine):
    """The program against two stash-boxes that change, and people who ask to leave at any moment."""

    @initialize()
    def begin(self) -> None:
        self.directory = Path(tempfile.mkdtemp(dir=memory_disk()))
        self.engine = new_catalog(self.directory / "catalog.db")
        self.upstream = Upstream()
        self.left: set[str] = set()
        for person in PEOPLE:
            self.upstream.publish("boxa", person, 0)

    def teardown(self) -> None:
        self.engine.dispose()
        shutil.rmtree(self.directory)

    @rule(box=st.sampled_from(BOXES), person=st.sampled_from(PEOPLE), picture=st.integers(0, 2))
    def a_new_record_appears(self, box: str, person: str, picture: int) -> None:
        self.upstream.publish(box, person, picture)

    @rule(data=st.data())
    def a_person_is_renamed(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.upstream.records)))
        person = self.upstream.person[key]
        self.upstream.records[key] = replace(self.upstream.records[key], name=f"New {person} name")

    @rule(data=st.data())
    def two_records_are_merged_upstream(self, data: st.DataObject) -> None:
        keys = sorted(self.upstream.records)
        first = data.draw(st.sampled_from(keys))
        same = [
            key
            for key in keys
            if key != first
            and key[0] == first[0]
            and self.upstream.person[key] == self.upstream.person[first]
        ]
        if same:
            survivor = data.draw(st.sampled_from(same))
            del self.upstream.records[first]
            self.upstream.gone[first] = survivor[1]
            kept = self.upstream.records[survivor]
            self.upstream.records[survivor] = replace(kept, merged_ids=(*kept.merged_ids, first[1]))

    @rule(data=st.data())
    def a_merge_is_undone(self, data: st.DataObject) -> None:
        if self.upstream.gone:
            key = data.draw(st.sampled_from(sorted(self.upstream.gone)))
            del self.upstream.gone[key]
            person = self.upstream.person[key]
            self.upstream.records[key] = PerformerRecord(
                source_id=key[1],
                name=f"Back {person}",
                urls=(f"https://www.instagram.com/{person}",),
                birth_date="1980",
            )

    @rule(box=st.sampled_from(BOXES))
    def a_box_is_synced(self, box: str) -> None:
        asyncio.run(self._sync(box))
        self._collect(box)

    @rule()
    def identities_are_computed(self) -> None:
        hosts = {box: f"{box}.example" for box in BOXES}
        rebuild_identities(self.engine, hosts, load_overrides(self.directory / "none.yaml"), NOW)

    @rule(data=st.data())
    @precondition(lambda self: len(self.left) < len(PEOPLE))
    def a_person_leaves(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted({*self.upstream.records, *self.upstream.gone})))
        entry = SuppressionEntry(":".join(key), "asked", date(2026, 11, 20), unseen=True)
        with writing(self.engine) as connection:
            add_suppressions(connection, KEY, [entry])
        self.left.add(self.upstream.person[key])

    @rule()
    def suppressions_are_applied(self) -> None:
        erase_suppressed(self.engine, load_suppressions(self.engine, KEY), NOW)

    @rule()
    def a_release_is_made(self) -> None:
        """One nightly run: reads all sources, enforces the list, computes identities, publishes the rest."""
        for box in BOXES:
            self.a_box_is_synced(box)
        self.suppressions_are_applied()
        self.identities_are_computed()
        published = self._everything()
        for person in self.left:
            assert person not in published, person
            for picture in range(3):
                assert sha256(person, picture) not in published
        files = b"".join(path.read_bytes() for path in self.directory.glob("catalog.db*"))
        for person in self.left:
            assert person.encode() not in files, person

    async def _sync(self, box: str) -> None:
        writer = CatalogWriter(IngestContext(self.engine, load_suppressions(self.engine, KEY)), box)
        live = [record for (source, _), record in self.upstream.records.items() if source == box]
        gone = {key: target for (source, key), target in self.upstream.gone.items() if source == box}
        await writer.store(live)
        with reading(self.engine) as connection:
            _, absent = performers.live_besides(connection, box, {record.source_id for record in live})
        await writer.tombstone({**gone, **{key: gone.get(key) for key in absent}})
        await writer.remove_orphaned_images()

    def _collect(self, box: str) -> None:
        """Stores a face for each waiting image, unless its bytes are suppressed."""
        table, listed = schema.source_images, load_suppressions(self.engine, KEY)
        with writing(self.engine) as connection:
            waiting = sa.select(table.c.image_id).where(table.c.source == box, table.c.state == "pending")
            for image_id in connection.scalars(waiting).all():
                person = image_id.split("-")[0]
                digest = sha256(person, self.upstream.pictures[box, image_id])
                which = sa.update(table).where(table.c.source == box, table.c.image_id == image_id)
                if listed.covers_image(digest):
                    connection.execute(which.values(state="rejected", reason="suppressed"))
                    continue
                connection.execute(which.values(state="done", sha256=digest))
                self._face(connection, box, image_id, f"vector {person}".encode())

    def _face(self, connection: sa.Connection, box: str, image_id: str, vector: bytes) -> None:
        numbers: dict[str, Any] = dict.fromkeys(["x1", "y1", "x2", "y2", "yaw", "roll", "blur"], 1.0)
        (face_id,) = connection.execute(
            sa.insert(schema.faces).values(
                source=box,
                image_id=image_id,
                face_index=0,
                detection_confidence=0.9,
                quality=0.5,
                landmarks=b"",
                pack="p",
                detector_digest="d",
                created_at=NOW,
                **numbers,
            )
        ).inserted_primary_key or (None,)
        connection.execute(
            sa.insert(schema.embeddings).values(
                face_id=face_id, model="m", vector=vector, pack="p", model_digest="d", created_at=NOW
            )
        )

    def _everything(self) -> str:
        with reading(self.engine) as connection:
            return " ".join(
                repr(connection.execute(sa.select(table)).all()) for table in schema.metadata.sorted_tables
            )


Leaving.TestCase.settings = settings(max_examples=25, stateful_step_count=14, deadline=None)


@pytest.mark.slow
class TestNoPersonLeaks(Leaving.TestCase):
    """Some hundred nightly runs in random order."""


@pytest.mark.slow
def test_a_person_who_left_and_comes_back_in_another_source_is_in_no_release_and_others_are() -> None:
    """Sync, suppress, a new record with the same picture on another box, publish."""
    machine = Leaving()
    machine.begin()
    try:
        machine.a_release_is_made()
        with writing(machine.engine) as connection:
            entry = SuppressionEntry("boxa:zqanna-1", "asked", date(2026, 11, 20))
            add_suppressions(connection, KEY, [entry])
        machine.left.add("zqanna")
        machine.upstream.publish("boxb", "zqanna", 0)
        machine.a_release_is_made()
        assert "zqberta" in machine._everything()
        assert "zqclara" in machine._everything()
    finally:
        machine.teardown()


@pytest.mark.slow
def test_a_record_that_shares_a_page_with_the_survivor_of_a_merge_stays(catalog: sa.Engine) -> None:
    """The record that the suppressed one was merged into is erased. A third record that shares a page with it stays."""
    shared = ("https://www.freeones.com/zq-shared",)
    survivor = PerformerRecord(source_id="wim", name="Wim Zq", urls=shared, birth_date="1980")
    third = PerformerRecord(source_id="xylo", name="Xylo Zq", urls=shared, birth_date="1980")
    leaver = PerformerRecord(source_id="anna", name="Anna Zq", birth_date="1980")

    def sync(*records: PerformerRecord) -> None:
        writer = CatalogWriter(
            IngestContext(catalog, load_suppressions(catalog, KEY), clock=Clock(now=lambda: NOW)), "boxa"
        )
        asyncio.run(writer.store(records))
        rebuild_identities(catalog, {"boxa": "boxa.example"}, Overrides(), NOW)

    sync(survivor, third, leaver)
    with writing(catalog) as connection:
        add_suppressions(connection, KEY, [SuppressionEntry("boxa:anna", "asked", NOW.date())])
    erase_suppressed(catalog, load_suppressions(catalog, KEY), NOW)
    sync(replace(survivor, merged_ids=("anna",)), third)
    erase_suppressed(catalog, load_suppressions(catalog, KEY), NOW)
    with reading(catalog) as connection:
        assert connection.scalars(sa.select(schema.source_performers.c.source_id)).all() == ["xylo"]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["merged at the source", "lists a page", "is of a child"])
def test_a_sync_that_erases_a_person_removes_the_name_from_reports(
    catalog: sa.Engine, tmp_path: Path, how: str
) -> None:
    """The next `suppress apply` could not: the catalog does not hold the names any more."""
    anna = PerformerRecord(source_id="anna-uuid", name="Zq Anna", birth_date="1980")
    other = PerformerRecord(
        source_id="other-uuid", name="Zq Other", birth_date="1980", urls=("https://x.example/zq-other",)
    )

    def writer() -> CatalogWriter:
        return CatalogWriter(
            IngestContext(
                catalog,
                load_suppressions(catalog, KEY),
                clock=Clock(now=lambda: NOW),
                data_dir=tmp_path,
            ),
            "boxa",
        )

    asyncio.run(writer().store([anna, other]))
    with writing(catalog) as connection:
        entries = ["boxa:anna-uuid", "https://www.instagram.com/zqanna"]
        add_suppressions(
            connection, KEY, [SuppressionEntry(each, "asked", NOW.date(), unseen=True) for each in entries]
        )
    erase_suppressed(catalog, load_suppressions(catalog, KEY), NOW)
    texts = ["review/identity.md", "logs/run.log", "releases/2026.02.18.report/report.md"]
    for name in texts:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("boxa:other-uuid\nZQ OTHER (7)\nhttps://x.example/zq-other\nstays\n")
    (tmp_path / "staging" / "next").mkdir(parents=True)
    if how == "merged at the source":
        asyncio.run(writer().tombstone({"other-uuid": "anna-uuid"}))
    elif how == "lists a page":
        asyncio.run(writer().store([replace(other, urls=("https://www.instagram.com/zqanna",))]))
    else:
        asyncio.run(writer().store([replace(other, birth_date="2020")]))
    for name in texts:
        assert (tmp_path / name).read_text() == "(erased)\n(erased)\n(erased)\nstays\n"
    assert list((tmp_path / "staging").iterdir()) == []
    assert is_purge_pending(catalog)
    erase_suppressed(catalog, load_suppressions(catalog, KEY), NOW)
    assert not is_purge_pending(catalog)


def test_a_new_record_at_the_url_of_an_erased_one_is_refused(catalog: sa.Engine) -> None:
    """URLs of ThePornDB hold slugs: a record that was deleted and entered again has the same URL and another uuid."""

    def sync(*records: PerformerRecord) -> None:
        writer = CatalogWriter(IngestContext(catalog, load_suppressions(catalog, KEY)), "theporndb")
        asyncio.run(writer.store(records))

    first = PerformerRecord("uuid-1", "Zq Anna", raw={"slug": "zq-anna", "_id": "11"})
    sync(first, PerformerRecord("uuid-3", "Zq Berta", raw={"slug": "zq-berta", "_id": "33"}))
    with writing(catalog) as connection:
        add_suppressions(
            connection, KEY, [SuppressionEntry("theporndb:uuid-1", "asked", date(2026, 11, 20), unseen=True)]
        )
    erase_suppressed(catalog, load_suppressions(catalog, KEY), NOW)
    sync(replace(first, source_id="uuid-2", raw={"slug": "Zq-Anna", "_id": "22"}))
    with reading(catalog) as connection:
        assert set(connection.scalars(sa.select(schema.source_performers.c.source_id))) == {"uuid-3"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"urls": ("https://www.instagram.com/zqanna",)}, []),
        ({"birth_date": "2020"}, ["withheld_records"]),
    ],
    ids=["lists a page of a suppressed person", "is of a child"],
)
def test_a_stored_record_that_is_refused_later_is_deleted_from_every_table(
    change: dict[str, Any], where: list[str]
) -> None:
    """Also when the run ends before its last step, which removes images without a record."""
    machine = Leaving()
    machine.begin()
    try:
        image = ImageRecord("zqrosa-i1", "https://boxb.example/zqrosa-i1.jpg")
        record = PerformerRecord("zqrosa-1", "Name zqrosa", images=(image,), birth_date="1980")
        machine.upstream.records["boxb", "zqrosa-1"] = record
        machine.upstream.pictures["boxb", "zqrosa-i1"] = 0
        machine.a_release_is_made()
        assert "zqrosa" in machine._everything()
        with writing(machine.engine) as connection:
            entry = SuppressionEntry("boxa:zqanna-1", "asked", date(2026, 11, 20))
            add_suppressions(connection, KEY, [entry])
        machine.suppressions_are_applied()
        writer = CatalogWriter(IngestContext(machine.engine, load_suppressions(machine.engine, KEY)), "boxb")
        asyncio.run(writer.store([replace(record, **change)]))
        with reading(machine.engine) as connection:
            rows = {
                table.name: repr(connection.execute(sa.select(table)).all())
                for table in schema.metadata.sorted_tables
            }
        # A child's record is listed for review, by its id alone.
        assert [name for name, text in rows.items() if "zqrosa" in text] == where
    finally:
        machine.teardown()
