"""Open decisions: one for a question, permanent ids, values, without suppressed people."""

from __future__ import annotations

from collections import Counter

from stash_sense_pipeline.review.decision import ANSWERS, KEYS, Kind
from stash_sense_pipeline_tests.review import world as numbers
from stash_sense_pipeline_tests.review.world import DECISIONS, ReviewWorld


def test_each_question_is_one_decision(filled: ReviewWorld) -> None:
    decisions = filled.desk().open()
    assert Counter(row.kind for row in decisions) == {
        Kind.PAIR: numbers.PAIRS,
        Kind.PAGE: numbers.HUBS,
        Kind.FACE: numbers.COLLISIONS + numbers.HUB_FACES,
        Kind.CONFUSABLE: numbers.CONFUSABLE,
        Kind.WITHHELD: numbers.WITHHELD,
        Kind.HELD: numbers.HELD,
    }
    assert len({row.decision_id for row in decisions}) == DECISIONS
    assert [row.value for row in decisions] == sorted((row.value for row in decisions), reverse=True)
    again = filled.desk().open()
    assert [row.decision_id for row in again] == [row.decision_id for row in decisions]
    assert not any("mira" in row.decision_id.lower() for row in decisions)


def test_each_answer_of_a_kind_has_a_key_of_its_own() -> None:
    for kind, answers in ANSWERS.items():
        keys = [KEYS[answer] for answer in answers]
        assert len(set(keys)) == len(keys), kind
        assert not {"u", "j", "k"} & set(keys)


def test_suppressed_people_are_in_no_decision_also_before_the_list_is_applied(world: ReviewWorld) -> None:
    desk = world.desk()
    before = desk.open()
    gone = next(row for row in before if row.kind is Kind.PAIR)
    face = next(row for row in before if row.kind is Kind.FACE and len(row.people) == 2)
    for record in (gone.records[0], face.records[0]):
        world.command("suppress", "add", ":".join(record), "--reason", "asked us")
    left = desk.open()
    assert gone.decision_id not in {row.decision_id for row in left}
    people = {person for row in left for person in row.people}
    assert not people & {gone.people[0], face.people[0]}
    assert len(left) < len(before)
