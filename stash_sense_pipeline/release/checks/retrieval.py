"""Retrieval quality: recall of the indices, self and held-out retrieval, exact search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stash_sense_pipeline.release.build.face_order import (
    FaceOrder,
    Floats,
    ReleaseVectors,
    lengths,
)
from stash_sense_pipeline.release.checks.check_result import CheckResult, Severity
from stash_sense_pipeline.release.contract import (
    REQUIRED_MODELS,
    SIDECAR_K,
    SIDECAR_MAX_DISTANCE,
    SIDECAR_MISSING_DISTANCE,
    SIDECAR_WEIGHT,
)

Positions = NDArray[np.int64]

_ROWS_A_BLOCK = 16_384
# Two similarities this close are a tie: a float32 sum of 512 products varies by as much with the order of addition.
_TIE = 1e-5
# Largest cosine distance between a unit vector and its stored form, by storage type.
_ROUNDING = {"float32": 1e-4, "e4m3": 0.01, "float8": 0.2}

# Share of held-out faces that find their performer. Good models reach more than 0.9.
_HELD_OUT_FLOOR = 0.5

FACE_BUCKETS = ((1, 1), (2, 3), (4, 5), (6, 10), (11, None))


@dataclass(frozen=True)
class RecallReport:
    """Recall of an index against exact search, at the sidecar's k, with sampled stored faces as queries.

    `at_1`: share of queries for which the first other face returned is the nearest one. `at_k`: mean share of the k
    exact neighbours that are returned. `in_reach`: the same for the neighbours within the sidecar's distance, without
    the face itself: the sidecar answers with no others. `itself`: share of queries that return the face itself first.
    Ties count as found.
    """

    model: str
    at_1: float
    at_k: float
    in_reach: float
    itself: float
    k: int
    queries: int


@dataclass(frozen=True)
class Answers:
    """An index's answers to sampled faces: their positions (q,), and neighbours and distances (q, k) of sidecar_query."""

    positions: Positions
    ids: Positions
    distances: Floats


@dataclass(frozen=True)
class HeldOutBucket:
    """Leave-one-photo-out retrieval of performers with `fewest` to `most` faces (None: no upper limit)."""

    fewest: int
    most: int | None
    queries: int
    rank_1: float
    accepted: float

    @property
    def name(self) -> str:
        """`4-5`, or `11+`."""
        return bucket_name(self.fewest, self.most)


def exact_neighbours(queries: Floats, gallery: Floats, k: int) -> tuple[Positions, Floats]:
    """The k nearest rows of `gallery` to each query by cosine similarity, best first: positions and similarities (q, k).

    Both arrays hold unit vectors. Each block is one matrix product, which takes nearly all of the time: after the first
    block only similarities above the k-th best so far are sorted.
    """
    count = len(queries)
    k = min(k, len(gallery))
    best = _Found(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
    floor = np.full(count, -np.inf, dtype=np.float32)
    for start in range(0, len(gallery), _ROWS_A_BLOCK):
        similar = queries @ gallery[start : start + _ROWS_A_BLOCK].T
        if start == 0 and similar.shape[1] >= k:
            floor = np.partition(similar, similar.shape[1] - k, axis=1)[:, similar.shape[1] - k]
        flat = np.flatnonzero(similar >= floor[:, None])
        rows, columns = np.divmod(flat, similar.shape[1])
        found = _Found(rows, columns + start, similar.reshape(-1)[flat])
        best, floor = _keep_best(best, found, count, k)
    return best.columns.reshape(count, k), best.values.reshape(count, k)


class _Found(NamedTuple):
    """Candidates: the query, the position in the gallery and the similarity of each."""

    rows: Positions
    columns: Positions
    values: Floats


def _keep_best(best: _Found, found: _Found, count: int, k: int) -> tuple[_Found, Floats]:
    """The k most similar candidates of each query, best first, and the k-th similarity (-inf when there are fewer)."""
    rows = np.concatenate([best.rows, found.rows])
    columns = np.concatenate([best.columns, found.columns])
    values = np.concatenate([best.values, found.values])
    by_row = np.lexsort((columns, -values, rows))
    rows, columns, values = rows[by_row], columns[by_row], values[by_row]
    begins = np.searchsorted(rows, np.arange(count))
    place = np.arange(len(rows)) - begins[rows]
    kept = place < k
    floor = np.full(count, -np.inf, dtype=np.float32)
    last = place == k - 1
    floor[rows[last]] = values[last]
    return _Found(rows[kept], columns[kept], values[kept]), floor


def sample_positions(count: int, size: int, seed: int = 1) -> Positions:
    """`size` of the positions 0..count-1, or all of them, sorted. The same arguments give the same positions."""
    if size >= count:
        return np.arange(count, dtype=np.int64)
    return np.sort(np.random.default_rng(seed).choice(count, size, replace=False)).astype(np.int64)


def load_index(path: Path) -> Any:
    """A Voyager index, loaded as the sidecar loads it."""
    import voyager

    with path.open("rb") as stream:
        return voyager.Index.load(stream)


def ask_index(index: Any, unit: Floats, *, sample: int = 1000, threads: int = 1) -> Answers:
    """Queries a loaded index with sampled stored faces, as the sidecar does. `unit`: (n, dim) in release order."""
    positions = sample_positions(len(unit), sample)
    return Answers(positions, *sidecar_query(index, unit[positions], min(SIDECAR_K, len(unit)), threads))


def index_recall(model: str, answers: Answers, unit: Floats) -> RecallReport:
    """Compares an index's answers with exact search over `unit` (n, dim) in release order."""
    positions, returned = answers.positions, answers.ids
    queries = np.ascontiguousarray(unit[positions])
    k = returned.shape[1]
    _, exact = exact_neighbours(queries, unit, k)
    # Scored with the unrounded vectors: an 8-bit index ranks by rounded ones.
    scores = _scores(queries, unit, returned)
    found = scores >= exact[:, -1:] - _TIE
    near = np.float32(1 - SIDECAR_MAX_DISTANCE)
    reachable = np.count_nonzero(exact >= near, axis=1) - 1
    reached = np.count_nonzero((scores >= near) & (returned != positions[:, None]), axis=1)
    others = returned != positions[:, None]
    first_other = np.argmax(others, axis=1)
    rows = np.arange(len(queries))
    # The face is its own nearest neighbour, so the second exact neighbour is the nearest other face.
    nearest_other = exact[:, 1] if k > 1 else exact[:, 0]
    return RecallReport(
        model=model,
        at_1=float(np.mean(scores[rows, first_other] >= nearest_other - _TIE)),
        at_k=float(np.mean(found)),
        in_reach=float(np.minimum(reached, reachable).sum() / max(1, reachable.sum()))
        if reachable.any()
        else 1.0,
        itself=float(np.mean((returned[:, 0] == positions) | (scores[:, 0] >= 1 - _TIE))),
        k=k,
        queries=len(queries),
    )


def sidecar_query(index: Any, queries: Floats, k: int, threads: int = 1) -> tuple[Positions, Floats]:
    """Neighbours and distances (q, k) as the sidecar requests them. A query that Voyager refuses gives -1 and inf.

    Voyager raises RecallError when the graph leads to fewer than k elements; the sidecar then has no answer.
    """
    import voyager

    try:
        ids, distances = index.query(queries, k=k, num_threads=threads)
    except voyager.RecallError:
        if len(queries) == 1:
            return np.full((1, k), -1, dtype=np.int64), np.full((1, k), np.inf, dtype=np.float32)
        answers = [sidecar_query(index, queries[row : row + 1], k) for row in range(len(queries))]
        return np.concatenate([answer[0] for answer in answers]), np.concatenate(
            [answer[1] for answer in answers]
        )
    return ids.astype(np.int64), distances


def _scores(queries: Floats, unit: Floats, returned: Positions) -> Floats:
    """Exact similarities of the returned faces, -inf for queries without an answer."""
    scores = np.stack([unit[row] @ query for query, row in zip(queries, returned, strict=True)])
    scores[returned < 0] = -np.inf
    return scores


def recall_checks(
    report: RecallReport, at_1: float, at_k: float, *, far_blocks: bool = True
) -> tuple[CheckResult, ...]:
    """Three checks: recall at 1, recall at k within the sidecar's distance, and recall at k.

    Each forbids publishing below its limit. Without `far_blocks` the last is a warning, for a catalog with vectors that
    no graph serves well enough: the sidecar does not answer with neighbours beyond its distance.
    """
    queried = f"over {report.queries} faces"
    advice = "; raise m and ef_construction under export.index, or lower the limit under export"

    def line(name: str, share: float, limit: float, text: str, severity: Severity) -> CheckResult:
        detail = f"{share:.4f} {text} {queried} (limit {limit}){'' if share >= limit else advice}"
        return CheckResult(
            f"{report.model}_{name}", share >= limit, detail, severity, {f"{report.model}_{name}": share}
        )

    return (
        line("recall_at_1", report.at_1, at_1, f"(itself first {report.itself:.4f})", Severity.ERROR),
        line(
            "recall_in_reach",
            report.in_reach,
            at_k,
            f"of the {report.k} nearest within the sidecar's distance",
            Severity.ERROR,
        ),
        line(
            f"recall_at_{SIDECAR_K}",
            report.at_k,
            at_k,
            f"of the {report.k} nearest",
            Severity.ERROR if far_blocks else Severity.WARNING,
        ),
    )


def index_content_check(model: str, index: Any, unit: Floats, storage: str) -> CheckResult:
    """Position i of the index holds the vector of face i of the catalog, so that every person has their own faces."""
    name = f"{model}_content"
    if index.num_elements != len(unit):
        return CheckResult(
            name, False, f"{index.num_elements} vectors in the file, {len(unit)} faces in the catalog"
        )
    furthest = 0.0
    for start in range(0, len(unit), _ROWS_A_BLOCK):
        stop = min(start + _ROWS_A_BLOCK, len(unit))
        stored = index.get_vectors(range(start, stop))
        distance = 1 - np.einsum("ij,ij->i", stored, unit[start:stop]) / lengths(stored)
        wrong = np.flatnonzero(~(distance <= _ROUNDING[storage]))
        if len(wrong):
            return CheckResult(
                name, False, f"vector {start + wrong[0]} is not the vector of its face; build the index again"
            )
        furthest = max(furthest, float(distance.max()))
    return CheckResult(
        name,
        True,
        f"{len(unit)} vectors are those of their faces, to within a distance of {furthest:.1e}",
        numbers={f"{model}_vectors": len(unit), f"{model}_rounding": furthest},
    )


def fused_distances(ids: Mapping[str, Positions], distances: Mapping[str, Floats]) -> list[tuple[float, int]]:
    """The sidecar's ranking for one query, as (fused distance, position), nearest first.

    It adds half of each model's distance. A model that did not return the face counts with a distance of 0.5.
    """
    seen: dict[int, dict[str, float]] = {}
    for model, positions in ids.items():
        for position, distance in zip(positions.tolist(), distances[model].tolist(), strict=True):
            seen.setdefault(position, {})[model] = distance
    return sorted(
        (sum(SIDECAR_WEIGHT * by_model.get(model, SIDECAR_MISSING_DISTANCE) for model in ids), position)
        for position, by_model in seen.items()
    )


def self_retrieval_check(
    owners: Sequence[object], answers: Mapping[str, Answers], gate: float
) -> CheckResult:
    """The fused answer of both indices to a stored face has its own performer first.

    `owners`: faces.json. `answers`: those of the two required models, to the same sampled faces. `gate`: the share of
    faces that is required.
    """
    answered = {model: answers[model] for model in REQUIRED_MODELS}
    positions = answered[REQUIRED_MODELS[0]].positions
    right = 0
    for place, position in enumerate(positions.tolist()):
        ranked = fused_distances(
            {model: answer.ids[place] for model, answer in answered.items()},
            {model: answer.distances[place] for model, answer in answered.items()},
        )
        distance, best = ranked[0]
        has_answer = all(answer.ids[place][0] >= 0 for answer in answered.values())
        right += has_answer and owners[best] == owners[position] and distance <= SIDECAR_MAX_DISTANCE
    share = right / len(positions)
    return CheckResult(
        "self_retrieval",
        share >= gate,
        f"{share:.4f} of {len(positions)} faces find their own performer (limit {gate})",
        numbers={"found": share, "faces": len(positions)},
    )


def held_out_retrieval(vectors: ReleaseVectors, *, sample: int = 2000) -> tuple[HeldOutBucket, ...]:
    """Leave-one-photo-out retrieval, by the performer's number of faces: exact search and the sidecar's fusion.

    `rank_1`: share of queries with the nearest other face of the same performer. `accepted`: share of queries for which
    that face is also within the sidecar's distance. Performers with one face are left out.
    """
    models = REQUIRED_MODELS
    owners = vectors.order.performer_ids
    faces_of = dict(zip(*(part.tolist() for part in np.unique(owners, return_counts=True)), strict=True))
    several = np.flatnonzero(np.array([faces_of[owner] for owner in owners.tolist()]) > 1)
    positions = several[sample_positions(len(several), sample)]
    found = (
        {
            model: exact_neighbours(
                np.ascontiguousarray(vectors.unit[model][positions]), vectors.unit[model], SIDECAR_K + 1
            )
            for model in models
        }
        if len(positions)
        else {}
    )
    tally: dict[tuple[int, int | None], list[tuple[bool, bool]]] = {bucket: [] for bucket in FACE_BUCKETS[1:]}
    for place, position in enumerate(positions.tolist()):
        others = {model: found[model][0][place] != position for model in models}
        ranked = fused_distances(
            {model: found[model][0][place][others[model]][:SIDECAR_K] for model in models},
            {model: 1 - found[model][1][place][others[model]][:SIDECAR_K] for model in models},
        )
        distance, best = ranked[0]
        right = bool(owners[best] == owners[position])
        tally[_bucket(faces_of[int(owners[position])])].append(
            (right, right and distance <= SIDECAR_MAX_DISTANCE)
        )
    return tuple(
        HeldOutBucket(
            fewest,
            most,
            len(results),
            float(np.mean([right for right, _ in results])),
            float(np.mean([accepted for _, accepted in results])),
        )
        for (fewest, most), results in tally.items()
        if results
    )


def _bucket(faces: int) -> tuple[int, int | None]:
    return next(bucket for bucket in FACE_BUCKETS if bucket[1] is None or faces <= bucket[1])


def bucket_name(fewest: int, most: int | None) -> str:
    """`1`, `4-5` or `11+`."""
    return f"{fewest}+" if most is None else str(fewest) if fewest == most else f"{fewest}-{most}"


def people_by_faces(order: FaceOrder) -> dict[str, int]:
    """How many performers have 1, 2-3, 4-5, 6-10 and 11+ faces."""
    _, counts = np.unique(order.performer_ids, return_counts=True)
    named: dict[str, int] = {}
    for fewest, most in FACE_BUCKETS:
        named[bucket_name(fewest, most)] = int(
            np.count_nonzero((counts >= fewest) & ((counts <= most) if most else True))
        )
    return named


def held_out_check(buckets: Sequence[HeldOutBucket]) -> CheckResult:
    """The share of left-out photos that find their performer. A warning below one half."""
    queries = sum(bucket.queries for bucket in buckets)
    if not queries:
        return CheckResult(
            "held_out_retrieval",
            True,
            "no performer has two faces, so no photo can be left out",
            Severity.WARNING,
        )
    rank_1 = sum(bucket.rank_1 * bucket.queries for bucket in buckets) / queries
    by_faces = {bucket.name: bucket.rank_1 for bucket in buckets}
    shown = ", ".join(f"{share:.3f} with {name} faces" for name, share in by_faces.items())
    return CheckResult(
        "held_out_retrieval",
        rank_1 >= _HELD_OUT_FLOOR,
        f"rank 1 {rank_1:.3f} over {queries} faces left out: {shown}",
        Severity.WARNING,
        numbers={"rank_1": rank_1, "faces": queries, **{f"rank_1_{name}": v for name, v in by_faces.items()}},
    )
