"""The data card: composition, error rates by group, limits of use."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from stash_sense_pipeline.catalog.queries.claims import faces as claimed_faces
from stash_sense_pipeline.catalog.queries.claims.faces import FaceCounts
from stash_sense_pipeline.catalog.schema import suppressions, withheld_records
from stash_sense_pipeline.catalog.transactions import reading
from stash_sense_pipeline.foundation.files import PUBLIC_FILE, read_only_sqlite, write_atomically
from stash_sense_pipeline.foundation.tables.table import Table, table_of
from stash_sense_pipeline.foundation.visible_text import visible
from stash_sense_pipeline.privacy.suppression.suppression_hashes import OTHER, PERSONA
from stash_sense_pipeline.release.build.manifest import read_manifest
from stash_sense_pipeline.release.checks.accuracy.measurement import Accuracy
from stash_sense_pipeline.release.checks.accuracy.thresholds import FACE_BUCKETS, bucket_name
from stash_sense_pipeline.release.checks.check_result import CheckResult
from stash_sense_pipeline.release.contract import PERFORMERS_DB, PLACE_TABLES
from stash_sense_pipeline.release.reports.accuracy_tables import group_blocks, threshold_blocks
from stash_sense_pipeline.release.reports.document import Block, Heading, TableBlock, Text, markdown_document
from stash_sense_pipeline.release.reports.report_sections import tattoo_blocks
from stash_sense_pipeline.release.snapshot import read_face_pictures

_LIMITS = """\
- The release holds only people that a stash-box lists, with the images that the sources chose: mostly posed, well lit
  and recent.
- A match is a similarity of two faces. It is a suggestion that the user confirms, never a proof of identity.
- People with one or two faces are found much less often, and are more often confused with others, than people with many.
- Look-alikes, siblings and twins are confused with each other. Profile views and small or blurred faces fail.
- Gender, ethnicity and dates are those of the sources. They are often missing and sometimes wrong.
- The embedders were trained by others on faces that are not balanced over age, gender and skin colour. The errors above
  are measured on this release only, not on images of other kinds."""
_PROHIBITED_USE = """\
To identify people other than the adult performers in the user's own media library: not on the street, not in private
images, not at work, not by a person with power over them. The program that made this release has no endpoint for it.
A person who asks for it is removed; see PRIVACY.md."""


def data_card_path(release: Path) -> Path:
    """The path of the data card of a published release."""
    return release.parent / f"{release.name}.datacard.md"


def write_data_card(
    engine: sa.Engine, release: Path, accuracy: Accuracy, checks: Sequence[CheckResult]
) -> Path:
    """Writes `<version>.datacard.md` beside a published release and returns its path.

    The card is not in the release, which holds only the files of the sidecar's contract. `accuracy`: as the checks of
    the release measured it.
    """
    path = data_card_path(release)
    counts = _Counts(_withheld_counts(engine), _face_origins(engine, release))
    blocks = _blocks(read_manifest(release), _people(release), accuracy, counts, checks)
    write_atomically(path, visible(markdown_document(blocks)), mode=PUBLIC_FILE)
    return path


def _people(release: Path) -> dict[int, dict[str, Any]]:
    """The performers of the release with their fields, the sources of their faces, and the tables that list their marks."""
    with closing(sqlite3.connect(read_only_sqlite(release / PERFORMERS_DB), uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        people = {row["id"]: dict(row) for row in connection.execute("SELECT * FROM performers")}
        for person in people.values():
            person["sources"] = Counter()
            person["marks"] = set()
        for row in connection.execute("SELECT performer_id, source_endpoint FROM faces"):
            people[row["performer_id"]]["sources"][row["source_endpoint"]] += 1
        for table in PLACE_TABLES:
            for (number,) in connection.execute(f"SELECT DISTINCT performer_id FROM {table}"):
                people[number]["marks"].add(table)
    return people


@dataclass(frozen=True)
class _Counts:
    """Counts of the catalog: withheld records by reason, and where the faces of each source come from."""

    withheld: Mapping[str, int]
    origins: Mapping[str, FaceCounts]


def _face_origins(engine: sa.Engine, release: Path) -> dict[str, FaceCounts]:
    """By source: the faces of the release that were seen or proven, and the claimed ones of the catalog."""
    released = read_face_pictures(release)
    with reading(engine) as connection:
        proven, stored = claimed_faces.proven_pictures(connection), claimed_faces.face_counts(connection)
    every = Counter(source for source, _ in released)
    of_claims = Counter(picture[0] for picture in released if picture in proven)
    waiting = {source: counts.claimed for source, counts in stored.items() if counts.claimed}
    return {
        source: FaceCounts(waiting.get(source, 0), of_claims[source], every[source] - of_claims[source])
        for source in sorted(every.keys() | waiting.keys())
    }


def _withheld_counts(engine: sa.Engine) -> dict[str, int]:
    """The number of withheld records by reason, and of suppressed keys."""
    table = withheld_records
    by_reason = sa.select(table.c.reason, sa.func.count()).group_by(table.c.reason).order_by(table.c.reason)
    with reading(engine) as connection:
        found = {str(reason): int(count) for reason, count in connection.execute(by_reason)}
        counted = suppressions.c.kind.not_in((PERSONA, OTHER))
        keys = connection.scalar(sa.select(sa.func.count()).where(counted)) or 0
    return {**found, "suppressed keys": max(keys - 1, 0)}


def _blocks(
    manifest: Mapping[str, Any],
    people: Mapping[int, Mapping[str, Any]],
    accuracy: Accuracy,
    counts: _Counts,
    checks: Sequence[CheckResult],
) -> list[Block]:
    faces = Counter[str]()
    for person in people.values():
        faces.update(person["sources"])
    results = [(check.label, check.passed, check.detail) for check in checks]
    return [
        Heading(1, f"Data card of release {manifest['version']}"),
        Text(
            f"{len(people)} performers with {sum(faces.values())} faces, from {', '.join(manifest['sources'])}."
        ),
        Text(f"{_newest_text(people)}Input digest `{manifest['input_digest']}`."),
        *_section("Sources", _source_table(people, faces)),
        Heading(2, "Where the vectors come from"),
        Text(
            "seen: made by this program from the picture. proven: taken over from a release after its sample agreed, with"
            " the picture not seen yet. claimed: in the catalog, and in no release."
        ),
        TableBlock("Where the vectors come from", _origin_table(counts)),
        *_section("Completeness", table_of(("faces", "performers"), _people_by_face_count(people))),
        TableBlock("Fields", _field_table(people)),
        Text(_places_text(people)),
        Heading(2, "What a threshold means"),
        *threshold_blocks(accuracy.thresholds),
        Heading(2, "Errors by group"),
        *group_blocks(accuracy.groups),
        *tattoo_blocks(checks),
        *_section(
            "Withheld and suppressed", table_of(("reason", "records or keys"), counts.withheld.items())
        ),
        *_section("Checks before publication", table_of(("check", "passed", "finding"), results)),
        Heading(2, "Known limits"),
        Text(_LIMITS),
        Heading(2, "Prohibited use"),
        Text(_PROHIBITED_USE),
    ]


def _section(title: str, table: Table) -> list[Block]:
    return [Heading(2, title), TableBlock(title, table)]


def _source_table(people: Mapping[int, Mapping[str, Any]], faces: Mapping[str, int]) -> Table:
    rows = [
        (source, count, sum(source in person["sources"] for person in people.values()))
        for source, count in sorted(faces.items())
    ]
    return table_of(("source", "faces", "performers with a face from it"), rows)


def _origin_table(counts: _Counts) -> Table:
    rows = [(source, each.seen, each.proven, each.claimed) for source, each in counts.origins.items()]
    return table_of(("source", "seen", "proven", "claimed"), rows)


def _field_table(people: Mapping[int, Mapping[str, Any]]) -> Table:
    rows = [
        (field, sum(person[field] is not None for person in people.values()) / len(people))
        for field in ("gender", "ethnicity", "country", "birth_date")
    ]
    return table_of(("field", "performers with a value"), rows, {"performers with a value": ".0%"})


def _newest_text(people: Mapping[int, Mapping[str, Any]]) -> str:
    changes = [person["updated_at"] for person in people.values() if person["updated_at"] is not None]
    return f"Newest record of {max(changes)}. " if changes else ""


def _places_text(people: Mapping[int, Mapping[str, Any]]) -> str:
    counted = [
        f"{table} of {sum(table in person['marks'] for person in people.values())}" for table in PLACE_TABLES
    ]
    return f"Places on the body, without descriptions, as stash-boxes state them: {', '.join(counted)} performers."


def _people_by_face_count(people: Mapping[int, Mapping[str, Any]]) -> Iterator[tuple[str, int]]:
    counts = [person["face_count"] for person in people.values()]
    for fewest, most in FACE_BUCKETS:
        yield bucket_name(fewest, most), sum(fewest <= count <= (most or count) for count in counts)
