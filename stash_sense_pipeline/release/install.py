"""Putting a release into a sidecar's data directory, so that it holds the old files or the new ones, whatever happens."""

from __future__ import annotations

import json
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path

from stash_sense_pipeline.errors import ReleaseError
from stash_sense_pipeline.files import (
    PUBLIC_DIRECTORY,
    PUBLIC_FILE,
    fsync_directory,
    fsync_file,
    make_directory,
    write_atomically,
)
from stash_sense_pipeline.release.contract import MANIFEST, OPTIONAL_FILES, REQUIRED_FILES
from stash_sense_pipeline.release.manifest import read_manifest
from stash_sense_pipeline.release.staging import disk_errors
from stash_sense_pipeline.release.verify import failures, verify_release

_WORK = ".stash-sense-install"
BACKUP = "backup_before_install"


@dataclass(frozen=True)
class InstallReport:
    """What was put where. `dropped` are optional files of the old release that the new one does not have."""

    version: str
    previous: str | None
    directory: Path
    files: tuple[str, ...]
    dropped: tuple[str, ...]
    backup: Path | None


def install_release(release: Path, directory: Path) -> InstallReport:
    """Installs a release directory or zip into `directory`, a sidecar's data directory; stop the sidecar first.

    The release is verified before anything is touched. Files of the contract are replaced, others (the sidecar's own
    stash_sense.db among them) are never looked at. The old files go to `backup_before_install`, which the next
    installation replaces. Raises ReleaseError, with the old files in place, when the release fails the verification
    or the disk refuses; an installation that was killed is rolled back by the next one.
    """
    failed = failures(verify_release(release))
    if failed:
        raise ReleaseError(f"{release} is not installed, it fails {failed[0].name}: {failed[0].detail}")
    with disk_errors(f"install into {directory}"):
        make_directory(directory, PUBLIC_DIRECTORY)
        _roll_back(directory)
        work = directory / _WORK
        fresh = work / "new"
        make_directory(fresh, PUBLIC_DIRECTORY)
        try:
            _copy(release, fresh)
            return _swap(directory, work)
        except BaseException:
            _roll_back(directory)
            raise


def _copy(release: Path, fresh: Path) -> None:
    if release.is_dir():
        for member in release.iterdir():
            shutil.copyfile(member, fresh / member.name)
    else:
        with zipfile.ZipFile(release) as archive:
            archive.extractall(fresh)
    for member in fresh.iterdir():
        # The sidecar may run as another user.
        member.chmod(PUBLIC_FILE)
        fsync_file(member)
    fsync_directory(fresh)


def _swap(directory: Path, work: Path) -> InstallReport:
    fresh, old = work / "new", work / "old"
    names = sorted(member.name for member in fresh.iterdir())
    replaced = [name for name in (*REQUIRED_FILES, *OPTIONAL_FILES) if (directory / name).exists()]
    version = str(read_manifest(fresh)["version"])
    previous = _version(directory)
    write_atomically(work / "plan.json", json.dumps({"new": names, "old": replaced}))
    make_directory(old, PUBLIC_DIRECTORY)
    for name in replaced:
        (directory / name).rename(old / name)
    # The manifest last: the sidecar takes its version from there.
    for name in sorted(names, key=lambda name: (name == MANIFEST, name)):
        (fresh / name).rename(directory / name)
    fsync_directory(directory)
    backup = directory / BACKUP
    if replaced:
        shutil.rmtree(backup, ignore_errors=True)
        old.rename(backup)
    # From here on the installation stands: without its plan there is nothing to roll back.
    (work / "plan.json").unlink()
    shutil.rmtree(work)
    fsync_directory(directory)
    dropped = tuple(name for name in replaced if name not in names)
    return InstallReport(version, previous, directory, tuple(names), dropped, backup if replaced else None)


def _version(directory: Path) -> str | None:
    try:
        return str(json.loads((directory / MANIFEST).read_bytes()).get("version"))
    except (OSError, ValueError, AttributeError):
        return None


def _roll_back(directory: Path) -> None:
    """Undoes an installation that did not come to its end: old files back, new ones away."""
    work = directory / _WORK
    if not work.is_dir():
        return
    plan_file = work / "plan.json"
    if plan_file.is_file():
        plan = json.loads(plan_file.read_text())
        # Old files may still be in place, be set aside, or have become the backup already.
        aside = work / "old" if (work / "old").is_dir() else directory / BACKUP
        for name in plan["new"]:
            moved_in = not (work / "new" / name).exists()
            if moved_in and (name not in plan["old"] or (aside / name).exists()):
                (directory / name).unlink(missing_ok=True)
        for name in plan["old"]:
            if (aside / name).exists() and not (directory / name).exists():
                (aside / name).rename(directory / name)
        fsync_directory(directory)
        plan_file.unlink()
    shutil.rmtree(work)
