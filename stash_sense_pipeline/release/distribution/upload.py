"""Uploads a release to GitHub Releases: a draft first, one zip of one flavour, and the data card beside it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stash_sense_pipeline.foundation.errors import ConfigurationError, ReleaseError
from stash_sense_pipeline.foundation.private_work import private_work
from stash_sense_pipeline.foundation.progress import Progress
from stash_sense_pipeline.release.build.archive import check_zip
from stash_sense_pipeline.release.contract import ASSET_LIMIT_BYTES, Flavour, zip_name
from stash_sense_pipeline.release.distribution.github import Destination, GithubReleases, matches
from stash_sense_pipeline.release.distribution.release_notes import release_notes
from stash_sense_pipeline.release.distribution.uploads import Upload, read_uploads, write_upload
from stash_sense_pipeline.release.reports.data_card import data_card_path
from stash_sense_pipeline.release.versions import flavours_of, published_versions, release_name, release_path
from stash_sense_pipeline.settings.environment import Environment
from stash_sense_pipeline.settings.schema import Settings


@dataclass(frozen=True)
class UploadReport:
    """The uploaded release. `uploaded` is False when it was published before, with a complete zip."""

    version: str
    url: str
    asset: str
    bytes: int
    uploaded: bool
    latest: bool


def upload_release(
    releases: Path,
    version: str,
    destination: Destination,
    *,
    check: Callable[[Path], None] = lambda release: None,
    progress: Progress | None = None,
) -> UploadReport:
    """Publishes the zip of the destination's flavour of `version` under the tag `v<version>`, and the data card if any.

    The notes give numbers and no names. `check` raises for a release that must not be published. It is called before
    anything is sent, and again before the release is published. The release is a draft until its files are complete, so
    that users never see a part. After an interruption the next call continues with the same draft. A complete file is
    not sent twice, and a published release is never changed. The upload is noted, see uploads.py. Raises ReleaseError
    when the release or its zip is damaged or too large, when another file is published under that tag, or when the server
    keeps refusing requests.
    """
    flavour = destination.flavour
    release, archive = release_path(releases, version, flavour), releases / zip_name(version, flavour)
    if version not in published_versions(releases) or flavour not in flavours_of(releases, version):
        raise ReleaseError(
            f"there is no release {release_name(version, flavour)} in {releases}; see stash-sense releases list"
        )
    check(release)
    check_zip(archive, release)
    size = archive.stat().st_size
    if size >= ASSET_LIMIT_BYTES:
        raise ReleaseError(
            f"{archive.name} has {size / 2**30:.2f} GiB, and GitHub takes files below 2 GiB only; set export.index.storage "
            "to e4m3, upload the flavour small, or take fewer faces a performer"
        )
    with GithubReleases(destination) as github:
        found = github.find(version)
        if found is None:
            notes = release_notes(
                releases, version, flavour, _uploaded_before(releases, version, destination)
            )
            found = github.create_draft(version, notes)
        if not found["draft"]:
            _check_only_zip(found, archive)
            report = _report(version, found, archive, uploaded=False, latest=github.latest_is(version))
        else:
            github.put_asset(found, archive, progress)
            _put_data_card(github, found, release_path(releases, version))
            check(release)
            newest = all(other <= version for other in github.published())
            published = github.publish(found, latest=newest)
            _check_only_zip(published, archive)
            report = _report(version, published, archive, uploaded=True, latest=newest)
    _note(releases, report, destination)
    return report


def _uploaded_before(releases: Path, version: str, destination: Destination) -> str | None:
    """The version that users of the repository have, if it is here and older than this one."""
    upload = read_uploads(releases).get(destination.repository.casefold())
    known = upload is not None and upload.version in published_versions(releases)
    return upload.version if upload is not None and known and upload.version < version else None


def _put_data_card(github: GithubReleases, draft: Mapping[str, Any], release: Path) -> None:
    card = data_card_path(release)
    if not card.is_file():
        # A release of another program, or one without its card.
        return
    with private_work(release.parent.parent) as work:
        named = work.directory / f"stash-sense-data-card-v{release.name}.md"
        shutil.copyfile(card, named)
        github.put_asset(draft, named, None)


def _note(releases: Path, report: UploadReport, destination: Destination) -> None:
    """Notes a version that the sidecars of the repository get, unless it is noted already."""
    repository = destination.repository
    noted = read_uploads(releases).get(repository.casefold())
    if report.latest and (noted is None or noted.version != report.version):
        write_upload(releases, repository, Upload(report.version, destination.now()))


def _check_only_zip(release: Mapping[str, Any], archive: Path) -> None:
    zips = [asset for asset in release["assets"] if str(asset["name"]).endswith(".zip")]
    if len(zips) != 1 or not matches(zips[0], archive):
        held = ", ".join(f"{asset['name']} ({asset.get('size')} bytes)" for asset in zips) or "no zip"
        raise ReleaseError(
            f"{release['tag_name']} is published already, with {held}; a published release is never changed: remove it "
            "on the server, or publish a new version"
        )


def _report(
    version: str, release: Mapping[str, Any], archive: Path, *, uploaded: bool, latest: bool
) -> UploadReport:
    return UploadReport(
        version, str(release["html_url"]), archive.name, archive.stat().st_size, uploaded, latest
    )


def repositories(settings: Settings) -> dict[Flavour, str]:
    """The repository of each flavour that has one."""
    github = settings.export.github
    named = {Flavour.FULL: github.repository, Flavour.SMALL: github.small_repository}
    return {flavour: repository for flavour, repository in named.items() if repository}


def upload_destinations(settings: Settings, environment: Environment) -> dict[Flavour, Destination]:
    """The destination of each flavour that has a repository. ConfigurationError without a token or any repository."""
    token = environment.github_token
    if token is None:
        raise ConfigurationError(
            "GITHUB_TOKEN is not set; it needs write access to the contents of the repository"
        )
    api = settings.export.github.api
    found = {
        flavour: Destination(repository, api, token, flavour=flavour)
        for flavour, repository in repositories(settings).items()
    }
    # The error of a missing repository is the destination's own.
    return found or {Flavour.FULL: Destination("", api, token)}
