"""Agreement of templates: matches and mismatches under calibrated thresholds, by exact nearest-neighbour search."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from stash_sense_pipeline.identity.face_matching.calibration import BORDERLINE, MARGIN, Calibration
from stash_sense_pipeline.identity.face_matching.template_set import Indices, TemplateSet, Vectors, above
from stash_sense_pipeline.identity.linkage.evidence import FaceComparison, Pair
from stash_sense_pipeline.records.record_key import RecordKey


@dataclass(frozen=True)
class Near:
    """Pairs of rows of different sources with a mean cosine above a floor, in both directions: `a` is near `b`."""

    a: Indices
    b: Indices
    value: Vectors = field(repr=False)


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
