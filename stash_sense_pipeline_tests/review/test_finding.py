"""Open decisions: one for a question, permanent ids, values, without suppressed people."""

from __future__ import annotations

from collections import Counter

import pytest
import sqlalchemy as sa

from stash_sense_pipeline.catalog.bounded_reads import ShortReads
from stash_sense_pipeline.catalog.queries.identity.identities import read_members
from stash_sense_pipeline.catalog.transactions import reading
from stash_sense_pipeline.identity.linkage.comparisons import Record
from stash_sense_pipeline.identity.linkage.overrides import Override, Overrides
from stash_sense_pipeline.identity.rebuild import rebuild_identities
from stash_sense_pipeline.identity.source_suggestions.finding import find_suggestions
from stash_sense_pipeline.identity.source_suggestions.identity_state import SuggestionRules
from stash_sense_pipeline.records import profile_sites
from stash_sense_pipeline.review.cards import CardRules, person_cards
from stash_sense_pipeline.review.decision import ANSWERS, KEYS, Decision, Kind
from stash_sense_pipeline.review.finding import Findings, find_decisions, open_decisions
from stash_sense_pipeline.sources.reference_sites.registry import SITES
from stash_sense_pipeline_tests.identity.population import HOSTS, NOW, store
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


@pytest.mark.slow
def test_suppressed_people_are_in_no_decision_also_before_the_list_is_applied(
    world: ReviewWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The page reads the list anew after a second.
    monkeypatch.setattr("stash_sense_pipeline.review.desk._SECONDS_OF_A_LIST", -1.0)
    desk = world.desk()
    before = desk.open()
    gone = next(row for row in before if row.kind is Kind.PAIR)
    face = next(row for row in before if row.kind is Kind.FACE and len(row.people) == 2)
    for record in (gone.records[0], face.records[0]):
        world.command_here("suppress", "add", ":".join(record), "--reason", "asked us")
    left = desk.open()
    assert gone.decision_id not in {row.decision_id for row in left}
    people = {person for row in left for person in row.people}
    assert not people & {gone.people[0], face.people[0]}
    assert len(left) < len(before)


X = "https://x.com/sample_person"


def test_rows_about_two_people_are_one_decision_with_all_evidence_on_both_databases(
    any_catalog: sa.Engine,
) -> None:
    """Two people with records in one source are a duplicate; six rows of evidence make one decision."""
    store(
        any_catalog,
        Record("stashdb", "a", "Mira Sample", "FEMALE", birth_date="1990-05-05", urls=(X,)),
        Record("fansdb", "a", "Mira Sample", "FEMALE", birth_date="1990-05-05"),
        Record("stashdb", "b", "Vera Else", "FEMALE", birth_date="1970-01-01", urls=(X,)),
        Record("fansdb", "b", "Vera Else", "FEMALE", birth_date="1970-01-01", urls=(X,)),
        Record("pmvstash", "c", "Nora <b>Third</b>", country="US"),
        Record("theporndb", "c", "Nora <b>Third</b>"),
    )
    rebuild_identities(any_catalog, HOSTS, Overrides(), NOW)
    decisions = find_decisions(any_catalog, Findings(tuple(HOSTS)))
    assert sorted((row.kind, len(row.people)) for row in decisions) == [("duplicate", 2), ("pair", 2)]
    (duplicate,) = (row for row in decisions if row.kind is Kind.DUPLICATE)
    assert [record[0] for record in duplicate.records] in (["stashdb", "stashdb"], ["fansdb", "fansdb"])
    assert len({(fact.a, fact.b) for fact in duplicate.facts}) > 1
    assert duplicate.value == 4
    assert duplicate.sources == {"stashdb", "fansdb"}
    assert any("one person would have two live records of" in reason for reason in duplicate.reasons)
    cards = person_cards(ShortReads(any_catalog), duplicate, CardRules(HOSTS, {}))
    assert [card.records[0].key for card in cards] == list(duplicate.records)
    assert {record.name for card in cards for record in card.records} == {"Mira Sample", "Vera Else"}
    assert all(record.links in ((X,), ()) for card in cards for record in card.records)
    assert (
        cards[0].records[0].page
        == f"https://{HOSTS[duplicate.records[0][0]]}/performers/{duplicate.records[0][1]}"
    )
    assert open_decisions(decisions, Overrides(), {}) == decisions
    pair = Override(("fansdb", "a"), ("stashdb", "b"), 2)
    with reading(any_catalog) as connection:
        performers = read_members(connection)
    # A line on other records of the same two people settles the decision as well.
    left = open_decisions(decisions, Overrides(cannot_link=(pair,)), performers)
    assert [row.kind for row in left] == [Kind.PAIR]


def test_a_declared_duplicate_is_a_suggestion_to_the_source(any_catalog: sa.Engine) -> None:
    store(any_catalog, Record("stashdb", "a", "Mira Sample"), Record("stashdb", "b", "Vera Else"))
    rebuild_identities(any_catalog, HOSTS, Overrides(), NOW)
    declared = Overrides(duplicates=(Override(("stashdb", "b"), ("stashdb", "a"), 2),))
    (found,) = find_suggestions(any_catalog, SuggestionRules(HOSTS, {}, declared)).suggestions
    assert (found.kind, found.record, found.other) == ("duplicate", ("stashdb", "a"), ("stashdb", "b"))
    assert found.facts == ("the operator says that they are one person",)
    assert find_suggestions(any_catalog, SuggestionRules(HOSTS, {})).suggestions == ()


def test_a_record_of_each_reference_site_has_a_link_to_its_own_page(any_catalog: sa.Engine) -> None:
    pages = {
        (site.name, form.example_key): form.example
        for site in map(profile_sites.site, SITES)
        if site is not None
        for form in site.forms
        if form.example
    }
    assert {source for source, _ in pages} == set(SITES)
    other = "https://www.iafd.com/person.rme/id=00000000-0000-4000-8000-000000000001"
    for (source, source_id), page in pages.items():
        store(any_catalog, Record(source, source_id, "Mira Sample", urls=(other, page)))
        decision = Decision(Kind.FACE, ((source, source_id),), ((source, source_id),))
        (card,) = person_cards(ShortReads(any_catalog), decision, CardRules(HOSTS, {}))
        assert card.records[0].page == page
    store(any_catalog, Record("freeones", "mira", "Mira Sample", urls=(other,)))
    decision = Decision(Kind.FACE, (("freeones", "mira"),), (("freeones", "mira"),))
    (card,) = person_cards(ShortReads(any_catalog), decision, CardRules(HOSTS, {}))
    assert card.records[0].page is None
