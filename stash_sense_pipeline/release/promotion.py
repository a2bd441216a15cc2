"""Promotes a checked release: renames its files into place, moves `latest`, and repairs an interrupted promotion."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from stash_sense_pipeline.foundation.errors import ReleaseError
from stash_sense_pipeline.foundation.files import (
    PUBLIC_DIRECTORY,
    PUBLIC_FILE,
    fsync_directory,
    fsync_file,
    make_directory,
    restrict,
)
from stash_sense_pipeline.release.assembly import Assembled
from stash_sense_pipeline.release.build.archive import check_zip, write_zip
from stash_sense_pipeline.release.build.face_order import (
    ReleaseVectors,
)
from stash_sense_pipeline.release.build.manifest import read_manifest
from stash_sense_pipeline.release.build.staging import disk_errors
from stash_sense_pipeline.release.build.voyager_index import (
    IndexReport,
)
from stash_sense_pipeline.release.checks.check_result import CheckResult, ReleaseRefusedError, failures
from stash_sense_pipeline.release.checks.quality_gate import Figures
from stash_sense_pipeline.release.checks.verify import verify_release
from stash_sense_pipeline.release.contract import (
    zip_name,
)
from stash_sense_pipeline.release.reports.quality_report import ReportContent, read_checks, write_report
from stash_sense_pipeline.release.reports.release_diff import ReleaseDiff
from stash_sense_pipeline.release.spec import ReleaseSpec
from stash_sense_pipeline.release.suppression_gate import list_held, refuse_listed
from stash_sense_pipeline.release.versions import (
    LATEST,
    is_version,
    latest_release,
    published_versions,
    report_directory,
)


@dataclass(frozen=True)
class ReleaseReport:
    """A release on disk. `changed` is False when the newest release already has this content and nothing was built."""

    version: str
    path: Path
    archive: Path
    performers: int
    faces: int
    sources: tuple[str, ...]
    changed: bool
    input_digest: str
    sizes: Mapping[str, int]
    checks: tuple[CheckResult, ...] = ()
    indices: tuple[IndexReport, ...] = ()
    seconds: float = 0.0
    manifest: Mapping[str, Any] = field(default_factory=dict)
    figures: Figures | None = None
    diff: ReleaseDiff | None = None
    # The vectors that the checks used, for a data card that an earlier run did not write.
    vectors: ReleaseVectors | None = None


def unchanged_release(
    engine: sa.Engine, releases: Path, digest: str, spec: ReleaseSpec
) -> ReleaseReport | None:
    """The newest release, verified again, when it was built from the same input; else None.

    `latest` is moved to that release when an interrupted run did not get to it. ReleaseRefusedError when the release
    then holds a person on the suppression list. A zip that is damaged or missing is packed again, with the same bytes.
    Raises ReleaseError when a file cannot be read or written.
    """
    latest = latest_release(releases)
    versions = sorted({*published_versions(releases), *([latest.name] if latest else [])})
    if not versions:
        return None
    newest = releases / versions[-1]
    manifest = read_manifest(newest)
    if manifest.get("input_digest") != digest:
        return None
    verified = verify_release(newest)
    with disk_errors(f"repair {newest}"):
        if latest != newest.resolve():
            refuse_listed(engine, newest, spec, spec.suppressions)
            with list_held(engine, newest, spec):
                _point_latest(releases, newest.name)
        if not failures(verified):
            _repair_zip(newest, releases / zip_name(newest.name))
    proven = {check.name for check in verified}
    kept = [
        check for check in read_checks(report_directory(releases, newest.name)) if check.name not in proven
    ]
    return replace(_report(newest, manifest, changed=False), checks=(*verified, *kept))


def _repair_zip(release: Path, archive: Path) -> None:
    try:
        check_zip(archive, release)
    except (ReleaseError, FileNotFoundError):
        write_zip(release, archive)
        archive.chmod(PUBLIC_FILE)


def promote_release(
    assembled: Assembled,
    releases: Path,
    figures: Figures | None,
    diff: ReleaseDiff | None,
    still_allowed: Callable[[], AbstractContextManager[None]],
) -> ReleaseReport:
    """Writes the report and packs the zip, then moves report, zip and release into `releases`, and `latest` last.

    The moves, which take milliseconds, run inside the context manager `still_allowed`: see list_held. Each move is one
    rename on one file system, so that after an interruption `latest` shows a complete release, the old or the new one.
    Raises ReleaseError, with nothing published, when a check of severity error failed or a file cannot be written.
    """
    refuse_errors(assembled)
    staging, version = assembled.staging, assembled.version
    target = releases / version
    archive = releases / zip_name(version)
    staged_archive = staging.root / archive.name
    with disk_errors(f"publish {target}"):
        make_directory(releases, PUBLIC_DIRECTORY)
        if target.exists() or archive.exists():
            raise ReleaseError(f"{target} or its zip already exists; a published version is never replaced")
        # Drawing the plots holds the interpreter lock and compression releases it, so that both run in parallel.
        with ThreadPoolExecutor(max_workers=1) as packer:
            packed = packer.submit(write_zip, staging.release, staged_archive)
            content = ReportContent(version, assembled.checks, figures, diff)
            write_report(staging.report, staging.release, content)
            packed.result()
        restrict(staging.report)
        staged_archive.chmod(PUBLIC_FILE)
        for member in staging.release.iterdir():
            member.chmod(PUBLIC_FILE)
            fsync_file(member)
        staging.release.chmod(PUBLIC_DIRECTORY)
        fsync_directory(staging.release)
        report = report_directory(releases, version)
        shutil.rmtree(report, ignore_errors=True)
        with still_allowed():
            staging.report.rename(report)
            staged_archive.rename(archive)
            staging.release.rename(target)
            fsync_directory(releases)
            _point_latest(releases, version)
    staging.discard()
    return replace(_report(target, assembled.manifest, changed=True), checks=assembled.checks)


def refuse_errors(assembled: Assembled) -> None:
    """Raises ReleaseRefusedError when a check of severity error failed."""
    if assembled.errors:
        raise ReleaseRefusedError(assembled.checks)


def clear_leftovers(data_dir: Path, *, keep_run: str | None = None) -> tuple[str, ...]:
    """Removes the files of interrupted runs and returns their names. No other publish may run meanwhile.

    These are the staging directories of other runs, temporary files, and incomplete releases: a directory without its
    zip, or a zip without its directory. The release that `latest` shows is kept. Raises ReleaseError when a file cannot
    be removed.
    """
    with disk_errors(f"remove the files of interrupted runs in {data_dir}"):
        return _clear_leftovers(data_dir, keep_run)


def _clear_leftovers(data_dir: Path, keep_run: str | None) -> tuple[str, ...]:
    removed: list[str] = []
    staging, releases = data_dir / "staging", data_dir / "releases"
    if staging.is_dir():
        for run in sorted(staging.iterdir()):
            if run.name != keep_run:
                shutil.rmtree(run, ignore_errors=True)
                removed.append(f"staging/{run.name}")
    if releases.is_dir():
        for path in sorted(releases.glob(".*.tmp")):
            path.unlink()
            removed.append(f"releases/{path.name}")
        complete = set(published_versions(releases))
        latest = latest_release(releases)
        kept = complete | ({latest.name} if latest else set())
        for path in sorted(releases.iterdir()):
            version = path.name.removeprefix("stash-sense-data-v").removesuffix(".zip")
            version = version.removesuffix(".report")
            names = (version, zip_name(version), report_directory(releases, version).name)
            incomplete = path.name in names and is_version(version) and version not in kept
            if incomplete:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
                removed.append(f"releases/{path.name}")
    return tuple(removed)


def _point_latest(releases: Path, version: str) -> None:
    link = releases / LATEST
    fresh = releases / f".{LATEST}.tmp"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(version, target_is_directory=True)
    fresh.replace(link)
    fsync_directory(releases)


def _report(path: Path, manifest: Mapping[str, Any], *, changed: bool) -> ReleaseReport:
    archive = path.parent / zip_name(path.name)
    sizes = {member.name: member.stat().st_size for member in sorted(path.iterdir())}
    return ReleaseReport(
        version=path.name,
        path=path,
        archive=archive,
        performers=manifest["performer_count"],
        faces=manifest["face_count"],
        sources=tuple(manifest["sources"]),
        changed=changed,
        input_digest=manifest["input_digest"],
        sizes={**sizes, archive.name: archive.stat().st_size},
        manifest=manifest,
    )
