"""Links on records of stash-boxes that are another person's page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from stash_sense_pipeline.identity.linkage.blocking import KeyKind, blocking_keys, is_hub, owner
from stash_sense_pipeline.identity.linkage.comparisons import Record
from stash_sense_pipeline.identity.source_suggestions.identity_state import IdentityState
from stash_sense_pipeline.identity.source_suggestions.pair_facts import (
    Fact,
    contradictions,
    detail_facts,
    face_fact,
    name_fact,
    score,
    texts,
)
from stash_sense_pipeline.identity.source_suggestions.suggestion import Suggestion, SuggestionKind
from stash_sense_pipeline.records.name_folding import folded_words
from stash_sense_pipeline.records.record_key import RecordKey

# So much must speak against one person: different names and one disagreement more. Different names alone are common.
_LEAST_CONTRADICTION = 2.0
# Decimal logarithm of the odds that a page is a person's, for each further source that lists it there, and for a page
# that has the person's name.
_FURTHER_SOURCE = 1.0
_NAMED_PAGE = 1.0


class _Owner(NamedTuple):
    """The person of a page: one of their records that hold it, how that is known, and how surely."""

    record: RecordKey
    reason: str
    score: float


def find_wrong_links(state: IdentityState) -> list[Suggestion]:
    """The links to pages of another person.

    A page is compared when records of several people hold it. It belongs to the record that it is the page of, else to
    the person with its name, else to the person for which most sources list it. Records of other people that
    list it, and that contradict the owner, have a wrong link. A hub without an owner gives one suggestion.
    """
    found: list[Suggestion] = []
    for page, holders in sorted(state.pages.items()):
        people: dict[int | RecordKey, list[RecordKey]] = {}
        for key in holders:
            people.setdefault(state.person(key), []).append(key)
        if len(people) < 2:
            continue
        page_owner = _owner(state, page, people)
        if page_owner is not None:
            mine = people[state.person(page_owner.record)]
            others = [key for key in holders if key not in set(mine)]
            found += _on_others(state, page, page_owner, others)
        elif is_hub(holders, state.boxes):
            found += _hub(state, page, holders, people)
    return found


def _owner(
    state: IdentityState, page: str, people: Mapping[int | RecordKey, Sequence[RecordKey]]
) -> _Owner | None:
    record = owner(page, [key for keys in people.values() for key in keys])
    if record is not None:
        return _Owner(record, f"it is the page of {':'.join(record)}", state.weights.cross_link)
    named = {person for person, keys in people.items() if any(_has_name(state, page, key) for key in keys)}
    sources = {person: len({key[0] for key in keys}) for person, keys in people.items()}
    most = max(sources.values())
    first = {person for person, count in sources.items() if count == most}
    further = most - sorted(sources.values())[-2]
    if len(named) == 1:
        (person,) = named
        certain = _NAMED_PAGE + (_FURTHER_SOURCE * further if person in first else 0.0)
        return _Owner(min(people[person]), "it has the other person's name", certain)
    if further and not named:
        (person,) = first
        return _Owner(
            min(people[person]), f"{most} sources list it for the other person", _FURTHER_SOURCE * further
        )
    return None


def _has_name(state: IdentityState, page: str, key: RecordKey) -> bool:
    """True when the page's id is a name of the record, without blanks and signs."""
    record = state.records[key]
    identifier = "".join(folded_words(page.rpartition(":")[2]))
    return any("".join(folded_words(name)) == identifier for name in (record.name, *record.aliases) if name)


def _on_others(
    state: IdentityState, page: str, page_owner: _Owner, others: Sequence[RecordKey]
) -> Iterator[Suggestion]:
    theirs = state.person(page_owner.record)
    members = state.records_of[theirs] if isinstance(theirs, int) else (page_owner.record,)
    for key in others:
        if key[0] not in state.boxes.sources:
            continue
        other = state.nearest_to(key[0], members)
        facts = _against(state, key, other)
        against = -score(facts)
        url = _listed_as(state.records[key], page, state)
        if against < _LEAST_CONTRADICTION or url is None:
            continue
        reasons = (page_owner.reason, *texts(facts))
        total = round(min(against, page_owner.score), 3)
        yield Suggestion(SuggestionKind.LINK, key, other, reasons, total, subject=url)


def _against(state: IdentityState, a: RecordKey, b: RecordKey) -> list[Fact]:
    """The facts about two records, without pages."""
    hard = contradictions(state.records[a], state.records[b])
    if frozenset((a, b)) in state.two_people:
        hard.append("the overrides say cannot_link")
    facts = [fact for fact in (name_fact(state, a, b), face_fact(state, a, b)) if fact is not None]
    # A contradiction of the birth dates stands for their difference.
    facts += [fact for fact in detail_facts(state, a, b) if not (hard and fact.text.startswith("birth"))]
    return facts + [Fact(text, -state.weights.link) for text in hard]


def _listed_as(record: Record, page: str, state: IdentityState) -> str | None:
    """The URL by which a record lists the page; None when it is only known by its own page or a merge."""
    for url in record.urls:
        alone = Record(record.source, record.source_id, urls=(url,))
        if KeyKind.PAGE + page in blocking_keys(alone, (), state.boxes):
            return url
    return None


def _hub(
    state: IdentityState,
    page: str,
    holders: Sequence[RecordKey],
    people: Mapping[int | RecordKey, Sequence[RecordKey]],
) -> Iterator[Suggestion]:
    """One suggestion for a page that many people have: it names the first two that list it on a stash-box."""
    listed: list[tuple[RecordKey, str]] = []
    for keys in people.values():
        for key in keys:
            url = _listed_as(state.records[key], page, state) if key[0] in state.boxes.sources else None
            if url is not None:
                listed.append((key, url))
                break
        if len(listed) == 2:
            break
    if len(listed) == 2:
        (record, url), (other, _) = listed
        facts = (
            f"{len(holders)} records of {len(people)} people list this page",
            "it may be a studio's or a list",
        )
        yield Suggestion(SuggestionKind.LINK, record, other, facts, 0.0, subject=url)
