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
from stash_sense_pipeline.release.contract import PERFORMERS_DB, Flavour, zip_name
from stash_sense_pipeline.release.versions import (
    latest_release,
    named_release,
    release_name,
    release_path,
    remove_release,
)


@dataclass(frozen=True)
class RevokedRelease:
    """A release that holds suppressed people in any flavour, with the numbers of their ids and URLs.

    `removed`: it was deleted here, in all flavours.
    """

    version: str
    records: int
    urls: int
    latest: bool
    removed: bool


def revoked_releases(
    releases: Path, suppressions: Suppressions, hosts: Mapping[str, str], *, delete: bool = False
) -> tuple[RevokedRelease, ...]:
    """The published releases that hold suppressed people, oldest first.

    With `delete` they are removed here, with all flavours, zips and reports, except the one that `latest` shows: publish
    a new one first. Raises ReleaseError, before anything is removed, when releases cannot be read and therefore not
    searched.
    """
    latest = latest_release(releases)
    holding: dict[str, HeldKeys] = {}
    damaged: list[str] = []
    for version, flavour in sorted({*_flavours_with_directory(releases), *_flavours_with_zip_only(releases)}):
        try:
            with _searchable_files(releases, version, flavour) as directory:
                held = held_keys(directory, suppressions, hosts)
        except (ValueError, OSError, ArchiveError):
            damaged.append(release_name(version, flavour))
            continue
        # The flavours hold the same people, unless one of them was damaged or exchanged.
        if version not in holding or held.any:
            holding[version] = held
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


def _flavours_with_directory(releases: Path) -> Iterator[tuple[str, Flavour]]:
    """Those with a directory, also without a zip or a manifest, which no other command counts as releases."""
    for path in releases.iterdir() if releases.is_dir() else ():
        named = named_release(path.name)
        if named is not None and path.is_dir() and not path.is_symlink():
            yield named


def _flavours_with_zip_only(releases: Path) -> Iterator[tuple[str, Flavour]]:
    """Those with a zip and without a directory."""
    for flavour in Flavour:
        prefix, _, suffix = zip_name("*", flavour).partition("*")
        for path in releases.glob(zip_name("*", flavour)):
            version = path.name.removeprefix(prefix).removesuffix(suffix)
            if not release_path(releases, version, flavour).is_dir():
                yield version, flavour


@contextmanager
def _searchable_files(releases: Path, version: str, flavour: Flavour) -> Iterator[Path]:
    """A directory with the files of a release that can hold ids and URLs. Without the release's own, they are unpacked."""
    directory = release_path(releases, version, flavour)
    if directory.is_dir():
        yield directory
        return
    with unpacked_texts(releases / zip_name(version, flavour), releases.parent) as unpacked:
        yield unpacked


@contextmanager
def unpacked_texts(archive: Path, data_dir: Path) -> Iterator[Path]:
    """A private directory with the files of the zip of a release that can hold ids and URLs.

    Raises ArchiveError, ValueError or OSError when the zip cannot be read.
    """
    with private_work(data_dir) as work, opened_archive(archive) as opened:
        for name in opened.sizes:
            if name == PERFORMERS_DB or name.endswith(".json"):
                opened.extract(name, work.directory / name)
        yield work.directory
