"""Weights of the fields, learned from the catalog itself as Fellegi and Sunter do.

The weight of a comparison level is log10(m / u): m is its probability among pairs of one person, u among pairs of two
people (I. P. Fellegi and A. B. Sunter, "A Theory for Record Linkage", JASA 64, 1969). No labels are needed: two live
records of one stash-box are two people, and two records that share two links or more are one person.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import log10
from typing import Any, Final, NamedTuple

import numpy as np

from stash_sense_pipeline.identity.linkage.blocking import StashBoxes, digest, singular_sites
from stash_sense_pipeline.identity.linkage.candidates import Candidates
from stash_sense_pipeline.identity.linkage.comparisons import (
    birth_agreement,
    field_agreements,
)
from stash_sense_pipeline.identity.linkage.evidence import WEIGHTS, Kind, NameFrequencies, Pair, Weights
from stash_sense_pipeline.identity.linkage.name_weights import PRIOR_PAIRS, most_of_both, people_of_both
from stash_sense_pipeline.records.record_key import RecordKey


class Level(NamedTuple):
    """A comparison level: its default m and u probability, which also smooth what is counted."""

    m: float
    u: float


# Of pairs for which the field is known on both sides. The defaults are what the generated populations and stash-boxes of
# two sources show; `m` is what remains after errors of entry, `u` is the chance agreement of two performers.
LEVELS: Final[Mapping[str, Mapping[str, Level]]] = {
    "country": {"country_equal": Level(0.90, 0.30), "country_differs": Level(0.10, 0.70)},
    "gender": {"gender_differs": Level(0.015, 0.20)},
    "ethnicity": {"ethnicity_equal": Level(0.90, 0.50), "ethnicity_differs": Level(0.08, 0.50)},
    "eye_color": {"eye_color_equal": Level(0.80, 0.35), "eye_color_differs": Level(0.20, 0.65)},
    "height": {"height_equal": Level(0.75, 0.24), "height_differs": Level(0.02, 0.32)},
    "birth_date": {"birth_date_differs": Level(0.02, 0.90)},
}
# The same for pages: m from records of which one links to the other; u is strangers with pages of different sites only.
PAGES: Final[Mapping[str, Level]] = {
    "no_shared_page_of_1": Level(0.67, 0.84),
    "no_shared_page_of_2": Level(0.13, 0.67),
    "no_shared_page_of_3": Level(0.035, 0.44),
}
# The same for pairs with an equal main name of which both list other names.
OTHER_NAMES: Final[Mapping[str, Level]] = {"no_other_name": Level(0.30, 0.99)}
# A learned weight stays this near to its default: entries depend on each other, which the sum does not know.
_MOST_AWAY = 0.6
# A field counts as known from so many pairs of one person on; with fewer in all, nothing is learned.
_LEAST_PAIRS = 200
_SAMPLED_PAIRS = 20_000
# A word in a smaller share of names is rare: its share is taken as this, which errs upwards.
_RARE = 1 / 5000
_COUNTRY_MOST = 1.2
# People with the name and the birth date of another one, and the pairs seen that this default counts as.
_NAMESAKES, _PRIOR_NAMESAKES = 0.001, 3


class Observed(NamedTuple):
    """One line of the table of weights: a comparison level with its probabilities and weight."""

    level: str
    m: float
    u: float
    weight: float


@dataclass(frozen=True)
class LearnedWeights:
    """The weights of a run, and what they rest on: `positives` pairs of one person, `negatives` of two people.

    `records`: live and removed records when they were learned.
    """

    weights: Weights
    records: int = 0
    positives: int = 0
    negatives: int = 0
    table: tuple[Observed, ...] = ()

    def as_detail(self) -> dict[str, Any]:
        """The form for the catalog, as JSON."""
        names = self.weights.names
        return {
            "records": self.records,
            "positives": self.positives,
            "negatives": self.negatives,
            "table": [list(row) for row in self.table],
            "name_and_birth_date_most": self.weights.name_and_birth_date_most,
            "names": None
            if names is None
            else {
                "common": dict(names.common),
                "rare": names.rare,
                "homonyms": names.homonyms,
                "sizes": dict(names.sizes),
                "agreeing": names.agreeing,
                "countries": dict(names.countries),
                "people_of_both": dict(names.people_of_both),
            },
        }

    @classmethod
    def from_detail(cls, detail: Mapping[str, Any], base: Weights = WEIGHTS) -> LearnedWeights:
        """The inverse of `as_detail`, over the same `base`."""
        table = tuple(Observed(*row) for row in detail["table"])
        names = None if detail["names"] is None else NameFrequencies(**detail["names"])
        weights = replace(
            base,
            name_and_birth_date_most=detail["name_and_birth_date_most"],
            names=names,
            **{row.level: row.weight for row in table},
        )
        return cls(weights, detail["records"], detail["positives"], detail["negatives"], table)


def learn(candidates: Candidates, boxes: Collection[str], base: Weights = WEIGHTS) -> LearnedWeights:
    """The weights for these records; those of `base` when fewer than 200 pairs are certain.

    A pure function of the records: their order does not matter.
    """
    positives = _linked_twice(candidates)
    if len(positives) < _LEAST_PAIRS:
        return LearnedWeights(base, len(candidates.records), len(positives))
    negatives = _strangers(candidates, boxes)
    if len(negatives) < _SAMPLED_PAIRS // 2:
        return LearnedWeights(base, len(candidates.records), len(positives), len(negatives))
    m, u = (_count_levels(candidates, pairs) for pairs in (_every_nth(positives), negatives))
    table = [row for name, levels in LEVELS.items() for row in _learned(base, levels, m[name], u[name])]
    table += _learned_pages(candidates, base, negatives)
    table += _learned_names(candidates, base, positives, negatives)
    homonyms = _share_of_homonyms(candidates, boxes)
    names = _name_frequencies(candidates, boxes, positives, homonyms)
    names = replace(names, countries=_country_weights(candidates, boxes, table))
    weights = replace(
        base,
        names=names,
        name_and_birth_date_most=max(
            (most_of_both(names, a, b) for a, b in combinations(sorted(boxes), 2)),
            default=base.name_and_birth_date_most,
        ),
        **{row.level: row.weight for row in table},
    )
    return LearnedWeights(weights, len(candidates.records), len(positives), len(negatives), tuple(table))


def no_page_level(a: frozenset[str], b: frozenset[str], boxes: StashBoxes) -> str | None:
    """The level of two records without a page in common: how many pages both list at least, those of boxes left out.

    None when they share a page, when one lists none, and when they differ on a site where a person has one page: that
    is an observation of its own.
    """
    if not a.isdisjoint(b) or sites_with_other_pages(a, b):
        return None
    return _page_count(a, b, boxes)


def sites_with_other_pages(a: frozenset[str], b: frozenset[str]) -> list[str]:
    """Sites where a person has one page, and the records with the pages `a` and `b` list different ones; sorted."""
    mine, theirs = singular_sites(a - b), singular_sites(b - a)
    return sorted((mine & theirs) - singular_sites(a & b)) if mine and theirs else []


def _page_count(a: frozenset[str], b: frozenset[str], boxes: StashBoxes) -> str | None:
    listed = min(_of_sites(a, boxes), _of_sites(b, boxes))
    return f"no_shared_page_of_{min(listed, 3)}" if listed else None


def _of_sites(pages: frozenset[str], boxes: StashBoxes) -> int:
    """How many of the pages are not records of a stash-box."""
    return sum(page.partition(":")[0] not in boxes.sources for page in pages)


def _learned_pages(candidates: Candidates, base: Weights, strangers: Sequence[Pair]) -> list[Observed]:
    """m from pairs of which one links to the other, as whether they share a page does not depend on that link; u from
    strangers: two records that list pages of different sites only."""
    linked = sorted(
        pair
        for pair, rows in candidates.shared.items()
        if any(row.kind == Kind.CROSS_LINK for row in rows) and pair[0][0] != pair[1][0]
    )
    m, u = (_share_without_page(candidates, pairs) for pairs in (_every_nth(linked), strangers))
    rows: list[Observed] = []
    for name, default in PAGES.items():
        chance_m, chance_u = (
            (apart[name] + PRIOR_PAIRS * prior) / (known[name] + PRIOR_PAIRS)
            for (known, apart), prior in ((m, default.m), (u, default.u))
        )
        middle = float(getattr(base, name))
        weight = min(max(log10(chance_m / chance_u), middle - _MOST_AWAY), middle + _MOST_AWAY, 0.0)
        rows.append(Observed(name, round(chance_m, 4), round(chance_u, 4), round(weight, 3)))
    return rows


def _learned_names(
    candidates: Candidates, base: Weights, positives: Sequence[Pair], strangers: Sequence[Pair]
) -> Iterable[Observed]:
    """m from pairs of one person with an equal main name, u from strangers."""
    folded = candidates.folded
    counts: list[Counter[str]] = []
    for pairs, named in ((_every_nth(positives), True), (strangers, False)):
        found: Counter[str] = Counter()
        for a, b in pairs:
            shown = {folded.main(a), folded.main(b)}
            if (len(shown) == 1 or not named) and folded.aliases(a) - shown and folded.aliases(b) - shown:
                found["no_other_name" if folded.others_differ(a, b) else ""] += 1
        counts.append(found)
    return _learned(base, OTHER_NAMES, *counts)


def _share_without_page(candidates: Candidates, pairs: Sequence[Pair]) -> tuple[Counter[str], Counter[str]]:
    """By the number of pages that both list at least: how many of the pairs there are, and how many at the level."""
    boxes = candidates.boxes
    pages = {
        key: frozenset(page for page in held if page.partition(":")[0] not in boxes.sources)
        for key, held in candidates.compared_pages({key for pair in pairs for key in pair}).items()
    }
    known: Counter[str] = Counter()
    apart: Counter[str] = Counter()
    for a, b in pairs:
        count = _page_count(pages[a], pages[b], boxes)
        if count is not None:
            known[count] += 1
            apart[count] += no_page_level(pages[a], pages[b], boxes) is not None
    return known, apart


def _linked_twice(candidates: Candidates) -> list[Pair]:
    """Pairs of two sources that share two links or more: one person, however the fields agree."""
    links = (Kind.CROSS_LINK, Kind.PROFILE)
    return sorted(
        pair
        for pair, rows in candidates.shared.items()
        if pair[0][0] != pair[1][0] and sum(row.kind in links for row in rows) > 1
    )


def _every_nth(pairs: Sequence[Pair]) -> Sequence[Pair]:
    return pairs[:: 1 + len(pairs) // _SAMPLED_PAIRS]


def _strangers(candidates: Candidates, boxes: Collection[str]) -> list[Pair]:
    """Random pairs within each stash-box, in proportion to its number of pairs."""
    rng = np.random.default_rng(0)
    live = _live_of(candidates, boxes)
    total = sum(len(keys) ** 2 for keys in live.values())
    pairs: list[Pair] = []
    for keys in live.values():
        if len(keys) > 1:
            count = round(_SAMPLED_PAIRS * len(keys) ** 2 / total)
            first = rng.integers(len(keys), size=count)
            second = (first + rng.integers(1, len(keys), size=count)) % len(keys)
            pairs += [(keys[a], keys[b]) for a, b in zip(first.tolist(), second.tolist(), strict=True)]
    return pairs


def _live_of(candidates: Candidates, boxes: Collection[str]) -> dict[str, list[RecordKey]]:
    found: dict[str, list[RecordKey]] = {}
    for key in sorted(candidates.keys):
        if key[0] in boxes:
            found.setdefault(key[0], []).append(key)
    return found


def _count_levels(candidates: Candidates, pairs: Iterable[Pair]) -> dict[str, Counter[str]]:
    """For each field, how many of the pairs are at each level; "" counts those that are at none of the table."""
    found: dict[str, Counter[str]] = {name: Counter() for name in LEVELS}
    for a, b in pairs:
        first, second = candidates.records[a], candidates.records[b]
        levels = dict(field_agreements(first, second))
        born = birth_agreement(first.birth_date, second.birth_date)
        for name, rows in LEVELS.items():
            if name == "birth_date":
                if born is not None:
                    found[name][born[0] if born[0] in rows else ""] += 1
            elif name == "height":
                if first.height_cm and second.height_cm:
                    found[name][next((level for level in rows if level in levels), "")] += 1
            elif known := next((level for level in levels if level.startswith(name)), None):
                found[name][known] += 1
    return found


def _learned(
    base: Weights, levels: Mapping[str, Level], m: Counter[str], u: Counter[str]
) -> Iterable[Observed]:
    """The levels of a field; the defaults count as 50 pairs, and bound the weight."""
    known_m, known_u = m.total(), u.total()
    for name, default in levels.items():
        chance_m = (m[name] + PRIOR_PAIRS * default.m) / (known_m + PRIOR_PAIRS)
        chance_u = (u[name] + PRIOR_PAIRS * default.u) / (known_u + PRIOR_PAIRS)
        middle = float(getattr(base, name))
        weight = min(max(log10(chance_m / chance_u), middle - _MOST_AWAY), middle + _MOST_AWAY)
        if known_m < _LEAST_PAIRS:
            weight = middle
        yield Observed(name, round(chance_m, 4), round(chance_u, 4), round(weight, 3))


def _name_frequencies(
    candidates: Candidates, boxes: Collection[str], positives: Sequence[Pair], homonyms: float
) -> NameFrequencies:
    live = _live_of(candidates, boxes)
    folded = candidates.folded
    full = {box: [name for key in keys if " " in (name := folded.main(key))] for box, keys in live.items()}
    count = max(1, sum(len(names) for names in full.values()))
    words = Counter(word for names in full.values() for name in names for word in name.split())
    common = {
        f"{digest(word):x}": round(number / count, 6)
        for word, number in sorted(words.items())
        if number / count > _RARE
    }
    sizes = dict(sorted(Counter(source for source, _ in candidates.keys).items()))
    named = [(a, b) for a, b in _every_nth(positives) if folded.main(a) and folded.main(b)]
    equal = sum(folded.main(a) == folded.main(b) for a, b in named)
    agreeing = round((equal + 0.85 * PRIOR_PAIRS) / (len(named) + PRIOR_PAIRS), 4)
    return NameFrequencies(
        common, _RARE, float(f"{homonyms:.4g}"), sizes, agreeing, people_of_both=people_of_both(candidates)
    )


def _country_weights(
    candidates: Candidates, boxes: Collection[str], table: Sequence[Observed]
) -> dict[str, float]:
    """The weight of each country that at least one in 100 records has, by its term frequency."""
    m = next(row.m for row in table if row.level == "country_equal")
    known = Counter(
        country.casefold()
        for key in candidates.keys
        if key[0] in boxes and (country := candidates.records[key].country)
    )
    total = known.total()
    return {
        country: round(min(log10(m * total / number), _COUNTRY_MOST), 3)
        for country, number in sorted(known.items())
        if number >= 0.01 * total
    }


def _share_of_homonyms(candidates: Candidates, boxes: Collection[str]) -> float:
    """The share of the pairs of one stash-box with equal name and birth date, of those with both.

    A small catalog shows few of them, so that chance would decide. The default of one namesake in 1000 people counts as
    much as three pairs seen.
    """
    pairs = seen = 0.0
    live = _live_of(candidates, boxes)
    for keys in live.values():
        both = [
            (candidates.folded.main(key), born)
            for key in keys
            if (born := candidates.records[key].birth_date) and len(born) == 10
        ]
        pairs += len(both) * (len(both) - 1) / 2
        seen += sum(number * (number - 1) / 2 for number in Counter(both).values())
    # Of P people, P * _NAMESAKES pairs among P^2 / 2. The largest stash-box stands for the people.
    default = 2 * _NAMESAKES / max(len(keys) for keys in live.values())
    return default * (seen + _PRIOR_NAMESAKES) / (default * pairs + _PRIOR_NAMESAKES)
