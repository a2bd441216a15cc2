from __future__ import annotations

import json
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
from stash_sense_pipeline.release.build.graph import near_elements
from stash_sense_pipeline.release.build.graph.axes import main_axes
from stash_sense_pipeline.release.build.graph.exact_search import exact_neighbours, sample_positions
from stash_sense_pipeline.release.build.voyager_index import IndexParams, IndexVectors, write_index
from stash_sense_pipeline.release.checks.accuracy import linked_neighbours as linked
from stash_sense_pipeline.release.checks.accuracy.left_out import leave_out
from stash_sense_pipeline.release.checks.accuracy.linked_neighbours import linked_neighbours
from stash_sense_pipeline.release.checks.accuracy.thresholds import people_by_faces
from stash_sense_pipeline.release.checks.check_result import CheckResult
from stash_sense_pipeline.release.checks.retrieval import (
    Answers,
    ask_index,
    held_out_retrieval,
    index_content_check,
    index_recall,
    load_index,
    recall_checks,
    self_retrieval_check,
)
from stash_sense_pipeline.release.promotion import ReleaseReport
from stash_sense_pipeline_tests.bench.index_corner import manifold, owners_of
from stash_sense_pipeline_tests.release.sidecar import fused_distances

World = tuple[Path, ReleaseReport]


def unit(seed: int, count: int, dim: int = 512) -> np.ndarray:
    return normalised(np.random.default_rng(seed).standard_normal((count, dim)).astype("f4"))


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(1, 400),
    st.integers(1, 9),
    st.integers(1, 120),
    st.sampled_from([7, 50, 16_384]),
    st.sampled_from([1, 90, 1 << 22]),
)
def test_exact_search_gives_the_neighbours_of_a_full_sort(
    seed: int, n: int, q: int, k: int, block: int, similarities_a_block: int
) -> None:
    gallery, queries = unit(seed, n, 8), unit(seed + 1, q, 8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stash_sense_pipeline.release.build.graph.exact_search._ROWS_A_BLOCK", block)
        patch.setattr(
            "stash_sense_pipeline.release.build.graph.exact_search._SIMILARITIES_A_BLOCK",
            similarities_a_block,
        )
        positions, similarities = exact_neighbours(queries, gallery, k)
    everything = queries @ gallery.T
    expected = np.sort(everything, axis=1)[:, ::-1][:, : min(k, n)]
    assert np.allclose(similarities, expected, atol=1e-6)
    assert np.allclose(np.take_along_axis(everything, positions, axis=1), similarities, atol=1e-6)
    assert all(len(set(row)) == len(row) for row in positions.tolist())


@given(st.integers(0, 10_000), st.integers(1, 80), st.integers(1, 5), st.integers(1, 90), st.integers(1, 90))
def test_exact_search_takes_the_first_of_equally_similar_rows(
    seed: int, n: int, q: int, k: int, block: int
) -> None:
    rng = np.random.default_rng(seed)
    gallery = rng.integers(-1, 2, (n, 3)).astype(np.int8)
    queries = rng.integers(-1, 2, (q, 3)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stash_sense_pipeline.release.build.graph.exact_search._ROWS_A_BLOCK", block)
        positions, _ = exact_neighbours(queries, gallery, k)
    expected = np.argsort(-(queries @ gallery.T), axis=1, kind="stable")[:, :k]
    assert np.array_equal(positions, expected)


@pytest.mark.slow
def test_recall_of_a_graph_with_few_links_is_measured_low(tmp_path: Path) -> None:
    vectors = unit(0, 2000)
    reports = {}
    for m, ef in ((4, 10), (32, 100)):
        index = voyager.Index(voyager.Space.Cosine, 512, M=m, ef_construction=ef)
        index.add_items(vectors, ids=list(range(2000)), num_threads=1)
        index.save(str(tmp_path / "a.voy"))
        reports[m] = index_recall(
            "facenet", ask_index(load_index(tmp_path / "a.voy"), vectors, sample=200), vectors
        )
    assert reports[4].at_k < 0.7 < reports[32].at_k
    checks = recall_checks(reports[4], 0.99, 0.99, far_blocks=True)
    assert [check.name.removeprefix("facenet_") for check in checks] == [
        "recall_at_1",
        "recall_in_reach",
        "recall_at_100",
    ]
    assert (checks[0].passed, checks[2].passed) == (False, False)
    assert [check.severity.value for check in checks] == ["error", "error", "error"]
    assert recall_checks(reports[4], 0.99, 0.99)[2].severity.value == "warning"
    assert checks[2].numbers == {"facenet_recall_at_100": reports[4].at_k}
    assert all(check.passed for check in recall_checks(reports[4], 0.01, 0.01))
    assert (reports[32].queries, reports[32].k) == (200, 100)


def test_recall_in_reach_counts_neighbours_within_the_sidecars_distance() -> None:
    """Each person has ten photos, and the index lacks one: a tenth of the other photos in reach is lost."""
    rng = np.random.default_rng(0)
    people = rng.standard_normal((40, 512))
    vectors = normalised((people.repeat(10, axis=0) + 0.3 * rng.standard_normal((400, 512))).astype("f4"))

    class Forgetful:
        def query(self, queries: np.ndarray, k: int, num_threads: int) -> tuple[np.ndarray, np.ndarray]:
            similar = queries @ vectors.T
            similar[:, 3::10] = -1
            ids = np.argsort(-similar, axis=1)[:, :k]
            return ids, 1 - np.take_along_axis(similar, ids, axis=1)

    report = index_recall("facenet", ask_index(Forgetful(), vectors), vectors)
    # 360 faces lose one of their nine others. The 40 missing faces find all nine.
    assert report.in_reach == pytest.approx(1 - 360 / 3600)
    assert not recall_checks(report, 0.99, 0.5)[1].passed


def test_recall_of_an_exhaustive_graph_is_one(world: World) -> None:
    data, report = world
    vectors = load_unit_vectors(open_catalog(f"sqlite:///{data / 'catalog.db'}"), ("facenet",))
    facenet = vectors.unit["facenet"]
    answers = ask_index(load_index(report.path / "face_facenet.voy"), facenet)
    measured = index_recall("facenet", answers, facenet)
    assert (measured.at_1, measured.at_k, measured.itself, measured.queries) == (1.0, 1.0, 1.0, 160)


def test_two_swapped_vectors_are_found(world: World, tmp_path: Path) -> None:
    """Index and database disagree: a face has another face's position."""
    data, _ = world
    vectors = load_unit_vectors(open_catalog(f"sqlite:///{data / 'catalog.db'}"), ("facenet",)).unit[
        "facenet"
    ]
    order = np.arange(160)
    order[[20, 90]] = order[[90, 20]]
    index = voyager.Index(voyager.Space.Cosine, 512)
    index.add_items(vectors[order], ids=list(range(160)), num_threads=1)
    index.save(str(tmp_path / "a.voy"))
    result = index_content_check("facenet", load_index(tmp_path / "a.voy"), vectors, "float32")
    assert not result.passed
    assert "vector 20" in result.detail


def test_self_retrieval_fails_when_faces_have_wrong_owners(world: World) -> None:
    data, report = world
    vectors = load_unit_vectors(open_catalog(f"sqlite:///{data / 'catalog.db'}"), ("facenet", "arcface"))
    owners = json.loads((report.path / "faces.json").read_text())

    def check(unit: dict[str, np.ndarray]) -> CheckResult:
        indices = {model: load_index(report.path / f"face_{model}.voy") for model in unit}
        answers = {model: ask_index(indices[model], unit[model]) for model in unit}
        return self_retrieval_check(owners, answers, 0.99)

    assert check(dict(vectors.unit)).passed
    shifted = check({model: np.roll(table, 4, axis=0) for model, table in vectors.unit.items()})
    assert not shifted.passed
    assert shifted.numbers["found"] < 0.1


def test_a_face_that_one_index_refuses_does_not_find_its_performer() -> None:
    positions, owners = np.arange(4), ["a", "a", "b", "c"]
    ids = {
        "facenet": np.array([[0, 1], [0, 1], [2, 3], [3, 2]]),
        "arcface": np.array([[0, 1]] * 2 + [[2, 3]] * 2),
    }
    distances = {model: np.array([[0.1, 0.3]] * 4, "f4") for model in ids}
    # The second face finds the first, of the same performer; the last one finds another performer in one of the indices.
    assert _found(owners, positions, ids, distances) == 3 / 4
    ids["arcface"][2], distances["arcface"][2] = -1, np.inf
    assert _found(owners, positions, ids, distances) == 2 / 4
    ids["facenet"][2], distances["facenet"][2] = -1, np.inf
    assert _found(owners, positions, ids, distances) == 2 / 4


def _found(
    owners: list[str], positions: np.ndarray, ids: dict[str, np.ndarray], distances: dict[str, np.ndarray]
) -> float:
    answers = {model: Answers(positions, ids[model], distances[model]) for model in ids}
    return float(self_retrieval_check(owners, answers, 0.99).numbers["found"])


def test_fused_distances_are_those_of_the_sidecar() -> None:
    ids = {"facenet": np.array([1, 2]), "arcface": np.array([2, 3])}
    distances = {"facenet": np.array([0.1, 0.3]), "arcface": np.array([0.2, 0.4])}
    fused = [(round(distance, 6), face) for distance, face in fused_distances(ids, distances)]
    assert fused == [(0.25, 2), (0.3, 1), (0.45, 3)]


def test_held_out_retrieval_is_counted_by_number_of_faces() -> None:
    rng = np.random.default_rng(0)
    owners, tables = [], {"facenet": [], "arcface": []}
    for person, faces in enumerate([1] * 30 + [3] * 30 + [12] * 5):
        for model, table in tables.items():
            direction = np.random.default_rng([person, len(model)]).standard_normal(512)
            # Of the people with three faces, one face is that of another person.
            strangers = faces == 3
            for face in range(faces):
                noise = rng.standard_normal(512)
                table.append(noise if strangers and face == 2 else direction + 0.5 * noise)
        owners += [person] * faces
    order = FaceOrder(np.arange(len(owners)), np.array(owners))
    vectors = ReleaseVectors(
        order, {model: normalised(np.array(table, "f4")) for model, table in tables.items()}
    )
    three, many = held_out_retrieval(order, leave_out(vectors))
    assert (three.fewest, three.most, three.queries) == (3, 4, 90)
    assert three.rank_1 == pytest.approx(2 / 3, abs=0.05)
    assert (many.fewest, many.most, many.queries, many.rank_1, many.accepted) == (10, None, 60, 1.0, 1.0)
    assert people_by_faces(order) == {"1": 30, "2": 0, "3-4": 30, "5-9": 0, "10+": 5}


@pytest.mark.parametrize("threads", [1, 2])
def test_the_links_of_an_index_lead_to_the_nearest_faces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    """Several threads insert elements in any order. The candidates are a third of all faces."""
    owners = owners_of(3_000)
    vectors = manifold(owners, 1)
    axes, path = main_axes(vectors, 128), tmp_path / "a.voy"
    params = IndexParams(m=24, ef_construction=60, graph_dimensions=128, threads=threads)
    write_index(IndexVectors(lambda: [vectors], vectors.shape, axes, owners), params, path)
    monkeypatch.setattr(linked, "_FEWEST_CANDIDATES", 1_000)
    monkeypatch.setattr(near_elements, "_CANDIDATES", 1_000)
    asked = np.arange(3_000)[np.random.default_rng(1).permutation(3_000)[:900]]
    found = linked_neighbours(path, vectors, asked, owners)
    exact = exact_neighbours(vectors[asked], vectors, found.shape[1])[0]
    assert found.shape[1] == 100 + np.bincount(owners).max()
    assert np.array_equal(found[:, 0], asked)
    shares = [np.isin(one, other).mean() for one, other in zip(exact[:, :20], found, strict=True)]
    assert np.mean(shares) > 0.9
    assert all(len(set(each)) == len(each) for each in found.tolist())
    # Nearest first: the vectors are compared in steps.
    distances = 1 - np.einsum("qd,qkd->qk", vectors[asked], vectors[found])
    assert np.diff(distances, axis=1).min() > -0.02


def test_all_faces_of_a_small_release_are_candidates(tmp_path: Path) -> None:
    vectors, owners = unit(1, 90), np.arange(90) // 3
    write_index(IndexVectors(lambda: [vectors], vectors.shape), IndexParams(m=8), tmp_path / "a.voy")
    found = linked_neighbours(tmp_path / "a.voy", vectors, np.arange(90), owners)
    assert np.array_equal(np.sort(found, axis=1), np.tile(np.arange(90), (90, 1)))


def test_samples_are_the_same_every_time() -> None:
    assert sample_positions(5, 10).tolist() == [0, 1, 2, 3, 4]
    first = sample_positions(1000, 10)
    assert first.tolist() == sample_positions(1000, 10).tolist()
    assert len(set(first.tolist())) == 10
