"""The settled decisions: each entry of the overrides, who wrote it and why, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from stash_sense_pipeline.catalog.bounded_reads import ShortReads
from stash_sense_pipeline.catalog.queries.identity import face_verdicts as verdict_store
from stash_sense_pipeline.catalog.queries.identity import identity_runs as runs
from stash_sense_pipeline.catalog.queries.identity import review_details
from stash_sense_pipeline.catalog.queries.identity.identities import read_members
from stash_sense_pipeline.identity.linkage.evidence import WEIGHTS
from stash_sense_pipeline.identity.linkage.face_verdicts import NOT_A_FACE, NOT_THIS_PERSON
from stash_sense_pipeline.identity.linkage.overrides import (
    CANNOT_LINK,
    DUPLICATES,
    LATER,
    MUST_LINK,
    PROVES_NOTHING,
    load_overrides,
)
from stash_sense_pipeline.identity.override_resolution import refused_overrides
from stash_sense_pipeline.identity.review_pairs import record_of
from stash_sense_pipeline.identity.run_steps import RunRules
from stash_sense_pipeline.privacy.redaction.overrides_text import Entry
from stash_sense_pipeline.privacy.suppression.suppression_hashes import profile_hash
from stash_sense_pipeline.privacy.suppression.suppression_list import NO_SUPPRESSIONS, Suppressions
from stash_sense_pipeline.records.profile_urls import ProfileKey
from stash_sense_pipeline.records.record_key import RecordKey
from stash_sense_pipeline.review.overrides_file import comments, entries

_WAITS = "waits for the next identity run"


@dataclass(frozen=True)
class Settled:
    """An entry of the overrides. `outcome`: what came of it. `refused`: it has no effect, and `outcome` says why."""

    line: int
    section: str
    names: tuple[str, ...]
    comment: str
    outcome: str
    refused: bool = False

    @property
    def entry(self) -> Entry:
        """The entry as the file has it."""
        return self.names[0] if self.section in (NOT_A_FACE, PROVES_NOTHING) else self.names


@dataclass(frozen=True)
class RunInputs:
    """What an identity run depends on besides catalog and overrides: stash-box hosts, and the embedders' digests."""

    hosts: Mapping[str, str]
    models: Mapping[str, str]


def settled_decisions(
    engine: sa.Engine, path: Path, inputs: RunInputs, listed: Suppressions = NO_SUPPRESSIONS
) -> list[Settled]:
    """The entries of the file in their order, without those that name suppressed people.

    Raises ConfigurationError with file and line when the file cannot be parsed.
    """
    overrides = load_overrides(path)
    reads = ShortReads(engine)
    refused = {}
    for text in refused_overrides(reads, overrides):
        line, _, problem = text.removeprefix(f"{path}:").partition(": ")
        refused[int(line)] = problem
    last = reads(runs.last_run)
    rules = RunRules(inputs.hosts, overrides, WEIGHTS, inputs.models)
    is_current = last is not None and last.rules == rules.digest()
    said = comments(path)
    rows = [
        (section, (entry,) if isinstance(entry, str) else tuple(entry), line)
        for section, entry, line in entries(path)
    ]
    keys = {record_of(name) for _, names, _ in rows for name in names if ":" in name}
    outcome = _Outcomes(
        reads(read_members, keys),
        reads(review_details.read_details, keys),
        reads(verdict_store.read_owners_of_images, keys),
        is_current,
    )
    return [
        Settled(
            line,
            section,
            names,
            said.get(line, ""),
            refused[line] if line in refused else outcome.of(section, names),
            line in refused,
        )
        for section, names, line in rows
        if not _is_suppressed(names, listed)
    ]


@dataclass(frozen=True)
class _Outcomes:
    """What the catalog says about the entries. `is_current`: the last identity run had these overrides."""

    members: Mapping[RecordKey, int]
    live: Mapping[RecordKey, object]
    images: Mapping[RecordKey, object]
    is_current: bool

    def of(self, section: str, names: Sequence[str]) -> str:
        """What came of an entry, in one line."""
        if section in (MUST_LINK, CANNOT_LINK):
            return self._pair(section, names)
        if section == DUPLICATES:
            gone = [name for name in names if record_of(name) not in self.live]
            return (
                f"{gone[0]} has left its source"
                if gone
                else "in the suggestions to the source; the source has both still"
            )
        if section in (NOT_THIS_PERSON, NOT_A_FACE):
            if record_of(names[0]) not in self.images:
                return "the image is not in the catalog now"
            return "its faces are left out" if self.is_current else _WAITS
        if section == PROVES_NOTHING:
            return "no link rests on it" if self.is_current else _WAITS
        return "asked again when the line is removed" if names[0] == LATER else "nothing changes"

    def _pair(self, section: str, names: Sequence[str]) -> str:
        people = [self.members.get(record_of(name)) for name in names]
        if None in people:
            missing = names[people.index(None)]
            return f"{missing} is in no identity now" if self.is_current else _WAITS
        together = people[0] == people[1]
        if together == (section == MUST_LINK):
            return (
                f"one person, performer {people[0]}"
                if together
                else f"performers {people[0]} and {people[1]}"
            )
        return "not carried out; see stash-sense identity explain" if self.is_current else _WAITS


def _is_suppressed(names: Sequence[str], listed: Suppressions) -> bool:
    if not len(listed):
        return False
    return any(
        listed.covers_record(*record_of(name))
        or listed.covers_picture(*record_of(name), url="")
        or profile_hash(listed.key, ProfileKey(*record_of(name))) in listed.urls
        for name in names
    )
