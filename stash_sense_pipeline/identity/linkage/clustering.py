"""Constrained clustering: joins the strongest pairs first and refuses contradictions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import fsum
from typing import Final, NamedTuple

from stash_sense_pipeline.identity.linkage.comparisons import (
    DAYS_A_YEAR,
    MAX_BIRTH_DATE_GAP,
    Record,
    birth_interval,
)
from stash_sense_pipeline.identity.linkage.evidence import WEIGHTS, Evidence, Kind, Weights
from stash_sense_pipeline.records.record_key import RecordKey

# Scores closer to each other than this do not decide between two records of one source.
AMBIGUOUS_MARGIN = 0.25
# Reason for a pair that only some records of the two groups support.
UNSUPPORTED = "the other records of the two disagree"
# Prefix of the reason for a refused pair without a contradiction.
TOO_WEAK = "too weak"
# Kinds of evidence that compare only what the sources say about the records.
_FIELDS = frozenset({Kind.NAME_AND_BIRTH_DATE, Kind.ATTRIBUTES})
_GAP = MAX_BIRTH_DATE_GAP * DAYS_A_YEAR


class LinkVerdict:
    """The verdict on a pair: it joined two components, was already within one, or was refused."""

    LINKED: Final = "linked"
    REDUNDANT: Final = "redundant"
    REFUSED: Final = "refused"


class Decision(NamedTuple):
    """Verdict on a pair; the reason is given for a refused one."""

    verdict: str
    reason: str | None = None


@dataclass(frozen=True)
class Components:
    """Groups of live records, sorted by their first key, each sorted; and the decision on every pair of records."""

    groups: tuple[tuple[RecordKey, ...], ...]
    decisions: Mapping[tuple[RecordKey, RecordKey], Decision]


def cluster(
    records: Mapping[RecordKey, Record],
    evidence: Iterable[Evidence],
    cannot_link: Iterable[tuple[RecordKey, RecordKey]] = (),
    weights: Weights = WEIGHTS,
) -> Components:
    """Joins pairs of live records in Kruskal's order: score descending, then keys.

    A pair is refused when its component would hold two live records of one source, records born more than two years
    apart, a man and a woman, or a cannot_link pair. A pair is also refused when its score is too low, or when another
    record of the same source has about the same score. The result does not depend on the order of the inputs.
    """
    decisions: dict[tuple[RecordKey, RecordKey], Decision] = {}
    weighed: dict[tuple[RecordKey, RecordKey], list[float]] = defaultdict(list)
    overridden: set[tuple[RecordKey, RecordKey]] = set()
    observed: set[tuple[RecordKey, RecordKey]] = set()
    for kind, a, b, _, weight in evidence:
        if kind == Kind.MERGE:
            decisions[a, b] = Decision(LinkVerdict.LINKED)
            continue
        weighed[a, b].append(weight)
        if kind not in _FIELDS:
            observed.add((a, b))
        if kind == Kind.OVERRIDE:
            overridden.add((a, b))
    # The result of fsum does not depend on the order.
    scores = {pair: round(fsum(rows), 3) for pair, rows in weighed.items()}
    keys = sorted(key for key, record in records.items() if record.live)
    forest = _Forest(keys, records, cannot_link)
    ambiguous = _ambiguous(scores, weights.link)
    weak: list[tuple[RecordKey, RecordKey]] = []
    unsupported: list[tuple[RecordKey, RecordKey]] = []
    # Two stable sorts compare less than one by a tuple for each pair.
    ordered = sorted(sorted(scores), key=scores.__getitem__, reverse=True)
    for pair in ordered:
        score = scores[pair]
        if pair in overridden:
            decisions[pair] = forest.join(pair, settled=True)
        elif score < weights.link or pair in ambiguous:
            weak.append(pair)
        elif pair not in observed and not _supported(forest.sides(pair), scores, weights.link):
            unsupported.append(pair)
        else:
            decisions[pair] = forest.join(pair)
    for pair in unsupported:
        together = forest.together(pair)
        reason = forest.conflict(pair) or UNSUPPORTED
        decisions[pair] = (
            Decision(LinkVerdict.REDUNDANT) if together else Decision(LinkVerdict.REFUSED, reason)
        )
    for pair in weak:
        if forest.together(pair):
            decisions[pair] = Decision(LinkVerdict.REDUNDANT)
        elif pair in ambiguous and scores[pair] >= weights.link:
            rival = ":".join(ambiguous[pair])
            decisions[pair] = Decision(LinkVerdict.REFUSED, f"ambiguous: {rival} matches as well")
        else:
            reason = f"{TOO_WEAK}: {scores[pair]:.1f} of {weights.link:.1f}"
            decisions[pair] = Decision(LinkVerdict.REFUSED, forest.conflict(pair) or reason)
    return Components(forest.groups(), decisions)


def _supported(
    sides: tuple[Sequence[RecordKey], Sequence[RecordKey]],
    scores: Mapping[tuple[RecordKey, RecordKey], float],
    link: float,
) -> bool:
    """True unless the other records of the two groups speak against a link that rests on fields alone.

    A namesake may match one record of a person that says little; the person's other records then disagree.
    """
    known = [
        score
        for a in sides[0]
        for b in sides[1]
        if (score := scores.get((a, b) if a < b else (b, a))) is not None
    ]
    return fsum(known) >= (link - AMBIGUOUS_MARGIN) * len(known)


def _ambiguous(
    scores: Mapping[tuple[RecordKey, RecordKey], float], link: float
) -> dict[tuple[RecordKey, RecordKey], RecordKey]:
    """Pairs for which another record of the same source has about the same score, with that record."""
    partners: dict[tuple[RecordKey, str], list[RecordKey]] = defaultdict(list)
    for (a, b), score in scores.items():
        if a[0] != b[0] and score >= link - AMBIGUOUS_MARGIN:
            partners[a, b[0]].append(b)
            partners[b, a[0]].append(a)
    found: dict[tuple[RecordKey, RecordKey], RecordKey] = {}
    for key, rivals in sorted((key, rivals) for (key, _), rivals in partners.items() if len(rivals) > 1):
        pairs = {rival: (key, rival) if key < rival else (rival, key) for rival in rivals}
        rivals.sort(key=lambda rival: (-scores[pairs[rival]], rival))
        first, second = rivals[:2]
        best = scores[pairs[first]]
        if best - scores[pairs[second]] >= AMBIGUOUS_MARGIN:
            continue
        for rival in rivals:
            if best - scores[pairs[rival]] < AMBIGUOUS_MARGIN:
                found.setdefault(pairs[rival], second if rival == first else first)
    return found


class _Forest:
    """Union-find with the constraints of each tree: sources, gender, birth dates and cannot_link pairs."""

    def __init__(
        self,
        keys: Sequence[RecordKey],
        records: Mapping[RecordKey, Record],
        cannot_link: Iterable[tuple[RecordKey, RecordKey]],
    ) -> None:
        self._keys = keys
        self._number = {key: number for number, key in enumerate(keys)}
        self._parent = list(range(len(keys)))
        self._members: dict[int, list[int]] = {}
        self._gender = [_sex(records[key].gender) for key in keys]
        intervals = [birth_interval(records[key].birth_date) for key in keys]
        # For each tree, the latest first possible day and the earliest last possible day of birth.
        self._latest = [interval[0] if interval else None for interval in intervals]
        self._earliest = [interval[1] if interval else None for interval in intervals]
        self._apart: dict[int, set[int]] = defaultdict(set)
        for a, b in cannot_link:
            first, second = self._number[a], self._number[b]
            self._apart[first].add(second)
            self._apart[second].add(first)

    def together(self, pair: tuple[RecordKey, RecordKey]) -> bool:
        return self._find(self._number[pair[0]]) == self._find(self._number[pair[1]])

    def sides(self, pair: tuple[RecordKey, RecordKey]) -> tuple[Sequence[RecordKey], Sequence[RecordKey]]:
        """The records of the two trees of a pair."""
        first, second = (
            [self._keys[number] for number in self._tree(self._find(self._number[key]))] for key in pair
        )
        return first, second

    def conflict(self, pair: tuple[RecordKey, RecordKey]) -> str | None:
        return self._conflict(*(self._find(self._number[key]) for key in pair))

    def join(self, pair: tuple[RecordKey, RecordKey], *, settled: bool = False) -> Decision:
        """Joins the trees of a pair unless a constraint forbids it.

        `settled`: an override of the operator, which takes precedence over dates and gender.
        """
        first, second = (self._find(self._number[key]) for key in pair)
        if first == second:
            return Decision(LinkVerdict.REDUNDANT)
        reason = self._conflict(first, second, only_hard=settled)
        if reason is not None:
            return Decision(LinkVerdict.REFUSED, reason)
        if settled and self._conflict(first, second) is not None:
            for root in (first, second):
                self._gender[root] = self._latest[root] = self._earliest[root] = None
        self._union(first, second)
        return Decision(LinkVerdict.LINKED)

    def groups(self) -> tuple[tuple[RecordKey, ...], ...]:
        found: dict[int, list[RecordKey]] = defaultdict(list)
        for number, key in enumerate(self._keys):
            found[self._find(number)].append(key)
        return tuple(tuple(group) for group in found.values())

    def _find(self, number: int) -> int:
        parent = self._parent
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    def _tree(self, root: int) -> list[int]:
        return self._members.get(root) or [root]

    def _conflict(self, first: int, second: int, *, only_hard: bool = False) -> str | None:
        if first == second:
            return None
        ours, theirs = self._tree(first), self._tree(second)
        sources = {self._keys[number][0]: number for number in ours}
        for number in theirs:
            source = self._keys[number][0]
            if source in sources:
                a, b = sorted((self._keys[sources[source]][1], self._keys[number][1]))
                return f"two live records of {source}: {a}, {b}"
        small, root = (ours, second) if len(ours) < len(theirs) else (theirs, first)
        if self._apart and any(self._find(other) == root for n in small for other in self._apart.get(n, ())):
            return "cannot_link override"
        if only_hard:
            return None
        if self._gender[first] and self._gender[second] and self._gender[first] != self._gender[second]:
            return "one is male, the other female"
        if _years_apart(self._latest[first], self._earliest[second]) or _years_apart(
            self._latest[second], self._earliest[first]
        ):
            return "born more than two years apart"
        return None

    def _union(self, first: int, second: int) -> None:
        if len(self._tree(first)) < len(self._tree(second)):
            first, second = second, first
        self._parent[second] = first
        self._members[first] = [*self._tree(first), *self._tree(second)]
        self._members.pop(second, None)
        self._gender[first] = self._gender[first] or self._gender[second]
        latest, earliest = self._latest, self._earliest
        latest[first] = max((d for d in (latest[first], latest[second]) if d is not None), default=None)
        earliest[first] = min((d for d in (earliest[first], earliest[second]) if d is not None), default=None)


def _sex(gender: str | None) -> str | None:
    """MALE or FEMALE, which exclude each other; None for other entries, which vary between sources and over time."""
    return gender if gender in ("MALE", "FEMALE") else None


def _years_apart(later: int | None, earlier: int | None) -> bool:
    return later is not None and earlier is not None and later - earlier > _GAP
