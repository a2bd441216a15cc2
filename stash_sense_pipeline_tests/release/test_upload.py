"""Uploads to a stand-in of GitHub: a draft until complete, safe to repeat, readable by the sidecar's updater."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from stash_sense_pipeline.catalog import schema
from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.catalog.transactions import writing
from stash_sense_pipeline.cli import main
from stash_sense_pipeline.foundation.errors import ConfigurationError, ReleaseError
from stash_sense_pipeline.release.distribution.upload import (
    Destination,
    UploadReport,
    release_notes,
    upload_release,
)
from stash_sense_pipeline.release.promotion import ReleaseReport
from stash_sense_pipeline.release.publish import publish_release

from .github import REPOSITORY, TOKEN, GithubWorld, github, reset_in
from .sidecar import Sidecar, Updater
from .worlds import SPEC

World = tuple[Path, ReleaseReport]
ASSET = "stash-sense-data-v2026.02.18.zip"


@pytest.fixture
def world(world: World, tmp_path: Path) -> World:
    """A copy of the release and its files: an upload is noted beside them."""
    original, report = world
    data = tmp_path / "world"
    shutil.copytree(original, data, symlinks=True)
    releases = data / "releases"
    archive = releases / report.archive.name
    return data, replace(report, path=releases / report.version, archive=archive)


@pytest.fixture
def hub() -> Iterator[GithubWorld]:
    with github() as world:
        yield world


@pytest.fixture
def waits() -> list[float]:
    """The seconds that the upload would have slept."""
    return []


def upload(world: World, hub: GithubWorld, waits: list[float], token: str = TOKEN) -> UploadReport:
    data, report = world
    destination = Destination(REPOSITORY, hub.url, token, waits.append)
    return upload_release(data / "releases", report.version, destination)


def assert_published(hub: GithubWorld) -> None:
    (release,) = hub.releases
    assert (release["tag_name"], release["draft"]) == ("v2026.02.18", False)
    assert [(asset["name"], asset["state"]) for asset in release["assets"]] == [(ASSET, "uploaded")]


@pytest.mark.slow
def test_an_upload_publishes_one_zip_and_a_second_one_sends_nothing(
    world: World, hub: GithubWorld, waits: list[float]
) -> None:
    first = upload(world, hub, waits)
    assert (first.uploaded, first.latest, first.asset) == (True, True, ASSET)
    assert_published(hub)
    assert hub.content[hub.releases[0]["assets"][0]["id"]] == world[1].archive.read_bytes()
    before = len(hub.requests)
    second = upload(world, hub, waits)
    assert (second.uploaded, second.latest, second.url) == (False, True, first.url)
    assert [request for request in hub.requests[before:] if not request.startswith("GET")] == []
    assert waits == []


@pytest.mark.slow
def test_an_upload_that_fails_leaves_a_draft_that_users_do_not_see(
    world: World, hub: GithubWorld, waits: list[float], tmp_path: Path
) -> None:
    hub.fail("POST", "/upload/", 502, times=9)
    with pytest.raises(ReleaseError, match=r"cannot upload .* 502 ordered; the draft remains, run it again"):
        upload(world, hub, waits)
    assert [release["draft"] for release in hub.releases] == [True]
    api = f"{hub.url}/repos/{REPOSITORY}/releases"
    assert Updater(tmp_path, api).update() is None
    hub.faults.clear()
    assert upload(world, hub, waits).uploaded
    assert_published(hub)


@pytest.mark.slow
def test_an_interrupted_upload_is_completed(world: World, hub: GithubWorld, waits: list[float]) -> None:
    hub.cut_uploads = 2
    assert upload(world, hub, waits).uploaded
    assert_published(hub)
    assert len([request for request in hub.requests if request.startswith("DELETE")]) == 2


@pytest.mark.slow
def test_a_complete_zip_of_a_draft_is_not_sent_again(
    world: World, hub: GithubWorld, waits: list[float]
) -> None:
    asset = hub.asset(ASSET, world[1].archive.read_bytes())
    hub.release("v2026.02.18", draft=True, assets=[hub.asset("old.zip", b"x"), asset])
    assert upload(world, hub, waits).uploaded
    assert_published(hub)
    assert not [request for request in hub.requests if "/upload/" in request]


@pytest.mark.slow
@pytest.mark.parametrize(
    "request_line",
    [
        ("GET", "/releases"),
        ("POST", "/releases"),
        ("GET", "/assets"),
        ("POST", "/upload/"),
        ("PATCH", "/releases"),
    ],
)
@pytest.mark.parametrize("status", [500, 503])
def test_a_request_that_fails_twice_is_tried_a_third_time(
    world: World, hub: GithubWorld, waits: list[float], request_line: tuple[str, str], status: int
) -> None:
    hub.fail(*request_line, status, times=2)
    assert upload(world, hub, waits).uploaded
    assert_published(hub)
    assert waits == [2.0, 4.0]


@pytest.mark.slow
def test_a_short_rate_limit_is_waited_for_and_a_long_one_is_an_error(
    world: World, hub: GithubWorld, waits: list[float]
) -> None:
    begun = time.time()
    hub.fail("POST", "/releases", 429, **{"Retry-After": "7"})
    hub.fail("POST", "/upload/", 403, **{"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": reset_in(800)})
    assert upload(world, hub, waits).uploaded
    assert waits[0] == 7.0
    # The time that the requests took is no part of the wait. One second more is waited, and one is lost by rounding.
    assert 800 - (time.time() - begun) <= waits[1] <= 801
    hub.fail("GET", "/releases", 403, **{"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": reset_in(90_000)})
    with pytest.raises(ReleaseError, match=r"is rate limited for \d+ minutes") as refused:
        upload(world, hub, waits)
    minutes = int(str(refused.value).partition("limited for ")[2].split()[0])
    assert 1499 - (time.time() - begun) / 60 <= minutes <= 1501


@pytest.mark.slow
def test_a_draft_that_another_process_makes_meanwhile_is_used(
    world: World, hub: GithubWorld, waits: list[float]
) -> None:
    hub.release("v2026.02.18", draft=True)
    hub.fail("POST", "/releases", 422)
    assert upload(world, hub, waits).uploaded
    assert_published(hub)


def test_a_published_release_with_another_zip_is_not_changed(
    world: World, hub: GithubWorld, waits: list[float]
) -> None:
    hub.release("v2026.02.18", assets=[hub.asset(ASSET, b"something else")])
    with pytest.raises(ReleaseError, match=r"v2026\.02\.18 is published already, with .* \(14 bytes\)"):
        upload(world, hub, waits)
    assert hub.content[hub.releases[0]["assets"][0]["id"]] == b"something else"


@pytest.mark.slow
def test_an_older_version_does_not_become_the_latest(
    world: World, hub: GithubWorld, waits: list[float]
) -> None:
    hub.release("v2026.03.01", assets=[hub.asset("stash-sense-data-v2026.03.01.zip", b"newer")])
    report = upload(world, hub, waits)
    assert (report.uploaded, report.latest) == (True, False)
    assert hub.latest == hub.releases[0]["id"]


def test_each_upload_that_is_refused_ends_in_one_line(
    world: World, hub: GithubWorld, waits: list[float], data: Path
) -> None:
    with pytest.raises(ReleaseError, match="401 Bad credentials; GITHUB_TOKEN needs write access"):
        upload(world, hub, waits, token="wrong")
    destination = Destination("some/other", hub.url, TOKEN, waits.append)
    with pytest.raises(ReleaseError, match=r"404 Not Found; check export\.github\.repository"):
        upload_release(data / "releases", "2026.02.18", destination)
    with pytest.raises(ReleaseError, match="there is no release 2020"):
        upload_release(data / "releases", "2020.01.01", Destination(REPOSITORY, hub.url, TOKEN))
    with pytest.raises(ConfigurationError, match=r"export\.github\.repository"):
        Destination("", hub.url, TOKEN)
    archive = data / "releases" / ASSET
    archive.write_bytes(archive.read_bytes()[:-1000])
    with pytest.raises(ReleaseError, match="is damaged"):
        upload_release(data / "releases", "2026.02.18", Destination(REPOSITORY, hub.url, TOKEN))
    assert hub.releases == []


def test_the_token_is_not_sent_to_another_host(world: World, hub: GithubWorld, waits: list[float]) -> None:
    hub.release("v2026.02.18", draft=True)["upload_url"] = "http://elsewhere.test/upload{?name}"
    with pytest.raises(
        ReleaseError, match=r"asks for the file at elsewhere\.test, where the token must not be sent"
    ):
        upload(world, hub, waits)


@pytest.mark.slow
def test_notes_give_numbers_of_changes_and_no_names(data: Path) -> None:
    engine = open_catalog(f"sqlite:///{data / 'catalog.db'}")
    one = schema.source_performers.c.source_id == "st-00001"
    with writing(engine) as connection:
        connection.execute(sa.update(schema.source_performers).where(one).values(name="Renamed"))
    report = publish_release(engine, data, "next", SPEC, date(2026, 2, 20))
    notes = release_notes(data / "releases", report.version)
    assert "40 performers, 160 faces, from" in notes
    assert "Since 2026.02.18:" in notes
    assert "| performers changed | 1 |" in notes
    assert "recognises no real person" in notes
    assert not re.search("Renamed|Someone|Person ", notes)


@pytest.mark.slow
def test_a_person_suppressed_during_an_upload_is_not_published(
    world: World, hub: GithubWorld, waits: list[float]
) -> None:
    """The list is checked before anything is sent, and again before the draft is published."""
    asked: list[Path] = []

    def check(release: Path) -> None:
        asked.append(release)
        if len(asked) == 2:
            raise ReleaseError("holds 1 records")

    data, report = world
    destination = Destination(REPOSITORY, hub.url, TOKEN, waits.append)
    with pytest.raises(ReleaseError, match="holds 1 records"):
        upload_release(data / "releases", report.version, destination, check=check)
    assert asked == [report.path, report.path]
    assert [release["draft"] for release in hub.releases] == [True]


@pytest.mark.slow
def test_the_sidecar_updates_itself_from_an_uploaded_release(
    data: Path, hub: GithubWorld, tmp_path: Path
) -> None:
    """A user's sidecar loads, matches and updates over two releases of one day."""
    home = tmp_path / "sidecar"
    home.mkdir()
    (home / "stash_sense.db").write_text("mine")
    releases = data / "releases"
    destination = Destination(REPOSITORY, hub.url, TOKEN)
    updater = Updater(home, f"{hub.url}/repos/{REPOSITORY}/releases")
    assert updater.update() is None
    upload_release(releases, "2026.02.18", destination)
    assert updater.update() == "2026.02.18"
    assert updater.update() is None
    assert len(Sidecar(home).performers_as_read()) == 40
    engine = open_catalog(f"sqlite:///{data / 'catalog.db'}")
    with writing(engine) as connection:
        connection.execute(sa.delete(schema.trusted_faces).where(schema.trusted_faces.c.face_id == 5))
    spec = replace(SPEC, limits=replace(SPEC.limits, accept_shrink=True))
    again = publish_release(engine, data, "next", spec, date(2026, 2, 18))
    upload_release(releases, again.version, destination)
    assert updater.update() == "2026.02.18.1"
    sidecar = Sidecar(home)
    assert len(sidecar.faces) == 159
    for position in (0, 77, 158):
        vectors = {model: index.get_vector(position) for model, index in sidecar.indices.items()}
        (match, *_) = sidecar.identify(vectors)
        assert match.universal_id == sidecar.faces[position]
        assert match.distance < 1e-5
    assert (home / "stash_sense.db").read_text() == "mine"


@pytest.mark.slow
def test_the_upload_command_publishes_with_the_token_of_the_environment(
    data: Path, hub: GithubWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = tmp_path / "sources.yaml"
    sources.write_text(
        f"export: {{github: {{repository: {REPOSITORY}, api: '{hub.url}'}}}}\nstash_boxes: {{stashdb: {{}}}}\n"
    )
    monkeypatch.setenv("DATA_DIR", str(data))
    monkeypatch.setenv("STASH_SENSE_SOURCES", str(sources))
    monkeypatch.delenv("GITHUB_TOKEN", raising=False)
    refused = CliRunner().invoke(main, ["releases", "upload", "latest"])
    assert (refused.exit_code, refused.stderr.count("\n")) == (2, 1)
    assert "GITHUB_TOKEN is not set" in refused.stderr
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    monkeypatch.setenv("GITHUB_TOKEN_FILE", str(tmp_path / "token"))
    done = CliRunner().invoke(main, ["releases", "upload", "latest"])
    assert done.exit_code == 0, done.output
    assert f"uploaded {ASSET}" in done.stdout
    assert_published(hub)
    assert TOKEN not in done.output
