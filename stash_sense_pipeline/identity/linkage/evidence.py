"""Weighted evidence for and against two records being one person."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Final, NamedTuple

from stash_sense_pipeline.identity.linkage.blocking import (
    KeyKind,
    StashBoxes,
    blocking_keys,
    is_hub,
    merged_into,
    owner,
    singular_sites,
    survivor,
)
from stash_sense_pipeline.identity.linkage.comparisons import (
    FoldedNames,
    Record,
    birth_agreement,
    country_agreement,
    name_agreement,
)
from stash_sense_pipeline.records.record_key import RecordKey

Pair = tuple[RecordKey, RecordKey]


class Kind:
    """What a row of evidence rests on. Plain strings: they are keys of some hundred thousand rows."""

    OVERRIDE: Final = "override"
    MERGE: Final = "merge"
    CROSS_LINK: Final = "cross_link"
    PROFILE: Final = "profile"
    IMAGE: Final = "image"
    NAME_AND_BIRTH_DATE: Final = "name_birth_date"
    FACE: Final = "face"
    ATTRIBUTES: Final = "attributes"


@dataclass(frozen=True)
class Weights:
    """How much each observation counts, about the decimal logarithm of how often it is right over how often wrong.

    A pair's score is the sum; it links from `link` on. So one shared profile page links two records about which
    nothing else disagrees but the name, and any further disagreement (country, another page on the same site, a
    birth date that is not equal) needs further support. Chosen on generated populations with known truth
    (sandbox.population), where the precision must hold with 5 % of all URLs wrong.
    """

    override: float = 100.0
    merge: float = 90.0
    cross_link: float = 4.4
    profile: float = 4.0
    # A page that two records of one source claim: one of them is wrong, or they are a couple.
    shared_profile: float = 2.0
    # The same bytes with one face; two of them count. Never enough alone: sources copy pictures from each other, and
    # sometimes the wrong ones.
    image: float = 1.5
    name_equal: float = 2.0
    name_in_aliases: float = 1.5
    alias_in_common: float = 1.0
    name_similar: float = 0.8
    # A further name of two words or more that both have: stage names are chosen, two equal ones are no chance.
    further_name: float = 1.0
    # A single word is a first name: many have it.
    single_word: float = -0.8
    name_differs: float = -1.5
    birth_date_equal: float = 2.5
    birth_month_equal: float = 1.5
    birth_year_equal: float = 0.8
    # One of year, month and day differs, or day and month are swapped: more often a slip than chance.
    birth_date_nearly_equal: float = 0.5
    birth_date_differs: float = -1.0
    country_equal: float = 0.4
    country_differs: float = -0.9
    # Different pages on a site where a person has one; counted for at most two sites.
    other_page: float = -1.5
    # Names that do not agree, and pages that only one record lists: then one shared page is not enough. A link to the
    # other record itself is, unless both list pages that the other does not.
    unshared_pages: float = -0.5
    # Faces that every model finds alike, each the other's nearest in its source by a margin: two strangers in 1000.
    # Below `link`, so that it takes a name or a page beside them; less where a record has a single face.
    face: float = 2.4
    face_single: float = 1.4
    # Nearly as alike, and each other's nearest all the same: enough beside a whole name, and else shown to a person.
    face_borderline: float = 0.8
    # Two or more faces on both sides that no model finds alike: true of one in 200 pairs of one person.
    face_differs: float = -2.5
    link: float = 2.5


WEIGHTS = Weights()


class Evidence(NamedTuple):
    """One observation about two records; `a` sorts before `b`. A negative weight speaks against."""

    kind: str
    a: RecordKey
    b: RecordKey
    key: str
    weight: float


class Hub(NamedTuple):
    """A key that too many records hold to prove anything."""

    key: str
    holders: tuple[RecordKey, ...]


class FaceComparison(NamedTuple):
    """What the faces of two records say: the name of a weight, and the numbers it rests on."""

    how: str
    text: str


@dataclass(frozen=True)
class Faces:
    """What the faces say: pairs found alike, and a question for any other pair."""

    alike: Mapping[Pair, FaceComparison] = field(default_factory=dict)
    unlike: Mapping[Pair, FaceComparison] = field(default_factory=dict)

    def opinion(self, pair: Pair) -> FaceComparison | None:
        """The opinion on a pair (in order), if there is one."""
        return self.alike.get(pair) or self.unlike.get(pair)


NO_FACES = Faces()


@dataclass(frozen=True)
class Findings:
    """All evidence, sorted by its pair, kind and key, and the keys that were left out as hubs."""

    evidence: tuple[Evidence, ...]
    hubs: tuple[Hub, ...]


@dataclass(frozen=True)
class Candidates:
    """Pairs worth a comparison, with the rows of what they share; what `weigh` needs to compare them."""

    records: Mapping[RecordKey, Record]
    keys: Mapping[RecordKey, tuple[str, ...]]
    shared: Mapping[Pair, Sequence[Evidence]]
    hubs: tuple[Hub, ...]
    folded: FoldedNames
    resolved: Mapping[str, str]

    def hard(self, weights: Weights = WEIGHTS) -> list[Pair]:
        """Pairs that are one person beyond doubt, for calibrating faces: links between them, and names that agree."""
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

    def strangers(self, a: RecordKey, b: RecordKey) -> bool:
        """Do two records share nothing by which they could be one person twice, or twins?"""
        if not set(self.keys[a]).isdisjoint(self.keys[b]):
            return False
        born = birth_agreement(self.records[a].birth_date, self.records[b].birth_date)
        if born is None:
            return self.folded.words(a).isdisjoint(self.folded.words(b))
        return born[0] == "birth_date_differs"


def find_evidence(
    records: Mapping[RecordKey, Record],
    hosts: Mapping[str, str],
    must_link: Iterable[Pair] = (),
    weights: Weights = WEIGHTS,
    faces: Faces = NO_FACES,
) -> Findings:
    """All evidence among `records`. `hosts`: universal-id host of each stash-box, by source.

    `must_link` holds pairs of live records. The order of the records does not matter.
    """
    return weigh(find_candidates(records, StashBoxes.of(hosts), must_link, weights), faces, weights)


def find_candidates(
    records: Mapping[RecordKey, Record],
    boxes: StashBoxes,
    must_link: Iterable[Pair] = (),
    weights: Weights = WEIGHTS,
    elsewhere: Mapping[str, Collection[RecordKey]] | None = None,
) -> Candidates:
    """Pairs of `records` that share a key.

    `elsewhere`: holders of a key that are not among `records`; what they make of a key is then known without them.
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
    shared: dict[Pair, list[Evidence]] = defaultdict(list)
    for a, b in must_link:
        a, b = (a, b) if a < b else (b, a)
        shared[a, b].append(Evidence(Kind.OVERRIDE, a, b, "", weights.override))
    folded = FoldedNames(records)
    hubs: list[Hub] = []
    resolved: dict[str, str] = {}
    for text, known in holders.items():
        others = (elsewhere or {}).get(text, ())
        if len(known) + len(others) < 2:
            continue
        everybody = sorted((*known, *others))
        sort, rest = text[0], text[1:]
        hub = sort != KeyKind.BIRTH_DATE and is_hub(everybody, boxes)
        if sort == KeyKind.PAGE:
            if hub:
                hubs.append(Hub(rest, tuple(everybody)))
            else:
                _share_page(shared, rest, everybody, set(known), boxes, resolved, weights)
        elif not hub and len(known) > 1:
            _share(shared, sort, rest, sorted(known), everybody, records, folded, weights)
    return Candidates(records, keys, shared, tuple(sorted(hubs)), folded, resolved)


def _share_page(
    shared: dict[Pair, list[Evidence]],
    page: str,
    everybody: Sequence[RecordKey],
    known: Collection[RecordKey],
    boxes: StashBoxes,
    resolved: dict[str, str],
    weights: Weights,
) -> None:
    per_source = Counter(source for source, _ in everybody)
    whose = owner(page, everybody) if page.partition(":")[0] in boxes.sources else None
    if whose is not None:
        resolved[page] = f"{whose[0]}:{whose[1].casefold()}"
    for a, b in combinations(everybody, 2):
        if a in known and b in known:
            alone = per_source[a[0]] == per_source[b[0]] == 1
            owned = whose in (a, b)
            kind = Kind.CROSS_LINK if owned else Kind.PROFILE
            weight = weights.shared_profile if not alone else weights.cross_link if owned else weights.profile
            shared[a, b].append(Evidence(kind, a, b, page, weight))


def _share(
    shared: dict[Pair, list[Evidence]],
    sort: str,
    rest: str,
    known: Sequence[RecordKey],
    everybody: Sequence[RecordKey],
    records: Mapping[RecordKey, Record],
    folded: FoldedNames,
    weights: Weights,
) -> None:
    """Pairs that share a birth date and a name, a name beside another one or unique in each source, or a picture.

    A picture on two records of one source is of two people, or of nobody.
    """
    if sort == KeyKind.BIRTH_DATE:
        for pair in _namesakes(known, folded):
            shared.setdefault(pair, [])
        return
    unique = len({source for source, _ in everybody}) == len(everybody)
    for a, b in combinations(known, 2):
        if sort == KeyKind.IMAGE:
            if unique:
                shared[a, b].append(Evidence(Kind.IMAGE, a, b, rest, weights.image))
        elif a[0] != b[0]:
            born = birth_agreement(records[a].birth_date, records[b].birth_date)
            same_time = born is not None and float(getattr(weights, born[0])) > 0
            if (unique and same_time) or folded.several_in_common(a, b):
                shared.setdefault((a, b), [])


def _namesakes(known: Sequence[RecordKey], folded: FoldedNames) -> Iterator[Pair]:
    """Of these records, pairs of two sources with a name or alias that is equal or similar."""
    by_word: dict[str, list[RecordKey]] = defaultdict(list)
    for key in known:
        for word in folded.words(key):
            by_word[word].append(key)
    seen: set[Pair] = set()
    for sharing in by_word.values():
        for pair in combinations(sharing, 2):
            if pair[0][0] != pair[1][0] and pair not in seen:
                seen.add(pair)
                if name_agreement(*pair, folded) is not None:
                    yield pair


def weigh(candidates: Candidates, faces: Faces = NO_FACES, weights: Weights = WEIGHTS) -> Findings:
    """Every row of evidence on the candidate pairs and on those that the faces add, and the sources' own merges."""
    records = candidates.records
    merges = {
        (min(key, target), max(key, target))
        for key, record in records.items()
        if not record.live and (target := survivor(records, key)) is not None
    }
    pairs = candidates.shared.keys() | faces.alike.keys()
    pages = _pages_compared(candidates, {key for pair in pairs for key in pair})
    evidence: list[Evidence] = []
    for pair in sorted(pairs | merges):
        if pair in merges:
            evidence.append(Evidence(Kind.MERGE, *pair, "", weights.merge))
        else:
            evidence += sorted(_about(pair, candidates, faces, pages, weights))
    return Findings(tuple(evidence), candidates.hubs)


def _about(
    pair: Pair,
    candidates: Candidates,
    faces: Faces,
    pages: Mapping[RecordKey, frozenset[str]],
    weights: Weights,
) -> list[Evidence]:
    """All rows on one pair of live records."""
    a, b = pair
    rows = _images_counted(candidates.shared.get(pair, ()))
    if a[0] == b[0]:
        return rows
    opinion = faces.opinion(pair)
    linked = any(row.kind == Kind.CROSS_LINK for row in rows)
    alike = False
    if opinion is not None:
        weight = float(getattr(weights, opinion.how))
        # The same picture on both is alike anyhow.
        weight = min(weight, 0.0) if any(row.kind == Kind.IMAGE for row in rows) else weight
        rows.append(Evidence(Kind.FACE, a, b, opinion.text, weight))
        alike = weight > 0
    records = candidates.records
    return rows + _agreement(records[a], records[b], candidates.folded, pages, linked, alike, weights)


def _images_counted(rows: Sequence[Evidence]) -> list[Evidence]:
    """All rows but the pictures beyond the first two."""
    images = sorted(row for row in rows if row.kind == Kind.IMAGE)
    return [row for row in rows if row.kind != Kind.IMAGE] + images[:2]


def _pages_compared(candidates: Candidates, wanted: Collection[RecordKey]) -> dict[RecordKey, frozenset[str]]:
    """The pages of each wanted record, those of stash-boxes by the record that they are of now."""
    resolved = candidates.resolved
    return {
        key: frozenset(
            resolved.get(text[1:], text[1:]) for text in candidates.keys[key] if text[0] == KeyKind.PAGE
        )
        for key in wanted
    }


def _agreement(
    a: Record,
    b: Record,
    folded: FoldedNames,
    pages: Mapping[RecordKey, frozenset[str]],
    linked: bool,
    alike: bool,
    weights: Weights,
) -> list[Evidence]:
    """Rows for what the two records' own fields say: name and birth date in one row, if both agree."""
    parts: list[tuple[str, float]] = []
    name = _name_part(a, b, folded, weights)
    birth = _weighed(birth_agreement(a.birth_date, b.birth_date), weights)
    rows: list[Evidence] = []
    if name and birth and name[1] > 0 and birth[1] > 0:
        weight = round(name[1] + birth[1], 3)
        rows.append(Evidence(Kind.NAME_AND_BIRTH_DATE, a.key, b.key, f"{name[0]}, {birth[0]}", weight))
    else:
        # Twins have one face and one birth date: with another name, the date is no proof beside the face.
        twins = alike and name is not None and name[1] < 0
        parts += [part for part in (name, birth) if part is not None and not (twins and part[1] > 0)]
    country = _weighed(country_agreement(a.country, b.country), weights)
    if country is not None:
        parts.append(country)
    held_a, held_b = pages[a.key], pages[b.key]
    parts += _other_pages(held_a, held_b, weights)
    if (name is None or name[1] < 0) and _unshared(a, b, held_a, held_b, linked):
        parts.append(("other pages listed", weights.unshared_pages))
    if parts:
        text = ", ".join(text for text, _ in parts)
        rows.append(
            Evidence(Kind.ATTRIBUTES, a.key, b.key, text, round(sum(weight for _, weight in parts), 3))
        )
    return rows


def _unshared(a: Record, b: Record, held_a: frozenset[str], held_b: frozenset[str], linked: bool) -> bool:
    """Does one list a page that the other does not, or both, if one links to the other? Their own pages aside."""
    only_a = any(not page.startswith(f"{a.source}:") for page in held_a - held_b)
    only_b = any(not page.startswith(f"{b.source}:") for page in held_b - held_a)
    return (only_a and only_b) if linked else (only_a or only_b)


def _weighed(agreement: tuple[str, str] | None, weights: Weights) -> tuple[str, float] | None:
    return None if agreement is None else (agreement[1], float(getattr(weights, agreement[0])))


def _name_part(a: Record, b: Record, folded: FoldedNames, weights: Weights) -> tuple[str, float] | None:
    if not a.name or not b.name:
        return None
    agreement = name_agreement(a.key, b.key, folded)
    if agreement is None:
        return "names differ", weights.name_differs
    how, name = agreement
    weight = float(getattr(weights, how)) + (weights.single_word if " " not in name else 0.0)
    text = f"{how.replace('_', ' ')} ({name})"
    further = [other for other in folded.several_in_common(a.key, b.key) if other != name]
    return (f"{text} and {further[0]}", weight + weights.further_name) if further else (text, weight)


def _other_pages(a: frozenset[str], b: frozenset[str], weights: Weights) -> list[tuple[str, float]]:
    """Sites where a person has one page and the records list different ones; the strongest two count."""
    mine, theirs = singular_sites(a - b), singular_sites(b - a)
    if not mine or not theirs:
        return []
    different = sorted((mine & theirs) - singular_sites(a & b))
    return [(f"different pages on {form}", weights.other_page) for form in different[:2]]
