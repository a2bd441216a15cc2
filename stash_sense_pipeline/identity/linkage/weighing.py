"""Weighs candidate pairs: all rows of evidence for and against each of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from stash_sense_pipeline.identity.linkage.blocking import (
    StashBoxes,
    survivor,
)
from stash_sense_pipeline.identity.linkage.candidates import Candidates, Hub, find_candidates
from stash_sense_pipeline.identity.linkage.comparisons import (
    FoldedNames,
    Record,
    birth_agreement,
    field_agreements,
    name_agreement,
    names_a_group,
)
from stash_sense_pipeline.identity.linkage.evidence import (
    NO_FACES,
    WEIGHTS,
    Evidence,
    Faces,
    Kind,
    Pair,
    Weights,
)
from stash_sense_pipeline.identity.linkage.learned_weights import (
    learn,
    no_page_level,
    sites_with_other_pages,
)
from stash_sense_pipeline.identity.linkage.name_weights import most_of_both, name_weight
from stash_sense_pipeline.records.record_key import RecordKey


@dataclass(frozen=True)
class Findings:
    """All evidence, sorted by pair, kind and key, and the keys that were left out as hubs."""

    evidence: tuple[Evidence, ...]
    hubs: tuple[Hub, ...]


def find_evidence(
    records: Mapping[RecordKey, Record],
    hosts: Mapping[str, str],
    must_link: Iterable[Pair] = (),
    weights: Weights = WEIGHTS,
    faces: Faces = NO_FACES,
) -> Findings:
    """All evidence among `records`, with weights learned from them. `hosts`: universal-id host of each stash-box.

    `must_link` holds pairs of live records. The order of the records does not matter.
    """
    candidates = find_candidates(records, StashBoxes.of(hosts), must_link, weights)
    return weigh(candidates, faces, learn(candidates, hosts, weights).weights)


def weigh(candidates: Candidates, faces: Faces = NO_FACES, weights: Weights = WEIGHTS) -> Findings:
    """Every row of evidence on the candidate pairs and on pairs with matching faces, and the merges of the sources."""
    records = candidates.records
    merges = {
        (min(key, target), max(key, target))
        for key, record in records.items()
        if not record.live and (target := survivor(records, key)) is not None
    }
    pairs = candidates.shared.keys() | faces.matches.keys()
    pages = candidates.compared_pages({key for pair in pairs for key in pair})
    comparison = _PairComparison(candidates, faces, pages, weights)
    evidence: list[Evidence] = []
    for pair in sorted(pairs | merges):
        if pair in merges:
            evidence.append(Evidence(Kind.MERGE, *pair, "", weights.merge))
        else:
            evidence += sorted(comparison.rows(pair))
    return Findings(tuple(evidence), candidates.hubs)


class _Support(NamedTuple):
    """What else ties a pair: a link from one to the other, any shared page, the weight of faces that match or 0."""

    linked: bool
    paged: bool
    face: float


@dataclass(frozen=True)
class _PairComparison:
    candidates: Candidates
    faces: Faces
    pages: Mapping[RecordKey, frozenset[str]]
    weights: Weights

    def rows(self, pair: Pair) -> list[Evidence]:
        """All rows on one pair of live records."""
        a, b = pair
        rows = _at_most_two_images(self.candidates.shared.get(pair, ()))
        if a[0] == b[0]:
            return rows
        comparison = self.faces.comparison(pair)
        linked = any(row.kind == Kind.CROSS_LINK for row in rows)
        face = 0.0
        if comparison is not None:
            weight = float(getattr(self.weights, comparison.how))
            # Equal pictures have equal faces: a match adds nothing to them.
            weight = min(weight, 0.0) if any(row.kind == Kind.IMAGE for row in rows) else weight
            rows.append(Evidence(Kind.FACE, a, b, comparison.text, weight))
            face = max(weight, 0.0)
        records = self.candidates.records
        paged = linked or any(row.kind in (Kind.PROFILE, Kind.OVERRIDE) for row in rows)
        return rows + self._agreement(records[a], records[b], _Support(linked, paged, face))

    def _agreement(self, a: Record, b: Record, support: _Support) -> list[Evidence]:
        """Rows for the fields of the two records. Name and birth date make one row when both agree."""
        weights = self.weights
        parts: list[tuple[str, float]] = []
        held_a, held_b = self.pages[a.key], self.pages[b.key]
        name, further = _name_part(a, b, self.candidates.folded, weights)
        birth = _weighed(birth_agreement(a.birth_date, b.birth_date), weights)
        if name and birth and name[1] <= weights.name_differs and 0 < birth[1] < weights.birth_month_equal:
            # A page that is one record's by mistake meets such dates too often: they must not decide against the names.
            birth = birth[0], 0.0
        rows: list[Evidence] = []
        little = name is None or name[1] <= max(weights.alias_in_common, weights.name_alike)
        if support.face >= weights.face_single and not little:
            parts.append(("faces and a name agree", weights.face_and_name))
        if name and birth and not little and birth[1] > 0:
            # What both have in common may be a namesake's. A further name is not.
            both = min(name[1] - further + birth[1], _most_of_both(a, b, weights))
            weight = round(both + further, 3)
            rows.append(Evidence(Kind.NAME_AND_BIRTH_DATE, a.key, b.key, f"{name[0]}, {birth[0]}", weight))
        else:
            # Twins share face and birth date: with different names, the date adds nothing to the face.
            twins = support.face > 0 and name is not None and name[1] < 0
            parts += [part for part in (name, birth) if part is not None and not (twins and part[1] > 0)]
        fields = [(text, _field_weight(how, a, weights)) for how, text in field_agreements(a, b)]
        if self.candidates.folded.others_differ(a.key, b.key):
            fields.append(("no other name in common", weights.no_other_name))
        if little:
            # The names prove little. Many strangers agree in these fields, and twins and siblings in all of them.
            fields = [part for part in fields if part[1] < 0]
            if not support.paged:
                parts = [(text, min(weight, weights.birth_date_alone_most)) for text, weight in parts]
        parts += fields
        level = None if support.paged else no_page_level(held_a, held_b, self.candidates.boxes)
        if level is not None:
            parts.append(("no page in common", float(getattr(weights, level))))
        different = sites_with_other_pages(held_a, held_b)[:2]
        parts += [(f"different pages on {form}", weights.other_page) for form in different]
        if (name is None or name[1] < 0) and _unshared(a, b, held_a, held_b, support.linked):
            parts.append(("other pages listed", weights.unshared_pages))
        if parts:
            text = ", ".join(text for text, _ in parts)
            rows.append(
                Evidence(Kind.ATTRIBUTES, a.key, b.key, text, round(sum(weight for _, weight in parts), 3))
            )
        return rows


def _at_most_two_images(rows: Sequence[Evidence]) -> list[Evidence]:
    """The rows with no more than two pictures among them."""
    images = sorted(row for row in rows if row.kind == Kind.IMAGE)
    return [row for row in rows if row.kind != Kind.IMAGE] + images[:2]


def _unshared(a: Record, b: Record, held_a: frozenset[str], held_b: frozenset[str], linked: bool) -> bool:
    """True when one record lists a page that the other lacks. Linked records must each list such a page.

    Pages of the record's own source do not count.
    """
    only_a = any(not page.startswith(f"{a.source}:") for page in held_a - held_b)
    only_b = any(not page.startswith(f"{b.source}:") for page in held_b - held_a)
    return (only_a and only_b) if linked else (only_a or only_b)


def _weighed(agreement: tuple[str, str] | None, weights: Weights) -> tuple[str, float] | None:
    return None if agreement is None else (agreement[1], float(getattr(weights, agreement[0])))


def _name_part(
    a: Record, b: Record, folded: FoldedNames, weights: Weights
) -> tuple[tuple[str, float] | None, float]:
    """The part for the names, and what of its weight is that of a further name in common."""
    if not a.name or not b.name:
        return None, 0.0
    agreement = name_agreement(a.key, b.key, folded)
    if agreement is None:
        return ("names differ", weights.name_differs), 0.0
    how, name = agreement
    weight = _name_weight(a, b, how, name, weights)
    text = f"{how.replace('_', ' ')} ({name})"
    further = [other for other in folded.in_common(a.key, b.key) if other != name]
    if how == "name_similar":
        # Twins and duos have names in common, too.
        further = [other for other in further if not names_a_group(other)]
    if not further or how in ("alias_in_common", "name_alike"):
        return (text, weight), 0.0
    return (f"{text} and {further[0]}", weight + weights.further_name), weights.further_name


def _most_of_both(a: Record, b: Record, weights: Weights) -> float:
    if weights.names is None:
        return weights.name_and_birth_date_most
    return most_of_both(weights.names, a.source, b.source)


def _field_weight(how: str, a: Record, weights: Weights) -> float:
    if how == "country_equal" and weights.names is not None and a.country:
        return weights.names.countries.get(a.country.casefold(), weights.country_equal)
    return float(getattr(weights, how))


def _name_weight(a: Record, b: Record, how: str, name: str, weights: Weights) -> float:
    """The weight of a name that agrees; `name` is folded, and two names for similar ones."""
    one_word = any(" " not in part for part in name.split(" ~ "))
    if how in ("name_in_aliases", "alias_in_common") and (one_word or names_a_group(name)):
        return weights.one_word_alias
    if how == "name_equal" and not one_word and weights.names is not None:
        return name_weight(weights.names, name, a.source, b.source)
    return float(getattr(weights, how)) + (weights.single_word if one_word else 0.0)
