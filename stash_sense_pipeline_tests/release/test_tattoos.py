"""Tattoos in a release: files, rows, gates, and the reader that the sidecar has for them."""

from __future__ import annotations

import json
import shutil
import sqlite3
import zipfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
import voyager

from stash_sense_pipeline.catalog import schema
from stash_sense_pipeline.catalog.queries.tattoos.scans import TattooModels
from stash_sense_pipeline.catalog.transactions import writing
from stash_sense_pipeline.foundation.errors import ReleaseError
from stash_sense_pipeline.foundation.files import sha256_file
from stash_sense_pipeline.release.build.face_order import face_order
from stash_sense_pipeline.release.build.tattoos.tattoo_index import load_tattoos
from stash_sense_pipeline.release.checks.check_result import Severity
from stash_sense_pipeline.release.checks.tattoos.tattoo_checks import owners_check, prove_tattoo_index
from stash_sense_pipeline.release.checks.verify import verify_release
from stash_sense_pipeline.release.contract import Flavour
from stash_sense_pipeline.release.promotion import ReleaseReport
from stash_sense_pipeline.release.publish import publish_release
from stash_sense_pipeline.release.spec import small_limits
from stash_sense_pipeline_tests.release.conftest import DAY
from stash_sense_pipeline_tests.release.sidecar import Match, Sidecar
from stash_sense_pipeline_tests.release.tattoo_sidecar import TattooMatcher
from stash_sense_pipeline_tests.release.tattoo_world import (
    DIMENSIONS,
    MODELS,
    TATTOO_SPEC,
    TATTOOS,
    add_tattoos,
    own_marks,
    trusted_faces,
)
from stash_sense_pipeline_tests.release.worlds import BEGIN, SPEC, make_catalog

FILES = {"tattoo_embeddings.voy", "tattoo_embeddings.json"}
BOTH = replace(TATTOO_SPEC, small=small_limits(SPEC.limits))


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> tuple[sa.Engine, ReleaseReport]:
    """A release of 40 people with 4 faces each; 20 of them have a tattoo that all 4 pictures show. Both flavours."""
    data = tmp_path_factory.mktemp("tattoos")
    engine = make_catalog(data / "catalog.db")
    add_tattoos(engine, own_marks(engine))
    return engine, publish_release(engine, data, "first", BOTH, DAY)


def checks_of(report: ReleaseReport) -> dict[str, Any]:
    return {check.label: check for check in report.checks}


def files_of(report: ReleaseReport) -> dict[str, str]:
    paths = [report.path, report.path.with_name(f"{report.version}.small")]
    return {f"{path.name}/{each.name}": sha256_file(each) for path in paths for each in path.iterdir()}


@pytest.mark.slow
def test_a_release_has_the_tattoo_files_of_the_contract(released: tuple[sa.Engine, ReleaseReport]) -> None:
    _, report = released
    assert [check for check in report.checks if not check.passed] == []
    assert {path.name for path in report.path.iterdir()} >= FILES
    entries = json.loads((report.path / "tattoo_embeddings.json").read_text())
    assert len(entries) == 80
    assert all(set(entry) == {"universal_id"} for entry in entries)
    index = voyager.Index.load(str(report.path / "tattoo_embeddings.voy"))
    assert (index.space, index.num_dimensions, sorted(index.ids)) == (
        voyager.Space.Cosine,
        1280,
        list(range(80)),
    )
    manifest = json.loads((report.path / "manifest.json").read_text())
    assert manifest["models"]["tattoo_dim"] == 1280
    assert manifest["models"]["tattoo_embedder_sha256"] == MODELS.embedder
    assert set(manifest["checksums"]) >= FILES
    assert manifest["indices"]["tattoo"]["vectors"] == 80
    with zipfile.ZipFile(report.archive) as archive:
        assert set(archive.namelist()) >= FILES
    for path in (report.path, report.archive):
        found = {check.name: check for check in verify_release(path)}
        assert found["tattoo_files"].detail == found["tattoo_enough"].detail == "80 tattoos"
        assert found["database_tattoo_detections"].detail == "40 people"


def test_the_rows_of_people_are_those_that_the_sidecar_reads(
    released: tuple[sa.Engine, ReleaseReport],
) -> None:
    rows = {row["performer_id"]: row for row in Sidecar(released[1].path).rows("tattoo_detections")}
    assert len(rows) == 40
    assert (rows[1]["has_tattoos"], rows[1]["confidence"], rows[1]["detections_json"]) == (0, 0.0, "[]")
    assert (rows[2]["has_tattoos"], rows[2]["confidence"]) == (1, 0.75)
    detections = json.loads(rows[2]["detections_json"])
    assert len(detections) == 4
    assert detections[0] == {
        "bbox": {"x": 0.1, "y": 0.333333, "w": 0.2, "h": 0.25},
        "confidence": 0.75,
        "location_hint": "left upper body",
    }


@pytest.mark.slow
def test_the_same_catalog_gives_the_same_bytes_in_both_flavours(
    released: tuple[sa.Engine, ReleaseReport], tmp_path: Path
) -> None:
    engine = make_catalog(tmp_path / "other.db")
    # Stored in another order, so that ids of tattoos differ.
    marks = own_marks(engine)
    add_tattoos(engine, dict(reversed(marks.items())))
    again = publish_release(engine, tmp_path / "data", "other", BOTH, DAY)
    assert files_of(again) == files_of(released[1])
    assert sha256_file(again.archive) == sha256_file(released[1].archive)
    assert not publish_release(engine, tmp_path / "data", "more", BOTH, DAY).changed
    engine.dispose()


def test_the_flavours_differ_in_their_indices_alone(released: tuple[sa.Engine, ReleaseReport]) -> None:
    files = files_of(released[1])
    version = released[1].version
    same = {
        name.partition("/")[2]
        for name, digest in files.items()
        if name.startswith(f"{version}/") and digest == files[f"{version}.small/{name.partition('/')[2]}"]
    }
    assert same == {"performers.db", "faces.json", "performers.json", "tattoo_embeddings.json"}
    assert checks_of(released[1])["small: tattoo_recall_at_1"].passed
    assert checks_of(released[1])["small: tattoo_content"].passed
    assert checks_of(released[1])["small: same_people"].passed


@pytest.mark.parametrize("flavour", list(Flavour))
def test_the_sidecars_matcher_finds_the_person_of_a_tattoo(
    released: tuple[sa.Engine, ReleaseReport], flavour: Flavour
) -> None:
    engine, report = released
    release = report.path if flavour is Flavour.FULL else report.path.with_name(f"{report.version}.small")
    matcher, sidecar = TattooMatcher(release), Sidecar(release)
    fresh = own_marks(engine)
    owner = {face: person for person, faces in trusted_faces(engine).items() for face in faces}
    positions = {face: place for place, face in enumerate(face_order(engine).face_ids.tolist())}
    rng = np.random.default_rng(5)
    asked = 0
    for face_id, vectors in fresh.items():
        if not vectors:
            continue
        asked += 1
        photo = vectors[0] + 0.3 * rng.standard_normal(DIMENSIONS)
        similar = matcher.match([photo])
        right = sidecar.faces[positions[face_id]]
        assert max(similar, key=similar.__getitem__) == right
        assert similar[right] > 0.7
        # Another person's face is a little nearer than the right one's: the signal puts the right person first.
        other = next(uid for uid in sorted(matcher.people) if uid != right)
        without = next(uid for uid in sorted(sidecar.performers) if uid not in matcher.people)
        faces = [Match(other, "other", 0.30), Match(without, "none", 0.31), Match(right, "right", 0.40)]
        assert matcher.scored(faces, [photo])[0][0] == right
        assert matcher.scored(faces, [photo])[-1][0] == without
        assert matcher.scored(faces, [])[0][0] == without
    assert asked == 80
    assert len(set(owner.values())) == 40


# --- when the tattoos are left out ----------------------------------------------------------------------------------


def nine_entries(engine: sa.Engine) -> None:
    marks = own_marks(engine)
    kept = [face_id for face_id, vectors in marks.items() if vectors][:9]
    add_tattoos(engine, {face_id: vectors if face_id in kept else [] for face_id, vectors in marks.items()})


def one_of_nine_searched(engine: sa.Engine) -> None:
    people = trusted_faces(engine)
    chosen = {face for person in list(people)[:35] for face in people[person]}
    add_tattoos(engine, {face: marks for face, marks in own_marks(engine).items() if face in chosen})


def all_wait(engine: sa.Engine) -> None:
    marks = own_marks(engine)
    add_tattoos(engine, marks, waiting=frozenset(marks))


def of_another_pack(engine: sa.Engine) -> None:
    add_tattoos(engine, own_marks(engine), models=TattooModels("3" * 64, "4" * 64))


def embedded_by_another_network(engine: sa.Engine) -> None:
    add_tattoos(engine, own_marks(engine), models=TattooModels(MODELS.detector, "4" * 64))


def of_pictures_with_several_people(engine: sa.Engine) -> None:
    add_tattoos(engine, own_marks(engine))
    with writing(engine) as connection:
        connection.execute(sa.delete(schema.tattoo_detections))
        connection.execute(sa.update(schema.tattoo_scans).values(tattoos=None))


def nothing(engine: sa.Engine) -> None:
    """No picture was searched."""


LEFT_OUT: dict[str, tuple[Callable[[sa.Engine], None], str]] = {
    "nine entries": (nine_entries, "9 tattoos are embedded"),
    "35 of 40 searched": (one_of_nine_searched, "35 of 40 people"),
    "all wait": (all_wait, "20 of 40 people"),
    "another pack": (of_another_pack, "0 of 40 people"),
    "another embedder": (embedded_by_another_network, "20 of 40 people"),
    "several people": (of_pictures_with_several_people, "0 of 40 people"),
    "nothing searched": (nothing, "0 of 40 people"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", LEFT_OUT)
def test_too_few_tattoos_or_people_give_a_release_without_any(case: str, tmp_path: Path) -> None:
    prepare, reason = LEFT_OUT[case]
    engine = make_catalog(tmp_path / "catalog.db")
    prepare(engine)
    report = publish_release(engine, tmp_path, "run", TATTOO_SPEC, DAY)
    assert not FILES & {path.name for path in report.path.iterdir()}
    assert Sidecar(report.path).rows("tattoo_detections") == []
    assert "tattoo_dim" not in report.manifest["models"]
    coverage = checks_of(report)["tattoo_coverage"]
    assert (coverage.passed, coverage.severity) == (False, Severity.WARNING)
    assert reason in coverage.detail
    assert checks_of(report)["tattoo_worth"].passed
    assert {check.name for check in verify_release(report.path) if not check.passed} == set()
    # Nothing that users get changed against a release that asks for no tattoos.
    again = publish_release(engine, tmp_path, "again", SPEC, DAY)
    assert not again.changed
    assert checks_of(again)["tattoo_coverage"].passed
    engine.dispose()


@pytest.mark.parametrize(
    ("share", "kept"), [(0.0, True), (0.87, True), (0.875, True), (0.9, False), (1.0, False)]
)
def test_the_share_of_searched_people_that_is_required_is_a_setting(
    share: float, kept: bool, tmp_path: Path
) -> None:
    engine = make_catalog(tmp_path / "catalog.db")
    one_of_nine_searched(engine)
    tattoos = load_tattoos(engine, replace(TATTOOS, min_coverage=share)).tattoos
    assert (tattoos.left_out is None) is kept
    assert tattoos.coverage == pytest.approx(35 / 40)
    engine.dispose()


def test_tattoos_that_wait_are_not_in_the_index_and_their_people_not_covered(tmp_path: Path) -> None:
    engine = make_catalog(tmp_path / "catalog.db")
    marks = own_marks(engine)
    first = next(face for face, vectors in marks.items() if vectors)
    add_tattoos(engine, marks, waiting=frozenset({first}))
    tattoos = load_tattoos(engine, TATTOOS).tattoos
    assert (len(tattoos.entries), tattoos.waiting, tattoos.searched) == (79, 1, 39)
    assert first not in tattoos.searched_faces
    assert len(tattoos.searched_faces) == 159
    engine.dispose()


@pytest.mark.slow
def test_a_release_that_drops_its_tattoos_warns_of_the_files_that_sidecars_keep(tmp_path: Path) -> None:
    engine = make_catalog(tmp_path / "catalog.db")
    add_tattoos(engine, own_marks(engine))
    assert publish_release(engine, tmp_path, "first", TATTOO_SPEC, DAY).changed
    report = publish_release(engine, tmp_path, "second", SPEC, DAY)
    assert report.changed
    coverage = checks_of(report)["tattoo_coverage"]
    assert not coverage.passed
    assert "sidecars keep tattoo_embeddings.voy" in coverage.detail
    engine.dispose()


# --- changes, damage, bad input -------------------------------------------------------------------------------------


def one_more_tattoo(connection: sa.Connection) -> None:
    row = {"face_id": 1, "tattoo_index": 7, "x": 0, "y": 0, "width": 1, "height": 1, "confidence": 0.5}
    done = connection.execute(sa.insert(schema.tattoo_detections).values(**row, location_hint=None))
    vector = np.ones(DIMENSIONS, "<f4").tobytes()
    made = {"pack": "test-pack", "model_digest": MODELS.embedder, "created_at": BEGIN}
    values = {"tattoo_id": done.inserted_primary_key[0], "vector": vector, **made}
    connection.execute(sa.insert(schema.tattoo_embeddings).values(**values))


def another_vector(connection: sa.Connection) -> None:
    table = schema.tattoo_embeddings
    first = connection.scalar(sa.select(sa.func.min(table.c.tattoo_id)))
    vector = np.eye(1, DIMENSIONS, dtype="<f4").tobytes()
    connection.execute(sa.update(table).where(table.c.tattoo_id == first).values(vector=vector))


def another_box(connection: sa.Connection) -> None:
    connection.execute(sa.update(schema.tattoo_detections).values(x=0.4))


@pytest.mark.slow
def test_a_change_of_tattoos_makes_a_new_version(tmp_path: Path) -> None:
    engine = make_catalog(tmp_path / "catalog.db")
    add_tattoos(engine, own_marks(engine))
    first = publish_release(engine, tmp_path, "first", TATTOO_SPEC, DAY)
    for number, change in enumerate((one_more_tattoo, another_vector, another_box), 1):
        with writing(engine) as connection:
            change(connection)
        report = publish_release(engine, tmp_path, f"next {number}", TATTOO_SPEC, DAY)
        assert report.changed, change
        assert report.version == f"{first.version}.{number}"
        assert [check for check in report.checks if not check.passed] == [], change
    engine.dispose()


@pytest.mark.slow
@pytest.mark.parametrize(
    "blob",
    [
        np.full(DIMENSIONS, np.nan, "<f4").tobytes(),
        np.full(DIMENSIONS, np.inf, "<f4").tobytes(),
        np.zeros(DIMENSIONS, "<f4").tobytes(),
        np.ones(DIMENSIONS - 1, "<f4").tobytes(),
        b"",
    ],
    ids=["NaN", "infinite", "zero", "one number less", "empty"],
)
def test_a_vector_that_cannot_be_released_stops_the_release_in_one_line(blob: bytes, tmp_path: Path) -> None:
    engine = make_catalog(tmp_path / "catalog.db")
    add_tattoos(engine, own_marks(engine))
    with writing(engine) as connection:
        connection.execute(sa.update(schema.tattoo_embeddings).values(vector=blob))
    with pytest.raises(ReleaseError, match=r"tattoo \d+ ") as caught:
        publish_release(engine, tmp_path, "run", TATTOO_SPEC, DAY)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "releases").exists()
    engine.dispose()


def damaged(report: ReleaseReport, target: Path) -> Path:
    shutil.copytree(report.path, target)
    return target


def rebuilt(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    index = voyager.Index.load(str(path))
    vectors = change(np.asarray(index.get_vectors(range(len(index)))))
    other = voyager.Index(voyager.Space.Cosine, DIMENSIONS)
    other.add_items(vectors, ids=list(range(len(vectors))), num_threads=1)
    other.save(str(path))


def test_an_index_with_another_persons_vectors_fails_its_check(
    released: tuple[sa.Engine, ReleaseReport], tmp_path: Path
) -> None:
    engine, report = released
    tattoos, spec = load_tattoos(engine, TATTOOS), TATTOO_SPEC
    release = damaged(report, tmp_path / "release")
    assert all(check.passed for check in prove_tattoo_index(release, tattoos, spec))
    rebuilt(release / "tattoo_embeddings.voy", lambda vectors: vectors[::-1].copy())
    (content,) = prove_tattoo_index(release, tattoos, spec)
    assert (content.name, content.passed) == ("tattoo_content", False)
    assert "verify" not in content.detail


@pytest.mark.parametrize("kind", ["swapped", "shorter", "of another performer in the database"])
def test_entries_of_another_person_fail_their_check(
    released: tuple[sa.Engine, ReleaseReport], kind: str, tmp_path: Path
) -> None:
    engine, report = released
    release = damaged(report, tmp_path / "release")
    path = release / "tattoo_embeddings.json"
    entries = json.loads(path.read_text())
    if kind == "swapped":
        path.write_text(json.dumps([entries[-1], *entries[1:-1], entries[0]]))
    elif kind == "shorter":
        path.write_text(json.dumps(entries[:-1]))
    else:
        with closing(sqlite3.connect(release / "performers.db")) as connection:
            connection.execute("UPDATE stashbox_ids SET performer_id = performer_id + 1000")
            connection.commit()
    assert not owners_check(release, load_tattoos(engine, TATTOOS)).passed


def test_a_poor_recall_forbids_the_release(released: tuple[sa.Engine, ReleaseReport]) -> None:
    engine, report = released
    tattoos = load_tattoos(engine, TATTOOS)
    strict = replace(TATTOO_SPEC, limits=replace(SPEC.limits, recall_at_1=1.1))
    recall = next(
        check
        for check in prove_tattoo_index(report.path, tattoos, strict)
        if check.name == "tattoo_recall_at_1"
    )
    assert (recall.passed, recall.severity) == (False, Severity.ERROR)
