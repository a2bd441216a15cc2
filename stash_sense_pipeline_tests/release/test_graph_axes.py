"""Graphs along the main axes of the vectors: the same bits everywhere, complete links, whole vectors in the file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
import pytest
import voyager
from hypothesis import given
from hypothesis import strategies as st

from stash_sense_pipeline.foundation.errors import ReleaseError
from stash_sense_pipeline.foundation.files import sha256_file
from stash_sense_pipeline.release.build import voyager_index
from stash_sense_pipeline.release.build.face_order import FaceOrder, lengths, normalised
from stash_sense_pipeline.release.build.graph import clusters, near_elements, near_links
from stash_sense_pipeline.release.build.graph.axes import SampledRows, along, main_axes
from stash_sense_pipeline.release.build.graph.clusters import in_steps
from stash_sense_pipeline.release.build.graph.exact_search import exact_neighbours
from stash_sense_pipeline.release.build.graph.near_links import GraphVectors, complete_links
from stash_sense_pipeline.release.build.graph.voyager_file import HEADER_BYTES, read_voyager_file
from stash_sense_pipeline.release.build.graph.whole_vectors import NarrowIndex, write_whole_vectors
from stash_sense_pipeline.release.build.performers_db import stage_performers_db
from stash_sense_pipeline.release.build.staging import open_staging
from stash_sense_pipeline.release.build.voyager_index import (
    IndexParams,
    IndexTask,
    IndexVectors,
    Storage,
    build_index,
    index_digest,
    write_index,
)
from stash_sense_pipeline.release.checks.retrieval import ask_index, index_recall, load_index
from stash_sense_pipeline.release.checks.verify import verify_release
from stash_sense_pipeline.release.contract import Flavour
from stash_sense_pipeline.release.index_choice import (
    Corner,
    IndexPlan,
    plan_indices,
    stage_chosen_indices,
    staged_params,
)
from stash_sense_pipeline.release.publish import publish_staged
from stash_sense_pipeline.release.versions import latest_release
from stash_sense_pipeline_tests.bench.index_corner import manifold, owners_of
from stash_sense_pipeline_tests.release.changes import rename_a_performer

from .conftest import DAY
from .sidecar import Sidecar
from .worlds import SPEC, make_catalog

ALONG = IndexParams(m=8, ef_construction=40, graph_dimensions=16)
MOST_OF_A_GROUP = 4
VOYAGER_STORAGE = {
    Storage.FLOAT32: voyager.StorageDataType.Float32,
    Storage.E4M3: voyager.StorageDataType.E4M3,
    Storage.FLOAT8: voyager.StorageDataType.Float8,
}


@pytest.fixture
def small_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph of a few faces is built along axes too."""
    monkeypatch.setattr(voyager_index, "_FEWEST_ALONG_AXES", 50)


def vectors_of(seed: int, count: int, dimensions: int) -> np.ndarray:
    """Unit vectors that spread over a few directions, and a little over all."""
    rng = np.random.default_rng(seed)
    few = rng.standard_normal((count, 4)) @ rng.standard_normal((4, dimensions))
    return normalised((few + 0.1 * rng.standard_normal((count, dimensions))).astype("f4"))


def test_the_axes_are_orthogonal_and_hold_what_the_vectors_share() -> None:
    vectors = vectors_of(1, 500, 64)
    axes = main_axes(vectors, 8)
    assert axes.shape == (64, 8)
    assert np.allclose(axes.T @ axes / 4096**2, np.eye(8), atol=2e-3)
    kept = np.linalg.norm(vectors @ axes[:, :4] / 4096, axis=1)
    assert kept.min() > 0.8


@pytest.mark.slow
@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(2, 48))
def test_a_vector_along_the_axes_is_a_sum_of_whole_numbers(seed: int, count: int, dimensions: int) -> None:
    """The sums are exact, so that no order of additions changes them."""
    vectors = vectors_of(seed, count, dimensions)
    axes = main_axes(vectors, max(1, dimensions // 2))
    whole = np.rint(vectors / lengths(vectors)[:, None] * np.float32(4096)).astype(np.int64)
    assert np.array_equal(along(axes, vectors), (whole @ axes.astype(np.int64)).astype(np.float32))


@given(st.integers(1, 300), st.lists(st.integers(1, 60), min_size=1, max_size=30), st.integers(1, 40))
def test_the_sampled_rows_do_not_depend_on_the_blocks(step: int, sizes: list[int], other: int) -> None:
    vectors = np.arange(2 * sum(sizes), dtype=np.float32).reshape(-1, 2)
    count = 16_384 * step

    def taken(blocks: list[int]) -> np.ndarray:
        sample, start = SampledRows(count), 0
        for size in blocks:
            sample.add(start, vectors[start : start + size])
            start += size
        return sample.rows()

    equal = [other] * (len(vectors) // other) + ([len(vectors) % other] if len(vectors) % other else [])
    assert np.array_equal(taken(sizes), vectors[::step])
    assert np.array_equal(taken(equal), vectors[::step])


@pytest.mark.slow
def test_the_bytes_do_not_depend_on_the_threads_of_the_linear_algebra(tmp_path: Path) -> None:
    digests = {threads: _digest_of_an_index(tmp_path, threads) for threads in ("1", "2", "3")}
    assert len(set(digests.values())) == 1, digests


def _digest_of_an_index(directory: Path, threads: str) -> str:
    code = (
        "import sys, pathlib; from stash_sense_pipeline_tests.release.test_graph_axes import *\n"
        "path = pathlib.Path(sys.argv[1]); table = manifold(owners_of(3000))\n"
        "write_index(IndexVectors(lambda: [table], table.shape, main_axes(table, 16)), ALONG, path)"
    )
    path = directory / f"{threads}.voy"
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": threads}
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, env=environment)
    return sha256_file(path)


def compared(vectors: np.ndarray, groups: np.ndarray | None = None) -> GraphVectors:
    steps = in_steps([vectors], np.arange(len(vectors)))
    return GraphVectors(steps, steps, groups)


@pytest.mark.filterwarnings("error")
def test_vectors_of_zeros_have_no_direction() -> None:
    vectors = np.array([[0, 0], [3, 0], [0, 0]], dtype=np.float32)
    assert in_steps([vectors], np.arange(3)).tolist() == [[0, 0], [127, 0], [0, 0]]
    assert in_steps([vectors[:1], vectors[2:]], np.arange(2)).tolist() == [[0, 0], [0, 0]]


def expected_links(
    links: list[list[int]], places: int, vectors: np.ndarray, groups: np.ndarray
) -> list[list[int]]:
    """The links that complete_links must give, from its rules, element by element. The nearest come first."""
    unit = vectors / lengths(vectors)[:, None]
    steps = np.rint(unit * (np.float32(127) / np.abs(unit).max())).astype(np.int64)
    complete = []
    for element, own in enumerate(links):
        members = np.flatnonzero(groups == groups[element]).tolist()
        place = members.index(element)
        begin = max(0, min(place - MOST_OF_A_GROUP // 2, len(members) - MOST_OF_A_GROUP - 1))
        group = set(members[begin : begin + MOST_OF_A_GROUP + 1]) - {element, *own}

        def key(other: int, at: int = element) -> tuple[int, int]:
            return (-int(steps[at] @ steps[other]), other)

        others = set(range(len(links))) - {element, *own} - group
        ranked = [sorted(each, key=key) for each in (own, group, others)]
        complete.append([*ranked[0], *ranked[1], *ranked[2]][:places])
    return complete


@given(
    st.integers(0, 10_000),
    st.integers(2, 30),
    st.integers(1, 6),
    st.integers(0, 8),
    st.integers(1, 30),
    st.booleans(),
)
def test_free_places_go_to_the_group_and_then_to_the_nearest_elements(
    seed: int, count: int, most: int, free: int, people: int, exact: bool
) -> None:
    rng = np.random.default_rng(seed)
    # Equal vectors too: the lower number is the nearer one.
    vectors = vectors_of(seed, count, 5)[rng.integers(0, count, count)]
    groups = rng.integers(0, people, count)
    lists = [
        rng.choice(
            [other for other in range(count) if other != element],
            rng.integers(1, min(most, count - 1) + 1),
            False,
        ).tolist()
        for element in range(count)
    ]
    places = most + free
    links = np.zeros((count, places), dtype=np.uint32)
    for element, own in enumerate(lists):
        links[element, : len(own)] = own
    begun = np.array([len(own) for own in lists], dtype=np.uint32)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(near_links, "_MOST_OF_A_GROUP", MOST_OF_A_GROUP)
        # No place is taken for an element to which few link.
        patched.setattr(near_links, "_SHARE_FOR_RARE", 0)
        patched.setattr(near_links, "_ELEMENTS_A_SMALL_CLUSTER", 4)
        patched.setattr(near_links, "_CLUSTERS_A_SEARCH", 2)
        used = complete_links(links, begun, compared(vectors, groups), exact=exact)
    found = [links[element, : used[element]].tolist() for element in range(count)]
    assert found == expected_links(lists, places, vectors, groups)


@pytest.mark.parametrize("exact", [False, True])
def test_an_exact_search_finds_neighbours_that_no_element_links_to(
    monkeypatch: pytest.MonkeyPatch, exact: bool
) -> None:
    """Vectors without clusters, of which each begins with a link to any other."""
    count, places = 2_000, 20
    vectors = normalised(np.random.default_rng(5).standard_normal((count, 64)).astype("f4"))
    steps = in_steps([vectors], np.arange(count)).astype(np.int64)
    similar = steps @ steps.T
    np.fill_diagonal(similar, -(1 << 24))
    nearest = np.argsort(-similar, axis=1, kind="stable")[:, : places - 1]
    links = np.zeros((count, places), dtype=np.uint32)
    links[:, 0] = (np.arange(count) + 1) % count
    monkeypatch.setattr(near_links, "_SHARE_FOR_RARE", 0)
    monkeypatch.setattr(near_elements, "_CANDIDATES", 200)
    monkeypatch.setattr(near_elements, "_FIRST_CANDIDATES", 200)
    used = complete_links(links, np.full(count, 1, dtype=np.uint32), compared(vectors), exact=exact)
    assert set(used.tolist()) == {places}
    found = np.mean([np.isin(near, own).mean() for near, own in zip(nearest, links, strict=True)])
    assert found == 1 if exact else found < 0.6


def completed(count: int, places: int, seed: int, share: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The links before and after, of elements that each begin with two links, and the numbers of links after."""
    rng = np.random.default_rng(seed)
    links = np.zeros((count, places), dtype=np.uint32)
    links[:, 0] = (np.arange(count) + 1) % count
    links[:, 1] = (np.arange(count) + 2) % count
    vectors = vectors_of(seed, count, 12)
    # Some are far from all others, which have nearer ones to link to.
    vectors[:: count // 5] = normalised(rng.standard_normal((len(vectors[:: count // 5]), 12)).astype("f4"))
    before = links[:, :2].copy()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(near_links, "_SHARE_FOR_RARE", share)
        patched.setattr(near_links, "_MOST_OF_A_GROUP", 0)
        used = complete_links(links, np.full(count, 2, dtype=np.uint32), compared(vectors))
    return before, links, used


@pytest.mark.slow
@given(
    st.integers(0, 10_000), st.integers(40, 200), st.integers(6, 24), st.sampled_from([0.0, 0.25, 0.5, 1.0])
)
def test_links_to_elements_to_which_few_link_replace_none_of_the_graph(
    seed: int, count: int, places: int, share: float
) -> None:
    before, links, used = completed(count, places, seed, share)
    plain = completed(count, places, seed, 0)[1]
    for element in range(count):
        own = links[element, : used[element]].tolist()
        assert len(set(own)) == len(own)
        assert element not in own
        assert set(before[element].tolist()) <= set(own)
        assert np.count_nonzero(links[element] != plain[element]) <= np.ceil(places * share)


def test_elements_far_from_all_others_get_links_from_the_nearest() -> None:
    far = np.arange(1_000)[:: 1_000 // 5]
    without, linked = (
        np.bincount(completed(1_000, 24, 1, share)[1].ravel(), minlength=1_000)[far] for share in (0, 0.25)
    )
    assert without.max() < 8
    assert linked.min() >= 12


@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(1, 12))
def test_every_element_is_in_one_cluster_of_a_limited_size(seed: int, count: int, size: int) -> None:
    vectors = vectors_of(seed, count, 6)[np.random.default_rng(seed).integers(0, count, count)]
    found = clusters.clusters_of(in_steps([vectors], np.arange(count)), size)
    assert sorted(np.concatenate(found).tolist()) == list(range(count))
    assert max(map(len, found)) <= 2 * size


def test_many_equal_elements_are_in_several_clusters() -> None:
    assert max(map(len, clusters.clusters_of(np.ones((2_000, 8), dtype=np.int8)))) <= 400


@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 5), st.integers(1, 45), st.integers(1, 20))
def test_candidates_are_those_that_most_neighbours_of_a_cluster_have(
    seed: int, count: int, degree: int, most: int, voters: int
) -> None:
    rng = np.random.default_rng(seed)
    table = rng.integers(0, count, (count, degree)).astype(np.uint32)
    cluster = np.unique(rng.integers(0, count, 3)).astype(np.uint32)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(near_elements, "_VOTERS", voters)
        found = near_elements.candidates_of(cluster, lambda elements: table[elements].ravel(), count, most)
    assert found.tolist() == sorted(set(found.tolist()))
    assert set(cluster.tolist()) <= set(found.tolist())
    if most >= count:
        assert found.tolist() == list(range(count))
        return
    shared = Counter(table[cluster].ravel().tolist())
    near = {*cluster.tolist(), *shared}
    voting = sorted(near, key=lambda each: (each not in cluster, -shared[each], each))[:voters]
    votes = Counter(table[voting].ravel().tolist())
    ranked = sorted({*votes, *near}, key=lambda each: (each not in near, -votes[each], each))
    assert set(found.tolist()) == {*ranked[:most], *cluster.tolist()}


@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 30), st.integers(1, 30), st.integers(1, 40))
def test_the_best_columns_are_those_of_a_full_sort(
    seed: int, rows: int, columns: int, count: int, numbers: int
) -> None:
    table = np.random.default_rng(seed).integers(0, numbers, (rows, columns))
    expected = np.sort(np.argsort(-table, axis=1, kind="stable")[:, :count], axis=1)
    assert np.array_equal(near_elements.best(table, count), expected)


def test_neighbours_of_neighbours_find_most_of_the_nearest_elements(monkeypatch: pytest.MonkeyPatch) -> None:
    """One round, from a graph of few links, with candidates that are a tenth of all elements."""
    table = manifold(owners_of(6_000), 2)
    steps = in_steps([table], np.arange(len(table)))
    exact = exact_neighbours(table, table, 33)[0]
    monkeypatch.setattr(near_elements, "_FIRST_CANDIDATES", 600)
    monkeypatch.setattr(near_elements, "_NEIGHBOURS", 32)
    found = near_elements.nearest_neighbours(
        steps,
        clusters.clusters_of(steps),
        lambda elements: exact[elements][:, 1::4].ravel().astype(np.uint32),
    )
    everything = found(np.arange(len(table), dtype=np.uint32)).reshape(len(table), 32)
    shares = [np.isin(near, own).mean() for near, own in zip(exact[:, :20], everything, strict=True)]
    # Candidates by chance would have a tenth of them.
    assert np.mean(shares) > 0.6


@given(st.integers(0, 10_000), st.lists(st.integers(1, 20), min_size=1, max_size=6))
def test_steps_are_those_of_one_block_with_larger_numbers_cut(seed: int, sizes: list[int]) -> None:
    vectors = vectors_of(seed, sum(sizes), 7) * np.float32(9)
    blocks = np.split(vectors, np.cumsum(sizes)[:-1])
    unit = vectors / lengths(vectors)[:, None]
    scale = np.float32(127) / np.abs(unit[: sizes[0]]).max()
    places = np.random.default_rng(seed).permutation(len(vectors))
    assert np.array_equal(in_steps(blocks, places)[places], np.clip(np.rint(unit * scale), -127, 127))


@pytest.mark.parametrize("storage", list(Storage))
def test_the_file_holds_the_vectors_as_voyager_stores_them(tmp_path: Path, storage: Storage) -> None:
    table = manifold(owners_of(700), 3)
    params = replace(ALONG, storage=storage)
    own, plain = tmp_path / "own.voy", tmp_path / "plain.voy"
    blocks = [table[:300], table[300:650], table[650:]]
    write_index(IndexVectors(lambda: blocks, table.shape, main_axes(table, 16)), params, own)
    write_index(IndexVectors(lambda: blocks, table.shape), params, plain)
    ids = list(range(len(table)))
    one, other = voyager.Index.load(str(own)), voyager.Index.load(str(plain))
    assert np.array_equal(one.get_vectors(ids), other.get_vectors(ids))
    assert (one.space, one.num_dimensions, one.num_elements, one.M, one.ef_construction) == (
        other.space, other.num_dimensions, other.num_elements, other.M, other.ef_construction
    )  # fmt: skip
    file, like = read_voyager_file(own), read_voyager_file(plain)
    assert (file.storage, file.element_bytes, file.m) == (like.storage, like.element_bytes, like.m)
    assert own.stat().st_size == plain.stat().st_size
    # A new vector can be added, as to any index.
    one.add_item(table[0])


@pytest.mark.parametrize("seed", range(3))
def test_elements_in_another_order_than_their_ids_get_their_own_vectors(tmp_path: Path, seed: int) -> None:
    """Several threads insert in any order."""
    table = manifold(owners_of(400), 5)
    order = np.random.default_rng(seed).permutation(len(table))
    narrow = voyager.Index(voyager.Space.Cosine, 16, M=8, ef_construction=40)
    rows = along(main_axes(table, 16), table)
    for number in order.tolist():
        narrow.add_item(rows[number], number)
    path = tmp_path / "a.voy"
    with TemporaryFile() as written, path.open("wb") as stream:
        narrow.save(written)
        written.flush()
        write_whole_vectors(
            NarrowIndex(written), lambda: [table[:150], table[150:]], VOYAGER_STORAGE[Storage.FLOAT32], stream
        )
    assert read_voyager_file(path).ids.tolist() == order.tolist()
    index = voyager.Index.load(str(path))
    assert np.allclose(index.get_vectors(range(len(table))), table, atol=1e-6)
    ids, distances = index.query(table, k=1, query_ef=200)
    assert ids[:, 0].tolist() == list(range(len(table)))
    assert distances.max() < 1e-5


def test_several_threads_give_a_sound_index(tmp_path: Path) -> None:
    table = manifold(owners_of(2_000), 7)
    path = tmp_path / "a.voy"
    write_index(
        IndexVectors(lambda: [table], table.shape, main_axes(table, 16)), replace(ALONG, threads=2), path
    )
    assert sorted(read_voyager_file(path).ids.tolist()) == list(range(len(table)))
    assert np.allclose(load_index(path).get_vectors(range(len(table))), table, atol=1e-6)


@pytest.mark.slow
def test_it_finds_more_of_the_neighbours_than_a_graph_in_all_dimensions(tmp_path: Path) -> None:
    table = manifold(owners_of(6_000), 2)
    params, path = IndexParams(m=12, ef_construction=100), tmp_path / "a.voy"

    def recall(axes: np.ndarray | None) -> float:
        write_index(IndexVectors(lambda: [table], table.shape, axes), params, path)
        return index_recall("a", ask_index(load_index(path), table), table).at_k

    assert recall(main_axes(table, 128)) > recall(None)


def test_parameters_that_do_not_fit_are_left_out() -> None:
    wanted = IndexParams(graph_dimensions=128)
    assert wanted.fitting(1_000, 512) == wanted
    for count, dimensions in ((999, 512), (1_000, 128), (1_000, 64)):
        assert wanted.fitting(count, dimensions) == IndexParams()
    # An index that was built before the parameter existed is used again.
    assert "graph_dimensions" not in IndexParams().content
    assert index_digest("", wanted) != index_digest("", IndexParams())
    exact = replace(wanted, exact_links=True)
    assert exact.fitting(1_000, 512) == exact
    assert exact.fitting(999, 512) == IndexParams()
    assert "exact_links" not in wanted.content
    assert index_digest("", wanted) != index_digest("", exact)


def test_an_index_of_the_same_vectors_is_used_again_only_for_the_same_people() -> None:
    faces = np.arange(4)
    pairs, others, renumbered = (
        FaceOrder(faces, np.array(owners)) for owners in ([1, 1, 2, 2], [1, 2, 2, 2], [5, 5, 9, 9])
    )
    along = IndexParams(graph_dimensions=128)
    assert index_digest("", along, pairs) == index_digest("", along, renumbered)
    assert index_digest("", along, pairs) != index_digest("", along, others)
    # A graph in all dimensions does not depend on the people.
    assert index_digest("", IndexParams(), pairs) == index_digest("", IndexParams(), others)


def test_the_faces_of_a_person_are_linked(tmp_path: Path) -> None:
    owners = owners_of(1_500)
    table = manifold(owners, 4)
    far = np.random.default_rng(1).permutation(len(table))
    # The people of a permutation have nothing in common, so that nearness does not link their faces.
    write_index(
        IndexVectors(lambda: [table], table.shape, main_axes(table, 16), owners[far]),
        ALONG,
        tmp_path / "a.voy",
    )
    file = read_voyager_file(tmp_path / "a.voy")
    content = np.fromfile(tmp_path / "a.voy", np.uint8, file.count * file.element_bytes, offset=HEADER_BYTES)
    links = content.reshape(file.count, -1)[:, : file.first_vector - HEADER_BYTES].copy().view("<u4")
    groups = owners[far]
    linked = [
        np.isin(
            np.setdiff1d(np.flatnonzero(groups == groups[face]), face), links[face, 1 : 1 + links[face, 0]]
        ).mean()
        for face in range(len(links))
        if np.count_nonzero(groups == groups[face]) > 1
    ]
    assert np.mean(linked) > 0.7


@pytest.mark.slow
@pytest.mark.usefixtures("small_graphs")
def test_a_build_gives_the_same_bytes_and_is_used_again(tmp_path: Path) -> None:
    engine = make_catalog(tmp_path / "catalog.db", performers=30)
    reports = [build_index(engine, IndexTask("facenet", ALONG), tmp_path / f"{run}.voy") for run in range(2)]
    assert reports[0].sha256 == reports[1].sha256
    assert {report.graph_dimensions for report in reports} == {16}
    plan = IndexPlan(SPEC.models, tuple(Flavour), ALONG, False, 0.999)
    staging = open_staging(tmp_path, "next")
    first = stage_chosen_indices(engine, plan, staging)
    again = stage_chosen_indices(engine, plan, staging)
    assert not any(report.reused for report in first.values())
    assert all(report.reused for report in again.values())
    assert {name: report.sha256 for name, report in again.items()} == {
        name: report.sha256 for name, report in first.items()
    }
    engine.dispose()


@pytest.mark.slow
@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.usefixtures("small_graphs")
def test_a_release_with_such_indices_is_verified_and_not_made_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exact: bool
) -> None:
    ladder = (Corner(8, 40, 16, exact),)
    monkeypatch.setattr("stash_sense_pipeline.release.index_choice.LADDER", ladder)
    engine = make_catalog(tmp_path / "catalog.db")
    plan = IndexPlan(SPEC.models, (Flavour.FULL,), replace(ALONG, **ladder[0]._asdict()), True, 0.9)

    def publish(run: str):
        staging = open_staging(tmp_path, run)
        stage_chosen_indices(engine, plan, staging)
        stage_performers_db(engine, staging, SPEC.database)
        params = staged_params(plan, staging)
        assert (params.graph_dimensions, params.exact_links) == (16, exact)
        return publish_staged(engine, tmp_path, staging, replace(SPEC, index=params), DAY)

    report = publish("one")
    assert report.changed
    assert all(check.passed for check in verify_release(report.path))
    manifest = json.loads((report.path / "manifest.json").read_text())
    assert {entry["graph_dimensions"] for entry in manifest["indices"].values()} == {16}
    stated = [manifest["index_choice"], *manifest["indices"].values()]
    assert {each.get("exact_links", False) for each in stated} == {exact}
    latest = latest_release(tmp_path / "releases")
    again = plan_indices(replace(plan, params=IndexParams()), None, latest, 160)
    assert (again.params, again.climbs) == (plan.params, True)
    assert len(Sidecar(report.path).faces) == 160
    assert not publish("two").changed
    rename_a_performer(engine)
    assert publish("three").changed
    engine.dispose()


@pytest.mark.usefixtures("small_graphs")
def test_a_build_that_is_stopped_while_links_are_completed_leaves_nothing(tmp_path: Path) -> None:
    engine = make_catalog(tmp_path / "catalog.db", performers=30)
    (tmp_path / "indices").mkdir()

    def stop(stage: str, done: int, total: int | None, /, **counts: int) -> None:
        if stage == "links" and done > 16:
            raise ReleaseError("stopped")

    with pytest.raises(ReleaseError, match="stopped"):
        build_index(engine, IndexTask("facenet", ALONG), tmp_path / "indices" / "a.voy", stop)
    assert list((tmp_path / "indices").iterdir()) == []
    engine.dispose()


@pytest.mark.usefixtures("small_graphs")
def test_progress_counts_the_vectors_and_then_the_links(tmp_path: Path) -> None:
    engine = make_catalog(tmp_path / "catalog.db", performers=30)
    seen: list[tuple[str, int, int | None]] = []
    build_index(engine, IndexTask("arcface", ALONG), tmp_path / "a.voy", lambda *at: seen.append(at))
    assert [stage for stage, done, total in seen if done == total] == ["vectors", "links"]
    assert seen[-1] == ("links", 120, 120)
    engine.dispose()
