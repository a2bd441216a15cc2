"""Lists and prunes the releases on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stash_sense_pipeline.foundation.errors import ReleaseError
from stash_sense_pipeline.release.build.manifest import read_manifest
from stash_sense_pipeline.release.build.staging import disk_errors
from stash_sense_pipeline.release.checks.threshold_check import recommended_distance
from stash_sense_pipeline.release.contract import MANIFEST, Flavour, zip_name
from stash_sense_pipeline.release.distribution.uploads import read_uploads
from stash_sense_pipeline.release.reports.quality_report import read_checks
from stash_sense_pipeline.release.versions import (
    flavours_of,
    latest_release,
    published_versions,
    release_path,
    remove_release,
    report_directory,
)


@dataclass(frozen=True)
class ReleaseSummary:
    """A flavour of a published release, as a row of the list. `version`: as commands take it, `2026.11.21.small`.

    `distance`: the recommended one; None when it is not known.
    """

    version: str
    created_at: str
    performers: int
    faces: int
    archive_bytes: int
    pack: str
    distance: float | None
    latest: bool


def list_releases(releases: Path) -> tuple[ReleaseSummary, ...]:
    """The flavours of complete releases, oldest version first. ReleaseError when a manifest cannot be read."""
    latest = latest_release(releases)
    return tuple(
        _summary(releases, version, flavour, latest=latest is not None and latest.name == version)
        for version in published_versions(releases)
        for flavour in flavours_of(releases, version)
    )


def _summary(releases: Path, version: str, flavour: Flavour, *, latest: bool) -> ReleaseSummary:
    path = release_path(releases, version, flavour)
    manifest = read_manifest(path)
    missing = [key for key in ("created_at", "performer_count", "face_count") if key not in manifest]
    if missing:
        raise ReleaseError(
            f"{path / MANIFEST} has no {missing[0]}; run `stash-sense verify {path}` for details"
        )
    models = manifest.get("models")
    return ReleaseSummary(
        version=path.name,
        created_at=manifest["created_at"],
        performers=manifest["performer_count"],
        faces=manifest["face_count"],
        archive_bytes=(releases / zip_name(version, flavour)).stat().st_size,
        pack=str(models.get("pack", "unknown")) if isinstance(models, dict) else "unknown",
        distance=recommended_distance(read_checks(report_directory(releases, version))),
        latest=latest,
    )


def prune_releases(releases: Path, keep: int) -> tuple[str, ...]:
    """Removes all but the newest `keep` releases, in all flavours. Returns the removed versions.

    It keeps the release that `latest` shows and those that were uploaded last: the next upload is compared with these.
    """
    if keep < 1:
        raise ReleaseError(f"at least one release must be kept, not {keep}")
    latest = latest_release(releases)
    kept = {upload.version for upload in read_uploads(releases).values()}
    kept |= {latest.name} if latest is not None else set()
    old = [version for version in published_versions(releases)[:-keep] if version not in kept]
    with disk_errors(f"remove old releases from {releases}"):
        for version in old:
            remove_release(releases, version)
    return tuple(old)
