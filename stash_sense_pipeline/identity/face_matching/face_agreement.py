"""Agreement of templates: calibrated thresholds and exact nearest-neighbour search."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stash_sense_pipeline.identity.face_matching.template_set import Indices, TemplateSet, Vectors, above
from stash_sense_pipeline.identity.linkage.evidence import FaceComparison, Pair
from stash_sense_pipeline.records.record_key import RecordKey

# The share of correct pairs among all pairs of records that reach a threshold.
PRECISION = 0.999
# Fewer certain pairs do not tell how often the templates of one person reach a threshold.
_LEAST_POSITIVES = 50
# So many of the most similar distinct records tell how quickly their number falls with the similarity.
_TAIL = 100
# A threshold that fewer of the certain pairs reach is of no use: the model does not separate these faces.
_LEAST_RECALL = 0.05
# The share of certain pairs below the mismatch threshold, under which faces speak against a pair.
_MISMATCH_SHARE = 0.005
_LEAST_FOR_MISMATCH = 200
# The nearest record in another source must be nearer than the second by at least this much (mean cosine).
MARGIN = 0.05
# A pair of nearest records is listed for review down to this far below the thresholds (reference: 0.45-0.60 and
# 0.35-0.45).
BORDERLINE = 0.10
_SAMPLE = 1500


class Threshold(NamedTuple):
    """The match threshold of one model, its estimated `precision`, and the share of certain pairs that reach it."""

    model: str
    match_threshold: float
    precision: float
    recall: float


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
    reason: str | None = None

    def as_detail(self) -> dict[str, Any]:
        """The form for the catalog, as JSON. Match and mismatch thresholds have the keys `alike` and `unlike`."""
        thresholds = [
            {
                "model": row.model,
                "alike": row.match_threshold,
                "precision": row.precision,
                "recall": row.recall,
            }
            for row in self.thresholds
        ]
        return {
            "positives": self.positives,
            "negatives": self.negatives,
            "thresholds": thresholds,
            "unlike": list(self.mismatch_thresholds),
            "reason": self.reason,
        }

    @classmethod
    def from_detail(cls, detail: Mapping[str, Any]) -> Calibration:
        """The inverse of `as_detail`."""
        return cls(
            detail["positives"],
            detail["negatives"],
            tuple(
                Threshold(row["model"], row["alike"], row["precision"], row["recall"])
                for row in detail["thresholds"]
            ),
            tuple(detail["unlike"]),
            detail["reason"],
        )

    @property
    def floor(self) -> float:
        """The mean cosine below which a pair cannot affect any decision."""
        mean = sum(row.match_threshold for row in self.thresholds) / max(1, len(self.thresholds))
        return mean - max(MARGIN, BORDERLINE)


NOT_CALIBRATED = Calibration(0, 0, reason="no faces with vectors of all models yet")


@dataclass(frozen=True)
class Near:
    """Pairs of rows of different sources with a mean cosine above a floor, in both directions: `a` is near `b`."""

    a: Indices
    b: Indices
    value: Vectors = field(repr=False)


def calibrate(
    templates: TemplateSet,
    certain: Sequence[Pair],
    boxes: Collection[str],
    are_distinct: Callable[[RecordKey, RecordKey], bool],
) -> Calibration:
    """For each model, the lowest threshold with a precision of 0.999 among all pairs of records that reach it.

    `certain`: pairs that are certainly one person. False matches are counted among the pairs of one stash-box, which
    are two people. Pairs for which `are_distinct` is False are not counted: they may be twins, or duplicates that the
    editors have not found. Beyond the hundred most similar pairs the number is taken to fall exponentially, or as
    counted if that is more. The count is then scaled to all pairs of two sources.
    """
    place_of = {key: place for place, key in enumerate(templates.records)}
    pairs = [(place_of[a], place_of[b]) for a, b in certain if a in place_of and b in place_of]
    parts = {source: part for source, part in templates.sources().items() if source in boxes}
    negatives = sum(len(part) * (len(part) - 1) // 2 for part in parts.values())
    if len(pairs) < _LEAST_POSITIVES or negatives < _TAIL:
        reason = (
            f"too few to calibrate: {len(pairs)} pairs of templates are linked by hard evidence ({_LEAST_POSITIVES}"
            f" needed), {negatives} are of one stash-box ({_TAIL} needed)"
        )
        return Calibration(len(pairs), negatives, reason=reason)
    a, b = np.array(pairs, dtype=np.int64).T
    similarities = templates.similarities(a, b)
    whole = len(templates.records)
    across = whole * (whole - 1) // 2 - sum(len(p) * (len(p) - 1) // 2 for p in templates.sources().values())
    thresholds: list[Threshold] = []
    for place, model in enumerate(templates.models):
        tail = _distinct_tail(templates, place, parts, negatives, are_distinct)
        found = _threshold(model, np.sort(similarities[:, place]), tail, across / negatives)
        if found is None:
            reason = f"{model} does not separate: no threshold has a precision of {PRECISION} with any recall"
            return Calibration(len(pairs), negatives, reason=reason)
        thresholds.append(found)
    strong = similarities[np.minimum(templates.faces[a], templates.faces[b]) > 1]
    mismatch: tuple[float, ...] = ()
    if len(strong) >= _LEAST_FOR_MISMATCH:
        quantiles = np.quantile(strong, _MISMATCH_SHARE, axis=0)
        mismatch = tuple(
            round(float(min(value, threshold.match_threshold)), 4)
            for value, threshold in zip(quantiles, thresholds, strict=True)
        )
    return Calibration(len(pairs), negatives, tuple(thresholds), mismatch)


def find_matches(templates: TemplateSet, calibration: Calibration) -> dict[Pair, FaceComparison]:
    """Pairs of records that are each other's nearest by a margin, and reach the thresholds or nearly so."""
    if not calibration.thresholds:
        return {}
    return _mutual(templates, calibration, search(templates, calibration.floor))


def find_matches_around(
    templates: TemplateSet, calibration: Calibration, around: Collection[RecordKey]
) -> dict[Pair, FaceComparison]:
    """The pairs of `find_matches` with a record in `around`: exactly the same rows, in less time."""
    if not calibration.thresholds:
        return {}
    place_of = {key: place for place, key in enumerate(templates.records)}
    rows = np.array(sorted(place_of[key] for key in around if key in place_of), dtype=np.int64)
    near = search_rows(templates, rows, calibration.floor)
    partners = np.setdiff1d(np.unique(near.b), rows)
    more = search_rows(templates, partners, calibration.floor)
    both = Near(
        np.concatenate((near.a, more.a)),
        np.concatenate((near.b, more.b)),
        np.concatenate((near.value, more.value)),
    )
    wanted = set(around)
    return {
        pair: found for pair, found in _mutual(templates, calibration, both).items() if wanted & set(pair)
    }


def neighbours(templates: TemplateSet, calibration: Calibration, vectors: Vectors) -> set[RecordKey]:
    """The records that may have one of the templates `vectors` as nearest, (count, dims of all models)."""
    floor = _sum_floor(templates, calibration.floor)
    all_records = range(len(templates.records))
    hits = above(templates.vectors, range(len(vectors)), all_records, floor, vectors)
    return {templates.records[place] for _, b, _ in hits for place in set(b.tolist())}


def find_mismatches(
    templates: TemplateSet, calibration: Calibration, pairs: Collection[Pair]
) -> dict[Pair, FaceComparison]:
    """The pairs below the mismatch threshold in every model. Both templates need two faces or more."""
    if not calibration.mismatch_thresholds:
        return {}
    place_of = {key: place for place, key in enumerate(templates.records) if templates.faces[place] > 1}
    asked = sorted((a, b) for a, b in pairs if a[0] != b[0] and a in place_of and b in place_of)
    if not asked:
        return {}
    a, b = (np.array([place_of[pair[side]] for pair in asked], dtype=np.int64) for side in (0, 1))
    similarities = templates.similarities(a, b)
    below = np.all(similarities < np.array(calibration.mismatch_thresholds), axis=1)
    return {
        asked[i]: _comparison("face_differs", templates, int(a[i]), int(b[i]), similarities[i])
        for i in np.flatnonzero(below)
    }


def search(templates: TemplateSet, floor: float) -> Near:
    """All pairs of records of two sources with a mean cosine above `floor`. Computes every product, in blocks."""
    found: list[tuple[Indices, Indices]] = []
    for first, second in _pairs_of_sources(templates):
        for a, b, _ in above(templates.vectors, first, second, _sum_floor(templates, floor)):
            found += [(a, b), (b, a)]
    return _near(templates, found, floor)


def search_rows(templates: TemplateSet, rows: Indices, floor: float) -> Near:
    """The result of `search` for some of the records."""
    numbers = templates.source_numbers()
    found: list[tuple[Indices, Indices]] = []
    all_records = range(len(templates.records))
    chosen = templates.vectors[rows]
    for a, b, _ in above(
        templates.vectors, range(len(rows)), all_records, _sum_floor(templates, floor), chosen
    ):
        other = numbers[rows[a]] != numbers[b]
        found.append((rows[a][other], b[other]))
    return _near(templates, found, floor)


def _pairs_of_sources(templates: TemplateSet) -> Iterator[tuple[range, range]]:
    parts = list(templates.sources().values())
    for place, first in enumerate(parts):
        for second in parts[place + 1 :]:
            yield first, second


def _sum_floor(templates: TemplateSet, floor: float) -> float:
    """The floor for the sum over the models, slightly lowered: products of blocks are not exact to the last bit."""
    return (floor - 1e-4) * len(templates.models)


def _near(templates: TemplateSet, found: Sequence[tuple[Indices, Indices]], floor: float) -> Near:
    if not found:
        nothing = np.zeros(0, np.int64)
        return Near(nothing, nothing, np.zeros(0, np.float32))
    a, b = (np.concatenate(column) for column in zip(*found, strict=True))
    # Computed again for each pair, so that the value does not depend on the block in which it was found.
    value = np.round(templates.similarities(a, b).mean(axis=1), 5)
    kept = value >= floor
    return Near(a[kept], b[kept], value[kept])


def _distinct_tail(
    templates: TemplateSet,
    place: int,
    parts: Mapping[str, range],
    negatives: int,
    are_distinct: Callable[[RecordKey, RecordKey], bool],
) -> Vectors:
    """The cosines of the most similar distinct records of a stash-box, ascending: 100, or one in 100,000 pairs."""
    vectors = np.ascontiguousarray(templates.of_model(place))
    share = max(2 * _TAIL / negatives, 1e-5)
    floor = _sampled_quantile(vectors, parts, share)
    rows = [hit for part in parts.values() for hit in above(vectors, part, part, floor)]
    records = templates.records
    tail = [
        float(value)
        for a, b, values in rows
        for first, second, value in zip(a.tolist(), b.tolist(), values, strict=True)
        if are_distinct(records[first], records[second])
    ]
    return np.sort(np.array(tail, dtype=np.float32))


def _sampled_quantile(vectors: Vectors, parts: Mapping[str, range], share: float) -> float:
    """The cosine that about `share` of the pairs within a source exceed, estimated from every n-th record."""
    values: list[Vectors] = []
    for part in parts.values():
        some = vectors[part.start : part.stop : max(1, len(part) // _SAMPLE)]
        products = some @ some.T
        values.append(products[np.triu_indices(len(some), 1)])
    return float(np.quantile(np.concatenate(values), 1 - share))


def _threshold(model: str, positives: Vectors, tail: Vectors, scale: float) -> Threshold | None:
    """The lowest threshold with sufficient estimated precision. `scale`: pairs to judge per pair in the tail."""
    candidates = np.round(np.arange(0.0, 1.0, 0.005), 3)
    reached = len(positives) - np.searchsorted(positives, candidates)
    counted = len(tail) - np.searchsorted(tail, candidates)
    expected = np.maximum(counted, _extrapolated(tail, candidates)) * scale
    precision = reached / np.maximum(reached + expected, 1e-9)
    if len(tail):
        # Pairs below the tail are not counted.
        precision[candidates < tail[0]] = 0.0
    useful = reached >= _LEAST_RECALL * len(positives)
    good = np.flatnonzero(useful & (precision >= PRECISION))
    # Only candidates above the last one that fails: a single good value among bad ones is a coincidence.
    bad = np.flatnonzero(useful & (precision < PRECISION))
    good = good[good > bad[-1]] if len(bad) else good
    if not len(good):
        return None
    best = int(good[0])
    recall = reached[best] / len(positives)
    return Threshold(
        model, float(candidates[best]), round(float(precision[best]), 6), round(float(recall), 4)
    )


def _extrapolated(tail: Vectors, candidates: NDArray[np.float64]) -> NDArray[np.float64]:
    """The number of distinct pairs above each candidate, if it falls exponentially as among the last hundred."""
    if len(tail) < 2:
        return np.zeros(len(candidates))
    last = tail[-_TAIL:].astype(float)
    excess = max(float(np.mean(last - last[0])), 1e-6)
    expected = len(last) * np.exp(-(candidates - last[0]) / excess)
    return np.where(candidates >= last[0], expected, 0.0)


def _mutual(templates: TemplateSet, calibration: Calibration, near: Near) -> dict[Pair, FaceComparison]:
    """The near pairs that are each other's nearest in their sources by the margin, if similar enough."""
    best = _nearest(templates, near)
    chosen = sorted((a, b) for a, b in best if a < b and (b, a) in best)
    if not chosen:
        return {}
    a, b = np.array(chosen, dtype=np.int64).T
    similarities = templates.similarities(a, b)
    limits = np.array([threshold.match_threshold for threshold in calibration.thresholds])
    found: dict[Pair, FaceComparison] = {}
    for i, (first, second) in enumerate(chosen):
        if np.all(similarities[i] >= limits):
            single = min(templates.faces[first], templates.faces[second]) < 2
            how = "face_single" if single else "face"
        elif np.all(similarities[i] >= limits - BORDERLINE):
            how = "face_borderline"
        else:
            continue
        pair = (templates.records[first], templates.records[second])
        found[pair] = _comparison(how, templates, first, second, similarities[i])
    return found


def _nearest(templates: TemplateSet, near: Near) -> set[tuple[int, int]]:
    """Pairs (a, b): b is the nearest to a in the source of b, and the second nearest is further by the margin."""
    if not len(near.a):
        return set()
    source = templates.source_numbers()[near.b]
    order = np.lexsort((near.b, -near.value, source, near.a))
    a, b, value, source = near.a[order], near.b[order], near.value[order], source[order]
    same_as_next = np.append((a[1:] == a[:-1]) & (source[1:] == source[:-1]), False)
    first = np.append(True, ~same_as_next[:-1])
    gap = np.append(value[:-1] - value[1:], np.inf)
    clear = first & (~same_as_next | (gap >= MARGIN))
    return set(zip(a[clear].tolist(), b[clear].tolist(), strict=True))


def _comparison(how: str, templates: TemplateSet, a: int, b: int, similarities: Vectors) -> FaceComparison:
    numbers = ", ".join(
        f"{model} {value:.2f}" for model, value in zip(templates.models, similarities, strict=True)
    )
    return FaceComparison(how, f"{how}: {numbers} ({templates.faces[a]} and {templates.faces[b]} faces)")
