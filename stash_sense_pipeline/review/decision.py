"""A decision of the review: its kind, its people, the answers that it takes, and its permanent id."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import blake2b

from stash_sense_pipeline.identity.review_pairs import Person
from stash_sense_pipeline.records.record_key import ImageKey, RecordKey


class Kind(StrEnum):
    """The kinds of decisions."""

    PAIR = "pair"
    DUPLICATE = "duplicate"
    CONFUSABLE = "confusable"
    FACE = "face"
    PAGE = "page"
    HELD = "held"
    WITHHELD = "withheld"


class Answer(StrEnum):
    """The answers, as the command line names them."""

    SAME = "same"
    DIFFERENT = "different"
    DUPLICATE = "duplicate"
    NOT_THIS_PERSON = "not-this-person"
    NOT_A_FACE = "not-a-face"
    PROVES_NOTHING = "proves-nothing"
    FINE = "fine"
    LATER = "later"


QUESTIONS: Mapping[Kind, str] = {
    Kind.PAIR: "Are these two one person?",
    Kind.DUPLICATE: "Are these two records of one source one person?",
    Kind.CONFUSABLE: "The sidecar may take one for the other. Are they two people?",
    Kind.FACE: "Does this picture show this person?",
    Kind.PAGE: "Does this page prove who a record is?",
    Kind.HELD: "Is this record the person on the suppression list?",
    Kind.WITHHELD: "This record is withheld. Is that right?",
}

# The answers of each kind in the order of the page, with what each says there.
ANSWERS: Mapping[Kind, Mapping[Answer, str]] = {
    Kind.PAIR: {Answer.SAME: "Same person", Answer.DIFFERENT: "Different people", Answer.LATER: "Later"},
    Kind.DUPLICATE: {
        Answer.DUPLICATE: "Same person: tell the source",
        Answer.DIFFERENT: "Different people",
        Answer.LATER: "Later",
    },
    Kind.CONFUSABLE: {
        Answer.FINE: "Fine: two people",
        Answer.SAME: "Same person",
        Answer.LATER: "Later",
    },
    Kind.FACE: {
        Answer.FINE: "Fine: it shows this person",
        Answer.NOT_THIS_PERSON: "Not this person",
        Answer.NOT_A_FACE: "Not a face",
        Answer.LATER: "Later",
    },
    Kind.PAGE: {
        Answer.PROVES_NOTHING: "Proves nothing",
        Answer.FINE: "Fine as it counts now",
        Answer.LATER: "Later",
    },
    Kind.HELD: {
        Answer.SAME: "Same person: suppress it",
        Answer.DIFFERENT: "Another person: store it",
        Answer.LATER: "Later",
    },
    Kind.WITHHELD: {Answer.FINE: "Fine: it stays withheld", Answer.LATER: "Later"},
}

# The key of each answer on the page. None of them is an undo, a move or a key of screen readers with Ctrl or Alt.
KEYS: Mapping[Answer, str] = {
    Answer.SAME: "s",
    Answer.DIFFERENT: "d",
    Answer.DUPLICATE: "s",
    Answer.NOT_THIS_PERSON: "n",
    Answer.NOT_A_FACE: "x",
    Answer.PROVES_NOTHING: "p",
    Answer.FINE: "f",
    Answer.LATER: "l",
}


@dataclass(frozen=True)
class Fact:
    """One piece of evidence: the two records, or one twice, what it says in words, and its weight (0: it has none)."""

    a: RecordKey
    b: RecordKey
    text: str
    weight: float


@dataclass(frozen=True)
class Decision:
    """One open decision.

    `people`: one or two people. `records`: the records that the answer names in the overrides: of two people one each,
    of a face the person that lists the picture. `image`, `page`: the subject of a face and of a page. `reasons`: why the
    program does not decide. `value`: the faces and records that the answer affects.
    """

    kind: Kind
    people: tuple[Person, ...]
    records: tuple[RecordKey, ...]
    image: ImageKey | None = None
    page: str | None = None
    facts: tuple[Fact, ...] = ()
    reasons: tuple[str, ...] = ()
    sources: frozenset[str] = field(default_factory=frozenset)
    value: int = 0

    @property
    def decision_id(self) -> str:
        """`kind-digits`. It stays while the people, the picture or the page stay, and holds no name and no source's id."""
        parts = (self.kind.value, *sorted(map(_person_text, self.people)), *self.subject)
        digest = blake2b("\0".join(parts).encode(), digest_size=6).hexdigest()
        return f"{self.kind.value}-{digest}"

    @property
    def subject(self) -> tuple[str, ...]:
        """The names of the picture, the page or the withheld record, as the overrides name them; empty for people."""
        if self.image is not None:
            return (":".join(self.image), ":".join(self.records[0]))
        if self.page is not None:
            return (self.page,)
        return (":".join(self.records[0]),) if self.kind in (Kind.HELD, Kind.WITHHELD) else ()

    @property
    def about(self) -> tuple[str, ...]:
        """The names of the decision in the section `reviewed` of the overrides."""
        return self.subject or tuple(map(":".join, self.records))

    @property
    def answers(self) -> Mapping[Answer, str]:
        """The answers that it takes, with their texts."""
        return ANSWERS[self.kind]

    @property
    def score(self) -> float:
        """The sum of the weights of the facts about the two records of the answer."""
        pair = set(self.records)
        return round(sum(fact.weight for fact in self.facts if {fact.a, fact.b} == pair), 2)


def _person_text(person: Person) -> str:
    return str(person) if isinstance(person, int) else ":".join(person)
