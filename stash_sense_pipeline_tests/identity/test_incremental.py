from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stash_sense_pipeline.catalog import schema
from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.catalog.transactions import reading, writing
from stash_sense_pipeline.identity.linkage.comparisons import Record
from stash_sense_pipeline.identity.linkage.overrides import Override, Overrides
from stash_sense_pipeline.identity.rebuild import rebuild_identities
from stash_sense_pipeline_tests.identity.population import HOSTS, NOW, members, store

_UUID = "00000000-0000-4000-8000-00000000000"
_URLS = [
    *(f"https://x.com/person{n}" for n in range(4)),
    "https://www.iafd.com/person.rme/perfid=a/gender=f",
    "https://www.iafd.com/person.rme/perfid=b/gender=f",
    *(f"https://stashdb.org/performers/{_UUID}{n}" for n in range(4)),
    "https://theporndb.net/performers/some-slug",
]
_PLACES = [
    *(("stashdb", f"{_UUID}{n}") for n in range(4)),
    *((box, str(n)) for box in ("fansdb", "pmvstash", "theporndb", "babepedia") for n in range(2)),
]


@st.composite
def versions(draw: st.DrawFn, place: tuple[str, str]) -> Record:
    """A record in one of the states that it may be in."""
    dead = draw(st.sampled_from([False, False, False, True]))
    return Record(
        *place,
        name=draw(st.sampled_from(["Sample Person", "Sample Persson", "Other Name", "Mono"])),
        gender=draw(st.sampled_from([None, None, "MALE", "FEMALE"])),
        birth_date=draw(st.sampled_from([None, "1990", "1990-05-05", "1992-05-05"])),
        country=draw(st.sampled_from([None, "US", "CZ"])),
        live=not dead,
        merged_into=draw(st.sampled_from([None, *(key[1] for key in _PLACES if key[0] == place[0])]))
        if dead
        else None,
        aliases=tuple(sorted(draw(st.sets(st.sampled_from(["Sample Person", "Third Name"]))))),
        urls=tuple(sorted(draw(st.sets(st.sampled_from(_URLS), max_size=4)))),
    )


@st.composite
def histories(draw: st.DrawFn) -> list[list[Record]]:
    """First many records, then a few changes at a time."""
    first = [
        draw(versions(place)) for place in draw(st.lists(st.sampled_from(_PLACES), unique=True, min_size=4))
    ]
    changes = st.lists(st.sampled_from(_PLACES), unique=True, min_size=1, max_size=3)
    later = [[draw(versions(place)) for place in draw(changes)] for _ in range(draw(st.integers(1, 3)))]
    return [first, *later]


_COMPARED = (
    schema.identities,
    schema.identity_members,
    schema.identity_evidence,
    schema.identity_log,
    schema.identity_hubs,
    schema.identity_records,
    schema.face_templates,
)


def content(engine: sa.Engine) -> dict[str, list[Any]]:
    """All that identity stores, in the order of the primary keys, but for when something was written."""
    with reading(engine) as connection:
        return {
            table.name: [
                tuple(row)
                for row in connection.execute(
                    sa.select(*(c for c in table.c if c.name not in ("seen", "pictures"))).order_by(
                        *table.primary_key
                    )
                )
            ]
            for table in _COMPARED
        }


@pytest.fixture
def two_catalogs(tmp_path: Path, catalog_file: Path) -> Iterator[tuple[sa.Engine, sa.Engine]]:
    """One for runs over everything, one for incremental runs."""
    one, other = (
        open_catalog(f"sqlite:///{shutil.copy2(catalog_file, tmp_path / name)}")
        for name in ("whole.db", "part.db")
    )
    yield one, other
    one.dispose()
    other.dispose()


def empty(engine: sa.Engine) -> None:
    """Every table is as in a new catalog, the numbers that are given out too."""
    with writing(engine) as connection:
        for table in reversed(schema.metadata.sorted_tables):
            connection.execute(table.delete())
        connection.exec_driver_sql("DELETE FROM sqlite_sequence")


@pytest.mark.slow
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=histories(), apart=st.booleans())
def test_an_incremental_run_equals_one_over_everything(
    two_catalogs: tuple[sa.Engine, sa.Engine], history: list[list[Record]], apart: bool
) -> None:
    pair = Override(history[0][0].key, history[0][1].key, 1)
    overrides = Overrides(Path("o"), cannot_link=(pair,) if apart else ())
    for engine in two_catalogs:
        empty(engine)
    # The first run is a full one.
    stored = False
    for records in history:
        results: list[Any] = []
        for engine, full in zip(two_catalogs, (True, False), strict=True):
            store(engine, *records)
            report = rebuild_identities(engine, HOSTS, overrides, NOW, full=full)
            results.append((report.events, report.identities, report.refused, report.hubs))
            assert full or not stored or report.incremental
        stored = True
        assert results[0] == results[1]
        assert content(two_catalogs[0]) == content(two_catalogs[1])


def test_a_link_follows_a_chain_of_merges_when_its_end_changes(catalog: sa.Engine) -> None:
    first, second, old, new = (Record("stashdb", f"{_UUID}{n}", "Sample Person") for n in range(4))
    link = Record("fansdb", "b", "Sample P", urls=(f"https://stashdb.org/performers/{first.source_id}",))
    gone = replace(first, live=False, merged_into=second.source_id)
    store(catalog, gone, replace(second, live=False, merged_into=old.source_id), old, new, link)
    rebuild_identities(catalog, HOSTS, Overrides(), NOW)
    assert {f"stashdb:{old.source_id}", "fansdb:b"} in members(catalog).values()
    store(catalog, replace(second, live=False, merged_into=new.source_id))
    report = rebuild_identities(catalog, HOSTS, Overrides(), NOW)
    assert report.incremental
    assert {f"stashdb:{new.source_id}", "fansdb:b"} in members(catalog).values()


@pytest.mark.slow
@pytest.mark.parametrize("why", ["rules", "erased", "many"])
def test_other_rules_an_erasure_and_many_changes_need_a_full_run(catalog: sa.Engine, why: str) -> None:
    records = [Record("stashdb", str(n), f"Sample Person{n}") for n in range(60)]
    store(catalog, *records)
    rebuild_identities(catalog, HOSTS, Overrides(), NOW)
    assert rebuild_identities(catalog, HOSTS, Overrides(), NOW).incremental
    hosts = HOSTS
    if why == "rules":
        hosts = {**HOSTS, "mine": "mine.example"}
    elif why == "erased":
        with catalog.begin() as connection:
            connection.execute(
                schema.source_performers.delete().where(schema.source_performers.c.source_id == "7")
            )
    else:
        store(catalog, *(replace(record, country="CZ") for record in records[:30]))
    report = rebuild_identities(catalog, hosts, Overrides(), NOW)
    assert not report.incremental
    assert rebuild_identities(catalog, hosts, Overrides(), NOW).incremental
