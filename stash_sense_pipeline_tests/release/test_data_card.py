"""The data card of a release: its counts, and the errors of its vectors."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import sqlalchemy as sa

from stash_sense_pipeline.catalog import schema
from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.catalog.transactions import writing
from stash_sense_pipeline.release.promotion import ReleaseReport
from stash_sense_pipeline.release.reports.data_card import write_data_card


def test_a_data_card_has_sources_counts_groups_and_limits_and_no_names(
    world: tuple[Path, ReleaseReport], data: Path
) -> None:
    _, report = world
    engine = open_catalog(f"sqlite:///{data / 'catalog.db'}")
    with writing(engine) as connection:
        row = {"source": "stashdb", "id_hash": "x", "checked_at": report_time(), "reason": "under_18"}
        connection.execute(sa.insert(schema.withheld_records).values(**row))
    release = data / "releases" / report.version
    assert report.figures is not None
    path = write_data_card(engine, release, report.figures.accuracy, report.checks)
    engine.dispose()
    card = path.read_text()
    assert path == data / "releases" / f"{report.version}.datacard.md"
    with sqlite3.connect(release / "performers.db") as database:
        (people,) = database.execute("SELECT count(*) FROM performers").fetchone()
        sources = dict(
            database.execute(
                "SELECT source_endpoint, count(*) FROM faces GROUP BY source_endpoint"
            ).fetchall()
        )
    assert f"{people} performers with {sum(sources.values())} faces" in card
    for source, faces in sources.items():
        assert f"| {source} | {faces} |" in card
    assert "| gender: FEMALE | 40 | 0.0 % (0.0-8.8) | 0.0 % (0.0-8.8) | 0.0 % (0.0-8.8) | 0 | 0 |" in card
    assert "Newest record of 2026-01-02T03:43:05Z. Input digest `sha256:" in card
    assert "| 0.30 | " in card
    assert "Recommended distance: 0.60." in card
    assert "| under_18 | 1 |" in card
    assert all(check.name in card for check in report.checks)
    assert "never a proof" in card
    with sqlite3.connect(release / "performers.db") as database:
        names = [name for (name,) in database.execute("SELECT canonical_name FROM performers")]
    assert not any(name in card for name in names)


def report_time() -> object:
    from datetime import UTC, datetime

    return datetime(2026, 1, 1, tzinfo=UTC)
