"""Facts for and against two records being one person, in words and with the weights of identity."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import fsum

import numpy as np

from stash_sense_pipeline.identity.linkage.comparisons import (
    DAYS_A_YEAR,
    MAX_BIRTH_DATE_GAP,
    Record,
    birth_agreement,
    birth_interval,
    country_agreement,
    name_agreement,
)
from stash_sense_pipeline.identity.source_suggestions.identity_state import IdentityState
from stash_sense_pipeline.records.record_key import RecordKey

_EXCLUSIVE = frozenset({"MALE", "FEMALE"})


@dataclass(frozen=True)
class Fact:
    """One fact about two records; a negative weight speaks against one person."""

    text: str
    weight: float


def score(facts: Iterable[Fact]) -> float:
    """The sum of the weights."""
    return round(fsum(fact.weight for fact in facts), 3)


def texts(facts: Iterable[Fact]) -> tuple[str, ...]:
    """The facts in words, those that weigh most first."""
    return tuple(fact.text for fact in sorted(facts, key=lambda fact: (-abs(fact.weight), fact.text)))


def contradictions(a: Record, b: Record) -> list[str]:
    """What two records of one person cannot have: a man and a woman, or births more than two years apart."""
    found: list[str] = []
    if a.gender != b.gender and {a.gender, b.gender} <= _EXCLUSIVE:
        found.append(f"one is {str(a.gender).lower()}, the other {str(b.gender).lower()}")
    first, second = birth_interval(a.birth_date), birth_interval(b.birth_date)
    if first is not None and second is not None:
        gap = max(first[0] - second[1], second[0] - first[1])
        if gap > MAX_BIRTH_DATE_GAP * DAYS_A_YEAR:
            found.append(f"born more than {MAX_BIRTH_DATE_GAP} years apart ({a.birth_date}, {b.birth_date})")
    return found


def name_fact(state: IdentityState, a: RecordKey, b: RecordKey) -> Fact | None:
    """How the names agree, or that they differ; None when a record has no name."""
    if not state.records[a].name or not state.records[b].name:
        return None
    agreement = name_agreement(a, b, state.names)
    if agreement is None:
        return Fact("names differ", state.weights.name_differs)
    how, name = agreement
    weight = float(getattr(state.weights, how))
    if " " not in name:
        weight += state.weights.single_word
    return Fact(f"{how.replace('_', ' ')} ({name})", weight)


def detail_facts(state: IdentityState, a: RecordKey, b: RecordKey) -> list[Fact]:
    """What birth dates and countries say."""
    one, other = state.records[a], state.records[b]
    agreements = (
        birth_agreement(one.birth_date, other.birth_date),
        country_agreement(one.country, other.country),
    )
    return [
        Fact(found[1], float(getattr(state.weights, found[0]))) for found in agreements if found is not None
    ]


def face_fact(state: IdentityState, a: RecordKey, b: RecordKey) -> Fact | None:
    """That the faces of two records are alike for every embedder, or for none; None when they decide nothing."""
    templates, calibration = state.templates, state.calibration
    first, second = state.template_of.get(a), state.template_of.get(b)
    if first is None or second is None or not calibration.thresholds:
        return None
    similarities = templates.similarities(np.array([first]), np.array([second]))[0]
    limits = np.array([row.match_threshold for row in calibration.thresholds])
    pictures = int(templates.faces[first]), int(templates.faces[second])
    numbers = cosines(templates.models, similarities)
    counted = f"{pictures[0]} and {pictures[1]} pictures"
    if np.all(similarities >= limits):
        weight = state.weights.face if min(pictures) > 1 else state.weights.face_single
        return Fact(f"faces agree: {numbers}, {counted}; one person from {_least(limits)}", weight)
    unlike = np.array(calibration.mismatch_thresholds)
    if len(unlike) and min(pictures) > 1 and np.all(similarities < unlike):
        return Fact(f"faces differ: {numbers}, {counted}", state.weights.face_differs)
    return None


def may_be_one_person(state: IdentityState, a: RecordKey, b: RecordKey) -> bool:
    """True when the faces of two records agree; where faces cannot be compared, when their names agree."""
    if state.calibration.thresholds and a in state.template_of and b in state.template_of:
        face = face_fact(state, a, b)
        return face is not None and face.weight > 0
    name = name_fact(state, a, b)
    return name is not None and name.weight > 0


def cosines(models: Iterable[str], similarities: Iterable[float]) -> str:
    """The similarities as text, one a model."""
    return ", ".join(f"{model} {value:.2f}" for model, value in zip(models, similarities, strict=True))


def _least(limits: Iterable[float]) -> str:
    return ", ".join(f"{limit:.2f}" for limit in limits)
