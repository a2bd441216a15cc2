"""The data card of a release: its counts, and the errors of its vectors."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from stash_sense_pipeline.catalog import schema
from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.catalog.transactions import writing
from stash_sense_pipeline.release.build.face_order import FaceOrder, ReleaseVectors, load_unit_vectors
from stash_sense_pipeline.release.promotion import ReleaseReport
from stash_sense_pipeline.release.reports.data_card import group_errors, write_data_card


def test_a_data_card_has_sources_counts_groups_and_limits_and_no_names(
    world: tuple[Path, ReleaseReport], data: Path
) -> None:
    _, report = world
    engine = open_catalog(f"sqlite:///{data / 'catalog.db'}")
    with writing(engine) as connection:
        row = {"source": "stashdb", "id_hash": "x", "checked_at": report_time(), "reason": "under_18"}
        connection.execute(sa.insert(schema.withheld_records).values(**row))
    release = data / "releases" / report.version
    path = write_data_card(engine, release, load_unit_vectors(engine, ("facenet", "arcface")), report.checks)
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
    assert "| gender: FEMALE | 40 | 160 | 0.0%" in card
    assert "| under_18 | 1 |" in card
    assert all(check.name in card for check in report.checks)
    assert "never a proof" in card
    with sqlite3.connect(release / "performers.db") as database:
        names = [name for (name,) in database.execute("SELECT canonical_name FROM performers")]
    assert not any(name in card for name in names)


def report_time() -> object:
    from datetime import UTC, datetime

    return datetime(2026, 1, 1, tzinfo=UTC)


def test_errors_are_counted_by_group() -> None:
    """Forty people have two faces each. In one group each second face is that of another person of the group."""
    rng = np.random.default_rng(3)
    vectors = np.repeat(rng.standard_normal((40, 64)), 2, axis=0) + rng.standard_normal((80, 64)) * 0.05
    confused = np.arange(0, 80, 4)
    vectors[confused + 1] = vectors[np.roll(confused, 1)] + rng.standard_normal((20, 64)) * 0.001
    unit = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    order = FaceOrder(np.arange(80), np.repeat(np.arange(40), 2))
    people = {number: {"gender": "FEMALE" if number % 2 else "MALE"} for number in range(40)}
    errors = {
        error.group: error for error in group_errors(ReleaseVectors(order, {"a": unit, "b": unit}), people)
    }
    assert errors["gender: FEMALE"].rate == 0
    assert errors["gender: MALE"].rate == pytest.approx(1)
    assert errors["ethnicity: unknown"].rate == pytest.approx(0.5)


def test_a_group_of_fewer_than_20_people_has_no_error_rate() -> None:
    unit = np.eye(10, dtype=np.float32)
    order = FaceOrder(np.arange(10), np.repeat(np.arange(5), 2))
    people = {number: {"gender": "MALE"} for number in range(5)}
    assert group_errors(ReleaseVectors(order, {"a": unit, "b": unit}), people) == ()
