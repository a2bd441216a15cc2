"""A release is a function of its content: neither the order nor the time of its collection decides a byte."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.foundation.files import sha256_file
from stash_sense_pipeline.release.build.archive import write_zip
from stash_sense_pipeline.release.build.face_order import face_order
from stash_sense_pipeline.release.checks.check_result import failures
from stash_sense_pipeline.release.checks.shrinkage import Losses, find_losses
from stash_sense_pipeline.release.checks.verify import verify_release
from stash_sense_pipeline.release.contract import zip_name
from stash_sense_pipeline.release.promotion import ReleaseReport
from stash_sense_pipeline.release.publish import publish_release
from stash_sense_pipeline.release.reports.release_diff import diff_releases
from stash_sense_pipeline.release.sense2.publish import publish_sense2
from stash_sense_pipeline.release.spec import Sense2Spec, small_limits
from stash_sense_pipeline_tests.recollected import recollected

from .conftest import DAY
from .tattoo_world import TATTOO_SPEC, add_tattoos, own_marks
from .worlds import HOSTS, PACK, SPEC, make_catalog

BOTH = replace(TATTOO_SPEC, small=small_limits(SPEC.limits))
NEXT_DAY = DAY + timedelta(days=1)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[sa.Engine, ReleaseReport]:
    """A catalog with tattoos, and its release in both flavours."""
    data = tmp_path_factory.mktemp("first")
    engine = make_catalog(data / "catalog.db")
    add_tattoos(engine, own_marks(engine))
    return engine, publish_release(engine, data, "first", BOTH, DAY)


def digests(report: ReleaseReport) -> dict[str, str]:
    """SHA-256 of every file of both flavours, and of their zips."""
    releases = report.path.parent
    found = [
        *report.path.iterdir(),
        *releases.joinpath(f"{report.version}.small").iterdir(),
        *releases.glob("*.zip"),
    ]
    return {str(path.relative_to(releases)): sha256_file(path) for path in found}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_catalogs_of_the_same_content_publish_the_same_bytes(
    first: tuple[sa.Engine, ReleaseReport], tmp_path: Path, seed: int
) -> None:
    engine, report = first
    other = recollected(engine, tmp_path / "catalog.db", seed)
    assert face_order(other).digest != face_order(engine).digest
    again = publish_release(other, tmp_path / "data", "run", BOTH, DAY)
    assert len(digests(report)) == 18
    assert digests(again) == digests(report)
    assert again.input_digest == report.input_digest


@pytest.mark.slow
def test_the_newest_release_is_unchanged_for_another_catalog_of_the_same_content(
    first: tuple[sa.Engine, ReleaseReport], tmp_path: Path
) -> None:
    engine, report = first
    shutil.copytree(report.path.parent, tmp_path / "releases", symlinks=True)
    again = publish_release(recollected(engine, tmp_path / "catalog.db", 5), tmp_path, "run", BOTH, NEXT_DAY)
    assert (again.changed, again.version) == (False, report.version)
    assert failures(again.checks) == ()


@pytest.mark.slow
def test_the_first_sense2_releases_of_the_same_content_have_the_same_bytes(tmp_path: Path) -> None:
    spec = Sense2Spec(HOSTS, PACK, "arcface")
    found = []
    engine = make_catalog(tmp_path / "catalog.db")
    for number, each in enumerate([engine, recollected(engine, tmp_path / "other.db", 1)]):
        publish_sense2(each, tmp_path / str(number), spec, DAY)
        version = tmp_path / str(number) / "sense2" / "2026.02.18"
        found.append({path.name: sha256_file(path) for path in version.glob("*.zip")})
    # The full release and the links.
    assert len(found[0]) == 2
    assert found[0] == found[1]


# --- releases of earlier versions ------------------------------------------------------------------------------------


def as_written_before(release: Path) -> None:
    """Rewrites a release as earlier versions wrote it: with ids and times of the catalog, and another input digest."""
    with closing(sqlite3.connect(release / "performers.db")) as connection:
        connection.execute("UPDATE faces SET id = 100000 - 7 * id, created_at = '2026-01-02T03:04:05Z'")
        connection.execute(
            "UPDATE performers SET created_at = '2026-01-02T03:04:05Z', updated_at = created_at"
        )
        connection.execute("UPDATE merged_ids SET merged_at = '2026-01-02T03:04:05Z'")
        connection.commit()
        connection.execute("VACUUM")
    path = release / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["checksums"]["performers.db"] = f"sha256:{sha256_file(release / 'performers.db')}"
    manifest |= {"created_at": "2026-01-02T04:43:05Z", "input_digest": f"sha256:{'0' * 64}"}
    path.write_text(json.dumps(manifest, sort_keys=True, ensure_ascii=False, indent=2) + "\n")
    archive = release.parent / zip_name(release.name)
    archive.unlink()
    write_zip(release, archive)


@pytest.mark.slow
def test_the_first_release_after_an_upgrade_reports_no_face_as_lost(data: Path) -> None:
    releases = data / "releases"
    before = releases / "2026.02.18"
    as_written_before(before)
    assert failures(verify_release(before)) == ()
    engine = open_catalog(f"sqlite:///{data / 'catalog.db'}")
    report = publish_release(engine, data, "run", SPEC, NEXT_DAY)
    assert (report.changed, report.version) == (True, "2026.02.19")
    assert report.diff is not None
    assert report.diff.empty
    assert all(index.reused for index in report.indices)
    assert find_losses(engine, before, report.path, SPEC.suppressions) == Losses(40, 40, 0, 160, 160, 0, 0)
    assert diff_releases(report.path, before).empty
    # One release is enough: what follows is compared by content.
    assert not publish_release(engine, data, "again", SPEC, NEXT_DAY).changed


def test_faces_of_one_picture_are_compared_by_their_performers(data: Path) -> None:
    """A release of another program may name pictures without an address, or several faces of one picture."""
    release = data / "releases" / "2026.02.18"
    other = data / "other"
    shutil.copytree(release, other)
    with closing(sqlite3.connect(other / "performers.db")) as connection:
        connection.execute("UPDATE faces SET image_url = NULL WHERE facenet_index < 4")
        connection.execute(
            "UPDATE faces SET image_url = 'https://a.example/1' WHERE facenet_index IN (8, 12)"
        )
        connection.commit()
    assert diff_releases(other, other).empty
    diff = diff_releases(release, other)
    assert (diff.faces_added, diff.faces_removed, diff.faces_moved) == (6, 6, 0)
    third = data / "third"
    shutil.copytree(other, third)
    with closing(sqlite3.connect(third / "performers.db")) as connection:
        owner = "SELECT performer_id FROM faces WHERE facenet_index = 20"
        connection.execute(f"UPDATE faces SET performer_id = ({owner}) WHERE facenet_index = 8")
        connection.execute("DELETE FROM faces WHERE facenet_index = 0")
        connection.commit()
    diff = diff_releases(other, third)
    assert (diff.faces_added, diff.faces_removed, diff.faces_moved) == (0, 1, 1)
