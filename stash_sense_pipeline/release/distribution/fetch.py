"""Fetches the newest release of a repository, as the sidecar's updater does, and installs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stash_sense_pipeline.foundation.errors import ArchiveError, ReleaseError
from stash_sense_pipeline.foundation.private_work import private_work
from stash_sense_pipeline.foundation.progress import Progress
from stash_sense_pipeline.foundation.visible_text import visible_line
from stash_sense_pipeline.foundation.zip_file import room_for
from stash_sense_pipeline.release.build.staging import disk_errors
from stash_sense_pipeline.release.contract import ASSET_LIMIT_BYTES, zip_name
from stash_sense_pipeline.release.distribution.github import Destination, GithubReleases
from stash_sense_pipeline.release.distribution.install import (
    InstallReport,
    install_release,
    installed_version,
)
from stash_sense_pipeline.release.distribution.revocation import unpacked_texts
from stash_sense_pipeline.release.versions import is_version


@dataclass(frozen=True)
class FetchReport:
    """The newest version of the repository; `installed` is None when the directory has it, or a newer one, already."""

    version: str
    previous: str | None
    installed: InstallReport | None


def fetch_release(
    repository: Destination,
    directory: Path,
    data_dir: Path,
    *,
    check: Callable[[Path], None] = lambda release: None,
    progress: Progress | None = None,
) -> FetchReport:
    """Installs the newest release of a repository into `directory`, a sidecar's data directory; stop the sidecar first.

    As the sidecar's updater does it takes the first .zip of the newest release, and compares versions as text. Nothing is
    downloaded when `directory` is as new. The zip is downloaded to a private directory in `data_dir`, and must have the
    size and digest that the server states, the version of its tag, and pass every line of the contract. `check` raises
    for a release that must not be installed; it gets a directory with the texts of the release. Raises ReleaseError, with
    the old files in place.
    """
    with GithubReleases(repository) as github:
        found = github.newest()
        version = str(found.get("tag_name")).lstrip("v")
        if not is_version(version):
            tag = visible_line(str(found.get("tag_name")))
            raise ReleaseError(
                f"the newest release of {repository.repository} has the tag {tag:.60}, which is not v and a version"
            )
        previous = installed_version(directory)
        if previous is not None and previous >= version:
            return FetchReport(version, previous, None)
        asset = _first_zip(found, repository.repository)
        with disk_errors(f"fetch {version}"), private_work(data_dir) as work:
            # The name has the version of the tag: the verification compares it with the manifest.
            archive = work.directory / zip_name(version, repository.flavour)
            if room_for(asset["size"], [work.directory]) is None:
                raise ReleaseError(f"{asset['size']} bytes do not fit on the disk of {data_dir}")
            github.download(asset, archive, progress)
            try:
                with unpacked_texts(archive, data_dir) as texts:
                    check(texts)
            except (ArchiveError, ValueError) as error:
                raise ReleaseError(
                    f"{version} of {repository.repository} is not installed: {error}"
                ) from error
            return FetchReport(version, previous, install_release(archive, directory))


def _first_zip(release: Mapping[str, Any], repository: str) -> dict[str, Any]:
    """The first .zip of a release, with a usable address and size. Raises ReleaseError when there is none."""
    assets = release.get("assets")
    for asset in assets if isinstance(assets, list) else ():
        if isinstance(asset, dict) and str(asset.get("name")).endswith(".zip"):
            size = asset.get("size")
            if (
                not isinstance(size, int)
                or not 0 < size < ASSET_LIMIT_BYTES
                or not isinstance(asset.get("url"), str)
            ):
                raise ReleaseError(f"the zip of {repository} has no address, or no size below 2 GiB")
            return asset
    raise ReleaseError(f"the newest release of {repository} has no zip")
