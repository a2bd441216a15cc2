"""Explains an identity as text: members, evidence, refused links, faces left out."""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa

from stash_sense_pipeline.catalog.queries.identity import explanation
from stash_sense_pipeline.catalog.queries.identity import identities as store
from stash_sense_pipeline.catalog.queries.identity.explanation import EvidenceRow
from stash_sense_pipeline.catalog.queries.identity.face_verdicts import (
    read_owners_of_images,
    read_survivors,
)
from stash_sense_pipeline.catalog.transactions import reading
from stash_sense_pipeline.foundation.errors import StashSenseError
from stash_sense_pipeline.identity.face_matching.performer_faces import Reason
from stash_sense_pipeline.identity.linkage.overrides import NO_OVERRIDES, Overrides
from stash_sense_pipeline.records.record_key import RecordKey

_EVENTS_SHOWN = 20


def explain(engine: sa.Engine, source: str, source_id: str, overrides: Overrides = NO_OVERRIDES) -> list[str]:
    """Lines on the identity of one record: members, evidence, refused links, faces left out, verdicts, history.

    The faces are those that the last choice of trusted faces left out. `overrides`: its verdicts on the members and on
    their images are shown with their lines, also those that no run has read yet.

    Raises StashSenseError when the catalog does not hold the record.
    """
    with reading(engine) as connection:
        if not explanation.has_record(connection, source, source_id):
            raise StashSenseError(f"the catalog holds no record {source}:{source_id}; see stash-sense status")
        performer_id = explanation.identity_of(connection, source, source_id)
        if performer_id is None:
            lines = [
                f"{source}:{source_id} is in no identity: it is gone at its source, or identity has not run since"
            ]
            return lines + _evidence_lines(explanation.evidence_about(connection, [(source, source_id)]))
        members = explanation.members_of(connection, performer_id)
        lines = [f"performer {performer_id}, {len(members)} {'record' if len(members) == 1 else 'records'}:"]
        for member in members:
            facts = [fact for fact in (member.name, member.gender, member.birth_date, member.country) if fact]
            lines.append(f"  {member.source}:{member.source_id}  {', '.join(facts)}".rstrip())
        lines += _evidence_lines(
            explanation.evidence_about(connection, [(member.source, member.source_id) for member in members])
        )
        lines += _face_lines(connection, performer_id)
        records = {(member.source, member.source_id) for member in members}
        lines += _verdict_lines(connection, records, overrides)
        redirected = store.redirected_to(connection, [performer_id])
        if redirected:
            lines.append(f"merged into it: {', '.join(str(row.performer_id) for row in redirected)}")
        lines.append("history:")
        for at, event, detail in explanation.history(connection, performer_id, _EVENTS_SHOWN):
            facts = [f"{key} {_plain(value)}" for key, value in sorted(detail.items()) if value]
            lines.append(f"  {at:%Y-%m-%d %H:%M} {event}: {'; '.join(facts)}")
    return lines


def _evidence_lines(rows: list[EvidenceRow]) -> list[str]:
    lines: list[str] = []
    for title, verdicts in (("evidence:", ("linked", "redundant")), ("refused:", ("refused",))):
        chosen = [row for row in rows if row.verdict in verdicts]
        if chosen:
            lines.append(title)
        for row in chosen:
            reason = f"  [{row.reason}]" if row.reason else ""
            key = f" {row.key}" if row.key else ""
            pair = f"{row.source_a}:{row.source_id_a} - {row.source_b}:{row.source_id_b}"
            lines.append(f"  {row.weight:+.1f} {pair}  {row.kind}{key}{reason}")
    return lines


def _face_lines(connection: sa.Connection, performer_id: int) -> list[str]:
    """The images with trusted faces of the identity, and those with faces that are left out, each with the reason."""
    trusted = explanation.faces_in_releases(connection, performer_id)
    left_out = explanation.faces_left_out(connection, performer_id)
    lines = ["faces in releases:", *(f"  {image}" for image in trusted)] if trusted else []
    if left_out:
        lines.append("faces left out:")
    for row in left_out:
        more = ""
        if row.number is not None:
            more = f" {row.number}" if row.reason == Reason.COLLISION else f", near {row.number} other people"
        lines.append(f"  {row.source}:{row.image_id}  {row.reason}{more}")
    if left_out and not trusted:
        lines.append("  no face is left: releases do not show this performer")
    return lines


def _verdict_lines(
    connection: sa.Connection, records: Collection[RecordKey], overrides: Overrides
) -> list[str]:
    """The operator's verdicts on these records, or on images that they list."""
    if not overrides.face_verdicts:
        return []
    live = read_survivors(connection, {row.record for row in overrides.face_verdicts if row.record})
    owners = read_owners_of_images(connection, {row.image for row in overrides.face_verdicts})
    found = [
        row
        for row in overrides.face_verdicts
        if (
            live.get(row.record) in records
            if row.record
            else not owners.get(row.image, set()).isdisjoint(records)
        )
    ]
    lines = ["your verdicts:"] if found else []
    for row in found:
        gone = "" if row.image in owners else "  (the catalog does not hold the image: no effect)"
        lines.append(f"  line {row.line}: {row}{gone}")
    return lines


def _plain(value: object) -> str:
    """A value of a log entry as text; a record key is a list of two strings."""
    if not isinstance(value, list):
        return str(value)
    if len(value) == 2 and all(isinstance(part, str) and " " not in part for part in value):
        return ":".join(value)
    return ", ".join(_plain(part) for part in value)
