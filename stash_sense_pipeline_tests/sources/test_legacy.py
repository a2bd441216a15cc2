"""The import of a predecessor's data: all versions of its files, no invented data, no partial import."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from stash_sense_pipeline.catalog import schema
from stash_sense_pipeline.catalog.queries import performers
from stash_sense_pipeline.catalog.queries.identity import identities
from stash_sense_pipeline.catalog.queries.images import waiting_performers
from stash_sense_pipeline.catalog.queries.sync_state import load_states
from stash_sense_pipeline.catalog.transactions import reading, writing
from stash_sense_pipeline.cli import main
from stash_sense_pipeline.foundation.errors import ConfigurationError
from stash_sense_pipeline.privacy.suppression.suppression_hashes import record_hash, url_hashes
from stash_sense_pipeline.privacy.suppression.suppression_list import NO_SUPPRESSIONS, Suppressions
from stash_sense_pipeline.records.performer_record import ImageRecord, PerformerRecord
from stash_sense_pipeline.sandbox.stash_box.database import Box
from stash_sense_pipeline.settings.schema import StashBoxSettings
from stash_sense_pipeline.sources.legacy_data import Legacy
from stash_sense_pipeline.sources.legacy_import import LegacyReport, import_legacy
from stash_sense_pipeline.sources.legacy_reader import read_legacy
from stash_sense_pipeline_tests.databases import extras
from stash_sense_pipeline_tests.sources.conftest import Refresh

NOW = datetime(2026, 1, 2, tzinfo=UTC)
BOXES = tuple(
    StashBoxSettings(
        name=name, url=f"https://{host}/graphql", host=host, rate_limit=60.0, connector=connector
    )
    for name, host, connector in (
        ("stashdb", "stashdb.org", "stash_box"),
        ("theporndb", "theporndb.net", "theporndb"),
        ("mine", "box.example", "stash_box"),
    )
)
# Unknown tables are not read.
PLAIN = {"another table", "a table with a strange name"}
TABLES = ("source_performers", "performer_aliases", "performer_urls", "identities", "identity_members")


def uid(number: int) -> str:
    """An id in the format of stash-box."""
    return f"00000000-0000-4000-8000-{number:012d}"


# The changes of each version. 3 is the oldest known version.
DDL = {
    3: """
CREATE TABLE schema_version (version INTEGER PRIMARY KEY);
CREATE TABLE performers (id INTEGER PRIMARY KEY AUTOINCREMENT, canonical_name TEXT NOT NULL, disambiguation TEXT,
  gender TEXT, country TEXT, ethnicity TEXT, birth_date TEXT, death_date TEXT, height_cm INTEGER, eye_color TEXT,
  hair_color TEXT, career_start_year INTEGER, career_end_year INTEGER, scene_count INTEGER, stashdb_updated_at TEXT,
  face_count INTEGER DEFAULT 0, image_url TEXT);
CREATE TABLE stashbox_ids (performer_id INTEGER, endpoint TEXT, stashbox_performer_id TEXT);
CREATE TABLE aliases (id INTEGER PRIMARY KEY, performer_id INTEGER, alias TEXT, source_endpoint TEXT);
CREATE TABLE faces (id INTEGER PRIMARY KEY, performer_id INTEGER, facenet_index INTEGER, arcface_index INTEGER);
""",
    5: """
CREATE TABLE external_urls (id INTEGER PRIMARY KEY, performer_id INTEGER, site TEXT, url TEXT, normalized_id TEXT,
  source_endpoint TEXT NOT NULL, confidence REAL);
CREATE TABLE merged_ids (performer_id INTEGER, merged_stashbox_id TEXT, endpoint TEXT);
""",
    9: "ALTER TABLE faces ADD COLUMN pruned BOOLEAN; ALTER TABLE faces ADD COLUMN yaw REAL;",
}


class Predecessor:
    """A directory with a predecessor's files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def json(self, name: str, data: Any) -> None:
        """Writes a JSON file."""
        (self.directory / name).write_text(json.dumps(data))

    def database(self, version: int = 9, **tables: list[dict[str, Any]]) -> None:
        """Writes performers.db in the shape of a version."""
        (self.directory / "performers.db").unlink(missing_ok=True)
        with closing(sqlite3.connect(self.directory / "performers.db")) as connection:
            for since, ddl in DDL.items():
                if since <= max(version, 3):
                    connection.executescript(ddl)
            connection.execute("INSERT INTO schema_version VALUES (?)", (version,))
            for name, rows in tables.items():
                for row in rows:
                    marks = ", ".join("?" * len(row))
                    columns = ", ".join(row)
                    connection.execute(f"INSERT INTO {name} ({columns}) VALUES ({marks})", [*row.values()])
            connection.commit()

    def read(self) -> Legacy:
        """Reads the files."""
        return read_legacy(self.directory, BOXES)

    def imported(self, engine: sa.Engine, refusals: Any = NO_SUPPRESSIONS) -> LegacyReport:
        """Imports the files."""
        return import_legacy(engine, self.read(), refusals, NOW)


@pytest.fixture
def old(tmp_path: Path) -> Predecessor:
    """An empty directory for files."""
    directory = tmp_path / "old"
    directory.mkdir()
    return Predecessor(directory)


def person(number: int, **fields: Any) -> dict[str, Any]:
    """A row of `performers`."""
    return {"id": number, "canonical_name": f"Person {number}", **fields}


def box_id(number: int, endpoint: str = "stashdb", source_id: str | None = None) -> dict[str, Any]:
    """A row of `stashbox_ids`."""
    source_id = source_id or uid(number)
    return {"performer_id": number, "endpoint": endpoint, "stashbox_performer_id": source_id}


def faces_of(number: int, count: int, first: int = 0, **fields: Any) -> list[dict[str, Any]]:
    """Rows of `faces`."""
    return [
        {"performer_id": number, "facenet_index": first + each, "arcface_index": first + each, **fields}
        for each in range(count)
    ]


def table(engine: sa.Engine, name: str) -> list[dict[str, Any]]:
    """All rows of a table of the catalog."""
    of = schema.metadata.tables[name]
    with engine.connect() as connection:
        return [dict(row._mapping) for row in connection.execute(sa.select(of).order_by(*of.primary_key))]


def everything(engine: sa.Engine) -> dict[str, list[dict[str, Any]]]:
    """All rows that an import can write."""
    return {name: table(engine, name) for name in (*TABLES, "identity_log", "sync_state")}


def members(engine: sa.Engine) -> dict[tuple[str, str], int]:
    """performer_id by record."""
    with reading(engine) as connection:
        return identities.read_members(connection)


@pytest.mark.slow
def test_performers_db_becomes_an_unverified_import_without_a_watermark(any_catalog, old):
    old.database(
        performers=[
            person(
                7,
                **{
                    "disambiguation": "tall",
                    "gender": "female",
                    "country": "DE",
                    "ethnicity": "Middle Eastern",
                },
                **{"birth_date": "1990-05", "height_cm": 170, "eye_color": "GREEN", "hair_color": "Brown"},
                **{
                    "career_start_year": 2010,
                    "career_end_year": 2015,
                    "stashdb_updated_at": "2026-01-30T01:02:03Z",
                },
            )
        ],
        stashbox_ids=[box_id(7, "theporndb", "tpdb-7"), box_id(7)],
        aliases=[
            {"performer_id": 7, "alias": "Seven", "source_endpoint": "stashdb"},
            {"performer_id": 7, "alias": "Nobody's", "source_endpoint": None},
            {"performer_id": 7, "alias": "Siete", "source_endpoint": "theporndb"},
            {"performer_id": 7, "alias": "Sieben", "source_endpoint": "iafd"},
        ],
        external_urls=[
            {"performer_id": 7, "site": "x", "url": "https://x.example/7", "source_endpoint": "stashdb"},
            {"performer_id": 7, "site": "y", "url": "https://y.example/7", "source_endpoint": "iafd"},
        ],
    )
    report = old.imported(any_catalog)
    assert [(each.source, each.records) for each in report.sources] == [("stashdb", 1), ("theporndb", 1)]
    main, second = table(any_catalog, "source_performers")
    assert {key: value for key, value in main.items() if value not in (None, {})} == {
        **{"source": "stashdb", "source_id": uid(7), "name": "Person 7", "disambiguation": "tall"},
        **{"gender": "FEMALE", "country": "DE", "ethnicity": "MIDDLE_EASTERN", "birth_date": "1990-05"},
        **{"height_cm": 170, "eye_color": "GREEN", "hair_color": "BROWN"},
        **{"career_start_year": 2010, "career_end_year": 2015, "first_seen_at": NOW, "changed_at": NOW},
        "legacy_faces": 0,
    }
    assert (second["name"], second["birth_date"], second["content_hash"]) == ("Person 7", None, None)
    aliases = [(row["source"], row["alias"]) for row in table(any_catalog, "performer_aliases")]
    assert aliases == [("stashdb", "Nobody's"), ("stashdb", "Seven"), ("theporndb", "Siete")]
    assert [row["url"] for row in table(any_catalog, "performer_urls")] == ["https://x.example/7"]
    with reading(any_catalog) as connection:
        assert load_states(connection) == {}


@pytest.mark.parametrize("version", range(3, 10))
def test_a_database_of_each_schema_version_is_imported_with_its_face_counts(catalog, old, version):
    tables = {"merged_ids": [{"performer_id": 1, "endpoint": "stashdb", "merged_stashbox_id": uid(9)}]}
    faces = [*faces_of(1, 2), *(faces_of(1, 3, 10, pruned=1) if version == 9 else [])]
    old.database(
        version,
        performers=[person(1)],
        stashbox_ids=[box_id(1)],
        faces=faces,
        **(tables if version >= 5 else {}),
    )
    (source,) = old.imported(catalog).sources
    assert (source.records, source.tombstones) == (1, int(version >= 5))
    assert table(catalog, "source_performers")[0]["legacy_faces"] == 2


def test_a_database_with_only_the_performers_table_gives_no_records(catalog, old):
    old.database(performers=[person(1)])
    with closing(sqlite3.connect(old.directory / "performers.db")) as connection:
        for name in ("stashbox_ids", "aliases", "external_urls", "merged_ids", "faces"):
            connection.execute(f"DROP TABLE {name}")
    assert old.read().unusable == 1
    assert old.imported(catalog).sources == ()


def test_performer_ids_are_kept_where_none_are_allocated(any_catalog, old):
    old.database(
        performers=[person(5), person(9), person(40, birth_date="2020-01-01")],
        stashbox_ids=[box_id(5), box_id(9), box_id(9, "mine"), box_id(40)],
    )
    assert old.imported(any_catalog).performer_ids == 2
    assert members(any_catalog) == {
        ("stashdb", uid(5)): 5,
        ("stashdb", uid(9)): 9,
        ("mine", uid(9)): 9,
    }
    with writing(any_catalog) as connection:
        # The id of a person who was left out is not reused either.
        assert identities.last_id(connection) == 40


def test_performer_ids_are_not_kept_where_some_are_allocated(any_catalog, old):
    with writing(any_catalog) as connection:
        identities.add_ids(connection, [1], NOW)
    old.database(performers=[person(5)], stashbox_ids=[box_id(5)])
    assert old.imported(any_catalog).performer_ids == 0
    assert members(any_catalog) == {}
    assert [row["performer_id"] for row in table(any_catalog, "identities")] == [1]


def test_merged_ids_become_tombstones_with_their_survivors(any_catalog, old):
    old.database(
        performers=[person(1), person(2)],
        stashbox_ids=[box_id(1), box_id(2)],
        merged_ids=[
            {"performer_id": 1, "endpoint": "stashdb", "merged_stashbox_id": uid(11)},
            {"performer_id": 1, "endpoint": "mine", "merged_stashbox_id": uid(12)},
            # An id with a live record does not become a tombstone.
            {"performer_id": 1, "endpoint": "stashdb", "merged_stashbox_id": uid(2)},
        ],
    )
    old.imported(any_catalog)
    with reading(any_catalog) as connection:
        assert performers.tombstones(connection, "stashdb") == {uid(11): uid(1)}
        assert performers.tombstones(connection, "mine") == {uid(12): None}
        assert performers.live_besides(connection, "stashdb", ()) == (2, [uid(1), uid(2)])


def test_performers_json_makes_records_and_progress_adds_faces(any_catalog, old):
    old.json(
        "performers.json",
        {
            f"stashdb.org:{uid(1)}": {"name": "One", "country": "FR", "image_url": None, "face_count": 5},
            f"box.example:{uid(2)}": {"name": "Two", "country": None, "image_url": None, "face_count": 1},
            uid(3): {"name": "Three", "face_count": 2},
            f"stashdb.org:{uid(4)}": {"name": None, "face_count": 2},
        },
    )
    old.json("progress.json", {"processed_ids": [uid(1), uid(8), f"box.example:{uid(2)}"], "stats": {}})
    report = old.imported(any_catalog)
    assert report.performer_ids == 0
    rows = [
        (row["source"], row["name"], row["country"], row["legacy_faces"], row["legacy_images"])
        for row in table(any_catalog, "source_performers")
    ]
    assert rows == [
        ("mine", "Two", None, 1, None),
        ("stashdb", "One", "FR", 5, None),
        ("stashdb", "Three", None, 2, None),
    ]
    assert old.read().unusable == 1


def test_progress_of_version_2_adds_the_number_of_images(any_catalog, old):
    old.database(performers=[person(1), person(2)], stashbox_ids=[box_id(1), box_id(2)], faces=faces_of(1, 4))
    seen = {"faces_indexed": 3, "images_processed": 6, "images_available": 9, "last_synced": "2026-01-30"}
    old.json(
        "progress.json", {"schema_version": 2, "performers": {uid(1): seen, f"stashdb.org:{uid(7)}": seen}}
    )
    old.imported(any_catalog)
    rows = [(row["legacy_faces"], row["legacy_images"]) for row in table(any_catalog, "source_performers")]
    assert rows == [(4, 6), (0, None)]


@pytest.mark.parametrize("file", ["performers.db", "performers.json"])
def test_a_second_import_of_the_same_files_adds_no_row(any_catalog, old, file):
    if file == "performers.db":
        old.database(
            performers=[person(1, birth_date="1990"), person(2)],
            stashbox_ids=[box_id(1), box_id(2)],
            aliases=[{"performer_id": 1, "alias": "A", "source_endpoint": "stashdb"}],
            merged_ids=[{"performer_id": 1, "endpoint": "stashdb", "merged_stashbox_id": uid(11)}],
            faces=faces_of(1, 4),
        )
    else:
        old.json("performers.json", {f"stashdb.org:{uid(1)}": {"name": "One", "face_count": 3}})
    old.imported(any_catalog)
    before = everything(any_catalog)
    report = import_legacy(any_catalog, old.read(), NO_SUPPRESSIONS, datetime(2027, 1, 1, tzinfo=UTC))
    assert everything(any_catalog) == before
    assert report.performer_ids == sum(each.records + each.tombstones for each in report.sources) == 0


def test_records_that_the_catalog_has_are_not_changed(any_catalog, old):
    known = PerformerRecord(uid(1), "Real name", aliases=("Real",), updated_at=NOW)
    with writing(any_catalog) as connection:
        performers.store_records(connection, "stashdb", [known, PerformerRecord(uid(2), "Gone")], NOW)
        performers.tombstone_records(connection, "stashdb", {uid(2): None}, NOW)
        id_hash = NO_SUPPRESSIONS.withheld_hash("stashdb", uid(3))
        withheld = [performers.WithheldRecord(id_hash, NOW, "suppressed", None)]
        performers.withhold_records(connection, "stashdb", withheld, NOW)
    before = everything(any_catalog)
    old.database(
        performers=[person(number) for number in (1, 2, 3)],
        stashbox_ids=[box_id(number) for number in (1, 2, 3)],
        aliases=[{"performer_id": 1, "alias": "Old", "source_endpoint": "stashdb"}],
        merged_ids=[{"performer_id": 2, "endpoint": "stashdb", "merged_stashbox_id": uid(3)}],
        faces=faces_of(1, 2),
    )
    (source,) = old.imported(any_catalog).sources
    assert (source.records, source.tombstones, source.noted) == (0, 0, 1)
    after = everything(any_catalog)
    assert after["source_performers"][0].pop("legacy_faces") == 2
    assert before["source_performers"][0].pop("legacy_faces") is None
    for name in ("source_performers", "performer_aliases"):
        assert after[name] == before[name]
    # The predecessor's performer id is kept for the live record.
    assert members(any_catalog) == {("stashdb", uid(1)): 1}


UUID = "0f1e2d3c-4b5a-4978-8796-a5b4c3d2e1f0"


@pytest.mark.parametrize(
    "covered",
    [
        {"records": frozenset({record_hash(b"k", "stashdb", uid(1))})},
        {"records": frozenset({record_hash(b"k", "theporndb", "other-1")})},
        {"records": frozenset({record_hash(b"k", "stashdb", uid(11))})},
        {"urls": frozenset(url_hashes(b"k", "https://x.example/1"))},
        {"urls": frozenset(url_hashes(b"k", "https://cdn.example/1.jpg"))},
        {"records": frozenset({record_hash(b"k", "fansdb", UUID)})},
    ],
    ids=["record", "record elsewhere", "merged record", "url", "image", "link to a record"],
)
def test_suppressed_people_are_left_out_with_all_their_records(catalog, old, covered):
    old.database(
        performers=[person(1, image_url="https://cdn.example/1.jpg"), person(2)],
        stashbox_ids=[box_id(1), box_id(1, "theporndb", "other-1"), box_id(2)],
        merged_ids=[{"performer_id": 1, "endpoint": "stashdb", "merged_stashbox_id": uid(11)}],
        external_urls=[
            {"performer_id": 1, "site": "x", "url": url, "source_endpoint": "iafd"}
            for url in ("https://x.example/1", f"https://fansdb.cc/performers/{UUID}")
        ],
    )
    assert old.imported(catalog, Suppressions(b"k", **covered)).suppressed == 1
    assert [row["source_id"] for row in table(catalog, "source_performers")] == [uid(2)]
    assert members(catalog) == {("stashdb", uid(2)): 2}


@pytest.mark.parametrize(
    "fields",
    [
        {"birth_date": "2012-01-01"},
        {"birth_date": "unreadable"},
        {"birth_date": "2000-01-01", "career_start_year": 2015},
    ],
)
def test_people_who_are_not_adults_are_left_out(catalog, old, fields):
    old.database(
        performers=[person(1, **fields), person(2, birth_date="1990-00-00")],
        stashbox_ids=[box_id(1), box_id(2)],
    )
    assert old.imported(catalog).not_adult == 1
    assert [row["birth_date"] for row in table(catalog, "source_performers")] == ["1990"]


def test_records_of_other_boxes_and_broken_ids_are_counted_and_left_out(catalog, old):
    old.database(
        performers=[person(1), person(2), person(3, canonical_name=" ")],
        stashbox_ids=[box_id(1, "fansdb"), box_id(2, "stashdb", "no-uuid"), box_id(3)],
    )
    legacy = old.read()
    assert (legacy.people, legacy.unusable, legacy.elsewhere) == ((), 3, {"fansdb": 1})


def test_ids_are_compared_as_the_server_writes_them(catalog, old):
    old.database(performers=[person(1)], stashbox_ids=[box_id(1, "stashdb", f" {uid(0xABC).upper()}")])
    assert list(old.read().people[0].records) == [("stashdb", uid(0xABC))]


def _cut(path: Path, keep: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])


REFUSED = {
    "no JSON": ("performers.json", b"{", "is not valid JSON"),
    "not text": ("performers.json", b"\xff\xfe\x00", "is not valid JSON"),
    "a list": ("performers.json", b"[]", "does not hold an object"),
    "a later progress": ("progress.json", b'{"schema_version": 3, "performers": {}}', "is of version 3"),
    "progress without a list": ("progress.json", b'{"stats": {}}', "version 1 without processed_ids"),
    "progress without people": ("progress.json", b'{"schema_version": 2}', "version 2 without performers"),
    "no database": ("performers.db", b"text" * 300, "cannot be read"),
    "an empty database": ("performers.db", b"", "is not an SQLite database"),
}


@pytest.mark.parametrize(("name", "content", "problem"), REFUSED.values(), ids=REFUSED)
def test_an_invalid_file_is_refused_in_one_line_and_nothing_is_imported(catalog, old, name, content, problem):
    old.database(performers=[person(1)], stashbox_ids=[box_id(1)])
    (old.directory / name).write_bytes(content)
    before = everything(catalog)
    with pytest.raises(ConfigurationError) as raised:
        old.imported(catalog)
    text = str(raised.value)
    assert text.startswith(f"{old.directory / name}: ")
    assert problem in text
    assert "; expected " in text
    assert "\n" not in text
    assert everything(catalog) == before


@pytest.mark.parametrize(
    ("name", "content", "unusable", "people"),
    [
        ("performers.json", {"stashdb.org:a": 3}, 1, []),
        ("performers.json", {f"stashdb.org:{uid(2)}": {"name": "A", "face_count": []}}, 0, ["A"]),
        ("performers.json", {f"stashdb.org:{uid(2)}": {"name": 1, "country": {}}}, 0, ["1"]),
        ("performers.json", {f"stashdb.org:{uid(2)}": {"name": ["A"]}}, 1, []),
        ("performers.json", {f"stashdb.org:{uid(2)}": {"name": "x" * 2001}}, 1, []),
        ("progress.json", {"processed_ids": [1.5, None]}, 2, []),
    ],
)
def test_an_invalid_entry_is_skipped_and_counted(catalog, old, name, content, unusable, people):
    old.database(performers=[person(1), person(2**40)], stashbox_ids=[box_id(1)])
    old.json(name, content)
    legacy = old.read()
    # The row without a valid performer id is one more.
    assert legacy.unusable == unusable + 1
    found = [record.name for each in legacy.people for record in each.records.values()]
    assert found == ["Person 1", *people]
    assert old.imported(catalog).sources[0].records == len(found)


@pytest.mark.parametrize(
    ("birth_date", "career_start_year", "is_imported"),
    [
        ("-0001-11-30", 0, True),
        ("0000-00-00", None, True),
        ("x" * 3000, None, False),
        ("May 2010", 2012, False),
    ],
)
def test_an_unknown_birth_date_does_not_mean_under_18(
    catalog, old, birth_date, career_start_year, is_imported
):
    fields = {"birth_date": birth_date, "career_start_year": career_start_year}
    old.database(performers=[person(1, **fields)], stashbox_ids=[box_id(1)])
    assert old.imported(catalog).not_adult == (not is_imported)


@pytest.mark.parametrize("version", [2, 10])
def test_an_unknown_schema_version_is_refused(old, version):
    old.database(version, performers=[person(1)])
    with pytest.raises(ConfigurationError, match=f"schema version {version}; expected .* 3 to 9"):
        old.read()


def test_a_truncated_database_is_refused_with_its_file_name(old):
    old.database(performers=[person(number, disambiguation="x" * 500) for number in range(1, 200)])
    _cut(old.directory / "performers.db", 0.5)
    with pytest.raises(ConfigurationError, match=r"performers\.db: "):
        old.read()


def test_a_directory_without_any_of_the_files_is_refused(old):
    with pytest.raises(
        ConfigurationError, match=r"at least one of progress\.json, performers\.json, performers\.db"
    ):
        old.read()


def test_reading_a_database_leaves_the_files_of_its_directory_unchanged(old):
    old.database(performers=[person(1)], stashbox_ids=[box_id(1)])
    with closing(sqlite3.connect(old.directory / "performers.db")) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
    before = {path.name: path.read_bytes() for path in old.directory.iterdir()}
    old.read()
    assert {path.name: path.read_bytes() for path in old.directory.iterdir()} == before


def test_rows_that_are_only_in_the_write_ahead_log_are_read(old):
    old.database(performers=[person(1)], stashbox_ids=[box_id(1)])
    with closing(sqlite3.connect(old.directory / "performers.db")) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("UPDATE performers SET canonical_name = 'Later'")
        connection.commit()
        (found,) = old.read().people
    assert found.records["stashdb", uid(1)].name == "Later"


def test_enough_faces_come_first_and_too_few_last_until_there_are_new_images(any_catalog, old):
    old.database(
        performers=[person(each) for each in range(1, 6)], stashbox_ids=[box_id(each) for each in range(1, 6)]
    )
    progress = {
        1: {"faces_indexed": 1, "images_processed": 2},  # too few, and nothing new
        2: {"faces_indexed": 1, "images_processed": 1},  # too few, but one image is new
        3: {"faces_indexed": 5, "images_processed": 2},  # enough
        5: {"faces_indexed": 5, "images_processed": 2},  # enough, but we have a face already
    }
    known = {uid(number): entry for number, entry in progress.items()}
    old.json("progress.json", {"schema_version": 2, "performers": known})
    old.imported(any_catalog)
    found = [
        PerformerRecord(
            uid(number),
            f"Person {number}",
            images=tuple(ImageRecord(f"{number}-{each}", "https://box.example/i") for each in range(2)),
        )
        for number in range(1, 7)
    ]
    with writing(any_catalog) as connection:
        performers.store_records(connection, "stashdb", found, NOW)
        of = schema.source_images
        connection.execute(sa.update(of).where(of.c.image_id == "5-0").values(state="done"))
    with reading(any_catalog) as connection:
        waiting = waiting_performers(connection, "stashdb", NOW, complete_at=5)
    # 4 had no faces at the predecessor, from an unknown number of images; 6 is unknown to it.
    assert [each.source_id for each in waiting] == [uid(number) for number in (3, 2, 4, 6, 1, 5)]


@pytest.mark.slow
def test_the_first_refresh_confirms_corrects_and_removes_imported_records(
    refresh: Refresh, catalog, old, box: Box
):
    for number in range(1, 31):
        box.create(performer_id=uid(number), name=f"Server {number}")
    box.merge([uid(2)], uid(1))
    box.destroy(uid(3))
    old.database(
        performers=[person(number) for number in range(1, 32)],
        stashbox_ids=[box_id(number) for number in range(1, 32) if number != 30],
        aliases=[{"performer_id": 4, "alias": "Invented", "source_endpoint": "stashdb"}],
        # 30 is live, although the predecessor had it as merged. 40 is unknown to the server.
        merged_ids=[
            {"performer_id": 6, "endpoint": "stashdb", "merged_stashbox_id": uid(number)}
            for number in (30, 40)
        ],
        faces=faces_of(4, 3),
    )
    old.imported(catalog)
    report = refresh()
    assert (report.mode, report.outcome, report.added) == ("backfill", "found", 0)
    assert (report.updated, report.live) == (28, 28)
    with reading(catalog) as connection:
        gone = performers.tombstones(connection, "stashdb")
        assert load_states(connection)["stashdb"].backfilled_at is not None
    assert {key: gone[key] for key in (uid(2), uid(3), uid(31))} == {
        uid(2): uid(1),
        uid(3): None,
        uid(31): None,
    }
    rows = {row["source_id"]: row for row in table(catalog, "source_performers")}
    assert all(row["name"].startswith("Server") for row in rows.values() if row["deleted_at"] is None)
    assert "Invented" not in {row["alias"] for row in table(catalog, "performer_aliases")}
    assert (rows[uid(4)]["legacy_faces"], rows[uid(31)]["legacy_faces"]) == (3, None)


@pytest.mark.slow
def test_unverified_imports_cost_only_look_ups_and_never_count_as_missing(
    refresh: Refresh, catalog, old, box: Box
):
    for number in range(1, 121):
        box.create(performer_id=uid(number), name=f"Server {number}")
    old.database(
        performers=[person(number) for number in range(1, 171)],
        stashbox_ids=[box_id(number) for number in range(1, 171)],
    )
    old.imported(catalog)
    report = refresh()
    assert (report.outcome, report.live, report.removed, report.refused) == ("found", 120, 50, 0)
    # Description, newest, two pages, the list backwards, newest again, removals, and two requests for 25 unknown ids each.
    assert report.requests <= 9


@pytest.fixture
def operator(tmp_path, monkeypatch):
    """The command line of an operator with one source."""
    boxes = {"stashdb": {"enabled": True}}
    (tmp_path / "sources.yaml").write_text(json.dumps({"stash_boxes": boxes}))
    monkeypatch.chdir(tmp_path)
    for name in ("DATA_DIR", "STASH_SENSE_SOURCES", "STASH_SENSE_CATALOG_URL", "STASH_SENSE_SUPPRESSIONS"):
        monkeypatch.delenv(name, raising=False)
    return CliRunner()


@pytest.mark.slow
def test_the_command_reports_imported_and_skipped_entries(operator, old):
    target = f"stashdb:{uid(2)}"
    entry = {"target": target, "reason": "asked", "date": "2026-01-01"}
    Path("data").mkdir()
    Path("data/suppressions.yaml").write_text(json.dumps([entry]))
    old.database(
        performers=[person(number) for number in (1, 2, 3)],
        stashbox_ids=[box_id(1), box_id(2), box_id(3, "fansdb")],
        merged_ids=[{"performer_id": 1, "endpoint": "stashdb", "merged_stashbox_id": uid(11)}],
        faces=faces_of(1, 5),
    )
    result = operator.invoke(main, ["import-legacy", str(old.directory)])
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.output.splitlines()]
    assert lines[1:3] == [["source", "records", "tombstones", "noted"], ["stashdb", "1", "1", "1"]]
    assert "performer ids kept: 1" in result.output
    assert "left out, suppressed: 1" in result.output
    assert "left out, of fansdb, not in sources.yaml: 1" in result.output


def test_the_command_exits_with_2_and_one_line_for_a_file_of_another_version(operator, old):
    old.json("progress.json", {"schema_version": 9})
    result = operator.invoke(main, ["import-legacy", str(old.directory)])
    assert result.exit_code == 2
    (line,) = result.output.splitlines()
    assert "progress.json: is of version 9; expected version 1" in line
    assert not Path("data").exists()


# --- malicious files ----------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(set(extras("performers", "gender")) - PLAIN))
def test_a_database_that_computes_while_it_is_read_is_refused(catalog, old, name):
    old.database(performers=[person(1)], stashbox_ids=[box_id(1)])
    extras("performers", "gender")[name](old.directory / "performers.db")
    begun = time.process_time()
    with pytest.raises(ConfigurationError, match=r"Nothing was imported") as raised:
        old.imported(catalog)
    assert "\n" not in str(raised.value)
    assert time.process_time() - begun < 20


@pytest.mark.parametrize("name", ["progress.json", "performers.json", "performers.db"])
def test_a_fifo_in_the_place_of_a_file_is_refused(catalog, old, name):
    os.mkfifo(old.directory / name)
    with pytest.raises(ConfigurationError, match="not a regular file"):
        old.imported(catalog)


@pytest.mark.parametrize("name", ["progress.json", "performers.json"])
@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, "9" * 9_000, '{"a": {}, "a": {}}', "NaN", '["\\ud800"]']
)
def test_json_that_no_predecessor_wrote_is_refused(catalog, old, name, text):
    (old.directory / name).write_text(text)
    with pytest.raises(ConfigurationError, match="Nothing was imported") as raised:
        old.imported(catalog)
    assert "\n" not in str(raised.value)
