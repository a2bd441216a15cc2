"""Calibration of the face thresholds: what counts as a match, and with which precision that is proven."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from math import exp, lgamma, log, sqrt
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stash_sense_pipeline.identity.face_matching.template_set import TemplateSet, Vectors
from stash_sense_pipeline.identity.linkage.evidence import Pair
from stash_sense_pipeline.records.record_key import RecordKey

# The share of correct pairs among all pairs of records that reach the thresholds.
PRECISION: Final = 0.999
# One-sided, of every bound below; `_DEVIATE` is the standard normal deviate of it.
CONFIDENCE: Final = 0.95
_DEVIATE = 1.6449
# Fewer certain pairs do not tell how often the templates of one person reach a threshold.
_LEAST_POSITIVES = 50
_LEAST_NEGATIVES = 100
# So many of the most similar distinct records tell how quickly their number falls with the similarity.
_TAIL = 200
_LEAST_TAIL = 20
# The same with fewer of them. They tell whether the number falls more slowly at the very top: siblings, look-alikes.
_TOPS = (10, 20, 50, 100)
# Thresholds that fewer of the certain pairs reach are of no use: the models do not separate these faces.
_LEAST_RECALL = 0.05
_STEP = 0.005
# The share of certain pairs below the mismatch threshold, under which faces speak against a pair.
_MISMATCH_SHARE = 0.005
_LEAST_FOR_MISMATCH = 200
# The nearest record in another source must be nearer than the second by at least this much (mean cosine).
MARGIN: Final = 0.05
# A pair of nearest records is listed for review down to this far below the thresholds (reference: 0.45-0.60 and
# 0.35-0.45).
BORDERLINE: Final = 0.10
_SAMPLE = 1500
_SAMPLED_PAIRS = 4000
_ROWS, _COLUMNS = 1024, 4096

Scores = NDArray[np.float64]
AreDistinct = Callable[[RecordKey, RecordKey], bool]


class Threshold(NamedTuple):
    """The match threshold of one model (cosine), and the share of certain pairs that reach it in this model."""

    model: str
    match_threshold: float
    recall: float


@dataclass(frozen=True)
class Grounds:
    """What the thresholds of all models together rest on.

    `score`: the threshold on the scale of `calibrate`, where 0 is the mean of two people and 1 the median of one person.

    `reached`: certain pairs that reach them in every model, `recall` as a share. `false_matches`: expected pairs of two
    people among those of all sources that reach them, with the upper bound `false_matches_at_most`. `precision`: the
    estimate; `precision_at_least`: its lower bound (one-sided, 95 %).
    """

    score: float
    reached: int
    recall: float
    false_matches: float
    false_matches_at_most: float
    precision: float
    precision_at_least: float


@dataclass(frozen=True)
class Calibration:
    """The thresholds for templates. Without thresholds faces are no evidence, and `reason` says why.

    `positives`: certain pairs. `negatives`: pairs of records of one stash-box. `mismatch_thresholds`: for each model
    the cosine below which two templates, of two faces or more each, speak against a pair.
    """

    positives: int
    negatives: int
    thresholds: tuple[Threshold, ...] = ()
    mismatch_thresholds: tuple[float, ...] = ()
    grounds: Grounds | None = None
    reason: str | None = None

    def as_detail(self) -> dict[str, Any]:
        """The form for the catalog, as JSON. Match and mismatch thresholds have the keys `alike` and `unlike`."""
        return {
            "positives": self.positives,
            "negatives": self.negatives,
            "thresholds": [
                {"model": row.model, "alike": row.match_threshold, "recall": row.recall}
                for row in self.thresholds
            ],
            "unlike": list(self.mismatch_thresholds),
            "grounds": None if self.grounds is None else asdict(self.grounds),
            "reason": self.reason,
        }

    @classmethod
    def from_detail(cls, detail: Mapping[str, Any]) -> Calibration:
        """The inverse of `as_detail`."""
        return cls(
            detail["positives"],
            detail["negatives"],
            tuple(Threshold(row["model"], row["alike"], row["recall"]) for row in detail["thresholds"]),
            tuple(detail["unlike"]),
            None if detail["grounds"] is None else Grounds(**detail["grounds"]),
            detail["reason"],
        )

    @property
    def floor(self) -> float:
        """The mean cosine below which a pair cannot affect any decision."""
        mean = sum(row.match_threshold for row in self.thresholds) / max(1, len(self.thresholds))
        return mean - max(MARGIN, BORDERLINE)


NOT_CALIBRATED = Calibration(0, 0, reason="no faces with vectors of all models yet")


def calibrate(
    templates: TemplateSet, certain: Sequence[Pair], boxes: Collection[str], are_distinct: AreDistinct
) -> Calibration:
    """The thresholds that most certain pairs reach while a match in every model has a precision of 0.999 (95 % confidence).

    `certain`: pairs that are certainly one person. False matches are counted among the pairs of one stash-box, which
    are two people. Pairs for which `are_distinct` is False are not counted: they may be twins, or duplicates that the
    editors have not found. The cosines of each model are put on a scale from 0 (the mean of two people) to 1 (the median of
    one person), and the score of a pair is its lowest one (score normalisation and the minimum rule: Jain, Nandakumar and
    Ross, "Score normalization in multimodal biometric systems", Pattern Recognition 38, 2005). So the thresholds of all
    models move together, and what is proven is the precision of the whole decision.
    """
    place_of = {key: place for place, key in enumerate(templates.records)}
    pairs = [(place_of[a], place_of[b]) for a, b in certain if a in place_of and b in place_of]
    parts = {source: part for source, part in templates.sources().items() if source in boxes}
    negatives = sum(len(part) * (len(part) - 1) // 2 for part in parts.values())
    if len(pairs) < _LEAST_POSITIVES or negatives < _LEAST_NEGATIVES:
        reason = (
            f"too few to calibrate: {len(pairs)} pairs of templates are linked by hard evidence ({_LEAST_POSITIVES}"
            f" needed), {negatives} are of one stash-box ({_LEAST_NEGATIVES} needed)"
        )
        return Calibration(len(pairs), negatives, reason=reason)
    distinct = max(1.0, negatives * _share_distinct(templates, parts, are_distinct))
    a, b = np.array(pairs, dtype=np.int64).T
    similarities = templates.similarities(a, b)
    scale = _Scale.of(templates, parts, similarities, max(_TAIL / distinct, 1e-5))
    tail = scale.tail(templates, parts, are_distinct)
    if len(tail) < _LEAST_TAIL:
        reason = f"too few to calibrate: {len(tail)} similar pairs of one stash-box are surely two people"
        return Calibration(len(pairs), negatives, reason=reason)
    ratio = _pairs_of_two_sources(templates) / distinct
    grounds = choose(np.sort(scale.scores(similarities)), tail, ratio, scale.highest())
    if grounds.precision_at_least < PRECISION:
        names = " and ".join(templates.models)
        reason = (
            f"{names} do not separate: no threshold proves a precision of {PRECISION}; the best one proves"
            f" {grounds.precision_at_least:.4f} for {grounds.reached} of {len(pairs)} certain pairs"
        )
        return Calibration(len(pairs), negatives, grounds=grounds, reason=reason)
    limits = scale.cosines(grounds.score)
    thresholds = tuple(
        Threshold(model, limit, round(float(np.mean(similarities[:, place] >= limit)), 4))
        for place, (model, limit) in enumerate(zip(templates.models, limits, strict=True))
    )
    strong = similarities[np.minimum(templates.faces[a], templates.faces[b]) > 1]
    return Calibration(len(pairs), negatives, thresholds, _mismatch_thresholds(strong, thresholds), grounds)


def choose(positives: Scores, tail: Scores, ratio: float, highest: float) -> Grounds:
    """The threshold that the most certain pairs reach with a proven precision, or the one that comes nearest to it.

    Of all thresholds that the same certain pairs reach, it is the middle one: lower ones admit strangers for nothing, and
    higher ones lose pairs that lie just below those seen (the largest margin to both sides: Vapnik, "The Nature of
    Statistical Learning Theory", 1995).

    `positives`: scores of all certain pairs, `tail`: the highest scores of distinct records, both ascending. `ratio`:
    pairs to judge for each pair that the tail was taken from. `highest`: the highest threshold to try. The precision
    above a threshold cannot fall with the threshold, as long as a higher score is no worse a sign; so a threshold
    inherits what lower ones prove, and chance failures above the first success do not count.
    """
    candidates = np.round(np.arange(max(0.0, float(tail[0])), max(highest, float(tail[0]) + _STEP), _STEP), 4)
    reached = len(positives) - np.searchsorted(positives, candidates)
    expected, at_most = (ratio * row for row in false_match_curve(tail, candidates))
    precision = reached / np.maximum(reached + expected, 1e-12)
    surely = len(positives) * _wilson_lower(reached, len(positives))
    proven = np.where(
        reached >= _LEAST_RECALL * len(positives), surely / np.maximum(surely + at_most, 1e-12), 0
    )
    enough = np.flatnonzero(proven >= PRECISION)
    best = _middle_of_equals(reached, int(enough[0])) if len(enough) else int(np.argmax(proven))
    return Grounds(
        float(candidates[best]),
        int(reached[best]),
        round(float(reached[best] / len(positives)), 4),
        round(float(expected[best]), 6),
        round(float(at_most[best]), 6),
        round(float(precision[best]), 6),
        # Rounded down: a bound must not look like more than it is.
        int(proven[best] * 1e6) / 1e6,
    )


def _middle_of_equals(reached: NDArray[np.int64], lowest: int) -> int:
    """The place in the middle of `lowest` and the highest threshold that as many certain pairs reach."""
    return (lowest + int(np.searchsorted(-reached, -reached[lowest], side="right")) - 1) // 2


def false_match_curve(tail: Scores, candidates: Scores) -> tuple[Scores, Scores]:
    """The expected number of distinct pairs above each candidate, and its upper bound.

    `tail`: the highest scores, ascending. Their excess over the lowest one is taken as exponential (extreme value
    theory: peaks over a high threshold; cosines of strangers fall faster, so this errs upwards). The bound on the mean
    excess is exact for exponential values. Two things raise the curve: the number of pairs seen above a candidate, and
    the topmost 10 to 100 pairs where even the lower bound of their mean excess is above the curve.
    """
    counted = (len(tail) - np.searchsorted(tail, candidates)).astype(float)
    used = tail[-_TAIL:]
    expected = np.maximum(counted, _falling(used, candidates, 1.0))
    at_most = np.maximum(counted, _falling(used, candidates, _gamma_factor(len(used) - 1, 1 - CONFIDENCE)))
    for size in _TOPS:
        if size < len(used):
            heavier = _falling(tail[-size:], candidates, _gamma_factor(size - 1, CONFIDENCE))
            expected, at_most = np.maximum(expected, heavier), np.maximum(at_most, heavier)
    seen = counted > 0
    at_most[seen] = np.maximum(
        at_most[seen],
        [poisson_mean(int(count), 1 - CONFIDENCE) if count <= _TAIL else count for count in counted[seen]],
    )
    return expected, at_most


@lru_cache(maxsize=4 * _TAIL)
def poisson_mean(count: int, probability: float) -> float:
    """The mean of the Poisson distribution with P(at most `count`) = `probability` (Garwood's exact limits)."""
    factorials = [lgamma(k + 1) for k in range(count + 1)]
    low, high = 0.0, count + 20.0 + 10.0 * sqrt(count + 1.0)
    while low < (middle := (low + high) / 2) < high:
        logarithm = log(middle)
        at_most = sum(exp(k * logarithm - middle - factorial) for k, factorial in enumerate(factorials))
        low, high = (middle, high) if at_most > probability else (low, middle)
    return middle


def _gamma_factor(count: int, probability: float) -> float:
    """What the mean of `count` exponential values is multiplied by for a bound on the true mean.

    The true mean is above the product with `probability` (so a small probability gives an upper bound).
    """
    # The sum of n exponential values is below x when a Poisson process of rate 1 has n events or more until x.
    return count / poisson_mean(count - 1, 1 - probability)


def _falling(tail: Scores, candidates: Scores, factor: float) -> Scores:
    """The number of pairs above each candidate if it falls exponentially from the lowest of the tail on."""
    excess = max(float(np.sum(tail - tail[0])) / (len(tail) - 1), 1e-6) * factor
    return np.where(
        candidates >= tail[0], len(tail) * np.exp(-np.maximum(candidates - tail[0], 0) / excess), 0.0
    )


def _wilson_lower(reached: NDArray[np.int64], count: int) -> Scores:
    """Wilson's lower score bound of a proportion (E. B. Wilson, 1927), one-sided at `CONFIDENCE`."""
    share, square = reached / count, _DEVIATE**2
    spread = _DEVIATE * np.sqrt(share * (1 - share) / count + square / (4 * count**2))
    return np.asarray((share + square / (2 * count) - spread) / (1 + square / count))


@dataclass(frozen=True)
class _Scale:
    """The scale of scores: the cosine of each model at 0 and the length of its unit; `floor` of the tail as a score."""

    origin: Scores
    unit: Scores
    floor: float

    @classmethod
    def of(
        cls, templates: TemplateSet, parts: Mapping[str, range], similarities: Vectors, share: float
    ) -> _Scale:
        """From every n-th record of each stash-box, and the cosines of certain pairs.

        About `share` of the pairs of one stash-box reach the floor. The unit is at least a standard deviation of the
        cosines of two people, also for a model that does not separate them.
        """
        columns = []
        for place in range(len(templates.models)):
            vectors = templates.of_model(place)
            values = []
            for part in parts.values():
                some = vectors[part.start : part.stop : max(1, len(part) // _SAMPLE)]
                values.append((some @ some.T)[np.triu_indices(len(some), 1)])
            columns.append(np.concatenate(values).astype(float))
        sampled = np.stack(columns, axis=1)
        origin = sampled.mean(axis=0)
        unit = np.maximum(np.median(similarities, axis=0) - origin, np.maximum(sampled.std(axis=0), 1e-6))
        found = cls(origin, unit, 0.0)
        return cls(origin, unit, float(np.quantile(found.scores(sampled), 1 - min(share, 1.0))))

    def scores(self, similarities: NDArray[Any]) -> Scores:
        """The score of each pair, from cosines (pairs, models): the lowest over the models."""
        return np.asarray(((similarities - self.origin) / self.unit).min(axis=1), dtype=float)

    def cosines(self, score: float) -> list[float]:
        """The cosine of each model that a score stands for."""
        return [round(float(value), 4) for value in self.origin + score * self.unit]

    def highest(self) -> float:
        """The score of equal vectors."""
        return float(((1 - self.origin) / self.unit).min())

    def tail(self, templates: TemplateSet, parts: Mapping[str, range], are_distinct: AreDistinct) -> Scores:
        """The scores of the most similar distinct records of a stash-box, ascending: 200, or one in 100,000 pairs."""
        records = templates.records
        values = [
            score
            for part in parts.values()
            for first, second, score in self._above_floor(templates, part)
            if are_distinct(records[first], records[second])
        ]
        return np.sort(np.array(values, dtype=float))

    def _above_floor(self, templates: TemplateSet, part: range) -> Iterator[tuple[int, int, float]]:
        limits = self.origin + self.floor * self.unit
        vectors = [templates.of_model(place) for place in range(len(templates.models))]
        for top in range(part.start, part.stop, _ROWS):
            rows = slice(top, min(top + _ROWS, part.stop))
            for begin in range(top, part.stop, _COLUMNS):
                columns = slice(begin, min(begin + _COLUMNS, part.stop))
                products = [matrix[rows] @ matrix[columns].T for matrix in vectors]
                hit = np.logical_and.reduce(
                    [product > limit for product, limit in zip(products, limits, strict=True)]
                )
                a, b = np.nonzero(hit)
                once = a + top < b + begin
                a, b = a[once], b[once]
                scores = self.scores(np.stack([product[a, b] for product in products], axis=1))
                yield from zip((a + top).tolist(), (b + begin).tolist(), scores.tolist(), strict=True)


def _share_distinct(templates: TemplateSet, parts: Mapping[str, range], are_distinct: AreDistinct) -> float:
    """The share of the pairs of one stash-box that are surely two people, from a sample of pairs."""
    rng = np.random.default_rng(0)
    known = asked = 0
    total = sum(len(part) ** 2 for part in parts.values())
    for part in parts.values():
        if len(part) < 2:
            continue
        count = max(1, round(_SAMPLED_PAIRS * len(part) ** 2 / total))
        first = rng.integers(len(part), size=count)
        second = (first + rng.integers(1, len(part), size=count)) % len(part)
        for a, b in zip(first.tolist(), second.tolist(), strict=True):
            known += are_distinct(templates.records[part[a]], templates.records[part[b]])
        asked += count
    return known / max(1, asked)


def _pairs_of_two_sources(templates: TemplateSet) -> int:
    whole = len(templates.records)
    return whole * (whole - 1) // 2 - sum(
        len(part) * (len(part) - 1) // 2 for part in templates.sources().values()
    )


def _mismatch_thresholds(strong: Vectors, thresholds: Sequence[Threshold]) -> tuple[float, ...]:
    """From the cosines of certain pairs with two faces or more on both sides; none when there are too few."""
    if len(strong) < _LEAST_FOR_MISMATCH:
        return ()
    quantiles = np.quantile(strong, _MISMATCH_SHARE, axis=0)
    return tuple(
        round(float(min(value, threshold.match_threshold)), 4)
        for value, threshold in zip(quantiles, thresholds, strict=True)
    )
