"""What the tattoo signal is worth: gain and loss on invented vectors, and agreement with a plain computation."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from stash_sense_pipeline.catalog import schema
from stash_sense_pipeline.catalog.transactions import writing
from stash_sense_pipeline.release.build.face_order import ReleaseVectors, load_unit_vectors
from stash_sense_pipeline.release.build.tattoos.tattoo_index import TattooVectors, load_tattoos
from stash_sense_pipeline.release.build.voyager_index import IndexParams
from stash_sense_pipeline.release.checks.check_result import Severity
from stash_sense_pipeline.release.checks.tattoos.multi_signal import tattoo_factor
from stash_sense_pipeline.release.checks.tattoos.tattoo_checks import worth_check
from stash_sense_pipeline.release.checks.tattoos.worth import TattooWorth, Worth, measure_worth
from stash_sense_pipeline.release.publish import publish_release
from stash_sense_pipeline.release.reports.data_card import write_data_card
from stash_sense_pipeline.release.versions import report_directory
from stash_sense_pipeline_tests.release.conftest import DAY
from stash_sense_pipeline_tests.release.tattoo_world import (
    TATTOO_SPEC,
    TATTOOS,
    add_tattoos,
    of_others,
    own_marks,
)
from stash_sense_pipeline_tests.release.worlds import make_catalog

MODELS = ("facenet", "arcface")
# Faces that look alike need more links for the answers of exact search.
EXACT = replace(TATTOO_SPEC, index=IndexParams(m=64, ef_construction=600))


def confused(path: Path, **options: object) -> sa.Engine:
    """People who look so much alike that faces alone confuse them in about half of the photographs."""
    engine = make_catalog(path, likeness=6.0, **options)  # type: ignore[arg-type]
    table, rng = schema.embeddings, np.random.default_rng(11)
    with writing(engine) as connection:
        for row in connection.execute(sa.select(table).order_by(table.c.face_id, table.c.model)).all():
            vector = np.frombuffer(row.vector, "<f4")
            # The stored length is that of 6 times the shared direction.
            noise = 4.0 * np.linalg.norm(vector) / (6.1 * 512**0.5) * rng.standard_normal(512)
            of_row = (table.c.face_id == row.face_id) & (table.c.model == row.model)
            changed = (vector + noise).astype("<f4").tobytes()
            connection.execute(sa.update(table).where(of_row).values(vector=changed))
    return engine


def measured(engine: sa.Engine) -> tuple[ReleaseVectors, TattooVectors, TattooWorth]:
    vectors, tattoos = load_unit_vectors(engine, MODELS), load_tattoos(engine, TATTOOS)
    return vectors, tattoos, measure_worth(vectors, tattoos)


def plainly(vectors: ReleaseVectors, tattoos: TattooVectors) -> dict[int, tuple[bool, bool]]:
    """By face: whether the first answer is right without and with the signal; a loop over every pair, from the contract."""
    owners, faces = vectors.order.performer_ids.tolist(), vectors.order.face_ids.tolist()
    marks = list(zip(tattoos.owners.tolist(), tattoos.face_ids.tolist(), tattoos.unit, strict=True))
    answers = {}
    for query, face in enumerate(faces):
        if face not in tattoos.tattoos.searched_faces or owners.count(owners[query]) < 2:
            continue
        found: dict[int, dict[str, float]] = {}
        for model in MODELS:
            unit = vectors.unit[model].astype(float)
            distances = 1 - unit @ unit[query]
            others = [each for each in np.argsort(distances, kind="stable").tolist() if each != query]
            for each in others[:100]:
                found.setdefault(each, {})[model] = distances[each]
        fused = {each: sum(0.5 * by.get(model, 0.5) for model in MODELS) for each, by in found.items()}
        near = {each: distance for each, distance in fused.items() if distance <= 0.5}
        rest = [(owner, unit) for owner, other, unit in marks if other != face]
        shown = [unit for _, other, unit in marks if other == face]
        similar: dict[int, float] = {}
        for mark in shown:
            ranked = sorted(((float(unit @ mark), owner) for owner, unit in rest), reverse=True)[:10]
            for similarity, owner in ranked:
                similar[owner] = max(similar.get(owner, 0.0), similarity)
        listed = {owner for owner, _ in rest}

        def factor(
            owner: int,
            shown: list[np.ndarray] = shown,
            listed: set[int] = listed,
            similar: dict[int, float] = similar,
        ) -> float:
            if not shown:
                return 0.95 if owner in listed else 1.0
            if owner not in listed:
                return 0.7
            value = similar.get(owner, 0.0)
            return 1.3 + 0.2 * (value - 0.7) / 0.3 if value > 0.7 else 1.1 if value > 0.5 else 1.0

        plain = {each: 1 / (1 + distance) for each, distance in near.items()}
        with_signal = {each: score * factor(owners[each]) for each, score in plain.items()}
        first = [max(scores, key=scores.__getitem__, default=None) for scores in (plain, with_signal)]
        without, with_it = (each is not None and owners[each] == owners[query] for each in first)
        answers[face] = (without, with_it)
    return answers


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["own", "of others", "uneven"])
def test_the_worth_is_that_of_a_plain_computation(tmp_path: Path, kind: str, seed: int) -> None:
    engine = confused(tmp_path / "catalog.db", performers=30, seed=seed, uneven=kind == "uneven")
    marks = of_others(engine) if kind == "of others" else own_marks(engine, seed=seed)
    rng = np.random.default_rng(seed)
    if kind == "uneven":
        # Some pictures show two tattoos, some none, and some were not searched.
        for face_id in sorted(marks):
            marks[face_id] = marks[face_id] * int(rng.integers(0, 3))
        marks = {face_id: vectors for face_id, vectors in marks.items() if face_id % 7}
    add_tattoos(engine, marks)
    vectors, tattoos, worth = measured(engine)
    expected = plainly(vectors, tattoos)
    assert worth.every.photographs == len(expected) > 0
    assert 0.2 < worth.every.without / worth.every.photographs < 0.95
    assert worth.every.without == sum(without for without, _ in expected.values())
    assert worth.every.with_signal == sum(with_it for _, with_it in expected.values())
    assert worth.every.lost == sum(without and not with_it for without, with_it in expected.values())
    assert worth.shown.photographs + worth.not_shown.photographs == worth.every.photographs
    assert worth.every.change == worth.every.with_signal - worth.every.without
    engine.dispose()


@pytest.mark.slow
def test_a_gain_passes_and_is_in_report_checks_and_data_card(tmp_path: Path) -> None:
    engine = confused(tmp_path / "catalog.db")
    add_tattoos(engine, own_marks(engine, every=1))
    report = publish_release(engine, tmp_path, "run", EXACT, DAY)
    check = next(check for check in report.checks if check.name == "tattoo_worth")
    assert check.passed
    assert check.detail.startswith("a gain: ")
    assert check.numbers["gained"] > 0
    assert check.numbers["lost"] == 0
    beside = report_directory(tmp_path / "releases", report.version)
    texts = [(beside / name).read_text() for name in ("report.md", "quality.md", "report.html")]
    assert report.figures is not None
    texts.append(write_data_card(engine, report.path, report.figures.accuracy, report.checks).read_text())
    for text in texts:
        assert "What the tattoo signal is worth" in text
        assert check.detail in text
        assert "right with the signal" in text
    stored = json.loads((beside / "checks.json").read_text())
    assert next(row for row in stored if row["name"] == "tattoo_worth")["table"][0]["photographs"] == "all"
    engine.dispose()


@pytest.mark.slow
def test_a_loss_fails_its_check_and_does_not_stop_the_release(tmp_path: Path) -> None:
    engine = confused(tmp_path / "catalog.db")
    add_tattoos(engine, of_others(engine))
    report = publish_release(engine, tmp_path, "run", EXACT, DAY)
    check = next(check for check in report.checks if check.name == "tattoo_worth")
    assert (check.passed, check.severity) == (False, Severity.WARNING)
    assert check.detail.startswith("a loss: ")
    assert check.numbers["lost"] > check.numbers["gained"]
    assert report.changed
    assert (report.path / "tattoo_embeddings.voy").exists()
    engine.dispose()


@pytest.mark.slow
def test_people_with_one_face_cannot_be_measured(tmp_path: Path) -> None:
    engine = make_catalog(tmp_path / "catalog.db", performers=120, faces_each=1)
    add_tattoos(engine, own_marks(engine))
    _, _, worth = measured(engine)
    assert worth == TattooWorth(*[Worth(0, 0, 0, 0, 0)] * 3)
    check = worth_check(worth)
    assert check.passed
    assert "cannot be measured" in check.detail
    engine.dispose()


@pytest.mark.parametrize(
    ("similarity", "factor"),
    [(-0.2, 1.0), (0.5, 1.0), (0.51, 1.1), (0.7, 1.1), (0.85, 1.4), (1.0, 1.5), (1.016, 1.5106666)],
)
def test_the_factor_grows_with_the_similarity(similarity: float, factor: float) -> None:
    assert tattoo_factor(7, {7: similarity}, has_entry=True) == pytest.approx(factor)
    assert tattoo_factor(7, {7: similarity}, has_entry=False) == 0.7
    assert tattoo_factor(8, {7: similarity}, has_entry=True) == 1.0
    assert tattoo_factor(7, None, has_entry=True) == 0.95
    assert tattoo_factor(7, None, has_entry=False) == 1.0
