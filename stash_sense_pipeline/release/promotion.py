"""Promotes a checked release: renames its files into place, moves `latest`, and repairs an interrupted promotion."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
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
    MANIFEST,
    Flavour,
    zip_name,
)
from stash_sense_pipeline.release.release_input import ReleaseInput
from stash_sense_pipeline.release.reports.quality_report import ReportContent, read_checks, write_report
from stash_sense_pipeline.release.reports.release_diff import ReleaseDiff
from stash_sense_pipeline.release.spec import ReleaseSpec
from stash_sense_pipeline.release.suppression_gate import list_held, refuse_listed
from stash_sense_pipeline.release.versions import (
    LATEST,
    flavours_of,
    is_version,
    latest_release,
    named_release,
    published_versions,
    release_path,
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
    # The bytes of the zip of each flavour.
    flavours: Mapping[str, int]
    checks: tuple[CheckResult, ...] = ()
    indices: tuple[IndexReport, ...] = ()
    seconds: float = 0.0
    manifest: Mapping[str, Any] = field(default_factory=dict)
    figures: Figures | None = None
    diff: ReleaseDiff | None = None
    # The vectors that the checks used, for a data card that an earlier run did not write.
    vectors: ReleaseVectors | None = None


def unchanged_release(
    engine: sa.Engine, releases: Path, now: Mapping[Flavour, ReleaseInput], spec: ReleaseSpec
) -> ReleaseReport | None:
    """The newest release, verified again, when each flavour of it was built from the input `now`; else None.

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
    paths = {flavour: release_path(releases, newest.name, flavour) for flavour in now}
    if not all((path / MANIFEST).is_file() for path in paths.values()):
        return None
    if any(read_manifest(path).get("input_digest") != now[each].digest for each, path in paths.items()):
        return None
    verified = tuple(
        replace(check, flavour=flavour.value)
        for flavour, path in paths.items()
        for check in verify_release(path)
    )
    with disk_errors(f"repair {newest}"):
        if latest != newest.resolve():
            refuse_listed(engine, newest, spec, spec.suppressions)
            with list_held(engine, newest, spec):
                _point_latest(releases, newest.name)
        if not failures(verified):
            for flavour, path in paths.items():
                _repair_zip(path, releases / zip_name(newest.name, flavour))
    proven = {check.label for check in verified}
    kept = [
        check
        for check in read_checks(report_directory(releases, newest.name))
        if check.label not in proven and check.flavour in now
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
    """Writes the report and packs the zips, then moves report, zips and releases into `releases`, and `latest` last.

    The other flavours are moved before the flavour full: a version is published when that one is complete.

    The moves, which take milliseconds, run inside the context manager `still_allowed`: see list_held. Each move is one
    rename on one file system, so that after an interruption `latest` shows a complete release, the old or the new one.
    Raises ReleaseError, with nothing published, when a check of severity error failed or a file cannot be written.
    """
    refuse_errors(assembled)
    staging, version = assembled.staging, assembled.version
    target = releases / version
    archive = releases / zip_name(version)
    moves = _moves([*assembled.others, assembled], releases)
    with disk_errors(f"publish {target}"):
        make_directory(releases, PUBLIC_DIRECTORY)
        if target.exists() or archive.exists():
            raise ReleaseError(f"{target} or its zip already exists; a published version is never replaced")
        # Drawing the plots holds the interpreter lock and compression releases it, so that both run in parallel.
        with ThreadPoolExecutor(max_workers=1) as packer:
            packed = [packer.submit(write_zip, move.release, move.archive) for move in moves]
            content = ReportContent(version, assembled.checks, figures, diff)
            write_report(staging.report, staging.release, content)
            for each in packed:
                each.result()
        restrict(staging.report)
        for move in moves:
            _make_public(move)
        report = report_directory(releases, version)
        shutil.rmtree(report, ignore_errors=True)
        with still_allowed():
            staging.report.rename(report)
            for move in moves:
                move.archive.rename(move.archive_to)
                move.release.rename(move.release_to)
            fsync_directory(releases)
            _point_latest(releases, version)
    staging.discard()
    return replace(_report(target, assembled.manifest, changed=True), checks=assembled.checks)


@dataclass(frozen=True)
class _Move:
    """The staged files of one flavour, and where they go."""

    release: Path
    archive: Path
    release_to: Path
    archive_to: Path


def _moves(flavours: Sequence[Assembled], releases: Path) -> list[_Move]:
    found = []
    for made in flavours:
        archive = zip_name(made.version, made.staging.flavour)
        target = release_path(releases, made.version, made.staging.flavour)
        found.append(_Move(made.staging.release, made.staging.root / archive, target, releases / archive))
    return found


def _make_public(move: _Move) -> None:
    move.archive.chmod(PUBLIC_FILE)
    for member in move.release.iterdir():
        member.chmod(PUBLIC_FILE)
        fsync_file(member)
    move.release.chmod(PUBLIC_DIRECTORY)
    fsync_directory(move.release)


def refuse_errors(assembled: Assembled) -> None:
    """Raises ReleaseRefusedError when a check of severity error failed."""
    if assembled.errors:
        raise ReleaseRefusedError(assembled.checks)


def clear_leftovers(data_dir: Path, *, keep_run: str | None = None) -> tuple[str, ...]:
    """Removes the files of interrupted runs and returns their names. No other publish may run meanwhile.

    These are the staging directories of other runs, temporary files, and incomplete releases: a directory without its
    zip, or a zip without its directory, and the other flavours of these. The release that `latest` shows is kept. Raises
    ReleaseError when a file cannot be removed.
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
            named = named_release(path.name)
            of_report = path.name.removesuffix(".report")
            if named is None and of_report != path.name and is_version(of_report):
                named = of_report, Flavour.FULL
            if named is not None and named[0] not in kept:
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
    flavours = {
        each.value: (path.parent / zip_name(path.name, each)).stat().st_size
        for each in flavours_of(path.parent, path.name)
    }
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
        flavours=flavours,
        manifest=manifest,
    )
