"""Publishing: nothing is rebuilt without a change, and an interruption leaves the last release unchanged."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from stash_sense_pipeline.catalog import schema
from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.catalog.transactions import writing
from stash_sense_pipeline.foundation.errors import ReleaseError
from stash_sense_pipeline.foundation.files import sha256_file
from stash_sense_pipeline.privacy.suppression.suppression_hashes import record_hash
from stash_sense_pipeline.privacy.suppression.suppression_list import Suppressions
from stash_sense_pipeline.release import assembly, promotion, publish
from stash_sense_pipeline.release.build.performers_db import stage_performers_db
from stash_sense_pipeline.release.build.staging import Staging, open_staging
from stash_sense_pipeline.release.build.voyager_index import IndexParams, stage_index
from stash_sense_pipeline.release.checks.check_result import failures
from stash_sense_pipeline.release.checks.verify import verify_release
from stash_sense_pipeline.release.promotion import clear_leftovers
from stash_sense_pipeline.release.publish import publish_release, publish_staged
from stash_sense_pipeline.release.versions import latest_release, published_versions

from .conftest import DAY
from .worlds import HOSTS, SPEC, make_catalog

FIRST = "2026.02.18"
NEXT = "2026.02.18.1"


def opened(data: Path) -> sa.Engine:
    return open_catalog(f"sqlite:///{data / 'catalog.db'}")


def rename_a_performer(engine: sa.Engine) -> None:
    one = schema.source_performers.c.source_id == "st-00001"
    with writing(engine) as connection:
        connection.execute(sa.update(schema.source_performers).where(one).values(name="Renamed"))


def forget_a_face(engine: sa.Engine, face_id: int) -> None:
    with writing(engine) as connection:
        connection.execute(sa.delete(schema.trusted_faces).where(schema.trusted_faces.c.face_id == face_id))


def fingerprint(releases: Path) -> dict[str, str]:
    found = {"latest": str((releases / "latest").readlink())}
    for path in sorted((releases / FIRST).iterdir()):
        found[path.name] = sha256_file(path)
    found["zip"] = sha256_file(releases / f"stash-sense-data-v{FIRST}.zip")
    return found


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


def test_a_name_that_is_only_an_html_space_is_taken_from_the_next_record(data: Path) -> None:
    """Performer 40 is `&nbsp;` on stashdb, and has a name on fansdb."""
    engine = opened(data)
    one = schema.source_performers.c.source_id == "st-00000"
    with writing(engine) as connection:
        connection.execute(sa.update(schema.source_performers).where(one).values(name="&nbsp;"))
    report = publish_release(engine, data, "again", SPEC, DAY)
    assert '"name":"Someone 0"' in (report.path / "performers.json").read_text()


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


def test_a_damaged_index_is_built_again(data: Path) -> None:
    engine = opened(data)
    rename_a_performer(engine)
    path = data / "releases" / FIRST / "face_facenet.voy"
    path.write_bytes(path.read_bytes()[:-100])
    report = publish_release(engine, data, "again", SPEC, DAY)
    assert [index.reused for index in report.indices] == [False, True]


def test_separately_staged_steps_publish_a_release(data: Path) -> None:
    """The Dagster assets run each step by itself, in one staging directory."""
    engine = opened(data)
    forget_a_face(engine, 5)
    staging = open_staging(data, "next")
    for model in SPEC.models:
        stage_index(engine, model, staging, SPEC.index)
    stage_performers_db(engine, staging, HOSTS)
    report = publish_staged(engine, data, staging, SPEC, DAY)
    assert (report.version, report.faces) == (NEXT, 159)
    assert not staging.root.exists()


@pytest.mark.parametrize("stale", ["face_facenet.voy", "face_arcface.voy", "performers.db"])
def test_parts_of_another_state_of_the_catalog_are_refused(data: Path, stale: str) -> None:
    engine = opened(data)
    staging = open_staging(data, "next")

    def stage(name: str) -> None:
        if name == "performers.db":
            stage_performers_db(engine, staging, HOSTS)
        else:
            stage_index(engine, name.removeprefix("face_").removesuffix(".voy"), staging, SPEC.index)

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
    stage_index(engine, "facenet", staging, SPEC.index)
    with pytest.raises(ReleaseError, match="step index-arcface has not run"):
        publish_staged(engine, data, staging, SPEC, DAY)


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


# The steps of a publish in order, each with the module that calls it.
STEPS = {
    "stage_indices": publish,
    "stage_performers_db": publish,
    "write_json_files": assembly,
    "write_manifest": assembly,
    "verify_release": assembly,
    "prove_release": publish,
    "write_report": promotion,
    "write_zip": promotion,
    "_point_latest": promotion,
}


@pytest.mark.parametrize("step", STEPS)
def test_an_error_at_any_step_leaves_the_last_release(
    data: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    engine = opened(data)
    rename_a_performer(engine)
    before = fingerprint(data / "releases")

    def broken(*args: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(STEPS[step], step, broken)
        with pytest.raises((ReleaseError, OSError), match="No space left"):
            publish_release(engine, data, "broken", SPEC, DAY)
    assert fingerprint(data / "releases") == before
    assert not list((data / "staging").iterdir())
    report = publish_release(engine, data, "again", SPEC, DAY)
    assert latest_release(data / "releases") == report.path.resolve()
    assert not failures(verify_release(report.path))


def in_child(work: Callable[[], None]) -> int:
    """Runs `work` in a forked process and returns its status, as os.waitpid reports it."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1]


def die(*args: Any, **options: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_a_kill_at_any_step_leaves_a_whole_release(
    data: Path, monkeypatch: pytest.MonkeyPatch, step: str, moment: str
) -> None:
    engine = opened(data)
    rename_a_performer(engine)
    engine.dispose()
    before = fingerprint(data / "releases")
    real = getattr(STEPS[step], step)

    def killed(*args: Any, **options: Any) -> None:
        if moment == "after":
            real(*args, **options)
        die()

    monkeypatch.setattr(STEPS[step], step, killed)
    status = in_child(lambda: publish_release(opened(data), data, "killed", SPEC, DAY) and None)
    assert os.WIFSIGNALED(status)
    monkeypatch.undo()
    if (step, moment) == ("_point_latest", "after"):
        assert latest_release(data / "releases") == (data / "releases" / NEXT).resolve()
    else:
        assert fingerprint(data / "releases") == before
    check_recovery(data)


@pytest.mark.slow
@pytest.mark.parametrize("renames", [1, 2, 3, 4, 5])
def test_a_kill_between_the_renames_leaves_a_whole_release(
    data: Path, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    engine = opened(data)
    rename_a_performer(engine)
    engine.dispose()
    real = promotion.write_zip
    done = []

    def counting(rename: Callable[..., Any]) -> Callable[..., Any]:
        def renamed(*args: Any) -> Any:
            # The report is written in parallel to the zip. Renames of its files do not count.
            if args[0].parent.name != "report":
                if len(done) == renames:
                    die()
                done.append(args)
            return rename(*args)

        return renamed

    def from_here(*args: Any) -> None:
        monkeypatch.setattr(Path, "rename", counting(Path.rename))
        monkeypatch.setattr(Path, "replace", counting(Path.replace))
        real(*args)

    monkeypatch.setattr(promotion, "write_zip", from_here)
    status = in_child(lambda: publish_release(opened(data), data, "killed", SPEC, DAY) and None)
    monkeypatch.undo()
    # Five renames: the finished zip, the moves of report, zip and release, and `latest`. The last case is not killed.
    assert os.WIFSIGNALED(status) == (renames < 5)
    check_recovery(data)


def check_recovery(data: Path) -> None:
    """Asserts that the next run publishes the change once and leaves no incomplete files."""
    releases = data / "releases"
    assert not failures(verify_release(latest_release(releases)))
    report = publish_release(opened(data), data, "next", SPEC, DAY)
    assert latest_release(releases) == report.path.resolve()
    assert "Renamed" in (report.path / "performers.json").read_text()
    assert not failures(verify_release(report.path))
    assert not failures(verify_release(report.archive))
    versions = published_versions(releases)
    assert versions[0] == FIRST
    assert len(versions) == 2
    expected = {"latest", *versions, *(f"stash-sense-data-v{version}.zip" for version in versions)}
    expected |= {f"{version}.report" for version in versions}
    assert {path.name for path in releases.iterdir()} == expected
    clear_leftovers(data)
    assert not list((data / "staging").iterdir())


@pytest.mark.parametrize("limit", [1_000, 100_000, 300_000, 600_000])
def test_a_full_disk_is_an_error_of_one_line_and_changes_nothing(data: Path, limit: int) -> None:
    engine = opened(data)
    forget_a_face(engine, 5)
    engine.dispose()
    before = fingerprint(data / "releases")
    outcome = data / "outcome"
    outcome.touch()
    descriptor = os.open(outcome, os.O_WRONLY)

    def limited() -> None:
        engine = opened(data)
        # As on a full disk, a write is truncated and then refused. Each release has a file above the limit.
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            publish_release(engine, data, "full", SPEC, DAY)
            text = "published"
        except ReleaseError as error:
            text = f"ReleaseError {error}"
        except BaseException as error:  # noqa: BLE001
            text = repr(error)
        os.write(descriptor, text.encode()[:900])

    in_child(limited)
    os.close(descriptor)
    text = outcome.read_text()
    assert text.startswith("ReleaseError cannot ")
    assert "\n" not in text
    assert fingerprint(data / "releases") == before
    assert not list((data / "staging").iterdir())


def test_a_directory_that_cannot_be_written_is_an_error_of_one_line(data: Path) -> None:
    engine = opened(data)
    rename_a_performer(engine)
    (data / "staging").rmdir()
    (data / "staging").write_text("not a directory")
    with pytest.raises(ReleaseError, match="cannot stage a release"):
        publish_release(engine, data, "run", SPEC, DAY)


def test_files_of_interrupted_runs_are_removed_and_published_releases_are_kept(data: Path) -> None:
    releases = data / "releases"
    (releases / "2026.02.19").mkdir()
    (releases / "stash-sense-data-v2026.02.20.zip").touch()
    (releases / "notes.txt").touch()
    (data / "staging" / "old").mkdir()
    (data / "staging" / "mine").mkdir()
    removed = clear_leftovers(data, keep_run="mine")
    assert set(removed) == {"staging/old", "releases/2026.02.19", "releases/stash-sense-data-v2026.02.20.zip"}
    assert (releases / "notes.txt").exists()
    assert (data / "staging" / "mine").exists()
    assert Staging(data / "staging" / "mine").root.is_dir()
    assert published_versions(releases) == (FIRST,)
