"""From records to evidence: pure functions that find what speaks for or against two records being one person."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import combinations
from typing import Final, NamedTuple

from stash_sense_pipeline.profile_urls import ProfileKey, canonical_profile, site, stash_box_performer

RecordKey = tuple[str, str]


class Kind:
    """What a row of evidence rests on. Plain strings: they are keys of some hundred thousand rows."""

    OVERRIDE: Final = "override"
    MERGE: Final = "merge"
    CROSS_LINK: Final = "cross_link"
    PROFILE: Final = "profile"
    IMAGE: Final = "image"
    NAME_AND_BIRTH_DATE: Final = "name_birth_date"
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
    country_differs: float = -0.7
    # Different pages on a site where a person has one; counted for at most two sites.
    other_page: float = -1.5
    # Names that do not agree, and pages that only one record lists: then one shared page is not enough. A link to the
    # other record itself is, unless both list pages that the other does not.
    unshared_pages: float = -0.5
    link: float = 2.5


WEIGHTS = Weights()

# A key on more records is a hub: a studio's account, a link collection, a mistake.
MAX_HOLDERS_IN_A_SOURCE = 2
MAX_HOLDERS = 5
# Years: the sources' dates of one person differ by slips and by a year or two that somebody was made younger.
MAX_BIRTH_DATE_GAP = 2
# Days are counted as 31 a month and 372 a year: whole years and months then compare exactly.
DAYS_A_YEAR = 372
_DATE = re.compile(r"(\d{4})(?:-(\d{2}))?(?:-(\d{2}))?", re.ASCII)
# difflib's ratio from which two names are one name with a typing error.
SIMILAR_NAMES = 0.85


@dataclass(frozen=True, slots=True)
class Record:
    """One record of one source, as identity sees it.

    `also_known_by`: other identifiers of the source for it. `images`: SHA-256 of its pictures of one face.
    """

    source: str
    source_id: str
    name: str | None = None
    gender: str | None = None
    birth_date: str | None = None
    country: str | None = None
    live: bool = True
    merged_into: str | None = None
    aliases: tuple[str, ...] = ()
    urls: tuple[str, ...] = ()
    also_known_by: tuple[str, ...] = ()
    images: tuple[str, ...] = ()

    @property
    def key(self) -> RecordKey:
        """(source, source_id)."""
        return self.source, self.source_id


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


@dataclass(frozen=True)
class Findings:
    """All evidence, sorted, and the keys that were left out as hubs."""

    evidence: tuple[Evidence, ...]
    hubs: tuple[Hub, ...]


def fold_name(name: str) -> str:
    """A name without case, accents, punctuation and order of its words: `Zöe SAMPLE-O'Test` is `otest sample zoe`."""
    text = name
    if not text.isascii():
        decomposed = unicodedata.normalize("NFKD", text.casefold())
        # Only the accents of Latin, Greek and Cyrillic: the marks of Japanese kana make other letters.
        text = unicodedata.normalize("NFC", "".join(c for c in decomposed if not "\u0300" <= c <= "\u036f"))
    words = re.sub(r"['’`.]", "", text.casefold())
    return " ".join(sorted(re.sub(r"[\W_]+", " ", words).split()))


def birth_interval(date: str | None) -> tuple[int, int] | None:
    """First and last possible day (DAYS_A_YEAR) of YYYY, YYYY-MM or YYYY-MM-DD; None if it is none of these.

    1 January is read as the whole year: it is what forms fill in for a date that is not known.
    """
    match = _DATE.fullmatch(date) if date else None
    if match is None:
        return None
    year = int(match[1]) * DAYS_A_YEAR
    month, day = int(match[2] or 0), int(match[3] or 0)
    if not 1 <= month <= 12 or (month == 1 and day == 1):
        return year, year + DAYS_A_YEAR - 1
    first = year + (month - 1) * 31
    return (first, first + 30) if not 1 <= day <= 31 else (first + day - 1, first + day - 1)


def survivor(records: Mapping[RecordKey, Record], key: RecordKey) -> RecordKey | None:
    """The live record that `key` is now, along the source's own merges; None when it is gone or was never seen."""
    seen: set[RecordKey] = set()
    while key in records and key not in seen:
        record = records[key]
        if record.live:
            return key
        if record.merged_into is None:
            return None
        seen.add(key)
        key = (record.source, record.merged_into)
    return None


def find_evidence(
    records: Mapping[RecordKey, Record],
    hosts: Mapping[str, str],
    must_link: Iterable[tuple[RecordKey, RecordKey]] = (),
    weights: Weights = WEIGHTS,
) -> Findings:
    """All evidence among `records`. `hosts`: universal-id host of each stash-box, by source.

    `must_link` holds pairs of live records. The order of the records does not matter.
    """
    holders = _holders(records, hosts)
    pairs: dict[tuple[RecordKey, RecordKey], list[Evidence]] = defaultdict(list)
    hubs: list[Hub] = []
    for a, b in must_link:
        a, b = (a, b) if a < b else (b, a)
        pairs[a, b].append(Evidence(Kind.OVERRIDE, a, b, "", weights.override))
    for page, found in holders.items():
        if len(found) < 2:
            continue
        listed = sorted(found)
        per_source = Counter(source for source, _ in listed)
        if len(listed) > MAX_HOLDERS or max(per_source.values()) > MAX_HOLDERS_IN_A_SOURCE:
            hubs.append(Hub(f"{page.site}:{page.key}", tuple(listed)))
            continue
        for a, b in combinations(listed, 2):
            alone = per_source[a[0]] == per_source[b[0]] == 1
            owned = found[a] or found[b]
            kind = Kind.CROSS_LINK if owned else Kind.PROFILE
            weight = weights.shared_profile if not alone else weights.cross_link if owned else weights.profile
            pairs[a, b].append(Evidence(kind, a, b, f"{page.site}:{page.key}", weight))
    for row in _shared_images(records, weights):
        pairs[row.a, row.b].append(row)
    folded = _FoldedNames(records)
    for a, b in _same_name_and_birth_date(records, folded):
        pairs.setdefault((a, b), [])
    pages = _pages_held(holders, {key for pair in pairs for key in pair})
    evidence: list[Evidence] = []
    for key, record in records.items():
        target = None if record.live else survivor(records, key)
        if target is not None:
            evidence.append(Evidence(Kind.MERGE, min(key, target), max(key, target), "", weights.merge))
    for (a, b), rows in pairs.items():
        evidence += rows
        if a[0] != b[0]:
            linked = any(row.kind == Kind.CROSS_LINK for row in rows)
            evidence += _agreement(records[a], records[b], folded, pages, linked, weights)
    evidence.sort()
    return Findings(tuple(evidence), tuple(sorted(hubs)))


def _holders(
    records: Mapping[RecordKey, Record], hosts: Mapping[str, str]
) -> dict[ProfileKey, dict[RecordKey, bool]]:
    """Which live records list each identity-grade page; True for the one whose own page in its stash-box it is."""
    sources_of_host: dict[str, list[str]] = defaultdict(list)
    for source, host in sorted(hosts.items()):
        sources_of_host[host.lower().removeprefix("www.")].append(source)
    by_other_name = _other_names(records)
    graded: dict[str, bool] = {}
    holders: dict[ProfileKey, dict[RecordKey, bool]] = defaultdict(dict)
    for key, record in records.items():
        if not record.live:
            continue
        if key[0] not in hosts and site(key[0]) is not None:
            holders[ProfileKey(*key)].setdefault(key, False)
        for url in record.urls:
            if "/performers/" in url and (target := stash_box_performer(url)) is not None:
                _hold_stash_box_page(holders, key, target, sources_of_host, records, by_other_name)
                continue
            page = canonical_profile(url)
            if page is None:
                continue
            grade = graded.get(page.site)
            if grade is None:
                row = site(page.site)
                grade = graded[page.site] = row is not None and row.identity_grade
            if grade:
                holders[page].setdefault(key, False)
    return holders


def _hold_stash_box_page(
    holders: dict[ProfileKey, dict[RecordKey, bool]],
    key: RecordKey,
    target: tuple[str, str],
    sources_of_host: Mapping[str, Sequence[str]],
    records: Mapping[RecordKey, Record],
    by_other_name: Mapping[RecordKey, RecordKey],
) -> None:
    host, identifier = target
    sources = sources_of_host.get(host)
    if sources is None:
        if canonical_profile(f"https://{host}/performers/{identifier}") is not None:
            holders[ProfileKey(host, identifier.casefold())].setdefault(key, False)
        return
    for source in sources:
        named = (source, identifier)
        named = named if named in records else by_other_name.get((source, identifier.casefold()), named)
        now = survivor(records, named)
        if now is None:
            holders[ProfileKey(host, identifier.casefold())].setdefault(key, False)
        else:
            page = ProfileKey(now[0], now[1])
            holders[page].setdefault(key, False)
            holders[page][now] = True


def _shared_images(records: Mapping[RecordKey, Record], weights: Weights) -> Iterator[Evidence]:
    """Rows for pictures that records of different sources have in common, at most two for a pair.

    A picture on two records of one source is of two people, or of nobody; one on many records stands for no picture.
    """
    holders: dict[str, list[RecordKey]] = defaultdict(list)
    for key, record in records.items():
        if record.live:
            for image in set(record.images):
                holders[image].append(key)
    counted: Counter[tuple[RecordKey, RecordKey]] = Counter()
    for image, keys in sorted(holders.items()):
        if not 2 <= len(keys) <= MAX_HOLDERS or len({source for source, _ in keys}) < len(keys):
            continue
        for a, b in combinations(sorted(keys), 2):
            counted[a, b] += 1
            if counted[a, b] <= 2:
                yield Evidence(Kind.IMAGE, a, b, image, weights.image)


def _other_names(records: Mapping[RecordKey, Record]) -> dict[RecordKey, RecordKey]:
    """(source, other identifier) to the record it names, where it names exactly one."""
    found: dict[RecordKey, RecordKey | None] = {}
    for key, record in records.items():
        for name in record.also_known_by:
            other = (record.source, name.casefold())
            found[other] = key if found.get(other, key) == key else None
    return {other: key for other, key in found.items() if key is not None}


class _FoldedNames:
    """Folded main name and folded names of records, each computed once."""

    def __init__(self, records: Mapping[RecordKey, Record]) -> None:
        self._records = records
        self._cache: dict[str, str] = {}
        self._aliases: dict[RecordKey, frozenset[str]] = {}

    def main(self, key: RecordKey) -> str:
        return self._fold(self._records[key].name or "")

    def aliases(self, key: RecordKey) -> frozenset[str]:
        known = self._aliases.get(key)
        if known is None:
            known = frozenset(self._fold(alias) for alias in self._records[key].aliases) - {""}
            self._aliases[key] = known
        return known

    def _fold(self, name: str) -> str:
        folded = self._cache.get(name)
        if folded is None:
            folded = self._cache[name] = fold_name(name)
        return folded


def _same_name_and_birth_date(
    records: Mapping[RecordKey, Record], folded: _FoldedNames
) -> list[tuple[RecordKey, RecordKey]]:
    """Pairs of two sources worth a look for their names and birth dates alone."""
    exact: dict[int, list[RecordKey]] = defaultdict(list)
    named: dict[str, list[RecordKey]] = defaultdict(list)
    for key, record in records.items():
        interval = birth_interval(record.birth_date) if record.live else None
        if interval is None:
            continue
        named[folded.main(key)].append(key)
        if interval[0] == interval[1]:
            exact[interval[0]].append(key)
    pairs: set[tuple[RecordKey, RecordKey]] = set()
    for keys in exact.values():
        pairs.update(_same_date(keys, folded))
    per_source = Counter((key[0], folded.main(key)) for key, record in records.items() if record.live)
    for name, keys in named.items():
        if (
            " " in name
            and 2 <= len(keys) <= MAX_HOLDERS
            and all(per_source[key[0], name] == 1 for key in keys)
        ):
            pairs.update(_compatible_dates(keys, records))
    return sorted(pairs)


def _same_date(keys: Sequence[RecordKey], folded: _FoldedNames) -> Iterator[tuple[RecordKey, RecordKey]]:
    """Of records with one full birth date, those with a name or alias that is equal or similar."""
    by_word: dict[str, set[RecordKey]] = defaultdict(set)
    for key in keys:
        for name in (folded.main(key), *folded.aliases(key)):
            for word in name.split():
                by_word[word].add(key)
    for sharing in by_word.values():
        for a, b in combinations(sorted(sharing), 2):
            if a[0] != b[0] and _name_agreement(a, b, folded) is not None:
                yield a, b


def _compatible_dates(
    keys: Sequence[RecordKey], records: Mapping[RecordKey, Record]
) -> Iterator[tuple[RecordKey, RecordKey]]:
    """Of namesakes, no two of one source, those whose birth dates may be the same or differ by a slip."""
    for a, b in combinations(sorted(keys), 2):
        part = _birth_part(records[a].birth_date, records[b].birth_date, WEIGHTS)
        if part is not None and part[1] > 0:
            yield a, b


def _name_agreement(a: RecordKey, b: RecordKey, folded: _FoldedNames) -> tuple[str, str] | None:
    """(name of a weight, the name) of the best agreement of two records' names; None when they have none."""
    main_a, main_b = folded.main(a), folded.main(b)
    if main_a == main_b and main_a:
        return "name_equal", main_a
    aliases_a, aliases_b = folded.aliases(a), folded.aliases(b)
    if main_a in aliases_b:
        return "name_in_aliases", main_a
    if main_b in aliases_a:
        return "name_in_aliases", main_b
    common = aliases_a & aliases_b
    if common:
        return "alias_in_common", max(common, key=lambda name: (name.count(" "), name))
    if main_a and main_b and _similar(main_a, main_b):
        return "name_similar", f"{main_a} ~ {main_b}"
    return None


def _similar(a: str, b: str) -> bool:
    matcher = SequenceMatcher(None, a, b, autojunk=False)
    return (
        min(len(a), len(b)) >= 6
        and matcher.real_quick_ratio() >= SIMILAR_NAMES
        and matcher.quick_ratio() >= SIMILAR_NAMES
        and max(matcher.ratio(), SequenceMatcher(None, b, a, autojunk=False).ratio()) >= SIMILAR_NAMES
    )


def _agreement(
    a: Record,
    b: Record,
    folded: _FoldedNames,
    pages: Mapping[RecordKey, frozenset[ProfileKey]],
    linked: bool,
    weights: Weights,
) -> list[Evidence]:
    """Rows for what the two records' own fields say: name and birth date in one row, if both agree."""
    parts: list[tuple[str, float]] = []
    name = _name_part(a, b, folded, weights)
    birth = _birth_part(a.birth_date, b.birth_date, weights)
    rows: list[Evidence] = []
    if name and birth and name[1] > 0 and birth[1] > 0:
        weight = round(name[1] + birth[1], 3)
        rows.append(Evidence(Kind.NAME_AND_BIRTH_DATE, a.key, b.key, f"{name[0]}, {birth[0]}", weight))
    else:
        parts += [part for part in (name, birth) if part is not None]
    country = _country_part(a.country, b.country, weights)
    if country is not None:
        parts.append(country)
    held_a, held_b = pages.get(a.key, frozenset()), pages.get(b.key, frozenset())
    parts += _other_pages(held_a, held_b, weights)
    only_a, only_b = held_a - held_b, held_b - held_a
    unshared = (only_a and only_b) if linked else (only_a or only_b)
    if unshared and (name is None or name[1] < 0):
        parts.append(("other pages listed", weights.unshared_pages))
    if parts:
        text = ", ".join(text for text, _ in parts)
        rows.append(
            Evidence(Kind.ATTRIBUTES, a.key, b.key, text, round(sum(weight for _, weight in parts), 3))
        )
    return rows


def _name_part(a: Record, b: Record, folded: _FoldedNames, weights: Weights) -> tuple[str, float] | None:
    if not a.name or not b.name:
        return None
    agreement = _name_agreement(a.key, b.key, folded)
    if agreement is None:
        return "names differ", weights.name_differs
    how, name = agreement
    weight = float(getattr(weights, how)) + (weights.single_word if " " not in name else 0.0)
    return f"{how.replace('_', ' ')} ({name})", weight


def _birth_part(a: str | None, b: str | None, weights: Weights) -> tuple[str, float] | None:
    first, second = birth_interval(a), birth_interval(b)
    if first is None or second is None:
        return None
    if first == second:
        days = first[1] - first[0]
        weight = (
            weights.birth_date_equal
            if days == 0
            else weights.birth_month_equal
            if days == 30
            else weights.birth_year_equal
        )
        return f"birth date equal ({a})", weight
    if first[0] <= second[1] and second[0] <= first[1]:
        wider = max(first[1] - first[0], second[1] - second[0])
        weight = weights.birth_month_equal if wider == 30 else weights.birth_year_equal
        return f"birth dates agree ({a}, {b})", weight
    if _nearly_equal(str(a), str(b)):
        return f"birth dates nearly equal ({a}, {b})", weights.birth_date_nearly_equal
    return f"birth dates differ ({a}, {b})", weights.birth_date_differs


def _nearly_equal(a: str, b: str) -> bool:
    first, second = a.split("-"), b.split("-")
    if len(first) != 3 or len(second) != 3 or abs(int(first[0]) - int(second[0])) > 2:
        return False
    different = sum(x != y for x, y in zip(first, second, strict=True))
    return different == 1 or (first[0] == second[0] and first[1:] == second[:0:-1])


def _country_part(a: str | None, b: str | None, weights: Weights) -> tuple[str, float] | None:
    # A code can only be compared with a code: some sources write the country's name.
    if not a or not b or (len(a) == 2) != (len(b) == 2):
        return None
    if a.casefold() == b.casefold():
        return f"country equal ({a})", weights.country_equal
    return f"countries differ ({a}, {b})", weights.country_differs


def _pages_held(
    holders: Mapping[ProfileKey, Mapping[RecordKey, bool]], wanted: set[RecordKey]
) -> dict[RecordKey, frozenset[ProfileKey]]:
    """The pages of each wanted record."""
    found: dict[RecordKey, set[ProfileKey]] = defaultdict(set)
    for page, keys in holders.items():
        for key in keys:
            if key in wanted:
                found[key].add(page)
    return {key: frozenset(held) for key, held in found.items()}


def _other_pages(
    a: frozenset[ProfileKey], b: frozenset[ProfileKey], weights: Weights
) -> list[tuple[str, float]]:
    """Sites where a person has one page and the records list different ones; the strongest two count."""
    mine, theirs = _by_form(a - b), _by_form(b - a)
    shared = _by_form(a & b)
    different = sorted((mine & theirs) - shared)
    return [(f"different pages on {form}", weights.other_page) for form in different[:2]]


def _by_form(pages: frozenset[ProfileKey]) -> set[str]:
    """The singular sites among the pages; forms of a site's keys that cannot be compared stay apart."""
    found: set[str] = set()
    for page in pages:
        row = site(page.site)
        if row is not None and row.singular and not page.key.startswith("legacy:"):
            found.add(f"{page.site}:{page.key.partition(':')[0]}" if ":" in page.key else page.site)
    return found
