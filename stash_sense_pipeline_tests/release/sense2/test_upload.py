"""Uploads of sense2 releases to a stand-in of GitHub: three zips in one release, and every step of the chain of deltas."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
import sqlalchemy as sa

from stash_sense_pipeline.catalog import schema
from stash_sense_pipeline.catalog.transactions import writing
from stash_sense_pipeline.foundation.errors import ConfigurationError, ReleaseError
from stash_sense_pipeline.release.distribution.github import Destination
from stash_sense_pipeline.release.distribution.sense2_upload import (
    refuse_named,
    sense2_due,
    upload_sense2,
    versions_to_upload,
)
from stash_sense_pipeline.release.sense2.publish import Sense2Report, publish_sense2
from stash_sense_pipeline_tests.release.conftest import DAY
from stash_sense_pipeline_tests.release.github import REPOSITORY, TOKEN, GithubWorld, github

from .changes import RENAMED
from .client import Updater, install, read_json, state
from .conftest import SPEC
from .test_history import HOSTS, suppress

Made = tuple[Path, Sense2Report, Sense2Report]


@pytest.fixture
def hub():
    with github(REPOSITORY) as world:
        yield world


def to(hub: GithubWorld) -> Destination:
    return Destination(REPOSITORY, hub.url, TOKEN, sleep=lambda _: None, sense2=True)


def none_suppressed(_: Path) -> bool:
    return False


@pytest.mark.slow
def test_every_version_since_the_newest_of_the_repository_is_uploaded_with_its_zips_and_notes(
    data: Path, made: Made, hub: GithubWorld
) -> None:
    first, second = made[1], made[2]
    assert versions_to_upload(data, to(hub), none_suppressed) == (second.version,)
    report = upload_sense2(data, first.version, to(hub))
    assert (report.uploaded, report.latest) == (True, True)
    assert versions_to_upload(data, to(hub), none_suppressed) == (second.version,)
    upload_sense2(data, second.version, to(hub))
    assert versions_to_upload(data, to(hub), none_suppressed) == ()
    older, newer = hub.releases
    assert [asset["name"] for asset in older["assets"]] == [first.full.name, first.links.name]
    assert second.delta is not None
    assert {asset["name"] for asset in newer["assets"]} == {
        second.full.name,
        second.delta.name,
        second.links.name,
    }
    assert newer["tag_name"] == f"v{second.version}"
    assert "min-sidecar-version:" in newer["body"]
    for asset in newer["assets"]:
        assert hub.content[asset["id"]] == (second.path / asset["name"]).read_bytes()
    sent = len(hub.requests)
    again = upload_sense2(data, second.version, to(hub))
    assert not again.uploaded
    assert not [request for request in hub.requests[sent:] if request.startswith(("POST", "PATCH", "DELETE"))]


@pytest.mark.slow
def test_a_client_follows_the_uploaded_versions_and_loads_all_when_a_step_is_missing(
    data: Path, made: Made, hub: GithubWorld, engine, tmp_path: Path
) -> None:
    first, second = made[1], made[2]
    with writing(engine) as connection:
        named = sa.update(schema.source_performers).where(schema.source_performers.c.source_id == RENAMED)
        connection.execute(named.values(name="A third name"))
        connection.execute(
            sa.insert(schema.performer_aliases).values(source="stashdb", source_id=RENAMED, alias="Zoë 名")
        )
    third = publish_sense2(engine, data, SPEC, DAY)
    wanted = state(install(third.full, tmp_path / "wanted"))
    at_first, behind, late = (
        Updater(tmp_path / name, tmp_path / f"{name}-work") for name in ("one", "two", "late")
    )
    ways = []
    for report in (first, second, third):
        upload_sense2(data, report.version, to(hub))
        ways.append(at_first.update(hub.releases[::-1]))
        if report is first:
            behind.update(hub.releases[::-1])
            late.update(hub.releases[::-1])
    assert ways == ["full", "deltas", "deltas"]
    assert behind.update(hub.releases[::-1]) == "deltas"
    # It keeps what the notes ask to delete.
    assert (at_first.data / "aliases.json.prev").exists()
    # The second version is revoked, and with it a step.
    assert late.update([hub.releases[2], hub.releases[0]]) == "full"
    for client in (at_first, behind, late):
        assert state(client.data) == wanted
        assert client.update(hub.releases[::-1]) == "current"
        assert client.sync_links(hub.releases[::-1]) == []
        assert "Zoë 名" in str(read_json(client.data / "aliases.json"))


@pytest.mark.slow
def test_an_upload_that_breaks_leaves_a_draft_and_the_next_one_continues(
    data: Path, made: Made, hub: GithubWorld
) -> None:
    second = made[2]
    hub.cut_uploads = 1
    hub.fail("PATCH", "/releases/", 500, times=5)
    with pytest.raises(ReleaseError, match="500 ordered"):
        upload_sense2(data, second.version, to(hub))
    assert [release["draft"] for release in hub.releases] == [True]
    report = upload_sense2(data, second.version, to(hub))
    assert report.uploaded
    assert [release["draft"] for release in hub.releases] == [False]
    assert len(hub.releases[0]["assets"]) == 3


@pytest.mark.slow
def test_other_zips_under_the_tag_are_an_error_and_nothing_is_changed(
    data: Path, made: Made, hub: GithubWorld
) -> None:
    hub.release(f"v{made[2].version}", assets=[hub.asset("other.zip", b"x")])
    with pytest.raises(ReleaseError, match=r"published already, with other\.zip"):
        upload_sense2(data, made[2].version, to(hub))
    assert [asset["name"] for asset in hub.releases[0]["assets"]] == ["other.zip"]


def test_a_damaged_zip_an_unknown_version_and_a_missing_zip_send_nothing(
    data: Path, made: Made, hub: GithubWorld
) -> None:
    second = made[2]
    with pytest.raises(ReleaseError, match="there is no sense2 release 2001"):
        upload_sense2(data, "2001.01.01", to(hub))
    with pytest.raises(ReleaseError, match="no sense2 release"):
        upload_sense2(data, "../../etc", to(hub))
    full = data / "sense2" / second.version / second.full.name
    content = full.read_bytes()
    full.write_bytes(content[: len(content) // 2])
    with pytest.raises(ReleaseError):
        upload_sense2(data, second.version, to(hub))
    full.unlink()
    with pytest.raises(ReleaseError, match="is missing"):
        upload_sense2(data, second.version, to(hub))
    assert hub.requests == []


def test_a_version_that_names_a_suppressed_person_is_refused_and_left_out_of_the_chain(
    data: Path, made: Made, hub: GithubWorld, engine
) -> None:
    listed = suppress(engine, f"stashdb:{RENAMED}")

    def refuse(directory: Path) -> None:
        refuse_named(directory, listed, HOSTS)

    with pytest.raises(ReleaseError, match="names people on the suppression list"):
        upload_sense2(data, made[2].version, to(hub), check=refuse)
    assert hub.requests == []
    hub.release("v2001.01.01")
    assert versions_to_upload(data, to(hub), lambda directory: True) == (made[2].version,)


def test_a_repository_is_needed() -> None:
    with pytest.raises(ConfigurationError, match=r"export\.github\.sense2_repository"):
        Destination("", "http://127.0.0.1:1", TOKEN, sense2=True)


@pytest.mark.parametrize(
    ("made_on", "today", "suppressed", "due"),
    [
        (None, date(2026, 3, 1), False, True),
        (date(2026, 3, 1), date(2026, 3, 1), False, False),
        (date(2026, 3, 1), date(2026, 3, 7), False, False),
        (date(2026, 3, 1), date(2026, 3, 8), False, True),
        (date(2026, 3, 1), date(2026, 3, 1), True, True),
        # The clock was set back.
        (date(2026, 3, 1), date(2026, 2, 1), False, True),
    ],
)
def test_a_new_version_waits_for_the_cadence_and_a_suppression_does_not(
    made_on: date | None, today: date, suppressed: bool, due: bool
) -> None:
    newest = None if made_on is None else f"{made_on:%Y.%m.%d}"
    assert sense2_due(newest, made_on, 7, today, suppressed).due is due
