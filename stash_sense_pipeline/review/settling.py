"""Settles a decision: the answer becomes an entry of the overrides, signed by a comment."""

from __future__ import annotations

import getpass
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from stash_sense_pipeline.catalog.bounded_reads import ShortReads
from stash_sense_pipeline.catalog.queries.identity.face_verdicts import read_survivors
from stash_sense_pipeline.catalog.queries.identity.identities import read_members
from stash_sense_pipeline.foundation.errors import ConfigurationError, StashSenseError
from stash_sense_pipeline.foundation.visible_text import visible_line
from stash_sense_pipeline.identity.linkage import face_verdicts
from stash_sense_pipeline.identity.linkage.overrides import (
    CANNOT_LINK,
    DUPLICATES,
    FINE,
    LATER,
    MUST_LINK,
    PROVES_NOTHING,
    REVIEWED,
    Override,
    Overrides,
)
from stash_sense_pipeline.identity.override_resolution import resolve_pairs
from stash_sense_pipeline.identity.review_pairs import record_of
from stash_sense_pipeline.privacy.redaction.overrides_text import Entry, NewEntry
from stash_sense_pipeline.records.record_key import RecordKey
from stash_sense_pipeline.review.decision import Answer, Decision, Kind
from stash_sense_pipeline.review.finding import open_decisions
from stash_sense_pipeline.review.overrides_file import add_entry

_LONGEST_REASON = 200
_PAIR_SECTIONS: Mapping[tuple[Kind, Answer], str] = {
    (Kind.PAIR, Answer.SAME): MUST_LINK,
    (Kind.PAIR, Answer.DIFFERENT): CANNOT_LINK,
    (Kind.CONFUSABLE, Answer.SAME): MUST_LINK,
    (Kind.CONFUSABLE, Answer.FINE): CANNOT_LINK,
    (Kind.DUPLICATE, Answer.DUPLICATE): DUPLICATES,
    (Kind.DUPLICATE, Answer.DIFFERENT): CANNOT_LINK,
}


class AlreadySettledError(StashSenseError):
    """Another session, or a line of the file, has settled the decision: nothing was written."""


@dataclass(frozen=True)
class Signature:
    """Who answers, when and why. It becomes the comment of the entry."""

    by: str
    at: datetime
    reason: str = ""

    @classmethod
    def now(cls, reason: str = "") -> Signature:
        """The signature of the user of this process."""
        return cls(_user(), datetime.now(UTC), reason)

    @property
    def comment(self) -> str:
        """The comment in one line."""
        reason = " ".join(visible_line(self.reason).split())[:_LONGEST_REASON]
        return f"{self.at:%Y-%m-%d %H:%M} {self.by}" + (f": {reason}" if reason else "")


def entry_for(decision: Decision, answer: Answer) -> tuple[str, Entry]:
    """Section and entry of the overrides for an answer. Raises ConfigurationError for an answer that it does not take."""
    if answer not in decision.answers:
        raise ConfigurationError(
            f"{decision.decision_id} takes {', '.join(decision.answers)}, and not {answer.value}"
        )
    if answer is Answer.LATER:
        return REVIEWED, (LATER, decision.kind.value, *decision.about)
    section = _PAIR_SECTIONS.get((decision.kind, answer))
    if section is not None:
        return section, tuple(map(":".join, decision.records))
    if answer is Answer.NOT_THIS_PERSON:
        return face_verdicts.NOT_THIS_PERSON, decision.subject
    if answer is Answer.NOT_A_FACE:
        return face_verdicts.NOT_A_FACE, decision.subject[0]
    if answer is Answer.PROVES_NOTHING:
        return PROVES_NOTHING, decision.subject[0]
    return REVIEWED, (FINE, decision.kind.value, *decision.about)


def settle(
    reads: ShortReads, path: Path, decision: Decision, answer: Answer, signature: Signature
) -> tuple[str, Entry]:
    """Writes an answer into the overrides, and returns its section and entry.

    Raises AlreadySettledError when the file settles the decision already, and ConfigurationError for an answer that the
    decision does not take, that contradicts the catalog or another line, or for a file that cannot be used.
    """
    section, entry = entry_for(decision, answer)

    def check(overrides: Overrides) -> None:
        named = _named(overrides) | set(decision.records)
        members = reads(read_members, named)
        if not open_decisions([decision], overrides, members):
            raise AlreadySettledError(
                f"{decision.decision_id} is settled already in {path}; see review settled"
            )
        if section in (MUST_LINK, CANNOT_LINK):
            _check_pair(overrides, section, decision, reads(read_survivors, named))

    add_entry(path, NewEntry(section, entry, signature.comment), check)
    return section, entry


def _check_pair(
    overrides: Overrides, section: str, decision: Decision, live: Mapping[RecordKey, RecordKey | None]
) -> None:
    """Raises ConfigurationError for a pair that would have no effect."""
    line = 1 << 30
    pair = Override(decision.records[0], decision.records[1], line)
    must = (*overrides.must_link, pair) if section == MUST_LINK else overrides.must_link
    cannot = (*overrides.cannot_link, pair) if section == CANNOT_LINK else overrides.cannot_link
    resolved = resolve_pairs(Overrides(must_link=must, cannot_link=cannot), live)
    known = {(row.line, row.text) for row in resolve_pairs(overrides, live).refused}
    for row in resolved.refused:
        if row.line == line or (row.line, row.text) not in known:
            raise ConfigurationError(f"{decision.decision_id}: {row.text}; nothing was written")


def _named(overrides: Overrides) -> set[RecordKey]:
    """The records that the overrides name."""
    pairs = (*overrides.must_link, *overrides.cannot_link, *overrides.duplicates)
    found = {key for pair in pairs for key in (pair.a, pair.b)}
    found |= {row.record for row in overrides.face_verdicts if row.record is not None}
    return found | {record_of(name) for row in overrides.reviewed for name in row.about if ":" in name}


def _user() -> str:
    try:
        return visible_line(getpass.getuser())
    except (OSError, KeyError):
        return f"user {os.getuid()}"
