"""`releases fetch`, release notes and the data card, against a stand-in of GitHub on loopback."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result

from stash_sense_pipeline.catalog import schema
from stash_sense_pipeline.catalog.transactions import writing
from stash_sense_pipeline.cli import main
from stash_sense_pipeline.foundation.errors import ReleaseError
from stash_sense_pipeline.release.checks.check_result import failures
from stash_sense_pipeline.release.checks.verify import verify_release
from stash_sense_pipeline.release.contract import Flavour, zip_name
from stash_sense_pipeline.release.distribution.fetch import FetchReport, fetch_release
from stash_sense_pipeline.release.distribution.github import Destination
from stash_sense_pipeline.release.distribution.release_notes import release_notes
from stash_sense_pipeline.release.distribution.upload import upload_release
from stash_sense_pipeline.release.distribution.uploads import Upload, read_uploads, write_upload
from stash_sense_pipeline.release.publish import publish_release
from stash_sense_pipeline.release.spec import Limits, small_limits

from .changes import FIRST, opened, rename_a_performer
from .conftest import DAY
from .github import REPOSITORY, SMALL_REPOSITORY, TOKEN, GithubWorld, github
from .sidecar import Sidecar, Updater
from .worlds import SPEC

CARD = f"stash-sense-data-card-v{FIRST}.md"


@pytest.fixture
def hub() -> Iterator[GithubWorld]:
    with github() as world:
        yield world


def destination(hub: GithubWorld, **more: Any) -> Destination:
    return Destination(REPOSITORY, hub.url, **{"token": TOKEN, "sleep": lambda _: None, **more})


def fetch(hub: GithubWorld, tmp_path: Path, token: str = "") -> FetchReport:
    return fetch_release(destination(hub, token=token), tmp_path / "home", tmp_path / "work")


def uploaded(hub: GithubWorld, data: Path) -> Path:
    """Uploads the release of `data` and returns its zip."""
    upload_release(data / "releases", FIRST, destination(hub))
    return data / "releases" / zip_name(FIRST)


@pytest.mark.slow
def test_the_newest_release_is_fetched_verified_and_installed_once(
    data: Path, hub: GithubWorld, tmp_path: Path
) -> None:
    uploaded(hub, data)
    hub.release("v2026.01.01", assets=[hub.asset("old.zip", b"older")])
    hub.latest = hub.releases[0]["id"]
    home = tmp_path / "home"
    first = fetch(hub, tmp_path)
    assert first.installed is not None
    assert (first.version, first.previous, first.installed.version) == (FIRST, None, FIRST)
    assert not failures(verify_release(home))
    assert len(Sidecar(home).faces) == 160
    # A public repository is read without a token, and the storage never gets one.
    assert [token for _, token in hub.downloads] == [None]
    again = fetch(hub, tmp_path)
    assert (again.version, again.previous, again.installed) == (FIRST, FIRST, None)
    assert len(hub.downloads) == 1
    assert not list((tmp_path / "work").rglob("*.zip"))


@pytest.mark.slow
def test_a_private_repository_needs_the_token_which_the_storage_does_not_get(
    data: Path, hub: GithubWorld, tmp_path: Path
) -> None:
    uploaded(hub, data)
    hub.private = True
    with pytest.raises(ReleaseError, match="401 Bad credentials"):
        fetch(hub, tmp_path)
    with github() as storage:
        storage.content = hub.content
        hub.storage = storage.url
        assert fetch(hub, tmp_path, TOKEN).installed is not None
        assert storage.requests == [f"GET /download/{hub.downloads[0][0]}"]
    assert [token for _, token in hub.downloads] == [f"Bearer {TOKEN}"]


@pytest.mark.slow
def test_a_download_that_breaks_is_tried_again_and_one_that_keeps_breaking_is_one_line(
    data: Path, hub: GithubWorld, tmp_path: Path
) -> None:
    uploaded(hub, data)
    hub.cut_downloads = 2
    hub.fail("GET", "/releases/assets/", 503)
    assert fetch(hub, tmp_path).installed is not None
    shutil.rmtree(tmp_path / "home")
    hub.cut_downloads = 9
    with pytest.raises(
        ReleaseError, match=r"cannot download stash-sense-data-v.*: the connection broke"
    ) as refused:
        fetch(hub, tmp_path)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "home").exists()


def changed_zip(archive: Path, version: str) -> bytes:
    """The bytes of a zip of which the manifest states another version."""
    copy = archive.with_name("changed.zip")
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(copy, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "manifest.json":
                content = json.dumps({**json.loads(content), "version": version}).encode()
            new.writestr(name, content)
    return copy.read_bytes()


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("nothing published", "has no published release, or does not exist"),
        ("no zip", "has no zip"),
        ("tag", "has the tag latest, which is not v and a version"),
        ("size", "no size below 2 GiB"),
        ("size is a lie", "more than the stated 10 bytes"),
        ("digest", "has not the size or the digest that the server states"),
        ("not a zip", "is not installed"),
        ("other version", "it fails version"),
        ("other host", "where the token must not be sent"),
        ("no https", "redirects to an address without https"),
    ],
)
def test_a_release_that_cannot_be_trusted_is_not_installed(
    data: Path, hub: GithubWorld, tmp_path: Path, name: str, complaint: str
) -> None:
    archive = data / "releases" / zip_name(FIRST)
    content = archive.read_bytes()
    if name == "not a zip":
        content = b"no zip"
    if name == "other version":
        content = changed_zip(archive, "2026.02.19")
    asset = hub.asset("any.zip", content)
    asset |= {
        "size": {"size": 3 * 2**30},
        "size is a lie": {"size": 10},
        "digest": {"digest": f"sha256:{'0' * 64}"},
        "no zip": {"name": "any.tar"},
        "other host": {"url": "http://elsewhere.example/asset"},
    }.get(name, {})
    if name != "nothing published":
        hub.release("latest" if name == "tag" else f"v{FIRST}", assets=[hub.asset("notes.md", b"x"), asset])
    if name == "no https":
        hub.storage = "ftp://127.0.0.1"
    with pytest.raises(ReleaseError, match=complaint) as refused:
        fetch(hub, tmp_path)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "home" / "manifest.json").exists()
    assert not list((tmp_path / "work").rglob("*.zip"))


def invoke(data: Path, sources: Path, *words: str, **more: str) -> Result:
    env = {
        "DATA_DIR": str(data),
        "STASH_SENSE_SOURCES": str(sources),
        "GITHUB_TOKEN": "",
        "GITHUB_TOKEN_FILE": "",
    }
    return CliRunner().invoke(main, ["releases", *words], env={**env, **more})


@pytest.mark.slow
def test_the_command_fetches_from_any_configured_repository_and_refuses_suppressed_people(
    data: Path, hub: GithubWorld, tmp_path: Path
) -> None:
    uploaded(hub, data)
    sources, home, other = tmp_path / "sources.yaml", tmp_path / "home", tmp_path / "other"
    sources.write_text(f"export: {{github: {{api: '{hub.url}'}}}}\nstash_boxes: {{stashdb: {{}}}}\n")
    unset = invoke(other, sources, "fetch", "--to", str(home))
    assert (unset.exit_code, "export.github.repository" in unset.stderr) == (2, True)
    odd = invoke(other, sources, "fetch", "--to", str(home), "--repository", "no-slash")
    assert (odd.exit_code, "is not owner/name" in odd.stderr) == (2, True)
    done = invoke(other, sources, "fetch", "--to", str(home), "--repository", REPOSITORY)
    assert done.exit_code == 0, done.output
    assert f"installed {FIRST} in {home}, before it was empty" in done.output
    again = invoke(other, sources, "fetch", "--to", str(home), "--repository", REPOSITORY)
    assert f"{home} has {FIRST}; the newest of {REPOSITORY} is {FIRST}" in again.output
    shutil.rmtree(home)
    (other / "suppressions.yaml").write_text('- {key: "stashdb:st-00001", reason: asked}\n')
    refused = invoke(other, sources, "fetch", "--to", str(home), "--repository", REPOSITORY)
    assert refused.exit_code != 0
    assert not (home / "manifest.json").exists()


@pytest.mark.slow
def test_a_flavour_goes_to_its_own_repository_and_comes_from_there(data: Path, tmp_path: Path) -> None:
    engine = opened(data)
    rename_a_performer(engine)
    both = replace(SPEC, small=small_limits(SPEC.limits))
    version = publish_release(engine, data, "both", both, date(2026, 2, 20)).version
    engine.dispose()
    with github() as hub, github(SMALL_REPOSITORY) as small:
        sources, home = tmp_path / "sources.yaml", tmp_path / "home"
        sources.write_text(
            f"export: {{flavours: [full, small], github: {{small_repository: {SMALL_REPOSITORY}, api: '{small.url}'}}}}\n"
            "stash_boxes: {stashdb: {}}\n"
        )
        done = invoke(data, sources, "upload", "latest", GITHUB_TOKEN=TOKEN)
        assert done.exit_code == 0, done.output
        assert f"uploaded {zip_name(version, Flavour.SMALL)}" in done.output
        (release,) = small.releases
        assert [asset["name"] for asset in release["assets"]] == [zip_name(version, Flavour.SMALL)]
        assert "This is the flavour small" in release["body"]
        updater = Updater(home, f"{small.url}/repos/{SMALL_REPOSITORY}/releases")
        home.mkdir()
        assert updater.update() == version
        assert json.loads((home / "manifest.json").read_text())["flavour"] == "small"
        shutil.rmtree(home)
        fetched = invoke(tmp_path / "other", sources, "fetch", "--small", "--to", str(home))
        assert fetched.exit_code == 0, fetched.output
        # The other flavour has no repository in these settings.
        alone = invoke(data, sources, "fetch", "--to", str(home))
        assert (alone.exit_code, "set export.github.repository" in alone.stderr) == (2, True)
        sources.write_text(
            f"export: {{github: {{repository: {REPOSITORY}, api: '{hub.url}'}}}}\nstash_boxes: {{stashdb: {{}}}}\n"
        )
        missing = invoke(data, sources, "upload", f"{version}.small", GITHUB_TOKEN=TOKEN)
        assert (missing.exit_code, "export.github.small_repository" in missing.stderr) == (2, True)
        assert hub.releases == []


@pytest.mark.slow
def test_the_data_card_is_a_second_asset_that_the_updater_ignores(
    data: Path, hub: GithubWorld, tmp_path: Path
) -> None:
    card = data / "releases" / f"{FIRST}.datacard.md"
    card.write_text("# Data card\n")
    archive = uploaded(hub, data)
    (release,) = hub.releases
    assert [asset["name"] for asset in release["assets"]] == [archive.name, CARD]
    assert hub.content[release["assets"][1]["id"]] == card.read_bytes()
    home = tmp_path / "home"
    home.mkdir()
    assert Updater(home, f"{hub.url}/repos/{REPOSITORY}/releases").update() == FIRST


@pytest.mark.slow
def test_an_upload_removes_other_zips_and_parts_of_its_own_files_and_nothing_else(
    data: Path, hub: GithubWorld
) -> None:
    (data / "releases" / f"{FIRST}.datacard.md").write_text("# Data card\n")
    mine = hub.asset("reading-list.md", b"the operator's own")
    parts = [hub.asset(name, b"part", "starter") for name in (zip_name(FIRST), CARD)]
    hub.release(f"v{FIRST}", draft=True, assets=[hub.asset("other.zip", b"x"), mine, *parts])
    uploaded(hub, data)
    (release,) = hub.releases
    assert [asset["name"] for asset in release["assets"]] == ["reading-list.md", zip_name(FIRST), CARD]


def test_notes_have_distances_the_contract_and_the_advice_about_backups(data: Path) -> None:
    notes = release_notes(data / "releases", FIRST)
    assert "40 performers, 160 faces" in notes
    lines = [line for line in notes.splitlines() if line.startswith("- 0.")]
    assert [line[2:6] for line in lines] == ["0.30", "0.40", "0.50", "0.60"]
    assert all("of known people are found" in line and "of strangers get a name" in line for line in lines)
    assert "**Recommended distance: 0.60." in notes
    assert "shows a distance as a match in percent: 0.60 is 40 %." in notes
    assert "Contract: Format 1, performers.db schema 9." in notes
    assert "Delete `backup_*` after a removal" in notes
    shutil.rmtree(data / "releases" / f"{FIRST}.report")
    assert "Recommended" not in release_notes(data / "releases", FIRST)


@pytest.mark.slow
def test_notes_say_what_changed_since_the_release_that_users_have(data: Path, hub: GithubWorld) -> None:
    engine = opened(data)
    uploaded(hub, data)
    with writing(engine) as connection:
        faces = schema.trusted_faces
        connection.execute(sa.delete(faces).where(faces.c.performer_id == 3))
    spec = replace(SPEC, limits=Limits(accept_shrink=True), index=replace(SPEC.index, m=8))
    second = publish_release(engine, data, "second", spec, date(2026, 2, 20)).version
    rename_a_performer(engine)
    third = publish_release(
        engine, data, "third", replace(spec, priority=("fansdb",)), date(2026, 2, 21)
    ).version
    upload_release(data / "releases", third, destination(hub))
    notes = hub.releases[-1]["body"]
    assert f"Since {FIRST}:" in notes
    assert "| performers removed | 1 |" in notes
    assert "1 performers are no longer in the release. Sidecars keep" in notes
    assert f"Contract: changed since {FIRST}." in notes
    assert "- order of endpoints: stashdb, theporndb, fansdb, pmvstash, javstash became fansdb" in notes
    assert f"Contract: nothing changed since {FIRST}" in release_notes(data / "releases", second)


@pytest.mark.slow
def test_an_upload_is_noted_once_and_an_older_version_is_not(data: Path, hub: GithubWorld) -> None:
    releases = data / "releases"
    first, later = datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 2, tzinfo=UTC)
    upload_release(releases, FIRST, destination(hub, now=lambda: first))
    upload_release(releases, FIRST, destination(hub, now=lambda: later))
    assert read_uploads(releases) == {REPOSITORY: Upload(FIRST, first)}
    rename_a_performer(opened(data))
    newer = publish_release(opened(data), data, "next", SPEC, DAY).version
    hub.release("v2026.12.31", assets=[hub.asset("any.zip", b"newer")])
    assert not upload_release(releases, newer, destination(hub, now=lambda: later)).latest
    assert read_uploads(releases) == {REPOSITORY: Upload(FIRST, first)}
    write_upload(releases, REPOSITORY, Upload(newer, later))
    assert read_uploads(releases)[REPOSITORY].version == newer
