"""The weight of an equal name, and the bound on name and birth date, from the prior odds of two sources."""

from __future__ import annotations

from collections import Counter
from math import log10
from typing import Final

from stash_sense_pipeline.identity.linkage.blocking import digest
from stash_sense_pipeline.identity.linkage.candidates import Candidates
from stash_sense_pipeline.identity.linkage.comparisons import name_agreement
from stash_sense_pipeline.identity.linkage.evidence import Kind, NameFrequencies

# A default counts as so many pairs.
PRIOR_PAIRS: Final = 50
# Of the records of the smaller of two sources, the share that has a partner in the other one, where few links tell.
_OVERLAP = 0.3
# A wrong pair joins only when neither person has a record in the other one's source: this share of the people at least.
_LEAST_ALONE = 0.2
# The score of a pair with even odds, for an equal name and for the bound on name and birth date. Chosen on generated
# populations: docs/identities.md shows what other values give.
_EVEN_NAME, _EVEN_BOTH = 1.2, 0.7
# A name alone proves less than a name and a birth date can, by this much.
_ALONE = 0.3
_NAME_LEAST, _NAME_MOST = 1.0, 3.0
_BOTH_LEAST, _BOTH_MOST = 2.0, 4.5


def name_weight(names: NameFrequencies, name: str, a: str, b: str) -> float:
    """The weight of an equal main name (folded) of records of sources `a` and `b`: the odds that they are one person."""
    odds = _prior_odds(names, a, b) * names.agreeing / names.probability(_digests(name))
    weight = min(max(log10(odds) + _EVEN_NAME, _NAME_LEAST), _NAME_MOST)
    return round(min(weight, most_of_both(names, a, b) - _ALONE), 3)


def most_of_both(names: NameFrequencies, a: str, b: str) -> float:
    """The most that name and birth date prove together for records of sources `a` and `b`.

    It rests on the share of strangers that have both in common.
    """
    odds = _prior_odds(names, a, b) * names.agreeing / names.homonyms
    return round(min(max(log10(odds) + _EVEN_BOTH, _BOTH_LEAST), _BOTH_MOST), 3)


def _prior_odds(names: NameFrequencies, a: str, b: str) -> float:
    """The odds that a random pair of records of two sources is one person, against a stranger that could be taken for one.

    Of n and N records, K people have a record in both, and n N pairs are compared. A record of which the person has a
    record in the other source joins that one, not a stranger's.
    """
    first, second = max(names.sizes.get(a, 0), 1), max(names.sizes.get(b, 0), 1)
    known = names.people_of_both.get(_both(a, b), 0)
    smaller = min(first, second)
    both = smaller * (known + _OVERLAP * PRIOR_PAIRS) / (smaller + PRIOR_PAIRS)
    alone = max(1 - both / first, _LEAST_ALONE) * max(1 - both / second, _LEAST_ALONE)
    return both / (first * second * alone)


def _both(a: str, b: str) -> str:
    return " ".join(sorted((a, b)))


def people_of_both(candidates: Candidates) -> dict[str, int]:
    """For two sources, the pairs of records that share a link and a name: nearly all of the people with both."""
    links = (Kind.CROSS_LINK, Kind.PROFILE)
    found = Counter(
        _both(a[0], b[0])
        for (a, b), rows in candidates.shared.items()
        if a[0] != b[0]
        and any(row.kind in links for row in rows)
        and name_agreement(a, b, candidates.folded) is not None
    )
    return dict(sorted(found.items()))


def _digests(name: str) -> list[str]:
    return [f"{digest(word):x}" for word in name.split()]
