"""Cleaning of the faces of all people: a fixed point, in any order, with measured precision and recall."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stash_sense_pipeline.catalog.bounded_reads import ShortReads
from stash_sense_pipeline.catalog.queries.identity.trusted_faces import CandidateRow
from stash_sense_pipeline.identity.face_matching import usable_faces
from stash_sense_pipeline.identity.face_matching.cleaning import CleanFaces, clean
from stash_sense_pipeline.identity.face_matching.performer_faces import LeftOut, Reason
from stash_sense_pipeline.identity.face_matching.trust_policy import ChoiceRules, TrustPolicy
from stash_sense_pipeline.release.contract import SIDECAR_MAX_DISTANCE

MODELS = {"arcface": "digest-a", "facenet": "digest-f"}
TRUST = {"stashdb": "high", "medium": "medium", "low": "low"}
RULES = ChoiceRules(20, dict.fromkeys(TRUST, 50), TRUST, MODELS, TrustPolicy())
DIM = 128


class Photos:
    """Faces in memory, read like those of a catalog. A person is a direction for each model."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.vectors: dict[int, dict[str, np.ndarray]] = {}
        self.rows: list[CandidateRow] = []
        self.shown: dict[int, int] = {}
        self.people: dict[int, dict[str, np.ndarray]] = {}

    def __call__(self, read: Any, model: str, digest: str, ids: Any) -> Any:
        """Stands in for ShortReads with read_vectors."""
        return {face_id: self.vectors[face_id][model].astype(np.float32) for face_id in ids}

    def add(
        self,
        performer_id: int,
        shows: int,
        source: str = "stashdb",
        image: str | None = None,
        spread: float | None = None,
    ) -> int:
        """A face on a record of `performer_id` that shows the person `shows`. Two of one person have cosines of 0.4-0.7."""
        person = self.people.setdefault(
            shows, {model: _unit(self.rng.standard_normal(DIM)) for model in MODELS}
        )
        spread = (spread or self.rng.uniform(0.6, 1.1)) / np.sqrt(DIM)
        face_id = len(self.rows) + 1
        self.vectors[face_id] = {
            model: 5 * (vector + spread * self.rng.standard_normal(DIM)) for model, vector in person.items()
        }
        self.rows.append(_row(face_id, performer_id, source, image))
        self.shown[face_id] = shows
        return face_id

    def clean(
        self, kept: Mapping[int, list[CandidateRow]] | None = None, rules: ChoiceRules = RULES
    ) -> tuple[CleanFaces, LeftOut]:
        left_out = LeftOut()
        people: dict[int, list[CandidateRow]] = {}
        for row in sorted(self.rows, key=lambda row: (-row.quality, row.face_id)):
            people.setdefault(row.performer_id, []).append(row)
        usable = dict(sorted(people.items())) if kept is None else kept
        return clean(cast(ShortReads, self), usable, rules, frozenset(), left_out), left_out


def _row(face_id: int, performer_id: int, source: str, image: str | None) -> CandidateRow:
    picture = image or f"i{face_id}"
    return CandidateRow(
        face_id, performer_id, source, f"{source}{performer_id}", picture, 0.5, f"{source}/{picture}"
    )


def _unit(vector: np.ndarray) -> np.ndarray:
    return np.asarray(vector / np.linalg.norm(vector))


def kept_faces(people: CleanFaces) -> set[int]:
    return {row.face_id for rows in people.rows.values() for row in rows}


def poisoned(seed: int, share: float, *, coherent: bool, people: int = 40, faces: int = 10) -> Photos:
    """People with `faces` faces each, a `share` of them of others: of one other person (`coherent`), or of several."""
    photos = Photos(seed)
    for person in range(1, people + 1):
        wrong = round(share * faces)
        other = int(photos.rng.integers(1, people)) % people + 1
        for number in range(faces):
            if number >= wrong:
                photos.add(person, person)
            else:
                shows = other if coherent else int(photos.rng.integers(1, 3 * people))
                photos.add(person, shows if shows != person else people * 4)
    return photos


@pytest.mark.parametrize("coherent", [True, False])
@pytest.mark.parametrize("share", [0.1, 0.2, 0.3])
def test_of_10_to_30_percent_wrong_faces_nearly_all_are_removed_and_no_right_one(
    share: float, coherent: bool
) -> None:
    removed = right = wrong = 0
    for seed in range(3):
        photos = poisoned(seed, share, coherent=coherent)
        kept = kept_faces(photos.clean()[0])
        bad = {row.face_id for row in photos.rows if photos.shown[row.face_id] != row.performer_id}
        gone = photos.shown.keys() - kept
        removed, right, wrong = removed + len(gone), right + len(gone & bad), wrong + len(bad)
    precision, recall = right / removed, right / wrong
    assert precision >= 0.999
    assert recall >= 0.99


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    share=st.sampled_from([0.0, 0.2, 0.4, 0.5]),
    coherent=st.booleans(),
    faces=st.integers(1, 8),
)
def test_cleaning_the_clean_faces_again_changes_nothing(
    seed: int, share: float, coherent: bool, faces: int
) -> None:
    photos = poisoned(seed, share, coherent=coherent, people=6, faces=faces)
    people, _ = photos.clean()
    again, left_out = photos.clean(people.rows)
    assert again.rows == people.rows
    assert (again.rounds, left_out.counts.total(), again.collisions) == (1, 0, {})


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), faces=st.integers(1, 8), order=st.randoms(use_true_random=False))
def test_the_order_of_faces_and_people_and_the_size_of_batches_do_not_matter(
    seed: int, faces: int, order: Any
) -> None:
    photos = poisoned(seed, 0.3, coherent=True, people=6, faces=faces)
    people, left_out = photos.clean()
    order.shuffle(photos.rows)
    mixed: dict[int, list[CandidateRow]] = {}
    for row in photos.rows:
        mixed.setdefault(row.performer_id, []).append(row)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(usable_faces, "_FACES_AT_ONCE", order.randint(1, 9))
        other, also_out = photos.clean(mixed)
    assert kept_faces(other) == kept_faces(people)
    assert also_out.counts == left_out.counts
    assert also_out.rows == left_out.rows
    assert other.collisions == people.collisions


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), share=st.sampled_from([0.0, 0.3, 0.5]), faces=st.integers(1, 4))
def test_every_face_that_is_gone_has_a_reason(seed: int, share: float, faces: int) -> None:
    photos = poisoned(seed, share, coherent=True, people=6, faces=faces)
    people, left_out = photos.clean()
    noted = {face_id for face_id, _ in left_out.rows} | people.collisions.keys()
    assert noted == photos.shown.keys() - kept_faces(people)
    assert left_out.counts.total() == len(noted)


def test_people_with_one_or_two_own_faces_keep_them() -> None:
    photos = Photos(3)
    for person in range(1, 30):
        for _ in range(1 + person % 2):
            photos.add(person, person)
    assert kept_faces(photos.clean()[0]) == photos.shown.keys()


def test_a_second_round_finds_the_face_that_a_mixed_template_hid() -> None:
    """The template of 2 is half of 3 and half of 4 until it loses the faces of 4: only then it is nearer to 3's face."""
    rounds = Counter(poisoned(seed, 0.4, coherent=True, people=8).clean()[0].rounds for seed in range(10))
    assert max(rounds) > 1
    assert max(rounds) < 8


def test_a_face_near_many_people_is_a_hub_and_left_out() -> None:
    photos = Photos(7)
    for person in range(1, 13):
        for _ in range(3):
            photos.add(person, person)
    mean = {model: _unit(sum(person[model] for person in photos.people.values())) for model in MODELS}
    # Each person has a cosine of 0.29 to the mean of the twelve.
    policy = TrustPolicy(hub_distance=0.95, hub_people=10)
    hub = photos.add(1, 1)
    photos.vectors[hub] = {model: mean[model] + 0.6 * photos.people[1][model] for model in MODELS}
    people, left_out = photos.clean(rules=ChoiceRules(20, RULES.source_caps, TRUST, MODELS, policy))
    assert photos.shown.keys() - kept_faces(people) == {hub}
    assert left_out.counts == {Reason.HUB: 1}
    assert left_out.rows[hub, 1].people in (10, 11)
    fewer = TrustPolicy(hub_distance=0.95, hub_people=12)
    rules = ChoiceRules(20, RULES.source_caps, TRUST, MODELS, fewer)
    assert hub in kept_faces(photos.clean(rules=rules)[0])


def test_the_distance_of_hubs_is_the_limit_of_the_sidecar() -> None:
    assert TrustPolicy().hub_distance == SIDECAR_MAX_DISTANCE


def test_a_person_appears_once_in_a_picture_with_the_face_most_like_the_others() -> None:
    photos = Photos(9)
    for _ in range(3):
        photos.add(1, 1, spread=0.5)
    first, second = (photos.add(1, 1, "medium", "collage", spread=0.5) for _ in range(2))
    likeness = {
        face: np.mean([
            _unit(photos.vectors[face][model]) @ _unit(photos.vectors[other][model])
            for model in MODELS
            for other in (1, 2, 3)
        ])
        for face in (first, second)
    }  # fmt: skip
    people, left_out = photos.clean()
    kept = kept_faces(people)
    assert kept & {first, second} == {max(likeness, key=likeness.__getitem__)}
    assert left_out.counts == {Reason.SECOND_FACE: 1}


def test_a_face_on_the_wrong_person_is_of_neither() -> None:
    photos = Photos(11)
    for person in (1, 2):
        for _ in range(4):
            photos.add(person, person)
    wrong = photos.add(1, 2)
    people, _ = photos.clean()
    owners = Counter(row.face_id for rows in people.rows.values() for row in rows)
    assert wrong not in owners
    assert set(owners.values()) == {1}


def test_a_picture_in_two_sources_stays_with_the_person_with_the_more_similar_faces() -> None:
    """Also when the other person has it twice: two copies do not support each other."""
    photos = Photos(13)
    for _ in range(3):
        photos.add(1, 1)
    mine = photos.add(1, 1)
    others = [photos.add(2, 1, image=f"copy{n}") for n in range(2)]
    own = photos.add(3, 3)
    for face in (mine, *others):
        photos.vectors[face] = photos.vectors[mine]
        photos.rows[face - 1] = photos.rows[face - 1]._replace(picture_hash="00000000000000ff")
    people, left_out = photos.clean()
    assert kept_faces(people) == {1, 2, 3, mine, own}
    assert left_out.counts == {Reason.COPY: 2}
    assert {left_out.rows[face, 2].reason for face in others} == {Reason.COPY}


def test_a_picture_that_fits_two_people_equally_stays_with_the_lower_performer_id() -> None:
    photos = Photos(14)
    for performer_id in (7, 4):
        face = photos.add(performer_id, 1)
        photos.rows[face - 1] = photos.rows[face - 1]._replace(picture_hash="00000000000000ff")
    assert set(photos.clean()[0].rows) == {4}
