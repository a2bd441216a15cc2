"""Publishing: nothing is rebuilt without a change, and an interruption leaves the last release unchanged."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
import sqlalchemy as sa

from stash_sense_pipeline.catalog import schema
from stash_sense_pipeline.catalog.transactions import writing
from stash_sense_pipeline.foundation.errors import ReleaseError
from stash_sense_pipeline.foundation.files import sha256_file
from stash_sense_pipeline.privacy.suppression.suppression_hashes import record_hash
from stash_sense_pipeline.privacy.suppression.suppression_list import Suppressions
from stash_sense_pipeline.release.build.performers_db import stage_performers_db
from stash_sense_pipeline.release.build.staging import open_staging
from stash_sense_pipeline.release.build.voyager_index import IndexParams, IndexTask, stage_index
from stash_sense_pipeline.release.checks.check_result import failures
from stash_sense_pipeline.release.publish import publish_release, publish_staged
from stash_sense_pipeline.release.versions import latest_release, published_versions
from stash_sense_pipeline_tests.release.changes import (
    FIRST,
    NEXT,
    fingerprint,
    forget_a_face,
    opened,
    rename_a_performer,
)

from .conftest import DAY
from .worlds import HOSTS, SPEC, make_catalog


def test_a_second_publish_of_the_same_catalog_builds_nothing(data: Path) -> None:
    engine = opened(data)
    again = publish_release(engine, data, "again", SPEC, date(2026, 3, 1))
    assert (again.changed, again.version) == (False, FIRST)
    assert published_versions(data / "releases") == (FIRST,)
    assert not failures(again.checks)
    assert len(again.checks) > 20


def test_a_person_suppressed_since_the_last_release_fails_the_checks_of_an_unchanged_release(
    data: Path,
) -> None:
    """The person is not erased from the catalog yet."""
    key = b"k" * 32
    listed = Suppressions(key=key, records=frozenset({record_hash(key, "stashdb", "st-00001")}))
    again = publish_release(opened(data), data, "again", replace(SPEC, suppressions=listed), DAY)
    assert not again.changed
    assert [check.name for check in failures(again.checks)] == ["suppressed", "suppressed_people"]


def test_a_change_of_times_only_makes_no_release(data: Path) -> None:
    engine = opened(data)
    with writing(engine) as connection:
        connection.execute(
            sa.update(schema.source_performers).values(
                updated_at=schema.source_performers.c.changed_at, raw={"anything": 1}
            )
        )
    assert not publish_release(engine, data, "again", SPEC, DAY).changed


@pytest.mark.slow
def test_a_stash_box_without_records_makes_no_release_and_another_host_does(data: Path) -> None:
    spec = replace(SPEC, hosts={**HOSTS, "newbox": "newbox.example"})
    assert not publish_release(opened(data), data, "again", spec, date(2026, 3, 1)).changed
    renamed = replace(SPEC, hosts={**HOSTS, "fansdb": "fansdb.example"})
    assert publish_release(opened(data), data, "again", renamed, date(2026, 3, 1)).changed


@pytest.mark.parametrize("damage", ["gone", "cut", "a bit"])
def test_a_damaged_or_missing_zip_is_packed_again_and_the_version_stays(data: Path, damage: str) -> None:
    before = fingerprint(data / "releases")
    path = data / "releases" / f"stash-sense-data-v{FIRST}.zip"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content[: -100 if damage == "cut" else None])
    if damage == "gone":
        path.unlink()
    again = publish_release(opened(data), data, "again", SPEC, date(2026, 3, 1))
    assert (again.changed, again.version) == (False, FIRST)
    assert fingerprint(data / "releases") == before


def test_a_latest_that_is_a_directory_is_an_error_of_one_line(data: Path) -> None:
    latest = data / "releases" / "latest"
    latest.unlink()
    latest.mkdir()
    with pytest.raises(ReleaseError, match=r"cannot repair .*2026\.02\.18: Is a directory"):
        publish_release(opened(data), data, "again", SPEC, DAY)


@pytest.mark.slow
def test_a_name_that_is_only_an_html_space_is_taken_from_the_next_record(data: Path) -> None:
    """Performer 40 is `&nbsp;` on stashdb, and has a name on fansdb."""
    engine = opened(data)
    one = schema.source_performers.c.source_id == "st-00000"
    with writing(engine) as connection:
        connection.execute(sa.update(schema.source_performers).where(one).values(name="&nbsp;"))
    report = publish_release(engine, data, "again", SPEC, DAY)
    assert '"name":"Someone 0"' in (report.path / "performers.json").read_text()


@pytest.mark.slow
def test_a_change_makes_the_next_version_and_reuses_unchanged_indices(data: Path) -> None:
    engine = opened(data)
    rename_a_performer(engine)
    report = publish_release(engine, data, "again", SPEC, DAY)
    assert (report.changed, report.version) == (True, NEXT)
    assert [index.reused for index in report.indices] == [True, True]
    assert latest_release(data / "releases") == (data / "releases" / NEXT).resolve()
    for name in ("face_facenet.voy", "face_arcface.voy", "faces.json"):
        assert sha256_file(data / "releases" / FIRST / name) == sha256_file(report.path / name)
    assert not list((data / "staging").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("change", ["a face", "parameters", "threads"])
def test_an_index_with_other_input_is_built_again(data: Path, change: str) -> None:
    engine = opened(data)
    spec = SPEC
    rename_a_performer(engine)
    if change == "a face":
        forget_a_face(engine, 160)
    elif change == "parameters":
        spec = replace(SPEC, index=replace(SPEC.index, m=8))
    else:
        spec = replace(SPEC, index=replace(SPEC.index, threads=2))
    report = publish_release(engine, data, "again", spec, DAY)
    assert [index.reused for index in report.indices] == [False, False]
    assert report.manifest["indices"]["facenet"]["reproducible"] is (change != "threads")
    assert not failures(report.checks)


@pytest.mark.slow
def test_a_damaged_index_is_built_again(data: Path) -> None:
    engine = opened(data)
    rename_a_performer(engine)
    path = data / "releases" / FIRST / "face_facenet.voy"
    path.write_bytes(path.read_bytes()[:-100])
    report = publish_release(engine, data, "again", SPEC, DAY)
    assert [index.reused for index in report.indices] == [False, True]


@pytest.mark.slow
def test_separately_staged_steps_publish_a_release(data: Path) -> None:
    """The Dagster assets run each step by itself, in one staging directory."""
    engine = opened(data)
    forget_a_face(engine, 5)
    staging = open_staging(data, "next")
    for model in SPEC.models:
        stage_index(engine, IndexTask(model, SPEC.index), staging)
    stage_performers_db(engine, staging, SPEC.database)
    report = publish_staged(engine, data, staging, SPEC, DAY)
    assert (report.version, report.faces) == (NEXT, 159)
    assert not staging.root.exists()


@pytest.mark.parametrize("stale", ["face_facenet.voy", "face_arcface.voy", "performers.db"])
def test_parts_of_another_state_of_the_catalog_are_refused(data: Path, stale: str) -> None:
    engine = opened(data)
    staging = open_staging(data, "next")

    def stage(name: str) -> None:
        if name == "performers.db":
            stage_performers_db(engine, staging, SPEC.database)
        else:
            model = name.removeprefix("face_").removesuffix(".voy")
            stage_index(engine, IndexTask(model, SPEC.index), staging)

    stage(stale)
    forget_a_face(engine, 5)
    for name in {"face_facenet.voy", "face_arcface.voy", "performers.db"} - {stale}:
        stage(name)
    with pytest.raises(ReleaseError, match=f"{stale} was staged from another state"):
        publish_staged(engine, data, staging, SPEC, DAY)
    assert published_versions(data / "releases") == (FIRST,)


def test_publishing_without_a_staged_step_names_the_step(data: Path) -> None:
    engine = opened(data)
    rename_a_performer(engine)
    staging = open_staging(data, "next")
    stage_index(engine, IndexTask("facenet", SPEC.index), staging)
    with pytest.raises(ReleaseError, match="step index-arcface has not run"):
        publish_staged(engine, data, staging, SPEC, DAY)


@pytest.mark.slow
def test_a_suppressed_person_stops_the_release(data: Path) -> None:
    engine = opened(data)
    rename_a_performer(engine)
    key = b"k" * 32
    spec = replace(
        SPEC, suppressions=Suppressions(key=key, records=frozenset({record_hash(key, "stashdb", "st-00001")}))
    )
    with pytest.raises(ReleaseError, match="suppressed: 1 suppressed records"):
        publish_release(engine, data, "again", spec, DAY)
    assert published_versions(data / "releases") == (FIRST,)


@pytest.mark.slow
def test_an_index_that_loses_neighbours_is_not_published(tmp_path: Path) -> None:
    engine = make_catalog(tmp_path / "catalog.db", performers=600, faces_each=2)
    spec = replace(SPEC, index=IndexParams(m=2, ef_construction=4))
    with pytest.raises(ReleaseError, match=r"facenet_recall_at_1: .* raise m and ef_construction"):
        publish_release(engine, tmp_path, "run", spec, DAY)
    assert published_versions(tmp_path / "releases") == ()
    assert latest_release(tmp_path / "releases") is None
