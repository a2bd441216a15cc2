"""The notes of an uploaded release, for its users: numbers, distances, changes of the contract. They hold no names.

Published notes cannot be erased everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stash_sense_pipeline.foundation.errors import ReleaseError
from stash_sense_pipeline.release.build.manifest import read_manifest
from stash_sense_pipeline.release.checks.accuracy.thresholds import ALL_PEOPLE
from stash_sense_pipeline.release.checks.check_result import CheckResult
from stash_sense_pipeline.release.checks.threshold_check import RECOMMENDED_DISTANCE
from stash_sense_pipeline.release.contract import SCHEMA_VERSION, SIDECAR_MAX_DISTANCE, Flavour
from stash_sense_pipeline.release.reports.document import markdown_document
from stash_sense_pipeline.release.reports.quality_report import read_checks
from stash_sense_pipeline.release.reports.release_diff import ReleaseDiff, diff_releases
from stash_sense_pipeline.release.reports.release_diff_tables import count_blocks
from stash_sense_pipeline.release.versions import published_versions, release_path, report_directory

# The distances of the four lines of the table.
_SHOWN_DISTANCES = (0.30, 0.40, SIDECAR_MAX_DISTANCE, 0.60)
_SMALL = (
    "This is the flavour small: the same people and faces, with vectors in one byte a number. Distances differ from those of"
    " the flavour full by about 0.01."
)
# The page of the sidecar has no setting for a distance, and shows names at every distance for a picture.
_MATCH = (
    "The sidecar's page shows a distance as a match in percent: {distance:.2f} is {match} %. Take a name with a lower match"
    " as a guess."
)
_REMOVAL = (
    "{removed}Sidecars keep their old release in a folder `backup_*` of the data directory. Delete `backup_*` after a"
    " removal: people who asked to be removed are still in it."
)


def release_notes(
    releases: Path, version: str, flavour: Flavour = Flavour.FULL, before: str | None = None
) -> str:
    """The notes of a flavour of a version. `before`: the version that its users have, by default the one before it here.

    The lines about distances come from the quality report; without the report they are left out.
    """
    release = release_path(releases, version, flavour)
    manifest = read_manifest(release)
    if before is None:
        before = max((other for other in published_versions(releases) if other < version), default=None)
    diff = _changes(releases, before, version) if before is not None else None
    lines = [
        f"{manifest['performer_count']} performers, {manifest['face_count']} faces, "
        f"from {', '.join(manifest['sources'])}.",
    ]
    statement = manifest.get("models", {}).get("statement")
    if statement:
        lines += ["", str(statement)]
    if flavour is Flavour.SMALL:
        lines += ["", _SMALL]
    if diff is not None:
        lines += ["", markdown_document(count_blocks(diff)).rstrip()]
    lines += _distance_lines(read_checks(report_directory(releases, version)))
    old = _manifest_before(releases, before, flavour) if before is not None else None
    lines += ["", *_contract_lines(manifest, old, before)]
    lines += ["", _REMOVAL.format(removed=_removed(diff))]
    return "\n".join(lines) + "\n"


def _changes(releases: Path, before: str, version: str) -> ReleaseDiff | None:
    """The difference to the earlier release; None when its files cannot be read, which is no reason not to upload."""
    try:
        return diff_releases(releases / before, releases / version)
    except ReleaseError:
        return None


def _removed(diff: ReleaseDiff | None) -> str:
    count = len(diff.removed) if diff is not None else 0
    return f"{count} performers are no longer in the release. " if count else ""


def _distance_lines(checks: tuple[CheckResult, ...]) -> Iterator[str]:
    check = next((check for check in checks if check.name == RECOMMENDED_DISTANCE), None)
    if check is None:
        return
    rows = {row["distance"]: row for row in check.table if row["faces"] == ALL_PEOPLE}
    shown = [rows[distance] for distance in _SHOWN_DISTANCES if distance in rows]
    if shown:
        yield from ["", "What a distance means:", ""]
        yield from (f"- {float(row['distance']):.2f}: {_shares(row)}" for row in shown)
    yield from ["", f"**{check.detail}**"]
    distance = check.numbers.get("distance")
    if distance is not None:
        yield from ["", _MATCH.format(distance=distance, match=round(100 * (1 - distance)))]


def _shares(row: Mapping[str, Any]) -> str:
    said = {
        "found": "of known people are found",
        "misnamed": "get another name",
        "strangers": "of strangers get a name",
    }
    return ", ".join(f"{100 * row[name]:.1f} % {what}" for name, what in said.items() if name in row)


def _manifest_before(releases: Path, before: str, flavour: Flavour) -> dict[str, Any] | None:
    try:
        return read_manifest(release_path(releases, before, flavour))
    except ReleaseError:
        return None


def _contract_lines(
    manifest: Mapping[str, Any], before: Mapping[str, Any] | None, version: str | None
) -> Iterator[str]:
    """What changed for programs that read the release: formats, files, models, storage, hosts."""
    now = _contract(manifest)
    said = f"Format {now['format']}, performers.db schema {SCHEMA_VERSION}."
    if before is None:
        yield f"Contract: {said}"
        return
    old = _contract(before)
    changes = [
        f"- {name}: {_text(old[name])} became {_text(now[name])}" for name in now if now[name] != old[name]
    ]
    if not changes:
        yield f"Contract: nothing changed since {version}. {said}"
        return
    yield f"Contract: changed since {version}. {said}"
    yield ""
    yield from changes


def _contract(manifest: Mapping[str, Any]) -> dict[str, Any]:
    models, indices = manifest.get("models", {}), manifest.get("indices", {})
    return {
        "format": manifest.get("format", 1),
        "files": sorted(manifest.get("checksums", {})),
        "model pack": models.get("pack"),
        "detector": models.get("detector_sha256"),
        "embedders": sorted(
            f"{name} {str(made.get('sha256'))[:12]}" for name, made in models.get("embedders", {}).items()
        ),
        "storage of the indices": sorted({str(made.get("storage")) for made in indices.values()}),
        "order of endpoints": manifest.get("endpoint_priority"),
    }


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "nothing"
    return "not stated" if value is None else str(value)[:40]
