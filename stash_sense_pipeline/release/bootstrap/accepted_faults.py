"""Failed checks that do not keep a release from being taken over, because nothing that is taken over depends on them.

The page docs/bootstrap.md lists all checks, with the reasons for accepting or refusing.
"""

from __future__ import annotations

from collections.abc import Mapping

from stash_sense_pipeline.release.checks.check_result import CheckResult
from stash_sense_pipeline.release.checks.verify import NO_CHECKSUM

# By check: why its failure changes nothing.
ACCEPTED: Mapping[str, str] = {
    "manifest_counts": "faces and people are counted anew",
    "manifest_sources": "the sources are read from performers.db",
    "performers_json": "names come from performers.db, and fields that cannot be used are left out",
    "image_urls": "the picture that a release shows of a person is chosen anew",
    "closure": "people and the owners of faces come from performers.db",
    "face_counts": "faces are counted anew",
    "database_face_counts": "faces are counted anew",
    "database_foreign_keys": "rows without a performer are left out",
    "database_image_urls": "a face without an address of its picture is left out",
    "database_dates": "dates are cleaned as those of a source, and an unreadable date of birth is no proof of age",
    "database_times": "times are not taken over",
    "database_places": "places of tattoos and piercings are not taken over",
    "database_tattoo_detections": "tattoos are not taken over",
}
# Checks of which only the failures that begin so are accepted.
ACCEPTED_FINDINGS: Mapping[str, tuple[str, str]] = {
    # As in manifests of the predecessor.
    "checksums": (NO_CHECKSUM, "the sample proves vectors, and the sources settle the rest"),
    "database_journal_mode": ("WAL", "the file is read and checked without a journal"),
}


def why_accepted(failure: CheckResult) -> str | None:
    """Why a failed check does not matter; None when the release must be refused for it."""
    if failure.name in ACCEPTED:
        return ACCEPTED[failure.name]
    beginning, reason = ACCEPTED_FINDINGS.get(failure.name, (None, None))
    return reason if beginning is not None and failure.detail.startswith(beginning) else None
