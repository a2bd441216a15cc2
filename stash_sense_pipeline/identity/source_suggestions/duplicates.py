"""Two live records of one stash-box that faces, names and pages call one person."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np

from stash_sense_pipeline.identity.face_matching.template_set import above
from stash_sense_pipeline.identity.linkage.blocking import MAX_HOLDERS_IN_A_SOURCE, is_hub
from stash_sense_pipeline.identity.linkage.evidence import Pair
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
from stash_sense_pipeline.records.record_key import RecordKey

# A name on more records of one stash-box does not tell people apart. The limit bounds the comparisons of each record.
_MOST_NAMESAKES = 1_000
# The decimal logarithm of the odds that the operator is right.
_DECLARED = 4.0


def find_duplicates(state: IdentityState) -> list[Suggestion]:
    """The pairs of one stash-box with enough evidence for one person, and nothing that excludes it.

    Faces or a picture in common need a name or a page in common. A page in common with an equal name is enough without
    faces, if the faces of one record are unknown. Pairs that the operator calls duplicates come with that fact.
    """
    shared = _shared_pages(state)
    for pair, picture in _shared_pictures(state):
        shared[pair].append(picture)
    pairs = {*shared, *_namesakes_alike(state)}
    found = {pair: _suggestion(state, pair, shared.get(pair, [])) for pair in sorted(pairs)}
    for pair in _declared(state):
        found[pair] = _confirmed(pair, found.get(pair))
    return [suggestion for suggestion in found.values() if suggestion is not None]


def _declared(state: IdentityState) -> list[Pair]:
    """The pairs of live records of one stash-box that the operator calls duplicates."""
    return sorted(
        (min(row.a, row.b), max(row.a, row.b))
        for row in state.overrides.duplicates
        if row.a[0] in state.boxes.sources and row.a in state.records and row.b in state.records
    )


def _confirmed(pair: Pair, found: Suggestion | None) -> Suggestion:
    facts = ("the operator says that they are one person", *(found.facts if found is not None else ()))
    score = max(_DECLARED, found.score if found is not None else 0.0)
    return Suggestion(SuggestionKind.DUPLICATE, *pair, facts, score)


def _suggestion(state: IdentityState, pair: Pair, shared: Sequence[Fact]) -> Suggestion | None:
    a, b = pair
    if frozenset(pair) in state.two_people or contradictions(state.records[a], state.records[b]):
        return None
    face, name = face_fact(state, a, b), name_fact(state, a, b)
    known = a in state.template_of and b in state.template_of and bool(state.calibration.thresholds)
    alike, named = face is not None and face.weight > 0, name is not None and name.weight > 0
    if known and not alike:
        return None
    if not named and not (alike and shared):
        return None
    if not alike and not shared:
        return None
    details = detail_facts(state, a, b)
    if not named:
        # Twins share face, birth date and sometimes a page: with different names only face and page count.
        details = [fact for fact in details if fact.weight < 0]
    facts = [*(fact for fact in (face, name) if fact is not None), *shared, *details]
    total = score(facts)
    if total < state.weights.link:
        return None
    return Suggestion(SuggestionKind.DUPLICATE, a, b, texts(facts), total)


def _shared_pages(state: IdentityState) -> defaultdict[Pair, list[Fact]]:
    found: defaultdict[Pair, list[Fact]] = defaultdict(list)
    for page, holders in sorted(state.pages.items()):
        if is_hub(holders, state.boxes):
            continue
        for pair in _pairs_of_one_box(state, holders):
            found[pair].append(Fact(f"both list the page {page}", state.weights.shared_profile))
    return found


def _pairs_of_one_box(state: IdentityState, keys: Sequence[RecordKey]) -> Iterator[Pair]:
    by_source: dict[str, list[RecordKey]] = defaultdict(list)
    for key in sorted(keys):
        if key[0] in state.boxes.sources:
            by_source[key[0]].append(key)
    for same in by_source.values():
        yield from combinations(same, 2)


def _shared_pictures(state: IdentityState) -> Iterator[tuple[Pair, Fact]]:
    """Pairs of one stash-box that alone in it show the same picture, with at most two pictures."""
    holders: dict[tuple[str, str], list[RecordKey]] = defaultdict(list)
    for key, record in state.records.items():
        if key[0] in state.boxes.sources:
            for image in set(record.images):
                holders[key[0], image].append(key)
    pictures: dict[Pair, int] = defaultdict(int)
    for keys in holders.values():
        if len(keys) == MAX_HOLDERS_IN_A_SOURCE:
            pictures[keys[0], keys[1]] += 1
    for pair, count in sorted(pictures.items()):
        text = f"both show the same {'picture' if count == 1 else f'{count} pictures'}"
        yield pair, Fact(text, state.weights.image * min(count, 2))


def _namesakes_alike(state: IdentityState) -> Iterator[Pair]:
    """Pairs of one stash-box with a name in common and faces that agree.

    Names are the main name, and aliases of several words. Only records with one name are compared with each other.
    """
    if not state.calibration.thresholds:
        return
    templates = state.templates
    sharing: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row, key in enumerate(templates.records):
        if key[0] in state.boxes.sources:
            aliases = {name for name in state.names.aliases(key) if " " in name}
            for name in {state.names.main(key), *aliases} - {""}:
                sharing[key[0], name].append(row)
    limits = np.array([row.match_threshold for row in state.calibration.thresholds])
    # Products of blocks are not exact to the last bit: `face_fact` decides.
    floor = float(limits.sum()) - 1e-3
    for rows in sharing.values():
        if 1 < len(rows) <= _MOST_NAMESAKES:
            vectors = templates.vectors[rows]
            for first, second, _ in above(vectors, range(len(rows)), range(len(rows)), floor):
                for a, b in zip(first.tolist(), second.tolist(), strict=True):
                    yield templates.records[rows[a]], templates.records[rows[b]]
