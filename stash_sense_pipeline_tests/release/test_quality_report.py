"""The quality report: exact neighbours, the same bytes every time, names in the file only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.foundation.files import sha256_file
from stash_sense_pipeline.release.build.face_order import FaceOrder, ReleaseVectors, normalised
from stash_sense_pipeline.release.build.graph.exact_search import exact_neighbours
from stash_sense_pipeline.release.checks.accuracy.confusable_people import (
    BINS,
    find_confusable,
    similarity_distribution,
)
from stash_sense_pipeline.release.promotion import ReleaseReport
from stash_sense_pipeline.release.publish import publish_release
from stash_sense_pipeline.release.reports.quality_report import (
    ReportContent,
    nameless_report,
    read_checks,
    read_quality,
    write_report,
)

from .conftest import DAY
from .worlds import SPEC, make_catalog

World = tuple[Path, ReleaseReport]


def population(seed: int, faces_of: list[int], dim: int = 6) -> tuple[FaceOrder, dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    owners = np.repeat(np.arange(len(faces_of)) * 3 + 5, faces_of)
    order = FaceOrder(rng.permutation(len(owners)) + 100, owners)
    unit = {
        model: normalised(rng.standard_normal((len(owners), dim)).astype("f4"))
        for model in ("facenet", "arcface")
    }
    return order, unit


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 10_000),
    st.lists(st.integers(1, 6), min_size=1, max_size=16),
    st.sampled_from([1, 5, 2_048]),
)
def test_confusable_pairs_and_hubs_are_those_of_comparing_all_pairs(
    seed: int, faces_of: list[int], block: int
) -> None:
    order, unit = population(seed, faces_of)
    everything = np.arange(len(order))
    proposed = {
        model: exact_neighbours(table, table, 100)[0].astype(np.int32) for model, table in unit.items()
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "stash_sense_pipeline.release.checks.accuracy.confusable_people._PHOTOGRAPHS_A_BLOCK", block
        )
        found = find_confusable(ReleaseVectors(order, unit), everything, proposed, pairs=7, hubs=4)
    # An index returns all of so few faces.
    assert len(order) < 100
    distances = 1 - sum(0.5 * table @ table.T for table in unit.values())
    owners = order.performer_ids
    pairs: dict[tuple[int, int], float] = {}
    near: dict[int, set[int]] = {}
    for one, other in zip(*np.nonzero(owners[:, None] != owners), strict=True):
        pair = tuple(sorted((int(owners[one]), int(owners[other]))))
        pairs[pair] = min(pairs.get(pair, 9), distances[one, other])
        if distances[one, other] <= 0.5:
            near.setdefault(int(other), set()).add(int(owners[one]))
    expected = sorted(pairs.values())[:7]
    assert [pair.distance for pair in found.pairs] == pytest.approx(expected, abs=2e-4)
    assert all(
        pairs[pair.first, pair.second] == pytest.approx(pair.distance, abs=2e-4) for pair in found.pairs
    )
    assert [hub.people for hub in found.hubs] == sorted(map(len, near.values()), reverse=True)[:4]
    assert found.faces_near_others == len(near)


def test_the_genuine_similarities_count_every_pair_of_one_person() -> None:
    order, unit = population(1, [1, 2, 5, 20])
    found = similarity_distribution(order, unit["facenet"])
    table = unit["facenet"]
    genuine = [
        float(table[one] @ table[other])
        for one in range(len(order))
        for other in range(one)
        if order.performer_ids[one] == order.performer_ids[other]
    ]
    assert sum(found.genuine) == len(genuine) == 1 + 10 + 190
    assert found.genuine == tuple(np.histogram(genuine, BINS)[0].tolist())
    assert sum(found.impostor) == 28 * 28 - 28 - 2 * len(genuine)


def test_similarities_at_the_edges_of_the_bins_count_as_numpy_counts_them() -> None:
    edges = np.concatenate([BINS, np.nextafter(BINS, 2), np.nextafter(BINS, -2)]).clip(-1, 1)
    one = np.tile(np.array([[1, 0]], "f4"), (len(edges), 1))
    other = np.stack([edges, np.sqrt(1 - edges**2)], axis=1).astype("f4")
    table = np.stack([one, other], axis=1).reshape(-1, 2)
    owners = np.repeat(np.arange(len(edges)), 2)
    found = similarity_distribution(FaceOrder(np.arange(len(owners)), owners), table)
    similar = np.einsum("ij,ij->i", table[::2], table[1::2])
    assert found.genuine == tuple(np.histogram(similar, BINS)[0].tolist())
    assert sum(found.impostor) == len(owners) * (len(owners) - 2)


@pytest.mark.slow
def test_a_release_has_a_report_beside_it(world: World, tmp_path: Path) -> None:
    data, report = world
    directory = data / "releases" / f"{report.version}.report"
    assert {path.name for path in directory.iterdir()} == {
        "report.md",
        "report.html",
        "quality.md",
        "checks.json",
        "confusable.json",
        "faces.png",
        "similarity.png",
    }
    text = (directory / "report.md").read_text()
    for wanted in (
        "| 3-4 | 40 |",
        "What a threshold means",
        "Recommended distance: 0.60.",
        "People who may stand in the release twice",
        "| stashdb |",
        "Most confusable people",
        "Hubs",
        "This is the first release.",
        "recall_at_100 | ok",
        "Someone",
    ):
        assert wanted in text
    for plot in ("faces.png", "similarity.png"):
        assert f"({plot})" in text
        assert (directory / plot).read_bytes()[:4] == b"\x89PNG"
    assert read_checks(directory) == report.checks
    again = publish_release(make_catalog(tmp_path / "catalog.db"), tmp_path, "other", SPEC, DAY)
    for path in directory.iterdir():
        if path.name not in ("checks.json", "report.md", "report.html"):
            assert sha256_file(tmp_path / "releases" / f"{again.version}.report" / path.name) == sha256_file(
                path
            )
    assert (tmp_path / "releases" / f"{again.version}.report" / "report.md").read_text() == text


def test_the_report_for_the_run_history_has_no_names(world: World) -> None:
    data, report = world
    assert report.figures is not None
    text = nameless_report(ReportContent(report.version, report.checks, report.figures, None))
    assert read_quality(data / "releases" / f"{report.version}.report") == text
    assert read_quality(data) is None
    assert "Most confusable people" in text
    assert "What a threshold means" in text
    assert "Someone" not in text
    assert "Person" not in text
    assert "http" not in text
    named = (data / "releases" / f"{report.version}.report" / "report.md").read_text()
    pair = report.figures.confusable.pairs[0]
    assert f"({pair.first}) |" in named
    assert f"| {pair.first} | {pair.second} |" in text


def test_an_unchanged_release_has_the_checks_it_was_published_with(world: World) -> None:
    data, report = world
    again = publish_release(open_catalog(f"sqlite:///{data / 'catalog.db'}"), data, "again", SPEC, DAY)
    assert not again.changed
    assert {check.name for check in again.checks} == {check.name for check in report.checks}


def test_damaged_stored_checks_are_ignored(tmp_path: Path) -> None:
    assert read_checks(tmp_path) == ()
    (tmp_path / "checks.json").write_text('[{"name": 1}]')
    assert read_checks(tmp_path) == ()


@pytest.mark.slow
def test_a_name_with_table_characters_stays_in_its_cell(world: World, tmp_path: Path) -> None:
    _, report = world
    assert report.figures is not None
    write_report(tmp_path / "r", report.path, ReportContent("1", report.checks, report.figures, None))
    rows = [
        line for line in (tmp_path / "r" / "report.md").read_text().splitlines() if line.startswith("| Some")
    ]
    assert {row.count("|") for row in rows} <= {4}
