"""Reads the faces of a release: position, picture, person, quality."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stash_sense_pipeline.catalog.queries.claims.faces import ClaimRow
from stash_sense_pipeline.records.record_key import RecordKey
from stash_sense_pipeline.release.checks.opened_release import open_database
from stash_sense_pipeline.sources.cleaning.addresses import address

_LARGEST_YAW = 90.0
# Another program's quality is of another scale: the predecessor's is 1 for nearly every face. A face of this program with
# a medium quality is preferred to all of its faces.
_FOREIGN_SCALE = 0.5


class Skipped:
    """Reasons why a face of a release is not claimed."""

    SOURCE = "of a source that is not in sources.yaml"
    PERSON = "of a person who is not in the catalog"
    ADDRESS = "without a usable address of the picture"
    SUPPRESSED = "suppressed"
    SEVERAL = "on a picture with several faces in the release"
    KNOWN = "on a picture that the catalog knows"
    PRUNED = "left out by the release itself"


@dataclass(frozen=True)
class FaceRules:
    """What decides whether a face is claimed.

    `source` maps a name of a source in the release to a configured one. `person` maps a performer id of the release to
    a live record of the catalog. `forbids`: the suppression list, for the address of a picture. `known`: pictures
    (source, url) that need no claim. `refused`: positions with a face that is refused. `own`: this program made the
    release.
    """

    source: Callable[[str], str | None]
    person: Mapping[int, RecordKey]
    forbids: Callable[[str], bool]
    known: Collection[tuple[str, str]]
    refused: Collection[int] = ()
    own: bool = True


@dataclass
class ReadFaces:
    """The claims of a release, sorted by position, and the numbers of skipped faces by reason."""

    rows: list[ClaimRow] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)


def read_faces(directory: Path, rules: FaceRules) -> ReadFaces:
    """Reads the table `faces` of a verified release."""
    found = ReadFaces()
    listed: dict[tuple[str, str], ClaimRow | None] = {}
    for row in _table(directory):
        claim, reason = _claim(row, rules)
        if claim is None:
            found.skipped[reason] += 1
            continue
        picture = (claim.source, claim.url)
        if picture in listed:
            # Which of them a fetched picture would confirm is not known.
            found.skipped[Skipped.SEVERAL] += 1 if listed[picture] is None else 2
            listed[picture] = None
        else:
            listed[picture] = claim
    found.rows = sorted(claim for claim in listed.values() if claim is not None)
    return found


def _table(directory: Path) -> Iterator[Mapping[str, Any]]:
    with open_database(directory) as connection:
        cursor = connection.execute("SELECT * FROM faces ORDER BY facenet_index")
        names = [column[0] for column in cursor.description]
        for row in cursor:
            yield dict(zip(names, row, strict=True))


def _claim(row: Mapping[str, Any], rules: FaceRules) -> tuple[ClaimRow | None, str]:
    """The claim, or the reason why there is none."""
    source, person = rules.source(str(row["source_endpoint"])), rules.person.get(row["performer_id"])
    url, position = address(row["image_url"]), int(row["facenet_index"])
    reason = ""
    if row.get("pruned"):
        reason = Skipped.PRUNED
    elif source is None:
        reason = Skipped.SOURCE
    elif person is None:
        reason = Skipped.PERSON
    elif url is None:
        reason = Skipped.ADDRESS
    elif position in rules.refused or rules.forbids(url):
        reason = Skipped.SUPPRESSED
    elif (source, url) in rules.known:
        reason = Skipped.KNOWN
    else:
        quality = _number(row["quality_score"], 0.0, 1.0) * (1.0 if rules.own else _FOREIGN_SCALE)
        yaw = _number(row.get("yaw"), -_LARGEST_YAW, _LARGEST_YAW)
        return ClaimRow(position, source, url, *person, quality, yaw), ""
    return None, reason


def _number(value: Any, low: float, high: float) -> float:
    """The number within its limits; 0 for what is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return 0.0
    return float(min(max(value, low), high))
