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
    """A release that holds suppressed people, by number of their ids and URLs. `removed`: it was deleted here."""

    version: str
    records: int
    urls: int
    latest: bool
    removed: bool


def revoked_releases(
    releases: Path, suppressions: Suppressions, hosts: Mapping[str, str], *, delete: bool = False
) -> tuple[RevokedRelease, ...]:
    """The published releases that hold suppressed people, oldest first; with `delete` they are removed here, with
    zip and reports, except the one that `latest` shows: publish a new one first.

    Raises ReleaseError, before anything is removed, naming those that cannot be read: nobody knows who is in them.
    """
    latest = latest_release(releases)
    holding: dict[str, HeldKeys] = {}
    damaged: list[str] = []
    for version in sorted({*_directories(releases), *_zips_alone(releases)}):
        try:
            with _directory(releases, version) as directory:
                holding[version] = held_keys(directory, suppressions, hosts)
        except (ValueError, OSError, ArchiveError):
            damaged.append(version)
    if damaged:
        raise ReleaseError(
            f"{', '.join(damaged)} in {releases} cannot be read, so nobody knows who is in it; remove it"
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


def _directories(releases: Path) -> Iterator[str]:
    """Also those that have lost their zip or their manifest, which no other command takes for releases."""
    for path in releases.iterdir() if releases.is_dir() else ():
        if is_version(path.name) and path.is_dir() and not path.is_symlink():
            yield path.name


def _zips_alone(releases: Path) -> Iterator[str]:
    prefix, _, suffix = zip_name("*").partition("*")
    for path in releases.glob(zip_name("*")):
        version = path.name.removeprefix(prefix).removesuffix(suffix)
        if not (releases / version).is_dir():
            yield version


@contextmanager
def _directory(releases: Path, version: str) -> Iterator[Path]:
    """The files of a release that can hold ids and URLs, unpacked if there is only the zip."""
    if (releases / version).is_dir():
        yield releases / version
        return
    with private_work(releases.parent) as work, opened_archive(releases / zip_name(version)) as archive:
        for name in archive.sizes:
            if name == PERFORMERS_DB or name.endswith(".json"):
                archive.extract(name, work.directory / name)
        yield work.directory
