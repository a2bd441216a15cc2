"""Finds and removes releases that hold suppressed people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stash_sense_pipeline.foundation.errors import ArchiveError, ReleaseError
from stash_sense_pipeline.foundation.private_work import private_work
from stash_sense_pipeline.privacy.suppression.suppression_list import Suppressions
from stash_sense_pipeline.release.build.archive import opened_archive
from stash_sense_pipeline.release.checks.suppression_check import HeldKeys, held_keys
from stash_sense_pipeline.release.contract import PERFORMERS_DB, zip_name
from stash_sense_pipeline.release.versions import is_version, latest_release, remove_release


@dataclass(frozen=True)
class RevokedRelease:
    """A release that holds suppressed people, with the numbers of their ids and URLs. `removed`: it was deleted here."""

    version: str
    records: int
    urls: int
    latest: bool
    removed: bool


def revoked_releases(
    releases: Path, suppressions: Suppressions, hosts: Mapping[str, str], *, delete: bool = False
) -> tuple[RevokedRelease, ...]:
    """The published releases that hold suppressed people, oldest first.

    With `delete` they are removed here, with zip and reports, except the one that `latest` shows: publish a new one
    first. Raises ReleaseError, before anything is removed, when releases cannot be read and therefore not searched.
    """
    latest = latest_release(releases)
    holding: dict[str, HeldKeys] = {}
    damaged: list[str] = []
    for version in sorted({*_versions_with_directory(releases), *_versions_with_zip_only(releases)}):
        try:
            with _searchable_files(releases, version) as directory:
                holding[version] = held_keys(directory, suppressions, hosts)
        except (ValueError, OSError, ArchiveError):
            damaged.append(version)
    if damaged:
        raise ReleaseError(
            f"{', '.join(damaged)} in {releases} cannot be read, and may hold suppressed people; remove it"
        )
    found = []
    for version, held in holding.items():
        if not held.any:
            continue
        is_latest = latest is not None and latest.name == version
        removed = delete and not is_latest
        if removed:
            remove_release(releases, version)
        found.append(RevokedRelease(version, held.records, held.urls, is_latest, removed))
    return tuple(found)


def _versions_with_directory(releases: Path) -> Iterator[str]:
    """The versions with a directory, also without a zip or a manifest, which no other command counts as releases."""
    for path in releases.iterdir() if releases.is_dir() else ():
        if is_version(path.name) and path.is_dir() and not path.is_symlink():
            yield path.name


def _versions_with_zip_only(releases: Path) -> Iterator[str]:
    """The versions with a zip and without a directory."""
    prefix, _, suffix = zip_name("*").partition("*")
    for path in releases.glob(zip_name("*")):
        version = path.name.removeprefix(prefix).removesuffix(suffix)
        if not (releases / version).is_dir():
            yield version


@contextmanager
def _searchable_files(releases: Path, version: str) -> Iterator[Path]:
    """A directory with the files of a release that can hold ids and URLs. Without the release's own, they are unpacked."""
    if (releases / version).is_dir():
        yield releases / version
        return
    with private_work(releases.parent) as work, opened_archive(releases / zip_name(version)) as archive:
        for name in archive.sizes:
            if name == PERFORMERS_DB or name.endswith(".json"):
                archive.extract(name, work.directory / name)
        yield work.directory
