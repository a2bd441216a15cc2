"""Releases that name people who have left are found and removed, and two releases are compared."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from stash_sense_pipeline.catalog import schema
from stash_sense_pipeline.catalog.transactions import writing
from stash_sense_pipeline.foundation.errors import ReleaseError
from stash_sense_pipeline.privacy.erasure import ErasureScope, erase_suppressed
from stash_sense_pipeline.privacy.redaction.report_redaction import erase_traces
from stash_sense_pipeline.privacy.suppression.suppression_file import SuppressionEntry
from stash_sense_pipeline.privacy.suppression.suppression_import import add_suppressions
from stash_sense_pipeline.privacy.suppression.suppression_list import Suppressions, load_suppressions
from stash_sense_pipeline.release.checks.check_result import ReleaseRefusedError, failures
from stash_sense_pipeline.release.sense2 import publish as publishing
from stash_sense_pipeline.release.sense2.history import (
    diff_sense2,
    held_in_files,
    revoked_sense2,
    sense2_versions,
)
from stash_sense_pipeline.release.sense2.opened import OpenedFiles
from stash_sense_pipeline.release.sense2.publish import Sense2Report, publish_sense2
from stash_sense_pipeline.release.spec import Sense2Spec
from stash_sense_pipeline_tests.release.conftest import DAY
from stash_sense_pipeline_tests.release.worlds import HOSTS, PACK

from .changes import RENAMED
from .client import install, opened, state, unpack, update
from .test_law import forbidden_texts

Made = tuple[Path, Sense2Report, Sense2Report]
KEY = b"k" * 32
NOW = datetime(2026, 3, 1, tzinfo=UTC)
NEXT = DAY + timedelta(days=7)


def suppress(engine: sa.Engine, *targets: str) -> Suppressions:
    """Puts records or addresses on the list, without an erasure."""
    entries = [SuppressionEntry(target, "asked", date(2026, 3, 1), unseen=True) for target in targets]
    with writing(engine) as connection:
        add_suppressions(connection, KEY, entries)
    return load_suppressions(engine, KEY)


def erase(engine: sa.Engine) -> None:
    erase_suppressed(engine, load_suppressions(engine, KEY), NOW, ErasureScope())


def spec(listed: Suppressions) -> Sense2Spec:
    return Sense2Spec(HOSTS, PACK, "arcface", listed, shrink=0.03)


@pytest.mark.slow
def test_without_a_suppression_no_release_is_revoked(data: Path, engine: sa.Engine) -> None:
    assert revoked_sense2(data, load_suppressions(engine, KEY), HOSTS) == ()


@pytest.mark.slow
def test_a_person_who_left_is_in_no_later_file_and_earlier_files_that_name_them_are_listed(
    data: Path, engine: sa.Engine, tmp_path: Path, made: Made
) -> None:
    """The renamed person is in both full zips, in the delta between them, and in both files of links."""
    listed = suppress(engine, f"stashdb:{RENAMED}")
    erase(engine)
    report = publish_sense2(engine, data, spec(listed), NEXT)
    assert not failures(report.checks)
    for path in report.path.glob("*.zip"):
        assert forbidden_texts(path, [RENAMED, "Another name", 'Person & 1"']) == []
    client = install(made[2].full, tmp_path / "client")
    assert report.delta is not None
    with closing(opened(unpack(report.delta, tmp_path / "unpacked") / "delta.db")) as connection:
        assert len(connection.execute("SELECT id FROM catalogue_removed_performers").fetchall()) == 1
        assert connection.execute("SELECT count(*) FROM performers").fetchone()[0] == 0
        assert connection.execute("SELECT count(*) FROM removed_faces").fetchone()[0] == 4
    update(client, report.delta, report.version, tmp_path / "work")
    assert state(client) == state(install(report.full, tmp_path / "full"))
    assert RENAMED.encode() not in (client / "performers.json").read_bytes()
    revoked = revoked_sense2(data, listed, HOSTS)
    assert [(each.version, each.newest, each.removed) for each in revoked] == [
        ("2026.02.18", False, False),
        ("2026.02.19", False, False),
    ]
    assert revoked[1].zips == (
        "stash-sense2-data-2026.02.19.zip",
        "stash-sense2-delta-2026.02.18-to-2026.02.19.zip",
        "stash-sense2-links-2026.02.19.zip",
    )
    assert [each.removed for each in revoked_sense2(data, listed, HOSTS, delete=True)] == [True, True]
    assert sense2_versions(data) == (report.version,)
    assert revoked_sense2(data, listed, HOSTS) == ()


@pytest.mark.slow
def test_a_delta_that_removed_a_person_names_them_and_is_listed(data: Path, engine: sa.Engine) -> None:
    """The first person lost all faces in the second release: its delta says so by the record's id."""
    listed = suppress(engine, "stashdb:st-00000")
    revoked = {each.version: each.zips for each in revoked_sense2(data, listed, HOSTS)}
    assert revoked["2026.02.19"] == ("stash-sense2-delta-2026.02.18-to-2026.02.19.zip",)


def test_the_newest_release_is_listed_and_not_removed(data: Path, engine: sa.Engine) -> None:
    listed = suppress(engine, f"stashdb:{RENAMED}")
    revoked = revoked_sense2(data, listed, HOSTS, delete=True)
    assert [(each.newest, each.removed) for each in revoked] == [(False, True), (True, False)]
    assert sense2_versions(data) == ("2026.02.19",)


def test_an_address_of_an_image_is_found_in_full_and_delta(data: Path, engine: sa.Engine) -> None:
    """The image of the face that has another vector in the second release."""
    listed = suppress(engine, "https://stashdb.org/images/image-17")
    revoked = {each.version: each for each in revoked_sense2(data, listed, HOSTS)}
    assert revoked["2026.02.19"].urls == 1
    assert "stash-sense2-delta-2026.02.18-to-2026.02.19.zip" in revoked["2026.02.19"].zips


@pytest.mark.parametrize("box", ["private", "my_box", "box2"])
def test_a_record_of_a_private_stash_box_is_found_by_the_universal_id_that_the_client_writes(
    data: Path, engine: sa.Engine, tmp_path: Path, box: str
) -> None:
    listed = suppress(engine, f"{box}:0123abcd")
    (tmp_path / "performer_links.json").write_text(f'[["{box}.org:0123abcd", "stashdb.org:x"]]')
    held = held_in_files(OpenedFiles(tmp_path), listed, {box: "box.example", **HOSTS})
    assert (held.records, held.of_records) == (1, 2)


def test_a_zip_that_cannot_be_searched_is_an_error_and_nothing_is_removed(
    data: Path, engine: sa.Engine
) -> None:
    listed = suppress(engine, f"stashdb:{RENAMED}")
    (data / "sense2" / "2026.02.19" / "stash-sense2-links-2026.02.19.zip").write_bytes(b"PK")
    with pytest.raises(ReleaseError, match="may name suppressed people"):
        revoked_sense2(data, listed, HOSTS, delete=True)
    assert len(sense2_versions(data)) == 2


# --- suppressions while a release is made -----------------------------------------------------------------------------


def test_a_suppressed_person_who_is_still_in_the_catalog_stops_the_release(
    data: Path, engine: sa.Engine
) -> None:
    listed = suppress(engine, "stashdb:st-00003")
    with writing(engine) as connection:
        connection.execute(sa.update(schema.source_performers).values(country="FR"))
    with pytest.raises(ReleaseRefusedError, match="suppressed"):
        publish_sense2(engine, data, spec(listed), NEXT)
    assert len(sense2_versions(data)) == 2


@pytest.mark.slow
def test_an_equal_release_is_checked_against_the_list_of_now(data: Path, engine: sa.Engine) -> None:
    listed = suppress(engine, "stashdb:st-00003")
    with pytest.raises(ReleaseRefusedError) as refused:
        publish_sense2(engine, data, spec(listed), NEXT)
    assert {"data: suppressed", "links: suppressed", "suppressed_people"} <= {
        result.name for result in failures(refused.value.checks)
    }
    assert len(sense2_versions(data)) == 2


def test_a_person_who_is_put_on_the_list_during_a_publish_is_not_published(
    data: Path, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = load_suppressions(engine, KEY)
    with writing(engine) as connection:
        connection.execute(sa.update(schema.source_performers).values(country="FR"))
    real: Callable[..., None] = publishing._seal

    def sealed(*arguments: object) -> None:
        real(*arguments)
        suppress(engine, "stashdb:st-00003")

    monkeypatch.setattr(publishing, "_seal", sealed)
    with pytest.raises(ReleaseRefusedError, match="suppressed"):
        publish_sense2(engine, data, spec(listed), NEXT)
    assert len(sense2_versions(data)) == 2


@pytest.mark.slow
def test_a_record_that_the_catalog_does_not_hold_any_more_is_removed_by_number(
    data: Path, engine: sa.Engine, tmp_path: Path
) -> None:
    """It left the catalog before the person left: the next delta would name it as removed."""
    gone = [table.c.source_id == "st-00003" for table in (schema.trusted_faces, schema.source_performers)]
    with writing(engine) as connection:
        connection.execute(sa.delete(schema.trusted_faces).where(gone[0]))
        connection.execute(sa.delete(schema.source_performers).where(gone[1]))
    listed = suppress(engine, "stashdb:st-00003")
    with pytest.raises(ReleaseRefusedError, match="delta: suppressed"):
        publish_sense2(engine, data, spec(listed), NEXT)
    erase(engine)
    report = publish_sense2(engine, data, spec(listed), NEXT)
    for path in report.path.glob("*.zip"):
        assert forbidden_texts(path, ["st-00003"]) == []
    assert report.delta is not None
    with closing(opened(unpack(report.delta, tmp_path / "unpacked") / "delta.db")) as connection:
        assert len(connection.execute("SELECT id FROM catalogue_removed_performers").fetchall()) == 1
    assert all("st-00003" not in str(row) for row in read_rows(engine))


@pytest.mark.slow
def test_a_picture_that_the_catalog_lost_before_its_record_was_suppressed_is_erased_too(
    data: Path, engine: sa.Engine
) -> None:
    """The record dropped the picture, a release retired its face, and the person left after that."""
    faces, images = schema.faces.c, schema.source_images.c
    with writing(engine) as connection:
        owned = sa.select(schema.trusted_faces.c.face_id).where(
            schema.trusted_faces.c.source_id == "st-00003"
        )
        lost = connection.execute(
            sa.select(faces.source, faces.image_id).where(faces.face_id.in_(owned)).limit(1)
        ).one()
        for table in (schema.performer_images, schema.faces, schema.source_images):
            connection.execute(
                sa.delete(table).where(table.c.source == lost.source, table.c.image_id == lost.image_id)
            )
    publish_sense2(engine, data, spec(load_suppressions(engine, KEY)), NEXT)
    with engine.connect() as connection:
        assert not connection.execute(
            sa.select(images.image_id).where(images.image_id == lost.image_id)
        ).all()
    assert any(lost.image_id in row for row in read_rows(engine)), "the number of a retired face stays"
    suppress(engine, "stashdb:st-00003")
    erase(engine)
    assert not any(lost.image_id in row for row in read_rows(engine))


@pytest.mark.slow
def test_an_equal_release_takes_the_place_of_one_with_a_delta_that_names_a_suppressed_person(
    data: Path, engine: sa.Engine, made: Made
) -> None:
    """The delta to the newest release removes the record by its id; the person is suppressed after that."""
    second = made[2]
    assert second.delta is not None
    with closing(opened(unpack(second.delta, data / "unpacked") / "delta.db")) as connection:
        removed = connection.execute(
            "SELECT endpoint, stashbox_id FROM performers WHERE action = 'removed'"
        ).fetchall()
    assert removed, "the fixture removes a record"
    endpoint, record = removed[0]
    listed = suppress(engine, f"{endpoint}:{record}")
    erase(engine)
    report = publish_sense2(engine, data, spec(listed), NEXT)
    assert report.changed
    assert not failures(report.checks)
    for path in report.path.glob("*.zip"):
        assert forbidden_texts(path, [record]) == []
    assert {each.version for each in revoked_sense2(data, listed, HOSTS, delete=True)} >= {second.version}
    assert sense2_versions(data) == (report.version,)
    again = publish_sense2(engine, data, spec(listed), NEXT)
    assert (again.changed, again.version) == (False, report.version)


@pytest.mark.slow
def test_two_publishes_at_once_make_one_release(data: Path, engine: sa.Engine) -> None:
    with writing(engine) as connection:
        connection.execute(sa.update(schema.source_performers).values(country="FR"))
    listed = load_suppressions(engine, KEY)
    with ThreadPoolExecutor(2) as pool:
        reports = [pool.submit(publish_sense2, engine, data, spec(listed), NEXT) for _ in range(2)]
        found = [report.result() for report in reports]
    assert sorted(report.changed for report in found) == [False, True]
    assert len({report.version for report in found}) == 1
    assert len(sense2_versions(data)) == 3


def read_rows(engine: sa.Engine) -> list[sa.Row]:
    with engine.connect() as connection:
        return [
            *connection.execute(sa.select(schema.sense2_performers)),
            *connection.execute(sa.select(schema.sense2_faces)),
        ]


@pytest.mark.slow
@pytest.mark.parametrize("step", ["_make", "write_full", "_checks"])
def test_an_erasure_during_a_publish_removes_what_is_staged(
    data: Path, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The files that are written already hold the person: they go with the erasure, or are never published."""
    listed = load_suppressions(engine, KEY)
    with writing(engine) as connection:
        connection.execute(sa.update(schema.source_performers).values(country="FR"))
    real: Callable[..., object] = getattr(publishing, step)

    def interrupted(*arguments: object) -> object:
        result = real(*arguments)
        suppress(engine, "stashdb:st-00003")
        erase(engine)
        erase_traces(data, ("st-00003",), staged=True)
        return result

    monkeypatch.setattr(publishing, step, interrupted)
    with pytest.raises(ReleaseError):
        publish_sense2(engine, data, spec(listed), NEXT)
    monkeypatch.undo()
    assert {path.name for path in (data / "sense2").iterdir()} == {"2026.02.18", "2026.02.19"}
    report = publish_sense2(engine, data, spec(load_suppressions(engine, KEY)), NEXT)
    for path in report.path.glob("*.zip"):
        assert forbidden_texts(path, ["st-00003"]) == []


# --- the difference ---------------------------------------------------------------------------------------------------


def test_equal_releases_do_not_differ(made: Made, tmp_path: Path) -> None:
    _, first, _ = made
    directory = install(first.full, tmp_path / "full")
    assert not diff_sense2(first.full, directory).any


def test_a_file_that_is_no_full_release_cannot_be_compared(made: Made, tmp_path: Path) -> None:
    _, first, second = made
    for other in (second.delta, second.links, tmp_path / "none", tmp_path):
        with pytest.raises(ReleaseError, match="cannot be compared"):
            diff_sense2(first.full, other)
    shutil.copy(first.full, tmp_path / "cut.zip")
    (tmp_path / "cut.zip").write_bytes(first.full.read_bytes()[:1000])
    with pytest.raises(ReleaseError, match="cannot be compared"):
        diff_sense2(first.full, tmp_path / "cut.zip")
