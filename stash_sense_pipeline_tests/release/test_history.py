from __future__ import annotations

import json
import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from stash_sense_pipeline.catalog import schema
from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.catalog.transactions import writing
from stash_sense_pipeline.cli import main
from stash_sense_pipeline.foundation.errors import ReleaseError
from stash_sense_pipeline.release.build.archive import check_zip
from stash_sense_pipeline.release.contract import zip_name
from stash_sense_pipeline.release.distribution.history import list_releases, prune_releases
from stash_sense_pipeline.release.promotion import ReleaseReport
from stash_sense_pipeline.release.publish import publish_release
from stash_sense_pipeline.release.reports.release_diff import diff_releases
from stash_sense_pipeline.release.reports.release_diff_tables import describe_diff
from stash_sense_pipeline.release.spec import Limits

from .conftest import DAY
from .worlds import BEGIN, SPEC


def give(connection: sa.Connection, source_id: str, performer_id: int) -> None:
    """The record and its faces now belong to another performer."""
    for table in (schema.identity_members, schema.trusted_faces):
        connection.execute(
            sa.update(table).where(table.c.source_id == source_id).values(performer_id=performer_id)
        )


@pytest.fixture(scope="module")
def two_releases(world: tuple[Path, ReleaseReport], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two releases: in the second people were renamed, merged, split, added and removed. For copies."""
    data = tmp_path_factory.mktemp("history") / "data"
    shutil.copytree(world[0], data, symlinks=True)
    engine = open_catalog(f"sqlite:///{data / 'catalog.db'}")
    with writing(engine) as connection:
        renamed = schema.source_performers.c.source_id == "st-00001"
        connection.execute(
            sa.update(schema.source_performers).where(renamed).values(name="Renamed", gender="MALE")
        )
        connection.execute(
            sa.delete(schema.performer_aliases).where(schema.performer_aliases.c.source_id == "st-00003")
        )
        # 35 (record st-00005) joins 33 (st-00007).
        give(connection, "st-00005", 33)
        # 36 (stashdb and fansdb) loses its fansdb record and one face to a new person.
        connection.execute(sa.insert(schema.identities), {"performer_id": 41, "created_at": BEGIN})
        connection.execute(
            sa.update(schema.identity_members)
            .where(schema.identity_members.c.source_id == "fa-00004")
            .values(performer_id=41)
        )
        face = schema.trusted_faces.c.face_id == 17
        connection.execute(
            sa.update(schema.trusted_faces)
            .where(face)
            .values(performer_id=41, source="fansdb", source_id="fa-00004")
        )
        # 31 is removed with all faces.
        connection.execute(sa.delete(schema.trusted_faces).where(schema.trusted_faces.c.performer_id == 31))
    spec = replace(SPEC, limits=Limits(accept_shrink=True))
    publish_release(engine, data, "again", spec, DAY + timedelta(days=1))
    engine.dispose()
    return data / "releases"


@pytest.fixture
def changed(two_releases: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A copy of both releases."""
    shutil.copytree(two_releases, tmp_path / "releases", symlinks=True)
    return tmp_path / "releases" / "2026.02.18", tmp_path / "releases" / "2026.02.19"


@pytest.mark.slow
def test_the_diff_names_removed_changed_merged_and_split_performers(changed: tuple[Path, Path]) -> None:
    diff = diff_releases(*changed)
    assert (diff.old, diff.new) == ("2026.02.18", "2026.02.19")
    assert [(change.performer_id, change.name) for change in diff.removed] == [(31, "Person & 9")]
    assert diff.added == ()
    by_id = {change.performer_id: change.detail for change in diff.changed}
    assert by_id == {39: ("canonical_name", "gender"), 37: ("aliases",)}
    (merged,) = diff.merged
    assert (merged.performer_id, merged.detail) == (33, ("Person & 7 (33)", "Person & 5 (35)"))
    (split,) = diff.split
    assert (split.performer_id, split.detail) == (36, ("Person & 4 (36)", "Someone 4 (41)"))
    assert (diff.faces_added, diff.faces_removed, diff.faces_moved) == (0, 4, 5)
    text = describe_diff(diff)
    assert "1 performers removed" in text
    assert "| Renamed | 39 | canonical_name, gender |" in text


@pytest.mark.slow
def test_the_diff_of_swapped_releases_swaps_added_and_removed_merged_and_split(
    changed: tuple[Path, Path],
) -> None:
    old, new = changed
    back = diff_releases(new, old)
    assert [change.performer_id for change in back.added] == [31]
    assert [change.performer_id for change in back.split] == [33]
    assert [change.performer_id for change in back.merged] == [36]
    assert (back.faces_added, back.faces_removed, back.faces_moved) == (4, 0, 5)


@pytest.mark.slow
def test_the_diff_command_lists_all_performers_and_the_report_20_a_section(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_catalog(f"sqlite:///{data / 'catalog.db'}")
    with writing(engine) as connection:
        connection.execute(sa.update(schema.source_performers).values(gender="MALE"))
    report = publish_release(engine, data, "again", SPEC, DAY + timedelta(days=1))
    assert "And 20 more." in (data / "releases" / f"{report.version}.report" / "report.md").read_text()
    monkeypatch.setenv("DATA_DIR", str(data))
    said = CliRunner().invoke(main, ["releases", "diff", "2026.02.18", report.version])
    assert said.output.count("| gender |") == 40
    given = CliRunner().invoke(main, ["releases", "diff", "2026.02.18", report.version, "--json"])
    changes = json.loads(given.output)["changed"]
    assert [change["detail"] for change in changes] == [["gender"]] * 40


@pytest.mark.slow
def test_a_merge_by_a_stash_box_is_a_merge_and_in_swapped_order_a_split(data: Path) -> None:
    engine = open_catalog(f"sqlite:///{data / 'catalog.db'}")
    people = schema.source_performers
    with writing(engine) as connection:
        # stashdb merges st-00001 (performer 39) into st-00003 (37), and 39 has no other record.
        connection.execute(
            sa.update(people)
            .where(people.c.source_id == "st-00001")
            .values(deleted_at=BEGIN, merged_into="st-00003")
        )
        faces = schema.trusted_faces
        connection.execute(sa.delete(faces).where(faces.c.performer_id == 39))
    old = data / "releases" / "2026.02.18"
    spec = replace(SPEC, limits=Limits(accept_shrink=True))
    new = publish_release(engine, data, "again", spec, DAY + timedelta(days=1)).path
    diff = diff_releases(old, new)
    (merged,) = diff.merged
    assert (merged.performer_id, merged.detail) == (37, ("Person & 3 (37)", "Person & 1 (39)"))
    assert (diff.removed, diff.added, diff.split) == ((), (), ())
    back = diff_releases(new, old)
    (split,) = back.split
    assert (split.performer_id, split.detail) == (37, ("Person & 3 (37)", "Person & 1 (39)"))
    assert (back.removed, back.added, back.merged) == ((), (), ())


@pytest.mark.slow
def test_a_performer_with_another_id_is_removed_and_added(data: Path) -> None:
    engine = open_catalog(f"sqlite:///{data / 'catalog.db'}")
    with writing(engine) as connection:
        connection.execute(sa.insert(schema.identities), {"performer_id": 41, "created_at": BEGIN})
        give(connection, "st-00005", 41)
    spec = replace(SPEC, limits=Limits(accept_shrink=True))
    new = publish_release(engine, data, "again", spec, DAY + timedelta(days=1)).path
    diff = diff_releases(data / "releases" / "2026.02.18", new)
    assert [change.performer_id for change in diff.removed] == [35]
    assert [change.performer_id for change in diff.added] == [41]


@pytest.mark.slow
def test_a_release_does_not_differ_from_itself(changed: tuple[Path, Path]) -> None:
    diff = diff_releases(changed[1], changed[1])
    assert diff.empty
    assert "Nothing changed" in describe_diff(diff)


@pytest.mark.slow
def test_the_list_shows_each_release_with_its_numbers(changed: tuple[Path, Path]) -> None:
    first, second = list_releases(changed[0].parent)
    assert (first.version, first.performers, first.faces, first.latest) == ("2026.02.18", 40, 160, False)
    assert (second.version, second.performers, second.faces, second.latest) == ("2026.02.19", 39, 156, True)
    assert second.archive_bytes > 500_000
    assert second.pack == "test-pack"


def test_the_list_shows_the_recommended_distance_where_the_report_of_a_release_exists(data: Path) -> None:
    releases = data / "releases"
    assert [release.distance for release in list_releases(releases)] == [0.6]
    shutil.rmtree(releases / "2026.02.18.report")
    assert [release.distance for release in list_releases(releases)] == [None]


@pytest.mark.slow
def test_pruning_keeps_the_newest_and_latest(changed: tuple[Path, Path]) -> None:
    releases = changed[0].parent
    (releases / "latest").unlink()
    (releases / "latest").symlink_to("2026.02.18")
    assert prune_releases(releases, 1) == ()
    (releases / "latest").unlink()
    (releases / "latest").symlink_to("2026.02.19")
    assert prune_releases(releases, 2) == ()
    for version in ("2026.02.18", "2026.02.19"):
        (releases / f"{version}.datacard.md").touch()
    assert prune_releases(releases, 1) == ("2026.02.18",)
    assert {path.name for path in releases.iterdir()} == {
        "2026.02.19",
        "2026.02.19.datacard.md",
        "2026.02.19.report",
        "latest",
        "stash-sense-data-v2026.02.19.zip",
    }
    with pytest.raises(ReleaseError, match="at least one"):
        prune_releases(releases, 0)


@pytest.mark.slow
def test_a_damaged_release_cannot_be_compared(changed: tuple[Path, Path]) -> None:
    (changed[0] / "performers.db").write_bytes(b"nothing")
    with pytest.raises(ReleaseError, match=r"cannot read .*performers\.db"):
        diff_releases(*changed)


def test_a_manifest_without_counts_or_checksums_is_an_error_of_one_line(data: Path) -> None:
    releases = data / "releases"
    (releases / "2026.02.18" / "manifest.json").write_text("{}")
    with pytest.raises(ReleaseError, match=r"manifest\.json has no created_at; run `stash-sense verify "):
        list_releases(releases)
    with pytest.raises(ReleaseError, match=r"manifest\.json has no checksums; run `stash-sense verify "):
        check_zip(releases / zip_name("2026.02.18"), releases / "2026.02.18")


def test_a_release_with_another_form_of_models_is_listed_with_an_unknown_pack(data: Path) -> None:
    releases = data / "releases"
    path = releases / "2026.02.18" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "models": ["buffalo_sc"]}))
    assert [release.pack for release in list_releases(releases)] == ["unknown"]
