"""A suggestion to a source: its kinds, its confidence, the order of the list."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from stash_sense_pipeline.records.record_key import RecordKey

# A sum of estimates is never certain.
_MOST_CONFIDENCE = 0.9999


class SuggestionKind:
    """The kinds of suggestions, as the files have them."""

    DUPLICATE: Final = "duplicate"
    PICTURE: Final = "picture_of_another"
    LINK: Final = "link_of_another"


KINDS: Mapping[str, str] = {
    SuggestionKind.DUPLICATE: "two records of one stash-box that are one person",
    SuggestionKind.PICTURE: "a picture of a record with the face of another person",
    SuggestionKind.LINK: "a link on a record that is another person's page",
}


@dataclass(frozen=True)
class Suggestion:
    """One suggestion about `record`; `other` is its duplicate, or the person of the picture or link.

    `subject`: the URL of the picture or link, empty for a duplicate. `picture`: the image id of a picture. `facts`: the
    evidence in words. `score`: about the decimal logarithm of the odds that the suggestion is right.
    """

    kind: str
    record: RecordKey
    other: RecordKey
    facts: tuple[str, ...]
    score: float
    subject: str = ""
    picture: str = ""

    @property
    def confidence(self) -> float:
        """The odds 10 ** score as a probability, at most 0.9999."""
        return min(round(1.0 / (1.0 + math.pow(10.0, -self.score)), 4), _MOST_CONFIDENCE)


@dataclass(frozen=True)
class DescribedRecord:
    """A record as a reader finds it: `page` is its page on its stash-box, None for a record of another source."""

    key: RecordKey
    name: str | None = None
    disambiguation: str | None = None
    page: str | None = None


@dataclass(frozen=True)
class SuggestionList:
    """Suggestions, the most certain first, with the records that they name.

    `faces_say_nothing`: why faces could not be compared, None when they could.
    """

    suggestions: tuple[Suggestion, ...] = ()
    records: Mapping[RecordKey, DescribedRecord] = field(default_factory=dict)
    faces_say_nothing: str | None = None

    def counts(self) -> dict[str, int]:
        """The number of suggestions of each kind."""
        return {kind: sum(row.kind == kind for row in self.suggestions) for kind in KINDS}


def in_order(suggestions: Iterable[Suggestion]) -> tuple[Suggestion, ...]:
    """The most certain first; equal ones by kind, records and subject."""
    kinds = list(KINDS)
    return tuple(
        sorted(
            suggestions,
            key=lambda row: (-row.score, kinds.index(row.kind), row.record, row.other, row.subject),
        )
    )
