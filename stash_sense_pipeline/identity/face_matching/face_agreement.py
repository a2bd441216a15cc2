"""Agreement of templates: calibrated thresholds and exact nearest-neighbour search."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stash_sense_pipeline.catalog.queries.face_templates import Template
from stash_sense_pipeline.identity.linkage.evidence import FaceComparison, Pair
from stash_sense_pipeline.records.record_key import RecordKey

Vectors = NDArray[np.float32]
Indices = NDArray[np.int64]

# What faces have to be right in, among all pairs of records that reach a threshold.
PRECISION = 0.999
# Fewer pairs linked by hard evidence say nothing about how often one person's templates reach a threshold.
_LEAST_POSITIVES = 50
# So many of the most alike strangers tell how quickly their number falls.
_TAIL = 100
# Thresholds that find fewer of the pairs known are of no use: the models do not separate these faces.
_LEAST_RECALL = 0.05
# Of pairs known to be one person, so many are less alike than the limit below which faces speak against a pair.
_UNLIKE_SHARE = 0.005
_LEAST_FOR_UNLIKE = 200
# A record's nearest in another source is nearer than the second by at least this much (mean cosine).
MARGIN = 0.05
# So far below the thresholds a pair of nearest is worth a person's look (reference: 0.45-0.60 and 0.35-0.45).
BORDERLINE = 0.10
# A block of products stays in the processor's cache while it is looked through.
_ROWS, _COLUMNS = 1024, 4096
_SAMPLE = 1500


@dataclass(frozen=True)
class TemplateSet:
    """Templates in the order of records. `vectors` (records, dims of all models), each model's part of unit length."""

    records: tuple[RecordKey, ...]
    faces: NDArray[np.int32]
    vectors: Vectors
    models: tuple[str, ...]

    @classmethod
    def of(cls, templates: Mapping[RecordKey, Template], models: Collection[str]) -> TemplateSet:
        """From the catalog's templates of these models, which have the same number of dimensions each."""
        records = tuple(sorted(templates))
        faces = np.array([templates[key].faces for key in records], dtype=np.int32)
        if not records:
            return cls(records, faces, np.zeros((0, len(models)), np.float32), tuple(sorted(models)))
        vectors = np.empty((len(records), len(templates[records[0]].vector)), np.float32)
        for place, key in enumerate(records):
            vectors[place] = templates[key].vector
        return cls(records, faces, vectors, tuple(sorted(models)))

    def of_model(self, place: int) -> Vectors:
        """The part of one model, (records, dim)."""
        width = self.vectors.shape[1] // max(1, len(self.models))
        return self.vectors[:, place * width : (place + 1) * width]

    def sources(self) -> dict[str, range]:
        """Where the records of each source are."""
        found: dict[str, range] = {}
        for place, (source, _) in enumerate(self.records):
            begin = found[source].start if source in found else place
            found[source] = range(begin, place + 1)
        return found

    def source_numbers(self) -> Indices:
        """A number for the source of each record."""
        numbers = np.empty(len(self.records), np.int64)
        for number, part in enumerate(self.sources().values()):
            numbers[part.start : part.stop] = number
        return numbers

    def similarities(self, a: Indices, b: Indices) -> Vectors:
        """Cosines of pairs by each model, (pairs, models)."""
        found = np.empty((len(a), len(self.models)), np.float32)
        for begin in range(0, len(a), _COLUMNS):
            part = slice(begin, begin + _COLUMNS)
            for place in range(len(self.models)):
                vectors = self.of_model(place)
                found[part, place] = np.einsum("ij,ij->i", vectors[a[part]], vectors[b[part]])
        return found


class Threshold(NamedTuple):
    """One model's threshold, and how many of the pairs known reach it (`recall`) at which estimated `precision`."""

    model: str
    alike: float
    precision: float
    recall: float


@dataclass(frozen=True)
class Calibration:
    """How alike two templates have to be. Without thresholds faces say nothing, and `reason` says why.

    `positives`: pairs linked by hard evidence; `negatives`: pairs of one stash-box that share nothing. `unlike`: for
    each model the cosine below which two templates of two faces or more speak against a pair.
    """

    positives: int
    negatives: int
    thresholds: tuple[Threshold, ...] = ()
    unlike: tuple[float, ...] = ()
    reason: str | None = None

    def as_detail(self) -> dict[str, Any]:
        """For the catalog, as JSON."""
        thresholds = [threshold._asdict() for threshold in self.thresholds]
        return {**asdict(self), "thresholds": thresholds, "unlike": list(self.unlike)}

    @classmethod
    def from_detail(cls, detail: Mapping[str, Any]) -> Calibration:
        """The inverse of `as_detail`."""
        return cls(
            detail["positives"],
            detail["negatives"],
            tuple(Threshold(**row) for row in detail["thresholds"]),
            tuple(detail["unlike"]),
            detail["reason"],
        )

    @property
    def floor(self) -> float:
        """Mean cosine that no pair below has anything to do with any decision."""
        mean = sum(threshold.alike for threshold in self.thresholds) / max(1, len(self.thresholds))
        return mean - max(MARGIN, BORDERLINE)


NOT_CALIBRATED = Calibration(0, 0, reason="no faces with vectors of all models yet")


@dataclass(frozen=True)
class Near:
    """Pairs of different sources whose mean cosine is above a floor, in both directions: row `a` sees `b`."""

    a: Indices
    b: Indices
    value: Vectors = field(repr=False)


def calibrate(
    templates: TemplateSet,
    hard: Sequence[Pair],
    boxes: Collection[str],
    strangers: Callable[[RecordKey, RecordKey], bool],
) -> Calibration:
    """For each model the lowest threshold with a precision of 0.999 among all pairs of records that reach it.

    `hard`: pairs that are one person beyond doubt. How often strangers reach a threshold is counted among all pairs
    of one stash-box, which are two people, without those that `strangers` denies: duplicates that its editors have
    not found, and twins. Beyond the last hundred of them their number is taken to fall exponentially, or as counted
    if that is more. From that follows how many pairs of strangers reach the threshold among all pairs of two sources.
    """
    place_of = {key: place for place, key in enumerate(templates.records)}
    pairs = [(place_of[a], place_of[b]) for a, b in hard if a in place_of and b in place_of]
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
        tail = _strangers_tail(templates, place, parts, negatives, strangers)
        found = _threshold(model, np.sort(similarities[:, place]), tail, across / negatives)
        if found is None:
            reason = (
                f"{model} does not separate: no threshold has a precision of {PRECISION} and finds anybody"
            )
            return Calibration(len(pairs), negatives, reason=reason)
        thresholds.append(found)
    strong = similarities[np.minimum(templates.faces[a], templates.faces[b]) > 1]
    unlike: tuple[float, ...] = ()
    if len(strong) >= _LEAST_FOR_UNLIKE:
        quantiles = np.quantile(strong, _UNLIKE_SHARE, axis=0)
        unlike = tuple(
            round(float(min(value, threshold.alike)), 4)
            for value, threshold in zip(quantiles, thresholds, strict=True)
        )
    return Calibration(len(pairs), negatives, tuple(thresholds), unlike)


def agree(templates: TemplateSet, calibration: Calibration) -> dict[Pair, FaceComparison]:
    """Pairs of records that are each other's nearest, by a margin, and alike or nearly so in every model."""
    if not calibration.thresholds:
        return {}
    return _mutual(templates, calibration, search(templates, calibration.floor))


def agree_around(
    templates: TemplateSet, calibration: Calibration, around: Collection[RecordKey]
) -> dict[Pair, FaceComparison]:
    """The part of `agree` that names one of the records `around`: exactly the same rows, in less time."""
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
        pair: opinion for pair, opinion in _mutual(templates, calibration, both).items() if wanted & set(pair)
    }


def neighbours(templates: TemplateSet, calibration: Calibration, vectors: Vectors) -> set[RecordKey]:
    """Records whose nearest may be one of these templates, (count, dims of all models)."""
    floor = _sum_floor(templates, calibration.floor)
    everybody = range(len(templates.records))
    hits = above(templates.vectors, range(len(vectors)), everybody, floor, vectors)
    return {templates.records[place] for _, b, _ in hits for place in set(b.tolist())}


def unlike(
    templates: TemplateSet, calibration: Calibration, pairs: Collection[Pair]
) -> dict[Pair, FaceComparison]:
    """Those of the pairs whose templates, of two faces or more each, no model finds alike."""
    if not calibration.unlike:
        return {}
    place_of = {key: place for place, key in enumerate(templates.records) if templates.faces[place] > 1}
    asked = sorted((a, b) for a, b in pairs if a[0] != b[0] and a in place_of and b in place_of)
    if not asked:
        return {}
    a, b = (np.array([place_of[pair[side]] for pair in asked], dtype=np.int64) for side in (0, 1))
    similarities = templates.similarities(a, b)
    below = np.all(similarities < np.array(calibration.unlike), axis=1)
    return {
        asked[i]: _opinion("face_differs", templates, int(a[i]), int(b[i]), similarities[i])
        for i in np.flatnonzero(below)
    }


def search(templates: TemplateSet, floor: float) -> Near:
    """All pairs of records of two sources whose mean cosine is above `floor`: every product is computed, in blocks."""
    found: list[tuple[Indices, Indices]] = []
    for first, second in _pairs_of_sources(templates):
        for a, b, _ in above(templates.vectors, first, second, _sum_floor(templates, floor)):
            found += [(a, b), (b, a)]
    return _near(templates, found, floor)


def search_rows(templates: TemplateSet, rows: Indices, floor: float) -> Near:
    """What `search` finds for some of the records."""
    numbers = templates.source_numbers()
    found: list[tuple[Indices, Indices]] = []
    everybody = range(len(templates.records))
    chosen = templates.vectors[rows]
    for a, b, _ in above(
        templates.vectors, range(len(rows)), everybody, _sum_floor(templates, floor), chosen
    ):
        other = numbers[rows[a]] != numbers[b]
        found.append((rows[a][other], b[other]))
    return _near(templates, found, floor)


def above(
    vectors: Vectors, rows: range, columns: range, floor: float | Vectors, left: Vectors | None = None
) -> Iterator[tuple[Indices, Indices, Vectors]]:
    """(row, column, product) of all products above `floor`, one for all or one a row of `left`.

    Rows are of `left`, or of `vectors` if that is not given.

    Where rows and columns are the same range, each pair comes once.
    """
    same = left is None and rows == columns
    source = vectors if left is None else left
    for top in range(rows.start, rows.stop, _ROWS):
        part = source[top : min(top + _ROWS, rows.stop)]
        limit = floor[top : top + len(part), None] if isinstance(floor, np.ndarray) else floor
        for begin in range(top if same else columns.start, columns.stop, _COLUMNS):
            products = part @ vectors[begin : min(begin + _COLUMNS, columns.stop)].T
            hits = np.flatnonzero(products > limit)
            if len(hits):
                a, b = np.divmod(hits, products.shape[1])
                a, b, value = a + top, b + begin, products.ravel()[hits]
                if same:
                    once = a < b
                    a, b, value = a[once], b[once], value[once]
                yield a, b, value


def _pairs_of_sources(templates: TemplateSet) -> Iterator[tuple[range, range]]:
    parts = list(templates.sources().values())
    for place, first in enumerate(parts):
        for second in parts[place + 1 :]:
            yield first, second


def _sum_floor(templates: TemplateSet, floor: float) -> float:
    """The floor for the sum over the models, a little lower: a product of blocks is not exact to the last bit."""
    return (floor - 1e-4) * len(templates.models)


def _near(templates: TemplateSet, found: Sequence[tuple[Indices, Indices]], floor: float) -> Near:
    if not found:
        nothing = np.zeros(0, np.int64)
        return Near(nothing, nothing, np.zeros(0, np.float32))
    a, b = (np.concatenate(column) for column in zip(*found, strict=True))
    # Anew for each pair by itself, so that the value does not depend on the block in which it was found.
    value = np.round(templates.similarities(a, b).mean(axis=1), 5)
    kept = value >= floor
    return Near(a[kept], b[kept], value[kept])


def _strangers_tail(
    templates: TemplateSet,
    place: int,
    parts: Mapping[str, range],
    negatives: int,
    strangers: Callable[[RecordKey, RecordKey], bool],
) -> Vectors:
    """The cosines of the most alike strangers of one stash-box, ascending: a hundred, or one in 100,000 pairs."""
    vectors = np.ascontiguousarray(templates.of_model(place))
    share = max(2 * _TAIL / negatives, 1e-5)
    floor = _sampled_quantile(vectors, parts, share)
    rows = [hit for part in parts.values() for hit in above(vectors, part, part, floor)]
    records = templates.records
    tail = [
        float(value)
        for a, b, values in rows
        for first, second, value in zip(a.tolist(), b.tolist(), values, strict=True)
        if strangers(records[first], records[second])
    ]
    return np.sort(np.array(tail, dtype=np.float32))


def _sampled_quantile(vectors: Vectors, parts: Mapping[str, range], share: float) -> float:
    """The cosine that about this share of the pairs of one source is above, from every n-th record."""
    values: list[Vectors] = []
    for part in parts.values():
        some = vectors[part.start : part.stop : max(1, len(part) // _SAMPLE)]
        products = some @ some.T
        values.append(products[np.triu_indices(len(some), 1)])
    return float(np.quantile(np.concatenate(values), 1 - share))


def _threshold(model: str, positives: Vectors, tail: Vectors, scale: float) -> Threshold | None:
    """The lowest threshold whose estimated precision is high enough. `scale`: pairs to judge, per pair in the tail."""
    candidates = np.round(np.arange(0.0, 1.0, 0.005), 3)
    reached = len(positives) - np.searchsorted(positives, candidates)
    counted = len(tail) - np.searchsorted(tail, candidates)
    expected = np.maximum(counted, _promised(tail, candidates)) * scale
    precision = reached / np.maximum(reached + expected, 1e-9)
    if len(tail):
        # Below the tail nothing was counted.
        precision[candidates < tail[0]] = 0.0
    useful = reached >= _LEAST_RECALL * len(positives)
    good = np.flatnonzero(useful & (precision >= PRECISION))
    # Above the last one that fails: a single good value among bad ones is chance.
    bad = np.flatnonzero(useful & (precision < PRECISION))
    good = good[good > bad[-1]] if len(bad) else good
    if not len(good):
        return None
    best = int(good[0])
    recall = reached[best] / len(positives)
    return Threshold(
        model, float(candidates[best]), round(float(precision[best]), 6), round(float(recall), 4)
    )


def _promised(tail: Vectors, candidates: NDArray[np.float64]) -> NDArray[np.float64]:
    """How many strangers are above each candidate if their number falls as it does among the last hundred."""
    if len(tail) < 2:
        return np.zeros(len(candidates))
    last = tail[-_TAIL:].astype(float)
    excess = max(float(np.mean(last - last[0])), 1e-6)
    promised = len(last) * np.exp(-(candidates - last[0]) / excess)
    return np.where(candidates >= last[0], promised, 0.0)


def _mutual(templates: TemplateSet, calibration: Calibration, near: Near) -> dict[Pair, FaceComparison]:
    """Of the near pairs, those that are each other's nearest in their sources by the margin."""
    best = _nearest(templates, near)
    chosen = sorted((a, b) for a, b in best if a < b and (b, a) in best)
    if not chosen:
        return {}
    a, b = np.array(chosen, dtype=np.int64).T
    similarities = templates.similarities(a, b)
    limits = np.array([threshold.alike for threshold in calibration.thresholds])
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
        found[pair] = _opinion(how, templates, first, second, similarities[i])
    return found


def _nearest(templates: TemplateSet, near: Near) -> set[tuple[int, int]]:
    """(a, b) where b is a's nearest in b's source, and the second nearest there is further by the margin."""
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


def _opinion(how: str, templates: TemplateSet, a: int, b: int, similarities: Vectors) -> FaceComparison:
    numbers = ", ".join(
        f"{model} {value:.2f}" for model, value in zip(templates.models, similarities, strict=True)
    )
    return FaceComparison(how, f"{how}: {numbers} ({templates.faces[a]} and {templates.faces[b]} faces)")
