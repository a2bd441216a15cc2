"""Writes the reproducible zip of a release, and checks one."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from stash_sense_pipeline.foundation.errors import (
    ArchiveError,
    ReleaseError,
)
from stash_sense_pipeline.foundation.files import replacing, sha256_file
from stash_sense_pipeline.foundation.json_file import LARGE, SMALL
from stash_sense_pipeline.foundation.zip_file import OpenedZip, ZipLimits, open_zip
from stash_sense_pipeline.release.build.manifest import read_manifest
from stash_sense_pipeline.release.build.staging import disk_errors
from stash_sense_pipeline.release.contract import (
    FACES_JSON,
    MANIFEST,
    PERFORMERS_DB,
    PERFORMERS_JSON,
    TATTOO_JSON,
)

_EPOCH = (1980, 1, 1, 0, 0, 0)
# Large, because after every block the packing thread waits for the interpreter lock.
_BLOCK = 16 * 1024 * 1024
_LEVEL = 1
_INDEX_SUFFIXES = (".voy", ".usearch")


def write_zip(release: Path, path: Path) -> None:
    """Packs the files of `release` at the root of `path`. Names are sorted, times and modes fixed: same files, same bytes.

    Indices are stored, because vectors do not compress. The other files, a tenth of the bytes, are deflated at level 1.
    """
    with disk_errors(f"write {path}"), replacing(path) as temporary:
        pack_files(release, temporary)
        check_zip(temporary, release)


def pack_files(directory: Path, path: Path) -> None:
    """Writes the files of a directory to a new zip, as write_zip does, without a check of the result."""
    with zipfile.ZipFile(path, "w", allowZip64=True, compresslevel=_LEVEL) as archive:
        for member in sorted(directory.iterdir()):
            info = zipfile.ZipInfo(member.name, _EPOCH)
            info.create_system = 3
            info.external_attr = 0o100644 << 16
            info.file_size = member.stat().st_size
            stored = member.suffix in _INDEX_SUFFIXES
            info.compress_type = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
            with member.open("rb") as source, archive.open(info, "w") as target:
                shutil.copyfileobj(source, target, _BLOCK)


def check_zip(path: Path, release: Path) -> None:
    """Reads the whole zip and compares it with the manifest, so that a failing disk is found here and not by a user.

    Raises ReleaseError when the zip is damaged or does not hold exactly the files of the manifest of `release`.
    """
    checksums = read_manifest(release).get("checksums")
    if not isinstance(checksums, dict):
        raise ReleaseError(
            f"{release / MANIFEST} has no checksums; run `stash-sense verify {release}` for details"
        )
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


# A million faces with two float32 indices take 5.7 GiB. GitHub allows 2 GiB a file. All bytes are read and hashed.
MAX_RELEASE_BYTES = 8 * 1024**3


# The predecessor's database of 107,759 performers has about 200 MB.
_MAX_BYTES: Mapping[str, int] = {
    MANIFEST: SMALL.size,
    FACES_JSON: LARGE.size,
    PERFORMERS_JSON: LARGE.size,
    TATTOO_JSON: LARGE.size,
    PERFORMERS_DB: 2 * 1024**3,
}


# Rows of one table of performers.db. The checks hold a table's ids in memory, about 300 bytes each.
MAX_ROWS = 3_000_000


# Bytes of one element of an index: the largest vector (1,280 float32) takes 5 KiB, 96 links and their levels 1 KiB.
MAX_BYTES_A_VECTOR = 16 * 1024


INDEX_SLACK = 1024**2


# The contract has nine files; a check names any others. Vectors do not compress, and JSON shrinks to a tenth.
_ZIP_LIMITS = ZipLimits(entries=64, size=MAX_RELEASE_BYTES, ratio=10)


def check_sizes(sizes: Mapping[str, int]) -> None:
    """Raises ValueError when a file (`sizes` is by name) or all files together have more bytes than a release may have."""
    for name, size in sizes.items():
        limit = _MAX_BYTES.get(name, MAX_RELEASE_BYTES)
        if size > limit:
            raise ValueError(f"{name} has {size} bytes, and at most {limit} are allowed")
    total = sum(sizes.values())
    if total > MAX_RELEASE_BYTES:
        raise ValueError(f"the files have {total} bytes, and at most {MAX_RELEASE_BYTES} are allowed")


@contextmanager
def opened_archive(path: Path) -> Iterator[OpenedZip]:
    """Opens the zip of a release and checks its directory and sizes.

    Raises ArchiveError or ValueError, before anything is unpacked, when it is not the zip of a release, and OSError
    when it cannot be read.
    """
    with open_zip(path, _ZIP_LIMITS) as archive:
        check_sizes(archive.sizes)
        yield archive
