"""Review list for the operator: refused links, near matches, faces left out, people without a face, hubs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import sqlalchemy as sa

from stash_sense_pipeline.catalog.bounded_reads import ShortReads
from stash_sense_pipeline.catalog.queries.identity import identity_runs as runs
from stash_sense_pipeline.catalog.queries.identity.trusted_faces import (
    images_of_faces,
    people_without_a_face,
    read_collisions,
    read_exclusions,
)
from stash_sense_pipeline.catalog.transactions import reading
from stash_sense_pipeline.foundation.files import make_directory, write_atomically
from stash_sense_pipeline.foundation.tables.csv_writer import csv_text
from stash_sense_pipeline.foundation.tables.markdown_writer import markdown_lines
from stash_sense_pipeline.foundation.tables.table import Table, table_of
from stash_sense_pipeline.identity.face_matching.performer_faces import Reason
from stash_sense_pipeline.identity.linkage.overrides import NO_OVERRIDES, Overrides
from stash_sense_pipeline.identity.override_resolution import refused_overrides
from stash_sense_pipeline.identity.review_pairs import pairs_to_review
from stash_sense_pipeline.privacy.redaction.report_redaction import texts_locked

MARKDOWN, TABLE = "identity.md", "identity.csv"
# Written beside them, from what identity never joins: see source_suggestions.
SUGGESTIONS = "suggestions.csv"
_COLUMNS = ("section", "about", "evidence", "reason", "weight")
_SHOWN = 100
_HOLDERS_SHOWN = 5
_LISTED = (Reason.HUB, Reason.COPY, Reason.NOT_A_FACE, Reason.NOT_THIS_PERSON)
_SECTIONS = {
    "conflict": "links that something contradicts; settle one with must_link or cannot_link in the overrides",
    "face": "faces that agree or nearly so, where nothing else joins the records",
    "near": "pairs that a little more evidence would link; perhaps one person: must_link",
    "collision": "faces nearer to another performer than to their own; kept out of releases",
    "hub_face": "faces near many people; kept out of releases",
    "copy": "pictures that two people show in different sources, taken from one of them; perhaps one person: must_link",
    "verdict": "faces that verdicts of the overrides leave out, and overrides without effect",
    "no_face": "people with every face kept out of releases",
    "hub": "pages on too many records to prove anything",
}


@dataclass(frozen=True)
class Finding:
    """One line of the report. `about`: the keys of its records."""

    section: str
    about: str
    evidence: str
    reason: str
    weight: float


def write_review(
    engine: sa.Engine, directory: Path, now: datetime, overrides: Overrides = NO_OVERRIDES
) -> Mapping[str, int]:
    """Writes identity.md (the first findings of each section) and identity.csv (all). Returns counts by section.

    Lines of the `overrides` without effect are listed with their reasons.

    The files are for the operator alone: they contain record keys, pages and names. An erasure blanks the lines about
    the erased records. `directory` is in DATA_DIR; its lock for texts is held while the files are written.
    """
    refused = refused_overrides(ShortReads(engine), overrides)
    with texts_locked(directory.parent):
        with reading(engine) as connection:
            findings = [
                *_pairs(connection, overrides),
                *_collisions(connection),
                *_exclusions(connection),
                *(Finding("verdict", "", problem, "no effect", 0.0) for problem in refused),
                *_people_without_a_face(connection),
                *_hubs(connection),
            ]
        make_directory(directory)
        table = findings_table(findings)
        write_atomically(directory / TABLE, csv_text(table))
        write_atomically(directory / MARKDOWN, _as_markdown(table, now))
    return {section: sum(row.section == section for row in findings) for section in _SECTIONS}


def _pairs(connection: sa.Connection, overrides: Overrides) -> list[Finding]:
    """Refused pairs, and pairs that were not compared because they share an alias only."""
    return [
        Finding(
            pair.section,
            f"{':'.join(pair.a)} - {':'.join(pair.b)}",
            "; ".join(sorted(f"{weight:+.1f} {kind} {key}".strip() for kind, key, weight in pair.rows))
            if pair.rows[0][0]
            else pair.rows[0][1],
            pair.reason,
            pair.weight,
        )
        for pair in pairs_to_review(connection, overrides)
    ]


def _collisions(connection: sa.Connection) -> list[Finding]:
    collisions = read_collisions(connection)
    images = images_of_faces(connection, list(collisions))
    found = [
        Finding(
            "collision",
            f"{row.source}:{row.source_id}",
            f"{images[face_id]} of performer {row.performer_id}: cosine {row.similarity:.2f} to its other faces",
            f"{row.nearer_similarity:.2f} to performer {row.nearer_to}",
            row.nearer_similarity - row.similarity,
        )
        for face_id, row in collisions.items()
    ]
    return sorted(found, key=lambda row: (-row.weight, row.about, row.evidence))


def _exclusions(connection: sa.Connection) -> list[Finding]:
    """Hubs, the nearest to most people first, copies, and the faces that verdicts leave out."""
    hubs: list[Finding] = []
    others: list[Finding] = []
    listed = {key: row for key, row in read_exclusions(connection).items() if row.reason in _LISTED}
    images = images_of_faces(connection, [face_id for face_id, _ in listed])
    for (face_id, performer_id), row in listed.items():
        about, face = f"{row.source}:{row.source_id}", f"{images[face_id]} of performer {performer_id}"
        if row.reason == Reason.HUB:
            people = row.people or 0
            hubs.append(Finding("hub_face", about, face, f"near {people} other people", float(people)))
        else:
            section = "copy" if row.reason == Reason.COPY else "verdict"
            others.append(Finding(section, about, face, row.reason, 0.0))
    return [*sorted(hubs, key=lambda row: (-row.weight, row.about, row.evidence)), *others]


def _people_without_a_face(connection: sa.Connection) -> list[Finding]:
    found: list[Finding] = []
    for performer_id, faces in people_without_a_face(connection).items():
        records = sorted({f"{source}:{source_id}" for source, source_id, _ in faces})
        more = f" and {len(records) - _HOLDERS_SHOWN} more" if len(records) > _HOLDERS_SHOWN else ""
        counts = Counter(reason for _, _, reason in faces)
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
        about = ", ".join(records[:_HOLDERS_SHOWN]) + more
        found.append(Finding("no_face", about, f"performer {performer_id}", reasons, 0.0))
    return found


def _hubs(connection: sa.Connection) -> list[Finding]:
    hubs = runs.read_hubs(connection)
    holders = runs.KeyIndex.of(runs.read_keys(connection)).holders(digest for digest, _, _ in hubs)
    found: list[Finding] = []
    for digest, key, count in hubs:
        some = sorted(holders.get(digest, ()))[:_HOLDERS_SHOWN]
        about = ", ".join(f"{source}:{source_id}" for source, source_id in some)
        more = f" and {count - len(some)} more" if count > len(some) else ""
        found.append(Finding("hub", about + more, key, f"{count} records", float(count)))
    return found


def findings_table(findings: Sequence[Finding]) -> Table:
    """The findings as a table, in their order."""
    rows = [(row.section, row.about, row.evidence, row.reason, round(row.weight, 2)) for row in findings]
    return table_of(_COLUMNS, rows)


def _as_markdown(table: Table, now: datetime) -> str:
    lines = [
        f"# Identities to look at, {now:%Y-%m-%d %H:%M} UTC",
        "",
        f"Mistakes to correct at the sources, such as two records of one person, are in {SUGGESTIONS}.",
        "",
    ]
    for section, meaning in _SECTIONS.items():
        rows = Table(table.frame.loc[table.frame["section"] == section, ["about", "evidence", "reason"]])
        lines += [f"## {section}: {len(rows)}", "", meaning, "", *markdown_lines(rows.head(_SHOWN))]
        if len(rows) > _SHOWN:
            lines += ["", f"and {len(rows) - _SHOWN} more in {TABLE}"]
        lines.append("")
    return "\n".join(lines)
