"""Uploads a sense2 release to a repository of its own: full zip, delta and links in one release; and when one is due."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from stash_sense_pipeline.foundation.errors import ConfigurationError, ReleaseError
from stash_sense_pipeline.foundation.progress import Progress
from stash_sense_pipeline.privacy.suppression.suppression_list import Suppressions
from stash_sense_pipeline.release.checks.check_result import ReleaseRefusedError, failures
from stash_sense_pipeline.release.contract import ASSET_LIMIT_BYTES
from stash_sense_pipeline.release.distribution.cadence import Decision
from stash_sense_pipeline.release.distribution.github import Destination, GithubReleases, matches
from stash_sense_pipeline.release.sense2.contract import VERSION_FORM, full_zip, links_zip, zip_kind
from stash_sense_pipeline.release.sense2.history import names_suppressed, sense2_versions
from stash_sense_pipeline.release.sense2.publish import NOTES
from stash_sense_pipeline.release.sense2.verify import verify_sense2
from stash_sense_pipeline.settings.environment import Environment
from stash_sense_pipeline.settings.schema import Settings


@dataclass(frozen=True)
class Sense2Upload:
    """An uploaded sense2 release. `uploaded` is False when it was published before, with complete zips."""

    version: str
    url: str
    assets: tuple[str, ...]
    bytes: int
    uploaded: bool
    latest: bool


def upload_sense2(
    data_dir: Path,
    version: str,
    destination: Destination,
    *,
    check: Callable[[Path], None] = lambda directory: None,
    progress: Progress | None = None,
) -> Sense2Upload:
    """Publishes the zips of `<data_dir>/sense2/<version>` under the tag `v<version>`, with the notes that clients read.

    `check` raises for a release that must not be published. It is called with the directory before anything is sent, and
    again before the release is published. The release is a draft until all zips are complete; after an interruption the
    next call continues with the same draft. A published release is never changed. Raises ReleaseError when there is no such
    version, when a zip is damaged or too large, when other zips are published under that tag, or when the server keeps
    refusing requests.
    """
    zips = _zips(data_dir, version)
    check(data_dir / "sense2" / version)
    checks = verify_sense2(data_dir / "sense2" / version)
    if failures(checks):
        raise ReleaseRefusedError(checks)
    names = [path.name for path in zips]
    with GithubReleases(destination) as github:
        found = github.find(version)
        if found is None:
            notes = (data_dir / "sense2" / version / NOTES).read_text(encoding="utf-8")
            found = github.create_draft(version, notes)
        uploaded = bool(found["draft"])
        if uploaded:
            for path in zips:
                github.put_asset(found, path, progress, beside=names)
            check(data_dir / "sense2" / version)
            newest = all(other <= version for other in github.published())
            found = github.publish(found, latest=newest)
        else:
            newest = github.latest_is(version)
        _check_zips(found, zips)
    size = sum(path.stat().st_size for path in zips)
    return Sense2Upload(version, str(found["html_url"]), tuple(names), size, uploaded, newest)


def _zips(data_dir: Path, version: str) -> list[Path]:
    """The zips of a version: the full one, the delta if it has one, the links."""
    if VERSION_FORM.fullmatch(version) is None or version not in sense2_versions(data_dir):
        raise ReleaseError(f"there is no sense2 release {version} in {data_dir / 'sense2'}")
    directory = data_dir / "sense2" / version
    deltas = sorted(path for path in directory.iterdir() if zip_kind(path.name) == "delta")
    zips = [directory / full_zip(version), *deltas, directory / links_zip(version)]
    for path in zips:
        if not path.is_file():
            raise ReleaseError(f"{path} is missing; publish a new version")
        if path.stat().st_size >= ASSET_LIMIT_BYTES:
            raise ReleaseError(
                f"{path.name} has {path.stat().st_size / 2**30:.2f} GiB, and GitHub takes files below 2 GiB only; take "
                "fewer faces a performer"
            )
    return zips


def _check_zips(release: Mapping[str, Any], zips: list[Path]) -> None:
    held = {str(asset["name"]): asset for asset in release["assets"] if str(asset["name"]).endswith(".zip")}
    same = held.keys() == {path.name for path in zips} and all(
        matches(held[path.name], path) for path in zips
    )
    if not same:
        raise ReleaseError(
            f"{release['tag_name']} is published already, with {', '.join(sorted(held)) or 'no zip'}, which are not the "
            "zips here; a published release is never changed: remove it on the server, or publish a new version"
        )


def versions_to_upload(
    data_dir: Path, destination: Destination, holds_suppressed: Callable[[Path], bool]
) -> tuple[str, ...]:
    """The versions here that are newer than the newest of the repository, the oldest first.

    Each is a step of the chain of deltas. An empty repository gets the newest version alone. A version that names
    suppressed people is left out, unless it is the newest: clients then load the next full release.
    """
    here = sense2_versions(data_dir)
    with GithubReleases(destination) as github:
        published = github.published()
    if not published:
        return here[-1:]
    newer = [version for version in here if version > max(published)]
    return tuple(
        version
        for version in newer
        if version == here[-1] or not holds_suppressed(data_dir / "sense2" / version)
    )


def refuse_named(directory: Path, suppressions: Suppressions, endpoints: Mapping[str, str]) -> None:
    """Raises ReleaseError when a zip of this version names a suppressed person, or cannot be read."""
    if names_suppressed(directory, suppressions, endpoints):
        raise ReleaseError(
            f"the sense2 release {directory.name} names people on the suppression list, or cannot be read; publish a new "
            "one, and see stash-sense releases revoke"
        )


def sense2_destination(settings: Settings, environment: Environment) -> Destination:
    """The repository of sense2 releases. ConfigurationError without one, and without a token."""
    if environment.github_token is None:
        raise ConfigurationError(
            "GITHUB_TOKEN is not set; it needs write access to the contents of the repository"
        )
    github = settings.export.github
    return Destination(github.sense2_repository, github.api, environment.github_token, sense2=True)


def sense2_due(newest: str | None, made: date | None, days: int, today: date, suppressed: bool) -> Decision:
    """Whether a new version may be made today, when versions are uploaded automatically.

    Each version is a step of the chain of deltas, so that every one that is made is uploaded: what waits is the making.
    `newest` and `made`: the newest version and its day. `suppressed`: it names a person who is suppressed now.
    """
    if newest is None or made is None:
        return Decision(True, "there is no release yet")
    if suppressed:
        return Decision(True, f"{newest}, which users have, names people who are suppressed now")
    on = made + timedelta(days=days)
    if made <= today < on:
        return Decision(False, f"due on {on}, {days} days after {newest} (export.cadence.days)", on)
    return Decision(True, f"{newest} was made on {made}", on)
