"""The card of a decision: both people with the details of their records, and the faces to compare, the best first."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from stash_sense_pipeline.catalog.bounded_reads import ShortReads
from stash_sense_pipeline.catalog.queries.identity import review_details
from stash_sense_pipeline.catalog.queries.identity.explanation import members_of
from stash_sense_pipeline.catalog.queries.identity.review_details import ListedFace, RecordDetails
from stash_sense_pipeline.catalog.queries.identity.trusted_faces import read_vectors
from stash_sense_pipeline.identity.review_pairs import Person
from stash_sense_pipeline.privacy.url_forms import record_page
from stash_sense_pipeline.records.profile_urls import canonical_profile
from stash_sense_pipeline.records.record_key import ImageKey, RecordKey
from stash_sense_pipeline.review.decision import Decision, Kind

_FACES_A_PERSON = 6
_LINKS_A_RECORD = 8
_WEB = ("https://", "http://")


@dataclass(frozen=True)
class RecordCard:
    """One record: its details in words, its page at its source, and the links that it lists."""

    key: RecordKey
    name: str
    facts: tuple[tuple[str, str], ...]
    page: str | None
    links: tuple[str, ...]


@dataclass(frozen=True)
class FaceCard:
    """One face. `similarity`: the mean cosine to the faces of the other person, None when it is not known."""

    face_id: int
    source: str
    image_id: str
    is_trusted: bool
    is_subject: bool
    similarity: float | None


@dataclass(frozen=True)
class PersonCard:
    """One person: the records, and the faces to compare."""

    performer_id: int | None
    records: tuple[RecordCard, ...]
    faces: tuple[FaceCard, ...]

    @property
    def name(self) -> str:
        """The name of the first record."""
        return self.records[0].name if self.records else "unknown"


@dataclass(frozen=True)
class CardRules:
    """Universal-id hosts of the stash-boxes, the embedders' digests, and whether faces are shown."""

    hosts: Mapping[str, str]
    models: Mapping[str, str]
    pictures: bool = True


def person_cards(reads: ShortReads, decision: Decision, rules: CardRules) -> tuple[PersonCard, ...]:
    """The cards of the people of a decision. A withheld record is not stored: only its key is known."""
    if decision.kind in (Kind.HELD, Kind.WITHHELD):
        key = decision.records[0]
        return (
            PersonCard(None, (RecordCard(key, ":".join(key), (), record_page(key, rules.hosts), ()),), ()),
        )
    return reads(_read_cards, decision, rules)


def names_of(reads: ShortReads, decisions: Sequence[Decision]) -> dict[RecordKey, str]:
    """The names of the records that the answers of these decisions name."""
    wanted = {record for row in decisions for record in row.records}
    return {key: row.name or ":".join(key) for key, row in reads(review_details.read_details, wanted).items()}


def _read_cards(connection: sa.Connection, decision: Decision, rules: CardRules) -> tuple[PersonCard, ...]:
    records = [_records_of(connection, person, decision.records) for person in decision.people]
    everyone = {record for some in records for record in some}
    details = review_details.read_details(connection, everyone)
    urls = review_details.read_urls(connection, everyone)
    faces = _faces(connection, decision, records, rules) if rules.pictures else [()] * len(records)
    return tuple(
        PersonCard(
            person if isinstance(person, int) else None,
            tuple(
                _record_card(details[key], urls.get(key, ()), rules.hosts) for key in some if key in details
            ),
            of_person,
        )
        for person, some, of_person in zip(decision.people, records, faces, strict=True)
    )


def _records_of(connection: sa.Connection, person: Person, named: Collection[RecordKey]) -> list[RecordKey]:
    """The records of a person, those that the answer names first."""
    if not isinstance(person, int):
        return [person]
    found = [(row.source, row.source_id) for row in members_of(connection, person)]
    return sorted(found, key=lambda key: (key not in named, key))


def _record_card(row: RecordDetails, urls: Sequence[str], hosts: Mapping[str, str]) -> RecordCard:
    key = (row.source, row.source_id)
    career = "-".join(str(year or "") for year in (row.career_start_year, row.career_end_year))
    facts = (
        ("Disambiguation", row.disambiguation),
        ("Gender", (row.gender or "").replace("_", " ").lower()),
        ("Born", row.birth_date),
        ("Died", row.death_date),
        ("Country", row.country),
        ("Career", career.strip("-") and career),
    )
    links = [url for url in urls if url.lower().startswith(_WEB)]
    return RecordCard(
        key,
        row.name or ":".join(key),
        tuple((name, text) for name, text in facts if text),
        record_page(key, hosts) or _own_page(key, links),
        tuple(links[:_LINKS_A_RECORD]),
    )


def _own_page(key: RecordKey, links: Sequence[str]) -> str | None:
    """The page of a record of a reference site: the one of its links that has the key of the record."""
    return next((url for url in links if canonical_profile(url) == key), None)


def _faces(
    connection: sa.Connection, decision: Decision, records: Sequence[Sequence[RecordKey]], rules: CardRules
) -> list[tuple[FaceCard, ...]]:
    """The faces of each person: the picture in question first, then trusted ones, then the best."""
    listed = [
        _distinct(review_details.read_listed_faces(connection, some), decision.image) for some in records
    ]
    if decision.kind is Kind.FACE and len(records) == 1:
        # The picture in question is compared with the other faces of its person.
        own = [face for face in listed[0] if _is_subject(face, decision.image)]
        compared = [own, [face for face in listed[0] if face not in own]]
    else:
        compared = listed
    ids = [face.face_id for some in listed for face in some]
    vectors = [read_vectors(connection, model, digest, ids) for model, digest in sorted(rules.models.items())]
    similar: dict[int, float] = {}
    for place, some in enumerate(compared):
        others = [face.face_id for index, each in enumerate(compared) if index != place for face in each]
        for face in some:
            value = _similarity(face.face_id, others, vectors)
            if value is not None:
                similar[face.face_id] = value
    return [
        tuple(
            FaceCard(
                face.face_id,
                face.source,
                face.image_id,
                face.rank is not None,
                _is_subject(face, decision.image),
                similar.get(face.face_id),
            )
            for face in some
        )
        for some in listed
    ]


def _distinct(faces: Sequence[ListedFace], image: ImageKey | None) -> list[ListedFace]:
    """The faces to show: each once, that of the picture in question first."""
    first = sorted(faces, key=lambda face: not _is_subject(face, image))
    return list({face.face_id: face for face in reversed(first)}.values())[::-1][:_FACES_A_PERSON]


def _is_subject(face: ListedFace, image: ImageKey | None) -> bool:
    return image == (face.source, face.image_id)


def _similarity(
    face_id: int, others: Sequence[int], vectors: Sequence[Mapping[int, NDArray[np.float32]]]
) -> float | None:
    """The mean over the models of the mean cosine to the other faces."""
    found = []
    for of_model in vectors:
        theirs = [_unit(of_model[each]) for each in others if each in of_model]
        if face_id in of_model and theirs:
            found.append(float(np.mean(theirs @ _unit(of_model[face_id]))))
    return float(np.mean(found)) if found else None


def _unit(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    length = float(np.linalg.norm(vector))
    return vector / length if length else vector
