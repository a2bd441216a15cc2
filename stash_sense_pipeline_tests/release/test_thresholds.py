"""What a threshold means: the same shares as the sidecar's own matching, intervals, the recommended distance."""

from __future__ import annotations

import copy
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import voyager
from hypothesis import given, settings
from hypothesis import strategies as st

from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.release.build.face_order import (
    FaceOrder,
    ReleaseVectors,
    load_unit_vectors,
    normalised,
)
from stash_sense_pipeline.release.checks.accuracy.fusion import Fusion, nearest
from stash_sense_pipeline.release.checks.accuracy.left_out import choose_photographs
from stash_sense_pipeline.release.checks.accuracy.measurement import measure_accuracy
from stash_sense_pipeline.release.checks.accuracy.released_people import ReleasedPerson
from stash_sense_pipeline.release.checks.accuracy.shares import share_of_people, wilson_interval
from stash_sense_pipeline.release.checks.accuracy.thresholds import (
    DISTANCES,
    Thresholds,
    describe_recommendation,
    people_by_faces,
    table_rows,
)
from stash_sense_pipeline.release.checks.threshold_check import recommended_distance, threshold_check
from stash_sense_pipeline.release.promotion import ReleaseReport
from stash_sense_pipeline.release.publish import publish_release
from stash_sense_pipeline.release.reports.quality_report import read_checks
from stash_sense_pipeline.release.versions import report_directory
from stash_sense_pipeline_tests.release.sidecar import fused_distances

from .conftest import DAY
from .sidecar import Sidecar
from .worlds import SPEC, make_catalog

MODELS = ("facenet", "arcface")


def without(sidecar: Sidecar, unit: dict[str, np.ndarray], left_out: list[int]) -> Sidecar:
    """The sidecar with a release; its indices lack the faces at the positions `left_out`."""
    rest = np.setdiff1d(np.arange(len(sidecar.faces)), left_out)
    reduced = copy.copy(sidecar)
    reduced.indices = {}
    for model, table in unit.items():
        index = voyager.Index(voyager.Space.Cosine, 512, M=32, ef_construction=200)
        index.add_items(table[rest], ids=rest.tolist(), num_threads=1)
        reduced.indices[model] = index
    return reduced


def alike(tmp_path: Path) -> tuple[Path, ReleaseReport]:
    """A release of people who look so much alike that the sidecar confuses some of them at every distance."""
    engine = make_catalog(tmp_path / "catalog.db", performers=40, faces_each=6, uneven=True, likeness=0.9)
    report = publish_release(engine, tmp_path, "first", SPEC, DAY)
    engine.dispose()
    return tmp_path, report


@pytest.mark.slow
def test_the_shares_are_those_of_the_sidecars_own_matching(tmp_path: Path) -> None:
    """Every photograph is matched by the sidecar's code, with indices that lack it or its whole person."""
    data, report = alike(tmp_path)
    engine = open_catalog(f"sqlite:///{data / 'catalog.db'}")
    unit = dict(load_unit_vectors(engine, MODELS).unit)
    engine.dispose()
    sidecar = Sidecar(report.path)
    positions = defaultdict(list)
    for position, uid in enumerate(sidecar.faces):
        positions[uid].append(position)
    answers: dict[str, list[tuple[tuple[bool, float] | None, float]]] = defaultdict(list)
    for uid, own in positions.items():
        strangers = without(sidecar, unit, own)
        for position in own:
            query = {model: unit[model][position] for model in MODELS}
            (first,) = strangers.identify(query, 1, max_distance=9)
            known = None
            if len(own) > 1:
                (found,) = without(sidecar, unit, [position]).identify(query, 1, max_distance=9)
                known = (found.universal_id == uid, found.distance)
            answers[uid].append((known, first.distance))
    assert report.figures is not None
    thresholds = report.figures.accuracy.thresholds
    assert thresholds.aside == {"split": 0, "label": 0}
    assert {row.distance for row in thresholds.rows} == set(DISTANCES)
    for row in thresholds.rows:
        chosen = [
            each for uid, each in answers.items() if row.faces in ("all", bucket_of(len(positions[uid])))
        ]
        strangers_named = [np.mean([far <= row.distance for _, far in each]) for each in chosen]
        known_people = [[known for known, _ in each if known] for each in chosen if len(each) > 1]
        found_people = [
            np.mean([right and far <= row.distance for right, far in each]) for each in known_people
        ]
        misnamed_people = [
            np.mean([not right and far <= row.distance for right, far in each]) for each in known_people
        ]
        for share, expected in (
            (row.strangers, strangers_named),
            (row.found, found_people),
            (row.misnamed, misnamed_people),
        ):
            assert (share is None) == (not expected)
            if share is not None:
                assert (share.people, share.share) == (
                    len(expected),
                    pytest.approx(np.mean(expected), abs=1e-12),
                )
    whole = [row for row in thresholds.rows if row.faces == "all"]
    # The world is not trivial: the shares rise from few to nearly all.
    assert whole[0].strangers is not None
    assert whole[-1].strangers is not None
    assert whole[0].strangers.share < 0.5 < whole[-1].strangers.share


def bucket_of(faces: int) -> str:
    return next(
        name for name, low in (("10+", 10), ("5-9", 5), ("3-4", 3), ("2", 2), ("1", 1)) if faces >= low
    )


def test_the_release_the_checks_and_both_reports_state_the_same_distance(
    world: tuple[Path, ReleaseReport],
) -> None:
    data, report = world
    directory = report_directory(data / "releases", report.version)
    stored = {check.name: check for check in read_checks(directory)}["recommended_distance"]
    assert report.figures is not None
    thresholds = report.figures.accuracy.thresholds
    assert stored == threshold_check(thresholds)
    assert recommended_distance(report.checks) == thresholds.recommended.distance == 0.6
    rows = json.loads((directory / "checks.json").read_text())
    (table,) = (row["table"] for row in rows if row["name"] == "recommended_distance")
    assert table == list(table_rows(thresholds))
    assert {row["distance"] for row in table} == {0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6}
    assert {row["faces"] for row in table} == {"all", "1", "2", "3-4", "5-9", "10+"}
    for name in ("report.md", "quality.md"):
        text = (directory / name).read_text()
        assert "| 0.30 | " in text
        assert describe_recommendation(thresholds.recommended) in text


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 40), st.integers(1, 30), st.integers(0, 5))
def test_fusing_many_queries_gives_the_ranking_of_each(seed: int, faces: int, k: int, excluded: int) -> None:
    rng = np.random.default_rng(seed)
    k = min(k, faces)
    ids = [np.stack([rng.permutation(faces)[:k] for _ in range(3)]) for _ in MODELS]
    # Few different values, so that there are ties.
    distances = [np.sort(rng.integers(0, 6, (3, k)) / 8, axis=1).astype("f4") for _ in MODELS]
    masks = [each < excluded for each in ids]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stash_sense_pipeline.release.checks.accuracy.fusion.SIDECAR_K", 7)
        positions, fused = Fusion(ids, distances).without(masks)
    first_positions, first_distances = nearest(positions, fused)
    for row in range(3):
        kept = [np.flatnonzero(~mask[row])[:7] for mask in masks]
        expected = fused_distances(
            {model: ids[place][row][kept[place]] for place, model in enumerate(MODELS)},
            {model: distances[place][row][kept[place]] for place, model in enumerate(MODELS)},
        )
        found = sorted(
            (float(fused[row, column]), int(positions[row, column]))
            for column in np.flatnonzero(np.isfinite(fused[row]))
        )
        # Eighths are added without rounding.
        assert found == expected
        if expected:
            assert (first_distances[row], first_positions[row]) == expected[0]
        else:
            assert (first_distances[row], first_positions[row]) == (np.inf, -1)


def test_photographs_are_all_faces_of_a_small_release_and_one_a_person_of_a_large_one() -> None:
    owners = np.repeat(np.arange(50), np.arange(50) % 5 + 1)
    assert choose_photographs(owners, len(owners)).tolist() == list(range(len(owners)))
    few = choose_photographs(owners, 10)
    assert owners[few].tolist() == list(range(50))
    some = choose_photographs(owners, 95)
    assert len(some) == 90
    assert np.bincount(owners[some]).max() == 2
    assert some.tolist() == choose_photographs(owners, 95).tolist()
    # The first face of a person is the best, so the photograph is not always that.
    assert not np.array_equal(few, np.unique(owners, return_index=True)[1])


def test_the_interval_of_a_share_is_wilsons() -> None:
    # Values of R's prop.test(10, 100, correct = FALSE) and of 0 and 100 of 100.
    assert wilson_interval(0.1, 100) == pytest.approx((0.05522914, 0.17436566), abs=1e-6)
    assert wilson_interval(0.0, 100) == pytest.approx((0.0, 0.03699349), abs=1e-6)
    assert wilson_interval(1.0, 100) == pytest.approx((0.96300651, 1.0), abs=1e-6)


def test_a_person_with_many_photographs_counts_once() -> None:
    person = np.array([0] * 98 + [1, 2])
    event = np.array([True] * 98 + [False, False])
    counted = np.ones(100, dtype=bool)
    share = share_of_people(person, event, counted)
    assert share is not None
    assert (share.people, share.share) == (3, pytest.approx(1 / 3))
    assert (share.low, share.high) == wilson_interval(1 / 3, 3)
    assert share_of_people(person, event, ~counted) is None
    some = share_of_people(person, event, np.arange(100) >= 97)
    assert some is not None
    assert (some.people, some.share) == (3, pytest.approx(1 / 3))


def test_the_interval_covers_the_true_share_when_photographs_of_a_person_are_alike() -> None:
    """In each of 400 samples of 60 people, all photographs of a person have one outcome."""
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(400):
        photographs = rng.integers(1, 12, 60)
        person = np.repeat(np.arange(60), photographs)
        share = share_of_people(person, np.repeat(rng.random(60) < 0.1, photographs), person >= 0)
        assert share is not None
        covered += share.low <= 0.1 <= share.high
    assert covered / 400 > 0.93


def strangers_at(distances: list[float]) -> Thresholds:
    """The thresholds of a release in which pairs of people are at these distances from each other, and far from others.

    Each person has two faces at a distance of zero.
    """
    people = 2 * len(distances)
    vectors = np.zeros((people, people), dtype="f4")
    for pair, distance in enumerate(distances):
        cosine = 1 - distance
        vectors[2 * pair, 2 * pair] = 1
        vectors[2 * pair + 1, 2 * pair : 2 * pair + 2] = cosine, (1 - cosine**2) ** 0.5
    table = normalised(np.repeat(vectors, 2, axis=0))
    order = FaceOrder(np.arange(2 * people), np.repeat(np.arange(people), 2))
    released = {number: ReleasedPerson(f"person {number}", frozenset(), None, {}) for number in range(people)}
    return measure_accuracy(ReleaseVectors(order, dict.fromkeys(MODELS, table)), released).thresholds


@pytest.mark.slow
def test_the_recommended_distance_is_proven_with_many_people() -> None:
    """Of 500 people two are at a distance of 0.355 and eight at 0.455: 0.4 % and 2 % of strangers get a name."""
    far = [0.9] * 250
    thresholds = strangers_at([0.355] + [0.455] * 4 + far[5:])
    assert (thresholds.recommended.distance, thresholds.recommended.proven) == (0.35, True)
    assert thresholds.recommended.people == 500
    assert "at most 1 %" in describe_recommendation(thresholds.recommended)
    row = thresholds.recommended.row
    assert row is not None
    assert row.strangers is not None
    assert row.strangers.high <= 0.01
    assert row.found is not None
    assert row.found.share == 1


def test_the_recommended_distance_of_few_people_names_no_stranger_and_is_uncertain() -> None:
    thresholds = strangers_at([0.355] + [0.455] * 4 + [0.9] * 55)
    assert (thresholds.recommended.distance, thresholds.recommended.proven) == (0.35, False)
    assert "Uncertain: 120 people are too few" in describe_recommendation(thresholds.recommended)
    assert threshold_check(thresholds).passed


def test_there_is_no_recommended_distance_when_strangers_are_named_at_all_distances() -> None:
    thresholds = strangers_at([0.05] * 60)
    assert thresholds.recommended.distance is None
    check = threshold_check(thresholds)
    assert (check.passed, check.severity) == (False, "warning")
    assert "none" in check.detail
    assert recommended_distance([check]) is None


def test_every_performer_is_in_one_bucket_of_faces() -> None:
    order = FaceOrder(np.arange(78), np.repeat(np.arange(12), np.arange(1, 13)))
    assert people_by_faces(order) == {"1": 1, "2": 1, "3-4": 2, "5-9": 5, "10+": 3}
