"""The zip of a backup: unpacked within limits, and validated before any file in it is opened."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stash_sense_pipeline.catalog.schema import metadata
from stash_sense_pipeline.foundation.errors import ArchiveError, CatalogError, DatabaseFileError
from stash_sense_pipeline.foundation.files import sha256_file
from stash_sense_pipeline.foundation.json_file import SMALL, parse_json
from stash_sense_pipeline.foundation.sqlite_file import check_objects, open_read_only, run_checks
from stash_sense_pipeline.foundation.zip_file import OpenedZip, ZipLimits, open_zip, room_for

CATALOG = "catalog.db"
CONTENTS = "backup.json"
FORMAT = 1
# For the catalog and the operator's files. A catalog without crops and vectors is mostly text, which packs to a fifth.
_LIMITS = ZipLimits(entries=32, size=1024**4, ratio=20)
# For the files that the operator writes by hand. Their readers have limits too.
_MAX_FILE = 16 * 1024**2
# Tables of older revisions. The migration after restoring removes or replaces them.
_FORMER_TABLES = frozenset({"alembic_version", "identity_keys", "identity_records", "withheld_records"})
_MAX_ROWS = 1_000_000_000
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class BackupContents:
    """The content of backup.json: the time of the backup, and the SHA-256 of each file by name."""

    made_at: datetime
    sha256: Mapping[str, str]


def unpack_backup(path: Path, directory: Path, known: Collection[str]) -> BackupContents:
    """Unpacks a backup into an empty directory and verifies it. `known` are the names of the operator's files.

    It checks the format, each file's name, size and SHA-256, and that the catalog holds only tables of a catalog.
    Raises CatalogError, one line that names the backup, when a check fails.
    """
    try:
        with open_zip(path, _LIMITS) as archive:
            contents = _read_contents(archive)
            _check_parts(contents, archive, known)
            _check_room(archive, directory)
            for name in contents.sha256:
                archive.extract(name, directory / name)
        for name, digest in contents.sha256.items():
            if sha256_file(directory / name) != digest:
                raise ValueError(f"{name} does not have the SHA-256 that {CONTENTS} states")
        with open_read_only(directory / CATALOG) as connection:
            tables = {*metadata.tables, *_FORMER_TABLES}
            check_objects(connection, tables, without_rowid=True)
            run_checks(connection, tables, _MAX_ROWS)
    except FileNotFoundError as error:
        raise CatalogError(f"there is no backup {path}") from error
    except OSError as error:
        raise CatalogError(f"the backup {path} cannot be unpacked: {error.strerror or error}") from error
    except (ArchiveError, DatabaseFileError, ValueError) as error:
        raise CatalogError(
            f"{path} is not a backup of stash-sense, or is damaged: {error}; use another one"
        ) from error
    return contents


def _read_contents(archive: OpenedZip) -> BackupContents:
    value = parse_json(archive.read(CONTENTS, SMALL.size), SMALL)
    if not isinstance(value, dict):
        raise ValueError(f"{CONTENTS} is not an object")
    if type(value.get("format")) is not int or value["format"] != FORMAT:
        raise ValueError(
            f"its format is {value.get('format')!r:.40}, and this program reads {FORMAT}; upgrade stash-sense if it is newer"
        )
    digests = value.get("sha256")
    if not isinstance(digests, dict) or not all(
        isinstance(digest, str) and _DIGEST.fullmatch(digest) for digest in digests.values()
    ):
        raise ValueError(f"{CONTENTS} lacks the SHA-256 of a file")
    return BackupContents(_moment(value.get("made_at")), digests)


def _moment(value: Any) -> datetime:
    try:
        moment = datetime.fromisoformat(value)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{CONTENTS} has no valid time of creation") from None


def _check_parts(contents: BackupContents, archive: OpenedZip, known: Collection[str]) -> None:
    if CATALOG not in contents.sha256:
        raise ValueError(f"there is no {CATALOG} in it")
    for name in contents.sha256:
        if name != CATALOG and name not in known:
            raise ValueError(f"it names {name!r:.80}, which is not a file of a backup")
    if {CONTENTS, *contents.sha256} != set(archive.sizes):
        raise ValueError(f"its files are not those that {CONTENTS} names")
    for name, size in archive.sizes.items():
        if name != CATALOG and size > _MAX_FILE:
            raise ValueError(f"{name} has {size} bytes, and at most {_MAX_FILE} are allowed")


def _check_room(archive: OpenedZip, directory: Path) -> None:
    needed = sum(archive.sizes.values())
    if room_for(needed, [directory]) is None:
        raise ValueError(f"it unpacks to {needed} bytes, and the disk of {directory} has fewer")
