"""The flat zip of a release: written with the same bytes every time, and checked against the directory it came from."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

from stash_sense_pipeline.foundation.errors import ArchiveError, ReleaseError
from stash_sense_pipeline.foundation.files import replacing, sha256_file
from stash_sense_pipeline.release.build.manifest import read_manifest
from stash_sense_pipeline.release.build.staging import disk_errors
from stash_sense_pipeline.release.checks.opened_release import opened_archive
from stash_sense_pipeline.release.contract import MANIFEST

_EPOCH = (1980, 1, 1, 0, 0, 0)
# Large, because whoever packs beside another thread waits for it after every block.
_BLOCK = 16 * 1024 * 1024
_LEVEL = 1


def write_zip(release: Path, path: Path) -> None:
    """Packs the files of `release` at the root of `path`. Same files, same bytes: names sorted, fixed times and modes.

    Vectors do not compress, so indices are stored and the rest is deflated, lightly: it is a tenth of the whole.
    """
    with disk_errors(f"write {path}"), replacing(path) as temporary:
        with zipfile.ZipFile(temporary, "w", allowZip64=True, compresslevel=_LEVEL) as archive:
            for member in sorted(release.iterdir()):
                info = zipfile.ZipInfo(member.name, _EPOCH)
                info.create_system = 3
                info.external_attr = 0o100644 << 16
                info.file_size = member.stat().st_size
                info.compress_type = zipfile.ZIP_STORED if member.suffix == ".voy" else zipfile.ZIP_DEFLATED
                with member.open("rb") as source, archive.open(info, "w") as target:
                    shutil.copyfileobj(source, target, _BLOCK)
        check_zip(temporary, release)


def check_zip(path: Path, release: Path) -> None:
    """Reads everything back against the manifest: a disk that lies is found here and not by a user.

    Raises ReleaseError when the zip is damaged or does not hold exactly the files of the manifest of `release`.
    """
    checksums = read_manifest(release).get("checksums")
    if not isinstance(checksums, dict):
        raise ReleaseError(f"{release / MANIFEST} has no checksums; `stash-sense verify {release}` says more")
    expected = {name: str(text).removeprefix("sha256:") for name, text in checksums.items()}
    expected[MANIFEST] = sha256_file(release / MANIFEST)
    try:
        with opened_archive(path) as archive:
            found = {name: archive.sha256(name) for name in archive.sizes}
    except (ArchiveError, ValueError) as error:
        raise ReleaseError(f"{path.name} is damaged: {error}; publish again") from error
    if found != expected:
        wrong = sorted(set(found.items()) ^ set(expected.items()))[0][0]
        raise ReleaseError(f"{wrong} in {path.name} is not the file of the manifest; publish again")
