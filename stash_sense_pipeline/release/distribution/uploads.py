"""What was uploaded last to each repository, and what the next upload waits for: `uploads.json` beside the releases.

It names versions, times and numbers, and no person.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stash_sense_pipeline.foundation.errors import ReleaseError
from stash_sense_pipeline.foundation.files import holding_lock, write_atomically
from stash_sense_pipeline.foundation.json_file import SMALL, read_json
from stash_sense_pipeline.release.build.staging import disk_errors
from stash_sense_pipeline.release.versions import is_version

UPLOADS = "uploads.json"


@dataclass(frozen=True)
class Waiting:
    """A newer release that waits: its version, and how many people and faces changed since the uploaded one."""

    version: str
    people: int
    faces: int


@dataclass(frozen=True)
class Upload:
    """The last upload to a repository. `waiting`: the release that the last automatic upload left waiting."""

    version: str
    at: datetime
    waiting: Waiting | None = None


def read_uploads(releases: Path) -> dict[str, Upload]:
    """The last upload to each repository, by its name in small letters. Empty when nothing was uploaded from here.

    Raises ReleaseError for a file that this program did not write.
    """
    path = releases / UPLOADS
    try:
        return {name: _upload(row) for name, row in read_json(path, SMALL).items()}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ReleaseError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        raise ReleaseError(
            f"{path} is damaged ({' '.join(str(error).split())}); remove it: the next release is then uploaded at once"
        ) from error


def write_upload(releases: Path, repository: str, upload: Upload) -> None:
    """Notes the last upload to a repository."""
    with disk_errors(f"write {releases / UPLOADS}"), holding_lock(releases / f".{UPLOADS}.lock"):
        known = {**read_uploads(releases), repository.casefold(): upload}
        rows = {name: _row(one) for name, one in sorted(known.items())}
        write_atomically(releases / UPLOADS, json.dumps(rows, indent=2) + "\n")


def _row(upload: Upload) -> dict[str, Any]:
    row: dict[str, Any] = {"version": upload.version, "at": upload.at.astimezone(UTC).isoformat()}
    return row if upload.waiting is None else {**row, "waiting": vars(upload.waiting)}


def _upload(row: Mapping[str, Any]) -> Upload:
    at = datetime.fromisoformat(row["at"])
    if at.tzinfo is None:
        raise ValueError(f"{row['at']} has no time zone")
    waiting = row.get("waiting")
    return Upload(
        _version(row),
        at.astimezone(UTC),
        None
        if waiting is None
        else Waiting(_version(waiting), int(waiting["people"]), int(waiting["faces"])),
    )


def _version(row: Mapping[str, Any]) -> str:
    version = row["version"]
    if not isinstance(version, str) or not is_version(version):
        raise ValueError(f"{version!r:.40} is no version")
    return version
