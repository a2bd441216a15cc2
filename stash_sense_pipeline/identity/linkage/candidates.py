"""Candidate pairs: records that share a blocking key, with the evidence in the shared keys."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import NamedTuple

from stash_sense_pipeline.identity.linkage.blocking import (
    KeyKind,
    StashBoxes,
    blocking_keys,
    is_hub,
    merged_into,
    owner,
)
from stash_sense_pipeline.identity.linkage.comparisons import (
    FoldedNames,
    Record,
    birth_agreement,
    name_agreement,
)
from stash_sense_pipeline.identity.linkage.evidence import WEIGHTS, Evidence, Kind, Pair, Weights
from stash_sense_pipeline.records.record_key import RecordKey


class Hub(NamedTuple):
    """A key that too many records hold to prove anything."""

    key: str
    holders: tuple[RecordKey, ...]


@dataclass(frozen=True)
class Candidates:
    """Pairs worth a comparison, with the evidence in their shared keys, and the inputs of `weigh`.

    `keys`: the blocking keys of each live record. `resolved`: a page of a stash-box to the page of its current record.
    """

    records: Mapping[RecordKey, Record]
    keys: Mapping[RecordKey, tuple[str, ...]]
    shared: Mapping[Pair, Sequence[Evidence]]
    hubs: tuple[Hub, ...]
    folded: FoldedNames
    resolved: Mapping[str, str]
    boxes: StashBoxes

    def compared_pages(self, wanted: Collection[RecordKey]) -> dict[RecordKey, frozenset[str]]:
        """The pages of each wanted record; pages of stash-boxes are replaced by those of their current records."""
        return {
            key: frozenset(
                self.resolved.get(text[1:], text[1:]) for text in self.keys[key] if text[0] == KeyKind.PAGE
            )
            for key in wanted
        }

    def certain_pairs(self, weights: Weights = WEIGHTS) -> list[Pair]:
        """Pairs that are certainly one person, for calibrating faces: they share links, and their names agree."""
        found: list[Pair] = []
        for (a, b), rows in self.shared.items():
            score = sum(
                row.weight for row in rows if row.kind in (Kind.OVERRIDE, Kind.CROSS_LINK, Kind.PROFILE)
            )
            if score < weights.profile or a[0] == b[0]:
                continue
            agreement = name_agreement(a, b, self.folded)
            named = getattr(weights, agreement[0]) if agreement else weights.name_differs
            if score + named >= weights.profile + weights.name_equal:
                found.append((a, b))
        return sorted(found)

    def are_distinct(self, a: RecordKey, b: RecordKey) -> bool:
        """True when two records share nothing that could make them duplicates of one person, or twins."""
        if not set(self.keys[a]).isdisjoint(self.keys[b]):
            return False
        born = birth_agreement(self.records[a].birth_date, self.records[b].birth_date)
        if born is None:
            return self.folded.words(a).isdisjoint(self.folded.words(b))
        return born[0] == "birth_date_differs"


def find_candidates(
    records: Mapping[RecordKey, Record],
    boxes: StashBoxes,
    must_link: Iterable[Pair] = (),
    weights: Weights = WEIGHTS,
    elsewhere: Mapping[str, Collection[RecordKey]] | None = None,
) -> Candidates:
    """Pairs of `records` that share a key.

    `elsewhere`: further holders of a key that are not among `records`. They decide whether a key is a hub, without
    being loaded.
    """
    merged = merged_into(records)
    keys = {
        key: blocking_keys(record, merged.get(key, ()), boxes)
        for key, record in records.items()
        if record.live
    }
    holders: dict[str, list[RecordKey]] = defaultdict(list)
    for key, held in keys.items():
        for text in held:
            holders[text].append(key)
    search = _PairSearch(records, boxes, weights, FoldedNames(records))
    for a, b in must_link:
        search.add_override(a, b)
    hubs: list[Hub] = []
    for text, known in holders.items():
        others = (elsewhere or {}).get(text, ())
        if len(known) + len(others) < 2:
            continue
        all_holders = sorted((*known, *others))
        kind, rest = text[0], text[1:]
        hub = kind != KeyKind.BIRTH_DATE and is_hub(all_holders, boxes)
        if kind == KeyKind.PAGE:
            if hub:
                hubs.append(Hub(rest, tuple(all_holders)))
            else:
                search.share_page(rest, all_holders, set(known))
        elif not hub and len(known) > 1:
            search.share(kind, rest, sorted(known), all_holders)
    return Candidates(
        records, keys, search.shared, tuple(sorted(hubs)), search.folded, search.resolved, boxes
    )


@dataclass(frozen=True)
class _PairSearch:
    """Collects the pairs that share keys in `shared`, with their evidence."""

    records: Mapping[RecordKey, Record]
    boxes: StashBoxes
    weights: Weights
    folded: FoldedNames
    shared: dict[Pair, list[Evidence]] = field(default_factory=lambda: defaultdict(list))
    resolved: dict[str, str] = field(default_factory=dict)

    def add_override(self, a: RecordKey, b: RecordKey) -> None:
        """Adds a must_link pair of the operator."""
        a, b = (a, b) if a < b else (b, a)
        self.shared[a, b].append(Evidence(Kind.OVERRIDE, a, b, "", self.weights.override))

    def share_page(self, page: str, all_holders: Sequence[RecordKey], known: Collection[RecordKey]) -> None:
        """Adds the pairs of `known` holders of a page. The other holders decide only about its weight."""
        weights = self.weights
        per_source = Counter(source for source, _ in all_holders)
        of_box = page.partition(":")[0] in self.boxes.sources
        page_owner = owner(page, all_holders) if of_box else None
        if page_owner is not None:
            self.resolved[page] = f"{page_owner[0]}:{page_owner[1].casefold()}"
        for a, b in combinations(all_holders, 2):
            if a in known and b in known:
                alone = per_source[a[0]] == per_source[b[0]] == 1
                owned = page_owner in (a, b)
                kind = Kind.CROSS_LINK if owned else Kind.PROFILE
                weight = (
                    weights.shared_profile if not alone else weights.cross_link if owned else weights.profile
                )
                self.shared[a, b].append(Evidence(kind, a, b, page, weight))

    def share(
        self, kind: str, rest: str, known: Sequence[RecordKey], all_holders: Sequence[RecordKey]
    ) -> None:
        """Adds the pairs of `known` holders of a birth date, a name or a picture.

        A shared birth date needs a name that agrees. A shared name needs a second one, or one holder in each source and
        no birth dates that differ. A picture counts only with one holder in each source: a picture on two records of one
        source shows two people, or proves nothing.
        """
        if kind == KeyKind.BIRTH_DATE:
            for pair in self._namesakes(known):
                self.shared.setdefault(pair, [])
            return
        unique = len({source for source, _ in all_holders}) == len(all_holders)
        for a, b in combinations(known, 2):
            if kind == KeyKind.IMAGE:
                if unique:
                    self.shared[a, b].append(Evidence(Kind.IMAGE, a, b, rest, self.weights.image))
            elif a[0] != b[0]:
                born = birth_agreement(self.records[a].birth_date, self.records[b].birth_date)
                born_apart = born is not None and float(getattr(self.weights, born[0])) < 0
                if (unique and not born_apart) or len(self.folded.in_common(a, b)) > 1:
                    self.shared.setdefault((a, b), [])

    def _namesakes(self, known: Sequence[RecordKey]) -> Iterator[Pair]:
        """The pairs of two sources among these records with a name or alias that is equal or similar."""
        by_word: dict[str, list[RecordKey]] = defaultdict(list)
        for key in known:
            for word in self.folded.words(key):
                by_word[word].append(key)
        seen: set[Pair] = set()
        for sharing in by_word.values():
            for pair in combinations(sharing, 2):
                if pair[0][0] != pair[1][0] and pair not in seen:
                    seen.add(pair)
                    if name_agreement(*pair, self.folded) is not None:
                        yield pair
