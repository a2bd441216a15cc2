"""The places of tattoos and piercings in performers.db: merged over the records of a person, cleaned, without free text."""

from __future__ import annotations

import random
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from stash_sense_pipeline.catalog import schema
from stash_sense_pipeline.catalog.transactions import writing
from stash_sense_pipeline.release.build.body_places import StatedPlaces, merged_places
from stash_sense_pipeline.release.build.content import read_content
from stash_sense_pipeline.release.checks.verify import verify_release
from stash_sense_pipeline.release.promotion import ReleaseReport
from stash_sense_pipeline.release.publish import publish_release
from stash_sense_pipeline.release.reports.data_card import write_data_card
from stash_sense_pipeline.sources.cleaning.text import MAX_LABEL_BYTES, label
from stash_sense_pipeline_tests.factories import Rows, TrustedFace, add_rows, insert_rows, record_rows
from stash_sense_pipeline_tests.release.sidecar import Sidecar
from stash_sense_pipeline_tests.release.worlds import BEGIN, DIGESTS, HOSTS, PACK, SPEC, make_catalog

DAY = date(2026, 2, 18)
# Person 4 of the world has a record on stashdb and one on fansdb; person 1 has one on stashdb.
STASHDB, FANSDB, OTHER = ("stashdb", "st-00004"), ("fansdb", "fa-00004"), ("stashdb", "st-00001")
HOSTILE = {
    "long": ("x" * (MAX_LABEL_BYTES + 1), None),
    "of many bytes": ("ü" * (MAX_LABEL_BYTES // 2 + 1), None),
    "control characters": ("left\x00 \x1b[31marm\n", "left [31marm"),
    "direction marks": ("left\u202e arm", "left arm"),
    "entities": ("back &amp; neck", "back & neck"),
    "an entity of a direction mark": ("left &#x202e;arm", "left arm"),
    "an entity of a line feed": ("left&#10;arm", "left arm"),
    "markup": ("<b>arm</b>", "<b>arm</b>"),
    "blank": (" \u200b ", None),
    "a number": (7, None),
    "a mapping": ({"location": "arm", "description": "a star"}, None),
    "null": (None, None),
}


def state(engine: sa.Engine, record: tuple[str, str], raw: Mapping[str, Any]) -> None:
    table = schema.source_performers
    with writing(engine) as connection:
        chosen = (table.c.source == record[0]) & (table.c.source_id == record[1])
        assert connection.execute(sa.update(table).where(chosen).values(raw=raw)).rowcount == 1


def released(engine: sa.Engine, data: Path) -> ReleaseReport:
    return publish_release(engine, data, "run", SPEC, DAY)


def rows(report: ReleaseReport, table: str) -> list[tuple[Any, ...]]:
    columns = ("performer_id", "location", "description", "source_endpoint")
    return [tuple(row[name] for name in columns) for row in Sidecar(report.path).rows(table)]


@pytest.mark.slow
def test_places_of_all_records_of_a_person_are_merged(tmp_path: Path) -> None:
    engine = make_catalog(tmp_path / "catalog.db")
    state(engine, FANSDB, {"tattoos": ["left ARM", "Back"], "piercings": ["Navel"]})
    state(engine, STASHDB, {"tattoos": ["Left arm", "Right ankle"], "slug": "person"})
    state(engine, OTHER, {"piercings": ["Ear"]})
    report = released(engine, tmp_path)
    # Person 4 is performer 36, person 1 is performer 39. stashdb has priority over fansdb.
    assert rows(report, "tattoos") == [
        (36, "Back", None, "fansdb"),
        (36, "Left arm", None, "stashdb"),
        (36, "Right ankle", None, "stashdb"),
    ]
    assert rows(report, "piercings") == [(36, "Navel", None, "fansdb"), (39, "Ear", None, "stashdb")]
    checks = {check.name: check for check in report.checks}
    assert checks["database_places"].detail == "3 tattoos, 2 piercings"
    assert checks["database_place_texts"].passed
    assert report.figures is not None
    card = write_data_card(engine, report.path, report.figures.accuracy, report.checks).read_text()
    assert "tattoos of 1, piercings of 2 performers" in card
    engine.dispose()


@pytest.mark.parametrize("table", ["tattoos", "piercings"])
@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_places_are_cleaned_or_left_out(tmp_path: Path, kind: str, table: str) -> None:
    stated, expected = HOSTILE[kind]
    found = merged_places([StatedPlaces({table: [stated, "neck"]}, "stashdb", "2026-01-01T00:00:00Z")])
    wanted = {"neck", expected} - {None}
    assert {each.place for each in found[table]} == wanted
    assert list(found) == [table]


@pytest.mark.slow
def test_hostile_places_of_a_catalog_give_a_release_that_verifies(tmp_path: Path) -> None:
    engine = make_catalog(tmp_path / "catalog.db")
    state(engine, STASHDB, {"tattoos": [stated for stated, _ in HOSTILE.values()], "piercings": "an ear"})
    # ThePornDB of an earlier version of this program: free text, at another place of the record.
    state(engine, OTHER, {"tattoos": "A star, and the name of a sister", "extras": {"piercings": "Navel"}})
    report = released(engine, tmp_path)
    found = rows(report, "tattoos")
    assert {row[0] for row in found} == {36}
    assert {row[1] for row in found} == {"left [31marm", "left arm", "back & neck", "<b>arm</b>"}
    assert rows(report, "piercings") == []
    assert [check for check in verify_release(report.path) if not check.passed] == []
    engine.dispose()


def test_only_a_catalog_with_places_gives_another_content_digest(tmp_path: Path) -> None:
    engine = make_catalog(tmp_path / "catalog.db", performers=30)
    digests = [read_content(engine, HOSTS).digest]
    for raw in ({}, {"slug": "x"}, {"tattoos": []}, {"tattoos": ["Arm"]}, {"piercings": ["Arm"]}):
        state(engine, STASHDB, raw)
        digests.append(read_content(engine, HOSTS).digest)
    assert len(set(digests[:4])) == 1
    assert len(set(digests)) == 3
    engine.dispose()


def test_places_are_read_from_both_databases(any_catalog: sa.Engine) -> None:
    rows: Rows = {"identities": [{"performer_id": 1, "created_at": BEGIN}]}
    for source, raw in (("stashdb", {"tattoos": ["Arm"], "slug": "a"}), ("fansdb", {"piercings": ["Ear"]})):
        add_rows(rows, record_rows(source, f"{source}-1", 1, BEGIN, name="Ann Lea", raw=raw))
    vectors = {model: bytes(4) for model in DIGESTS}
    face = TrustedFace(1, 1, "stashdb", "stashdb-1", 0, "image-1", "https://stashdb.org/1", vectors)
    add_rows(rows, face.rows(PACK, BEGIN))
    insert_rows(any_catalog, rows)
    (person,) = read_content(any_catalog, HOSTS).performers
    assert {table: [each.place for each in places] for table, places in person.places.items()} == {
        "tattoos": ["Arm"],
        "piercings": ["Ear"],
    }


_VALUES = st.one_of(
    st.text(max_size=150), st.none(), st.integers(), st.lists(st.text(max_size=3), max_size=2)
)


@pytest.mark.slow
@given(st.lists(st.lists(_VALUES, max_size=6), max_size=4), st.randoms())
def test_any_values_give_clean_places_once_in_any_order(
    records: list[list[Any]], shuffler: random.Random
) -> None:
    stated = [StatedPlaces({"tattoos": values}, "stashdb", "t") for values in records]
    places = [each.place for each in merged_places(stated).get("tattoos", ())]
    assert [label(place) for place in places] == places
    assert len({place.casefold() for place in places}) == len(places)
    shuffler.shuffle(stated)
    again = [each.place for each in merged_places(stated).get("tattoos", ())]
    assert [place.casefold() for place in again] == [place.casefold() for place in places]
