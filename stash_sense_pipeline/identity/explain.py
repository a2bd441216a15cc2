"""Explains an identity, as text or as data: members, evidence, refused links, faces left out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from stash_sense_pipeline.catalog.queries.identity import explanation
from stash_sense_pipeline.catalog.queries.identity import identities as store
from stash_sense_pipeline.catalog.queries.identity.explanation import EvidenceRow, LeftOutFace
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


@dataclass(frozen=True)
class Explanation:
    """What the catalog holds about the identity of one record.

    `performer_id` is None, and all but the evidence is empty, for a record that is in no identity. `in_releases`: images
    with trusted faces. `verdicts`: the operator's, one line each. `merged`: ids of identities that were merged into it.
    """

    record: str
    performer_id: int | None
    evidence: Sequence[EvidenceRow]
    members: Sequence[sa.Row[Any]] = ()
    in_releases: Sequence[str] = ()
    left_out: Sequence[LeftOutFace] = ()
    verdicts: Sequence[str] = ()
    merged: Sequence[int] = ()
    history: Sequence[tuple[datetime, str, Mapping[str, Any]]] = ()

    def as_data(self) -> dict[str, Any]:
        """All of it as JSON values; times and dates stay as they are."""
        rows = {
            name: [row._asdict() for row in getattr(self, name)]
            for name in ("evidence", "members", "left_out")
        }
        events = [{"at": at, "event": event, "detail": detail} for at, event, detail in self.history]
        return {**vars(self), **rows, "history": events}

    def lines(self) -> list[str]:
        """All of it as text for a terminal."""
        if self.performer_id is None:
            first = (
                f"{self.record} is in no identity: it is gone at its source, or identity has not run since"
            )
            return [first, *_evidence_lines(self.evidence)]
        count = len(self.members)
        lines = [f"performer {self.performer_id}, {count} {'record' if count == 1 else 'records'}:"]
        for member in self.members:
            facts = [fact for fact in (member.name, member.gender, member.birth_date, member.country) if fact]
            lines.append(f"  {member.source}:{member.source_id}  {', '.join(facts)}".rstrip())
        lines += [*_evidence_lines(self.evidence), *_face_lines(self.in_releases, self.left_out)]
        lines += ["your verdicts:", *(f"  {line}" for line in self.verdicts)] if self.verdicts else []
        if self.merged:
            lines.append(f"merged into it: {', '.join(map(str, self.merged))}")
        lines.append("history:")
        for at, event, detail in self.history:
            facts = [f"{key} {_plain(value)}" for key, value in sorted(detail.items()) if value]
            lines.append(f"  {at:%Y-%m-%d %H:%M} {event}: {'; '.join(facts)}")
        return lines


def explain(
    engine: sa.Engine, source: str, source_id: str, overrides: Overrides = NO_OVERRIDES
) -> Explanation:
    """The identity of one record: members, evidence, refused links, faces left out, verdicts, history.

    The faces are those that the last choice of trusted faces left out. `overrides`: its verdicts on the members and on
    their images are shown with their lines, also those that no run has read yet.

    Raises StashSenseError when the catalog does not hold the record.
    """
    record = f"{source}:{source_id}"
    with reading(engine) as connection:
        if not explanation.has_record(connection, source, source_id):
            raise StashSenseError(f"the catalog holds no record {record}; see stash-sense status")
        performer_id = explanation.identity_of(connection, source, source_id)
        if performer_id is None:
            about = explanation.evidence_about(connection, [(source, source_id)])
            return Explanation(record, None, about)
        members = explanation.members_of(connection, performer_id)
        records = [(member.source, member.source_id) for member in members]
        return Explanation(
            record,
            performer_id,
            explanation.evidence_about(connection, records),
            members,
            explanation.faces_in_releases(connection, performer_id),
            explanation.faces_left_out(connection, performer_id),
            _verdict_lines(connection, frozenset(records), overrides),
            [row.performer_id for row in store.redirected_to(connection, [performer_id])],
            explanation.history(connection, performer_id, _EVENTS_SHOWN),
        )


def _evidence_lines(rows: Sequence[EvidenceRow]) -> list[str]:
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


def _face_lines(trusted: Sequence[str], left_out: Sequence[LeftOutFace]) -> list[str]:
    """The images with trusted faces of the identity, and those with faces that are left out, each with the reason."""
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
    gone = "  (the catalog does not hold the image: no effect)"
    return [f"line {row.line}: {row}{'' if row.image in owners else gone}" for row in found]


def _plain(value: object) -> str:
    """A value of a log entry as text; a record key is a list of two strings."""
    if not isinstance(value, list):
        return str(value)
    if len(value) == 2 and all(isinstance(part, str) and " " not in part for part in value):
        return ":".join(value)
    return ", ".join(_plain(part) for part in value)
