"""Lists and prunes the releases on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stash_sense_pipeline.foundation.errors import ReleaseError
from stash_sense_pipeline.release.build.manifest import read_manifest
from stash_sense_pipeline.release.build.staging import disk_errors
from stash_sense_pipeline.release.checks.threshold_check import recommended_distance
from stash_sense_pipeline.release.contract import MANIFEST, zip_name
from stash_sense_pipeline.release.reports.quality_report import read_checks
from stash_sense_pipeline.release.versions import (
    latest_release,
    published_versions,
    remove_release,
    report_directory,
)


@dataclass(frozen=True)
class ReleaseSummary:
    """A published release, as a row of the list. `distance`: the recommended one; None when it is not known."""

    version: str
    created_at: str
    performers: int
    faces: int
    archive_bytes: int
    pack: str
    distance: float | None
    latest: bool


def list_releases(releases: Path) -> tuple[ReleaseSummary, ...]:
    """Complete releases, oldest first. ReleaseError when a manifest cannot be read."""
    latest = latest_release(releases)
    found = []
    for version in published_versions(releases):
        manifest = read_manifest(releases / version)
        missing = [key for key in ("created_at", "performer_count", "face_count") if key not in manifest]
        if missing:
            raise ReleaseError(
                f"{releases / version / MANIFEST} has no {missing[0]}; "
                f"run `stash-sense verify {releases / version}` for details"
            )
        models = manifest.get("models")
        found.append(
            ReleaseSummary(
                version=version,
                created_at=manifest["created_at"],
                performers=manifest["performer_count"],
                faces=manifest["face_count"],
                archive_bytes=(releases / zip_name(version)).stat().st_size,
                pack=str(models.get("pack", "unknown")) if isinstance(models, dict) else "unknown",
                distance=recommended_distance(read_checks(report_directory(releases, version))),
                latest=latest is not None and latest.name == version,
            )
        )
    return tuple(found)


def prune_releases(releases: Path, keep: int) -> tuple[str, ...]:
    """Removes all but the newest `keep` releases, and keeps the one that `latest` shows. Returns the removed versions."""
    if keep < 1:
        raise ReleaseError(f"at least one release must be kept, not {keep}")
    latest = latest_release(releases)
    old = [v for v in published_versions(releases)[:-keep] if latest is None or v != latest.name]
    with disk_errors(f"remove old releases from {releases}"):
        for version in old:
            remove_release(releases, version)
    return tuple(old)
