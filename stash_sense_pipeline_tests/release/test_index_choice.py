"""The parameters of the indices: the cheapest with which the sidecar answers as by exact search."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stash_sense_pipeline.foundation.files import sha256_file
from stash_sense_pipeline.release.build.face_order import normalised
from stash_sense_pipeline.release.build.graph.exact_search import exact_neighbours
from stash_sense_pipeline.release.build.performers_db import stage_performers_db
from stash_sense_pipeline.release.build.staging import open_staging
from stash_sense_pipeline.release.build.voyager_index import IndexParams
from stash_sense_pipeline.release.checks.accuracy.answer_fidelity import (
    SAME_DISTANCE,
    Neighbours,
    Probe,
    answer_fidelity,
)
from stash_sense_pipeline.release.contract import REQUIRED_MODELS, Flavour
from stash_sense_pipeline.release.index_choice import (
    LADDER,
    Corner,
    IndexPlan,
    plan_indices,
    stage_chosen_indices,
    staged_params,
)
from stash_sense_pipeline.release.publish import publish_staged
from stash_sense_pipeline.release.versions import latest_release
from stash_sense_pipeline_tests.release.changes import opened, rename_a_performer
from stash_sense_pipeline_tests.release.sidecar import fused_distances

from .conftest import DAY
from .worlds import SPEC, make_catalog

WANTED = IndexParams()


def planned(
    pinned: Corner | None = None,
    *,
    latest: Path | None = None,
    limit: float = 0.999,
    flavours: tuple[Flavour, ...] = (Flavour.FULL,),
    faces: int = 20_000,
    recall: float = 0.999,
) -> IndexPlan:
    return plan_indices(IndexPlan(SPEC.models, flavours, WANTED, True, limit, recall), pinned, latest, faces)


def faces(seed: int, people: int, each: int, dim: int = 16) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    owners = np.repeat(np.arange(people), each)
    unit = {}
    for model in REQUIRED_MODELS:
        centres = rng.standard_normal((people, dim))
        unit[model] = normalised(
            (centres[owners] + 0.5 * rng.standard_normal((len(owners), dim))).astype("f4")
        )
    return owners, unit


def exact_answers(unit: dict[str, np.ndarray], probes: np.ndarray, k: int = 100) -> dict[str, Neighbours]:
    found = {model: exact_neighbours(table[probes], table, k) for model, table in unit.items()}
    return {model: Neighbours(ids, 1 - similar) for model, (ids, similar) in found.items()}


def expected_results(owners, probes, answers, probe):
    """The sidecar's three results for each probe, written from its rules: one query at a time, with no arrays."""
    results = []
    for row, face in enumerate(probes.tolist()):
        excluded = {
            Probe.STORED: set(),
            Probe.HELD_OUT: {face},
            Probe.STRANGER: set(np.flatnonzero(owners == owners[face]).tolist()),
        }[probe]
        ids, distances = {}, {}
        for model, found in answers.items():
            kept = [place for place, each in enumerate(found.ids[row].tolist()) if each not in excluded]
            ids[model], distances[model] = found.ids[row][kept], found.distances[row][kept]
        ranked = fused_distances(ids, distances)
        results.append([(int(owners[face]), d) for d, face in ranked if d <= 0.5][:3])
    return results


@pytest.mark.slow
@given(st.integers(0, 10_000), st.integers(2, 25), st.integers(1, 5), st.floats(0, 0.2))
def test_fidelity_is_the_share_of_probes_with_the_same_three_results(
    seed: int, people: int, each: int, lost: float
) -> None:
    owners, unit = faces(seed, people, each)
    probes = np.arange(len(owners))
    exact = exact_answers(unit, probes)
    rng = np.random.default_rng(seed)
    indexed = {}
    for model, found in exact.items():
        # An index that loses some neighbours returns others, further away.
        kept = np.sort(rng.random(found.ids.shape) < lost, axis=1, kind="stable")
        order = np.argsort(kept, axis=1, kind="stable")
        ids = np.where(kept, -1, np.take_along_axis(found.ids, order, axis=1))
        distances = np.where(kept, np.inf, np.take_along_axis(found.distances, order, axis=1)).astype("f4")
        indexed[model] = Neighbours(ids, distances)
    # With a tolerance of 1e-6 no two people are at one distance.
    found = answer_fidelity(owners, probes, exact, indexed, rounding=1e-6 - SAME_DISTANCE)
    for probe in Probe:
        wanted = expected_results(owners, probes, exact, probe)
        received = expected_results(owners, probes, indexed, probe)
        equal = [
            len(one) == len(other)
            and all(a[0] == b[0] and abs(a[1] - b[1]) <= 1e-6 for a, b in zip(one, other, strict=True))
            for one, other in zip(wanted, received, strict=True)
        ]
        assert found.shares[probe] == pytest.approx(np.mean(equal))


def test_people_at_one_distance_may_change_places() -> None:
    owners = np.array([1, 2, 3])
    probes = np.array([0])
    one = {
        model: Neighbours(np.array([[0, 1, 2]]), np.array([[0.0, 0.3, 0.3004]], "f4"))
        for model in REQUIRED_MODELS
    }
    swapped = {
        model: Neighbours(np.array([[0, 2, 1]]), np.array([[0.0, 0.3, 0.3004]], "f4"))
        for model in REQUIRED_MODELS
    }
    far = {
        model: Neighbours(np.array([[0, 2, 1]]), np.array([[0.0, 0.3, 0.36]], "f4"))
        for model in REQUIRED_MODELS
    }
    assert answer_fidelity(owners, probes, one, swapped).share == 1
    assert answer_fidelity(owners, probes, one, far).share == 0


def test_an_answer_with_another_person_or_none_is_unequal() -> None:
    owners = np.array([1, 2, 3])
    probes = np.array([0])

    def answer(*ids: int) -> dict[str, Neighbours]:
        distances = np.array([[0.0, 0.3, 0.8]], "f4")
        return {model: Neighbours(np.array([ids]), distances) for model in REQUIRED_MODELS}

    assert answer_fidelity(owners, probes, answer(0, 1, 2), answer(0, 2, 1)).shares == dict.fromkeys(
        Probe, 0.0
    )
    assert answer_fidelity(owners, probes, answer(0, 1, 2), answer(0, 1, -1)).shares == dict.fromkeys(
        Probe, 1.0
    )
    assert answer_fidelity(owners, probes, answer(0, 1, 2), answer(0, -1, -1)).share == 0


@pytest.fixture
def hard(tmp_path: Path) -> Path:
    """A catalog for which the lowest corner is not enough: vectors without clusters."""
    data = tmp_path / "hard"
    data.mkdir()
    make_catalog(data / "catalog.db", performers=900, faces_each=2, likeness=0.6).dispose()
    return data


def staged(data: Path, plan, run: str = "next"):
    engine = opened(data)
    staging = open_staging(data, run)
    reports = stage_chosen_indices(engine, plan, staging, latest=latest_release(data / "releases"))
    return engine, staging, reports


@pytest.mark.slow
def test_the_ladder_begins_at_its_lowest_corner_and_ends_at_the_first_that_passes(data: Path) -> None:
    plan = planned()
    engine, staging, reports = staged(data, plan)
    assert {(report.m, report.ef_construction) for report in reports.values()} == {LADDER[0][:2]}
    choice = staging.read_part("index-choice")
    assert choice["by"] == "ladder"
    assert choice["answer_fidelity"] >= 0.999
    engine.dispose()


@pytest.mark.slow
def test_a_corner_below_the_required_fidelity_is_followed_by_the_next(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poor = Corner(4, 10)
    monkeypatch.setattr("stash_sense_pipeline.release.index_choice.LADDER", (poor, LADDER[1]))
    plan = planned(limit=1.1)
    engine, staging, reports = staged(data, plan)
    # No fidelity is above 1: the ladder ends at its last corner, and the checks of the release decide.
    assert {(report.m, report.ef_construction) for report in reports.values()} == {LADDER[1][:2]}
    assert staging.read_part("index-choice")["m"] == LADDER[1].m
    engine.dispose()


def test_a_few_faces_have_no_exact_links_and_are_measured_at_the_last_corner(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stash_sense_pipeline.release.index_choice.LADDER", LADDER[-2:])
    engine, staging, reports = staged(data, replace(planned(limit=1.1), params=IndexParams(m=64)))
    assert {(report.m, report.exact_links) for report in reports.values()} == {(128, False)}
    assert staging.read_part("index-choice")["answer_fidelity"] >= 0.999
    assert staging.read_part("index-choice")["exact_links"]
    engine.dispose()


@pytest.mark.slow
def test_a_corner_below_the_required_recall_is_followed_by_the_next(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checks of the release would refuse it."""
    monkeypatch.setattr("stash_sense_pipeline.release.index_choice.LADDER", (Corner(4, 10), LADDER[1]))
    engine, _, reports = staged(data, planned(limit=0.0, recall=1.1))
    assert {(report.m, report.ef_construction) for report in reports.values()} == {LADDER[1][:2]}
    engine.dispose()


@pytest.mark.slow
def test_hard_vectors_climb(hard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "stash_sense_pipeline.release.index_choice.LADDER", (Corner(4, 10), Corner(6, 20), LADDER[1])
    )
    engine, staging, reports = staged(hard, planned())
    chosen = {Corner(report.m, report.ef_construction) for report in reports.values()}
    assert len(chosen) == 1
    assert chosen != {Corner(4, 10)}
    assert staging.read_part("index-choice")["answer_fidelity"] >= 0.999
    engine.dispose()


@pytest.mark.slow
def test_each_flavour_says_its_own_fidelity(data: Path) -> None:
    engine, staging, reports = staged(data, planned(flavours=tuple(Flavour)))
    assert set(reports) == {"facenet", "arcface", "facenet (small)", "arcface (small)"}
    for flavour in Flavour:
        choice = staging.of(flavour).read_part("index-choice")
        assert (choice["m"], choice["ef_construction"]) == LADDER[0][:2]
        assert choice["answer_fidelity"] >= 0.999
    engine.dispose()


def test_parameters_of_the_settings_are_not_changed(data: Path) -> None:
    engine, staging, reports = staged(data, planned(Corner(5, 12), limit=1.1))
    assert {(report.m, report.ef_construction) for report in reports.values()} == {(5, 12)}
    assert staging.read_part("index-choice")["by"] == "settings"
    engine.dispose()


@pytest.mark.slow
def test_the_corner_of_the_newest_release_is_the_first_of_the_next(data: Path) -> None:
    releases = data / "releases"

    def publish(plan, run: str):
        engine, staging, _ = staged(data, plan, run)
        stage_performers_db(engine, staging, SPEC.database)
        spec = replace(SPEC, index=staged_params(plan, staging))
        report = publish_staged(engine, data, staging, spec, DAY)
        engine.dispose()
        return report

    higher = LADDER[2]
    begun = replace(
        planned(),
        params=replace(WANTED, **higher._asdict()),
    )
    first = publish(begun, "one")
    assert first.changed
    manifest = json.loads((first.path / "manifest.json").read_text())
    assert manifest["index_choice"]["m"] == higher.m
    assert manifest["index_choice"]["by"] == "ladder"
    # A release that did not choose by the ladder says nothing about it.
    assert planned().params.m == LADDER[0].m
    engine = opened(data)
    rename_a_performer(engine)
    engine.dispose()
    plan = planned(latest=releases / "latest")
    assert replace(plan.params, **higher._asdict()) == plan.params
    second = publish(plan, "two")
    assert second.changed
    assert sha256_file(second.path / "face_facenet.voy") == sha256_file(first.path / "face_facenet.voy")
    # Nothing changed since: the same plan finds the same release.
    again = planned(latest=releases / "latest")
    assert not publish(again, "three").changed


CHOICES = (3, {"by": "ladder", "m": "x"}, {"by": "ladder", "m": 31, "ef_construction": 7}, {"by": "settings"})


@pytest.mark.parametrize(
    "manifest", ["{}", "[]", "{", *(json.dumps({"index_choice": choice}) for choice in CHOICES)]
)
def test_a_manifest_without_a_usable_choice_begins_at_the_lowest_corner(
    tmp_path: Path, manifest: str
) -> None:
    (tmp_path / "manifest.json").write_text(manifest)
    assert planned(latest=tmp_path).params.m == LADDER[0].m


def test_a_first_release_of_many_faces_begins_at_a_higher_corner(tmp_path: Path) -> None:
    assert planned(faces=400_000).params.m == LADDER[4].m
    assert planned(faces=100_000).params.m == LADDER[3].m
    assert planned(faces=400_000).climbs
    chosen = {"by": "ladder", "m": LADDER[0].m, "ef_construction": LADDER[0].ef_construction}
    (tmp_path / "manifest.json").write_text(json.dumps({"index_choice": chosen}))
    assert planned(latest=tmp_path, faces=400_000).params.m == LADDER[0].m
    pinned = planned(Corner(96, 600), faces=400_000).params
    assert (pinned.m, pinned.ef_construction, pinned.graph_dimensions) == (96, 600, None)


def test_each_corner_of_the_ladder_takes_more_than_the_one_before() -> None:
    assert [each.key for each in LADDER] == sorted({each.key for each in LADDER})
    # Vectors that form no clusters are left to the exact search.
    assert LADDER[-1].exact_links
