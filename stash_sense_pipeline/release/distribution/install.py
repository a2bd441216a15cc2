"""Installs a release into a sidecar's data directory, whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from stash_sense_pipeline.foundation.errors import ArchiveError, ReleaseError
from stash_sense_pipeline.foundation.files import (
    PUBLIC_DIRECTORY,
    PUBLIC_FILE,
    fsync_directory,
    fsync_file,
    make_directory,
    open_regular,
    write_atomically,
)
from stash_sense_pipeline.foundation.json_file import SMALL, read_json
from stash_sense_pipeline.foundation.zip_file import room_for
from stash_sense_pipeline.release.build.archive import check_sizes, opened_archive
from stash_sense_pipeline.release.build.manifest import read_manifest
from stash_sense_pipeline.release.build.staging import disk_errors
from stash_sense_pipeline.release.checks.check_result import failures
from stash_sense_pipeline.release.checks.opened_release import unpack
from stash_sense_pipeline.release.checks.verify import verify_release
from stash_sense_pipeline.release.contract import MANIFEST, OPTIONAL_FILES, REQUIRED_FILES
from stash_sense_pipeline.release.versions import is_version

_WORK = ".stash-sense-install"
_PLAN = "plan.json"
_NAMES = (*REQUIRED_FILES, *OPTIONAL_FILES)
_BLOCK = 1024 * 1024
BACKUP = "backup_before_install"


@dataclass(frozen=True)
class InstallReport:
    """The result of an installation. `dropped`: optional files of the old release that the new one does not have."""

    version: str
    previous: str | None
    directory: Path
    files: tuple[str, ...]
    dropped: tuple[str, ...]
    backup: Path | None


def install_release(release: Path, directory: Path) -> InstallReport:
    """Installs a release directory or zip into `directory`, a sidecar's data directory; stop the sidecar first.

    First the release is copied to a private directory there and the copy is verified, so that the verified files are
    the installed ones. Then the files of the contract are replaced. Other files, such as the sidecar's own
    stash_sense.db, are not opened or moved. The old files go to `backup_before_install`, which the next installation
    replaces. Raises ReleaseError, with the old files in place, when the verification fails or a file cannot be written.
    The next installation rolls back an interrupted one.
    """
    with disk_errors(f"install into {directory}"):
        make_directory(directory, PUBLIC_DIRECTORY)
        _check_own_directories(directory)
        _roll_back(directory)
        work = directory / _WORK
        fresh = work / "new"
        make_directory(work)
        make_directory(fresh, PUBLIC_DIRECTORY)
        try:
            _copy(release, fresh)
            failed = failures(verify_release(fresh, release.name))
            if failed:
                raise ReleaseError(
                    f"{release} is not installed, it fails {failed[0].name}: {failed[0].detail}"
                )
            return _swap(directory, work)
        except BaseException:
            _roll_back(directory)
            raise


def _copy(release: Path, fresh: Path) -> None:
    try:
        if release.is_dir():
            _copy_directory(release, fresh)
        else:
            with opened_archive(release) as archive:
                _check_room(fresh, sum(archive.sizes.values()))
                unpack(archive, fresh)
    except (ArchiveError, ValueError) as error:
        raise ReleaseError(f"{release} is not installed: {error}") from error
    for member in fresh.iterdir():
        # The sidecar may run as another user.
        member.chmod(PUBLIC_FILE)
        fsync_file(member)
    fsync_directory(fresh)


def _copy_directory(release: Path, fresh: Path) -> None:
    members = sorted(release.iterdir())
    for member in members:
        if member.name not in _NAMES or member.is_symlink() or not member.is_file():
            raise ValueError(f"{member.name!r:.80} in it is not a plain file of a release")
    sizes = {member.name: member.stat().st_size for member in members}
    check_sizes(sizes)
    _check_room(fresh, sum(sizes.values()))
    for member in members:
        # The file may have been replaced since: no link is followed, and no more bytes are read than were checked.
        with open_regular(member, follow=False) as source, (fresh / member.name).open("xb") as target:
            left = sizes[member.name] + 1
            while left and (block := source.read(min(_BLOCK, left))):
                target.write(block)
                left -= len(block)
            if left != 1:
                raise ValueError(f"{member.name} changed while it was copied")


def _check_room(fresh: Path, needed: int) -> None:
    if room_for(needed, [fresh]) is None:
        raise ValueError(
            f"its files need {needed} bytes, and the disk of {fresh.parent.parent} has less space"
        )


def _swap(directory: Path, work: Path) -> InstallReport:
    fresh, old = work / "new", work / "old"
    names = sorted(member.name for member in fresh.iterdir())
    replaced = [name for name in _NAMES if os.path.lexists(directory / name)]
    version = str(read_manifest(fresh)["version"])
    previous = installed_version(directory)
    plan = {"new": {name: _identity(fresh / name) for name in names}, "old": replaced}
    write_atomically(work / _PLAN, json.dumps(plan))
    make_directory(old, PUBLIC_DIRECTORY)
    for name in replaced:
        (directory / name).rename(old / name)
    # The manifest last: the sidecar reads its version from there.
    for name in sorted(names, key=lambda name: (name == MANIFEST, name)):
        (fresh / name).rename(directory / name)
    fsync_directory(directory)
    backup = directory / BACKUP
    if replaced:
        shutil.rmtree(backup, ignore_errors=True)
        old.rename(backup)
    # Removing the plan completes the installation: without it there is nothing to roll back.
    (work / _PLAN).unlink()
    shutil.rmtree(work)
    fsync_directory(directory)
    dropped = tuple(name for name in replaced if name not in names)
    return InstallReport(version, previous, directory, tuple(names), dropped, backup if replaced else None)


def installed_version(directory: Path) -> str | None:
    """The version of the release in a sidecar's data directory; None when there is none, or no version to be read."""
    try:
        version = read_json(directory / MANIFEST, SMALL)["version"]
    except (OSError, ValueError, TypeError, LookupError):
        return None
    return version if isinstance(version, str) and is_version(version) else None


def _identity(path: Path) -> list[int]:
    """Device and inode of a file, which a rename does not change."""
    status = path.lstat()
    return [status.st_dev, status.st_ino]


def _check_own_directories(directory: Path) -> None:
    """Raises ReleaseError when the working directory or the backup was not made by this program."""
    for name in (_WORK, BACKUP):
        path = directory / name
        if not os.path.lexists(path):
            continue
        status = path.lstat()
        # Other users who could write to the working directory could have put a plan there.
        others_write = name == _WORK and status.st_mode & 0o022
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or others_write:
            raise ReleaseError(
                f"{path} is not a directory that this program made for itself; inspect it, and move it away"
            )


def _roll_back(directory: Path) -> None:
    """Undoes an interrupted installation: removes the new files and moves the old ones back."""
    work = directory / _WORK
    if not os.path.lexists(work):
        return
    plan = _read_plan(work)
    if plan is not None:
        # The old files may be in place, moved aside, or already the backup.
        aside = work / "old" if (work / "old").is_dir() else directory / BACKUP
        for name, identity in plan.new.items():
            moved_in = os.path.lexists(directory / name) and _identity(directory / name) == identity
            if moved_in and (name not in plan.old or os.path.lexists(aside / name)):
                (directory / name).unlink()
        for name in plan.old:
            if os.path.lexists(aside / name) and not os.path.lexists(directory / name):
                (aside / name).rename(directory / name)
        fsync_directory(directory)
        left = [name for name in plan.old if os.path.lexists(work / "old" / name)]
        if left:
            raise ReleaseError(
                f"{directory / left[0]} is neither the old file, which is in {work / 'old'}, nor the new one; put the "
                f"old files back and move {work} away"
            )
        (work / _PLAN).unlink()
    shutil.rmtree(work)


@dataclass(frozen=True)
class _Plan:
    """`new`: the files to move in, each with its device and inode. `old`: the names of the files to move aside."""

    new: dict[str, list[int]]
    old: list[str]


def _read_plan(work: Path) -> _Plan | None:
    """The plan of an interrupted installation, or None when there is none.

    Raises ReleaseError for a plan that this program did not write: one that names other files than the contract's.
    """
    path = work / _PLAN
    if not os.path.lexists(path):
        return None
    try:
        plan = read_json(path, SMALL)
        new, old = plan["new"], plan["old"]
        sound = (
            isinstance(new, dict)
            and isinstance(old, list)
            and all(name in _NAMES for name in (*new, *old))
            and all(isinstance(identity, list) for identity in new.values())
            and not any((work / name).is_symlink() for name in (_PLAN, "new", "old"))
        )
    except (OSError, ValueError, TypeError, LookupError):
        sound = False
    if not sound:
        raise ReleaseError(
            f"{path} is not the plan of an installation by this program; inspect {work}, and move it away"
        )
    return _Plan(new, old)
