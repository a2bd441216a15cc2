"""Answers: what each writes, what refuses it, two sessions, what came of it, and the commands."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa
import yaml

from stash_sense_pipeline.catalog.schema import withheld_records
from stash_sense_pipeline.catalog.transactions import reading
from stash_sense_pipeline.foundation.errors import ConfigurationError
from stash_sense_pipeline.identity.linkage.overrides import load_overrides
from stash_sense_pipeline.identity.rebuild import rebuild_identities
from stash_sense_pipeline.review.decision import ANSWERS, Answer, Decision, Kind
from stash_sense_pipeline.review.desk import ReviewDesk
from stash_sense_pipeline.review.settling import AlreadySettledError, Signature
from stash_sense_pipeline_tests.identity.population import NOW
from stash_sense_pipeline_tests.review.world import BOXES, DECISIONS, ReviewWorld

SIGNED = Signature("tester", datetime(2026, 11, 29, 8, 0, tzinfo=UTC), "it is so")
COMMENT = "# 2026-11-29 08:00 tester: it is so"
HOSTS = {name: f"{name}.org" for name in BOXES}


def of_kind(desk: ReviewDesk, kind: Kind) -> list[Decision]:
    return [row for row in desk.open() if row.kind is kind]


@pytest.mark.parametrize(
    ("kind", "answer", "section"),
    [
        (Kind.PAIR, Answer.SAME, "must_link"),
        (Kind.PAIR, Answer.DIFFERENT, "cannot_link"),
        (Kind.CONFUSABLE, Answer.FINE, "cannot_link"),
        (Kind.FACE, Answer.NOT_THIS_PERSON, "not_this_person"),
        (Kind.FACE, Answer.NOT_A_FACE, "not_a_face"),
        (Kind.FACE, Answer.FINE, "reviewed"),
        (Kind.PAGE, Answer.PROVES_NOTHING, "proves_nothing"),
        (Kind.PAGE, Answer.FINE, "reviewed"),
        (Kind.WITHHELD, Answer.FINE, "reviewed"),
        *((kind, Answer.LATER, "reviewed") for kind in ANSWERS if kind is not Kind.DUPLICATE),
    ],
)
def test_an_answer_is_a_line_with_its_comment_and_can_be_taken_back(
    world: ReviewWorld, kind: Kind, answer: Answer, section: str
) -> None:
    desk = world.desk()
    decision = of_kind(desk, kind)[0]
    desk.settle(decision, answer, SIGNED)
    text = world.overrides.read_text()
    assert COMMENT in text
    assert len(yaml.safe_load(text)[section]) == 1
    # Also for a new process, the item has left the list; its entry is read as valid.
    assert decision.decision_id not in {row.decision_id for row in world.desk().open()}
    assert len(desk.open()) == DECISIONS - 1
    (settled,) = desk.settled()
    assert (settled.section, settled.comment) == (section, COMMENT[2:])
    assert desk.undo() is not None
    assert len(desk.open()) == DECISIONS
    assert desk.settled() == []


def test_two_people_with_records_of_one_source_cannot_be_made_one_person(world: ReviewWorld) -> None:
    desk = world.desk()
    confusable = of_kind(desk, Kind.CONFUSABLE)[0]
    with pytest.raises(
        ConfigurationError, match=r"would make .* one person, but a source has one live record"
    ):
        desk.settle(confusable, Answer.SAME, SIGNED)
    assert not world.overrides.exists()


def test_an_answer_of_another_kind_is_refused(world: ReviewWorld) -> None:
    desk = world.desk()
    with pytest.raises(ConfigurationError, match="takes same, different, later, and not proves-nothing"):
        desk.settle(of_kind(desk, Kind.PAIR)[0], Answer.PROVES_NOTHING, SIGNED)


def test_a_second_session_does_not_overwrite_the_first(world: ReviewWorld) -> None:
    first, second = world.desk(), world.desk()
    pair, other = of_kind(first, Kind.PAIR)[:2]
    assert second.open()
    first.settle(pair, Answer.SAME, SIGNED)
    before = world.overrides.read_text()
    with pytest.raises(AlreadySettledError, match="is settled already"):
        second.settle(pair, Answer.DIFFERENT, SIGNED)
    assert world.overrides.read_text() == before
    second.settle(other, Answer.DIFFERENT, SIGNED)
    assert len(first.open()) == DECISIONS - 2
    assert before.strip() in world.overrides.read_text()
    # Each session takes back its own answer.
    assert first.undo() is not None
    assert not load_overrides(world.overrides).must_link
    assert len(load_overrides(world.overrides).cannot_link) == 1


@pytest.mark.slow
def test_what_came_of_an_answer_is_told_after_the_next_run(world: ReviewWorld) -> None:
    desk = world.desk()
    same, different = of_kind(desk, Kind.PAIR)[:2]
    page = of_kind(desk, Kind.PAGE)[0]
    desk.settle(same, Answer.SAME, SIGNED)
    desk.settle(different, Answer.DIFFERENT, SIGNED)
    desk.settle(page, Answer.PROVES_NOTHING, SIGNED)
    assert {row.outcome for row in desk.settled() if row.section != "cannot_link"} == {
        "waits for the next identity run"
    }
    from stash_sense_pipeline.faces.models.model_packs import embedder_digests

    models = embedder_digests(world.environment.model_pack, world.environment.models_dir)
    rebuild_identities(world.engine, HOSTS, load_overrides(world.overrides), NOW, models=models)
    told = {row.section: row.outcome for row in world.desk().settled()}
    assert told["must_link"].startswith("one person, performer ")
    assert told["cannot_link"].startswith("performers ")
    left = world.desk().open()
    assert not {same.decision_id, different.decision_id, page.decision_id} & {row.decision_id for row in left}


@pytest.mark.slow
def test_an_override_that_contradicts_the_catalog_is_said_and_stops_nothing(world: ReviewWorld) -> None:
    world.overrides.write_text(
        "must_link:\n- [stashdb:p1, fansdb:p1]  # mine\n- [stashdb:p2, stashdb:nowhere]\n- [stashdb:p3, stashdb:p1]\n"
    )
    report = rebuild_identities(world.engine, HOSTS, load_overrides(world.overrides), NOW)
    assert report.merged == 1
    rows = world.desk().settled()
    assert [row.refused for row in rows] == [False, True, True]
    assert "stashdb:nowhere, which the catalog does not hold" in rows[1].outcome
    said = world.command_here("review", "settled")
    assert "refused: must_link names stashdb:nowhere" in said


def test_a_held_record_is_settled_in_the_suppression_list_and_named_in_no_file(world: ReviewWorld) -> None:
    desk = world.desk()
    one, other = of_kind(desk, Kind.HELD)
    desk.settle(one, Answer.SAME, SIGNED)
    desk.settle(other, Answer.DIFFERENT, SIGNED)
    assert not world.overrides.exists()
    with reading(world.engine) as connection:
        reasons = dict(
            connection.execute(sa.select(withheld_records.c.reason, withheld_records.c.source_id)).all()
        )
    assert reasons["suppressed"] is None
    assert "held" not in reasons
    assert desk.undo() is None
    assert len(desk.open()) == DECISIONS - 2


@pytest.mark.slow
def test_suppressed_people_leave_the_file_and_the_settled_list(
    world: ReviewWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The page reads the list anew after a second.
    monkeypatch.setattr("stash_sense_pipeline.review.desk._SECONDS_OF_A_LIST", -1.0)
    desk = world.desk()
    pair, other = of_kind(desk, Kind.PAIR)[:2]
    desk.settle(pair, Answer.LATER, SIGNED)
    desk.settle(other, Answer.SAME, SIGNED)
    world.overrides.write_text(f"{world.overrides.read_text()}proves_nothing:\n  - twitter:mira_sample\n")
    world.command_here("suppress", "add", ":".join(pair.records[0]), "--reason", "asked us")
    world.command_here("suppress", "add", "https://x.com/mira_sample", "--reason", "asked us", "--unseen")
    assert [row.section for row in desk.settled()] == ["must_link"]
    world.command("suppress", "apply")
    assert load_overrides(world.overrides).must_link
    text = world.overrides.read_text()
    assert ":".join(pair.records[0]) not in text
    assert "twitter:mira_sample" not in text


@pytest.mark.slow
def test_the_commands_say_the_same(world: ReviewWorld) -> None:
    rows = json.loads(world.command("review", "list", "--json"))
    assert len(rows) == DECISIONS
    pair = next(row for row in rows if row["kind"] == "pair" and row["evidence"])
    assert pair["answers"] == ["same", "different", "later"]
    said = world.command("review", "settle", pair["id"], "different", "--reason", "two people # surely")
    assert "Different people: written to cannot_link" in said
    assert len(json.loads(world.command_here("review", "list", "--json"))) == DECISIONS - 1
    (settled,) = json.loads(world.command_here("review", "settled", "--json"))
    assert settled["about"] == pair["names"]
    assert settled["comment"].endswith("two people # surely")
    again = world.command_here("review", "settle", pair["id"], "same", "--reason", "x", code=2)
    assert "no open decision has the id" in again
    assert "there is no answer 'maybe'" in world.command_here(
        "review", "settle", pair["id"], "maybe", "--reason", "x", code=2
    )


@pytest.mark.slow
def test_a_broken_file_stops_the_commands_with_its_line(world: ReviewWorld) -> None:
    world.overrides.write_text("must_link:\n- [stashdb:a, fansdb:b\n")
    for words in (("list",), ("settled",), ("settle", "pair-1", "same", "--reason", "x")):
        assert "identity_overrides.yaml:3: not valid YAML" in world.command_here("review", *words, code=2)
    assert world.overrides.read_text() == "must_link:\n- [stashdb:a, fansdb:b\n"
